//! The whole state at one moment, as the admin API tells it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use super::capacity;
use super::discovery::{Discovery, Report};
use super::listeners::Listeners;
use super::notify::carried;
use super::publish;
use super::wanted::{Backend, Listener, Place, Pool, Wanted};
use crate::access::Journal;
use crate::api;
use crate::config::{Address, Balance, Protocol};
use crate::reason::{CloseReason, DropReason};
use crate::stats::{BackendStats, LATENCY_BOUNDS_US, ListenerCell, RouteCounts, WorkerStats};
use crossbeam_utils::CachePadded;

/// Why a client of a listener for datagrams is not served, before a pool is asked.
const FLOW_REFUSALS: [DropReason; 3] = [DropReason::Denied, DropReason::Limited, DropReason::TableFull];

/// What can be told, at one moment.
#[derive(Debug)]
pub struct Scene<'a> {
    /// File, overrides and observations.
    pub wanted: &'a Wanted,
    /// Where backends come from.
    pub discovery: &'a Discovery,
    /// The sockets.
    pub listeners: &'a Listeners,
    /// The counts of all threads that carry traffic.
    pub threads: &'a [CachePadded<WorkerStats>],
    /// How many of them are workers: the first ones.
    pub workers: usize,
    /// What was counted of the gateway's routes.
    pub routes: Vec<RouteCounts>,
    /// The access log's buffer.
    pub journal: &'a Journal,
    /// The number of the snapshot.
    pub generation: u64,
    /// Connections at once.
    pub max_connections: u32,
    /// The limit of file descriptors.
    pub fds_limit: u64,
    /// Descriptors that are open.
    pub fds_open: u64,
    /// When the process started.
    pub started: Instant,
    /// The last time the file was read, and whether it was taken over.
    pub last_reload: (SystemTime, bool),
    /// When the process will have ended, while it is on its way out.
    pub draining: Option<Instant>,
    /// The moment.
    pub now: Instant,
}

