//! The choice of a backend: pure, one call per connection, without lock, allocation, clock or I/O.
//!
//! A [`Picker`] is built when the members in rotation change and is immutable afterwards, so that all workers share
//! it. What moves with every pick is the [`Cursor`], one for each worker and pool. Who is in rotation at all is decided
//! by [`tiers`]. One file an algorithm; `choice` holds what several of them share.

mod choice;
mod first;
mod ip_hash;
mod least_conn;
mod least_time;
mod random;
mod round_robin;
pub mod tiers;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use std::fmt;
use std::time::Duration;

use choice::{Draw, Least};
use ip_hash::Maglev;
use round_robin::Sequence;

/// Members that a picker's tables can name. Any beyond this many are chosen only when no other one is usable; the
/// configuration refuses larger pools.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

/// Pause before backends that failed are asked once more: all were tried and attempts are left.
pub const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What the pickers ask of a backend in rotation.
pub trait Candidate {
    /// The effective weight (an operator's, slow start's); above 0 for every member in rotation.
    fn weight(&self) -> u32;

    /// Connections now, over all workers, those being connected included.
    fn load(&self) -> u32;

    /// Peak EWMA of the time to connect, in microseconds; 0 = never measured. It has to fall with time by itself:
    /// a backend that was slow once and gets no clients has no other way back.
    fn connect_cost_us(&self) -> u64;

    /// A [`hash`] of name and address: the same in every process and after every reload.
    fn identity(&self) -> u64;
}

/// XXH3 (64 bits, no seed) of `bytes`: for [`Candidate::identity`] and for the key of a client.
///
/// The algorithm is frozen and independent of the machine's byte order, so all processes on all machines and in all
/// versions agree, which `ip_hash` needs to send a client to the same backend everywhere. It is not meant to
/// withstand an adversary. Hash a client's *canonical* address (`IpAddr::to_canonical`), or a dual-stack listener
/// and an IPv4 one will disagree about it.
pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The hash of a client's address, in its canonical form.
pub fn hash_client(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// Where one worker stands in one pool: the round-robin position and the rotation among equals.
///
/// It outlives the pickers. It counts on when the members change instead of starting again, so that no member is
/// favoured for being first in the list, however often a pool changes.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The share of a cycle (of 2^32) at which this worker starts.
    phase: u32,
    /// Steps taken; wraps, which costs one uneven step in 2^32.
    turn: u32,
}

impl Cursor {
    /// A cursor that starts elsewhere for every `start`. Give each worker its number: consecutive numbers are spread
    /// most evenly over a cycle (the multiples of the golden ratio).
    pub const fn new(start: u32) -> Self {
        const GOLDEN_RATIO: u32 = 0x9E37_79B9; // (sqrt(5) - 1) / 2 of 2^32
        Self { phase: start.wrapping_mul(GOLDEN_RATIO), turn: 0 }
    }

    /// The place in a cycle of `length` steps; `length` must not be 0.
    fn position(&self, length: usize) -> usize {
        let length = length as u64;
        let start = (u64::from(self.phase) * length) >> 32;
        ((start + u64::from(self.turn)) % length) as usize
    }

    fn advance(&mut self, steps: usize) {
        self.turn = self.turn.wrapping_add(steps as u32);
    }
}

/// How to choose: the pool's `balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Fewest connections for its weight.
    LeastConn,
    /// Lowest connect time × (connections + 1) / weight.
    LeastTime,
    /// The better of two random ones.
    Random,
    /// By the client, consistently (Maglev).
    IpHash,
    /// The first usable one.
    First,
}

/// An algorithm with its tables for one set of members.
pub enum Picker {
    /// See [`Kind::RoundRobin`].
    RoundRobin(Sequence),
    /// See [`Kind::LeastConn`].
    LeastConn(Least),
    /// See [`Kind::LeastTime`].
    LeastTime(Least),
    /// See [`Kind::Random`].
    Random(Draw),
    /// See [`Kind::IpHash`].
    IpHash(Maglev),
    /// See [`Kind::First`].
    First,
}

impl Picker {
    /// The picker for these members, each of a weight above 0. It depends on their weights and identities only, so it
    /// is built again when members come, go or change weight, and not for anything else.
    pub fn build<C: Candidate>(kind: Kind, members: &[C]) -> Self {
        debug_assert!(members.len() <= MEMBERS_MAX, "the configuration refuses larger pools");
        debug_assert!(members.iter().all(|member| member.weight() > 0), "weight 0 is never in rotation");
        let members = &members[..members.len().min(MEMBERS_MAX)];
        match kind {
            Kind::RoundRobin => Self::RoundRobin(Sequence::build(&weights(members))),
            Kind::LeastConn => Self::LeastConn(Least::build(&weights(members))),
            Kind::LeastTime => Self::LeastTime(Least::build(&weights(members))),
            Kind::Random => Self::Random(Draw::build(&weights(members))),
            Kind::IpHash => Self::IpHash(Maglev::build(members)),
            Kind::First => Self::First,
        }
    }

    /// The index into `members` (those the picker was built for, in that order) of the choice among the members for
    /// which `usable` holds; None when it holds for none. `client` is the [`hash`] of the client's address.
    ///
    /// `usable` says what may change from one connection to the next (a backend is full, or was tried for this
    /// client); it is asked a bounded number of times for each member.
    pub fn pick<C: Candidate>(
        &self,
        members: &[C],
        client: u64,
        cursor: &mut Cursor,
        rng: &mut fastrand::Rng,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if members.is_empty() {
            return None;
        }
        // A picker that is paired with the wrong members chooses badly, but does not take the process down.
        let usable = |index: usize| index < members.len() && usable(index);
        match self {
            Self::RoundRobin(sequence) => sequence.pick(members, cursor, rng, usable),
            Self::LeastConn(least) => least.pick(members, cursor, rng, usable, least_conn::better),
            Self::LeastTime(least) => least.pick(members, cursor, rng, usable, least_time::better),
            Self::Random(draw) => random::pick(draw, members, rng, usable),
            Self::IpHash(maglev) => maglev.pick(members, client, usable),
            Self::First => first::pick(members.len(), usable),
        }
    }
}

impl fmt::Debug for Picker {
    /// The kind alone: the tables are long and say nothing to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin(_) => "RoundRobin",
            Self::LeastConn(_) => "LeastConn",
            Self::LeastTime(_) => "LeastTime",
            Self::Random(_) => "Random",
            Self::IpHash(_) => "IpHash",
            Self::First => "First",
        })
    }
}

/// The weights in the order of the members. A 0, which must not be there, counts as 1 so that all tables stay sound.
fn weights<C: Candidate>(members: &[C]) -> Vec<u32> {
    members.iter().map(|member| member.weight().max(1)).collect()
}
