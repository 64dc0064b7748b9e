//! `route.match`.

use std::net::IpAddr;

use http::Method;
use toml::Spanned;
use toml::de::DeValue;

use crate::config::address::parse_network;
use crate::config::error::Finding;
use crate::config::http::{HostPattern, Match, PathPattern, Pattern, ValuePattern};
use crate::config::raw::{Fault, Item, Reader, fault, mismatch, quoted, text};
use crate::config::server_names::parse_server_name;

use super::headers::parse_name;
use super::path::{parse_prefix, parse_template};

/// Names, methods or networks of one route.
const ELEMENTS_MAX: usize = 1_024;
/// Headers or parameters that one route looks at.
const VALUES_MAX: usize = 64;
/// A regular expression, in bytes; what it may become is limited too.
const PATTERN_TEXT_BYTES_MAX: usize = 4_096;

/// The keys of which a route has at most one.
const PATHS: [&str; 3] = ["path", "path_prefix", "path_regex"];
/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("prefix", "did you mean `path_prefix`?"),
    ("regex", "did you mean `path_regex`?"),
    ("hosts", "did you mean `host`?"),
    ("headers", "did you mean `header`?"),
    ("ip", "did you mean `client_ip`?"),
    ("scheme", "a scheme belongs to a listener: give https a listener of its own"),
    ("port", "a port belongs to a listener: name it in `listener`"),
];

/// What a route matches, and the names of the parts of its path.
pub(super) fn read(r: &mut Reader) -> (Match, Vec<String>) {
    r.hints(HINTS);
    let hosts = one_or_list(r, "host", host);
    let (path, names) = path(r);
    let matches = Match {
        hosts,
        path,
        methods: one_or_list(r, "method", method),
        headers: values(r, "header", |name| match parse_name(name)? {
            name if name == http::header::HOST => {
                Err(fault("the host is not matched as a header", "the host").help("write `host = \"…\"`"))
            }
            name => Ok(name),
        }),
        query: values(r, "query", |name| Ok(name.to_owned())),
        user_agent: r.optional("user_agent", |value| pattern(value, Pattern::new)),
        client_ip: one_or_list(r, "client_ip", |value| parse_network(text(value)?)),
    };
    (matches, names)
}

/// One value, or a list of them that is not empty.
pub(super) fn one_or_list<T>(r: &mut Reader, key: &'static str, read: impl Fn(&DeValue) -> Result<T, Fault>) -> Vec<T> {
    match r.take(key) {
        Some(item) if item.get_ref().is_array() => {
            if item.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                r.value::<()>(key, item, |_| {
                    Err(fault("the list is empty", "empty").help("write at least one, or leave the key out"))
                });
            }
            r.list(key, ELEMENTS_MAX, read).into_iter().map(|(value, _)| value).collect()
        }
        _ => r.optional(key, read).into_iter().collect(),
    }
}

/// A name, "*." before one, or an IP address, as it stands in the Host header but for the port.
fn host(value: &DeValue) -> Result<HostPattern, Fault> {
    let text = text(value)?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(IpAddr::V4(address)) => return Ok(HostPattern::Exact(address.to_string())),
        Ok(IpAddr::V6(address)) => return Ok(HostPattern::Exact(format!("[{address}]"))),
        Err(_) if text == "*" => return Err(fault("`*` alone is no name", "every name").help("leave `host` out")),
        Err(_) => {}
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !name.contains("://")
        && port.parse::<u16>().is_ok()
    {
        let help = format!("write \"{}\": the port is that of the listener", quoted(name));
        return Err(fault("a host has no port here", "a port").help(help));
    }
    let name = parse_server_name(text)?;
    Ok(match name.strip_prefix("*.") {
        Some(parent) => HostPattern::Wildcard(parent.to_owned()),
        None => HostPattern::Exact(name),
    })
}

