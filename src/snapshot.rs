//! What the engines act on: listeners, pools and the backends in rotation at one moment, immutable, with one number.
//!
//! Control builds a snapshot from the file, the operators' overrides and the verdicts of the checks, and publishes it
//! with one atomic swap; there is one [`Publisher`] and it cannot be cloned. Workers hold a [`View`] and look once a
//! turn. A connection that outlives a snapshot keeps what it needs by itself.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};

use crate::balance::{self, Candidate, Cursor, Picker};
use crate::config::{self, Balance, Endpoint};
use crate::id::{BackendId, ListenerId, PoolId};
use crate::stats::{BackendSlot, BackendStats, ListenerStats, PoolStats};
use crate::tls::ToBackends;

/// Everything the data path asks, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each snapshot.
    pub generation: u64,
    /// Connections at once over all listeners.
    pub max_connections: u32,
    /// How listeners drain that say nothing of it themselves.
    pub drain: config::Drain,
    /// The listeners that have a pool, by identity.
    listeners: Vec<Arc<Listener>>,
    /// The listeners that have routes, by identity.
    sites: Vec<Arc<Site>>,
    /// The pools, by identity.
    pools: Vec<Arc<Pool>>,
    /// Indexes of `pools` in the order of their names, where there are routes.
    names: Vec<u32>,
    /// The routes; the same `Arc` until the file changes.
    pub gateway: Arc<config::http::Gateway>,
}

impl Snapshot {
    /// A snapshot of these, in any order.
    pub fn new(
        generation: u64,
        max_connections: u32,
        drain: config::Drain,
        mut listeners: Vec<Arc<Listener>>,
        mut pools: Vec<Arc<Pool>>,
    ) -> Self {
        listeners.sort_by_key(|listener| listener.id);
        pools.sort_by_key(|pool| pool.id);
        let (sites, names, gateway) = (Vec::new(), Vec::new(), Arc::default());
        Self { generation, max_connections, drain, listeners, sites, pools, names, gateway }
    }

    /// The same with the listeners for HTTP, in any order, and their routes.
    pub fn with_gateway(self, mut sites: Vec<Arc<Site>>, gateway: Arc<config::http::Gateway>) -> Self {
        sites.sort_by_key(|site| site.id);
        let mut names: Vec<u32> = if sites.is_empty() { Vec::new() } else { (0..self.pools.len() as u32).collect() };
        names.sort_by_key(|at| &self.pools[*at as usize].config.name);
        Self { sites, names, gateway, ..self }
    }

    /// The pool of this name, where there are routes.
    pub fn pool_named(&self, name: &str) -> Option<&Arc<Pool>> {
        let at = self.names.binary_search_by(|at| self.pools[*at as usize].config.name.as_str().cmp(name)).ok()?;
        Some(&self.pools[self.names[at] as usize])
    }

    /// The listeners for HTTP.
    pub fn sites(&self) -> &[Arc<Site>] {
        &self.sites
    }

    /// The listener for HTTP of this identity, unless it was removed.
    pub fn site(&self, id: ListenerId) -> Option<&Arc<Site>> {
        self.sites.binary_search_by_key(&id, |site| site.id).ok().map(|at| &self.sites[at])
    }

    /// All pools.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The listener of this identity, unless it was removed.
    pub fn listener(&self, id: ListenerId) -> Option<&Arc<Listener>> {
        self.listeners.binary_search_by_key(&id, |listener| listener.id).ok().map(|at| &self.listeners[at])
    }

    /// When a client of this listener must have ended that comes out of a backlog at `now`: the listener may be on its way
    /// out, or gone from the file already.
    pub fn end_of(&self, id: ListenerId, config: &config::Listener, now: Instant) -> Option<Instant> {
        let drain = self.listener(id).map(|it| it.drain).or_else(|| self.site(id).map(|it| it.drain));
        drain.unwrap_or_else(|| Some(now + config.drain.unwrap_or(self.drain).deadline))
    }

