//! One request, from its head to the head of its answer: canonical form, client, route, policies, and what the route does.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::body::{Incoming, RequestBody, ResponseBody};
use super::canonical::{Canonical, Malformed, canonical};
use super::client::{self, Client, UnderWay};
use super::forward::{self, Outgoing};
use super::forwarded::{self, Announced, RequestId};
use super::message::{Answer, Head, Headers};
use super::policy::{self, Moment, Rejection, Stopped};
use super::record::Record;
use super::refusal::Refusal;
use super::reply;
use super::route::{Asked, Found};
use super::sites::{Prepared, SiteTable};
use super::trial::Trial;
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
pub async fn answer(client: &Rc<Client>, head: &mut Head, incoming: &mut Incoming) -> Answer<ResponseBody> {
    let snapshot = client.thread.snapshot();
    let sites = client.thread.table(&snapshot, &client.site);
    let mut record = Box::new(Record::new(client.clone(), head.method.clone(), head.version, sites.clone()));
    if incoming.is_over() {
        record.intake.complete.set(true);
    }
    // A reload holds for the next request, also of a connection that is there already.
    let http = client::http_of(snapshot.site(client.site.id).unwrap_or(&client.site));
    let exchange = Exchange { client, http, snapshot: &snapshot, sites: &sites };
    let outcome = exchange.run(&mut record, head, incoming).await;
    let answer = outcome.unwrap_or_else(|failure| refuse(&mut record, failure));
    if !record.intake.is_given_up.get() {
        record.on_answer(answer.status);
    }
    answer.with(|body| body.with_record(record))
}