impl Scene<'_> {
    /// All of it.
    pub fn status(&self) -> api::Status {
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: self.generation,
            uptime_s: self.now.saturating_duration_since(self.started).as_secs(),
            draining: self.draining.is_some(),
            drain: self.draining.map(|until| self.countdown(until)),
            process: self.process(),
            listeners: self.wanted.listeners.iter().map(|listener| self.listener(listener)).collect(),
            pools: self.wanted.pools.iter().map(|pool| self.pool(pool)).collect(),
            routes: self.routes.iter().map(route).collect(),
            time_bounds_ms: LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1000.0).collect(),
        }
    }

    fn process(&self) -> api::Process {
        let sum = |of: fn(&crate::stats::WorkerStats) -> u32| self.threads.iter().map(|thread| of(thread)).sum();
        api::Process {
            workers: self.workers,
            connections: carried(self.threads),
            max_connections: self.max_connections,
            flows: self.wanted.flows(),
            max_flows: capacity::max_flows(&self.wanted.config),
            fds_open: self.fds_open,
            fds_limit: self.fds_limit,
            pipes_in_use: sum(|worker| worker.pipes_in_use.load(Relaxed)),
            pipes_free: sum(|worker| worker.pipes_free.load(Relaxed)),
            pipes_max: (capacity::pipes(&self.wanted.config, self.fds_limit, self.workers) * self.workers) as u64,
            local_ports: capacity::local_ports().unwrap_or(0),
            threads: self.threads(),
            access_log_dropped: self.journal.dropped(),
            last_reload: api::Reload { at: rfc3339(self.last_reload.0), ok: self.last_reload.1 },
        }
    }

    fn threads(&self) -> Vec<api::Thread> {
        let times = crate::sys::process::thread_times();
        let thread = |(at, stats): (usize, &CachePadded<WorkerStats>)| {
            let name = match at.checked_sub(self.workers) {
                None => format!("worker-{at}"),
                Some(at) => format!("gateway-{at}"),
            };
            let cpu_ms = times.get(&name).map_or(0.0, |time| time.as_micros() as f64 / 1000.0);
            let (connections, accepted) = (stats.active.load(Relaxed), stats.accepts.read());
            api::Thread { name, connections, accepted, cpu_ms }
        };
        self.threads.iter().enumerate().map(thread).collect()
    }

    /// Rounded up, so that it says 0 when it is over.
    fn countdown(&self, until: Instant) -> api::Countdown {
        let left = until.saturating_duration_since(self.now);
        api::Countdown { left_s: left.as_secs() + u64::from(left.subsec_nanos() > 0) }
    }

    /// One listener.
    pub fn listener(&self, listener: &Listener) -> api::Listener {
        let (config, stats) = (&listener.config, &listener.stats);
        let sum = |of: fn(&ListenerCell) -> u64| stats.cells().map(of).sum();
        let udp = listener.carries_datagrams().then(|| datagrams(listener));
        let until = listener.drain.into_iter().chain(self.draining).min();
        api::Listener {
            name: config.name.clone(),
            bind: match self.listeners.addresses(&config.name) {
                closed if closed.is_empty() => config.bind.iter().map(ToString::to_string).collect(),
                open => open,
            },
            protocol: protocol(&config.protocol).to_owned(),
            pool: config.pool.clone().unwrap_or_default(),
            state: match until {
                None => "listening",
                Some(_) if stats.active() > 0 => "draining",
                Some(_) if self.draining.is_some() => "draining",
                Some(_) => "drained",
            }
            .to_owned(),
            drain: until.filter(|_| stats.active() > 0).map(|until| self.countdown(until)),
            connections: api::ListenerConnections {
                active: stats.active(),
                accepted: sum(|cell| cell.accepted.read()),
                refused: match &udp {
                    Some(_) => sum(|cell| FLOW_REFUSALS.iter().map(|reason| cell.dropped[reason.index()].read()).sum()),
                    None => sum(|cell| {
                        let refusals = CloseReason::ALL.iter().filter(|reason| reason.is_refusal());
                        refusals.map(|reason| cell.closed[reason.index()].read()).sum()
                    }),
                },
            },
            bytes_in: sum(|cell| cell.bytes_in.read()),
            bytes_out: sum(|cell| cell.bytes_out.read()),
            udp,
        }
    }

    /// One pool.
    pub fn pool(&self, pool: &Pool) -> api::Pool {
        let active = pool.backends.iter().filter_map(|backend| match &backend.place {
            Place::Known(known) => Some(known.stats.active()),
            Place::Unresolved(_) => None,
        });
        let panic = publish::is_in_panic(pool);
        api::Pool {
            name: pool.config.name.clone(),
            balance: balance(pool.config.balance).to_owned(),
            connections: api::PoolConnections {
                active: active.sum(),
                no_backend: pool.stats.cells().map(|cell| cell.no_backend.read()).sum(),
            },
            queue: api::Queue { length: pool.stats.queue.len(), max: pool.config.queue.max },
            panic,
            discovery: self.discovery.reports(&pool.config).into_iter().map(discovery).collect(),
            backends: pool.backends.iter().map(|backend| self.backend(pool, backend, panic)).collect(),
        }
    }

    fn backend(&self, pool: &Pool, backend: &Backend, panic: bool) -> api::Backend {
        let stats = match &backend.place {
            Place::Known(known) => Some(&known.stats),
            Place::Unresolved(_) => None,
        };
        let sum = |of: fn(&crate::stats::BackendCell) -> u64| stats.map_or(0, |stats| stats.cells().map(of).sum());
        let state = backend.state(&pool.config);
        let operator = &backend.operator;
        let file = &backend.file;
        api::Backend {
            name: backend.name.clone(),
            address: address(backend),
            origin: backend.origin,
            state,
            why: backend.why(&pool.config),
            since: rfc3339(backend.told.since),
            file: api::BackendFile {
                weight: file.weight,
                tier: file.tier,
                max_connections: file.max_connections.map(std::num::NonZero::get),
            },
            operator: (*operator != Default::default()).then(|| operator.clone()),
            observed: observed(backend),
            weight: publish::weight_shown(pool, backend, panic, self.now),
            connections: api::BackendConnections {
                active: stats.map_or(0, |stats| stats.active()),
                total: sum(|cell| cell.established.read()),
            },
            connect_failures: sum(|cell| cell.connect_failures.iter().map(|count| count.read()).sum()),
            connect_times: stats.map(|stats| connect_times(stats)).unwrap_or_default(),
            bytes_in: sum(|cell| cell.bytes_in.read()),
            bytes_out: sum(|cell| cell.bytes_out.read()),
        }
    }
}