    /// The pool of this identity, unless it was removed.
    pub fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.binary_search_by_key(&id, |pool| pool.id).ok().map(|at| &self.pools[at])
    }
}

/// A listener for HTTP; its routes stand in [`Snapshot::gateway`].
#[derive(Clone, Debug)]
pub struct Site {
    /// Its identity.
    pub id: ListenerId,
    /// Its options.
    pub config: Arc<config::Listener>,
    /// Its counts and its clients' limits.
    pub stats: Arc<ListenerStats>,
    /// How clients are spoken to; `None` = in clear.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// It takes no clients, and the last ones of its backlog have ended by then.
    pub drain: Option<Instant>,
}

/// A listener with its pools.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its identity.
    pub id: ListenerId,
    /// Its options.
    pub config: Arc<config::Listener>,
    /// Its counts and its clients' limits.
    pub stats: Arc<ListenerStats>,
    /// The pool that serves it.
    pub pool: Arc<Pool>,
    /// The pools of `sni`, in the order of their names.
    pub named: Vec<Arc<Pool>>,
    /// It takes no clients, and the last ones of its backlog have ended by then; a socket for datagrams stays open for the
    /// flows that there are.
    pub drain: Option<Instant>,
    /// How clients are spoken to; `None` = as they speak.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Listener {
    /// The pool for a client that asks for the server of this name, or for none.
    pub fn pool_for(&self, server_name: Option<&str>) -> &Arc<Pool> {
        let wanted = server_name.and_then(|name| self.config.sni.pool_of(name));
        let at = wanted.and_then(|pool| self.named.binary_search_by(|named| named.config.name.as_str().cmp(pool)).ok());
        at.map_or(&self.pool, |at| &self.named[at])
    }
}

/// A backend, whether in rotation or not.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: BackendId,
    /// Its options.
    pub config: Arc<config::Backend>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its counts.
    pub stats: Arc<BackendStats>,
    identity: u64,
}

impl Backend {
    /// A backend at a resolved place.
    pub fn new(id: BackendId, config: Arc<config::Backend>, endpoint: Endpoint, stats: Arc<BackendStats>) -> Self {
        let identity = balance::hash(format!("{}\0{endpoint}", config.name).as_bytes());
        Self { id, config, endpoint, stats, identity }
    }
}

/// A backend in rotation with the weight that counts now.
#[derive(Clone, Debug)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its weight after override and slow start; above 0.
    pub weight: u32,
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.weight == other.weight && self.backend.id == other.backend.id
    }
}

impl Candidate for Member {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn load(&self) -> u32 {
        self.backend.stats.active()
    }

    fn connect_cost_us(&self) -> u64 {
        self.backend.stats.connect_cost_us()
    }

    fn identity(&self) -> u64 {
        self.backend.identity
    }
}

/// A pool and those of its backends that take clients now.
#[derive(Debug)]
pub struct Pool {
    /// Its identity.
    pub id: PoolId,
    /// Its options.
    pub config: Arc<config::Pool>,
    /// Its counts.
    pub stats: Arc<PoolStats>,
    /// How its backends are spoken to; `None` = as their clients speak.
    pub tls: Option<Arc<ToBackends>>,
    /// The backends that take clients now, by tier, health, overrides and weight.
    pub rotation: Vec<Member>,
    /// Those that are down or ejected, by identity: flows do not stay with them.
    lost: Vec<BackendId>,
    picker: Arc<Picker>,
}

/// What became of a choice.
#[derive(Debug)]
pub enum Pick<'a> {
    /// This one, and a place on it is reserved.
    Backend(&'a Arc<Backend>, BackendSlot),
    /// Those that could be asked are at their `max_connections`.
    Full,
    /// There is none left to ask.
    Nobody,
}

