//! What must agree between tables: each listener has its pool, each pool a listener, the two fit each other, and no two
//! sockets have one address.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::error::{Finding, Span};
use crate::config::raw::{Reader, quoted};
use crate::config::words::nearest;
use crate::config::{Bind, Check, Discover, Origin, Pool, Protocol, SendProxy, Step};

use super::{PlacedPool, Used, listener, pool};

/// Pools that a message lists.
const POOLS_LISTED_MAX: usize = 10;

/// The first listener of each kind that uses a pool, and the first route.
#[derive(Default)]
struct Users<'l> {
    tcp: Option<&'l listener::Placed>,
    udp: Option<&'l listener::Placed>,
    route: Option<&'l Used>,
}

/// Finds the pool of each listener and route, and makes a pool fit those that use it.
pub(super) fn join_pools(r: &mut Reader, listeners: &[listener::Placed], used: &[Used], pools: &mut [PlacedPool]) {
    let by_name: HashMap<&str, &PlacedPool> = pools.iter().map(|placed| (placed.name.as_str(), placed)).collect();
    let mut users: HashMap<&str, Users> = HashMap::new();
    for placed in listeners {
        let mut backend_speaks_first = false;
        for (wanted, span) in &placed.pools {
            let users = users.entry(wanted).or_default();
            match &placed.listener.protocol {
                Protocol::Tcp | Protocol::Http(_) => users.tcp.get_or_insert(placed),
                Protocol::Udp(_) => users.udp.get_or_insert(placed),
            };
            match by_name.get(wanted.as_str()) {
                Some(found) => {
                    backend_speaks_first |= found.pool.as_ref().is_some_and(|found| speaks_first(&found.pool));
                }
                None => r.findings.push_with(|| unknown_pool(wanted, span.clone(), pools)),
            }
        }
        if backend_speaks_first {
            warn_of_waiting(r, placed);
        }
    }
    for used in used {
        users.entry(&used.pool).or_default().route.get_or_insert(used);
        if !by_name.contains_key(used.pool.as_str()) {
            r.findings.push_with(|| unknown_pool(&used.pool, used.span.clone(), pools));
        }
    }
    for placed in pools {
        let users = users.remove(placed.name.as_str()).unwrap_or_default();
        if users.tcp.is_none() && users.udp.is_none() && users.route.is_none() {
            r.findings.push_with(|| {
                Finding::warning(placed.span.clone(), format!("no listener uses the pool `{}`", quoted(&placed.name)))
                    .label("never used")
                    .help("its backends are checked and get no clients; name it in a listener or take it out")
                    .absence()
            });
        }
        let Some(pool) = &mut placed.pool else { continue };
        match (users.route, &pool.http) {
            (Some(route), _) => refuse_what_http_has_not(r, route, users.udp, pool),
            (None, Some(span)) => {
                let finding = Finding::warning(span.clone(), "this does nothing in this pool: no route uses it");
                r.findings.push(finding.label("for HTTP only").help("leave it out, or name the pool in a route"));
            }
            (None, None) => {}
        }
        match users {
            Users { udp: Some(user), tcp, route } => {
                refuse_what_udp_has_not(r, user, pool);
                if tcp.is_none() && route.is_none() {
                    fit_to_udp_alone(r, pool);
                }
            }
            Users { udp: None, .. } => warn_of_idle_queue(r, pool),
        }
    }
}

fn unknown_pool(wanted: &str, span: Span, pools: &[PlacedPool]) -> Finding {
    let help = match nearest(wanted, pools.iter().map(|placed| placed.name.as_str())) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if (1..=POOLS_LISTED_MAX).contains(&pools.len()) => {
            let names: Vec<_> = pools.iter().map(|placed| quoted(&placed.name)).collect();
            format!("there are {}; or add a table `[pool.{}]`", names.join(", "), quoted(wanted))
        }
        None => format!("add a table `[pool.{}]` with its `backends`", quoted(wanted)),
    };
    Finding::error(span, format!("there is no pool `{}`", quoted(wanted))).label("unknown pool").help(help).absence()
}

