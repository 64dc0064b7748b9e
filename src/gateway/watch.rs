//! The watch over a client's connection: how long it may be silent or stand still, and who else may end it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep_until};

use super::client::Client;
use super::motion::LOOK_INTERVAL;
use crate::id::ListenerId;
use crate::reason::CloseReason;

/// An idle connection gives its buffers back after this: not after each request, for the next one often follows soon.
const REST_AFTER: Duration = Duration::from_secs(1);

/// By what others end a connection.
#[derive(Debug)]
pub struct Leash {
    /// Through which listener it came.
    pub listener: ListenerId,
    pub doom: Cell<Option<(Instant, CloseReason)>>,
    pub pulled: Notify,
    /// When it is as old as it may become: no further request then.
    pub age: Option<Instant>,
    /// It was told that there is no further request, and why.
    pub told: Cell<Option<CloseReason>>,
}

impl Leash {
    /// Nobody ends it yet.
    pub fn new(listener: ListenerId, age: Option<Instant>) -> Self {
        Self { listener, doom: Cell::new(None), pulled: Notify::new(), age, told: Cell::new(None) }
    }

    /// Why it is too old by now.
    pub fn is_aged(&self, now: Instant) -> Option<CloseReason> {
        self.age.filter(|at| *at <= now).map(|_| CloseReason::MaxAge)
    }

    /// What an end is called that the client and we agree upon.
    pub fn agreed(&self) -> CloseReason {
        self.told.get().unwrap_or(CloseReason::ClientClosed)
    }

    /// Why it must have ended by now.
    pub fn is_due(&self, now: Instant) -> Option<CloseReason> {
        self.doom.get().filter(|(at, _)| *at <= now).map(|(_, reason)| reason)
    }

    /// It is to end when its requests have, and by then at the latest. An earlier time stays.
    pub fn doom(&self, at: Instant, reason: CloseReason) {
        if self.doom.get().is_none_or(|(set, _)| at < set) {
            self.doom.set(Some((at, reason)));
            self.pulled.notify_one();
        }
    }
}

/// What is due with a connection.
pub enum Due {
    /// No further request.
    Shutdown,
    /// It has been idle for a while.
    Rest,
    /// What its request waits for has not come in time.
    Late,
    /// It ends now.
    End(CloseReason),
}

/// Watches over a connection, by a timer that activity does not move: it looks, and looks again later.
pub struct Watch<'c> {
    client: &'c Rc<Client>,
    leash: &'c Leash,
    timer: Pin<Box<Sleep>>,
    /// The timer knows whom to wake: until then it need not be asked.
    is_set: bool,
    pulled: Pin<Box<Notified<'c>>>,
    /// What `doom` was when `pulled` was last looked at: while it is the same nobody has pulled.
    seen: Option<Option<(Instant, CloseReason)>>,
    /// What had moved at the last look, and when that was seen.
    moved: (u64, Instant),
    /// The first byte of a request was seen.
    header_since: Option<Instant>,
}

impl<'c> Watch<'c> {
    /// Over a connection that has just become idle.
    pub fn new(client: &'c Rc<Client>, leash: &'c Leash) -> Self {
        let now = client.thread.clock.now();
        if leash.doom.get().is_some() {
            // It was told so before there was anybody to hear it.
            leash.pulled.notify_one();
        }
        Self {
            client,
            leash,
            timer: Box::pin(sleep_until((now + LOOK_INTERVAL.min(REST_AFTER)).into())),
            is_set: false,
            pulled: Box::pin(leash.pulled.notified()),
            seen: None,
            moved: (0, now),
            header_since: None,
        }
    }

    /// What is due now.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let doom = self.leash.doom.get();
        if self.seen != Some(doom) && self.pulled.as_mut().poll(cx).is_ready() {
            self.pulled.set(self.leash.pulled.notified());
            self.set_timer(self.client.thread.clock.now());
            self.leash.told.set(self.leash.doom.get().map(|(_, reason)| reason));
            return Poll::Ready(Due::Shutdown);
        }
        self.seen = Some(doom);
        loop {
            if self.is_set && self.client.thread.clock.turn() < self.timer.deadline().into_std() {
                return Poll::Pending;
            }
            // Without a budget it tells nobody.
            self.is_set = tokio::task::coop::has_budget_remaining();
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = self.client.thread.clock.now();
            if let Some(reason) = self.leash.is_due(now) {
                return Poll::Ready(Due::End(reason));
            }
            if self.leash.told.get().is_none()
                && let Some(reason) = self.leash.is_aged(now)
            {
                self.leash.told.set(Some(reason));
                return Poll::Ready(Due::Shutdown);
            }
            match self.look(now) {
                Ok(again) => {
                    let doom = self.leash.doom.get().map_or(again, |(at, _)| at);
                    let age = self.leash.age.filter(|_| self.leash.told.get().is_none()).unwrap_or(again);
                    self.set_timer(again.min(doom).min(age));
                }
                Err(due) => {
                    self.set_timer(now + LOOK_INTERVAL);
                    return Poll::Ready(due);
                }
            }
        }
    }

    fn set_timer(&mut self, at: Instant) {
        self.timer.as_mut().reset(at.into());
        self.is_set = false;
    }

    /// What is due now, or when to look again.
    fn look(&mut self, now: Instant) -> Result<Instant, Due> {
        let client = self.client;
        let moved = client.meter.read.get() + client.meter.written.get() + u64::from(client.motion().begun());
        if moved != self.moved.0 {
            self.moved = (moved, now);
        }
        let limits = client.limits();
        if client.active.get() > 0 {
            self.header_since = None;
            let again = now + LOOK_INTERVAL;
            if client.meter.is_shared.get() {
                return client.streams.look(now, again).ok_or(Due::End(CloseReason::ClientIdle));
            }
            let motion = client.motion();
            let must_move = client.meter.blocked.get() || motion.has_bodies();
            if must_move && motion.patience().is_some_and(|patience| now - self.moved.1 >= patience) {
                return Err(Due::End(CloseReason::ClientIdle));
            }
            return motion.look(now, again).ok_or(Due::Late);
        }
        // With HTTP/2 what comes may be word of the connection itself, such as a PING.
        let has_begun = !client.meter.is_shared.get() && client.meter.read.get() > client.idle_read.get();
        if has_begun || client.meter.blocked.get() {
            // A request, or an answer that is not taken.
            let since = *self.header_since.get_or_insert(now);
            let left = limits.header_timeout.saturating_sub(now - since);
            if left.is_zero() {
                return Err(Due::End(CloseReason::ClientIdle));
            }
            return Ok(now + left.min(LOOK_INTERVAL));
        }
        self.header_since = None;
        let idle = now - client.idle_since.get();
        if idle >= limits.idle_timeout {
            // With HTTP/2 the client is told first, so that no request of it crosses the end (RFC 9113, 6.8).
            if client.meter.is_shared.get() && self.leash.told.get().is_none() {
                self.leash.told.set(Some(CloseReason::ClientIdle));
                return Err(Due::Shutdown);
            }
            return Err(Due::End(CloseReason::ClientIdle));
        }
        if idle >= REST_AFTER {
            return Err(Due::Rest);
        }
        Ok(client.idle_since.get() + REST_AFTER)
    }
}
