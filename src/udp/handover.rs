//! How far a flow has come, in words: for the process that goes on with it, and back.

use std::sync::Arc;
use std::time::Duration;

use super::flow::{Entry, Flow, Peer};
use super::line::Links;
use super::table::Table;
use crate::handover::{self, BackendName};
use crate::reason::CloseReason;
use crate::snapshot::Backend;
use crate::stats::{BackendSlot, ListenerSlot};
use crate::timer::Tick;

impl<S> Table<S> {
    /// A flow in words; what its worker knows of its socket is left as it is by default.
    pub fn save(&self, slot: usize) -> handover::Flow {
        let entry = &self.flows[slot];
        let flow = &entry.flow;
        let backend = &flow.backend.stats;
        let (pool, name) = (backend.pool.name.to_string(), backend.name.clone());
        handover::Flow {
            token: 0,
            inlet: 0,
            listener: self.listener.config.name.clone(),
            backend: BackendName { pool, name, address: backend.address.clone() },
            client: flow.peer.client,
            local: flow.peer.local,
            id: flow.id,
            opened_us: us(flow.opened),
            active_us: us(entry.active_at.since_start()),
            counts: [flow.datagrams_in, flow.bytes_in, flow.datagrams_out, flow.bytes_out],
            attempts: flow.attempts,
            awaited: entry.awaited,
            settled: entry.settled,
            refused: entry.refused,
            doom: entry.doom.map(|(at, reason)| (us(at.since_start()), reason.as_str().to_owned())),
            greeted: false,
            is_wide: false,
            train_max: [0; 2],
            overflow: 0,
        }
    }

    /// Goes on with a flow of another process; those that are idle for longer have to come first. `None` when its client
    /// has one already.
    pub fn adopt(
        &mut self,
        from: &handover::Flow,
        backend: Arc<Backend>,
        (slot, place): (ListenerSlot, BackendSlot),
    ) -> Option<usize> {
        let peer = Peer { client: from.client, local: from.local };
        if self.by_peer.contains_key(&peer) {
            self.release(peer);
            return None;
        }
        let [datagrams_in, bytes_in, datagrams_out, bytes_out] = from.counts;
        let (id, opened, attempts) = (from.id, Duration::from_micros(from.opened_us), from.attempts);
        let flow = Flow {
            peer,
            id,
            backend,
            socket: None,
            opened,
            datagrams_in,
            datagrams_out,
            bytes_in,
            bytes_out,
            attempts,
        };
        let doom = from.doom.as_ref().map(|(at, reason)| {
            let reason = CloseReason::ALL.into_iter().find(|known| known.as_str() == reason);
            (Tick::at(Duration::from_micros(*at)), reason.unwrap_or(CloseReason::Drained))
        });
        let at = self.flows.insert(Entry {
            flow,
            place,
            slot,
            awaited: from.awaited,
            active_at: Tick::at(Duration::from_micros(from.active_us)),
            settled: from.settled,
            refused: from.refused,
            doom,
            links: Links::default(),
        });
        self.by_peer.insert(peer, at);
        // New ones get other numbers.
        self.ids.skip(from.id);
        let line = if from.settled { &mut self.settled } else { &mut self.fresh };
        line.push(&mut self.flows, at);
        self.doomed.extend(doom.map(|(due, _)| (due, at)));
        Some(at)
    }

    /// Another process has the flow: it is not ended, counted or told here. Answers with its socket.
    pub fn forget(&mut self, slot: usize) -> Option<S> {
        let line = if self.flows[slot].settled { &mut self.settled } else { &mut self.fresh };
        line.remove(&mut self.flows, slot);
        let Entry { flow, doom, .. } = self.flows.remove(slot);
        self.by_peer.remove(&flow.peer);
        if let Some((at, _)) = doom {
            self.doomed.remove(&(at, slot));
        }
        self.release(flow.peer);
        flow.socket
    }

    /// The slots of all flows.
    pub fn slots(&self) -> Vec<usize> {
        self.flows.iter().map(|(slot, _)| slot).collect()
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
