//! A flow: who speaks with whom, what has passed, and how far it has come.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::line::{Linked, Links};
use crate::reason::CloseReason;
use crate::snapshot::Backend;
use crate::stats::{BackendSlot, ListenerSlot};
use crate::timer::Tick;

/// What makes a flow: all datagrams with the same of both belong to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The client.
    pub client: SocketAddr,
    /// The address that the client spoke to, where the listener has several; replies leave from it.
    pub local: Option<IpAddr>,
}

/// A flow with its backend; `S` is the worker's socket towards it.
#[derive(Debug)]
pub struct Flow<S> {
    /// Whose it is.
    pub peer: Peer,
    /// Unique while the process lives, for the log.
    pub id: u64,
    /// Who serves it.
    pub backend: Arc<Backend>,
    /// Where its datagrams go out; none until the worker has opened one, and while it is given another backend.
    pub socket: Option<S>,
    /// Since the start of time.
    pub opened: Duration,
    /// Datagrams from the client.
    pub datagrams_in: u64,
    /// Datagrams to the client.
    pub datagrams_out: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Backends it has had.
    pub attempts: u32,
}

impl<S> Flow<S> {
    /// How long ago it was opened.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.opened)
    }
}

/// A flow in its table, with what only the table asks. The places go back as soon as it is taken out.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub flow: Flow<S>,
    /// The place reserved on its backend.
    pub place: BackendSlot,
    /// The place among the listener's flows.
    pub slot: ListenerSlot,
    /// Replies that are still to come, where the listener says how many each datagram has.
    pub awaited: u64,
    /// When a datagram passed last.
    pub active_at: Tick,
    /// Its client has answered a reply: it is no forged address.
    pub settled: bool,
    /// The backend's host has said that nobody listens there.
    pub refused: bool,
    /// When it will be ended by force, and why.
    pub doom: Option<(Tick, CloseReason)>,
    pub links: Links,
}

impl<S> Linked for Entry<S> {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}
