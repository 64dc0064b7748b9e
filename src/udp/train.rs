//! Which datagrams may leave as one train: those of one size that follow each other, with a shorter one at the end
//! (udp(7), UDP_SEGMENT). The receiver finds the same datagrams in the same order; the way there costs one.

use crate::sys::datagram::{SEGMENTS_MAX, TRAIN_BYTES_MAX};

/// Datagrams that came one by one are joined up to this size: what fits into an Ethernet frame over IPv6. A train is
/// refused where its segments would have to be fragmented.
pub const JOINED_BYTES_MAX: usize = 1452;

/// A message that is being put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    segment: usize,
    segments: usize,
    bytes: usize,
    /// Its last segment is a whole one: more may follow.
    is_open: bool,
}

impl Train {
    /// Begins with a datagram (`segment` = `len`), or with a train that came as one.
    pub const fn begin(len: usize, segment: usize) -> Self {
        let segments = if segment == 0 { 1 } else { len.div_ceil(segment) };
        Self { segment, segments, bytes: len, is_open: segment > 0 && len.is_multiple_of(segment) }
    }

    /// Puts a datagram or train behind it, if that is possible; `joined_max` bounds the size of its segments.
    pub fn join(&mut self, len: usize, segment: usize, joined_max: usize) -> bool {
        let segments = if segment == 0 { 1 } else { len.div_ceil(segment) };
        // A single datagram that is shorter may come last; one of a train has its size in all but the last.
        let fits = segment == self.segment || (segments == 1 && (1..self.segment).contains(&len));
        let joins = self.is_open
            && fits
            && self.segment <= joined_max
            && self.segments + segments <= SEGMENTS_MAX
            && self.bytes + len <= TRAIN_BYTES_MAX;
        if joins {
            self.is_open = segment == self.segment && len.is_multiple_of(segment);
            self.segments += segments;
            self.bytes += len;
        }
        joins
    }

    /// Bytes of a segment, when there is more than one.
    pub const fn segment(&self) -> Option<usize> {
        if self.segments > 1 { Some(self.segment) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a receiver takes a train apart into.
    fn cut(train: Train) -> Vec<usize> {
        let Some(segment) = train.segment() else { return vec![train.bytes] };
        let whole = std::iter::repeat_n(segment, train.bytes / segment);
        whole.chain(Some(train.bytes % segment).filter(|rest| *rest > 0)).collect()
    }

    #[test]
    fn equal_datagrams_join_and_a_shorter_one_is_the_last() {
        let mut train = Train::begin(64, 64);
        assert_eq!(train.segment(), None);
        assert!(train.join(64, 64, JOINED_BYTES_MAX));
        assert!(!train.join(65, 65, JOINED_BYTES_MAX), "a longer one does not fit");
        assert!(!train.join(0, 0, JOINED_BYTES_MAX), "an empty one would be lost");
        assert!(train.join(10, 10, JOINED_BYTES_MAX));
        assert!(!train.join(10, 10, JOINED_BYTES_MAX), "nothing comes behind a shorter one");
        assert_eq!(cut(train), [64, 64, 10]);
    }

    #[test]
    fn an_empty_datagram_stays_alone() {
        let mut train = Train::begin(0, 0);
        assert!(!train.join(0, 0, JOINED_BYTES_MAX) && !train.join(5, 5, JOINED_BYTES_MAX));
        assert_eq!(train.segment(), None);
    }

    #[test]
    fn what_would_be_fragmented_is_not_joined() {
        let mut train = Train::begin(1472, 1472);
        assert!(!train.join(1472, 1472, JOINED_BYTES_MAX));
        assert!(train.join(1472, 1472, 9000));
    }

    proptest! {
        #[test]
        fn a_receiver_finds_the_same_datagrams(
            sizes in prop::collection::vec((prop_oneof![0_usize..4, 60_usize..66, 1200_usize..1202, Just(65_507)], 1_usize..20, 0_usize..3), 1..60)
        ) {
            // Each is a datagram, or a train of some of that size with a shorter one at the end.
            let mut sent: Vec<usize> = Vec::new();
            let mut trains: Vec<Train> = Vec::new();
            for (size, count, shorter) in sizes {
                let count = if size == 0 || size * count > TRAIN_BYTES_MAX { 1 } else { count };
                let last = if count > 1 && shorter < size { size - shorter } else { size };
                let len = size * (count - 1) + last;
                let segment = if count == 1 { len } else { size };
                sent.extend(std::iter::repeat_n(size, count - 1).chain([last]));
                let joined = trains.last_mut().is_some_and(|train| train.join(len, segment, JOINED_BYTES_MAX));
                if !joined {
                    trains.push(Train::begin(len, segment));
                }
            }
            for train in &trains {
                prop_assert!(train.segments <= SEGMENTS_MAX && (train.segments == 1 || train.bytes <= TRAIN_BYTES_MAX));
            }
            prop_assert_eq!(trains.into_iter().flat_map(cut).collect::<Vec<_>>(), sent);
        }
    }
}
