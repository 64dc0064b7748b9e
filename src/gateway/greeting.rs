//! What comes before the first request of a connection: the PROXY header of a peer that speaks for others, who is let in,
//! the TLS handshake, and the first bytes, which say what HTTP it is.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{sleep_until, timeout};

use super::client::http_of;
use super::io::{Io, Raw};
use super::proxied;
use super::thread::Thread;
use super::watch::Leash;
use crate::config::tls::ListenerTls;
use crate::limit::ClientKey;
use crate::reason::CloseReason;
use crate::snapshot::Site;

/// How a client begins that speaks HTTP/2 without TLS (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client that has just connected has for its first request when the process or its listener goes away.
const FIRST_WORD_TIME: Duration = Duration::from_millis(500);

/// The ends of a connection.
pub struct Ends {
    /// Who connected, or for whom a proxy did; `None` on a unix socket.
    pub client: Option<SocketAddr>,
    /// To where, if a log wants to know.
    pub local: Option<SocketAddr>,
    /// It is counted against the limits of its client.
    pub counted: Option<ClientKey>,
}

/// What a greeting has come to.
#[derive(Default)]
pub struct Greeting {
    /// It speaks TLS.
    pub is_secure: bool,
    /// The server that it asked for in its TLS hello.
    pub server_name: Option<Arc<str>>,
    /// It speaks HTTP/2.
    pub is_http2: bool,
}

/// Hears a client out until it is known what its requests come by.
///
/// # Errors
/// Why there will be none.
pub async fn greet(
    thread: &Rc<Thread>,
    site: &Site,
    leash: &Leash,
    raw: Raw,
    ends: &mut Ends,
) -> Result<(Io, Greeting), CloseReason> {
    let greeted = async {
        if ends.client.is_some_and(|peer| site.config.expects_header_of(peer.ip()))
            && let Err(reason) = announced(thread, site, &raw, ends).await
        {
            raw.reset_on_close();
            return Err(reason);
        }
        match site.tls.as_ref().zip(site.config.tls.as_ref()) {
            Some((tls, config)) => secure(thread, site, tls, config, raw).await,
            None => {
                let mut io = Io::plain(raw);
                // It may be the beginning of either until there is more.
                let tells = |ahead: &[u8]| ahead.len() >= PREFACE.len() || !PREFACE.starts_with(ahead);
                let limit = http_of(site).limits.header_timeout;
                let is_http2 = first_bytes(thread, &mut io, limit, tells).await?.starts_with(PREFACE);
                Ok((io, Greeting { is_http2, ..Greeting::default() }))
            }
        }
    };
    tokio::select! {
        greeted = greeted => greeted,
        () = told_to_end(leash) => Err(CloseReason::Drained),
    }
}

/// Who comes by the word of a proxy, and whether it may.
async fn announced(thread: &Rc<Thread>, site: &Site, raw: &Raw, ends: &mut Ends) -> Result<(), CloseReason> {
    if let Some((client, local)) = proxied::header(thread, raw).await? {
        ends.client = Some(client);
        ends.local = ends.local.and(Some(local));
    }
    ends.counted = thread.welcome(site, ends.client)?;
    Ok(())
}

/// The TLS handshake, and with HTTP/1.1 the first word: who has just shaken hands may be about to ask.
async fn secure(
    thread: &Thread,
    site: &Site,
    tls: &Arc<rustls::ServerConfig>,
    config: &ListenerTls,
    raw: Raw,
) -> Result<(Io, Greeting), CloseReason> {
    let handshake = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(raw);
    let stream = match timeout(config.handshake_timeout, handshake).await {
        Err(_) => return Err(CloseReason::TlsHandshakeTimeout),
        Ok(Err(error)) => {
            tracing::debug!(listener = site.config.name, %error, "a TLS handshake has failed");
            return Err(CloseReason::TlsHandshakeFailed);
        }
        Ok(Ok(stream)) => stream,
    };
    let session = stream.get_ref().1;
    let greeting = Greeting {
        is_secure: true,
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        is_http2: session.alpn_protocol() == Some(b"h2"),
    };
    let mut io = Io::server(stream);
    if !greeting.is_http2 {
        first_bytes(thread, &mut io, http_of(site).limits.idle_timeout, |_| true).await?;
    }
    Ok((io, greeting))
}

/// What a client says first, until that is enough to tell by; it is put back, to be read again.
async fn first_bytes(
    thread: &Thread,
    io: &mut Io,
    limit: Duration,
    tells: impl Fn(&[u8]) -> bool,
) -> Result<Bytes, CloseReason> {
    let mut ahead = BytesMut::new();
    let said = async {
        while !tells(&ahead) || ahead.is_empty() {
            // Into the thread's own buffer: as a rule all of the first request comes at once, and one read takes it.
            let count = poll_fn(|cx| {
                let mut scratch = thread.scratch.borrow_mut();
                let mut into = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut *io).poll_read(cx, &mut into))?;
                ahead.extend_from_slice(into.filled());
                Poll::Ready(std::io::Result::Ok(into.filled().len()))
            });
            if count.await.map_err(|_| CloseReason::ClientReset)? == 0 {
                return Err(CloseReason::ClientClosed);
            }
        }
        Ok(())
    };
    timeout(limit, said).await.unwrap_or(Err(CloseReason::ClientIdle))?;
    let ahead = ahead.freeze();
    io.unread(ahead.clone());
    Ok(ahead)
}

/// Waits until a client that has not asked for anything yet must go. One that has just come may be about to.
async fn told_to_end(leash: &Leash) {
    leash.pulled.notified().await;
    let mut first_word = pin!(tokio::time::sleep(FIRST_WORD_TIME));
    while let Some((at, _)) = leash.doom.get() {
        tokio::select! {
            () = &mut first_word => return,
            () = sleep_until(at.into()) => return,
            // It must go sooner than it was told first.
            () = leash.pulled.notified() => {}
        }
    }
}
