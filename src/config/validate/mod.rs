//! A table of TOML to a `Config`, valid by type: every key of the contract with its default and its limits, and what
//! must agree between tables. Whatever is wrong is noted, and the reading goes on.

mod agree;
mod discover;
mod health;
#[cfg(feature = "gateway")]
mod http;
#[cfg(not(feature = "gateway"))]
#[path = "no_http.rs"]
mod http;
mod listener;
mod pool;
mod process;
mod protocol;
mod tls;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{Finding, Findings, Span};
use super::raw::{FILE, Fault, Item, Reader, fault, mismatch, quoted, whole};
use super::units::{parse_duration, parse_percent};
use super::{Bind, Config, Drain, Percent};

pub(super) use pool::{CONNECT, QUEUE, backend_name};
pub use pool::{TIER_MAX, WEIGHT, WEIGHT_MAX};

/// Listeners in one file.
pub const LISTENERS_MAX: usize = 4_096;
/// Pools in one file.
pub const POOLS_MAX: usize = 4_096;
/// Backends in one pool.
pub(super) const BACKENDS_MAX: usize = 16_384;
/// Networks in one list.
const NETWORKS_MAX: usize = 65_536;
/// The name of a listener, pool or route, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Tables that people look for in a file.
const HINTS: &[(&str, &str)] = &[
    ("listeners", "did you mean `[listener.NAME]`?"),
    ("pools", "did you mean `[pool.NAME]`?"),
    ("server", "did you mean `[listener.NAME]`?"),
    ("frontend", "did you mean `[listener.NAME]`?"),
    ("backend", "did you mean `[pool.NAME]`?"),
    ("upstream", "did you mean `[pool.NAME]`?"),
    ("global", "did you mean `[process]`?"),
    ("routes", "did you mean `[[route]]`?"),
    ("consumers", "did you mean `[consumer.NAME]`?"),
];

/// A pool with the place of its name; the pool is `None` when it is no table.
struct PlacedPool {
    pool: Option<pool::Placed>,
    name: String,
    span: Span,
}

/// A pool that a route names, and where.
struct Used {
    pool: String,
    span: Span,
}

/// The whole file. The result means something only when no error was found.
pub(super) fn read<'t>(table: &'t DeTable<'t>, findings: &mut Findings) -> Config {
    let mut r = Reader::new(Some(table), 0..0, FILE.to_owned(), findings);
    r.hints(HINTS);
    let process = r.table("process", process::read);
    let process_metrics = process.metrics;
    let known = http::known(&mut r);
    let listeners = listeners(&mut r, &known, process.drain);
    let mut pools = pools(&mut r);
    let (gateway, used) = http::gateway(&mut r, known, &listeners);
    let listens = table.get("listener").is_some_and(|all| all.get_ref().as_table().is_none_or(|all| !all.is_empty()));
    if !listens {
        let mut finding = Finding::error(0..0, "there is no listener").help(
            "the smallest useful file:\n\n[listener.pg]\nbind = \"0.0.0.0:5432\"\npool = \"pg\"\n\n[pool.pg]\nbackends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]",
        );
        finding.span = None;
        r.findings.push(finding.absence());
    }
    agree::join_pools(&mut r, &listeners, &used, &mut pools);
    let metrics = process_metrics.map(|address| (Bind::Ip(address), table_span(table, "process", "metrics")));
    let admin = process.admin.clone().map(|path| (Bind::Unix(path), table_span(table, "process", "admin")));
    agree::compare_binds(&mut r, &listeners, metrics.into_iter().chain(admin));
    r.finish();
    Config {
        process,
        listeners: listeners.into_iter().map(|placed| Arc::new(placed.listener)).collect(),
        pools: pools.into_iter().filter_map(|placed| placed.pool).map(|placed| Arc::new(placed.pool)).collect(),
        gateway: Arc::new(gateway),
    }
}

fn table_span(table: &DeTable, outer: &str, inner: &str) -> Span {
    table
        .get(outer)
        .and_then(|item| item.get_ref().as_table())
        .and_then(|table| table.get(inner))
        .map_or(0..0, |item| item.span())
}

