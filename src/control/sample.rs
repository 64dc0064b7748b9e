//! What there is to tell, for tests: the small configuration with a second listener, and counts of two workers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::discovery::Discovery;
use super::identities::Identities;
use super::listeners::Listeners;
use super::now;
use super::status::Scene;
use super::wanted::Wanted;
use crate::access::Journal;
use crate::config::sample;
use crate::stats::{RouteCounts, WorkersStats};
use crate::sys::datagram::Offload;

/// Shows the scene after a change: listeners "web" and, for datagrams, "dns"; pool "app" with "a" and "b".
pub fn show<T>(change: impl FnOnce(&mut Wanted, &WorkersStats), tell: impl FnOnce(&Scene<'_>) -> T) -> T {
    let mut config = sample::config();
    Arc::make_mut(&mut config.pools[0]).discover = sample::discover();
    config.listeners.push(Arc::new(sample::udp_listener("dns")));
    let at = SystemTime::UNIX_EPOCH;
    let mut wanted = Wanted::build(Arc::new(config), None, &Discovery::default(), &mut Identities::new(2), at);
    let workers = crate::stats::workers(2);
    change(&mut wanted, &workers);
    let now = now();
    tell(&Scene {
        wanted: &wanted,
        discovery: &Discovery::default(),
        listeners: &Listeners::new(2, Offload::NONE),
        threads: &workers,
        workers: 2,
        routes: vec![RouteCounts {
            listener: "api".to_owned(),
            route: "all".to_owned(),
            by_status: vec![(200, 5)],
            refused: vec![("limited", 2)],
            seconds: vec![(5, 5_000)],
        }],
        journal: &Journal::default(),
        generation: 7,
        max_connections: 1000,
        fds_limit: 1024,
        fds_open: 20,
        started: now,
        last_reload: (at + Duration::from_millis(1500), true),
        draining: None,
        now,
    })
}
