//! From what is wanted and seen to what the workers act on: the rotation of each pool and the one place where
//! snapshots are made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wanted::{Backend, Place, Pool, Wanted};
use crate::api::State;
use crate::balance::tiers::{self, Standing};
use crate::config::Protocol;
use crate::id::BackendId;
use crate::snapshot::{self, Listener, Member, Site, Snapshot};

/// Steps in which a slow start grows: each is one snapshot.
pub const RISE_STEPS: u32 = 20;
/// The share of its weight that a slow start begins with, in percent: enough to warm up, too little to hurt.
pub const RISE_FROM_PERCENT: u32 = 10;

/// The snapshot after `previous`; pickers of pools whose rotation is the same are shared with it.
pub fn build(wanted: &Wanted, max_connections: u32, previous: Option<&Snapshot>, now: Instant) -> Snapshot {
    let pools: Vec<Arc<snapshot::Pool>> = wanted.pools.iter().map(|pool| build_pool(pool, previous, now)).collect();
    let by_name: HashMap<&str, &Arc<snapshot::Pool>> =
        pools.iter().map(|pool| (pool.config.name.as_str(), pool)).collect();
    let find = |name: &str| by_name.get(name).copied().cloned();
    let listeners = wanted.listeners.iter().filter_map(|listener| {
        let (config, stats, tls) = (listener.config.clone(), listener.stats.clone(), listener.tls.clone());
        let named = config.sni.pools().into_iter().filter_map(find).collect();
        let pool = config.pool.as_deref().and_then(find)?;
        Some(Arc::new(Listener { id: stats.id, pool, named, drain: listener.drain, config, stats, tls }))
    });
    let listeners = listeners.collect();
    let sites = wanted.listeners.iter().filter(|listener| matches!(listener.config.protocol, Protocol::Http(_)));
    let sites = sites.map(|listener| {
        let (config, stats, tls) = (listener.config.clone(), listener.stats.clone(), listener.tls.clone());
        Arc::new(Site { id: stats.id, config, stats, tls, drain: listener.drain })
    });
    let sites = sites.collect();
    let generation = previous.map_or(1, |previous| previous.generation + 1);
    let (drain, gateway) = (wanted.config.process.drain, wanted.config.gateway.clone());
    Snapshot::new(generation, max_connections, drain, listeners, pools).with_gateway(sites, gateway)
}

fn build_pool(pool: &Pool, previous: Option<&Snapshot>, now: Instant) -> Arc<snapshot::Pool> {
    let before = previous.and_then(|previous| previous.pool(pool.stats.id)).map(|pool| &**pool);
    let rotation = rotation(pool, now);
    let lost = lost(pool, &rotation);
    let (config, stats, tls) = (pool.config.clone(), pool.stats.clone(), pool.tls.clone());
    Arc::new(snapshot::Pool::new(config, stats, tls, rotation, lost, before))
}

/// Who is down or ejected: not those who only take no new clients, nor those who serve in a panic.
fn lost(pool: &Pool, rotation: &[Member]) -> Vec<BackendId> {
    let lost = pool.backends.iter().filter(|backend| {
        backend.observed.ejected.is_some() || (backend.is_down(&pool.config) && backend.operator.state.is_none())
    });
    let serves = |id: &BackendId| rotation.iter().any(|member| member.backend.id == *id);
    lost.filter_map(Backend::id).filter(|id| !serves(id)).collect()
}

/// Who takes clients, and with which weight.
fn rotation(pool: &Pool, now: Instant) -> Vec<Member> {
    let member = |(at, _): (usize, Standing)| {
        let backend = &pool.backends[at];
        match &backend.place {
            Place::Known(known) => Some(Member { backend: known.clone(), weight: weight(pool, backend, now) }),
            Place::Unresolved(_) => None,
        }
    };
    chosen(pool).filter_map(member).collect()
}

