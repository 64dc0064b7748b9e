//! The choice of a backend for a client: connect, on failure another one, or a place in the pool's queue.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use super::connection::Step;
use super::mailbox::{Mailbox, Message};
use super::token::{Key, Source};
use super::turn::Worker;
use crate::balance::{self, Cursor, RETRY_PAUSE};
use crate::config::Endpoint;
use crate::engine::Note;
use crate::id::Side;
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot::{Backend, Pick, Pool};
use crate::stats::BackendSlot;
use crate::sys::socket::Socket;
use crate::tcp::relay::End;

/// What one try to find a backend came to.
enum Outcome {
    /// It goes on by itself: connecting, or pausing.
    UnderWay,
    /// Those that are left are at their limit.
    Full(Arc<Pool>),
    Ended(CloseReason),
}

impl Worker {
    /// Finds a backend and starts to connect.
    pub fn choose(&mut self, key: Key) {
        let outcome = self.try_backends(key);
        self.follow(key, outcome);
    }

    fn follow(&mut self, key: Key, outcome: Outcome) {
        match outcome {
            Outcome::UnderWay => {}
            Outcome::Full(pool) => self.line_up(key, &pool),
            Outcome::Ended(reason) => self.close(key, End::reset(reason)),
        }
    }

    /// Asks one backend after the other until an attempt is under way or all are used up.
    fn try_backends(&mut self, key: Key) -> Outcome {
        loop {
            let Some(pool) = self.route(key) else { return Outcome::UnderWay };
            let connection = &mut self.connections[key.slot as usize];
            let client =
                connection.client_address().map_or(connection.id, |address| balance::hash_client(address.ip()));
            let Some(setup) = &mut connection.setup else { return Outcome::UnderWay };
            if u32::from(connection.attempts) >= pool.config.connect.attempts.get() {
                return Outcome::Ended(given_up(setup.last_failure));
            }
            let index = self.index as u32;
            let cursor = self.cursors.entry(pool.id).or_insert_with(|| Cursor::new(index));
            match pool.pick(client, &setup.tried, cursor, &mut self.rng) {
                Pick::Backend(backend, place) => {
                    connection.attempts += 1;
                    match self.connect(key, &pool, backend, place) {
                        Ok(()) => return Outcome::UnderWay,
                        Err(failure) => self.note_failure(key, failure),
                    }
                }
                Pick::Full => return Outcome::Full(pool),
                Pick::Nobody if setup.tried.is_empty() => {
                    pool.stats.cell(self.index).no_backend.add(1);
                    return Outcome::Ended(CloseReason::NoBackend);
                }
                Pick::Nobody => {
                    setup.tried.clear();
                    self.wait(key, Step::Pause, RETRY_PAUSE);
                    return Outcome::UnderWay;
                }
            }
        }
    }

    /// The pool that serves it by now: a reload may have given its listener another one, or its server's name. What is
    /// gone from the file stays as the connection knows it.
    pub fn route(&mut self, key: Key) -> Option<Arc<Pool>> {
        let connection = &mut self.connections[key.slot as usize];
        let server_name = connection.server_name().cloned();
        let setup = connection.setup.as_mut()?;
        if let Some(listener) = self.snapshot.listener(setup.listener.id)
            && !Arc::ptr_eq(listener, &setup.listener)
        {
            setup.listener = listener.clone();
        }
        let pool = setup.listener.pool_for(server_name.as_deref());
        if !Arc::ptr_eq(pool, &setup.pool) {
            setup.pool = pool.clone();
        }
        Some(setup.pool.clone())
    }

