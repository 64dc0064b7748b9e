//! `[[route]]`.

use std::collections::HashMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::Protocol;
use crate::config::address::parse_network;
use crate::config::error::{Finding, Span};
use crate::config::http::{Action, LimitKey, Policies, Route};
use crate::config::raw::{Fault, Reader, fault, mismatch, quoted, text};
use crate::config::words::nearest;

use super::super::{NAME_BYTES_MAX, NETWORKS_MAX, Used, is_name, listener};
use super::path::{check_placeholders, parse_prefix};
use super::policy::{self, Defaults};
use super::{Known, action, body, matching, sticky};

/// Routes in one file.
const ROUTES_MAX: usize = 16_384;
/// Beyond any order of routes that a person keeps in mind.
const PRIORITY_MAX: i64 = 1_000_000;

const HELP: &str = "write `[[route]]`, once for each route, with `name`, `match` and `pool`";

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("path", "write `match = { path = \"…\" }`"),
    ("path_prefix", "write `match = { path_prefix = \"…\" }`"),
    ("host", "write `match = { host = \"…\" }`"),
    ("backends", "backends belong to a pool: write `[pool.NAME]` with `backends`, and `pool = \"NAME\"` here"),
    ("headers", "did you mean `request_headers` or `response_headers`?"),
    ("jwt", "write `auth = { jwt = \"NAME\" }`"),
    ("api_key", "write `auth = { api_key = true }`"),
    ("body", "write `limits = { body = \"1MiB\" }`"),
];

/// The listeners, as routes see them.
struct Listeners<'l> {
    /// With what they set, and whether they end TLS.
    http: HashMap<&'l str, (&'l Defaults, bool)>,
    others: Vec<&'l str>,
}

/// A route and its place.
struct Placed {
    route: Route,
    name: Span,
    /// `None` where it could not be read as it is written.
    matches: Option<Span>,
}

/// All routes, and the pools that they use.
pub(super) fn read(r: &mut Reader, known: &Known, listeners: &[listener::Placed]) -> (Vec<Arc<Route>>, Vec<Used>) {
    let mut scope = Listeners { http: HashMap::new(), others: Vec::new() };
    for placed in listeners {
        match (&placed.listener.protocol, &placed.defaults) {
            (Protocol::Http(_), Some(defaults)) => {
                scope.http.insert(&placed.listener.name, (defaults, placed.listener.tls.is_some()));
            }
            _ => scope.others.push(&placed.listener.name),
        }
    }
    let (mut routes, mut used) = (Vec::new(), Vec::new());
    let Some(item) = r.take("route") else { return (Vec::new(), used) };
    if item.get_ref().is_table() {
        let finding = Finding::error(r.key_span("route"), "routes are a list").label("one table");
        r.findings.push(finding.help(HELP));
        return (Vec::new(), used);
    }
    for item in r.elements("route", item, ROUTES_MAX) {
        let DeValue::Table(table) = item.get_ref() else {
            r.value::<()>("route", item, |value| Err(mismatch(value, "a table").help(HELP)));
            continue;
        };
        let title = match table.get("name").and_then(|name| name.get_ref().as_str()) {
            Some(name) => format!("the route `{}`", quoted(name)),
            None => "a route".to_owned(),
        };
        routes.extend(r.element(table, Spanned::span(item), title, |r| route(r, known, &scope, &mut used)));
    }
    compare(r, &routes);
    (routes.into_iter().map(|placed| Arc::new(placed.route)).collect(), used)
}

fn route(r: &mut Reader, known: &Known, listeners: &Listeners, used: &mut Vec<Used>) -> Option<Placed> {
    r.hints(HINTS);
    let name = r.required("name", name, "name = \"NAME\"");
    let listener = listener_of(r, listeners);
    let (matches, names) = r.table("match", matching::read);
    let priority = r.or("priority", priority, 0);
    let is_readable = r.is_sound();
    let (action, pools) = action::read(r, &names);
    used.extend(pools);
    if ["redirect", "reply"].iter().any(|key| r.has(key)) && !["pool", "pools"].iter().any(|key| r.has(key)) {
        refuse_what_needs_a_backend(r);
    }
    let strip_prefix = r.optional("strip_prefix", strip_prefix);
    let rewrite_path = r.optional("rewrite_path", |value| rewrite_path(value, &names));
    if strip_prefix.is_some() && rewrite_path.is_some() {
        let finding =
            Finding::error(r.key_span("rewrite_path"), "`strip_prefix` and `rewrite_path` do not go together")
                .label("another path")
                .help("leave `strip_prefix` out, and write the whole path here: `{rest}` is what follows the prefix")
                .also(r.key_span("strip_prefix"), "a path already");
        r.findings.push(finding);
    }
    let networks = |r: &mut Reader, key| r.list(key, NETWORKS_MAX, |value| parse_network(text(value)?));
    let (allow, deny) = (networks(r, "allow"), networks(r, "deny"));
    let none = Defaults::default();
    let its = listener.as_ref().and_then(|name| listeners.http.get(name.as_str()).copied());
    let (defaults, over_tls) = its.unwrap_or((&none, false));
    let mut merged = policy::read(r, known, defaults);
    if !matches!(action, Some(Action::Forward(_))) {
        // What a listener sets for all is about backends, which this route has none of.
        let Defaults { timeout, retry, request_headers, .. } = Defaults::default();
        merged = Defaults { timeout, retry, request_headers, ..merged };
    }
    warn_of_no_consumer(r, &merged);
    let body = r.table("limits", |r| r.or("body", body, defaults.body));
    let places = (r.span_of("name"), is_readable.then(|| r.key_span("match")));
    let route = Route {
        name: name?,
        listener: listener?,
        matches,
        priority,
        action: action?,
        strip_prefix,
        rewrite_path,
        policies: Policies {
            allow: allow.into_iter().map(|(network, _)| network).collect(),
            deny: deny.into_iter().map(|(network, _)| network).collect(),
            cors: merged.cors,
            auth: merged.auth,
            is_meant_open: merged.is_meant_open,
            rate_limits: merged.rate_limits,
            body,
        },
        timeout: merged.timeout,
        retry: merged.retry,
        request_headers: merged.request_headers,
        response_headers: merged.response_headers,
        sticky: sticky::read(r, over_tls),
    };
    Some(Placed { route, name: places.0, matches: places.1 })
}

