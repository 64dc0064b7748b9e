//! What only HTTP has: routes, what they ask of a request, and who may send it. Valid by type like the rest.
//!
//! What a listener sets for all its routes has been merged into them, policy by policy: whoever holds a [`Route`] holds
//! all that applies. `alias` has names that backends mix up, `keys` reads the keys of tokens, `print` writes all of it back, `summary` says in a line what a route asks.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::Percent;
use super::diff::{Names, compare};
use super::words::Words;

mod alias;
pub mod keys;
mod print;
mod size;
mod summary;

pub use alias::{folded, read_alike};
pub(super) use print::{print_gateway, print_http, print_pool, print_statuses};
pub use size::format_size;
pub(super) use size::parse_size;

/// `[[route]]`, `[jwt.*]` and `[consumer.*]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// In the order of the file; names are unique.
    pub routes: Vec<Arc<Route>>,
    /// Where tokens come from.
    pub jwt: Vec<Arc<Jwt>>,
    /// Who is known by a key or a password.
    pub consumers: Vec<Arc<Consumer>>,
}

/// What a listener with `protocol = "http"` has of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Peers whose X-Forwarded-For, Forwarded and x-request-id count; read from the right.
    pub trusted_proxies: Vec<IpNet>,
    /// What one client may ask of it.
    pub limits: Limits,
    /// Whether the access log has the values of the query ("off" = they are redacted).
    pub log_query: bool,
}

/// `listener.limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's header.
    pub header_bytes: u32,
    /// Fields of a request's header.
    pub header_fields: u32,
    /// Bytes of a request's body; a route may have its own.
    pub body: u64,
    /// From the first byte of a request to the end of its header, and how long an idle connection is kept is `idle`.
    pub header_timeout: Duration,
    /// How long a connection may be silent between two requests.
    pub idle_timeout: Duration,
    /// HTTP/2 streams at once on one connection.
    pub streams: NonZeroU32,
    /// HTTP/2 streams that a client may reset within ten seconds on one connection.
    pub resets: NonZeroU32,
}

/// A route: what it matches, what it asks, what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique.
    pub name: String,
    /// The listener it belongs to.
    pub listener: String,
    /// Which requests.
    pub matches: Match,
    /// Higher ones are asked first; among equals the most specific one.
    pub priority: i32,
    /// What becomes of them.
    pub action: Action,
    /// Taken off the start of the path before it is forwarded; a prefix by segments, without a slash at its end.
    pub strip_prefix: Option<String>,
    /// The path that is forwarded instead: a template with `{name}` of `path` and `{rest}` of a prefix.
    pub rewrite_path: Option<String>,
    /// What is asked of the client, merged with what the listener sets.
    pub policies: Policies,
    /// How long things may take.
    pub timeout: Timeouts,
    /// Whether and when a request is sent again.
    pub retry: Option<Retry>,
    /// Edits of what the backend sees.
    pub request_headers: Edits,
    /// Edits of what the client sees.
    pub response_headers: Edits,
    /// Keeps a client with its backend.
    pub sticky: Option<Sticky>,
}

/// `route.match`: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// One of these; empty = every host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// One of these; empty = every method.
    pub methods: Vec<Method>,
    /// Each of these.
    pub headers: Vec<(HeaderName, ValuePattern)>,
    /// Each of these.
    pub query: Vec<(String, ValuePattern)>,
    /// Found somewhere in User-Agent.
    pub user_agent: Option<Pattern>,
    /// The client's address in one of these; empty = every address.
    pub client_ip: Vec<IpNet>,
}

/// A name of `match.host`, in small letters, without port and without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// `*.` before this: one label more.
    Wildcard(String),
}

/// `match.path`, `path_prefix` or `path_regex`: at most one of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PathPattern {
    /// Every path.
    #[default]
    Any,
    /// The whole path; `{name}` stands for one segment, `{*name}` at the end for the rest.
    Template(String),
    /// This path and all below it, by whole segments; without a slash at its end ("" = every path).
    Prefix(String),
    /// Matches the whole path.
    Regex(Pattern),
}

/// What a header or a query parameter must be.
#[derive(Clone, Debug, PartialEq)]
pub enum ValuePattern {
    /// There at all (the file's `true`).
    Present,
    /// One of its values is this.
    Exact(String),
    /// One of its values matches as a whole (the file's `{ regex = "…" }`).
    Regex(Pattern),
}

/// A regular expression, compiled so that `is_match` says whether it matches as it is meant here; equal by its text.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

/// Bytes of a regular expression once compiled; its cache has as many.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// What stands around the text of one that matches the whole of something.
const WHOLE: (&str, &str) = (r"\A(?:", r")\z");

