//! A connection's two directions, and how its end is told from theirs.

use super::conduit::{Conduit, Room, Stream};
use super::half::{Fault, Half, Pumped};
use crate::id::Side;
use crate::reason::CloseReason;

/// What a pump of both directions led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more to do until an event comes.
    Waiting,
    /// A budget was spent: pump again without waiting for an event.
    Again,
    /// The connection is over.
    Ended(End),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: CloseReason,
    /// Whether both sides must see a reset: bytes may be missing, and a FIN would hide that.
    pub reset: bool,
}

impl End {
    /// An end by force or by fault.
    pub const fn reset(reason: CloseReason) -> Self {
        Self { reason, reset: true }
    }

    pub(super) fn fault(side: Side, fault: Fault) -> Self {
        Self::reset(match (fault, side) {
            (Fault::Reset, Side::Client) => CloseReason::ClientReset,
            (Fault::Reset, Side::Backend) => CloseReason::BackendReset,
            (Fault::Lost, Side::Client) => CloseReason::ClientLost,
            (Fault::Lost, Side::Backend) => CloseReason::BackendLost,
            (Fault::Exhausted, _) => CloseReason::ResourceExhausted,
        })
    }
}

/// What an event said of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// It may have bytes.
    pub readable: bool,
    /// It may take bytes.
    pub writable: bool,
    /// It has sent FIN, and no error came with it.
    pub fin: bool,
    /// It has sent urgent data.
    pub urgent: bool,
    /// It failed: reads or writes will tell how, once what came before has been read.
    pub error: bool,
}

/// Both directions of an established connection.
#[derive(Debug)]
pub struct Relay<P> {
    /// From the client to the backend.
    pub to_backend: Half<P>,
    /// From the backend to the client.
    pub to_client: Half<P>,
    pub(super) first_fin: Option<Side>,
    /// A side failed, while what it had sent before is still being passed on.
    pub(super) failing: bool,
}

impl<P> Default for Relay<P> {
    fn default() -> Self {
        Self { to_backend: Half::default(), to_client: Half::default(), first_fin: None, failing: false }
    }
}

impl<P> Relay<P> {
    /// Bytes delivered in both directions: it grows whenever something moved.
    pub fn bytes(&self) -> u64 {
        self.to_backend.bytes + self.to_client.bytes
    }

    /// Whether one side has ended or failed, so that the rest has less time.
    pub fn is_half_closed(&self) -> bool {
        self.first_fin.is_some() || self.failing
    }

    /// Whether it carries much at once, in either direction.
    pub fn is_streaming(&self) -> bool {
        self.to_backend.is_streaming() || self.to_client.is_streaming()
    }

    /// Takes note of an event. True when nobody reads from that side any more and its error must be asked for: hand it
    /// to [`Self::failed`].
    pub fn event(&mut self, side: Side, ready: Readiness) -> bool {
        let (from, to) = match side {
            Side::Client => (&mut self.to_backend, &mut self.to_client),
            Side::Backend => (&mut self.to_client, &mut self.to_backend),
        };
        if ready.urgent || ready.error {
            from.distrust_short_reads();
        }
        if ready.readable || ready.error || ready.fin {
            from.source_event(ready.fin && !ready.error);
        }
        if ready.writable || ready.error {
            to.sink_event();
        }
        self.failing |= ready.error;
        ready.error && from.at_eof()
    }

    /// A side that had sent FIN failed afterwards.
    pub fn failed(&self, side: Side, error: &std::io::Error) -> End {
        End::fault(side, Fault::of(error))
    }
}

impl<P: Conduit> Relay<P> {
    /// Moves what can be moved, both ways.
    pub fn pump<S: Stream<Pipe = P>>(&mut self, client: &mut S, backend: &mut S, room: &mut Room<P>) -> Progress {
        let up = self.to_backend.pump(client, backend, room, self.to_client.is_over());
        if let Some(end) = self.settle(Side::Client, up, room) {
            return Progress::Ended(end);
        }
        let down = self.to_client.pump(backend, client, room, self.to_backend.is_over());
        if let Some(end) = self.settle(Side::Backend, down, room) {
            return Progress::Ended(end);
        }
        // The second direction may have found the first one's source broken.
        let again = up == Pumped::Again || down == Pumped::Again || matches!(down, Pumped::SinkFailed(_));
        if again { Progress::Again } else { Progress::Waiting }
    }

    /// Drops what is held, so that the pipes go back: the last call before the sockets are closed.
    pub fn abandon(&mut self, room: &mut Room<P>) {
        self.to_backend.abandon(room);
        self.to_client.abandon(room);
    }

    /// What the end of the direction that reads from `source` means for the connection.
    fn settle(&mut self, source: Side, pumped: Pumped, room: &mut Room<P>) -> Option<End> {
        let (this, other) = match source {
            Side::Client => (&mut self.to_backend, &mut self.to_client),
            Side::Backend => (&mut self.to_client, &mut self.to_backend),
        };
        match pumped {
            Pumped::Blocked | Pumped::Again => None,
            Pumped::SourceFailed(fault) => Some(End::fault(source, fault)),
            Pumped::SinkFailed(fault) => {
                // What the sink had sent before it broke still belongs to the source: an early answer, for one.
                this.abandon(room);
                if other.is_over() || fault == Fault::Exhausted {
                    return Some(End::fault(source.other(), fault));
                }
                other.source_broke(fault);
                self.failing = true;
                None
            }
            Pumped::Finished => {
                let first = *self.first_fin.get_or_insert(source);
                let over = self.to_backend.is_over() && self.to_client.is_over();
                let reason = match first {
                    Side::Client => CloseReason::ClientClosed,
                    Side::Backend => CloseReason::BackendClosed,
                };
                over.then_some(End { reason, reset: false })
            }
        }
    }
}