fn name(value: &DeValue) -> Result<String, Fault> {
    let name = text(value)?;
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(fault(format!("`{}` cannot be the name of a route", quoted(name)), "not a name")
        .help(format!("use 1 to {NAME_BYTES_MAX} of the letters a-z and A-Z, digits, `_`, `-` and `.`")))
}

/// The listener of a route, which need not be named when there is only one for HTTP.
fn listener_of(r: &mut Reader, listeners: &Listeners) -> Option<String> {
    let http = &listeners.http;
    if !r.has("listener") {
        r.take("listener");
        match http.len() {
            1 => return http.keys().next().map(|name| (*name).to_owned()),
            0 => {
                let finding =
                    Finding::error(r.span.clone(), "there is no listener for HTTP that this route could belong to");
                r.findings.push(
                    finding
                        .label("never asked")
                        .help("add a listener with `protocol = \"http\"`, and no `pool`")
                        .absence(),
                );
            }
            _ => r.missing("listener", "listener = \"NAME\""),
        }
        return None;
    }
    let wanted = r.optional("listener", |value| text(value).map(str::to_owned))?;
    if http.contains_key(wanted.as_str()) {
        return Some(wanted);
    }
    let finding = if listeners.others.contains(&wanted.as_str()) {
        Finding::error(r.span_of("listener"), format!("listener `{}` does not carry HTTP", quoted(&wanted)))
            .label("has no routes")
            .help("give it `protocol = \"http\"` and no `pool`, or name another listener")
    } else {
        let help = match nearest(&wanted, http.keys().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("add a table `[listener.{}]` with `protocol = \"http\"`", quoted(&wanted)),
        };
        Finding::error(r.span_of("listener"), format!("there is no listener `{}`", quoted(&wanted)))
            .label("unknown listener")
            .help(help)
            .absence()
    };
    r.findings.push(finding);
    None
}

fn priority(value: &DeValue) -> Result<i32, Fault> {
    let expected = format!("a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}");
    let DeValue::Integer(integer) = value else { return Err(mismatch(value, &expected)) };
    let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
    let number = number.filter(|number| number.abs() <= PRIORITY_MAX).and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| fault(format!("{expected} is needed"), "out of range"))
}

/// Redirects and replies go to no backend.
fn refuse_what_needs_a_backend(r: &mut Reader) {
    for key in ["strip_prefix", "rewrite_path", "retry", "request_headers", "timeout", "sticky"] {
        r.refuse(key, |span| {
            Finding::error(span, format!("`{key}` belongs to a route with a pool"))
                .label("nothing is forwarded here")
                .help(format!("leave `{key}` out"))
        });
    }
}

fn strip_prefix(value: &DeValue) -> Result<String, Fault> {
    match parse_prefix(text(value)?)? {
        prefix if prefix.is_empty() => Err(fault("`/` alone is nothing", "nothing to take off").help("leave it out")),
        prefix => Ok(prefix),
    }
}

fn rewrite_path(value: &DeValue, names: &[String]) -> Result<String, Fault> {
    let path = text(value)?;
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#']) {
        return Err(fault("a path begins with `/` and has visible ASCII characters only", "not a path")
            .help("write one such as \"/v2/{rest}\"; the query is passed on as it is"));
    }
    check_placeholders(path, names)?;
    Ok(path.to_owned())
}

fn warn_of_no_consumer(r: &mut Reader, merged: &Defaults) {
    let by_consumer = merged.rate_limits.iter().any(|limit| limit.key.contains(&LimitKey::Consumer));
    if by_consumer && merged.auth.is_none() && r.is_sound() {
        let finding = Finding::warning(r.span_of("rate_limit"), "without `auth` there is no consumer to be counted")
            .label("all clients share one")
            .help("add `auth`, or count by \"client_ip\"");
        r.findings.push(finding);
    }
}

/// Two of one name, and two that match the same with the same priority.
fn compare(r: &mut Reader, routes: &[Placed]) {
    let (mut names, mut matches) = (HashMap::new(), HashMap::new());
    for placed in routes {
        let route = &placed.route;
        if let Some(first) = names.insert(&route.name, &placed.name) {
            r.findings.push_with(|| {
                Finding::error(placed.name.clone(), format!("two routes named `{}`", quoted(&route.name)))
                    .label("again here")
                    .help("the log and the metrics tell routes by their names: give each its own")
                    .also(first.clone(), "first here")
            });
        }
        // Its text is as good as itself, and can be looked up.
        let key = (&route.listener, route.priority, format!("{:?}", route.matches));
        let Some(place) = &placed.matches else { continue };
        if let Some((first, first_place)) = matches.insert(key, (&route.name, place)) {
            r.findings.push_with(|| {
                let title = format!("`{}` matches what `{}` matches", quoted(&route.name), quoted(first));
                Finding::error(place.clone(), title)
                    .label("the same again")
                    .help("tell them apart by `match`, or give one of them a `priority`")
                    .also(first_place.clone(), "first here")
            });
        }
    }
}
