//! Fewest connections for its weight. Connections being made count, or a burst would all go to the same member; the
//! new one counts too, so that an idle member of weight 2 comes before an idle one of weight 1. Equals take turns.

use super::Candidate;

/// a's (load + 1) / weight is below b's: compared as products, exact and without division.
pub(super) fn better<C: Candidate>(a: &C, b: &C) -> bool {
    (u64::from(a.load()) + 1) * u64::from(b.weight()) < (u64::from(b.load()) + 1) * u64::from(a.weight())
}
