//! From backends to clients.

use std::io;

use super::super::token::Key;
use super::super::turn::Worker;
use super::inward::{lost_because, refuses_train};
use super::outlet::{Purpose, STREAM_MIN, icmp_failure};
use super::stage::{Destination, Part, put};
use crate::reason::DropReason;
use crate::sys::datagram::BATCH_MAX;

/// Replies taken from an outlet by one call.
const REPLIES_MAX: usize = 32;
/// With less room in the arena the replies in it are sent first.
const ROOM_MIN: usize = 16;
/// Bytes of replies that wait while more are received: what was just received is sent from the processor's cache.
const STAGED_BYTES_MAX: usize = 32 << 10;
/// Calls for one outlet before others have their turn.
const READS_MAX: usize = 4;

impl Worker {
    /// Something has come to an outlet.
    pub fn on_outlet(&mut self, key: Key, has_error: bool) {
        let slot = key.slot as usize;
        let is_paused = self.is_paused();
        let Some(outlet) = self.udp.outlets.get_mut(slot).filter(|outlet| outlet.key == key) else { return };
        if is_paused {
            if !std::mem::replace(&mut outlet.is_unread, true) {
                self.udp.unread.push(key);
            }
            return;
        }
        if has_error && let Some((error, lost)) = outlet.socket.take_errors() {
            self.on_icmp(slot, &error, lost);
        }
        self.read_outlet(slot);
    }

    /// Goes on with outlets that had more than one turn allows.
    pub fn read_outlets(&mut self) {
        let count = self.udp.unread.len();
        for at in 0..count {
            let key = self.udp.unread[at];
            if let Some(outlet) = self.udp.outlets.get_mut(key.slot as usize).filter(|outlet| outlet.key == key) {
                outlet.is_unread = false;
                self.read_outlet(key.slot as usize);
            }
        }
        self.udp.unread.drain(..count);
    }

    fn read_outlet(&mut self, slot: usize) {
        for _ in 0..READS_MAX {
            let Some(outlet) = self.udp.outlets.get(slot) else { return };
            if !matches!(outlet.purpose, Purpose::Flow(_)) {
                let late = outlet.socket.discard();
                return outlet.listener.cell(self.index).drop_datagrams(DropReason::Late, late);
            }
            if BATCH_MAX - self.udp.staged < ROOM_MIN || self.udp.staged_bytes > STAGED_BYTES_MAX {
                self.flush_replies();
            }
            let first = self.udp.staged;
            let (count, max) = if self.udp.outlets[slot].is_wide {
                let max = (BATCH_MAX - first).min(REPLIES_MAX);
                let udp = &mut self.udp;
                (udp.inbox.receive(&udp.outlets[slot].socket, first, max), max)
            } else {
                (self.receive_one_by_one(slot, first), STREAM_MIN)
            };
            match count {
                Ok(count) => {
                    self.udp.staged = first + count;
                    (first..first + count).for_each(|reply| self.on_reply(slot, reply));
                    if count < max {
                        return;
                    }
                }
                Err(error) if icmp_failure(&error).is_some() => {
                    let queued = self.udp.outlets[slot].socket.take_errors();
                    self.on_icmp(slot, &error, queued.map_or(0, |(_, lost)| lost));
                }
                Err(_) => return,
            }
        }
        if let Some(outlet) = self.udp.outlets.get_mut(slot)
            && !std::mem::replace(&mut outlet.is_unread, true)
        {
            self.udp.unread.push(outlet.key);
        }
    }

    /// Receives into the slots from `first` on, from an outlet that is not known for streams. Where one comes it is made
    /// fit for it.
    fn receive_one_by_one(&mut self, slot: usize, first: usize) -> io::Result<usize> {
        let udp = &mut self.udp;
        let outlet = &mut udp.outlets[slot];
        for count in 0..STREAM_MIN {
            match udp.inbox.receive_plain(&outlet.socket, first + count) {
                Ok(()) => {}
                Err(error) if count == 0 => return Err(error),
                // Another error than that nothing is left is told by the queue of errors.
                Err(_) => return Ok(count),
            }
        }
        outlet.widen(self.options.offload);
        Ok(STREAM_MIN)
    }

    /// Stages a reply in the arena for its client.
    fn on_reply(&mut self, slot: usize, reply: usize) {
        let received = *self.udp.inbox.received(reply);
        let outlet = &mut self.udp.outlets[slot];
        outlet.overflow.note(received.overflow, &outlet.listener, self.index);
        let (at, Purpose::Flow(flow)) = (outlet.inlet, outlet.purpose) else {
            return outlet.listener.cell(self.index).drop_datagrams(DropReason::Late, received.datagrams());
        };
        let train_max = outlet.train_max[1];
        let inlet = &mut self.udp.inlets[at];
        let peer = inlet.table.on_backend(flow, received.datagrams(), received.len.into(), self.now);
        if inlet.replies.is_empty() {
            self.udp.dirty.push(at);
        }
        let mut last = inlet.last.filter(|(to, _)| *to == peer).map(|(_, train)| train);
        let destination = Destination { tag: slot as u32, to: Some(peer.client), from: peer.local };
        let (len, segment) = (received.len as usize, received.segment as usize);
        self.udp.staged_bytes += len;
        let part = Part { slot: reply, start: 0, len, segment };
        put(&mut inlet.replies, &mut last, destination, part, (&[], false), train_max);
        inlet.last = last.map(|train| (peer, train));
        self.bury(at);
    }

    /// Sends all staged replies.
    pub fn flush_replies(&mut self) {
        let udp = &mut self.udp;
        for at in udp.dirty.drain(..) {
            let inlet = &mut udp.inlets[at];
            let cell = inlet.table.listener().stats.cell(self.index);
            let mut next = 0;
            while next < inlet.replies.len() {
                let error = match inlet.replies.send(next, &inlet.socket, &udp.inbox) {
                    Ok(sent) => {
                        next = sent;
                        continue;
                    }
                    Err(error) => error,
                };
                let (lost, error) = match inlet.replies.is_train(next) && refuses_train(&error) {
                    true => {
                        if let Some(outlet) = udp.outlets.get_mut(inlet.replies.tag(next) as usize) {
                            outlet.train_max[1] = inlet.replies.segment(next).saturating_sub(1);
                        }
                        inlet.replies.send_apart(next, &inlet.socket, &udp.inbox)
                    }
                    false => (inlet.replies.datagrams(next), Some(error)),
                };
                if let Some(error) = error {
                    debug_failed(&error);
                    cell.drop_datagrams(lost_because(&error), lost);
                }
                next += 1;
            }
            inlet.replies.clear();
            inlet.last = None;
        }
        (self.udp.staged, self.udp.staged_bytes) = (0, 0);
    }
}

fn debug_failed(error: &io::Error) {
    tracing::debug!(%error, "a reply could not be sent to its client");
}
