//! UDP clients: each flow keeps a number of datagrams in flight, each by itself or all as one train, and every reply is
//! checked.
//!
//! Each flow has an address of its own in 127.16.0.0/12, and all share one port and one socket: so the clients cost a
//! fraction of what the proxy does, and take no ports away from it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use evener::sys::datagram::{BATCH_MAX, DatagramSocket, Inbox, Offload, Outbox, SLOT_BYTES, TRAIN_BYTES_MAX};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::ledger::Ledger;
use crate::payload::{Payload, STAMP_BYTES};
use crate::words::{has, number, seconds};
use crate::{EVENTS, now, wait};

const BUFFER_BYTES: usize = 32 << 20;
/// The first flow's address is the next one after this.
const CLIENTS: u32 = Ipv4Addr::new(127, 16, 0, 0).to_bits();
/// Flows that have an address.
const FLOWS_MAX: usize = 1 << 20;
/// What fits into a datagram over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;
const SWEEP: Duration = Duration::from_millis(50);
/// For replies that are still on their way at the end.
const STRAGGLERS: Duration = Duration::from_millis(300);

struct Clients {
    poll: Poll,
    socket: DatagramSocket,
    server: SocketAddr,
    flows: usize,
    in_flight: usize,
    bytes: usize,
    is_train: bool,
    /// After this time a datagram is lost.
    timeout: Duration,
    payload: Payload,
    ledger: Ledger,
    inbox: Inbox,
    /// What is to be sent is written into these slots.
    sheets: Inbox,
    outbox: Outbox,
    /// Slots of `sheets` in use.
    used: usize,
    /// Flows with replies in the present batch.
    touched: Vec<usize>,
    start: Instant,
    is_ending: bool,
    /// Calls that failed.
    errors: u64,
}

pub fn drive(words: &[String]) -> io::Result<()> {
    let mut clients = Clients::new(words)?;
    let span = seconds(words, "seconds", 3.0);
    let count = clients.run(span)?;
    clients.print(count, span);
    Ok(())
}

