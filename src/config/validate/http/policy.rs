//! What is asked of a client and how long things may take: once for a listener as the default of its routes, once for
//! each route. What a route says of a kind stands in place of what its listener says of that kind.

use std::sync::Arc;
use std::time::Duration;

use crate::config::http::{Auth, Cors, Edits, RateLimit, Retry, Timeouts};
use crate::config::raw::Reader;

use super::super::never;
use super::{Known, auth, headers, limits};

const TIMEOUTS: Timeouts = Timeouts { request: Some(Duration::from_secs(30)), idle: Some(Duration::from_secs(60)) };

/// What a listener sets for its routes.
pub(in crate::config::validate) struct Defaults {
    pub body: u64,
    pub auth: Option<Arc<Auth>>,
    /// Nobody's default: each route says it for itself.
    pub is_meant_open: bool,
    pub rate_limits: Vec<RateLimit>,
    pub cors: Option<Arc<Cors>>,
    pub timeout: Timeouts,
    pub retry: Option<Retry>,
    pub request_headers: Edits,
    pub response_headers: Edits,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            body: super::LIMITS.body,
            auth: None,
            is_meant_open: false,
            rate_limits: Vec::new(),
            cors: None,
            timeout: TIMEOUTS,
            retry: None,
            request_headers: Edits::default(),
            response_headers: Edits::default(),
        }
    }
}

/// The keys of a listener or a route, and for those that are not there what `defaults` says.
pub(super) fn read(r: &mut Reader, known: &Known, defaults: &Defaults) -> Defaults {
    let (auth, is_meant_open) = auth::read(r, known, defaults.auth.clone());
    Defaults {
        body: defaults.body,
        auth,
        is_meant_open,
        rate_limits: limits::rate_limits(r, &defaults.rate_limits),
        cors: or(r, "cors", defaults.cors.clone(), limits::cors),
        retry: or(r, "retry", defaults.retry.clone(), limits::retry),
        timeout: or(r, "timeout", defaults.timeout, |r| {
            r.table("timeout", |r| Timeouts {
                request: r.or("request", never, TIMEOUTS.request),
                idle: r.or("idle", never, TIMEOUTS.idle),
            })
        }),
        request_headers: or(r, "request_headers", defaults.request_headers.clone(), |r| {
            r.table("request_headers", |r| headers::edits(r, true))
        }),
        response_headers: or(r, "response_headers", defaults.response_headers.clone(), |r| {
            r.table("response_headers", |r| headers::edits(r, false))
        }),
    }
}

/// What a key says, or the default.
fn or<'t, T>(r: &mut Reader<'t, '_>, key: &'static str, default: T, read: impl FnOnce(&mut Reader<'t, '_>) -> T) -> T {
    if r.take(key).is_some() { read(r) } else { default }
}
