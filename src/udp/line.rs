//! Flows in the order in which they fell silent: a list through the slab that holds them, the longest idle one first.

use slab::Slab;

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

/// What can stand in a line: it keeps its own neighbours.
pub(super) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
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
    pub fn push<F: Linked>(&mut self, flows: &mut Slab<F>, slot: usize) {
        let at = u32::try_from(slot).expect("fewer than 2^32 flows fit into memory");
        *flows[slot].links_mut() = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = at,
            last => flows[last as usize].links_mut().after = at,
        }
        self.last = at;
    }

    /// Takes a flow of this line out.
    pub fn remove<F: Linked>(&mut self, flows: &mut Slab<F>, slot: usize) {
        let Links { before, after } = std::mem::take(flows[slot].links_mut());
        match before {
            NONE => self.first = after,
            before => flows[before as usize].links_mut().after = after,
        }
        match after {
            NONE => self.last = before,
            after => flows[after as usize].links_mut().before = before,
        }
    }

    /// All of them, the longest idle one first.
    pub fn iter<'a, F: Linked>(&self, flows: &'a Slab<F>) -> impl Iterator<Item = usize> + 'a {
        let mut next = self.first();
        std::iter::from_fn(move || {
            let slot = next?;
            next = Some(flows[slot].links().after).filter(|after| *after != NONE).map(|after| after as usize);
            Some(slot)
        })
    }
}
