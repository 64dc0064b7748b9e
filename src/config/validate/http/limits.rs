//! `rate_limit`, `cors` and `retry`.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::{Method, StatusCode};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::Percent;
use crate::config::error::Finding;
use crate::config::http::{Cors, LimitKey, RateLimit, Retry, RetryOn};
use crate::config::raw::{Fault, Item, Reader, boolean, fault, mismatch, quoted, text, whole, word};
use crate::config::words::{Words, nearest};

use super::super::{count, percent, positive};
use super::headers;
use super::matching::{method, one_or_list};

/// Limits of one route.
const LIMITS_MAX: usize = 16;
/// Requests per time: one a nanosecond.
const REQUESTS_MAX: u32 = 1_000_000_000;
/// Parts of one limit's key.
const KEY_MAX: usize = 8;
/// Elements of the lists of `cors`.
const CORS_MAX: usize = 1_024;
/// More tries only prolong what will fail.
const ATTEMPTS_MAX: u32 = 10;
/// Conditions of one `retry`.
const CONDITIONS_MAX: usize = 64;

const ATTEMPTS: NonZeroU32 = NonZeroU32::new(2).expect("it is not 0");
const BUDGET: Percent = Percent(20);

/// A table, or a list of them; `[]` takes a default away.
pub(super) fn rate_limits(r: &mut Reader, default: &[RateLimit]) -> Vec<RateLimit> {
    let Some(item) = r.take("rate_limit") else { return default.to_vec() };
    let items: &[Item] = match item.get_ref() {
        DeValue::Array(_) => r.elements("rate_limit", item, LIMITS_MAX),
        _ => std::slice::from_ref(item),
    };
    let mut limits = Vec::new();
    for item in items {
        match item.get_ref() {
            DeValue::Table(table) => {
                limits.extend(r.element(table, Spanned::span(item), "`rate_limit`".to_owned(), rate_limit));
            }
            _ => drop(r.value::<()>("rate_limit", item, |value| {
                Err(mismatch(value, "a table").help("write `{ limit = 100, per = \"1m\" }`"))
            })),
        }
    }
    limits
}

fn rate_limit(r: &mut Reader) -> Option<RateLimit> {
    r.hints(&[("rate", "write `limit = 100, per = \"1m\"`"), ("window", "did you mean `per`?")]);
    let limit = r.required("limit", count(REQUESTS_MAX), "limit = 100");
    let per = r.required("per", positive, "per = \"1m\"");
    let burst = r.optional("burst", count(REQUESTS_MAX)).or(limit);
    let key = if r.has("key") { one_or_list(r, "key", limit_key) } else { vec![LimitKey::ClientIp] };
    if key.len() > KEY_MAX {
        let what = format!("at most {KEY_MAX} parts are allowed");
        r.findings.push(fault(what, format!("{} parts", key.len())).at(r.span_of("key"), "key"));
    }
    Some(RateLimit { limit: limit?, per: per?, burst: burst?, key })
}

/// "client_ip", "consumer", "route" or "header:NAME".
fn limit_key(value: &DeValue) -> Result<LimitKey, Fault> {
    match text(value)? {
        "client_ip" => Ok(LimitKey::ClientIp),
        "consumer" => Ok(LimitKey::Consumer),
        "route" => Ok(LimitKey::Route),
        other => match other.strip_prefix("header:") {
            Some(name) => headers::parse_name(name).map(LimitKey::Header),
            None => {
                let known = "there are \"client_ip\", \"consumer\", \"route\" and \"header:NAME\"";
                let help = match nearest(other, ["client_ip", "consumer", "route"]) {
                    Some(near) => format!("did you mean \"{near}\"? T{}", &known[1..]),
                    None => known.to_owned(),
                };
                Err(fault(format!("there is no \"{}\"", quoted(other)), "unknown").help(help))
            }
        },
    }
}

/// A table; `false` takes a default away.
pub(super) fn cors(r: &mut Reader) -> Option<Arc<Cors>> {
    r.table_or_false("cors", |r| {
        if !r.has("origins") {
            r.missing("origins", "origins = [\"https://app.example.com\"]");
        }
        let origins = all_or(r, "origins", origin);
        let headers = if r.has("headers") { all_or(r, "headers", headers::header_name) } else { Some(Vec::new()) };
        let methods = if r.has("methods") { one_or_list(r, "methods", method) } else { safe_methods() };
        let cors = Cors {
            methods,
            headers,
            expose_headers: r
                .list("expose_headers", CORS_MAX, headers::header_name)
                .into_iter()
                .map(|(h, _)| h)
                .collect(),
            credentials: r.or("credentials", boolean, false),
            max_age: r.optional("max_age", positive),
            origins,
        };
        if cors.credentials && cors.origins.is_none() && r.is_sound() {
            let title = "with credentials every site could act for whoever is logged in here";
            let finding = Finding::error(r.span_of("origins"), title)
                .label("every origin")
                .help("name the origins that may, or leave `credentials` out")
                .also(r.key_span("credentials"), "with credentials");
            r.findings.push(finding);
        }
        Arc::new(cors)
    })
}

