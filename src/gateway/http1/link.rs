//! A connection to a backend. It carries one request at a time and is driven by it: no task of its own. While it is
//! idle nobody drives it; before it is used again it is looked at, so that one that the backend has closed is found
//! without a request being lost.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame};

use super::framing::{Decoder, Encoder, Piece};
use super::head::{self, Limits, ResponseHead};
use super::wire::{Inbox, Outbox};
use crate::gateway::backend::Sent;
use crate::gateway::body::{Cut, RequestBody};
use crate::gateway::forward::Outgoing;
use crate::gateway::io::Io;
use crate::gateway::links::Handle;
use crate::gateway::meaning::Meaning;
use crate::reason::CloseReason;
use crate::tls::ToBackends;

/// What the head of a response may have.
const LIMITS: Limits = Limits { bytes: 64 * 1024, fields: 100 };

/// So much is heard before a response.
const INTERIM_MAX: u32 = 100;

/// See the module.
pub struct Link {
    io: Io,
    inbox: Inbox,
    outbox: Outbox,
    /// What is still to be sent of the request's body.
    upload: Option<(RequestBody, Encoder)>,
    /// What is still to come of the response's body.
    response: Decoder,
    /// Whether another request may follow.
    keeps: bool,
    /// Responses with 1xx before the present one.
    interim: u32,
    handle: Rc<Handle>,
}

impl Link {
    /// Over a new connection.
    pub fn new(io: Io, handle: Rc<Handle>) -> Self {
        let (inbox, outbox) = (Inbox::default(), Outbox::default());
        Self { io, inbox, outbox, upload: None, response: Decoder::Length(0), keeps: true, interim: 0, handle }
    }

    /// Whether a new connection would speak TLS in the same way.
    pub fn speaks(&self, tls: Option<&Arc<ToBackends>>) -> bool {
        self.handle.speaks(tls)
    }

    /// Why it was ended here, if it was.
    pub fn ended(&self) -> Option<CloseReason> {
        self.handle.ended()
    }

    /// Whether it is silent, as it is to be between two requests: neither closed nor speaking.
    pub fn is_open(&mut self) -> bool {
        if !self.io.is_readable() {
            return true;
        }
        let mut cx = Context::from_waker(Waker::noop());
        // Without a budget nothing is read, whatever is there.
        tokio::task::coop::has_budget_remaining() && self.inbox.poll_fill(&mut self.io, &mut cx).is_pending()
    }

    /// Whether the response is over.
    pub fn is_over(&self) -> bool {
        self.response.is_over()
    }

