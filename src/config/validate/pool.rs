//! `[pool.NAME]` but for its check.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::address::parse_address;
use crate::config::error::{Finding, Span};
use crate::config::raw::{Fault, Item, Reader, fault, mismatch, quoted, text, whole};
use crate::config::units::parse_duration;
use crate::config::words::{BALANCE, SEND_PROXY};
use crate::config::{Address, Backend, Balance, Check, Connect, OnDown, Passive, Percent, Pool, Queue, SendProxy};

use super::{BACKENDS_MAX, count, discover, duration, health, http, limit, never, percent, positive, tls};

/// A backend's name, in bytes.
const BACKEND_NAME_BYTES_MAX: usize = 255;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 65_535;
/// Where MySQL and MariaDB listen unless told otherwise.
const MYSQL_PORT: u16 = 3306;
/// Tiers are few: each is a set of its own.
pub const TIER_MAX: u32 = 255;
/// More attempts only prolong what will fail.
const ATTEMPTS_MAX: u32 = 100;
/// Failures that the window of a backend can hold.
const FAILURES_MAX: u32 = 1_000_000;
/// Connections that may wait for one pool.
const QUEUE_MAX: u32 = 1_000_000;

/// So that a weight of 50 means half of what the others take.
pub const WEIGHT: u32 = 100;
pub(in crate::config) const CONNECT: Connect = Connect {
    timeout: Duration::from_secs(3),
    attempts: NonZeroU32::new(3).expect("it is not 0"),
    // Off: the kernel also ends a connection whose peer keeps its window closed for so long, and a client that
    // stops reading for half a minute (a pager, a slow disk behind a dump) has done nothing wrong.
    user_timeout: None,
};
pub(in crate::config) const QUEUE: Queue = Queue { max: 0, timeout: Duration::from_secs(5) };
const PASSIVE: Passive = Passive {
    failures: NonZeroU32::new(5).expect("it is not 0"),
    window: Duration::from_secs(10),
    eject: Duration::from_secs(30),
    max_ejected: Percent(50),
};

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("servers", "did you mean `backends`?"),
    ("nodes", "did you mean `backends`?"),
    ("upstreams", "did you mean `backends`?"),
    ("members", "did you mean `backends`?"),
    ("dns", "write `discover = { dns = \"web.internal:80\" }`"),
    ("file", "write `discover = { file = \"/run/web.backends\" }`"),
    ("check", "did you mean `health`?"),
    ("algorithm", "did you mean `balance`?"),
    ("timeout", "the time to connect is `connect = { timeout = \"3s\" }`; `idle_timeout` belongs to the listener"),
    ("retries", "write `connect = { attempts = 3 }`"),
    ("bind", "`bind` belongs to a listener; the address to connect from is `source`"),
    ("idle_timeout", "`idle_timeout` belongs to the listener"),
    ("keepalive", "`keepalive` belongs to the listener and holds for both sides"),
    ("max_connections", "write it at each backend, `{ address = \"…\", max_connections = 500 }`, or at the listener"),
    ("protocol", "`protocol` belongs to the listener"),
    ("udp", "`udp` belongs to the listener; how UDP backends are checked is `health = { kind = \"udp\" }`"),
    ("accept_proxy", "the clients' side belongs to the listener: `[listener.NAME]` takes `accept_proxy`"),
];

const BACKENDS_EXAMPLE: &str = "backends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]";

/// A pool and the places of what the listeners that use it may object to.
pub(super) struct Placed {
    pub pool: Pool,
    /// Whether the file says what kind the check is.
    pub has_kind: bool,
    /// The first backend at a unix socket.
    pub unix: Option<Span>,
    pub send_proxy: Span,
    /// The keys, where the file has them.
    pub queue: Option<Span>,
    pub connect: Option<Span>,
    pub tls: Option<Span>,
    /// The first key that only HTTP listeners use.
    pub http: Option<Span>,
}

