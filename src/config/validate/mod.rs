//! A table of TOML to a `Config`, valid by type: every key of the contract with its default and its limits, and what
//! must agree between tables. Whatever is wrong is noted, and the reading goes on.

mod health;
mod listener;
mod pool;
mod process;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{Finding, Findings, Span};
use super::raw::{FILE, Fault, Item, Reader, fault, mismatch, quoted, whole};
use super::units::{parse_duration, parse_percent};
use super::words::nearest;
use super::{Bind, Check, Config, Percent, Pool, Step};

pub(super) use pool::WEIGHT;

/// Listeners in one file.
pub const LISTENERS_MAX: usize = 4_096;
/// Pools in one file.
pub const POOLS_MAX: usize = 4_096;
/// The name of a listener or pool, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Pools that a message lists.
const POOLS_LISTED_MAX: usize = 10;

/// Tables that people look for in a file.
const HINTS: &[(&str, &str)] = &[
    ("listeners", "did you mean `[listener.NAME]`?"),
    ("pools", "did you mean `[pool.NAME]`?"),
    ("server", "did you mean `[listener.NAME]`?"),
    ("frontend", "did you mean `[listener.NAME]`?"),
    ("backend", "did you mean `[pool.NAME]`?"),
    ("upstream", "did you mean `[pool.NAME]`?"),
    ("global", "did you mean `[process]`?"),
    ("route", "this version carries TCP and has no HTTP gateway"),
    ("jwt", "this version carries TCP and has no HTTP gateway"),
    ("consumer", "this version carries TCP and has no HTTP gateway"),
];

/// A pool with the place of its name; the pool is `None` when it is no table.
struct PlacedPool {
    pool: Option<Pool>,
    name: String,
    span: Span,
}

/// The whole file. The result means something only when no error was found.
pub(super) fn read<'t>(table: &'t DeTable<'t>, findings: &mut Findings) -> Config {
    let mut r = Reader::new(Some(table), 0..0, FILE.to_owned(), findings);
    r.hints(HINTS);
    let process = r.table("process", process::read);
    let process_metrics = process.metrics;
    let listeners = listeners(&mut r);
    let pools = pools(&mut r);
    if !r.has("listener") {
        let mut finding = Finding::error(0..0, "there is no listener").help(
            "the smallest useful file:\n\n[listener.pg]\nbind = \"0.0.0.0:5432\"\npool = \"pg\"\n\n[pool.pg]\nbackends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]",
        );
        finding.span = None;
        r.findings.push(finding.absence());
    }
    join_pools(&mut r, &listeners, &pools);
    let metrics = process_metrics.map(|address| (Bind::Ip(address), table_span(table, "process", "metrics")));
    let admin = process.admin.clone().map(|path| (Bind::Unix(path), table_span(table, "process", "admin")));
    compare_binds(&mut r, &listeners, metrics.into_iter().chain(admin));
    r.finish();
    Config {
        process,
        listeners: listeners.into_iter().map(|placed| Arc::new(placed.listener)).collect(),
        pools: pools.into_iter().filter_map(|placed| placed.pool).map(Arc::new).collect(),
    }
}

fn table_span(table: &DeTable, outer: &str, inner: &str) -> Span {
    table
        .get(outer)
        .and_then(|item| item.get_ref().as_table())
        .and_then(|table| table.get(inner))
        .map_or(0..0, |item| item.span())
}

