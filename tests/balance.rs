//! Who gets the next connection: each way to choose, weights, tiers, limits with their queue, and the operator's word.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{
    ALWAYS_UP, Backend, Evener, SOON, config, connect, evener, exchange, holds_for, is_refused, now, read_name,
    shut_write, try_connect, wait_until, who, who_from,
};

/// So quick that one check decides.
const CHECKS: &str = "health = { kind = \"tcp\", interval = \"100ms\", fast_interval = \"50ms\", rise = 1, fall = 1 }\npassive = false\n";

fn file(workers: usize, pool_keys: &str, entries: &[String]) -> String {
    format!("[process]\nworkers = {workers}\n\n{}", config("", &format!("{ALWAYS_UP}{pool_keys}"), entries))
}

/// One worker, so that a sequence is exact.
fn start(pool_keys: &str, entries: &[String]) -> Evener {
    Evener::start(&file(1, pool_keys, entries))
}

fn abc() -> [Backend; 3] {
    ["a", "b", "c"].map(Backend::named)
}

fn entries(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.entry("")).collect()
}

/// Who answers so many connections, one after the other.
fn ask(evener: &Evener, times: usize) -> BTreeMap<String, usize> {
    let port = evener.port("web");
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        *answers.entry(who(port).unwrap()).or_insert(0) += 1;
    }
    answers
}

/// A connection that stays, and who serves it.
fn stay(evener: &Evener) -> (TcpStream, String) {
    let mut stream = connect(evener.port("web"));
    let name = read_name(&mut stream).unwrap();
    (stream, name)
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn every_way_to_choose_serves_every_client() {
    for balance in ["round_robin", "least_conn", "least_time", "random", "ip_hash", "first"] {
        let backends = abc();
        let evener = Evener::start(&file(2, &format!("balance = \"{balance}\""), &entries(&backends)));
        assert_eq!(ask(&evener, 30).values().sum::<usize>(), 30, "{balance}");
    }
}

#[test]
fn round_robin_gives_each_its_turn() {
    let backends = abc();
    let evener = start("balance = \"round_robin\"", &entries(&backends));
    let port = evener.port("web");
    let sequence: Vec<String> = (0..30).map(|_| who(port).unwrap()).collect();
    for three in sequence.windows(3) {
        assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2], "{sequence:?}");
    }
}

#[test]
fn round_robin_follows_the_weights_smoothly() {
    let [a, b, c] = abc();
    let evener = start("", &[a.entry("weight = 5"), b.entry("weight = 1"), c.entry("weight = 1")]);
    assert_eq!(ask(&evener, 70), counts(&[("a", 50), ("b", 10), ("c", 10)]));
    let port = evener.port("web");
    let sequence: Vec<String> = (0..70).map(|_| who(port).unwrap()).collect();
    assert!(!sequence.windows(5).any(|five| five.iter().all(|name| name == "a")), "in one lump: {sequence:?}");
}

#[test]
fn all_workers_together_share_evenly() {
    let backends = abc();
    let evener = Evener::start(&file(2, "", &entries(&backends)));
    let answers = ask(&evener, 300);
    assert!(answers.values().all(|count| count.abs_diff(100) <= 4), "{answers:?}");
}

#[test]
fn random_uses_all_of_them() {
    let backends = abc();
    let evener = start("balance = \"random\"", &entries(&backends));
    assert!(ask(&evener, 200).values().all(|count| *count > 20));
}

#[test]
fn least_conn_fills_the_emptiest() {
    let backends = abc();
    let evener = start("balance = \"least_conn\"", &entries(&backends));
    let mut staying: Vec<(TcpStream, String)> = (0..12).map(|_| stay(&evener)).collect();
    let shares = |staying: &[(TcpStream, String)]| {
        let mut shares = BTreeMap::new();
        staying.iter().for_each(|(_, name)| *shares.entry(name.clone()).or_insert(0) += 1);
        shares
    };
    assert_eq!(shares(&staying), counts(&[("a", 4), ("b", 4), ("c", 4)]));
    staying.retain(|(_, name)| name != "b");
    wait_until(SOON, "b is empty", || evener.active("web", "b") == 0);
    staying.extend((0..4).map(|_| stay(&evener)));
    assert_eq!(shares(&staying), counts(&[("a", 4), ("b", 4), ("c", 4)]));
}

