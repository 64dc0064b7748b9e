//! The judge of one backend: counts checks in a row, and says when its state changes.
//!
//! Pure: told `now`, no clock and no I/O. `fall` failed checks in a row take an up backend down, `rise` good ones take
//! a down backend up; one check to the contrary starts the count again.

use std::num::NonZeroU32;
use std::time::Instant;

/// The state of one backend as its checks show it.
#[derive(Clone, Debug)]
pub struct Judge {
    up: bool,
    contrary: u32,
}

/// A backend went up or down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The new state.
    pub up: bool,
    /// What led to it, in one line.
    pub why: String,
    /// When the check that decided it ended.
    pub at: Instant,
}

impl Judge {
    /// Before the first check: `initial_up` says what the backend counts as.
    pub const fn new(initial_up: bool) -> Self {
        Self { up: initial_up, contrary: 0 }
    }

    /// Whether the backend counts as up.
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Whether the last check agreed with the state: nothing is about to change.
    pub const fn is_settled(&self) -> bool {
        self.contrary == 0
    }

    /// Notes one check: `failure` is why it failed, `None` that it was good. `rise` and `fall` may differ from call to
    /// call (a reload): they are held against the count so far.
    pub fn note(&mut self, failure: Option<&str>, rise: NonZeroU32, fall: NonZeroU32, now: Instant) -> Option<Change> {
        if self.up == failure.is_none() {
            self.contrary = 0;
            return None;
        }
        self.contrary = self.contrary.saturating_add(1);
        let needed = if self.up { fall } else { rise };
        if self.contrary < needed.get() {
            return None;
        }
        let checks = match self.contrary {
            1 => "1 check".to_owned(),
            n => format!("{n} checks in a row"),
        };
        let why = match failure {
            Some(why) => format!("{checks} failed: {why}"),
            None => format!("{checks} passed"),
        };
        self.up = !self.up;
        self.contrary = 0;
        Some(Change { up: self.up, why, at: now })
    }
}

#[cfg(test)]
mod tests {
    use super::super::now;
    use super::*;
    use proptest::prelude::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn a_change_says_what_led_to_it() {
        let at = now();
        let mut judge = Judge::new(true);
        assert_eq!(judge.note(Some("refused"), n(1), n(2), at), None);
        assert!(!judge.is_settled());
        let change = judge.note(Some("timed out"), n(1), n(2), at);
        assert_eq!(change, Some(Change { up: false, why: "2 checks in a row failed: timed out".into(), at }));
        let change = judge.note(None, n(1), n(2), at);
        assert_eq!(change, Some(Change { up: true, why: "1 check passed".into(), at }));
        assert!(judge.is_up() && judge.is_settled());
    }

    #[test]
    fn a_lower_threshold_after_a_reload_holds_at_the_next_check() {
        let mut judge = Judge::new(true);
        for _ in 0..4 {
            assert_eq!(judge.note(Some("no"), n(1), n(10), now()), None);
        }
        assert!(judge.note(Some("no"), n(1), n(2), now()).is_some());
    }

    proptest! {
        /// The state flips exactly when the last `fall` (or `rise`) checks since the last flip all spoke against it.
        #[test]
        fn the_state_is_what_the_last_checks_since_the_last_change_say(
            initial_up: bool, rise in 1u32..5, fall in 1u32..5, checks in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut judge = Judge::new(initial_up);
            let (mut up, mut since) = (initial_up, Vec::new());
            for ok in checks {
                since.push(ok);
                let needed = if up { fall } else { rise } as usize;
                let flips = since.len() >= needed && since[since.len() - needed..].iter().all(|&ok| ok != up);
                let change = judge.note((!ok).then_some("no"), n(rise), n(fall), now());
                if flips {
                    up = !up;
                    since.clear();
                }
                prop_assert_eq!(change.map(|change| change.up), flips.then_some(up));
                prop_assert_eq!(judge.is_up(), up);
                prop_assert_eq!(judge.is_settled(), since.last().is_none_or(|&ok| ok == up));
            }
        }
    }
}
