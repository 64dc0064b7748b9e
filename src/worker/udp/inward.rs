//! From clients to backends.

use std::io;
use std::net::SocketAddr;

use super::super::turn::Worker;
use super::outlet::{Purpose, drop_reason, icmp_failure};
use super::stage::{Header, Part};
use crate::config::SendProxy;
use crate::proxy_header;
use crate::reason::DropReason;
use crate::sys::datagram::{BATCH_MAX, Outbox, Received};
use crate::udp::Peer;
use crate::udp::table::Step;

/// Batches taken from one inlet before others have their turn.
const BATCHES_MAX: usize = 8;

/// Bytes of a batch: it is sent from the processor's cache that it was received into. Trains are taken one by one.
const BATCH_BYTES: usize = 64 << 10;

/// Times that a datagram is tried again after an error that may not have been its own.
const RETRIES_MAX: u32 = 2;

impl Worker {
    /// Takes what inlets have, in bounded batches.
    pub fn read_inlets(&mut self) {
        let mut readable = std::mem::take(&mut self.udp.readable);
        readable.retain(|at| self.udp.inlets.contains(*at) && self.read_inlet(*at));
        // Nothing was added meanwhile; the vector is kept for its memory.
        self.udp.readable = readable;
    }

    /// Whether there may be more.
    pub fn read_inlet(&mut self, at: usize) -> bool {
        for _ in 0..BATCHES_MAX {
            // Replies that wait lie in the arena.
            self.flush_replies();
            let udp = &mut self.udp;
            let batch = udp.inlets[at].batch;
            let count = match udp.inbox.receive(&udp.inlets[at].socket, 0, batch) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    tracing::debug!(%error, "nothing could be received; the next datagram wakes the worker again");
                    return false;
                }
            };
            self.busy_poll.heard(count);
            for slot in 0..count {
                if self.udp.inlets[at].table.is_one_way() {
                    self.balance_each(at, slot);
                } else {
                    self.on_client(at, slot);
                }
            }
            self.send_parts();
            let longest = (0..count).map(|slot| self.udp.inbox.received(slot).len as usize).max();
            self.udp.inlets[at].batch = (BATCH_BYTES / longest.unwrap_or(0).max(1)).clamp(1, BATCH_MAX);
            if count < batch {
                return false;
            }
        }
        true
    }

    fn on_client(&mut self, at: usize, slot: usize) {
        let Some((received, peer)) = self.take_in(at, slot) else { return };
        let inlet = &mut self.udp.inlets[at];
        let step = inlet.table.on_client(peer, received.datagrams(), received.len.into(), self.now);
        // A new flow may have cost another one its place.
        self.bury(at);
        let flow = match step {
            Ok(Step::Forward(flow)) => flow,
            Ok(Step::Connect(flow)) if self.connect_flow(at, flow, received.datagrams()) => flow,
            Ok(Step::Connect(_)) | Err(_) => return,
        };
        let Some(outlet) = self.udp.inlets[at].table.flow(flow).socket else { return };
        let (len, segment) = (received.len as usize, received.segment as usize);
        self.add_part(at, outlet, peer, Part { slot, start: 0, len, segment });
    }

    /// What a slot has received and from whom, unless it is another worker's.
    fn take_in(&mut self, at: usize, slot: usize) -> Option<(Received, Peer)> {
        let received = *self.udp.inbox.received(slot);
        let inlet = &mut self.udp.inlets[at];
        inlet.overflow.note(received.overflow, &inlet.table.listener().stats, self.index);
        // Of what was sent to many each socket has a copy.
        let is_ours = !received.is_to_many || self.takes_many(at);
        is_ours.then_some((received, Peer { client: received.source, local: received.local }))
    }

    /// Whether an inlet is the first one of its address, of all workers.
    fn takes_many(&self, at: usize) -> bool {
        let bound = self.udp.inlets[at].bound;
        let first = self.udp.inlets.iter().find(|(_, inlet)| inlet.bound == bound);
        self.index == 0 && first.is_some_and(|(first, _)| first == at)
    }

    /// Gives each datagram to a backend by itself.
    fn balance_each(&mut self, at: usize, slot: usize) {
        let Some((received, peer)) = self.take_in(at, slot) else { return };
        let mut start = 0;
        loop {
            let len = (received.segment as usize).min(received.len as usize - start);
            let backend = self.udp.inlets[at].table.on_one_way(peer, len as u64, self.now);
            match backend.map(|backend| (self.one_way_outlet(at, &backend), backend.id)) {
                Ok((Ok(outlet), _)) => self.add_part(at, outlet, peer, Part { slot, start, len, segment: len }),
                Ok((Err(failure), backend)) => {
                    self.note(backend, failure);
                    self.drop_datagrams(at, drop_reason(failure), 1);
                }
                Err(_) => {}
            }
            start += len;
            if start >= received.len as usize {
                return;
            }
        }
    }

    fn add_part(&mut self, at: usize, outlet: usize, peer: Peer, part: Part) {
        let inlet = &self.udp.inlets[at];
        let (parts, found) = (&mut self.udp.parts, &mut self.udp.outlets[outlet]);
        let header = match inlet.table.listener().pool.config.send_proxy {
            // The configuration refuses version 1 here: it has no word for UDP.
            SendProxy::Off | SendProxy::V1 => Header::default(),
            SendProxy::V2First if found.greeted && found.purpose != Purpose::OneWay => Header::default(),
            kind => {
                found.greeted = true;
                let bound = inlet.bound.unwrap_or(peer.client);
                let local = SocketAddr::new(peer.local.unwrap_or(bound.ip()), bound.port());
                parts.header(kind == SendProxy::V2, |out| {
                    proxy_header::write_v2_datagram(out, peer.client, local);
                })
            }
        };
        parts.add(outlet, &mut found.chain, part, header);
    }

    /// Sends what the batch has brought.
    fn send_parts(&mut self) {
        for at in 0..self.udp.parts.touched.len() {
            self.send_chain(self.udp.parts.touched[at]);
        }
        self.udp.parts.clear();
    }

    /// Sends what waits to leave through an outlet.
    pub fn send_chain(&mut self, outlet: usize) {
        let udp = &mut self.udp;
        let Some(found) = udp.outlets.get_mut(outlet) else { return };
        let (at, chain) = (found.inlet, std::mem::take(&mut found.chain));
        // The outbox is taken out meanwhile: a flow that moves on may close other outlets, which send first.
        let mut outbox = std::mem::take(&mut udp.outbox);
        udp.parts.stage(chain, &mut outbox, found.train_max[0]);
        let (mut outlet, mut next, mut retries) = (Some(outlet), 0, 0);
        while next < outbox.len() {
            let found = outlet.and_then(|outlet| Some((outlet, self.udp.outlets.get(outlet)?)));
            let lost = match found.map(|(outlet, found)| (outlet, outbox.send(next, &found.socket, &self.udp.inbox))) {
                Some((from, Ok(sent))) => {
                    let is_cut_short = sent < outbox.len().min(next + BATCH_MAX);
                    (next, retries) = (sent, 0);
                    // The call says how many it has sent and not what stopped it (sendmmsg(2)): had it been an ICMP answer,
                    // the rest would follow the ones that are lost.
                    if is_cut_short {
                        outlet = self.change_outlet(from, None);
                    }
                    continue;
                }
                Some((outlet, Err(error))) if outbox.is_train(next) && refuses_train(&error) => {
                    tracing::debug!(%error, "no such train of datagrams can be sent to a backend; they go one by one");
                    self.send_apart(outlet, &mut outbox, next)
                }
                // An ICMP answer to an earlier datagram; this one was not sent.
                Some((from, Err(error))) if retries < RETRIES_MAX && icmp_failure(&error).is_some() => {
                    outlet = self.change_outlet(from, Some(error));
                    retries += 1;
                    continue;
                }
                // Such an error may tell of an earlier datagram that was too long for its path (ip(7), IP_MTU_DISCOVER).
                Some((_, Err(error))) if retries == 0 && lost_because(&error) == DropReason::TooLong => {
                    retries += 1;
                    continue;
                }
                Some((from, Err(error))) => {
                    tracing::debug!(%error, "a datagram could not be sent to a backend");
                    if retries >= RETRIES_MAX {
                        self.give_up_outlet(from);
                    }
                    Some((lost_because(&error), outbox.datagrams(next)))
                }
                None => Some((DropReason::Unreachable, outbox.datagrams(next))),
            };
            if let Some((reason, datagrams)) = lost {
                self.drop_datagrams(at, reason, datagrams);
            }
            (next, retries) = (next + 1, 0);
        }
        outbox.clear();
        self.udp.outbox = outbox;
    }

    /// The outlet through which a flow goes on after an ICMP answer, which the last call has told or the queue of errors
    /// has: another one where there is another backend. None when the flow has ended.
    fn change_outlet(&mut self, outlet: usize, told: Option<io::Error>) -> Option<usize> {
        let found = &self.udp.outlets[outlet];
        let (at, purpose) = (found.inlet, found.purpose);
        match (found.socket.take_errors(), told) {
            (Some((error, lost)), _) => self.on_icmp(outlet, &error, lost),
            (None, Some(error)) => self.on_icmp(outlet, &error, 0),
            (None, None) => return Some(outlet),
        }
        let Purpose::Flow(flow) = purpose else { return Some(outlet) };
        if !self.udp.inlets[at].table.change_if_lost(flow) {
            return Some(outlet);
        }
        self.bury(at);
        if self.connect_flow(at, flow, 1) { self.udp.inlets[at].table.flow(flow).socket } else { None }
    }

    /// Sends the datagrams of a train one by one: what of them is lost, and why.
    fn send_apart(&mut self, outlet: usize, outbox: &mut Outbox, at: usize) -> Option<(DropReason, u32)> {
        let found = &mut self.udp.outlets[outlet];
        found.train_max[0] = outbox.segment(at).saturating_sub(1);
        let (lost, error) = outbox.send_apart(at, &found.socket, &self.udp.inbox);
        error.map(|error| (lost_because(&error), lost))
    }

    /// Counts datagrams of an inlet's clients that are lost.
    pub fn drop_datagrams(&self, at: usize, reason: DropReason, count: u32) {
        self.udp.inlets[at].table.listener().stats.cell(self.index).drop_datagrams(reason, count);
    }
}

/// Whether a path does not take trains, or not with segments of that size (udp(7); EIO where it cannot do the checksums).
pub fn refuses_train(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

/// Why a datagram that the kernel did not take is lost.
pub fn lost_because(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::SendBufferFull,
        Some(libc::EMSGSIZE) => DropReason::TooLong,
        _ if icmp_failure(error).is_some() => DropReason::Unreachable,
        _ => DropReason::SendFailed,
    }
}
