//! What the file asks of the host: how many connections and flows at once, and which key says so.

use std::num::NonZeroU32;

use super::facts::Facts;
use crate::config::{Config, Listener, Protocol};
use crate::control::capacity;

/// The file beside the host.
#[derive(Debug)]
pub struct Plan<'f> {
    pub config: &'f Config,
    pub facts: &'f Facts,
    /// File descriptors.
    pub nofile: u64,
    /// Connections at once that the file names, and the key.
    pub given: Option<(u64, String)>,
    /// Connections at once: those that the file names, else those that the descriptors allow.
    pub connections: u64,
    /// Flows at once that the file allows.
    pub flows: u64,
}

impl<'f> Plan<'f> {
    pub fn new(config: &'f Config, facts: &'f Facts) -> Self {
        let most = facts.number("fs.nr_open").unwrap_or(u64::MAX);
        let nofile = facts.holder.nofile.unwrap_or(u64::MAX).min(most);
        let given = given(config);
        let allowed = || u64::from(capacity::max_connections(config, nofile, facts.workers));
        let connections = match &given {
            _ if !capacity::carries_connections(config) => 0,
            Some((given, _)) => *given,
            None => allowed(),
        };
        Self { config, facts, nofile, given, connections, flows: capacity::max_flows(config) }
    }

    /// The listeners for TCP and HTTP.
    pub fn streams(&self) -> impl Iterator<Item = &'f Listener> {
        streams(self.config)
    }

    /// "process.max_connections = 20000", or what stands in its place.
    pub fn reason(&self) -> String {
        match &self.given {
            Some((_, key)) => key.clone(),
            None => {
                format!("the file names no max_connections, and {} descriptors allow {}", self.nofile, self.connections)
            }
        }
    }

    /// The configuration with the number of connections that it names in one place.
    pub fn sized(&self) -> Config {
        let mut config = self.config.clone();
        let given = self.given.as_ref().and_then(|(given, _)| NonZeroU32::new(u32::try_from(*given).ok()?));
        config.process.max_connections = given;
        config
    }
}

fn streams(config: &Config) -> impl Iterator<Item = &Listener> {
    config
        .listeners
        .iter()
        .map(|listener| &**listener)
        .filter(|listener| !matches!(listener.protocol, Protocol::Udp(_)))
}

fn given(config: &Config) -> Option<(u64, String)> {
    if let Some(max) = config.process.max_connections {
        return Some((max.get().into(), format!("process.max_connections = {max}")));
    }
    // One without a limit takes as many as there may be.
    let limited: Option<Vec<_>> =
        streams(config).map(|listener| Some((&listener.name, listener.max_connections?))).collect();
    let limited = limited?;
    let sum: u64 = limited.iter().map(|(_, max)| u64::from(max.get())).sum();
    let sum = sum.min(u32::MAX.into());
    match limited.as_slice() {
        [] => None,
        [(name, max)] => Some((sum, format!("listener.{name}.max_connections = {max}"))),
        several => Some((sum, format!("max_connections of {} listeners, {sum} together", several.len()))),
    }
}
