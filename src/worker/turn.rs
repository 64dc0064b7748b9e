//! The one loop of a worker thread.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Poll};
use slab::Slab;

use super::Options;
use super::accept::Listening;
use super::busy_poll::{BusyPoll, LOOK_MAX};
use super::connection::{Connection, NEVER};
use super::handover::Parking;
use super::mailbox::{Mailbox, Message};
use super::token::{Key, Source};
use super::udp::Udp;
use crate::access::{Event, Journal};
use crate::balance::Cursor;
use crate::engine::Notes;
use crate::id::{Ids, PoolId};
use crate::snapshot::{Listener, Snapshot, View};
use crate::stats::{WorkerStats, WorkersStats};
use crate::sys::pipe::Pipe;
use crate::tcp::conduit::Room;
use crate::tcp::relay::Readiness;
use crate::timer::{Tick, Wheel};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// What a worker thread owns.
pub struct Worker {
    pub index: usize,
    pub options: Options,
    pub poll: Poll,
    pub busy_poll: BusyPoll,
    start: Instant,
    /// Since `start`, as of this turn.
    pub now: Duration,
    view: View,
    /// What holds in this turn.
    pub snapshot: Arc<Snapshot>,
    pub listening: Slab<Listening>,
    /// Listening sockets that may have connections waiting.
    pub acceptable: Vec<usize>,
    pub connections: Slab<Connection>,
    /// Connections opened so far: the source of generations and log ids.
    pub opened: u64,
    pub ids: Ids,
    pub udp: Udp,
    pub wheel: Wheel,
    pub room: Room<Pipe>,
    /// Streams that are ready, and connections that have more to do without an event.
    pub run_queue: Vec<Key>,
    /// When connections end that come although the process goes away.
    pub leaving: Tick,
    /// Connections with a step of a TLS handshake to make.
    pub handshakes: VecDeque<Key>,
    /// When the log may next be warned of a backend's handshake.
    pub warn_of_tls_at: Tick,
    /// Events of this turn that were for others than streams.
    pub small_events: u32,
    pub cursors: HashMap<PoolId, Cursor>,
    pub rng: fastrand::Rng,
    /// One for each worker; ours stands at `index`.
    pub mailboxes: Arc<[Mailbox]>,
    pub workers: WorkersStats,
    pub journal: Arc<Journal>,
    /// Events of this turn on their way to the journal.
    pub events: Vec<Event>,
    pub notes: Notes,
    /// While a hand-over to or from another process is under way.
    pub parking: Option<Parking>,
    pub stopping: bool,
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    pub options: Options,
    pub view: View,
    pub mailboxes: Arc<[Mailbox]>,
    pub workers: WorkersStats,
    pub journal: Arc<Journal>,
    pub notes: Notes,
    pub start: Instant,
}

