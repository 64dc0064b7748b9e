//! A request in a pool's queue, where it stands in one line with all others, and with connections of TCP.

use std::sync::Arc;
use std::task::Wake;

use tokio::sync::Notify;

use crate::queue::Ticket;
use crate::snapshot::Pool;
use crate::stats::PoolStats;

/// A place in the queue, given up on drop.
pub struct Waiting {
    pool: Arc<PoolStats>,
    ticket: Ticket,
    turn: Arc<Turn>,
}

/// Where its turn is told.
#[derive(Default)]
struct Turn(Notify);

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Waiting {
    /// Lines up, unless as many as the pool wants wait already.
    pub fn join(pool: &Pool) -> Option<Self> {
        let turn = Arc::new(Turn::default());
        let ticket = pool.stats.queue.join(turn.clone().into(), pool.config.queue.max)?;
        Some(Self { pool: pool.stats.clone(), ticket, turn })
    }

    /// Waits until it is its turn to look, which it answers by [`Self::back`] or by leaving.
    pub async fn turn(&self) {
        self.turn.0.notified().await;
    }

    /// There was nothing: it is the first in line again.
    pub fn back(&self) {
        self.pool.queue.back();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.queue.leave(self.ticket);
    }
}
