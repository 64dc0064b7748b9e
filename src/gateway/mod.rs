//! The HTTP gateway: an engine like the workers, on tokio, with HTTP/1.1 of its own around httparse and HTTP/2 by hyper.
//!
//! Each of its threads has a runtime of its own, its own sockets (SO_REUSEPORT), and its own connections to the backends:
//! a request is served from its first byte to its last on one core, and no lock is on its way.
//!
//! `thread` takes commands and has its clients from `accept`, which listens by `door`s; `client` carries one connection of a
//! client, once it has heard its `greeting` (in front of which there may be what `proxied` reads), under `watch`, by `http1`
//! or `http2`, whose streams are watched by their `motion`. `exchange` carries one request through `canonical`, `route` and
//! `policy`, and past a `breaker`, which has it on `trial`, to `forward`, which chooses a backend and sends, perhaps after a
//! while in `line`; `dial` makes the connections, `backend` keeps them, `links` ends them, `body` and `tunnel` carry what
//! follows the headers, `reply` is what the gateway says itself. Heads go from one to the other as a `message`; what the
//! names of its fields mean says `meaning`. A thread has one `clock`.

mod accept;
mod backend;
mod body;
pub mod breaker;
mod budgets;
pub mod canonical;
mod client;
mod clock;
mod dial;
mod door;
mod exchange;
mod forward;
pub mod forwarded;
mod greeting;
pub mod http1;
mod http2;
mod io;
mod line;
mod links;
pub mod meaning;
pub mod message;
mod motion;
pub mod policy;
mod proxied;
mod record;
pub mod refusal;
mod reply;
pub mod route;
mod sites;
mod stats;
mod sticky;
mod thread;
mod trial;
mod tunnel;
mod watch;

use std::io as stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::access::Journal;
use crate::config::Access;
use crate::engine::{Command, Notes};
use crate::snapshot::View;
use crate::stats::{RouteCounts, WorkersStats};
pub use sites::Registry;

/// What its threads share.
#[derive(Clone)]
pub struct Shared {
    /// Pin thread i to core i.
    pub pin: bool,
    /// Which events go into the journal.
    pub access: Access,
    /// The snapshot of now.
    pub view: View,
    /// One cell for each thread of all engines; the gateway's are the last ones.
    pub threads: WorkersStats,
    /// The first of them.
    pub first: usize,
    /// The access log's buffer.
    pub journal: Arc<Journal>,
    /// Where notes go.
    pub notes: Notes,
    /// Routes and policies, and what is kept for them.
    pub registry: Arc<Registry>,
    /// Time is counted from here.
    pub start: Instant,
}

impl Shared {
    /// This moment for limits and breakers.
    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

/// The gateway. Its threads start with the first listener for HTTP: who has none pays nothing.
pub struct Gateway {
    shared: Shared,
    threads: Vec<(mpsc::UnboundedSender<Command>, JoinHandle<()>)>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// How many threads it has beside so many workers.
pub const fn threads_beside(workers: usize) -> usize {
    workers
}

impl Gateway {
    /// Without a thread yet.
    pub fn new(shared: Shared) -> Self {
        Self { shared, threads: Vec::new() }
    }

    /// What was counted of each route.
    pub fn routes(&self) -> Vec<RouteCounts> {
        self.shared.registry.counts()
    }

    /// Whether it has threads.
    pub fn is_running(&self) -> bool {
        !self.threads.is_empty()
    }

    /// Starts its threads, unless they run.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made. Those that run already end then.
    pub fn start(&mut self) -> stdio::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let mut threads = Vec::new();
        for index in self.shared.first..self.shared.threads.len() {
            let (commands, inbox) = mpsc::unbounded_channel();
            let shared = self.shared.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("gateway-{}", index - self.shared.first));
            let thread = thread.spawn(move || thread::run(index, shared, runtime, inbox))?;
            threads.push((commands, thread));
        }
        self.threads = threads;
        Ok(())
    }

    /// Tells one thread, by its place among them.
    pub fn tell(&self, thread: usize, command: Command) {
        if let Some((commands, _)) = self.threads.get(thread) {
            // A thread ends only by Stop, or with the process.
            let _ = commands.send(command);
        }
    }

    /// Tells all threads the same.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.threads.len()).for_each(|thread| self.tell(thread, command()));
    }

    /// Waits until every thread has ended, after [`Command::Stop`].
    pub fn join(self) {
        for (_, thread) in self.threads {
            // A thread that panicked has taken the process with it (panic = "abort" in releases).
            let _ = thread.join();
        }
    }
}
