//! New connections to backends.
//!
//! One with HTTP/1.1 is made for the request that needs it. One with HTTP/2 is made for all that need it at once, by a task of
//! its own: whoever came first may go away, and what becomes of it is the same for all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::backend::{Http2, Link};
use super::body::RequestBody;
use super::http1;
use super::io::{Io, Raw};
use super::links::Handle;
use super::thread::{Local, Thread};
use crate::config::http::Version;
use crate::config::{Endpoint, Keepalive};
use crate::engine::Note;
use crate::id::BackendId;
use crate::reason::ConnectFailure;
use crate::snapshot::{Backend, Pool};
use crate::sys::socket::Socket;
use crate::tls::ToBackends;

/// Bytes of a response's header.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Windows of HTTP/2 towards a backend: what it may send of one response, and of all on a connection, before it is taken.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Requests on a connection with HTTP/2 that hear nothing for the first time of these have the backend asked by a PING whether
/// it is still there, and end without an answer for the second one. Most have a shorter time of their own; it is for those
/// that have none. It may not be shorter: gRPC's servers end connections on which PINGs come more often than once in five
/// minutes while nothing else is said (its guide to keep-alive: "too_many_pings").
const ALIVE: (Duration, Duration) = (Duration::from_secs(330), Duration::from_secs(20));

/// What became of a connection with HTTP/2; `None` = it is still being made.
type Outcome = Option<Result<Http2, ConnectFailure>>;

/// Connections with HTTP/2 that a thread is making, by backend.
#[derive(Default)]
pub struct Dials(RefCell<BTreeMap<BackendId, Awaited>>);

/// One of them.
struct Awaited {
    /// How TLS will be spoken over it; `None` = not at all.
    tls: Option<Arc<ToBackends>>,
    /// Where is told what becomes of it.
    outcome: watch::Receiver<Outcome>,
}

impl Dials {
    /// One has been made, or has failed. Whether it was the one that others would have waited for.
    fn end(&self, backend: BackendId, own: &watch::Receiver<Outcome>) -> bool {
        let mut dials = self.0.borrow_mut();
        let is_it = dials.get(&backend).is_some_and(|dial| dial.outcome.same_channel(own));
        if is_it {
            dials.remove(&backend);
        }
        is_it
    }
}

/// A connection that is to be made.
pub struct Dial {
    /// Who needs it.
    pub thread: Rc<Thread>,
    /// The pool.
    pub pool: Arc<Pool>,
    /// Its other end.
    pub backend: Arc<Backend>,
    /// How its other end is probed.
    pub keepalive: Option<Keepalive>,
}

impl Dial {
    /// The connection, unless that takes longer than this.
    ///
    /// # Errors
    /// How it failed.
    pub async fn link(self, limit: Duration) -> Result<Link, ConnectFailure> {
        if self.pool.config.http.speech.version == Version::Http1 {
            return self.counted(limit, speak_http1).await.map(|link| Link::Http1(Box::new(link)));
        }
        let mut outcome = self.outcome();
        let made = async { outcome.wait_for(Option::is_some).await.ok().and_then(|made| made.clone()) };
        let made = tokio::time::timeout(limit, made).await.map_err(|_| ConnectFailure::Timeout)?;
        // Without one its task has ended with the thread.
        made.unwrap_or(Err(ConnectFailure::Other)).map(Link::Http2)
    }

