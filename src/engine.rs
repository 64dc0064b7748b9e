//! What control and the engines tell each other. The engines, which are the workers and the gateway, take the same
//! commands and give the same notes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Bind;
use crate::handover::{self, Batch};
use crate::id::{BackendId, ListenerId};
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot::Backend;
use crate::stats::{BackendSlot, ListenerSlot};

/// What control tells a thread of an engine.
#[derive(Debug)]
pub enum Command {
    /// Accept from this bound and listening, non-blocking socket.
    Listen {
        /// Whose it is.
        listener: ListenerId,
        /// Where it is bound, as the file has it: with the listener its identity.
        bind: Bind,
        /// The thread closes its descriptor when told to [`Command::Unlisten`].
        socket: OwnedFd,
    },
    /// Take what waits in the backlog, then close the socket.
    Unlisten {
        /// Whose it is.
        listener: ListenerId,
        /// Which of its sockets.
        bind: Bind,
    },
    /// End these connections: they are left alone until `deadline - spread`, then ended evenly, all by `deadline`.
    /// [`Scope::All`] closes all listening sockets too.
    Drain {
        /// Which connections.
        scope: Scope,
        /// From now.
        deadline: Duration,
        /// The last part of `deadline`.
        spread: Duration,
    },
    /// End the backend's connections, evenly over `spread`.
    CloseBackend {
        /// Whose connections.
        backend: BackendId,
        /// It is down, or an operator says so.
        reason: CloseReason,
        /// From now.
        spread: Duration,
    },
    /// A new snapshot is there: look at it even when nothing else happens.
    Wake,
    /// End every connection now, then the thread.
    Stop,
    /// What only workers know of: an upgrade.
    HandOver(HandOver),
}

/// The steps of an upgrade, as a worker takes part in it; see `worker::handover`.
#[derive(Debug)]
pub enum HandOver {
    /// Take no new clients and no datagrams for a moment: they wait in the kernel.
    Pause(Answer<Paused>),
    /// Lay connections and flows aside that may be handed over, the longest idle ones first. An empty batch: that was all.
    Park {
        /// Also those that move bytes just now.
        busy: bool,
        /// Descriptors in the batch.
        max: usize,
        /// The batch, with descriptors of its own.
        answer: Answer<Result<Batch, String>>,
    },
    /// Nothing comes of it: go on as if nothing had been.
    Resume,
    /// The successor does not take these, by their tokens.
    Keep(Vec<u64>),
    /// The successor has taken all others over, and the sockets that are listened on.
    Forget(Answer<()>),
    /// Go on with these, which a predecessor has handed over.
    Adopt {
        /// The last id of the predecessor in the log.
        last_id: u64,
        /// Connections.
        pairs: Vec<AdoptedPair>,
        /// Flows.
        flows: Vec<AdoptedFlow>,
    },
}

/// Where a thread puts an answer that control waits for.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// It goes there.
    pub fn new(put: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(put))
    }

    /// The one time.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> std::fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

/// How a worker stands that takes no new clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paused {
    /// Connections that will be established, or have failed, in a moment.
    pub connecting: usize,
    /// Its last id in the log.
    pub last_id: u64,
}

/// A connection that goes on here.
#[derive(Debug)]
pub struct AdoptedPair {
    /// How far it has come.
    pub pair: handover::Pair,
    /// The client's socket.
    pub client: OwnedFd,
    /// The backend's.
    pub backend: OwnedFd,
    /// What is held for the backend, and for the client.
    pub held: [Held; 2],
    /// Its place among the listener's connections.
    pub slot: ListenerSlot,
    /// Its place on the backend.
    pub place: BackendSlot,
}

/// What a direction holds.
#[derive(Debug)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Bytes.
    Bytes(Vec<u8>),
    /// A pipe with bytes in it: its read and its write end.
    Pipe(OwnedFd, OwnedFd),
}

/// A flow that goes on here.
#[derive(Debug)]
pub struct AdoptedFlow {
    /// How far it has come.
    pub flow: handover::Flow,
    /// The socket towards the backend.
    pub outlet: OwnedFd,
    /// Its place among the listener's flows.
    pub slot: ListenerSlot,
    /// Its place on the backend.
    pub place: BackendSlot,
    /// Who serves it.
    pub backend: Arc<Backend>,
}

/// Whose connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's: the process goes away.
    All,
    /// Those of a listener that was removed or takes no clients.
    Listener(ListenerId),
    /// Those of a backend that was removed.
    Backend(BackendId),
}

/// What an engine tells control.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// An attempt to connect failed.
    ConnectFailed {
        /// At whom.
        backend: BackendId,
        /// How.
        failure: ConnectFailure,
    },
    /// The backend reset a connection before either side had sent a byte.
    EarlyReset {
        /// Which one.
        backend: BackendId,
    },
    /// The backend did not answer a request, or not with what the pool takes for an answer.
    BadResponse {
        /// Which one.
        backend: BackendId,
    },
}

/// Where engines put their notes; must not block, and may lose a note when control is overwhelmed.
pub type Notes = Arc<dyn Fn(Note) + Send + Sync>;

/// How connections and flows are ended by force.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// All have ended by then, from now.
    pub deadline: Duration,
    /// They end evenly over the last part of the deadline.
    pub spread: Duration,
}

/// The share by which connections may fall short of `max_age`: those that came together do not go together.
const AGE_JITTER: f64 = 0.1;

/// The age that one connection may reach.
pub fn age(max: Duration, rng: &mut fastrand::Rng) -> Duration {
    max.mul_f64(1.0 - AGE_JITTER * rng.f64())
}

impl Ending {
    /// So many moments, evenly spread with jitter, so that clients do not all come back at once.
    pub fn times(self, now: Duration, count: usize, rng: &mut fastrand::Rng) -> Vec<Duration> {
        let spread = self.spread.min(self.deadline);
        let start = now + (self.deadline - spread);
        let share = spread.as_secs_f64() / count.max(1) as f64;
        (0..count).map(|i| start + Duration::from_secs_f64(share * (i as f64 + rng.f64()))).collect()
    }
}
