//! Local ports: each connection to one address of a backend takes one of its own, and each flow.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::finding::Finding;
use super::plan::Plan;
use crate::config::{Address, Balance, Bind, Pool, Protocol};

const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
const REUSE: &str = "net.ipv4.tcp_tw_reuse";
/// The widest range that is of use.
const WIDEST: &str = "1024 65535";
const LOWEST: u16 = 1024;
/// How long a port rests after a connection whose FIN we sent first (TIME-WAIT).
const TIME_WAIT_SECONDS: u64 = 60;

pub fn examine(plan: &Plan) -> Vec<Finding> {
    let [low, high] = plan.facts.numbers(RANGE)[..] else { return Vec::new() };
    let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high)) else { return Vec::new() };
    let reserved = reserved(plan.facts.word(RESERVED).unwrap_or_default());
    let taken = reserved.iter().flat_map(|ports| ports.clone()).filter(|port| (low..=high).contains(port));
    let taken = taken.collect::<BTreeSet<u16>>().len() as u64;
    let free = (u64::from(high) + 1).saturating_sub(u64::from(low)).saturating_sub(taken);
    let range = format!("{free} in {RANGE} = {low} {high}");
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(connections(plan, free, &range));
    findings.extend(flows(plan, free, &range));
    let is_widened = findings.iter().any(|finding| finding.commands.iter().any(|command| command.contains(RANGE)));
    findings.extend(listeners(plan, &(low..=high), is_widened));
    findings.extend(time_wait(plan, free));
    findings
}

/// "8080,9000-9010".
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let parts = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    parts.collect()
}

/// The backends of a pool that share its connections while all are well, and reached by IP.
fn reached_by_port(pool: &Pool) -> u64 {
    let first = pool.backends.iter().map(|backend| backend.tier).min().unwrap_or(0);
    let by_port =
        pool.backends.iter().filter(|backend| backend.tier == first && !matches!(backend.address, Address::Unix(_)));
    by_port.count() as u64
}

fn connections(plan: &Plan, free: u64, range: &str) -> Option<Finding> {
    const SUBJECT: &str = "ports to backends";
    plan.streams().next()?;
    let pools = plan.config.pools.iter().filter(|pool| reached_by_port(pool) > 0 && !has_only_flows(plan, pool));
    let (pool, most, why, is_named) = pools.map(|pool| busiest(plan, pool)).max_by_key(|(_, most, ..)| *most)?;
    if most <= free {
        let found = format!("{range}: enough for {most} connections to one backend of pool.{}", pool.name);
        return Some(Finding::ok(SUBJECT, found));
    }
    if !is_named {
        return Some(Finding::ok(SUBJECT, format!("{range}: so many connections may each backend have at once")));
    }
    let of = match pool.source {
        Some(source) => format!(" from pool.{}.source = {source}", pool.name),
        None => String::new(),
    };
    let needed = format!("{most} for one backend of pool.{}{of}: {why}", pool.name);
    let finding = Finding::breaks(SUBJECT, range, needed);
    let widest = u64::from(u16::MAX - LOWEST) + 1;
    let finding = if range.ends_with(WIDEST) { finding } else { widen(plan, finding) };
    Some(if most > widest {
        finding.mend([
            "# more backends or more addresses of them, or a smaller max_connections of each backend".to_owned()
        ])
    } else {
        finding
    })
}

/// Whether only UDP listeners use it; what routes use no listener names.
fn has_only_flows(plan: &Plan, pool: &Pool) -> bool {
    let mut users =
        plan.config.listeners.iter().filter(|listener| listener.pools().any(|name| name == pool.name)).peekable();
    users.peek().is_some() && users.all(|listener| matches!(listener.protocol, Protocol::Udp(_)))
}

/// The most connections that one backend of a pool has at once, why, and whether the file names the number.
fn busiest<'p>(plan: &Plan, pool: &'p Pool) -> (&'p Pool, u64, String, bool) {
    let limits = pool.backends.iter().map(|backend| backend.max_connections);
    let limits = limits.chain(pool.discover.iter().map(|discover| discover.max_connections));
    let limits = limits.map(|max| max.map(|max| u64::from(max.get())));
    if let Some(max) = limits.clone().collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max()) {
        // Fewer clients than it could take bring fewer connections.
        let most = max.min(plan.connections);
        return (pool, most, format!("pool.{}.backends.max_connections = {max}", pool.name), true);
    }
    // The first one of `first` has all; how many will be discovered, nobody knows.
    let backends = if pool.balance == Balance::First { 1 } else { reached_by_port(pool) };
    let why = match backends {
        1 => format!("{}, all to one backend", plan.reason()),
        several => format!("{} among {several} backends", plan.reason()),
    };
    (pool, plan.connections.div_ceil(backends), why, plan.given.is_some() && pool.discover.is_none())
}

