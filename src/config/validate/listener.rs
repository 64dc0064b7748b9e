//! `[listener.NAME]`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::config::address::{parse_bind, parse_network};
use crate::config::error::{Finding, Span};
use crate::config::raw::{Fault, Reader, boolean, fault, mismatch, quoted, text, word};
use crate::config::server_names::parse_server_name;
use crate::config::units::parse_rate;
use crate::config::words::Words;
use crate::config::{Bind, Drain, Keepalive, Listener, PerClient, Protocol, Udp};

use super::{NETWORKS_MAX, count, http, limit, never, positive, process, protocol, tls};

/// Addresses that one listener may have.
const BINDS_MAX: usize = 256;
/// Names in one `sni`.
const SERVER_NAMES_MAX: usize = 16_384;
/// Entries of `allow` and of `deny` that are held against each other for a warning.
const NETWORKS_COMPARED_MAX: usize = 1_000;
/// listen(2) takes an int, and the kernel cuts it to net.core.somaxconn.
const BACKLOG_MAX: u32 = i32::MAX as u32;
/// MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of the kernel, in seconds.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
/// MAX_TCP_KEEPCNT of the kernel.
const KEEPALIVE_COUNT_MAX: u32 = 127;
/// Flows of one listener: more than any host has the memory and the ports for.
const FLOWS_MAX: u32 = 10_000_000;

const BACKLOG: NonZeroU32 = NonZeroU32::new(4_096).expect("it is not 0");
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_mins(1),
    interval: Duration::from_secs(10),
    count: NonZeroU32::new(6).expect("it is not 0"),
};
const UDP: Udp = Udp {
    idle_timeout: Duration::from_secs(30),
    responses: None,
    max_flows: NonZeroU32::new(100_000).expect("it is not 0"),
    one_way: false,
};

/// `protocol`, before the keys that belong to it are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Http,
}

const KINDS: Words<Kind> = &[("tcp", Kind::Tcp), ("udp", Kind::Udp), ("http", Kind::Http)];

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("certificate", "write `tls = { certificate = \"…\", key = \"…\" }`"),
    ("max_flows", "write `udp = { max_flows = 100000 }`"),
    ("responses", "write `udp = { responses = 1 }`"),
    ("one_way", "write `udp = { one_way = true }`"),
    ("address", "did you mean `bind`?"),
    ("listen", "did you mean `bind`?"),
    ("port", "write the port into `bind`: \"0.0.0.0:5432\""),
    ("backends", "backends belong to a pool: write `[pool.NAME]` with `backends`, and `pool = \"NAME\"` here"),
    ("health", "checks belong to the pool: `[pool.NAME]` takes `health`"),
    ("balance", "the choice belongs to the pool: `[pool.NAME]` takes `balance`"),
    ("send_proxy", "the backends' side belongs to the pool: `[pool.NAME]` takes `send_proxy`"),
];

/// The keys about connections, which a UDP listener has not, and what to do instead.
const TCP_KEYS: &[(&str, &str)] = &[
    ("max_connections", "write `udp = { max_flows = 100000 }`: so many flows may there be at once"),
    (
        "accept_proxy",
        "leave it out: PROXY headers of clients are read with TCP only, and a client is who sends the datagram",
    ),
    ("sni", "leave it out: the names that clients ask for are read from TLS over TCP only, not from QUIC or DTLS"),
    ("tls", "leave it out: TLS runs over TCP, and DTLS and QUIC pass through as they are"),
    ("idle_timeout", "write `udp = { idle_timeout = \"30s\" }`: after so long a silence a flow ends"),
    ("half_close_timeout", "leave it out: datagrams have no FIN, and a flow ends after `udp.idle_timeout`"),
    ("backlog", "leave it out: nobody waits to be accepted; a flow begins with its client's first datagram"),
    ("fast_open", "leave it out: there is no handshake that could be shortened"),
    ("defer_accept", "leave it out: a flow begins with its client's first datagram"),
    (
        "max_age",
        "leave it out: a flow has no end of its own that a client would notice; it ends after `udp.idle_timeout`",
    ),
    ("keepalive", "leave it out: a flow whose client is gone ends after `udp.idle_timeout`"),
];

