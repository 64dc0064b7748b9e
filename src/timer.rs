//! A timer wheel on an injected `now`: one timer for each slot number of its owner.
//!
//! Two levels of buckets (Varghese and Lauck 1987, "Hashed and Hierarchical Timing Wheels"): a fine bucket holds the
//! timers of one tick within the next 4 seconds, a coarse one those of a span of 4 seconds within the next 35
//! minutes, which are dealt out to fine buckets when their span begins. A timer still further away stays in its coarse
//! bucket for as many rounds as it takes. Buckets are lists through an array of nodes, so arming and
//! cancelling take constant time and no allocation, and the next expiry is found in a bitmap. A process with nothing
//! but long timers wakes at most once in 4 seconds for them.
//!
//! The wheel is meant for lazy timers: activity stores a tick with its owner, and only a timer that fires looks whether
//! it has moved and is armed again.

use std::time::Duration;

/// Milliseconds of a tick, the wheel's resolution: time-outs of connections are no finer.
pub const TICK_MS: u64 = 8;

/// Slots that a wheel can have; the owner's table is bounded by memory and file descriptors long before.
pub const SLOTS_MAX: usize = 1 << 31;

/// Buckets of a level, a power of two.
const BUCKETS: usize = 512;
/// Ticks of a coarse bucket: what all fine ones cover together.
const SPAN: u64 = BUCKETS as u64;
/// Where the lists of the levels begin in `heads`, and the list of what was armed for a tick already over.
const COARSE: usize = BUCKETS;
const DUE: usize = 2 * BUCKETS;

/// Ends a list.
const NONE: u32 = u32::MAX;
/// `Node::previous` of a slot without a timer.
const UNARMED: u32 = u32::MAX;
/// Marks, in `Node::previous`, the number of the bucket whose list the node begins.
const HEAD: u32 = 1 << 31;

/// A point in time: ticks since the owner's start. 64 bits never wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick in which a time since the start lies.
    pub fn at(since_start: Duration) -> Self {
        Self((since_start.as_millis() / u128::from(TICK_MS)) as u64)
    }

    /// The first tick that begins no earlier than `delay` after any moment of this one: a timer armed for it fires at
    /// most two ticks late and never early.
    pub fn after(self, delay: Duration) -> Self {
        let ticks = delay.as_nanos().div_ceil(u128::from(TICK_MS) * 1_000_000);
        Self(self.0.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)).saturating_add(1))
    }

    /// When it begins, since the start.
    pub const fn since_start(self) -> Duration {
        Duration::from_millis(self.0.saturating_mul(TICK_MS))
    }
}

/// The timers of one owner.
pub struct Wheel {
    /// Everything up to and including this tick has been handed out.
    now: u64,
    /// The first slot of each bucket's list: fine, coarse, due.
    heads: Box<[u32; DUE + 1]>,
    fine: Occupied,
    coarse: Occupied,
    /// One a slot.
    nodes: Vec<Node>,
}

/// A slot's timer, in the list of its bucket.
#[derive(Clone, Copy)]
struct Node {
    at: u64,
    next: u32,
    /// A slot, HEAD with a bucket, or UNARMED.
    previous: u32,
}

const _: () = assert!(size_of::<Node>() == 16);

impl Wheel {
    /// A wheel without timers.
    pub fn new(now: Tick) -> Self {
        Self {
            now: now.0,
            heads: Box::new([NONE; DUE + 1]),
            fine: Occupied::default(),
            coarse: Occupied::default(),
            nodes: Vec::new(),
        }
    }

    /// Sets the slot's timer, in place of an earlier one. A tick that is over fires at the next [`Wheel::expire`].
    /// Memory grows (16 bytes a slot) to the highest slot ever armed, which must be below [`SLOTS_MAX`].
    pub fn arm(&mut self, slot: usize, at: Tick) {
        assert!(slot < SLOTS_MAX, "the owner's slots are bounded");
        if slot >= self.nodes.len() {
            self.nodes.resize(slot + 1, Node { at: 0, next: NONE, previous: UNARMED });
        }
        self.unlink(slot);
        self.nodes[slot].at = at.0;
        self.place(slot);
    }

    /// Takes the slot's timer away, if it has one.
    pub fn cancel(&mut self, slot: usize) {
        if slot < self.nodes.len() {
            self.unlink(slot);
        }
    }

    /// When the slot's timer will fire.
    pub fn armed(&self, slot: usize) -> Option<Tick> {
        self.nodes.get(slot).filter(|node| node.previous != UNARMED).map(|node| Tick(node.at))
    }

    /// Appends the slots whose timers are due at `now`, the earlier ticks first, and disarms them. Ticks that were
    /// passed over are made up for, at a cost that depends on the timers and not on the time.
    pub fn expire(&mut self, now: Tick, fired: &mut Vec<usize>) {
        self.drain(DUE, fired);
        while let Some(Tick(event)) = self.next().filter(|&event| event <= now) {
            self.now = event;
            if event.is_multiple_of(SPAN) {
                self.deal_out(bucket(event / SPAN));
            }
            self.drain(bucket(event), fired);
            self.drain(DUE, fired);
        }
        self.now = self.now.max(now.0);
    }

