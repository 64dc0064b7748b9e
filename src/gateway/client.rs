//! A client's connection: which HTTP it speaks, and what its requests know of it.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::sleep_until;

use super::canonical::Canonical;
use super::forwarded;
use super::io::{Io, Meter, Raw};
use super::motion::{Motion, Streams};
use super::thread::Thread;
use super::tunnel::Tunnel;
use super::watch::Leash;
use super::{http1, http2};
use crate::config::Protocol;
use crate::config::http::{Http, Limits};
use crate::reason::CloseReason;
use crate::snapshot::Site;

/// Who asks on a unix socket.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
/// How a client begins that speaks HTTP/2 without TLS (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client that has just connected has for its first request when the process or its listener goes away.
const FIRST_WORD_TIME: Duration = Duration::from_millis(500);
/// Resets are counted over this.
const RESETS_WINDOW: Duration = Duration::from_secs(10);

/// What the requests of a connection know of it, and leave there.
pub struct Client {
    /// Who carries it.
    pub thread: Rc<Thread>,
    /// Its listener.
    pub site: Arc<Site>,
    /// Who connected; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// The address it spoke to, where a log wants to know.
    pub local: Option<SocketAddr>,
    /// What backends are told of it.
    pub end: forwarded::Peer,
    is_secure: bool,
    /// The server that it asked for in its TLS hello.
    pub server_name: Option<Arc<str>>,
    pub meter: Rc<Meter>,
    /// Requests that are not over.
    pub active: Cell<u32>,
    /// Since when there is no request.
    pub idle_since: Cell<Instant>,
    /// What had been read then: more is the beginning of a request.
    pub idle_read: Cell<u64>,
    /// Whether the request that is being carried now still moves.
    motion: RefCell<Rc<Motion>>,
    /// Those that it carries with HTTP/2.
    pub streams: Streams,
    /// Requests that the client gave up, since when they are counted.
    pub resets: Cell<(u32, Instant)>,
    /// The protocol that the backend has switched to.
    tunnel: RefCell<Option<Tunnel>>,
}

/// A body under way: while there is one, something has to move.
pub struct UnderWay {
    client: Rc<Client>,
    motion: Rc<Motion>,
}

impl UnderWay {
    /// Of the request that is being carried now, until it is dropped.
    pub fn new(client: &Rc<Client>) -> Self {
        let motion = client.motion().clone();
        motion.count_body(true);
        Self { client: client.clone(), motion }
    }

    /// That of its client's connection.
    pub fn meter(&self) -> &Meter {
        &self.client.meter
    }

    /// A piece of it has passed.
    pub fn note(&self) {
        self.motion.note(self.client.thread.clock.turn());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.motion.count_body(false);
    }
}

impl Client {
    /// Whether requests for this host belong here, by what the client asked for in its TLS hello.
    pub fn may_carry(&self, canonical: &Canonical) -> bool {
        match (&self.server_name, &self.site.config.tls) {
            (Some(name), Some(tls)) => tls.may_carry(name, canonical.host()),
            _ => true,
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.active.set(self.active.get() + 1);
    }

    /// A request is over.
    pub fn end(&self) {
        self.active.set(self.active.get() - 1);
        self.rest();
    }

    /// From now on it is idle.
    pub fn rest(&self) {
        self.idle_since.set(self.thread.clock.turn());
        self.idle_read.set(self.meter.read.get());
    }

    /// It is idle, but so many bytes of the next request are here already.
    pub fn begin_next(&self, bytes: usize) {
        self.idle_read.set(self.meter.read.get().saturating_sub(bytes as u64));
    }

    /// The client gave a request up before its answer had been sent.
    pub fn on_reset(&self) {
        let now = self.thread.clock.now();
        let (count, since) = self.resets.get();
        let is_over = now - since > RESETS_WINDOW;
        self.resets.set(if is_over { (1, now) } else { (count + 1, since) });
    }

    /// How the request that is being carried now moves.
    pub fn motion(&self) -> Ref<'_, Rc<Motion>> {
        self.motion.borrow()
    }

    /// This request is carried from now on; gives back which one was.
    pub fn carry(&self, motion: Rc<Motion>) -> Rc<Motion> {
        self.motion.replace(motion)
    }

    /// Until a request has found its route, an answer to it may stand still for as long as a header may take.
    pub fn begin_request(&self) {
        self.set_patience(Some(self.limits().header_timeout));
    }

    /// How long the bodies of the present request may stand still.
    pub fn set_patience(&self, patience: Option<Duration>) {
        self.motion().set_patience(patience);
    }

