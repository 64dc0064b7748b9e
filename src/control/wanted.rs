//! What is wanted and what is seen, kept apart: the file, the operators' overrides, the observations. The state of a
//! backend is computed from the three and stored nowhere else.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::desk::Refusal;
use super::discovery::{Candidate, Discovery};
use super::identities::{Identities, InUse};
use crate::api::{self, OperatorState, Origin, State};
use crate::config::{self, Balance, Check, Config, OnDown, Protocol};
use crate::id::{BackendId, ListenerId};
use crate::snapshot;
use crate::stats::{Histogram, LATENCY_BOUNDS_US, ListenerStats, PoolStats};
use crate::tls::ToBackends;

/// All of it.
#[derive(Debug)]
pub struct Wanted {
    /// The file.
    pub config: Arc<Config>,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file.
    pub pools: Vec<Pool>,
}

/// A listener of the file with its counts.
#[derive(Debug)]
pub struct Listener {
    /// What the file says.
    pub config: Arc<config::Listener>,
    /// Its counts.
    pub stats: Arc<ListenerStats>,
    /// How clients are spoken to.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// An operator drains it: its connections have ended by then.
    pub drain: Option<Instant>,
}

/// A pool of the file with its counts and backends.
#[derive(Debug)]
pub struct Pool {
    /// What the file says.
    pub config: Arc<config::Pool>,
    /// Its counts.
    pub stats: Arc<PoolStats>,
    /// How backends are spoken to.
    pub tls: Option<Arc<ToBackends>>,
    /// In the order of the file, those that were discovered behind; a host name with several addresses is several.
    pub backends: Vec<Backend>,
}

/// A backend, in three layers.
#[derive(Debug)]
pub struct Backend {
    /// As it is shown: the file's name, or `name@address` where a host name has several.
    pub name: String,
    /// What the file says, or what would stand there.
    pub file: Arc<config::Backend>,
    /// Who told of it.
    pub origin: Origin,
    /// Where it is.
    pub place: Place,
    /// What an operator overrode.
    pub operator: api::Override,
    /// What was observed.
    pub observed: Observed,
    /// What has been told of it, so that each change is told once.
    pub told: Told,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub enum Place {
    /// There.
    Known(Arc<snapshot::Backend>),
    /// Its host name has no address; why.
    Unresolved(String),
}

/// What was observed of a backend.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The judged state of its checks; `None` = no check has ended.
    pub up: Option<bool>,
    /// What led to the last change of `up`.
    pub why: String,
    /// The last check.
    pub last: Option<LastCheck>,
    /// Left alone until then, because its connections failed too often.
    pub ejected: Option<Instant>,
    /// Checks and changes since the start.
    pub counts: Arc<CheckCounts>,
}

/// The last check.
#[derive(Clone, Debug, PartialEq)]
pub struct LastCheck {
    /// Whether it was good.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// From connect to answer.
    pub took: Duration,
}

/// What is counted of a backend's checks; written by control alone.
#[derive(Debug)]
pub struct CheckCounts {
    /// Good checks.
    pub good: crate::stats::Counter,
    /// Failed checks.
    pub failed: crate::stats::Counter,
    /// Changes to up.
    pub went_up: crate::stats::Counter,
    /// Changes to down.
    pub went_down: crate::stats::Counter,
    /// How long checks took.
    pub took: Histogram,
}

/// What has been told of a backend.
#[derive(Clone, Debug)]
pub struct Told {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Whether it has been up before: only then it can come back.
    pub served: bool,
    /// Whether the checks had it down, so that its connections are ended where the file says so.
    pub down: bool,
    /// When its slow start began, while one lasts.
    pub rising: Option<Instant>,
}

impl Default for Observed {
    fn default() -> Self {
        let counts = CheckCounts {
            good: Default::default(),
            failed: Default::default(),
            went_up: Default::default(),
            went_down: Default::default(),
            took: Histogram::new(&LATENCY_BOUNDS_US),
        };
        Self { up: None, why: String::new(), last: None, ejected: None, counts: Arc::new(counts) }
    }
}

