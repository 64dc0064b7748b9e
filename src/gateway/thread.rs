//! A thread of the gateway: what it owns, and what control tells it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{Notify, mpsc};

use super::Shared;
use super::accept::Closing;
use super::backend::Idle;
use super::budgets::Budgets;
use super::clock::Clock;
use super::dial::Dials;
use super::links::Links;
use super::sites::{SiteTable, Sites};
use super::watch::Leash;
use crate::access::Event;
use crate::balance::Cursor;
use crate::config::{Access, Bind};
use crate::engine::{Command, Ending, HandOver, Scope};
use crate::id::{BackendId, Ids, ListenerId, PoolId};
use crate::reason::CloseReason;
use crate::snapshot::{Site, Snapshot, View};
use crate::stats::WorkerStats;

/// How often idle connections to backends are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Freed memory is given back after so many connections have begun to rest, and not more often than this.
const TRIM_AFTER_RESTS: u32 = 256;
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// More of what a client says first is read later.
const SCRATCH_BYTES: usize = 16 * 1024;
/// At the end: how often, and for how long, is looked whether all connections have ended.
const LAST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOKS: Duration = Duration::from_millis(500);
/// What a thread owns.
pub struct Thread {
    /// Its cell in all counts.
    pub index: usize,
    /// What all threads share.
    pub shared: Shared,
    pub clock: Clock,
    view: RefCell<View>,
    /// Routes and policies of the snapshot's file, ready for use.
    sites: RefCell<Sites>,
    /// Connections to backends that wait for a request.
    pub idle: RefCell<Idle>,
    /// Those that are being made for whoever needs them.
    pub dials: Dials,
    /// All connections to backends.
    pub links: Links,
    pub cursors: RefCell<BTreeMap<PoolId, Cursor>>,
    pub rng: RefCell<fastrand::Rng>,
    /// Connections of clients.
    pub leashes: RefCell<Slab<Rc<Leash>>>,
    /// Several of one place, where sockets came from outside.
    pub listening: RefCell<Vec<(ListenerId, Bind, Rc<Closing>)>>,
    /// There is something to look through again.
    has_work: Notify,
    /// What pools have for retries.
    pub budgets: Budgets,
    /// When connections end that come although the process goes away: the last ones of a backlog.
    pub leaving: Cell<Option<Instant>>,
    /// What a client says first is read into this.
    pub scratch: RefCell<Box<[u8]>>,
    ids: Ids,
    /// Connections that have given their buffers back since the system was given them.
    rests: Cell<u32>,
    trimmed: Cell<Option<Instant>>,
    events: RefCell<Vec<Event>>,
}

/// Runs tasks on the thread they come from.
#[derive(Clone, Copy)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Runs a thread until it is told to stop.
pub fn run(index: usize, shared: Shared, runtime: tokio::runtime::Runtime, commands: mpsc::UnboundedReceiver<Command>) {
    if shared.pin
        && let Err(error) = crate::sys::process::pin_thread(index - shared.first)
    {
        tracing::warn!(thread = index, %error, "the thread could not be pinned to its core");
    }
    let thread = Rc::new(Thread::new(index, shared));
    tokio::task::LocalSet::new().block_on(&runtime, thread.serve(commands));
}

impl Thread {
    fn new(index: usize, shared: Shared) -> Self {
        Self {
            index,
            view: RefCell::new(shared.view.clone()),
            sites: RefCell::default(),
            idle: RefCell::default(),
            dials: Dials::default(),
            links: Links::default(),
            cursors: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            leashes: RefCell::default(),
            listening: RefCell::default(),
            has_work: Notify::new(),
            budgets: Budgets::default(),
            leaving: Cell::new(None),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            ids: Ids::new(index, shared.threads.len()),
            rests: Cell::new(0),
            trimmed: Cell::new(None),
            events: RefCell::default(),
            clock: Clock::new(shared.start),
            shared,
        }
    }

