//! The flows of one listener in one worker: admit, route, end; each ending and each drop with its reason.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::flow::{Entry, Flow, Peer};
use super::line::{Line, Links};
use crate::balance::{self, Cursor};
use crate::config::{OnDown, Udp};
use crate::id::{BackendId, Ids};
use crate::limit::ClientKey;
use crate::reason::{CloseReason, ConnectFailure, DropReason};
use crate::snapshot::{Backend, Listener, Pick};
use crate::stats::{BackendSlot, ListenerSlot};
use crate::timer::Tick;

/// Flows that are ended in one call of [`Table::expire`]: others have their turn in between.
const EXPIRED_MAX: usize = 256;

/// Silence after which a flow is over while the process ends: nothing is under way any more.
const QUIET: Duration = Duration::from_secs(2);

/// What the worker does with a client's datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it on through the flow's socket.
    Forward(usize),
    /// Give the flow a socket towards its backend first: [`Table::attach`] or [`Table::failed`].
    Connect(usize),
}

/// What has come to an end: the worker takes it with [`Table::take_left`].
#[derive(Debug)]
pub enum Left<S> {
    /// A flow.
    Flow(Box<Flow<S>>, CloseReason),
    /// The socket of a flow that goes on with another backend.
    Socket(S),
}

/// See the module.
#[derive(Debug)]
pub struct Table<S> {
    pub(super) listener: Arc<Listener>,
    options: Udp,
    pub(super) worker: usize,
    pub(super) flows: Slab<Entry<S>>,
    pub(super) by_peer: HashMap<Peer, usize>,
    pub(super) fresh: Line,
    pub(super) settled: Line,
    pub(super) doomed: BTreeSet<(Tick, usize)>,
    left: VecDeque<Left<S>>,
    cursor: Cursor,
    rng: fastrand::Rng,
    pub(super) ids: Ids,
    is_draining: bool,
}

impl<S> Table<S> {
    /// An empty one of the worker that draws these numbers; `seed` makes random choices repeatable.
    pub fn new(listener: Arc<Listener>, options: Udp, ids: Ids, seed: u64) -> Self {
        let worker = ids.thread();
        Self {
            listener,
            options,
            worker,
            flows: Slab::new(),
            by_peer: HashMap::new(),
            fresh: Line::default(),
            settled: Line::default(),
            doomed: BTreeSet::new(),
            left: VecDeque::new(),
            cursor: Cursor::new(worker as u32),
            rng: fastrand::Rng::with_seed(seed),
            ids,
            is_draining: false,
        }
    }

    /// The listener as the last snapshot has it.
    pub const fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Whether there are no flows, and each datagram goes by itself: [`Table::on_one_way`].
    pub const fn is_one_way(&self) -> bool {
        self.options.one_way
    }

    /// Takes a new snapshot over.
    pub fn set(&mut self, listener: Arc<Listener>, options: Udp) {
        self.listener = listener;
        self.options = options;
    }

