//! What is counted of requests, by route: one cell for each thread, which alone writes it.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::refusal::Refusal;
use crate::stats::{Counter, Histogram, LATENCY_BOUNDS_US, RouteCounts};

/// Statuses that are counted by their number: 100 to 599. What else a backend may send counts as 599.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// A route's counts.
pub struct RouteStats {
    cells: Box<[CachePadded<Cell>]>,
}

/// What one thread counts for one route.
pub struct Cell {
    statuses: Box<[Counter]>,
    refused: [Counter; Refusal::COUNT],
    seconds: Histogram,
}

impl Cell {
    /// Counts a request.
    pub fn note(&self, status: u16, refusal: Option<Refusal>, took: Duration) {
        let at = status.clamp(*STATUSES.start(), *STATUSES.end()) - STATUSES.start();
        self.statuses[usize::from(at)].add(1);
        self.seconds.record(took);
        if let Some(refusal) = refusal {
            self.refused[refusal.index()].add(1);
        }
    }
}

impl RouteStats {
    /// With one cell for each thread.
    pub fn new(threads: usize) -> Self {
        let cell = || Cell {
            statuses: STATUSES.map(|_| Counter::default()).collect(),
            refused: Default::default(),
            seconds: Histogram::new(&LATENCY_BOUNDS_US),
        };
        Self { cells: (0..threads).map(|_| CachePadded::new(cell())).collect() }
    }

    /// The cell of a thread.
    pub fn cell(&self, thread: usize) -> &Cell {
        &self.cells[thread]
    }

    /// All cells added up.
    pub fn counts(&self, listener: &str, route: &str) -> RouteCounts {
        let sum = |of: &dyn Fn(&Cell) -> u64| self.cells.iter().map(|cell| of(cell)).sum::<u64>();
        let by_status = STATUSES.enumerate().map(|(at, status)| (status, sum(&|cell| cell.statuses[at].read())));
        let refused =
            Refusal::ALL.iter().map(|refusal| (refusal.label(), sum(&|cell| cell.refused[refusal.index()].read())));
        let mut seconds = vec![(0, 0); LATENCY_BOUNDS_US.len() + 1];
        for cell in &self.cells {
            for (total, (count, us)) in seconds.iter_mut().zip(cell.seconds.read()) {
                *total = (total.0 + count, total.1 + us);
            }
        }
        RouteCounts {
            listener: listener.to_owned(),
            route: route.to_owned(),
            by_status: by_status.filter(|(_, count)| *count > 0).collect(),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            seconds,
        }
    }
}
