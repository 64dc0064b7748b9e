//! Who waits for a backend of a pool, over all workers: first come, first served.
//!
//! A waiter stays counted until it has been served or has gone, also while its turn is on the way to it. So a newcomer
//! that sees a count knows that it has to line up, and nobody overtakes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A connection that waits: its worker, and what that worker knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The worker's number.
    pub worker: usize,
    /// The worker's token.
    pub token: usize,
}

/// The waiters of a pool. One at a time is called to look whether a place is free.
#[derive(Debug, Default)]
pub struct Queue {
    len: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiter>,
    /// Called, and has not answered yet.
    called: Option<Waiter>,
    /// Somebody wanted to call meanwhile: the one that is called may have looked too early.
    call_again: bool,
}

impl Queue {
    /// How many wait. A full fence stands before the look: whoever has given a place back, or has lined up, sees what
    /// the other one did.
    #[inline]
    pub fn len(&self) -> u32 {
        fence(SeqCst);
        self.len.load(SeqCst)
    }

    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lines up at the end, unless `max` wait already.
    pub fn join(&self, waiter: Waiter, max: u32) -> bool {
        let mut line = self.lock();
        if self.len.load(SeqCst) >= max {
            return false;
        }
        self.len.fetch_add(1, SeqCst);
        line.waiting.push_back(waiter);
        true
    }

    /// Calls the first in line, who answers with [`Self::back`] or [`Self::leave`]. Until then nobody else is called.
    pub fn call(&self) -> Option<Waiter> {
        let mut line = self.lock();
        if line.called.is_some() {
            line.call_again = true;
            return None;
        }
        line.called = line.waiting.pop_front();
        line.called
    }

    /// The one that was called found nothing free and is the first in line again. True when it should be called once
    /// more, because a place came free meanwhile.
    pub fn back(&self) -> bool {
        let mut line = self.lock();
        if let Some(waiter) = line.called.take() {
            line.waiting.push_front(waiter);
        }
        std::mem::take(&mut line.call_again)
    }

    /// Served, or gone.
    pub fn leave(&self, waiter: Waiter) {
        let mut line = self.lock();
        if line.called == Some(waiter) {
            line.called = None;
            line.call_again = false;
        } else if let Some(at) = line.waiting.iter().position(|other| *other == waiter) {
            line.waiting.remove(at);
        }
        self.len.fetch_sub(1, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(token: usize) -> Waiter {
        Waiter { worker: 0, token }
    }

    #[test]
    fn the_first_to_come_is_the_first_to_be_called_and_counts_until_it_has_left() {
        let queue = Queue::default();
        assert!(queue.join(waiter(1), 2) && queue.join(waiter(2), 2));
        assert!(!queue.join(waiter(3), 2), "the queue has a limit");
        assert_eq!(queue.call(), Some(waiter(1)));
        assert_eq!(queue.call(), None, "one at a time, so that nobody overtakes");
        assert_eq!(queue.len(), 2, "called but not served");
        assert!(queue.back(), "somebody called meanwhile");
        assert_eq!(queue.call(), Some(waiter(1)));
        assert!(!queue.back());
        assert_eq!(queue.call(), Some(waiter(1)));
        queue.leave(waiter(1));
        assert_eq!(queue.call(), Some(waiter(2)));
        queue.leave(waiter(2));
        assert!(queue.is_empty());
        assert_eq!(queue.call(), None);
    }

    #[test]
    fn whoever_goes_before_its_turn_leaves_the_others_in_their_order() {
        let queue = Queue::default();
        assert!((1..=3).all(|token| queue.join(waiter(token), 10)));
        queue.leave(waiter(2));
        assert_eq!(queue.call(), Some(waiter(1)));
        queue.leave(waiter(1));
        assert_eq!(queue.call(), Some(waiter(3)));
    }
}
