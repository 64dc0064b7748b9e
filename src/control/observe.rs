//! What is observed of the backends: verdicts of their checks, failures that connections met.
//!
//! The only place that talks to the health engine. It writes down what it hears in [`wanted::Observed`] and decides
//! nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use rustls::pki_types::ServerName;
use tokio::sync::mpsc;

use super::wanted::{LastCheck, Place, Pool, Wanted};
use crate::config::{self, Check};
use crate::engine::Note;
use crate::health::{Checkers, Passive, Target, Tls, Verdict};
use crate::id::{BackendId, PoolId};

/// Verdicts that wait for the supervisor; a checker beyond waits.
const VERDICTS_MAX: usize = 1024;

/// The checks of all backends, and the count of what connections met.
pub struct Observers {
    checkers: Checkers,
    passive: BTreeMap<PoolId, Passive>,
}

impl Observers {
    /// Nobody is checked yet. Needs a runtime around it.
    pub fn new() -> (Self, mpsc::Receiver<Verdict>) {
        let (sender, verdicts) = mpsc::channel(VERDICTS_MAX);
        (Self { checkers: Checkers::new(sender), passive: BTreeMap::new() }, verdicts)
    }

    /// Checks and counts what is wanted now; those that stay keep their state. An ejection ends when the file
    /// switches ejections off.
    pub fn set(&mut self, wanted: &mut Wanted) {
        let mut targets = Vec::new();
        let mut before = std::mem::take(&mut self.passive);
        for pool in &mut wanted.pools {
            for backend in &pool.backends {
                if let (Place::Known(known), false) = (&backend.place, pool.config.health.kind == Check::None) {
                    targets.push(Target {
                        backend: known.id,
                        name: backend.name.clone(),
                        endpoint: known.endpoint.clone(),
                        pool: pool.config.clone(),
                        // A predecessor may have known more than the file.
                        is_up: backend.observed.up.unwrap_or(pool.config.health.initial_up),
                        tls: pool.config.health.tls.then(|| tls_of(pool, &backend.file)),
                    });
                }
            }
            if let Some(rules) = pool.config.passive {
                let mut passive = before.remove(&pool.stats.id).unwrap_or_else(|| Passive::new(rules));
                passive.set(rules, pool.backends.iter().filter_map(|backend| backend.id()));
                for backend in &pool.backends {
                    backend
                        .id()
                        .zip(backend.observed.ejected)
                        .into_iter()
                        .for_each(|(id, until)| passive.eject(id, until));
                }
                self.passive.insert(pool.stats.id, passive);
            }
            if pool.config.passive.is_none() {
                pool.backends.iter_mut().for_each(|backend| backend.observed.ejected = None);
            }
        }
        self.checkers.set(targets);
    }

    /// Writes a verdict down. True when it changes what its backend counts as.
    pub fn hear(&mut self, wanted: &mut Wanted, verdict: Verdict) -> bool {
        let Some((pool, backend)) = wanted.backend_mut(verdict.backend) else { return false };
        let was_down = backend.is_down(pool);
        let observed = &mut backend.observed;
        let counts = &observed.counts;
        let check = verdict.check;
        if check.ok {
            counts.good.add(1)
        } else {
            counts.failed.add(1)
        }
        counts.took.record(check.took);
        if let Some(change) = verdict.change {
            if change.up {
                counts.went_up.add(1);
                // It was down and has come back: what its connections met before says nothing any more.
                observed.ejected = None;
                self.passive.values_mut().for_each(|passive| passive.readmit(verdict.backend));
            } else {
                counts.went_down.add(1);
            }
            observed.why = change.why;
        }
        observed.up = Some(verdict.up);
        observed.last = Some(LastCheck { ok: check.ok, why: check.why, took: check.took });
        backend.is_down(pool) != was_down
    }

    /// Writes down what a connection met: the checks look at once, and too many failures eject. True when they do.
    pub fn note(&mut self, wanted: &mut Wanted, note: Note, now: Instant) -> bool {
        let id = match note {
            Note::ConnectFailed { failure, .. } if !failure.blames_backend() => return false,
            Note::ConnectFailed { backend, .. } | Note::EarlyReset { backend } | Note::BadResponse { backend } => {
                backend
            }
        };
        self.checkers.hint(id);
        let pool = wanted.pools.iter().find(|pool| pool.backends.iter().any(|backend| backend.id() == Some(id)));
        let passive = pool.and_then(|pool| self.passive.get_mut(&pool.stats.id));
        let ejected = passive.and_then(|passive| passive.note(id, now));
        let backend = wanted.backend_mut(id);
        let (Some(ejected), Some((_, backend))) = (ejected, backend) else { return false };
        backend.observed.ejected = Some(ejected.until);
        true
    }

    /// Takes those back whose ejection is over.
    pub fn expire(&mut self, wanted: &mut Wanted, now: Instant) {
        let back: Vec<BackendId> = self.passive.values_mut().flat_map(|passive| passive.expire(now)).collect();
        for id in back {
            if let Some((_, backend)) = wanted.backend_mut(id) {
                backend.observed.ejected = None;
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.passive.values().filter_map(Passive::next_deadline).min()
    }
}

/// How a check speaks TLS: as the pool does, and where that does not, with anybody. Those who have many certificates are
/// asked for the host that an `http` check names.
fn tls_of(pool: &Pool, backend: &config::Backend) -> Tls {
    let to_backends = pool.tls.clone().unwrap_or_else(crate::tls::unverified);
    let host = match &pool.config.health.kind {
        Check::Http { host: Some(host), .. } if pool.tls.is_none() => ServerName::try_from(host.clone()).ok(),
        _ => None,
    };
    let name = host.or_else(|| to_backends.name_of(&backend.address));
    // Of a name that no certificate can have nobody is asked for.
    Tls { to_backends, name: name.unwrap_or(Ipv4Addr::LOCALHOST.into()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::discovery::Discovery;
    use super::super::identities::Identities;
    use super::super::wall_clock;
    use super::*;
    use crate::config::sample;
    use crate::health::CheckResult;

    #[test]
    fn only_a_verdict_that_changes_what_a_backend_counts_as_asks_for_a_snapshot() {
        let config = Arc::new(sample::config());
        let mut wanted = Wanted::build(config, None, &Discovery::default(), &mut Identities::new(1), wall_clock());
        let id = wanted.pools[0].backends[0].id().expect("an address");
        let (mut observers, _) = Observers::new();
        let mut hear = |up| {
            let check = CheckResult { ok: up, blames_backend: true, why: String::new(), took: Duration::ZERO };
            observers.hear(&mut wanted, Verdict { backend: id, check, up, change: None })
        };
        // A thousand first checks are no thousand snapshots: the file had said that they are up.
        assert_eq!([true, true, false, false, true].map(&mut hear), [false, false, true, false, true]);
    }
}