fn path(r: &mut Reader) -> (PathPattern, Vec<String>) {
    let given: Vec<&str> = PATHS.into_iter().filter(|key| r.has(key)).collect();
    if let [first, second, ..] = given[..] {
        let finding = Finding::error(r.key_span(second), format!("`{first}` and `{second}` do not go together"))
            .label("a second path")
            .help("leave one of them out, or write two routes")
            .also(r.key_span(first), "the first");
        r.findings.push(finding);
    }
    let template = r.optional("path", |value| {
        let text = text(value)?;
        Ok((PathPattern::Template(text.to_owned()), parse_template(text)?))
    });
    let prefix = r.optional("path_prefix", |value| {
        Ok((PathPattern::Prefix(parse_prefix(text(value)?)?), vec!["rest".to_owned()]))
    });
    let regex = r.optional("path_regex", |value| Ok((PathPattern::Regex(pattern(value, Pattern::whole)?), Vec::new())));
    template.or(prefix).or(regex).unwrap_or_default()
}

fn pattern(value: &DeValue, compile: impl Fn(&str) -> Result<Pattern, regex::Error>) -> Result<Pattern, Fault> {
    let text = text(value)?;
    if text.len() > PATTERN_TEXT_BYTES_MAX {
        let what = format!("a regular expression has at most {PATTERN_TEXT_BYTES_MAX} bytes");
        return Err(fault(what, format!("{} bytes", text.len())));
    }
    compile(text).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => fault("the regular expression is too large once compiled", "too large")
            .help("repeat less, or write several routes"),
        // Its text is several lines with the place underlined; the last one says what is wrong.
        error => {
            let error = error.to_string();
            let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            fault(format!("not a regular expression: {}", quoted(&what)), "not a regular expression")
                .help("write it in the syntax of Rust's regex: no look-around, no back-references")
        }
    })
}

pub(super) fn method(value: &DeValue) -> Result<Method, Fault> {
    let text = text(value)?;
    let wrong = || fault(format!("`{}` is no method", quoted(text)), "not a method");
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(wrong().help(format!("methods have capital letters: \"{}\"", quoted(&text.to_ascii_uppercase()))));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| wrong().help("write one such as \"GET\" or \"POST\""))
}

/// `header` or `query`: names, and what each must be.
fn values<N: PartialEq>(
    r: &mut Reader,
    key: &'static str,
    name: impl Fn(&str) -> Result<N, Fault>,
) -> Vec<(N, ValuePattern)> {
    let entries = r.entries(key, "a table of names and values", &format!("write `{key} = {{ name = \"value\" }}`"));
    if let Some((name, _)) = entries.get(VALUES_MAX) {
        let title = format!("invalid `{key}`: at most {VALUES_MAX} names are allowed");
        r.findings.push(Finding::error(name.span(), title).label("one too many"));
    }
    let mut values = Vec::new();
    for (written, item) in entries.into_iter().take(VALUES_MAX) {
        let name = name(written.get_ref().as_ref()).and_then(|name| match values.iter().any(|(n, _)| *n == name) {
            true => Err(fault("the name stands there twice", "again here").help("leave one of the two out")),
            false => Ok(name),
        });
        let name = name.map_err(|fault| r.findings.push_with(|| fault.at(written.span(), key))).ok();
        let value = value_pattern(r, key, item);
        values.extend(name.zip(value));
    }
    values
}

/// `"text"`, `true` or `{ regex = "…" }`.
fn value_pattern<'t>(r: &mut Reader<'t, '_>, key: &'static str, item: &'t Item<'t>) -> Option<ValuePattern> {
    match item.get_ref() {
        DeValue::Boolean(true) => Some(ValuePattern::Present),
        DeValue::Table(table) => r.element(table, Spanned::span(item), format!("a value of `{key}`"), |r| {
            r.required("regex", |value| pattern(value, Pattern::whole), "regex = \"v[0-9]+\"").map(ValuePattern::Regex)
        }),
        DeValue::String(text) => Some(ValuePattern::Exact(text.as_ref().to_owned())),
        _ => r.value(key, item, |value| Err(mismatch(value, "text, `true` or `{ regex = \"…\" }`"))),
    }
}
