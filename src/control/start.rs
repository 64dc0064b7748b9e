//! Coming up: what can fail comes first, and nothing is left behind when it does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::desk::Desk;
use super::discovery::{self, Discovery, News, Teller};
use super::doors;
use super::engines::Engines;
use super::events::{About, Events};
use super::identities::Identities;
use super::inherited::{Inherit, Inherited, Keeper};
use super::leave::Signals;
use super::limits::Limits;
use super::listeners::{Bound, Listeners};
use super::observe::Observers;
use super::source::Source;
use super::upgrade::Offer;
use super::upgrade::receive::{self, Collected, Heirs, Predecessor};
use super::upgrade::state::{self, Places};
use super::wanted::{Place, Wanted};
use super::{Failure, Inbox, Supervisor, TIDY_INTERVAL, Watchdog, capacity, log, notify, now, publish, store};
use super::{udp, wall_clock};
use crate::access::Journal;
use crate::api::EventKind;
use crate::config::{Access, Config, Protocol};
use crate::engine::{Answer, Command, HandOver, Note, Notes};
use crate::gateway;
use crate::handover::{Inventory, Prepared};
use crate::snapshot;
use crate::sys::datagram::Offload;
use crate::sys::rights;
use crate::worker;

/// Notes of workers that wait for the supervisor; what comes beyond is lost, which costs a hint at most.
const NOTES_MAX: usize = 1024;
/// Assumed where the system does not tell its limit.
const FDS_FALLBACK: u64 = 1024;

/// Brings all up: from nothing, or from what a predecessor hands over.
pub(super) async fn start(
    source: Source,
    mut inherited: Inherited,
    desk: Desk,
    predecessor: &mut Option<Predecessor>,
) -> Result<Supervisor, Failure> {
    let (offer, arrivals) = Offer::new(&source);
    let mut config = read(&source)?;
    let signals = Signals::catch()?;
    let Host { workers, fds_limit, offload, shortages } = Host::of(&mut config);
    let config = Arc::new(config);
    let (teller, mut news) = mpsc::channel(discovery::NEWS_MAX);
    let (ears, open) = ((&teller, &mut news), Listeners::new(workers, offload));
    let Claimed { doors, discovery, listeners, bound, inventory } = match predecessor {
        None => claim(&config, open, &mut inherited, ears).await?,
        Some(predecessor) => succeed(&config, open, &mut inherited, predecessor, ears).await?,
    };
    let threads = workers + gateway::threads_beside(workers);
    let mut identities = Identities::new(threads);
    let mut wanted = Wanted::build(config.clone(), None, &discovery, &mut identities, wall_clock());
    let now = now();
    let closes = inventory.as_ref().map(|known| state::learn(&mut wanted, known, now)).unwrap_or_default();
    let max_connections = capacity::max_connections(&config, fds_limit, workers);
    log_start(&wanted, workers, max_connections, fds_limit);
    log_limits(&config, shortages, &bound, offload);
    let (publisher, view) = snapshot::channel(publish::build(&wanted, max_connections, None, now));
    let journal = Arc::new(Journal::default());
    let access_log = start_access_log(&config, &journal)?;
    let counts = crate::stats::workers(threads);
    let (notes, noted) = notes();
    let clock = inventory.as_ref().and_then(|known| clock_of(known, now)).unwrap_or(now);
    let options = options(&config, fds_limit, workers, offload, clock);
    let engines = Engines::start(workers, &options, &view, &counts, &journal, &notes)
        .map_err(|error| Failure::System { what: "the workers", error })?;

    let (observers, verdicts) = Observers::new();
    let mut supervisor = Supervisor {
        source,
        wanted,
        discovery,
        identities,
        listeners,
        inherited,
        observers,
        publisher,
        engines,
        counts,
        journal,
        events: Events::new(),
        limits: Limits::new(now),
        access_log,
        doors: doors::Doors::default(),
        offer,
        signals,
        inbox: Inbox { verdicts, notes: noted, news, teller, arrivals },
        closes: closes.into_iter().collect(),
        next_rise: None,
        next_tidy: Some(now + TIDY_INTERVAL),
        watchdog: watchdog(now),
        leaving: None,
        max_connections,
        fds_limit,
        started: now,
        clock,
        last_reload: (wall_clock(), true),
        status: String::new(),
    };
    supervisor.begin(bound, doors, &desk, predecessor, inventory).await?;
    Ok(supervisor)
}

/// What the host gives.
struct Host {
    workers: usize,
    fds_limit: u64,
    offload: Offload,
    /// What it does not, for all that the file asks for: connections, flows.
    shortages: [Option<String>; 2],
}

