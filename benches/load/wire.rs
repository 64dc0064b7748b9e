//! One end of a TCP connection of the load: a message of a fixed size goes one way, then one comes the other way, and
//! what comes is checked. No call is made that finds nothing, unless the kernel gives no way to know.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// What is read or written in one call.
pub const BUFFER_BYTES: usize = 256 * 1024;
/// A message's bytes rise from its mark on, and begin anew at this prime: so a block of any usual size that is lost or
/// doubled shifts what follows.
const MARKS: usize = 251;
/// So much is checked at both ends of what one read brings.
const CHECKED_BYTES: usize = 64;

/// The bytes of all messages.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        Self((0..BUFFER_BYTES + MARKS).map(|at| (at % MARKS) as u8).collect())
    }
}

/// How far a message has come.
#[derive(Clone, Copy, Default)]
pub struct Message {
    /// `None` for a request: its first byte is its mark.
    mark: Option<u8>,
    done: usize,
    bytes: usize,
    is_wrong: bool,
}

impl Message {
    pub fn request_to_come(bytes: usize) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub fn marked(mark: u8, bytes: usize) -> Self {
        Self { mark: Some(mark % MARKS as u8), bytes, ..Self::default() }
    }

    /// The mark of the answer to this request, which tells whether the request came as it was sent.
    pub fn mark_of_answer(self) -> u8 {
        let mark = self.mark.unwrap_or_default() % MARKS as u8;
        if self.is_wrong { mark } else { (mark + 1) % MARKS as u8 }
    }

    pub fn is_right(self) -> bool {
        !self.is_wrong
    }

    fn is_done(self) -> bool {
        self.done == self.bytes
    }

    /// What the pattern has for the rest of it, or for as much as fits into a buffer.
    fn rest(self, pattern: &Pattern) -> &[u8] {
        let from = (usize::from(self.mark.unwrap_or_default()) + self.done) % MARKS;
        &pattern.0[from..][..(self.bytes - self.done).min(BUFFER_BYTES)]
    }

    fn take(&mut self, bytes: &[u8], pattern: &Pattern) -> io::Result<()> {
        self.mark = self.mark.or(bytes.first().copied());
        let Some(expected) = self.rest(pattern).get(..bytes.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than was asked for"));
        };
        let near = bytes.len().min(CHECKED_BYTES);
        let far = bytes.len() - near;
        self.is_wrong |= bytes[..near] != expected[..near] || bytes[far..] != expected[far..];
        self.done += bytes.len();
        Ok(())
    }
}

pub struct Wire {
    stream: TcpStream,
    token: Token,
    watched: Option<Interest>,
    leaving: Message,
    coming: Message,
    /// Writes so far.
    writes: u64,
    /// Bytes that went either way and are not counted yet.
    moved: u64,
}

impl Wire {
    pub fn new(stream: TcpStream, token: Token, coming: Message) -> Self {
        Self { stream, token, watched: None, leaving: Message::default(), coming, writes: 0, moved: 0 }
    }

    pub fn begin(&mut self, leaving: Message, coming: Message) {
        (self.leaving, self.coming) = (leaving, coming);
    }

    pub fn is_sending(&self) -> bool {
        !self.leaving.is_done()
    }

    pub fn is_receiving(&self) -> bool {
        self.coming.done > 0
    }

    pub fn count_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Sends until all has left or there is no room, for which the next event is waited.
    pub fn send(&mut self, pattern: &Pattern, registry: &Registry) -> io::Result<()> {
        while self.is_sending() {
            // Nagle's algorithm holds nothing back before the second write, and many connections have but one.
            if self.writes == 1 {
                self.stream.set_nodelay(true)?;
            }
            self.writes += 1;
            let rest = self.leaving.rest(pattern);
            match self.stream.write(rest) {
                Ok(written) => {
                    self.leaving.done += written;
                    self.moved += written as u64;
                    if written < rest.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.watch(registry)
    }

    /// Registers for what comes, and for room from the first time on that there was none.
    pub fn watch(&mut self, registry: &Registry) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let interest = if self.is_sending() { both } else { Interest::READABLE };
        match self.watched {
            None => registry.register(&mut self.stream, self.token, interest)?,
            Some(Interest::READABLE) if self.is_sending() => {
                registry.reregister(&mut self.stream, self.token, interest)?
            }
            Some(_) => return Ok(()),
        }
        self.watched = Some(interest);
        Ok(())
    }

    /// Receives until the message is whole, and then gives it, or nothing is left. Fails at the stream's end, and when
    /// more comes than the message.
    pub fn receive(&mut self, buffer: &mut [u8], pattern: &Pattern) -> io::Result<Option<Message>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.moved += count as u64;
                    self.coming.take(&buffer[..count], pattern)?;
                    if self.coming.is_done() {
                        return Ok(Some(self.coming));
                    }
                    // A short read has emptied the socket.
                    if count < buffer.len() {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}
