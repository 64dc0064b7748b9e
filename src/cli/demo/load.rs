//! The clients: each opens a connection, asks a few times, closes it, and goes on at a steady pace.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::now;

/// Clients at once.
pub const CLIENTS: usize = 8;
/// Requests on each connection.
const REQUESTS: u32 = 10;
/// Between two connections of one client: slow enough to be repeated without running out of local ports.
const PACE: Duration = Duration::from_millis(15);
/// The longest that a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running clients.
pub struct Load {
    counts: Arc<Counts>,
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<Vec<u32>>>,
}

/// What the clients count while they run.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that got every answer.
    pub connections: AtomicU64,
    /// Those that did not.
    pub lost: AtomicU64,
    /// Requests answered.
    pub requests: AtomicU64,
}

/// What came of the load.
#[derive(Debug)]
pub struct Outcome {
    /// Connections that got every answer.
    pub connections: u64,
    /// Those that did not.
    pub lost: u64,
    /// Requests answered.
    pub requests: u64,
    /// How long each request took in microseconds, ascending.
    latencies_us: Vec<u32>,
}

impl Load {
    /// Sets the clients on `address`.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (mut stops, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            let (stop, stopped) = channel();
            let counts = counts.clone();
            let client = std::thread::Builder::new().name("client".to_owned());
            threads.push(client.spawn(move || ask(address, &counts, &stopped))?);
            stops.push(stop);
        }
        Ok(Self { counts, stops, threads })
    }

    /// What has been counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets each client finish its connection, and adds up.
    pub fn end(self) -> Outcome {
        drop(self.stops);
        let latencies = self.threads.into_iter().filter_map(|client| client.join().ok());
        let mut latencies_us: Vec<u32> = latencies.flatten().collect();
        latencies_us.sort_unstable();
        let counts = &self.counts;
        Outcome {
            connections: counts.connections.load(Relaxed),
            lost: counts.lost.load(Relaxed),
            requests: counts.requests.load(Relaxed),
            latencies_us,
        }
    }
}

impl Outcome {
    /// The time that this share of the requests did not exceed, in milliseconds.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get(last * percent / 100).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

fn ask(address: SocketAddr, counts: &Counts, stopped: &Receiver<()>) -> Vec<u32> {
    let mut latencies_us = Vec::new();
    while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        let result = exchange(address, counts, &mut latencies_us);
        let count = if result.is_ok() { &counts.connections } else { &counts.lost };
        count.fetch_add(1, Relaxed);
    }
    latencies_us
}

fn exchange(address: SocketAddr, counts: &Counts, latencies_us: &mut Vec<u32>) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..REQUESTS {
        let sent = now();
        let mut answer = [0; 64];
        stream.write_all(&[b'x'; 64])?;
        stream.read_exact(&mut answer)?;
        latencies_us.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
        counts.requests.fetch_add(1, Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::backends::Echo;
    use super::*;

    #[test]
    fn what_is_answered_counts_and_what_is_not_is_lost() {
        let mut backend = Echo::start().expect("a port");
        let (counts, mut latencies) = (Counts::default(), Vec::new());
        exchange(backend.address(), &counts, &mut latencies).expect("answers");
        assert_eq!((counts.requests.load(Relaxed), latencies.len()), (10, 10));
        backend.die();
        assert!(exchange(backend.address(), &counts, &mut latencies).is_err());
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let outcome = |latencies_us| Outcome { connections: 0, lost: 0, requests: 0, latencies_us };
        assert_eq!(outcome((1..=100).map(|ms| ms * 1000).collect()).percentile_ms(50), 50.0);
        assert_eq!(outcome((1..=100).map(|ms| ms * 1000).collect()).percentile_ms(99), 99.0);
        assert_eq!(outcome(vec![]).percentile_ms(99), 0.0);
    }
}
