//! Asking a backend: one file a protocol, and here what they share: how to connect, to talk within bounds, to leave.
//!
//! A probe decides and says goodbye in its protocol; then [`leave`] ends the stream: our FIN, what still comes is read
//! and thrown away until the other side's FIN. So the backend finds neither a reset nor an unfinished talk.

mod command;
mod http;
mod mysql;
mod postgres;
mod redis;
mod script;
mod tcp;
#[cfg(test)]
pub(super) mod tests;
mod udp;

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::{Target, Tls};
use crate::config::{Check, Endpoint, SendProxy, format_payload};
use crate::proxy_header::{V1_UNKNOWN, V2_LOCAL};

/// Bytes read of one backend in one check; a longer answer fails the check.
const ANSWER_MAX: usize = 64 * 1024;
/// Characters kept of the reason of a failure.
const WHY_MAX: usize = 200;
/// Characters shown of what was expected and of what came.
const SHOWN_MAX: usize = 60;
/// How long a backend may take to end the stream after we have left.
const LEAVE_TIME: Duration = Duration::from_millis(500);

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people; see [`Failure::line`] before it is shown.
    why: String,
    /// True when this host could not ask: nothing is known about the backend.
    pub(super) is_ours: bool,
}

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_ours: false }
    }

    /// The reason in one line of at most [`WHY_MAX`] characters: backends can put anything into it.
    pub(super) fn line(&self) -> String {
        escape(self.why.trim(), WHY_MAX)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let ours = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::EADDRINUSE];
        let text = error.to_string();
        let why = text.split(" (os error").next().unwrap_or(&text).to_owned();
        Self { why, is_ours: error.raw_os_error().is_some_and(|number| ours.contains(&number)) }
    }
}

/// A stream to a backend.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
/// See [`Io`].
pub(super) type Stream = Box<dyn Io>;

/// Asks once. The answer comes with the stream when one is left that wants [`leave`]: a verdict need not wait for it.
pub(super) async fn probe(target: &Target, started: Instant) -> (Result<(), Failure>, Option<Stream>) {
    let within = target.pool.health.timeout;
    let deadline = started + within;
    let endpoint = asked_endpoint(target);
    let kind = &target.pool.health.kind;
    if let Check::Command { run } = kind {
        let answer = by(deadline, within, "the program has not ended", command::probe(run, target, &endpoint));
        return (answer.await, None);
    }
    if let Check::Udp { send, expect } = kind {
        return (udp::probe(target, &endpoint, send, expect.as_deref(), deadline).await, None);
    }
    let greeting = proxy_header(target);
    let quietly = *kind == Check::Tcp && greeting.is_empty();
    let connecting = connect(&endpoint, target.pool.source, quietly);
    let stream = match by(deadline, within, "no connection", connecting).await {
        Ok(stream) => stream,
        Err(failure) => return (Err(failure), None),
    };
    if quietly {
        return (Ok(()), None);
    }
    let talking = async {
        let mut stream = stream;
        stream.write_all(greeting).await?;
        let mut stream = match &target.tls {
            Some(tls) => secure(tls, stream).await?,
            None => stream,
        };
        talk(kind, &endpoint, &mut stream).await?;
        Ok(stream)
    };
    match by(deadline, within, "connected, but no answer", talking).await {
        Ok(stream) => (Ok(()), Some(stream)),
        Err(failure) => (Err(failure), None),
    }
}

/// The handshake of TLS.
async fn secure(tls: &Tls, stream: Stream) -> Result<Stream, Failure> {
    let connector = TlsConnector::from(tls.to_backends.plain.clone());
    let secured = connector.connect(tls.name.clone(), stream).await;
    Ok(Box::new(secured.map_err(|error| Failure { why: format!("TLS: {error}"), ..Failure::from(error) })?))
}

async fn talk(kind: &Check, endpoint: &Endpoint, stream: &mut Stream) -> Result<(), Failure> {
    match kind {
        Check::None | Check::Tcp | Check::Tls | Check::Command { .. } | Check::Udp { .. } => Ok(()),
        Check::Http { path, host, status, body } => {
            let host = host.clone().unwrap_or_else(|| host_header(endpoint));
            http::probe(stream, path, &host, status, body.as_deref()).await
        }
        Check::Postgres { user, database } => postgres::probe(stream, user, database).await,
        Check::Mysql { user } => mysql::probe(stream, user).await,
        Check::Redis => redis::probe(stream).await,
        Check::Script { steps } => script::probe(stream, steps).await,
    }
}