pub(super) fn read(r: &mut Reader, name: &str) -> Placed {
    r.hints(HINTS);
    let discover = discover::read(r);
    let backends = backends(r);
    let tls = tls::pool(r, &backends);
    let mut failures = Vec::new();
    let (health, has_kind) = r.table("health", |r| (health::read(r, tls.is_some()), r.has("kind")));
    let pool = Pool {
        name: name.to_owned(),
        balance: r.word("balance", BALANCE, Balance::RoundRobin),
        connect: r.table("connect", |r| Connect {
            timeout: r.or("timeout", positive, CONNECT.timeout),
            attempts: r.or("attempts", count(ATTEMPTS_MAX), CONNECT.attempts),
            user_timeout: r.or("user_timeout", never, CONNECT.user_timeout),
        }),
        queue: r.table("queue", queue),
        health,
        passive: r.table_or_false("passive", |r| {
            failures = http::failures(r);
            Passive {
                failures: r.or("failures", count(FAILURES_MAX), PASSIVE.failures),
                window: r.or("window", positive, PASSIVE.window),
                eject: r.or("eject", positive, PASSIVE.eject),
                max_ejected: r.or("max_ejected", percent, PASSIVE.max_ejected),
            }
        }),
        panic_below: r.or("panic_below", percent, Percent(0)),
        on_down: r.optional("on_down", on_down),
        slow_start: r.or("slow_start", duration, Duration::ZERO),
        send_proxy: r.word("send_proxy", SEND_PROXY, SendProxy::Off),
        source: r.optional("source", source),
        tls,
        http: http::pool(r, failures),
        backends: backends.iter().map(|(backend, _)| Arc::clone(backend)).collect(),
        discover,
    };
    compare_backends(r, &backends);
    compare_families(r, &pool, &backends);
    warn(r, &pool);
    let unix =
        backends.into_iter().find(|(backend, _)| matches!(backend.address, Address::Unix(_))).map(|(_, span)| span);
    if let (Some(span), Check::Udp { .. }) = (&unix, &pool.health.kind) {
        let finding = Finding::error(r.span_of("health"), "a backend at a unix socket cannot be asked by UDP")
            .label("a check of kind udp")
            .help("choose another kind, such as \"tcp\", or put the backend into a pool of its own")
            .also(span.clone(), "a unix socket");
        r.findings.push(finding);
    }
    Placed {
        pool,
        has_kind,
        unix,
        send_proxy: r.span_of("send_proxy"),
        queue: r.has("queue").then(|| r.key_span("queue")),
        connect: r.has("connect").then(|| r.key_span("connect")),
        tls: r.has("tls").then(|| r.key_span("tls")),
        http: ["http", "breaker"].into_iter().find(|key| r.has(key)).map(|key| r.key_span(key)),
    }
}

type PlacedBackend = (Arc<Backend>, Span);

fn backends(r: &mut Reader) -> Vec<PlacedBackend> {
    let discovers = r.has("discover");
    let Some(item) = r.take("backends") else {
        if !discovers {
            r.missing("backends", BACKENDS_EXAMPLE);
        }
        return Vec::new();
    };
    if item.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        let finding = Finding::error(item.span(), "invalid `backends`: the list is empty").label("no backend");
        r.findings.push(finding.help(format!("write at least one: `{BACKENDS_EXAMPLE}`")));
    }
    let items = r.elements("backends", item, BACKENDS_MAX);
    let backends: Vec<_> = items.iter().filter_map(|item| backend(r, item)).collect();
    // A backend that could not be read may have the one weight that is not 0.
    let is_sound = !backends.is_empty() && backends.len() == items.len();
    if is_sound && !discovers && backends.iter().all(|(backend, _)| backend.weight == 0) {
        let finding = Finding::error(item.span(), "every backend has weight 0")
            .label("no client could be served")
            .help("give at least one backend a weight of 1 or more");
        r.findings.push(finding);
    }
    backends
}

