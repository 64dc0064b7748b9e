//! What the datagrams say: a stamp, and bytes that follow from it, so that a reply can be told right from wrong.

/// Bytes of the stamp.
pub const STAMP_BYTES: usize = 16;
/// The bodies of two datagrams of a flow that follow each other begin at different places of the pattern.
const SHIFTS: u32 = 251;

/// Which datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of the whole run: a reply to a run before this one is a late one, not a wrong one.
    pub run: u32,
    pub flow: u32,
    pub slot: u32,
    pub sequence: u32,
}

/// Writes and reads datagrams of one size.
pub struct Payload {
    bytes: usize,
    pattern: Vec<u8>,
}

impl Payload {
    pub fn new(bytes: usize) -> Self {
        let noise = |at: u32| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8;
        Self { bytes, pattern: (0..bytes as u32 + SHIFTS).map(noise).collect() }
    }

    pub fn write(&self, into: &mut [u8], stamp: Stamp) {
        let fields = [stamp.run, stamp.flow, stamp.slot, stamp.sequence];
        for (place, field) in into.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        into[STAMP_BYTES..].copy_from_slice(self.body(stamp));
    }

    /// `None` when it is nothing that was ever sent.
    pub fn read(&self, bytes: &[u8]) -> Option<Stamp> {
        if bytes.len() != self.bytes {
            return None;
        }
        let mut fields =
            bytes.chunks_exact(4).map(|field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]));
        let (run, flow, slot, sequence) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let stamp = Stamp { run, flow, slot, sequence };
        (bytes[STAMP_BYTES..] == *self.body(stamp)).then_some(stamp)
    }

    fn body(&self, stamp: Stamp) -> &[u8] {
        let shift = stamp.sequence.wrapping_add(stamp.flow).wrapping_add(stamp.slot) % SHIFTS;
        &self.pattern[shift as usize..][..self.bytes - STAMP_BYTES]
    }
}
