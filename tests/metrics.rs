//! What can be counted and read afterwards: the scrape and the access log, held against what was really done.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use harness::{
    Backend, Evener, NO_CHECKS, Pattern, SOON, config, connect, echo_digest, ending, free_port, http_get, is_refused,
    try_connect_from, wait_until, who,
};

/// Name and labels as written -> value.
type Scrape = BTreeMap<String, f64>;

fn scrape(port: u16) -> Scrape {
    let (code, body) = http_get(port, "/metrics").unwrap();
    assert_eq!(code, 200, "{body}");
    let samples = body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The sum over all samples of this name that carry all of these labels.
fn sum(scrape: &Scrape, name: &str, labels: &[&str]) -> f64 {
    let matching = scrape.iter().filter(|(sample, _)| {
        let (family, rest) = sample.split_once('{').unwrap_or((sample, ""));
        family == name && labels.iter().all(|label| rest.contains(label))
    });
    matching.map(|(_, value)| value).sum()
}

fn families(scrape: &Scrape) -> BTreeSet<&str> {
    scrape.keys().map(|sample| sample.split_once('{').map_or(sample.as_str(), |(family, _)| family)).collect()
}

fn start(listener_keys: &str, pool_keys: &str, entries: &[String]) -> (Evener, u16) {
    let metrics = free_port();
    let file = config(listener_keys, pool_keys, entries);
    (Evener::start(&format!("[process]\nworkers = 2\nmetrics = \"127.0.0.1:{metrics}\"\n\n{file}")), metrics)
}

const NAMES: [&str; 36] = [
    "evener_build_info",
    "evener_snapshot_generation",
    "evener_config_last_reload_success",
    "evener_config_last_reload_timestamp_seconds",
    "evener_process_fds_open",
    "evener_process_fds_limit",
    "evener_process_pipes_in_use",
    "evener_process_pipes_free",
    "evener_listener_connections_accepted_total",
    "evener_listener_connections_active",
    "evener_listener_connections_refused_total",
    "evener_listener_bytes_total",
    "evener_pool_connections_active",
    "evener_pool_queue_length",
    "evener_pool_no_backend_total",
    "evener_backend_up",
    "evener_backend_weight",
    "evener_backend_connections_active",
    "evener_backend_connections_total",
    "evener_backend_connect_failures_total",
    "evener_backend_retries_total",
    "evener_backend_bytes_total",
    "evener_backend_spliced_bytes_total",
    "evener_backend_health_checks_total",
    "evener_backend_health_changes_total",
    "evener_connections_closed_total",
    "evener_backend_connect_seconds_bucket",
    "evener_backend_connect_seconds_sum",
    "evener_backend_connect_seconds_count",
    "evener_connection_duration_seconds_bucket",
    "evener_connection_duration_seconds_count",
    "evener_health_check_seconds_bucket",
    "evener_health_check_seconds_count",
    "evener_worker_connections_active",
    "evener_worker_loop_seconds_count",
    "evener_worker_accepts_total",
];

#[test]
fn every_promised_name_is_there_once_there_was_traffic() {
    let mut dying = Backend::named("dying");
    let alive = Backend::named("alive");
    let checks = "health = { kind = \"tcp\", interval = \"100ms\", fast_interval = \"50ms\", rise = 1, fall = 3 }\npassive = false";
    let (evener, metrics) = start("deny = [\"127.9.0.0/16\"]", checks, &[dying.entry(""), alive.entry("")]);
    dying.kill();
    (0..6).for_each(|_| assert_eq!(who(evener.port("web")).unwrap(), "alive"));
    evener.wait_for_state("web", "dying", "down");
    assert!(is_refused(try_connect_from([127, 9, 0, 1].into(), evener.port("web"))));
    wait_until(SOON, "all is counted", || sum(&scrape(metrics), "evener_connections_closed_total", &[]) >= 7.0);
    let scrape = scrape(metrics);
    let missing: Vec<_> = NAMES.iter().filter(|name| !families(&scrape).contains(*name)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}\nthere: {:?}", families(&scrape));
    assert!(scrape.keys().all(|sample| sample.starts_with("evener_")));
    assert_eq!(sum(&scrape, "evener_backend_up", &["backend=\"dying\""]), 0.0);
    assert_eq!(sum(&scrape, "evener_backend_up", &["backend=\"alive\"", "pool=\"web\""]), 1.0);
    assert!(sum(&scrape, "evener_backend_connect_failures_total", &["backend=\"dying\"", "reason=\"refused\""]) >= 1.0);
    assert_eq!(
        sum(&scrape, "evener_listener_connections_refused_total", &["reason=\"denied\"", "listener=\"web\""]),
        1.0
    );
    assert!(sum(&scrape, "evener_backend_health_changes_total", &["backend=\"dying\"", "to=\"down\""]) >= 1.0);
    assert!(!scrape.keys().any(|sample| sample.contains("127.9.0.1")), "client data in a label");
    let of_flows: Vec<_> = families(&scrape).into_iter().filter(|name| name.starts_with("evener_udp_")).collect();
    assert!(of_flows.is_empty(), "no listener carries datagrams: {of_flows:?}");
    assert_eq!(http_get(metrics, "/other").unwrap().0, 404);
}

#[test]
fn what_is_counted_is_what_was_done() {
    const BYTES: u64 = 4 << 20;
    let echo = Backend::echo();
    let (evener, metrics) = start("", NO_CHECKS, &[echo.entry("")]);
    for _ in 0..5 {
        assert_eq!(echo_digest(connect(evener.port("web")), BYTES), Pattern::digest(BYTES));
    }
    let idle = connect(evener.port("web"));
    wait_until(SOON, "it is connected", || evener.active("web", "echo") == 1);
    wait_until(SOON, "five have ended", || sum(&scrape(metrics), "evener_connections_closed_total", &[]) >= 5.0);
    let scrape = scrape(metrics);
    let all = |name: &str, labels: &[&str]| sum(&scrape, name, labels);
    assert_eq!(all("evener_listener_connections_accepted_total", &["listener=\"web\""]), 6.0);
    assert_eq!(all("evener_worker_accepts_total", &[]), 6.0);
    assert_eq!(all("evener_listener_connections_active", &[]), 1.0);
    assert_eq!(all("evener_pool_connections_active", &[]), 1.0);
    assert_eq!(all("evener_worker_connections_active", &[]), 1.0);
    assert_eq!(all("evener_backend_connections_active", &[]), 1.0);
    assert_eq!(all("evener_backend_connections_total", &[]), 6.0);
    assert_eq!(all("evener_connections_closed_total", &["reason=\"client_closed\""]), 5.0);
    for direction in ["direction=\"in\"", "direction=\"out\""] {
        assert_eq!(all("evener_listener_bytes_total", &[direction]), 5.0 * BYTES as f64, "{direction}");
        assert_eq!(all("evener_backend_bytes_total", &[direction]), 5.0 * BYTES as f64, "{direction}");
    }
    let spliced = all("evener_backend_spliced_bytes_total", &[]);
    assert!(spliced > 0.0 && spliced <= 10.0 * BYTES as f64, "{spliced}");
    drop(idle);
}

#[test]
fn histograms_add_up() {
    let backend = Backend::named("a");
    let (evener, metrics) = start("", NO_CHECKS, &[backend.entry("")]);
    (0..20).for_each(|_| assert_eq!(who(evener.port("web")).unwrap(), "a"));
    wait_until(SOON, "all have ended", || {
        sum(&scrape(metrics), "evener_connection_duration_seconds_count", &[]) == 20.0
    });
    let scrape = scrape(metrics);
    for name in ["evener_connection_duration_seconds", "evener_backend_connect_seconds"] {
        let count = sum(&scrape, &format!("{name}_count"), &[]);
        assert_eq!(count, 20.0, "{name}");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (sample, value) in scrape.iter().filter(|(sample, _)| sample.starts_with(&format!("{name}_bucket"))) {
            let edge = sample.split_once("le=\"").unwrap().1.split_once('"').unwrap().0;
            buckets.push((if edge == "+Inf" { f64::INFINITY } else { edge.parse().unwrap() }, *value));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.len() > 5, "{name}: {buckets:?}");
        assert!(buckets.windows(2).all(|two| two[0].1 <= two[1].1), "{name}: buckets are cumulative: {buckets:?}");
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count), "{name}");
        assert!(sum(&scrape, &format!("{name}_sum"), &[]) < 20.0 * 5.0, "{name} is in seconds");
    }
}

