//! What belongs to HTTP as a file; see `config::print`. A route has all that applies to it, so a listener's defaults are
//! written at its routes.

use std::fmt::Display;

use http::{HeaderName, HeaderValue};

use crate::config::print::{Lines, bare_or_quoted, list, percent, quote, statuses, table, time};
use crate::config::validate::WEIGHT;
use crate::config::words::word_of;

use super::keys::is_of_secrets;
use super::{
    Action, Auth, Consumer, Cors, Edits, Gateway, HostPattern, Http, Jwt, KeySource, LimitKey, Limits, Match,
    PathPattern, PoolOptions, RateLimit, Retry, Route, Sticky, VERSIONS, ValuePattern, format_size,
};

/// What stands in place of a hash that is not to be seen: no hash, so that such a file is not taken for a whole one.
const MASK: &str = "sha256:…";

/// What a listener has of its own.
pub fn print_http(out: &mut Lines, http: &Http) {
    let Http { trusted_proxies, limits, log_query } = http;
    out.key("trusted_proxies", list(trusted_proxies));
    let Limits { header_bytes, header_fields, body, header_timeout, idle_timeout, streams, resets } = *limits;
    let limits = [
        ("header_bytes", size(u64::from(header_bytes))),
        ("header_fields", header_fields.to_string()),
        ("body", size(body)),
        ("header_timeout", time(header_timeout)),
        ("idle_timeout", time(idle_timeout)),
        ("streams", streams.to_string()),
        ("resets", resets.to_string()),
    ];
    out.key("limits", table(limits));
    out.key("log_query", log_query);
}

/// What a pool has for HTTP, where that is used or not the default.
pub fn print_pool(out: &mut Lines, options: &PoolOptions, is_used: bool) {
    let speech = options.speech;
    if is_used || speech != PoolOptions::default().speech {
        let version = quote(word_of(VERSIONS, &speech.version));
        let (idle_timeout, idle_max) = (time(speech.idle_timeout), speech.idle_max.to_string());
        out.key("http", table([("version", version), ("idle_timeout", idle_timeout), ("idle_max", idle_max)]));
    }
    let breaker = options.breaker.map(|breaker| {
        table([
            ("error_rate", percent(breaker.error_rate.0)),
            ("min_requests", breaker.min_requests.to_string()),
            ("window", time(breaker.window)),
            ("open_for", time(breaker.open_for)),
        ])
    });
    match breaker {
        Some(breaker) => out.key("breaker", breaker),
        None if is_used => out.key("breaker", false),
        None => {}
    }
}

/// `passive.statuses`.
pub fn print_statuses(options: &PoolOptions) -> Option<String> {
    (!options.failures.is_empty()).then(|| statuses(&options.failures))
}

/// Routes, issuers and consumers.
pub fn print_gateway(out: &mut Lines, gateway: &Gateway, masked: bool) {
    gateway.routes.iter().for_each(|route| print_route(out, route));
    gateway.jwt.iter().for_each(|jwt| print_jwt(out, jwt));
    gateway.consumers.iter().for_each(|consumer| print_consumer(out, consumer, masked));
}

fn print_route(out: &mut Lines, route: &Route) {
    out.header("[route]");
    out.key("name", quote(&route.name));
    out.key("listener", quote(&route.listener));
    out.key("match", print_match(&route.matches));
    out.key("priority", route.priority);
    print_action(out, &route.action);
    if let Some(prefix) = &route.strip_prefix {
        out.key("strip_prefix", quote(prefix));
    }
    if let Some(path) = &route.rewrite_path {
        out.key("rewrite_path", quote(path));
    }
    let policies = &route.policies;
    out.key("allow", list(&policies.allow));
    out.key("deny", list(&policies.deny));
    out.key("cors", policies.cors.as_ref().map_or("false".to_owned(), |cors| print_cors(cors)));
    match &policies.auth {
        Some(auth) => out.key("auth", print_auth(auth)),
        None if policies.is_meant_open => out.key("auth", quote("none")),
        None => out.note("auth is not set: nobody is asked who they are"),
    }
    let limits: Vec<String> = policies.rate_limits.iter().map(print_rate_limit).collect();
    out.key("rate_limit", format!("[{}]", limits.join(", ")));
    out.key("limits", table([("body", size(policies.body))]));
    out.key("response_headers", print_edits(&route.response_headers));
    if matches!(route.action, Action::Forward(_)) {
        out.key("request_headers", print_edits(&route.request_headers));
        let (request, idle) = (route.timeout.request.unwrap_or_default(), route.timeout.idle.unwrap_or_default());
        out.key("timeout", table([("request", time(request)), ("idle", time(idle))]));
        out.key("retry", route.retry.as_ref().map_or("false".to_owned(), print_retry));
    }
    if let Some(sticky) = &route.sticky {
        out.key("sticky", print_sticky(sticky));
    }
}

