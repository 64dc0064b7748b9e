//! A request on its way to a backend: the choice, the connection, another try where that is safe, and the answer.
//!
//! What was not sent may go elsewhere at once. What may have been sent goes again only if it may happen twice (RFC 9110,
//! 9.2.2) and has no body, and never once a response has begun.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use hyper::body::Incoming;

use super::backend::{Link, Sent};
use super::body::{Carrier, Intake, RequestBody, ResponseBody, Source};
use super::client::{Client, UnderWay};
use super::dial::Dial;
use super::forwarded::Announced;
use super::line::Waiting;
use super::message::{Answer, Head};
use super::motion::Motion;
use super::record::Record;
use super::refusal::Refusal;
use super::sticky;
use super::thread::Thread;
use super::tunnel::Tunnel;
use crate::balance::{self, Cursor, RETRY_PAUSE};
use crate::config::Keepalive;
use crate::config::http::{RetryOn, Route};
use crate::engine::Note;
use crate::id::BackendId;
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot::{Backend, Pick, Pool};
use crate::stats::BackendSlot;

/// A connection that was idle for less is not looked upon as one that the backend may be closing just now.
const FRESH: Duration = Duration::from_secs(1);

/// A request that is ready to be sent.
pub struct Outgoing<'r> {
    /// Its head, as the backend sees it.
    pub head: &'r mut Head,
    /// What else the backend is told of the client.
    pub announced: Option<Announced<'r>>,
    /// Its body.
    pub body: RequestBody,
    /// What is known of the body.
    pub intake: Rc<Intake>,
    /// It asks for another protocol.
    pub is_upgrade: bool,
    /// Who asks, behind trusted proxies.
    pub client: IpAddr,
}

/// What leads from one try to the next.
struct Tries<'r> {
    thread: &'r Rc<Thread>,
    /// By which the request is watched.
    motion: Rc<Motion>,
    route: &'r Route,
    /// As it is now.
    pool: Arc<Pool>,
    /// The hash of the client's address.
    key: u64,
    /// Of the client's listener; it holds for the connections that are opened for it.
    keepalive: Option<Keepalive>,
    /// Backends that failed for this request.
    tried: Vec<BackendId>,
    connects: u32,
    retries: u32,
    /// A connection that broke although it had been used before costs one try that nobody has to ask for.
    reused_broke: bool,
    /// When the response must have begun.
    deadline: Option<Instant>,
}

/// Sends a request to a backend of the pool, and gives its answer.
///
/// # Errors
/// Why there is none.
pub async fn forward(
    client: &Rc<Client>,
    record: &mut Record,
    route: &Route,
    pool: &Arc<Pool>,
    outgoing: &mut Outgoing<'_>,
) -> Result<Answer<ResponseBody>, Refusal> {
    let thread = &client.thread;
    let rule = route.sticky.as_ref();
    let named = rule.and_then(|rule| sticky::backend(rule, &pool.config.name, outgoing.head.headers.map()));
    let is_bare = matches!(outgoing.body, RequestBody::Empty) && !outgoing.is_upgrade;
    let may_repeat = is_bare && is_idempotent(&outgoing.head.method);
    let mut tries = Tries::new(client, route, pool, balance::hash_client(outgoing.client), record.began);
    thread.budgets.earn(pool.id, route.retry.as_ref());
    loop {
        let (backend, place) = tries.choose(named.as_deref()).await?;
        record.attempts += 1;
        let (mut link, idle) = match tries.connect(&backend).await {
            Ok(connected) => connected,
            Err(failed) => {
                tries.unreachable(&backend, failed)?;
                continue;
            }
        };
        let may_break = idle.is_some_and(|idle| idle >= FRESH) && !tries.reused_broke;
        let may_go_again = may_repeat && (may_break || route.retry.is_some());
        let sent = tries.send(&mut link, outgoing, may_go_again).await;
        let (failed, applies): (_, fn(&RetryOn) -> bool) = match sent {
            None => {
                (thread.shared.notes)(Note::BadResponse { backend: backend.id });
                (Refusal::BackendTimeout, |on| on.timeout)
            }
            Some(Sent::Unsent) => {
                // The connection was closed when it was needed: the next one, and if it was new, not for ever.
                if idle.is_none() {
                    tries.unreachable(&backend, Refusal::BackendFailed)?;
                }
                continue;
            }
            // The client's doing, for which no backend is blamed.
            Some(Sent::Broken(_)) if let Some(fault) = outgoing.intake.fault.get() => return Err(fault),
            // Ended here, for which nobody is blamed either.
            Some(Sent::Broken(_)) if link.ended() == Some(CloseReason::Killed) => (Refusal::Killed, |on| on.reset),
            Some(Sent::Broken(_)) if link.ended().is_some() => (Refusal::BackendFailed, |on| on.reset),
            Some(Sent::Broken(error)) => {
                tracing::debug!(backend = backend.stats.name, %error, "a request has failed");
                if may_break && may_go_again {
                    tries.reused_broke = true;
                    continue;
                }
                (thread.shared.notes)(Note::BadResponse { backend: backend.id });
                (Refusal::BackendFailed, |on| on.reset)
            }
            Some(Sent::Response(answer)) => {
                let status = answer.status;
                if !may_go_again || !tries.may_retry(|on| on.statuses.contains(&status)) {
                    let arrival = Arrival { client, route, pool: &tries.pool, backend: &backend, place, link };
                    return arrival.take(record, answer, outgoing.is_upgrade);
                }
                note_status(thread, &tries.pool, &backend, status);
                (Refusal::BackendFailed, |_| true)
            }
        };
        drop(place);
        if !may_go_again || !tries.may_retry(applies) {
            return Err(failed);
        }
        tries.note_retry(&backend);
    }
}