#[test]
fn counters_survive_a_reload() {
    let backend = Backend::named("a");
    let metrics = free_port();
    let process = format!("[process]\nmetrics = \"127.0.0.1:{metrics}\"\n\n");
    let one = process.clone() + &config("", NO_CHECKS, &[backend.entry("")]);
    let two = process + &config("", &format!("{NO_CHECKS}balance = \"random\""), &[backend.entry("weight = 9")]);
    let evener = Evener::start(&one);
    (0..7).for_each(|_| assert_eq!(who(evener.port("web")).unwrap(), "a"));
    let generation = sum(&scrape(metrics), "evener_snapshot_generation", &[]);
    evener.reload(&two);
    assert_eq!(who(evener.port("web")).unwrap(), "a");
    wait_until(SOON, "all is counted", || sum(&scrape(metrics), "evener_backend_connections_total", &[]) == 8.0);
    let after = scrape(metrics);
    assert!(sum(&after, "evener_snapshot_generation", &[]) > generation);
    assert_eq!(sum(&after, "evener_config_last_reload_success", &[]), 1.0);
    evener.rewrite("[[[");
    assert!(!evener.try_reload().status.success());
    assert_eq!(sum(&scrape(metrics), "evener_config_last_reload_success", &[]), 0.0);
}

const FIELDS: [&str; 16] = [
    "time",
    "event",
    "id",
    "listener",
    "pool",
    "backend",
    "client",
    "local",
    "connect_ms",
    "duration_ms",
    "bytes_in",
    "bytes_out",
    "spliced_bytes",
    "attempts",
    "reason",
    "code",
];

