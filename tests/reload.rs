//! Reload and drain: what changed changes, everything else never notices; and leaving in good order.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{
    Backend, Evener, Flag, NO_CHECKS, SOON, config, connect, echo_digest, ending, exchange, free_port, holds_for,
    inodes_listening_on, now, read_name, wait_until, who,
};

fn file(listener: &str, port: u16, pool: &str, entries: &[String]) -> String {
    format!(
        "[listener.{listener}]\nbind = \"127.0.0.1:{port}\"\npool = \"{pool}\"\n\n[pool.{pool}]\nbackends = [{}]\n{NO_CHECKS}\n",
        entries.join(", ")
    )
}

/// A connection that a backend serves already.
fn served(port: u16) -> TcpStream {
    let mut stream = connect(port);
    read_name(&mut stream).unwrap();
    stream
}

#[test]
fn sighup_applies_a_changed_file() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let port = free_port();
    let evener = Evener::start(&file("web", port, "web", &[a.entry("")]));
    assert_eq!(who(port).unwrap(), "a");
    evener.rewrite(&file("web", port, "web", &[b.entry("")]));
    evener.signal("HUP");
    wait_until(SOON, "b serves", || who(port).unwrap() == "b");
    holds_for(Duration::from_millis(200), "only b serves", || who(port).unwrap() == "b");
}

#[test]
fn a_listener_that_did_not_change_keeps_its_sockets_and_connections() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (port, other) = (free_port(), free_port());
    let evener = Evener::start(&file("web", port, "web", &[a.entry("")]));
    let sockets = inodes_listening_on(port);
    assert!(!sockets.is_empty());
    let mut staying = served(port);
    evener.reload(&(file("web", port, "web", &[a.entry("")]) + &file("other", other, "second", &[b.entry("")])));
    assert_eq!(who(other).unwrap(), "b");
    assert_eq!(inodes_listening_on(port), sockets, "the same sockets");
    assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still");
    evener.reload(&file("web", port, "web", &[b.entry("")]));
    assert_eq!(inodes_listening_on(port), sockets, "the same sockets also with another pool behind");
    assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still", "its backend has gone from the file, it lives on");
    assert_eq!(who(port).unwrap(), "b");
}

#[test]
fn a_removed_listener_takes_nobody_and_drains() {
    let a = Backend::named("a");
    let (port, other) = (free_port(), free_port());
    let process = "[process]\ndrain = { deadline = \"1500ms\", spread = \"500ms\" }\n";
    let both = file("web", port, "web", &[a.entry("")]) + &file("other", other, "second", &[a.entry("")]);
    let evener = Evener::start(&format!("{process}{both}"));
    let (mut staying, mut leaving) = (served(port), served(other));
    let begun = now();
    evener.reload(&format!("{process}{}", file("web", port, "web", &[a.entry("")])));
    assert!(TcpStream::connect(("127.0.0.1", other)).is_err(), "nobody listens there");
    assert!(!evener.has_listener("other"));
    assert_eq!(exchange(&mut leaving, b"finish").unwrap(), b"finish", "it may finish");
    ending(&mut leaving);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    evener.wait_for_endings(1, "drained");
    assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still");
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let a = Backend::named("a");
    let port = free_port();
    let good = file("web", port, "web", &[a.entry("")]);
    let evener = Evener::start(&good);
    let mut staying = served(port);
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().port();
    let misspelt = good.replace("pool = ", "poool = ");
    let dangling = good.replace("pool = \"web\"", "pool = \"nowhere\"");
    let port_taken = format!("{good}{}", file("other", taken, "second", &[a.entry("")]));
    for (bad, word) in
        [(&misspelt, "poool"), (&dangling, "nowhere"), (&"[[[".to_owned(), "toml"), (&port_taken, &taken.to_string())]
    {
        evener.rewrite(bad);
        let output = evener.try_reload();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{bad}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(word), "{bad}: it says only {said:?}");
        assert_eq!(who(port).unwrap(), "a");
        assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still");
        assert!(!evener.has_listener("other"));
    }
    drop(holder);
    evener.rewrite(&misspelt);
    let before = evener.log().matches("poool").count();
    evener.signal("HUP");
    wait_until(SOON, "the log says why", || evener.log().matches("poool").count() > before);
    assert_eq!(who(port).unwrap(), "a");
    evener.reload(&good);
    assert_eq!(who(port).unwrap(), "a");
}

#[test]
fn reloads_under_load_fail_nobody() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (port, other) = (free_port(), free_port());
    let one = format!("[process]\nworkers = 2\n\n{}", file("web", port, "web", &[a.entry("weight = 3"), b.entry("")]));
    let two = format!(
        "[process]\nworkers = 2\n\n{}{}",
        file("web", port, "web", &[a.entry(""), b.entry("weight = 2")]),
        file("other", other, "second", &[a.entry("")])
    );
    let evener = Evener::start(&one);
    let mut staying = served(port);
    let (stop, served) = (Flag::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _raised_at_the_end = stop.raise_on_drop();
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.is_raised() {
                    who(port).expect("no connection fails");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            evener.reload(if round % 2 == 0 { &two } else { &one });
            assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still");
            holds_for(Duration::from_millis(100), "it goes on", || true);
        }
    });
    assert!(served.load(Ordering::SeqCst) > 200, "{served:?}");
    let bad = evener.events().into_iter().find(|event| {
        !["client_closed", "backend_closed", "client_reset"].contains(&event["reason"].as_str().unwrap_or(""))
    });
    assert_eq!(bad, None);
}

