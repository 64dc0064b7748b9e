//! UDP sockets, and datagrams by the batch: many of them in one system call, and many of one size as one train.
//!
//! A *train* is what segmentation offload makes of datagrams of one size that follow each other: the kernel hands them
//! over as one long buffer with the size of a segment beside it (UDP_GRO), and takes such a buffer to be sent
//! (UDP_SEGMENT); udp(7). All segments of a train have that size but for the last, which may be shorter.
//!
//! [`Inbox`] is the arena that datagrams are received into, [`Outbox`] the list of what is to be sent out of it: it holds
//! places in the arena and copies nothing. Neither allocates for a datagram.

mod inbox;
mod outbox;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use socket2::{Domain, Protocol, SockRef, Type};

use super::{check, check_len, set_option};
pub use inbox::{Inbox, Received};
pub use outbox::Outbox;

/// Datagrams or trains received or sent by one call.
pub const BATCH_MAX: usize = 64;
/// Room for one of them: no datagram and no train is longer (RFC 768: 16 bits of length).
pub const SLOT_BYTES: usize = 65_536;
/// From one slot to the next: not a power of two, so that the beginnings of all slots, which are all that short datagrams
/// use, do not compete for the same few lines of the processor's caches.
const SLOT_STRIDE: usize = SLOT_BYTES + 320;
/// Segments of a train: UDP_MAX_SEGMENTS of the kernels before 6.9.
pub const SEGMENTS_MAX: usize = 64;
/// Bytes of a train that is sent: what fits into one IPv4 datagram with some options.
pub const TRAIN_BYTES_MAX: usize = 65_000;

/// Errors that are taken from a socket at once; of more the next look finds the rest.
const ERRORS_MAX: u32 = 64;

/// Ancillary data of one message: GRO's segment size, the overflow count, and the address that was spoken to.
const CONTROL_WORDS: usize = 16;

/// What a socket has cost (asm-generic/socket.h), and the answer (linux/sock_diag.h): so many numbers, and where the drops
/// stand among them.
const SO_MEMINFO: libc::c_int = 55;
const MEMINFO_VARS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// What this kernel can do for trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// It hands trains over (UDP_GRO, Linux 5.0).
    pub receive: bool,
    /// It takes trains (UDP_SEGMENT, Linux 4.18).
    pub send: bool,
}

impl Offload {
    /// Nothing: each datagram goes by itself.
    pub const NONE: Self = Self { receive: false, send: false };

    /// Asks the kernel.
    pub fn probe() -> Self {
        let Ok(socket) = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) else {
            return Self::NONE;
        };
        let takes = |option| set_option(&socket, libc::SOL_UDP, option, 0).is_ok();
        let send = takes(libc::UDP_SEGMENT);
        // A train that could not be sent on is better not received.
        Self { receive: send && takes(libc::UDP_GRO), send }
    }
}

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct DatagramSocket(OwnedFd);

