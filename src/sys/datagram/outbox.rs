//! Sending: messages made of places in the arena, and a batch of them in one call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use super::{BATCH_MAX, CONTROL_WORDS, DatagramSocket, Inbox, SLOT_BYTES, SLOT_STRIDE, check, check_len};

/// One message to be sent: a datagram, or a train.
#[derive(Clone, Copy, Debug)]
struct Message {
    tag: u32,
    to: Option<SocketAddr>,
    from: Option<IpAddr>,
    /// Bytes of a segment when it is a train; 0 = one datagram.
    segment: u32,
    /// Its pieces: from here to where the next message's begin.
    pieces_from: u32,
}

/// A stretch of bytes, in the arena or in the outbox itself.
#[derive(Clone, Copy, Debug)]
struct Piece {
    is_own: bool,
    start: u32,
    len: u32,
}

/// What the kernel is told for one batch; kept for its memory.
#[derive(Default)]
struct Batch {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in6>,
    controls: Vec<[u64; CONTROL_WORDS]>,
}

/// Messages to be sent by one socket, in order.
#[derive(Default)]
pub struct Outbox {
    messages: Vec<Message>,
    pieces: Vec<Piece>,
    own: Vec<u8>,
    batch: Batch,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Begins a message. `to` is needed unless the socket is connected, `from` where the reply must leave from an
    /// address other than the kernel's choice; `tag` is the caller's.
    pub fn begin(&mut self, tag: u32, to: Option<SocketAddr>, from: Option<IpAddr>) {
        self.messages.push(Message { tag, to, from, segment: 0, pieces_from: self.pieces.len() as u32 });
    }

    /// Adds bytes of a slot to the message begun last.
    pub fn add(&mut self, slot: usize, start: usize, len: usize) {
        debug_assert!(start + len <= SLOT_BYTES);
        self.pieces.push(Piece { is_own: false, start: (slot * SLOT_STRIDE + start) as u32, len: len as u32 });
    }

    /// Adds bytes that are in no slot, such as a header.
    pub fn add_own(&mut self, bytes: &[u8]) {
        self.pieces.push(Piece { is_own: true, start: self.own.len() as u32, len: bytes.len() as u32 });
        self.own.extend_from_slice(bytes);
    }

