//! Ejection by what connections observe: a backend that fails clients too often leaves the rotation for a while, also
//! when its checks are good.
//!
//! Pure: told `now`, no clock and no I/O. One [`Passive`] a pool, fed by the control plane with the failures that
//! workers note (a connect that failed, an early reset). Failures are counted in a sliding window, whether or not
//! connections in between went well: a backend that fails every second client is no good one. An ejection always lasts
//! `eject`, it does not grow: a backend that is really dead is found by its checks, which bring it back as soon as it
//! answers, while a growing time would keep a recovered one away long after.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::config;
use crate::id::BackendId;

/// Failures remembered of one backend: a larger `failures` counts as this many. Bounds the memory to about 160 KiB.
const FAILURES_MAX: usize = 10_000;

/// Which backends of one pool are ejected, and which are on the way to it.
#[derive(Clone, Debug)]
pub struct Passive {
    rules: config::Passive,
    /// Every member with its latest failures, oldest first; an ejected one has none.
    failures: BTreeMap<BackendId, VecDeque<Instant>>,
    /// The members that are out, and until when: a few, so that it costs nothing to look for the next to come back.
    out: BTreeMap<BackendId, Instant>,
}

/// A backend has been ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// When it comes back.
    pub until: Instant,
}

impl Passive {
    /// A pool without members: call [`Self::set`] with them.
    pub const fn new(rules: config::Passive) -> Self {
        Self { rules, failures: BTreeMap::new(), out: BTreeMap::new() }
    }

    /// Sets the rules and the members, at the start and after a reload. Those that stay keep their failures and their
    /// ejection (with the time it was given); those that are gone are forgotten.
    pub fn set(&mut self, rules: config::Passive, members: impl IntoIterator<Item = BackendId>) {
        self.rules = rules;
        let mut before = std::mem::take(&mut self.failures);
        self.failures =
            members.into_iter().map(|member| (member, before.remove(&member).unwrap_or_default())).collect();
        self.out.retain(|backend, _| self.failures.contains_key(backend));
    }

    /// Notes a failure of `backend`. Answers with the ejection when it leads to one. A failure of a backend that is no
    /// member, or is ejected already (its connections from before may still fail), changes nothing.
    pub fn note(&mut self, backend: BackendId, now: Instant) -> Option<Ejected> {
        let room = self.out.len() < self.ejected_max();
        let needed = (self.rules.failures.get() as usize).min(FAILURES_MAX);
        let failures = self.failures.get_mut(&backend).filter(|_| !self.out.contains_key(&backend))?;
        failures.push_back(now);
        while failures.len() > needed {
            failures.pop_front();
        }
        while failures.front().is_some_and(|&first| now.saturating_duration_since(first) > self.rules.window) {
            failures.pop_front();
        }
        // Without room the failures are kept: the next one after another backend's return ejects at once.
        if failures.len() < needed || !room {
            return None;
        }
        failures.clear();
        let until = now + self.rules.eject;
        self.out.insert(backend, until);
        Some(Ejected { until })
    }

    /// Goes on with an ejection that began elsewhere.
    pub fn eject(&mut self, backend: BackendId, until: Instant) {
        if self.failures.contains_key(&backend) {
            self.out.entry(backend).or_insert(until);
        }
    }

    /// Takes the backends whose ejection is over back, with a clean record, and names them.
    pub fn expire(&mut self, now: Instant) -> Vec<BackendId> {
        self.out.extract_if(.., |_, until| *until <= now).map(|(backend, _)| backend).collect()
    }

