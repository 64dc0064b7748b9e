//! A listening socket of the gateway, and the last clients of its backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::io::Raw;
use crate::config::Bind;

/// Connections taken from a socket that is about to be closed: as many as the longest backlog holds.
const LAST_ACCEPTS_MAX: usize = 65_536;

/// A listening socket, by the kind of its address.
pub enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    /// Watched by this thread's event loop.
    ///
    /// # Errors
    /// When the event loop cannot watch it.
    pub fn new(bind: &Bind, socket: OwnedFd) -> io::Result<Self> {
        match bind {
            Bind::Ip(_) => TcpListener::from_std(socket.into()).map(Self::Tcp),
            Bind::Unix(_) => UnixListener::from_std(socket.into()).map(Self::Unix),
        }
    }

    /// Those who wait already, before it is closed. The system is asked: that the socket is ready may not have been heard of yet.
    pub fn into_rest(self) -> Vec<(Raw, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => socket.into_std().map_or(Vec::new(), |socket| {
                let next = || {
                    let (stream, peer) = socket.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok((Raw::Tcp(TcpStream::from_std(stream)?), Some(peer)))
                };
                rest(next)
            }),
            Self::Unix(socket) => socket.into_std().map_or(Vec::new(), |socket| {
                let next = || {
                    let (stream, _) = socket.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok((Raw::Unix(UnixStream::from_std(stream)?), None))
                };
                rest(next)
            }),
        }
    }

    /// The next client; `None` of an address on a unix socket.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Raw, Option<SocketAddr>)>> {
        match self {
            Self::Tcp(socket) => socket.poll_accept(cx).map_ok(|(stream, peer)| (Raw::Tcp(stream), Some(peer))),
            Self::Unix(socket) => socket.poll_accept(cx).map_ok(|(stream, _)| (Raw::Unix(stream), None)),
        }
    }
}

fn rest<T>(mut next: impl FnMut() -> io::Result<T>) -> Vec<T> {
    std::iter::from_fn(|| next().ok()).take(LAST_ACCEPTS_MAX).collect()
}