    /// From now on no flow is opened, and those that are quiet end, as while the listener drains.
    pub const fn drain(&mut self) {
        self.is_draining = true;
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A flow that [`Step`] has named.
    pub fn flow(&self, slot: usize) -> &Flow<S> {
        &self.flows[slot].flow
    }

    /// All flows.
    pub fn flows(&self) -> impl Iterator<Item = &Flow<S>> {
        self.flows.iter().map(|(_, entry)| &entry.flow)
    }

    /// What has ended since it was asked last.
    pub fn take_left(&mut self) -> Option<Left<S>> {
        self.left.pop_front()
    }

    /// Datagrams of a client, `bytes` in all.
    ///
    /// # Errors
    /// Why they are dropped; that is counted already.
    pub fn on_client(&mut self, peer: Peer, datagrams: u32, bytes: u64, now: Duration) -> Result<Step, DropReason> {
        let step = match self.by_peer.get(&peer) {
            Some(&slot) => Ok(self.known(slot, now)),
            None => self.open(peer, now).map(Step::Connect),
        };
        let cell = self.listener.stats.cell(self.worker);
        cell.datagrams_in.add(datagrams.into());
        match step {
            Ok(Step::Forward(slot) | Step::Connect(slot)) => {
                cell.bytes_in.add(bytes);
                let entry = &mut self.flows[slot];
                entry.place.stats().cell(self.worker).bytes_in.add(bytes);
                entry.flow.datagrams_in += u64::from(datagrams);
                entry.flow.bytes_in += bytes;
                let each = self.options.responses.map_or(0, |each| u64::from(each.get()));
                entry.awaited = entry.awaited.saturating_add(u64::from(datagrams) * each);
            }
            Err(reason) => cell.drop_datagrams(reason, datagrams),
        }
        step
    }

    /// One datagram of a client whose listener is `one_way`: its backend.
    ///
    /// # Errors
    /// Why it is dropped; that is counted already.
    pub fn on_one_way(&mut self, peer: Peer, bytes: u64, now: Duration) -> Result<Arc<Backend>, DropReason> {
        let admitted = if self.listener.drain.is_some() { Err(DropReason::Draining) } else { self.admit(peer, now) };
        let chosen = admitted.and_then(|()| {
            self.release(peer);
            self.pick(peer, &[])
        });
        let cell = self.listener.stats.cell(self.worker);
        cell.datagrams_in.add(1);
        let (backend, place) = chosen.inspect_err(|reason| cell.drop_datagrams(*reason, 1))?;
        cell.bytes_in.add(bytes);
        place.stats().cell(self.worker).bytes_in.add(bytes);
        Ok(backend)
    }

    /// Datagrams of the flow's backend, `bytes` in all: to whom they go. They may be the flow's last.
    pub fn on_backend(&mut self, slot: usize, datagrams: u32, bytes: u64, now: Duration) -> Peer {
        self.touch(slot, Tick::at(now));
        let entry = &mut self.flows[slot];
        let cell = self.listener.stats.cell(self.worker);
        cell.datagrams_out.add(datagrams.into());
        cell.bytes_out.add(bytes);
        entry.place.stats().cell(self.worker).bytes_out.add(bytes);
        if entry.flow.datagrams_out == 0 && entry.flow.attempts == 1 {
            // What the time to connect is to a connection.
            entry.place.stats().note_connect(entry.flow.age(now));
        }
        entry.flow.datagrams_out += u64::from(datagrams);
        entry.flow.bytes_out += bytes;
        entry.refused = false;
        let peer = entry.flow.peer;
        let awaited = entry.awaited;
        entry.awaited = awaited.saturating_sub(datagrams.into());
        if awaited > 0 && entry.awaited == 0 && self.options.responses.is_some() {
            self.end(slot, CloseReason::Answered, now);
        }
        peer
    }

    /// Gives a flow its socket.
    pub fn attach(&mut self, slot: usize, socket: S) {
        self.flows[slot].flow.socket = Some(socket);
    }

    /// Takes a flow's socket away, because nothing goes through it any more.
    pub fn detach(&mut self, slot: usize) {
        self.flows[slot].flow.socket = None;
    }

    /// No socket could be had towards the flow's backend: whether there is another backend to try. Otherwise the flow
    /// has ended.
    pub fn failed(&mut self, slot: usize, failure: ConnectFailure, tried: &mut Vec<BackendId>, now: Duration) -> bool {
        let entry = &self.flows[slot];
        let (peer, id) = (entry.flow.peer, entry.flow.backend.id);
        entry.place.stats().cell(self.worker).connect_failures[failure.index()].add(1);
        tried.push(id);
        let attempts = self.listener.pool.config.connect.attempts.get() as usize;
        if failure.blames_backend()
            && tried.len() < attempts
            && let Ok((backend, place)) = self.pick(peer, tried)
        {
            self.change(slot, backend, place);
            return true;
        }
        let reason = match failure {
            ConnectFailure::NoPort => CloseReason::PortExhausted,
            ConnectFailure::NoResource => CloseReason::ResourceExhausted,
            _ => CloseReason::ConnectFailed,
        };
        self.end(slot, reason, now);
        false
    }

    /// The host of the flow's backend has said that nobody listens there, or that there is no way to it: the flow is
    /// given another one with its next datagram.
    pub fn suspect(&mut self, slot: usize) {
        self.flows[slot].refused = true;
    }

    /// Ends the longest idle flow but for this one, so that it may have what that one used. False when there is none.
    pub fn shed_for(&mut self, slot: usize, now: Duration) -> bool {
        let Some(idle) = self.to_shed().find(|other| *other != slot) else { return false };
        self.end(idle, CloseReason::Shed, now);
        true
    }

    /// Gives each of these flows a time to end by force; an earlier one stays.
    pub fn doom(
        &mut self,
        reason: CloseReason,
        which: impl Fn(&Flow<S>) -> bool,
        times: impl FnOnce(usize, &mut fastrand::Rng) -> Vec<Tick>,
    ) {
        let mut slots: Vec<usize> =
            self.flows.iter().filter(|(_, entry)| which(&entry.flow)).map(|(slot, _)| slot).collect();
        self.rng.shuffle(&mut slots);
        let times = times(slots.len(), &mut self.rng);
        for (slot, at) in slots.into_iter().zip(times) {
            let doom = &mut self.flows[slot].doom;
            if doom.is_none_or(|(earlier, _)| at < earlier) {
                if let Some((earlier, _)) = doom.replace((at, reason)) {
                    self.doomed.remove(&(earlier, slot));
                }
                self.doomed.insert((at, slot));
            }
        }
    }

    /// Ends all flows now.
    pub fn end_all(&mut self, reason: CloseReason, now: Duration) {
        let all: Vec<usize> = self.flows.iter().map(|(slot, _)| slot).collect();
        all.into_iter().for_each(|slot| drop(self.end(slot, reason, now)));
    }

    /// Ends what is due, and what a reload has left no place for.
    pub fn expire(&mut self, now: Duration) {
        for _ in 0..EXPIRED_MAX {
            let Some((slot, reason)) = self.next_to_end(Tick::at(now)) else { return };
            self.end(slot, reason, now);
        }
    }

    fn next_to_end(&self, now: Tick) -> Option<(usize, CloseReason)> {
        let doomed = self.doomed.first().filter(|(at, _)| *at <= now);
        let doomed = doomed.and_then(|(_, slot)| Some((*slot, self.flows[*slot].doom?.1)));
        let idle = [&self.fresh, &self.settled].into_iter().filter_map(Line::first).min_by_key(|slot| self.due(*slot));
        let idle_reason = if self.is_draining() { CloseReason::Drained } else { CloseReason::ClientIdle };
        let idle = idle.filter(|slot| self.due(*slot) <= now).map(|slot| (slot, idle_reason));
        let shed = if self.has_too_many() { self.to_shed().next() } else { None };
        doomed.or(idle).or(shed.map(|slot| (slot, CloseReason::Shed)))
    }

    /// When [`Table::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        let idle = [&self.fresh, &self.settled].into_iter().filter_map(Line::first).map(|slot| self.due(slot));
        let shed = self.has_too_many().then_some(Tick(0));
        idle.chain(self.doomed.first().map(|(at, _)| *at)).chain(shed).min()
    }