    /// How many bytes of the response's body are to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.response.left()
    }

    /// Makes it ready for another request, if it can carry one.
    pub fn rest(&mut self) -> bool {
        self.inbox.rest();
        self.keeps
            && self.response.is_over()
            && self.upload.is_none()
            && self.outbox.is_sent()
            && self.inbox.bytes.is_empty()
    }

    /// The connection itself, with what was read ahead: after the backend has switched to another protocol.
    pub fn into_io(mut self) -> Io {
        self.io.unread(self.inbox.bytes.freeze());
        self.io
    }

    /// Sends a request, and waits for the head of its response. Its body goes on being sent while that of the response
    /// comes.
    pub async fn send(&mut self, request: &mut Outgoing<'_>) -> Sent {
        let body = std::mem::replace(&mut request.body, RequestBody::Empty);
        let length = body.size_hint().exact();
        self.begin(request, length);
        let has_body = !body.is_end_stream();
        if has_body {
            self.upload = Some((body, length.map_or(Encoder::Chunked, Encoder::Length)));
        }
        self.interim = 0;
        let before = self.io.meter.written.get();
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(Err(cut)) = self.poll_upload(cx) {
                return Poll::Ready(Err(cut));
            }
            self.poll_head(&request.head.method, cx)
        });
        match outcome.await {
            Ok(head) => {
                (self.response, self.keeps) = (head.body, self.keeps && head.keeps);
                Sent::Response(head.answer.with(|()| None))
            }
            // Whatever was written was taken by nobody who would answer; but only what was not written is surely unread.
            Err(_) if !has_body && self.io.meter.written.get() == before => Sent::Unsent,
            Err(cut) => Sent::Broken(cut),
        }
    }

    /// Writes the head of a request with a body of so many bytes; `None` = not known.
    fn begin(&mut self, request: &Outgoing<'_>, length: Option<u64>) {
        let (asked, row) = (&*request.head, self.outbox.row());
        head::ask(&asked.method, &asked.uri, row);
        let mut says_length = false;
        asked.headers.each(|field| match field.meaning {
            Meaning::Length => says_length = true,
            Meaning::Coding => {}
            _ => head::pass(field, row),
        });
        if let Some(announced) = &request.announced {
            row.extend_from_slice(announced.lines());
            announced.others(|name, value| head::field(name.as_str().as_bytes(), value, row));
        }
        match length {
            None => head::field(b"transfer-encoding", b"chunked", row),
            // Some methods need a body, and some servers need to be told that there is none (RFC 9110, 8.6).
            Some(0) if !says_length && !expects_body(&asked.method) => {}
            Some(length) => head::length(length, row),
        }
        row.extend_from_slice(b"\r\n");
    }

    /// Sends what can be sent of the request. Should the backend take no more, its response may still be there.
    ///
    /// # Errors
    /// When the client did not send all of its body.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        loop {
            while let Some((body, encoder)) = &mut self.upload
                && self.outbox.has_room()
            {
                let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { break };
                match frame.transpose()?.map(Frame::into_data) {
                    Some(Ok(data)) => self.outbox.piece(data, encoder)?,
                    Some(Err(trailers)) => {
                        self.outbox.end(trailers.into_trailers().ok().as_ref(), *encoder)?;
                        self.upload = None;
                    }
                    None => {
                        self.outbox.end(None, *encoder)?;
                        self.upload = None;
                    }
                }
            }
            if self.outbox.is_sent() {
                return if self.upload.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if ready!(self.outbox.poll_send(&mut self.io, cx)).is_err() {
                (self.keeps, self.upload) = (false, None);
                self.outbox.clear();
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Cut>> {
        loop {
            let inbox = &mut self.inbox;
            if !inbox.bytes.is_empty() && head::may_be_whole(&inbox.bytes, inbox.tried) {
                match head::response(&mut inbox.bytes, LIMITS, method)? {
                    // What is said before the response is for nobody behind a proxy that has answered by itself.
                    Some(head) if is_interim(head.answer.status) => {
                        inbox.tried = 0;
                        self.keeps &= head.keeps;
                        self.interim += 1;
                        if self.interim > INTERIM_MAX {
                            return Poll::Ready(Err(head::Bad::TooLarge.into()));
                        }
                        continue;
                    }
                    Some(head) => {
                        inbox.tried = 0;
                        return Poll::Ready(Ok(head));
                    }
                    None => inbox.tried = inbox.bytes.len(),
                }
            } else if inbox.bytes.len() > LIMITS.bytes {
                return Poll::Ready(Err(head::Bad::TooLarge.into()));
            }
            if ready!(self.inbox.poll_fill(&mut self.io, cx))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// The next piece of the response's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Poll::Ready(Err(cut)) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(cut)));
        }
        Poll::Ready(ready!(self.poll_decoded(cx)).transpose())
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Cut>> {
        loop {
            if let Some(piece) = self.response.decode(&mut self.inbox.bytes)? {
                return Poll::Ready(Ok(piece.into_frame()));
            }
            if ready!(self.inbox.poll_fill(&mut self.io, cx))? == 0 {
                self.keeps = false;
                return Poll::Ready(match self.response.ends_with_connection() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                });
            }
        }
    }
}

impl Piece {
    /// As others know it; `None` = it is over.
    pub(super) fn into_frame(self) -> Option<Frame<Bytes>> {
        match self {
            Self::Data(data) => Some(Frame::data(data)),
            Self::Trailers(trailers) => Some(Frame::trailers(trailers)),
            Self::End => None,
        }
    }
}

/// Whether another response will follow (RFC 9110, 15.2).
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn expects_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}
