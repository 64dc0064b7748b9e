//! Connections on their way to another process, or from one.
//!
//! Parked, a connection is not watched and its timer waits: nobody reads from its sockets or writes to them, so the
//! kernel keeps what comes. From there it goes on here as if nothing had been, or it is forgotten, because it goes on in
//! the other process. Descriptors of its own go out with the batch; the sockets and pipes are the same.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;

use super::connection::{Connection, NEVER, Step, Told, ticks};
use super::open::REPORT_INTERVAL;
use super::token::{Key, Source};
use super::turn::{Worker, enqueue};
use crate::config::Access;
use crate::engine::{AdoptedPair, HandOver, Held, Paused};
use crate::handover::{BackendName, Batch, Pair};
use crate::id::Side;
use crate::limit::ClientKey;
use crate::reason::CloseReason;
use crate::stats::{BackendSlot, BackendStats};
use crate::sys::pipe::Pipe;
use crate::sys::socket::Socket;
use crate::tcp::half::Half;
use crate::tcp::handover as tcp;
use crate::tcp::relay::{End, Relay};
use crate::timer::{TICK_MS, Tick};

/// A connection that has moved nothing for so long is parked before those that have.
const QUIET: Duration = Duration::from_millis(100);

/// Descriptors of one connection at most: two sockets, two pipes.
const PAIR_FDS_MAX: usize = 6;

/// While a hand-over is under way: no new clients, no datagrams.
#[derive(Debug, Default)]
pub struct Parking {
    /// What may be parked, the longest idle one last; `None` = not looked yet.
    waiting: Option<Vec<Key>>,
    parked: Vec<Key>,
    /// What the other process does not take.
    kept: HashSet<Key>,
}

impl Worker {
    pub fn on_hand_over(&mut self, step: HandOver) {
        match step {
            HandOver::Pause(answer) => answer.give(self.pause()),
            HandOver::Park { busy, max, answer } => {
                let batch = self.park(busy, max).map_err(|error| error.to_string());
                answer.give(batch);
            }
            HandOver::Keep(tokens) => tokens.into_iter().for_each(|token| self.keep(token)),
            HandOver::Resume => self.resume(),
            HandOver::Forget(answer) => {
                self.forget();
                answer.give(());
            }
            HandOver::Adopt { last_id, pairs, mut flows } => {
                self.ids.skip(last_id);
                pairs.into_iter().for_each(|pair| self.adopt(pair));
                // The line of flows has the longest idle one first.
                flows.sort_by_key(|flow| flow.flow.active_us);
                flows.into_iter().for_each(|flow| self.adopt_flow(flow));
            }
        }
    }

    /// Whether new clients and datagrams have to wait in the kernel.
    pub const fn is_paused(&self) -> bool {
        self.parking.is_some()
    }

    fn pause(&mut self) -> Paused {
        self.parking.get_or_insert_default();
        let connecting = self.connections.iter().filter(|(_, connection)| {
            let setup = connection.setup.as_ref();
            setup.is_some_and(|setup| matches!(setup.step, Step::Connect(_)) && setup.proves.is_none())
        });
        Paused { connecting: connecting.count(), last_id: self.ids.most() }
    }

    /// The next batch; an empty one when nothing is left.
    fn park(&mut self, busy: bool, max: usize) -> std::io::Result<Batch> {
        let mut batch = Batch::default();
        let mut parking = self.parking.take().unwrap_or_default();
        let mut waiting = match parking.waiting.take() {
            Some(waiting) if !busy || !waiting.is_empty() => waiting,
            // At last those too that were still being established when it was looked first.
            _ => self.candidates(&parking.kept),
        };
        let mut result = Ok(());
        while batch.fds.len() + PAIR_FDS_MAX <= max
            && let Some(key) = waiting.pop()
        {
            let quiet_until = self.find(key).map(|connection| connection.active_at.after(QUIET));
            if !busy && quiet_until.is_some_and(|until| until > self.tick()) {
                waiting.push(key);
                break;
            }
            if !self.may_move(key) {
                continue;
            }
            result = self.save(key, &mut batch);
            if result.is_err() {
                break;
            }
            parking.parked.push(key);
        }
        parking.waiting = Some(waiting);
        self.parking = Some(parking);
        result?;
        if busy && batch.moved.pairs.is_empty() {
            self.park_flows(&mut batch, max)?;
        }
        Ok(batch)
    }

