//! What a process knows of its backends and has counted, for its successor; and the successor's way to begin with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Endpoint, Protocol};
use crate::control::wanted::{self, CheckCounts, LastCheck, Place, Wanted};
use crate::handover::{Backend, BackendName, Check, Commit, Counted, Counts, Inventory};
use crate::id::BackendId;
use crate::snapshot;
use crate::stats::{Carry, ListenerStats, Named};

/// How two processes call the protocol of a listener.
pub const fn protocol(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp(_) => "udp",
        Protocol::Http(_) => "http",
    }
}

/// What a backend is called in both.
fn name(pool: &wanted::Pool, backend: &wanted::Backend) -> BackendName {
    let address = match &backend.place {
        Place::Known(known) => known.endpoint.to_string(),
        Place::Unresolved(_) => String::new(),
    };
    BackendName { pool: pool.config.name.clone(), name: backend.name.clone(), address }
}

fn all(wanted: &Wanted) -> impl Iterator<Item = (&wanted::Pool, &wanted::Backend)> {
    wanted.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
}

/// What is known of all backends; `closes` says whose connections are to be ended, and when.
pub fn known(wanted: &Wanted, closes: impl Fn(BackendId) -> Option<Instant>, now: Instant) -> Vec<Backend> {
    let in_us = |at: Instant| us(at.saturating_duration_since(now));
    let save = |(pool, backend): (&wanted::Pool, &wanted::Backend)| {
        let (seen, told) = (&backend.observed, &backend.told);
        let cost = match &backend.place {
            Place::Known(known) => known.stats.connect_cost_us(),
            Place::Unresolved(_) => 0,
        };
        let last = seen.last.as_ref();
        Backend {
            backend: name(pool, backend),
            file_weight: backend.file.weight,
            operator: backend.operator.clone(),
            up: seen.up,
            why: seen.why.clone(),
            last: last.map(|last| Check { ok: last.ok, why: last.why.clone(), took_us: us(last.took) }),
            ejected_us: seen.ejected.map(in_us),
            rising_us: told.rising.map(|since| us(now.saturating_duration_since(since))),
            since_ms: told.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| us(since) / 1000),
            told: told.state,
            served: told.served,
            down: told.down,
            close_us: backend.id().and_then(&closes).map(in_us),
            connect_cost_us: cost,
        }
    };
    all(wanted).map(save).collect()
}

/// The listeners that an operator drains, and how much is left of that.
pub fn drained(wanted: &Wanted, now: Instant) -> Vec<(String, u64)> {
    let left = |listener: &wanted::Listener| {
        Some((listener.config.name.clone(), us(listener.drain?.saturating_duration_since(now))))
    };
    wanted.listeners.iter().filter_map(left).collect()
}

/// Goes on with that.
fn drain_on(wanted: &mut Wanted, drained: &[(String, u64)], now: Instant) {
    for (name, left) in drained {
        let listener = wanted.listeners.iter_mut().find(|listener| listener.config.name == *name);
        let until = now.checked_add(Duration::from_micros(*left));
        listener.into_iter().for_each(|listener| listener.drain = until);
    }
}

/// Begins with what the predecessor knew of the backends that are in this file too. Answers whose connections are to be
/// ended, and when.
pub fn learn(wanted: &mut Wanted, known: &Inventory, now: Instant) -> Vec<(BackendId, Instant)> {
    drain_on(wanted, &known.drained, now);
    learn_of_backends(wanted, &known.backends, now)
}