impl Host {
    /// Cuts what the file wants of flows to what there is.
    fn of(config: &mut Config) -> Self {
        let workers = capacity::workers(config);
        let fds_limit = crate::sys::process::raise_nofile().unwrap_or(FDS_FALLBACK);
        let shortage = capacity::shortage(config, fds_limit, workers);
        let cut = capacity::fit_flows(config, fds_limit, workers);
        Self { workers, fds_limit, offload: Offload::probe(), shortages: [shortage, cut] }
    }
}

/// Reads the file, and begins to log as it wants it.
fn read(source: &Source) -> Result<Config, Failure> {
    let read = source.read().map_err(Failure::File)?;
    log::set_up(&read.config.process.log);
    read.warnings.iter().for_each(|warning| log::warn(&warning.render(false)));
    Ok(read.config)
}

/// When the workers' clock of the predecessor was at 0.
fn clock_of(known: &Inventory, now: Instant) -> Option<Instant> {
    now.checked_sub(rights::monotonic().saturating_sub(Duration::from_micros(known.start_us)))
}

impl Supervisor {
    /// Everything is there: takes over what a predecessor has, listens, and answers.
    async fn begin(
        &mut self,
        mut bound: Bound,
        doors: doors::Closed,
        desk: &Desk,
        predecessor: &mut Option<Predecessor>,
        inventory: Option<Inventory>,
    ) -> Result<(), Failure> {
        let has_admin = |known: &Inventory| match (&known.admin, &doors.admin) {
            (Some(theirs), Some((_, ours))) => ours.describe() == *theirs,
            _ => false,
        };
        let prepared = self.engines.prepare(&bound);
        prepared.map_err(|error| Failure::System { what: "the threads for HTTP", error })?;
        let mut collected = Collected::default();
        let (mut last_id, mut left) = (0, Vec::new());
        if let (Some(predecessor), Some(known)) = (predecessor.as_mut(), &inventory) {
            let prepared = Prepared { left: self.listeners.left(), admin: has_admin(known) };
            let heirs = Heirs { places: Places::of(&self.wanted), inlets: self.listeners.inlets(&bound) };
            // From here on there is no way back: what fails is told, and this process serves.
            let (all, commit) = predecessor.take_over(prepared, heirs, self.engines.workers.count()).await?;
            (collected, last_id) = (all, commit.last_id);
            state::count_on(&self.wanted, commit);
            self.limits.learn(&self.wanted, &self.journal, now());
            left = self.listeners.left_names();
            self.listeners.forget_left();
            if let Err(error) = self.listeners.fill(&mut bound, &self.wanted.config) {
                tracing::error!("not every worker has a socket of its own, the others share theirs: {error}");
            }
        }
        self.observers.set(&mut self.wanted);
        self.doors = doors.open(desk, self.wanted.config.process.status_page);
        // Flows must be there before the first datagram of their clients, and the sockets that it comes to before them.
        self.engines.workers.tell_all(|| Command::HandOver(HandOver::Pause(Answer::new(drop))));
        let orders = self.listeners.keep(bound, |name| self.wanted.listener_id(name));
        let ordered = orders.map(|orders| self.engines.order(orders));
        for (worker, (pairs, flows)) in collected.pairs.into_iter().zip(collected.flows).enumerate() {
            self.engines.workers.tell(worker, Command::HandOver(HandOver::Adopt { last_id, pairs, flows }));
        }
        self.engines.workers.tell_all(|| Command::HandOver(HandOver::Resume));
        match (ordered, predecessor.take()) {
            (Err(error), None) => return Err(Failure::System { what: "the listeners' sockets", error }),
            (ordered, Some(predecessor)) => {
                let config = self.wanted.config.clone();
                let configured = self.listeners.configure(&config).map_err(|error| error.to_string());
                for error in ordered.map_err(|error| error.to_string()).err().into_iter().chain(configured.err()) {
                    tracing::error!(
                        "not all sockets of the predecessor could be taken over as the file has them: {error}"
                    );
                }
                // The service manager hears only the main process, which this is from then on.
                predecessor.farewell().await;
                tracing::info!("upgrade: this process serves from now on");
                self.refresh(now());
            }
            (Ok(()), None) => self.tell_status(),
        }
        left.iter().for_each(|gone| store::forget(gone));
        self.listeners.store();
        self.events.tell(EventKind::Started, About::default(), concat!("evener ", env!("CARGO_PKG_VERSION")));
        self.events.look_at_pools(&self.wanted);
        notify::ready(&self.status);
        Ok(())
    }
}

fn watchdog(now: Instant) -> Option<Watchdog> {
    notify::watchdog_interval().map(|interval| Watchdog { interval, next: now, pulse: notify::Pulse::default() })
}

/// What only one process can have, and what takes time to know.
struct Claimed {
    doors: doors::Closed,
    discovery: Discovery,
    listeners: Listeners,
    bound: Bound,
    /// What a predecessor has.
    inventory: Option<Inventory>,
}

