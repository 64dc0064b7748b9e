//! Hands out identities, and keeps the counts of each for as long as anything can still count.
//!
//! A listener is known by its name and protocol, a pool by its name, a backend by pool, name and place. The same thing
//! after a reload is given the same number and the same counts; a number is never given to another thing. What was
//! removed is forgotten once its last connection has ended.

use std::collections::{HashMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use crate::config::{self, Endpoint, PerClient, Protocol};
use crate::id::{BackendId, ListenerId, PoolId};
use crate::limit::{CLIENTS_MAX, Limiter, Limits, Rate};
use crate::stats::{BackendStats, ListenerStats, PoolStats};

/// Who has which number.
#[derive(Debug)]
pub struct Identities {
    threads: usize,
    last: u32,
    /// By name and protocol: what is counted of flows is nothing that a listener for connections could go on with.
    listeners: HashMap<(String, Discriminant<Protocol>), Arc<ListenerStats>>,
    pools: HashMap<String, Arc<PoolStats>>,
    backends: HashMap<(String, String, Endpoint), Arc<BackendStats>>,
}

/// What is in use: all else is forgotten once nothing counts there any more.
#[derive(Debug, Default)]
pub struct InUse {
    /// Listeners of the file.
    pub listeners: HashSet<ListenerId>,
    /// Pools of the file.
    pub pools: HashSet<PoolId>,
    /// Backends of the file.
    pub backends: HashSet<BackendId>,
}

impl Identities {
    /// Nobody yet; counts are made with one cell for each thread of all engines.
    pub fn new(threads: usize) -> Self {
        Self { threads, last: 0, listeners: HashMap::new(), pools: HashMap::new(), backends: HashMap::new() }
    }

    /// The counts of this listener, with its limits by client as the file has them now.
    pub fn listener(&mut self, listener: &config::Listener) -> Arc<ListenerStats> {
        let limits = limits(&listener.per_client);
        let key = (listener.name.clone(), discriminant(&listener.protocol));
        if let Some(known) = self.listeners.get(&key) {
            known.clients.reconfigure(limits);
            return known.clone();
        }
        let clients = Limiter::new(limits, CLIENTS_MAX);
        let id = ListenerId(self.next());
        let stats = Arc::new(ListenerStats::new(id, &listener.name, clients, self.threads));
        self.listeners.insert(key, stats.clone());
        stats
    }

    /// The counts of this pool.
    pub fn pool(&mut self, name: &str) -> Arc<PoolStats> {
        if let Some(known) = self.pools.get(name) {
            return known.clone();
        }
        let stats = Arc::new(PoolStats::new(PoolId(self.next()), name, self.threads));
        self.pools.insert(name.to_owned(), stats.clone());
        stats
    }

    /// The counts of this backend; `shown` is its name in the log, where it is new.
    pub fn backend(&mut self, pool: &str, name: &str, shown: &str, endpoint: &Endpoint) -> Arc<BackendStats> {
        let key = (pool.to_owned(), name.to_owned(), endpoint.clone());
        if let Some(known) = self.backends.get(&key) {
            return known.clone();
        }
        let id = BackendId(self.next());
        let stats = Arc::new(BackendStats::new(id, &self.pool(pool), shown, &endpoint.to_string(), self.threads));
        self.backends.insert(key, stats.clone());
        stats
    }

    /// Forgets what is neither in use nor has a connection left. True when all that is left is in use.
    pub fn forget(&mut self, used: &InUse) -> bool {
        self.listeners.retain(|_, stats| used.listeners.contains(&stats.id) || stats.active() > 0);
        self.backends.retain(|_, stats| used.backends.contains(&stats.id) || stats.active() > 0);
        let backends = &self.backends;
        self.pools
            .retain(|name, stats| used.pools.contains(&stats.id) || backends.keys().any(|(pool, ..)| pool == name));
        let left = self.listeners.len() + self.pools.len() + self.backends.len();
        left == used.listeners.len() + used.pools.len() + used.backends.len()
    }

    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }
}

fn limits(per_client: &PerClient) -> Limits {
    let rate = per_client.rate.map(|rate| Rate { count: rate.count.get(), per: rate.per, burst: rate.count.get() });
    Limits { connections: per_client.connections.map(std::num::NonZero::get), rate }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;
    use crate::stats::BackendSlot;

    fn place(text: &str) -> Endpoint {
        Endpoint::Ip(text.parse().expect("an address"))
    }

    #[test]
    fn the_same_pool_name_and_place_is_the_same_backend_and_any_other_is_not() {
        let mut identities = Identities::new(1);
        let first = identities.backend("p", "a", "a", &place("10.0.0.1:1"));
        assert!(Arc::ptr_eq(&first, &identities.backend("p", "a", "a", &place("10.0.0.1:1"))));
        for (pool, name, at) in [("q", "a", "10.0.0.1:1"), ("p", "b", "10.0.0.1:1"), ("p", "a", "10.0.0.1:2")] {
            assert_ne!(identities.backend(pool, name, name, &place(at)).id, first.id);
        }
    }

    #[test]
    fn a_removed_backend_is_forgotten_after_its_last_connection_and_its_number_is_not_used_again() {
        let mut identities = Identities::new(1);
        let stats = identities.backend("p", "a", "a", &place("10.0.0.1:1"));
        let slot = BackendSlot::take(&stats, 1).expect("free");
        assert!(!identities.forget(&InUse::default()));
        assert_eq!(
            identities.backend("p", "a", "a", &place("10.0.0.1:1")).id,
            stats.id,
            "a connection still counts there"
        );
        drop(slot);
        assert!(identities.forget(&InUse::default()));
        let again = identities.backend("p", "a", "a", &place("10.0.0.1:1"));
        assert!(again.id > stats.id);
    }

    #[test]
    fn a_listener_that_carries_another_protocol_is_another_one() {
        let mut identities = Identities::new(1);
        let tcp = identities.listener(&sample::listener("dns"));
        let udp = identities.listener(&sample::udp_listener("dns"));
        assert_ne!(tcp.id, udp.id);
        assert!(Arc::ptr_eq(&tcp, &identities.listener(&sample::listener("dns"))));
        assert!(Arc::ptr_eq(&udp, &identities.listener(&sample::udp_listener("dns"))));
    }

    #[test]
    fn what_is_in_use_is_kept_without_connections() {
        let mut identities = Identities::new(1);
        let (pool, backend) = (identities.pool("p"), identities.backend("p", "a", "a", &place("10.0.0.1:1")));
        let used = InUse { pools: [pool.id].into(), backends: [backend.id].into(), ..InUse::default() };
        assert!(identities.forget(&used));
        assert!(Arc::ptr_eq(&pool, &identities.pool("p")));
        assert!(Arc::ptr_eq(&backend, &identities.backend("p", "a", "a", &place("10.0.0.1:1"))));
    }
}
