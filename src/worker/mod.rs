//! The data plane: worker threads that accept clients, connect them to backends and carry their bytes.

mod accept;
mod busy_poll;
mod choose;
mod commands;
mod connection;
mod handover;
mod mailbox;
mod open;
mod secure;
mod tcp;
mod token;
mod turn;
mod udp;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use mio::{Poll, Token, Waker};

use crate::access::Journal;
use crate::config::Access;
use crate::engine::{Command, Notes};
use crate::snapshot::View;
use crate::stats::WorkersStats;
use crate::sys::datagram::Offload;
pub use crate::tcp::conduit::{PIPE_BYTES, PIPES_MAX};
use mailbox::{Mailbox, Message};
use token::Source;
use turn::{Shared, Worker};

/// How the workers run; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pin worker i to core i.
    pub pin: bool,
    /// Look for events for a moment before sleeping, while that pays.
    pub busy_poll: bool,
    /// Kernel pipes that each worker may hold, for streams; 0 = everything is copied.
    pub pipes_max: usize,
    /// Which events go into the journal.
    pub access: Access,
    /// What the kernel can do for trains of datagrams.
    pub offload: Offload,
    /// When the workers' clock was at 0: before the start, where they go on with what a predecessor has begun.
    pub start: Instant,
}

/// The running workers.
pub struct Workers {
    mailboxes: Arc<[Mailbox]>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("count", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts so many threads; theirs are the first cells of `stats`.
    ///
    /// # Errors
    /// When a thread, a poll or a wake-up descriptor cannot be made.
    pub fn start(
        count: usize,
        options: &Options,
        view: &View,
        stats: &WorkersStats,
        journal: &Arc<Journal>,
        notes: &Notes,
    ) -> io::Result<Self> {
        let polls = (0..count).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let mailboxes: Arc<[Mailbox]> = polls
            .iter()
            .map(|poll| Ok(Mailbox::new(Waker::new(poll.registry(), Token(Source::mailbox()))?)))
            .collect::<io::Result<_>>()?;
        let shared = Shared {
            options: options.clone(),
            view: view.clone(),
            mailboxes: mailboxes.clone(),
            workers: stats.clone(),
            journal: journal.clone(),
            notes: notes.clone(),
            start: options.start,
        };
        let mut threads = Vec::with_capacity(polls.len());
        for (index, poll) in polls.into_iter().enumerate() {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                if let Err(error) = Worker::new(index, poll, shared).run() {
                    tracing::error!(worker = index, %error, "the worker's event loop failed and it has ended");
                }
            })?);
        }
        Ok(Self { mailboxes, threads })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Whether all threads still run.
    pub fn alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Tells one worker.
    pub fn tell(&self, worker: usize, command: Command) {
        self.mailboxes[worker].put(Message::Command(command));
    }

    /// Tells all workers the same.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        for mailbox in self.mailboxes.iter() {
            mailbox.put(Message::Command(command()));
        }
    }

    /// Waits until every thread has ended, after [`Command::Stop`].
    pub fn join(self) {
        for thread in self.threads {
            // A worker that panicked has taken the process with it (panic = "abort" in releases).
            let _ = thread.join();
        }
    }
}
