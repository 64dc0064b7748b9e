//! The control plane: the one supervisor that owns what is wanted (file, overrides, observations), publishes what the
//! workers act on, and answers those who ask.
//!
//! Everything reaches it as a message in one loop: signals, requests of the admin API, verdicts, notes of workers,
//! answers of resolvers, files of backends, time. So there is one writer, and no lock.
//!
//! `start` brings all up in an order in which every failure leaves nothing behind, `reload` takes a new file over,
//! `leave` ends, `upgrade` has another process go on. `wanted` holds the three layers, `publish` makes snapshots of them,
//! `identities` keeps the counts, `discovery` knows where backends are, `listeners` the sockets, `inherited` those that came
//! from outside, `store` those that outlive us, `observe` listens to the checks, `capacity` and `udp` know what the host
//! gives. `operate` does what operators ask for. `desk`, `doors`, `admin`, `http`, `status`, `metrics`,
//! `page` are for those who ask; `events`, `notify` and `log` for those who watch.

pub mod admin;
pub mod capacity;
pub mod desk;
mod discovery;
mod doors;
mod engines;
mod events;
mod http;
mod identities;
pub mod inherited;
mod leave;
mod limits;
mod listeners;
pub mod log;
mod metrics;
mod notify;
mod observe;
mod operate;
mod page;
mod publish;
mod reload;
#[cfg(test)]
mod sample;
pub mod source;
mod start;
mod status;
mod store;
pub mod udp;
pub mod upgrade;
mod wanted;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use self::desk::{Desk, Request, Requests};
use self::discovery::{Discovery, News, Teller};
use self::doors::Doors;
use self::engines::Engines;
use self::events::{About, Events};
use self::identities::Identities;
use self::inherited::Inherited;
use self::leave::Leaving;
use self::limits::Limits;
use self::listeners::Listeners;
use self::observe::Observers;
use self::source::Source;
use self::status::Scene;
use self::upgrade::receive::Predecessor;
use self::upgrade::{Arrival, Offer};
use self::wanted::Wanted;
use crate::access::Journal;
use crate::api::{self, EventKind, State};
use crate::config::{OnDown, Report};
use crate::engine::{Command, Note};
use crate::health::Verdict;
use crate::id::BackendId;
use crate::reason::CloseReason;
use crate::snapshot::{Publisher, Snapshot};
use crate::stats::WorkersStats;

/// Over how long the connections of a backend that went down are ended: soon, but not all at one instant.
const DOWN_SPREAD: Duration = Duration::from_millis(500);
/// How often is looked whether what was removed can be forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Events that the status page shows.
const OVERVIEW_EVENTS_MAX: usize = 100;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file is wrong: all its problems.
    #[error("{}", .0.render(false))]
    File(Report),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] listeners::ListenError),
    /// The admin socket cannot be had.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// What the service manager passes does not fit.
    #[error(transparent)]
    Inherit(#[from] inherited::InheritError),
    /// The metrics' address cannot be listened on.
    #[error("process.metrics: {address}: {error}\n{}", listeners::advise(*.address, .error))]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What happened.
        error: io::Error,
    },
    /// It was started to take over from another process, which came to nothing.
    #[error("{0}")]
    Upgrade(String),
    /// The system refuses something that every process needs.
    #[error("{what}: {error}")]
    System {
        /// What.
        what: &'static str,
        /// What happened.
        error: io::Error,
    },
}

/// Runs until a signal or the desk ends it, on sockets that came from outside where there are such. Blocks the calling
/// thread.
///
/// # Errors
/// When it cannot start; nothing is left behind then.
pub fn run(source: Source, inherited: Inherited, (desk, requests): (Desk, Requests)) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System { what: "the control plane's event loop", error })?;
    let result = runtime.block_on(async {
        let predecessor = Predecessor::find();
        let mut predecessor = predecessor.map_err(|error| Failure::System { what: "the running process", error })?;
        match start::start(source, inherited, desk, &mut predecessor).await {
            Ok(supervisor) => supervisor.serve(requests).await,
            Err(failure) => {
                if let Some(predecessor) = &mut predecessor {
                    predecessor.refuse(&failure).await;
                }
                return Err(failure);
            }
        }
        Ok(())
    });
    // A resolver that does not answer must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Owns everything; see the module.
struct Supervisor {
    source: Source,
    wanted: Wanted,
    discovery: Discovery,
    identities: Identities,
    listeners: Listeners,
    inherited: Inherited,
    observers: Observers,
    publisher: Publisher,
    engines: Engines,
    counts: WorkersStats,
    journal: Arc<Journal>,
    events: Events,
    limits: Limits,
    access_log: Option<log::AccessLog>,
    doors: Doors,
    offer: Offer,
    signals: leave::Signals,
    inbox: Inbox,
    /// Backends whose connections are to be ended, and when.
    closes: BTreeMap<BackendId, Instant>,
    next_rise: Option<Instant>,
    next_tidy: Option<Instant>,
    watchdog: Option<Watchdog>,
    leaving: Option<Leaving>,
    max_connections: u32,
    fds_limit: u64,
    started: Instant,
    /// When the workers' clock was at 0.
    clock: Instant,
    last_reload: (SystemTime, bool),
    status: String,
}

