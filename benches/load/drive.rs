//! TCP clients: they send requests in one of several ways, and every answer is checked.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use serde_json::json;
use slab::Slab;
use socket2::{Domain, Socket, Type};

use crate::histogram::Histogram;
use crate::http::Heads;
use crate::message::{BUFFER_BYTES, Message, Pattern};
use crate::schedule::Schedule;
use crate::tls::{self, Tls};
use crate::wire::{Stream, Wire};
use crate::words::{has, number, seconds, word};
use crate::{EVENTS, local, now, sizes, wait};

const TIMER: Token = Token(usize::MAX - 1);
/// Clients have addresses from here on, in turns, each with a range of local ports of its own. The side that closes first
/// keeps its port for a minute (TIME_WAIT), over loopback at least for a second, and `connect` takes every other port: with
/// a single address it would have to search from 14 000 connections a second on. And a proxy that chooses by the client's
/// address has a choice.
const CLIENTS: u32 = Ipv4Addr::new(127, 32, 0, 0).to_bits();
const CLIENT_ADDRESSES: u32 = 1024;
/// So many connections are opened ahead of their first answers: no queue of a listener overflows.
const AHEAD: u64 = 128;
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// What is begun later than this after its time was not begun in time.
const LATE: Duration = Duration::from_millis(1);
/// For answers that are still on their way at the end of a fixed rate.
const STRAGGLERS: Duration = Duration::from_secs(1);
const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// What a client does after an answer.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Stay,
    Connect,
    Rate,
    Idle,
}

/// Whom a client asks, and for what.
struct Plan {
    server: SocketAddr,
    request: usize,
    answer: usize,
    connections: usize,
}

/// The plan that is measured; the other one is the streams' beside it.
const MEASURED: usize = 0;
const STREAMS: usize = 1;

struct Client {
    wire: Wire,
    plan: usize,
    since: Instant,
}

struct Driver {
    poll: Poll,
    mode: Mode,
    plans: [Plan; 2],
    /// Of the requests, when they are HTTP.
    heads: Option<Heads>,
    tls: Option<Arc<ClientConfig>>,
    schedule: Option<Schedule>,
    clients: Slab<Client>,
    /// The plans of connections that are to be opened.
    missing: Vec<usize>,
    buffer: Vec<u8>,
    pattern: Pattern,
    /// Of the last request.
    mark: u8,
    /// Connections so far.
    opened: u64,
    most_open: usize,
    /// That of the first one.
    first_address: u32,
    answered: u64,
    errors: u64,
    latencies: Histogram,
    /// Bytes both ways, by plan.
    moved: [u64; 2],
    opened_late: u64,
}

pub fn drive(words: &[String]) -> io::Result<()> {
    let mut driver = Driver::new(words)?;
    let name = word(words, "mode").unwrap_or("stay");
    if driver.mode == Mode::Idle {
        let wanted = driver.plans[MEASURED].connections as u64;
        let start = now();
        driver.run(start + IDLE_PATIENCE, |driver| driver.answered < wanted)?;
        driver.print(name, start.elapsed());
        return io::stdin().read_to_end(&mut Vec::new()).map(drop);
    }
    if driver.mode == Mode::Rate {
        driver.schedule = Some(Schedule::new(number(words, "per-second", 100), &driver.poll, TIMER)?);
    }
    driver.run(now() + seconds(words, "warm-up", 0.0), |_| true)?;
    driver.forget();
    println!("{{\"warm\": true}}");
    let start = now();
    driver.run(start + seconds(words, "seconds", 3.0), |_| true)?;
    let span = start.elapsed();
    if driver.schedule.take().is_some() {
        driver.run(now() + STRAGGLERS, |driver| !driver.clients.is_empty())?;
        driver.errors += driver.clients.len() as u64;
    }
    driver.print(name, span);
    Ok(())
}

impl Driver {
    fn new(words: &[String]) -> io::Result<Self> {
        let mode = match word(words, "mode").unwrap_or("stay") {
            "stay" | "mix" => Mode::Stay,
            "connect" => Mode::Connect,
            "rate" => Mode::Rate,
            "idle" => Mode::Idle,
            other => return Err(io::Error::other(format!("--mode {other}: it is stay, connect, rate, mix or idle"))),
        };
        let (request, answer) = sizes(words)?;
        let connections = if mode == Mode::Rate { 0 } else { number(words, "connections", 64) as usize };
        let server = local(number(words, "port", 0));
        let (stream_server, stream_answer) =
            (local(number(words, "stream-port", 0)), number(words, "stream-answer", 1 << 20) as usize);
        let streams = number(words, "streams", 0) as usize;
        Ok(Self {
            poll: Poll::new()?,
            mode,
            plans: [
                Plan { server, request, answer, connections },
                Plan { server: stream_server, request, answer: stream_answer, connections: streams },
            ],
            heads: has(words, "http").then(|| Heads::of_requests(word(words, "bearer"))),
            tls: has(words, "tls").then(tls::config).transpose()?,
            schedule: None,
            clients: Slab::new(),
            missing: [vec![MEASURED; connections], vec![STREAMS; streams]].concat(),
            buffer: vec![0; BUFFER_BYTES],
            pattern: Pattern::new(),
            mark: fastrand::u8(..),
            opened: 0,
            most_open: 0,
            first_address: fastrand::u32(..CLIENT_ADDRESSES),
            answered: 0,
            errors: 0,
            latencies: Histogram::new(),
            moved: [0; 2],
            opened_late: 0,
        })
    }

