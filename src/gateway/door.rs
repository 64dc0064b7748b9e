//! A listening socket of the gateway, and the last clients of its backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use super::io::Raw;
use crate::sys::socket::Socket;
use crate::sys::watched;

/// Connections taken from a socket that is about to be closed: as many as the longest backlog holds.
const LAST_ACCEPTS_MAX: usize = 65_536;

/// A client, and its address if it has one.
pub type Visitor = (Raw, Option<SocketAddr>);

/// A listening socket.
pub struct Door(AsyncFd<OwnedFd>);

impl Door {
    /// Watched by this thread's event loop.
    ///
    /// # Errors
    /// When the event loop cannot watch it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        watched::listener(socket).map(Self)
    }

    /// Those who wait already, before it is closed. The system is asked: that the socket is ready may not have been heard of yet.
    pub fn into_rest(self) -> Vec<Visitor> {
        std::iter::from_fn(|| self.accept().ok()).take(LAST_ACCEPTS_MAX).collect()
    }

    /// The next client.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Visitor>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match self.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                accepted => return Poll::Ready(accepted),
            }
        }
    }

    fn accept(&self) -> io::Result<Visitor> {
        let (socket, peer) = Socket::accept(self.0.as_fd())?;
        Ok((Raw::new(socket)?, peer))
    }
}
