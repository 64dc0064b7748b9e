//! Backends that refuse, hang, fall ill, die and return: what a client notices of it, which should be nothing.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{
    ALWAYS_UP, Backend, Evener, Flag, NO_CHECKS, SOON, config, connect, ending, entry, exchange, free_port, holds_for,
    http_get, is_refused, local, now, read_name, try_connect, wait_until, who,
};

const TCP: &str = "kind = \"tcp\"";
const HTTP: &str = "kind = \"http\", path = \"/health\"";

/// Quick checks, so many of which in a row change the state.
fn quick(check: &str, row: u32) -> String {
    let times = "interval = \"100ms\", fast_interval = \"50ms\", timeout = \"200ms\", jitter = \"0%\"";
    format!("health = {{ {check}, {times}, rise = {row}, fall = {row} }}\n")
}

fn start(pool_keys: &str, entries: &[String]) -> Evener {
    Evener::start(&config("", pool_keys, entries))
}

/// A backend where nobody listens.
fn nobody() -> String {
    entry("nobody", local(free_port()), "")
}

#[test]
fn a_refusing_backend_costs_no_client() {
    let alive = Backend::named("alive");
    let evener = start(ALWAYS_UP, &[nobody(), alive.entry("")]);
    for _ in 0..20 {
        assert_eq!(who(evener.port("web")).unwrap(), "alive");
    }
    assert_eq!(evener.backend("web", "nobody")["connections"]["active"], 0);
    wait_until(SOON, "all have ended", || evener.events().len() == 20);
    assert!(evener.events().iter().any(|event| event["attempts"] == 2), "{}", evener.access());
}

#[test]
fn a_black_holed_backend_costs_the_connect_timeout_and_no_byte() {
    let (hole, alive) = (Backend::black_hole(), Backend::echo());
    let keys = format!("{ALWAYS_UP}connect = {{ timeout = \"300ms\", attempts = 2 }}");
    let evener = start(&keys, &[hole.entry(""), alive.entry("")]);
    let mut slow = 0;
    for _ in 0..4 {
        let start = now();
        let mut client = connect(evener.port("web"));
        // Sent long before any backend is connected.
        assert_eq!(exchange(&mut client, b"the first bytes").unwrap(), b"the first bytes");
        slow += usize::from(start.elapsed() > Duration::from_millis(250));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    assert!(slow > 0, "the hole was never tried");
}

#[test]
fn a_request_and_fin_sent_before_the_backend_is_connected_are_not_lost() {
    let (hole, alive) = (Backend::black_hole(), Backend::digest());
    let keys = format!("{ALWAYS_UP}connect = {{ timeout = \"300ms\", attempts = 2 }}");
    let evener = start(&keys, &[hole.entry(""), alive.entry("")]);
    for _ in 0..4 {
        let mut client = connect(evener.port("web"));
        harness::Pattern::default().send(&mut client, 50_000).unwrap();
        harness::shut_write(&client);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("50000 "), "{answer}");
    }
}

#[test]
fn when_every_attempt_fails_the_client_is_reset_with_the_reason() {
    let evener = start(ALWAYS_UP, &[nobody()]);
    let start_of = now();
    assert!(is_refused(try_connect(evener.port("web"))));
    assert!(start_of.elapsed() < Duration::from_secs(1));
    evener.wait_for_endings(1, "connect_failed");

    let hole = Backend::black_hole();
    let keys = format!("{ALWAYS_UP}connect = {{ timeout = \"300ms\", attempts = 1 }}");
    let evener = start(&keys, &[hole.entry("")]);
    let start_of = now();
    assert!(is_refused(try_connect(evener.port("web"))));
    assert!(start_of.elapsed() > Duration::from_millis(200) && start_of.elapsed() < Duration::from_secs(2));
    evener.wait_for_endings(1, "connect_timeout");
}

#[test]
fn a_client_that_gives_up_while_connecting_leaves_nothing_behind() {
    let hole = Backend::black_hole();
    let keys = format!("{ALWAYS_UP}connect = {{ timeout = \"20s\", attempts = 1 }}");
    let evener = start(&keys, &[hole.entry("")]);
    for _ in 0..20 {
        harness::reset(connect(evener.port("web")));
    }
    evener.wait_for_endings(20, "client_reset");
    assert_eq!(evener.active("web", "hole"), 0);
}

