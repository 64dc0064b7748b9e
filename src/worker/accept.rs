//! Accepting: bounded batches, admission, and the choice of the worker that carries the connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::mailbox::{Fresh, Message};
use super::token::Source;
use super::turn::{Worker, enqueue};
use crate::access::{Event, EventKind};
use crate::config::Bind;
use crate::reason::CloseReason;
use crate::snapshot::Listener;
use crate::stats::ListenerSlot;
use crate::sys::socket::{self, Socket};
use crate::timer::Tick;

/// Connections taken from one listening socket before others have their turn.
const BATCH_MAX: usize = 64;

/// Batches taken from a socket that is about to be closed: as many as the longest backlog holds, so that clients who
/// keep coming cannot keep it open.
const LAST_BATCHES_MAX: usize = 65_536 / BATCH_MAX;

/// Pause after accept(2) found no descriptor or memory left: connections wait in the backlog meanwhile, and since a
/// failed accept raises no new edge, the timer is what brings the worker back.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// A fresh connection goes to the least loaded worker when this one carries so many more, and a quarter more.
const SKEW_MIN: u32 = 8;

/// A listening socket of this worker.
#[derive(Debug)]
pub struct Listening {
    pub listener: Arc<Listener>,
    pub bind: Bind,
    pub socket: OwnedFd,
    pub retry_at: Option<Tick>,
    /// Its last accept failed, and the log knows.
    is_failing: bool,
}

enum Batch {
    /// Nothing waits any more: the next edge will tell.
    Empty,
    /// The batch is full, and more may wait.
    More,
    /// No descriptor or memory left: try again later.
    Failed,
}

impl Worker {
    pub fn listen(&mut self, listener: Arc<Listener>, bind: Bind, socket: OwnedFd) {
        let fd = socket.as_raw_fd();
        let at = self.listening.insert(Listening { listener, bind, socket, retry_at: None, is_failing: false });
        let token = Token(Source::listening(at));
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
            tracing::error!(%error, "a listening socket could not be watched; this worker does not accept from it");
            self.listening.remove(at);
        }
    }

    /// Takes what the kernel has accepted already, so that closing the socket resets nobody.
    pub fn unlisten(&mut self, at: usize) {
        for _ in 0..LAST_BATCHES_MAX {
            match self.accept_batch(at) {
                Batch::More => {}
                Batch::Empty | Batch::Failed => break,
            }
        }
        let listening = self.listening.remove(at);
        // Control may hold a duplicate, which would keep the socket in the poll.
        let _ = self.poll.registry().deregister(&mut SourceFd(&listening.socket.as_raw_fd()));
    }

    pub fn next_accept_retry(&self) -> Option<Tick> {
        self.listening.iter().filter_map(|(_, listening)| listening.retry_at).min()
    }

    /// One batch of each listening socket that may have connections.
    pub fn accept_all(&mut self) {
        let now = self.tick();
        for (at, listening) in &mut self.listening {
            if listening.retry_at.is_some_and(|retry_at| retry_at <= now) {
                listening.retry_at = None;
                enqueue(&mut self.acceptable, at);
            }
        }
        let count = self.acceptable.len();
        for next in 0..count {
            let at = self.acceptable[next];
            match self.accept_batch(at) {
                Batch::Empty => {}
                Batch::More => self.acceptable.push(at),
                Batch::Failed => {
                    let retry_at = self.tick().after(FAILED_PAUSE);
                    self.listening[at].retry_at = Some(retry_at);
                }
            }
        }
        self.acceptable.drain(..count);
    }

    fn accept_batch(&mut self, at: usize) -> Batch {
        let Some(listening) = self.listening.get(at) else { return Batch::Empty };
        if listening.retry_at.is_some() {
            return Batch::Empty;
        }
        let listener = listening.listener.clone();
        for _ in 0..BATCH_MAX {
            match Socket::accept(self.listening[at].socket.as_fd()) {
                Ok((client, peer)) => {
                    self.listening[at].is_failing = false;
                    self.admit(&listener, client, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Batch::Empty,
                Err(error) if socket::concerns_one_connection(&error) => {}
                Err(error) => {
                    listener.stats.cell(self.index).closed[CloseReason::ResourceExhausted.index()].add(1);
                    if !std::mem::replace(&mut self.listening[at].is_failing, true) {
                        let listener = &listener.config.name;
                        tracing::warn!(listener, %error, "cannot accept: clients wait in the backlog (fd limit, memory?)");
                    }
                    return Batch::Failed;
                }
            }
        }
        Batch::More
    }

    fn admit(&mut self, listener: &Arc<Listener>, client: Socket, peer: Option<SocketAddr>) {
        self.stats().accepts.add(1);
        listener.stats.cell(self.index).accepted.add(1);
        let in_all: u32 = self.workers.iter().map(|worker| worker.active.load(Relaxed)).sum();
        let max = listener.config.max_connections.map_or(u32::MAX, std::num::NonZero::get);
        let slot = if in_all < self.snapshot.max_connections { ListenerSlot::take(&listener.stats, max) } else { None };
        let Some(slot) = slot else {
            return self.refuse(listener, &client, peer, CloseReason::MaxConnections);
        };
        let fresh = Fresh { client, peer, listener: listener.clone(), slot };
        // A peer that speaks for others is judged by its PROXY header, once that is there.
        if let Some(address) = peer
            && !listener.config.expects_header_of(address.ip())
            && !listener.config.allows(address.ip())
        {
            return self.refuse(listener, &fresh.client, peer, CloseReason::Denied);
        }
        let carrier = self.least_loaded();
        self.workers[carrier].active.fetch_add(1, Relaxed);
        if carrier == self.index {
            self.open(fresh);
        } else {
            self.stats().handed_over.add(1);
            self.mailboxes[carrier].put(Message::Adopt(fresh));
        }
    }

    /// This worker, unless it carries many more connections than another one: SO_REUSEPORT spreads by hash, which
    /// leaves a few long-lived connections unevenly spread.
    fn least_loaded(&self) -> usize {
        let load = |worker: &crate::stats::WorkerStats| worker.active.load(Relaxed);
        let mine = load(self.stats());
        if mine < SKEW_MIN {
            return self.index;
        }
        let (index, least) = self
            .workers
            .iter()
            .take(self.mailboxes.len())
            .map(|worker| load(worker))
            .enumerate()
            .min_by_key(|(_, load)| *load)
            .unwrap_or((self.index, mine));
        if mine >= least + SKEW_MIN && mine / 5 * 4 >= least { index } else { self.index }
    }

    fn refuse(&mut self, listener: &Listener, client: &Socket, peer: Option<SocketAddr>, reason: CloseReason) {
        listener.stats.cell(self.index).closed[reason.index()].add(1);
        client.reset_on_close();
        if self.options.access != crate::config::Access::Off {
            let id = self.ids.draw();
            self.events.push(Event {
                kind: EventKind::Close,
                time_ms: 0,
                id,
                listener: listener.stats.clone(),
                pool: listener.pool.stats.name.clone(),
                backend: None,
                client: peer,
                local: client.local_address(),
                connect: None,
                duration: Duration::ZERO,
                bytes_in: 0,
                bytes_out: 0,
                datagrams: None,
                spliced_bytes: 0,
                attempts: 0,
                reason: Some(reason),
                sni: None,
                request: None,
            });
        }
    }
}
