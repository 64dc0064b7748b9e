//! What several algorithms share: the weighted random draw, the better of two draws, and the scans that find the best
//! or any usable member when drawing does not.

use super::{Candidate, Cursor};

/// Up to this many members the best of all is sought; beyond, the better of two random ones is nearly as good
/// (Mitzenmacher 2001, "The Power of Two Choices in Randomized Load Balancing"), touches two cache lines instead of
/// all, and keeps workers that see the same loads from rushing to the same member.
const SCAN_MAX: usize = 16;

/// Draws for two different usable members before what was found has to do.
const DRAWS_MAX: usize = 8;

/// Weighted random indexes in constant time: the alias method (Walker 1977, Vose 1991), in exact integers.
pub struct Draw {
    columns: Box<[Column]>,
}

/// One of equally likely columns, shared by at most two indexes.
#[derive(Clone, Copy)]
struct Column {
    /// The column's own index stands for draws from 0 to this one, inclusive.
    keep: u32,
    /// The index for the draws above.
    other: u32,
}

impl Draw {
    /// For weights above 0; drawing from none gives index 0.
    pub(super) fn build(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        // In units in which a column holds `total`, index i has weight × count to place.
        let mut left: Vec<u64> = weights.iter().map(|&weight| u64::from(weight) * count).collect();
        let (mut short, mut long): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|&i| left[i] < total);
        let mut columns: Box<[Column]> =
            (0..weights.len()).map(|i| Column { keep: u32::MAX, other: i as u32 }).collect();
        while let (Some(small), Some(&large)) = (short.pop(), long.last()) {
            let share = (u128::from(left[small]) << 32) / u128::from(total);
            columns[small] = Column { keep: (share as u32).saturating_sub(1), other: large as u32 };
            left[large] -= total - left[small];
            if left[large] < total {
                long.pop();
                short.push(large);
            }
        }
        Self { columns }
    }

    fn index(&self, rng: &mut fastrand::Rng) -> usize {
        let bits = rng.u64(..);
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        match self.columns.get(column as usize) {
            Some(found) if bits as u32 > found.keep => found.other as usize,
            _ => column as usize,
        }
    }

    /// The better of two different usable members drawn at random, the first of equals; the only one where a bounded
    /// number of draws brings no second, None where it brings none.
    pub(super) fn better_of_two(
        &self,
        rng: &mut fastrand::Rng,
        usable: impl Fn(usize) -> bool,
        better: impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        let mut held = None;
        for _ in 0..DRAWS_MAX {
            let drawn = self.index(rng);
            if held == Some(drawn) || !usable(drawn) {
                continue;
            }
            match held {
                None => held = Some(drawn),
                Some(first) => return Some(if better(drawn, first) { drawn } else { first }),
            }
        }
        held
    }
}

/// The least by some measure: of all members while they are few, of two random ones when they are many.
pub struct Least {
    /// Only for many members.
    draw: Option<Draw>,
}

impl Least {
    pub(super) fn build(weights: &[u32]) -> Self {
        Self { draw: (weights.len() > SCAN_MAX).then(|| Draw::build(weights)) }
    }

    /// `better(a, b)`: a is strictly better than b.
    pub(super) fn pick<C: Candidate>(
        &self,
        members: &[C],
        cursor: &mut Cursor,
        rng: &mut fastrand::Rng,
        usable: impl Fn(usize) -> bool,
        better: impl Fn(&C, &C) -> bool,
    ) -> Option<usize> {
        let better = |a: usize, b: usize| better(&members[a], &members[b]);
        let drawn = self.draw.as_ref().and_then(|draw| draw.better_of_two(rng, &usable, better));
        drawn.or_else(|| best_of_all(members.len(), cursor, usable, better))
    }
}

/// The best usable one of `count` members. Among equals it is the one next to the cursor, which then moves behind it:
/// equals take turns, also when others stand between them.
fn best_of_all(
    count: usize,
    cursor: &mut Cursor,
    usable: impl Fn(usize) -> bool,
    better: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    let start = cursor.position(count);
    let mut best: Option<(usize, usize)> = None;
    for (step, index) in (start..count).chain(0..start).enumerate() {
        if usable(index) && best.is_none_or(|(_, held)| better(index, held)) {
            best = Some((step, index));
        }
    }
    best.map(|(step, index)| {
        cursor.advance(step + 1);
        index
    })
}

/// Any usable member, at random by weight, in one pass over all of them: the last resort of the algorithms that share
/// by weight.
pub(super) fn any_by_weight<C: Candidate>(
    members: &[C],
    rng: &mut fastrand::Rng,
    usable: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut total = 0;
    let mut held = None;
    for (index, member) in members.iter().enumerate().filter(|&(index, _)| usable(index)) {
        // Each one replaces the one held with the chance of its weight in the total so far (reservoir sampling).
        let weight = u64::from(member.weight().max(1));
        total += weight;
        if rng.u64(..total) < weight {
            held = Some(index);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let weights = [1, 7, 100, 3, 100, 9];
        let draw = Draw::build(&weights);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut seen = [0_u32; 6];
        for _ in 0..220_000 {
            seen[draw.index(&mut rng)] += 1;
        }
        for (weight, seen) in weights.iter().zip(seen) {
            let expected = f64::from(*weight) * 1000.0;
            // Five standard deviations of a binomial.
            assert!((f64::from(seen) - expected).abs() < 5.0 * expected.sqrt(), "weight {weight}: {seen}");
        }
    }

    #[test]
    fn the_columns_hold_exactly_the_weights() {
        for weights in [vec![1], vec![u32::MAX, 1], vec![5; 40], (1..=300).collect()] {
            let draw = Draw::build(&weights);
            let mut held = vec![0_f64; weights.len()];
            for (index, column) in draw.columns.iter().enumerate() {
                let own = (f64::from(column.keep) + 1.0) / 2_f64.powi(32);
                held[index] += own;
                held[column.other as usize] += 1.0 - own;
            }
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (weight, held) in weights.iter().zip(held) {
                let expected = f64::from(*weight) / total * weights.len() as f64;
                assert!((held - expected).abs() < 1e-6, "{held} instead of {expected}");
            }
        }
    }
}
