//! Tests: the tables, as an operator reads them.

use super::*;
use crate::api::{
    BackendConnections, BackendFile, Datagrams, DiscoveryError, Health, LastCheck, ListenerConnections, Observed,
    OperatorState, Origin, Override, PoolConnections, Process, Queue, Reload,
};

fn backend(name: &str, state: State, why: &str) -> Backend {
    Backend {
        name: name.into(),
        address: "10.0.0.11:5432".into(),
        origin: Origin::Config,
        state,
        why: why.into(),
        since: "2026-01-01T00:00:00Z".into(),
        file: BackendFile { weight: 100, tier: 0, max_connections: None },
        operator: None,
        observed: Observed { health: Health::Up, last_check: None, ejected: false },
        weight: if state == State::Up { 100 } else { 0 },
        connections: BackendConnections { active: 12, total: 3456 },
        connect_failures: 0,
        connect_times: Vec::new(),
        bytes_in: 1_500_000,
        bytes_out: 7,
    }
}

fn sample(backends: Vec<Backend>) -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 4242,
        generation: 17,
        uptime_s: 90_061,
        draining: false,
        drain: None,
        process: Process {
            workers: 4,
            connections: 12,
            max_connections: 40_000,
            flows: 0,
            max_flows: 0,
            fds_open: 60,
            fds_limit: 65_536,
            pipes_in_use: 0,
            pipes_free: 0,
            pipes_max: 0,
            local_ports: 0,
            threads: Vec::new(),
            access_log_dropped: 0,
            last_reload: Reload { at: "2026-01-01T00:00:00Z".into(), ok: true },
        },
        listeners: vec![Listener {
            name: "pg".into(),
            bind: vec!["0.0.0.0:5432".into(), "unix:/run/pg.sock".into()],
            protocol: "tcp".into(),
            pool: "pg".into(),
            state: "listening".into(),
            drain: None,
            connections: ListenerConnections { active: 12, accepted: 3456, refused: 0 },
            bytes_in: 1_500_000,
            bytes_out: 7,
            udp: None,
        }],
        pools: vec![Pool {
            name: "pg".into(),
            balance: "least_conn".into(),
            connections: PoolConnections { active: 12, no_backend: 0 },
            queue: Queue { length: 0, max: 0 },
            panic: false,
            discovery: vec![],
            backends,
        }],
        routes: Vec::new(),
        time_bounds_ms: Vec::new(),
    }
}

fn at() -> SystemTime {
    humantime::parse_rfc3339("2026-01-01T00:02:05Z").expect("a time")
}

#[test]
fn everything_up_is_said_in_one_line_and_fits_a_wide_terminal() {
    let mut first = backend("pg1", State::Up, "checks pass");
    first.observed.last_check = Some(LastCheck { ok: true, why: String::new(), took_ms: 0.42 });
    let text = whole(&sample(vec![first]), at(), Paper { coloured: false, width: None });
    assert!(text.contains("\n1 backend of 1 up\n"), "{text}");
    assert!(text.contains("up 1d01h"), "{text}");
    assert!(text.contains("checks pass (0.4ms)"), "{text}");
    assert!(text.contains("1.4MiB"), "{text}");
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "{widest:?}\n{text}");
}

#[test]
fn what_is_broken_comes_first_with_why_and_since_when() {
    let mut drained = backend("pg2", State::Drain, "set by an operator");
    drained.operator = Some(Override { state: Some(OperatorState::Drain), weight: Some(5), ..Override::default() });
    let lost = backend("pg1", State::Down, "3 checks in a row failed: refused");
    let mut status = sample(vec![lost, drained]);
    status.process.last_reload.ok = false;
    let text = whole(&status, at(), Paper { coloured: false, width: None });
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("! the file was refused 2m05s ago"), "{text}");
    assert_eq!(lines[2], "! pool pg has no backend that takes clients");
    assert_eq!(lines[3], "! pg/pg1 down for 2m05s: 3 checks in a row failed: refused");
    assert_eq!(lines[4], "! pg/pg2 drain for 2m05s: set by an operator");
    assert!(text.contains("weight 5 by an operator, 100 in the file"), "{text}");
    assert!(!text.contains(" up\n"), "{text}");
}

