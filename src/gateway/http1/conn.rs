//! A client's connection while it carries requests: what its session and the body of its present request share.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::Frame;

use super::framing::{Decoder, Piece};
use super::head::{self, Bad, Limits, RequestHead};
use super::wire::{Inbox, Outbox};
use crate::gateway::body::Cut;
use crate::gateway::io::Io;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection while it carries requests.
pub struct Conn {
    /// `None` once it is over: whoever still reads a body from it finds it cut.
    io: Option<Io>,
    /// What was read.
    pub inbox: Inbox,
    /// What is to be written.
    pub outbox: Outbox,
    /// What is still to come of the request's body.
    pub body: Decoder,
    /// The client waits for a word before it sends it.
    pub waits: bool,
    /// Whose body it is: one that is left behind must not read the next one's. With HTTP/2 a backend may have answered
    /// and still take a request's body, or not.
    turn: u64,
    /// A head or a body has not come in time.
    pub is_late: bool,
    /// Who waits for more of the body now. With HTTP/2 to the backend that is another task.
    reader: Option<Waker>,
}

/// A request's body, as its exchange reads it.
pub struct Upload {
    conn: Rc<RefCell<Conn>>,
    /// Of which request.
    turn: u64,
}

impl Conn {
    /// Over a socket.
    pub fn new(mut io: Io) -> Self {
        let (inbox, outbox) = (Inbox::with(io.take_ahead()), Outbox::default());
        Self {
            io: Some(io),
            inbox,
            outbox,
            body: Decoder::Length(0),
            waits: false,
            turn: 0,
            is_late: false,
            reader: None,
        }
    }

    /// Takes the socket out, with what was read ahead.
    pub fn leave(&mut self) -> Io {
        let mut io = self.io.take().expect("a session has its socket until it leaves");
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if !self.inbox.bytes.is_empty() {
            io.unread(self.inbox.bytes.split().freeze());
        }
        io
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => self.inbox.poll_fill(io, cx),
            None => Poll::Ready(Ok(0)),
        }
    }

    /// Writes what is to be written.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => self.outbox.poll_send(io, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The next request; `None` = there is none, nor is one waited for where it `is_last`.
    pub fn poll_head(
        &mut self,
        limits: Limits,
        is_last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<RequestHead>, Cut>> {
        loop {
            let inbox = &mut self.inbox;
            if self.is_late {
                return Poll::Ready(Err(Cut::Late));
            }
            if !inbox.bytes.is_empty() && head::may_be_whole(&inbox.bytes, inbox.tried) {
                if let Some(head) = head::request(&mut inbox.bytes, limits)? {
                    inbox.tried = 0;
                    return Poll::Ready(Ok(Some(head)));
                }
                inbox.tried = inbox.bytes.len();
            } else if inbox.bytes.len() > limits.bytes {
                return Poll::Ready(Err(Bad::TooLarge.into()));
            }
            let filled = self.poll_fill(cx);
            if filled.is_pending() && is_last && self.inbox.bytes.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if ready!(filled)? == 0 {
                let is_clean = self.inbox.bytes.is_empty();
                return Poll::Ready(if is_clean { Ok(None) } else { Err(Cut::early()) });
            }
        }
    }

    /// Waits until the client has gone away, as far as that can be seen while nobody reads its request's body.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Only "100 Continue" is written before an answer; whether that works is seen later.
        let _ = self.poll_send(cx);
        // Who has sent the next request already may have ended after it.
        while self.body.is_over() && self.inbox.bytes.is_empty() {
            ready!(self.io.as_mut().map_or(Poll::Pending, |io| io.poll_readable(cx)));
            match ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// The next piece of the request's body.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Cut>> {
        loop {
            if let Some(piece) = self.body.decode(&mut self.inbox.bytes)? {
                return Poll::Ready(Ok(piece.into_frame()));
            }
            if self.is_late {
                return Poll::Ready(Err(Cut::Late));
            }
            if std::mem::take(&mut self.waits) && self.inbox.bytes.is_empty() {
                self.outbox.row().extend_from_slice(CONTINUE);
                // Only here: else who reads the body would be woken in place of who writes the answer. Should it fail,
                // reading will, too.
                let _ = self.poll_send(cx);
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(Cut::early()));
            }
        }
    }

    /// No more is waited for of what the client has begun to send, a head or a body, so that it can be told so. Tells
    /// whether that is news.
    pub fn give_up(&mut self, is_in_head: bool) -> bool {
        // An empty line may follow a request (RFC 9112, 2.2), and is not the beginning of another one.
        let is_begun = || self.inbox.bytes.iter().any(|byte| !b"\r\n".contains(byte));
        let is_awaited = if is_in_head { is_begun() } else { self.reader.is_some() };
        if !is_awaited || self.is_late || !self.outbox.is_sent() {
            return false;
        }
        self.is_late = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        true
    }

    /// Another request begins.
    pub fn begin(&mut self, head_body: Decoder, waits: bool) {
        (self.body, self.waits) = (head_body, waits);
        self.turn += 1;
    }

    /// Leaves out what was not read of the request's body, if it is here already; tells whether it is over. Whoever still
    /// reads it finds it cut.
    pub fn skip_body(&mut self) -> bool {
        if self.body.is_over() {
            return true;
        }
        self.turn += 1;
        while let Ok(Some(Piece::Data(_))) = self.body.decode(&mut self.inbox.bytes) {}
        self.body.is_over()
    }
}

impl Upload {
    /// The body of the request that has begun last.
    pub fn new(conn: &Rc<RefCell<Conn>>) -> Self {
        Self { turn: conn.borrow().turn, conn: conn.clone() }
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        let conn = self.conn.borrow();
        conn.turn == self.turn && conn.body.is_over()
    }

    /// How many bytes are to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        let conn = self.conn.borrow();
        conn.body.left().filter(|_| conn.turn == self.turn)
    }

    /// Its next piece.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut conn = self.conn.borrow_mut();
        if conn.turn != self.turn {
            return Poll::Ready(Some(Err(Cut::early())));
        }
        let piece = conn.poll_piece(cx);
        conn.reader = piece.is_pending().then(|| cx.waker().clone());
        piece.map(Result::transpose)
    }
}