fn learn_of_backends(wanted: &mut Wanted, known: &[Backend], now: Instant) -> Vec<(BackendId, Instant)> {
    let by_place: HashMap<&BackendName, &Backend> = known.iter().map(|known| (&known.backend, known)).collect();
    let by_name = known.iter().map(|known| ((known.backend.pool.as_str(), known.backend.name.as_str()), known));
    let by_name: HashMap<(&str, &str), &Backend> = by_name.collect();
    let mut closes = Vec::new();
    for pool in &mut wanted.pools {
        for at in 0..pool.backends.len() {
            let name = name(pool, &pool.backends[at]);
            let backend = &mut pool.backends[at];
            // What an operator said of it is said of its name, wherever that is now, as with a reload.
            if let Some(said) = by_place.get(&name).or(by_name.get(&(name.pool.as_str(), name.name.as_str()))) {
                backend.operator.clone_from(&said.operator);
                if said.file_weight != backend.file.weight {
                    // The file's is the newer word.
                    backend.operator.weight = None;
                }
            }
            let Some(known) = by_place.get(&name) else { continue };
            let ejected = known.ejected_us.and_then(|us| now.checked_add(Duration::from_micros(us)));
            let seen = &mut backend.observed;
            (seen.up, seen.why, seen.ejected) = (known.up, known.why.clone(), ejected);
            seen.last = known.last.as_ref().map(|last| LastCheck {
                ok: last.ok,
                why: last.why.clone(),
                took: Duration::from_micros(last.took_us),
            });
            let told = &mut backend.told;
            (told.state, told.served, told.down) = (known.told, known.served, known.down);
            told.since = SystemTime::UNIX_EPOCH + Duration::from_millis(known.since_ms);
            told.rising = known.rising_us.and_then(|us| now.checked_sub(Duration::from_micros(us)));
            if let (Place::Known(place), true) = (&backend.place, known.connect_cost_us > 0) {
                place.stats.note_connect(Duration::from_micros(known.connect_cost_us));
            }
            let close = known.close_us.and_then(|us| now.checked_add(Duration::from_micros(us)));
            closes.extend(backend.id().zip(close));
        }
    }
    closes
}

/// What was counted so far.
pub fn counts(wanted: &Wanted) -> Vec<(Counted, Counts)> {
    let mut counts = Vec::new();
    for listener in &wanted.listeners {
        let key = Counted::Listener(listener.config.name.clone(), protocol(&listener.config.protocol).to_owned());
        counts.push((key, listener.stats.total()));
    }
    counts.extend(wanted.pools.iter().map(|pool| (Counted::Pool(pool.config.name.clone()), pool.stats.total())));
    for (pool, backend) in all(wanted) {
        if let Place::Known(known) = &backend.place {
            counts.push((Counted::Backend(name(pool, backend)), known.stats.total()));
        }
        counts.push((Counted::Checks(name(pool, backend)), backend.observed.counts.total()));
    }
    counts
}

/// Begins with what the predecessor had counted, before anybody counts here.
pub fn count_on(wanted: &Wanted, commit: Commit) {
    let backends: HashMap<BackendName, &wanted::Backend> =
        all(wanted).map(|(pool, backend)| (name(pool, backend), backend)).collect();
    for (key, counts) in commit.counts.into_iter().filter(|(_, counts)| !counts.is_empty()) {
        match key {
            Counted::Listener(name, kind) => {
                let mut listeners = wanted.listeners.iter();
                let found = listeners
                    .find(|listener| listener.config.name == name && protocol(&listener.config.protocol) == kind);
                found.into_iter().for_each(|listener| listener.stats.begin_with(&counts));
            }
            Counted::Pool(name) => wanted.pool(&name).into_iter().for_each(|pool| pool.stats.begin_with(&counts)),
            Counted::Backend(name) => {
                if let Some(Place::Known(known)) = backends.get(&name).map(|backend| &backend.place) {
                    known.stats.begin_with(&counts);
                }
            }
            Counted::Checks(name) => {
                backends.get(&name).into_iter().for_each(|backend| backend.observed.counts.begin_with(&counts));
            }
        }
    }
}

impl Carry for CheckCounts {
    fn cells(&self) -> impl Iterator<Item = Vec<Named<'_>>> {
        let plain = [
            ("good", &self.good),
            ("failed", &self.failed),
            ("went_up", &self.went_up),
            ("went_down", &self.went_down),
        ];
        let plain = plain.into_iter().map(|(name, counter)| (name.to_owned(), counter));
        std::iter::once(plain.chain(self.took.named("took")).collect())
    }
}

/// Where connections and flows of the predecessor belong here.
#[derive(Debug)]
pub struct Places {
    listeners: HashMap<String, (bool, Arc<ListenerStats>)>,
    backends: HashMap<BackendName, Arc<snapshot::Backend>>,
    /// By pool and address: one that only has another name keeps what it has.
    renamed: HashMap<(String, String), Arc<snapshot::Backend>>,
}

