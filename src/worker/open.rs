//! From a fresh client to a relay: its PROXY header, its limits, its TLS hello where names choose the pool, and the
//! beginning once a backend answers. What TLS needs in between stands in `secure`.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::connection::{Connection, NEVER, Setup, Step, ticks};
use super::mailbox::Fresh;
use super::token::Key;
use super::turn::Worker;
use crate::access::EventKind;
use crate::config::{Access, SendProxy};
use crate::engine;
use crate::id::Side;
use crate::limit::ClientKey;
use crate::proxy_header::{self, Parsed};
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot::Pool;
use crate::sys::process;
use crate::tcp::hello;
use crate::tcp::relay::{End, Readiness, Relay};
use crate::timer::Tick;

/// How long a client of a listener with `sni` may take to send its TLS hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes read at once while a header or a hello is awaited, few so that little is held of what comes behind it.
const READ_BYTES: usize = 4096;

/// How often the access log hears of a connection that lasts, with `access = "all"`.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(60);

impl Worker {
    /// Takes a fresh client in.
    pub fn open(&mut self, fresh: Fresh) {
        let now = self.tick();
        let id = self.ids.draw();
        self.opened += 1;
        let key = Key::new(self.connections.vacant_key(), self.opened);
        let awaits_header = fresh.peer.is_some_and(|peer| fresh.listener.config.expects_header_of(peer.ip()));
        let config = &fresh.listener.config;
        let aged = config.max_age.map_or(NEVER, |max| now.after(engine::age(max, &mut self.rng)));
        let (kill_at, kill_reason) =
            (aged, CloseReason::MaxAge).min((self.drained_at(&fresh.listener), CloseReason::Drained));
        let setup = Setup {
            pool: fresh.listener.pool.clone(),
            listener: fresh.listener.clone(),
            step: Step::Header,
            deadline: now.after(proxy_header::TIMEOUT),
            tried: Vec::new(),
            last_failure: None,
            received: Vec::new(),
            proves: None,
        };
        let connection = Connection {
            key,
            idle_ticks: config.idle_timeout.map_or(0, ticks),
            half_close_ticks: ticks(config.half_close_timeout),
            client: fresh.client,
            backend: None,
            slot: fresh.slot,
            place: None,
            tls: None,
            setup: Some(Box::new(setup)),
            relay: Relay::default(),
            peer: fresh.peer,
            told: None,
            id,
            opened_us: self.now.as_micros() as u64,
            connect_us: 0,
            attempts: 0,
            limited: false,
            nodelay: false,
            watched: false,
            hurried: false,
            parked: false,
            on_run_queue: false,
            active_at: now,
            kill_at,
            kill_reason,
            report_at: if self.options.access == Access::All { now.after(REPORT_INTERVAL) } else { NEVER },
        };
        let fd = connection.client.as_raw_fd();
        let room = self.connections.capacity();
        self.connections.insert(connection);
        if self.connections.capacity() > room {
            // What the table was before it grew, and what setting those in it up took, goes back to the system.
            process::release_free_memory();
        }
        if self.watch(fd, key, Side::Client).is_err() {
            return self.close(key, End::reset(CloseReason::ResourceExhausted));
        }
        if awaits_header {
            self.arm(key);
        } else {
            self.welcome(key);
        }
    }