impl Pool {
    /// A pool with this rotation and with these backends down or ejected; the picker of `previous` is shared when its
    /// members are the same.
    pub fn new(
        config: Arc<config::Pool>,
        stats: Arc<PoolStats>,
        tls: Option<Arc<ToBackends>>,
        rotation: Vec<Member>,
        mut lost: Vec<BackendId>,
        previous: Option<&Self>,
    ) -> Self {
        let picker = match previous {
            Some(old) if old.config.balance == config.balance && old.rotation == rotation => old.picker.clone(),
            _ => Arc::new(Picker::build(kind(config.balance), &rotation)),
        };
        lost.sort_unstable();
        Self { id: stats.id, config, stats, tls, rotation, lost, picker }
    }

    /// Whether this backend is down or ejected.
    pub fn has_lost(&self, backend: BackendId) -> bool {
        !self.lost.is_empty() && self.lost.binary_search(&backend).is_ok()
    }

    /// Those in rotation.
    pub fn backends(&self) -> impl Iterator<Item = BackendId> {
        self.rotation.iter().map(|member| member.backend.id)
    }

    /// Reserves a place on the backend of this name, if it is in rotation, was not tried yet and has one.
    pub fn pick_named(&self, name: &str, tried: &[BackendId]) -> Option<(&Arc<Backend>, BackendSlot)> {
        let mut members = self.rotation.iter().map(|member| &member.backend);
        let backend = members.find(|backend| backend.config.name == name && !tried.contains(&backend.id))?;
        let max = backend.config.max_connections.map_or(u32::MAX, std::num::NonZero::get);
        Some((backend, BackendSlot::take(&backend.stats, max)?))
    }

    /// Chooses a backend that was not tried yet and reserves a place on it.
    ///
    /// `client` is the hash of the client's address, `tried` whom this connection asked already.
    pub fn pick(&self, client: u64, tried: &[BackendId], cursor: &mut Cursor, rng: &mut fastrand::Rng) -> Pick<'_> {
        let mut somebody_is_full = false;
        // A place may be taken by another worker between choice and reservation: then choose again among the rest.
        let mut lost: Vec<BackendId> = Vec::new();
        loop {
            let full = std::cell::Cell::new(false);
            let usable = |at: usize| {
                let backend = &self.rotation[at].backend;
                if tried.contains(&backend.id) || lost.contains(&backend.id) {
                    return false;
                }
                let free = backend.config.max_connections.is_none_or(|max| backend.stats.active() < max.get());
                full.set(full.get() || !free);
                free
            };
            let choice = self.picker.pick(&self.rotation, client, cursor, rng, usable);
            somebody_is_full |= full.get();
            let Some(at) = choice else {
                return if somebody_is_full { Pick::Full } else { Pick::Nobody };
            };
            let backend = &self.rotation[at].backend;
            let max = backend.config.max_connections.map_or(u32::MAX, std::num::NonZero::get);
            match BackendSlot::take(&backend.stats, max) {
                Some(slot) => return Pick::Backend(backend, slot),
                None => {
                    somebody_is_full = true;
                    lost.push(backend.id);
                }
            }
        }
    }
}

fn kind(balance: Balance) -> balance::Kind {
    match balance {
        Balance::RoundRobin => balance::Kind::RoundRobin,
        Balance::LeastConn => balance::Kind::LeastConn,
        Balance::LeastTime => balance::Kind::LeastTime,
        Balance::Random => balance::Kind::Random,
        Balance::IpHash => balance::Kind::IpHash,
        Balance::First => balance::Kind::First,
    }
}

/// Makes the one writer and the first view.
pub fn channel(first: Snapshot) -> (Publisher, View) {
    let current = Arc::new(ArcSwap::from_pointee(first));
    (Publisher { current: current.clone() }, View { cache: Cache::new(current) })
}

/// The one writer of snapshots.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
}

impl Publisher {
    /// Swaps the snapshot that everybody sees; the generation must have grown.
    pub fn publish(&mut self, next: Snapshot) {
        debug_assert!(next.generation > self.current.load().generation);
        self.current.store(Arc::new(next));
    }

    /// What is published now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

/// A reader's handle: a load costs one comparison while nothing has changed.
#[derive(Clone, Debug)]
pub struct View {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
}

impl View {
    /// The snapshot of now.
    #[inline]
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }
}