    /// Whether a reload has made the bound smaller than what there is. Each table ends what it has beyond its share.
    fn has_too_many(&self) -> bool {
        let max = self.options.max_flows.get();
        let tables = self.ids.threads() * self.listener.config.bind.len() as u64;
        self.flows.len() as u64 > u64::from(max) / tables && self.listener.stats.active() > max
    }

    /// All flows in the order in which they give their places up: the longest idle one first, and those whose client has
    /// answered last.
    fn to_shed(&self) -> impl Iterator<Item = usize> {
        self.fresh.iter(&self.flows).chain(self.settled.iter(&self.flows))
    }

    fn is_draining(&self) -> bool {
        self.is_draining || self.listener.drain.is_some()
    }

    /// When a flow will have been idle for too long.
    fn due(&self, slot: usize) -> Tick {
        let idle = self.options.idle_timeout;
        self.flows[slot].active_at.after(if self.is_draining() { idle.min(QUIET) } else { idle })
    }

    /// A datagram of a client that has a flow.
    fn known(&mut self, slot: usize, now: Duration) -> Step {
        self.touch(slot, Tick::at(now));
        let entry = &self.flows[slot];
        if !entry.settled && entry.flow.datagrams_out > 0 {
            self.fresh.remove(&mut self.flows, slot);
            self.settled.push(&mut self.flows, slot);
            self.flows[slot].settled = true;
        }
        self.change_if_lost(slot);
        match self.flows[slot].flow.socket {
            Some(_) => Step::Forward(slot),
            None => Step::Connect(slot),
        }
    }

