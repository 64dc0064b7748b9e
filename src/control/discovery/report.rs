//! How the sources of a pool have been doing, for those who ask.

use std::collections::BTreeSet;

use super::book::Track;
use super::{Discovery, Entry, Gathered, host, services, set};
use crate::api;
use crate::config::{self, Address, Origin};

/// A source of a pool.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its sort.
    pub origin: api::Origin,
    /// What is asked for or looked at.
    pub name: String,
    /// Backends that it gave.
    pub backends: usize,
    /// How it has been doing.
    pub track: Track,
}

/// Of `discover` first, then of the host names among the backends, each once.
pub fn of(discovery: &Discovery, pool: &config::Pool) -> Vec<Report> {
    let mut reports = Vec::new();
    let known = discovery.pools.get(&pool.name);
    if let Some(discover) = &pool.discover {
        reports.push(of_discover(discovery, discover, known));
    }
    let hosts: BTreeSet<&str> = pool.backends.iter().filter_map(|backend| host_of(backend)).collect();
    let inner = known.into_iter().flat_map(|known| &known.members).filter(|member| member.at.is_none());
    let inner: BTreeSet<&str> = inner.filter_map(|member| host_of(&member.backend)).collect();
    for name in hosts.union(&inner) {
        let Some(entry) = discovery.book.get(&host(name, None)) else { continue };
        let backends = discovery.hosts.get(*name).map_or(0, Vec::len);
        reports.push(Report {
            origin: api::Origin::Dns,
            name: (*name).to_owned(),
            backends,
            track: entry.track.clone(),
        });
    }
    reports
}

fn of_discover(discovery: &Discovery, discover: &config::Discover, known: Option<&Gathered>) -> Report {
    let of = |question| discovery.book.get(&question);
    let track = |entry: &Entry| entry.track.clone();
    let mut track = match &discover.origin {
        Origin::File(path) => discovery.files.get(path).map(|file| file.track.clone()),
        Origin::Addresses { name, resolver, .. } => of(host(name, *resolver)).map(track),
        Origin::Services { name, resolver } => of(services(name, *resolver)).map(|entry| {
            let hosts = set::hosts_of(entry.services(), discover.max.get() as usize);
            let all = hosts.into_iter().filter_map(|name| of(host(name, *resolver)));
            all.fold(entry.track.clone(), |sum, host| with(sum, &host.track))
        }),
    }
    .unwrap_or_default();
    track.updates = known.map_or(0, |known| known.updates);
    if let Some(note) = known.and_then(|known| known.note.clone())
        && !track.fails
    {
        (track.fails, track.error) = (true, Some(note));
    }
    let origin = if matches!(discover.origin, Origin::File(_)) { api::Origin::File } else { api::Origin::Dns };
    Report { origin, name: discover.origin.to_string(), backends: known.map_or(0, |known| known.members.len()), track }
}

/// A source that is made of several is as good as the worst of them.
fn with(mut sum: Track, other: &Track) -> Track {
    sum.failures += other.failures;
    sum.success = sum.success.min(other.success);
    let is_worse = other.fails && !sum.fails || (other.fails == sum.fails && when(other) > when(&sum));
    if is_worse {
        (sum.fails, sum.error) = (other.fails, other.error.clone());
    }
    sum
}

fn when(track: &Track) -> Option<std::time::SystemTime> {
    track.error.as_ref().map(|(_, when)| *when)
}

fn host_of(backend: &config::Backend) -> Option<&str> {
    match &backend.address {
        Address::Host { name, .. } => Some(name),
        Address::Ip(_) | Address::Unix(_) => None,
    }
}