impl Wanted {
    /// What `config` wants. Backends that `before` had keep their overrides and observations; an overridden weight is
    /// dropped where the file's own weight has changed, for the newer word counts.
    pub fn build(
        config: Arc<Config>,
        before: Option<&Self>,
        discovery: &Discovery,
        identities: &mut Identities,
        now: SystemTime,
    ) -> Self {
        let listeners = config.listeners.iter().map(|listener| {
            let stats = identities.listener(listener);
            let old = before.and_then(|before| before.listeners.iter().find(|old| old.stats.id == stats.id));
            let drain = old.and_then(|old| old.drain);
            Listener { config: listener.clone(), stats, tls: to_clients(listener, old), drain }
        });
        let listeners = listeners.collect();
        let pools = config.pools.iter().map(|pool| {
            let old = before.and_then(|before| before.pools.iter().find(|old| old.config.name == pool.name));
            let stats = identities.pool(&pool.name);
            let all = discovery.backends(pool).into_iter();
            let backends = all.map(|candidate| Backend::new(pool, candidate, identities, old, now)).collect();
            Pool { config: pool.clone(), stats, tls: to_backends(pool, old), backends }
        });
        let pools = pools.collect();
        Self { config, listeners, pools }
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.config.name == name)
    }

    /// The identity of the listener of this name.
    pub fn listener_id(&self, name: &str) -> Option<ListenerId> {
        self.listeners.iter().find(|listener| listener.config.name == name).map(|listener| listener.stats.id)
    }

    /// The file without the listeners whose sockets are closed, because an operator drains them.
    pub fn listening(&self) -> Config {
        self.listening_of(&self.config)
    }

    /// The same of a file that is about to be taken over. Sockets for datagrams stay, for replies leave by them.
    pub fn listening_of(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let is_same = |old: &Listener, new: &config::Listener| {
            old.config.name == new.name && discriminant(&old.config.protocol) == discriminant(&new.protocol)
        };
        let closed = || self.listeners.iter().filter(|old| old.drain.is_some() && !old.carries_datagrams());
        config.listeners.retain(|new| !closed().any(|old| is_same(old, new)));
        config
    }

    /// The backends of this pool that this name means.
    ///
    /// # Errors
    /// When there are none.
    pub fn named<'a>(&'a mut self, pool: &str, name: &'a str) -> Result<Vec<&'a mut Backend>, Refusal> {
        let found = self.pools.iter_mut().find(|known| known.config.name == pool);
        let Some(found) = found else { return Err(Refusal::Unknown(format!("there is no pool \"{pool}\""))) };
        match found.named(name).collect::<Vec<_>>() {
            none if none.is_empty() => Err(Refusal::Unknown(format!("pool \"{pool}\" has no backend \"{name}\""))),
            backends => Ok(backends),
        }
    }

    /// Flows now; those of a listener that is gone have ended with it.
    pub fn flows(&self) -> u32 {
        let listeners = self.listeners.iter().filter(|listener| listener.carries_datagrams());
        listeners.map(|listener| listener.stats.active()).sum()
    }

    /// The backend of this identity with its pool.
    pub fn backend_mut(&mut self, id: BackendId) -> Option<(&config::Pool, &mut Backend)> {
        self.pools.iter_mut().find_map(|pool| {
            let backend = pool.backends.iter_mut().find(|backend| backend.id() == Some(id))?;
            Some((&*pool.config, backend))
        })
    }

    /// Once a second, see [`crate::stats::BackendStats::fade_connect_cost`]. False when no pool chooses by it.
    pub fn fade_connect_costs(&self) -> bool {
        let mut by_time = self.pools.iter().filter(|pool| pool.config.balance == Balance::LeastTime).peekable();
        let fades = by_time.peek().is_some();
        for backend in by_time.flat_map(|pool| &pool.backends) {
            if let Place::Known(known) = &backend.place {
                known.stats.fade_connect_cost();
            }
        }
        fades
    }

    /// The identities in use.
    pub fn in_use(&self) -> InUse {
        InUse {
            listeners: self.listeners.iter().map(|listener| listener.stats.id).collect(),
            pools: self.pools.iter().map(|pool| pool.stats.id).collect(),
            backends: self.pools.iter().flat_map(|pool| &pool.backends).filter_map(Backend::id).collect(),
        }
    }
}