    /// After this response the connection belongs to another protocol.
    pub fn switch(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// The protocol that was switched to, if one was.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// It speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// What its listener has of its own.
    pub fn http(&self) -> &Http {
        http_of(&self.site)
    }

    pub fn limits(&self) -> Limits {
        self.http().limits
    }
}

/// The addresses of a connection.
#[derive(Clone, Copy)]
pub struct Ends {
    /// Who connected; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// To where, if a log wants to know.
    pub local: Option<SocketAddr>,
}

/// Carries a connection to its end.
pub async fn serve(
    thread: &Rc<Thread>,
    site: Arc<Site>,
    leash: Rc<Leash>,
    raw: Raw,
    Ends { peer, local }: Ends,
) -> CloseReason {
    let (mut io, greeting) = match Box::pin(greet(&site, &leash, raw)).await {
        Ok(greeted) => greeted,
        Err(reason) => return reason,
    };
    let now = thread.clock.now();
    let client = Rc::new(Client {
        thread: thread.clone(),
        peer,
        local,
        end: forwarded::Peer::new(peer.map_or(NOBODY, |peer| peer.ip()), greeting.is_some()),
        is_secure: greeting.is_some(),
        server_name: greeting.as_ref().and_then(|greeting| greeting.server_name.clone()),
        meter: io.meter.clone(),
        active: Cell::new(0),
        idle_since: Cell::new(now),
        idle_read: Cell::new(0),
        motion: RefCell::new(Rc::new(Motion::new(now, http_of(&site).limits.header_timeout))),
        streams: Streams::default(),
        resets: Cell::new((0, now)),
        tunnel: RefCell::default(),
        site,
    });
    if let Some(Greeting { is_http2: true, .. }) = greeting {
        return Box::pin(http2::serve(client, &leash, io)).await;
    }
    if greeting.is_some() {
        return http1::serve(client, &leash, io).await;
    }
    let first = Box::pin(async {
        let first = tokio::time::timeout(client.limits().header_timeout, speaks_http2(thread, &mut io));
        tokio::select! {
            first = first => Some(first),
            () = told_to_end(&leash) => None,
        }
    });
    let Some(first) = first.await else { return CloseReason::Drained };
    match first {
        Err(_) => CloseReason::ClientIdle,
        Ok(Err(_)) => CloseReason::ClientReset,
        Ok(Ok(None)) => CloseReason::ClientClosed,
        Ok(Ok(Some(true))) => Box::pin(http2::serve(client, &leash, io)).await,
        Ok(Ok(Some(false))) => http1::serve(client, &leash, io).await,
    }
}

/// What a listener has of its own.
pub fn http_of(site: &Site) -> &Http {
    match &site.config.protocol {
        Protocol::Http(http) => http,
        _ => unreachable!("the gateway has listeners for HTTP only"),
    }
}

/// What a TLS handshake has come to.
struct Greeting {
    is_http2: bool,
    server_name: Option<Arc<str>>,
}

/// The TLS handshake, where there is one.
async fn greet(site: &Site, leash: &Leash, raw: Raw) -> Result<(Io, Option<Greeting>), CloseReason> {
    let Some((tls, config)) = site.tls.as_ref().zip(site.config.tls.as_ref()) else {
        return Ok((Io::plain(raw), None));
    };
    let handshake = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(raw);
    let stream = tokio::select! {
        done = tokio::time::timeout(config.handshake_timeout, handshake) => match done {
            Err(_) => return Err(CloseReason::TlsHandshakeTimeout),
            Ok(Err(error)) => {
                tracing::debug!(listener = site.config.name, %error, "a TLS handshake has failed");
                return Err(CloseReason::TlsHandshakeFailed);
            }
            Ok(Ok(stream)) => stream,
        },
        () = told_to_end(leash) => return Err(CloseReason::Drained),
    };
    let session = stream.get_ref().1;
    let greeting = Greeting {
        is_http2: session.alpn_protocol() == Some(b"h2"),
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
    };
    Ok((Io::server(stream), Some(greeting)))
}

/// Whether the client begins with HTTP/2; `None` when it ends without a word.
async fn speaks_http2(thread: &Thread, io: &mut Io) -> std::io::Result<Option<bool>> {
    let mut ahead = BytesMut::new();
    loop {
        // Into the thread's own buffer: as a rule all of the first request comes at once, and one read takes it.
        let count = poll_fn(|cx| {
            let mut scratch = thread.scratch.borrow_mut();
            let mut into = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut into))?;
            ahead.extend_from_slice(into.filled());
            Poll::Ready(std::io::Result::Ok(into.filled().len()))
        });
        if count.await? == 0 {
            return Ok(None);
        }
        let decided = ahead.len() >= PREFACE.len() || !PREFACE.starts_with(&ahead);
        if decided {
            let is_http2 = ahead.starts_with(PREFACE);
            io.unread(ahead.freeze());
            return Ok(Some(is_http2));
        }
    }
}

/// Waits until a client that has not asked for anything yet must go. One that has just come may be about to.
async fn told_to_end(leash: &Leash) {
    leash.pulled.notified().await;
    let Some((at, _)) = leash.doom.get() else { return };
    tokio::select! {
        () = tokio::time::sleep(FIRST_WORD_TIME) => {}
        () = sleep_until(at.into()) => {}
        () = leash.pulled.notified() => {}
    }
}

/// Nothing.
pub const NOTHING: Bytes = Bytes::new();
