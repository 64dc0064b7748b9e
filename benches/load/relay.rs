//! The floor: the least that a proxy over epoll can do. It copies bytes between each client and a connection to the
//! backend, hands the end of either stream on, and knows no time, no limit, no health and no counter. For comparison only.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::{EVENTS, wait};

const LISTENER: Token = Token(usize::MAX - 1);
const BUFFER_BYTES: usize = 64 * 1024;

pub struct Relay {
    poll: Poll,
    listener: TcpListener,
    backend: SocketAddr,
    pairs: Slab<Pair>,
    buffer: Vec<u8>,
}

/// A client, and its connection to the backend.
struct Pair([Side; 2]);

struct Side {
    stream: TcpStream,
    /// What came from it and had no room on the other side: until it is gone, nothing more is taken.
    rest: Vec<u8>,
    /// It sends no more.
    is_over: bool,
    /// Writes so far.
    writes: u64,
}

impl Relay {
    pub fn bind(address: SocketAddr, backend: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { poll, listener, backend, pairs: Slab::new(), buffer: vec![0; BUFFER_BYTES] })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            wait(&mut self.poll, &mut events, None)?;
            for event in events.iter().filter(|event| event.token() != LISTENER) {
                let (key, at) = (event.token().0 / 2, event.token().0 % 2);
                if let Some(pair) = self.pairs.get_mut(key)
                    && !pair.turn(at, event, &mut self.buffer).unwrap_or(false)
                {
                    self.pairs.remove(key);
                }
            }
            // Last, or a new pair could be taken for the one that had its place.
            if events.iter().any(|event| event.token() == LISTENER) {
                self.accept()?;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let Ok(backend) = TcpStream::connect(self.backend) else { continue };
            let place = self.pairs.vacant_entry();
            let mut sides = [client, backend].map(Side::new);
            for (at, side) in sides.iter_mut().enumerate() {
                let token = Token(place.key() * 2 + at);
                self.poll.registry().register(&mut side.stream, token, Interest::READABLE | Interest::WRITABLE)?;
            }
            place.insert(Pair(sides));
        }
    }
}

impl Pair {
    /// False when both have ended.
    fn turn(&mut self, at: usize, event: &Event, buffer: &mut [u8]) -> io::Result<bool> {
        let [client, backend] = &mut self.0;
        let (this, other) = if at == 0 { (client, backend) } else { (backend, client) };
        if event.is_writable() && !other.rest.is_empty() {
            let rest = std::mem::take(&mut other.rest);
            other.pass(&rest, this)?;
            other.pump(this, false, buffer)?;
        }
        if event.is_readable() && !this.is_over {
            this.pump(other, event.is_read_closed(), buffer)?;
        }
        Ok(!(this.is_over && this.rest.is_empty() && other.is_over && other.rest.is_empty()))
    }
}

impl Side {
    fn new(stream: TcpStream) -> Self {
        Self { stream, rest: Vec::new(), is_over: false, writes: 0 }
    }

    /// Moves all there is to the other side, as far as there is room. What has ended before the call ends with the
    /// bytes that are there.
    fn pump(&mut self, to: &mut Side, has_ended: bool, buffer: &mut [u8]) -> io::Result<()> {
        while self.rest.is_empty() && !self.is_over {
            let count = match self.stream.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            self.pass(&buffer[..count], to)?;
            // A short read has emptied the socket.
            self.is_over = count == 0 || has_ended && count < buffer.len();
            if count < buffer.len() {
                break;
            }
        }
        // If both have ended they are closed now, which says it too.
        if self.is_over && self.rest.is_empty() && !to.is_over {
            to.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Gives bytes that came from here to the other side, and keeps those for which it has no room.
    fn pass(&mut self, bytes: &[u8], to: &mut Side) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Nagle's algorithm holds nothing back before the second write, and many connections have but one.
        if to.writes == 1 {
            to.stream.set_nodelay(true)?;
        }
        to.writes += 1;
        let written = match to.stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        self.rest.extend_from_slice(&bytes[written..]);
        Ok(())
    }
}