/// What a listener's TLS is made of; the same as before where the file says the same.
fn to_clients(listener: &config::Listener, old: Option<&Listener>) -> Option<Arc<rustls::ServerConfig>> {
    let tls = listener.tls.as_ref()?;
    let old = old.and_then(|old| old.config.tls.as_ref().zip(old.tls.as_ref()));
    match old {
        Some((before, built)) if before == tls => Some(built.clone()),
        old => Some(crate::tls::server(tls, old.map(|(before, built)| (before, &**built)))),
    }
}

/// The same for a pool.
fn to_backends(pool: &config::Pool, old: Option<&Pool>) -> Option<Arc<ToBackends>> {
    let (tls, http) = (pool.tls.as_ref()?, pool.http.alpn());
    let same = old.and_then(|old| old.tls.as_ref()).filter(|old| old.is_of(tls, http));
    Some(same.cloned().unwrap_or_else(|| Arc::new(ToBackends::new(tls, http))))
}

impl Listener {
    /// Flows, not connections.
    pub fn carries_datagrams(&self) -> bool {
        matches!(self.config.protocol, Protocol::Udp(_))
    }
}

impl Pool {
    /// The backends that a name means: one of that shown name, or all that the file has under it.
    pub fn named<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Backend> {
        let shown = self.backends.iter().any(|backend| backend.name == name);
        self.backends
            .iter_mut()
            .filter(move |backend| if shown { backend.name == name } else { backend.file.name == name })
    }
}

impl Backend {
    fn new(
        pool: &config::Pool,
        candidate: Candidate,
        identities: &mut Identities,
        old: Option<&Pool>,
        now: SystemTime,
    ) -> Self {
        let place = Place::of(&pool.name, &candidate, identities);
        let Candidate { name, file, origin, .. } = candidate;
        let id = place.id();
        let same = |other: &&Self| if id.is_some() { other.id() == id } else { other.name == name };
        let old_backends = || old.into_iter().flat_map(|old| &old.backends);
        let same = old_backends().find(same);
        // What an operator said of a host name holds for the addresses it has been given since.
        let kin = same.or_else(|| {
            old_backends()
                .find(|other| other.name == name || (other.place.id().is_none() && other.file.name == file.name))
        });
        let mut operator = kin.map(|kin| kin.operator.clone()).unwrap_or_default();
        if kin.is_some_and(|kin| kin.file.weight != file.weight) {
            operator.weight = None;
        }
        let observed = same.map(|same| same.observed.clone()).unwrap_or_default();
        let told = Told { state: State::Up, since: now, served: false, down: false, rising: None };
        let mut backend = Self { name, file, origin, place, operator, observed, told };
        match kin {
            // An address that replaces another is told as a change of state of the same backend.
            Some(kin) if same.is_some() || kin.id().is_none() => backend.told = kin.told.clone(),
            _ => {
                backend.told.state = backend.state(pool);
                backend.told.down = backend.is_down(pool);
                backend.told.served = backend.told.state == State::Up;
            }
        }
        backend
    }

    /// Its identity, once it has a place.
    pub fn id(&self) -> Option<BackendId> {
        self.place.id()
    }

    /// Connections and flows, once it has a place.
    pub fn active(&self) -> Option<u32> {
        match &self.place {
            Place::Known(known) => Some(known.stats.active()),
            Place::Unresolved(_) => None,
        }
    }

    /// The weight before slow start: an operator's, else the file's.
    pub fn weight(&self) -> u32 {
        self.operator.weight.unwrap_or(self.file.weight)
    }