    /// Notes that a flow was active. Within a tick the order stays as it is.
    fn touch(&mut self, slot: usize, now: Tick) {
        let entry = &mut self.flows[slot];
        if entry.active_at < now {
            entry.active_at = now;
            let line = if entry.settled { &mut self.settled } else { &mut self.fresh };
            line.remove(&mut self.flows, slot);
            line.push(&mut self.flows, slot);
        }
    }

    fn open(&mut self, peer: Peer, now: Duration) -> Result<usize, DropReason> {
        if self.is_draining() {
            return Err(DropReason::Draining);
        }
        self.admit(peer, now)?;
        let chosen = self.pick(peer, &[]).and_then(|chosen| Ok((chosen, self.place_in_table(now)?)));
        let ((backend, place), slot) = chosen.inspect_err(|_| self.release(peer))?;
        self.listener.stats.cell(self.worker).accepted.add(1);
        place.stats().cell(self.worker).established.add(1);
        let flow = Flow {
            peer,
            id: self.ids.draw(),
            backend,
            socket: None,
            opened: now,
            datagrams_in: 0,
            datagrams_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            attempts: 1,
        };
        let at = self.flows.insert(Entry {
            flow,
            place,
            slot,
            awaited: 0,
            active_at: Tick::at(now),
            settled: false,
            refused: false,
            doom: None,
            links: Links::default(),
        });
        self.by_peer.insert(peer, at);
        self.fresh.push(&mut self.flows, at);
        Ok(at)
    }

    /// The client's own limits; what is admitted has to be released.
    fn admit(&self, peer: Peer, now: Duration) -> Result<(), DropReason> {
        let address = peer.client.ip();
        if !self.listener.config.allows(address) {
            return Err(DropReason::Denied);
        }
        self.listener.stats.clients.admit(ClientKey::from(address), now).map_err(|_| DropReason::Limited)
    }

    pub(super) fn release(&self, peer: Peer) {
        self.listener.stats.clients.release(ClientKey::from(peer.client.ip()));
    }

    /// A place among the listener's flows, if need be that of the longest idle one.
    fn place_in_table(&mut self, now: Duration) -> Result<ListenerSlot, DropReason> {
        if let Some(slot) = ListenerSlot::take(&self.listener.stats, self.options.max_flows.get()) {
            return Ok(slot);
        }
        let idle = self.to_shed().next().ok_or(DropReason::TableFull)?;
        Ok(self.end(idle, CloseReason::Shed, now))
    }