/// What a page may send without asking.
fn safe_methods() -> Vec<Method> {
    vec![Method::GET, Method::HEAD, Method::POST]
}

/// A value or a list of them; `None` = all of them, "*".
fn all_or<T>(r: &mut Reader, key: &'static str, read: impl Fn(&DeValue) -> Result<T, Fault>) -> Option<Vec<T>> {
    let values = one_or_list(r, key, |value| match value.as_str() {
        Some("*") => Ok(None),
        _ => read(value).map(Some),
    });
    values.into_iter().collect()
}

/// A scheme, a host and a port, as browsers send it (RFC 6454, 6.2).
fn origin(value: &DeValue) -> Result<String, Fault> {
    let origin = text(value)?;
    let wrong = |what: &str, help: String| Err(fault(what, "not an origin").help(help));
    const EXAMPLE: &str = "write one such as \"https://app.example.com\"";
    if origin == "null" {
        return wrong("any page can have the origin `null`", "leave it out".to_owned());
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return wrong("an origin begins with a scheme", EXAMPLE.to_owned());
    };
    if let Some((authority, _)) = authority.split_once(['/', '?', '#']) {
        return wrong("an origin has no path", format!("write \"{}://{}\"", quoted(scheme), quoted(authority)));
    }
    if origin.contains('*') {
        return wrong("an origin has no `*` in it", "name each origin, or write \"*\" for all".to_owned());
    }
    if authority.is_empty() || !origin.bytes().all(|b| b.is_ascii_graphic()) || authority.contains('@') {
        return wrong("neither a host nor a host and a port", EXAMPLE.to_owned());
    }
    if origin.bytes().any(|b| b.is_ascii_uppercase()) {
        let help = format!("write \"{}\"", quoted(&origin.to_ascii_lowercase()));
        return wrong("browsers send small letters", help);
    }
    let usual = [("http", ":80"), ("https", ":443")].iter().any(|(s, port)| scheme == *s && authority.ends_with(port));
    if usual {
        return wrong("browsers leave the usual port out", "leave it out".to_owned());
    }
    Ok(origin.to_owned())
}

/// A table; `false` takes a default away.
pub(super) fn retry(r: &mut Reader) -> Option<Retry> {
    r.table_or_false("retry", |r| {
        let on = r.has("on").then(|| conditions(r));
        Retry {
            attempts: r.or("attempts", count(ATTEMPTS_MAX), ATTEMPTS),
            on: on.unwrap_or(RetryOn { connect: true, reset: true, ..RetryOn::default() }),
            per_try_timeout: r.optional("per_try_timeout", positive),
            budget: r.or("budget", percent, BUDGET),
        }
    })
}

#[derive(Clone, Copy)]
enum Condition {
    Connect,
    Reset,
    Timeout,
    Status(StatusCode),
}

const CONDITIONS: Words<Condition> =
    &[("connect", Condition::Connect), ("reset", Condition::Reset), ("timeout", Condition::Timeout)];

fn conditions(r: &mut Reader) -> RetryOn {
    let mut on = RetryOn::default();
    for (condition, span) in r.list("on", CONDITIONS_MAX, condition) {
        match condition {
            Condition::Connect => on.connect = true,
            Condition::Reset => on.reset = true,
            Condition::Timeout => on.timeout = true,
            Condition::Status(status) if on.statuses.contains(&status) => {
                r.findings.push(fault(format!("{} stands there twice", status.as_u16()), "again here").at(span, "on"));
            }
            Condition::Status(status) => on.statuses.push(status),
        }
    }
    if on == RetryOn::default() && r.is_sound() {
        let fault =
            fault("the list is empty", "never").help("write `on = [\"connect\", \"reset\"]`, or `retry = false`");
        r.findings.push(fault.at(r.span_of("on"), "on"));
    }
    on
}

fn condition(value: &DeValue) -> Result<Condition, Fault> {
    let number = match value {
        DeValue::Integer(_) => Some(whole(value, 400, 599)?),
        value => value.as_str().filter(|text| text.len() == 3).and_then(|text| text.parse::<u32>().ok()),
    };
    match number {
        None => word(value, CONDITIONS).map_err(|fault| Fault {
            help: Some("write \"connect\", \"reset\", \"timeout\" or a status such as \"503\"".to_owned()),
            ..fault
        }),
        Some(number @ 400..=599) => u16::try_from(number)
            .ok()
            .and_then(|number| StatusCode::from_u16(number).ok())
            .map(Condition::Status)
            .ok_or_else(|| fault("not a status", "not a status")),
        Some(number) => {
            Err(fault(format!("{number} is no failure"), "not a failure").help("write one from 400 to 599"))
        }
    }
}