    /// Whether it has a place and no operator has taken it out.
    pub fn is_eligible(&self) -> bool {
        self.id().is_some() && !matches!(self.operator.state, Some(OperatorState::Drain | OperatorState::Maint))
    }

    /// Whether the checks hold it for down; before the first one it is as the file says.
    pub fn is_down(&self, pool: &config::Pool) -> bool {
        pool.health.kind != Check::None && !self.observed.up.unwrap_or(pool.health.initial_up)
    }

    /// What comes of the three layers.
    pub fn state(&self, pool: &config::Pool) -> State {
        match (&self.place, self.operator.state) {
            (Place::Unresolved(_), _) => State::Unresolved,
            (_, Some(OperatorState::Maint)) => State::Maint,
            (_, Some(OperatorState::Drain)) => State::Drain,
            _ if self.is_down(pool) => State::Down,
            _ if self.observed.ejected.is_some() => State::Ejected,
            _ => State::Up,
        }
    }

    /// Why it is in this state, in one line.
    pub fn why(&self, pool: &config::Pool) -> String {
        match (self.state(pool), &self.place) {
            (_, Place::Unresolved(why)) => why.clone(),
            (State::Maint | State::Drain, _) => match &self.operator.reason {
                Some(reason) => format!("set by an operator: {reason}"),
                None => "set by an operator".to_owned(),
            },
            (State::Ejected, _) => "its connections failed too often".to_owned(),
            (State::Up, _) if self.weight() == 0 => "weight 0: no new clients".to_owned(),
            (State::Up, _) if pool.health.kind == Check::None => "not checked".to_owned(),
            _ if self.observed.up.is_none() => "not checked yet".to_owned(),
            (State::Up, _) if self.observed.why.is_empty() => "checks pass".to_owned(),
            // Down from the start, as the file wants it, until enough checks have passed.
            _ if self.observed.why.is_empty() => "not enough checks have passed yet".to_owned(),
            _ => self.observed.why.clone(),
        }
    }

    /// Compares the state with what was told last; a change becomes what was told, and is returned.
    pub fn tell(&mut self, pool: &config::Pool, now: Instant, time: SystemTime) -> Change {
        let (state, down) = (self.state(pool), self.is_down(pool) && self.operator.state != Some(OperatorState::Maint));
        let from = self.told.state;
        // A backend that is up for the first time does not come back: a start is not a slow start.
        let came_back = state == State::Up && from != State::Up && self.told.served;
        if state != State::Up || pool.slow_start.is_zero() {
            self.told.rising = None;
        } else if came_back {
            self.told.rising = Some(now);
        }
        let down_before = self.told.down;
        self.told.down = down;
        self.told.served |= state == State::Up;
        let close = match pool.on_down {
            Some(OnDown::CloseAfter(delay)) if down && !down_before => Some(delay),
            _ => None,
        };
        if from == state {
            return Change { state: None, close };
        }
        self.told.state = state;
        self.told.since = time;
        Change { state: Some((from, state)), close }
    }
}

/// What has changed of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From which state to which.
    pub state: Option<(State, State)>,
    /// Its connections are to be ended after this delay, unless it is back by then.
    pub close: Option<Duration>,
}

impl Place {
    /// An address of a host name is the same backend whether the name has others beside it or not.
    fn of(pool: &str, candidate: &Candidate, identities: &mut Identities) -> Self {
        let Candidate { name, file, place, .. } = candidate;
        let endpoint = match place {
            Ok(endpoint) => endpoint.clone(),
            Err(why) => return Self::Unresolved(why.clone()),
        };
        let stats = identities.backend(pool, &file.name, name, &endpoint);
        let mut named = file.clone();
        if *name != file.name {
            Arc::make_mut(&mut named).name.clone_from(name);
        }
        Self::Known(Arc::new(snapshot::Backend::new(stats.id, named, endpoint, stats)))
    }

    fn id(&self) -> Option<BackendId> {
        match self {
            Self::Known(backend) => Some(backend.id),
            Self::Unresolved(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
