//! The `tcp` check: a connect. Where possible the backend's program never hears of it.
//!
//! Plain connects that end without a word have bad effects: MySQL and MariaDB count them and block the host after
//! `max_connect_errors` (error 1129), others log an error each. So the handshake is not finished: with TCP_QUICKACK off
//! before the connect, Linux delays the ACK that answers SYN-ACK (tcp(7); it waits for data to ride on), and a close
//! with SO_LINGER 0 sends a reset in its place. The backend's kernel has proved that something listens and has room in
//! its backlog; the connection never reaches accept(2). It leaves no TIME_WAIT on either side.
//!
//! When this host is too slow (40 ms) the ACK goes out first and the program sees a connection that was reset. Behind
//! unix sockets, and with `send_proxy` (the header needs a finished handshake), the program sees a connection and its
//! end; there the reset is replaced by the usual kind close.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpSocket;

/// Prepares a socket for a connect that the backend's program will not see. Closing it sends a reset.
pub(super) fn hush(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_quickack(false)?;
    socket.set_linger(Some(Duration::ZERO))
}