/// Messages from engines and tasks.
#[derive(Debug)]
struct Inbox {
    verdicts: mpsc::Receiver<Verdict>,
    notes: mpsc::Receiver<Note>,
    news: mpsc::Receiver<News>,
    teller: Teller,
    arrivals: mpsc::Receiver<Arrival>,
}

#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    next: Instant,
    pulse: notify::Pulse,
}

impl Supervisor {
    /// The one loop.
    async fn serve(mut self, mut requests: Requests) {
        while !self.has_left() {
            let deadline = self.next_deadline();
            tokio::select! {
                signal = self.signals.next() => self.on_signal(signal).await,
                Some(request) = requests.recv() => self.on_request(request).await,
                Some(verdict) = self.inbox.verdicts.recv() => self.on_verdict(verdict),
                Some(note) = self.inbox.notes.recv() => self.on_note(note),
                Some(news) = self.inbox.news.recv() => self.on_news(news),
                Some(arrival) = self.inbox.arrivals.recv() => self.on_arrival(arrival).await,
                () = sleep_until(deadline) => {}
            }
            self.on_time(now());
        }
        self.end();
    }

    async fn on_signal(&mut self, signal: leave::Signal) {
        match signal {
            leave::Signal::Reload => drop(self.reload().await),
            leave::Signal::End => self.leave(),
        }
    }

    async fn on_request(&mut self, request: Request) {
        // Whoever asked may have gone away meanwhile: then the answer is dropped.
        match request {
            Request::Status(answer) => drop(answer.send(self.scene().status())),
            Request::Overview(answer) => {
                let events = self.events.last(OVERVIEW_EVENTS_MAX);
                drop(answer.send(api::Overview { status: self.scene().status(), events }));
            }
            Request::Metrics(answer) => drop(answer.send(metrics::render(&self.scene()))),
            Request::Follow(answer) => drop(answer.send(self.events.follow())),
            Request::Events(after, answer) => drop(answer.send(self.events.after(after))),
            Request::Pool(name, answer) => {
                let scene = self.scene();
                drop(answer.send(self.wanted.pool(&name).map(|pool| scene.pool(pool))));
            }
            Request::Change { pool, backend, change, answer } => {
                drop(answer.send(self.change(&pool, &backend, &change)));
            }
            Request::Reload(answer) => drop(answer.send(self.reload().await)),
            Request::Config(answer) => drop(answer.send(crate::config::print_masked(&self.wanted.config))),
            Request::Close { pool, backend, spread, answer } => {
                drop(answer.send(self.close(&pool, &backend, spread)));
            }
            Request::Listener { name, change, answer } => {
                drop(answer.send(self.change_listener(&name, change).await));
            }
            Request::Drain(span, answer) if self.is_succeeded() => drop((span, answer.send(Err(self.is_over())))),
            Request::Drain(span, answer) => drop(answer.send(Ok(self.drain(span)))),
            Request::Upgrade(answer) => self.upgrade(answer),
            Request::Stop => self.leaving = Some(Leaving::at_once()),
        }
    }

    /// Takes the verdicts that wait with this one: when a rack dies, its backends go in one snapshot.
    fn on_verdict(&mut self, verdict: Verdict) {
        let mut changed = self.observers.hear(&mut self.wanted, verdict);
        while let Ok(verdict) = self.inbox.verdicts.try_recv() {
            changed |= self.observers.hear(&mut self.wanted, verdict);
        }
        if changed {
            self.refresh(now());
        }
    }

    fn on_note(&mut self, note: Note) {
        let now = now();
        if self.observers.note(&mut self.wanted, note, now) {
            self.refresh(now);
        }
    }

    /// Takes the news that wait with this one: when a resolver is back, all names are in one snapshot.
    fn on_news(&mut self, news: News) {
        let (now, time) = (now(), wall_clock());
        let mut changed = self.discovery.hear(news, now, time);
        while let Ok(news) = self.inbox.news.try_recv() {
            changed |= self.discovery.hear(news, now, time);
        }
        if changed {
            let config = self.wanted.config.clone();
            self.discovery.settle(&config, time);
            self.rebuild(config);
            self.refresh(now);
        }
    }