impl DatagramSocket {
    /// A socket that datagrams to `address` come to, with SO_REUSEPORT, so that each worker may have one: the kernel
    /// keeps all datagrams of a client at the same one. On a wildcard address each datagram comes with the address it
    /// was sent to.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn bind(address: SocketAddr, buffer_bytes: usize, offload: Offload) -> io::Result<Self> {
        let socket = Self::new(address)?;
        let options = SockRef::from(&socket.0);
        options.set_reuse_port(true)?;
        if address.is_ipv6() {
            // "[::]" means IPv6 only: then 0.0.0.0 may be bound beside it, whatever bindv6only says.
            options.set_only_v6(true)?;
        }
        socket.adopt(address, buffer_bytes, offload)?;
        options.bind(&address.into())?;
        Ok(socket)
    }

    /// Gives a socket for datagrams to `address` that somebody else has made all that can be given to it afterwards.
    ///
    /// # Errors
    /// Those of fcntl(2) and setsockopt(2).
    pub fn adopt(&self, address: SocketAddr, buffer_bytes: usize, offload: Offload) -> io::Result<()> {
        SockRef::from(&self.0).set_nonblocking(true)?;
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => set_option(&self.0, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
                SocketAddr::V6(_) => set_option(&self.0, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
            }
        }
        self.widen(buffer_bytes, offload)
    }

    /// A socket that speaks with one peer only, from `source` when given. See [`DatagramSocket::widen`] for one that has
    /// much to receive.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2); EADDRNOTAVAIL or EAGAIN when no local port is left.
    pub fn connect(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = Self::new(peer)?;
        // Without it only a closed port is told, and not that a host or a network cannot be reached (ip(7), ipv6(7)).
        match peer {
            SocketAddr::V4(_) => set_option(&socket.0, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
            SocketAddr::V6(_) => set_option(&socket.0, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
        }
        if let Some(source) = source {
            SockRef::from(&socket.0).bind(&SocketAddr::new(source, 0).into())?;
        }
        SockRef::from(&socket.0).connect(&peer.into())?;
        Ok(socket)
    }

    fn new(address: SocketAddr) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        Ok(Self(socket2::Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::UDP))?.into()))
    }

    /// Makes it fit for streams: a larger receive buffer, trains, and the count of what the buffer has cost so far.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn widen(&self, buffer_bytes: usize, offload: Offload) -> io::Result<()> {
        // The privilege (CAP_NET_ADMIN) to exceed net.core.rmem_max is a gift; without it the limit holds.
        let bytes = i32::try_from(buffer_bytes).unwrap_or(i32::MAX);
        if set_option(&self.0, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
            set_option(&self.0, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        set_option(&self.0, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        if offload.receive {
            set_option(&self.0, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        Ok(())
    }

    /// Bytes that may wait in its receive buffer, as asked for in `bind` (the kernel counts twice that for itself).
    pub fn receive_buffer_bytes(&self) -> usize {
        SockRef::from(&self.0).recv_buffer_size().unwrap_or(0) / 2
    }

    /// Datagrams that its full buffer has cost in all its life, as [`Received::overflow`] tells it with each later one
    /// (SO_MEMINFO, sock_diag(7): SK_MEMINFO_DROPS).
    pub fn lost(&self) -> Option<u32> {
        let mut info = [0_u32; MEMINFO_VARS];
        let mut bytes = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes into `info`, which holds as many.
        let got = unsafe {
            libc::getsockopt(self.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, (&raw mut info).cast(), &raw mut bytes)
        };
        (got == 0 && bytes as usize == size_of_val(&info)).then_some(info[MEMINFO_DROPS])
    }

    /// Takes the errors that wait at a connected socket, ICMP answers to what was sent: the last one, and how many there
    /// were.
    pub fn take_errors(&self) -> Option<(io::Error, u32)> {
        let (mut last, mut count) = (None, 0);
        while count < ERRORS_MAX
            && let Some(error) = inbox::receive_error(&self.0)
        {
            (last, count) = (Some(error), count + 1);
        }
        Some((last?, count))
    }

    /// Throws away what has come, up to [`BATCH_MAX`] datagrams or trains, and says how many it were.
    pub fn discard(&self) -> u32 {
        let mut count = 0;
        while count < BATCH_MAX as u32 {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            // SAFETY: of a buffer of length 0 nothing is written.
            let got = unsafe { libc::recv(self.as_raw_fd(), ptr::null_mut(), 0, flags) };
            if got < 0 {
                break;
            }
            count += 1;
        }
        count
    }

    /// Where it is bound.
    pub fn local_address(&self) -> Option<SocketAddr> {
        SockRef::from(&self.0).local_addr().ok()?.as_socket()
    }
}

impl From<OwnedFd> for DatagramSocket {
    /// Takes over a socket that [`DatagramSocket::bind`] has made.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<DatagramSocket> for OwnedFd {
    fn from(socket: DatagramSocket) -> Self {
        socket.0
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for DatagramSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
