//! Clients who come: out of a listening socket, past the limits of process and listener, to a task that carries them.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;

use super::client;
use super::door::Door;
use super::greeting::Ends;
use super::io::Raw;
use super::thread::Thread;
use super::watch::Leash;
use crate::access::{Event, EventKind};
use crate::config::{Access, Bind};
use crate::engine;
use crate::id::ListenerId;
use crate::limit::ClientKey;
use crate::reason::CloseReason;
use crate::snapshot::Site;
use crate::stats::ListenerSlot;

/// Pause after accept(2) found no descriptor or memory left.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// By which a listening socket is closed.
#[derive(Default)]
pub struct Closing {
    told: Notify,
    /// Who waits in its backlog waits for another process, which has the same socket.
    pub is_shared: Cell<bool>,
}

impl Thread {
    pub fn listen(self: &Rc<Self>, listener: ListenerId, bind: Bind, socket: OwnedFd) {
        let door = match Door::new(socket) {
            Ok(door) => door,
            Err(error) => {
                tracing::error!(%error, "a listening socket could not be watched; this thread does not accept from it");
                return;
            }
        };
        let Some(site) = self.snapshot().site(listener).cloned() else {
            return tracing::debug!(%listener, "told to listen for a listener that is gone again");
        };
        let closing = Rc::new(Closing::default());
        self.listening.borrow_mut().push((listener, bind, closing.clone()));
        tokio::task::spawn_local(self.clone().accept(site, door, closing));
    }

    pub fn unlisten_if(&self, which: impl Fn(ListenerId, &Bind) -> bool) {
        self.listening.borrow_mut().retain(|(listener, bind, closing)| {
            let goes = which(*listener, bind);
            if goes {
                closing.told.notify_one();
            }
            !goes
        });
    }

    /// Accepts until told to stop, and then what waits already, so that closing the socket resets nobody.
    async fn accept(self: Rc<Self>, mut site: Arc<Site>, door: Door, closing: Rc<Closing>) {
        let mut stopped = pin!(closing.told.notified());
        let mut is_failing = false;
        loop {
            let accepted = poll_fn(|cx| {
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                door.poll_accept(cx).map(Some)
            });
            match accepted.await {
                None => break,
                Some(Ok((raw, peer))) => {
                    is_failing = false;
                    self.admit(&mut site, raw, peer);
                }
                Some(Err(error)) if crate::sys::socket::concerns_one_connection(&error) => {}
                Some(Err(error)) => {
                    site.stats.cell(self.index).closed[CloseReason::ResourceExhausted.index()].add(1);
                    if !std::mem::replace(&mut is_failing, true) {
                        let listener = &site.config.name;
                        tracing::warn!(listener, %error, "cannot accept: clients wait in the backlog (fd limit, memory?)");
                    }
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
            }
        }
        if closing.is_shared.get() {
            return;
        }
        for (raw, peer) in door.into_rest() {
            self.admit(&mut site, raw, peer);
        }
    }

    /// Lets a client in by what the file has for its listener now, or had last.
    fn admit(self: &Rc<Self>, site: &mut Arc<Site>, raw: Raw, peer: Option<SocketAddr>) {
        let snapshot = self.snapshot();
        if let Some(now) = snapshot.site(site.id)
            && !Arc::ptr_eq(now, site)
        {
            *site = now.clone();
        }
        self.stats().accepts.add(1);
        let cell = site.stats.cell(self.index);
        cell.accepted.add(1);
        let in_all: u32 = self.shared.threads.iter().map(|thread| thread.active.load(Relaxed)).sum();
        let max = site.config.max_connections.map_or(u32::MAX, std::num::NonZero::get);
        let slot = if in_all < snapshot.max_connections { ListenerSlot::take(&site.stats, max) } else { None };
        let Some(slot) = slot else { return self.refuse(site, &raw, peer, CloseReason::MaxConnections) };
        // A peer that speaks for others is judged by its PROXY header, once that is there.
        let is_spoken_for = peer.is_some_and(|peer| site.config.expects_header_of(peer.ip()));
        match if is_spoken_for { Ok(None) } else { self.welcome(site, peer) } {
            Ok(counted) => self.open(site.clone(), slot, raw, Ends { client: peer, local: None, counted }),
            Err(reason) => self.refuse(site, &raw, peer, reason),
        }
    }

    /// Lets a client in, if it may come, and counts it against its own limits.
    ///
    /// # Errors
    /// Why it may not.
    pub fn welcome(&self, site: &Site, client: Option<SocketAddr>) -> Result<Option<ClientKey>, CloseReason> {
        let Some(client) = client else { return Ok(None) };
        if !site.config.allows(client.ip()) {
            return Err(CloseReason::Denied);
        }
        let key = ClientKey::from(client.ip());
        let admitted = site.stats.clients.admit(key, self.shared.since(self.clock.now()));
        admitted.map(|()| Some(key)).map_err(|_| CloseReason::Limited)
    }

    fn open(self: &Rc<Self>, site: Arc<Site>, slot: ListenerSlot, raw: Raw, mut ends: Ends) {
        let age = site.config.max_age.map(|max| self.clock.now() + engine::age(max, &mut self.rng.borrow_mut()));
        let leash = Rc::new(Leash::new(site.id, age));
        let drained = self.snapshot().end_of(site.id, &site.config, self.clock.now());
        if let Some(deadline) = self.leaving.get().into_iter().chain(drained).min() {
            leash.doom(deadline, CloseReason::Drained);
        }
        let at = self.leashes.borrow_mut().insert(leash.clone());
        self.stats().active.fetch_add(1, Relaxed);
        let thread = self.clone();
        tokio::task::spawn_local(async move {
            let began = thread.clock.now();
            // Only the log wants to know.
            ends.local = if thread.shared.access == Access::Off { None } else { raw.local_address() };
            let reason = client::serve(&thread, site.clone(), leash, raw, &mut ends).await;
            if reason.is_refusal() {
                thread.report_refused(&site, ends.client, ends.local, reason);
            }
            let cell = site.stats.cell(thread.index);
            cell.closed[reason.index()].add(1);
            cell.durations.record(thread.clock.now() - began);
            if let Some(client) = ends.counted {
                site.stats.clients.release(client);
            }
            drop(slot);
            thread.leashes.borrow_mut().remove(at);
            thread.stats().active.fetch_sub(1, Relaxed);
        });
    }

    fn refuse(self: &Rc<Self>, site: &Site, raw: &Raw, peer: Option<SocketAddr>, reason: CloseReason) {
        site.stats.cell(self.index).closed[reason.index()].add(1);
        raw.reset_on_close();
        self.report_refused(site, peer, raw.local_address(), reason);
    }

    fn report_refused(
        self: &Rc<Self>,
        site: &Site,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
        reason: CloseReason,
    ) {
        self.report(|thread| Event {
            kind: EventKind::Close,
            time_ms: 0,
            id: thread.next_id(),
            listener: site.stats.clone(),
            pool: "".into(),
            backend: None,
            client,
            local,
            connect: None,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            datagrams: None,
            spliced_bytes: 0,
            attempts: 0,
            reason: Some(reason),
            sni: None,
            request: None,
        });
    }
}
