//! What the process itself is given: descriptors, memory, pipes, rights.

use std::net::SocketAddr;

use super::finding::Finding;
use super::holder::{Right, Who};
use super::plan::Plan;
use crate::config::{Bind, Protocol};
use crate::control::capacity;
use crate::control::inherited::METRICS;

/// Descriptors that need no thought: what the unit that comes with evener gives.
const NOFILE: u64 = 1 << 20;
/// Below it there is something to gain, if the file does not say how many clients will come.
const NOFILE_MIN: u64 = 1 << 16;
/// Memory of an idle connection: two sockets of the kernel, and what evener keeps of it.
const CONNECTION_BYTES: u64 = 12 << 10;
/// The same where TLS or HTTP is spoken.
const SESSION_BYTES: u64 = 48 << 10;
/// Memory of a flow: a socket, and what evener keeps of it.
const FLOW_BYTES: u64 = 4 << 10;
/// Bytes of a page, in which the quota of pipes is counted.
const PAGE_BYTES: u64 = 4096;

pub fn examine(plan: &Plan) -> Vec<Finding> {
    let mut findings = vec![descriptors(plan)];
    findings.extend(flows(plan));
    findings.extend(files(plan));
    findings.extend(memory(plan));
    findings.extend(pipes(plan));
    findings.extend(privileged_ports(plan));
    findings
}

fn descriptors(plan: &Plan) -> Finding {
    const SUBJECT: &str = "file descriptors";
    let (fds, workers, sized) = (plan.nofile, plan.facts.workers, plan.sized());
    let found = format!("{fds} for {}", plan.facts.holder.name());
    if capacity::shortage(&sized, fds, workers).is_some() {
        let enough = capacity::enough(&sized, workers);
        let needed = format!("{enough} are needed for {}", plan.reason());
        return raise(plan, Finding::breaks(SUBJECT, found, needed), enough);
    }
    if plan.given.is_none() && plan.connections > 0 && fds < NOFILE_MIN {
        let needed = format!("{}; {NOFILE} is what the unit of evener gives", plan.reason());
        return raise(plan, Finding::advice(SUBJECT, found, needed), NOFILE);
    }
    Finding::ok(SUBJECT, format!("{found}: enough for {} connections", plan.connections))
}

/// Flows give way to each other where there are too few descriptors for all.
fn flows(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "descriptors of flows";
    let workers = plan.facts.workers;
    let mut sized = plan.sized();
    let enough = capacity::enough(&sized, workers);
    capacity::fit_flows(&mut sized, plan.nofile, workers)?;
    let fit = capacity::max_flows(&sized);
    let found = format!("room for {fit} flows in {} descriptors", plan.nofile);
    let needed = format!("udp.max_flows allows {}; room for all of them takes {enough} descriptors", plan.flows);
    Some(raise(plan, Finding::advice(SUBJECT, found, needed), enough))
}

fn raise(plan: &Plan, finding: Finding, nofile: u64) -> Finding {
    let finding = match plan.facts.number("fs.nr_open") {
        Some(most) if most < nofile => finding.sysctl("fs.nr_open", nofile),
        _ => finding,
    };
    let lines = [format!("LimitNOFILE={nofile}")];
    let shell = match &plan.facts.holder.who {
        Who::Running(pid, _) => format!("prlimit --pid {pid} --nofile={nofile}:{nofile}   # and so at its next start"),
        _ => format!("ulimit -n {nofile}   # in the shell that starts evener"),
    };
    finding.unit(&plan.facts.holder, "nofile", &lines.each_ref().map(String::as_str), &shell)
}

/// Of the whole host.
fn files(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "files of the host";
    let most = plan.facts.number("fs.file-max")?;
    let sized = plan.sized();
    let enough = capacity::enough(&sized, plan.facts.workers).min(plan.nofile);
    (most < enough).then(|| {
        let needed = format!("{enough} for evener alone: {}", plan.reason());
        Finding::advice(SUBJECT, format!("fs.file-max = {most}"), needed).sysctl("fs.file-max", 2 * enough)
    })
}