fn discovery(report: Report) -> api::Discovery {
    let Report { origin, name, backends, track } = report;
    api::Discovery {
        origin,
        name,
        backends,
        ok: !track.fails,
        updates: track.updates,
        failures: track.failures,
        last_success: track.success.map(rfc3339),
        last_error: track.error.map(|(why, at)| api::DiscoveryError { why, at: rfc3339(at) }),
    }
}

fn connect_times(stats: &BackendStats) -> Vec<u64> {
    let mut times = vec![0; LATENCY_BOUNDS_US.len() + 1];
    for cell in stats.cells() {
        for (total, (count, _)) in times.iter_mut().zip(cell.connects.read()) {
            *total += count;
        }
    }
    times
}

fn route(counts: &RouteCounts) -> api::Route {
    api::Route {
        listener: counts.listener.clone(),
        route: counts.route.clone(),
        requests: counts.by_status.iter().map(|(status, count)| (status.to_string(), *count)).collect(),
        refused: counts.refused.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        times: counts.seconds.iter().map(|(count, _)| *count).collect(),
    }
}

fn datagrams(listener: &Listener) -> api::Datagrams {
    let cells = || listener.stats.cells();
    let dropped = DropReason::ALL.iter().map(|reason| {
        let count: u64 = cells().map(|cell| cell.dropped[reason.index()].read()).sum();
        (reason.as_str().to_owned(), count)
    });
    api::Datagrams {
        datagrams_in: cells().map(|cell| cell.datagrams_in.read()).sum(),
        datagrams_out: cells().map(|cell| cell.datagrams_out.read()).sum(),
        dropped: dropped.filter(|(_, count)| *count > 0).collect(),
    }
}

fn observed(backend: &Backend) -> api::Observed {
    let observed = &backend.observed;
    api::Observed {
        health: match observed.up {
            Some(true) => api::Health::Up,
            Some(false) => api::Health::Down,
            None => api::Health::Unchecked,
        },
        last_check: observed.last.as_ref().map(|last| api::LastCheck {
            ok: last.ok,
            why: last.why.clone(),
            took_ms: last.took.as_micros() as f64 / 1000.0,
        }),
        ejected: observed.ejected.is_some(),
    }
}

fn address(backend: &Backend) -> String {
    match (&backend.place, &backend.file.address) {
        (Place::Known(known), _) => known.endpoint.to_string(),
        (Place::Unresolved(_), Address::Host { name, port }) => format!("{name}:{port}"),
        (Place::Unresolved(_), Address::Ip(address)) => address.to_string(),
        (Place::Unresolved(_), Address::Unix(path)) => format!("unix:{}", path.display()),
    }
}

/// As in the file.
const fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastConn => "least_conn",
        Balance::LeastTime => "least_time",
        Balance::Random => "random",
        Balance::IpHash => "ip_hash",
        Balance::First => "first",
    }
}

fn protocol(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp(_) => "udp",
        Protocol::Http(_) => "http",
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::stats::ListenerSlot;

    #[test]
    fn flows_are_shown_as_connections_are_and_drops_by_reason() {
        let mut flow = None;
        let count = |wanted: &mut Wanted, _: &crate::stats::WorkersStats| {
            let dns = &wanted.listeners[1].stats;
            flow = ListenerSlot::take(dns, u32::MAX);
            dns.cell(0).accepted.add(6);
            dns.cell(1).datagrams_in.add(40);
            dns.cell(0).datagrams_out.add(30);
            dns.cell(0).drop_datagrams(DropReason::Denied, 2);
            dns.cell(1).drop_datagrams(DropReason::Denied, 1);
            dns.cell(1).drop_datagrams(DropReason::TableFull, 1);
            dns.cell(1).drop_datagrams(DropReason::Late, 7);
        };
        let status = sample::show(count, |scene| scene.status());
        assert_eq!((status.process.connections, status.process.flows, status.process.max_flows), (0, 1, 100_000));
        let (web, dns) = (&status.listeners[0], &status.listeners[1]);
        assert_eq!((web.protocol.as_str(), &web.udp), ("tcp", &None));
        assert_eq!(dns.protocol, "udp");
        assert_eq!(dns.connections, api::ListenerConnections { active: 1, accepted: 6, refused: 4 });
        let udp = dns.udp.as_ref().expect("it carries datagrams");
        assert_eq!((udp.datagrams_in, udp.datagrams_out), (40, 30));
        let dropped: Vec<_> = udp.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(dropped, [("denied", 3), ("late", 7), ("table_full", 1)]);
    }
}
