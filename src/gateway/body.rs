//! Bodies on their way through: they stream both ways, and what is not taken on one side is not read on the other.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::backend::Http1;
use super::client::UnderWay;
use super::forwarded;
use super::record::Record;
use super::sites::SiteTable;
use super::thread::Thread;
use crate::config::http::Speech;
use crate::id::BackendId;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// It is longer than the route takes.
    #[error("the request's body is larger than allowed")]
    TooLarge,
    /// Its connection broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// What is known of a request's body while it is under way.
#[derive(Debug, Default)]
pub struct Intake {
    /// Bytes so far.
    pub bytes: Cell<u64>,
    /// More than the route takes.
    pub too_large: Cell<bool>,
    /// The client broke it off, or framed it wrongly.
    pub broken: Cell<bool>,
    /// It has come to its end.
    pub complete: Cell<bool>,
}

/// A request's body as the backend is sent it.
pub enum RequestBody {
    /// None.
    Empty,
    /// The client's, up to so many bytes.
    Stream {
        /// From the client.
        incoming: Incoming,
        /// Bytes that may still come.
        left: u64,
        /// Who looks on.
        intake: Rc<Intake>,
        /// Which names its trailers may not have.
        sites: Arc<SiteTable>,
        /// It may not stand still for too long.
        _under_way: UnderWay,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self::Stream { incoming, left, intake, sites, .. } = self.get_mut() else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            forwarded::strip_trailers(trailers, &sites.identity);
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let count = data.len() as u64;
            intake.bytes.set(intake.bytes.get() + count);
            let Some(rest) = left.checked_sub(count) else {
                intake.too_large.set(true);
                return Poll::Ready(Some(Err(Cut::TooLarge)));
            };
            *left = rest;
        }
        intake.broken.set(matches!(frame, Some(Err(_))));
        if is_last(&frame) || incoming.is_end_stream() {
            intake.complete.set(true);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Cut::from)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A response's body as the client is sent it; with it ends the request.
pub struct ResponseBody {
    content: Content,
    /// Told when it is over.
    record: Option<Box<Record>>,
}

enum Content {
    /// Ours.
    Whole(Bytes),
    /// A backend's.
    Stream(Box<Stream>),
}

/// What comes from a backend.
pub struct Stream {
    /// Its body.
    pub incoming: Incoming,
    /// The connection that it comes by, where it has to be driven and can be used again.
    pub carrier: Option<Carrier>,
    /// It may not stand still for too long.
    pub under_way: UnderWay,
    /// It broke: told once the client has had what came before.
    pub broken: Option<hyper::Error>,
}

/// A connection with HTTP/1.1 in use.
pub struct Carrier {
    /// The connection.
    pub link: Box<Http1>,
    /// Where it goes when it is free again.
    pub thread: Rc<Thread>,
    /// Whose it is.
    pub backend: BackendId,
    /// How long it may be idle.
    pub speech: Speech,
}

impl Carrier {
    /// Lays it by for the next request, if it can be used again.
    pub fn lay_by(self) {
        let Self { link, thread, backend, speech } = self;
        let now = thread.now();
        thread.with_idle(|idle| idle.put(backend, link, speech, now));
    }
}

impl ResponseBody {
    /// An answer of our own.
    pub fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), record: None }
    }

    /// A backend's answer.
    pub fn stream(stream: Stream) -> Self {
        let mut body = Self { content: Content::Stream(Box::new(stream)), record: None };
        body.settle(false);
        body
    }

    /// From now on the body tells this when it is over.
    pub fn with_record(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }

    /// Lays the connection by once nothing more will come.
    fn settle(&mut self, is_over: bool) {
        if let Content::Stream(stream) = &mut self.content
            && (is_over || stream.incoming.is_end_stream())
            && let Some(carrier) = stream.carrier.take()
        {
            carrier.lay_by();
        }
    }

    fn note(&mut self, frame: &Option<Result<Frame<Bytes>, hyper::Error>>) {
        let Some(record) = &mut self.record else { return };
        match frame {
            Some(Ok(frame)) => record.on_bytes(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => record.on_break(),
            None => {}
        }
    }
}

/// Whether a body is over with this frame: nobody need ask again after trailers.
fn is_last<E>(frame: &Option<Result<Frame<Bytes>, E>>) -> bool {
    frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.advance(cx)) {
            Some(Err(error)) => {
                // hyper drops what it has not written yet when it hears of an error: it writes before it asks again.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(carrier) = &mut self.carrier {
            // Its end is told by the body, too.
            let _ = carrier.link.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Content::Stream(stream) if !stream.under_way.meter().has_room(cx) => return Poll::Pending,
            Content::Stream(stream) => {
                let frame = ready!(stream.poll(cx));
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                stream.under_way.meter().hold(data.map_or(0, Bytes::len));
                frame
            }
        };
        this.note(&frame);
        this.settle(is_last(&frame));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
