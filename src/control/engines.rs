//! The engines, as one: the threads of the workers, then those of the gateway.

use std::io;

use super::listeners::Order;
use crate::engine::Command;
use crate::gateway::Gateway;
use crate::stats::{WorkerStats, WorkersStats};
use crate::worker::Workers;
use crossbeam_utils::CachePadded;

/// All threads that carry traffic.
#[derive(Debug)]
pub struct Engines {
    /// TCP and UDP.
    pub workers: Workers,
    /// HTTP.
    pub gateway: Gateway,
}

impl Engines {
    /// Gives each thread its orders. The gateway starts when the first one is for it.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn order(&mut self, orders: Vec<Order>) -> io::Result<()> {
        let workers = self.workers.count();
        for (thread, command) in orders {
            match thread.checked_sub(workers) {
                None => self.workers.tell(thread, command),
                Some(thread) => {
                    self.gateway.start()?;
                    self.gateway.tell(thread, command);
                }
            }
        }
        Ok(())
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
