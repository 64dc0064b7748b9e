//! Names and values of headers, and edits of them.

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use toml::de::DeValue;

use crate::config::error::Finding;
use crate::config::http::{Edits, folded};
use crate::config::raw::{Fault, Reader, fault, quoted, text};

/// Headers in one table.
const HEADERS_MAX: usize = 256;

/// What is between two hops only (RFC 9110, 7.6.1), or says where a message ends: evener writes these itself.
const OWN: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// A header's name, in small letters.
pub(super) fn header_name(value: &DeValue) -> Result<HeaderName, Fault> {
    parse_name(text(value)?)
}

pub(super) fn parse_name(name: &str) -> Result<HeaderName, Fault> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        let what = format!("`{}` is no name of a header", quoted(name));
        fault(what, "not a header").help("write a name without colon and spaces, such as \"x-request-id\"")
    })
}

fn header_value(value: &DeValue) -> Result<HeaderValue, Fault> {
    let value = HeaderValue::from_str(text(value)?).ok().filter(|value| value.to_str().is_ok());
    value.ok_or_else(|| fault("a header holds visible ASCII characters and spaces only", "not a header's value"))
}

/// A host, or a host and a port (RFC 9110, 7.2).
fn check_host(value: HeaderValue) -> Result<HeaderValue, Fault> {
    let authority = Authority::try_from(value.as_bytes()).ok().filter(|name| !name.as_str().contains('@'));
    authority.is_some_and(|authority| !authority.host().is_empty()).then_some(value).ok_or_else(|| {
        fault("neither a host nor a host and a port", "not a host").help("write one such as \"app.example.com\"")
    })
}

/// Whether evener decides what it says; `Host` of a request may be set.
pub(super) fn is_own(name: &HeaderName) -> bool {
    OWN.contains(&name.as_str())
}

/// What is said of the client, from `trusted_proxies` and the connection.
pub(super) fn is_about_the_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "forwarded" || name.starts_with("x-forwarded-")
}

/// `request_headers` or `response_headers`.
pub(super) fn edits(r: &mut Reader, is_request: bool) -> Edits {
    let set = values(r, "set", is_request);
    Edits { set, add: values(r, "add", is_request), remove: removed(r, is_request) }
}

fn values(r: &mut Reader, key: &'static str, is_request: bool) -> Vec<(HeaderName, HeaderValue)> {
    let entries = r.entries(key, "a table of headers", &format!("write `{key} = {{ x-tenant = \"a\" }}`"));
    if let Some((name, _)) = entries.get(HEADERS_MAX) {
        let title = format!("invalid `{key}`: at most {HEADERS_MAX} headers are allowed");
        r.findings.push(Finding::error(name.span(), title).label("one too many"));
    }
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (key_item, item) in entries.into_iter().take(HEADERS_MAX) {
        let name = parse_name(key_item.get_ref().as_ref()).and_then(|name| {
            let may_be_set = is_request && key == "set" && name == http::header::HOST;
            check(&name, may_be_set, is_request)?;
            if headers.iter().any(|(known, _)| *known == name) {
                return Err(fault(format!("`{name}` stands there twice"), "again here")
                    .help("letter case makes no other header: leave one of the two out"));
            }
            Ok(name)
        });
        let name = name.map_err(|fault| r.findings.push_with(|| fault.at(key_item.span(), key))).ok();
        let is_host = matches!(&name, Some(name) if name == http::header::HOST);
        let value = r.value(key, item, |value| {
            let value = header_value(value)?;
            if is_host { check_host(value) } else { Ok(value) }
        });
        headers.extend(name.zip(value));
    }
    headers
}

fn removed(r: &mut Reader, is_request: bool) -> Vec<HeaderName> {
    let names = r.list("remove", HEADERS_MAX, |value| {
        let name = header_name(value)?;
        check(&name, false, is_request)?;
        Ok(name)
    });
    names.into_iter().map(|(name, _)| name).collect()
}

fn check(name: &HeaderName, may_be_set: bool, is_request: bool) -> Result<(), Fault> {
    // With a header of a request goes what a backend may read as it.
    let read = if is_request { &folded(name) } else { name };
    if is_own(read) && !may_be_set && (is_request || *read != http::header::HOST) {
        let help = match name.as_str() {
            "host" => "write it into `set`: a request has exactly one",
            _ => "leave it out: it belongs to one connection, and evener writes it itself",
        };
        return Err(fault(format!("`{name}` cannot be changed"), "evener's own").help(help));
    }
    if is_request && is_about_the_client(read) {
        return Err(fault(format!("`{name}` says who the client is"), "evener's own")
            .help("leave it out: evener writes it itself, from the connection and from `trusted_proxies`"));
    }
    Ok(())
}
