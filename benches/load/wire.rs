//! One end of a TCP connection of the load: a message goes one way, then one comes the other way, and what comes is
//! checked. No call is made that finds nothing, unless the kernel or TLS gives no way to know.
//!
//! Both ends know the sizes of messages. With HTTP each has a head, too.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::http::{self, Heads};
use crate::message::{Message, Pattern};
use crate::tls::Tls;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Stream {
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.socket(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }

    /// A message of one piece leaves by the simpler call.
    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) if head.is_empty() => stream.write(body),
            Stream::Plain(stream) if body.is_empty() => stream.write(head),
            Stream::Plain(stream) => stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]),
            Stream::Tls(stream) if head.is_empty() => stream.write(body),
            Stream::Tls(stream) => stream.write(head),
        }
    }
}

pub struct Wire {
    stream: Stream,
    token: Token,
    watched: Option<Interest>,
    /// What is left of the head of what leaves begins at `head_done`.
    head: Vec<u8>,
    head_done: usize,
    leaving: Message,
    coming: Message,
    /// The head of what comes has not ended yet.
    awaits_head: bool,
    /// The pieces of it that have come.
    pieces: Vec<u8>,
    /// Writes so far.
    writes: u64,
    /// Bytes that went either way and are not counted yet.
    moved: u64,
}

impl Wire {
    /// A message is about to come.
    pub fn new(stream: Stream, token: Token, coming: Message, has_heads: bool) -> Self {
        Self {
            stream,
            token,
            watched: None,
            head: Vec::new(),
            head_done: 0,
            leaving: Message::default(),
            coming,
            awaits_head: has_heads,
            pieces: Vec::new(),
            writes: 0,
            moved: 0,
        }
    }

    /// A message is about to leave, and another one to come.
    pub fn begin(&mut self, heads: Option<&Heads>, leaving: Message, coming: Message) {
        (self.leaving, self.coming, self.head_done, self.awaits_head) = (leaving, coming, 0, heads.is_some());
        if let Some(heads) = heads {
            heads.write(leaving.mark(), &mut self.head);
        }
    }

    pub fn is_sending(&self) -> bool {
        self.head_done < self.head.len() || !self.leaving.is_done()
    }

    pub fn is_receiving(&self) -> bool {
        self.coming.done > 0 || !self.pieces.is_empty()
    }

    pub fn count_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Sends until all has left or there is no room, for which the next event is waited.
    pub fn send(&mut self, pattern: &Pattern, registry: &Registry) -> io::Result<()> {
        while self.is_sending() {
            // Nagle's algorithm holds nothing back before the second write, and many connections have but one.
            if self.writes == 1 {
                self.stream.socket().set_nodelay(true)?;
            }
            self.writes += 1;
            let (head, rest) = (&self.head[self.head_done..], self.leaving.rest(pattern));
            match self.stream.write(head, rest) {
                Ok(written) => {
                    let of_head = written.min(head.len());
                    let is_short = written < head.len() + rest.len();
                    self.head_done += of_head;
                    self.leaving.done += written - of_head;
                    self.moved += written as u64;
                    if is_short {
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
            None => registry.register(self.stream.socket(), self.token, interest)?,
            Some(Interest::READABLE) if self.is_sending() => {
                registry.reregister(self.stream.socket(), self.token, interest)?
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
                    let body = self.after_head(&buffer[..count])?;
                    self.coming.take(body, pattern)?;
                    if self.coming.is_done() && !self.awaits_head {
                        return Ok(Some(self.coming));
                    }
                    // A short read has emptied the socket; but TLS gives what it has, record by record.
                    if count < buffer.len() && matches!(self.stream, Stream::Plain(_)) {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// What of these bytes does not belong to the head, if one is due.
    fn after_head<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        if !self.awaits_head {
            return Ok(bytes);
        }
        // Nearly always it comes in one piece, and is not copied.
        let seen = if self.pieces.is_empty() {
            bytes
        } else {
            self.pieces.extend_from_slice(bytes);
            &self.pieces
        };
        let Some(end) = http::head_bytes(seen)? else {
            if self.pieces.is_empty() {
                self.pieces.extend_from_slice(bytes);
            }
            return Ok(&[]);
        };
        self.coming.take_head(&seen[..end])?;
        let body = seen.len() - end;
        self.pieces.clear();
        self.awaits_head = false;
        Ok(&bytes[bytes.len() - body..])
    }
}
