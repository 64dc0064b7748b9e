//! Established connections: events, timers, and the one place where a connection ends.

use std::time::Duration;

use super::connection::{Connection, NEVER, Step};
use super::token::Key;
use super::turn::Worker;
use crate::access::{Event, EventKind};
use crate::config::{Access, Keepalive};
use crate::engine::Note;
use crate::id::Side;
use crate::limit::ClientKey;
use crate::reason::CloseReason;
use crate::tcp::conduit::{BUDGET_BYTES, PIPE_BYTES, SCRATCH_BYTES};
use crate::tcp::relay::{End, Progress, Readiness};
use crate::timer::Tick;

/// Age at which a connection has proved to last, and its backend side gets dead-peer detection: short ones are spared
/// five system calls. (The client side has it from its listener.)
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Bytes a direction may move in one pump while others wait: what fits into one pipe.
const SHARED_BUDGET_BYTES: usize = PIPE_BYTES;

impl Worker {
    /// The connection, unless it is gone and its slot another's.
    pub fn find(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key.slot as usize).filter(|connection| connection.key == key)
    }

    pub fn find_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key.slot as usize).filter(|connection| connection.key == key)
    }

    /// The kernel says that a side is ready.
    pub fn on_event(&mut self, key: Key, side: Side, ready: Readiness) {
        let Some(connection) = self.find_mut(key).filter(|connection| !connection.parked) else { return };
        if connection.setup.is_some() {
            return self.on_setup_event(key, side, ready);
        }
        if connection.relay.event(side, ready) {
            let socket = match side {
                Side::Client => Some(&connection.client),
                Side::Backend => connection.backend.as_ref(),
            };
            if let Some(error) = socket.and_then(crate::sys::socket::Socket::take_error) {
                let end = connection.relay.failed(side, &error);
                return self.close(key, end);
            }
        }
        // What has to be encrypted costs more than what passes through, however little it is.
        if connection.relay.is_streaming() || connection.tls.is_some() {
            return self.pump_later(key);
        }
        self.small_events += 1;
        self.pump(key);
    }

    /// Puts the connection on the run queue, unless it stands there.
    pub fn pump_later(&mut self, key: Key) {
        let connection = &mut self.connections[key.slot as usize];
        if !std::mem::replace(&mut connection.on_run_queue, true) {
            self.run_queue.push(key);
        }
    }

    /// Goes on with streams, and with others that had more to do than a pump allows: after those who say little, and
    /// with less at once while there are such.
    pub fn pump_run_queue(&mut self) {
        let others = std::mem::take(&mut self.small_events);
        self.room.budget = if others > 0 { SHARED_BUDGET_BYTES } else { BUDGET_BYTES };
        let count = self.run_queue.len();
        for at in 0..count {
            let key = self.run_queue[at];
            if let Some(connection) = self.find_mut(key) {
                connection.on_run_queue = false;
                if !connection.parked {
                    self.pump(key);
                }
            }
        }
        self.run_queue.drain(..count);
        self.room.budget = SHARED_BUDGET_BYTES;
    }

    /// Moves what can be moved.
    pub fn pump(&mut self, key: Key) {
        let now = self.tick();
        let connection = &mut self.connections[key.slot as usize];
        let Some(backend) = &mut connection.backend else { return };
        let relay = &mut connection.relay;
        // Nagle's algorithm holds nothing back before the second write to the backend, and many connections have but one.
        let writes_again = relay.to_backend.bytes > 0 && relay.to_backend.expects_bytes();
        let before =
            (relay.to_backend.bytes, relay.to_client.bytes, relay.to_backend.spliced + relay.to_client.spliced);
        let progress = match &mut connection.tls {
            None => relay.pump(&mut connection.client, backend, &mut self.room),
            Some(tls) => tls.pump(relay, &mut connection.client, backend, &mut self.room),
        };
        // Turned on after the writes it sends what is being held back.
        if !connection.nodelay && (writes_again || relay.to_backend.bytes >= SCRATCH_BYTES as u64) {
            connection.nodelay = true;
            backend.set_nodelay();
        }
        let bytes_in = relay.to_backend.bytes - before.0;
        let bytes_out = relay.to_client.bytes - before.1;
        if bytes_in + bytes_out > 0 {
            if connection.active_at != now {
                connection.active_at = now;
                self.busy_poll.heard(1);
            }
            let listener = connection.slot.stats().cell(self.index);
            listener.bytes_in.add(bytes_in);
            listener.bytes_out.add(bytes_out);
            if let Some(place) = &connection.place {
                let backend = place.stats().cell(self.index);
                backend.bytes_in.add(bytes_in);
                backend.bytes_out.add(bytes_out);
                backend.spliced.add(relay.to_backend.spliced + relay.to_client.spliced - before.2);
            }
        }
        match progress {
            Progress::Waiting => {
                if !connection.hurried && connection.relay.is_half_closed() {
                    connection.hurried = true;
                    connection.active_at = now;
                    self.arm_relay(key);
                }
            }
            Progress::Again => self.pump_later(key),
            Progress::Ended(end) => self.close(key, end),
        }
    }

    /// Sets the timer of a connection to its deadline.
    pub fn arm(&mut self, key: Key) {
        match self.connections[key.slot as usize].deadline() {
            NEVER => self.wheel.cancel(key.slot as usize),
            at => self.wheel.arm(key.slot as usize, at),
        }
    }

    /// The same for an established one, which is also looked at when it has settled.
    pub fn arm_relay(&mut self, key: Key) {
        let settled = self.tick().after(SETTLED_AFTER);
        let connection = &self.connections[key.slot as usize];
        if connection.watched {
            return self.arm(key);
        }
        self.wheel.arm(key.slot as usize, connection.deadline().min(settled));
    }

    /// The timer of a slot has fired. Activity does not move timers: often it only has to be set again.
    pub fn on_timer(&mut self, slot: usize) {
        let now = self.tick();
        let Some(connection) = self.connections.get(slot).filter(|connection| !connection.parked) else { return };
        let key = connection.key;
        if connection.kill_at <= now {
            let reason = connection.kill_reason;
            return self.close(key, End::reset(reason));
        }
        if let Some(setup) = &connection.setup {
            return if setup.deadline <= now { self.on_setup_timer(key) } else { self.arm(key) };
        }
        if let Some((ticks, reason)) = connection.silence()
            && Tick(connection.active_at.0 + u64::from(ticks)) <= now
        {
            return self.close(key, End::reset(reason));
        }
        if connection.report_at <= now {
            self.report(key, EventKind::Interval, None);
        }
        self.watch_backend(key);
        self.arm(key);
    }

    /// Turns dead-peer detection of the backend side on, once.
    fn watch_backend(&mut self, key: Key) {
        let connection = &mut self.connections[key.slot as usize];
        if connection.watched {
            return;
        }
        connection.watched = true;
        let Some(listener) = self.snapshot.listener(connection.slot.stats().id) else { return };
        let keepalive = listener.config.keepalive.map(Keepalive::probes);
        let pool = connection.place.as_ref().and_then(|place| self.snapshot.pool(place.stats().pool.id));
        if let Some(backend) = &connection.backend {
            backend.watch_peer(keepalive, pool.and_then(|pool| pool.config.connect.user_timeout));
        }
    }

    /// The one exit of a connection.
    pub fn close(&mut self, key: Key, end: End) {
        if self.find(key).is_none() {
            return;
        }
        let connection = &mut self.connections[key.slot as usize];
        connection.relay.abandon(&mut self.room);
        if end.reset {
            connection.client.reset_on_close();
            if let Some(backend) = &connection.backend {
                backend.reset_on_close();
            }
        }
        self.report(key, EventKind::Close, Some(end.reason));
        let connection = self.connections.remove(key.slot as usize);
        self.wheel.cancel(key.slot as usize);
        let listener = connection.slot.stats();
        let cell = listener.cell(self.index);
        cell.closed[end.reason.index()].add(1);
        cell.durations.record(connection.age(self.now));
        if connection.limited
            && let Some(client) = connection.client_address()
        {
            listener.clients.release(ClientKey::from(client.ip()));
        }
        self.workers[self.index].active.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(setup) = &connection.setup
            && let Step::Queue(ticket) = setup.step
        {
            setup.pool.stats.queue.leave(ticket);
        }
        let Connection { place, client, backend, relay, .. } = connection;
        drop((client, backend));
        if let Some(place) = place {
            let stats = place.stats().clone();
            drop(place);
            // Not when the client has spoken: else a client could make a good backend look bad.
            if end.reason == CloseReason::BackendReset && relay.bytes() == 0 {
                (self.notes)(Note::EarlyReset { backend: stats.id });
            }
        }
    }

    /// Writes an event of the connection into the access log.
    pub fn report(&mut self, key: Key, kind: EventKind, reason: Option<CloseReason>) {
        let now = self.tick();
        if self.options.access == Access::Off {
            return;
        }
        let Some(connection) = self.connections.get_mut(key.slot as usize) else { return };
        if connection.report_at != NEVER {
            connection.report_at = now.after(super::open::REPORT_INTERVAL);
        }
        let backend = connection.place.as_ref().map(|place| place.stats().clone());
        let pool = match (&backend, &connection.setup) {
            (Some(backend), _) => backend.pool.name.clone(),
            (None, Some(setup)) => setup.pool.stats.name.clone(),
            (None, None) => "".into(),
        };
        let relay = &connection.relay;
        self.events.push(Event {
            kind,
            time_ms: 0,
            id: connection.id,
            listener: connection.slot.stats().clone(),
            pool,
            backend,
            client: connection.client_address(),
            local: connection.local_address(),
            connect: connection.setup.is_none().then(|| Duration::from_micros(connection.connect_us.into())),
            duration: connection.age(self.now),
            bytes_in: relay.to_backend.bytes,
            bytes_out: relay.to_client.bytes,
            datagrams: None,
            spliced_bytes: relay.to_backend.spliced + relay.to_client.spliced,
            attempts: connection.attempts.into(),
            reason,
            sni: connection.server_name().cloned(),
            request: None,
        });
    }
}
