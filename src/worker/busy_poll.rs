//! Whether it pays to look for events for a moment before sleeping.

use std::time::Duration;

use crate::timer::Tick;

/// How long a worker looks for events before it sleeps. Waking a thread that sleeps costs its waker an interrupt to
/// another core, and itself a way back from idle: tens of microseconds on a virtual machine. What is expected within
/// that time is cheaper waited for awake.
pub const LOOK_MAX: Duration = Duration::from_micros(50);

/// Trust from which on looking is worth its time.
const TRUST_MIN: u8 = 4;

/// More is never gained: four looks in vain end it.
const TRUST_MAX: u8 = 16;

/// What a look in vain costs, where a successful one brings one.
const TRUST_LOST: u8 = 4;

/// What a successful trial brings: one look in vain behind it is forgiven.
const TRUST_FIRST: u8 = TRUST_MIN + TRUST_LOST;

/// One wait of so many is a trial while there is no trust.
const TRIAL_EVERY: u32 = 64;

/// Where more connections than this move bytes within one tick, or more datagrams come, it is better to sleep: their bytes gather meanwhile and
/// share one wake-up, and the core is left to those who are to send them.
const FEW: usize = 8;

/// Remembers whether events came while they were looked for, and how many connections are talking.
#[derive(Debug, Default)]
pub struct BusyPoll {
    trust: u8,
    waits: u32,
    tick: Tick,
    /// Connections that moved bytes, in this tick and in the last one before it that had any wait.
    talking: usize,
    talked: usize,
}

impl BusyPoll {
    /// So many connections moved their first bytes of this tick, or so many datagrams came.
    pub fn heard(&mut self, count: usize) {
        self.talking = self.talking.saturating_add(count);
    }

    /// Whether to look before the wait that begins now.
    pub fn is_worth_it(&mut self, now: Tick) -> bool {
        if self.tick != now {
            self.tick = now;
            self.talked = std::mem::take(&mut self.talking);
        }
        self.waits = self.waits.wrapping_add(1);
        self.talking.max(self.talked) <= FEW && (self.trust >= TRUST_MIN || self.waits.is_multiple_of(TRIAL_EVERY))
    }

    /// Whether events came while they were looked for.
    pub fn looked(&mut self, has_found: bool) {
        self.trust = if has_found {
            if self.trust < TRUST_MIN { TRUST_FIRST } else { TRUST_MAX.min(self.trust + 1) }
        } else {
            self.trust.saturating_sub(TRUST_LOST)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these waits are looked through, when events come during a look as `comes` says.
    fn looks(poll: &mut BusyPoll, waits: u32, comes: impl Fn(u32) -> bool) -> u32 {
        (0..waits)
            .filter(|&wait| {
                let looks = poll.is_worth_it(Tick(0));
                if looks {
                    poll.looked(comes(wait));
                }
                looks
            })
            .count() as u32
    }

    #[test]
    fn who_waits_for_long_hardly_ever_looks() {
        assert_eq!(looks(&mut BusyPoll::default(), 6400, |_| false), 100);
    }

    #[test]
    fn who_never_waits_for_long_looks_from_the_first_trial_on() {
        assert_eq!(looks(&mut BusyPoll::default(), 6400, |_| true), 6400 - 63);
    }

    #[test]
    fn a_look_in_vain_now_and_then_is_forgiven() {
        let looks = looks(&mut BusyPoll::default(), 6400, |wait| wait % 8 != 0);
        assert!(looks > 6000, "{looks}");
    }

    #[test]
    fn half_in_vain_is_too_much() {
        let looks = looks(&mut BusyPoll::default(), 6400, |wait| wait % 2 == 0);
        assert!(looks < 400, "{looks}");
    }

    #[test]
    fn where_many_connections_talk_nobody_looks_until_most_fall_silent() {
        let mut poll = BusyPoll::default();
        looks(&mut poll, 64, |_| true);
        let mut looks_when = |tick, talking| {
            poll.heard(talking);
            poll.is_worth_it(Tick(tick))
        };
        assert!(looks_when(1, FEW));
        assert!(!looks_when(2, FEW + 1));
        assert!(looks_when(3, 0));
    }

    #[test]
    fn trust_is_lost_within_four_looks_in_vain() {
        let mut poll = BusyPoll::default();
        looks(&mut poll, 6400, |_| true);
        assert!(looks(&mut poll, 64, |_| false) <= 5);
    }
}