    /// Plain connections that are established, the longest idle one last.
    fn candidates(&self, kept: &HashSet<Key>) -> Vec<Key> {
        let all = self.connections.iter().map(|(_, connection)| connection);
        let mut all: Vec<&Connection> =
            all.filter(|connection| self.may_move(connection.key) && !kept.contains(&connection.key)).collect();
        all.sort_by_key(|connection| std::cmp::Reverse(connection.active_at));
        all.into_iter().map(|connection| connection.key).collect()
    }

    fn may_move(&self, key: Key) -> bool {
        self.find(key).is_some_and(|connection| {
            connection.setup.is_none() && connection.tls.is_none() && connection.backend.is_some() && !connection.parked
        })
    }

    /// Parks a connection and puts it into the batch. Nothing has changed when it fails.
    fn save(&mut self, key: Key, batch: &mut Batch) -> std::io::Result<()> {
        let connection = &mut self.connections[key.slot as usize];
        let (Some(backend), Some(place)) = (&connection.backend, &connection.place) else { return Ok(()) };
        let (to_backend, above) = connection.relay.to_backend.save();
        let (to_client, below) = connection.relay.to_client.save();
        let mut fds = vec![connection.client.duplicate()?, backend.duplicate()?];
        let mut bytes = Vec::new();
        for held in [above, below] {
            match held {
                tcp::Held::Nothing => {}
                tcp::Held::Bytes(held) => bytes.extend_from_slice(held),
                tcp::Held::Pipe(pipe) => {
                    let (read, write) = pipe.duplicate()?;
                    fds.extend([read, write]);
                }
            }
        }
        let (client_ended_first, failing) = connection.relay.save();
        let told = connection.told.as_ref();
        let doom = (connection.kill_at != NEVER).then(|| (us(connection.kill_at), connection.kill_reason));
        let pair = Pair {
            token: key.token(Side::Client) as u64,
            listener: connection.slot.stats().name.clone(),
            backend: name_of(place.stats()),
            id: connection.id,
            peer: connection.peer,
            ends: told.and_then(|told| told.ends),
            server_name: connection.server_name().map(|name| name.to_string()),
            opened_us: connection.opened_us,
            connect_us: connection.connect_us,
            attempts: connection.attempts,
            limited: connection.limited,
            nodelay: connection.nodelay,
            watched: connection.watched,
            hurried: connection.hurried,
            active_us: us(connection.active_at),
            idle_ms: u64::from(connection.idle_ticks) * TICK_MS,
            half_close_ms: u64::from(connection.half_close_ticks) * TICK_MS,
            doom: doom.map(|(at, reason)| (at, reason.as_str().to_owned())),
            report_us: (connection.report_at != NEVER).then(|| us(connection.report_at)),
            client_ended_first,
            failing,
            to_backend,
            to_client,
        };
        for fd in [connection.client.as_raw_fd(), backend.as_raw_fd()] {
            // It is watched, so this cannot fail; an event that is on its way finds a parked connection.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        connection.parked = true;
        batch.moved.pairs.push(pair);
        batch.bytes.append(&mut bytes);
        batch.fds.append(&mut fds);
        Ok(())
    }

    /// A connection or flow that the other process does not take.
    fn keep(&mut self, token: u64) {
        match Source::of(token as usize) {
            Source::Connection(key, _) => {
                if let Some(parking) = &mut self.parking {
                    parking.kept.insert(key);
                }
                self.unpark(key);
            }
            Source::Outlet(key) => self.keep_flow(key),
            Source::Listening(_) | Source::Inlet(_) | Source::Mailbox => {}
        }
    }

    /// Goes on with a connection here. What has happened meanwhile is found by looking.
    fn unpark(&mut self, key: Key) {
        let Some(connection) = self.find_mut(key).filter(|connection| connection.parked) else { return };
        connection.parked = false;
        connection.relay.look_again();
        self.watch_both(key);
    }

    /// Watches both sides and has the relay look at them soon.
    fn watch_both(&mut self, key: Key) {
        let connection = &self.connections[key.slot as usize];
        let fds = [Some(&connection.client), connection.backend.as_ref()].map(|socket| socket.map(AsRawFd::as_raw_fd));
        for (fd, side) in fds.into_iter().zip([Side::Client, Side::Backend]) {
            if fd.is_none_or(|fd| self.watch(fd, key, side).is_err()) {
                return self.close(key, End::reset(CloseReason::ResourceExhausted));
            }
        }
        self.arm_relay(key);
        self.pump_later(key);
    }

    /// Nothing came of the hand-over.
    fn resume(&mut self) {
        let Some(parking) = self.parking.take() else { return };
        parking.parked.into_iter().for_each(|key| self.unpark(key));
        self.resume_flows();
        // What was ready meanwhile stands in the queues, but a batch may have been cut short before the pause.
        let all: Vec<usize> = self.listening.iter().map(|(at, _)| at).collect();
        all.into_iter().for_each(|at| enqueue(&mut self.acceptable, at));
    }

    /// The other process has it all: nothing is ended, counted or logged here, and no socket is touched but to let go.
    fn forget(&mut self) {
        let Some(parking) = self.parking.take() else { return };
        for key in parking.parked {
            if self.find(key).is_none_or(|connection| !connection.parked) {
                continue;
            }
            let mut connection = self.connections.remove(key.slot as usize);
            self.wheel.cancel(key.slot as usize);
            connection.relay.abandon(&mut self.room);
            if connection.limited
                && let Some(client) = connection.client_address()
            {
                connection.slot.stats().clients.release(ClientKey::from(client.ip()));
            }
            self.stats().active.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            // It has its place at the backend still: nobody who waits here is called for it.
            connection.place.take().into_iter().for_each(BackendSlot::leave);
        }
        for listening in self.listening.drain() {
            // The other process has the same socket, which would stay in the poll.
            let _ = self.poll.registry().deregister(&mut SourceFd(&listening.socket.as_raw_fd()));
        }
        self.acceptable.clear();
        self.forget_flows();
    }

    /// Goes on with a connection of another process.
    fn adopt(&mut self, adopted: AdoptedPair) {
        let AdoptedPair { pair, client, backend, held, slot, place } = adopted;
        let [above, below] = held.map(|held| self.take_held(held));
        self.opened += 1;
        let key = Key::new(self.connections.vacant_key(), self.opened);
        let server_name = pair.server_name.map(Into::into);
        let has_told = pair.ends.is_some() || server_name.is_some();
        let to_backend = Half::resume(&pair.to_backend, above);
        let to_client = Half::resume(&pair.to_client, below);
        let (kill_at, kill_reason) = match pair.doom {
            Some((at, reason)) => (tick(at), reason_of(&reason)),
            None => (NEVER, CloseReason::Drained),
        };
        self.connections.insert(Connection {
            key,
            client: Socket::from(client),
            backend: Some(Socket::from(backend)),
            slot,
            place: Some(place),
            tls: None,
            setup: None,
            relay: Relay::resume(to_backend, to_client, pair.client_ended_first, pair.failing),
            peer: pair.peer,
            told: has_told.then(|| Box::new(Told { ends: pair.ends, server_name })),
            id: pair.id,
            opened_us: pair.opened_us,
            connect_us: pair.connect_us,
            attempts: pair.attempts,
            limited: pair.limited,
            nodelay: pair.nodelay,
            watched: pair.watched,
            hurried: pair.hurried,
            parked: false,
            on_run_queue: false,
            active_at: tick(pair.active_us),
            idle_ticks: ticks(Duration::from_millis(pair.idle_ms)),
            half_close_ticks: ticks(Duration::from_millis(pair.half_close_ms)),
            kill_at,
            kill_reason,
            report_at: match self.options.access {
                Access::All => pair.report_us.map_or(self.tick().after(REPORT_INTERVAL), tick),
                Access::Close | Access::Off => NEVER,
            },
        });
        self.stats().active.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.watch_both(key);
    }

    fn take_held(&mut self, held: Held) -> tcp::Held<Vec<u8>, Pipe> {
        match held {
            Held::Nothing => tcp::Held::Nothing,
            Held::Bytes(bytes) => tcp::Held::Bytes(bytes),
            Held::Pipe(read, write) => {
                self.room.pipes.adopt();
                tcp::Held::Pipe(Pipe::of((read, write)))
            }
        }
    }
}

/// What a backend is called in another process.
pub fn name_of(backend: &BackendStats) -> BackendName {
    let (pool, name, address) = (backend.pool.name.to_string(), backend.name.clone(), backend.address.clone());
    BackendName { pool, name, address }
}

/// Microseconds of the workers' clock.
pub fn us(tick: Tick) -> u64 {
    u64::try_from(tick.since_start().as_micros()).unwrap_or(u64::MAX)
}

/// The opposite.
pub fn tick(us: u64) -> Tick {
    Tick::at(Duration::from_micros(us))
}

/// A reason by its name; one that is not known here is the one of a drain.
pub fn reason_of(name: &str) -> CloseReason {
    CloseReason::ALL.into_iter().find(|reason| reason.as_str() == name).unwrap_or(CloseReason::Drained)
}

/// A descriptor that another process is given.
pub fn duplicate(fd: &impl std::os::fd::AsFd) -> std::io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