    /// A lower bound of the next expiry: exact when it is within the fine buckets (4 seconds), otherwise the begin of
    /// the span that it may lie in. None when no timer is armed.
    pub fn next(&self) -> Option<Tick> {
        if self.heads[DUE] != NONE {
            return Some(Tick(self.now));
        }
        let span = self.now / SPAN;
        let fine = self.fine.distance(bucket(self.now)).map(|ticks| self.now.saturating_add(ticks));
        let coarse = self.coarse.distance(bucket(span)).map(|spans| span.saturating_add(spans).saturating_mul(SPAN));
        fine.into_iter().chain(coarse).min().map(Tick)
    }

    /// Puts a slot, whose `at` is set, into the bucket that it belongs to as seen from `now`.
    fn place(&mut self, slot: usize) {
        let at = self.nodes[slot].at;
        if at <= self.now {
            self.link(slot, DUE);
        } else if at - self.now < SPAN {
            self.link(slot, bucket(at));
        } else {
            // At least one span ahead; a whole number of rounds ahead it is the present span's own bucket.
            self.link(slot, COARSE + bucket(at / SPAN));
        }
    }

    /// Places the timers of a coarse bucket whose span has begun.
    fn deal_out(&mut self, coarse: usize) {
        let mut slot = self.take(COARSE + coarse);
        while slot != NONE {
            let next = self.nodes[slot as usize].next;
            self.place(slot as usize);
            slot = next;
        }
    }

    /// Fires a bucket.
    fn drain(&mut self, list: usize, fired: &mut Vec<usize>) {
        let mut slot = self.take(list);
        while slot != NONE {
            let node = &mut self.nodes[slot as usize];
            node.previous = UNARMED;
            fired.push(slot as usize);
            slot = node.next;
        }
    }

    /// Empties a list and returns its first slot; the nodes are left to the caller.
    fn take(&mut self, list: usize) -> u32 {
        self.mark(list, false);
        std::mem::replace(&mut self.heads[list], NONE)
    }

    fn link(&mut self, slot: usize, list: usize) {
        let next = std::mem::replace(&mut self.heads[list], slot as u32);
        if next == NONE {
            self.mark(list, true);
        } else {
            self.nodes[next as usize].previous = slot as u32;
        }
        let node = &mut self.nodes[slot];
        node.next = next;
        node.previous = HEAD | list as u32;
    }

    fn unlink(&mut self, slot: usize) {
        let Node { next, previous, .. } = self.nodes[slot];
        if previous == UNARMED {
            return;
        }
        self.nodes[slot].previous = UNARMED;
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous & HEAD == 0 {
            self.nodes[previous as usize].next = next;
        } else {
            let list = (previous & !HEAD) as usize;
            self.heads[list] = next;
            if next == NONE {
                self.mark(list, false);
            }
        }
    }

    fn mark(&mut self, list: usize, occupied: bool) {
        match list {
            ..COARSE => self.fine.set(list, occupied),
            COARSE..DUE => self.coarse.set(list - COARSE, occupied),
            _ => {}
        }
    }
}

/// The bucket, in its level, of a tick or of a span.
const fn bucket(count: u64) -> usize {
    count as usize % BUCKETS
}

/// Which buckets of a level have timers.
#[derive(Default)]
struct Occupied {
    words: [u64; BUCKETS / 64],
}

impl Occupied {
    fn set(&mut self, bucket: usize, occupied: bool) {
        let bit = 1 << (bucket % 64);
        if occupied {
            self.words[bucket / 64] |= bit;
        } else {
            self.words[bucket / 64] &= !bit;
        }
    }

