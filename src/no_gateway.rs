//! In place of `gateway` in a build without it: the same names, behind which nothing runs.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::access::Journal;
use crate::config::Access;
use crate::engine::{Command, Notes};
use crate::snapshot::View;
use crate::stats::{RouteCounts, WorkersStats};

/// What the gateway would share with control.
#[allow(missing_docs)] // see `gateway::Shared`
pub struct Shared {
    pub pin: bool,
    pub access: Access,
    pub view: View,
    pub threads: WorkersStats,
    pub first: usize,
    pub journal: Arc<Journal>,
    pub notes: Notes,
    pub registry: Arc<Registry>,
    pub start: Instant,
}

/// Nothing is kept.
#[derive(Default)]
pub struct Registry;

/// It never runs.
#[derive(Debug)]
pub struct Gateway;

/// None.
pub const fn threads_beside(_workers: usize) -> usize {
    0
}

impl Gateway {
    /// Nothing.
    pub fn new(_: Shared) -> Self {
        Self
    }

    /// None.
    pub fn routes(&self) -> Vec<RouteCounts> {
        Vec::new()
    }

    /// Never.
    pub fn is_running(&self) -> bool {
        false
    }

    /// There is no listener for HTTP that it could be for.
    ///
    /// # Errors
    /// Never.
    pub fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Nobody.
    pub fn tell(&self, _thread: usize, _command: Command) {}

    /// Nobody.
    pub fn tell_all(&self, _command: impl Fn() -> Command) {}

    /// At once.
    pub fn join(self) {}
}
