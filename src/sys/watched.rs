//! Sockets in the event loop of tokio: the one room below the engines that knows it, for what tokio cannot know is sound.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

use super::socket::Socket;

/// A connection in the event loop of this thread, which must have one.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn connection(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: it owns its descriptor, which is open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// A listening socket in the event loop of this thread, which must have one.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn listener(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Reads what is there into the free room of a buffer, which need not be cleared first; 0 = the peer's FIN.
///
/// # Errors
/// Those of recv(2), but for EINTR.
pub fn recv(socket: &Socket, into: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: the room is only written to, so that what of it is initialised stays so.
    let count = socket.recv_uninit(unsafe { into.unfilled_mut() })?;
    // SAFETY: recv(2) has written so many bytes at the beginning of the room.
    unsafe { into.assume_init(count) };
    into.advance(count);
    Ok(count)
}