    /// One epoll_ctl(2) for the life of a socket: edge-triggered, both ways, with urgent data.
    pub fn watch(&self, fd: i32, key: Key, side: Side) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&fd), Token(key.token(side)), interest)
    }

    /// An event while the connection is being set up.
    pub fn on_setup_event(&mut self, key: Key, side: Side, ready: Readiness) {
        let connection = &mut self.connections[key.slot as usize];
        let Some(setup) = &mut connection.setup else { return };
        // The relay is told already: what is ready now will be ready when it begins.
        connection.relay.event(side, ready);
        match (side, setup.step) {
            (Side::Client, Step::Header) => self.read_header(key),
            (Side::Client, Step::Hello(_)) => self.read_hello(key),
            (Side::Client, Step::Handshake) | (Side::Backend, Step::Secure(_)) => {
                self.on_handshake_event(key, side, ready);
            }
            (Side::Client, _) if ready.error => self.close(key, End::reset(CloseReason::ClientReset)),
            (Side::Backend, Step::Connect(since)) => {
                let hung = ready.error || !ready.writable;
                let error = match (&connection.backend, hung) {
                    (Some(backend), true) => backend.take_error(),
                    _ => None,
                };
                match error {
                    Some(error) => self.attempt_failed(key, ConnectFailure::of(&error)),
                    None if ready.writable && setup.proves.is_some() => self.secure(key, since),
                    None if ready.writable => self.connected(key, since),
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// The time of the present step is over.
    pub fn on_setup_timer(&mut self, key: Key) {
        let Some(setup) = &self.connections[key.slot as usize].setup else { return };
        match setup.step {
            Step::Header => self.close(key, End::reset(CloseReason::BadProxyHeader)),
            Step::Hello(_) => self.close(key, End::reset(CloseReason::ClientHelloTimeout)),
            Step::Queue(_) => self.close(key, End::reset(CloseReason::QueueTimeout)),
            Step::Handshake => self.close(key, End::reset(CloseReason::TlsHandshakeTimeout)),
            Step::Connect(_) | Step::Secure(_) => self.attempt_failed(key, ConnectFailure::Timeout),
            Step::Pause => self.choose(key),
        }
    }

    /// Takes more of what the client sends before a backend is chosen. False when nothing more is there now, and when the
    /// connection is closed: for this reason where the client has ended.
    fn receive(&mut self, key: Key, ended: CloseReason) -> bool {
        let connection = &mut self.connections[key.slot as usize];
        let Some(setup) = &mut connection.setup else { return false };
        let reason = match connection.client.recv(&mut self.room.scratch[..READ_BYTES]) {
            Ok(0) => ended,
            Ok(got) => {
                setup.received.extend_from_slice(&self.room.scratch[..got]);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => CloseReason::ClientReset,
        };
        self.close(key, End::reset(reason));
        false
    }

    fn read_header(&mut self, key: Key) {
        while self.receive(key, CloseReason::BadProxyHeader) {
            let connection = &mut self.connections[key.slot as usize];
            let Some(setup) = &mut connection.setup else { return };
            match proxy_header::parse(&setup.received) {
                Ok(Parsed::Incomplete) => {}
                Ok(Parsed::Done { consumed, source }) => {
                    setup.received.drain(..consumed);
                    if source.is_some() {
                        connection.told.get_or_insert_default().ends = source;
                    }
                    return self.welcome_proxied(key);
                }
                Err(_) => return self.close(key, End::reset(CloseReason::BadProxyHeader)),
            }
        }
    }

    fn welcome_proxied(&mut self, key: Key) {
        let connection = &self.connections[key.slot as usize];
        let Some(setup) = &connection.setup else { return };
        let denied = connection.client_address().is_some_and(|client| !setup.listener.config.allows(client.ip()));
        if denied {
            return self.close(key, End::reset(CloseReason::Denied));
        }
        self.welcome(key);
    }

    /// The client's address is known and allowed: its own limits, then the choice of a pool.
    fn welcome(&mut self, key: Key) {
        let connection = &mut self.connections[key.slot as usize];
        let limits = connection.slot.stats();
        if let Some(client) = connection.client_address() {
            match limits.clients.admit(ClientKey::from(client.ip()), self.now) {
                Ok(()) => connection.limited = true,
                Err(_) => return self.close(key, End::reset(CloseReason::Limited)),
            }
        }
        let Some(setup) = &connection.setup else { return };
        let config = &setup.listener.config;
        if let Some((tls, config)) = setup.listener.tls.clone().zip(config.tls.as_ref()) {
            let time = config.handshake_timeout;
            return self.await_handshake(key, tls, time);
        }
        if config.sni.is_empty() {
            return self.admit_to_pool(key);
        }
        self.wait(key, Step::Hello(0), HELLO_TIMEOUT);
        // It may be here already, behind a PROXY header too.
        self.read_hello(key);
    }

    /// Reads on until the hello is whole. What was received stays for the backend.
    fn read_hello(&mut self, key: Key) {
        loop {
            let connection = &mut self.connections[key.slot as usize];
            let Some(setup) = &mut connection.setup else { return };
            let Step::Hello(needed) = setup.step else { return };
            if setup.received.len() >= needed {
                match hello::parse(&setup.received) {
                    Ok(hello::Parsed::Incomplete { needed }) => setup.step = Step::Hello(needed),
                    Ok(hello::Parsed::Done { server_name }) => {
                        if let Some(name) = server_name {
                            connection.told.get_or_insert_default().server_name = Some(name.into());
                        }
                        return self.admit_to_pool(key);
                    }
                    Err(why) => {
                        let (listener, client) = (connection.slot.stats().name.as_str(), connection.client_address());
                        tracing::debug!(listener, ?client, %why, "a TLS hello was refused");
                        return self.close(key, End::reset(CloseReason::BadClientHello));
                    }
                }
            }
            if !self.receive(key, CloseReason::BadClientHello) {
                return;
            }
        }
    }

    /// The pool is known: the choice of a backend, or the end of the queue.
    pub fn admit_to_pool(&mut self, key: Key) {
        let Some(pool) = self.route(key) else { return };
        if !pool.stats.queue.is_empty() {
            // Somebody waits already: nobody overtakes.
            return self.line_up(key, &pool);
        }
        self.choose(key);
    }

    /// The backend answers: the relay begins.
    pub fn connected(&mut self, key: Key, since: Duration) {
        let connection = &mut self.connections[key.slot as usize];
        let (Some(setup), Some(backend), Some(place)) =
            (connection.setup.take(), &connection.backend, &connection.place)
        else {
            return;
        };
        let took = self.now.saturating_sub(since);
        let stats = place.stats();
        stats.note_connect(took);
        let cell = stats.cell(self.index);
        cell.established.add(1);
        cell.connects.record(took);
        connection.connect_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let is_secured = connection.tls.as_ref().is_some_and(|tls| tls.backend.is_some());
        // Before a handshake it has left already.
        let greeting = if is_secured { Vec::new() } else { greeting(&setup.pool, connection) };
        if !greeting.is_empty() {
            // A header that leaves before the client has spoken must not hold the client's first bytes back.
            backend.set_nodelay();
            connection.nodelay = true;
        }
        connection.relay.to_backend.preload(&greeting, &setup.received);
        if let Some(tls) = &connection.tls {
            tls.begin(&mut connection.relay);
        }
        connection.active_at = Tick::at(self.now);
        connection.relay.event(Side::Backend, Readiness { writable: true, ..Readiness::default() });
        if self.options.access == Access::All {
            self.report(key, EventKind::Open, None);
        }
        self.arm_relay(key);
        self.pump(key);
    }
}

/// The PROXY header that the pool's backends expect.
pub fn greeting(pool: &Pool, connection: &Connection) -> Vec<u8> {
    let mut out = Vec::new();
    let addresses = || connection.client_address().zip(connection.local_address());
    match pool.config.send_proxy {
        SendProxy::Off => {}
        SendProxy::V1 => proxy_header::write_v1(&mut out, addresses()),
        SendProxy::V2 | SendProxy::V2First => proxy_header::write_v2(&mut out, addresses()),
    }
    out
}
