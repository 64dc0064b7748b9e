//! What goes one way at a time: a message of a known size, whose bytes are checked at the other end.

use std::io;

use crate::http;

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
    /// `None` for a request: its first byte is its mark, or its head has it.
    mark: Option<u8>,
    pub done: usize,
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

    pub fn mark(self) -> u8 {
        self.mark.unwrap_or_default()
    }

    /// The mark of the answer to this request, which tells whether the request came as it was sent.
    pub fn mark_of_answer(self) -> u8 {
        let mark = self.mark() % MARKS as u8;
        if self.is_wrong { mark } else { (mark + 1) % MARKS as u8 }
    }

    pub fn is_right(self) -> bool {
        !self.is_wrong
    }

    pub fn is_done(self) -> bool {
        self.done == self.bytes
    }

    /// A request's head has its mark, an answer's how many bytes follow.
    pub fn take_head(&mut self, head: &[u8]) -> io::Result<()> {
        let is_ours = match self.mark {
            None => {
                self.mark = http::mark(head);
                self.mark.is_some()
            }
            Some(_) => http::body_bytes(head) == Some(self.bytes),
        };
        is_ours.then_some(()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What the pattern has for the rest of it, or for as much as fits into a buffer.
    pub fn rest(self, pattern: &Pattern) -> &[u8] {
        let from = (usize::from(self.mark()) + self.done) % MARKS;
        &pattern.0[from..][..(self.bytes - self.done).min(BUFFER_BYTES)]
    }

    pub fn take(&mut self, bytes: &[u8], pattern: &Pattern) -> io::Result<()> {
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