#[test]
fn flows_stand_beside_connections_and_drops_below_them_with_their_reasons() {
    let mut status = sample(vec![backend("pg1", State::Up, "checks pass")]);
    let text = whole(&status, at(), Paper { coloured: false, width: None });
    assert!(!text.contains("flows") && !text.contains("udp"), "{text}");
    let mut dns = Listener {
        name: "dns".into(),
        bind: vec!["0.0.0.0:53".into(), "[::]:53".into()],
        protocol: "udp".into(),
        connections: ListenerConnections { active: 800, accepted: 90_000, refused: 4 },
        udp: Some(Datagrams { datagrams_in: 95_000, datagrams_out: 94_000, dropped: Default::default() }),
        ..status.listeners[0].clone()
    };
    (status.process.flows, status.process.max_flows) = (800, 100_000);
    status.listeners.push(dns.clone());
    let text = whole(&status, at(), Paper { coloured: false, width: None });
    assert!(text.lines().next().is_some_and(|line| line.contains("connections 12/40000  flows 800/100000")), "{text}");
    let row = text.lines().find(|line| line.starts_with("dns ")).expect("a row");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..8], ["dns", "udp", "0.0.0.0:53", "pg", "listening", "800", "90000", "4"]);
    assert!(text.contains("\n          udp [::]:53\n"), "{text}");
    assert!(!text.contains("dropped"), "{text}");

    let dropped = [("denied".into(), 4), ("late".into(), 1), ("receive_buffer_full".into(), 17)];
    dns.udp = Some(Datagrams { datagrams_in: 95_000, datagrams_out: 94_000, dropped: dropped.into() });
    status.listeners[1] = dns;
    let text = whole(&status, at(), Paper { coloured: false, width: None });
    let said = "\ndns dropped 22 datagrams: 17 receive_buffer_full, 4 denied, 1 late\n\nPOOL pg";
    assert!(text.contains(said), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
}

#[test]
fn sizes_and_ages_keep_their_width() {
    assert_eq!([0, 1023, 1024, 1_048_570, u64::MAX].map(bytes), ["0B", "1023B", "1.0KiB", "1.0MiB", "16.0EiB"]);
    let ages = [0, 59, 61, 3600, 86_400 * 400].map(|seconds| age(Duration::from_secs(seconds)));
    assert_eq!(ages, ["0s", "59s", "1m01s", "1h00m", "400d00h"]);
    assert_eq!(since("yesterday", at()), "?");
}

#[test]
fn where_backends_come_from_is_said_below_their_pool_and_what_fails_there_above_all() {
    let mut status = sample(vec![]);
    let source = |name: &str, ok, last_success: Option<&str>| Discovery {
        origin: Origin::Dns,
        name: name.into(),
        backends: 3,
        ok,
        updates: 1,
        failures: 0,
        last_success: last_success.map(str::to_owned),
        last_error: Some(DiscoveryError {
            why: "the resolver says \x1bSERVFAIL".into(),
            at: "2026-01-01T00:01:00Z".into(),
        }),
    };
    let (good, bad) = (source("a.test:80", true, Some("2026-01-01T00:02:00Z")), source("b.test", false, None));
    status.pools[0].discovery = vec![good, bad];
    let text = whole(&status, at(), Paper { coloured: false, width: None });
    assert!(text.contains("\n! pool pg: dns b.test, 1m05s ago: the resolver says ?SERVFAIL\n"), "{text}");
    assert!(text.contains("\ndns a.test:80: 3 backends, asked 5s ago\n"), "{text}");
    assert!(text.contains("\ndns b.test: 3 backends, never answered\n"), "{text}");
}
