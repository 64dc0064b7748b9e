//! The kernel's settings of the network.

use super::finding::Finding;
use super::holder::Right;
use super::plan::Plan;
use crate::control::udp;

/// Bytes of a page, in which tcp_mem is counted.
const PAGE_BYTES: u64 = 4096;
/// What a connection that moves has in its two sockets at least: a page for each way of each.
const CONNECTION_PAGES: u64 = 4;
/// The bit of tcp_fastopen that lets clients of ours begin with it (ip-sysctl).
const FAST_OPEN_LISTENERS: u64 = 2;
/// A connection or a flow is tracked on the clients' and on the backends' side.
const TRACKED: u64 = 2;

pub fn examine(plan: &Plan) -> Vec<Finding> {
    let parts = [backlog, syn_cookies, fast_open, receive_buffers, tcp_memory, tracking, congestion, busy_poll];
    parts.iter().filter_map(|part| part(plan)).collect()
}

fn backlog(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "backlog";
    const MOST: &str = "net.core.somaxconn";
    let most = plan.facts.number(MOST)?;
    let listener = plan.streams().max_by_key(|listener| listener.backlog)?;
    let (wanted, found) = (u64::from(listener.backlog.get()), format!("{MOST} = {most}"));
    if most >= wanted {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed = format!(
        "listener.{}.backlog = {wanted} is cut to it: clients of a burst wait for a second attempt",
        listener.name
    );
    let finding = Finding::advice(SUBJECT, found, needed).sysctl(MOST, wanted);
    Some(finding.mend(["# then: evener reload".to_owned()]))
}

fn syn_cookies(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "half-open connections";
    const COOKIES: &str = "net.ipv4.tcp_syncookies";
    const MOST: &str = "net.ipv4.tcp_max_syn_backlog";
    let (cookies, most) = (plan.facts.number(COOKIES)?, plan.facts.number(MOST)?);
    let wanted = plan.streams().map(|listener| u64::from(listener.backlog.get())).max()?;
    let found = format!("{COOKIES} = {cookies}, {MOST} = {most}");
    if cookies > 0 {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed =
        format!("without cookies a flood of SYN locks clients out once {} connections are half open", most.min(wanted));
    let finding = Finding::advice(SUBJECT, found, needed).sysctl(COOKIES, 1);
    Some(if most < wanted { finding.sysctl(MOST, wanted) } else { finding })
}

fn fast_open(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "TCP Fast Open";
    const NAME: &str = "net.ipv4.tcp_fastopen";
    let listener = plan.streams().find(|listener| listener.fast_open)?;
    let bits = plan.facts.number(NAME)?;
    let found = format!("{NAME} = {bits}");
    if bits & FAST_OPEN_LISTENERS != 0 {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed =
        format!("listener.{}.fast_open = true does nothing without the bit {FAST_OPEN_LISTENERS}", listener.name);
    Some(Finding::advice(SUBJECT, found, needed).sysctl(NAME, bits | FAST_OPEN_LISTENERS))
}

fn receive_buffers(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "receive buffers";
    const MOST: &str = "net.core.rmem_max";
    let most = plan.facts.number(MOST)?;
    if !udp::is_in(plan.config) {
        return None;
    }
    let (wanted, holder) = (udp::RECEIVE_BUFFER_BYTES as u64, &plan.facts.holder);
    let found = format!("{MOST} = {most}");
    if most >= wanted {
        return Some(Finding::ok(SUBJECT, found));
    }
    if holder.rights.is_some() && holder.may(Right::NetAdmin) {
        return Some(Finding::ok(SUBJECT, format!("{found}, which does not bind whoever has CAP_NET_ADMIN")));
    }
    let needed =
        format!("{wanted} are asked for each UDP listener; a burst that does not fit is lost (receive_buffer_full)");
    let finding = Finding::advice(SUBJECT, found, needed).sysctl(MOST, wanted);
    Some(finding.mend(["# then a restart: sockets that are open keep what they have".to_owned()]))
}

fn tcp_memory(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "memory of TCP";
    const NAME: &str = "net.ipv4.tcp_mem";
    let [low, pressure, most] = plan.facts.numbers(NAME)[..] else { return None };
    if plan.connections == 0 {
        return None;
    }
    let wanted = plan.connections * CONNECTION_PAGES;
    let found = format!("{NAME} = {low} {pressure} {most} pages");
    if wanted <= pressure || plan.given.is_none() {
        let enough = pressure / CONNECTION_PAGES;
        return Some(Finding::ok(SUBJECT, format!("{found}: enough for {enough} connections that all move at once")));
    }
    let needed = format!(
        "{wanted} pages ({} MiB) for {} connections that all move at once; beyond {pressure} the kernel makes windows small: {}",
        (wanted * PAGE_BYTES) >> 20,
        plan.connections,
        plan.reason()
    );
    Some(Finding::advice(SUBJECT, found, needed).sysctl(NAME, format!("{low} {wanted} {}", most.max(wanted * 2))))
}

fn tracking(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "connection tracking";
    const MOST: &str = "net.netfilter.nf_conntrack_max";
    let Some(most) = plan.facts.number(MOST) else { return Some(Finding::ok(SUBJECT, "not loaded")) };
    let count = plan.facts.number("net.netfilter.nf_conntrack_count").unwrap_or(0);
    let wanted = (plan.connections + plan.flows) * TRACKED;
    let found = format!("{MOST} = {most}, {count} now");
    // Without an entry nothing is tracked at the moment: the module is there, and no rule asks for it.
    let is_idle = count == 0 && plan.given.is_none();
    if wanted <= most || is_idle {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed = format!(
        "{wanted} for {} connections and {} flows, if a firewall tracks them; a full table drops new clients: {}",
        plan.connections,
        plan.flows,
        plan.reason()
    );
    let finding = match count > 0 && plan.given.is_some() && plan.connections * TRACKED > most {
        true => Finding::breaks(SUBJECT, found, needed),
        false => Finding::advice(SUBJECT, found, needed),
    };
    let finding = finding.sysctl(MOST, wanted.next_power_of_two());
    Some(
        finding.mend(["# or leave evener's ports out of it by rules with notrack: docs/operations.md, UDP".to_owned()]),
    )
}

fn congestion(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "congestion control";
    let (control, queue) =
        (plan.facts.word("net.ipv4.tcp_congestion_control")?, plan.facts.word("net.core.default_qdisc"));
    plan.streams().next()?;
    let found = match queue {
        Some(queue) => format!("{control}, queues {queue}"),
        None => control.to_owned(),
    };
    match (control, queue) {
        ("bbr", Some(queue)) if queue != "fq" => {
            let needed =
                "bbr paces what it sends: in a queue of kind fq that costs less than a timer for each connection";
            Some(
                Finding::advice(SUBJECT, found, needed)
                    .sysctl("net.core.default_qdisc", "fq")
                    .mend(["# and for each interface that is up: tc qdisc replace dev INTERFACE root fq".to_owned()]),
            )
        }
        ("reno", _) => {
            let needed = "cubic or bbr: reno needs minutes to fill a fast link again after one loss";
            Some(Finding::advice(SUBJECT, found, needed).sysctl("net.ipv4.tcp_congestion_control", "cubic"))
        }
        _ => Some(Finding::ok(SUBJECT, found)),
    }
}

fn busy_poll(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "busy polling";
    let names = ["net.core.busy_poll", "net.core.busy_read"];
    let on = names.iter().find_map(|name| Some((name, plan.facts.number(name).filter(|micros| *micros > 0)?)));
    let (name, micros) = on?;
    let found = format!("{name} = {micros}");
    if !plan.config.process.busy_poll {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed = "the kernel looks for packets too while process.busy_poll looks for events: one of the two is enough";
    Some(Finding::advice(SUBJECT, found, needed).sysctl(name, 0))
}
