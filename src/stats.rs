//! What is counted: per-worker counters that only their worker writes, live counts shared by all workers, and the
//! guards that open a count once and finish it once.
//!
//! The data path bumps plain counters in memory that no other worker writes; whoever wants a total adds the workers'
//! cells up when asked. Only what decides something for everybody (connections of a backend, of a listener) is one
//! shared atomic. All of it is keyed by identity and outlives every snapshot.

mod carry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use carry::{Carry, Named};

use crate::id::{BackendId, ListenerId, PoolId};
use crate::limit::Limiter;
use crate::queue::Queue;
use crate::reason::{CloseReason, ConnectFailure, DropReason};

/// A monotonic count with one writer, the worker that owns its cell: an addition is a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owner of the cell may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far; anybody may ask.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Most buckets a [`Histogram`] has, the one without an upper bound included.
pub const BUCKETS_MAX: usize = 16;

/// A histogram of durations with one writer. Each bucket keeps its own sum, so that a reader can hand on exact sums.
#[derive(Debug)]
pub struct Histogram {
    bounds_us: &'static [u64],
    buckets: [(Counter, Counter); BUCKETS_MAX],
}

/// Upper bounds for times to connect or to check, in microseconds.
pub const LATENCY_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// Upper bounds for the lives of connections, in microseconds: 1 ms to 1 day.
pub const LIFETIME_BOUNDS_US: [u64; 10] = [
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
];

impl Histogram {
    /// An empty one with these upper bounds (ascending, fewer than [`BUCKETS_MAX`]).
    pub fn new(bounds_us: &'static [u64]) -> Self {
        assert!(bounds_us.len() < BUCKETS_MAX);
        Self { bounds_us, buckets: Default::default() }
    }

    /// Counts one duration; only the owner of the cell may.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds_us.iter().position(|bound| us <= *bound).unwrap_or(self.bounds_us.len());
        self.buckets[at].0.add(1);
        self.buckets[at].1.add(us);
    }

    /// (count, sum in microseconds) of each bucket, the last one without an upper bound.
    pub fn read(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets[..=self.bounds_us.len()].iter().map(|(count, sum_us)| (count.read(), sum_us.read()))
    }
}

/// What one worker counts for one listener.
#[derive(Debug)]
pub struct ListenerCell {
    /// Connections accepted, or flows opened.
    pub accepted: Counter,
    /// Bytes from clients.
    pub bytes_in: Counter,
    /// Bytes to clients.
    pub bytes_out: Counter,
    /// Endings by [`CloseReason::index`].
    pub closed: [Counter; CloseReason::COUNT],
    /// How long connections or flows lasted.
    pub durations: Histogram,
    /// Datagrams from clients, those that were dropped included.
    pub datagrams_in: Counter,
    /// Datagrams to clients, those that the kernel would not take included.
    pub datagrams_out: Counter,
    /// Datagrams of both directions that were dropped, by [`DropReason::index`].
    pub dropped: [Counter; DropReason::COUNT],
}

impl ListenerCell {
    /// Counts dropped datagrams; only the owner of the cell may.
    pub fn drop_datagrams(&self, reason: DropReason, count: u32) {
        self.dropped[reason.index()].add(u64::from(count));
    }
}

/// A listener's counts.
pub struct ListenerStats {
    /// Whose they are.
    pub id: ListenerId,
    /// The listener's name.
    pub name: String,
    /// Limits by client address; admits everybody while the file sets none.
    pub clients: Limiter,
    active: CachePadded<AtomicU32>,
    cells: Box<[CachePadded<ListenerCell>]>,
}

impl ListenerStats {
    /// With one cell for each worker.
    pub fn new(id: ListenerId, name: &str, clients: Limiter, workers: usize) -> Self {
        let cell = || ListenerCell {
            accepted: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            closed: Default::default(),
            durations: Histogram::new(&LIFETIME_BOUNDS_US),
            datagrams_in: Counter::default(),
            datagrams_out: Counter::default(),
            dropped: Default::default(),
        };
        Self { id, name: name.to_owned(), clients, active: CachePadded::default(), cells: cells(workers, cell) }
    }

    /// The cell of a worker.
    #[inline]
    pub fn cell(&self, worker: usize) -> &ListenerCell {
        &self.cells[worker]
    }

    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &ListenerCell> {
        self.cells.iter().map(|cell| &**cell)
    }