#[test]
fn least_conn_counts_by_weight() {
    let [a, b, _] = abc();
    let evener = start("balance = \"least_conn\"", &[a.entry("weight = 2"), b.entry("weight = 1")]);
    let staying: Vec<(TcpStream, String)> = (0..30).map(|_| stay(&evener)).collect();
    assert_eq!(staying.iter().filter(|(_, name)| name == "a").count(), 20);
}

#[test]
fn ip_hash_keeps_a_client_at_its_backend_and_moves_only_those_of_a_lost_one() {
    let mut backends = abc();
    let evener = Evener::start(&file(2, "balance = \"ip_hash\"", &entries(&backends)));
    let port = evener.port("web");
    let sources: Vec<Ipv4Addr> = (1..=59).map(|last| Ipv4Addr::new(127, 3, 1, last)).collect();
    let home = || -> Vec<String> { sources.iter().map(|source| who_from(*source, port).unwrap()).collect() };
    let first = home();
    assert_eq!(home(), first, "a client stays where it was");
    for name in ["a", "b", "c"] {
        assert!(first.iter().filter(|home| *home == name).count() >= 5, "{name} has hardly any clients: {first:?}");
    }
    backends[1].kill();
    for (before, after) in first.iter().zip(home()) {
        assert!(after != "b" && (before == "b" || *before == after), "{before} -> {after}");
    }
    backends[1].revive();
    assert_eq!(home(), first, "all are back where they were");
}

#[test]
fn first_uses_the_next_only_when_the_one_before_is_full() {
    let [a, b, _] = abc();
    let evener = start("balance = \"first\"", &[a.entry("max_connections = 3"), b.entry("")]);
    let mut staying: Vec<(TcpStream, String)> = (0..5).map(|_| stay(&evener)).collect();
    assert_eq!(staying.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a", "a", "a", "b", "b"]);
    drop(staying.remove(0));
    wait_until(SOON, "a has room", || evener.active("web", "a") == 2);
    assert_eq!(stay(&evener).1, "a");
}

#[test]
fn a_higher_tier_serves_only_while_every_lower_one_is_down() {
    let [mut a, mut b, c] = abc();
    let listed = [a.entry(""), b.entry(""), c.entry("tier = 1")];
    let evener = Evener::start(&config("", CHECKS, &listed));
    assert_eq!(ask(&evener, 20).keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    a.kill();
    evener.wait_for_state("web", "a", "down");
    assert_eq!(ask(&evener, 10), counts(&[("b", 10)]));
    b.kill();
    evener.wait_for_state("web", "b", "down");
    assert_eq!(ask(&evener, 10), counts(&[("c", 10)]));
    a.revive();
    evener.wait_for_state("web", "a", "up");
    assert_eq!(ask(&evener, 10), counts(&[("a", 10)]));
}

#[test]
fn weight_0_takes_no_new_clients() {
    let [a, b, _] = abc();
    let evener = start("", &[a.entry("weight = 0"), b.entry("")]);
    assert_eq!(ask(&evener, 10), counts(&[("b", 10)]));
}

#[test]
fn a_full_pool_without_a_queue_refuses_at_once() {
    let [a, b, _] = abc();
    let evener = start("", &[a.entry("max_connections = 2"), b.entry("max_connections = 1")]);
    let staying: Vec<(TcpStream, String)> = (0..3).map(|_| stay(&evener)).collect();
    let start = now();
    assert!(is_refused(try_connect(evener.port("web"))));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    evener.wait_for_endings(1, "queue_full");
    drop(staying);
    wait_until(SOON, "there is room again", || who(evener.port("web")).is_ok());
}

#[test]
fn a_queue_is_served_first_come_first_served() {
    let [a, ..] = abc();
    let evener = start("queue = { max = 10, timeout = \"10s\" }", &[a.entry("max_connections = 1")]);
    let (holder, _) = stay(&evener);
    let mut waiting: Vec<TcpStream> = (0..5).map(|_| connect(evener.port("web"))).collect();
    holds_for(Duration::from_millis(150), "nobody else is let in", || a.accepted() == 1);
    drop(holder);
    while !waiting.is_empty() {
        let mut first = waiting.remove(0);
        assert_eq!(read_name(&mut first).unwrap(), "a");
        for later in &waiting {
            later.set_nonblocking(true).unwrap();
            assert!(later.peek(&mut [0]).is_err(), "a later one was served before the first");
            later.set_nonblocking(false).unwrap();
        }
        assert_eq!(exchange(&mut first, b"hello").unwrap(), b"hello");
    }
    assert_eq!(evener.endings("queue_timeout") + evener.endings("queue_full"), 0);
}

#[test]
fn a_queue_over_several_workers_loses_nobody_and_never_exceeds_the_limit() {
    const CLIENTS: u64 = 60;
    let [a, ..] = abc();
    let file = file(2, "queue = { max = 100, timeout = \"10s\" }", &[a.entry("max_connections = 2")]);
    let evener = Evener::start(&file);
    let port = evener.port("web");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || who(port).unwrap())).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            assert!(evener.active("web", "a") <= 2);
        }
        assert!(clients.into_iter().all(|client| client.join().unwrap() == "a"));
    });
    assert_eq!(a.accepted(), CLIENTS);
    wait_until(SOON, "nobody waits or is counted any more", || evener.active("web", "a") == 0);
}