impl Clients {
    fn new(words: &[String]) -> io::Result<Self> {
        let (flows, in_flight) = (number(words, "flows", 64) as usize, number(words, "inflight", 1) as usize);
        let (bytes, is_train) = (number(words, "bytes", 64) as usize, has(words, "gso"));
        if !(1..FLOWS_MAX).contains(&flows)
            || !(1..=BATCH_MAX).contains(&in_flight)
            || !(STAMP_BYTES..=DATAGRAM_BYTES_MAX).contains(&bytes)
            || is_train && in_flight * bytes > TRAIN_BYTES_MAX
        {
            return Err(io::Error::other(format!(
                "--flows is 1 to {FLOWS_MAX}, --inflight 1 to {BATCH_MAX}, --bytes {STAMP_BYTES} to {DATAGRAM_BYTES_MAX}, and with --gso the \
                 product of both at most {TRAIN_BYTES_MAX}"
            )));
        }
        // With SO_REUSEPORT the kernel could choose a port that somebody has.
        let free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?;
        let socket = DatagramSocket::bind(free, BUFFER_BYTES, Offload::probe())?;
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), Interest::READABLE)?;
        Ok(Self {
            poll,
            socket,
            server: SocketAddr::from(([127, 0, 0, 1], number(words, "port", 0) as u16)),
            flows,
            in_flight,
            bytes,
            is_train,
            timeout: Duration::from_millis(number(words, "timeout-ms", 200)),
            payload: Payload::new(bytes),
            ledger: Ledger::new(fastrand::u32(..), flows, in_flight),
            inbox: Inbox::new(),
            sheets: Inbox::new(),
            outbox: Outbox::default(),
            used: 0,
            touched: Vec::new(),
            start: now(),
            is_ending: false,
            errors: 0,
        })
    }

    /// Runs for so long, and says how many replies came in that time; those that were on their way are waited for.
    fn run(&mut self, span: Duration) -> io::Result<u64> {
        self.start = now();
        for flow in 0..self.flows {
            self.send(flow, self.start.elapsed());
        }
        self.flush();
        self.poll_until(span, |_| true)?;
        let count = self.ledger.latencies.count;
        self.is_ending = true;
        let patience = STRAGGLERS.max(self.timeout);
        self.poll_until(self.start.elapsed() + patience, |clients| clients.ledger.all_waiting() > 0)?;
        self.ledger.lost += self.ledger.all_waiting();
        Ok(count)
    }

    fn poll_until(&mut self, end: Duration, goes_on: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut next_sweep = self.start.elapsed() + SWEEP;
        // What was left unread makes no new event.
        self.turn(end);
        loop {
            let time = self.start.elapsed();
            if time >= end || !goes_on(self) {
                return Ok(());
            }
            if time >= next_sweep {
                self.sweep(time);
                next_sweep = time + SWEEP;
            }
            wait(&mut self.poll, &mut events, Some(SWEEP.min(end - time)))?;
            if !events.is_empty() {
                self.turn(end);
            }
        }
    }

    /// Gives up what has waited for too long, and sends anew.
    fn sweep(&mut self, time: Duration) {
        let Some(before) = time.checked_sub(self.timeout).filter(|_| !self.is_ending) else { return };
        for flow in 0..self.flows {
            if self.ledger.give_up(flow, before) {
                self.send(flow, time);
            }
        }
        self.flush();
    }

    /// Takes what has come, and sends the next ones, until nothing is left or the time is over.
    fn turn(&mut self, end: Duration) {
        // A train is answered at once, while the processor's cache has it.
        let batch = if self.is_train { 1 } else { BATCH_MAX };
        loop {
            let count = match self.inbox.receive(&self.socket, 0, batch) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.errors += 1;
                    continue;
                }
            };
            let time = self.start.elapsed();
            for at in 0..count {
                let received = *self.inbox.received(at);
                let Some(flow) = received.local.and_then(|address| self.flow_of(address)) else {
                    self.ledger.corrupt += 1;
                    continue;
                };
                if received.len == 0 {
                    self.ledger.reply(flow, None, time);
                }
                for datagram in self.inbox.bytes(at).chunks(received.segment.max(1) as usize) {
                    self.ledger.reply(flow, self.payload.read(datagram), time);
                }
                self.touched.push(flow);
            }
            let mut touched = std::mem::take(&mut self.touched);
            touched.drain(..).for_each(|flow| self.send(flow, time));
            self.touched = touched;
            self.flush();
            // Fewer than a batch: the next datagram makes a new event.
            if count < batch || time >= end {
                return;
            }
        }
    }

    fn address_of(flow: usize) -> IpAddr {
        Ipv4Addr::from_bits(CLIENTS + 1 + flow as u32).into()
    }

    fn flow_of(&self, address: IpAddr) -> Option<usize> {
        let IpAddr::V4(address) = address else { return None };
        let flow = address.to_bits().checked_sub(CLIENTS + 1)? as usize;
        (flow < self.flows).then_some(flow)
    }

    /// Stages what a flow may send: each free slot's datagram, or the train once all slots are free.
    fn send(&mut self, flow: usize, time: Duration) {
        if self.is_ending || self.is_train && self.ledger.waiting(flow) > 0 {
            return;
        }
        let sheets = (self.in_flight * self.bytes).div_ceil(SLOT_BYTES / self.bytes * self.bytes);
        if self.used + sheets > BATCH_MAX || self.outbox.len() + self.in_flight > BATCH_MAX {
            self.flush();
        }
        let (to, from) = (Some(self.server), Some(Self::address_of(flow)));
        let mut start = 0;
        for number in 0..self.in_flight {
            let Some(stamp) = self.ledger.begin(flow, number, time) else { continue };
            if start + self.bytes > SLOT_BYTES {
                (self.used, start) = (self.used + 1, 0);
            }
            self.payload.write(&mut self.sheets.slot_mut(self.used)[start..][..self.bytes], stamp);
            if !self.is_train {
                self.outbox.begin(0, to, from);
                self.outbox.add(self.used, start, self.bytes);
            }
            start += self.bytes;
        }
        if self.is_train {
            self.outbox.begin(0, to, from);
            self.outbox.add(self.used, 0, start);
            self.outbox.set_segment(self.bytes);
        }
        self.used += usize::from(start > 0);
    }

    /// Sends what is staged.
    fn flush(&mut self) {
        let mut next = 0;
        while next < self.outbox.len() {
            next = self.outbox.send(next, &self.socket, &self.sheets).unwrap_or_else(|_| {
                // It counts as lost once its time is over.
                self.errors += 1;
                next + 1
            });
        }
        self.outbox.clear();
        self.used = 0;
    }

    fn print(&self, count: u64, span: Duration) {
        let Ledger { latencies, sent, lost, late, duplicates, corrupt, .. } = &self.ledger;
        println!(
            "{{\"flows\": {}, \"inflight\": {}, \"bytes\": {}, \"gso\": {}, \"seconds\": {:.3}, \"sent\": {sent}, \
             \"requests\": {}, \"per_second\": {:.1}, \"lost\": {lost}, \"late\": {late}, \"duplicates\": {duplicates}, \
             \"corrupt\": {corrupt}, \"errors\": {}, \"p50_us\": {:.1}, \"p99_us\": {:.1}}}",
            self.flows,
            self.in_flight,
            self.bytes,
            self.is_train,
            span.as_secs_f64(),
            latencies.count,
            count as f64 / span.as_secs_f64(),
            self.errors,
            latencies.quantile_us(0.5),
            latencies.quantile_us(0.99),
        );
    }
}