    fn pick(&mut self, peer: Peer, tried: &[BackendId]) -> Result<(Arc<Backend>, BackendSlot), DropReason> {
        let pool = &self.listener.pool;
        let client = balance::hash_client(peer.client.ip());
        match pool.pick(client, tried, &mut self.cursor, &mut self.rng) {
            Pick::Backend(backend, place) => Ok((backend.clone(), place)),
            Pick::Full => Err(DropReason::BackendsFull),
            Pick::Nobody => {
                if tried.is_empty() {
                    pool.stats.cell(self.worker).no_backend.add(1);
                }
                Err(DropReason::NoBackend)
            }
        }
    }

    /// Gives a flow whose backend is lost or suspect another one, where the pool's `on_down` does not hold it and there is
    /// one. It has no socket then.
    pub fn change_if_lost(&mut self, slot: usize) -> bool {
        let entry = &self.flows[slot];
        let (peer, lost) = (entry.flow.peer, [entry.flow.backend.id]);
        let pool = &self.listener.pool;
        let is_lost = entry.refused || pool.has_lost(lost[0]);
        let may_move = matches!(pool.config.on_down, None | Some(OnDown::CloseAfter(Duration::ZERO)));
        if !is_lost || !may_move {
            return false;
        }
        let other = self.pick(peer, &lost);
        self.flows[slot].refused = false;
        let Ok((backend, place)) = other else { return false };
        self.change(slot, backend, place);
        true
    }

    fn change(&mut self, slot: usize, backend: Arc<Backend>, place: BackendSlot) {
        let cell = place.stats().cell(self.worker);
        cell.retries.add(1);
        cell.established.add(1);
        let entry = &mut self.flows[slot];
        entry.place = place;
        entry.flow.backend = backend;
        entry.flow.attempts += 1;
        // Its doom may have been the old backend's.
        if let Some((at, CloseReason::BackendDown)) = entry.doom {
            entry.doom = None;
            self.doomed.remove(&(at, slot));
        }
        self.left.extend(entry.flow.socket.take().map(Left::Socket));
    }

    /// The one exit of a flow. Its place in the table is the caller's.
    fn end(&mut self, slot: usize, reason: CloseReason, now: Duration) -> ListenerSlot {
        let line = if self.flows[slot].settled { &mut self.settled } else { &mut self.fresh };
        line.remove(&mut self.flows, slot);
        let Entry { flow, doom, slot: place, .. } = self.flows.remove(slot);
        self.by_peer.remove(&flow.peer);
        if let Some((at, _)) = doom {
            self.doomed.remove(&(at, slot));
        }
        self.release(flow.peer);
        let cell = self.listener.stats.cell(self.worker);
        cell.closed[reason.index()].add(1);
        cell.durations.record(flow.age(now));
        self.left.push_back(Left::Flow(Box::new(flow), reason));
        place
    }

    /// Asserts what always holds; for tests, for it looks at every flow.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_sound(&self) {
        let mut seen = vec![false; self.flows.capacity()];
        for (line, is_settled) in [(&self.fresh, false), (&self.settled, true)] {
            let mut last = Tick(0);
            for slot in line.iter(&self.flows) {
                let entry = &self.flows[slot];
                assert!(!std::mem::replace(&mut seen[slot], true), "a flow stands in one line, once");
                assert_eq!(entry.settled, is_settled);
                assert!(entry.active_at >= last, "the longest idle flow comes first");
                last = entry.active_at;
            }
        }
        assert_eq!(seen.iter().filter(|seen| **seen).count(), self.flows.len(), "each flow stands in a line");
        assert_eq!(self.by_peer.len(), self.flows.len());
        for (peer, slot) in &self.by_peer {
            assert_eq!(self.flows[*slot].flow.peer, *peer, "a client finds its own flow");
        }
        let doomed = self.flows.iter().filter_map(|(slot, entry)| entry.doom.map(|(at, _)| (at, slot)));
        assert_eq!(doomed.collect::<BTreeSet<_>>(), self.doomed);
        assert!(self.listener.stats.active() as usize >= self.flows.len());
    }
}
