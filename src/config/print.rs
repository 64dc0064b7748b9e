//! A configuration as a file: every key with its value, defaults too, in the notation of the contract. Reading what
//! was written gives the same configuration.

mod tls;

use std::collections::HashSet;
use std::fmt::{Display, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::http;
use super::payload::format_payload;
use super::units::{format_duration, format_rate};
use super::validate::{CONNECT, QUEUE, WEIGHT};
use super::words::{ACCESS, BALANCE, INITIAL, LOG_FORMATS, LOG_LEVELS, SEND_PROXY, SPLICE, word_of};
use super::{
    Backend, Check, Config, Discover, Drain, Health, Listener, OnDown, Origin, PerClient, Pool, Process, Protocol,
    Step, Udp,
};

/// The effective configuration as TOML.
pub fn print(config: &Config) -> String {
    render(config, false)
}

/// The same for others to see: hashes of keys and passwords are left out of it, so that nobody can try them.
pub fn print_masked(config: &Config) -> String {
    render(config, true)
}

fn render(config: &Config, masked: bool) -> String {
    let mut out = Lines(String::new());
    print_process(&mut out, &config.process);
    for listener in &config.listeners {
        print_listener(&mut out, listener);
    }
    let users = |udp: bool| -> HashSet<&str> {
        let listeners = config.listeners.iter().filter(|listener| matches!(listener.protocol, Protocol::Udp(_)) == udp);
        listeners.flat_map(|listener| listener.pools()).collect()
    };
    let (tcp, udp) = (users(false), users(true));
    let http: HashSet<&str> =
        config.listeners.iter().flat_map(|listener| config.gateway.pools_of(&listener.name)).collect();
    for pool in &config.pools {
        let name = pool.name.as_str();
        let users = Users { udp_alone: udp.contains(name) && !tcp.contains(name), http: http.contains(name) };
        print_pool(&mut out, pool, users);
    }
    http::print_gateway(&mut out, &config.gateway, masked);
    out.0
}

/// Who uses a pool.
#[derive(Clone, Copy)]
struct Users {
    udp_alone: bool,
    http: bool,
}

/// The text so far. Nothing that is written here fails: it is a `String`.
pub(super) struct Lines(String);

impl Lines {
    pub(super) fn header(&mut self, header: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}[{header}]");
    }

    pub(super) fn key(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    /// What holds without a key that could say it.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }
}

fn print_process(out: &mut Lines, process: &Process) {
    let Process { workers, pin, busy_poll, max_connections, admin, metrics, status_page, splice, log, drain } = process;
    out.header("process");
    out.key("workers", workers.map_or(quote("auto"), |count| count.to_string()));
    out.key("pin", pin);
    out.key("busy_poll", busy_poll);
    out.key("max_connections", max_connections.map_or(0, |max| max.get()));
    out.key("admin", admin.as_ref().map_or(quote(""), |path| quote(path.display())));
    match metrics {
        Some(address) => out.key("metrics", quote(address)),
        None => out.note("metrics is off"),
    }
    out.key("status_page", status_page);
    out.key("splice", quote(word_of(SPLICE, splice)));
    let (level, format) = (word_of(LOG_LEVELS, &log.level), word_of(LOG_FORMATS, &log.format));
    let access = word_of(ACCESS, &log.access);
    out.key("log", table([("level", quote(level)), ("format", quote(format)), ("access", quote(access))]));
    out.key("drain", print_drain(drain));
}

fn print_drain(drain: &Drain) -> String {
    table([("deadline", time(drain.deadline)), ("spread", time(drain.spread))])
}

fn print_listener(out: &mut Lines, listener: &Listener) {
    out.header(&format!("listener.{}", bare_or_quoted(&listener.name)));
    match listener.bind.as_slice() {
        [bind] => out.key("bind", quote(bind)),
        binds => out.key("bind", list(binds)),
    }
    let (protocol, udp) = match listener.protocol {
        Protocol::Tcp => ("tcp", None),
        Protocol::Udp(udp) => ("udp", Some(udp)),
        Protocol::Http(_) => ("http", None),
    };
    let is_http = matches!(listener.protocol, Protocol::Http(_));
    out.key("protocol", quote(protocol));
    if let Some(pool) = &listener.pool {
        out.key("pool", quote(pool));
    }
    for (name, pool) in listener.sni.iter() {
        out.key(&format!("sni.{}", quote(name)), quote(pool));
    }
    if let Some(tls) = &listener.tls {
        out.key("tls", tls::listener(tls, matches!(listener.protocol, Protocol::Http(_))));
    }
    out.key("allow", list(&listener.allow));
    out.key("deny", list(&listener.deny));
    if udp.is_none() {
        out.key("max_connections", listener.max_connections.map_or(0, |max| max.get()));
    }
    print_per_client(out, &listener.per_client, udp.is_some_and(|udp| udp.one_way));
    if let Some(drain) = &listener.drain {
        out.key("drain", print_drain(drain));
    }
    match udp {
        None => print_connection_keys(out, listener, is_http),
        Some(Udp { one_way: true, .. }) => out.key("udp", table([("one_way", "true".to_owned())])),
        Some(Udp { idle_timeout, responses, max_flows, one_way }) => {
            let keys = [
                ("idle_timeout", time(idle_timeout)),
                ("responses", responses.map_or(0, |count| count.get()).to_string()),
                ("max_flows", max_flows.to_string()),
                ("one_way", one_way.to_string()),
            ];
            out.key("udp", table(keys));
        }
    }
}

fn print_per_client(out: &mut Lines, per_client: &PerClient, one_way: bool) {
    let PerClient { connections, rate } = per_client;
    let mut limits = Vec::new();
    if !one_way {
        limits.push(("connections", connections.map_or(0, |max| max.get()).to_string()));
    }
    limits.extend(rate.map(|rate| ("rate", quote(format_rate(rate)))));
    if !limits.is_empty() {
        out.key("per_client", table(limits));
    }
}

/// What only TCP has, and what HTTP has of it.
fn print_connection_keys(out: &mut Lines, listener: &Listener, is_http: bool) {
    out.key("accept_proxy", list(&listener.accept_proxy));
    if !is_http {
        out.key("idle_timeout", time(listener.idle_timeout.unwrap_or_default()));
        out.key("half_close_timeout", time(listener.half_close_timeout));
        out.key("defer_accept", listener.defer_accept);
    }
    out.key("max_age", time(listener.max_age.unwrap_or_default()));
    out.key("backlog", listener.backlog);
    out.key("fast_open", listener.fast_open);
    let keepalive = listener.keepalive.map(|keepalive| {
        let (idle, interval) = (time(keepalive.idle), time(keepalive.interval));
        table([("idle", idle), ("interval", interval), ("count", keepalive.count.to_string())])
    });
    out.key("keepalive", keepalive.unwrap_or("false".to_owned()));
    if let Protocol::Http(http) = &listener.protocol {
        http::print_http(out, http);
    }
}

/// What means nothing with UDP alone is left out, unless the file has it all the same.
fn print_pool(out: &mut Lines, pool: &Pool, users: Users) {
    let udp_alone = users.udp_alone;
    out.header(&format!("pool.{}", bare_or_quoted(&pool.name)));
    out.key("balance", quote(word_of(BALANCE, &pool.balance)));
    if !pool.backends.is_empty() || pool.discover.is_none() {
        let backends = pool.backends.iter().map(|backend| format!("  {},\n", print_backend(backend)));
        out.key("backends", format!("[\n{}]", backends.collect::<String>()));
    }
    if let Some(discover) = &pool.discover {
        out.key("discover", print_discover(discover));
    }
    let connect = &pool.connect;
    if !udp_alone || *connect != CONNECT {
        let user_timeout = time(connect.user_timeout.unwrap_or_default());
        let attempts = connect.attempts.to_string();
        let keys = [("timeout", time(connect.timeout)), ("attempts", attempts), ("user_timeout", user_timeout)];
        out.key("connect", table(keys));
    }
    if !udp_alone || pool.queue != QUEUE {
        out.key("queue", table([("max", pool.queue.max.to_string()), ("timeout", time(pool.queue.timeout))]));
    }
    out.key("health", print_health(&pool.health));
    let passive = pool.passive.map(|passive| {
        let mut keys = vec![
            ("failures", passive.failures.to_string()),
            ("window", time(passive.window)),
            ("eject", time(passive.eject)),
            ("max_ejected", percent(passive.max_ejected.0)),
        ];
        keys.extend(http::print_statuses(&pool.http).map(|statuses| ("statuses", statuses)));
        table(keys)
    });
    out.key("passive", passive.unwrap_or("false".to_owned()));
    out.key("panic_below", percent(pool.panic_below.0));
    match pool.on_down {
        None => out.note("on_down is not set: connections stay, flows are given another backend"),
        Some(OnDown::Keep) => out.key("on_down", quote("keep")),
        Some(OnDown::CloseAfter(Duration::ZERO)) => out.key("on_down", quote("close")),
        Some(OnDown::CloseAfter(after)) => out.key("on_down", quote(format!("close after {}", format_duration(after)))),
    }
    out.key("slow_start", time(pool.slow_start));
    out.key("send_proxy", quote(word_of(SEND_PROXY, &pool.send_proxy)));
    if let Some(source) = pool.source {
        out.key("source", quote(source));
    }
    if let Some(tls) = &pool.tls {
        out.key("tls", tls::pool(tls));
    }
    http::print_pool(out, &pool.http, users.http);
}

/// Only the address, or a table where more is to be said.
fn print_backend(backend: &Backend) -> String {
    let Backend { name, address, weight, tier, max_connections } = backend;
    let text = address.to_string();
    let mut keys = vec![("address", quote(&text))];
    if *name != text {
        keys.push(("name", quote(name)));
    }
    if *weight != WEIGHT {
        keys.push(("weight", weight.to_string()));
    }
    if *tier != 0 {
        keys.push(("tier", tier.to_string()));
    }
    if let Some(max) = max_connections {
        keys.push(("max_connections", max.to_string()));
    }
    if keys.len() == 1 { quote(&text) } else { table(keys) }
}

fn print_discover(discover: &Discover) -> String {
    let Discover { origin, min, max, max_connections } = discover;
    let mut keys = match origin {
        Origin::File(_) => vec![("file", quote(origin))],
        Origin::Addresses { resolver, .. } | Origin::Services { resolver, .. } => {
            let kind = if matches!(origin, Origin::Services { .. }) { "srv" } else { "a" };
            let mut keys = vec![("dns", quote(origin)), ("kind", quote(kind))];
            keys.extend(resolver.map(|resolver| ("resolver", quote(resolver))));
            keys
        }
    };
    keys.extend([("min", min.to_string()), ("max", max.to_string())]);
    keys.push(("max_connections", max_connections.map_or(0, |max| max.get()).to_string()));
    table(keys)
}

fn print_health(health: &Health) -> String {
    let Health { kind, port, tls, interval, fast_interval, timeout, rise, fall, jitter, initial_up } = health;
    let mut keys = print_check(kind);
    keys.extend(port.map(|port| ("port", port.to_string())));
    if kind.is_talk() {
        keys.push(("tls", tls.to_string()));
    }
    keys.extend([
        ("interval", time(*interval)),
        ("timeout", time(*timeout)),
        ("rise", rise.to_string()),
        ("fall", fall.to_string()),
        ("fast_interval", time(*fast_interval)),
        ("jitter", percent(jitter.0)),
        ("initial", quote(word_of(INITIAL, initial_up))),
    ]);
    table(keys)
}

fn print_check(check: &Check) -> Vec<(&'static str, String)> {
    let kind = |word: &str| ("kind", quote(word));
    match check {
        Check::None => vec![kind("none")],
        Check::Tcp => vec![kind("tcp")],
        Check::Tls => vec![kind("tls")],
        Check::Redis => vec![kind("redis")],
        Check::Udp { send, expect } => {
            let mut keys = vec![kind("udp"), ("send", quote(format_payload(send)))];
            keys.extend(expect.iter().map(|expect| ("expect", quote(format_payload(expect)))));
            keys
        }
        Check::Mysql { user } => vec![kind("mysql"), ("user", quote(user))],
        Check::Postgres { user, database } => {
            vec![kind("postgres"), ("user", quote(user)), ("database", quote(database))]
        }
        Check::Http { path, host, status, body } => {
            let mut keys = vec![kind("http"), ("path", quote(path))];
            keys.extend(host.iter().map(|host| ("host", quote(host))));
            keys.push(("status", statuses(status)));
            keys.extend(body.iter().map(|body| ("body", quote(body))));
            keys
        }
        Check::Script { steps } => {
            let step = |step: &Step| match step {
                Step::Send(bytes) => table([("send", quote(format_payload(bytes)))]),
                Step::Expect(bytes) => table([("expect", quote(format_payload(bytes)))]),
            };
            let steps: Vec<String> = steps.iter().map(step).collect();
            vec![kind("script"), ("steps", format!("[{}]", steps.join(", ")))]
        }
        Check::Command { run } => vec![kind("command"), ("run", list(run))],
    }
}

/// "200-299,304".
pub(super) fn statuses(ranges: &[RangeInclusive<u16>]) -> String {
    let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    };
    quote(ranges.iter().map(range).collect::<Vec<_>>().join(","))
}

pub(super) fn time(duration: Duration) -> String {
    quote(format_duration(duration))
}

pub(super) fn percent(share: u8) -> String {
    format!("\"{share}%\"")
}

pub(super) fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(quote).collect();
    format!("[{}]", items.join(", "))
}

/// An inline table of keys and values that are TOML already.
pub(super) fn table<'k>(keys: impl IntoIterator<Item = (&'k str, String)>) -> String {
    let keys: Vec<String> = keys.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}

/// A basic string of TOML (TOML 1.0, "String").
pub(super) fn quote(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A name as a key: a dot would begin another table.
pub(super) fn bare_or_quoted(name: &str) -> String {
    if name.contains('.') { quote(name) } else { name.to_owned() }
}