/// A listener that waits for its clients, before backends that speak first.
fn warn_of_waiting(r: &mut Reader, placed: &listener::Placed) {
    if placed.listener.defer_accept {
        let title = "the backends speak first here, and with `defer_accept` each client waits for its time-out";
        let finding = Finding::warning(placed.defer_accept.clone(), title)
            .label("waits for the client's first byte")
            .help("leave `defer_accept` out");
        r.findings.push(finding);
    }
    if !placed.listener.sni.is_empty() {
        let title = "the backends speak first here, and with `sni` clients who wait for them are refused";
        let finding = Finding::warning(placed.sni.clone(), title)
            .label("waits for the client's TLS hello")
            .help("give such backends a listener without `sni`");
        r.findings.push(finding);
    }
}

/// As far as the check gives it away.
fn speaks_first(pool: &Pool) -> bool {
    match &pool.health.kind {
        Check::Mysql { .. } => true,
        Check::Script { steps } => matches!(steps.first(), Some(Step::Expect(_))),
        _ => false,
    }
}

/// What no pool of a route can have, whoever else uses it.
fn refuse_what_http_has_not(r: &mut Reader, route: &Used, udp: Option<&listener::Placed>, pool: &pool::Placed) {
    if pool.pool.send_proxy != SendProxy::Off {
        let title = "a connection to a backend carries the requests of many clients, and a PROXY header names one";
        let finding = Finding::error(pool.send_proxy.clone(), title)
            .label("not with HTTP")
            .help("give the route a pool without `send_proxy`: its backends see X-Forwarded-For and Forwarded")
            .also(route.span.clone(), "used by a route here");
        r.findings.push(finding);
    }
    if let Some(user) = udp {
        let title = format!("listener `{}` carries UDP, and a route uses this pool too", quoted(&user.listener.name));
        let finding = Finding::error(user.pool.clone(), title)
            .label("UDP here")
            .help("give each of the two a pool of its own")
            .also(route.span.clone(), "HTTP here");
        r.findings.push(finding);
    }
}

/// What no pool of a UDP listener can have, whoever else uses it.
fn refuse_what_udp_has_not(r: &mut Reader, user: &listener::Placed, pool: &pool::Placed) {
    let listener = quoted(&user.listener.name);
    if let Some(unix) = &pool.unix {
        let title = format!("listener `{listener}` carries UDP, and a backend of this pool is at a unix socket");
        let finding = Finding::error(user.pool.clone(), title)
            .label("its flows could not be served there")
            .help("give this listener a pool of its own, with IP addresses or host names and their ports")
            .also(unix.clone(), "no UDP here");
        r.findings.push(finding);
    }
    if let Some(tls) = &pool.tls {
        let title = format!("listener `{listener}` carries UDP, and `tls` needs TCP");
        let finding = Finding::error(tls.clone(), title)
            .label("its datagrams would leave as they come")
            .help("give this listener a pool of its own, without `tls`")
            .also(user.pool.clone(), "used with UDP here");
        r.findings.push(finding);
    }
    if pool.pool.send_proxy == SendProxy::V1 {
        let title = format!("the text form of the PROXY header has no UDP, and listener `{listener}` carries UDP");
        let finding = Finding::error(pool.send_proxy.clone(), title)
            .label("the text form")
            .help("write \"v2\" for a header before each datagram, \"v2_first\" for one before the first of each flow")
            .also(user.pool.clone(), "used with UDP here");
        r.findings.push(finding);
    }
}

