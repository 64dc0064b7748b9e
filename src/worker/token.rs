//! What a readiness event is told by: slot, side and generation in one word.
//!
//! A slot is used again as soon as its connection is gone, while events of that one may still be on their way in the
//! same batch. They carry the old generation, find another one in the slot, and are dropped.

use crate::id::Side;

const SLOT_BITS: u32 = 32;
const SIDE_BIT: u32 = SLOT_BITS;
/// Set for what is no side of a connection; the side bit then tells sockets of flows.
const KIND_BIT: u32 = SLOT_BITS + 1;
const GENERATION_SHIFT: u32 = SLOT_BITS + 2;
const GENERATION_MASK: u64 = (1 << (64 - GENERATION_SHIFT)) - 1;

/// Which connection: its slot in the slab and the generation it was given there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Place in the slab.
    pub slot: u32,
    /// Which of the connections that have been there.
    pub generation: u32,
}

impl Key {
    /// A key; generations wrap around after 2^30 connections.
    pub fn new(slot: usize, count: u64) -> Self {
        let slot = u32::try_from(slot).expect("fewer than 2^32 connections fit into memory");
        Self { slot, generation: (count & GENERATION_MASK) as u32 }
    }

    /// The word for one of its sides.
    pub fn token(self, side: Side) -> usize {
        let side = u64::from(side == Side::Backend) << SIDE_BIT;
        (u64::from(self.generation) << GENERATION_SHIFT | side | u64::from(self.slot)) as usize
    }
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A side of a connection.
    Connection(Key, Side),
    /// A listening socket, by its place.
    Listening(usize),
    /// A UDP socket that clients send to, by its place.
    Inlet(usize),
    /// A UDP socket towards a backend.
    Outlet(Key),
    /// The mailbox.
    Mailbox,
}

const MAILBOX: usize = 1 << KIND_BIT;
const INLET: usize = MAILBOX | 1 << GENERATION_SHIFT;

impl Source {
    /// The word for a listening socket.
    pub fn listening(at: usize) -> usize {
        MAILBOX + 1 + at
    }

    /// The word for a UDP socket that clients send to.
    pub fn inlet(at: usize) -> usize {
        INLET | at
    }

    /// The word for a UDP socket towards a backend.
    pub fn outlet(key: Key) -> usize {
        key.token(Side::Backend) | 1 << KIND_BIT
    }

    /// The word for the mailbox.
    pub const fn mailbox() -> usize {
        MAILBOX
    }

    /// What the word stands for.
    pub fn of(token: usize) -> Self {
        let word = token as u64;
        let slot = word as u32;
        let key = Key { slot, generation: (word >> GENERATION_SHIFT) as u32 };
        let side = if word & (1 << SIDE_BIT) == 0 { Side::Client } else { Side::Backend };
        match (word & (1 << KIND_BIT) != 0, side) {
            (false, side) => Self::Connection(key, side),
            (true, Side::Backend) => Self::Outlet(key),
            (true, Side::Client) if key.generation > 0 => Self::Inlet(slot as usize),
            (true, Side::Client) if slot == 0 => Self::Mailbox,
            (true, Side::Client) => Self::Listening(slot as usize - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for slot in [0, 1, u32::MAX as usize] {
            for count in [0, 1, GENERATION_MASK, GENERATION_MASK + 1] {
                let key = Key::new(slot, count);
                for side in [Side::Client, Side::Backend] {
                    assert_eq!(Source::of(key.token(side)), Source::Connection(key, side));
                }
            }
        }
        assert_eq!(Source::of(Source::mailbox()), Source::Mailbox);
        assert_eq!(Source::of(Source::listening(0)), Source::Listening(0));
        assert_eq!(Source::of(Source::listening(4711)), Source::Listening(4711));
        for at in [0, 1, 4711] {
            assert_eq!(Source::of(Source::inlet(at)), Source::Inlet(at));
            let key = Key::new(at, GENERATION_MASK - at as u64);
            assert_eq!(Source::of(Source::outlet(key)), Source::Outlet(key));
        }
    }
}
