//! What requests of one thread share of a pool: the line of those who wait for a place, and what is left for retries.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::config::http::Retry;
use crate::id::PoolId;
use crate::snapshot::Pool;

/// Retries that a pool may have beyond its budget's share, so that a few requests have one too.
const RETRIES_AT_LEAST: f32 = 3.0;
/// What a quiet pool saves up.
const RETRIES_SAVED_MAX: f32 = 10.0;

/// Those who wait for a place in a pool: first come, first served.
#[derive(Default)]
pub struct Lines(RefCell<BTreeMap<PoolId, Rc<Line>>>);

#[derive(Default)]
struct Line {
    len: Cell<u32>,
    called: Notify,
}

/// A place in the line, given up on drop.
pub struct Waiting(Rc<Line>);

impl Lines {
    /// Lines up, unless as many as the pool wants wait already.
    pub fn join(&self, pool: &Pool) -> Option<Waiting> {
        let line = self.0.borrow_mut().entry(pool.id).or_default().clone();
        if line.len.get() >= pool.config.queue.max {
            return None;
        }
        line.len.set(line.len.get() + 1);
        Some(Waiting(line))
    }

    /// A place has come free: the first in line looks.
    pub fn call(&self, pool: PoolId) {
        let mut lines = self.0.borrow_mut();
        let Some(line) = lines.get(&pool) else { return };
        if line.len.get() == 0 {
            lines.remove(&pool);
        } else {
            line.called.notify_one();
        }
    }
}

impl Waiting {
    /// Waits until called.
    pub async fn turn(&self) {
        self.0.called.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.len.set(self.0.len.get() - 1);
    }
}

/// What pools have for retries: each request earns a share of one.
#[derive(Default)]
pub struct Budgets(RefCell<BTreeMap<PoolId, f32>>);

impl Budgets {
    /// A request of this pool has come.
    pub fn earn(&self, pool: PoolId, retry: Option<&Retry>) {
        let Some(retry) = retry else { return };
        let mut budgets = self.0.borrow_mut();
        let saved = budgets.entry(pool).or_insert(RETRIES_AT_LEAST);
        *saved = (*saved + f32::from(retry.budget.0) / 100.0).min(RETRIES_SAVED_MAX);
    }

    /// Forgets all other pools.
    pub fn retain(&self, stays: impl Fn(PoolId) -> bool) {
        self.0.borrow_mut().retain(|pool, _| stays(*pool));
    }

    /// Whether there is one.
    pub fn has_one(&self, pool: PoolId) -> bool {
        self.0.borrow().get(&pool).is_some_and(|saved| *saved >= 1.0)
    }

    /// Takes one.
    pub fn spend(&self, pool: PoolId) {
        if let Some(saved) = self.0.borrow_mut().get_mut(&pool) {
            *saved -= 1.0;
        }
    }
}
