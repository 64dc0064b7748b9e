//! Flows on their way to another process, or from one. Their clients' datagrams come to the listener's socket, which goes
//! along too, so they all go at the end, when nothing is received any more.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::super::handover::duplicate;
use super::super::token::{Key, Source};
use super::super::turn::Worker;
use super::Overflow;
use super::outlet::{Outlet, Purpose};
use crate::engine::AdoptedFlow;
use crate::handover::Batch;
use crate::limit::ClientKey;
use crate::reason::CloseReason;
use crate::sys::datagram::DatagramSocket;
use crate::sys::rights;

/// Flows that are laid aside: outlets that are not watched.
#[derive(Debug, Default)]
pub struct ParkedFlows {
    /// By the keys of their outlets; `None` = not looked yet.
    waiting: Option<Vec<Key>>,
    parked: Vec<Key>,
    /// What the other process does not take.
    kept: HashSet<Key>,
}

impl Worker {
    /// Adds flows to the batch.
    pub fn park_flows(&mut self, batch: &mut Batch, max: usize) -> std::io::Result<()> {
        let mut flows = std::mem::take(&mut self.udp.flows_parked);
        let mut waiting = flows.waiting.take().unwrap_or_else(|| {
            let outlets = self.udp.outlets.iter();
            outlets.filter(|(_, outlet)| matches!(outlet.purpose, Purpose::Flow(_))).map(|(_, o)| o.key).collect()
        });
        let mut result = Ok(());
        while batch.fds.len() < max
            && let Some(key) = waiting.pop()
        {
            result = self.save_flow(key, batch);
            if result.is_err() {
                break;
            }
            flows.parked.push(key);
        }
        flows.waiting = Some(waiting);
        self.udp.flows_parked = flows;
        result
    }

    fn save_flow(&mut self, key: Key, batch: &mut Batch) -> std::io::Result<()> {
        let udp = &self.udp;
        let Some(outlet) = udp.outlets.get(key.slot as usize).filter(|outlet| outlet.key == key) else { return Ok(()) };
        let Purpose::Flow(slot) = outlet.purpose else { return Ok(()) };
        let inlet = &udp.inlets[outlet.inlet];
        let mut flow = inlet.table.save(slot);
        flow.token = Source::outlet(key) as u64;
        flow.inlet = rights::inode(inlet.socket.as_fd())?;
        (flow.greeted, flow.is_wide, flow.overflow) = (outlet.greeted, outlet.is_wide, outlet.overflow.0);
        flow.train_max = outlet.train_max.map(|max| max as u64);
        batch.fds.push(duplicate(&outlet.socket)?);
        batch.moved.flows.push(flow);
        let _ = self.poll.registry().deregister(&mut SourceFd(&outlet.socket.as_raw_fd()));
        Ok(())
    }

    /// A flow that the other process does not take: it ends with its socket.
    pub fn keep_flow(&mut self, key: Key) {
        self.udp.flows_parked.kept.insert(key);
    }

    /// Nothing came of the hand-over: all outlets are watched and read again.
    pub fn resume_flows(&mut self) {
        let all = std::mem::take(&mut self.udp.flows_parked);
        let waiting = all.waiting.into_iter().flatten();
        for key in all.parked.into_iter().chain(waiting) {
            let Some(outlet) = self.udp.outlets.get_mut(key.slot as usize).filter(|outlet| outlet.key == key) else {
                continue;
            };
            let (fd, token) = (outlet.socket.as_raw_fd(), Token(Source::outlet(key)));
            // One that was not parked is watched already.
            let _ = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            if !std::mem::replace(&mut outlet.is_unread, true) {
                self.udp.unread.push(key);
            }
        }
        self.udp.readable = self.udp.inlets.iter().map(|(at, _)| at).collect();
    }

    /// The other process has the sockets and the flows that are parked; all others end here.
    pub fn forget_flows(&mut self) {
        self.udp.readable.clear();
        let ParkedFlows { parked, kept, .. } = std::mem::take(&mut self.udp.flows_parked);
        for key in parked.into_iter().filter(|key| !kept.contains(key)) {
            let Some(outlet) = self.udp.outlets.get(key.slot as usize).filter(|outlet| outlet.key == key) else {
                continue;
            };
            if let Purpose::Flow(flow) = outlet.purpose {
                self.udp.inlets[outlet.inlet].table.forget(flow);
            }
            self.udp.outlets.remove(key.slot as usize);
        }
        let all: Vec<usize> = self.udp.inlets.iter().map(|(at, _)| at).collect();
        for at in all {
            self.udp.inlets[at].table.end_all(CloseReason::Drained, self.now);
            self.bury(at);
            self.forget_inlet(at);
            let inlet = self.udp.inlets.remove(at);
            let _ = self.poll.registry().deregister(&mut SourceFd(&inlet.socket.as_raw_fd()));
        }
    }

    /// Goes on with a flow of another process, whose listener's socket is here.
    pub fn adopt_flow(&mut self, adopted: AdoptedFlow) {
        let AdoptedFlow { flow, outlet, slot, place, backend } = adopted;
        let inode = |socket: &DatagramSocket| rights::inode(socket.as_fd()).ok();
        let inlet = self.udp.inlets.iter_mut().find(|(_, inlet)| inode(&inlet.socket) == Some(flow.inlet));
        let Some((at, inlet)) = inlet else {
            // Its listener could not be watched; the client's next datagram finds nobody.
            return slot.stats().clients.release(ClientKey::from(flow.client.ip()));
        };
        let socket = DatagramSocket::from(outlet);
        let (id, source) = (backend.id, inlet.table.listener().pool.config.source);
        let listener = inlet.table.listener().stats.clone();
        let Some(slot) = inlet.table.adopt(&flow, backend, (slot, place)) else { return };
        self.udp.opened += 1;
        let key = Key::new(self.udp.outlets.vacant_key(), self.udp.opened);
        let (fd, token) = (socket.as_raw_fd(), Token(Source::outlet(key)));
        if self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE).is_err() {
            // The next datagram opens another one.
            return;
        }
        let mut outlet = Outlet::new(socket, key, id, source, (at, listener), self.tick());
        outlet.purpose = Purpose::Flow(slot);
        (outlet.greeted, outlet.is_wide, outlet.is_unread) = (flow.greeted, flow.is_wide, true);
        outlet.train_max = flow.train_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        outlet.overflow = Overflow(flow.overflow);
        let outlet = self.udp.outlets.insert(outlet);
        self.udp.unread.push(key);
        self.udp.inlets[at].table.attach(slot, outlet);
        self.report_lasting();
    }
}
