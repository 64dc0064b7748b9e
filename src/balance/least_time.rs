//! Lowest connect time × (connections + 1) / weight, the connect time being a peak EWMA that the members keep
//! themselves.
//!
//! A member that was never measured is tried first, but by one client at a time: until that one's connect has ended
//! the member comes last. Otherwise all clients would run into a new backend that does not answer.

use super::Candidate;

/// Whether a is strictly better than b.
pub(super) fn better<C: Candidate>(a: &C, b: &C) -> bool {
    let (a, b) = (Standing::of(a), Standing::of(b));
    a.rank < b.rank || (a.rank == b.rank && a.cost * u128::from(b.weight) < b.cost * u128::from(a.weight))
}

/// One look at a member: its load may change between two.
struct Standing {
    rank: Rank,
    /// Connect time × (connections + 1); times a weight it is still below 2^128.
    cost: u128,
    weight: u32,
}

#[derive(PartialEq, PartialOrd)]
enum Rank {
    Untried,
    Measured,
    BeingTried,
}

impl Standing {
    fn of<C: Candidate>(member: &C) -> Self {
        let (load, measured) = (member.load(), member.connect_cost_us());
        let rank = match (measured, load) {
            (0, 0) => Rank::Untried,
            (0, _) => Rank::BeingTried,
            _ => Rank::Measured,
        };
        // Among those without a measure the connections alone decide.
        let cost = u128::from(measured.max(1)) * (u128::from(load) + 1);
        Self { rank, cost, weight: member.weight() }
    }
}
