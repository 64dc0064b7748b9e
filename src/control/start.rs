//! Coming up: what can fail comes first, and nothing is left behind when it does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::desk::{Desk, Request};
use super::discovery::{self, Discovery};
use super::engines::Engines;
use super::identities::Identities;
use super::inherited::{InheritError, Inherited};
use super::leave::Signals;
use super::listeners::{Bound, Listeners};
use super::observe::Observers;
use super::source::Source;
use super::wanted::{Place, Wanted};
use super::{Failure, Inbox, Supervisor, TIDY_INTERVAL, Watchdog, admin, capacity, http, log, notify, now, publish};
use super::{udp, wall_clock};
use crate::access::Journal;
use crate::config::{Access, Config};
use crate::engine::{Note, Notes};
use crate::gateway;
use crate::snapshot;
use crate::sys::datagram::Offload;
use crate::worker;

/// Notes of workers that wait for the supervisor; what comes beyond is lost, which costs a hint at most.
const NOTES_MAX: usize = 1024;
/// Assumed where the system does not tell its limit.
const FDS_FALLBACK: u64 = 1024;

/// Brings all up.
pub(super) async fn start(source: Source, mut inherited: Inherited, desk: Desk) -> Result<Supervisor, Failure> {
    let read = source.read().map_err(Failure::File)?;
    let mut config = read.config;
    log::set_up(&config.process.log);
    read.warnings.iter().for_each(|warning| log::warn(&warning.render(false)));
    let signals = Signals::catch()?;
    let workers = capacity::workers(&config);
    let fds_limit = crate::sys::process::raise_nofile().unwrap_or(FDS_FALLBACK);
    let shortage = capacity::shortage(&config, fds_limit, workers);
    let cut = capacity::fit_flows(&mut config, fds_limit, workers);
    let config = Arc::new(config);
    let offload = Offload::probe();

    let Claimed { admin, metrics, listeners, bound } = claim(&config, workers, offload, &mut inherited).await?;
    let (teller, mut news) = mpsc::channel(discovery::NEWS_MAX);
    let mut discovery = Discovery::default();
    discovery.wait(&config, discovery::START_PATIENCE, (&teller, &mut news)).await;
    let threads = workers + gateway::threads_beside(workers);
    let mut identities = Identities::new(threads);
    let mut wanted = Wanted::build(config.clone(), None, &discovery, &mut identities, wall_clock());
    let max_connections = capacity::max_connections(&config, fds_limit, workers);
    log_start(&wanted, workers, max_connections, fds_limit);
    log_limits(&config, shortage, cut, &bound, offload);
    let (publisher, view) = snapshot::channel(publish::build(&wanted, max_connections, None, now()));
    let journal = Arc::new(Journal::default());
    let access_log = start_access_log(&config, &journal)?;
    let counts = crate::stats::workers(threads);
    let (notes, noted) = notes();
    let options = options(&config, fds_limit, workers, offload);
    let engines = Engines::start(workers, &options, &view, &counts, &journal, &notes)
        .map_err(|error| Failure::System { what: "the workers", error })?;

    let (mut observers, verdicts) = Observers::new();
    observers.set(&mut wanted);
    let now = now();
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
        access_log,
        _admin: serve(admin, metrics, &desk),
        signals,
        inbox: Inbox { verdicts, notes: noted, news, teller },
        closes: BTreeMap::new(),
        next_rise: None,
        next_tidy: Some(now + TIDY_INTERVAL),
        watchdog: watchdog(now),
        leaving: None,
        max_connections,
        fds_limit,
        started: now,
        last_reload: (wall_clock(), true),
        status: String::new(),
    };
    supervisor.listen(bound)?;
    supervisor.tell_status();
    notify::ready(&supervisor.status);
    Ok(supervisor)
}

impl Supervisor {
    /// Clients may come.
    fn listen(&mut self, bound: Bound) -> Result<(), Failure> {
        let orders = self.listeners.keep(bound, |name| self.wanted.listener_id(name));
        let orders = orders.map_err(|error| Failure::System { what: "the listeners' sockets", error })?;
        self.engines.order(orders).map_err(|error| Failure::System { what: "the gateway", error })?;
        self.listeners.store();
        Ok(())
    }
}

fn watchdog(now: Instant) -> Option<Watchdog> {
    notify::watchdog_interval().map(|interval| Watchdog { interval, next: now, pulse: notify::Pulse::default() })
}

/// What only one process can have.
struct Claimed {
    admin: Option<(tokio::net::UnixListener, admin::SocketFile)>,
    metrics: Option<tokio::net::TcpListener>,
    listeners: Listeners,
    bound: Bound,
}

/// Claims it; what was had before a failure is given back.
async fn claim(
    config: &Config,
    workers: usize,
    offload: Offload,
    inherited: &mut Inherited,
) -> Result<Claimed, Failure> {
    inherited.verify(config)?;
    // First of all, because it tells a second process on the same file from any other trouble.
    let admin = match &config.process.admin {
        Some(path) => Some(match inherited.take_admin(path).map_err(InheritError::from)? {
            Some(socket) => admin::adopt(path, socket)?,
            None => admin::bind(path).await?,
        }),
        None => None,
    };
    let metrics = bind_metrics(config, inherited).await?;
    let listeners = Listeners::new(workers, offload);
    let bound = listeners.bind(config, inherited)?;
    inherited.settle();
    Ok(Claimed { admin, metrics, listeners, bound })
}

fn options(config: &Config, fds: u64, workers: usize, offload: Offload) -> worker::Options {
    worker::Options {
        pin: config.process.pin,
        busy_poll: config.process.busy_poll,
        pipes_max: capacity::pipes(config, fds, workers),
        access: config.process.log.access,
        offload,
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

async fn bind_metrics(config: &Config, inherited: &mut Inherited) -> Result<Option<tokio::net::TcpListener>, Failure> {
    let Some(address) = config.process.metrics else { return Ok(None) };
    let listener = match inherited.take_metrics(address) {
        Ok(None) => tokio::net::TcpListener::bind(address).await,
        Ok(Some(socket)) => adopt(socket),
        Err(error) => Err(error),
    };
    match listener {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(Failure::Metrics { address, error }),
    }
}

fn adopt(socket: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
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

/// Begins to answer those who ask.
fn serve(
    admin: Option<(tokio::net::UnixListener, admin::SocketFile)>,
    metrics: Option<tokio::net::TcpListener>,
    desk: &Desk,
) -> Option<admin::SocketFile> {
    if let Some(listener) = metrics {
        let desk = desk.clone();
        tokio::spawn(http::serve(listener, move |request| scrape(desk.clone(), request)));
    }
    let (listener, file) = admin?;
    let desk = desk.clone();
    tokio::spawn(http::serve(listener, move |request| admin::answer(desk.clone(), request)));
    Some(file)
}

async fn scrape(desk: Desk, request: hyper::Request<hyper::body::Incoming>) -> http::Answer {
    use hyper::{Method, StatusCode};
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => match desk.ask(Request::Metrics).await {
            Ok(text) => http::text(StatusCode::OK, text),
            Err(gone) => http::error(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()),
        },
        ("/metrics", _) => http::not_allowed("GET"),
        _ => http::error(StatusCode::NOT_FOUND, "metrics are at /metrics"),
    }
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
fn log_limits(config: &Config, shortage: Option<String>, cut: Option<String>, bound: &Bound, offload: Offload) {
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
