//! Connections to backends, once `dial` has made them, kept for the next request.
//!
//! One with HTTP/1.1 (`http1::link`) belongs to one request at a time and is driven by it. One with HTTP/2 carries many
//! requests and has a task.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::body::{Cut, RequestBody};
use super::forward::Outgoing;
use super::http1;
use super::io::Meter;
use super::links::Handle;
use super::message::Answer;
use crate::config::http::{Speech, Version};
use crate::id::BackendId;
use crate::reason::CloseReason;
use crate::snapshot::Pool;

/// A connection that carries one request.
pub enum Link {
    /// HTTP/1.1, driven by whoever has it.
    Http1(Box<http1::Link>),
    /// A place on one with HTTP/2.
    Http2(Http2),
}

/// A place on a connection with HTTP/2, which many requests share: each has its own until its answer is over.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    /// Bytes that had been read when the request was sent.
    heard: u64,
    shared: Rc<Shared>,
}

/// What all places on a connection have in common.
struct Shared {
    handle: Rc<Handle>,
    meter: Rc<Meter>,
}

/// A place that [`Idle`] has itself, so that the connection stays.
struct Spare {
    place: Http2,
    /// When another one was seen last.
    used: Instant,
}

/// Idle connections of one thread, by backend.
#[derive(Default)]
pub struct Idle {
    http1: BTreeMap<BackendId, Vec<(Box<http1::Link>, Instant)>>,
    http2: BTreeMap<BackendId, Spare>,
}

/// What became of a request that was given to a connection.
pub enum Sent {
    /// Its response; without a body = that comes by the connection.
    Response(Answer<Option<Incoming>>),
    /// Nothing of it was sent.
    Unsent,
    /// The connection broke when something may have been sent.
    Broken(Cut),
}

impl Idle {
    /// The connection that was used last, if it is still there and as the pool wants it now, and how long ago that was.
    pub fn take(&mut self, backend: BackendId, pool: &Pool, now: Instant) -> Option<(Link, Duration)> {
        let (speech, tls) = (pool.config.http.speech, pool.tls.as_ref());
        if speech.version == Version::Http2 {
            let spare = self.http2.get_mut(&backend)?;
            if !spare.stays(speech.idle_timeout, now) || !spare.place.shared.handle.speaks(tls) {
                self.http2.remove(&backend);
                return None;
            }
            spare.used = now;
            return Some((Link::Http2(spare.place.clone()), Duration::ZERO));
        }
        let idle = self.http1.get_mut(&backend)?;
        while let Some((mut link, since)) = idle.pop() {
            let idle = now.saturating_duration_since(since);
            if idle < speech.idle_timeout && link.speaks(tls) && link.is_open() {
                return Some((Link::Http1(link), idle));
            }
        }
        None
    }

    /// Keeps a connection whose response is over, if it can be used again.
    pub fn put(&mut self, backend: BackendId, mut link: Box<http1::Link>, speech: Speech, now: Instant) {
        if !link.rest() {
            return;
        }
        let idle = self.http1.entry(backend).or_default();
        if idle.len() < speech.idle_max as usize {
            idle.push((link, now));
        }
    }

    /// Keeps a connection for everybody's requests.
    pub fn share(&mut self, backend: BackendId, place: Http2, now: Instant) {
        self.http2.insert(backend, Spare { place, used: now });
    }

    /// Closes what has been idle for too long, is closed already, or is of a backend that is gone (`None`).
    pub fn sweep(&mut self, idle_timeout: impl Fn(BackendId) -> Option<Duration>, now: Instant) {
        self.http1.retain(|backend, idle| {
            let timeout = idle_timeout(*backend).unwrap_or(Duration::ZERO);
            idle.retain_mut(|(link, since)| now.saturating_duration_since(*since) < timeout && link.is_open());
            !idle.is_empty()
        });
        // Without its spare place a connection ends with the last request that it carries.
        self.http2.retain(|backend, spare| idle_timeout(*backend).is_some_and(|timeout| spare.stays(timeout, now)));
    }

    /// Whether there is nothing to sweep.
    pub fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty()
    }
}

impl Link {
    /// Why it was ended here, if it was.
    pub fn ended(&self) -> Option<CloseReason> {
        match self {
            Self::Http1(link) => link.ended(),
            Self::Http2(place) => place.shared.handle.ended(),
        }
    }

    /// Its request was answered too late. Where nothing has been heard since it was sent, nobody knows whether the other end
    /// is there: no other request is given to it. Those that it carries go on.
    pub fn doubt(&self) {
        if let Self::Http2(Http2 { heard, shared, .. }) = self
            && shared.meter.read.get() == *heard
        {
            shared.handle.doubt();
        }
    }

    /// Sends a request and waits for the head of its response. The request's head is there afterwards only if it `stays`, or
    /// nothing was sent.
    pub async fn send(&mut self, request: &mut Outgoing<'_>, stays: bool) -> Sent {
        match self {
            Self::Http1(link) => link.send(request).await,
            // Large, and not to be paid for by others.
            Self::Http2(link) => Box::pin(link.send(request, stays)).await,
        }
    }
}

impl Spare {
    /// Whether the connection is good for another request, and does not carry none for too long.
    fn stays(&mut self, idle_timeout: Duration, now: Instant) -> bool {
        let Http2 { sender, shared, .. } = &self.place;
        if Rc::strong_count(shared) > 1 {
            self.used = now;
        }
        let is_over = now.saturating_duration_since(self.used) >= idle_timeout;
        !is_over && !sender.is_closed() && !shared.handle.is_doubtful()
    }
}

impl Http2 {
    /// The first place on a new connection.
    pub fn new(sender: http2::SendRequest<RequestBody>, handle: Rc<Handle>, meter: Rc<Meter>) -> Self {
        Self { sender, heard: 0, shared: Rc::new(Shared { handle, meter }) }
    }

    async fn send(&mut self, request: &mut Outgoing<'_>, stays: bool) -> Sent {
        self.heard = self.shared.meter.read.get();
        if self.sender.ready().await.is_err() {
            return Sent::Unsent;
        }
        let head = &mut *request.head;
        let headers = head.headers.map();
        if let Some(announced) = &request.announced {
            announced.put_among(headers);
        }
        let body = std::mem::replace(&mut request.body, RequestBody::Empty);
        let mut given = Request::new(body);
        *given.method_mut() = head.method.clone();
        *given.uri_mut() = head.uri.clone();
        *given.headers_mut() = if stays { headers.clone() } else { std::mem::take(headers) };
        match self.sender.try_send_request(given).await {
            Ok(response) => Sent::Response(Answer::from(response).with(Some)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    let (parts, body) = unsent.into_parts();
                    (request.head.headers, request.body) = (parts.headers.into(), body);
                    Sent::Unsent
                }
                None => Sent::Broken(error.into_error().into()),
            },
        }
    }
}
