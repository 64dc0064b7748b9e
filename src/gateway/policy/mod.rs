//! What is asked of a request before it goes on, one file a policy. Their order is the same on every route:
//! `allow` and `deny`, browsers' questions (they carry no credentials), limits that need nobody's name (so that floods
//! buy no signature checks), who it is (unless it failed to say so too often), what that one may, and limits by consumer.
//!
//! [`Prepared`] is a route's policies, compiled once for each configuration; [`Kept`] makes them and holds what outlives
//! a configuration: counts and fetched keys. No request waits and nothing here asks the clock.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use self::auth::Auth;
use self::cors::{Cors, Granted};
use self::jwks::Sources;
use self::jwt::Tokens;
use self::limit::{Counters, Failures, RateLimit, Report};
use super::message::Headers;
use super::refusal::Refusal;
use crate::config::contains;
use crate::config::http::{Gateway, LimitKey, Policies};

pub mod auth;
pub mod cors;
pub mod jwks;
pub mod jwt;
pub mod limit;

/// When a request is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since any fixed start, by a clock that is never set: for limits.
    pub since_start: Duration,
    /// Since 1970: for tokens.
    pub since_epoch: Duration,
}

/// A request as policies see it. Its headers become what the backend sees: what a consumer is known by may be taken out,
/// and what its token says put in.
#[derive(Debug)]
pub struct Asked<'r> {
    /// The method.
    pub method: &'r Method,
    /// The client's address, as far as proxies are trusted; `None` on a unix socket.
    pub client: Option<IpAddr>,
    /// The header.
    pub headers: &'r mut Headers,
    /// When.
    pub now: Moment,
}

/// A request that may go on.
#[derive(Debug)]
pub struct Admitted {
    /// Who it is: a consumer's name, or the `sub` of a token.
    pub consumer: Option<Arc<str>>,
    /// What its response gets, whoever makes it.
    pub response: OnResponse,
}

/// A request that goes no further.
#[derive(Debug)]
pub enum Stopped {
    /// A browser's question: 204 with these.
    Preflight(HeaderMap),
    /// It is refused.
    Refused(Box<Rejection>),
}

/// Why a request is refused.
#[derive(Debug)]
pub struct Rejection {
    /// Which policy.
    pub refusal: Refusal,
    /// For the log; never for the client.
    pub detail: Cow<'static, str>,
    /// What the answer gets.
    pub response: OnResponse,
}

/// What a response gets from policies.
#[derive(Debug, Default)]
pub struct OnResponse {
    cors: Option<Granted>,
    limits: Option<Report>,
    others: Vec<(HeaderName, HeaderValue)>,
}

impl OnResponse {
    /// Puts it on a response: the backend's, or one of our own.
    pub fn apply(&self, headers: &mut Headers) {
        if self.cors.is_none() && self.limits.is_none() && self.others.is_empty() {
            return;
        }
        let headers = headers.map();
        if let Some(granted) = &self.cors {
            granted.apply(headers);
        }
        if let Some(report) = &self.limits {
            report.apply(headers);
        }
        for (name, value) in &self.others {
            headers.append(name, value.clone());
        }
    }
}

/// What a policy that refuses says.
#[derive(Debug, PartialEq)]
struct Refused {
    refusal: Refusal,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The policies of a route.
#[derive(Debug)]
pub struct Prepared {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    /// Headers that only tokens may set, of all tables `[jwt.*]`.
    reserved: Arc<[HeaderName]>,
    cors: Option<Arc<Cors>>,
    limits_before: Vec<RateLimit>,
    auth: Option<Auth>,
    limits_after: Vec<RateLimit>,
    /// RateLimit-Policy of them all.
    limits: HeaderValue,
}

impl Prepared {
    /// Asks every policy.
    ///
    /// # Errors
    /// The answer of the first one that does not let it pass.
    pub fn admit(&self, mut asked: Asked<'_>) -> Result<Admitted, Stopped> {
        for name in &*self.reserved {
            asked.headers.map().remove(name);
        }
        let mut response = OnResponse::default();
        if let Some(cors) = &self.cors {
            let headers = asked.headers.map();
            if cors::is_preflight(asked.method, headers) && self.allows(asked.client) {
                return Err(Stopped::Preflight(cors.preflight(headers)));
            }
            response.cors = Some(Granted::new(cors, headers));
        }
        let mut left = String::new();
        let decision = self.decide(&mut asked, &mut left);
        response.limits = (!left.is_empty()).then(|| Report { policy: self.limits.clone(), left });
        match decision {
            Ok(consumer) => Ok(Admitted { consumer, response }),
            Err(Refused { refusal, detail, headers }) => {
                response.others = headers;
                Err(Stopped::Refused(Box::new(Rejection { refusal, detail, response })))
            }
        }
    }

