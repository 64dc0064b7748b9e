//! The access log's events on their way from the workers to the writer: one bounded buffer for each worker.
//!
//! A worker must never wait for a disk or a journal. It puts an event into its buffer, which only the writer shares;
//! when the writer falls behind, events are dropped and counted.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::reason::CloseReason;
use crate::stats::{BackendStats, ListenerStats};

/// Events that wait to be written; what comes beyond is dropped and counted.
pub const EVENTS_MAX: usize = 65_536;

/// What happened to a connection. Fields as in the log; see docs/observability.md.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which of the three.
    pub kind: EventKind,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Unique while the process lives.
    pub id: u64,
    /// The listener.
    pub listener: Arc<ListenerStats>,
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend, once one was chosen.
    pub backend: Option<Arc<BackendStats>>,
    /// The client, as its PROXY header has it where one was accepted; `None` on a unix socket.
    pub client: Option<SocketAddr>,
    /// The address the client spoke to.
    pub local: Option<SocketAddr>,
    /// How long the successful connect took.
    pub connect: Option<Duration>,
    /// Since accept.
    pub duration: Duration,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    /// Datagrams from and to the client; `None` for a connection.
    pub datagrams: Option<(u64, u64)>,
    /// Of both, those through kernel pipes.
    pub spliced_bytes: u64,
    /// Attempts to connect.
    pub attempts: u32,
    /// Why it ended; `None` but for [`EventKind::Close`].
    pub reason: Option<CloseReason>,
    /// The server that a TLS client asked for, where the listener looks.
    pub sni: Option<Arc<str>>,
    /// What only a request has.
    pub request: Option<Box<Request>>,
}

/// What an event of [`EventKind::Request`] has beside the rest.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET and the like.
    pub method: String,
    /// In canonical form; empty when there is none.
    pub host: String,
    /// In canonical form; a query is only hinted at unless the listener logs it.
    pub path: String,
    /// "HTTP/1.1", for one.
    pub version: &'static str,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// Who it was, by the route's `auth`.
    pub consumer: Option<Arc<str>>,
    /// What the client was answered.
    pub status: u16,
    /// Why the gateway answered by itself.
    pub refusal: Option<&'static str>,
    /// From the request's head to the answer's.
    pub first_byte: Option<Duration>,
    /// The id that the backend was given too.
    pub request_id: Option<String>,
    /// The answer's body ended before its end.
    pub is_cut: bool,
}

/// When an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The backend is connected.
    Open,
    /// It still lasts.
    Interval,
    /// It has ended, or was refused.
    Close,
    /// A request has been answered.
    Request,
}

impl EventKind {
    /// The log text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Interval => "interval",
            Self::Close => "close",
            Self::Request => "request",
        }
    }
}

/// The buffer between all workers and the writer.
#[derive(Debug, Default)]
pub struct Journal {
    buffer: Mutex<Buffer>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    events: Vec<Event>,
    dropped: u64,
    closed: bool,
}

impl Journal {
    /// Takes a turn's events over, leaving `events` empty. Wakes the writer only when the buffer was empty.
    pub fn push(&self, events: &mut Vec<Event>) {
        let mut buffer = self.lock();
        let room = EVENTS_MAX - buffer.events.len();
        buffer.dropped += events.len().saturating_sub(room) as u64;
        events.truncate(room);
        let was_empty = buffer.events.is_empty();
        buffer.events.append(events);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits for events and swaps them into `into` (which is emptied first). False when closed and all were taken.
    pub fn wait(&self, into: &mut Vec<Event>) -> bool {
        into.clear();
        let mut buffer = self.lock();
        while buffer.events.is_empty() && !buffer.closed {
            buffer = self.filled.wait(buffer).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        std::mem::swap(&mut buffer.events, into);
        !into.is_empty()
    }

    /// No more events will come: the writer ends once it has written what is there.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// So many events could not be written.
    pub fn lose(&self, count: usize) {
        self.lock().dropped += count as u64;
    }

    /// Events that were dropped because the writer fell behind, or could not write.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