#[test]
fn failed_connects_eject_a_backend_for_a_while() {
    let mut dead = Backend::named("dead");
    let alive = Backend::named("alive");
    let passive = "passive = { failures = 3, window = \"10s\", eject = \"1500ms\", max_ejected = \"50%\" }";
    let evener = start(&format!("{NO_CHECKS}{passive}"), &[dead.entry(""), alive.entry("")]);
    let port = evener.port("web");
    dead.kill();
    for _ in 0..12 {
        assert_eq!(who(port).unwrap(), "alive");
    }
    wait_until(SOON, "three failures have been enough", || evener.state("web", "dead") == "ejected");
    let begun = now();
    dead.revive();
    let mut back = None;
    wait_until(SOON, "it serves again", || {
        back = (who(port).unwrap() == "dead").then(|| begun.elapsed());
        back.is_some()
    });
    // It was back at once, and nobody tried.
    assert!(back.unwrap() > Duration::from_millis(700), "back after {back:?}");
}

#[test]
fn ejection_stops_at_its_share_of_the_pool() {
    let mut backends = ["a", "b"].map(Backend::named);
    let passive = "passive = { failures = 1, window = \"10s\", eject = \"60s\", max_ejected = \"50%\" }";
    let evener = start(&format!("{NO_CHECKS}{passive}"), &[backends[0].entry(""), backends[1].entry("")]);
    let port = evener.port("web");
    backends.iter_mut().for_each(Backend::kill);
    for _ in 0..6 {
        assert!(who(port).is_err());
    }
    backends.iter_mut().for_each(Backend::revive);
    assert!(who(port).is_ok(), "one of two is never ejected");
}

#[test]
fn checks_take_a_backend_out_after_fall_and_back_after_rise() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let evener = start(&quick(TCP, 2), &[a.entry(""), b.entry("")]);
    let port = evener.port("web");
    a.kill();
    evener.wait_for_state("web", "a", "down");
    assert!((0..6).all(|_| who(port).unwrap() == "b"));
    a.revive();
    evener.wait_for_state("web", "a", "up");
    assert_eq!((0..6).map(|_| who(port).unwrap()).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn one_failed_check_is_not_yet_a_fall() {
    let a = Backend::http("a");
    let times = "interval = \"300ms\", fast_interval = \"300ms\", timeout = \"200ms\", jitter = \"0%\"";
    let evener = start(&format!("health = {{ {HTTP}, {times}, rise = 1, fall = 4 }}"), &[a.entry("")]);
    evener.wait_for_state("web", "a", "up");
    a.be_sick(true);
    holds_for(Duration::from_millis(700), "it is up", || evener.state("web", "a") == "up");
    a.be_sick(false);
    holds_for(Duration::from_millis(900), "it is up", || evener.state("web", "a") == "up");
    a.be_sick(true);
    evener.wait_for_state("web", "a", "down");
}

#[test]
fn initial_down_waits_for_the_first_check() {
    let sick = Backend::http("sick");
    sick.be_sick(true);
    let evener = start(&quick(&format!("{HTTP}, initial = \"down\""), 2), &[sick.entry("")]);
    assert!(http_get(evener.port("web"), "/").is_err());
    assert_eq!(evener.state("web", "sick"), "down");
    sick.be_sick(false);
    evener.wait_for_state("web", "sick", "up");
    assert_eq!(http_get(evener.port("web"), "/").unwrap(), (200, "sick".to_owned()));
}

#[test]
fn a_sick_backend_gets_its_last_connection_within_its_checks_time() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let evener = start(&quick(HTTP, 2), &[a.entry(""), b.entry("")]);
    let port = evener.port("web");
    wait_until(SOON, "both serve", || {
        http_get(port, "/").unwrap();
        !a.records().is_empty() && !b.records().is_empty()
    });
    a.be_sick(true);
    let death = now();
    let mut last = Duration::ZERO;
    while death.elapsed() < Duration::from_millis(1500) {
        if http_get(port, "/").unwrap().1 == "a" {
            last = death.elapsed();
        }
        harness::breathe();
    }
    println!("{last:?} from death to the last connection sent");
    // interval + fast_interval, and a busy machine.
    assert!(last < Duration::from_millis(600), "{last:?}");
    a.be_sick(false);
    wait_until(SOON, "a serves again", || http_get(port, "/").unwrap().1 == "a");
}

/// A backend "a", which has just gone down, with a client; and the other one, at which its checks ask.
fn start_and_fall_ill(pool_keys: &str) -> (Evener, [Backend; 2], TcpStream) {
    let (backend, asked) = (Backend::named("a"), Backend::http("check"));
    let check = quick(&format!("{HTTP}, port = {}", asked.address().port()), 1);
    let evener = start(&(check + pool_keys), &[backend.entry("")]);
    let mut client = connect(evener.port("web"));
    assert_eq!(read_name(&mut client).unwrap(), "a");
    asked.be_sick(true);
    evener.wait_for_state("web", "a", "down");
    (evener, [backend, asked], client)
}