fn flows(plan: &Plan, free: u64, range: &str) -> Option<Finding> {
    const SUBJECT: &str = "ports of flows";
    let sources: BTreeSet<_> = plan.config.pools.iter().filter_map(|pool| pool.source).collect();
    let free = free * sources.len().max(1) as u64;
    if plan.flows == 0 {
        return None;
    }
    if plan.flows <= free {
        return Some(Finding::ok(SUBJECT, format!("{range}: enough for {} flows", plan.flows)));
    }
    let needed = format!(
        "udp.max_flows allows {}, each with a port of its own; beyond {free} new clients are dropped (port_exhausted)",
        plan.flows
    );
    let finding = Finding::advice(SUBJECT, range, needed);
    let finding = if range.ends_with(WIDEST) { finding } else { widen(plan, finding) };
    Some(finding.mend(["# and udp.responses, a shorter udp.idle_timeout, or pools with a source each".to_owned()]))
}

/// The widest range, without the ports of listeners.
fn widen(plan: &Plan, finding: Finding) -> Finding {
    let finding = finding.sysctl(RANGE, WIDEST);
    match unreserved(plan, &(LOWEST..=u16::MAX)) {
        ports if ports.is_empty() => finding,
        ports => reserve(plan, finding, &ports),
    }
}

/// The ports of listeners in a range of which nobody else is kept out.
fn unreserved(plan: &Plan, range: &RangeInclusive<u16>) -> BTreeSet<u16> {
    let reserved = reserved(plan.facts.word(RESERVED).unwrap_or_default());
    let is_reserved = |port: &u16| reserved.iter().any(|ports| ports.contains(port));
    own(plan).filter(|port| range.contains(port) && !is_reserved(port)).collect()
}

fn reserve(plan: &Plan, finding: Finding, ports: &BTreeSet<u16>) -> Finding {
    let before = plan.facts.word(RESERVED).filter(|before| !before.is_empty()).map(str::to_owned);
    let all: Vec<String> = before.into_iter().chain(ports.iter().map(u16::to_string)).collect();
    finding.sysctl(RESERVED, all.join(","))
}

/// The ports that evener listens at.
fn own(plan: &Plan) -> impl Iterator<Item = u16> {
    let binds = plan.config.listeners.iter().flat_map(|listener| &listener.bind).filter_map(|bind| match bind {
        Bind::Ip(address) => Some(address.port()),
        Bind::Unix(_) => None,
    });
    binds.chain(plan.config.process.metrics.map(|address| address.port())).filter(|port| *port != 0)
}

/// A port in the range may be somebody's when evener starts.
fn listeners(plan: &Plan, range: &RangeInclusive<u16>, is_widened: bool) -> Option<Finding> {
    const SUBJECT: &str = "ports of listeners";
    own(plan).next()?;
    let open = unreserved(plan, range);
    if open.is_empty() {
        return Some(Finding::ok(SUBJECT, format!("none in {RANGE} that is not reserved")));
    }
    let list = open.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let needed = "a connection of any program may have such a port when evener starts, which then fails";
    let finding = Finding::advice(SUBJECT, format!("{list} in {RANGE}, not reserved"), needed);
    // What an earlier command reserves is not to be taken back.
    let open = if is_widened { unreserved(plan, &(LOWEST..=u16::MAX)) } else { open };
    Some(reserve(plan, finding, &open))
}

fn time_wait(plan: &Plan, free: u64) -> Option<Finding> {
    const SUBJECT: &str = "ports in TIME-WAIT";
    let reuse = plan.facts.number(REUSE)?;
    let addresses =
        plan.config.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| match &backend.address {
            Address::Ip(address) => Some(address.ip().is_loopback()),
            Address::Host { .. } => Some(false),
            Address::Unix(_) => None,
        });
    let is_far = addresses.fold(None, |far, is_loopback| Some(far == Some(true) || !is_loopback))?;
    plan.streams().next()?;
    let found = format!("{REUSE} = {reuse}");
    let is_reused = reuse == 1 || reuse == 2 && !is_far;
    if is_reused && plan.facts.number("net.ipv4.tcp_timestamps") == Some(0) {
        let needed = "ports are used again only with net.ipv4.tcp_timestamps = 1";
        return Some(Finding::advice(SUBJECT, found, needed).sysctl("net.ipv4.tcp_timestamps", 1));
    }
    if is_reused {
        return Some(Finding::ok(SUBJECT, found));
    }
    let rate = free / TIME_WAIT_SECONDS;
    let needed = format!(
        "1, if more than {rate} connections a second go to one backend: each port rests for {TIME_WAIT_SECONDS} s"
    );
    Some(Finding::advice(SUBJECT, found, needed).sysctl(REUSE, 1))
}
