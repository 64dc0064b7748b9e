//! Who is in rotation: tiers, and the panic threshold below which health is not believed.
//!
//! The lowest tier with an available backend serves alone. But when checks say that most of a pool is gone, either the
//! checks are wrong or the few that are left would be overrun: below `panic_below` health is ignored. As with Envoy's
//! panic threshold, shares are counts of backends, not weights, and it does not come to panic while another tier is
//! well: panic takes both that the whole pool is below the threshold and that the tier that would serve is. A reserve
//! tier in good health thus serves, instead of the dead tier before it. In panic all eligible backends *of that tier*
//! are used; with nothing available anywhere, those of the lowest tier that has any (Envoy: all traffic to P=0).

/// What is known of one backend of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Lower tiers serve first.
    pub tier: u32,
    /// The effective weight; at 0 a backend takes no clients, health or not.
    pub weight: u32,
    /// Up, not ejected, ready to serve.
    pub available: bool,
    /// Not taken out (drain, maint) by an operator.
    pub eligible: bool,
}

/// The indexes of those in rotation, ascending; none only when nobody is eligible, or nobody is available and
/// `panic_below` is 0. `panic_below` is in percent: at 0 there is no panic, at 100 it takes one backend to be down.
pub fn rotation(backends: &[Standing], panic_below: u8) -> Vec<usize> {
    let eligible = || backends.iter().filter(|backend| backend.takes_clients());
    let serving = eligible().filter(|backend| backend.available).map(|backend| backend.tier).min();
    let Some(tier) = serving.or_else(|| eligible().map(|backend| backend.tier).min()) else {
        return Vec::new();
    };
    let panic =
        is_below(eligible(), panic_below) && is_below(eligible().filter(|backend| backend.tier == tier), panic_below);
    let in_rotation =
        |backend: &Standing| backend.takes_clients() && backend.tier == tier && (backend.available || panic);
    (0..backends.len()).filter(|&index| in_rotation(&backends[index])).collect()
}

impl Standing {
    fn takes_clients(&self) -> bool {
        self.eligible && self.weight > 0
    }
}

/// Whether strictly less than `percent` of these are available.
fn is_below<'a>(backends: impl Iterator<Item = &'a Standing>, percent: u8) -> bool {
    let (available, all) =
        backends.fold((0_u64, 0_u64), |(up, all), backend| (up + u64::from(backend.available), all + 1));
    available * 100 < all * u64::from(percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Vec<Standing> {
        // A tier a group: u up, d down, o taken out by an operator, z up with weight 0.
        let standing = |(tier, letter)| Standing {
            tier,
            weight: if letter == 'z' { 0 } else { 10 },
            available: letter != 'd',
            eligible: letter != 'o',
        };
        let groups = text.split(' ').enumerate();
        groups.flat_map(|(tier, group)| group.chars().map(move |letter| (tier as u32, letter))).map(standing).collect()
    }

    #[test]
    fn the_lowest_tier_with_someone_available_serves_alone() {
        assert_eq!(rotation(&pool("udu uu"), 0), [0, 2]);
        assert_eq!(rotation(&pool("ddd udu u"), 0), [3, 5]);
        assert_eq!(rotation(&pool("ozd u"), 0), [3]);
        assert_eq!(rotation(&pool("dd d"), 0), [0; 0]);
        assert_eq!(rotation(&pool("oz o"), 100), [0; 0]);
        assert_eq!(rotation(&[], 50), [0; 0]);
    }

    #[test]
    fn the_order_of_tiers_in_the_file_does_not_matter() {
        let mut backends = pool("du uu");
        backends.reverse();
        assert_eq!(rotation(&backends, 0), [2]);
    }

    #[test]
    fn below_the_threshold_health_is_ignored_and_at_it_is_not() {
        assert_eq!(rotation(&pool("uudd"), 50), [0, 1]);
        assert_eq!(rotation(&pool("uudd"), 51), [0, 1, 2, 3]);
        assert_eq!(rotation(&pool("uddd"), 50), [0, 1, 2, 3]);
        assert_eq!(rotation(&pool("dddd"), 1), [0, 1, 2, 3]);
        assert_eq!(rotation(&pool("uuuu"), 100), [0, 1, 2, 3]);
        assert_eq!(rotation(&pool("uuud"), 100), [0, 1, 2, 3]);
    }

    #[test]
    fn those_taken_out_neither_count_nor_serve_in_panic() {
        assert_eq!(rotation(&pool("uooozz"), 90), [0]);
        assert_eq!(rotation(&pool("udooz"), 60), [0, 1]);
    }

    #[test]
    fn panic_stays_in_the_tier_that_serves_and_spares_a_reserve_in_good_health() {
        assert_eq!(rotation(&pool("dddd u"), 50), [4], "the reserve is well");
        assert_eq!(rotation(&pool("dddd udd"), 50), [4, 5, 6], "the reserve is in panic itself");
        assert_eq!(rotation(&pool("uddd d"), 50), [0, 1, 2, 3]);
        assert_eq!(rotation(&pool("uddd uuuu"), 50), [0], "the pool as a whole is well");
        assert_eq!(rotation(&pool("oo dd dd"), 50), [2, 3], "nothing is available: the lowest tier that may serve");
    }

    proptest! {
        #[test]
        fn nobody_ineligible_serves_and_somebody_does_when_possible(text in "[udoz]{0,6} [udoz]{0,6}", panic in 0_u8..=100) {
            let backends = pool(&text);
            let chosen = rotation(&backends, panic);
            prop_assert!(chosen.iter().all(|&index| backends[index].takes_clients()));
            let expected = backends.iter().any(|b| b.takes_clients() && (b.available || panic > 0));
            prop_assert_eq!(!chosen.is_empty(), expected);
        }
    }
}
