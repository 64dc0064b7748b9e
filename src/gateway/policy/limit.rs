//! `rate_limit`: how often a client may ask, counted by the limiter that also serves `per_client`, and what the client is
//! told of it (draft-ietf-httpapi-ratelimit-headers). And how often it may fail to say who it is, which no key sets.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::auth::Identity;
use super::{Asked, Refused};
use crate::config::http::{LimitKey, RateLimit as Configured};
use crate::gateway::refusal::Refusal;
use crate::limit::{Allowance, CLIENTS_MAX, ClientKey, Limiter, Limits, Rate};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Credentials of one client that do not count: so many at once, and as many a second as [`FAILURES_PER_SECOND`].
const FAILURES_BURST: u32 = 100;
/// Beyond that a client is guessing, or has lost its wits.
const FAILURES_PER_SECOND: u32 = 20;

/// One of a route's limits.
#[derive(Debug)]
pub struct RateLimit {
    /// Who shares a bucket.
    pub key: Vec<LimitKey>,
    /// What it is called in headers: its key, and a number when another one of the route has the same.
    name: String,
    count: NonZeroU32,
    per: Duration,
    counter: Arc<Counter>,
}

/// The buckets of a limit. A key is 64 bits of a keyed hash: it has one size whatever clients send, and nobody can find
/// two values that share a bucket.
struct Counter {
    limiter: Limiter<u64>,
    hasher: RandomState,
}

/// Failed authentications by client, over all routes: nobody guesses credentials, nor buys signature checks, any faster.
pub struct Failures(Limiter);

impl Default for Failures {
    fn default() -> Self {
        let rate = Rate { count: FAILURES_PER_SECOND, per: Duration::from_secs(1), burst: FAILURES_BURST };
        Self(Limiter::new(Limits { connections: None, rate: Some(rate) }, CLIENTS_MAX))
    }
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

impl Failures {
    /// Asked before credentials are looked at. A client on a unix socket has no address and no limit.
    pub(super) fn ask(&self, client: Option<IpAddr>, now: Duration) -> Result<(), Refused> {
        let Some(client) = client else { return Ok(()) };
        self.0.peek(client.into(), now).map_err(|wait| Refused::limited("failed authentications".into(), wait))
    }

    /// Credentials of this client do not count.
    pub(super) fn count(&self, client: Option<IpAddr>, now: Duration) {
        if let Some(client) = client {
            // When two came at once, the bucket may be empty already.
            let _ = self.0.request(client.into(), now);
        }
    }
}

impl Refused {
    fn limited(detail: Cow<'static, str>, wait: Duration) -> Self {
        Self { refusal: Refusal::Limited, detail, headers: vec![(RETRY_AFTER, HeaderValue::from(seconds(wait)))] }
    }
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").finish_non_exhaustive()
    }
}

/// What a response says of limits.
#[derive(Debug)]
pub struct Report {
    /// RateLimit-Policy: all limits of the route.
    pub policy: HeaderValue,
    /// RateLimit: those that were asked, as `all` writes them.
    pub left: String,
}

impl Report {
    /// Puts it on a response.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy.clone());
        if let Ok(left) = HeaderValue::from_str(&self.left) {
            headers.insert(RATE_LIMIT, left);
        }
    }
}

/// RateLimit-Policy of a route.
pub fn policy(limits: &[RateLimit]) -> HeaderValue {
    let items = limits.iter().map(|limit| {
        // The draft has no window shorter than a second.
        let is_whole = limit.per.subsec_nanos() == 0;
        let window = if is_whole { format!(";w={}", limit.per.as_secs()) } else { String::new() };
        format!("\"{}\";q={}{window}", limit.name, limit.count)
    });
    let items = items.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(items).expect("names of headers and numbers")
}

/// Asks all of these limits. A request that a later one refuses has cost a place in those before.
pub(super) fn all(
    limits: &[RateLimit],
    asked: &mut Asked<'_>,
    identity: Option<&Identity>,
    left: &mut String,
) -> Result<(), Refused> {
    for limit in limits {
        match limit.counter.limiter.request(limit.hash(asked, identity), asked.now.since_start) {
            Ok(Allowance { left: rest, whole_in }) => limit.tell(rest, whole_in, left),
            Err(wait) => {
                limit.tell(0, wait, left);
                return Err(Refused::limited(limit.name.clone().into(), wait));
            }
        }
    }
    Ok(())
}

/// Whole ones, rounded up: who waits for less comes too early.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

impl RateLimit {
    fn tell(&self, rest: u32, reset: Duration, left: &mut String) {
        let comma = if left.is_empty() { "" } else { ", " };
        // Writing into a String cannot fail.
        let _ = write!(left, "{comma}\"{}\";r={rest};t={}", self.name, seconds(reset));
    }

    fn hash(&self, asked: &mut Asked<'_>, identity: Option<&Identity>) -> u64 {
        let mut hasher = self.counter.hasher.build_hasher();
        for key in &self.key {
            match key {
                LimitKey::ClientIp => asked.client.map(ClientKey::from).hash(&mut hasher),
                LimitKey::Consumer => identity.map(|who| (&who.issuer, &who.consumer)).hash(&mut hasher),
                LimitKey::Header(name) => {
                    let values = asked.headers.map().get_all(name);
                    values.iter().count().hash(&mut hasher);
                    values.iter().for_each(|value| value.as_bytes().hash(&mut hasher));
                }
                LimitKey::Route => {}
            }
        }
        hasher.finish()
    }
}

/// All counts, by route, with the limit that they are of.
#[derive(Debug, Default)]
pub struct Counters(HashMap<String, Vec<(Configured, Arc<Counter>)>>);

impl Counters {
    /// The limits of a route, with the counts of `old` where the very same limit was one of this route before.
    pub fn renew(&mut self, route: &str, limits: &[Configured], old: &mut Self) -> Vec<RateLimit> {
        let mut old = old.0.remove(route).unwrap_or_default();
        let mut renewed: Vec<RateLimit> = Vec::new();
        for limit in limits {
            let known = old.iter().position(|(known, _)| known == limit);
            let counter = known.map_or_else(|| Arc::new(Counter::new(limit)), |at| old.swap_remove(at).1);
            let same = renewed.iter().filter(|other| other.key == limit.key).count();
            let name = if same == 0 { name(&limit.key) } else { format!("{}-{}", name(&limit.key), same + 1) };
            renewed.push(RateLimit { key: limit.key.clone(), name, count: limit.limit, per: limit.per, counter });
        }
        let known = limits.iter().cloned().zip(renewed.iter().map(|limit| limit.counter.clone()));
        self.0.insert(route.to_owned(), known.collect());
        renewed
    }
}

impl Counter {
    fn new(limit: &Configured) -> Self {
        let rate = Rate { count: limit.limit.get(), per: limit.per, burst: limit.burst.get() };
        let limits = Limits { connections: None, rate: Some(rate) };
        Self { limiter: Limiter::new(limits, CLIENTS_MAX), hasher: RandomState::new() }
    }
}

fn name(key: &[LimitKey]) -> String {
    let words = key.iter().map(|key| match key {
        LimitKey::ClientIp => "client_ip",
        LimitKey::Consumer => "consumer",
        LimitKey::Header(name) => name.as_str(),
        LimitKey::Route => "route",
    });
    words.collect::<Vec<_>>().join("+")
}