fn memory(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "memory";
    let has = plan.facts.memory?;
    let has_sessions =
        plan.streams().any(|listener| listener.tls.is_some() || matches!(listener.protocol, Protocol::Http(_)))
            || plan.config.pools.iter().any(|pool| pool.tls.is_some());
    let each = if has_sessions { SESSION_BYTES } else { CONNECTION_BYTES };
    let (connections, flows) = (plan.connections * each, plan.flows * FLOW_BYTES);
    let needs = connections + flows;
    let found = format!("{} MiB", has >> 20);
    if needs <= has / 2 {
        return Some(Finding::ok(SUBJECT, format!("{found}, of which {} MiB at most for idle clients", needs >> 20)));
    }
    let fit = (has / 2).saturating_sub(flows) / each;
    if plan.given.is_none() && fit > 0 {
        return Some(Finding::ok(SUBJECT, format!("{found}: half of it has room for {fit} idle connections")));
    }
    let needed = format!(
        "about {} MiB for {} connections of {} KiB and {} flows, all idle: {}",
        needs >> 20,
        plan.connections,
        each >> 10,
        plan.flows,
        plan.reason()
    );
    let finding = match needs > has && plan.given.is_some() {
        true => Finding::breaks(SUBJECT, found, needed),
        false => Finding::advice(SUBJECT, found, needed),
    };
    // Of which key, the reader knows: it stands in the file, or there is none yet.
    Some(finding.mend([format!("# more memory, or at most {fit} in max_connections and less in udp.max_flows")]))
}

fn pipes(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "pipes";
    const QUOTA: &str = "fs.pipe-user-pages-soft";
    let pages = plan.facts.number(QUOTA)?;
    let needs = capacity::pipe_bytes(&plan.sized(), plan.nofile, plan.facts.workers) / PAGE_BYTES;
    let holder = &plan.facts.holder;
    if plan.streams().next().is_none() || needs == 0 {
        return None;
    }
    let is_exempt = holder.rights.is_some() && (holder.may(Right::SysResource) || holder.may(Right::SysAdmin));
    if is_exempt || pages == 0 || pages >= needs {
        let why = if is_exempt { "no quota for whoever has CAP_SYS_RESOURCE" } else { "enough for all" };
        return Some(Finding::ok(SUBJECT, format!("{QUOTA} = {pages}: {why}")));
    }
    let needed = format!(
        "{needs} pages hold the pipes of {} workers (process.splice = \"auto\"); beyond the quota streams move in small pieces",
        plan.facts.workers
    );
    Some(Finding::advice(SUBJECT, format!("{QUOTA} = {pages}"), needed).sysctl(QUOTA, needs.next_power_of_two()))
}

fn privileged_ports(plan: &Plan) -> Option<Finding> {
    const SUBJECT: &str = "ports below 1024";
    const START: &str = "net.ipv4.ip_unprivileged_port_start";
    let start = plan.facts.number(START)?;
    let is_privileged = |address: &SocketAddr| address.port() != 0 && u64::from(address.port()) < start;
    let binds = plan.config.listeners.iter().filter(|listener| !plan.facts.holder.sockets.contains(&listener.name));
    let binds = binds.flat_map(|listener| listener.bind.iter().map(move |bind| (listener, bind)));
    let binds = binds.filter_map(|(listener, bind)| match bind {
        Bind::Ip(address) => Some((format!("listener.{}", listener.name), *address)),
        Bind::Unix(_) => None,
    });
    let metrics = plan.config.process.metrics.filter(|_| !plan.facts.holder.sockets.iter().any(|name| name == METRICS));
    let all = binds.chain(metrics.map(|address| ("process.metrics".to_owned(), address)));
    let (owner, address) =
        all.filter(|(_, address)| is_privileged(address)).min_by_key(|(_, address)| address.port())?;
    let holder = &plan.facts.holder;
    let found = format!(
        "{} for {}",
        if holder.may(Right::NetBindService) { "CAP_NET_BIND_SERVICE" } else { "no right" },
        holder.name()
    );
    if holder.may(Right::NetBindService) {
        return Some(Finding::ok(SUBJECT, found));
    }
    let needed = format!("{owner} binds {address}, and {START} is {start}");
    let lines = ["AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"];
    let finding = Finding::breaks(SUBJECT, found, needed);
    Some(match holder.unit() {
        Some(_) => finding.unit(holder, "ports", &lines, ""),
        None => finding.sysctl(START, address.port()),
    })
}