impl Worker {
    pub fn new(index: usize, poll: Poll, mut shared: Shared) -> Self {
        let snapshot = shared.view.load().clone();
        let ids = Ids::new(index, shared.workers.len());
        Self {
            index,
            room: Room::new(shared.options.pipes_max),
            options: shared.options,
            poll,
            busy_poll: BusyPoll::default(),
            start: shared.start,
            now: Duration::ZERO,
            view: shared.view,
            snapshot,
            listening: Slab::new(),
            acceptable: Vec::new(),
            connections: Slab::new(),
            opened: 0,
            ids,
            udp: Udp::default(),
            // That of a first process, from which on its successors count, may be long ago.
            wheel: Wheel::new(Tick::at(clock() - shared.start)),
            run_queue: Vec::new(),
            leaving: NEVER,
            handshakes: VecDeque::new(),
            warn_of_tls_at: Tick(0),
            small_events: 0,
            cursors: HashMap::new(),
            rng: fastrand::Rng::new(),
            mailboxes: shared.mailboxes,
            workers: shared.workers,
            journal: shared.journal,
            events: Vec::new(),
            notes: shared.notes,
            parking: None,
            stopping: false,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When epoll itself fails, which it does only when this program is wrong.
    pub fn run(mut self) -> io::Result<()> {
        if self.options.pin
            && let Err(error) = crate::sys::process::pin_thread(self.index)
        {
            tracing::warn!(worker = self.index, %error, "the worker could not be pinned to a core");
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut fired = Vec::new();
        let mut messages = Vec::new();
        while !self.stopping {
            match self.await_events(&mut events) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let began = clock();
            self.now = began - self.start;
            self.refresh();
            for event in &events {
                match Source::of(event.token().0) {
                    Source::Connection(key, side) => self.on_event(key, side, readiness(event)),
                    Source::Listening(at) => enqueue(&mut self.acceptable, at),
                    Source::Mailbox => self.read_mail(&mut messages),
                    Source::Inlet(at) => enqueue(&mut self.udp.readable, at),
                    Source::Outlet(key) => self.on_outlet(key, event.is_error()),
                }
            }
            if !self.is_paused() {
                self.read_outlets();
                self.read_inlets();
            }
            self.flush_replies();
            if !self.is_paused() {
                self.accept_all();
            }
            self.pump_run_queue();
            self.shake_hands();
            self.wheel.expire(self.tick(), &mut fired);
            for slot in fired.drain(..) {
                self.on_timer(slot);
            }
            if !self.is_paused() && self.next_udp_deadline().is_some_and(|due| due <= self.tick()) {
                self.on_udp_time();
            }
            self.tell_of_turn(began);
        }
        Ok(())
    }

    /// Now, in ticks.
    pub fn tick(&self) -> Tick {
        Tick::at(self.now)
    }

    /// When a connection must have ended that is opened now. It may come out of a backlog, or from another worker, after
    /// those were told to end that it came with.
    pub fn drained_at(&self, listener: &Listener) -> Tick {
        let end = self.snapshot.end_of(listener.id, &listener.config, self.start + self.now);
        let end = end.map_or(NEVER, |at| Tick::at(at.saturating_duration_since(self.start)));
        end.min(self.leaving)
    }

    /// This worker's own counts.
    pub fn stats(&self) -> &WorkerStats {
        &self.workers[self.index]
    }

    /// Waits for events, or for the time of the next timer: awake for a moment while that pays, then asleep.
    fn await_events(&mut self, events: &mut Events) -> io::Result<()> {
        let (patience, tick) = (self.patience(), self.tick());
        if !self.options.busy_poll || patience == Some(Duration::ZERO) || !self.busy_poll.is_worth_it(tick) {
            return self.poll.poll(events, patience);
        }
        self.poll.poll(events, Some(Duration::ZERO))?;
        if !events.is_empty() {
            return Ok(());
        }
        let until = clock() + patience.map_or(LOOK_MAX, |patience| patience.min(LOOK_MAX));
        while events.is_empty() && clock() < until {
            // Somebody may have to run on this core for there to be an event.
            std::thread::yield_now();
            self.poll.poll(events, Some(Duration::ZERO))?;
        }
        self.busy_poll.looked(!events.is_empty());
        if events.is_empty() { self.poll.poll(events, self.patience()) } else { Ok(()) }
    }

    /// How long the poll may wait.
    fn patience(&self) -> Option<Duration> {
        let (udp, takes) = (&self.udp, !self.is_paused());
        let queues = [&self.acceptable, &udp.readable];
        if !self.run_queue.is_empty()
            || !self.handshakes.is_empty()
            || takes && (!udp.unread.is_empty() || queues.iter().any(|queue| !queue.is_empty()))
        {
            return Some(Duration::ZERO);
        }
        let outside = [self.next_accept_retry(), self.next_udp_deadline()].into_iter().flatten().filter(|_| takes);
        let next = outside.chain(self.wheel.next()).min()?;
        Some(next.since_start().saturating_sub(clock() - self.start))
    }

    /// Looks whether there is a new snapshot.
    fn refresh(&mut self) {
        let current = self.view.load();
        if current.generation == self.snapshot.generation {
            return;
        }
        let before = std::mem::replace(&mut self.snapshot, current.clone());
        for (_, listening) in &mut self.listening {
            if let Some(listener) = self.snapshot.listener(listening.listener.id) {
                listening.listener = listener.clone();
            }
        }
        self.refresh_udp();
        self.cursors.retain(|id, _| self.snapshot.pool(*id).is_some());
        // Also those that are gone: who waits there has another pool now.
        for pool in before.pools() {
            pool.stats.queue.call();
        }
    }

    fn read_mail(&mut self, messages: &mut Vec<Message>) {
        self.mailboxes[self.index].take(messages);
        // A message may speak of what is in a snapshot that was published after this turn began.
        self.refresh();
        for message in messages.drain(..) {
            match message {
                Message::Command(command) => self.on_command(command),
                Message::Adopt(fresh) => self.open(fresh),
                Message::Turn(token) => self.on_turn(token),
            }
        }
    }

    fn tell_of_turn(&mut self, began: Instant) {
        if !self.events.is_empty() {
            let time_ms = wall_clock_ms();
            for event in &mut self.events {
                event.time_ms = time_ms;
            }
            self.journal.push(&mut self.events);
        }
        let stats = self.stats();
        let (in_use, free) = self.room.pipes.counts();
        stats.pipes_in_use.store(in_use as u32, Relaxed);
        stats.pipes_free.store(free as u32, Relaxed);
        stats.turns.record(clock() - began);
    }
}

/// Puts a socket into a queue in which it may stand already: a second place would give it two shares of each turn, and
/// while it is busy each turn brings an edge.
pub fn enqueue(queue: &mut Vec<usize>, at: usize) {
    if !queue.contains(&at) {
        queue.push(at);
    }
}

fn readiness(event: &mio::event::Event) -> Readiness {
    let error = event.is_error();
    Readiness {
        readable: event.is_readable() || event.is_read_closed(),
        writable: event.is_writable(),
        // RDHUP, or HUP: both ends have sent FIN. A reset says so with an error.
        fin: event.is_read_closed() && !error,
        urgent: event.is_priority(),
        error,
    }
}

#[allow(clippy::disallowed_methods)] // the engine's clock: the cores are given its time
fn clock() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)] // the time of day for the log
fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
