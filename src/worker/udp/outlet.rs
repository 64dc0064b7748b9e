//! Outlets: opened, lent to flows, laid by for the next one, closed.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::super::token::{Key, Source};
use super::super::turn::Worker;
use super::Overflow;
use super::stage::Chain;
use crate::config::Endpoint;
use crate::engine::Note;
use crate::id::BackendId;
use crate::reason::{ConnectFailure, DropReason};
use crate::snapshot::Backend;
use crate::stats::ListenerStats;
use crate::sys::datagram::{DatagramSocket, Offload};
use crate::timer::Tick;

/// Bytes of replies that may wait for this process at an outlet that streams come through.
const WIDE_BUFFER_BYTES: usize = 1 << 20;

/// So many replies at once are a stream. Until then they are taken one by one, and the system's default buffer has to do:
/// most flows are a few datagrams long, and each option is a system call.
pub const STREAM_MIN: usize = 8;

/// Outlets that a worker lays by, for flows that end with their answer (DNS): the next one is spared the six system
/// calls of opening and closing.
const SPARES_MAX: usize = 1024;

/// Flows that one new flow may cost where descriptors or ports are short: if that does not help, somebody else has them.
const SHEDS_MAX: u32 = 2;

/// How long an outlet without a flow is kept.
const SPARE_KEPT: Duration = Duration::from_secs(5);

/// A connected socket towards a backend.
#[derive(Debug)]
pub struct Outlet {
    pub socket: DatagramSocket,
    pub key: Key,
    backend: BackendId,
    source: Option<IpAddr>,
    pub purpose: Purpose,
    /// Whose datagrams pass here.
    pub inlet: usize,
    pub listener: Arc<ListenerStats>,
    /// Datagrams of the present batch that are to leave through it.
    pub chain: Chain,
    /// Trains whose segments are longer are refused on the way to the backend, or to the client.
    pub train_max: [usize; 2],
    /// A PROXY header has gone out.
    pub greeted: bool,
    /// It has been made fit for streams.
    pub is_wide: bool,
    /// It stands in [`super::Udp::unread`].
    pub is_unread: bool,
    pub overflow: Overflow,
    used_at: Tick,
}

/// What an outlet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// This flow of its inlet.
    Flow(usize),
    /// All datagrams to its backend.
    OneWay,
    /// The next flow to its backend.
    Spare,
}

/// Outlets without a flow, by backend.
#[derive(Debug, Default)]
pub struct Spares {
    laid_by: HashMap<BackendId, Vec<usize>>,
    count: usize,
    one_way: HashMap<(usize, BackendId), usize>,
    /// When is looked which have not been used for long.
    pub sweep_at: Option<Tick>,
}

impl Outlet {
    /// One that has just been made, for datagrams of this inlet.
    pub fn new(
        socket: DatagramSocket,
        key: Key,
        backend: BackendId,
        source: Option<IpAddr>,
        (inlet, listener): (usize, Arc<ListenerStats>),
        used_at: Tick,
    ) -> Self {
        Self {
            socket,
            key,
            backend,
            source,
            purpose: Purpose::Spare,
            inlet,
            listener,
            chain: Chain::default(),
            train_max: [0; 2],
            greeted: false,
            is_wide: false,
            is_unread: false,
            overflow: Overflow::default(),
            used_at,
        }
    }

    /// Makes it fit for streams.
    pub fn widen(&mut self, offload: Offload) {
        self.is_wide = true;
        if let Err(error) = self.socket.widen(WIDE_BUFFER_BYTES, offload) {
            tracing::debug!(%error, "a flow keeps its small receive buffer");
        }
    }
}

