//! What only HTTP has in the file: the keys of its listeners, `[[route]]`, `[jwt.*]`, `[consumer.*]` and what a pool has
//! for it. `no_http` stands in its place in a build without the gateway.

mod action;
mod auth;
mod consumer;
mod headers;
mod jwt;
mod limits;
mod matching;
mod path;
mod policy;
mod pool;
mod route;
mod sticky;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::error::{Finding, Span};
use crate::config::http::{Consumer, Gateway, Http, Jwt, Limits, Route, format_size, parse_size};
use crate::config::raw::{Fault, Item, Reader, boolean, fault, mismatch, quoted, whole};

use super::listener::{self, networks};
use super::{Used, count, named, positive};

pub(in crate::config::validate) use policy::Defaults;
pub(in crate::config::validate) use pool::{failures, read as pool};

/// Tables `[jwt.*]` in one file.
const ISSUERS_MAX: usize = 1_024;
/// Tables `[consumer.*]` in one file.
const CONSUMERS_MAX: usize = 65_536;

/// A larger file is no set of keys and no secret.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Requests with cookies and tokens need the least; the largest is far beyond what any server reads.
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

/// A table with its name.
struct Named<T> {
    name: String,
    span: Span,
    table: T,
}

/// Who may be asked for by `auth`.
pub(in crate::config::validate) struct Known {
    /// `None` where the table is broken.
    jwt: Vec<Named<Option<Arc<Jwt>>>>,
    consumers: Vec<Arc<Consumer>>,
}

/// `[jwt.*]` and `[consumer.*]`.
pub(in crate::config::validate) fn known(r: &mut Reader) -> Known {
    let issuers = named(r, "jwt", ISSUERS_MAX);
    let jwt = tables(r, issuers, "jwt", |r, name| jwt::read(r, name).map(Arc::new));
    let mut keys = consumer::Keys::new();
    let consumers = named(r, "consumer", CONSUMERS_MAX);
    let consumers = tables(r, consumers, "consumer", |r, name| consumer::read(r, name, &mut keys));
    Known { jwt, consumers: consumers.into_iter().map(|named| Arc::new(named.table)).collect() }
}

fn tables<'t, T>(
    r: &mut Reader<'t, '_>,
    named: Vec<(&'t str, Span, &'t Item<'t>)>,
    kind: &str,
    mut read: impl FnMut(&mut Reader<'t, '_>, &str) -> T,
) -> Vec<Named<T>> {
    let mut tables = Vec::new();
    for (name, span, item) in named {
        let DeValue::Table(table) = item.get_ref() else { continue };
        let title = format!("[{kind}.{}]", quoted(name));
        let table = r.element(table, span.clone(), title, |r| read(r, name));
        tables.push(Named { name: name.to_owned(), span, table });
    }
    tables
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
        header_fields: r.or("header_fields", |value| whole(value, 1, HEADER_FIELDS_MAX), LIMITS.header_fields),
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

/// The routes, and the pools that they use.
pub(in crate::config::validate) fn gateway(
    r: &mut Reader,
    known: Known,
    listeners: &[listener::Placed],
) -> (Gateway, Vec<Used>) {
    let (routes, used) = route::read(r, &known, listeners);
    warn_of_the_idle(r, &known, &routes);
    let jwt = known.jwt.into_iter().filter_map(|named| named.table).collect();
    (Gateway { routes, jwt, consumers: known.consumers }, used)
}

/// Tables `[jwt.*]` that no route asks for.
fn warn_of_the_idle(r: &mut Reader, known: &Known, routes: &[Arc<Route>]) {
    let asked = |jwt: &Arc<Jwt>| {
        let auths = routes.iter().filter_map(|route| route.policies.auth.as_ref());
        auths.filter_map(|auth| auth.jwt.as_ref()).any(|asked| Arc::ptr_eq(asked, jwt))
    };
    for named in &known.jwt {
        if named.table.as_ref().is_some_and(|jwt| !asked(jwt)) {
            let title = format!("no route asks for tokens of `{}`", quoted(&named.name));
            let finding = Finding::warning(named.span.clone(), title).label("never used");
            let help = "name it in a route, `auth = { jwt = \"NAME\" }`, or take it out";
            r.findings.push(finding.help(help).absence());
        }
    }
}
