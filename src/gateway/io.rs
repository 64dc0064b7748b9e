//! A connection's bytes: plain or TLS, with what was read ahead of it, and a meter.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::links::Handle;
use crate::sys::socket::Socket;
use crate::sys::watched;

/// So much is written as one piece.
const SMALL_WRITE_BYTES: usize = 1024;

/// What is held of all responses on a connection with HTTP/2 that its client does not take. Beyond it no backend is read.
const HELD_BYTES_MAX: usize = 256 * 1024;

/// What has passed through a connection.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes read.
    pub read: Cell<u64>,
    /// Bytes written.
    pub written: Cell<u64>,
    /// The other side does not take what is to be written.
    pub blocked: Cell<bool>,
    /// The other side has sent its last byte.
    pub ended: Cell<bool>,
    /// Several responses share it: each has a buffer of its own, which together would be too much.
    pub is_shared: Cell<bool>,
    /// Bytes of such responses that are still to be written.
    held: Cell<usize>,
    /// Who waits until there are fewer.
    waiting: RefCell<Vec<Waker>>,
}

impl Meter {
    /// Whether there is room for another piece of a response; if not, whoever asks is woken when there is.
    pub fn has_room(&self, cx: &Context<'_>) -> bool {
        if !self.is_shared.get() || self.held.get() < HELD_BYTES_MAX {
            return true;
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        false
    }

    /// A piece of a response is to be written.
    pub fn hold(&self, bytes: usize) {
        if self.is_shared.get() {
            self.held.set(self.held.get() + bytes);
        }
    }

    /// All that could be written was. Then nothing is held, whatever the count says: what a client gives up goes without being
    /// written.
    pub fn settle(&self) {
        if !self.blocked.get() {
            self.release(usize::MAX);
        }
    }

    fn note_written(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
        // Frames and headers are among it, so that a little more is held than is counted.
        self.release(bytes);
    }

    fn release(&self, bytes: usize) {
        let held = self.held.get().saturating_sub(bytes);
        if self.held.replace(held) >= HELD_BYTES_MAX && held < HELD_BYTES_MAX {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A socket, watched by this thread's event loop.
#[derive(Debug)]
pub struct Raw(AsyncFd<Socket>);

/// What is spoken over it.
#[derive(Debug)]
enum Channel {
    Plain(Raw),
    Server(Box<tokio_rustls::server::TlsStream<Raw>>),
    Client(Box<tokio_rustls::client::TlsStream<Raw>>),
}

/// A connection.
#[derive(Debug)]
pub struct Io {
    channel: Channel,
    /// Read already, and to be read again.
    ahead: Bytes,
    /// Shared with those who watch over the connection.
    pub meter: Rc<Meter>,
    /// By which a connection to a backend is ended.
    pub handle: Option<Rc<Handle>>,
}

impl Io {
    /// A socket as it is.
    pub fn plain(raw: Raw) -> Self {
        Self::over(Channel::Plain(raw))
    }

    /// TLS of a client.
    pub fn server(stream: tokio_rustls::server::TlsStream<Raw>) -> Self {
        Self::over(Channel::Server(Box::new(stream)))
    }

    /// TLS to a backend.
    pub fn client(stream: tokio_rustls::client::TlsStream<Raw>) -> Self {
        Self::over(Channel::Client(Box::new(stream)))
    }

    fn over(channel: Channel) -> Self {
        Self { channel, ahead: Bytes::new(), meter: Rc::default(), handle: None }
    }

    /// Puts bytes that were read back in front.
    pub fn unread(&mut self, bytes: Bytes) {
        self.ahead =
            if self.ahead.is_empty() { bytes } else { [bytes, std::mem::take(&mut self.ahead)].concat().into() };
    }

    /// Takes back what was put in front, which is not read again then.
    pub fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead).into()
    }

    /// Waits until something can be read, or the end is there. Nothing is held meanwhile.
    pub async fn readable(&self) -> io::Result<()> {
        if !self.ahead.is_empty() {
            return Ok(());
        }
        self.raw().readable().await
    }

    /// Lets the other side see a reset when it is dropped.
    pub fn reset_on_close(&self) {
        self.raw().reset_on_close();
    }

    fn raw(&self) -> &Raw {
        match &self.channel {
            Channel::Plain(raw) => raw,
            Channel::Server(stream) => stream.get_ref().0,
            Channel::Client(stream) => stream.get_ref().0,
        }
    }

    /// Whether there may be something to read, or the end; whoever asks is woken when there is.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_ahead() {
            return Poll::Ready(());
        }
        self.raw().0.poll_read_ready(cx).map(drop)
    }

    /// The same, of which nobody is told later.
    pub fn is_readable(&self) -> bool {
        self.is_ahead() || self.raw().0.try_io(Interest::READABLE, |_| Ok(())).is_ok()
    }