/// Whether so few are up that health is ignored: somebody takes clients who would not otherwise.
pub fn is_in_panic(pool: &Pool) -> bool {
    chosen(pool).any(|(_, standing)| !standing.available)
}

/// Whether nobody takes clients.
pub fn has_nobody(pool: &Pool) -> bool {
    chosen(pool).next().is_none()
}

/// The indexes of those who take clients, and how they stand.
fn chosen(pool: &Pool) -> impl Iterator<Item = (usize, Standing)> {
    let standings: Vec<Standing> = pool.backends.iter().map(|backend| standing(pool, backend)).collect();
    let chosen = tiers::rotation(&standings, pool.config.panic_below.0);
    chosen.into_iter().map(move |at| (at, standings[at]))
}

fn standing(pool: &Pool, backend: &Backend) -> Standing {
    let eligible = backend.is_eligible();
    let healthy = !backend.is_down(&pool.config) && backend.observed.ejected.is_none();
    Standing { tier: backend.file.tier, weight: backend.weight(), available: eligible && healthy, eligible }
}

/// The weight with which it takes clients now; 0 = it takes none.
pub fn weight_shown(pool: &Pool, backend: &Backend, panic: bool, now: Instant) -> u32 {
    match backend.state(&pool.config) {
        State::Up => weight(pool, backend, now),
        State::Down | State::Ejected if panic => weight(pool, backend, now),
        _ => 0,
    }
}

/// The weight in rotation.
fn weight(pool: &Pool, backend: &Backend, now: Instant) -> u32 {
    match backend.told.rising {
        Some(since) => risen(backend.weight(), now.saturating_duration_since(since), pool.config.slow_start),
        None => backend.weight(),
    }
}

/// How much of its weight a backend has that has been up for so long; never 0 for a weight above 0.
fn risen(weight: u32, up_for: Duration, slow_start: Duration) -> u32 {
    if weight == 0 || up_for >= slow_start {
        return weight;
    }
    let step = up_for.as_nanos() * u128::from(RISE_STEPS) / slow_start.as_nanos();
    let percent = u128::from(RISE_FROM_PERCENT) + u128::from(100 - RISE_FROM_PERCENT) * step / u128::from(RISE_STEPS);
    u32::try_from(u128::from(weight) * percent / 100).unwrap_or(weight).max(1)
}

/// When the next step of any slow start is due; those that are over are ended.
pub fn next_rise(wanted: &mut Wanted, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    for pool in &mut wanted.pools {
        let slow_start = pool.config.slow_start;
        for backend in &mut pool.backends {
            let Some(since) = backend.told.rising else { continue };
            let up_for = now.saturating_duration_since(since);
            if up_for >= slow_start {
                backend.told.rising = None;
                continue;
            }
            let step = up_for.as_nanos() * u128::from(RISE_STEPS) / slow_start.as_nanos();
            let due = since + slow_start * u32::try_from(step + 1).unwrap_or(RISE_STEPS) / RISE_STEPS;
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_begins_small_never_shrinks_and_ends_at_the_full_weight() {
        let whole = Duration::from_secs(20);
        let at = |ms| risen(200, Duration::from_millis(ms), whole);
        assert_eq!(at(0), 20);
        assert_eq!(at(10_000), 110);
        assert_eq!(at(19_999), 190);
        assert_eq!(at(20_000), 200);
        let mut last = 0;
        let mut steps = 0;
        for ms in (0..=20_000).step_by(10) {
            assert!(at(ms) >= last);
            steps += u32::from(at(ms) != last);
            last = at(ms);
        }
        assert_eq!(steps, RISE_STEPS + 1);
    }

    #[test]
    fn a_small_weight_rises_too_and_weight_0_stays_out() {
        assert_eq!(risen(1, Duration::ZERO, Duration::from_secs(1)), 1);
        assert_eq!(risen(0, Duration::ZERO, Duration::from_secs(1)), 0);
        assert_eq!(risen(65_535, Duration::ZERO, Duration::MAX), 6553);
    }
}
