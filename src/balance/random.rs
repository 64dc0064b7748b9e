//! The better of two random members: weight decides how often one is drawn, connections for their weight which one of
//! the two is taken. While nobody is busy it is a plain random choice by weight.

use super::Candidate;
use super::choice::{Draw, any_by_weight};

pub(super) fn pick<C: Candidate>(
    draw: &Draw,
    members: &[C],
    rng: &mut fastrand::Rng,
    usable: impl Fn(usize) -> bool,
) -> Option<usize> {
    let drawn = draw.better_of_two(rng, &usable, |a, b| better(&members[a], &members[b]));
    drawn.or_else(|| any_by_weight(members, rng, usable))
}

/// a's load / weight is below b's.
fn better<C: Candidate>(a: &C, b: &C) -> bool {
    u64::from(a.load()) * u64::from(b.weight()) < u64::from(b.load()) * u64::from(a.weight())
}