    fn decide(&self, asked: &mut Asked<'_>, left: &mut String) -> Result<Option<Arc<str>>, Refused> {
        if !self.allows(asked.client) {
            return Err(Refused { refusal: Refusal::Denied, detail: "allow or deny".into(), headers: Vec::new() });
        }
        limit::all(&self.limits_before, asked, None, left)?;
        let Some(auth) = &self.auth else {
            // Limits by consumer are one limit for all when nobody has a name.
            limit::all(&self.limits_after, asked, None, left)?;
            return Ok(None);
        };
        let identity = auth.authenticate(asked)?;
        limit::all(&self.limits_after, asked, Some(&identity), left)?;
        identity.mark(asked.headers.map());
        Ok(identity.consumer)
    }

    /// A client on a unix socket has no address: who may connect is said by the socket's mode, as for all listeners.
    fn allows(&self, client: Option<IpAddr>) -> bool {
        client.is_none_or(|client| {
            !contains(&self.deny, client) && (self.allow.is_empty() || contains(&self.allow, client))
        })
    }
}

/// What outlives a configuration.
#[derive(Debug, Default)]
pub struct Kept {
    counters: Counters,
    sources: Sources,
    failures: Arc<Failures>,
}

impl Kept {
    /// The policies of each route, in the order of the configuration. Limits that have not changed keep their counts, and
    /// fetched keys stay; what this configuration does not have is forgotten. Has to be called within a runtime of tokio
    /// when keys are fetched.
    pub fn prepare(&mut self, gateway: &Gateway) -> Vec<Arc<Prepared>> {
        let sources = self.sources.renew(&gateway.jwt);
        let tokens = gateway.jwt.iter().zip(sources);
        let tokens = tokens.map(|(jwt, source)| (jwt.name.as_str(), Arc::new(Tokens::new(jwt, source))));
        let tokens: HashMap<&str, Arc<Tokens>> = tokens.collect();
        let consumers = Arc::new(auth::Consumers::new(&gateway.consumers));
        let reserved: Arc<[HeaderName]> = reserved_headers(gateway).cloned().collect();
        let failures = self.failures.clone();
        let mut counters = Counters::default();
        let prepare = |policies: &Policies, limits: Vec<RateLimit>| {
            let policy = limit::policy(&limits);
            let is_after = |limit: &RateLimit| limit.key.contains(&LimitKey::Consumer);
            let (limits_after, limits_before) = limits.into_iter().partition(is_after);
            Prepared {
                allow: policies.allow.clone(),
                deny: policies.deny.clone(),
                reserved: reserved.clone(),
                cors: policies.cors.as_ref().map(|cors| Arc::new(Cors::new(cors))),
                limits_before,
                auth: policies.auth.as_ref().map(|auth| Auth::new(auth, &tokens, &consumers, &failures)),
                limits_after,
                limits: policy,
            }
        };
        let routes = gateway.routes.iter().map(|route| {
            let limits = counters.renew(&route.name, &route.policies.rate_limits, &mut self.counters);
            Arc::new(prepare(&route.policies, limits))
        });
        let routes = routes.collect();
        self.counters = counters;
        routes
    }

    /// Until all keys that have to be fetched were asked for once, in vain or not.
    pub async fn fetched(&self) {
        self.sources.fetched().await;
    }
}

/// The headers that only tokens may set. Who routes by headers removes them from a request first.
pub fn reserved_headers(gateway: &Gateway) -> impl Iterator<Item = &HeaderName> {
    gateway.jwt.iter().flat_map(|jwt| jwt.claims_to_headers.iter().map(|(_, name)| name))
}

#[cfg(test)]
mod tests;
