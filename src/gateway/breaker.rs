//! A breaker: while too many answers of a pool are errors, requests are refused at once, so that its servers can recover.
//!
//! Pure, on an injected `now`. Closed, it counts in a window of ten parts that moves on part by part. Open, it refuses.
//! After `open_for` it lets one request at a time through: a good answer closes it, a bad one opens it again.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::http::Breaker as Rules;

/// Parts of the window: what is older than a window leaves in steps of a tenth of it.
const PARTS: usize = 10;

/// The breaker of one pool.
#[derive(Clone, Debug)]
pub struct Breaker {
    rules: Rules,
    state: State,
    parts: [Part; PARTS],
    /// The part that counts now: time since the start over the length of a part.
    at: u64,
    /// How often it has changed its state.
    changes: u64,
}

/// A request that was let through; it speaks for the time in which that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    changes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    requests: u32,
    errors: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed,
    Open {
        until: Duration,
    },
    /// One request is on its way to see how things are; a probe that never ends is given up after `open_for`.
    Probing {
        until: Duration,
    },
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed, parts: Default::default(), at: 0, changes: 0 }
    }

    /// The rules it goes by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Lets a request pass, or does not.
    pub fn admit(&mut self, now: Duration) -> Option<Pass> {
        match self.state {
            State::Closed => {}
            State::Open { until } | State::Probing { until } if now < until => return None,
            State::Open { .. } | State::Probing { .. } => {
                self.change(State::Probing { until: now + self.rules.open_for });
            }
        }
        Some(Pass { changes: self.changes })
    }

    /// How a request went that was let through; `None` = that says nothing. True when this opens it.
    pub fn note(&mut self, pass: Pass, is_good: Option<bool>, now: Duration) -> bool {
        if pass.changes != self.changes {
            // It tells of a time that is over: of before it opened, or of a probe that was given up.
            return false;
        }
        let opens = match (self.state, is_good) {
            (State::Closed, Some(is_good)) => {
                self.count(is_good, now);
                !is_good && self.is_too_bad()
            }
            (State::Probing { .. }, Some(true)) => {
                self.change(State::Closed);
                false
            }
            (State::Probing { .. }, Some(false)) => true,
            (State::Probing { .. }, None) => {
                // The next one probes.
                self.change(State::Open { until: now });
                false
            }
            (State::Closed, None) | (State::Open { .. }, _) => false,
        };
        if opens {
            self.change(State::Open { until: now + self.rules.open_for });
        }
        opens
    }

    fn count(&mut self, is_good: bool, now: Duration) {
        self.move_on(now);
        let part = &mut self.parts[(self.at % PARTS as u64) as usize];
        part.requests = part.requests.saturating_add(1);
        part.errors = part.errors.saturating_add(u32::from(!is_good));
    }

    /// What was counted before is not held against what comes.
    fn change(&mut self, state: State) {
        self.state = state;
        self.parts = Default::default();
        self.changes += 1;
    }

    fn move_on(&mut self, now: Duration) {
        let length = (self.rules.window / PARTS as u32).max(Duration::from_millis(1));
        let at = (now.as_nanos() / length.as_nanos()) as u64;
        for gone in (self.at + 1..=at).rev().take(PARTS) {
            self.parts[(gone % PARTS as u64) as usize] = Part::default();
        }
        self.at = self.at.max(at);
    }

    fn is_too_bad(&self) -> bool {
        let sum = |of: fn(&Part) -> u32| self.parts.iter().map(|part| u64::from(of(part))).sum::<u64>();
        let (requests, errors) = (sum(|part| part.requests), sum(|part| part.errors));
        let enough = requests >= u64::from(NonZeroU32::get(self.rules.min_requests));
        enough && errors * 100 >= requests * u64::from(self.rules.error_rate.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Percent;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn breaker() -> Breaker {
        let min_requests = NonZeroU32::new(4).expect("4");
        Breaker::new(Rules { error_rate: Percent(50), min_requests, window: s(10), open_for: s(5) })
    }

    /// A request from its begin to its end.
    fn passes(breaker: &mut Breaker, is_good: bool, now: Duration) -> bool {
        let pass = breaker.admit(now).expect("it is closed, or probes");
        breaker.note(pass, Some(is_good), now)
    }

    fn open() -> Breaker {
        let mut breaker = breaker();
        assert!([false; 4].iter().fold(false, |_, good| passes(&mut breaker, *good, s(0))));
        breaker
    }

    #[test]
    fn it_opens_at_the_share_of_errors_once_enough_was_seen() {
        let mut breaker = breaker();
        assert!([false, false, true].iter().all(|good| !passes(&mut breaker, *good, s(1))), "not enough");
        assert!(passes(&mut breaker, false, s(1)), "three of four");
        assert!(breaker.admit(s(2)).is_none() && breaker.admit(s(5)).is_none());
    }

    #[test]
    fn errors_are_forgotten_with_the_window() {
        let mut breaker = breaker();
        assert!((0..3).all(|_| !passes(&mut breaker, false, s(1))));
        assert!(!passes(&mut breaker, false, s(12)), "one of one");
        assert!(breaker.admit(s(12)).is_some());
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_it_can_close() {
        let mut breaker = open();
        let probe = breaker.admit(s(6)).expect("a probe");
        assert_eq!(breaker.admit(s(6)), None, "one probe");
        assert!(breaker.note(probe, Some(false), s(7)), "it opens again");
        assert_eq!(breaker.admit(s(11)), None);
        assert!(!passes(&mut breaker, true, s(12)));
        assert!(breaker.admit(s(12)).is_some() && breaker.admit(s(12)).is_some(), "closed");
        assert!(!passes(&mut breaker, false, s(13)), "nothing is held against it");
    }

    #[test]
    fn only_the_probe_tells_how_things_are_now() {
        let mut breaker = breaker();
        let early: Vec<_> = (0..8).filter_map(|_| breaker.admit(s(0))).collect();
        assert_eq!(early[..4].iter().filter(|pass| breaker.note(**pass, Some(false), s(0))).count(), 1);
        let probe = breaker.admit(s(6)).expect("a probe");
        assert!(!breaker.note(early[4], Some(true), s(6)) && breaker.admit(s(6)).is_none(), "it does not close");
        assert!(!breaker.note(early[5], Some(false), s(6)), "nor open again");
        assert!(!breaker.note(probe, Some(true), s(6)));
        assert!(!breaker.note(early[6], Some(false), s(6)) && breaker.admit(s(6)).is_some());
    }

    #[test]
    fn a_probe_that_says_nothing_leaves_it_to_the_next_one() {
        let mut breaker = open();
        let probe = breaker.admit(s(6)).expect("a probe");
        assert!(!breaker.note(probe, None, s(7)));
        assert!(breaker.admit(s(7)).is_some() && breaker.admit(s(7)).is_none());
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_it_shut() {
        let mut breaker = open();
        let probe = breaker.admit(s(6)).expect("a probe");
        assert_eq!(breaker.admit(s(10)), None);
        assert!(breaker.admit(s(11)).is_some());
        assert!(!breaker.note(probe, Some(true), s(11)), "it was given up");
        assert_eq!(breaker.admit(s(11)), None);
    }
}