#[test]
fn connections_of_a_dead_backend_live_on_close_or_close_later() {
    for (on_down, earliest, latest) in [("close", 0, 900), ("close after 1s", 900, 2200)] {
        let (evener, _backends, mut client) = start_and_fall_ill(&format!("on_down = \"{on_down}\""));
        let down = now();
        ending(&mut client);
        let lasted = down.elapsed();
        let span = Duration::from_millis(earliest)..Duration::from_millis(latest);
        assert!(span.contains(&lasted), "{on_down}: {lasted:?}");
        evener.wait_for_endings(1, "backend_down");
    }
}

#[test]
fn by_default_connections_of_a_backend_that_is_down_live_on() {
    let (_evener, _backends, mut client) = start_and_fall_ill("");
    holds_for(Duration::from_millis(500), "it lives", || exchange(&mut client, b"still here").is_ok());
}

#[test]
fn a_backend_that_recovers_in_time_keeps_its_connections() {
    let (evener, [_backend, asked], mut client) = start_and_fall_ill("on_down = \"close after 1s\"");
    asked.be_sick(false);
    evener.wait_for_state("web", "a", "up");
    holds_for(Duration::from_millis(1500), "it lives", || exchange(&mut client, b"still here").is_ok());
}

#[test]
fn with_every_backend_down_clients_are_refused_at_once_and_served_again_after() {
    let mut a = Backend::named("a");
    let evener = start(&quick(TCP, 2), &[a.entry("")]);
    a.kill();
    evener.wait_for_state("web", "a", "down");
    let start_of = now();
    for _ in 0..50 {
        assert!(is_refused(try_connect(evener.port("web"))));
    }
    assert!(start_of.elapsed() < Duration::from_secs(2), "{:?}", start_of.elapsed());
    evener.wait_for_endings(50, "no_backend");
    a.revive();
    evener.wait_for_state("web", "a", "up");
    assert_eq!(who(evener.port("web")).unwrap(), "a");
}

#[test]
fn below_the_panic_share_health_is_ignored() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let evener = start(&(quick(HTTP, 1) + "panic_below = \"60%\""), &[a.entry(""), b.entry("")]);
    a.be_sick(true);
    evener.wait_for_state("web", "a", "down");
    let answers: BTreeSet<u16> = (0..10).map(|_| http_get(evener.port("web"), "/").unwrap().0).collect();
    assert_eq!(answers, BTreeSet::from([200, 503]), "one of two is under 60 %: both are used");
    assert_eq!(evener.backend("web", "a")["weight"], 100, "down, and yet it takes clients");
    let shown = evener.cli_ok(&["status"]);
    assert!(shown.contains("! pool web is in panic"), "{shown}");
}

#[test]
fn a_client_sees_the_end_of_a_killed_backend_and_the_next_connection_works() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let evener = start(&format!("{ALWAYS_UP}balance = \"first\""), &[a.entry(""), b.entry("")]);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(evener.port("web"))).collect();
    clients.iter_mut().for_each(|client| assert_eq!(read_name(client).unwrap(), "a"));
    a.kill();
    clients.iter_mut().for_each(|client| {
        let _ = client.write_all(b"x");
        ending(client);
    });
    assert_eq!(who(evener.port("web")).unwrap(), "b");
}

#[test]
fn a_backend_that_resets_at_once_resets_its_client() {
    let backend = Backend::resetting();
    let evener = start(ALWAYS_UP, &[backend.entry("")]);
    for _ in 0..10 {
        assert!(is_refused(try_connect(evener.port("web"))));
    }
}

#[test]
fn a_pool_dying_and_returning_under_load_loses_nobody_while_one_lives() {
    let mut backends = ["a", "b", "c"].map(Backend::named);
    let evener = start(
        &(quick(TCP, 2) + "passive = false"),
        &[backends[0].entry(""), backends[1].entry(""), backends[2].entry("")],
    );
    let port = evener.port("web");
    let stop = Flag::default();
    std::thread::scope(|scope| {
        let raised_at_the_end = stop.raise_on_drop();
        let loads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    while !stop.is_raised() {
                        who(port).expect("one backend is always alive");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        // b and c stay: what dies has no connection of these clients for longer than one answer, so it dies between two.
        for _ in 0..3 {
            evener.cli_ok(&["backend", "web/a", "drain"]);
            wait_until(SOON, "a is empty", || evener.active("web", "a") == 0 && backends[0].open() == 0);
            backends[0].kill();
            evener.cli_ok(&["backend", "web/a", "auto"]);
            evener.wait_for_state("web", "a", "down");
            backends[0].revive();
            evener.wait_for_state("web", "a", "up");
        }
        drop(raised_at_the_end);
        let served: Vec<u32> = loads.into_iter().map(|load| load.join().unwrap()).collect();
        assert!(served.iter().all(|count| *count > 20), "{served:?}");
    });
}