impl<'r> Tries<'r> {
    fn new(client: &'r Rc<Client>, route: &'r Route, pool: &'r Arc<Pool>, key: u64, began: Instant) -> Self {
        let deadline = route.timeout.request.map(|limit| began + limit);
        let (tried, connects, retries, reused_broke) = (Vec::new(), 0, 0, false);
        let (thread, motion) = (&client.thread, client.motion().clone());
        let (pool, keepalive) = (pool.clone(), client.site.config.keepalive);
        Self { thread, motion, route, pool, key, keepalive, tried, connects, retries, reused_broke, deadline }
    }

    /// A backend with a place on it. Where all have failed it is any of them, after a pause.
    async fn choose(&mut self, named: Option<&str>) -> Result<(Arc<Backend>, BackendSlot), Refusal> {
        loop {
            match self.place(named).await {
                Err(Refusal::NoBackend) if !self.tried.is_empty() => {
                    self.tried.clear();
                    tokio::time::sleep(self.at_most(RETRY_PAUSE)).await;
                }
                Ok((backend, place)) => {
                    if self.connects + self.retries > 0 {
                        backend.stats.cell(self.thread.index).retries.add(1);
                    }
                    return Ok((backend, place));
                }
                refused => return refused,
            }
        }
    }

    /// A place on a backend that has not failed yet; waits for one where the pool has a queue, and overtakes nobody there.
    async fn place(&mut self, named: Option<&str>) -> Result<(Arc<Backend>, BackendSlot), Refusal> {
        if self.pool.stats.queue.is_empty() {
            match self.pick(named) {
                Err(Refusal::PoolFull) if self.pool.config.queue.max > 0 => {}
                outcome => return outcome,
            }
        }
        let waiting = Waiting::join(&self.pool).ok_or(Refusal::PoolFull)?;
        let due = self.thread.clock.now() + self.at_most(self.pool.config.queue.timeout);
        loop {
            tokio::time::timeout_at(due.into(), waiting.turn()).await.map_err(|_| Refusal::PoolFull)?;
            // Who waits goes by what a reload or a check has changed meanwhile.
            if let Some(pool) = self.thread.snapshot().pool(self.pool.id) {
                self.pool = pool.clone();
            }
            match self.pick(named) {
                Err(Refusal::PoolFull) => waiting.back(),
                outcome => return outcome,
            }
        }
    }

    fn pick(&mut self, named: Option<&str>) -> Result<(Arc<Backend>, BackendSlot), Refusal> {
        if let Some(name) = named
            && let Some((backend, place)) = self.pool.pick_named(name, &self.tried)
        {
            return Ok((backend.clone(), place));
        }
        let index = self.thread.index as u32;
        let picked = {
            let mut cursors = self.thread.cursors.borrow_mut();
            let cursor = cursors.entry(self.pool.id).or_insert_with(|| Cursor::new(index));
            self.pool.pick(self.key, &self.tried, cursor, &mut self.thread.rng.borrow_mut())
        };
        match picked {
            Pick::Backend(backend, place) => Ok((backend.clone(), place)),
            Pick::Full => Err(Refusal::PoolFull),
            Pick::Nobody => {
                if self.tried.is_empty() {
                    self.pool.stats.cell(self.thread.index).no_backend.add(1);
                }
                Err(Refusal::NoBackend)
            }
        }
    }

