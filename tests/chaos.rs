//! Everything that goes wrong goes wrong at once: backends die, freeze, reset and crawl, the file is read again, the
//! descriptors run out, the clock jumps, the disk of the log is full. What must hold all the same is written here once:
//! no byte is lost or changed on a connection that nobody disturbed, every connection ends with its reason, and
//! afterwards nothing is left over: no descriptor, no pipe, no memory, no place on a backend.
//!
//! `EVENER_SEED` repeats a storm; `scripts/test --long` has longer ones, each from a new seed.
#![allow(clippy::unwrap_used)]

mod harness;
mod storm;

use std::process::Command;
use std::time::Duration;

use harness::{
    ALWAYS_UP, Backend, Evener, SOON, config, connect, cpu_time, exchange, holds_for, memory_of, now, require,
    send_signal, wait_until,
};
use storm::{Storm, is_long};

#[test]
fn a_storm_harms_nobody_it_does_not_touch_and_leaves_nothing_behind() {
    let mut storm = Storm::new(&[]);
    storm.blow(if is_long() { 40 } else { 6 });
    storm.calm();
    let before = storm.memory();
    storm.blow(if is_long() { 400 } else { 14 });
    storm.calm();
    storm.nothing_is_left();
    let grown = storm.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "the process has grown by {grown} bytes from one storm to the next");
}

#[test]
fn a_storm_while_the_clock_jumps_is_a_storm_like_any_other() {
    let Some(clock) = Clock::new("a_storm_while_the_clock_jumps_is_a_storm_like_any_other") else { return };
    let mut storm = Storm::new(&clock.environment());
    for jump in ["+400d", "-1h", "+30y", "+0"] {
        clock.set(jump);
        storm.blow(if is_long() { 20 } else { 3 });
    }
    assert!(storm.was_in("205"), "the clock was not heard");
    storm.calm();
    storm.nothing_is_left();
}

#[test]
fn a_full_disk_loses_the_log_and_nothing_else() {
    let backend = Backend::echo();
    let file = config("", ALWAYS_UP, &[backend.entry("")]);
    // What it writes is refused with ENOSPC: the access log, then the operation log too.
    for to in [">/dev/full", ">/dev/full 2>/dev/full"] {
        let shell = format!("exec \"$@\" {to}");
        let evener = Evener::plan(&file).under(&["sh", "-c", &shell, "sh"]).start();
        let port = evener.port("web");
        let mut stays = connect(port);
        for _ in 0..300 {
            assert_eq!(exchange(&mut connect(port), b"hello").unwrap(), b"hello");
        }
        wait_until(SOON, "it is told that events were lost", || {
            evener.status()["process"]["access_log_dropped"].as_u64().unwrap() > 0
        });
        let memory = memory_of(evener.pid());
        for _ in 0..300 {
            assert_eq!(exchange(&mut connect(port), b"hello").unwrap(), b"hello");
        }
        assert!(memory_of(evener.pid()) < memory + (4 << 20), "what cannot be written is not kept");
        let (start, spent) = (now(), cpu_time(evener.pid()));
        holds_for(Duration::from_millis(800), "it runs", || true);
        let share = (cpu_time(evener.pid()) - spent).as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(share < 0.3, "{:.0} % of a core on a log that cannot be written", share * 100.0);
        assert_eq!(exchange(&mut stays, b"still").unwrap(), b"still");
        evener.stop();
    }
}

#[test]
fn a_process_that_was_stopped_for_a_while_goes_on_where_it_was() {
    let backend = Backend::echo();
    let checks = "health = { kind = \"tcp\", interval = \"200ms\", timeout = \"300ms\" }\n";
    let evener = Evener::start(&config("", checks, &[backend.entry("")]));
    let port = evener.port("web");
    let mut before = connect(port);
    assert_eq!(exchange(&mut before, b"one").unwrap(), b"one");
    send_signal(evener.pid(), "STOP");
    let mut meanwhile = connect(port);
    holds_for(Duration::from_millis(1500), "it is stopped, as when its host was suspended", || true);
    send_signal(evener.pid(), "CONT");
    assert_eq!(exchange(&mut before, b"two").unwrap(), b"two");
    assert_eq!(exchange(&mut meanwhile, b"three").unwrap(), b"three");
    assert_eq!(evener.state("web", "echo"), "up", "its own sleep is not the backend's fault");
}

/// The wall clock of one process, by libfaketime; what measures spans of time goes on as it was.
struct Clock {
    library: String,
    folder: tempfile::TempDir,
}

impl Clock {
    fn new(test: &str) -> Option<Self> {
        if !require(test, &["faketime"]) {
            return None;
        }
        let found = Command::new("sh").args(["-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"]).output().unwrap();
        let library = String::from_utf8(found.stdout).unwrap().trim().to_owned();
        assert!(!library.is_empty(), "faketime is there without its library");
        let clock = Self { library, folder: tempfile::tempdir().unwrap() };
        clock.set("+0");
        Some(clock)
    }

    fn file(&self) -> String {
        self.folder.path().join("clock").to_str().unwrap().to_owned()
    }

    fn set(&self, jump: &str) {
        let fresh = format!("{}.new", self.file());
        std::fs::write(&fresh, format!("{jump}\n")).unwrap();
        std::fs::rename(fresh, self.file()).unwrap();
    }

    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