    /// Makes the message begun last a train of segments of this size.
    pub fn set_segment(&mut self, segment: usize) {
        if let Some(last) = self.messages.last_mut() {
            last.segment = segment as u32;
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The caller's mark of a message.
    pub fn tag(&self, at: usize) -> u32 {
        self.messages[at].tag
    }

    /// Bytes of a segment of a message that is a train.
    pub fn segment(&self, at: usize) -> usize {
        self.messages[at].segment as usize
    }

    /// Whether a message is a train.
    pub fn is_train(&self, at: usize) -> bool {
        self.messages[at].segment > 0
    }

    /// Datagrams of a message.
    pub fn datagrams(&self, at: usize) -> u32 {
        let len: u32 = self.pieces_of(at).iter().map(|piece| piece.len).sum();
        match self.messages[at].segment {
            0 => 1,
            segment => len.div_ceil(segment),
        }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.own.clear();
    }

    /// Sends the messages from `first` on, until all are sent or one fails: says which is the next one to send.
    ///
    /// # Errors
    /// Those of sendmmsg(2), but for EINTR, when the very first one fails.
    pub fn send(&mut self, first: usize, socket: &DatagramSocket, inbox: &Inbox) -> io::Result<usize> {
        let until = self.messages.len().min(first + BATCH_MAX);
        if until == first + 1
            && let Some(bytes) = self.plain(first, inbox)
        {
            return send_plain(socket, bytes).map(|()| until);
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        for at in first..until {
            self.pieces_of(at).iter().for_each(|piece| batch.vectors.push(self.vector(inbox, *piece)));
        }
        let mut vector = 0;
        for at in first..until {
            let count = self.pieces_of(at).len();
            batch.add(&self.messages[at], vector, count);
            vector += count;
        }
        let sent = batch.send(socket);
        self.batch = batch;
        sent.map(|sent| first + sent)
    }

    /// Sends a train one datagram at a time, for a path that takes none. Says how many of its datagrams were lost and
    /// the error of the last one.
    pub fn send_apart(&mut self, at: usize, socket: &DatagramSocket, inbox: &Inbox) -> (u32, Option<io::Error>) {
        let message = Message { segment: 0, ..self.messages[at] };
        let segment = (self.messages[at].segment as usize).max(1);
        let mut batch = std::mem::take(&mut self.batch);
        let pieces: Vec<Piece> = self.pieces_of(at).to_vec();
        let (mut lost, mut error) = (0, None);
        let (mut piece, mut offset) = (0, 0);
        while piece < pieces.len() {
            batch.clear();
            let mut room = segment;
            while room > 0 && piece < pieces.len() {
                let whole = pieces[piece];
                let len = room.min(whole.len as usize - offset);
                let part = Piece { start: whole.start + offset as u32, len: len as u32, ..whole };
                batch.vectors.push(self.vector(inbox, part));
                (room, offset) = (room - len, offset + len);
                if offset == whole.len as usize {
                    (piece, offset) = (piece + 1, 0);
                }
            }
            let count = batch.vectors.len();
            batch.add(&message, 0, count);
            if let Err(failure) = batch.send(socket) {
                (lost, error) = (lost + 1, Some(failure));
            }
        }
        self.batch = batch;
        (lost, error)
    }

    /// The bytes of a message that is nothing but bytes.
    fn plain<'a>(&'a self, at: usize, inbox: &'a Inbox) -> Option<&'a [u8]> {
        match (&self.messages[at], self.pieces_of(at)) {
            (Message { to: None, from: None, segment: 0, .. }, [piece]) => Some(self.bytes(inbox, *piece)),
            _ => None,
        }
    }

    fn pieces_of(&self, at: usize) -> &[Piece] {
        let until = self.messages.get(at + 1).map_or(self.pieces.len(), |next| next.pieces_from as usize);
        &self.pieces[self.messages[at].pieces_from as usize..until]
    }

    fn vector(&self, inbox: &Inbox, piece: Piece) -> libc::iovec {
        let bytes = self.bytes(inbox, piece);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    fn bytes<'a>(&'a self, inbox: &'a Inbox, piece: Piece) -> &'a [u8] {
        let all: &[u8] = if piece.is_own { &self.own } else { &inbox.bytes };
        &all[piece.start as usize..][..piece.len as usize]
    }
}

impl Batch {
    fn clear(&mut self) {
        // The headers point into the others: they may not outlive a change of them.
        self.headers.clear();
        self.vectors.clear();
        self.names.clear();
        self.controls.clear();
        self.names.reserve(BATCH_MAX);
        self.controls.reserve(BATCH_MAX);
    }

    /// Adds the header of a message whose vectors, all in place already, are these. At most [`BATCH_MAX`] are added.
    fn add(&mut self, message: &Message, first: usize, count: usize) {
        assert!(self.headers.len() < BATCH_MAX, "names and controls have been given their room, and must not move");
        // SAFETY: a message header is plain data, for which zeroes are a value.
        let mut header: libc::mmsghdr = unsafe { zeroed() };
        header.msg_hdr.msg_iov = self.vectors[first..first + count].as_mut_ptr();
        header.msg_hdr.msg_iovlen = count as _;
        if let Some(to) = message.to {
            let (name, len) = name_of(to);
            self.names.push(name);
            header.msg_hdr.msg_name = self.names.as_mut_ptr().wrapping_add(self.names.len() - 1).cast();
            header.msg_hdr.msg_namelen = len;
        }
        if message.segment > 0 || message.from.is_some() {
            self.controls.push([0; CONTROL_WORDS]);
            header.msg_hdr.msg_control = self.controls.as_mut_ptr().wrapping_add(self.controls.len() - 1).cast();
            header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
            write_control(&mut header.msg_hdr, message);
        }
        self.headers.push(header);
    }

    fn send(&mut self, socket: &DatagramSocket) -> io::Result<usize> {
        loop {
            // SAFETY: the headers are as many as said; their vectors, names and controls stand in `self`, which does not
            // change meanwhile, and the vectors point into an arena and an outbox that the caller has borrowed.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    self.headers.len() as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match check(sent) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|sent| sent as usize),
            }
        }
    }
}

/// Sends one datagram to the peer of a connected socket: the shortest way there is.
fn send_plain(socket: &DatagramSocket, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: the pointer and length name `bytes`, which lives through the call.
        let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        match check_len(sent) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Writes a message's ancillary data into its control block, and its length into the header.
fn write_control(header: &mut libc::msghdr, message: &Message) {
    let mut used = 0;
    if message.segment > 0 {
        used += put(header, used, libc::SOL_UDP, libc::UDP_SEGMENT, message.segment as u16);
    }
    match message.from {
        Some(IpAddr::V4(from)) => {
            let spoken_to = libc::in_addr { s_addr: from.to_bits().to_be() };
            let info =
                libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spoken_to, ipi_addr: libc::in_addr { s_addr: 0 } };
            used += put(header, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(from)) => {
            // A link-local address means something on its own link only, which the client's address names.
            let scope = match message.to {
                Some(SocketAddr::V6(to)) => to.scope_id(),
                _ => 0,
            };
            let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: scope as _ };
            used += put(header, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    header.msg_controllen = used as _;
}

/// Puts one value at `used` bytes into the control block and returns the room that it takes.
fn put<T>(header: &mut libc::msghdr, used: usize, level: i32, kind: i32, value: T) -> usize {
    let len = size_of::<T>() as libc::c_uint;
    // SAFETY: CMSG_SPACE only computes.
    let space = unsafe { libc::CMSG_SPACE(len) } as usize;
    assert!(used + space <= size_of::<[u64; CONTROL_WORDS]>(), "a control block has room for all that is ever put in");
    // SAFETY: the block has room for a header and the value at this place, as was just asserted, and every place is a
    // multiple of a header's alignment.
    unsafe {
        let control = header.msg_control.cast::<u8>().add(used).cast::<libc::cmsghdr>();
        (*control).cmsg_level = level;
        (*control).cmsg_type = kind;
        (*control).cmsg_len = libc::CMSG_LEN(len) as _;
        libc::CMSG_DATA(control).cast::<T>().write_unaligned(value);
    }
    space
}

/// An address as the kernel wants it, and its length.
fn name_of(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: an address is plain data, for which zeroes are a value.
    let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: an IPv4 address is shorter than the space and needs no stricter alignment.
            let short = unsafe { &mut *(&raw mut name).cast::<libc::sockaddr_in>() };
            short.sin_family = libc::AF_INET as libc::sa_family_t;
            short.sin_port = address.port().to_be();
            short.sin_addr.s_addr = address.ip().to_bits().to_be();
            (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(address) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = address.port().to_be();
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = address.scope_id();
            (name, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}
