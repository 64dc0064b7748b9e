//! The keys of a listener that HTTP has or has not.

use crate::config::error::Finding;
use crate::config::raw::Reader;

/// The keys that only HTTP has.
const HTTP_KEYS: [&str; 10] = [
    "trusted_proxies",
    "limits",
    "log_query",
    "auth",
    "rate_limit",
    "cors",
    "timeout",
    "retry",
    "request_headers",
    "response_headers",
];

/// The keys that HTTP has not, and what to do instead.
const FOREIGN_KEYS: &[(&str, &str)] = &[
    ("pool", "leave it out: the pool is chosen by routes, `[[route]]` with `match` and `pool`"),
    ("sni", "leave it out: routes choose by the name of the host, `match = { host = \"a.example.com\" }`"),
    ("udp", "leave it out: HTTP is carried by TCP"),
    (
        "idle_timeout",
        "write `limits = { idle_timeout = \"60s\" }` for the time between requests, and `timeout = { idle = \"60s\" }` for bodies",
    ),
    ("half_close_timeout", "leave it out: `timeout = { idle = \"60s\" }` is how long a body may stand still"),
    ("defer_accept", "leave it out: a client that sends nothing is ended after `limits.header_timeout`"),
];

/// What HTTP has not, in a listener for HTTP.
pub(super) fn refuse_foreign_keys(r: &mut Reader) {
    for (key, help) in FOREIGN_KEYS {
        r.refuse(key, |span| {
            Finding::error(span, format!("`{key}` does not belong to a listener with protocol = \"http\""))
                .label("this listener carries HTTP")
                .help(*help)
        });
    }
}

/// What only HTTP has, in a listener that `carries` something else.
pub(super) fn refuse_http_keys(r: &mut Reader, carries: &str) {
    for key in HTTP_KEYS {
        r.refuse(key, |span| {
            Finding::error(span, format!("`{key}` belongs to a listener with protocol = \"http\""))
                .label(format!("this listener carries {carries}"))
                .help(format!("add `protocol = \"http\"` and routes, or leave `{key}` out"))
        });
    }
}

/// Where they cannot be judged.
pub(super) fn pass_over(r: &mut Reader) {
    for key in HTTP_KEYS {
        r.take(key);
    }
}
