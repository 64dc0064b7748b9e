//! What one pump of a direction costs beside the kernel: streams in memory, small messages and long ones.

use std::cell::Cell;
use std::hint::black_box;
use std::io;

use criterion::{Criterion, criterion_group, criterion_main};
use evener::tcp::conduit::{Conduit, Room, Stream};
use evener::tcp::half::Half;

/// A stream that has so many bytes to give and takes everything.
struct Memory(Cell<usize>);

struct NoPipe;

impl Conduit for NoPipe {
    fn open(capacity: usize) -> io::Result<(Self, usize)> {
        Ok((Self, capacity))
    }
}

impl Memory {
    fn take(&self, max: usize) -> io::Result<usize> {
        match max.min(self.0.get()) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => {
                self.0.set(self.0.get() - taken);
                Ok(taken)
            }
        }
    }
}

impl Stream for Memory {
    type Pipe = NoPipe;

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take(into.len())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn fill(&mut self, _: &NoPipe, max: usize) -> io::Result<usize> {
        self.take(max)
    }

    fn drain(&mut self, _: &NoPipe, max: usize) -> io::Result<usize> {
        Ok(max)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pump(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("half");
    for (name, bytes, pipes) in
        [("64 bytes", 64, 8), ("1 MiB spliced", 1 << 20, 8), ("1 MiB copied", 1 << 20, 0), ("nothing to do", 0, 8)]
    {
        let (mut source, mut sink) = (Memory(Cell::new(0)), Memory(Cell::new(0)));
        let mut room = Room::new(pipes);
        let mut half: Half<NoPipe> = Half::default();
        half.sink_event();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                source.0.set(bytes);
                half.source_event(false);
                while source.0.get() > 0 {
                    black_box(half.pump(&mut source, &mut sink, &mut room, false));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pump);
criterion_main!(benches);
