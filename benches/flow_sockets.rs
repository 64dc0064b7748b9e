//! A question of the UDP data plane: a connected socket for each flow, or unconnected sockets that flows of different
//! backends share, since one local port can serve one flow per backend? Both are the backends' side of a proxy: batches
//! of datagrams for random flows go out, the echoes come in, and each is given to its flow.
//!
//! `cargo bench --bench flow_sockets` prints a Markdown table of the CPU time of a round trip: that of the one thread
//! that sends and receives; the backends have a thread of their own.

#[path = "load/echo.rs"]
mod echo;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use evener::sys::datagram::{BATCH_MAX, DatagramSocket, Inbox, Offload, Outbox};
use evener::sys::process::raise_nofile;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::Xxh3Builder;

const FLOWS: [usize; 3] = [64, 2000, 10_000];
const BACKENDS: [usize; 2] = [2, 8];
const ROUNDS: usize = 9;
/// Round trips of a round, at least: enough for some 50 ms.
const TRIPS: usize = 40_000;
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DATAGRAM: [u8; 64] = [b'd'; 64];
const BUFFER_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_millis(200);

fn main() -> io::Result<()> {
    if !std::env::args().any(|word| word == "--bench") {
        eprintln!("run it by `cargo bench --bench flow_sockets`");
        return Ok(());
    }
    raise_nofile()?;
    println!(
        "| flows | backends | sockets shared | connected, CPU µs | shared, CPU µs | shared / connected (range) | lost |"
    );
    println!("|---|---|---|---|---|---|---|");
    for flows in FLOWS {
        for backends in BACKENDS {
            with_backends(backends, |addresses| compare(flows, addresses))?;
        }
    }
    with_backends(1, |addresses| {
        println!("\nto open and close a connected socket, epoll included: {:.1} CPU µs", opening(addresses[0])?);
        Ok(())
    })
}

/// Runs something against so many backends, which are one thread.
fn with_backends(count: usize, run: impl FnOnce(&[SocketAddr]) -> io::Result<()>) -> io::Result<()> {
    let (tell, told) = channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = is_over.clone();
    let thread = thread::spawn(move || -> io::Result<()> {
        let mut echo = echo::Echo::bind(&vec![ANY; count])?;
        let _ = tell.send(echo.addresses().collect::<Vec<_>>());
        while !seen.load(Ordering::Relaxed) {
            echo.turn(Some(Duration::from_millis(50)))?;
        }
        Ok(())
    });
    // When there are no addresses, the thread has ended, and says why.
    let result = told.recv().map_or(Ok(()), |addresses| run(&addresses));
    is_over.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| io::Error::other("the backends' thread has panicked"))??;
    result
}