    /// What is due. Cheap when nothing is.
    fn on_time(&mut self, now: Instant) {
        if self.observers.next_deadline().is_some_and(|due| due <= now) {
            self.observers.expire(&mut self.wanted, now);
            self.refresh(now);
        }
        if self.next_rise.is_some_and(|due| due <= now) {
            self.refresh(now);
        }
        let due: Vec<BackendId> = self.closes.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for backend in due {
            self.closes.remove(&backend);
            let (reason, spread) = (CloseReason::BackendDown, DOWN_SPREAD);
            self.engines.tell_all(|| Command::CloseBackend { backend, reason, spread });
        }
        if self.discovery.next_deadline().is_some_and(|due| due <= now) {
            self.discovery.ask(now, &self.inbox.teller);
        }
        if self.next_tidy.is_some_and(|due| due <= now) {
            let is_tidy = self.identities.forget(&self.wanted.in_use());
            let fades = self.wanted.fade_connect_costs();
            self.next_tidy = (!is_tidy || fades).then(|| now + TIDY_INTERVAL);
        }
        if self.limits.next_look <= now {
            self.limits.look(&self.wanted, &self.journal, &mut self.events, now);
        }
        self.sign_of_life(now);
    }

    /// When [`Self::on_time`] has something to do.
    fn next_deadline(&self) -> Option<Instant> {
        let closes = self.closes.values().min().copied();
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        let leaving = self.leaving.as_ref().map(|leaving| leaving.next_look);
        let ejected = self.observers.next_deadline();
        let asked = self.discovery.next_deadline();
        let looks = Some(self.limits.next_look);
        [looks, self.next_rise, self.next_tidy, asked, ejected, closes, watchdog, leaving].into_iter().flatten().min()
    }

    fn sign_of_life(&mut self, now: Instant) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) else { return };
        watchdog.next = now + watchdog.interval;
        if watchdog.pulse.beats(self.engines.running(&self.counts)) {
            notify::alive();
        } else {
            tracing::error!("a worker does not turn any more: no sign of life for the service manager");
            self.events.tell(EventKind::ThreadStuck, About::default(), "a worker does not turn any more");
        }
        // So that also an idle worker has turned by the next look.
        self.engines.tell_all(|| Command::Wake);
    }

    /// The one funnel after every change: tells what has changed, starts what follows from it, publishes.
    fn refresh(&mut self, now: Instant) {
        let time = wall_clock();
        for pool in &mut self.wanted.pools {
            for backend in &mut pool.backends {
                let change = backend.tell(&pool.config, now, time);
                if let Some((from, to)) = change.state {
                    report(pool.config.name.as_str(), backend, from, to, &pool.config);
                    self.events.backend(&pool.config, backend, from, to);
                }
                let Some(id) = backend.id() else { continue };
                if let Some(delay) = change.close {
                    self.closes.insert(id, now + delay);
                } else if !backend.told.down || !matches!(pool.config.on_down, Some(OnDown::CloseAfter(_))) {
                    // It is back, or the file says otherwise by now.
                    self.closes.remove(&id);
                }
            }
        }
        self.events.look_at_pools(&self.wanted);
        self.next_rise = publish::next_rise(&mut self.wanted, now);
        let before: Arc<Snapshot> = self.publisher.current();
        self.publisher.publish(publish::build(&self.wanted, self.max_connections, Some(&before), now));
        self.engines.tell_all(|| Command::Wake);
        self.tell_status();
    }

    fn tell_status(&mut self) {
        let backends = self.wanted.pools.iter().flat_map(|pool| pool.backends.iter().map(|b| b.state(&pool.config)));
        let (up, all) = backends.fold((0, 0), |(up, all), state| (up + u32::from(state == State::Up), all + 1));
        let (listeners, pools) = (self.wanted.listeners.len(), self.wanted.pools.len());
        let status = format!("{listeners} listeners, {pools} pools, {up}/{all} backends up");
        if status != self.status {
            notify::status(&status);
            self.status = status;
        }
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            wanted: &self.wanted,
            discovery: &self.discovery,
            listeners: &self.listeners,
            threads: self.engines.running(&self.counts),
            workers: self.engines.workers.count(),
            routes: self.engines.gateway.routes(),
            journal: &self.journal,
            generation: self.publisher.current().generation,
            max_connections: self.max_connections,
            fds_limit: self.fds_limit,
            fds_open: crate::sys::process::open_fds().unwrap_or(0),
            started: self.started,
            last_reload: self.last_reload,
            draining: self.leaving.as_ref().map(Leaving::until),
            now: now(),
        }
    }
}

/// Logs a change of state, once, with its reason.
fn report(pool: &str, backend: &wanted::Backend, from: State, to: State, config: &crate::config::Pool) {
    let (name, from, why) = (backend.name.as_str(), from.as_str(), backend.why(config));
    match to {
        State::Down | State::Ejected | State::Unresolved => {
            tracing::warn!(pool, backend = name, from, to = to.as_str(), why, "backend lost");
        }
        _ => tracing::info!(pool, backend = name, from, to = to.as_str(), why, "backend changed"),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The engine's clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// The time of day, for people.
#[allow(clippy::disallowed_methods)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
