//! The engines, as one: the threads of the workers, then those of the gateway.

use std::io;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::listeners::{Bound, Order};
use super::now;
use crate::access::Journal;
use crate::engine::{Command, Notes};
use crate::gateway::{self, Gateway};
use crate::snapshot::View;
use crate::stats::{WorkerStats, WorkersStats};
use crate::worker::{Options, Workers};

/// All threads that carry traffic.
#[derive(Debug)]
pub struct Engines {
    /// TCP and UDP.
    pub workers: Workers,
    /// HTTP.
    pub gateway: Gateway,
}

impl Engines {
    /// Starts so many workers, and lays out a gateway beside them.
    ///
    /// # Errors
    /// When a thread, a poll or a wake-up descriptor cannot be made.
    pub fn start(
        count: usize,
        options: &Options,
        view: &View,
        counts: &WorkersStats,
        journal: &Arc<Journal>,
        notes: &Notes,
    ) -> io::Result<Self> {
        let workers = Workers::start(count, options, view, counts, journal, notes)?;
        let gateway = Gateway::new(gateway::Shared {
            pin: options.pin,
            access: options.access,
            view: view.clone(),
            threads: counts.clone(),
            first: count,
            journal: journal.clone(),
            notes: notes.clone(),
            registry: Arc::default(),
            start: now(),
        });
        Ok(Self { workers, gateway })
    }

    /// Sees to it that the threads run that these sockets are for: the gateway's start with the first of them.
    ///
    /// # Errors
    /// When one cannot start. None of them runs then.
    pub fn prepare(&mut self, bound: &Bound) -> io::Result<()> {
        if bound.has_http() { self.gateway.start() } else { Ok(()) }
    }

    /// Gives each thread its orders.
    pub fn order(&self, orders: Vec<Order>) {
        let workers = self.workers.count();
        for (thread, command) in orders {
            match thread.checked_sub(workers) {
                None => self.workers.tell(thread, command),
                Some(thread) => self.gateway.tell(thread, command),
            }
        }
    }

    /// Tells all threads the same.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        self.workers.tell_all(&command);
        self.gateway.tell_all(&command);
    }

    /// The counts of those threads that run.
    pub fn running<'c>(&self, counts: &'c WorkersStats) -> &'c [CachePadded<WorkerStats>] {
        if self.gateway.is_running() { counts } else { &counts[..self.workers.count()] }
    }

    /// Waits until every thread has ended, after [`Command::Stop`].
    pub fn join(self) {
        self.workers.join();
        self.gateway.join();
    }
}
