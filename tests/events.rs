//! `GET /v1/events` and `evener events`: what changes is told once, in order, to everybody who follows.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use harness::{Backend, Evener, NO_CHECKS, SOON, config, program, send_signal, wait_until};
use serde_json::Value;

const FAST: &str =
    "health = { interval = \"100ms\", fast_interval = \"50ms\", timeout = \"1s\", rise = 1, fall = 1 }\n";

/// A stream of events; its read has a deadline.
struct Follower(BufReader<UnixStream>);

impl Follower {
    /// Follows from where the query says; `None` when there is no place.
    fn of(evener: &Evener, query: &str) -> Option<Self> {
        let mut socket = UnixStream::connect(evener.admin()).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        write!(socket, "GET /v1/events{query} HTTP/1.1\r\nhost: evener\r\n\r\n").unwrap();
        let mut follower = Self(BufReader::new(socket));
        let mut status = String::new();
        follower.0.read_line(&mut status).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            follower.0.read_line(&mut line).unwrap();
        }
        status.contains(" 200 ").then_some(follower)
    }

    /// The next event: chunks of the transfer are passed over.
    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream has ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    /// Events until one of this kind, that one the last.
    fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.next());
            if events.last().unwrap()["kind"] == kind {
                return events;
            }
        }
    }
}

#[test]
fn a_change_is_told_at_once_with_its_number_and_whom_it_is_about() {
    let mut backend = Backend::named("a");
    let evener = Evener::start(&config("", FAST, &[backend.entry("")]));
    let mut follower = Follower::of(&evener, "?since=0").unwrap();
    assert_eq!(follower.next()["kind"], "started");
    backend.kill();
    let events = follower.until("no_backend");
    let down = &events[events.len() - 2];
    assert_eq!((&down["kind"], &down["pool"]), (&"backend_down".into(), &"web".into()), "{events:?}");
    assert_eq!(down["backend"], "a");
    assert!(down["text"].as_str().unwrap().starts_with("from up to down: "), "{down}");
    assert!(down["time"].as_str().unwrap().ends_with('Z'));
    backend.revive();
    let back = follower.until("pool_serves");
    assert_eq!(back[0]["kind"], "backend_up");

    let (code, _) = evener.request("PUT", "/v1/pools/web/backends/a", "{\"state\": \"drain\"}").unwrap();
    assert_eq!(code, 200);
    assert_eq!(follower.next()["kind"], "override_set");
    assert_eq!(follower.next()["kind"], "backend_drain");
    evener.request("PUT", "/v1/pools/web/backends/a", "{\"state\": \"auto\"}").unwrap();
    let events = follower.until("pool_serves");
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["no_backend", "override_cleared", "backend_up", "pool_serves"]);
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");

    let mut late = Follower::of(&evener, &format!("?since={}", numbers[1])).unwrap();
    assert_eq!(late.next()["seq"], numbers[2]);
    let mut last = Follower::of(&evener, "?last=1").unwrap();
    assert_eq!(last.next()["seq"], numbers[3]);
    let mut of_another = Follower::of(&evener, "?since=1000000").unwrap();
    assert_eq!(of_another.next()["kind"], "started", "a number of another process: all that there is");
}

#[test]
fn a_reload_tells_what_came_and_went_and_a_file_that_is_refused_tells_why() {
    let (one, two) = (Backend::named("a"), Backend::named("b"));
    let evener = Evener::start(&config("", NO_CHECKS, &[one.entry("")]));
    let mut follower = Follower::of(&evener, "").unwrap();
    let more = "\n[listener.more]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    evener.rewrite(&(config("", NO_CHECKS, &[two.entry("")]) + more));
    assert_eq!(evener.request("POST", "/v1/reload", "").unwrap().0, 200);
    let events = follower.until("reload_done");
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["backend_removed", "backend_added", "listener_added", "reload_done"]);
    assert_eq!(events[2]["listener"], "more");
    evener.rewrite("[listner.web]\n");
    assert_eq!(evener.request("POST", "/v1/reload", "").unwrap().0, 422);
    let refused = follower.next();
    assert_eq!(refused["kind"], "reload_failed");
    assert!(refused["text"].as_str().unwrap().contains("listner"), "{refused}");
}

#[test]
fn what_is_lost_to_a_limit_is_told() {
    let backend = Backend::named("a");
    let evener = Evener::start(&config("max_connections = 1\n", NO_CHECKS, &[backend.entry("")]));
    let mut follower = Follower::of(&evener, "").unwrap();
    let port = evener.port("web");
    let mut held = harness::connect(port);
    // Another worker may accept it, and later than the next one.
    harness::read_name(&mut held).unwrap();
    assert!(harness::is_refused(harness::try_connect(port)));
    let event = follower.until("limit_reached").pop().unwrap();
    assert_eq!(event["listener"], "web");
    assert!(event["text"].as_str().unwrap().starts_with("max_connections: "), "{event}");
}

#[test]
fn a_limited_number_follows_and_the_api_answers_all_the_same() {
    let backend = Backend::named("a");
    let evener = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    // None of them reads.
    let followers: Vec<Follower> = (0..16).map(|_| Follower::of(&evener, "?since=0").unwrap()).collect();
    assert!(Follower::of(&evener, "").is_none(), "there is no 17th place");
    assert_eq!(evener.request("GET", "/v1/status", "").unwrap().0, 200);
    drop(followers);
    wait_until(SOON, "the places are given back", || Follower::of(&evener, "").is_some());
    assert_eq!(evener.request("GET", "/v1/events?until=7", "").unwrap().0, 422);
    assert_eq!(evener.request("POST", "/v1/events", "").unwrap().0, 405);
}

#[test]
fn the_command_shows_what_has_been_and_what_comes_and_ends_with_the_process() {
    let backend = Backend::named("a");
    let evener = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    let mut command = Command::new(program());
    command.args(["events", "--admin", evener.admin().to_str().unwrap()]).env("NO_COLOR", "1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains(" started: evener "));
    evener.request("PUT", "/v1/pools/web/backends/a", "{\"weight\": 7}").unwrap();
    assert!(next().ends_with(" override_set web/a: state auto, weight 7"));
    send_signal(evener.pid(), "TERM");
    assert!(next().contains(" draining: "));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("evener has ended"));
}
