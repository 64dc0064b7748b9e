//! What was read of a connection and not used yet, and what is to be written to it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::framing::Encoder;
use super::head::Bad;
use crate::gateway::io::Io;

/// Read at once: at first, and where there is always more.
const READ_BYTES: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Room for a usual head.
const ROW_BYTES: usize = 512;
/// Smaller pieces of a body are copied to stand in a row; larger ones are written from where they are.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// What was read.
#[derive(Debug)]
pub struct Inbox {
    /// Not used yet.
    pub bytes: BytesMut,
    /// How much of it was tried as a head.
    pub tried: usize,
    read_bytes: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), tried: 0, read_bytes: READ_BYTES }
    }
}

impl Inbox {
    /// With what was read already.
    pub fn with(bytes: BytesMut) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Reads more; 0 = the other side has ended.
    pub fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // As a rule nothing of what was read before is in use any more, and the same few lines of the cache take what comes.
        // Otherwise the block is filled before there is another one.
        let is_anew = self.bytes.is_empty() && self.bytes.try_reclaim(self.read_bytes);
        if !is_anew && self.bytes.capacity() - self.bytes.len() < self.read_bytes / 4 {
            self.bytes.reserve(self.read_bytes);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let count = ready!(pin!(io.read_buf(&mut self.bytes)).poll(cx))?;
        if count == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Whether it holds less than what is better passed on while it is in the caches.
    pub fn is_small(&self) -> bool {
        self.bytes.len() < COPIED_BYTES_MAX
    }

    /// Gives back what nobody needs before the next message.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && self.read_bytes > READ_BYTES {
            self.bytes = BytesMut::new();
        }
    }
}

/// What is to be written: what is small stands in a row, and behind it at most one large piece of a body.
#[derive(Debug, Default)]
pub struct Outbox {
    row: Vec<u8>,
    /// Bytes of `row` that are written.
    written: usize,
    large: Bytes,
    after: &'static [u8],
    /// Something was written that may still be held back on the way.
    is_held: bool,
}

impl Outbox {
    /// Where heads are written to. Nothing large may be waiting.
    pub fn row(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.has_room());
        if self.row.capacity() == 0 {
            self.row.reserve(ROW_BYTES);
        }
        &mut self.row
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.written == self.row.len() && self.large.is_empty() && self.after.is_empty()
    }

    /// Whether all has left: TLS may hold back what is written.
    pub fn is_sent(&self) -> bool {
        self.is_empty() && !self.is_held
    }

    /// Whether another piece may be added before this is written.
    pub fn has_room(&self) -> bool {
        self.large.is_empty() && self.after.is_empty() && self.row.len() < COPIED_BYTES_MAX
    }

    /// Adds a piece of a body.
    ///
    /// # Errors
    /// When the body is longer than was said.
    pub fn piece(&mut self, data: Bytes, encoder: &mut Encoder) -> Result<(), Bad> {
        if data.is_empty() {
            return Ok(());
        }
        let after = encoder.piece(data.len(), &mut self.row)?;
        if self.row.len() + data.len() <= COPIED_BYTES_MAX {
            self.row.extend_from_slice(&data);
            self.row.extend_from_slice(after);
        } else {
            (self.large, self.after) = (data, after);
        }
        Ok(())
    }

    /// Adds the end of a body. Nothing large may be waiting.
    ///
    /// # Errors
    /// When the body is shorter than was said.
    pub fn end(&mut self, trailers: Option<&HeaderMap>, encoder: Encoder) -> Result<(), Bad> {
        encoder.end(trailers, self.row())
    }

    /// Forgets what is not written.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes all there is.
    pub fn poll_send(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let row = &self.row[self.written..];
            let sent = if self.large.is_empty() && self.after.is_empty() {
                Pin::new(&mut *io).poll_write(cx, row)
            } else {
                let pieces = [row, &self.large, self.after].map(IoSlice::new);
                let first = usize::from(row.is_empty());
                Pin::new(&mut *io).poll_write_vectored(cx, &pieces[first..])
            };
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.advance(sent),
            }
            self.is_held = true;
        }
        self.row.clear();
        self.written = 0;
        if self.is_held {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.is_held = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, sent: usize) {
        let of_row = sent.min(self.row.len() - self.written);
        self.written += of_row;
        let of_large = (sent - of_row).min(self.large.len());
        self.large.advance(of_large);
        self.after = &self.after[sent - of_row - of_large..];
    }
}
