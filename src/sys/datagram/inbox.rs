//! Receiving: an arena of slots, filled by one call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use super::{BATCH_MAX, CONTROL_WORDS, DatagramSocket, SLOT_BYTES, SLOT_STRIDE, check, check_len};

/// A datagram, or a train of them, in a slot of an [`Inbox`].
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Who sent it; of no meaning when it came from a peer.
    pub source: SocketAddr,
    /// The address it was sent to, where the socket asks for it.
    pub local: Option<IpAddr>,
    /// Its bytes, all segments together.
    pub len: u32,
    /// Bytes of a segment; `len` when it is a single datagram.
    pub segment: u32,
    /// It was sent to many, by broadcast or multicast: each socket of the address has a copy. Known where the socket asks
    /// for `local`.
    pub is_to_many: bool,
    /// How many datagrams this socket has lost so far because its buffer was full, if it has lost any.
    pub overflow: Option<u32>,
}

impl Received {
    /// How many datagrams it is.
    pub const fn datagrams(&self) -> u32 {
        if self.segment < self.len { self.len.div_ceil(self.segment) } else { 1 }
    }
}

/// Room for a sock_extended_err and the address of who sent it, and for the overflow count.
const ERROR_WORDS: usize = 32;

const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// The arena: [`BATCH_MAX`] slots. Its pages exist once they were written to, so that short datagrams cost one page a
/// slot.
pub struct Inbox {
    pub(super) bytes: Box<[u8]>,
    received: [Received; BATCH_MAX],
    /// They point into the boxes beside them, which never move.
    headers: Box<[libc::mmsghdr]>,
    _vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in6]>,
    _controls: Box<[[u64; CONTROL_WORDS]]>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// An empty one: 4 MiB of address space.
    pub fn new() -> Self {
        let mut bytes = vec![0; BATCH_MAX * SLOT_STRIDE].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(SLOT_STRIDE)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT_BYTES })
            .collect();
        // SAFETY: an address is plain data, for which zeroes are a value.
        let mut names: Box<[libc::sockaddr_in6]> = (0..BATCH_MAX).map(|_| unsafe { zeroed() }).collect();
        let mut controls = vec![[0u64; CONTROL_WORDS]; BATCH_MAX].into_boxed_slice();
        let headers = (0..BATCH_MAX).map(|at| {
            // SAFETY: a message header is plain data, for which zeroes are a value.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_name = (&raw mut names[at]).cast();
            header.msg_hdr.msg_iov = &raw mut vectors[at];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls[at].as_mut_ptr().cast();
            rewind(&mut header);
            header
        });
        let headers = headers.collect();
        let nothing = Received { source: NOWHERE, local: None, is_to_many: false, len: 0, segment: 0, overflow: None };
        Self { bytes, received: [nothing; BATCH_MAX], headers, _vectors: vectors, names, _controls: controls }
    }

    /// Receives up to `max` datagrams or trains into the slots from `first` on, and says how many. Fewer than asked for
    /// means that no more are there.
    ///
    /// # Errors
    /// Those of recvmmsg(2), but for EINTR; `WouldBlock` when nothing is there, an ICMP error on a connected socket.
    pub fn receive(&mut self, socket: &DatagramSocket, first: usize, max: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..BATCH_MAX.min(first + max)];
        let count = loop {
            // SAFETY: the headers are as many as said, and each points to a name, a buffer and a control block that live as
            // long as `self` and that nobody reads or writes meanwhile, for `self` is borrowed mutably.
            let count = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    headers.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            };
            match check(count) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result? as usize,
            }
        };
        for (at, header) in headers[..count].iter_mut().enumerate() {
            self.received[first + at] = read_header(header, &self.names[first + at]);
            rewind(header);
        }
        Ok(count)
    }

    /// Receives one datagram from the peer of a connected socket that was not made for trains: the shortest way there is.
    ///
    /// # Errors
    /// Those of recv(2), but for EINTR.
    pub fn receive_plain(&mut self, socket: &DatagramSocket, slot: usize) -> io::Result<()> {
        let into = &mut self.bytes[slot * SLOT_STRIDE..][..SLOT_BYTES];
        let len = loop {
            // SAFETY: the pointer and length name `into`, which lives through the call.
            let got =
                unsafe { libc::recv(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
            match check_len(got) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result? as u32,
            }
        };
        self.received[slot] =
            Received { source: NOWHERE, local: None, is_to_many: false, len, segment: len, overflow: None };
        Ok(())
    }

    /// What the slot has received.
    #[inline]
    pub fn received(&self, slot: usize) -> &Received {
        &self.received[slot]
    }

    /// Its bytes.
    pub fn bytes(&self, slot: usize) -> &[u8] {
        &self.bytes[slot * SLOT_STRIDE..][..self.received[slot].len as usize]
    }

    /// All slots as one piece of memory, to be filled by whoever has something to send that nobody sent to it.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        &mut self.bytes[slot * SLOT_STRIDE..][..SLOT_BYTES]
    }
}

/// Makes a header ready to receive once more.
fn rewind(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
    header.msg_hdr.msg_flags = 0;
}

fn read_header(header: &libc::mmsghdr, name: &libc::sockaddr_in6) -> Received {
    let mut received = Received {
        source: address_of(name),
        local: None,
        is_to_many: false,
        len: header.msg_len,
        segment: header.msg_len,
        overflow: None,
    };
    // SAFETY: the kernel has filled in the control block of this header and its length.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(&raw const header.msg_hdr) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie whole within the control block, and its data is as
        // long as the kind says (udp(7), socket(7), ip(7), ipv6(7)); it may be unaligned.
        unsafe {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.cast::<libc::c_int>().read_unaligned();
                    received.segment = u32::try_from(segment).unwrap_or(0).clamp(1, received.len.max(1));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => received.overflow = Some(data.cast::<u32>().read_unaligned()),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    received.local = Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                    // The one is the address in the packet, the other one of ours to answer from (ip(7)).
                    received.is_to_many = info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    received.is_to_many = address.is_multicast();
                    received.local = Some(address.into()).filter(|_| !received.is_to_many);
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(&raw const header.msg_hdr, control);
        }
    }
    received
}

/// The first of the errors that the kernel has queued at a socket with IP_RECVERR (ip(7)). Reading it takes it away, and
/// the pending error with it.
pub(super) fn receive_error(socket: &impl AsFd) -> Option<io::Error> {
    let mut control = [0u64; ERROR_WORDS];
    // SAFETY: a message header is plain data, for which zeroes are a value.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header names a control block that lives through the call, and no buffer: the datagram that the error is
    // about is cut off.
    if unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) } < 0 {
        return None;
    }
    // SAFETY: the kernel has filled in the control block and its length.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !control.is_null() {
        // SAFETY: the headers lie whole within the block, and the data of these two kinds begins with a sock_extended_err.
        unsafe {
            let is_error = matches!(
                ((*control).cmsg_level, (*control).cmsg_type),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            );
            if is_error {
                let error = libc::CMSG_DATA(control).cast::<libc::sock_extended_err>().read_unaligned();
                return Some(io::Error::from_raw_os_error(error.ee_errno as i32));
            }
            control = libc::CMSG_NXTHDR(&raw const header, control);
        }
    }
    Some(io::ErrorKind::Other.into())
}

/// The address that the kernel wrote, of either family.
fn address_of(name: &libc::sockaddr_in6) -> SocketAddr {
    if i32::from(name.sin6_family) == libc::AF_INET {
        // SAFETY: an IPv4 address is shorter than the space, and the family says that it is one.
        let name = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
        return SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into();
    }
    let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
    SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into()
}
