//! What control and the engines tell each other. The engines, which are the workers and the gateway, take the same
//! commands and give the same notes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Bind;
use crate::id::{BackendId, ListenerId};
use crate::reason::{CloseReason, ConnectFailure};

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