fn listeners(r: &mut Reader, known: &http::Known, drain: Drain) -> Vec<listener::Placed> {
    let mut listeners = Vec::new();
    for (name, span, item) in named(r, "listener", LISTENERS_MAX) {
        let DeValue::Table(table) = item.get_ref() else { continue };
        let title = format!("[listener.{}]", quoted(name));
        listeners.push(r.element(table, span, title, |r| listener::read(r, name, known, drain)));
    }
    listeners
}

fn pools(r: &mut Reader) -> Vec<PlacedPool> {
    let mut pools = Vec::new();
    for (name, span, item) in named(r, "pool", POOLS_MAX) {
        let pool = item.get_ref().as_table().map(|table| {
            let title = format!("[pool.{}]", quoted(name));
            r.element(table, span.clone(), title, |r| pool::read(r, name))
        });
        pools.push(PlacedPool { pool, name: name.to_owned(), span });
    }
    pools
}

/// The tables of `[listener.*]` or `[pool.*]`, with names that are fit for the command line and for metrics.
fn named<'t>(r: &mut Reader<'t, '_>, key: &'static str, max: usize) -> Vec<(&'t str, Span, &'t Item<'t>)> {
    let entries = r.entries(key, "a table of tables", &format!("give each {key} a name: `[{key}.NAME]`"));
    if let Some((name, _)) = entries.get(max) {
        let title = format!("more than {max} tables `[{key}.*]`");
        r.findings.push(Finding::error(name.span(), title).label("one too many"));
    }
    let mut unnamed = false;
    let mut tables = Vec::new();
    for (name, item) in entries.into_iter().take(max) {
        let (text, span) = (name.get_ref().as_ref(), name.span());
        if !item.get_ref().is_table() {
            // `[listener]` with the keys of a listener: one mistake, however many keys there are.
            if !std::mem::replace(&mut unnamed, true) {
                let finding = Finding::error(span.clone(), format!("`[{key}]` has no name"))
                    .label(format!("`{}` stands right under `{key}`", quoted(text)))
                    .help(format!("give each {key} a name: `[{key}.NAME]`"));
                r.findings.push(finding);
            }
        } else if !is_name(text) {
            let finding = Finding::error(span.clone(), format!("`{}` cannot be the name of a {key}", quoted(text)))
                .label("not a name")
                .help(format!("use 1 to {NAME_BYTES_MAX} of the letters a-z and A-Z, digits, `_`, `-` and `.`"));
            r.findings.push_with(|| finding);
        }
        tables.push((text, span, item));
    }
    tables
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A duration; of a number it says that the unit is missing.
fn duration(value: &DeValue) -> Result<Duration, Fault> {
    match value {
        DeValue::Integer(number) => Err(fault("the number has no unit", "not a duration")
            .help(format!("write \"{}s\" if seconds are meant", quoted(number.as_str())))),
        value => parse_duration(value.as_str().ok_or_else(|| mismatch(value, "a duration such as \"5s\""))?),
    }
}

/// A duration that is not zero.
fn positive(value: &DeValue) -> Result<Duration, Fault> {
    match duration(value)? {
        Duration::ZERO => Err(fault("it cannot be 0", "zero").help("write a duration such as \"500ms\" or \"5s\"")),
        duration => Ok(duration),
    }
}

/// A duration of which "0s" means never.
fn never(value: &DeValue) -> Result<Option<Duration>, Fault> {
    Ok(Some(duration(value)?).filter(|duration| !duration.is_zero()))
}

/// A share.
fn percent(value: &DeValue) -> Result<Percent, Fault> {
    match value {
        DeValue::Integer(number) => {
            Err(fault("the share has no `%`", "not a share").help(format!("write \"{}%\"", quoted(number.as_str()))))
        }
        value => parse_percent(value.as_str().ok_or_else(|| mismatch(value, "a share such as \"50%\""))?),
    }
}

/// A number from 1.
fn count(max: u32) -> impl Fn(&DeValue) -> Result<NonZeroU32, Fault> {
    move |value| whole(value, 1, max).map(|number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
}

/// A limit, of which 0 means that there is none.
fn limit(value: &DeValue) -> Result<Option<NonZeroU32>, Fault> {
    whole(value, 0, u32::MAX).map(NonZeroU32::new)
}