/// A backend: an address, or a table with one.
fn backend<'t>(r: &mut Reader<'t, '_>, item: &'t Item<'t>) -> Option<PlacedBackend> {
    let read_address = |value: &DeValue| parse_address(text(value)?);
    let backend = match item.get_ref() {
        DeValue::Table(table) => r.element(table, item.span(), "a backend".to_owned(), |r| {
            r.hints(&[
                ("host", "write host and port as one: `address = \"10.0.0.11:5432\"`"),
                ("port", "write host and port as one: `address = \"10.0.0.11:5432\"`"),
            ]);
            let address = r.required("address", read_address, "address = \"10.0.0.11:5432\"");
            let name = r.optional("name", |value| backend_name(text(value)?));
            let weight = r.or("weight", |value| whole(value, 0, WEIGHT_MAX), WEIGHT);
            let tier = r.or("tier", |value| whole(value, 0, TIER_MAX), 0);
            let max_connections = r.or("max_connections", limit, None);
            let address = address?;
            let name = name.unwrap_or_else(|| address.to_string());
            Some(Backend { name, address, weight, tier, max_connections })
        }),
        DeValue::String(_) => r.value("backends", item, read_address).map(|address| Backend {
            name: address.to_string(),
            address,
            weight: WEIGHT,
            tier: 0,
            max_connections: None,
        }),
        _ => r.value("backends", item, |value| Err(mismatch(value, "an address or a table with one"))),
    };
    Some((Arc::new(backend?), item.span()))
}

/// A name that the command line can say, and that metrics can have as a label.
pub(in crate::config) fn backend_name(name: &str) -> Result<String, Fault> {
    let wrong = |what: &str, help: &str| Err(fault(what, "not a name").help(help));
    if name.trim().is_empty() || name.trim() != name {
        return wrong("a name has neither nothing nor spaces at its ends", "leave `name` out to use the address");
    }
    if name.len() > BACKEND_NAME_BYTES_MAX {
        return Err(fault(
            format!("a name has at most {BACKEND_NAME_BYTES_MAX} bytes"),
            format!("{} bytes", name.len()),
        ));
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return wrong("a name has no `/` and no control characters", "the command line writes POOL/NAME");
    }
    Ok(name.to_owned())
}

/// Two of one name are an error, two of one address a warning.
fn compare_backends(r: &mut Reader, backends: &[PlacedBackend]) {
    let (mut names, mut addresses) = (HashMap::new(), HashMap::new());
    for (backend, span) in backends {
        if let Some(first) = names.insert(&backend.name, span) {
            r.findings.push_with(|| {
                Finding::error(span.clone(), format!("two backends named `{}`", quoted(&backend.name)))
                    .label("again here")
                    .help("a backend without a `name` is named by its address; give each its own name")
                    .also(first.clone(), "first here")
            });
        } else if let Some(first) = addresses.insert(&backend.address, span) {
            r.findings.push_with(|| {
                Finding::warning(span.clone(), format!("two backends at {}", quoted(&backend.address.to_string())))
                    .label("again here")
                    .help("they count as two and get twice the connections; use `weight` for that")
                    .also(first.clone(), "first here")
            });
        }
    }
}

/// A socket bound to an address of one family cannot connect to the other.
fn compare_families(r: &mut Reader, pool: &Pool, backends: &[PlacedBackend]) {
    let Some(source) = pool.source else { return };
    let family = |is_ipv4| if is_ipv4 { "IPv4" } else { "IPv6" };
    for (backend, span) in backends {
        match &backend.address {
            Address::Ip(address) if address.is_ipv4() != source.is_ipv4() => {
                let place = r.span_of("source");
                r.findings.push_with(|| {
                    let (theirs, ours) = (family(address.is_ipv4()), family(source.is_ipv4()));
                    Finding::error(span.clone(), format!("an {theirs} backend cannot be reached from an {ours} source"))
                        .label(theirs)
                        .help("put the backends of the other family into a pool of their own, or leave `source` out")
                        .also(place, ours)
                });
            }
            _ => {}
        }
    }
}