impl Pattern {
    /// One that is found anywhere.
    ///
    /// # Errors
    /// Text that is no such pattern, or too large a one.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        let mut builder = regex::RegexBuilder::new(text);
        builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build().map(Self)
    }

    /// One that matches the whole text.
    ///
    /// # Errors
    /// Text that is no such pattern, or too large a one.
    pub fn whole(text: &str) -> Result<Self, regex::Error> {
        // By itself first: "a)(b" is none, with or without what is put around it.
        Self::new(text)?;
        Self::new(&format!("{}{text}{}", WHOLE.0, WHOLE.1))
    }

    /// As the file has it.
    pub fn text(&self) -> &str {
        let text = self.0.as_str();
        text.strip_prefix(WHOLE.0).and_then(|text| text.strip_suffix(WHOLE.1)).unwrap_or(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It goes to a backend of one of these pools, by weight; at least one, at least one weight above 0.
    Forward(Vec<(String, u32)>),
    /// The client is sent elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// A template with `{host}`, `{path}`, `{query}` ("?" and the query, or nothing) and what `path` names.
        to: String,
    },
    /// A fixed answer.
    Reply {
        /// 200..=599.
        status: StatusCode,
        /// Of `body`.
        content_type: HeaderValue,
        /// The whole answer.
        body: String,
    },
}

/// What is asked of a client, in the order in which it is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// When not empty, all other addresses are refused.
    pub allow: Vec<IpNet>,
    /// Refused addresses; wins over `allow`.
    pub deny: Vec<IpNet>,
    /// Answers of browsers' questions.
    pub cors: Option<Arc<Cors>>,
    /// Who it must be; `None` = anybody.
    pub auth: Option<Arc<Auth>>,
    /// Whether it says itself that this is anybody: `auth = "none"`.
    pub is_meant_open: bool,
    /// Each of these; those by client address and header are asked before `auth`, those with the consumer after it.
    pub rate_limits: Vec<RateLimit>,
    /// Bytes of a request's body.
    pub body: u64,
}

/// `auth`: one of what is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    /// A token of this issuer.
    pub jwt: Option<Arc<Jwt>>,
    /// A key of a consumer.
    pub api_key: Option<ApiKey>,
    /// Name and password of a consumer (RFC 7617), with this realm.
    pub basic: Option<String>,
}

/// `auth.api_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Where it is.
    pub header: HeaderName,
    /// Keep it from the backend.
    pub hide: bool,
}

/// `[jwt.NAME]` (RFC 7519, as RFC 8725 wants it used).
#[derive(Clone, Debug, PartialEq)]
pub struct Jwt {
    /// The table's name.
    pub name: String,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// `aud` must hold one of these; empty = it is not looked at.
    pub audience: Vec<String>,
    /// The only ones that count; at least one, and either all want a secret or none does.
    pub algorithms: Vec<keys::Algorithm>,
    /// Whose signatures count.
    pub keys: KeySource,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Claims that must hold one of these (a claim that is a list, or text of words, holds each of them).
    pub require: Vec<(String, Vec<String>)>,
    /// Claims that the backend sees as headers. These headers are removed from every request first.
    pub claims_to_headers: Vec<(String, HeaderName)>,
}

/// Where the keys of tokens come from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// `keys_file`, or `secret_file` where the algorithms are HMAC; read with the configuration.
    Fixed {
        /// Where they were read.
        path: PathBuf,
        /// What was read.
        keys: keys::KeySet,
    },
    /// `keys_url`: fetched, and kept when it cannot be fetched again.
    Url {
        /// http or https.
        url: http::Uri,
        /// How often.
        refresh: Duration,
        /// Between two fetches that unknown keys or failures ask for.
        cooldown: Duration,
    },
}

/// `[consumer.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The table's name.
    pub name: String,
    /// SHA-256 of its keys.
    pub keys: Vec<[u8; 32]>,
    /// SHA-256 of its password.
    pub password: Option<[u8; 32]>,
}

/// `rate_limit`: so many requests per time, and so many at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per `per`.
    pub limit: NonZeroU32,
    /// In how long.
    pub per: Duration,
    /// Beyond the steady rate, at once.
    pub burst: NonZeroU32,
    /// Who shares one limit; all of them together are the key, and the limit belongs to its route.
    pub key: Vec<LimitKey>,
}

/// A part of a rate limit's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The client's address, IPv6 by /64.
    ClientIp,
    /// Who it is, by `auth`.
    Consumer,
    /// What a header says.
    Header(HeaderName),
    /// Nobody's in particular: all requests of the route share it.
    Route,
}

