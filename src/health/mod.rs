//! Health: asks each backend in its own protocol whether it can serve, and judges the answers.
//!
//! [`Checkers`] runs one task a backend: `checker` keeps the schedule, `probe` asks (one file a protocol), [`Judge`]
//! counts good and failed checks until the state changes. What comes out is a stream of [`Verdict`]s; who is in
//! rotation is decided by the control plane, which also feeds [`Passive`] with what connections have observed.
//!
//! Checks leave cleanly: a backend neither counts them as failed log-ins nor logs errors because of them. What each
//! protocol can and cannot promise there stands at the top of its file.

mod checker;
mod judge;
mod passive;
mod probe;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use checker::{CHECKS_AT_ONCE, Checkers, check};
pub use judge::{Change, Judge};
pub use passive::{Ejected, Passive};

use rustls::pki_types::ServerName;

use crate::config::{self, Endpoint};
use crate::id::BackendId;
use crate::tls::ToBackends;

/// A backend to check, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its identity; a check's state is kept by it.
    pub backend: BackendId,
    /// Its name in the pool.
    pub name: String,
    /// Where it is; `health.port` is applied by the check.
    pub endpoint: Endpoint,
    /// Its pool: the name, the check, `send_proxy` and `source` are looked at.
    pub pool: Arc<config::Pool>,
    /// What it counts as before its first check.
    pub is_up: bool,
    /// How it is spoken to where `health.tls` says so.
    pub tls: Option<Tls>,
}

/// How TLS is spoken in a check.
#[derive(Clone, Debug)]
pub struct Tls {
    /// As its pool does.
    pub to_backends: Arc<ToBackends>,
    /// Whom the backend must prove to be.
    pub name: ServerName<'static>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.to_backends, &other.to_backends) && self.name == other.name
    }
}

impl Target {
    /// Whether both ask the same question at the same place. Names and everything else of the pool may differ.
    fn asks_like(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint
            && self.pool.health == other.pool.health
            && self.pool.send_proxy == other.pool.send_proxy
            && self.pool.source == other.pool.source
            && self.tls == other.tls
    }
}

/// What became of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// Whether the backend gave a good answer.
    pub ok: bool,
    /// Whether a failure says something about the backend. False when this host had no file descriptor, memory or
    /// local port left to ask: such a check is reported, but not judged.
    pub blames_backend: bool,
    /// Why it failed: one line without control bytes, of at most 200 characters and an ellipsis. Empty when `ok`.
    pub why: String,
    /// From the start of the connect to the answer.
    pub took: Duration,
}

/// A check has ended: what it found, and what the backend counts as now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who was asked.
    pub backend: BackendId,
    /// What was found.
    pub check: CheckResult,
    /// The state after judging.
    pub up: bool,
    /// Set when this check has changed the state.
    pub change: Option<Change>,
}

/// The engine's clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
