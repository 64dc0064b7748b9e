//! Smooth weighted round robin: a sequence of turns computed once, which every worker walks from another point.
//!
//! The sequence is a Pfair schedule (Baruah, Cohen, Plaxton, Varvel 1996, "Proportionate progress"): with `share` =
//! weight / total, the k-th turn of a member is due between the steps floor((k-1) / share) and ceil(k / share), and of
//! the turns that may be taken the one with the earliest end goes first. Over one cycle each member has exactly its
//! weight in turns, and after every t steps it has had t × share of them, less than one off.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::choice::any_by_weight;
use super::{Candidate, Cursor};

/// Turns in a cycle. Weights with a larger sum (after division by their greatest common divisor) are scaled down to
/// it, each to at least 1.
const SEQUENCE_MAX: usize = 65_536;

/// Turns looked at in search of a usable member before all members are.
const WALK_MAX: usize = 64;

/// The order of turns: indexes of members.
pub struct Sequence {
    turns: Box<[u16]>,
}

impl Sequence {
    /// For weights above 0 of at most `MEMBERS_MAX` members; O(turns × log members).
    pub(super) fn build(weights: &[u32]) -> Self {
        let weights = scale(weights);
        let total: u64 = weights.iter().sum();
        // (first step, index) of turns that may not be taken yet; (last step, heavier first, index) of those that may.
        let mut early = BinaryHeap::with_capacity(weights.len());
        let mut ready = BinaryHeap::with_capacity(weights.len());
        let mut taken = vec![0_u64; weights.len()];
        early.extend((0..weights.len()).map(|index| Reverse((0, index))));
        let mut turns = Vec::with_capacity(total as usize);
        for step in 0..total {
            while early.peek().is_some_and(|&Reverse((first, _))| first <= step) {
                if let Some(Reverse((_, index))) = early.pop() {
                    let end = ((taken[index] + 1) * total).div_ceil(weights[index]);
                    ready.push(Reverse((end, Reverse(weights[index]), index)));
                }
            }
            let Some(Reverse((_, _, index))) = ready.pop() else {
                debug_assert!(false, "shares that sum up to 1 leave no step without a turn");
                break;
            };
            turns.push(index as u16);
            taken[index] += 1;
            if taken[index] < weights[index] {
                early.push(Reverse((taken[index] * total / weights[index], index)));
            }
        }
        Self { turns: turns.into() }
    }

    /// The turns of one cycle.
    pub(super) fn turns(&self) -> &[u16] {
        &self.turns
    }

    /// The member whose turn it is. One that is not usable loses its turn to the next in the sequence, and the cursor
    /// moves behind the one chosen: the others keep their proportions.
    pub(super) fn pick<C: Candidate>(
        &self,
        members: &[C],
        cursor: &mut Cursor,
        rng: &mut fastrand::Rng,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.turns.is_empty() {
            return any_by_weight(members, rng, usable);
        }
        let start = cursor.position(self.turns.len());
        let walk = self.turns[start..].iter().chain(&self.turns[..start]).take(WALK_MAX);
        for (step, &turn) in walk.enumerate() {
            if usable(usize::from(turn)) {
                cursor.advance(step + 1);
                return Some(usize::from(turn));
            }
        }
        any_by_weight(members, rng, usable)
    }
}

/// The smallest weights of the same proportions, or nearly the same where they are too long for a cycle.
fn scale(weights: &[u32]) -> Vec<u64> {
    let divisor = u64::from(weights.iter().fold(0, |a, &b| greatest_common_divisor(a, b)).max(1));
    let total: u64 = weights.iter().map(|&weight| u64::from(weight) / divisor).sum();
    if total <= SEQUENCE_MAX as u64 {
        return weights.iter().map(|&weight| u64::from(weight) / divisor).collect();
    }
    // Rounding up adds less than 1 for each member: the room left for it keeps the sum within the cycle.
    let room = (SEQUENCE_MAX - weights.len().min(SEQUENCE_MAX)) as u64;
    weights.iter().map(|&weight| ((u64::from(weight) / divisor * room + total / 2) / total).max(1)).collect()
}

fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(weights: &[u32]) -> String {
        Sequence::build(weights).turns.iter().map(|&turn| char::from(b'a' + turn as u8)).collect()
    }

    #[test]
    fn turns_are_mixed_and_weights_are_reduced() {
        assert_eq!(letters(&[5, 1, 1]), "aaabaac");
        assert_eq!(letters(&[500, 100, 100]), "aaabaac");
        assert_eq!(letters(&[7, 7, 7]), "abc");
        assert_eq!(letters(&[1, 2]), "bba");
        assert_eq!(letters(&[4, 1, 1, 1, 1]), "abacadae");
        assert_eq!(letters(&[9]), "a");
        assert_eq!(letters(&[]), "");
    }

    #[test]
    fn a_cycle_is_bounded_whatever_the_weights() {
        for weights in [vec![u32::MAX; 3], vec![u32::MAX, 1, 65_535], (1..=5000).collect(), vec![1; 65_535]] {
            let turns = Sequence::build(&weights).turns;
            assert!(turns.len() <= SEQUENCE_MAX);
            let mut seen = vec![0_u64; weights.len()];
            turns.iter().for_each(|&turn| seen[usize::from(turn)] += 1);
            assert!(seen.iter().all(|&turns| turns > 0), "everybody has a turn");
        }
        // Beyond the bound the proportions are still close: half a turn of rounding, and the room for it.
        let turns = Sequence::build(&[65_535, 30_001, 10]).turns;
        let share = turns.iter().filter(|&&turn| turn == 1).count() as f64 / turns.len() as f64;
        assert!((share - 30_001.0 / 95_546.0).abs() < 1e-4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn turns_are_exact_over_a_cycle_and_never_one_off_before(weights in prop::collection::vec(1_u32..40, 1..30)) {
            let turns = Sequence::build(&weights).turns;
            let reduced = scale(&weights);
            let total: u64 = reduced.iter().sum();
            prop_assert_eq!(turns.len() as u64, total);
            let mut taken = vec![0_u64; weights.len()];
            for (step, &turn) in turns.iter().enumerate() {
                taken[usize::from(turn)] += 1;
                for (taken, weight) in taken.iter().zip(&reduced) {
                    prop_assert!((taken * total).abs_diff((step as u64 + 1) * weight) < total);
                }
            }
            prop_assert_eq!(taken, reduced);
        }
    }
}