/// The answer to a request that is refused, or has failed.
fn refuse(record: &mut Record, Failure { refusal, detail }: Failure) -> Answer<ResponseBody> {
    tracing::debug!(refusal = refusal.label(), %detail, "a request was refused");
    record.refusal = Some(refusal);
    let mut answer = reply::problem(refusal, &detail, record.request_id.as_ref());
    let is_doubtful = matches!(refusal, Refusal::Malformed | Refusal::UpgradeRefused | Refusal::BodyTooLarge);
    if is_doubtful && record.version != Version::HTTP_2 {
        // What follows may be part of this request to somebody else.
        answer.headers.map().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The answer to what could not be read as a request.
pub fn refuse_unread(client: &Rc<Client>, refusal: Refusal, detail: String) -> Answer<ResponseBody> {
    let snapshot = client.thread.snapshot();
    let sites = client.thread.table(&snapshot, &client.site);
    let mut record = Box::new(Record::new(client.clone(), Method::default(), Version::HTTP_11, sites));
    record.intake.complete.set(true);
    let answer = refuse(&mut record, Failure { refusal, detail: detail.into() });
    record.on_answer(answer.status);
    answer.with(|body| body.with_record(record))
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
        head: &mut Head,
        incoming: &mut Incoming,
    ) -> Result<Answer<ResponseBody>, Failure> {
        let client = self.client;
        if head.headers.count() > self.http.limits.header_fields as usize {
            return Err(Refusal::HeaderTooLarge.into());
        }
        if head.version == Version::HTTP_2 {
            forwarded::join_cookies(head.headers.map());
        }
        let canonical = canonical(head, client.is_secure(), &self.sites.identity)?;
        record.on_canonical(&canonical, self.http.log_query);
        if !client.may_carry(&canonical) {
            return Err(Refusal::Misdirected.into());
        }
        let who = forwarded::client(client.end.address, head.headers.special(), &self.http.trusted_proxies);
        let id =
            forwarded::request_id(head.headers.special(), who.is_trusted, || client.thread.rng.borrow_mut().u128(..));
        record.on_client(who.address, &id);
        // What only tokens may say must not choose a route either.
        for name in &self.sites.identity {
            head.headers.map().remove(name);
        }
        let table = &self.sites.table;
        let headers = if table.looks_at_headers(&head.method) { &*head.headers.map() } else { head.headers.special() };
        let method = &head.method;
        let asked = Asked { method, canonical: &canonical, headers, client: who.address };
        let Some(found) = table.find(&asked) else { return Err(Refusal::NoRoute.into()) };
        let prepared = &self.sites.routes[found.index];
        record.on_route(found.index);
        client.set_patience(prepared.route.timeout.idle);
        let since_epoch =
            if prepared.route.policies.auth.is_some() { client.thread.clock.since_epoch() } else { Duration::ZERO };
        let now = Moment { since_start: client.thread.shared.since(record.began), since_epoch };
        let address = client.address.map(|_| who.address);
        let asked = policy::Asked { method: &head.method, client: address, headers: &mut head.headers, now };
        let admitted = match prepared.policies.admit(asked) {
            Ok(admitted) => admitted,
            Err(Stopped::Preflight(headers)) => return Ok(reply::preflight(headers)),
            Err(Stopped::Refused(rejection)) => {
                let Rejection { refusal, detail, response: own } = *rejection;
                let mut answer = refuse(record, Failure { refusal, detail });
                own.apply(&mut answer.headers);
                return Ok(answer);
            }
        };
        record.consumer = admitted.consumer;
        let onward = Onward { prepared, found, canonical: &canonical, who, id };
        let mut answer = match self.act(record, &onward, head, incoming).await {
            Ok(mut answer) => {
                edit(&mut answer.headers, &prepared.route.response_headers);
                answer
            }
            Err(failure) => refuse(record, failure),
        };
        admitted.response.apply(&mut answer.headers);
        Ok(answer)
    }

    async fn act(
        &self,
        record: &mut Record,
        onward: &Onward<'_>,
        head: &mut Head,
        incoming: &mut Incoming,
    ) -> Result<Answer<ResponseBody>, Failure> {
        match &onward.prepared.route.action {
            Action::Reply { status, content_type, body } => {
                Ok(reply::fixed(*status, content_type, body.clone().into()))
            }
            Action::Redirect { status, to } => {
                Ok(reply::redirect(*status, onward.found.location(to, onward.canonical)))
            }
            Action::Forward(_) => self.forward(record, onward, head, incoming).await,
        }
    }

    async fn forward(
        &self,
        record: &mut Record,
        onward: &Onward<'_>,
        head: &mut Head,
        incoming: &mut Incoming,
    ) -> Result<Answer<ResponseBody>, Failure> {
        let (client, route) = (self.client, &*onward.prepared.route);
        let thread = &client.thread;
        let name = onward.prepared.pool(&mut head.headers, &mut thread.rng.borrow_mut());
        let pool = name.and_then(|name| self.snapshot.pool_named(name)).ok_or(Refusal::NoBackend)?;
        record.pool = Some(pool.stats.name.clone());
        let limit = route.policies.body;
        if incoming.length().is_some_and(|length| length > limit) {
            return Err(Refusal::BodyTooLarge.into());
        }
        let protocols = upgrade(head, incoming.is_over())?;
        forwarded::strip_request(&mut head.headers, &self.sites.identity)?;
        let mut announced = onward.announce(client, head)?;
        let is_upgrade = protocols.is_some();
        if let Some(protocols) = protocols {
            let headers = head.headers.map();
            headers.insert(UPGRADE, protocols);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        edit_request(&mut head.headers, &mut announced, &route.request_headers);
        let body = match incoming.is_over() {
            true => RequestBody::Empty,
            false => RequestBody::Stream {
                incoming: std::mem::replace(incoming, Incoming::Empty),
                left: limit,
                intake: record.intake.clone(),
                sites: self.sites.clone(),
                under_way: UnderWay::later(client),
            },
        };
        let intake = record.intake.clone();
        let mut outgoing = Outgoing { head, announced, body, intake, is_upgrade, client: onward.who.address };
        // Asked last: what is refused before must not be the one request that an open breaker lets through.
        let trial = Trial::begin(thread, pool)?;
        let outcome = forward::forward(client, record, route, pool, &mut outgoing).await;
        if let Some(trial) = trial {
            trial.end(verdict(&outcome));
        }
        let mut answer = outcome.map_err(Failure::from)?;
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let agreed = answer.headers.special().get(UPGRADE).cloned();
            forwarded::strip_response(&mut answer.headers);
            let headers = answer.headers.map();
            headers.extend(agreed.map(|agreed| (UPGRADE, agreed)));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        } else {
            forwarded::strip_response(&mut answer.headers);
        }
        Ok(answer)
    }
}

/// Whether the backends did well; `None` when it was not up to them: else clients could open a breaker.
fn verdict(outcome: &Result<Answer<ResponseBody>, Refusal>) -> Option<bool> {
    match outcome {
        Ok(answer) => Some(!answer.status.is_server_error()),
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
    id: RequestId,
}

impl Onward<'_> {
    /// Makes the head what the backend sees.
    fn announce<'r>(&'r self, client: &'r Client, head: &mut Head) -> Result<Option<Announced<'r>>, Malformed> {
        let announced = client.end.announce(&mut head.headers, self.canonical, self.who, &self.id);
        let authority = self.canonical.authority();
        if head.headers.host().flatten().as_ref() != Some(authority) {
            head.headers.map().insert(HOST, authority.clone());
        }
        if let Some(headers) = head.headers.special_mut() {
            // The client was told to go on when its body was asked for.
            headers.remove(EXPECT);
        }
        head.uri = Uri::from(self.found.forwarded(self.canonical)?);
        head.version = Version::HTTP_11;
        Ok(announced)
    }
}

/// The protocols that a request asks to switch to.
fn upgrade(head: &Head, is_bare: bool) -> Result<Option<HeaderValue>, Failure> {
    if head.version != Version::HTTP_11 {
        return Ok(None);
    }
    match forwarded::upgrade(head.headers.special()) {
        Some(_) if !is_bare => Err(Refusal::UpgradeRefused.into()),
        protocols => Ok(protocols),
    }
}

/// Edits also what is to be announced. What a backend may read as a header that is removed or set goes with it.
fn edit_request(headers: &mut Headers, announced: &mut Option<Announced<'_>>, edits: &Edits) {
    if edits.is_empty() {
        return;
    }
    if let Some(announced) = announced.take() {
        announced.put_among(headers.map());
    }
    let replaced = edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name));
    forwarded::remove_with_aliases(headers.map(), replaced);
    edit(headers, edits);
}

/// Removes, then sets, then adds.
fn edit(headers: &mut Headers, edits: &Edits) {
    if edits.is_empty() {
        return;
    }
    let headers = headers.map();
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
