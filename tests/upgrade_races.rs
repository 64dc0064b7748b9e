//! What else happens while a process hands over to the next one: clients come, operators ask, signals arrive, the file
//! changes. Nothing of it is lost, and nothing is called done that is not.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::TcpStream;
use std::process::Output;
use std::thread::JoinHandle;
use std::time::Duration;

use harness::{
    ALWAYS_UP, Backend, Line, NO_CHECKS, SOON, config, connect, entry, evener, exchange, holds_for, is_alive,
    read_name, send_signal, wait_until, who,
};

fn with_workers(count: usize, text: &str) -> String {
    format!("[process]\nworkers = {count}\n\n{text}")
}

/// Asks the admin socket by a command, which waits as long as nobody answers.
fn asks(line: &Line, words: &[&str]) -> JoinHandle<Output> {
    let admin = line.admin();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    std::thread::spawn(move || {
        let mut all: Vec<&str> = words.iter().map(String::as_str).collect();
        all.splice(1..1, ["--admin", admin.to_str().unwrap()]);
        evener(&all)
    })
}

fn state(line: &Line, backend: &str) -> String {
    line.backend("web", backend)["state"].as_str().unwrap().to_owned()
}

#[test]
fn clients_who_come_while_a_successor_with_more_workers_dies_are_served() {
    let echo = Backend::echo();
    let text = config("", ALWAYS_UP, &[echo.entry("")]);
    let line = Line::start(&with_workers(1, &text));
    let port = line.port("web");
    line.rewrite(&with_workers(8, &text));
    line.stand_at("prepared");
    let upgrade = line.begin();
    let pid = line.standing();
    let mut clients: Vec<TcpStream> = (0..40).map(|_| connect(port)).collect();
    send_signal(pid, "KILL");
    assert!(!upgrade.join().unwrap().status.success());
    for client in &mut clients {
        assert_eq!(exchange(client, b"served").unwrap(), b"served");
    }
    line.go_on();
    line.upgrade_wholly();
    assert_eq!(harness::inodes_listening_on(port).len(), 8, "and then each worker has a socket of its own");
    assert!((0..40).all(|_| exchange(&mut connect(port), b"served").unwrap() == b"served"));
}

#[test]
fn what_is_asked_of_a_process_that_has_handed_over_is_refused_and_not_called_done() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let line = Line::start(&config("", NO_CHECKS, &[a.entry(""), b.entry("")]));
    line.stand_at("prepared");
    let upgrade = line.begin();
    line.standing();
    let asked = [
        asks(&line, &["backend", "web/b", "drain"]),
        asks(&line, &["drain", "web"]),
        asks(&line, &["drain"]),
        asks(&line, &["reload"]),
    ];
    // They have to be at the door before it opens, or they ask the next process.
    let queued = || harness::accepted_at(&line.admin()) > asked.len();
    wait_until(SOON, "all have asked", queued);
    line.go_on();
    assert!(upgrade.join().unwrap().status.success());
    for asked in asked {
        let output = asked.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("another process"), "{output:?}");
    }
    assert_eq!(state(&line, "b"), "up");
    assert_eq!(line.status()["listeners"][0]["state"], "listening");
    assert_eq!(line.status()["draining"], false);
}

#[test]
fn a_signal_to_end_in_the_middle_of_a_hand_over_ends_the_process_and_not_only_this_one() {
    let echo = Backend::echo();
    let line = Line::start(&config("", ALWAYS_UP, &[echo.entry("")]));
    let first = line.now();
    line.stand_at("state");
    let upgrade = line.begin();
    let pid = line.standing();
    line.signal("TERM");
    line.go_on();
    let output = upgrade.join().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("is to end"), "{output:?}");
    wait_until(SOON, "both have ended", || !is_alive(first) && !is_alive(pid));
}

#[test]
fn a_file_that_changes_while_the_next_process_starts_is_read_afterwards() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let line = Line::start(&config("", NO_CHECKS, &[a.entry("")]));
    line.stand_at("hello");
    let upgrade = line.begin();
    line.standing();
    line.rewrite(&config("", NO_CHECKS, &[b.entry("")]));
    let output = line.cli(&["reload"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("an upgrade is under way"), "{output:?}");
    line.go_on();
    assert!(upgrade.join().unwrap().status.success());
    line.cli_ok(&["reload"]);
    assert_eq!(who(line.port("web")).unwrap(), "b");
}

#[test]
fn what_an_operator_said_of_a_backend_holds_also_when_it_has_moved() {
    let (a, b, moved) = (Backend::named("a"), Backend::named("b"), Backend::named("moved"));
    let file = |b: &Backend| config("", NO_CHECKS, &[a.entry(""), entry("b", b.address(), "")]);
    let line = Line::start(&file(&b));
    line.cli_ok(&["backend", "web/b", "maint", "--reason", "new disk"]);
    line.rewrite(&file(&moved));
    line.upgrade_wholly();
    let now = line.backend("web", "b");
    assert_eq!(now["address"], moved.address().to_string());
    assert_eq!((now["state"].as_str(), now["override"]["reason"].as_str()), (Some("maint"), Some("new disk")));
    assert!((0..4).all(|_| who(line.port("web")).unwrap() == "a"));
}

#[test]
fn a_backends_limit_holds_through_an_upgrade() {
    let a = Backend::named("a");
    let text = config(
        "",
        &format!("queue = {{ max = 10, timeout = \"60s\" }}\n{ALWAYS_UP}"),
        &[a.entry("max_connections = 1")],
    );
    let line = Line::start(&text);
    let port = line.port("web");
    let mut first = connect(port);
    assert_eq!(read_name(&mut first).unwrap(), "a");
    let waiting = connect(port);
    wait_until(SOON, "it waits", || line.status()["pools"][0]["queue"]["length"] == 1);
    line.upgrade();
    assert_eq!(exchange(&mut first, b"moved").unwrap(), b"moved");
    waiting.set_nonblocking(true).unwrap();
    holds_for(Duration::from_millis(300), "nobody is served beside it", || {
        waiting.peek(&mut [0]).is_err() && a.accepted() == 1
    });
}