    fn connect(&mut self, key: Key, pool: &Pool, backend: &Backend, place: BackendSlot) -> Result<(), ConnectFailure> {
        let connection = &mut self.connections[key.slot as usize];
        if connection.attempts > 1 {
            backend.stats.cell(self.index).retries.add(1);
        }
        connection.place = Some(place);
        if let (Some(tls), Some(setup)) = (&pool.tls, &mut connection.setup) {
            let name = tls.name_of(&backend.config.address).ok_or(ConnectFailure::Tls)?;
            setup.proves = Some((tls.plain.clone(), name));
        }
        let socket = match &backend.endpoint {
            Endpoint::Ip(address) => Socket::connect_ip(*address, pool.config.source),
            Endpoint::Unix(path) => Socket::connect_unix(path),
        };
        let socket = socket.map_err(|error| ConnectFailure::of(&error))?;
        let fd = socket.as_raw_fd();
        connection.backend = Some(socket);
        self.watch(fd, key, Side::Backend).map_err(|_| ConnectFailure::NoResource)?;
        self.wait(key, Step::Connect(self.now), pool.config.connect.timeout);
        Ok(())
    }

    /// Goes to the next step of the set-up, for so long.
    pub fn wait(&mut self, key: Key, step: Step, time: Duration) {
        let deadline = self.tick().after(time);
        if let Some(setup) = &mut self.connections[key.slot as usize].setup {
            setup.step = step;
            setup.deadline = deadline;
        }
        self.arm(key);
    }

    /// The attempt under way has failed: on to the next one.
    pub fn attempt_failed(&mut self, key: Key, failure: ConnectFailure) {
        self.note_failure(key, failure);
        self.choose(key);
    }

    fn note_failure(&mut self, key: Key, failure: ConnectFailure) {
        let connection = &mut self.connections[key.slot as usize];
        connection.backend = None;
        if let Some(tls) = &mut connection.tls {
            tls.backend = None;
        }
        let Some(place) = connection.place.take() else { return };
        let backend = place.stats().clone();
        drop(place);
        if let Some(setup) = &mut connection.setup {
            setup.tried.push(backend.id);
            setup.last_failure = Some(failure);
            setup.proves = None;
        }
        backend.cell(self.index).connect_failures[failure.index()].add(1);
        if failure.blames_backend() {
            (self.notes)(Note::ConnectFailed { backend: backend.id, failure });
        }
    }

    pub fn line_up(&mut self, key: Key, pool: &Pool) {
        let queue = &pool.config.queue;
        let turn = Turn { mailboxes: self.mailboxes.clone(), worker: self.index, token: key.token(Side::Client) };
        match pool.stats.queue.join(Arc::new(turn).into(), queue.max) {
            Some(ticket) => self.wait(key, Step::Queue(ticket), queue.timeout),
            None => self.close(key, End::reset(CloseReason::QueueFull)),
        }
    }

    /// This connection is the first in line now.
    pub fn on_turn(&mut self, token: usize) {
        let Source::Connection(key, _) = Source::of(token) else { return };
        let Some(setup) = self.find(key).and_then(|connection| connection.setup.as_ref()) else { return };
        let Step::Queue(ticket) = setup.step else { return };
        let pool = setup.pool.stats.clone();
        match self.try_backends(key) {
            Outcome::Full(full) if full.id == pool.id => {
                pool.queue.back();
            }
            outcome => {
                pool.queue.leave(ticket);
                if let Some(setup) = &mut self.connections[key.slot as usize].setup
                    && setup.step == Step::Queue(ticket)
                {
                    setup.step = Step::Pause;
                }
                self.follow(key, outcome);
            }
        }
    }
}

/// A connection's turn in a queue, which its worker is told.
struct Turn {
    mailboxes: Arc<[Mailbox]>,
    worker: usize,
    token: usize,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.mailboxes[self.worker].put(Message::Turn(self.token));
    }
}

fn given_up(failure: Option<ConnectFailure>) -> CloseReason {
    match failure {
        Some(ConnectFailure::Timeout) => CloseReason::ConnectTimeout,
        Some(ConnectFailure::NoPort) => CloseReason::PortExhausted,
        Some(ConnectFailure::NoResource) => CloseReason::ResourceExhausted,
        _ => CloseReason::ConnectFailed,
    }
}
