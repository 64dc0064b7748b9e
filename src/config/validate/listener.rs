//! `[listener.NAME]`.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::config::address::{parse_bind, parse_network};
use crate::config::error::{Finding, Span};
use crate::config::raw::{Fault, Reader, boolean, fault, mismatch, quoted, text};
use crate::config::units::parse_rate;
use crate::config::{Bind, Keepalive, Listener, PerClient};

use super::{count, limit, never, positive};

/// Addresses that one listener may have.
const BINDS_MAX: usize = 256;
/// Networks in one `allow`, `deny` or `accept_proxy`.
const NETWORKS_MAX: usize = 65_536;
/// Entries of `allow` and of `deny` that are held against each other for a warning.
const NETWORKS_COMPARED_MAX: usize = 1_000;
/// listen(2) takes an int, and the kernel cuts it to net.core.somaxconn.
const BACKLOG_MAX: u32 = i32::MAX as u32;
/// MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of the kernel, in seconds.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
/// MAX_TCP_KEEPCNT of the kernel.
const KEEPALIVE_COUNT_MAX: u32 = 127;

const BACKLOG: NonZeroU32 = NonZeroU32::new(4_096).expect("it is not 0");
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_mins(1),
    interval: Duration::from_secs(10),
    count: NonZeroU32::new(6).expect("it is not 0"),
};

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("tls", "this version does not end TLS: it carries TLS through to the backends as it is"),
    ("sni", "this version does not look into TLS; give each pool its own listener"),
    ("udp", "this version carries TCP only"),
    ("address", "did you mean `bind`?"),
    ("listen", "did you mean `bind`?"),
    ("port", "write the port into `bind`: \"0.0.0.0:5432\""),
    ("backends", "backends belong to a pool: write `[pool.NAME]` with `backends`, and `pool = \"NAME\"` here"),
    ("health", "checks belong to the pool: `[pool.NAME]` takes `health`"),
    ("balance", "the choice belongs to the pool: `[pool.NAME]` takes `balance`"),
    ("send_proxy", "the backends' side belongs to the pool: `[pool.NAME]` takes `send_proxy`"),
];

/// A listener and the places of what other tables must agree with.
pub(super) struct Placed {
    pub listener: Listener,
    /// Of each address of `listener.bind`.
    pub binds: Vec<Span>,
    pub pool: Span,
    pub defer_accept: Span,
}

pub(super) fn read(r: &mut Reader, name: &str) -> Placed {
    r.hints(HINTS);
    let binds = binds(r);
    r.optional("protocol", protocol);
    let pool = r.required("pool", |value| text(value).map(str::to_owned), "pool = \"NAME\"");
    let allow = networks(r, "allow");
    let deny = networks(r, "deny");
    warn_of_shut_doors(r, &binds, &allow, &deny);
    let listener = Listener {
        name: name.to_owned(),
        bind: binds.iter().map(|(bind, _)| bind.clone()).collect(),
        // A listener without its pool has been noted; no such configuration comes to life.
        pool: pool.unwrap_or_default(),
        allow: allow.into_iter().map(|(network, _)| network).collect(),
        deny: deny.into_iter().map(|(network, _)| network).collect(),
        max_connections: r.or("max_connections", limit, None),
        per_client: r.table("per_client", |r| PerClient {
            connections: r.or("connections", limit, None),
            rate: r.optional("rate", |value| match value {
                DeValue::Integer(number) => Err(fault("the rate has no unit", "not a rate")
                    .help(format!("write \"{}/s\" if each second is meant", quoted(number.as_str())))),
                value => parse_rate(text(value)?),
            }),
        }),
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
    };
    Placed {
        listener,
        binds: binds.into_iter().map(|(_, span)| span).collect(),
        pool: r.span_of("pool"),
        defer_accept: r.span_of("defer_accept"),
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

fn networks(r: &mut Reader, key: &'static str) -> Vec<(IpNet, Span)> {
    r.list(key, NETWORKS_MAX, |value| parse_network(text(value)?))
}

fn protocol(value: &DeValue) -> Result<(), Fault> {
    match text(value)? {
        "tcp" => Ok(()),
        other @ ("udp" | "http") => Err(fault(format!("this version carries tcp, not {other}"), "not in this version")
            .help(match other {
                "http" => "leave the key out: HTTP passes through as TCP",
                _ => "leave this listener out",
            })),
        other => {
            Err(fault(format!("there is no \"{}\"", quoted(other)), "unknown")
                .help("write \"tcp\" or leave the key out"))
        }
    }
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
