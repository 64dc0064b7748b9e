//! Counts by name: summed up over all cells for a successor, and begun with in its first ones.

use super::{BackendCell, BackendStats, Counter, Histogram, ListenerCell, ListenerStats, PoolCell, PoolStats};
use crate::handover::Counts;
use crate::reason::{CloseReason, ConnectFailure, DropReason};

/// A counter with its name.
pub type Named<'c> = (String, &'c Counter);

/// What can be carried on by name.
pub trait Carry {
    /// All counts, one cell after the other.
    fn cells(&self) -> impl Iterator<Item = Vec<Named<'_>>>;

    /// What there is in all cells.
    fn total(&self) -> Counts {
        let mut total = Counts::new();
        for (name, counter) in self.cells().flatten().filter(|(_, counter)| counter.read() > 0) {
            *total.entry(name).or_default() += counter.read();
        }
        total
    }

    /// Begins with what a predecessor had; before anybody counts. A name that is not known here is not counted here.
    fn begin_with(&self, counts: &Counts) {
        for (name, counter) in self.cells().next().into_iter().flatten() {
            counter.add(counts.get(&name).copied().unwrap_or(0));
        }
    }
}

impl Carry for ListenerStats {
    fn cells(&self) -> impl Iterator<Item = Vec<Named<'_>>> {
        self.cells().map(|cell: &ListenerCell| {
            let mut all = vec![
                named("accepted", &cell.accepted),
                named("bytes_in", &cell.bytes_in),
                named("bytes_out", &cell.bytes_out),
                named("datagrams_in", &cell.datagrams_in),
                named("datagrams_out", &cell.datagrams_out),
            ];
            let closed = CloseReason::ALL.into_iter().zip(&cell.closed);
            all.extend(closed.map(|(reason, counter)| (format!("closed.{}", reason.as_str()), counter)));
            let dropped = DropReason::ALL.into_iter().zip(&cell.dropped);
            all.extend(dropped.map(|(reason, counter)| (format!("dropped.{}", reason.as_str()), counter)));
            all.extend(cell.durations.named("durations"));
            all
        })
    }
}

impl Carry for PoolStats {
    fn cells(&self) -> impl Iterator<Item = Vec<Named<'_>>> {
        self.cells().map(|cell: &PoolCell| vec![named("no_backend", &cell.no_backend)])
    }
}

impl Carry for BackendStats {
    fn cells(&self) -> impl Iterator<Item = Vec<Named<'_>>> {
        self.cells().map(|cell: &BackendCell| {
            let mut all = vec![
                named("established", &cell.established),
                named("retries", &cell.retries),
                named("bytes_in", &cell.bytes_in),
                named("bytes_out", &cell.bytes_out),
                named("spliced", &cell.spliced),
            ];
            let failures = ConnectFailure::ALL.into_iter().zip(&cell.connect_failures);
            all.extend(failures.map(|(failure, counter)| (format!("connect_failures.{}", failure.as_str()), counter)));
            all.extend(cell.connects.named("connects"));
            all
        })
    }
}

impl Histogram {
    /// Its buckets by their bounds.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Named<'_>> {
        let bounds = self.bounds_us.iter().map(u64::to_string).chain(Some("more".to_owned()));
        bounds.zip(&self.buckets).flat_map(move |(bound, (count, sum))| {
            [(format!("{name}.{bound}.count"), count), (format!("{name}.{bound}.sum_us"), sum)]
        })
    }
}

fn named<'c>(name: &str, counter: &'c Counter) -> Named<'c> {
    (name.to_owned(), counter)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::id::{BackendId, PoolId};

    #[test]
    fn a_successor_with_other_threads_begins_with_the_sum_of_all() {
        let pool = |workers| Arc::new(PoolStats::new(PoolId(1), "p", workers));
        let backend = |workers| BackendStats::new(BackendId(2), &pool(workers), "b", "a", workers);
        let before = backend(3);
        for worker in 0..3 {
            before.cell(worker).bytes_in.add(10);
            before.cell(worker).connects.record(Duration::from_secs(60));
        }
        before.cell(1).connect_failures[ConnectFailure::Timeout.index()].add(4);
        let mut total = before.total();
        total.insert("from_the_future".to_owned(), 7);
        let after = backend(1);
        after.begin_with(&total);
        assert_eq!(after.cell(0).bytes_in.read(), 30);
        assert_eq!(after.cell(0).connect_failures[ConnectFailure::Timeout.index()].read(), 4);
        assert_eq!(after.cell(0).connects.read().last(), Some((3, 180_000_000)));
        total.remove("from_the_future");
        assert_eq!(after.total(), total);
    }
}