fn listeners(r: &mut Reader) -> Vec<listener::Placed> {
    let mut listeners = Vec::new();
    for (name, span, item) in named(r, "listener", LISTENERS_MAX) {
        let DeValue::Table(table) = item.get_ref() else { continue };
        let title = format!("[listener.{}]", quoted(name));
        listeners.push(r.element(table, span, title, |r| listener::read(r, name)));
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
    let entries = r.entries(key);
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

/// Each listener has its pool, each pool a listener, and the two fit each other.
fn join_pools(r: &mut Reader, listeners: &[listener::Placed], pools: &[PlacedPool]) {
    let by_name: HashMap<&str, &PlacedPool> = pools.iter().map(|placed| (placed.name.as_str(), placed)).collect();
    let mut used = HashSet::new();
    for placed in listeners.iter().filter(|placed| !placed.listener.pool.is_empty()) {
        let wanted = placed.listener.pool.as_str();
        used.insert(wanted);
        let Some(found) = by_name.get(wanted) else {
            r.findings.push_with(|| {
                let finding = Finding::error(placed.pool.clone(), format!("there is no pool `{}`", quoted(wanted)));
                let help = match nearest(wanted, pools.iter().map(|placed| placed.name.as_str())) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None if (1..=POOLS_LISTED_MAX).contains(&pools.len()) => {
                        let names: Vec<_> = pools.iter().map(|placed| quoted(&placed.name)).collect();
                        format!("there are {}; or add a table `[pool.{}]`", names.join(", "), quoted(wanted))
                    }
                    None => format!("add a table `[pool.{}]` with its `backends`", quoted(wanted)),
                };
                finding.label("unknown pool").help(help).absence()
            });
            continue;
        };
        if placed.listener.defer_accept && found.pool.as_ref().is_some_and(backends_speak_first) {
            let title = "the backends speak first here, and with `defer_accept` each client waits for its time-out";
            let finding = Finding::warning(placed.defer_accept.clone(), title)
                .label("waits for the client's first byte")
                .help("leave `defer_accept` out");
            r.findings.push(finding);
        }
    }
    for placed in pools.iter().filter(|placed| !used.contains(placed.name.as_str())) {
        r.findings.push_with(|| {
            Finding::warning(placed.span.clone(), format!("no listener uses the pool `{}`", quoted(&placed.name)))
                .label("never used")
                .help("its backends are checked and get no clients; name it in a listener or take it out")
                .absence()
        });
    }
}

/// As far as the check gives it away.
fn backends_speak_first(pool: &Pool) -> bool {
    match &pool.health.kind {
        Check::Mysql { .. } => true,
        Check::Script { steps } => matches!(steps.first(), Some(Step::Expect(_))),
        _ => false,
    }
}

/// Two sockets at one address. Listeners set SO_REUSEPORT, with which bind(2) lets both have it and the kernel deals
/// clients out among them at random: that must not happen by mistake. Of "0.0.0.0" and "127.0.0.1" the kernel prefers
/// the closer match, which works and surprises.
fn compare_binds(r: &mut Reader, listeners: &[listener::Placed], process: impl Iterator<Item = (Bind, Span)>) {
    let listening = listeners.iter().flat_map(|placed| {
        let owner = format!("listener `{}`", quoted(&placed.listener.name));
        placed
            .listener
            .bind
            .iter()
            .cloned()
            .zip(placed.binds.iter().cloned())
            .map(move |(b, span)| (b, span, owner.clone()))
    });
    let process = process.map(|(bind, span)| (bind, span, "the process itself".to_owned()));
    let mut taken: HashMap<Bind, (Span, String)> = HashMap::new();
    let mut specific = Vec::new();
    for (bind, span, owner) in process.chain(listening) {
        if matches!(&bind, Bind::Ip(address) if address.port() == 0) {
            continue;
        }
        if let Some((first, first_owner)) = taken.get(&bind) {
            r.findings.push_with(|| {
                Finding::error(span.clone(), format!("{bind} is taken by {first_owner}"))
                    .label("again here")
                    .help("each address has one listener: choose another address or port")
                    .also(first.clone(), "first here")
            });
            continue;
        }
        if let Bind::Ip(address) = bind
            && !address.ip().is_unspecified()
        {
            specific.push((address, span.clone(), owner.clone()));
        }
        taken.insert(bind, (span, owner));
    }
    for (address, span, owner) in specific {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let Some((wide, wide_owner)) = taken.get(&Bind::Ip((any, address.port()).into())) else { continue };
        r.findings.push_with(|| {
            Finding::warning(span, format!("{address} lies within {any}, port {}", address.port()))
                .label(format!("clients of this address go to {owner}"))
                .help("leave one of the two out if that is not meant")
                .also(wide.clone(), format!("all others to {wide_owner}"))
        });
    }
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
