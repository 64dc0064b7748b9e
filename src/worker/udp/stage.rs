//! Putting datagrams into an outbox: as trains where they fit together, each with its header where one is due.

use std::net::{IpAddr, SocketAddr};

use crate::sys::datagram::Outbox;
use crate::udp::train::{JOINED_BYTES_MAX, Train};

/// Ends a chain.
const NONE: u32 = u32::MAX;

/// A datagram or train in the arena, or a stretch of one.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub slot: usize,
    pub start: usize,
    pub len: usize,
    /// Bytes of a segment; `len` when it is a single datagram.
    pub segment: usize,
}

/// What stands before a part's datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    start: usize,
    len: usize,
    /// Before each datagram, or before the first one only.
    before_each: bool,
}

/// To whom a message goes; see [`Outbox::begin`].
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    pub tag: u32,
    pub to: Option<SocketAddr>,
    pub from: Option<IpAddr>,
}

/// Parts that leave through one outlet, in order.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    first: u32,
    last: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Chain {
    pub const fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// The parts of the present batch with their headers.
#[derive(Debug, Default)]
pub struct Parts {
    links: Vec<Link>,
    headers: Vec<u8>,
    /// Outlets with a chain.
    pub touched: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    part: Part,
    header: Header,
    next: u32,
}

impl Parts {
    /// Keeps a header for [`Parts::add`].
    pub fn header(&mut self, before_each: bool, write: impl FnOnce(&mut Vec<u8>)) -> Header {
        let start = self.headers.len();
        write(&mut self.headers);
        Header { start, len: self.headers.len() - start, before_each }
    }

    /// Puts a part at the end of the chain of an outlet.
    pub fn add(&mut self, outlet: usize, chain: &mut Chain, part: Part, header: Header) {
        let at = self.links.len() as u32;
        self.links.push(Link { part, header, next: NONE });
        match chain.last {
            NONE => {
                chain.first = at;
                self.touched.push(outlet);
            }
            last => self.links[last as usize].next = at,
        }
        chain.last = at;
    }

    /// Fills an empty outbox with a chain.
    pub fn stage(&self, chain: Chain, outbox: &mut Outbox, train_max: usize) {
        let destination = Destination { tag: 0, to: None, from: None };
        let mut last = None;
        let mut next = chain.first;
        while let Some(link) = self.links.get(next as usize) {
            let Header { start, len, before_each } = link.header;
            let header = &self.headers[start..start + len];
            put(outbox, &mut last, destination, link.part, (header, before_each), train_max);
            next = link.next;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.links.clear();
        self.headers.clear();
        self.touched.clear();
    }
}

/// Puts a part behind what is staged for the same destination: `last` is the outbox's last message if it goes there.
/// Trains with segments of more than `train_max` bytes are taken apart.
pub fn put(
    outbox: &mut Outbox,
    last: &mut Option<Train>,
    destination: Destination,
    part: Part,
    (header, before_each): (&[u8], bool),
    train_max: usize,
) {
    let is_whole = part.segment == part.len || (header.is_empty() && part.segment <= train_max);
    let step = if is_whole { part.len } else { part.segment };
    let mut start = 0;
    loop {
        let len = step.min(part.len - start);
        let header = if start == 0 || before_each { header } else { &[] };
        let total = header.len() + len;
        let segment = if is_whole && part.segment < part.len { part.segment } else { total };
        let joins = |train: &mut Train| train.join(total, segment, train_max.min(JOINED_BYTES_MAX));
        if !last.as_mut().is_some_and(joins) {
            outbox.begin(destination.tag, destination.to, destination.from);
            *last = Some(Train::begin(total, segment));
        }
        if !header.is_empty() {
            outbox.add_own(header);
        }
        outbox.add(part.slot, part.start + start, len);
        if let Some(segment) = last.and_then(|train| train.segment()) {
            outbox.set_segment(segment);
        }
        start += len;
        if start >= part.len {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Destination = Destination { tag: 0, to: None, from: None };

    /// Datagrams of each message that these parts (bytes, bytes of a segment) become.
    fn staged(parts: &[(usize, usize)], header: (&[u8], bool), train_max: usize) -> Vec<u32> {
        let (mut outbox, mut last) = (Outbox::default(), None);
        for (slot, (len, segment)) in parts.iter().enumerate() {
            let part = Part { slot, start: 0, len: *len, segment: *segment };
            put(&mut outbox, &mut last, NOBODY, part, header, train_max);
        }
        (0..outbox.len()).map(|at| outbox.datagrams(at)).collect()
    }

    const NONE: (&[u8], bool) = (&[], false);

    #[test]
    fn equal_datagrams_leave_as_one_train_and_others_by_themselves() {
        assert_eq!(staged(&[(64, 64), (64, 64), (10, 10), (64, 64), (0, 0)], NONE, usize::MAX), [3, 1, 1]);
        assert_eq!(staged(&[(2400, 1200), (1200, 1200), (700, 700)], NONE, usize::MAX), [4]);
    }

    #[test]
    fn a_kernel_or_a_path_without_trains_is_given_none() {
        assert_eq!(staged(&[(64, 64), (64, 64)], NONE, 0), [1, 1]);
        assert_eq!(staged(&[(2500, 1200)], NONE, 0), [1, 1, 1]);
        assert_eq!(staged(&[(2400, 1200), (1000, 1000), (1000, 1000)], NONE, 1100), [1, 1, 2], "shorter ones may");
    }

    #[test]
    fn a_header_stands_before_each_datagram_of_a_train_or_before_its_first() {
        assert_eq!(staged(&[(300, 100)], (&[1; 28], true), usize::MAX), [3], "they are of one size still");
        assert_eq!(staged(&[(300, 100)], (&[1; 28], false), usize::MAX), [2, 1]);
        assert_eq!(staged(&[(0, 0)], (&[1; 28], true), usize::MAX), [1]);
    }
}
