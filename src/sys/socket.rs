//! Stream sockets, TCP and unix alike: listening, accepting, connecting, and moving bytes.
//!
//! What is called for each piece of traffic goes by rustix straight to the kernel: glibc's recv and send can be ends of
//! threads (pthreads(7), cancellation points), and in a process with several threads they pay for that in each call.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Domain, Protocol, SockAddr, SockRef, TcpKeepalive, Type};

use super::{check, set_option};

/// A connected, or connecting, non-blocking stream socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A fresh connection: the socket and its peer (`None` on a unix socket).
pub type Accepted = (Socket, Option<SocketAddr>);

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

impl From<OwnedFd> for Socket {
    /// Takes over a non-blocking socket that another process has made.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Socket {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// EMFILE.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Takes the next connection of a listening socket.
    ///
    /// # Errors
    /// Those of accept4(2); `WouldBlock` when none waits, EMFILE and ENFILE when no descriptor is left.
    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
        // SAFETY: `storage` and `len` describe a buffer large enough for any address, and accept4 writes its length.
        let (socket, address) = unsafe {
            SockAddr::try_init(|storage, len| {
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let fd = check(libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags))?;
                Ok(Self(OwnedFd::from_raw_fd(fd)))
            })
        }?;
        Ok((socket, address.as_socket()))
    }

    /// Starts to connect to an IP address, from `source` when given; EINPROGRESS is success.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2); EADDRNOTAVAIL when no local port is left.
    pub fn connect_ip(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = Self::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = source {
            // Without it a bound port serves one connection in all, not one per destination (ip(7)).
            socket.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            SockRef::from(&socket.0).bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&address.into())
    }

    /// Connects to a unix stream socket.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2); `WouldBlock` when its backlog is full.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        Self::new(Domain::UNIX, Type::STREAM, None)?.connect(&SockAddr::unix(path)?)
    }

    fn new(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self(socket2::Socket::new_raw(domain, kind.nonblocking().cloexec(), protocol)?.into()))
    }

    fn connect(self, address: &SockAddr) -> io::Result<Self> {
        match SockRef::from(&self.0).connect(address) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(self),
        }
    }

    /// Reads what is there; 0 = the peer's FIN.
    ///
    /// # Errors
    /// Those of recv(2), but for EINTR.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let (count, _) = retry_on_intr(|| rustix::net::recv(&self.0, &mut *into, RecvFlags::empty()))?;
        Ok(count)
    }

    /// Looks at what is there and leaves it there.
    ///
    /// # Errors
    /// Those of recv(2), but for EINTR.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let (count, _) = retry_on_intr(|| rustix::net::recv(&self.0, &mut *into, RecvFlags::PEEK))?;
        Ok(count)
    }

    /// Reads into room that need not be cleared first; what was read stands at its beginning.
    ///
    /// # Errors
    /// Those of recv(2), but for EINTR.
    pub fn recv_uninit(&self, into: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let recv = || rustix::net::recv(&self.0, &mut *into, RecvFlags::empty()).map(|(_, count)| count);
        Ok(retry_on_intr(recv)?)
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// Those of send(2), but for EINTR; a closed peer is EPIPE and no signal.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?)
    }

    /// The same of several pieces.
    ///
    /// # Errors
    /// Those of sendmsg(2), but for EINTR; a closed peer is EPIPE and no signal.
    pub fn send_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let nothing = &mut SendAncillaryBuffer::default();
        Ok(retry_on_intr(|| rustix::net::sendmsg(&self.0, pieces, nothing, SendFlags::NOSIGNAL))?)
    }

    /// Sends FIN once what was written is out.
    ///
    /// # Errors
    /// ENOTCONN when the connection is gone already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(std::net::Shutdown::Write)
    }

    /// The pending error, which is cleared (SO_ERROR).
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.0).take_error().unwrap_or_else(Some)
    }

    /// Makes the coming close a reset: SO_LINGER with time 0 (socket(7)). On a unix socket it does nothing.
    pub fn reset_on_close(&self) {
        // It fails on a socket that is gone already, where there is nothing left to reset.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    /// The address the peer spoke to; `None` on a unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        SockRef::from(&self.0).local_addr().ok()?.as_socket()
    }

    /// Sends small segments at once (TCP_NODELAY). On a unix socket it does nothing.
    pub fn set_nodelay(&self) {
        // EOPNOTSUPP on a unix socket, which never waits.
        let _ = self.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }

    /// Turns dead-peer detection on; on a unix socket it does nothing.
    pub fn watch_peer(&self, keepalive: Option<(Duration, Duration, u32)>, user_timeout: Option<Duration>) {
        let socket = SockRef::from(&self.0);
        // Each of these is refused by a unix socket, and by a TCP one that has just ended; neither needs it.
        if let Some(keepalive) = keepalive {
            let _ = socket.set_tcp_keepalive(&probes(keepalive));
        }
        if user_timeout.is_some() {
            let _ = socket.set_tcp_user_timeout(user_timeout);
        }
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        set_option(&self.0, level, option, value)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn probes((idle, interval, count): (Duration, Duration, u32)) -> TcpKeepalive {
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count)
}

/// Options of a listening socket that every connection it accepts inherits, or that its queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// listen(2)'s backlog; the kernel cuts it to net.core.somaxconn.
    pub backlog: u32,
    /// TCP_FASTOPEN.
    pub fast_open: bool,
    /// TCP_DEFER_ACCEPT.
    pub defer_accept: bool,
    /// Idle time, interval and count of keep-alive probes; `None` = off.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// TCP_USER_TIMEOUT; `None` = the kernel's.
    pub user_timeout: Option<Duration>,
}

/// Seconds that TCP_DEFER_ACCEPT waits for the client's first byte before it accepts all the same (tcp(7)).
const DEFER_ACCEPT_SECONDS: i32 = 5;

/// Binds and listens on an IP address with SO_REUSEPORT, so that each worker may have a socket of its own.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2); EADDRINUSE when another program (or user) holds the port.
pub fn listen_ip(address: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // "[::]" means IPv6 only: then 0.0.0.0 may be bound beside it, whatever bindv6only says.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    let fd = OwnedFd::from(socket);
    configure(&fd, options)?;
    Ok(fd)
}

/// Binds and listens on a unix stream socket; the path must not exist.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen_unix(path: &Path, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Sets the options of a listening IP socket, now or after a reload; listen(2) on a listening socket changes its backlog.
///
/// # Errors
/// Those of setsockopt(2) and listen(2).
pub fn configure(fd: &impl AsFd, options: &ListenOptions) -> io::Result<()> {
    let socket = SockRef::from(fd);
    socket.set_tcp_nodelay(true)?;
    match options.keepalive {
        Some(keepalive) => socket.set_tcp_keepalive(&probes(keepalive))?,
        None => socket.set_keepalive(false)?,
    }
    socket.set_tcp_user_timeout(options.user_timeout)?;
    let seconds = if options.defer_accept { DEFER_ACCEPT_SECONDS } else { 0 };
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, if options.fast_open { backlog } else { 0 })?;
    socket.listen(backlog)
}

/// Errors of a connection that was gone before it was taken, or of its network (accept(2)): the next one may be fine.
pub fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
        )
    )
}
