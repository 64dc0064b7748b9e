//! One request, from its head to the head of its answer: canonical form, client, route, policies, and what the route does.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};

use super::body::{Incoming, RequestBody, ResponseBody};
use super::breaker::Breaker;
use super::canonical::{Canonical, Malformed, canonical};
use super::client::{self, Client, UnderWay};
use super::forward::{self, Outgoing};
use super::forwarded::{self, Announced};
use super::policy::{self, Answer, Moment, Rejection};
use super::record::Record;
use super::refusal::Refusal;
use super::reply;
use super::route::{Asked, Found};
use super::sites::{Prepared, SiteTable};
use crate::config::http::{Action, Edits, Http};
use crate::snapshot::Snapshot;

/// A request that is answered by the gateway itself.
struct Failure {
    refusal: Refusal,
    /// For the log.
    detail: Cow<'static, str>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, detail: "".into() }
    }
}

impl From<Malformed> for Failure {
    fn from(why: Malformed) -> Self {
        Self { refusal: Refusal::Malformed, detail: why.to_string().into() }
    }
}

/// Answers a request. There is always an answer. Of its head nothing is left, and of its body what nobody wanted.
///
/// Here and below large things are lent: an async function has a place for what it is given and another one for where it
/// keeps that, for as long as it waits.
pub async fn answer(client: &Rc<Client>, parts: &mut Parts, incoming: &mut Incoming) -> Response<ResponseBody> {
    let snapshot = client.thread.snapshot();
    let sites = client.thread.table(&snapshot, &client.site);
    let mut record = Box::new(Record::new(client.clone(), parts.method.clone(), parts.version, sites.outside.clone()));
    if incoming.is_over() {
        record.intake.complete.set(true);
    }
    // A reload holds for the next request, also of a connection that is there already.
    let http = client::http_of(snapshot.site(client.site.id).unwrap_or(&client.site));
    let exchange = Exchange { client, http, snapshot: &snapshot, sites: &sites };
    let outcome = exchange.run(&mut record, parts, incoming).await;
    let response = outcome.unwrap_or_else(|failure| refuse(&mut record, failure));
    if !record.intake.is_given_up.get() {
        record.on_answer(response.status());
    }
    response.map(|body| body.with_record(record))
}

