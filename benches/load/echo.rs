//! UDP backends: each datagram goes back to its sender as it came, and a train as a train. One thread for all of them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use evener::sys::datagram::{BATCH_MAX, DatagramSocket, Inbox, Offload, Outbox};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// So much that 10 000 clients may speak at once: the kernel counts 768 bytes for a datagram of 64.
const BUFFER_BYTES: usize = 16 << 20;
const EVENTS: usize = 64;

/// [`DatagramSocket::bind`] sets SO_REUSEPORT, and then the kernel may answer port 0 with one that another socket has
/// already, so that the two share what comes. A port that was given to a socket without it is free.
pub fn bind_apart(mut address: SocketAddr, buffer_bytes: usize, offload: Offload) -> io::Result<DatagramSocket> {
    if address.port() == 0 {
        address = UdpSocket::bind(address)?.local_addr()?;
    }
    DatagramSocket::bind(address, buffer_bytes, offload)
}

pub struct Echo {
    poll: Poll,
    events: Events,
    sockets: Vec<DatagramSocket>,
    /// Those that may hold more than was taken from them.
    ready: Vec<usize>,
    inbox: Inbox,
    outbox: Outbox,
}

impl Echo {
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let offload = Offload::probe();
        let mut sockets = Vec::with_capacity(addresses.len());
        for (at, address) in addresses.iter().enumerate() {
            let socket = bind_apart(*address, BUFFER_BYTES, offload)?;
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(at), Interest::READABLE)?;
            sockets.push(socket);
        }
        let events = Events::with_capacity(EVENTS);
        Ok(Self { poll, events, sockets, ready: Vec::new(), inbox: Inbox::new(), outbox: Outbox::default() })
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().filter_map(DatagramSocket::local_address)
    }

    /// Waits for datagrams, and answers one batch of each socket that has some.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = if self.ready.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.poll.poll(&mut self.events, timeout)?;
        for event in &self.events {
            let at = event.token().0;
            if !self.ready.contains(&at) {
                self.ready.push(at);
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|at| self.answer(*at));
        self.ready = ready;
        Ok(())
    }

    /// Whether more may be there.
    fn answer(&mut self, at: usize) -> bool {
        let socket = &self.sockets[at];
        let count = match self.inbox.receive(socket, 0, BATCH_MAX) {
            Ok(count) => count,
            // Any other error is one datagram's, and forgotten by the kernel once it was told.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        self.outbox.clear();
        for slot in 0..count {
            let received = self.inbox.received(slot);
            self.outbox.begin(0, Some(received.source), None);
            self.outbox.add(slot, 0, received.len as usize);
            if received.segment < received.len {
                self.outbox.set_segment(received.segment as usize);
            }
        }
        let mut next = 0;
        while next < self.outbox.len() {
            // One that cannot be sent is left out; its client will miss it.
            next = self.outbox.send(next, socket, &self.inbox).unwrap_or(next + 1);
        }
        count == BATCH_MAX
    }
}