impl Places {
    /// By the file.
    pub fn of(wanted: &Wanted) -> Self {
        let listeners =
            wanted.listeners.iter().filter(|listener| !matches!(listener.config.protocol, Protocol::Http(_)));
        let listeners = listeners
            .map(|listener| (listener.config.name.clone(), (listener.carries_datagrams(), listener.stats.clone())));
        let backends = all(wanted).filter_map(|(pool, backend)| match &backend.place {
            Place::Known(known) => Some((name(pool, backend), known.clone())),
            Place::Unresolved(_) => None,
        });
        let backends: HashMap<_, _> = backends.collect();
        let renamed = backends.iter().map(|(name, known)| ((name.pool.clone(), name.address.clone()), known.clone()));
        Self { listeners: listeners.collect(), renamed: renamed.collect(), backends }
    }

    /// The listener and the backend of this name; `None` when the file does not have them any more.
    pub fn find(
        &self,
        listener: &str,
        carries_datagrams: bool,
        backend: &BackendName,
    ) -> Option<(&Arc<ListenerStats>, &Arc<snapshot::Backend>)> {
        let (kind, stats) = self.listeners.get(listener)?;
        let renamed = || self.renamed.get(&(backend.pool.clone(), backend.address.clone()));
        let backend = self.backends.get(backend).or_else(renamed)?;
        // Flows go through UDP sockets, and only those of the same kind can be told apart by their counts.
        let fits = *kind == carries_datagrams && !(carries_datagrams && matches!(backend.endpoint, Endpoint::Unix(_)));
        fits.then_some((stats, backend))
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OperatorState, State};
    use crate::config::sample;
    use crate::control::discovery::Discovery;
    use crate::control::identities::Identities;
    use crate::control::{now, wall_clock};

    fn build() -> Wanted {
        Wanted::build(Arc::new(sample::config()), None, &Discovery::default(), &mut Identities::new(1), wall_clock())
    }

    #[test]
    fn a_successor_knows_what_was_known_and_counts_on() {
        let (mut before, at) = (build(), now());
        let backend = &mut before.pools[0].backends[0];
        backend.operator.state = Some(OperatorState::Maint);
        backend.observed.up = Some(false);
        backend.observed.why = "it burns".to_owned();
        backend.observed.ejected = Some(at + Duration::from_secs(3));
        backend.observed.counts.failed.add(4);
        (backend.told.state, backend.told.down) = (State::Maint, true);
        before.listeners[0].stats.cell(0).accepted.add(5);
        let id = backend.id();
        let known = known(&before, |other| (Some(other) == id).then(|| at + Duration::from_secs(1)), at);
        let commit = Commit { last_id: 0, counts: counts(&before) };

        let mut after = build();
        let closes = learn_of_backends(&mut after, &known, at);
        count_on(&after, commit);
        assert_eq!(
            closes,
            after.pools[0].backends[0].id().map(|id| (id, at + Duration::from_secs(1))).into_iter().collect::<Vec<_>>()
        );
        let backend = &after.pools[0].backends[0];
        assert_eq!(backend.observed.ejected, Some(at + Duration::from_secs(3)));
        assert_eq!((backend.told.state, backend.observed.why.as_str()), (State::Maint, "it burns"));
        assert_eq!(backend.observed.counts.failed.read(), 4);
        assert_eq!(after.listeners[0].stats.cell(0).accepted.read(), 5);
        assert_eq!(super::known(&after, |other| closes.iter().find(|c| c.0 == other).map(|c| c.1), at), known);
    }

    #[test]
    fn an_overridden_weight_holds_only_beside_the_same_weight_of_the_file() {
        let mut before = build();
        before.pools[0].backends[0].operator.weight = Some(3);
        let mut known = known(&before, |_| None, now());
        let mut after = build();
        learn_of_backends(&mut after, &known, now());
        assert_eq!(after.pools[0].backends[0].operator.weight, Some(3));
        known[0].file_weight += 1;
        learn_of_backends(&mut after, &known, now());
        assert_eq!(after.pools[0].backends[0].operator.weight, None);
    }
}
