//! What the pools have left for retries, as requests of one thread have earned it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::config::http::Retry;
use crate::id::PoolId;

/// Retries that a pool may have beyond its budget's share, so that a few requests have one too.
const RETRIES_AT_LEAST: f32 = 3.0;
/// What a quiet pool saves up.
const RETRIES_SAVED_MAX: f32 = 10.0;

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
