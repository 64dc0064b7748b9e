//! PostgreSQL behind evener with its own tools: sessions, a connection for each transaction, a restart that no client sees.
#![allow(clippy::unwrap_used)]

mod harness;
#[path = "harness/servers.rs"]
mod servers;

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use harness::{Evener, Line, SOON, config, entry, local, require, skip, wait_until};
use servers::Postgres;

const TRUST: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\n";

/// With time for an answer, for on a busy machine PostgreSQL makes clients wait, and nobody is down for that here.
const CHECKS: &str = "health = { kind = \"postgres\", interval = \"300ms\", fast_interval = \"100ms\", timeout = \"5s\", \
                      rise = 1, fall = 2 }\npassive = false\n";

/// Two servers with pgbench's tables, and evener in front of them; `None` when PostgreSQL is not installed.
fn start(test: &str) -> Option<([Postgres; 2], Evener)> {
    if !require(test, &["psql", "pgbench", "pg_isready"]) {
        return None;
    }
    let two = [Postgres::start(TRUST, "max_connections = 60"), Postgres::start(TRUST, "max_connections = 60")];
    let [Some(one), Some(other)] = two else {
        skip(test, "PostgreSQL");
        return None;
    };
    for server in [&one, &other] {
        let filled = tool("pgbench", server.port, &["-i", "-q", "-s", "1"]).output().unwrap();
        assert!(filled.status.success(), "{filled:?}");
    }
    let two = [one, other];
    let evener = Evener::start(&file(&two, ""));
    for name in ["one", "other"] {
        evener.wait_for_state("web", name, "up");
    }
    Some((two, evener))
}

/// Servers "one", with these further keys, and "other".
fn file([one, other]: &[Postgres; 2], keys: &str) -> String {
    config("", CHECKS, &[entry("one", local(one.port), keys), entry("other", local(other.port), "")])
}

fn tool(name: &str, port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60", name, "-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres"]);
    command.args(arguments).env("PGDATABASE", "postgres").env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
    command.env_remove("PGSSLMODE").stdin(Stdio::null());
    command
}

fn pgbench(port: u16, arguments: &[&str]) -> Command {
    let mut command = tool("pgbench", port, &["-n", "-S", "-c", "4", "-j", "2"]);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Which server answers, by its port.
fn ask(port: u16) -> Result<u16, String> {
    let output = tool("psql", port, &["-XAtqc", "select inet_server_port()"]).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout).parse().unwrap()) } else { Err(text(&output.stderr)) }
}

#[track_caller]
fn assert_flawless(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{complaints}");
    assert!(said.contains("number of failed transactions: 0 "), "{said}\n{complaints}");
    let done = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: ")).unwrap();
    let done: u64 = done.split('/').next().unwrap().trim().parse().unwrap();
    assert!(done >= 10, "{said}");
}

#[test]
fn sessions_and_transactions_are_shared_by_both_servers() {
    let Some((servers, evener)) = start("sessions_and_transactions_are_shared_by_both_servers") else { return };
    let port = evener.port("web");
    let both: BTreeSet<u16> = (0..6).map(|_| ask(port).unwrap()).collect();
    assert_eq!(both, BTreeSet::from(servers.each_ref().map(|server| server.port)));
    assert_flawless(&pgbench(port, &["-T", "2"]).output().unwrap());
    assert_flawless(&pgbench(port, &["-C", "-T", "2"]).output().unwrap());
    let many = "select sum(length(repeat(i::text, 1000))) from generate_series(1, 20000) i";
    assert!(tool("psql", port, &["-XAtqc", many]).output().unwrap().status.success());
}

#[test]
fn a_server_that_dies_costs_at_most_what_it_was_doing_and_serves_again_when_it_is_back() {
    let test = "a_server_that_dies_costs_at_most_what_it_was_doing_and_serves_again_when_it_is_back";
    let Some((mut servers, evener)) = start(test) else { return };
    let port = evener.port("web");
    let survivor = servers[1].port;
    servers[0].stop();
    // At once, before any check can have noticed: the refusal is retried on the other one.
    for _ in 0..10 {
        assert_eq!(ask(port), Ok(survivor));
    }
    assert_flawless(&pgbench(port, &["-C", "-T", "2"]).output().unwrap());
    evener.wait_for_state("web", "one", "down");
    let running = pgbench(port, &["-C", "-T", "4"]).spawn().unwrap();
    servers[0].resume();
    evener.wait_for_state("web", "one", "up");
    assert_flawless(&running.wait_with_output().unwrap());
    wait_until(SOON, "the one that is back serves", || ask(port) == Ok(servers[0].port));
}

#[test]
fn a_drained_restart_fails_no_transaction() {
    let Some((mut servers, evener)) = start("a_drained_restart_fails_no_transaction") else { return };
    let port = evener.port("web");
    let mut running: Child = pgbench(port, &["-C", "-T", "8"]).spawn().unwrap();
    for (place, name) in ["one", "other"].into_iter().enumerate() {
        evener.cli_ok(&["backend", &format!("web/{name}"), "drain"]);
        wait_until(SOON, "it is empty", || evener.active("web", name) == 0);
        servers[place].stop();
        servers[place].resume();
        // It listens while it still starts up; whoever drained it gives it back when it answers.
        wait_until(SOON, "it answers", || ask(servers[place].port).is_ok());
        evener.cli_ok(&["backend", &format!("web/{name}"), "auto"]);
        evener.wait_for_state("web", name, "up");
    }
    let is_loaded = running.try_wait().unwrap().is_none();
    assert_flawless(&running.wait_with_output().unwrap());
    assert!(is_loaded, "the restarts took longer than the load");
}

#[test]
fn a_session_stays_where_it_is_while_the_other_server_restarts() {
    let Some((mut servers, evener)) = start("a_session_stays_where_it_is_while_the_other_server_restarts") else {
        return;
    };
    let port = evener.port("web");
    evener.cli_ok(&["backend", "web/one", "drain"]);
    let running = pgbench(port, &["-T", "4"]).spawn().unwrap();
    wait_until(SOON, "its sessions are there", || evener.active("web", "other") == 4);
    servers[0].stop();
    evener.reload(&file(&servers, "weight = 3"));
    servers[0].resume();
    harness::holds_for(Duration::from_millis(500), "the sessions are there", || evener.active("web", "other") == 4);
    assert_flawless(&running.wait_with_output().unwrap());
}

#[test]
fn ten_upgrades_in_a_row_fail_no_transaction_and_end_no_session() {
    let test = "ten_upgrades_in_a_row_fail_no_transaction_and_end_no_session";
    let Some((servers, evener)) = start(test) else { return };
    drop(evener);
    let line = Line::start(&file(&servers, ""));
    let port = line.port("web");
    let mut stays: Child = pgbench(port, &["-T", "20"]).spawn().unwrap();
    let comes: Child = pgbench(port, &["-C", "-T", "20"]).spawn().unwrap();
    wait_until(SOON, "its sessions are there", || line.status()["process"]["connections"].as_u64() >= Some(4));
    for _ in 0..10 {
        line.upgrade();
    }
    let is_loaded = stays.try_wait().unwrap().is_none();
    assert!(is_loaded, "the upgrades took longer than the load");
    for child in [stays, comes] {
        assert_flawless(&child.wait_with_output().unwrap());
    }
}