    fn run(&mut self, end: Instant, goes_on: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let time = now();
            if time >= end || !goes_on(self) {
                return Ok(());
            }
            self.open_missing();
            self.open_due(time);
            wait(&mut self.poll, &mut events, Some(PAUSE_MAX.min(end - time)))?;
            for event in &events {
                if let Some(client) = self.clients.get_mut(event.token().0) {
                    let result = client.turn(event.is_readable(), &mut self.buffer, &self.pattern, &self.poll);
                    self.after_turn(event.token().0, result);
                } else if let Some(schedule) = self.schedule.as_mut().filter(|_| event.token() == TIMER) {
                    schedule.wind()?;
                }
            }
        }
    }

    fn open_missing(&mut self) {
        for _ in 0..self.missing.len() {
            if self.opened >= self.answered + self.errors + AHEAD {
                return;
            }
            let Some(plan) = self.missing.pop() else { return };
            self.open(plan, now());
        }
    }

    fn open_due(&mut self, time: Instant) {
        while let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.due(time)) {
            self.opened_late += u64::from(now() - due > LATE);
            self.open(MEASURED, due);
        }
    }

    fn open(&mut self, plan: usize, since: Instant) {
        let address = CLIENTS + (self.first_address + self.opened as u32) % CLIENT_ADDRESSES;
        self.opened += 1;
        let Ok(stream) = self.connect(Ipv4Addr::from_bits(address), self.plans[plan].server) else {
            return self.fail(plan);
        };
        let has_heads = self.heads.is_some();
        let place = self.clients.vacant_entry();
        let key = place.key();
        place.insert(Client { wire: Wire::new(stream, Token(key), Message::default(), has_heads), plan, since });
        self.most_open = self.most_open.max(self.clients.len());
        // Over loopback it is connected by now.
        self.ask(key, since);
    }

    /// Begins to connect from this address.
    fn connect(&self, from: Ipv4Addr, to: SocketAddr) -> io::Result<Stream> {
        let stream = connect(from, to)?;
        Ok(match &self.tls {
            None => Stream::Plain(stream),
            Some(config) => Stream::Tls(Tls::new(config, stream)?.into()),
        })
    }

    fn ask(&mut self, key: usize, since: Instant) {
        let client = &mut self.clients[key];
        let Plan { request, answer, .. } = self.plans[client.plan];
        self.mark = self.mark.wrapping_add(1);
        let request = Message::marked(self.mark, request);
        client.wire.begin(self.heads.as_ref(), request, Message::marked(request.mark_of_answer(), answer));
        client.since = since;
        if client.wire.send(&self.pattern, self.poll.registry()).is_err() {
            let plan = self.clients.remove(key).plan;
            self.fail(plan);
        }
    }

    fn fail(&mut self, plan: usize) {
        self.errors += 1;
        // What was scheduled is lost; the other connections are opened anew.
        if self.mode != Mode::Rate {
            self.missing.push(plan);
        }
    }

    fn after_turn(&mut self, key: usize, result: io::Result<bool>) {
        let client = &mut self.clients[key];
        let (plan, since) = (client.plan, client.since);
        self.moved[plan] += client.wire.count_moved();
        match result {
            Ok(false) => return,
            Err(_) => {
                self.clients.remove(key);
                return self.fail(plan);
            }
            Ok(true) => self.answered += 1,
        }
        let time = now();
        if plan == MEASURED {
            self.latencies.record(time - since);
        }
        match self.mode {
            Mode::Stay => self.ask(key, time),
            Mode::Idle => {}
            Mode::Connect => {
                self.clients.remove(key);
                self.open(plan, time);
            }
            Mode::Rate => drop(self.clients.remove(key)),
        }
    }

    /// What was counted while it warmed up; errors remain.
    fn forget(&mut self) {
        self.latencies = Histogram::new();
        self.moved = [0; 2];
        self.opened_late = 0;
    }

    fn print(&self, name: &str, span: Duration) {
        let time = now();
        // One that waits for its answer still has waited for so long at least.
        let waiting = self.clients.iter().map(|(_, client)| client);
        let waiting = waiting.filter(|client| client.plan == MEASURED && self.mode != Mode::Idle);
        let longest = waiting.map(|client| time - client.since).fold(self.latencies.longest, Duration::max);
        let [seconds, longest] = [span, longest].map(|span| span.as_secs_f64());
        let mut said = json!({
            "done": true,
            "mode": name,
            "connections": self.plans[MEASURED].connections,
            "seconds": seconds,
            "requests": self.latencies.count,
            "errors": self.errors,
            "per_second": self.latencies.count as f64 / seconds,
            "p50_us": self.latencies.quantile_us(0.5),
            "p99_us": self.latencies.quantile_us(0.99),
            "p999_us": self.latencies.quantile_us(0.999),
            "max_us": longest * 1e6,
            "bytes_per_second": self.moved[MEASURED] as f64 / seconds,
        });
        if self.mode == Mode::Rate {
            said["connections"] = json!(self.most_open);
            said["opened_late"] = json!(self.opened_late);
        }
        if self.plans[STREAMS].connections > 0 {
            said["streams"] = json!(self.plans[STREAMS].connections);
            said["stream_mib_per_second"] = json!(self.moved[STREAMS] as f64 / seconds / f64::from(1 << 20));
        }
        println!("{said}");
    }
}

impl Client {
    /// Goes on with the request or with its answer, and says whether that is whole.
    fn turn(&mut self, is_readable: bool, buffer: &mut [u8], pattern: &Pattern, poll: &Poll) -> io::Result<bool> {
        if self.wire.is_sending() {
            self.wire.send(pattern, poll.registry())?;
        }
        if !is_readable || self.wire.is_sending() {
            return Ok(false);
        }
        match self.wire.receive(buffer, pattern)? {
            Some(answer) if answer.is_right() => Ok(true),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(false),
        }
    }
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