/// The answer to a request that is refused, or has failed.
fn refuse(record: &mut Record, Failure { refusal, detail }: Failure) -> Response<ResponseBody> {
    tracing::debug!(refusal = refusal.label(), %detail, "a request was refused");
    record.refusal = Some(refusal);
    let mut response = reply::problem(refusal, record.request_id.as_ref());
    let is_doubtful = matches!(refusal, Refusal::Malformed | Refusal::UpgradeRefused | Refusal::BodyTooLarge);
    if is_doubtful && record.version != Version::HTTP_2 {
        // What follows may be part of this request to somebody else.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer to what could not be read as a request.
pub fn refuse_unread(client: &Rc<Client>, refusal: Refusal, detail: String) -> Response<ResponseBody> {
    let snapshot = client.thread.snapshot();
    let sites = client.thread.table(&snapshot, &client.site);
    let mut record = Box::new(Record::new(client.clone(), Method::default(), Version::HTTP_11, sites.outside.clone()));
    record.intake.complete.set(true);
    let response = refuse(&mut record, Failure { refusal, detail: detail.into() });
    record.on_answer(response.status());
    response.map(|body| body.with_record(record))
}

struct Exchange<'e> {
    client: &'e Rc<Client>,
    http: &'e Http,
    snapshot: &'e Snapshot,
    sites: &'e Arc<SiteTable>,
}

impl Exchange<'_> {
    async fn run(
        &self,
        record: &mut Record,
        parts: &mut Parts,
        incoming: &mut Incoming,
    ) -> Result<Response<ResponseBody>, Failure> {
        let client = self.client;
        if parts.headers.len() > self.http.limits.header_fields as usize {
            return Err(Refusal::HeaderTooLarge.into());
        }
        if parts.version == Version::HTTP_2 {
            forwarded::join_cookies(&mut parts.headers);
        }
        let canonical = canonical(parts, client.is_secure(), &self.sites.identity)?;
        record.on_canonical(&canonical, self.http.log_query);
        if !client.may_carry(canonical.host()) {
            return Err(Refusal::Misdirected.into());
        }
        let who = forwarded::client(client.end.address, &parts.headers, &self.http.trusted_proxies);
        let id = forwarded::request_id(&parts.headers, who.is_trusted, || client.thread.rng.borrow_mut().u128(..));
        record.on_client(who.address, &id);
        // What only tokens may say must not choose a route either.
        for name in &self.sites.identity {
            parts.headers.remove(name);
        }
        let (method, headers) = (&parts.method, &parts.headers);
        let asked = Asked { method, canonical: &canonical, headers, client: who.address };
        let Some(found) = self.sites.table.find(&asked) else { return Err(Refusal::NoRoute.into()) };
        let prepared = &self.sites.routes[found.index];
        record.on_route(prepared);
        client.set_patience(prepared.route.timeout.idle);
        let since_epoch =
            if prepared.route.policies.auth.is_some() { client.thread.clock.since_epoch() } else { Duration::ZERO };
        let now = Moment { since_start: client.thread.shared.since(record.began), since_epoch };
        let address = client.peer.map(|_| who.address);
        let asked = policy::Asked { method: &parts.method, client: address, headers: &mut parts.headers, now };
        let admitted = match prepared.policies.admit(asked) {
            Ok(admitted) => admitted,
            Err(Answer::Preflight(headers)) => return Ok(reply::preflight(headers)),
            Err(Answer::Refused(rejection)) => {
                let Rejection { refusal, detail, response: own } = *rejection;
                let mut response = refuse(record, Failure { refusal, detail });
                own.apply(response.headers_mut());
                return Ok(response);
            }
        };
        record.consumer = admitted.consumer;
        let onward = Onward { prepared, found, canonical: &canonical, who, id };
        let mut response = match self.act(record, &onward, parts, incoming).await {
            Ok(mut response) => {
                edit(response.headers_mut(), &prepared.route.response_headers);
                response
            }
            Err(failure) => refuse(record, failure),
        };
        admitted.response.apply(response.headers_mut());
        Ok(response)
    }

    async fn act(
        &self,
        record: &mut Record,
        onward: &Onward<'_>,
        parts: &mut Parts,
        incoming: &mut Incoming,
    ) -> Result<Response<ResponseBody>, Failure> {
        match &onward.prepared.route.action {
            Action::Reply { status, content_type, body } => {
                Ok(reply::fixed(*status, content_type, body.clone().into()))
            }
            Action::Redirect { status, to } => {
                Ok(reply::redirect(*status, onward.found.location(to, onward.canonical)))
            }
            Action::Forward(_) => self.forward(record, onward, parts, incoming).await,
        }
    }

    async fn forward(
        &self,
        record: &mut Record,
        onward: &Onward<'_>,
        parts: &mut Parts,
        incoming: &mut Incoming,
    ) -> Result<Response<ResponseBody>, Failure> {
        let (client, route) = (self.client, &*onward.prepared.route);
        let thread = &client.thread;
        let pool = onward.prepared.pool(&mut thread.rng.borrow_mut()).and_then(|name| self.snapshot.pool_named(name));
        let Some(pool) = pool.cloned() else { return Err(Refusal::NoBackend.into()) };
        record.pool = Some(pool.stats.name.clone());
        let limit = route.policies.body;
        if incoming.length().is_some_and(|length| length > limit) {
            return Err(Refusal::BodyTooLarge.into());
        }
        let protocol = upgrade(parts, incoming.is_over())?;
        forwarded::strip_request(&mut parts.headers, &self.sites.identity)?;
        let mut announced = onward.announce(client, parts)?;
        if let Some(protocol) = &protocol {
            parts.headers.insert(UPGRADE, protocol.clone());
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if !route.request_headers.is_empty() {
            if let Some(announced) = announced.take() {
                announced.put_among(&mut parts.headers);
            }
            edit(&mut parts.headers, &route.request_headers);
        }
        let body = match incoming.is_over() {
            true => RequestBody::Empty,
            false => {
                let intake = record.intake.clone();
                let sites = self.sites.clone();
                RequestBody::Stream {
                    incoming: std::mem::replace(incoming, Incoming::Empty),
                    left: limit,
                    intake,
                    sites,
                    under_way: UnderWay::new(client),
                }
            }
        };
        let intake = record.intake.clone();
        let (is_upgrade, address) = (protocol.is_some(), onward.who.address);
        let mut outgoing = Outgoing { parts, announced, body, intake, is_upgrade, client: address };
        // Asked last: what is refused before must not be the one request that an open breaker lets through.
        let breaker = thread.shared.registry.breaker(&pool);
        if breaker.as_ref().is_some_and(|breaker| !lock(breaker).admit(thread.since_start())) {
            return Err(Refusal::BreakerOpen.into());
        }
        let outcome = forward::forward(client, record, route, &pool, &mut outgoing).await;
        if let Some((breaker, good)) = breaker.zip(verdict(&outcome))
            && lock(&breaker).note(good, thread.since_start())
        {
            tracing::warn!(pool = pool.config.name, "too many answers are errors: the breaker is open");
        }
        let mut response = outcome.map_err(Failure::from)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let agreed = response.headers().get(UPGRADE).cloned();
            forwarded::strip_response(response.headers_mut());
            response.headers_mut().extend(agreed.map(|agreed| (UPGRADE, agreed)));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        } else {
            forwarded::strip_response(response.headers_mut());
        }
        Ok(response)
    }
}

