//! A connection's state in the worker: what an idle one costs is this struct, a place in the timer wheel, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::token::Key;
use crate::id::BackendId;
use crate::queue::Ticket;
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot::{Listener, Pool};
use crate::stats::{BackendSlot, ListenerSlot};
use crate::sys::pipe::Pipe;
use crate::sys::socket::Socket;
use crate::tcp::relay::Relay;
use crate::tcp::tls::Sessions;
use crate::timer::{TICK_MS, Tick};

/// Later than any time.
pub const NEVER: Tick = Tick(u64::MAX);

/// A connection, from accept to its end.
#[derive(Debug)]
pub struct Connection {
    pub key: Key,
    pub client: Socket,
    /// While connecting, and from then on.
    pub backend: Option<Socket>,
    pub slot: ListenerSlot,
    /// The place reserved on the backend.
    pub place: Option<BackendSlot>,
    /// Where TLS is spoken with the client or with the backend.
    pub tls: Option<Box<Sessions>>,
    /// Until the relay has begun.
    pub setup: Option<Box<Setup>>,
    pub relay: Relay<Pipe>,
    /// Who connected; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// What its first bytes said.
    pub told: Option<Box<Told>>,
    pub id: u64,
    /// Microseconds since the worker's start.
    pub opened_us: u64,
    pub connect_us: u32,
    pub attempts: u16,
    /// It counts among its client's connections.
    pub limited: bool,
    /// The backend side sends small segments at once.
    pub nodelay: bool,
    /// Dead-peer detection is on.
    pub watched: bool,
    /// One side has ended or failed, and the timer knows that the rest has less time.
    pub hurried: bool,
    /// On its way to another process: nobody moves its bytes.
    pub parked: bool,
    /// It is on the run queue.
    pub on_run_queue: bool,
    /// When bytes moved last.
    pub active_at: Tick,
    /// 0 = never.
    pub idle_ticks: u32,
    pub half_close_ticks: u32,
    /// When it will be ended by force; [`NEVER`] unless something says so.
    pub kill_at: Tick,
    pub kill_reason: CloseReason,
    /// When the log hears of it next; [`NEVER`] = only at its end.
    pub report_at: Tick,
}

/// What the first bytes of a connection said of it.
#[derive(Debug, Default)]
pub struct Told {
    /// Source and destination, by an accepted PROXY header.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The server that the client asks for, by its TLS hello.
    pub server_name: Option<Arc<str>>,
}

/// What a connection needs until it is established; given back then.
#[derive(Debug)]
pub struct Setup {
    pub listener: Arc<Listener>,
    /// The pool that serves it, or in whose queue it stands.
    pub pool: Arc<Pool>,
    pub step: Step,
    pub deadline: Tick,
    /// Backends that failed for this connection.
    pub tried: Vec<BackendId>,
    pub last_failure: Option<ConnectFailure>,
    /// What the client sent before the relay began: a PROXY header in parts, then what came behind it. Read only as far
    /// as a header or a hello is awaited, and both have a limit.
    pub received: Vec<u8>,
    /// How TLS is to be spoken with the backend under way, and whom it must prove to be.
    pub proves: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

/// What a connection that is being set up waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client's PROXY header.
    Header,
    /// The client's TLS hello, which is not worth looking at before so many bytes have been received.
    Hello(usize),
    /// The client's part in the handshake of TLS.
    Handshake,
    /// A backend under its limit.
    Queue(Ticket),
    /// The backend's answer; connecting since then.
    Connect(Duration),
    /// The backend's part in the handshake of TLS; connecting since then.
    Secure(Duration),
    /// A moment, because every backend was tried and more attempts are left.
    Pause,
}

impl Connection {
    /// Whether it has a place on this backend.
    pub fn is_on(&self, backend: BackendId) -> bool {
        self.place.as_ref().is_some_and(|place| place.stats().id == backend)
    }

    /// The client's address, as its PROXY header has it where one was accepted.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.ends().map_or(self.peer, |(client, _)| Some(client))
    }

    /// The address the client spoke to: a system call unless a PROXY header told it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.ends().map_or_else(|| self.client.local_address(), |(_, local)| Some(local))
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.told.as_ref()?.ends
    }

    /// The server that the client asks for, where its listener looks.
    pub fn server_name(&self) -> Option<&Arc<str>> {
        self.told.as_ref()?.server_name.as_ref()
    }

    /// How long ago it was accepted.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_micros(self.opened_us))
    }

    /// When a timer has to look at it next, unless something moves.
    pub fn deadline(&self) -> Tick {
        if let Some(setup) = &self.setup {
            return setup.deadline.min(self.kill_at);
        }
        let silent = self.silence().map_or(NEVER, |(ticks, _)| Tick(self.active_at.0 + u64::from(ticks)));
        silent.min(self.kill_at).min(self.report_at)
    }

    /// How long it may be silent, and what its end is called then.
    pub fn silence(&self) -> Option<(u32, CloseReason)> {
        if self.relay.is_half_closed() {
            let ticks = match self.idle_ticks {
                0 => self.half_close_ticks,
                idle => idle.min(self.half_close_ticks),
            };
            return Some((ticks, CloseReason::HalfCloseTimeout));
        }
        (self.idle_ticks > 0).then_some((self.idle_ticks, CloseReason::ClientIdle))
    }
}

/// A duration in ticks of the wheel, rounded up; what is longer than a year is a year.
pub fn ticks(duration: Duration) -> u32 {
    const YEAR_TICKS: u64 = 365 * 86_400_000 / TICK_MS;
    let ticks = duration.as_millis().div_ceil(u128::from(TICK_MS));
    u64::try_from(ticks).unwrap_or(YEAR_TICKS).min(YEAR_TICKS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_at_most_256_bytes() {
        assert!(size_of::<Connection>() <= 256, "{}", size_of::<Connection>());
    }

    #[test]
    fn a_duration_is_never_cut_short_by_the_wheel() {
        assert_eq!(ticks(Duration::ZERO), 0);
        assert_eq!(ticks(Duration::from_millis(1)), 1);
        assert_eq!(ticks(Duration::from_millis(TICK_MS)), 1);
        assert_eq!(ticks(Duration::from_millis(TICK_MS + 1)), 2);
    }
}
