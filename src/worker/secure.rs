//! The handshakes of TLS: with a client before a backend is chosen for it, with a backend before the relay begins.
//!
//! A step of one costs up to a millisecond. So connections in a handshake stand in a queue of their own, and each turn
//! goes on with a few of them only: all others of the worker wait no longer than those take.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Step;
use super::open::greeting;
use super::token::Key;
use super::turn::Worker;
use crate::id::Side;
use crate::reason::{CloseReason, ConnectFailure};
use crate::tcp::relay::{End, Readiness};
use crate::tcp::tls::{Session, Shaken};

/// Steps of handshakes that a worker makes in one turn.
const STEPS_A_TURN: usize = 4;

/// Between two warnings of a worker that a backend's handshake failed; the others are told at level "debug".
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

impl Worker {
    /// The client may begin: its TLS is ended here.
    pub fn await_handshake(&mut self, key: Key, config: Arc<rustls::ServerConfig>, time: Duration) {
        let connection = &mut self.connections[key.slot as usize];
        let Some(setup) = &mut connection.setup else { return };
        let received = std::mem::take(&mut setup.received);
        match Session::with_client(config, received) {
            Ok(session) => connection.tls.get_or_insert_default().client = Some(Box::new(session)),
            Err(error) => return self.client_failed(key, &io::Error::other(error)),
        }
        self.wait(key, Step::Handshake, time);
        // Its hello may be here, also where nothing is left of what was read: the edge that told of it is spent.
        self.shake_later(key);
    }

    /// An event for a handshake: whether it has something to do.
    pub fn on_handshake_event(&mut self, key: Key, side: Side, ready: Readiness) {
        let sessions = self.connections[key.slot as usize].tls.as_ref();
        let session = sessions.and_then(|sessions| match side {
            Side::Client => sessions.client.as_deref(),
            Side::Backend => sessions.backend.as_deref(),
        });
        if ready.readable || ready.fin || ready.error || session.is_some_and(Session::wants_write) {
            self.shake_later(key);
        }
    }

    fn shake_later(&mut self, key: Key) {
        if !std::mem::replace(&mut self.connections[key.slot as usize].on_run_queue, true) {
            self.handshakes.push_back(key);
        }
    }

    /// Goes on with those that wait longest.
    pub fn shake_hands(&mut self) {
        for _ in 0..STEPS_A_TURN {
            let Some(key) = self.handshakes.pop_front() else { return };
            let Some(connection) = self.find_mut(key) else { continue };
            connection.on_run_queue = false;
            match connection.setup.as_ref().map(|setup| setup.step) {
                Some(Step::Handshake) => self.shake_with_client(key),
                Some(Step::Secure(since)) => self.shake_with_backend(key, since),
                Some(_) => {}
                // It has come to its relay in another way meanwhile.
                None => self.pump(key),
            }
        }
    }

    fn shake_with_client(&mut self, key: Key) {
        let connection = &mut self.connections[key.slot as usize];
        let Some(session) = connection.tls.as_mut().and_then(|tls| tls.client.as_mut()) else { return };
        match session.shake(&mut connection.client, &mut self.room.scratch) {
            Shaken::Waiting => {}
            Shaken::Again => self.shake_later(key),
            Shaken::Failed(error) => self.client_failed(key, &error),
            Shaken::Done => {
                if let Some(name) = session.server_name() {
                    connection.told.get_or_insert_default().server_name = Some(name.into());
                }
                self.admit_to_pool(key);
            }
        }
    }

    fn client_failed(&mut self, key: Key, error: &io::Error) {
        let connection = &self.connections[key.slot as usize];
        let (listener, client) = (connection.slot.stats().name.as_str(), connection.client_address());
        tracing::debug!(listener, ?client, %error, "a TLS handshake with a client failed");
        // No reset: it would overtake the alert that tells the client why.
        self.close(key, End { reason: CloseReason::TlsHandshakeFailed, reset: false });
    }

    /// The backend of a pool with `tls` has accepted: our PROXY header goes first, in clear, then the handshake begins,
    /// within what is left of the time to connect.
    pub fn secure(&mut self, key: Key, since: Duration) {
        let connection = &mut self.connections[key.slot as usize];
        let Some(setup) = &connection.setup else { return };
        let greeting = greeting(&setup.pool, connection);
        if let Some(setup) = &mut connection.setup {
            setup.step = Step::Secure(since);
        }
        if let Some(backend) = &connection.backend {
            // Each flight and what follows it leave at once.
            backend.set_nodelay();
            connection.nodelay = true;
            // The buffer of a fresh socket is empty and takes it whole.
            if !greeting.is_empty() && !backend.send(&greeting).is_ok_and(|sent| sent == greeting.len()) {
                return self.attempt_failed(key, ConnectFailure::Other);
            }
        }
        self.shake_later(key);
    }

    fn shake_with_backend(&mut self, key: Key, since: Duration) {
        let connection = &mut self.connections[key.slot as usize];
        let (Some(setup), Some(backend)) = (&mut connection.setup, &mut connection.backend) else { return };
        let tls = connection.tls.get_or_insert_default();
        if let Some((config, name)) = setup.proves.take() {
            match Session::with_backend(config, name) {
                Ok(session) => tls.backend = Some(Box::new(session)),
                Err(error) => return self.backend_failed(key, &io::Error::other(error)),
            }
        }
        let Some(session) = &mut tls.backend else { return };
        match session.shake(backend, &mut self.room.scratch) {
            Shaken::Waiting => {}
            Shaken::Again => self.shake_later(key),
            Shaken::Failed(error) => self.backend_failed(key, &error),
            Shaken::Done => self.connected(key, since),
        }
    }

    fn backend_failed(&mut self, key: Key, error: &io::Error) {
        let now = self.tick();
        let Some(place) = &self.connections[key.slot as usize].place else { return };
        let (pool, backend) = (&*place.stats().pool.name, &*place.stats().name);
        if self.warn_of_tls_at <= now {
            self.warn_of_tls_at = now.after(WARNING_INTERVAL);
            tracing::warn!(pool, backend, %error, "the TLS handshake with a backend failed");
        } else {
            tracing::debug!(pool, backend, %error, "the TLS handshake with a backend failed");
        }
        self.attempt_failed(key, ConnectFailure::Tls);
    }
}
