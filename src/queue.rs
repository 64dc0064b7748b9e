//! Who waits for a backend of a pool, over all threads of all engines: first come, first served.
//!
//! A waiter stays counted until it has been served or has gone, also while its turn is on the way to it. So a newcomer
//! that sees a count knows that it has to line up, and nobody overtakes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The waiters of a pool. One at a time is called to look whether a backend has a place.
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
    /// The last ticket.
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    waker: Waker,
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

    /// Lines up at the end, unless `max` wait already; `waker` is called when it is its turn. A place may have come free
    /// between the look at the backends and this: so the first in line is called at once.
    pub fn join(&self, waker: Waker, max: u32) -> Option<Ticket> {
        let mut line = self.lock();
        if self.len.load(SeqCst) >= max {
            return None;
        }
        self.len.fetch_add(1, SeqCst);
        line.last += 1;
        let ticket = Ticket(line.last);
        line.waiting.push_back(Waiter { ticket, waker });
        drop(line);
        self.call();
        Some(ticket)
    }

    /// A place may have come free: the first in line is called to look, and answers with [`Self::back`] or
    /// [`Self::leave`]. Until then nobody else is called.
    #[inline]
    pub fn call(&self) {
        if !self.is_empty() {
            self.call_first();
        }
    }

    #[cold]
    fn call_first(&self) {
        let mut line = self.lock();
        if line.called.is_some() {
            line.call_again = true;
            return;
        }
        line.called = line.waiting.pop_front();
        let waker = line.called.as_ref().map(|waiter| waiter.waker.clone());
        drop(line);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The one that was called found nothing free and is the first in line again; it is called once more when a place
    /// has come free meanwhile.
    pub fn back(&self) {
        let mut line = self.lock();
        if let Some(waiter) = line.called.take() {
            line.waiting.push_front(waiter);
        }
        let call_again = std::mem::take(&mut line.call_again);
        drop(line);
        if call_again {
            self.call();
        }
    }

    /// Served, or gone. Whoever goes while it is called leaves its turn to the next.
    pub fn leave(&self, ticket: Ticket) {
        let mut line = self.lock();
        self.len.fetch_sub(1, SeqCst);
        if line.called.as_ref().is_some_and(|called| called.ticket == ticket) {
            line.called = None;
            line.call_again = false;
            drop(line);
            self.call();
        } else if let Some(at) = line.waiting.iter().position(|other| other.ticket == ticket) {
            line.waiting.remove(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    /// Who counts how often it was called.
    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn join(queue: &Queue, max: u32) -> Option<(Ticket, Arc<Calls>)> {
        let calls = Arc::new(Calls::default());
        queue.join(calls.clone().into(), max).map(|ticket| (ticket, calls))
    }

    fn calls(waiters: &[&Arc<Calls>]) -> Vec<usize> {
        waiters.iter().map(|calls| calls.0.load(SeqCst)).collect()
    }

    #[test]
    fn the_first_to_come_is_the_first_to_be_called_and_counts_until_it_has_left() {
        let queue = Queue::default();
        let (a, of_a) = join(&queue, 2).expect("it is empty");
        let (b, of_b) = join(&queue, 2).expect("one waits");
        assert!(join(&queue, 2).is_none(), "the queue has a limit");
        let counts = || calls(&[&of_a, &of_b]);
        assert_eq!(counts(), [1, 0], "a looks itself, since a place may have come free meanwhile");
        assert_eq!(queue.len(), 2, "called but not served");
        queue.back();
        assert_eq!(counts(), [2, 0], "when b came it may have looked already");
        queue.call();
        queue.call();
        assert_eq!(counts(), [2, 0], "one at a time, so that nobody overtakes");
        queue.back();
        assert_eq!(counts(), [3, 0], "somebody called meanwhile");
        queue.back();
        assert_eq!(counts(), [3, 0], "nobody did");
        queue.call();
        queue.leave(a);
        assert_eq!(counts(), [4, 1], "the one that is served calls the next");
        queue.leave(b);
        assert!(queue.is_empty());
        queue.call();
        assert_eq!(counts(), [4, 1]);
    }

    #[test]
    fn whoever_goes_before_its_turn_leaves_the_others_in_their_order() {
        let queue = Queue::default();
        let waiters: Vec<_> = (0..3).map(|_| join(&queue, 10).expect("there is room")).collect();
        let counts = || calls(&[&waiters[0].1, &waiters[1].1, &waiters[2].1]);
        queue.leave(waiters[1].0);
        assert_eq!(counts(), [1, 0, 0]);
        queue.leave(waiters[0].0);
        assert_eq!(counts(), [1, 0, 1], "its turn goes on when it goes while it is called");
        queue.back();
        queue.call();
        assert_eq!(counts(), [1, 0, 2]);
    }
}