/// The keys of `udp` about flows, which there are not with `one_way`.
const FLOW_KEYS: [&str; 3] = ["idle_timeout", "responses", "max_flows"];

/// A listener and the places of what other tables must agree with.
pub(super) struct Placed {
    pub listener: Listener,
    /// Of each address of `listener.bind`.
    pub binds: Vec<Span>,
    pub pool: Span,
    /// Each pool that it names, wherever it does.
    pub pools: Vec<(String, Span)>,
    pub sni: Span,
    pub defer_accept: Span,
    /// What it sets for its routes.
    pub defaults: Option<http::Defaults>,
}

pub(super) fn read(r: &mut Reader, name: &str, known: &http::Known, drain: Drain) -> Placed {
    r.hints(HINTS);
    let binds = binds(r);
    let (protocol, defaults) = protocol(r, known);
    if matches!(protocol, Protocol::Udp(_)) {
        refuse_unix_sockets(r, &binds);
    }
    let pool = |value: &DeValue| text(value).map(str::to_owned);
    // Also where a build has no HTTP, and has said so.
    let is_http = r.take("protocol").and_then(|item| item.get_ref().as_str()) == Some("http");
    let pool = if is_http { r.optional("pool", pool) } else { r.required("pool", pool, "pool = \"NAME\"") };
    let names = server_names(r);
    let pools = pool.iter().map(|pool| (pool.clone(), r.span_of("pool")));
    let pools = pools.chain(names.values().map(|name| name.pool.clone())).collect();
    let allow = networks(r, "allow");
    let deny = networks(r, "deny");
    warn_of_shut_doors(r, &binds, &allow, &deny);
    let per_client = r.table("per_client", |r| per_client(r, &protocol));
    let tls = tls::listener(r, &protocol);
    let listener = Listener {
        name: name.to_owned(),
        bind: binds.iter().map(|(bind, _)| bind.clone()).collect(),
        protocol,
        // A listener without its pool has been noted; no such configuration comes to life.
        pool,
        sni: names.into_iter().map(|(name, placed)| (name, placed.pool.0)).collect(),
        tls,
        allow: allow.into_iter().map(|(network, _)| network).collect(),
        deny: deny.into_iter().map(|(network, _)| network).collect(),
        max_connections: r.or("max_connections", limit, None),
        per_client,
        accept_proxy: networks(r, "accept_proxy").into_iter().map(|(network, _)| network).collect(),
        idle_timeout: r.or("idle_timeout", never, Some(IDLE_TIMEOUT)),
        half_close_timeout: r.or("half_close_timeout", positive, HALF_CLOSE_TIMEOUT),
        backlog: r.or("backlog", count(BACKLOG_MAX), BACKLOG),
        fast_open: r.or("fast_open", boolean, false),
        defer_accept: r.or("defer_accept", boolean, false),
        keepalive: r.table_or_false("keepalive", |r| Keepalive {
            idle: r.or("idle", keepalive_time, KEEPALIVE.idle),
            interval: r.or("interval", keepalive_time, KEEPALIVE.interval),
            count: r.or("count", count(KEEPALIVE_COUNT_MAX), KEEPALIVE.count),
        }),
        drain: r.has("drain").then(|| r.table("drain", |r| process::drain(r, drain))),
        max_age: r.or("max_age", never, None),
    };
    Placed {
        listener,
        binds: binds.into_iter().map(|(_, span)| span).collect(),
        pool: r.span_of("pool"),
        pools,
        sni: r.key_span("sni"),
        defer_accept: r.span_of("defer_accept"),
        defaults,
    }
}