    /// Where is told what becomes of the connection that is being made; begins it if there is none.
    fn outcome(self) -> watch::Receiver<Outcome> {
        let (thread, tls, backend) = (self.thread.clone(), self.pool.tls.clone(), self.backend.id);
        let mut dials = thread.dials.0.borrow_mut();
        // What a reload no longer trusts is not waited for.
        if let Some(dial) = dials.get(&backend)
            && dial.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
        {
            return dial.outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        dials.insert(backend, Awaited { tls, outcome: outcome.clone() });
        tokio::task::spawn_local(self.make(done));
        outcome
    }

    async fn make(self, done: watch::Sender<Outcome>) {
        let made = self.counted(self.pool.config.connect.timeout, speak_http2).await;
        // Unless another one has its place, for the file has changed meanwhile.
        if self.thread.dials.end(self.backend.id, &done.subscribe())
            && let Ok(place) = &made
        {
            let now = self.thread.clock.now();
            self.thread.with_idle(|idle| idle.share(self.backend.id, place.clone(), now));
        }
        done.send_replace(Some(made));
    }

    /// Connects, and counts what becomes of that.
    async fn counted<L>(
        &self,
        limit: Duration,
        speak: impl AsyncFnOnce(Io, Rc<Handle>) -> Result<L, ConnectFailure>,
    ) -> Result<L, ConnectFailure> {
        let (thread, backend) = (&self.thread, &self.backend);
        let (began, cell) = (thread.clock.now(), backend.stats.cell(thread.index));
        let made = tokio::time::timeout(limit, self.connect(speak)).await.unwrap_or(Err(ConnectFailure::Timeout));
        match &made {
            Ok(_) => {
                let took = thread.clock.now() - began;
                backend.stats.note_connect(took);
                cell.established.add(1);
                cell.connects.record(took);
            }
            Err(failure) => {
                cell.connect_failures[failure.index()].add(1);
                if failure.blames_backend() {
                    (thread.shared.notes)(Note::ConnectFailed { backend: backend.id, failure: *failure });
                }
            }
        }
        made
    }

    async fn connect<L>(
        &self,
        speak: impl AsyncFnOnce(Io, Rc<Handle>) -> Result<L, ConnectFailure>,
    ) -> Result<L, ConnectFailure> {
        let raw = self.open().await.map_err(|error| ConnectFailure::of(&error))?;
        let mut io = match &self.pool.tls {
            None => Io::plain(raw),
            Some(tls) => {
                let name = tls.name_of(&self.backend.config.address).ok_or(ConnectFailure::Other)?;
                let handshake = tokio_rustls::TlsConnector::from(tls.http.clone()).connect(name, raw);
                Io::client(handshake.await.map_err(|error| self.tls_failure(&error))?)
            }
        };
        let handle = self.thread.links.add(self.backend.id, self.pool.tls.clone());
        io.handle = Some(handle.clone());
        speak(io, handle).await
    }

    async fn open(&self) -> io::Result<Raw> {
        let socket = match &self.backend.endpoint {
            Endpoint::Ip(address) => Socket::connect_ip(*address, self.pool.config.source)?,
            Endpoint::Unix(path) => Socket::connect_unix(path)?,
        };
        socket.set_nodelay();
        // At once: it is kept, and whether it is used again may depend on it.
        socket.watch_peer(self.keepalive.map(Keepalive::probes), self.pool.config.connect.user_timeout);
        Raw::new(socket)?.connected().await
    }

    fn tls_failure(&self, error: &io::Error) -> ConnectFailure {
        let (pool, backend) = (&self.pool.config.name, &self.backend.config.name);
        tracing::debug!(pool, backend, %error, "the TLS handshake with a backend has failed");
        ConnectFailure::Tls
    }
}

async fn speak_http1(io: Io, handle: Rc<Handle>) -> Result<http1::Link, ConnectFailure> {
    Ok(http1::Link::new(io, handle))
}

async fn speak_http2(io: Io, handle: Rc<Handle>) -> Result<Http2, ConnectFailure> {
    let meter = io.meter.clone();
    let sender = greet_http2(io, ALIVE).await?;
    Ok(Http2::new(sender, handle, meter))
}

async fn greet_http2(io: Io, alive: (Duration, Duration)) -> Result<SendRequest<RequestBody>, ConnectFailure> {
    let handshake = http2::Builder::new(Local)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .timer(TokioTimer::new())
        .keep_alive_interval(alive.0)
        .keep_alive_timeout(alive.1)
        .handshake(TokioIo::new(io));
    let (sender, connection) = handshake.await.map_err(|_| ConnectFailure::Other)?;
    // Its end is told by the requests on it.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use hyper::Request;

    use super::*;

    /// What takes a few milliseconds has not happened after this.
    const NEVER: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_request_that_waits_for_ever_ends_when_no_ping_is_answered() {
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("a socket");
        let io = Io::plain(Raw::new(OwnedFd::from(ours).into()).expect("an event loop"));
        let asking = async {
            let alive = (Duration::from_millis(20), Duration::from_millis(20));
            let mut sender = greet_http2(io, alive).await.expect("nobody is asked");
            sender.try_send_request(Request::new(RequestBody::Empty)).await.is_err()
        };
        let asked = tokio::task::LocalSet::new().run_until(tokio::time::timeout(NEVER, asking)).await;
        assert_eq!(asked, Ok(true));
    }
}
