//! How many connections and flows the limit of file descriptors allows.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::config::{Bind, Config, Listener, Protocol, Splice, Udp};
use crate::worker::{PIPE_BYTES, PIPES_MAX};

/// Descriptors that are not for connections: standard streams, polls, wake-ups, the admin API, metrics, and checks, of
/// which 256 may be under way.
const RESERVED: u64 = 512;
/// A connection has a socket to the client and one to the backend.
const SOCKETS: u64 = 2;
/// A pipe has two ends.
const PIPE_ENDS: u64 = 2;
/// A flow has a socket to its backend.
const FLOW_SOCKETS: u64 = 1;
/// Flows may have this part of what is there for clients, however many connections the file allows. Where it gives no
/// number of connections, flows may have half.
const FLOWS_PART_MIN: u64 = 8;
/// At most this part of all descriptors goes to pipes: only streams that wait for a slow reader hold one.
const PIPES_PART: u64 = 8;

/// Connections at once: what the file says, else what `fds` descriptors allow.
pub fn max_connections(config: &Config, fds: u64, workers: usize) -> u32 {
    match config.process.max_connections {
        Some(max) => max.get(),
        None => {
            let flows = flows(config, fds, workers) * FLOW_SOCKETS;
            let sockets = room_without_pipes(config, fds, workers).saturating_sub(flows);
            u32::try_from(sockets / SOCKETS).unwrap_or(u32::MAX).max(1)
        }
    }
}

/// Flows at once over all listeners, as their `udp.max_flows` have it.
pub fn max_flows(config: &Config) -> u64 {
    let flows = config.listeners.iter().filter_map(|listener| carries_flows(listener));
    flows.map(|udp| u64::from(udp.max_flows.get())).sum()
}

/// Cuts every `udp.max_flows` in proportion to what `fds` descriptors allow, and says so; `None` = there is room for all.
/// Without that a flood of new clients would take the descriptors that connections, checks and the admin API need.
pub fn fit_flows(config: &mut Config, fds: u64, workers: usize) -> Option<String> {
    let (max, fit) = (max_flows(config), flows(config, fds, workers));
    if fit >= max {
        return None;
    }
    let enough = enough(config, workers);
    for listener in config.listeners.iter_mut().filter(|listener| carries_flows(listener).is_some()) {
        if let Protocol::Udp(udp) = &mut Arc::make_mut(listener).protocol {
            let share = u64::from(udp.max_flows.get()) * fit / max;
            udp.max_flows = u32::try_from(share).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        }
    }
    Some(format!(
        "udp.max_flows is {max} in the file, and {fds} file descriptors have room for {fit} flows: beyond them the \
         longest idle one gives its place up (room for all: LimitNOFILE={enough})"
    ))
}

/// Why `max_connections` of the file cannot be reached with `fds` descriptors, and what to do; `None` = it can. That
/// `udp.max_flows` cannot is no reason to warn: flows make room for each other.
pub fn shortage(config: &Config, fds: u64, workers: usize) -> Option<String> {
    let max = config.process.max_connections.filter(|_| carries_connections(config))?.get();
    let room = room(config, fds, workers);
    let (with, for_flows) = match max_flows(config) {
        0 => (" needs", 0),
        _ => (" and udp.max_flows need", room / FLOWS_PART_MIN),
    };
    (u64::from(max) * SOCKETS + for_flows > room).then(|| {
        let enough = enough(config, workers);
        format!(
            "process.max_connections = {max}{with} {enough} file descriptors, but the limit is {fds}: raise it \
             (systemd: LimitNOFILE={enough}; a shell: ulimit -n {enough})"
        )
    })
}

/// The limit of descriptors that has room for all that the file allows.
pub fn enough(config: &Config, workers: usize) -> u64 {
    let flows = max_flows(config) * FLOW_SOCKETS;
    let clients = match config.process.max_connections {
        _ if !carries_connections(config) => flows,
        Some(max) => u64::from(max.get()) * SOCKETS + flows,
        None => 2 * flows,
    };
    let all = clients + RESERVED + for_listeners(config, workers);
    // Pipes have their part before flows do; connections do without them.
    let pipes = all.div_ceil(PIPES_PART - 1).min((PIPES_MAX * workers) as u64 * PIPE_ENDS);
    if flows == 0 { all } else { all + pipes }
}

/// Flows at once that `fds` descriptors allow, and the file too.
fn flows(config: &Config, fds: u64, workers: usize) -> u64 {
    let room = room_without_pipes(config, fds, workers);
    let left = match config.process.max_connections {
        _ if !carries_connections(config) => room,
        Some(max) => room.saturating_sub(u64::from(max.get()) * SOCKETS).max(room / FLOWS_PART_MIN),
        None => room / 2,
    };
    max_flows(config).min(left / FLOW_SOCKETS)
}

/// Whether any listener of the file carries TCP or HTTP.
pub fn carries_connections(config: &Config) -> bool {
    config.listeners.iter().any(|listener| !matches!(listener.protocol, Protocol::Udp(_)))
}

fn carries_flows(listener: &Listener) -> Option<&Udp> {
    match &listener.protocol {
        Protocol::Udp(udp) if !udp.one_way => Some(udp),
        _ => None,
    }
}

fn room_without_pipes(config: &Config, fds: u64, workers: usize) -> u64 {
    let pipes = (pipes(config, fds, workers) * workers) as u64 * PIPE_ENDS;
    room(config, fds, workers).saturating_sub(pipes)
}

fn room(config: &Config, fds: u64, workers: usize) -> u64 {
    fds.saturating_sub(RESERVED.min(fds / 2)).saturating_sub(for_listeners(config, workers))
}