/// What it carries, with the keys that only this protocol has. Those of others are refused and read as their defaults;
/// beside a protocol that there is not no key can be judged.
fn protocol(r: &mut Reader, known: &http::Known) -> (Protocol, Option<http::Defaults>) {
    let kind = if r.has("protocol") { r.optional("protocol", |value| word(value, KINDS)) } else { Some(Kind::Tcp) };
    match kind {
        Some(Kind::Tcp) => {
            r.refuse("udp", |span| {
                Finding::error(span, "`udp` belongs to a listener with protocol = \"udp\"")
                    .label("this listener carries TCP")
                    .help("add `protocol = \"udp\"`, or leave `udp` out")
            });
            protocol::refuse_http_keys(r, "TCP");
        }
        Some(Kind::Udp) => {
            for (key, help) in TCP_KEYS {
                r.refuse(key, |span| {
                    Finding::error(span, format!("`{key}` belongs to a listener with protocol = \"tcp\""))
                        .label("this listener carries UDP")
                        .help(*help)
                });
            }
            protocol::refuse_http_keys(r, "UDP");
        }
        Some(Kind::Http) => protocol::refuse_foreign_keys(r),
        None => protocol::pass_over(r),
    }
    let udp = r.table("udp", udp);
    match kind {
        Some(Kind::Udp) => (Protocol::Udp(udp), None),
        Some(Kind::Http) => match http::listener(r, known) {
            Some((http, defaults)) => (Protocol::Http(Arc::new(http)), Some(defaults)),
            None => (Protocol::Tcp, None),
        },
        _ => (Protocol::Tcp, None),
    }
}

fn udp(r: &mut Reader) -> Udp {
    let one_way = r.or("one_way", boolean, UDP.one_way);
    if one_way {
        for key in FLOW_KEYS {
            r.refuse(key, |span| no_flows(span, key));
        }
    }
    Udp {
        idle_timeout: r.or("idle_timeout", positive, UDP.idle_timeout),
        responses: r.or("responses", limit, UDP.responses),
        max_flows: r.or("max_flows", count(FLOWS_MAX), UDP.max_flows),
        one_way,
    }
}

fn no_flows(span: Span, key: &str) -> Finding {
    Finding::error(span, format!("`{key}` is about flows, and with `one_way` there are none"))
        .label("each datagram goes its own way")
        .help(format!("leave `{key}` out, or `one_way` if the backends reply"))
}

fn per_client(r: &mut Reader, protocol: &Protocol) -> PerClient {
    if matches!(protocol, Protocol::Udp(Udp { one_way: true, .. })) {
        r.refuse("connections", |span| {
            no_flows(span, "connections").help("leave `connections` out; `rate` limits a client's datagrams")
        });
    }
    PerClient {
        connections: r.or("connections", limit, None),
        rate: r.optional("rate", |value| match value {
            DeValue::Integer(number) => Err(fault("the rate has no unit", "not a rate")
                .help(format!("write \"{}/s\" if each second is meant", quoted(number.as_str())))),
            value => parse_rate(text(value)?),
        }),
    }
}

fn refuse_unix_sockets(r: &mut Reader, binds: &[(Bind, Span)]) {
    for (_, span) in binds.iter().filter(|(bind, _)| matches!(bind, Bind::Unix(_))) {
        r.findings.push_with(|| {
            Finding::error(span.clone(), "invalid `bind`: a unix socket carries no UDP")
                .label("a unix socket")
                .help("write an IP address and a port, such as \"0.0.0.0:53\"")
        });
    }
}

/// One address, or a list of them.
fn binds(r: &mut Reader) -> Vec<(Bind, Span)> {
    const EXAMPLE: &str = "bind = \"0.0.0.0:5432\"";
    match r.take("bind") {
        None => {
            r.missing("bind", EXAMPLE);
            r.list("bind", BINDS_MAX, bind)
        }
        Some(item) if item.get_ref().is_array() => {
            if item.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                let finding = Finding::error(item.span(), "invalid `bind`: the list is empty").label("no address");
                r.findings.push(finding.help(format!("write an address: `{EXAMPLE}`")));
            }
            r.list("bind", BINDS_MAX, bind)
        }
        Some(item) => r.optional("bind", bind).map(|bind| (bind, item.span())).into_iter().collect(),
    }
}

fn bind(value: &DeValue) -> Result<Bind, Fault> {
    match value {
        DeValue::Integer(port) => Err(mismatch(value, "an address")
            .help(format!("write \"0.0.0.0:{}\" for all IPv4 addresses of this host", quoted(port.as_str())))),
        value => parse_bind(text(value)?),
    }
}

/// What `sni` has of a name.
struct PlacedName {
    span: Span,
    pool: (String, Span),
}