/// Ends a stream kindly: FIN, then everything that comes is read until the other side's FIN, within [`LEAVE_TIME`] and
/// [`ANSWER_MAX`] bytes. Closing with unread bytes would send a reset instead.
pub(super) async fn leave(mut stream: Stream) {
    let leaving = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let (mut buffer, mut total) = ([0; 4096], 0);
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            total += count;
            if total > ANSWER_MAX {
                return;
            }
        }
    };
    // Too slow or not, there is nothing left to do.
    let _ = timeout(LEAVE_TIME, leaving).await;
}

async fn by<T>(
    deadline: Instant,
    within: Duration,
    late: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout_at(deadline.into(), work).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::new(format!("{late} within {within:?}"))),
    }
}

/// Where the check goes: `health.port` replaces the port of an address.
fn asked_endpoint(target: &Target) -> Endpoint {
    match (&target.endpoint, target.pool.health.port) {
        (Endpoint::Ip(address), Some(port)) => Endpoint::Ip(SocketAddr::new(address.ip(), port)),
        (endpoint, _) => endpoint.clone(),
    }
}

/// What to send before anything else. A check with a port of its own asks another service, which is not told about the
/// pool's `send_proxy` and expects no header.
fn proxy_header(target: &Target) -> &'static [u8] {
    match target.pool.send_proxy {
        _ if target.pool.health.port.is_some() => b"",
        SendProxy::Off => b"",
        SendProxy::V1 => V1_UNKNOWN,
        SendProxy::V2 | SendProxy::V2First => V2_LOCAL,
    }
}

fn host_header(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Ip(address) => address.to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}

async fn connect(endpoint: &Endpoint, source: Option<IpAddr>, quietly: bool) -> Result<Stream, Failure> {
    match endpoint {
        Endpoint::Ip(address) => connect_ip(*address, source, quietly).await,
        Endpoint::Unix(path) => connect_unix(path).await,
    }
}

async fn connect_ip(address: SocketAddr, source: Option<IpAddr>, quietly: bool) -> Result<Stream, Failure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| no_source(source, &error))?;
    }
    if quietly {
        tcp::hush(&socket)?;
    } else {
        socket.set_nodelay(true)?;
    }
    Ok(Box::new(socket.connect(address).await?))
}

fn no_source(source: IpAddr, error: &io::Error) -> Failure {
    Failure { why: format!("cannot use the source address {source}: {error}"), is_ours: true }
}

async fn connect_unix(path: &Path) -> Result<Stream, Failure> {
    Ok(Box::new(UnixStream::connect(path).await?))
}

/// A talk with a backend, within bounds: what it says is read when it is asked for, [`ANSWER_MAX`] bytes in all.
struct Talk<'a, S> {
    stream: &'a mut S,
    heard: Vec<u8>,
    total: usize,
}

impl<'a, S: Io> Talk<'a, S> {
    fn new(stream: &'a mut S) -> Self {
        Self { stream, heard: Vec::new(), total: 0 }
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Waits for more bytes and puts them behind those in `heard`.
    async fn listen(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).await?;
        if count == 0 {
            let when = if self.total == 0 { "before its answer" } else { "in the middle of its answer" };
            return Err(Failure::new(format!("it closed the connection {when}")));
        }
        self.total += count;
        if self.total > ANSWER_MAX {
            return Err(Failure::new(format!("its answer is longer than {} KiB", ANSWER_MAX / 1024)));
        }
        self.heard.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// The next `count` bytes.
    async fn take(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        while self.heard.len() < count {
            self.listen().await?;
        }
        let rest = self.heard.split_off(count);
        Ok(std::mem::replace(&mut self.heard, rest))
    }

    /// Everything up to and with the next `needle`, which is not empty.
    async fn take_through(&mut self, needle: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut searched = 0;
        loop {
            let found = self.heard[searched..].windows(needle.len()).position(|window| window == needle);
            if let Some(place) = found {
                return self.take(searched + place + needle.len()).await;
            }
            searched = (self.heard.len() + 1).saturating_sub(needle.len());
            self.listen().await?;
        }
    }
}

/// Bytes of a backend as text for [`Failure`].
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that were to come, as the file has them.
fn expected(bytes: &[u8]) -> String {
    escape(&format_payload(bytes), SHOWN_MAX)
}

/// Bytes that came instead: text as it is, anything else in hex.
fn heard(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => escape(text, SHOWN_MAX),
        Err(_) => escape(&format_payload(bytes), SHOWN_MAX),
    }
}

/// Control and other invisible characters escaped, the rest as it is, cut to `max` characters.
fn escape(text: &str, max: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == max {
            line.push('…');
            break;
        }
        match character {
            '"' | '\'' | '\\' => line.push(character),
            // Writing to a String does not fail.
            _ => drop(write!(line, "{}", character.escape_debug())),
        }
    }
    line
}
