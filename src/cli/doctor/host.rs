//! The host itself: its kernel, its clock, its addresses.

use std::net::IpAddr;

use super::finding::Finding;
use super::plan::Plan;
use crate::config::{Bind, Protocol};
use crate::control::udp;

/// Linux has trains of datagrams from here on (UDP_GRO).
const TRAINS: (u32, u32) = (5, 0);
/// And lets connections from one `source` to several backends share a port (IP_BIND_ADDRESS_NO_PORT).
const SHARED_PORTS: (u32, u32) = (4, 2);
/// The oldest one that anybody still mends.
const MENDED: (u32, u32) = (5, 10);

pub fn examine(plan: &Plan) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [kernel(plan), clock(plan)].into_iter().flatten().collect();
    findings.extend(addresses(plan));
    findings
}

fn kernel(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "kernel";
    let version = plan.facts.kernel?;
    let found = format!("Linux {}.{}", version.0, version.1);
    let has_source = plan.config.pools.iter().any(|pool| pool.source.is_some());
    let lacks = [
        (
            has_source && version < SHARED_PORTS,
            "4.2 or later: before, pool.source has one range of ports for all backends",
        ),
        (
            udp::is_in(plan.config) && version < TRAINS,
            "5.0 or later: before, each datagram is received and sent by itself",
        ),
        (version < MENDED, "5.10 or later: older ones get no more corrections"),
    ];
    Some(match lacks.iter().find(|(lacks, _)| *lacks) {
        Some((_, needed)) => Finding::advice(SUBJECT, found, *needed),
        None => Finding::ok(SUBJECT, found),
    })
}

fn clock(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "clock";
    if plan.facts.is_synchronised? {
        return Some(Finding::ok(SUBJECT, "synchronised"));
    }
    let listeners = &plan.config.listeners;
    let has_tls = listeners.iter().any(|listener| listener.tls.is_some())
        || plan.config.pools.iter().any(|pool| pool.tls.is_some());
    let has_http = listeners.iter().any(|listener| matches!(listener.protocol, Protocol::Http(_)));
    let found = "nothing keeps it right";
    if !has_tls && !has_http {
        return Some(Finding::ok(SUBJECT, format!("{found}, and nothing in the file goes by it")));
    }
    let needed = match (has_tls, has_http) {
        (true, false) => "certificates are judged by it",
        (false, true) => "tokens are judged by it (jwt.*.leeway)",
        _ => "certificates and tokens are judged by it",
    };
    Some(Finding::advice(SUBJECT, found, needed).mend(["timedatectl set-ntp true   # or chrony".to_owned()]))
}

fn addresses(plan: &Plan) -> Vec<Finding> {
    const SUBJECT: &str = "addresses";
    if plan.facts.absent.is_empty() {
        return vec![Finding::ok(SUBJECT, "all of the file can be bound here")];
    }
    plan.facts.absent.iter().map(|(ip, why)| absent(plan, SUBJECT, *ip, why)).collect()
}

fn absent(plan: &Plan, subject: &'static str, ip: IpAddr, why: &str) -> Finding {
    let has = |bind: &Bind| matches!(bind, Bind::Ip(address) if address.ip() == ip);
    let listener = plan.config.listeners.iter().find(|listener| listener.bind.iter().any(has));
    let pool = plan.config.pools.iter().find(|pool| pool.source == Some(ip));
    let (key, what) = match (listener, pool) {
        (Some(listener), _) => (format!("listener.{}.bind", listener.name), "evener does not start without it"),
        (None, Some(pool)) => (format!("pool.{}.source", pool.name), "no backend can be reached without it"),
        (None, None) => ("process.metrics".to_owned(), "evener does not start without it"),
    };
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let finding = Finding::breaks(subject, format!("{ip}: {why}"), format!("{key} has it, and {what}"));
    if ip.is_unspecified() {
        return finding.mend(["# this host has no IPv6: write \"0.0.0.0\" in its place".to_owned()]);
    }
    let finding = finding.mend([
        format!("ip address add {ip}/{length} dev INTERFACE"),
        "# or, for an address that moves between hosts (keepalived), let it be bound before it is here:".to_owned(),
    ]);
    finding.sysctl(&format!("net.{family}.ip_nonlocal_bind"), 1)
}