    /// Takes a backend back before its time, with a clean record: its checks have seen it come up again.
    pub fn readmit(&mut self, backend: BackendId) {
        self.out.remove(&backend);
        if let Some(failures) = self.failures.get_mut(&backend) {
            failures.clear();
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.out.values().copied().min()
    }

    /// How many may be out at once: the share, rounded down, and never all. So "50%" is one of two or three, and
    /// nothing of a pool of one.
    fn ejected_max(&self) -> usize {
        let members = self.failures.len();
        (members * usize::from(self.rules.max_ejected.0) / 100).min(members.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::now;
    use super::*;
    use crate::config::Percent;
    use proptest::prelude::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    impl Passive {
        fn ejected_until(&self, backend: BackendId) -> Option<Instant> {
            self.out.get(&backend).copied()
        }
    }

    fn rules(failures: u32, max_ejected: u8) -> config::Passive {
        config::Passive {
            failures: NonZeroU32::new(failures).unwrap(),
            window: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            max_ejected: Percent(max_ejected),
        }
    }

    fn pool(rules: config::Passive, size: u32) -> Passive {
        let mut passive = Passive::new(rules);
        passive.set(rules, (0..size).map(BackendId));
        passive
    }

    #[test]
    fn a_pool_of_one_ejects_nothing_and_a_pool_of_two_one_at_half() {
        let at = now();
        assert_eq!(pool(rules(1, 100), 1).note(BackendId(0), at), None);
        let mut two = pool(rules(1, 50), 2);
        assert_eq!(two.note(BackendId(1), at), Some(Ejected { until: at + Duration::from_secs(30) }));
        assert_eq!(two.note(BackendId(0), at), None);
        let mut all = pool(rules(1, 100), 3);
        assert!(all.note(BackendId(0), at).is_some() && all.note(BackendId(1), at).is_some());
        assert_eq!(all.note(BackendId(2), at), None, "the last one stays");
    }

    #[test]
    fn a_backend_that_is_gone_is_forgotten_and_makes_room() {
        let (at, rules) = (now(), rules(1, 50));
        let mut passive = pool(rules, 2);
        assert!(passive.note(BackendId(0), at).is_some());
        passive.set(rules, [BackendId(1), BackendId(2)]);
        assert_eq!(passive.next_deadline(), None);
        assert!(passive.note(BackendId(1), at).is_some());
        passive.set(rules, [BackendId(0), BackendId(1)]);
        assert_eq!(passive.ejected_until(BackendId(0)), None, "it comes back with a clean record");
        assert!(passive.ejected_until(BackendId(1)).is_some(), "an ejection survives a reload");
    }

    #[test]
    fn an_endless_count_of_failures_takes_bounded_memory() {
        let mut passive = pool(rules(u32::MAX, 50), 2);
        let at = now();
        for _ in 0..FAILURES_MAX {
            assert_eq!(passive.ejected_until(BackendId(0)), None);
            passive.note(BackendId(0), at);
        }
        assert!(passive.ejected_until(BackendId(0)).is_some());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Note(u32),
        Expire,
    }

    proptest! {
        /// The naive model keeps every failure for ever and counts anew each time.
        #[test]
        fn it_ejects_like_a_naive_count_does(
            failures in 1u32..4, share in 0u8..=100, size in 1u32..6,
            events in prop::collection::vec(
                (0u64..6, prop_oneof![4 => (0u32..6).prop_map(Event::Note), 1 => Just(Event::Expire)]), 0..300),
        ) {
            let rules = rules(failures, share);
            let mut passive = pool(rules, size);
            let mut log: Vec<(u32, Instant)> = Vec::new();
            let mut out: Vec<(u32, Instant)> = Vec::new();
            let mut at = now();
            for (seconds, event) in events {
                at += Duration::from_secs(seconds);
                match event {
                    Event::Note(who) => {
                        let known = who < size && !out.iter().any(|(o, _)| *o == who);
                        if known {
                            log.push((who, at));
                        }
                        let recent = log.iter().filter(|(w, t)| *w == who && at - *t <= rules.window).count();
                        let more = (out.len() + 1) * 100 <= size as usize * share as usize && out.len() + 1 < size as usize;
                        let ejects = known && recent >= failures as usize && more;
                        let answer = passive.note(BackendId(who), at);
                        prop_assert_eq!(answer, ejects.then_some(Ejected { until: at + rules.eject }));
                        if ejects {
                            out.push((who, at + rules.eject));
                            log.retain(|(w, _)| *w != who);
                        }
                    }
                    Event::Expire => {
                        let mut back: Vec<_> = out.iter().filter(|(_, t)| *t <= at).map(|(w, _)| BackendId(*w)).collect();
                        back.sort();
                        out.retain(|(_, t)| *t > at);
                        prop_assert_eq!(passive.expire(at), back);
                    }
                }
                prop_assert_eq!(passive.next_deadline(), out.iter().map(|(_, t)| *t).min());
                prop_assert!((out.len() as u32) < size, "never all");
            }
        }
    }
}
