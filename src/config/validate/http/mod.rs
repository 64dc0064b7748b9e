//! What only HTTP has in the file: the keys of its listeners, `[[route]]`, `[jwt.*]`, `[consumer.*]` and what a pool has
//! for it. `no_http` stands in its place in a build without the gateway.

mod action;
mod headers;
mod matching;
mod path;
mod policy;
mod route;

use std::num::NonZeroU32;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::http::{Gateway, Http, Limits, PoolOptions};
use crate::config::raw::{Fault, Reader, boolean, fault, mismatch, quoted};
use crate::config::units::{format_size, parse_size};

use super::listener::{self, networks};
use super::{Used, count, positive};

pub(in crate::config::validate) use policy::Defaults;

/// hyper takes no less than the least of a request's header; the largest is far beyond what any server reads.
const HEADER_BYTES: (u64, u64) = (8 << 10, 1 << 20);
/// Fields of a request's header.
const HEADER_FIELDS_MAX: u32 = 1_000;
/// A body that no disk holds.
const BODY_BYTES_MAX: u64 = 1 << 50;
/// HTTP/2 streams of one connection, at once or reset.
const STREAMS_MAX: u32 = 10_000;

const LIMITS: Limits = Limits {
    header_bytes: 16 << 10,
    header_fields: 100,
    body: 1 << 30,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_mins(1),
    streams: NonZeroU32::new(100).expect("it is not 0"),
    resets: NonZeroU32::new(200).expect("it is not 0"),
};

/// Who may be asked for by `auth`.
#[derive(Default)]
pub(in crate::config::validate) struct Known {}

/// `[jwt.*]` and `[consumer.*]`.
pub(in crate::config::validate) fn known(_r: &mut Reader) -> Known {
    Known::default()
}

/// What a listener with `protocol = "http"` has of its own, and what it sets for its routes.
pub(in crate::config::validate) fn listener(r: &mut Reader, known: &Known) -> Option<(Http, Defaults)> {
    let http = Http {
        trusted_proxies: networks(r, "trusted_proxies").into_iter().map(|(network, _)| network).collect(),
        limits: r.table("limits", limits),
        log_query: r.or("log_query", boolean, false),
    };
    let defaults = Defaults { body: http.limits.body, ..Defaults::default() };
    let defaults = policy::read(r, known, &defaults);
    Some((http, defaults))
}

fn limits(r: &mut Reader) -> Limits {
    let header_bytes = r.or("header_bytes", |value| size(value, HEADER_BYTES), u64::from(LIMITS.header_bytes));
    Limits {
        header_bytes: u32::try_from(header_bytes).unwrap_or(LIMITS.header_bytes),
        header_fields: r.or("header_fields", count(HEADER_FIELDS_MAX), NonZeroU32::new(LIMITS.header_fields).unwrap_or(NonZeroU32::MIN)).get(),
        body: r.or("body", body, LIMITS.body),
        header_timeout: r.or("header_timeout", positive, LIMITS.header_timeout),
        idle_timeout: r.or("idle_timeout", positive, LIMITS.idle_timeout),
        streams: r.or("streams", count(STREAMS_MAX), LIMITS.streams),
        resets: r.or("resets", count(STREAMS_MAX), LIMITS.resets),
    }
}

/// `limits.body`.
fn body(value: &DeValue) -> Result<u64, Fault> {
    size(value, (1, BODY_BYTES_MAX))
}

/// A size within bounds.
fn size(value: &DeValue, (min, max): (u64, u64)) -> Result<u64, Fault> {
    if let DeValue::Integer(number) = value {
        let help = format!("write \"{}B\" if bytes are meant", quoted(number.as_str()));
        return Err(fault("the number has no unit", "not a size").help(help));
    }
    let size = parse_size(value.as_str().ok_or_else(|| mismatch(value, "a size such as \"64KiB\""))?)?;
    if (min..=max).contains(&size) {
        return Ok(size);
    }
    let what = format!("a size from {} to {} is needed", format_size(min), format_size(max));
    Err(fault(what, if size < min { "too small" } else { "too large" }))
}

/// What a pool has for HTTP listeners.
pub(in crate::config::validate) fn pool(_r: &mut Reader) -> PoolOptions {
    PoolOptions::default()
}

/// The routes, and the pools that they use.
pub(in crate::config::validate) fn gateway(
    r: &mut Reader,
    known: Known,
    listeners: &[listener::Placed],
) -> (Gateway, Vec<Used>) {
    let (routes, used) = route::read(r, &known, listeners);
    (Gateway { routes, ..Gateway::default() }, used)
}