    /// Whether there is something to read whatever the socket says.
    fn is_ahead(&self) -> bool {
        // TLS may have read more than was taken, or the end.
        let is_held = match &self.channel {
            Channel::Plain(_) => false,
            Channel::Server(stream) => !stream.get_ref().1.wants_read(),
            Channel::Client(stream) => !stream.get_ref().1.wants_read(),
        };
        let is_ended = self.handle.as_ref().is_some_and(|handle| handle.ended().is_some());
        is_held || is_ended || !self.ahead.is_empty()
    }
}

impl Raw {
    /// Watches a socket.
    ///
    /// # Errors
    /// When the event loop cannot watch it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        watched::connection(socket).map(Self)
    }

    /// Waits until a socket that connects is connected.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connected(self) -> io::Result<Self> {
        self.0.writable().await?.retain_ready();
        self.socket().take_error().map_or(Ok(self), Err)
    }

    async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.retain_ready())
    }

    fn socket(&self) -> &Socket {
        self.0.get_ref()
    }

    /// The socket, once there may be something to read, or the end.
    ///
    /// # Errors
    /// When the event loop has ended.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'_, Socket>>> {
        self.0.poll_read_ready(cx)
    }

    /// Where it was spoken to; `None` on a unix socket.
    pub fn local_address(&self) -> Option<std::net::SocketAddr> {
        self.socket().local_address()
    }

    /// Lets the other side see a reset when it is dropped.
    pub fn reset_on_close(&self) {
        self.socket().reset_on_close();
    }

    /// Writes by `send` what is `length` bytes long.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        send: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match send(self.socket()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                sent => {
                    if sent.as_ref().is_ok_and(|sent| *sent < length) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

macro_rules! with_channel {
    ($channel:expr, $stream:ident => $do:expr) => {
        match $channel {
            Channel::Plain($stream) => $do,
            Channel::Server($stream) => $do,
            Channel::Client($stream) => $do,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(handle) = &this.handle {
            if handle.ended().is_some() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            handle.note_reader(cx);
        }
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(into.remaining());
            into.put_slice(&this.ahead[..count]);
            this.ahead.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        ready!(with_channel!(&mut this.channel, stream => Pin::new(stream).poll_read(cx, into)))?;
        let (meter, count) = (&this.meter, into.filled().len() - before);
        meter.read.set(meter.read.get() + count as u64);
        meter.ended.set(count == 0 && into.remaining() > 0);
        Poll::Ready(Ok(()))
    }
}

impl Io {
    fn note_written(&self, outcome: &Poll<io::Result<usize>>) {
        let meter = &self.meter;
        meter.blocked.set(outcome.is_pending());
        if let Poll::Ready(Ok(count)) = outcome {
            meter.note_written(*count);
        }
    }
}

/// All of it as one piece, where it is one already or fits into `small`.
fn gather<'b>(bytes: &'b [io::IoSlice<'_>], small: &'b mut [u8; SMALL_WRITE_BYTES]) -> Option<&'b [u8]> {
    if let [one] = bytes {
        return Some(one);
    }
    let mut length = 0;
    for piece in bytes {
        small.get_mut(length..length + piece.len())?.copy_from_slice(piece);
        length += piece.len();
    }
    Some(&small[..length])
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = with_channel!(&mut this.channel, stream => Pin::new(stream).poll_write(cx, bytes));
        this.note_written(&outcome);
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut small = [0; SMALL_WRITE_BYTES];
        // A head with a short body: copying costs less than what writev(2) does more than send(2).
        let outcome = match gather(bytes, &mut small) {
            Some(bytes) => with_channel!(&mut this.channel, stream => Pin::new(stream).poll_write(cx, bytes)),
            None => with_channel!(&mut this.channel, stream => Pin::new(stream).poll_write_vectored(cx, bytes)),
        };
        this.note_written(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        with_channel!(&self.channel, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = with_channel!(&mut this.channel, stream => Pin::new(stream).poll_flush(cx));
        this.meter.blocked.set(outcome.is_pending());
        outcome
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_channel!(&mut self.get_mut().channel, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Raw {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = into.remaining();
            match watched::recv(self.socket(), into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                read => {
                    // Less than there is room for was all there was: one need not ask again to know that (epoll(7)).
                    if read.as_ref().is_ok_and(|count| (1..room).contains(count)) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(read.map(drop));
                }
            }
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes.len(), |socket| socket.send(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_send(cx, length, |socket| socket.send_pieces(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a socket holds nothing back
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // ENOTCONN: the other side has ended it already.
        let outcome = self.socket().shutdown_write();
        Poll::Ready(
            outcome.or_else(|error| if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }),
        )
    }
}