/// A pool that only UDP listeners use: nothing of it is ever connected to, nor waited for. A server that has UDP only
/// would fail every `tcp` check.
fn fit_to_udp_alone(r: &mut Reader, pool: &mut pool::Placed) {
    if !pool.has_kind {
        pool.pool.health.kind = Check::Udp { send: Vec::new(), expect: None };
    }
    const QUEUE: &str = "leave it out: a datagram for which every backend is full is dropped";
    const CONNECT: &str = "leave it out: UDP has no connects";
    for (key, span, help) in [("queue", &pool.queue, QUEUE), ("connect", &pool.connect, CONNECT)] {
        let Some(span) = span else { continue };
        let title = format!("`{key}` does nothing in this pool: only UDP listeners use it");
        r.findings.push(Finding::warning(span.clone(), title).label("for TCP only").help(help));
    }
}

fn warn_of_idle_queue(r: &mut Reader, pool: &pool::Placed) {
    let has_limit = pool.pool.backends.iter().any(|backend| backend.max_connections.is_some());
    // A file of backends may say more than this one.
    let may_have =
        |discover: &Discover| discover.max_connections.is_some() || matches!(discover.origin, Origin::File(_));
    let has_limit = has_limit || pool.pool.discover.as_ref().is_some_and(may_have);
    if let (Some(span), true) = (&pool.queue, pool.pool.queue.max > 0 && !has_limit) {
        let finding = Finding::warning(span.clone(), "nobody will ever wait in this queue")
            .label("no backend has a limit")
            .help("give the backends a `max_connections`");
        r.findings.push(finding);
    }
}

/// Two sockets at one address. TCP and UDP have their own ports.
pub(super) fn compare_binds(
    r: &mut Reader,
    listeners: &[listener::Placed],
    process: impl Iterator<Item = (Bind, Span)>,
) {
    let process = process.map(|(bind, span)| (bind, span, "the process itself".to_owned()));
    let is_udp = |placed: &&listener::Placed| matches!(placed.listener.protocol, Protocol::Udp(_));
    let (udp, tcp): (Vec<_>, Vec<_>) = listeners.iter().partition(is_udp);
    compare_sockets(r, process.chain(tcp.into_iter().flat_map(sockets)));
    compare_sockets(r, udp.into_iter().flat_map(sockets));
}

/// Each address of a listener with its place and its owner.
fn sockets(placed: &listener::Placed) -> impl Iterator<Item = (Bind, Span, String)> {
    let owner = format!("listener `{}`", quoted(&placed.listener.name));
    let binds = placed.listener.bind.iter().cloned().zip(placed.binds.iter().cloned());
    binds.map(move |(bind, span)| (bind, span, owner.clone()))
}

/// Listeners set SO_REUSEPORT, with which bind(2) lets two have one address and the kernel deals clients out among them
/// at random: that must not happen by mistake. Of "0.0.0.0" and "127.0.0.1" the kernel prefers the closer match, which
/// works and surprises.
fn compare_sockets(r: &mut Reader, sockets: impl Iterator<Item = (Bind, Span, String)>) {
    let mut taken: HashMap<Bind, (Span, String)> = HashMap::new();
    let mut specific = Vec::new();
    for (bind, span, owner) in sockets {
        if matches!(&bind, Bind::Ip(address) if address.port() == 0) {
            continue;
        }
        if let Some((first, first_owner)) = taken.get(&bind) {
            r.findings.push_with(|| {
                Finding::error(span.clone(), format!("{bind} is taken by {first_owner}"))
                    .label("again here")
                    .help("each address has one listener: choose another address or port")
                    .also(first.clone(), "first here")
            });
            continue;
        }
        if let Bind::Ip(address) = bind
            && !address.ip().is_unspecified()
        {
            specific.push((address, span.clone(), owner.clone()));
        }
        taken.insert(bind, (span, owner));
    }
    for (address, span, owner) in specific {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let Some((wide, wide_owner)) = taken.get(&Bind::Ip((any, address.port()).into())) else { continue };
        r.findings.push_with(|| {
            Finding::warning(span, format!("{address} lies within {any}, port {}", address.port()))
                .label(format!("clients of this address go to {owner}"))
                .help("leave one of the two out if that is not meant")
                .also(wide.clone(), format!("all others to {wide_owner}"))
        });
    }
}
