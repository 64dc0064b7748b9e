//! UDP in a worker: sockets, batches and events around [`crate::udp`], which decides.
//!
//! An *inlet* is a listener's socket of this worker with the flows that came through it; the kernel sends all datagrams
//! of a client to the same worker. An *outlet* is a connected socket towards a backend: of one flow, or, where the
//! listener is `one_way`, of all datagrams to that backend. A connected one is found by the kernel without us looking
//! the sender up, hears of closed ports, and receives from nobody else.
//!
//! `inward` carries datagrams from clients to backends, `outward` back, `outlet` opens and closes outlets.

mod handover;
mod inward;
mod outlet;
mod outward;
mod stage;

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use slab::Slab;

use super::token::{Key, Source};
use super::turn::Worker;
use crate::access::{Event, EventKind};
use crate::config::{Access, Bind, Protocol, Udp as Options};
use crate::engine::Ending;
use crate::id::BackendId;
use crate::reason::{CloseReason, DropReason};
use crate::snapshot::Listener;
use crate::stats::ListenerStats;
use crate::sys::datagram::{BATCH_MAX, DatagramSocket, Inbox, Outbox};
use crate::timer::Tick;
use crate::udp::table::Left;
use crate::udp::train::Train;
use crate::udp::{Flow, Peer, Table};
use handover::ParkedFlows;
use outlet::{Outlet, Spares};
use stage::Parts;

/// What a worker has for UDP.
#[derive(Debug, Default)]
pub struct Udp {
    pub inlets: Slab<Inlet>,
    outlets: Slab<Outlet>,
    /// Outlets opened so far: the source of their generations.
    opened: u64,
    /// The arena that everything is received into.
    inbox: Inbox,
    /// Its slots, from the first on, whose datagrams wait in `replies` of an inlet.
    staged: usize,
    staged_bytes: usize,
    /// What goes out through one outlet.
    outbox: Outbox,
    parts: Parts,
    /// Inlets with staged replies.
    dirty: Vec<usize>,
    /// Inlets that may have more datagrams.
    pub readable: Vec<usize>,
    /// Outlets that may have more.
    pub unread: Vec<Key>,
    spares: Spares,
    flows_parked: ParkedFlows,
    /// When the log hears of lasting flows next.
    report_at: Option<Tick>,
}

/// A listener's socket of this worker, and its flows.
#[derive(Debug)]
pub struct Inlet {
    socket: DatagramSocket,
    bind: Bind,
    bound: Option<SocketAddr>,
    table: Table<usize>,
    /// How many are received at once: fewer where they are long.
    batch: usize,
    /// Staged replies, the last message as a train, and to whom it goes.
    replies: Outbox,
    last: Option<(Peer, Train)>,
    overflow: Overflow,
}

/// Datagrams that a socket's full buffer has cost, as far as they are counted.
#[derive(Debug, Default)]
struct Overflow(u32);

impl Overflow {
    /// The kernel's count, which wraps around.
    fn note(&mut self, lost: Option<u32>, listener: &ListenerStats, worker: usize) {
        let Some(lost) = lost else { return };
        let more = lost.wrapping_sub(std::mem::replace(&mut self.0, lost));
        listener.cell(worker).drop_datagrams(DropReason::ReceiveBufferFull, more);
    }
}

/// The UDP options of a listener; `None` for one that carries TCP.
pub fn options(listener: &Listener) -> Option<Options> {
    match listener.config.protocol {
        Protocol::Udp(options) => Some(options),
        Protocol::Tcp | Protocol::Http(_) => None,
    }
}

