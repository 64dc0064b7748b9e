//! The program's memory: what is small comes from mimalloc, what is large from the system.
//!
//! The gateway allocates and frees much that is small, for many connections at once: there mimalloc is faster, and can
//! give back what rests. A table that grows by doubling would leave its smaller forms with it for a while; the system's
//! allocator maps large blocks one by one (mmap(2)), grows them in place and returns them at once.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// From here on a block is large: where glibc begins to map (mallopt(3), M_MMAP_THRESHOLD).
const LARGE_BYTES: usize = 128 * 1024;

/// Chooses by size, which whoever gives a block back has to know, too.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE_BYTES
}

// SAFETY: every block goes back to the allocator that it came from, since both are chosen by the size of its layout alone,
// and callers give back blocks with the layout they have. Both are allocators themselves.
unsafe impl GlobalAlloc for Allocator {
    // SAFETY: what callers promise is what the trait asks of them.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { if is_large(layout) { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    // SAFETY: what callers promise is what the trait asks of them.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what `alloc_zeroed` asks for.
        unsafe { if is_large(layout) { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    // SAFETY: what callers promise is what the trait asks of them.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block was allocated here with this layout, so by the allocator that the layout chooses again.
        unsafe { if is_large(layout) { System.dealloc(block, layout) } else { MiMalloc.dealloc(block, layout) } }
    }

    // SAFETY: what callers promise is what the trait asks of them.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: it stays with the allocator that it came from.
            (true, true) => unsafe { System.realloc(block, layout, size) },
            // SAFETY: as above.
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            // SAFETY: both blocks are at least as long as what is copied, do not overlap, and the old one is given back
            // only when there is a new one.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_its_bytes_over_the_border_both_ways() {
        let sizes = [1, 1000, LARGE_BYTES - 1, LARGE_BYTES, 3 * LARGE_BYTES, LARGE_BYTES + 1, LARGE_BYTES - 7, 5];
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        // SAFETY: each block is used within its size, and given back once with the layout that it has.
        unsafe {
            let mut block = Allocator.alloc_zeroed(layout(sizes[0]));
            assert_eq!(block.read(), 0);
            block.write(7);
            for pair in sizes.windows(2) {
                block = Allocator.realloc(block, layout(pair[0]), pair[1]);
                assert!(!block.is_null() && block.read() == 7, "{pair:?}");
                block.write_bytes(7, pair[1]);
            }
            assert_eq!(block.add(4).read(), 7);
            Allocator.dealloc(block, layout(5));
        }
    }
}
