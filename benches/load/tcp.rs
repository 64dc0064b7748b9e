//! TCP: a backend that answers each request of a fixed size, and clients that send them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::histogram::Histogram;
use crate::words::{number, seconds, word};
use crate::{EVENTS, now};

/// A request: its bytes have no meaning.
const REQUEST_BYTES: usize = 64;
/// What is read or written in one call.
const BUFFER_BYTES: usize = 256 * 1024;
const LISTENER: Token = Token(usize::MAX - 1);

/// Whether a call that failed has to wait for its next event.
fn must_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

pub struct Server {
    poll: Poll,
    listener: TcpListener,
    bytes: usize,
    buffer: Vec<u8>,
}

/// A connection of the server: what has come of a request, what is owed of the answers.
struct Served {
    stream: TcpStream,
    came: usize,
    owed: usize,
}

impl Server {
    pub fn bind(port: u16, bytes: usize) -> io::Result<Self> {
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        println!("{{\"port\": {}}}", listener.local_addr()?.port());
        Ok(Self { poll, listener, bytes, buffer: vec![b'x'; BUFFER_BYTES] })
    }

    pub fn run(mut self) -> io::Result<()> {
        let mut connections: Slab<Served> = Slab::new();
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                if event.token() == LISTENER {
                    self.accept(&mut connections)?;
                } else if let Some(served) = connections.get_mut(event.token().0)
                    && !self.serve(served, event.is_readable())
                {
                    connections.remove(event.token().0);
                }
            }
        }
    }

    fn accept(&self, connections: &mut Slab<Served>) -> io::Result<()> {
        while let Ok((mut stream, _)) = self.listener.accept() {
            stream.set_nodelay(true)?;
            let place = connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(place.key()), interest)?;
            place.insert(Served { stream, came: 0, owed: 0 });
        }
        Ok(())
    }

    /// False when the connection has ended.
    fn read_requests(&mut self, served: &mut Served) -> bool {
        let buffer = &mut self.buffer[..REQUEST_BYTES * 16];
        loop {
            match served.stream.read(buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    served.came += read;
                    served.owed += served.came / REQUEST_BYTES * self.bytes;
                    served.came %= REQUEST_BYTES;
                    // A short read has emptied the socket.
                    if read < buffer.len() {
                        return true;
                    }
                }
                Err(error) => return must_wait(&error),
            }
        }
    }

    /// The same.
    fn serve(&mut self, served: &mut Served, readable: bool) -> bool {
        if readable && !self.read_requests(served) {
            return false;
        }
        while served.owed > 0 {
            match served.stream.write(&self.buffer[..served.owed.min(BUFFER_BYTES)]) {
                Ok(written) => served.owed -= written,
                Err(error) if must_wait(&error) => break,
                Err(_) => return false,
            }
        }
        true
    }
}

/// What the clients do.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Request, answer, request, on connections that stay.
    Stay,
    /// A connection for each request.
    Connect,
    /// One request each, then silence until stdin ends.
    Idle,
}

struct Client {
    stream: TcpStream,
    since: Instant,
    /// Bytes of the request still to send.
    to_send: usize,
    /// Bytes of the answer still to come.
    to_come: usize,
}

struct Driver {
    poll: Poll,
    address: SocketAddr,
    mode: Mode,
    bytes: usize,
    clients: Slab<Client>,
    buffer: Vec<u8>,
    latencies: Histogram,
    errors: u64,
    done: usize,
}

pub fn drive(words: &[String]) -> io::Result<()> {
    let name = word(words, "mode").unwrap_or("rr");
    let mode = match name {
        "connect" => Mode::Connect,
        "idle" => Mode::Idle,
        _ => Mode::Stay,
    };
    let connections = number(words, "connections", 64) as usize;
    let mut driver = Driver {
        poll: Poll::new()?,
        address: SocketAddr::from(([127, 0, 0, 1], number(words, "port", 0) as u16)),
        mode,
        bytes: number(words, "bytes", 64) as usize,
        clients: Slab::with_capacity(connections),
        buffer: vec![0; BUFFER_BYTES],
        latencies: Histogram::new(),
        errors: 0,
        done: 0,
    };
    for _ in 0..connections {
        driver.open()?;
    }
    let start = now();
    if mode == Mode::Idle {
        driver.run(|driver| driver.done < connections && start.elapsed() < Duration::from_secs(60))?;
    } else {
        let span = seconds(words);
        driver.run(|_| start.elapsed() < span)?;
    }
    let (count, seconds) = (driver.latencies.count, start.elapsed().as_secs_f64());
    println!(
        "{{\"mode\": \"{name}\", \"connections\": {connections}, \"seconds\": {seconds:.3}, \"requests\": {count}, \
         \"errors\": {}, \"per_second\": {:.1}, \"p50_us\": {:.1}, \"p99_us\": {:.1}}}",
        driver.errors,
        count as f64 / seconds,
        driver.latencies.quantile_us(0.5),
        driver.latencies.quantile_us(0.99)
    );
    if mode == Mode::Idle {
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

impl Driver {
    fn run(&mut self, goes_on: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while goes_on(self) {
            self.poll.poll(&mut events, Some(Duration::from_millis(50)))?;
            for event in &events {
                self.turn(event.token().0)?;
            }
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        let _ = stream.set_nodelay(true);
        let place = self.clients.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(place.key()), interest)?;
        place.insert(Client { stream, since: now(), to_send: REQUEST_BYTES, to_come: self.bytes });
        Ok(())
    }

    fn turn(&mut self, key: usize) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        loop {
            match client.step(&mut self.buffer) {
                Ok(Step::Wait) => return Ok(()),
                Ok(Step::Answered) => {
                    let time = now();
                    self.latencies.record(time - client.since);
                    self.done += 1;
                    match self.mode {
                        Mode::Idle => return Ok(()),
                        Mode::Stay => {
                            (client.since, client.to_send, client.to_come) = (time, REQUEST_BYTES, self.bytes)
                        }
                        Mode::Connect => break,
                    }
                }
                Err(_) => {
                    self.errors += 1;
                    break;
                }
            }
        }
        self.clients.remove(key);
        self.open()
    }
}

enum Step {
    Wait,
    Answered,
}

impl Client {
    /// Goes on until it has to wait or has its whole answer.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        while self.to_send > 0 {
            match self.stream.write(&[b'q'; REQUEST_BYTES][..self.to_send]) {
                Ok(written) => self.to_send -= written,
                Err(error) if must_wait(&error) => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
        }
        while self.to_come > 0 {
            let room = buffer.len();
            match self.stream.read(&mut buffer[..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.to_come = self.to_come.saturating_sub(read);
                    if read < room && self.to_come > 0 {
                        return Ok(Step::Wait);
                    }
                }
                Err(error) if must_wait(&error) => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Answered)
    }
}