    /// Connections now.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

/// What one worker counts for one pool.
#[derive(Debug, Default)]
pub struct PoolCell {
    /// Connections for which no backend could be chosen.
    pub no_backend: Counter,
}

/// A pool's counts.
#[derive(Debug)]
pub struct PoolStats {
    /// Whose they are.
    pub id: PoolId,
    /// The pool's name.
    pub name: Arc<str>,
    /// Connections that wait for a backend.
    pub queue: Queue,
    cells: Box<[CachePadded<PoolCell>]>,
}

impl PoolStats {
    /// With one cell for each worker.
    pub fn new(id: PoolId, name: &str, workers: usize) -> Self {
        Self { id, name: name.into(), queue: Queue::default(), cells: cells(workers, PoolCell::default) }
    }

    /// The cell of a worker.
    pub fn cell(&self, worker: usize) -> &PoolCell {
        &self.cells[worker]
    }

    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &PoolCell> {
        self.cells.iter().map(|cell| &**cell)
    }
}

/// What one worker counts for one backend.
#[derive(Debug)]
pub struct BackendCell {
    /// Connections established to it.
    pub established: Counter,
    /// Failed attempts by [`ConnectFailure::index`].
    pub connect_failures: [Counter; ConnectFailure::COUNT],
    /// Connections that came here because an attempt elsewhere had failed.
    pub retries: Counter,
    /// Bytes to the backend.
    pub bytes_in: Counter,
    /// Bytes from the backend.
    pub bytes_out: Counter,
    /// Bytes of both directions that passed through kernel pipes.
    pub spliced: Counter,
    /// Times to connect.
    pub connects: Histogram,
}

/// A backend's counts.
#[derive(Debug)]
pub struct BackendStats {
    /// Whose they are.
    pub id: BackendId,
    /// The pool it belongs to.
    pub pool: Arc<PoolStats>,
    /// The backend's name.
    pub name: String,
    /// The address as text, for the log.
    pub address: String,
    active: CachePadded<AtomicU32>,
    connect_cost_us: AtomicU64,
    cells: Box<[CachePadded<BackendCell>]>,
}

impl BackendStats {
    /// With one cell for each worker.
    pub fn new(id: BackendId, pool: &Arc<PoolStats>, name: &str, address: &str, workers: usize) -> Self {
        let cell = || BackendCell {
            established: Counter::default(),
            connect_failures: Default::default(),
            retries: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            spliced: Counter::default(),
            connects: Histogram::new(&LATENCY_BOUNDS_US),
        };
        Self {
            id,
            pool: pool.clone(),
            name: name.to_owned(),
            address: address.to_owned(),
            active: CachePadded::default(),
            connect_cost_us: AtomicU64::new(0),
            cells: cells(workers, cell),
        }
    }

    /// The cell of a worker.
    #[inline]
    pub fn cell(&self, worker: usize) -> &BackendCell {
        &self.cells[worker]
    }

    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &BackendCell> {
        self.cells.iter().map(|cell| &**cell)
    }

    /// Connections now, those being connected included.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Peak EWMA of the time to connect, in microseconds; 0 = never measured.
    pub fn connect_cost_us(&self) -> u64 {
        self.connect_cost_us.load(Relaxed)
    }

    /// Takes a measured time to connect into the peak EWMA: a rise counts at once, a fall by an eighth.
    /// Writers may race; one of two measurements is lost then, which does no harm.
    pub fn note_connect(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.connect_cost_us.load(Relaxed);
        let new = if us >= old { us } else { old - (old - us).div_ceil(8) };
        self.connect_cost_us.store(new, Relaxed);
    }

    /// Lets the peak fade by a tenth, once a second: a backend that was slow once would otherwise never be asked, and
    /// so never measured, again.
    pub fn fade_connect_cost(&self) {
        let old = self.connect_cost_us.load(Relaxed);
        if old > 1 {
            self.connect_cost_us.store(old - old.div_ceil(10).min(old - 1), Relaxed);
        }
    }
}

/// What was counted of a route of the gateway.
#[derive(Clone, Debug, Default)]
pub struct RouteCounts {
    /// The listener's name.
    pub listener: String,
    /// The route's; empty = requests that found none.
    pub route: String,
    /// Requests by status.
    pub by_status: Vec<(u16, u64)>,
    /// Those that the gateway answered by itself, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// How long they took: (count, sum in microseconds) for each of [`LATENCY_BOUNDS_US`], and beyond.
    pub seconds: Vec<(u64, u64)>,
}

/// What a worker tells of itself.
#[derive(Debug)]
pub struct WorkerStats {
    /// Connections it carries or has been handed.
    pub active: AtomicU32,
    /// Connections it accepted.
    pub accepts: Counter,
    /// Connections it handed to another worker.
    pub handed_over: Counter,
    /// Pipes that hold bytes now.
    pub pipes_in_use: AtomicU32,
    /// Empty pipes kept for the next use.
    pub pipes_free: AtomicU32,
    /// How long one turn of the loop took, waiting not counted.
    pub turns: Histogram,
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            active: AtomicU32::new(0),
            accepts: Counter::default(),
            handed_over: Counter::default(),
            pipes_in_use: AtomicU32::new(0),
            pipes_free: AtomicU32::new(0),
            turns: Histogram::new(&LATENCY_BOUNDS_US),
        }
    }
}

