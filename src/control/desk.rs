//! The desk: where the admin API, the metrics endpoint and an embedding program hand in their requests. The
//! supervisor answers each one in its turn, so nobody else ever touches what is wanted.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::events;
use crate::api;
use crate::config::Drain;

/// Requests that wait; a caller beyond waits for its turn.
const REQUESTS_MAX: usize = 64;

/// A request with the place for its answer.
#[derive(Debug)]
pub enum Request {
    /// The whole state.
    Status(oneshot::Sender<api::Status>),
    /// The whole state and the last events.
    Overview(oneshot::Sender<api::Overview>),
    /// One pool, when there is one of that name.
    Pool(String, oneshot::Sender<Option<api::Pool>>),
    /// An operator's override.
    Change {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        backend: String,
        /// What is to change.
        change: api::Change,
        /// The backends that it changed.
        answer: oneshot::Sender<Result<Vec<api::Backend>, Refusal>>,
    },
    /// Read the file again.
    Reload(oneshot::Sender<Result<api::Reloaded, Refusal>>),
    /// Have the program on disk take over.
    Upgrade(oneshot::Sender<Result<api::Upgraded, Refusal>>),
    /// End a backend's connections, evenly over this time or the file's `drain.spread`.
    Close {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        backend: String,
        /// Over how long.
        spread: Option<Duration>,
        /// What there is to end.
        answer: oneshot::Sender<Result<api::Closing, Refusal>>,
    },
    /// A listener takes no clients, or takes them again.
    Listener {
        /// Its name.
        name: String,
        /// What it is to do.
        change: ListenerChange,
        /// What has become of it.
        answer: oneshot::Sender<Result<api::Listener, Refusal>>,
    },
    /// End within this time, or the file's; answered with the longest that holds.
    Drain(Span, oneshot::Sender<Result<Duration, Refusal>>),
    /// The effective configuration as a file.
    Config(oneshot::Sender<String>),
    /// A place among those who follow the events; `None` = all are taken.
    Follow(oneshot::Sender<Option<events::Place>>),
    /// The next events after the one of this number.
    Events(u64, oneshot::Sender<Vec<api::Event>>),
    /// The metrics as Prometheus text.
    Metrics(oneshot::Sender<String>),
    /// End at once.
    Stop,
}

/// What a listener is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerChange {
    /// Take clients.
    Ready,
    /// Take none, and end its connections.
    Drain(Span),
}

/// How connections are to end; what is not given is as the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// All have ended by then.
    pub deadline: Option<Duration>,
    /// They end evenly over this last part of it.
    pub spread: Option<Duration>,
}

impl Span {
    /// The whole of it.
    pub fn over(self, file: Drain) -> Drain {
        let deadline = self.deadline.unwrap_or(file.deadline);
        Drain { deadline, spread: self.spread.unwrap_or(file.spread).min(deadline) }
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Unknown(String),
    /// It makes no sense as it is.
    Invalid(String),
    /// It was right, but could not be done.
    Failed(String),
}

/// A handle for making requests.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Request>);

/// The supervisor's side.
pub type Requests = mpsc::Receiver<Request>;

/// The supervisor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is ending")]
pub struct Gone;

impl Desk {
    /// A desk and the supervisor's side of it.
    pub fn open() -> (Self, Requests) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        (Self(sender), requests)
    }

    /// Hands in a request and waits for its answer.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Gone> {
        let (sender, answer) = oneshot::channel();
        self.0.send(request(sender)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// The same from a thread without a runtime.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub fn ask_blocking<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Gone> {
        let (sender, answer) = oneshot::channel();
        self.0.blocking_send(request(sender)).map_err(|_| Gone)?;
        answer.blocking_recv().map_err(|_| Gone)
    }

    /// Ends the process's work at once; from a thread without a runtime.
    pub fn stop(&self) {
        // When it is gone, it has ended already.
        let _ = self.0.blocking_send(Request::Stop);
    }
}
