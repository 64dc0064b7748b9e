//! Several eveners that share one address: each sends a client to the same backend, and says whether it serves.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::Ipv4Addr;

use harness::{Backend, Evener, NO_CHECKS, SOON, config, wait_until, who_from};

const CHECKS: &str = "balance = \"ip_hash\"\nhealth = { kind = \"tcp\", interval = \"100ms\", fast_interval = \"50ms\", \
                      rise = 1, fall = 1 }\npassive = false\n";

#[test]
fn a_client_has_the_same_backend_whichever_evener_it_meets() {
    let mut backends = ["a", "b", "c", "d"].map(Backend::named);
    let weights = ["weight = 100", "weight = 100", "weight = 50", "weight = 200"];
    let mut entries: Vec<String> =
        backends.iter().zip(weights).map(|(backend, weight)| backend.entry(weight)).collect();
    let eveners: Vec<Evener> = (1..=3)
        .map(|workers| {
            entries.rotate_left(1);
            Evener::start(&format!("[process]\nworkers = {workers}\n\n{}", config("", CHECKS, &entries)))
        })
        .collect();
    let sources: Vec<Ipv4Addr> = (1..=80).map(|last| Ipv4Addr::new(127, 4, 1, last)).collect();
    let home_at = |evener: &Evener| -> Vec<String> {
        let port = evener.port("web");
        sources.iter().map(|source| who_from(*source, port).unwrap()).collect()
    };

    let first = home_at(&eveners[0]);
    for name in ["a", "b", "c", "d"] {
        assert!(first.iter().any(|home| home == name), "{name} has no clients: {first:?}");
    }
    for evener in &eveners[1..] {
        assert_eq!(home_at(evener), first);
    }

    backends[1].kill();
    for evener in &eveners {
        evener.wait_for_state("web", "b", "down");
    }
    let second = home_at(&eveners[0]);
    // Its clients are spread over the others, of whose own few may move: that is in the nature of the table.
    let moved = first.iter().zip(&second).filter(|(before, after)| *before != "b" && before != after).count();
    assert!(moved <= sources.len() / 10 && !second.contains(&"b".to_owned()), "{first:?} -> {second:?}");
    for evener in &eveners[1..] {
        assert_eq!(home_at(evener), second);
    }

    // One evener goes: whoever came through it finds its backend through the others.
    let mut eveners = eveners;
    eveners.remove(1).stop();
    for evener in &eveners {
        assert_eq!(home_at(evener), second);
    }
}

#[test]
fn whether_clients_are_served_is_an_exit_status() {
    let mut backend = Backend::named("a");
    let mut evener = Evener::start(&config("", CHECKS, &[backend.entry("")]));
    assert_eq!(evener.cli_ok(&["status", "--ready"]), "");
    assert_eq!(evener.cli_ok(&["status", "web", "--ready"]), "");

    let says = |evener: &Evener, arguments: &[&str]| {
        let output = evener.cli(arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(says(&evener, &["status", "api", "--ready"]).contains("no pool `api`"));
    backend.kill();
    evener.wait_for_state("web", "a", "down");
    assert!(says(&evener, &["status", "--ready"]).contains("pool `web` has no backend"));
    backend.revive();
    evener.wait_for_state("web", "a", "up");
    assert_eq!(evener.cli_ok(&["status", "--ready"]), "");

    let client = harness::connect(evener.port("web"));
    wait_until(SOON, "the client is served", || evener.active("web", "a") == 1);
    evener.signal("TERM");
    wait_until(SOON, "it drains", || !evener.cli(&["status", "--ready"]).status.success());
    assert!(says(&evener, &["status", "--ready"]).contains("drains"));
    drop(client);
    evener.wait(SOON);
    assert!(says(&evener, &["status", "--ready"]).contains("error"));
}

#[test]
fn who_is_up_but_takes_nobody_does_not_serve_and_neither_does_a_drained_listener() {
    let (a, spare) = (Backend::named("a"), Backend::named("spare"));
    let evener = Evener::start(&config("", NO_CHECKS, &[a.entry(""), spare.entry("weight = 0")]));
    evener.cli_ok(&["status", "--ready"]);
    evener.cli_ok(&["backend", "web/a", "weight", "0"]);
    for asked in [&["status", "--ready"][..], &["status", "web", "--ready"]] {
        let said = evener.cli(asked);
        assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("takes clients"), "{said:?}");
    }
    assert!(evener.cli_ok(&["status"]).contains("pool web has no backend that takes clients"));
    assert!(evener.cli_ok(&["top", "--once"]).contains("pool web has no backend that takes clients"));
    evener.cli_ok(&["backend", "web/a", "auto"]);
    evener.cli_ok(&["status", "web", "--ready"]);

    evener.cli_ok(&["drain", "web"]);
    let said = evener.cli(&["status", "web", "--ready"]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("drain"), "{said:?}");
    assert!(evener.cli_ok(&["top", "--once"]).contains("listener web drained"));
    evener.cli_ok(&["ready", "web"]);
    evener.cli_ok(&["status", "web", "--ready"]);
}