impl Worker {
    pub fn listen_udp(&mut self, listener: Arc<Listener>, options: Options, bind: Bind, socket: OwnedFd) {
        let socket = DatagramSocket::from(socket);
        let at = self.udp.inlets.vacant_key();
        let (token, fd) = (Token(Source::inlet(at)), socket.as_raw_fd());
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
            return tracing::error!(%error, "a UDP socket could not be watched; this worker takes nothing from it");
        }
        let bound = socket.local_address();
        // What it has cost before is counted already.
        let overflow = Overflow(socket.lost().unwrap_or(0));
        self.udp.inlets.insert(Inlet {
            bound,
            socket,
            bind,
            table: Table::new(listener, options, self.ids.clone(), self.rng.u64(..)),
            batch: BATCH_MAX,
            replies: Outbox::default(),
            last: None,
            overflow,
        });
        // What came before it was watched raises no edge.
        self.udp.readable.push(at);
    }

    /// Takes what waits, then ends all flows: without the socket they could not hear their clients.
    pub fn unlisten_udp_if(&mut self, which: impl Fn(&Listener, &Bind) -> bool) {
        let places: Vec<usize> =
            self.udp.inlets.iter().filter(|(_, at)| which(at.table.listener(), &at.bind)).map(|i| i.0).collect();
        for at in places {
            self.read_inlet(at);
            self.udp.inlets[at].table.end_all(CloseReason::Drained, self.now);
            self.bury(at);
            self.flush_replies();
            self.forget_inlet(at);
            let inlet = self.udp.inlets.remove(at);
            // Control may hold a duplicate, which would keep the socket in the poll.
            let _ = self.poll.registry().deregister(&mut SourceFd(&inlet.socket.as_raw_fd()));
        }
    }

    /// Takes a new snapshot over.
    pub fn refresh_udp(&mut self) {
        for (_, inlet) in &mut self.udp.inlets {
            let listener = self.snapshot.listener(inlet.table.listener().id);
            if let Some((listener, options)) = listener.and_then(|listener| Some((listener, options(listener)?))) {
                inlet.table.set(listener.clone(), options);
            }
        }
    }

    /// From now on there are no new flows, and those that fall quiet end.
    pub fn drain_udp(&mut self) {
        self.udp.inlets.iter_mut().for_each(|(_, inlet)| inlet.table.drain());
    }

    /// Gives each of these flows a time to end by force.
    pub fn doom_flows(&mut self, ending: Ending, which: impl Fn(&Listener, BackendId) -> bool) {
        let now = self.now;
        for (_, inlet) in &mut self.udp.inlets {
            let listener = inlet.table.listener().clone();
            let times =
                |count, rng: &mut fastrand::Rng| ending.times(now, count, rng).into_iter().map(Tick::at).collect();
            inlet.table.doom(ending.reason, |flow| which(&listener, flow.backend.id), times);
        }
    }

    /// Ends everything.
    pub fn stop_udp(&mut self) {
        let all: Vec<usize> = self.udp.inlets.iter().map(|(at, _)| at).collect();
        for at in all {
            self.udp.inlets[at].table.end_all(CloseReason::Killed, self.now);
            self.bury(at);
        }
    }

    /// When [`Worker::on_udp_time`] has something to do.
    pub fn next_udp_deadline(&self) -> Option<Tick> {
        let tables = self.udp.inlets.iter().filter_map(|(_, inlet)| inlet.table.next_deadline());
        tables.chain(self.udp.spares.sweep_at).chain(self.udp.report_at).min()
    }

    /// What is due.
    pub fn on_udp_time(&mut self) {
        let now = self.tick();
        for at in 0..self.udp.inlets.capacity() {
            let Some(inlet) = self.udp.inlets.get_mut(at) else { continue };
            if inlet.table.next_deadline().is_some_and(|due| due <= now) {
                inlet.table.expire(self.now);
                self.bury(at);
            }
        }
        if self.udp.spares.sweep_at.is_some_and(|due| due <= now) {
            self.sweep_outlets();
        }
        if self.udp.report_at.is_some_and(|due| due <= now) {
            self.report_flows();
        }
    }

    /// Lets go of what a table has given up. The only place where a flow's end is told.
    fn bury(&mut self, at: usize) {
        while let Some(left) = self.udp.inlets[at].table.take_left() {
            let (flow, reason) = match left {
                Left::Socket(outlet) => {
                    self.close_outlet(outlet);
                    continue;
                }
                Left::Flow(flow, reason) => (flow, reason),
            };
            if self.options.access != Access::Off {
                self.events.push(event(&self.udp.inlets[at], &flow, EventKind::Close, Some(reason), self.now));
            }
            match flow.socket {
                // It has had all its replies: the port is as good as new.
                Some(outlet) if reason == CloseReason::Answered => self.lay_by(outlet),
                Some(outlet) => self.close_outlet(outlet),
                None => {}
            }
        }
    }

    /// Tells the log of a flow that has its first backend.
    fn report_open(&mut self, at: usize, flow: usize) {
        if self.options.access == Access::All {
            let inlet = &self.udp.inlets[at];
            self.events.push(event(inlet, inlet.table.flow(flow), EventKind::Open, None, self.now));
            self.arm_reports();
        }
    }

    /// Tells the log of the flows that last.
    fn report_flows(&mut self) {
        self.udp.report_at = None;
        let now = self.now;
        for (_, inlet) in &self.udp.inlets {
            let lasting = inlet.table.flows().filter(|flow| flow.age(now) >= super::open::REPORT_INTERVAL);
            self.events.extend(lasting.map(|flow| event(inlet, flow, EventKind::Interval, None, now)));
        }
        if self.udp.inlets.iter().any(|(_, inlet)| !inlet.table.is_empty()) {
            self.arm_reports();
        }
    }

    /// There may be flows that last.
    fn report_lasting(&mut self) {
        if self.options.access == Access::All {
            self.arm_reports();
        }
    }

    fn arm_reports(&mut self) {
        let at = self.tick().after(super::open::REPORT_INTERVAL);
        self.udp.report_at.get_or_insert(at);
    }
}

fn event(inlet: &Inlet, flow: &Flow<usize>, kind: EventKind, reason: Option<CloseReason>, now: Duration) -> Event {
    let local = |bound: SocketAddr| SocketAddr::new(flow.peer.local.unwrap_or(bound.ip()), bound.port());
    Event {
        kind,
        time_ms: 0,
        id: flow.id,
        listener: inlet.table.listener().stats.clone(),
        pool: flow.backend.stats.pool.name.clone(),
        backend: Some(flow.backend.stats.clone()),
        client: Some(flow.peer.client),
        local: inlet.bound.map(local),
        connect: None,
        duration: flow.age(now),
        bytes_in: flow.bytes_in,
        bytes_out: flow.bytes_out,
        datagrams: Some((flow.datagrams_in, flow.datagrams_out)),
        spliced_bytes: 0,
        attempts: flow.attempts,
        reason,
        sni: None,
        request: None,
    }
}