/// `sni`: names of servers, and the pool that serves each.
fn server_names(r: &mut Reader) -> BTreeMap<String, PlacedName> {
    const EXAMPLE: &str = "`sni = { \"a.example.com\" = \"NAME\" }`";
    let entries = r.entries("sni", "a table of names and pools", &format!("write {EXAMPLE}"));
    if r.take("sni").and_then(|item| item.get_ref().as_table()).is_some_and(|names| names.is_empty()) {
        let finding = Finding::error(r.span_of("sni"), "invalid `sni`: the table is empty").label("no name");
        r.findings.push(finding.help(format!("write {EXAMPLE}, or leave it out")));
    }
    if let Some((name, _)) = entries.get(SERVER_NAMES_MAX) {
        let title = format!("invalid `sni`: at most {SERVER_NAMES_MAX} names are allowed");
        r.findings.push(Finding::error(name.span(), title).label("one too many"));
    }
    let mut names: BTreeMap<String, PlacedName> = BTreeMap::new();
    for (key, item) in entries.into_iter().take(SERVER_NAMES_MAX) {
        let span = key.span();
        let name = parse_server_name(key.get_ref().as_ref());
        let name = name.map_err(|fault| r.findings.push_with(|| fault.at(span.clone(), "sni"))).ok();
        let pool = r.value("sni", item, pool_of_name);
        let (Some(name), Some(pool)) = (name, pool) else { continue };
        match names.entry(name) {
            Entry::Vacant(free) => {
                free.insert(PlacedName { span, pool: (pool, item.span()) });
            }
            Entry::Occupied(taken) => r.findings.push_with(|| {
                Finding::error(span, format!("invalid `sni`: `{}` stands there twice", quoted(taken.key())))
                    .label("again here")
                    .help("letter case and a dot at the end make no other name: leave one of the two out")
                    .also(taken.get().span.clone(), "first here")
            }),
        }
    }
    names
}

fn pool_of_name(value: &DeValue) -> Result<String, Fault> {
    match value {
        // Without quotes the dots of a name make tables.
        DeValue::Table(_) => Err(mismatch(value, "the name of a pool")
            .help("write the server's name in quotes: `sni = { \"a.example.com\" = \"NAME\" }`")),
        value => text(value).map(str::to_owned),
    }
}

pub(super) fn networks(r: &mut Reader, key: &'static str) -> Vec<(IpNet, Span)> {
    r.list(key, NETWORKS_MAX, |value| parse_network(text(value)?))
}

/// The kernel counts keep-alive in whole seconds (tcp(7)).
fn keepalive_time(value: &DeValue) -> Result<Duration, Fault> {
    let time = positive(value)?;
    if time.subsec_nanos() != 0 {
        return Err(fault("the kernel counts keep-alive in whole seconds", "not whole seconds"));
    }
    if time.as_secs() > KEEPALIVE_SECONDS_MAX {
        return Err(fault(format!("the kernel takes at most {KEEPALIVE_SECONDS_MAX}s"), "too long"));
    }
    Ok(time)
}

/// Warns of lists that let nobody in, wholly or in part.
fn warn_of_shut_doors(r: &mut Reader, binds: &[(Bind, Span)], allow: &[(IpNet, Span)], deny: &[(IpNet, Span)]) {
    for (allowed, span) in allow.iter().take(NETWORKS_COMPARED_MAX) {
        if let Some((denied, place)) =
            deny.iter().take(NETWORKS_COMPARED_MAX).find(|(denied, _)| denied.contains(allowed))
        {
            r.findings.push_with(|| {
                Finding::warning(span.clone(), format!("{allowed} is allowed in vain"))
                    .label("denied as well, and `deny` wins")
                    .help(format!("take {denied} out of `deny` or {allowed} out of `allow`"))
                    .also(place.clone(), "denied here")
            });
        }
    }
    let is_shut = |bind: &Bind| match bind {
        Bind::Ip(address) => {
            deny.iter().any(|(net, _)| net.prefix_len() == 0 && matches!(net, IpNet::V4(_)) == address.is_ipv4())
        }
        Bind::Unix(_) => false,
    };
    if allow.is_empty() && !binds.is_empty() && binds.iter().all(|(bind, _)| is_shut(bind)) {
        let finding = Finding::warning(r.span_of("deny"), "this listener denies every client")
            .label("all addresses are in here")
            .help("to let only some in, leave `deny` out and name them in `allow`");
        r.findings.push(finding);
    }
}