#[test]
fn the_queue_ends_with_its_timeout_and_has_a_length() {
    let [a, ..] = abc();
    let evener = start("queue = { max = 2, timeout = \"600ms\" }", &[a.entry("max_connections = 1")]);
    let (holder, _) = stay(&evener);
    let begun = now();
    let mut waiting: Vec<TcpStream> = (0..2).map(|_| connect(evener.port("web"))).collect();
    assert!(is_refused(try_connect(evener.port("web"))));
    assert!(begun.elapsed() < Duration::from_millis(500), "the third does not wait");
    evener.wait_for_endings(1, "queue_full");
    waiting.drain(..).for_each(|stream| assert!(is_refused(Ok(stream))));
    assert!(begun.elapsed() > Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(2));
    evener.wait_for_endings(2, "queue_timeout");
    drop(holder);
    wait_until(SOON, "there is room again", || who(evener.port("web")).is_ok());
}

#[test]
fn a_client_that_leaves_the_queue_takes_nobodys_place() {
    let [a, ..] = abc();
    let evener = start("queue = { max = 10, timeout = \"10s\" }", &[a.entry("max_connections = 1")]);
    let (holder, _) = stay(&evener);
    let leaving: Vec<TcpStream> = (0..3).map(|_| connect(evener.port("web"))).collect();
    let mut last = connect(evener.port("web"));
    leaving.into_iter().for_each(harness::reset);
    evener.wait_for_endings(3, "client_reset");
    drop(holder);
    assert_eq!(read_name(&mut last).unwrap(), "a");
}

#[test]
fn max_connections_of_a_backend_is_never_exceeded() {
    const LIMIT: usize = 5;
    let (here, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, top) = (here.clone(), most.clone());
    let backend = Backend::on("127.0.0.1:0", "a", move |stream, _| {
        top.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let mut byte = [0];
        (&*stream).read_exact(&mut byte).and_then(|()| {
            inside.fetch_sub(1, Ordering::SeqCst);
            (&*stream).write_all(&byte)
        })
    });
    let limited = backend.entry(&format!("max_connections = {LIMIT}"));
    let evener = Evener::start(&file(2, "queue = { max = 1000, timeout = \"20s\" }", &[limited]));
    let port = evener.port("web");
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(exchange(&mut connect(port), b"x").unwrap(), b"x");
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= LIMIT, "{} at once", most.load(Ordering::SeqCst));
    assert_eq!(here.load(Ordering::SeqCst), 0);
}