impl Worker {
    /// Gives a flow an outlet towards its backend, or towards the next one. False when there is none: then the flow has
    /// ended, and so many datagrams are lost with it.
    pub fn connect_flow(&mut self, at: usize, flow: usize, datagrams: u32) -> bool {
        let mut tried = Vec::new();
        let mut sheds = 0;
        loop {
            let backend = self.udp.inlets[at].table.flow(flow).backend.clone();
            let failure = match self.lend(at, &backend) {
                Ok(outlet) => {
                    self.udp.outlets[outlet].purpose = Purpose::Flow(flow);
                    self.udp.inlets[at].table.attach(flow, outlet);
                    if self.udp.inlets[at].table.flow(flow).attempts == 1 {
                        self.report_open(at, flow);
                    }
                    return true;
                }
                Err(failure) => failure,
            };
            self.note(backend.id, failure);
            let table = &mut self.udp.inlets[at].table;
            // Descriptors and ports are what other flows hold: the longest idle one gives its own up.
            let goes_on = match failure {
                ConnectFailure::NoPort | ConnectFailure::NoResource
                    if sheds < SHEDS_MAX && table.shed_for(flow, self.now) =>
                {
                    sheds += 1;
                    true
                }
                _ => table.failed(flow, failure, &mut tried, self.now),
            };
            if !goes_on {
                self.drop_datagrams(at, drop_reason(failure), datagrams);
            }
            self.bury(at);
            if !goes_on {
                return false;
            }
        }
    }

    /// The outlet of all datagrams from this inlet to a backend.
    pub fn one_way_outlet(&mut self, at: usize, backend: &Backend) -> Result<usize, ConnectFailure> {
        let now = self.tick();
        let source = self.udp.inlets[at].table.listener().pool.config.source;
        let known = self.udp.spares.one_way.get(&(at, backend.id)).copied();
        let outlet = match known.filter(|outlet| self.udp.outlets[*outlet].source == source) {
            Some(outlet) => outlet,
            None => {
                known.into_iter().for_each(|outlet| self.close_outlet(outlet));
                let outlet = self.lend(at, backend)?;
                self.udp.outlets[outlet].purpose = Purpose::OneWay;
                self.udp.spares.one_way.insert((at, backend.id), outlet);
                self.arm_sweep();
                outlet
            }
        };
        self.udp.outlets[outlet].used_at = now;
        Ok(outlet)
    }

    /// A spare outlet, or a new one.
    fn lend(&mut self, at: usize, backend: &Backend) -> Result<usize, ConnectFailure> {
        let listener = self.udp.inlets[at].table.listener().clone();
        let source = listener.pool.config.source;
        while let Some(spare) = self.udp.spares.laid_by.get_mut(&backend.id).and_then(Vec::pop) {
            self.udp.spares.count -= 1;
            let outlet = &mut self.udp.outlets[spare];
            // What came too late for the flow before must not reach this one.
            let late = outlet.socket.discard();
            outlet.listener.cell(self.index).drop_datagrams(DropReason::Late, late);
            if outlet.source == source {
                (outlet.inlet, outlet.listener) = (at, listener.stats.clone());
                return Ok(spare);
            }
            self.close_outlet(spare);
        }
        let Endpoint::Ip(address) = backend.endpoint else { return Err(ConnectFailure::Other) };
        let offload = self.options.offload;
        let socket = DatagramSocket::connect(address, source).map_err(|error| connect_failure(&error))?;
        self.udp.opened += 1;
        let key = Key::new(self.udp.outlets.vacant_key(), self.udp.opened);
        let (fd, token) = (socket.as_raw_fd(), Token(Source::outlet(key)));
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
            .map_err(|_| ConnectFailure::NoResource)?;
        let train_max = if offload.send { [usize::MAX; 2] } else { [0; 2] };
        let mut outlet = Outlet::new(socket, key, backend.id, source, (at, listener.stats.clone()), self.tick());
        outlet.train_max = train_max;
        Ok(self.udp.outlets.insert(outlet))
    }

    /// Keeps the outlet of a flow that has ended for the next one to the same backend.
    pub fn lay_by(&mut self, outlet: usize) {
        if self.udp.spares.count >= SPARES_MAX {
            return self.close_outlet(outlet);
        }
        let now = self.tick();
        let Some(spare) = self.udp.outlets.get_mut(outlet) else { return };
        (spare.purpose, spare.used_at, spare.greeted) = (Purpose::Spare, now, false);
        self.udp.spares.laid_by.entry(spare.backend).or_default().push(outlet);
        self.udp.spares.count += 1;
        self.arm_sweep();
    }