/// `cors` (the Fetch standard, 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `None` = every origin ("*"), never with `credentials`.
    pub origins: Option<Vec<String>>,
    /// Access-Control-Allow-Methods.
    pub methods: Vec<Method>,
    /// Access-Control-Allow-Headers; `None` = what is asked for ("*").
    pub headers: Option<Vec<HeaderName>>,
    /// Access-Control-Expose-Headers.
    pub expose_headers: Vec<HeaderName>,
    /// Access-Control-Allow-Credentials.
    pub credentials: bool,
    /// Access-Control-Max-Age.
    pub max_age: Option<Duration>,
}

/// `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's header to the response's header; `None` ("0s") = no limit.
    pub request: Option<Duration>,
    /// Without a byte of either body; `None` ("0s") = no limit.
    pub idle: Option<Duration>,
}

/// `retry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: NonZeroU32,
    /// After what.
    pub on: RetryOn,
    /// From the request's header to the response's header, for one try.
    pub per_try_timeout: Option<Duration>,
    /// Of the requests of a pool, this share may be retries.
    pub budget: Percent,
}

/// `retry.on`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection was had: nothing was sent.
    pub connect: bool,
    /// The connection broke before a response. Only requests that may be sent twice (RFC 9110, 9.2.2), unless nothing was
    /// sent.
    pub reset: bool,
    /// No response in time; as above.
    pub timeout: bool,
    /// These responses; as above.
    pub statuses: Vec<StatusCode>,
}

/// `request_headers`, `response_headers`: removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// In place of whatever there is.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside whatever there is.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `sticky`: a signed cookie that names the backend.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// Where `secret` was read.
    pub secret_file: PathBuf,
    /// What signs it; at least 16 bytes.
    pub secret: Arc<[u8]>,
    /// How long the browser keeps it; `None` = until it is closed.
    pub max_age: Option<Duration>,
    /// Only over TLS.
    pub secure: bool,
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// What a pool has for HTTP listeners only.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolOptions {
    /// `pool.http`.
    pub speech: Speech,
    /// `pool.breaker`.
    pub breaker: Option<Breaker>,
    /// `passive.statuses`: responses that count as failures of the backend.
    pub failures: Vec<RangeInclusive<u16>>,
}

impl PoolOptions {
    /// The ALPN name of the version of HTTP that its backends are spoken to in.
    pub fn alpn(&self) -> &'static [u8] {
        match self.speech.version {
            Version::Http1 => b"http/1.1",
            Version::Http2 => b"h2",
        }
    }
}

/// `pool.http`: how its backends are spoken to by HTTP listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    /// `"1.1"` (the default) or `"2"` (by prior knowledge, or by ALPN under TLS).
    pub version: Version,
    /// How long an idle connection is kept for the next request: less than the backend keeps it.
    pub idle_timeout: Duration,
    /// Idle connections kept for each backend.
    pub idle_max: u32,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113).
    Http2,
}

/// The words for versions in the file.
pub(super) const VERSIONS: Words<Version> = &[("1.1", Version::Http1), ("2", Version::Http2)];

/// `pool.breaker`: while too many responses are errors, requests are refused at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Opens at this share of errors (no response, or 5xx) ...
    pub error_rate: Percent,
    /// ... once so many requests were seen ...
    pub min_requests: NonZeroU32,
    /// ... within this.
    pub window: Duration,
    /// How long it stays open; then one request at a time is tried.
    pub open_for: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let speech = Speech { version: Version::Http1, idle_timeout: Duration::from_secs(30), idle_max: 100 };
        Self { speech, breaker: None, failures: Vec::new() }
    }
}

impl Gateway {
    /// What differs from `old`, by the name of the table.
    pub(super) fn diff(&self, old: &Self) -> Vec<(&'static str, Names)> {
        let changed = [
            ("routes", compare(&old.routes, &self.routes, |route| route.name.as_str()).0),
            ("jwt", compare(&old.jwt, &self.jwt, |jwt| jwt.name.as_str()).0),
            ("consumers", compare(&old.consumers, &self.consumers, |consumer| consumer.name.as_str()).0),
        ];
        changed.into_iter().filter(|(_, names)| *names != Names::default()).collect()
    }

    /// The pools that a listener's routes use; some more than once.
    pub fn pools_of(&self, listener: &str) -> impl Iterator<Item = &str> {
        let routes = self.routes.iter().filter(move |route| route.listener == listener);
        let pools = routes.flat_map(|route| match &route.action {
            Action::Forward(pools) => pools.as_slice(),
            _ => &[],
        });
        pools.map(|(pool, _)| pool.as_str())
    }
}