fn print_match(matches: &Match) -> String {
    let Match { hosts, path, methods, headers, query, user_agent, client_ip } = matches;
    let mut keys = Vec::new();
    if !hosts.is_empty() {
        let host = |host: &HostPattern| match host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Wildcard(parent) => format!("*.{parent}"),
        };
        keys.push(("host", list(&hosts.iter().map(host).collect::<Vec<_>>())));
    }
    match path {
        PathPattern::Any => {}
        PathPattern::Template(template) => keys.push(("path", quote(template))),
        PathPattern::Prefix(prefix) if prefix.is_empty() => keys.push(("path_prefix", quote("/"))),
        PathPattern::Prefix(prefix) => keys.push(("path_prefix", quote(prefix))),
        PathPattern::Regex(pattern) => keys.push(("path_regex", quote(pattern.text()))),
    }
    if !methods.is_empty() {
        keys.push(("method", list(methods)));
    }
    if !headers.is_empty() {
        keys.push(("header", print_values(headers)));
    }
    if !query.is_empty() {
        keys.push(("query", print_values(query)));
    }
    if let Some(pattern) = user_agent {
        keys.push(("user_agent", quote(pattern.0.as_str())));
    }
    if !client_ip.is_empty() {
        keys.push(("client_ip", list(client_ip)));
    }
    table(keys)
}

fn print_values<N: Display>(values: &[(N, ValuePattern)]) -> String {
    let value = |value: &ValuePattern| match value {
        ValuePattern::Present => "true".to_owned(),
        ValuePattern::Exact(text) => quote(text),
        ValuePattern::Regex(pattern) => table([("regex", quote(pattern.text()))]),
    };
    named(values.iter().map(|(name, pattern)| (name, value(pattern))))
}

fn print_action(out: &mut Lines, action: &Action) {
    match action {
        Action::Forward(pools) => match pools.as_slice() {
            [(pool, WEIGHT)] => out.key("pool", quote(pool)),
            pools => {
                let pool =
                    |(name, weight): &(String, u32)| table([("name", quote(name)), ("weight", weight.to_string())]);
                out.key("pools", format!("[{}]", pools.iter().map(pool).collect::<Vec<_>>().join(", ")));
            }
        },
        Action::Redirect { status, to } => {
            out.key("redirect", table([("to", quote(to)), ("status", status.as_u16().to_string())]));
        }
        Action::Reply { status, content_type, body } => {
            let (status, kind) = (status.as_u16().to_string(), quote(text(content_type)));
            out.key("reply", table([("status", status), ("content_type", kind), ("body", quote(body))]));
        }
    }
}

fn print_auth(auth: &Auth) -> String {
    let Auth { jwt, api_key, basic } = auth;
    let mut keys = Vec::new();
    keys.extend(jwt.iter().map(|jwt| ("jwt", quote(&jwt.name))));
    keys.extend(
        api_key.iter().map(|key| ("api_key", table([("header", quote(&key.header)), ("hide", key.hide.to_string())]))),
    );
    keys.extend(basic.iter().map(|realm| ("basic", table([("realm", quote(realm))]))));
    table(keys)
}

fn print_rate_limit(limit: &RateLimit) -> String {
    let RateLimit { limit, per, burst, key } = limit;
    let part = |part: &LimitKey| match part {
        LimitKey::ClientIp => "client_ip".to_owned(),
        LimitKey::Consumer => "consumer".to_owned(),
        LimitKey::Route => "route".to_owned(),
        LimitKey::Header(name) => format!("header:{name}"),
    };
    let key = list(&key.iter().map(part).collect::<Vec<_>>());
    table([("limit", limit.to_string()), ("per", time(*per)), ("burst", burst.to_string()), ("key", key)])
}