fn lock(breaker: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the backends did well; `None` when it was not up to them: else clients could open a breaker.
fn verdict(outcome: &Result<Response<ResponseBody>, Refusal>) -> Option<bool> {
    match outcome {
        Ok(response) => Some(!response.status().is_server_error()),
        Err(Refusal::BackendFailed | Refusal::BackendTimeout) => Some(false),
        Err(_) => None,
    }
}

/// What is known of a request that has found its route.
struct Onward<'e> {
    prepared: &'e Prepared,
    found: Found<'e>,
    canonical: &'e Canonical,
    who: forwarded::Client,
    id: HeaderValue,
}

impl Onward<'_> {
    /// Makes the head what the backend sees.
    fn announce<'r>(&'r self, client: &'r Client, parts: &mut Parts) -> Result<Option<Announced<'r>>, Malformed> {
        let announced = client.end.announce(&mut parts.headers, self.canonical, self.who, &self.id);
        let authority = self.canonical.authority();
        if parts.headers.get(HOST) != Some(authority) {
            parts.headers.insert(HOST, authority.clone());
        }
        // The client was told to go on when its body was asked for.
        parts.headers.remove(EXPECT);
        let path = self.found.forwarded(self.canonical);
        parts.uri = Uri::from(path?);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        Ok(announced)
    }
}

/// The protocol that a request asks to switch to (RFC 9110, 7.8).
fn upgrade(parts: &Parts, is_bare: bool) -> Result<Option<HeaderValue>, Failure> {
    let Some(protocol) = parts.headers.get(UPGRADE).cloned() else { return Ok(None) };
    let listed = parts.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let is_asked = listed.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    // h2c is a matter of one hop (RFC 9113, 3.1, has taken it away): the request goes on as it is.
    if !is_asked || parts.version != Version::HTTP_11 || protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return Ok(None);
    }
    if is_bare { Ok(Some(protocol)) } else { Err(Refusal::UpgradeRefused.into()) }
}

/// Removes, then sets, then adds.
fn edit(headers: &mut HeaderMap, edits: &Edits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name, value.clone());
    }
}