    /// Steps from a bucket to the next occupied one after it, at most once round: what the bucket itself holds is not
    /// for the present.
    fn distance(&self, from: usize) -> Option<u64> {
        let start = (from + 1) % BUCKETS;
        let after_start = u64::MAX << (start % 64);
        // The first word comes twice: from the start on, and at the end what is before the start.
        for step in 0..=self.words.len() {
            let index = (start / 64 + step) % self.words.len();
            let word = if step == 0 { self.words[index] & after_start } else { self.words[index] };
            if word != 0 {
                let found = index * 64 + word.trailing_zeros() as usize;
                return Some(((found + BUCKETS - start) % BUCKETS + 1) as u64);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn expire(wheel: &mut Wheel, now: u64) -> Vec<usize> {
        let mut fired = Vec::new();
        wheel.expire(Tick(now), &mut fired);
        fired
    }

    #[test]
    fn a_timer_fires_once_at_its_tick_and_not_before() {
        for at in [11, 12, 500, 521, 522, 523, 1023, 1024, 1025, 200_000, 262_143, 262_144, 262_145, 5_000_000] {
            let mut wheel = Wheel::new(Tick(10));
            wheel.arm(3, Tick(at));
            assert_eq!(wheel.armed(3), Some(Tick(at)));
            assert_eq!(expire(&mut wheel, at - 1), [0; 0], "{at}");
            assert_eq!(wheel.armed(3), Some(Tick(at)));
            assert_eq!(expire(&mut wheel, at), [3], "{at}");
            assert_eq!(wheel.armed(3), None);
            assert_eq!((expire(&mut wheel, at + 1_000_000), wheel.next()), (vec![], None));
        }
    }

    #[test]
    fn a_timer_for_a_tick_that_is_over_fires_at_the_next_look() {
        let mut wheel = Wheel::new(Tick(1000));
        wheel.arm(0, Tick(0));
        wheel.arm(1, Tick(1000));
        assert_eq!(wheel.next(), Some(Tick(1000)));
        assert_eq!(expire(&mut wheel, 1000).len(), 2);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_jump_in_time_fires_everything_in_order() {
        let mut wheel = Wheel::new(Tick(0));
        for slot in 0..2000_usize {
            wheel.arm(slot, Tick((slot as u64 * 7919) % 600_000 + 1));
        }
        let due = |slot: &usize| (*slot as u64 * 7919) % 600_000;
        let fired = expire(&mut wheel, 100_000_000);
        assert_eq!(fired.len(), 2000);
        assert!(fired.is_sorted_by_key(due));
    }

    #[test]
    fn the_end_of_time_is_far_away_but_not_a_problem() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.arm(0, Tick(u64::MAX));
        wheel.arm(1, Tick(3));
        assert_eq!(expire(&mut wheel, 10_000_000), [1]);
        assert_eq!(wheel.armed(0), Some(Tick(u64::MAX)));
        let mut late = Wheel::new(Tick(u64::MAX - 1));
        late.arm(0, Tick(u64::MAX));
        assert_eq!(late.next(), Some(Tick(u64::MAX)));
        assert_eq!(expire(&mut late, u64::MAX), [0]);
    }

    #[test]
    fn long_timers_wake_a_process_seldom() {
        let mut wheel = Wheel::new(Tick(0));
        for slot in 0..10_000 {
            wheel.arm(slot, Tick(75_000 + slot as u64 % 500)); // ten minutes
        }
        let mut wakes = 0;
        while let Some(next) = wheel.next().filter(|next| next.0 < 75_000) {
            assert!(expire(&mut wheel, next.0).is_empty());
            wakes += 1;
        }
        assert!(wakes <= 2, "{wakes}");
    }

    #[test]
    fn ticks_are_never_early() {
        let start = Tick::at(Duration::from_micros(15_999)); // just before tick 2
        assert_eq!(start, Tick(1));
        for delay in [0, 1, 7_999, 8_000, 8_001, 3_000_000] {
            let delay = Duration::from_micros(delay);
            let late = start.after(delay).since_start().saturating_sub(Duration::from_micros(15_999));
            assert!(late >= delay && late <= delay + Duration::from_millis(2 * TICK_MS), "{delay:?} {late:?}");
        }
        assert_eq!(start.after(Duration::MAX), Tick(u64::MAX));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(usize, u64),
        Cancel(usize),
        Pass(u64),
        PassToNext,
    }

    fn step() -> impl Strategy<Value = Step> {
        let delay = prop_oneof![0_u64..3, 0_u64..600, 0_u64..5000, 0_u64..1_000_000];
        prop_oneof![
            4 => (0_usize..50, delay.clone()).prop_map(|(slot, delay)| Step::Arm(slot, delay)),
            1 => (0_usize..60).prop_map(Step::Cancel),
            1 => delay.prop_map(Step::Pass),
            3 => Just(Step::PassToNext),
        ]
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(start in 0_u64..2000, steps in prop::collection::vec(step(), 1..300)) {
            let mut now = start;
            let mut wheel = Wheel::new(Tick(now));
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(slot, delay) => {
                        let at = (now + delay).saturating_sub(2); // sometimes over already
                        wheel.arm(slot, Tick(at));
                        model.insert(slot, at);
                    }
                    Step::Cancel(slot) => {
                        wheel.cancel(slot);
                        model.remove(&slot);
                    }
                    Step::Pass(ticks) => now += ticks,
                    Step::PassToNext => now = wheel.next().map_or(now, |next| now.max(next.0)),
                }
                if matches!(step, Step::Pass(_) | Step::PassToNext) {
                    let mut fired = expire(&mut wheel, now);
                    fired.sort_unstable();
                    let due: Vec<usize> = model.iter().filter(|&(_, at)| *at <= now).map(|(slot, _)| *slot).collect();
                    model.retain(|_, at| *at > now);
                    prop_assert_eq!(fired, due);
                }
                for slot in 0..60 {
                    prop_assert_eq!(wheel.armed(slot), model.get(&slot).copied().map(Tick));
                }
                let first = model.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next(), first) {
                    prop_assert!(next.0 <= first.max(now));
                    prop_assert!(next.0 == first.max(now) || next.0 > now, "a look at the next event brings one nearer");
                }
            }
        }
    }
}
