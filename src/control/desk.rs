//! The desk: where the admin API, the metrics endpoint and an embedding program hand in their requests. The
//! supervisor answers each one in its turn, so nobody else ever touches what is wanted.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api;

/// Requests that wait; a caller beyond waits for its turn.
const REQUESTS_MAX: usize = 64;

/// A request with the place for its answer.
#[derive(Debug)]
pub enum Request {
    /// The whole state.
    Status(oneshot::Sender<api::Status>),
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
    /// End within this time, or the file's; answered with the one that holds.
    Drain(Option<Duration>, oneshot::Sender<Duration>),
    /// The effective configuration as a file.
    Config(oneshot::Sender<String>),
    /// The metrics as Prometheus text.
    Metrics(oneshot::Sender<String>),
    /// End at once.
    Stop,
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