#[test]
fn an_operator_drains_a_backend_and_gives_it_back() {
    for state in ["drain", "maint"] {
        let [a, b, _] = abc();
        let evener = start("", &[a.entry(""), b.entry("")]);
        let mut staying: Vec<(TcpStream, String)> = (0..2).map(|_| stay(&evener)).collect();
        evener.cli_ok(&["backend", "web/a", state]);
        assert_eq!(ask(&evener, 10), counts(&[("b", 10)]), "{state}");
        if state == "drain" {
            staying.iter_mut().for_each(|(stream, _)| assert_eq!(exchange(stream, b"still").unwrap(), b"still"));
        }
        assert!(evener.backend("web", "a").to_string().contains(state), "{}", evener.backend("web", "a"));
        evener.cli_ok(&["backend", "web/a", "auto"]);
        assert_eq!(ask(&evener, 10), counts(&[("a", 5), ("b", 5)]), "{state}");
    }
}

#[test]
fn an_operator_calls_a_backend_ready_whatever_the_checks_say() {
    let [mut a, b, _] = abc();
    let evener = Evener::start(&config("", CHECKS, &[a.entry(""), b.entry("")]));
    a.kill();
    evener.wait_for_state("web", "a", "down");
    evener.cli_ok(&["backend", "web/a", "drain"]);
    evener.cli_ok(&["backend", "web/a", "auto"]);
    a.revive();
    wait_until(SOON, "a serves again by its checks", || who(evener.port("web")).unwrap() == "a");
}

#[test]
fn an_operator_changes_a_weight() {
    let [a, b, _] = abc();
    let evener = start("", &[a.entry(""), b.entry("")]);
    let heavy = evener.backend("web", "b")["weight"].as_u64();
    evener.cli_ok(&["backend", "web/a", "weight", "0"]);
    assert_eq!(ask(&evener, 10), counts(&[("b", 10)]));
    let triple = (heavy.unwrap_or(1) * 3).to_string();
    evener.cli_ok(&["backend", "web/a", "weight", &triple]);
    assert_eq!(ask(&evener, 40), counts(&[("a", 30), ("b", 10)]));
    evener.cli_ok(&["backend", "web/a", "auto"]);
    assert_eq!(ask(&evener, 10), counts(&[("a", 5), ("b", 5)]));
}

#[test]
fn an_unknown_backend_is_status_1_and_a_malformed_one_2() {
    let [a, ..] = abc();
    let running = start("", &[a.entry("")]);
    for (name, status) in [("web/zebra", 1), ("nowhere/a", 1), ("web", 2), ("web/", 2), ("/a", 2)] {
        let output = running.cli(&["backend", name, "drain"]);
        assert_eq!(output.status.code(), Some(status), "{name}: {output:?}");
        assert!(!output.stderr.is_empty(), "{name}: no word of why");
    }
    assert_eq!(running.cli(&["backend", "web/a", "sleepy"]).status.code(), Some(2));
    let admin = running.admin();
    let output = evener(&["--admin", admin.to_str().unwrap(), "backend", "web/a", "drain"]);
    let output = if output.status.success() {
        output
    } else {
        evener(&["backend", "web/a", "drain", "--admin", admin.to_str().unwrap()])
    };
    assert!(output.status.success(), "--admin finds the process without a file: {output:?}");
}

#[test]
fn draining_a_backend_ends_when_its_last_connection_does() {
    let [a, b, _] = abc();
    let evener = start("balance = \"first\"", &[a.entry(""), b.entry("")]);
    let (stream, name) = stay(&evener);
    assert_eq!(name, "a");
    evener.cli_ok(&["backend", "web/a", "drain"]);
    assert_eq!(evener.active("web", "a"), 1);
    shut_write(&stream);
    wait_until(SOON, "a is empty", || evener.active("web", "a") == 0);
    assert_eq!(ask(&evener, 3), counts(&[("b", 3)]));
}
