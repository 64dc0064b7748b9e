//! The first usable member in the order of the file: the others wait until it is full or down.

pub(super) fn pick(count: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    (0..count).find(|&index| usable(index))
}
