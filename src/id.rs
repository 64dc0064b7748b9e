//! Identities: small numbers that stand for a listener, a pool or a backend of the file.
//!
//! The control plane hands out one number per identity (for a backend: pool, name and address) and never gives it to
//! another one while the process lives. So a number in a message or in a connection means the same thing after any
//! number of reloads, and a stale one simply finds nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "#{}", self.0)
            }
        }
    };
}

identity!(
    /// A `[listener.NAME]`.
    ListenerId
);
identity!(
    /// A `[pool.NAME]`.
    PoolId
);
identity!(
    /// A backend of a pool: the same pool, name and address is the same backend.
    BackendId
);

/// The numbers of one thread for the log: connections, requests and flows, one after the other. No two threads draw the
/// same.
#[derive(Clone, Debug)]
pub struct Ids {
    thread: u64,
    threads: u64,
    drawn: Arc<AtomicU64>,
}

impl Ids {
    /// Those of one of so many threads.
    pub fn new(thread: usize, threads: usize) -> Self {
        Self { thread: thread as u64, threads: threads.max(1) as u64, drawn: Arc::default() }
    }

    /// The thread.
    pub const fn thread(&self) -> usize {
        self.thread as usize
    }

    /// How many threads there are.
    pub const fn threads(&self) -> u64 {
        self.threads
    }

    /// The next one. Only its thread draws, so there is nothing to wait for.
    pub fn draw(&self) -> u64 {
        let drawn = self.drawn.load(Relaxed) + 1;
        self.drawn.store(drawn, Relaxed);
        drawn * self.threads + self.thread
    }

    /// No number so far is greater, whichever thread has drawn as many.
    pub fn most(&self) -> u64 {
        (self.drawn.load(Relaxed) + 1) * self.threads
    }

    /// From now on they are greater than this one.
    pub fn skip(&self, id: u64) {
        self.drawn.store(self.drawn.load(Relaxed).max(id / self.threads + 1), Relaxed);
    }
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected to a listener.
    Client,
    /// The end that evener connected to.
    Backend,
}

impl Side {
    /// The end across.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_is_drawn_twice_and_those_of_a_successor_are_greater() {
        let threads = [Ids::new(0, 3), Ids::new(1, 3), Ids::new(2, 3)];
        let lent = threads[1].clone();
        let mut drawn = HashSet::new();
        for round in 0..100 {
            assert!(drawn.insert(threads[round % 3].draw()) && drawn.insert(lent.draw()));
        }
        let most = threads.iter().map(Ids::most).max().expect("three");
        assert!(drawn.iter().all(|id| *id < most));
        let successor = Ids::new(1, 2);
        successor.skip(most);
        assert!(successor.draw() > most && successor.draw() > most);
    }
}