fn print_cors(cors: &Cors) -> String {
    let Cors { origins, methods, headers, expose_headers, credentials, max_age } = cors;
    let mut keys = vec![
        ("origins", origins.as_ref().map_or(quote("*"), |origins| list(origins))),
        ("methods", list(methods)),
        ("expose_headers", list(expose_headers)),
        ("credentials", credentials.to_string()),
    ];
    match headers {
        None => keys.push(("headers", quote("*"))),
        Some(headers) if headers.is_empty() => {}
        Some(headers) => keys.push(("headers", list(headers))),
    }
    keys.extend(max_age.iter().map(|age| ("max_age", time(*age))));
    table(keys)
}

fn print_retry(retry: &Retry) -> String {
    let Retry { attempts, on, per_try_timeout, budget } = retry;
    let words = [("connect", on.connect), ("reset", on.reset), ("timeout", on.timeout)];
    let words = words.into_iter().filter(|(_, is_on)| *is_on).map(|(word, _)| word.to_owned());
    let on: Vec<String> = words.chain(on.statuses.iter().map(|status| status.as_str().to_owned())).collect();
    let mut keys = vec![("attempts", attempts.to_string()), ("on", list(&on)), ("budget", percent(budget.0))];
    keys.extend(per_try_timeout.iter().map(|timeout| ("per_try_timeout", time(*timeout))));
    table(keys)
}

fn print_edits(edits: &Edits) -> String {
    let Edits { set, add, remove } = edits;
    let headers =
        |headers: &[(HeaderName, HeaderValue)]| named(headers.iter().map(|(name, value)| (name, quote(text(value)))));
    let mut keys = Vec::new();
    if !set.is_empty() {
        keys.push(("set", headers(set)));
    }
    if !add.is_empty() {
        keys.push(("add", headers(add)));
    }
    if !remove.is_empty() {
        keys.push(("remove", list(remove)));
    }
    table(keys)
}

fn print_sticky(sticky: &Sticky) -> String {
    let Sticky { cookie, secret_file, secret: _, max_age, secure } = sticky;
    table([
        ("cookie", quote(cookie)),
        ("secret_file", quote(secret_file.display())),
        ("max_age", time(max_age.unwrap_or_default())),
        ("secure", secure.to_string()),
    ])
}

fn print_jwt(out: &mut Lines, jwt: &Jwt) {
    let Jwt { name, issuer, audience, algorithms, keys, leeway, require, claims_to_headers } = jwt;
    out.header(&format!("jwt.{}", bare_or_quoted(name)));
    if let Some(issuer) = issuer {
        out.key("issuer", quote(issuer));
    }
    if !audience.is_empty() {
        out.key("audience", list(audience));
    }
    out.key("algorithms", list(&algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>()));
    match keys {
        KeySource::Fixed { path, .. } => {
            let is_secret = algorithms.first().copied().is_some_and(is_of_secrets);
            out.key(if is_secret { "secret_file" } else { "keys_file" }, quote(path.display()));
        }
        KeySource::Url { url, refresh, cooldown } => {
            out.key("keys_url", quote(url));
            out.key("refresh", time(*refresh));
            out.key("cooldown", time(*cooldown));
        }
    }
    out.key("leeway", time(*leeway));
    if !require.is_empty() {
        out.key("require", named(require.iter().map(|(claim, values)| (claim, list(values)))));
    }
    if !claims_to_headers.is_empty() {
        out.key("claims_to_headers", named(claims_to_headers.iter().map(|(claim, header)| (claim, quote(header)))));
    }
}

fn print_consumer(out: &mut Lines, consumer: &Consumer, masked: bool) {
    let Consumer { name, keys, password } = consumer;
    let hash = |hash: &[u8; 32]| match masked {
        true => MASK.to_owned(),
        false => hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    };
    out.header(&format!("consumer.{}", bare_or_quoted(name)));
    out.key("keys", list(&keys.iter().map(hash).collect::<Vec<_>>()));
    if let Some(password) = password {
        out.key("password", quote(hash(password)));
    }
}

/// A table whose keys the file chooses.
fn named<N: Display>(entries: impl Iterator<Item = (N, String)>) -> String {
    let entries: Vec<String> = entries.map(|(name, value)| format!("{} = {value}", quote(name))).collect();
    format!("{{ {} }}", entries.join(", "))
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().expect("the file's headers are of visible characters")
}

fn size(bytes: u64) -> String {
    quote(format_size(bytes))
}
