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
        Self { rules, state: State::Closed, parts: Default::default(), at: 0 }
    }

    /// The rules it goes by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether a request may pass.
    pub fn admit(&mut self, now: Duration) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } | State::Probing { until } if now < until => false,
            State::Open { .. } | State::Probing { .. } => {
                self.state = State::Probing { until: now + self.rules.open_for };
                true
            }
        }
    }

    /// How a request went that was admitted. True when this opens it.
    pub fn note(&mut self, good: bool, now: Duration) -> bool {
        match self.state {
            // An answer from before it opened.
            State::Open { .. } => false,
            State::Probing { .. } if good => {
                *self = Self { at: self.at, ..Self::new(self.rules) };
                false
            }
            State::Probing { .. } => self.open(now),
            State::Closed => {
                self.move_on(now);
                let part = &mut self.parts[(self.at % PARTS as u64) as usize];
                part.requests = part.requests.saturating_add(1);
                part.errors = part.errors.saturating_add(u32::from(!good));
                !good && self.is_too_bad() && self.open(now)
            }
        }
    }

    fn open(&mut self, now: Duration) -> bool {
        self.state = State::Open { until: now + self.rules.open_for };
        self.parts = Default::default();
        true
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

    #[test]
    fn it_opens_at_the_share_of_errors_once_enough_was_seen() {
        let mut breaker = breaker();
        assert!([false, false, true].iter().all(|good| !breaker.note(*good, s(1))), "not enough");
        assert!(breaker.admit(s(1)));
        assert!(breaker.note(false, s(1)), "three of four");
        assert!(!breaker.admit(s(2)) && !breaker.admit(s(5)));
    }

    #[test]
    fn errors_are_forgotten_with_the_window() {
        let mut breaker = breaker();
        assert!((0..3).all(|_| !breaker.note(false, s(1))));
        assert!(!breaker.note(false, s(12)), "one of one");
        assert!(breaker.admit(s(12)));
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_it_can_close() {
        let mut breaker = breaker();
        (0..4).for_each(|_| {
            breaker.note(false, s(0));
        });
        assert!(!breaker.note(true, s(1)), "from before");
        assert!(breaker.admit(s(6)) && !breaker.admit(s(6)), "one probe");
        assert!(breaker.note(false, s(7)), "it opens again");
        assert!(!breaker.admit(s(11)));
        assert!(breaker.admit(s(12)));
        assert!(!breaker.note(true, s(12)));
        assert!(breaker.admit(s(12)) && breaker.admit(s(12)), "closed");
        assert!(!breaker.note(false, s(13)), "nothing is held against it");
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_it_shut() {
        let mut breaker = breaker();
        (0..4).for_each(|_| {
            breaker.note(false, s(0));
        });
        assert!(breaker.admit(s(6)));
        assert!(!breaker.admit(s(10)) && breaker.admit(s(11)));
    }
}
