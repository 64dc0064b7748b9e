//! The same client to the same backend, without memory: Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4), with weights.
//!
//! Each member prefers the slots of a table in an order of its own; they take turns in choosing the best slot still
//! free, as many turns as their weights say. A client's hash names a slot. The members are put in the order of their
//! identities first, so the order in the file does not matter, and all processes agree.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::round_robin::Sequence;
use super::{Candidate, weights};

/// Slots: a prime, as the paper asks, so that every step width visits every slot.
const SLOTS: usize = 65_537;

/// Slots looked at for a client before all members are.
const PROBES_MAX: u64 = 32;

/// Seeds of the paper's two hashes of a member and of the hashes after an unusable choice. They are part of what all
/// processes agree on: never change them.
const OFFSET_SEED: u64 = 1;
const SKIP_SEED: u64 = 2;
const SPREAD_SEED: u64 = 3;

/// A slot nobody has chosen yet; no member has this index, there are at most `MEMBERS_MAX`.
const FREE: u16 = u16::MAX;

/// The table: for each slot the index of a member.
pub struct Maglev {
    slots: Box<[u16]>,
}

/// A member's walk through the slots in the order of its preference.
struct Preference {
    slot: usize,
    skip: usize,
}

impl Maglev {
    /// For at most `MEMBERS_MAX` members.
    pub(super) fn build<C: Candidate>(members: &[C]) -> Self {
        if members.is_empty() {
            return Self { slots: Box::default() };
        }
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| members[index].identity());
        let weights = weights(members);
        // The turns of the paper's weighted variant: smooth, so that no member runs ahead in the free table.
        let turns = Sequence::build(&order.iter().map(|&index| weights[index]).collect::<Vec<_>>());
        let mut preferences: Vec<Preference> =
            order.iter().map(|&index| Preference::of(members[index].identity())).collect();
        let mut slots = vec![FREE; SLOTS].into_boxed_slice();
        for &turn in turns.turns().iter().cycle().take(SLOTS) {
            let preference = &mut preferences[usize::from(turn)];
            while slots[preference.slot] != FREE {
                preference.advance();
            }
            slots[preference.slot] = order[usize::from(turn)] as u16;
        }
        Self { slots }
    }

    /// The client's member. Where that is not usable, further slots that depend on the client alone: other clients do
    /// not move, and those of an unusable member spread over all others.
    pub(super) fn pick<C: Candidate>(
        &self,
        members: &[C],
        client: u64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let probes = (0..PROBES_MAX).map(|probe| if probe == 0 { client } else { spread(client, probe) });
        for probe in probes.filter(|_| !self.slots.is_empty()) {
            let index = usize::from(self.slots[(probe % SLOTS as u64) as usize]);
            if usable(index) {
                return Some(index);
            }
        }
        // Nearly all are unusable: the highest of a hash of client and member (rendezvous), in any order of members.
        let usable = (0..members.len()).filter(|&index| usable(index));
        usable.max_by_key(|&index| spread(client, members[index].identity()))
    }
}

impl Preference {
    fn of(identity: u64) -> Self {
        let hash = |seed| xxh3_64_with_seed(&identity.to_le_bytes(), seed);
        Self {
            slot: (hash(OFFSET_SEED) % SLOTS as u64) as usize,
            skip: (hash(SKIP_SEED) % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    fn advance(&mut self) {
        self.slot += self.skip;
        if self.slot >= SLOTS {
            self.slot -= SLOTS;
        }
    }
}

fn spread(client: u64, with: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&client.to_le_bytes());
    bytes[8..].copy_from_slice(&with.to_le_bytes());
    xxh3_64_with_seed(&bytes, SPREAD_SEED)
}