/// All workers' own counts, one cell each.
pub type WorkersStats = Arc<[CachePadded<WorkerStats>]>;

/// Empty counts for so many workers.
pub fn workers(count: usize) -> WorkersStats {
    (0..count).map(|_| CachePadded::default()).collect()
}

impl std::fmt::Debug for ListenerStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerStats").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A place among a listener's connections: taken at accept, given back on drop.
#[derive(Debug)]
pub struct ListenerSlot(Arc<ListenerStats>);

impl ListenerSlot {
    /// Takes a place unless `max` are taken.
    pub fn take(listener: &Arc<ListenerStats>, max: u32) -> Option<Self> {
        take(&listener.active, max).then(|| Self(listener.clone()))
    }

    /// The counts it belongs to.
    #[inline]
    pub fn stats(&self) -> &Arc<ListenerStats> {
        &self.0
    }
}

impl Drop for ListenerSlot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// A place among a backend's connections: reserved before connecting, given back on drop, which calls whoever waits for it.
#[derive(Debug)]
pub struct BackendSlot(Arc<BackendStats>);

impl BackendSlot {
    /// Reserves a place unless `max` are taken: one compare-and-swap, so the limit is never exceeded.
    pub fn take(backend: &Arc<BackendStats>, max: u32) -> Option<Self> {
        take(&backend.active, max).then(|| Self(backend.clone()))
    }

    /// The counts it belongs to.
    #[inline]
    pub fn stats(&self) -> &Arc<BackendStats> {
        &self.0
    }
}

impl BackendSlot {
    /// Never given back: what has it goes on in another process.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for BackendSlot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        self.0.pool.queue.call();
    }
}

fn take(active: &AtomicU32, max: u32) -> bool {
    if max == u32::MAX {
        active.fetch_add(1, Relaxed);
        return true;
    }
    active.fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1)).is_ok()
}

fn cells<T>(workers: usize, cell: impl Fn() -> T) -> Box<[CachePadded<T>]> {
    (0..workers).map(|_| CachePadded::new(cell())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> BackendStats {
        let pool = Arc::new(PoolStats::new(PoolId(1), "p", 1));
        BackendStats::new(BackendId(1), &pool, "b", "1.2.3.4:5", 1)
    }

    #[test]
    fn a_backend_never_holds_more_than_its_limit_when_many_threads_reserve() {
        let backend = Arc::new(backend());
        let held: usize = std::thread::scope(|scope| {
            let taken: Vec<_> = (0..4)
                .map(|_| {
                    let backend = &backend;
                    scope.spawn(move || {
                        let slots: Vec<_> = (0..100).filter_map(|_| BackendSlot::take(backend, 37)).collect();
                        assert!(backend.active() <= 37);
                        slots
                    })
                })
                .collect();
            let all: Vec<_> = taken.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            all.iter().map(Vec::len).sum()
        });
        assert_eq!(held, 37);
        assert_eq!(backend.active(), 0, "all places were given back");
    }

    #[test]
    fn a_histogram_keeps_the_exact_sum_of_each_bucket() {
        let histogram = Histogram::new(&LATENCY_BOUNDS_US);
        for us in [1, 100, 101, 7_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let buckets: Vec<_> = histogram.read().collect();
        assert_eq!(buckets[0], (2, 101));
        assert_eq!(buckets[1], (1, 101));
        assert_eq!(buckets[LATENCY_BOUNDS_US.len()], (1, 7_000_000));
    }

    #[test]
    fn a_slower_connect_counts_at_once_and_a_faster_one_slowly() {
        let backend = backend();
        backend.note_connect(Duration::from_micros(1000));
        backend.note_connect(Duration::from_micros(200));
        assert_eq!(backend.connect_cost_us(), 900);
        backend.note_connect(Duration::from_micros(5000));
        assert_eq!(backend.connect_cost_us(), 5000);
    }

    #[test]
    fn a_slow_connect_is_forgiven_within_minutes_but_never_counts_as_unmeasured() {
        let backend = backend();
        backend.fade_connect_cost();
        assert_eq!(backend.connect_cost_us(), 0, "never measured");
        backend.note_connect(Duration::from_secs(3));
        (0..60).for_each(|_| backend.fade_connect_cost());
        assert!((1_000..10_000).contains(&backend.connect_cost_us()), "{}", backend.connect_cost_us());
        (0..120).for_each(|_| backend.fade_connect_cost());
        assert_eq!(backend.connect_cost_us(), 1);
    }
}