/// Claims it; what was had before a failure is given back.
async fn claim(
    config: &Config,
    mut listeners: Listeners,
    inherited: &mut Inherited,
    ears: (&Teller, &mut mpsc::Receiver<News>),
) -> Result<Claimed, Failure> {
    inherited.verify(config)?;
    // First of all, because it tells a second process on the same file from any other trouble.
    let doors = doors::Closed::claim(config, inherited).await?;
    let bound = listeners.bind(config, inherited)?;
    inherited.settle();
    let mut discovery = Discovery::default();
    discovery.wait(config, discovery::START_PATIENCE, ears).await;
    Ok(Claimed { doors, discovery, listeners, bound, inventory: None })
}

/// The same for a successor: what a predecessor has goes from hand to hand.
async fn succeed(
    config: &Config,
    mut listeners: Listeners,
    inherited: &mut Inherited,
    predecessor: &mut Predecessor,
    ears: (&Teller, &mut mpsc::Receiver<News>),
) -> Result<Claimed, Failure> {
    // First of all, because the predecessor goes on with all its work until it has heard of us.
    let mut discovery = Discovery::default();
    discovery.wait(config, discovery::START_PATIENCE, ears).await;
    let receive::Inherited { inventory, mut sockets } = predecessor.hello().await?;
    discovery.inherit(config, &inventory.discovered, wall_clock());
    let count = inventory.listening.iter().map(|listening| listening.sockets).sum();
    let mut others = sockets.split_off(sockets.len().min(count)).into_iter();
    let units = inventory.units.iter().cloned().zip(others.by_ref());
    *inherited = Inherited::new(units.map(|(name, socket)| Inherit { name, socket, keeper: Keeper::Unit }));
    inherited.verify(config)?;
    listeners.inherit(&inventory.listening, sockets.into_iter());
    let admin = inventory.admin.clone().and_then(|admin| Some((others.next()?, admin)));
    let metrics = inventory.metrics.and_then(|address| Some((others.next()?, address)));
    let doors = doors::Closed::succeed(config, admin, metrics).await?;
    let is_drained = |name: &str| inventory.drained.iter().any(|(drained, _)| drained == name);
    let mut listening = config.clone();
    // Sockets for datagrams stay, for replies leave by them.
    listening.listeners.retain(|one| matches!(one.protocol, Protocol::Udp(_)) || !is_drained(&one.name));
    let bound = listeners.bind(&listening, inherited)?;
    Ok(Claimed { doors, discovery, listeners, bound, inventory: Some(inventory) })
}

fn options(config: &Config, fds: u64, workers: usize, offload: Offload, start: Instant) -> worker::Options {
    worker::Options {
        pin: config.process.pin,
        busy_poll: config.process.busy_poll,
        pipes_max: capacity::pipes(config, fds, workers),
        access: config.process.log.access,
        offload,
        start,
    }
}

/// Where workers put their notes.
fn notes() -> (Notes, mpsc::Receiver<Note>) {
    let (sender, notes) = mpsc::channel(NOTES_MAX);
    let put = move |note| {
        // Full: the supervisor has plenty to act on already.
        let _ = sender.try_send(note);
    };
    (Arc::new(put), notes)
}

fn start_access_log(config: &Config, journal: &Arc<Journal>) -> Result<Option<log::AccessLog>, Failure> {
    let options = &config.process.log;
    if options.access == Access::Off {
        return Ok(None);
    }
    // Without the buffer of the standard library, so that it is known which events were not written.
    let out = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    out.and_then(|out| log::AccessLog::start(journal.clone(), options.format, out))
        .map(Some)
        .map_err(|error| Failure::System { what: "the access log's thread", error })
}

fn log_start(wanted: &Wanted, workers: usize, max_connections: u32, fds_limit: u64) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workers,
        max_connections,
        fds_limit,
        admin = %wanted.config.process.admin.as_deref().unwrap_or(Path::new("off")).display(),
        "evener starts"
    );
    for pool in &wanted.pools {
        if pool.backends.is_empty() {
            tracing::warn!(
                pool = pool.config.name,
                "no backend has been discovered yet: there is nobody to serve its clients"
            );
        }
        for backend in &pool.backends {
            if let Place::Unresolved(why) = &backend.place {
                tracing::warn!(pool = pool.config.name, backend = backend.name, why, "backend lost");
            }
        }
    }
}

/// What the host does not give, or not in full.
fn log_limits(config: &Config, [shortage, cut]: [Option<String>; 2], bound: &Bound, offload: Offload) {
    if let Some(shortage) = shortage {
        tracing::warn!("{shortage}");
    }
    if let Some(cut) = cut {
        tracing::info!("{cut}");
    }
    if udp::is_in(config) {
        udp::tell(offload);
    }
    if let Some(shortage) = bound.receive_buffer_bytes().and_then(udp::shortage) {
        tracing::warn!("{shortage}");
    }
}