    async fn serve(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let sweep = async {
                while self.idle.borrow().is_empty() && self.rests.get() < TRIM_AFTER_RESTS {
                    self.has_work.notified().await;
                }
                tokio::time::sleep(SWEEP_INTERVAL).await;
            };
            tokio::select! {
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => break,
                    Some(command) => self.on_command(command),
                },
                () = sweep => {}
            }
            self.sweep();
            self.stats().turns.record(Duration::ZERO);
        }
        self.unlisten_if(|_, _| true);
        self.doom(Duration::ZERO, Duration::ZERO, CloseReason::Killed, |_| true);
        // The tasks that were told to end do so before the thread does.
        let limit = self.clock.now() + LAST_LOOKS;
        while !self.leashes.borrow().is_empty() && self.clock.now() < limit {
            tokio::time::sleep(LAST_LOOK).await;
        }
        self.flush();
    }

    /// A client's connection has given its buffers back.
    pub fn note_rest(&self) {
        self.rests.set(self.rests.get().saturating_add(1));
        if self.rests.get() == TRIM_AFTER_RESTS {
            self.has_work.notify_one();
        }
    }

    /// Does this with the idle connections to backends, and sees to it that they are looked through.
    pub fn with_idle(&self, what: impl FnOnce(&mut Idle)) {
        let mut idle = self.idle.borrow_mut();
        let was_empty = idle.is_empty();
        what(&mut idle);
        if was_empty {
            self.has_work.notify_one();
        }
    }

    /// Lets the system have what many connections that rest have given back.
    fn trim(&self) {
        let now = self.clock.now();
        let is_due = self.trimmed.get().is_none_or(|at| now - at >= TRIM_INTERVAL);
        if is_due && self.rests.get() >= TRIM_AFTER_RESTS {
            self.trimmed.set(Some(now));
            self.rests.set(0);
            crate::sys::process::release_free_memory();
        }
    }

    fn sweep(&self) {
        self.trim();
        if self.idle.borrow().is_empty() {
            return;
        }
        let snapshot = self.snapshot();
        let timeouts: HashMap<_, _> = snapshot
            .pools()
            .iter()
            .flat_map(|pool| pool.backends().map(|id| (id, pool.config.http.speech.idle_timeout)))
            .collect();
        self.idle.borrow_mut().sweep(|backend| timeouts.get(&backend).copied(), self.clock.now());
    }

    /// The snapshot of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.borrow_mut().load().clone()
    }

    /// What the snapshot's file has for this listener.
    pub fn table(&self, snapshot: &Snapshot, site: &Site) -> Arc<SiteTable> {
        let threads = self.shared.threads.len() - self.shared.first;
        let is_left = |id| self.leashes.borrow().iter().any(|(_, leash)| leash.listener == id);
        self.sites.borrow_mut().table((&self.shared.registry, threads), snapshot, site, is_left)
    }

    /// Makes the routes of the file ready before a request needs them, begins to fetch keys, and forgets pools that are gone.
    fn prepare(&self) {
        let snapshot = self.snapshot();
        for site in snapshot.sites() {
            self.table(&snapshot, site);
        }
        let is_there = |pool: PoolId| snapshot.pool(pool).is_some();
        self.cursors.borrow_mut().retain(|pool, _| is_there(*pool));
        self.budgets.retain(is_there);
        self.shared.registry.retain(is_there);
    }

    /// Its own counts.
    pub fn stats(&self) -> &WorkerStats {
        &self.shared.threads[self.index]
    }

    /// This moment for limits and breakers.
    pub fn since_start(&self) -> Duration {
        self.shared.since(self.clock.now())
    }

    /// A number that no other connection or request of the process has.
    pub fn next_id(&self) -> u64 {
        self.ids.draw()
    }

    fn on_command(self: &Rc<Self>, command: Command) {
        match command {
            Command::Wake => self.prepare(),
            Command::Stop => {}
            Command::Listen { listener, bind, socket } => {
                self.prepare();
                self.listen(listener, bind, socket);
            }
            Command::Unlisten { listener, bind } => self.unlisten_if(|of, at| of == listener && *at == bind),
            Command::Drain { scope, deadline, spread } => {
                if scope == Scope::All {
                    self.unlisten_if(|_, _| true);
                    self.leaving.set(Some(self.clock.now() + deadline));
                }
                match scope {
                    Scope::All => self.doom(deadline, spread, CloseReason::Drained, |_| true),
                    Scope::Listener(id) => {
                        self.doom(deadline, spread, CloseReason::Drained, |leash| leash.listener == id)
                    }
                    // A request lasts as long as it lasts; the next one goes elsewhere.
                    Scope::Backend(_) => {}
                }
            }
            // A request that runs goes to its end, unless an operator or `on_down` says otherwise.
            Command::CloseBackend { backend, reason, spread } => self.close_links(backend, reason, spread),
            Command::HandOver(HandOver::Forget(done)) => {
                self.listening.borrow().iter().for_each(|(.., closing)| closing.is_shared.set(true));
                self.unlisten_if(|_, _| true);
                done.give(());
            }
            Command::HandOver(_) => {}
        }
    }

    /// Ends the connections to a backend, and what they carry, evenly over this time.
    fn close_links(self: &Rc<Self>, backend: BackendId, reason: CloseReason, spread: Duration) {
        let ending = Ending { reason, deadline: spread, spread };
        let links = self.links.of(backend);
        let times = ending.times(Duration::ZERO, links.len(), &mut self.rng.borrow_mut());
        for (link, after) in links.into_iter().zip(times) {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(after).await;
                link.end(reason);
            });
        }
    }

    /// Gives each of these connections a time to end by force, and tells them all to end when it suits them.
    fn doom(&self, deadline: Duration, spread: Duration, reason: CloseReason, which: impl Fn(&Leash) -> bool) {
        let leashes = self.leashes.borrow();
        let doomed: Vec<&Rc<Leash>> = leashes.iter().map(|(_, leash)| leash).filter(|leash| which(leash)).collect();
        let ending = Ending { reason, deadline, spread };
        let now = self.clock.now();
        let times = ending.times(Duration::ZERO, doomed.len(), &mut self.rng.borrow_mut());
        for (leash, after) in doomed.into_iter().zip(times) {
            leash.doom(now + after, reason);
        }
    }

    /// Puts an event on its way into the access log, unless there is none.
    pub fn report(self: &Rc<Self>, event: impl FnOnce(&Self) -> Event) {
        if self.shared.access == Access::Off {
            return;
        }
        let mut event = event(self);
        event.time_ms = self.clock.since_epoch().as_millis() as u64;
        let mut events = self.events.borrow_mut();
        events.push(event);
        if events.len() == 1 {
            // Those of this turn go together.
            let thread = self.clone();
            tokio::task::spawn_local(async move { thread.flush() });
        }
    }

    fn flush(&self) {
        let mut events = self.events.borrow_mut();
        if !events.is_empty() {
            self.shared.journal.push(&mut events);
        }
    }
}