fn queue(r: &mut Reader) -> Queue {
    let queue = Queue {
        max: r.or("max", |value| whole(value, 0, QUEUE_MAX), QUEUE.max),
        timeout: r.or("timeout", duration, QUEUE.timeout),
    };
    if queue.max > 0 && queue.timeout.is_zero() && r.is_sound() {
        let finding = Finding::error(r.span_of("timeout"), "invalid `timeout`: nobody can wait for 0s")
            .label("zero")
            .help("write how long a connection may wait, such as \"5s\", or `max = 0` for no queue");
        r.findings.push(finding);
    }
    queue
}

/// "keep", "close" or "close after 30s".
fn on_down(value: &DeValue) -> Result<OnDown, Fault> {
    let word = text(value)?;
    match (word, word.strip_prefix("close after ")) {
        ("keep", _) => Ok(OnDown::Keep),
        ("close", _) => Ok(OnDown::CloseAfter(Duration::ZERO)),
        (_, Some(time)) => parse_duration(time).map(OnDown::CloseAfter),
        _ => Err(fault(format!("there is no \"{}\"", quoted(word)), "unknown")
            .help("write \"keep\", \"close\" or \"close after 30s\"")),
    }
}

fn source(value: &DeValue) -> Result<std::net::IpAddr, Fault> {
    let address = text(value)?;
    address.parse().map_err(|_| {
        let fault = fault("an IP address without a port is needed", "not an IP address");
        match address.parse::<std::net::SocketAddr>() {
            Ok(with_port) => fault.help(format!("the kernel chooses the port: write \"{}\"", with_port.ip())),
            Err(_) => fault.help("write an address of this host, such as \"10.0.0.5\""),
        }
    })
}

/// What is allowed and will hurt.
fn warn(r: &mut Reader, pool: &Pool) {
    if !r.is_sound() {
        return;
    }
    if matches!(pool.on_down, Some(OnDown::CloseAfter(_))) && matches!(pool.health.kind, Check::None) {
        let finding = Finding::warning(r.span_of("on_down"), "no backend of this pool is ever down")
            .label("this never happens")
            .help("give the pool a check: `health` has kind \"none\"")
            .also(r.span_of("health"), "no check");
        r.findings.push(finding);
    }
    if pool.panic_below == Percent(100) {
        let finding = Finding::warning(r.span_of("panic_below"), "health is ignored as soon as one backend is down")
            .label("fewer than all is below 100%")
            .help("write a smaller share, such as \"50%\", or leave it out");
        r.findings.push(finding);
    }
    let port = |backend: &Arc<Backend>| match &backend.address {
        Address::Ip(address) => address.port(),
        Address::Host { port, .. } => *port,
        Address::Unix(_) => 0,
    };
    let is_mysql = pool.health.port.is_none() && pool.backends.iter().any(|backend| port(backend) == MYSQL_PORT);
    if is_mysql && pool.health.kind == Check::Tcp && pool.send_proxy != SendProxy::Off {
        let finding = Finding::warning(r.span_of("send_proxy"), "MySQL will block this host because of the checks")
            .label("a check that sends this header must finish its connect")
            .help("ask in the server's own protocol, `health = { kind = \"mysql\" }`: the server counts what leaves without a word, and refuses this host after `max_connect_errors`");
        r.findings.push(finding);
    }
    if pool.health.port.is_some() && pool.backends.iter().any(|b| matches!(b.address, Address::Unix(_))) {
        let finding = Finding::warning(r.span_of("health"), "`port` means nothing for a backend at a unix socket")
            .label("has a `port`")
            .help("such a backend is checked at its socket");
        r.findings.push(finding);
    }
}