    /// A connection, and for how long it was idle.
    async fn connect(&mut self, backend: &Arc<Backend>) -> Result<(Link, Option<Duration>), Refusal> {
        if self.is_late() {
            return Err(Refusal::BackendTimeout);
        }
        let thread = self.thread;
        let idle = thread.idle.borrow_mut().take(backend.id, &self.pool, thread.clock.turn());
        if let Some((link, idle)) = idle {
            return Ok((link, Some(idle)));
        }
        let (pool, keepalive) = (self.pool.clone(), self.keepalive);
        let dial = Dial { thread: thread.clone(), pool, backend: backend.clone(), keepalive };
        let limit = self.at_most(self.pool.config.connect.timeout);
        // Seldom needed, and large.
        match Box::pin(dial.link(limit)).await {
            Ok(link) => Ok((link, None)),
            Err(ConnectFailure::Timeout) => Err(Refusal::BackendTimeout),
            Err(_) => Err(Refusal::BackendFailed),
        }
    }

    /// Nothing was sent, and another backend may be tried: as often as the pool says, and then as the route says. Else this is
    /// the answer.
    fn unreachable(&mut self, backend: &Backend, refusal: Refusal) -> Result<(), Refusal> {
        self.connects += 1;
        if self.connects < self.pool.config.connect.attempts.get() && !self.is_late() {
            self.tried.push(backend.id);
        } else if self.may_retry(|on| on.connect) {
            self.note_retry(backend);
        } else {
            return Err(refusal);
        }
        Ok(())
    }

    /// What is left of the request's time, over all its tries.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(self.thread.clock.now()))
    }

    fn is_late(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// So long, if the request has so much time.
    fn at_most(&self, limit: Duration) -> Duration {
        self.left().map_or(limit, |left| left.min(limit))
    }

    /// `None` when it took too long.
    async fn send(&self, link: &mut Link, request: &mut Outgoing<'_>, stays: bool) -> Option<Sent> {
        let per_try = self.route.retry.as_ref().and_then(|retry| retry.per_try_timeout);
        let due = per_try.map(|limit| self.thread.clock.now() + limit).into_iter().chain(self.deadline).min();
        let sent = {
            let sending = pin!(link.send(request, stays));
            match due {
                Some(due) => self.motion.by(due, self.thread.clock.turn(), sending).await,
                None => Some(sending.await),
            }
        };
        if sent.is_none() {
            link.doubt();
        }
        sent
    }

    fn note_retry(&mut self, backend: &Backend) {
        self.retries += 1;
        self.thread.budgets.spend(self.pool.id);
        self.tried.push(backend.id);
    }

    fn may_retry(&self, applies: impl Fn(&RetryOn) -> bool) -> bool {
        let Some(retry) = &self.route.retry else { return false };
        !self.is_late()
            && applies(&retry.on)
            && self.retries < retry.attempts.get()
            && self.thread.budgets.has_one(self.pool.id)
    }
}

/// A response that has begun.
struct Arrival<'r> {
    client: &'r Rc<Client>,
    route: &'r Route,
    pool: &'r Pool,
    backend: &'r Backend,
    place: BackendSlot,
    link: Link,
}

impl Arrival<'_> {
    fn take(
        self,
        record: &mut Record,
        mut answer: Answer<Option<Incoming>>,
        is_upgrade: bool,
    ) -> Result<Answer<ResponseBody>, Refusal> {
        let Self { client, route, pool, backend, place, link } = self;
        note_status(&client.thread, pool, backend, answer.status);
        if let Some(rule) = &route.sticky
            && let Some(cookie) = sticky::cookie(rule, &pool.config.name, &backend.config.name)
        {
            answer.headers.map().append(http::header::SET_COOKIE, cookie);
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let Link::Http1(link) = link else { return Err(Refusal::BackendFailed) };
            if !is_upgrade {
                return Err(Refusal::BackendFailed);
            }
            record.on_switch(backend);
            client.switch(Tunnel { backend: link.into_io(), place, idle: route.timeout.idle });
            return Ok(answer.with(|_| ResponseBody::whole(super::client::NOTHING)));
        }
        record.hold(place);
        let source = |incoming: Option<Incoming>| match link {
            Link::Http1(link) => {
                let (thread, speech) = (client.thread.clone(), pool.config.http.speech);
                Source::Http1(Carrier { link, thread, backend: backend.id, speech })
            }
            Link::Http2(_place) => incoming.map_or(Source::Over, |incoming| Source::Http2 { incoming, _place }),
        };
        Ok(answer.with(|incoming| ResponseBody::stream(source(incoming), UnderWay::new(client))))
    }
}

fn note_status(thread: &Thread, pool: &Pool, backend: &Backend, status: StatusCode) {
    if pool.config.http.failures.iter().any(|range| range.contains(&status.as_u16())) {
        (thread.shared.notes)(Note::BadResponse { backend: backend.id });
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}