fn for_listeners(config: &Config, workers: usize) -> u64 {
    let sockets = config.listeners.iter().flat_map(|listener| &listener.bind).map(|bind| match bind {
        // One for each worker, and control's duplicate of it.
        Bind::Ip(_) => 2 * workers as u64,
        Bind::Unix(_) => 2,
    });
    sockets.sum()
}

/// Local ports that the host has for connections to one address, and for all flows (ip(7), ip_local_port_range).
pub fn local_ports() -> Option<u32> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// Pipes that each worker may hold.
pub fn pipes(config: &Config, fds: u64, workers: usize) -> usize {
    match config.process.splice {
        Splice::Auto => {
            usize::try_from(fds / PIPES_PART / PIPE_ENDS).map_or(PIPES_MAX, |all| all / workers).min(PIPES_MAX)
        }
        Splice::Off => 0,
    }
}

/// Bytes that the pipes of all workers hold, when all of them are open.
pub fn pipe_bytes(config: &Config, fds: u64, workers: usize) -> u64 {
    (pipes(config, fds, workers) * workers * PIPE_BYTES) as u64
}

/// Threads of the data plane: the file's number, else one for each core that the process may use.
pub fn workers(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
    config.process.workers.unwrap_or_else(cores).get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample::{config, udp_listener};

    #[test]
    fn without_a_number_in_the_file_the_descriptors_decide() {
        let mut config = config();
        config.process.splice = Splice::Off;
        assert_eq!(max_connections(&config, 10_512 + 4, 2), 5_000);
        config.process.splice = Splice::Auto;
        assert_eq!(max_connections(&config, 10_512 + 4, 2), 4_344);
        assert_eq!(max_connections(&config, 0, 2), 1);
    }

    #[test]
    fn a_number_in_the_file_that_does_not_fit_is_named_with_what_it_needs() {
        let mut config = config();
        config.process.max_connections = NonZeroU32::new(50_000);
        assert_eq!(max_connections(&config, 1024, 2), 50_000);
        let what = shortage(&config, 1024, 2).expect("too few");
        assert!(what.contains("LimitNOFILE=100516"), "{what}");
        assert_eq!(shortage(&config, 100_516, 2), None);
        assert!(shortage(&config, 100_515, 2).is_some());
    }

    fn with_udp(max_flows: &[u32], tcp: bool) -> Config {
        let mut config = config();
        config.listeners.truncate(usize::from(tcp));
        for (at, max) in max_flows.iter().enumerate() {
            let mut listener = udp_listener(&format!("dns{at}"));
            let Protocol::Udp(udp) = &mut listener.protocol else { panic!("it carries datagrams") };
            udp.max_flows = NonZeroU32::new(*max).expect("above 0");
            config.listeners.push(Arc::new(listener));
        }
        config
    }

    fn flows_of(config: &Config) -> Vec<u32> {
        config.listeners.iter().filter_map(|listener| Some(carries_flows(listener)?.max_flows.get())).collect()
    }

    #[test]
    fn flows_and_connections_share_the_descriptors() {
        let mut config = with_udp(&[100_000], true);
        assert_eq!(fit_flows(&mut config, 1 << 20, 2), None, "there is room for all");
        assert!(max_connections(&config, 1 << 20, 2) > 300_000);
        let said = fit_flows(&mut config, 20_000, 2).expect("no room for all");
        assert!(said.contains("is 100000 in the file, and 20000 file descriptors have room for 8490 flows"), "{said}");
        assert_eq!(flows_of(&config), [8490]);
        assert_eq!(max_connections(&config, 20_000, 2), 8490 / 2, "the other half");
        assert_eq!(fit_flows(&mut config, 20_000, 2), None, "it fits now");
        assert_eq!(shortage(&config, 20_000, 2), None, "nothing to warn of");
    }

    #[test]
    fn what_is_said_to_be_enough_for_all_flows_is() {
        for (mut config, max) in [
            (with_udp(&[100_000], true), None),
            (with_udp(&[100_000], true), NonZeroU32::new(8_000)),
            (with_udp(&[100_000, 5], false), None),
        ] {
            config.process.max_connections = max;
            let enough = enough(&config, 2);
            assert!(fit_flows(&mut config.clone(), enough * 9 / 10, 2).is_some());
            assert_eq!(fit_flows(&mut config, enough, 2), None, "{max:?}");
            assert_eq!(shortage(&config, enough, 2), None, "{max:?}");
        }
    }

    #[test]
    fn listeners_are_cut_in_proportion_and_never_to_nothing() {
        let mut config = with_udp(&[30_000, 10_000, 1], false);
        fit_flows(&mut config, 4_096, 2).expect("no room for all");
        let flows = flows_of(&config);
        assert_eq!(flows[0] / flows[1], 3);
        assert!(flows[0] + flows[1] > 2_800 && flows[2] == 1, "{flows:?}");
    }

    #[test]
    fn a_number_of_connections_leaves_flows_their_part() {
        let mut config = with_udp(&[100_000], true);
        config.process.max_connections = NonZeroU32::new(1_000);
        fit_flows(&mut config, 20_000, 2).expect("no room for all");
        assert_eq!(flows_of(&config), [14_980], "what connections leave");
        config.process.max_connections = NonZeroU32::new(9_000);
        assert!(shortage(&config, 20_000, 2).expect("too many").contains("and udp.max_flows need"));
        fit_flows(&mut config, 20_000, 2).expect("no room for all");
        assert_eq!(flows_of(&config), [2_122], "an eighth at least");
    }
}
