//! A request that a pool's breaker has let through, until it has said how it went.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::breaker::{Breaker, Pass};
use super::refusal::Refusal;
use super::thread::Thread;
use crate::snapshot::Pool;

/// See the module. Dropped, it says nothing about the backends: its client went away, for instance.
pub struct Trial<'t> {
    thread: &'t Thread,
    pool: &'t Pool,
    breaker: Arc<Mutex<Breaker>>,
    pass: Pass,
    is_good: Option<bool>,
}

impl<'t> Trial<'t> {
    /// Asks the pool's breaker, if it has one.
    ///
    /// # Errors
    /// When it is open.
    pub fn begin(thread: &'t Thread, pool: &'t Pool) -> Result<Option<Self>, Refusal> {
        let Some(breaker) = thread.shared.registry.breaker(pool) else { return Ok(None) };
        let pass = lock(&breaker).admit(thread.since_start()).ok_or(Refusal::BreakerOpen)?;
        Ok(Some(Self { thread, pool, breaker, pass, is_good: None }))
    }

    /// Whether the backends did well; `None` when it was not up to them.
    pub fn end(mut self, is_good: Option<bool>) {
        self.is_good = is_good;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if lock(&self.breaker).note(self.pass, self.is_good, self.thread.since_start()) {
            tracing::warn!(pool = self.pool.config.name, "too many answers are errors: the breaker is open");
        }
    }
}

fn lock(breaker: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}