#[test]
fn a_stream_is_not_disturbed_by_reloads() {
    let echo = Backend::echo();
    let port = free_port();
    let one = file("web", port, "web", &[echo.entry("")]);
    let two = file("web", port, "web", &[echo.entry("weight = 7")]);
    let evener = Evener::start(&one);
    let stream = connect(port);
    let sender = std::thread::spawn(move || echo_digest(stream, 48 << 20));
    let mut round = 0;
    while !sender.is_finished() {
        round += 1;
        evener.reload(if round % 2 == 0 { &one } else { &two });
    }
    assert_eq!(sender.join().unwrap(), harness::Pattern::digest(48 << 20));
}

#[test]
fn what_the_checks_know_survives_a_reload() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let checks = |weight: u32| {
        let health = "health = { kind = \"tcp\", interval = \"100ms\", fast_interval = \"100ms\", rise = 3, fall = 2 }";
        config("", &format!("{health}\npassive = false"), &[a.entry(""), b.entry(&format!("weight = {weight}"))])
    };
    let (one, two) = (checks(1), checks(2));
    let evener = Evener::start(&one);
    a.kill();
    evener.wait_for_state("web", "a", "down");
    evener.reload(&two);
    assert_eq!(evener.state("web", "a"), "down", "not up again for a new file");
    holds_for(Duration::from_millis(400), "it is known to be down", || evener.state("web", "a") == "down");
    a.revive();
    evener.wait_for_state("web", "a", "up");
    evener.reload(&one);
    assert_eq!(evener.state("web", "a"), "up");
}

#[test]
fn what_the_operator_said_survives_a_reload() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let port = free_port();
    let evener = Evener::start(&file("web", port, "web", &[a.entry(""), b.entry("")]));
    evener.cli_ok(&["backend", "web/a", "drain"]);
    let other = free_port();
    let more = file("other", other, "second", &[b.entry("")]);
    evener.reload(&(file("web", port, "web", &[a.entry(""), b.entry("")]) + &more));
    assert!((0..6).all(|_| who(port).unwrap() == "b"));
}

/// How long each connection lasted after `begun`, in their order.
fn lasted(streams: Vec<TcpStream>, begun: Instant) -> Vec<Duration> {
    let watching: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                ending(&mut stream);
                begun.elapsed()
            })
        })
        .collect();
    let mut times: Vec<Duration> = watching.into_iter().map(|one| one.join().unwrap()).collect();
    times.sort();
    times
}

fn draining(deadline: &str, spread: &str, backend: &Backend) -> Evener {
    let process = format!("[process]\ndrain = {{ deadline = \"{deadline}\", spread = \"{spread}\" }}\n\n");
    Evener::start(&(process + &config("", NO_CHECKS, &[backend.entry("")])))
}

#[test]
fn sigterm_lets_connections_finish_and_ends_the_rest_spread_until_the_deadline() {
    let a = Backend::named("a");
    let mut evener = draining("2500ms", "1500ms", &a);
    let port = evener.port("web");
    let mut streams: Vec<TcpStream> = (0..30).map(|_| served(port)).collect();
    let begun = now();
    evener.signal("TERM");
    wait_until(Duration::from_millis(700), "new clients are refused", || harness::try_connect(port).is_err());
    assert_eq!(exchange(&mut streams[0], b"finish").unwrap(), b"finish");
    let times = lasted(streams, begun);
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(last < Duration::from_millis(3200), "all have ended by the deadline: {times:?}");
    assert!(first > Duration::from_millis(600), "nobody ends before the spread begins: {times:?}");
    assert!(last - first > Duration::from_millis(600), "not all at once: {times:?}");
    assert_eq!(evener.wait(SOON).code(), Some(0));
    assert_eq!(evener.endings("drained"), 30);
}

#[test]
fn sigterm_without_connections_ends_at_once_with_0() {
    let a = Backend::named("a");
    for signal in ["TERM", "INT"] {
        let mut evener = draining("30s", "5s", &a);
        evener.signal(signal);
        assert_eq!(evener.wait(Duration::from_secs(3)).code(), Some(0), "SIG{signal}");
        assert!(!evener.admin().exists(), "the socket is removed");
    }
}

#[test]
fn the_process_ends_as_soon_as_the_last_connection_does() {
    let a = Backend::named("a");
    let mut evener = draining("30s", "5s", &a);
    let stream = served(evener.port("web"));
    evener.signal("TERM");
    holds_for(Duration::from_millis(300), "it waits", || evener.runs());
    drop(stream);
    assert_eq!(evener.wait(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn a_second_sigterm_means_now() {
    let a = Backend::named("a");
    let mut evener = draining("60s", "10s", &a);
    let mut stream = served(evener.port("web"));
    evener.signal("TERM");
    let port = stream.peer_addr().unwrap().port();
    wait_until(SOON, "new clients are refused", || harness::try_connect(port).is_err());
    assert_eq!(exchange(&mut stream, b"still").unwrap(), b"still");
    evener.signal("TERM");
    assert_eq!(evener.wait(Duration::from_secs(3)).code(), Some(0));
    assert_eq!(evener.endings("killed"), 1);
}
