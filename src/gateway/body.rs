//! Bodies on their way through: they stream both ways, and what is not taken on one side is not read on the other.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::backend;
use super::client::UnderWay;
use super::forwarded;
use super::http1::head::Bad;
use super::http1::{self, Upload};
use super::record::Record;
use super::refusal::Refusal;
use super::sites::SiteTable;
use super::thread::Thread;
use crate::config::http::Speech;
use crate::id::BackendId;

/// A piece of a response that shares its connection, at most: whether it moves is seen by its pieces.
const SHARED_PIECE_BYTES: usize = 16 * 1024;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// It is longer than the route takes.
    #[error("the request's body is larger than allowed")]
    TooLarge,
    /// It did not come in time.
    #[error("it did not come in time")]
    Late,
    /// It is not framed as it should be.
    #[error(transparent)]
    Bad(#[from] Bad),
    /// Its connection broke.
    #[error(transparent)]
    Lost(#[from] std::io::Error),
    /// Its connection or stream with HTTP/2 broke.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl Cut {
    /// The other side has ended before it was through.
    pub fn early() -> Self {
        Self::Lost(std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// A request's body as it comes from the client.
pub enum Incoming {
    /// None.
    Empty,
    /// With HTTP/1.1.
    Http1(Upload),
    /// With HTTP/2.
    Http2(hyper::body::Incoming),
}

impl Incoming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(upload) => upload.poll_piece(cx),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Cut::from),
        }
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(upload) => upload.is_over(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    /// How many bytes are to come, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Http1(upload) => upload.left(),
            Self::Http2(incoming) => incoming.size_hint().exact(),
        }
    }
}

/// What is known of a request's body while it is under way.
#[derive(Debug, Default)]
pub struct Intake {
    /// Bytes so far.
    pub bytes: Cell<u64>,
    /// What was wrong with it.
    pub fault: Cell<Option<Refusal>>,
    /// The client broke it off: nobody is there any more.
    pub is_given_up: Cell<bool>,
    /// It has come to its end.
    pub complete: Cell<bool>,
}

impl Intake {
    fn note(&self, cut: &Cut) {
        self.is_given_up.set(matches!(cut, Cut::Lost(_) | Cut::Http2(_)));
        self.fault.set(Some(match cut {
            Cut::TooLarge => Refusal::BodyTooLarge,
            Cut::Late => Refusal::RequestTimeout,
            Cut::Bad(_) | Cut::Lost(_) | Cut::Http2(_) => Refusal::Malformed,
        }));
    }
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
        /// Once it is read it may not stand still for too long.
        under_way: UnderWay,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self::Stream { incoming, left, intake, sites, under_way } = self.get_mut() else {
            return Poll::Ready(None);
        };
        under_way.begin();
        let mut frame = ready!(incoming.poll(cx));
        under_way.note();
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
                intake.fault.set(Some(Refusal::BodyTooLarge));
                return Poll::Ready(Some(Err(Cut::TooLarge)));
            };
            *left = rest;
        }
        if let Some(Err(cut)) = &frame {
            intake.note(cut);
        }
        if is_last(&frame) || incoming.is_over() {
            intake.complete.set(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.length().map_or_else(SizeHint::default, SizeHint::with_exact),
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
    source: Source,
    /// It may not stand still for too long.
    under_way: UnderWay,
    /// It broke: told once the client has had what came before.
    broken: Option<Cut>,
    /// What came with the last piece and is too much for one.
    rest: Bytes,
}

/// By what it comes.
pub enum Source {
    /// A connection with HTTP/1.1.
    Http1(Carrier),
    /// A stream of HTTP/2.
    Http2 {
        /// Itself.
        incoming: hyper::body::Incoming,
        /// By which the connection is seen to be in use.
        _place: backend::Http2,
    },
    /// All has come.
    Over,
}

/// A connection with HTTP/1.1 in use.
pub struct Carrier {
    /// The connection.
    pub link: Box<http1::Link>,
    /// Where it goes when it is free again.
    pub thread: Rc<Thread>,
    /// Whose it is.
    pub backend: BackendId,
    /// How long it may be idle.
    pub speech: Speech,
}

impl Carrier {
    /// Lays it by for the next request, if it can be used again.
    fn lay_by(self) {
        let Self { link, thread, backend, speech } = self;
        let now = thread.clock.turn();
        thread.with_idle(|idle| idle.put(backend, link, speech, now));
    }
}

impl ResponseBody {
    /// An answer of our own.
    pub fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), record: None }
    }

    /// A backend's answer.
    pub fn stream(source: Source, under_way: UnderWay) -> Self {
        let stream = Stream { source: source.settled(), under_way, broken: None, rest: Bytes::new() };
        Self { content: Content::Stream(Box::new(stream)), record: None }
    }

    /// From now on the body tells this when it is over.
    pub fn with_record(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }

    /// Goes on sending the request's body where the response comes by the same connection, and nobody asks for that now.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Content::Stream(stream) = &mut self.content
            && stream.broken.is_none()
            && let Source::Http1(carrier) = &mut stream.source
            && let Poll::Ready(Err(cut)) = carrier.link.poll_upload(cx)
        {
            stream.broken = Some(cut);
        }
    }

    fn note(&mut self, frame: &Option<Result<Frame<Bytes>, Cut>>) {
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

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let frame = match self {
            Self::Http1(carrier) => ready!(carrier.link.poll_piece(cx)),
            Self::Http2 { incoming, .. } => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(Cut::from))
            }
            Self::Over => None,
        };
        *self = std::mem::replace(self, Self::Over).settled();
        Poll::Ready(frame)
    }

    /// Lays the connection by once nothing more will come.
    fn settled(self) -> Self {
        match self {
            Self::Http1(carrier) if carrier.link.is_over() => {
                carrier.lay_by();
                Self::Over
            }
            source => source,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Http1(carrier) => carrier.link.is_over(),
            Self::Http2 { incoming, .. } => incoming.is_end_stream(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(carrier) => carrier.link.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2 { incoming, .. } => incoming.size_hint(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.broken.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        match ready!(self.source.poll(cx)) {
            Some(Err(cut)) => {
                // hyper drops what it has not written yet when it hears of an error: it writes before it asks again.
                self.broken = Some(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(frame)) if self.under_way.meter().is_shared.get() => Poll::Ready(Some(Ok(self.cut_up(frame)))),
            frame => Poll::Ready(frame),
        }
    }

    fn cut_up(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                self.piece()
            }
            Err(frame) => frame,
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(SHARED_PIECE_BYTES)))
    }

    fn is_over(&self) -> bool {
        self.broken.is_none() && self.rest.is_empty() && self.source.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.source.size_hint().exact().map(|left| left + self.rest.len() as u64);
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Content::Stream(stream) if !stream.under_way.meter().has_room(cx) => return Poll::Pending,
            Content::Stream(stream) => {
                let frame = ready!(stream.poll(cx));
                stream.under_way.note();
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                stream.under_way.meter().hold(data.map_or(0, Bytes::len));
                frame
            }
        };
        this.note(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(stream) => stream.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}
