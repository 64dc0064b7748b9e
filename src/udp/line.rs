//! Flows in the order in which they fell silent: a list through the slab that holds them, the longest idle one first.

use slab::Slab;

use super::flow::Entry;

/// Ends a line.
const NONE: u32 = u32::MAX;

/// A flow's neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    before: u32,
    after: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { before: NONE, after: NONE }
    }
}

/// A line of flows.
#[derive(Debug)]
pub(super) struct Line {
    first: u32,
    last: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Line {
    /// The longest idle one.
    pub fn first(&self) -> Option<usize> {
        (self.first != NONE).then_some(self.first as usize)
    }

    /// Adds a flow that was active just now, and is in no line.
    pub fn push<S>(&mut self, flows: &mut Slab<Entry<S>>, slot: usize) {
        let at = u32::try_from(slot).expect("fewer than 2^32 flows fit into memory");
        flows[slot].links = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = at,
            last => flows[last as usize].links.after = at,
        }
        self.last = at;
    }

    /// Takes a flow of this line out.
    pub fn remove<S>(&mut self, flows: &mut Slab<Entry<S>>, slot: usize) {
        let Links { before, after } = std::mem::take(&mut flows[slot].links);
        match before {
            NONE => self.first = after,
            before => flows[before as usize].links.after = after,
        }
        match after {
            NONE => self.last = before,
            after => flows[after as usize].links.before = before,
        }
    }

    /// All of them, the longest idle one first.
    pub fn iter<'a, S>(&self, flows: &'a Slab<Entry<S>>) -> impl Iterator<Item = usize> + 'a {
        let mut next = self.first();
        std::iter::from_fn(move || {
            let slot = next?;
            next = Some(flows[slot].links.after).filter(|after| *after != NONE).map(|after| after as usize);
            Some(slot)
        })
    }
}