    /// The one end of an outlet. What waits to leave through it goes out first.
    pub fn close_outlet(&mut self, outlet: usize) {
        if self.udp.outlets.get(outlet).is_some_and(|outlet| !outlet.chain.is_empty()) {
            self.send_chain(outlet);
        }
        self.udp.outlets.try_remove(outlet);
    }

    /// Closes what only this inlet has used.
    pub fn forget_inlet(&mut self, at: usize) {
        let of_inlet = self.udp.spares.one_way.extract_if(|(inlet, _), _| *inlet == at);
        let gone: Vec<usize> = of_inlet.map(|(_, outlet)| outlet).collect();
        gone.into_iter().for_each(|outlet| self.close_outlet(outlet));
    }

    /// Closes an outlet through which nothing goes any more, as when the address that it has of this host is gone. The next
    /// datagram opens another one.
    pub fn give_up_outlet(&mut self, outlet: usize) {
        let found = &self.udp.outlets[outlet];
        let (at, backend) = (found.inlet, found.backend);
        match found.purpose {
            Purpose::Flow(flow) => self.udp.inlets[at].table.detach(flow),
            Purpose::OneWay => drop(self.udp.spares.one_way.remove(&(at, backend))),
            Purpose::Spare => return,
        }
        self.close_outlet(outlet);
    }

    fn arm_sweep(&mut self) {
        let at = self.tick().after(SPARE_KEPT);
        self.udp.spares.sweep_at.get_or_insert(at);
    }

    /// Closes the outlets without a flow that nobody has used for long.
    pub fn sweep_outlets(&mut self) {
        let now = self.tick();
        let outlets = &mut self.udp.outlets;
        let mut stays = |outlet: &usize| {
            let is_used = outlets.get(*outlet).is_some_and(|outlet| outlet.used_at.after(SPARE_KEPT) > now);
            if !is_used {
                outlets.try_remove(*outlet);
            }
            is_used
        };
        let spares = &mut self.udp.spares;
        spares.laid_by.values_mut().for_each(|laid_by| laid_by.retain(&mut stays));
        spares.laid_by.retain(|_, laid_by| !laid_by.is_empty());
        spares.one_way.retain(|_, outlet| stays(outlet));
        spares.count = spares.laid_by.values().map(Vec::len).sum();
        spares.sweep_at = None;
        if spares.count + spares.one_way.len() > 0 {
            self.arm_sweep();
        }
    }

    /// Tells control that a backend could not be reached.
    pub fn note(&self, backend: BackendId, failure: ConnectFailure) {
        if failure.blames_backend() {
            (self.notes)(Note::ConnectFailed { backend, failure });
        }
    }

    /// ICMP answers have come to what went out through an outlet, which cost so many datagrams: its flow is given another
    /// backend with its next one.
    pub fn on_icmp(&mut self, outlet: usize, error: &io::Error, lost: u32) {
        let (Some(failure), Some(found)) = (icmp_failure(error), self.udp.outlets.get(outlet)) else { return };
        self.note(found.backend, failure);
        found.listener.cell(self.index).drop_datagrams(DropReason::Unreachable, lost);
        if let Purpose::Flow(flow) = found.purpose {
            let table = &mut self.udp.inlets[found.inlet].table;
            table.flow(flow).backend.stats.cell(self.index).connect_failures[failure.index()].add(1);
            table.suspect(flow);
        }
    }
}

/// What a UDP socket that could not be made or connected means. Here EAGAIN is a port range that is used up (ip(7),
/// ip_local_port_range).
pub fn connect_failure(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EADDRINUSE) => ConnectFailure::NoPort,
        _ => ConnectFailure::of(error),
    }
}

/// An error that an ICMP answer has left at a connected socket (icmp(7), ip(7)).
pub fn icmp_failure(error: &io::Error) -> Option<ConnectFailure> {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ENOPROTOOPT) => Some(ConnectFailure::Refused),
        Some(
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::EACCES
            | libc::EPERM
            | libc::ENONET,
        ) => Some(ConnectFailure::Unreachable),
        _ => None,
    }
}

pub fn drop_reason(failure: ConnectFailure) -> DropReason {
    match failure {
        ConnectFailure::NoPort => DropReason::PortExhausted,
        ConnectFailure::NoResource => DropReason::ResourceExhausted,
        _ => DropReason::Unreachable,
    }
}
