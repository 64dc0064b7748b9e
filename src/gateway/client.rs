//! A client's connection, and what its requests know of it.

use std::cell::{Cell, Ref, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::canonical::Canonical;
use super::forwarded;
use super::greeting::{Ends, Greeting, greet};
use super::io::{Meter, Raw};
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
/// Resets are counted over this.
const RESETS_WINDOW: Duration = Duration::from_secs(10);

/// What the requests of a connection know of it, and leave there.
pub struct Client {
    /// Who carries it.
    pub thread: Rc<Thread>,
    /// Its listener.
    pub site: Arc<Site>,
    /// Who connected, or for whom a proxy did; `None` on a unix socket.
    pub address: Option<SocketAddr>,
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
    has_begun: bool,
}

impl UnderWay {
    /// Of the request that is being carried now, until it is dropped.
    pub fn new(client: &Rc<Client>) -> Self {
        let mut under_way = Self::later(client);
        under_way.begin();
        under_way
    }

    /// The same, of a body that nobody reads yet: its request may have to wait for a backend first.
    pub fn later(client: &Rc<Client>) -> Self {
        Self { client: client.clone(), motion: client.motion().clone(), has_begun: false }
    }

    /// From now on it has to move.
    pub fn begin(&mut self) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.motion.begin_body();
            self.note();
        }
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
        if self.has_begun {
            self.motion.end_body();
        }
    }
}

impl Client {
    fn new(thread: &Rc<Thread>, site: Arc<Site>, ends: &Ends, greeting: Greeting, meter: Rc<Meter>) -> Self {
        let now = thread.clock.now();
        let Greeting { is_secure, server_name, .. } = greeting;
        Self {
            thread: thread.clone(),
            address: ends.client,
            local: ends.local,
            end: forwarded::Peer::new(ends.client.map_or(NOBODY, |client| client.ip()), is_secure),
            is_secure,
            server_name,
            meter,
            active: Cell::new(0),
            idle_since: Cell::new(now),
            idle_read: Cell::new(0),
            motion: RefCell::new(Rc::new(Motion::new(now, http_of(&site).limits.header_timeout))),
            streams: Streams::default(),
            resets: Cell::new((0, now)),
            tunnel: RefCell::default(),
            site,
        }
    }

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

/// Carries a connection to its end.
pub async fn serve(thread: &Rc<Thread>, site: Arc<Site>, leash: Rc<Leash>, raw: Raw, ends: &mut Ends) -> CloseReason {
    let (io, greeting) = match Box::pin(greet(thread, &site, &leash, raw, ends)).await {
        Ok(greeted) => greeted,
        Err(reason) => return reason,
    };
    let is_http2 = greeting.is_http2;
    let client = Rc::new(Client::new(thread, site, ends, greeting, io.meter.clone()));
    if is_http2 {
        return Box::pin(http2::serve(client, &leash, io)).await;
    }
    http1::serve(client, &leash, io).await
}

/// What a listener has of its own.
pub fn http_of(site: &Site) -> &Http {
    match &site.config.protocol {
        Protocol::Http(http) => http,
        _ => unreachable!("the gateway has listeners for HTTP only"),
    }
}

/// Nothing.
pub const NOTHING: Bytes = Bytes::new();