/// Measures both forms in turns and prints a row.
fn compare(flows: usize, backends: &[SocketAddr]) -> io::Result<()> {
    let mut forms = [Form::connected(flows, backends)?, Form::shared(flows, backends)?];
    let mut order: Vec<usize> = (0..flows).collect();
    let (mut micros, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..=ROUNDS {
        let mut spent = [0.0; 2];
        for turn in 0..2 {
            let at = (round + turn) % 2;
            spent[at] = forms[at].round(&mut order)?;
        }
        // The first one only warms up.
        if round > 0 {
            micros[0].push(spent[0]);
            micros[1].push(spent[1]);
            ratios.push(spent[1] / spent[0]);
        }
    }
    let ([connected, shared], ratio) = (micros.map(median), median(ratios.clone()));
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "| {flows} | {} | {} | {connected:.2} | {shared:.2} | {ratio:.2} ({least:.2}–{most:.2}) | {} |",
        backends.len(),
        forms[1].sockets.len(),
        forms[0].lost + forms[1].lost
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of this thread, in µs.
fn cpu_micros() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// One of the two forms: sockets, and how a flow finds its socket and a datagram its flow.
struct Form {
    poll: Poll,
    sockets: Vec<DatagramSocket>,
    backends: Vec<SocketAddr>,
    /// By socket and sender; `None` when each flow has a socket of its own.
    flow_of: Option<HashMap<(usize, SocketAddr), usize, Xxh3Builder>>,
    inbox: Inbox,
    outbox: Outbox,
    /// Datagrams that came to each flow.
    came: Vec<u32>,
    lost: u64,
}

impl Form {
    fn new(sockets: Vec<DatagramSocket>, flows: usize, backends: &[SocketAddr]) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (at, socket) in sockets.iter().enumerate() {
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(at), Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            sockets,
            backends: backends.to_vec(),
            flow_of: None,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            came: vec![0; flows],
            lost: 0,
        })
    }

    fn connected(flows: usize, backends: &[SocketAddr]) -> io::Result<Self> {
        let backend = |flow: usize| backends[flow % backends.len()];
        let sockets = (0..flows).map(|flow| DatagramSocket::connect(backend(flow), None));
        Self::new(sockets.collect::<io::Result<_>>()?, flows, backends)
    }

    fn shared(flows: usize, backends: &[SocketAddr]) -> io::Result<Self> {
        let offload = Offload::probe();
        let count = flows.div_ceil(backends.len());
        let sockets = (0..count).map(|_| echo::bind_apart(ANY, BUFFER_BYTES, offload));
        let mut form = Self::new(sockets.collect::<io::Result<_>>()?, flows, backends)?;
        let places = (0..flows).map(|flow| ((flow / backends.len(), backends[flow % backends.len()]), flow));
        form.flow_of = Some(places.collect());
        Ok(form)
    }

    /// CPU µs of a round trip, over all flows in random order, several times when they are few.
    fn round(&mut self, order: &mut [usize]) -> io::Result<f64> {
        let mut events = Events::with_capacity(BATCH_MAX);
        let (mut trips, mut spent) = (0, 0.0);
        while trips < TRIPS {
            fastrand::shuffle(order);
            let start = cpu_micros();
            for batch in order.chunks_mut(BATCH_MAX) {
                self.send(batch);
                self.collect(batch.len(), &mut events)?;
            }
            spent += cpu_micros() - start;
            trips += order.len();
        }
        Ok(spent / trips as f64)
    }

    /// One datagram for each of these flows, and one call for each of their sockets.
    fn send(&mut self, batch: &mut [usize]) {
        let share = if self.flow_of.is_some() { self.backends.len() } else { 1 };
        if share > 1 {
            // Flows of one socket stand beside each other.
            batch.sort_unstable();
        }
        for flows in batch.chunk_by(|one, next| one / share == next / share) {
            self.outbox.clear();
            for flow in flows {
                let to = (share > 1).then(|| self.backends[flow % share]);
                self.outbox.begin(0, to, None);
                self.outbox.add_own(&DATAGRAM);
            }
            let (socket, mut next) = (&self.sockets[flows[0] / share], 0);
            while next < self.outbox.len() {
                next = self.outbox.send(next, socket, &self.inbox).unwrap_or(next + 1);
            }
        }
    }

    fn collect(&mut self, count: usize, events: &mut Events) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            self.poll.poll(events, Some(PATIENCE))?;
            if events.is_empty() {
                self.lost += left as u64;
                return Ok(());
            }
            for event in events.iter() {
                left = left.saturating_sub(self.take(event.token().0));
            }
        }
        Ok(())
    }

    /// Gives what has come to a socket to its flows, and says how many it was.
    fn take(&mut self, at: usize) -> usize {
        // One datagram of each flow is in flight.
        let max = if self.flow_of.is_some() { self.backends.len() } else { 1 };
        let count = self.inbox.receive(&self.sockets[at], 0, max).unwrap_or(0);
        for slot in 0..count {
            let flow = match &self.flow_of {
                None => Some(at),
                Some(flow_of) => flow_of.get(&(at, self.inbox.received(slot).source)).copied(),
            };
            match flow {
                Some(flow) => self.came[flow] += 1,
                None => self.lost += 1,
            }
        }
        count
    }
}

/// CPU µs that a new flow's socket costs, from socket(2) to close(2).
fn opening(backend: SocketAddr) -> io::Result<f64> {
    const SOCKETS: usize = 2000;
    let poll = Poll::new()?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = cpu_micros();
        let mut sockets = Vec::with_capacity(SOCKETS);
        for at in 0..SOCKETS {
            let socket = DatagramSocket::connect(backend, None)?;
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(at), Interest::READABLE)?;
            sockets.push(socket);
        }
        drop(sockets);
        rounds.push((cpu_micros() - start) / SOCKETS as f64);
    }
    Ok(median(rounds))
}