#[test]
fn the_access_log_for_machines_has_every_field() {
    let backend = Backend::named("pony");
    let evener = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    let mut client = connect(evener.port("web"));
    let from = client.local_addr().unwrap().to_string();
    harness::shut_write(&client);
    assert_eq!(ending(&mut client).1, 5);
    evener.wait_for_endings(1, "client_closed");
    let event = evener.events().pop().unwrap();
    for field in FIELDS {
        assert!(!event[field].is_null(), "no {field} in {event}");
    }
    for field in ["datagrams_in", "datagrams_out"] {
        assert!(event.as_object().unwrap().contains_key(field) && event[field].is_null(), "{field} in {event}");
    }
    let expected = [
        ("event", Value::from("close")),
        ("listener", "web".into()),
        ("pool", "web".into()),
        ("backend", "pony".into()),
        ("client", from.into()),
        ("local", format!("127.0.0.1:{}", evener.port("web")).into()),
        ("bytes_in", 0.into()),
        ("bytes_out", 5.into()),
        ("attempts", 1.into()),
        ("code", "--".into()),
    ];
    for (field, value) in expected {
        assert_eq!(event[field], value, "{field} in {event}");
    }
}

#[test]
fn the_access_log_for_people_has_the_same_fields_in_one_line() {
    let backend = Backend::named("pony");
    let file = config("", NO_CHECKS, &[backend.entry("")]);
    let evener = Evener::start(&format!("[process]\nlog = {{ format = \"text\", access = \"close\" }}\n\n{file}"));
    assert_eq!(who(evener.port("web")).unwrap(), "pony");
    wait_until(SOON, "a line is there", || evener.access().ends_with('\n'));
    let line = evener.access();
    assert_eq!(line.lines().count(), 1, "{line}");
    for words in ["listener=web", "backend=pony", "bytes_out=5", "client=127.0.0.1:", "attempts=1", "reason="] {
        assert!(line.contains(words), "no {words} in {line}");
    }
}

#[test]
fn all_tells_the_opening_too_and_off_tells_nothing() {
    let backend = Backend::named("pony");
    let file = config("", NO_CHECKS, &[backend.entry("")]);
    let evener = Evener::start(&format!("[process]\nlog = {{ format = \"json\", access = \"all\" }}\n\n{file}"));
    let stream = connect(evener.port("web"));
    wait_until(SOON, "its opening is told", || evener.events().iter().any(|event| event["event"] == "open"));
    drop(stream);
    wait_until(SOON, "its end is told", || evener.events().iter().any(|event| event["event"] == "close"));
    let ids: BTreeSet<String> = evener.events().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "one connection, one id");

    let evener = Evener::start(&format!("[process]\nlog = {{ access = \"off\" }}\n\n{file}"));
    (0..5).for_each(|_| assert_eq!(who(evener.port("web")).unwrap(), "pony"));
    harness::holds_for(Duration::from_millis(300), "nothing is told", || evener.access().is_empty());
}

#[test]
fn what_one_worker_alone_accepts_is_carried_by_both() {
    const CLIENTS: usize = 200;
    harness::allow_many_files();
    let echo = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let (socket, metrics) = (folder.path().join("web.sock"), free_port());
    // Only the first worker listens on a unix socket.
    let file = config("", NO_CHECKS, &[echo.entry("")])
        .replace("\"127.0.0.1:0\"", &format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display()));
    let _evener = Evener::start(&format!("[process]\nworkers = 2\nmetrics = \"127.0.0.1:{metrics}\"\n\n{file}"));
    let mut clients: Vec<UnixStream> = (0..CLIENTS).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for client in &mut clients {
        client.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
    let scrape = scrape(metrics);
    let carried = |worker: &str| sum(&scrape, "evener_worker_connections_active", &[worker]);
    let (first, second) = (carried("worker=\"0\""), carried("worker=\"1\""));
    assert_eq!(first + second, CLIENTS as f64);
    assert!(first > 80.0 && second > 80.0, "{first} and {second}");
    assert_eq!(sum(&scrape, "evener_worker_accepts_total", &["worker=\"0\""]), CLIENTS as f64);
}
