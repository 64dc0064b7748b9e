//! The tables of `evener top`: which columns they have, what stands in them, in which order.

use std::cmp::Ordering;
use std::time::SystemTime;

use super::sample::{Model, Part, Rates, backend_name, route_name};
use crate::api::{Backend, Pool, State};
use crate::cli::status;
use crate::cli::table::{Look, printable};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub heading: &'static str,
    /// Its numbers stand to the right.
    pub is_number: bool,
    /// In a narrow terminal the largest goes first; 0 stays.
    pub spare: u8,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in the model, and what a filter looks at.
    pub name: String,
    /// One for each column.
    pub cells: Vec<Cell>,
    /// What is wrong stands first while nobody has chosen another order.
    is_well: bool,
}

/// What stands in a column.
#[derive(Clone, Debug)]
pub struct Cell {
    /// As it is shown.
    pub text: String,
    /// How it looks.
    pub look: Look,
    /// What it is sorted by, if it is a number.
    value: f64,
}

/// An order that somebody has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// By which column.
    pub column: usize,
    /// The other way round: numbers have the largest first by themselves.
    pub reversed: bool,
}

const fn text(heading: &'static str, spare: u8) -> Column {
    Column { heading, is_number: false, spare }
}

const fn number(heading: &'static str, spare: u8) -> Column {
    Column { heading, is_number: true, spare }
}

const LISTENERS: &[Column] = &[
    text("LISTENER", 0),
    text("STATE", 4),
    number("ACTIVE", 1),
    number("NEW/s", 2),
    number("REFUSED/s", 6),
    number("IN/s", 5),
    number("OUT/s", 3),
    number("TOTAL", 8),
    text("POOL", 9),
    text("ADDRESS", 7),
];
const POOLS: &[Column] = &[
    text("POOL", 0),
    number("UP", 1),
    number("ACTIVE", 2),
    number("NEW/s", 3),
    number("P99", 4),
    number("FAILED/s", 6),
    number("NOBODY/s", 7),
    number("QUEUE", 8),
    number("IN/s", 9),
    number("OUT/s", 5),
    text("BALANCE", 10),
];
const BACKENDS: &[Column] = &[
    text("BACKEND", 0),
    text("STATE", 1),
    number("ACTIVE", 2),
    number("NEW/s", 3),
    number("P99", 5),
    number("FAILED/s", 6),
    number("IN/s", 9),
    number("OUT/s", 8),
    number("WEIGHT", 10),
    number("SINCE", 7),
    text("WHY", 4),
];
const ROUTES: &[Column] = &[
    text("ROUTE", 0),
    number("REQUESTS/s", 1),
    number("5XX/s", 2),
    number("P99", 3),
    number("REFUSED/s", 4),
    number("TOTAL", 5),
];
const THREADS: &[Column] = &[text("THREAD", 0), number("LOAD", 1), number("CONNECTIONS", 2), number("ACCEPTS/s", 3)];

/// The columns of a table. The last one takes what is left of the width.
pub const fn columns(part: Part) -> &'static [Column] {
    match part {
        Part::Listeners => LISTENERS,
        Part::Pools => POOLS,
        Part::Backends => BACKENDS,
        Part::Routes => ROUTES,
        Part::Threads => THREADS,
    }
}

/// The rows of a table whose names have `filter` in them, in this order.
pub fn rows(model: &Model, part: Part, filter: &str, order: Option<Order>, now: SystemTime) -> Vec<Row> {
    let status = &model.status;
    let rates = |name: &str| model.rates(part, name);
    let mut rows: Vec<Row> = match part {
        Part::Listeners => status.listeners.iter().map(|one| listener(one, rates(&one.name))).collect(),
        Part::Pools => status.pools.iter().map(|one| pool(one, rates(&one.name))).collect(),
        Part::Backends => {
            let backends = status.pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
            backends.map(|(of, one)| backend(of, one, rates(&backend_name(of, one)), now)).collect()
        }
        Part::Routes => status.routes.iter().map(|one| route(one, rates(&route_name(one)))).collect(),
        Part::Threads => status.process.threads.iter().map(|one| thread(one, rates(&one.name))).collect(),
    };
    if !filter.is_empty() {
        let filter = filter.to_lowercase();
        rows.retain(|row| row.name.to_lowercase().contains(&filter));
    }
    match order {
        None => rows.sort_by_key(|row| row.is_well),
        Some(order) => rows.sort_by(|a, b| compare(part, order, a, b)),
    }
    rows
}

fn compare(part: Part, order: Order, a: &Row, b: &Row) -> Ordering {
    let Some(column) = columns(part).get(order.column) else { return Ordering::Equal };
    let (a, b) = (&a.cells[order.column], &b.cells[order.column]);
    let natural = if column.is_number { b.value.total_cmp(&a.value) } else { a.text.cmp(&b.text) };
    if order.reversed { natural.reverse() } else { natural }
}

fn word(text: impl AsRef<str>) -> Cell {
    Cell { text: printable(text.as_ref()), look: Look::Plain, value: 0.0 }
}

fn count(value: impl Into<f64>) -> Cell {
    let value = value.into();
    Cell { text: short(value), look: Look::Plain, value }
}

fn maybe(value: Option<f64>, show: fn(f64) -> String) -> Cell {
    match value {
        Some(value) => Cell { text: show(value), look: Look::Plain, value },
        None => Cell { text: "-".to_owned(), look: Look::Faint, value: -1.0 },
    }
}

/// What should be 0.
fn trouble(value: Option<f64>) -> Cell {
    let cell = maybe(value, short);
    if value.is_some_and(|value| value > 0.0) { cell.look(Look::Notable) } else { cell }
}

impl Cell {
    fn look(self, look: Look) -> Self {
        Self { look, ..self }
    }
}

fn listener(one: &crate::api::Listener, rates: Rates) -> Row {
    let listens = one.state == "listening";
    let prefix = if one.protocol == "tcp" { String::new() } else { format!("{} ", one.protocol) };
    let cells = vec![
        word(&one.name),
        word(&one.state).look(if listens { Look::Good } else { Look::Notable }),
        count(one.connections.active),
        maybe(rates.fresh, short),
        trouble(rates.bad),
        maybe(rates.bytes_in, bytes),
        maybe(rates.bytes_out, bytes),
        count(one.connections.accepted as f64),
        word(if one.pool.is_empty() { "-" } else { &one.pool }),
        word(prefix + &one.bind.join(" ")),
    ];
    Row { name: one.name.clone(), cells, is_well: listens }
}

fn pool(one: &Pool, rates: Rates) -> Row {
    let up = one.backends.iter().filter(|backend| backend.state == State::Up).count();
    let look = match up {
        _ if one.panic || !one.serves() => Look::Bad,
        up if up < one.backends.len() => Look::Notable,
        _ => Look::Good,
    };
    let text = format!("{up}/{}", one.backends.len());
    let queue = if one.queue.max > 0 { format!("{}/{}", one.queue.length, one.queue.max) } else { "-".to_owned() };
    let cells = vec![
        word(&one.name),
        Cell { text, look, value: up as f64 },
        count(one.connections.active),
        maybe(rates.fresh, short),
        maybe(rates.p99_ms, millis),
        trouble(rates.bad),
        trouble(rates.lost),
        Cell { text: queue, look: Look::Plain, value: one.queue.length.into() },
        maybe(rates.bytes_in, bytes),
        maybe(rates.bytes_out, bytes),
        word(if one.panic { format!("{}: PANIC, health is ignored", one.balance) } else { one.balance.clone() }),
    ];
    Row { name: one.name.clone(), cells, is_well: look == Look::Good }
}

fn backend(pool: &Pool, one: &Backend, rates: Rates, now: SystemTime) -> Row {
    let name = backend_name(pool, one);
    let is_up = one.state == State::Up;
    let age = status::since(&one.since, now);
    let seconds = humantime::parse_rfc3339(&one.since).ok().and_then(|since| now.duration_since(since).ok());
    let cells = vec![
        word(&name),
        word(one.state.as_str()).look(status::look(one.state)),
        count(one.connections.active),
        maybe(rates.fresh, short),
        maybe(rates.p99_ms, millis),
        trouble(rates.bad),
        maybe(rates.bytes_in, bytes),
        maybe(rates.bytes_out, bytes),
        count(one.weight),
        Cell { text: age, look: Look::Plain, value: seconds.unwrap_or_default().as_secs_f64() },
        word(status::why(one)).look(if is_up { Look::Faint } else { Look::Plain }),
    ];
    Row { name, cells, is_well: is_up }
}

fn route(one: &crate::api::Route, rates: Rates) -> Row {
    let name = route_name(one);
    let cells = vec![
        word(&name),
        maybe(rates.fresh, short),
        trouble(rates.bad),
        maybe(rates.p99_ms, millis),
        trouble(rates.lost),
        count(one.requests.values().sum::<u64>() as f64),
    ];
    Row { name, cells, is_well: true }
}

fn thread(one: &crate::api::Thread, rates: Rates) -> Row {
    let cells = vec![word(&one.name), maybe(rates.load, percent), count(one.connections), maybe(rates.fresh, short)];
    Row { name: one.name.clone(), cells, is_well: true }
}

/// A number in at most five characters.
pub fn short(value: f64) -> String {
    if value > 0.0 && value < 9.95 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            let is_small = value < 99.95 && !unit.is_empty();
            return if is_small { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// Bytes, or bytes a second.
pub fn bytes(value: f64) -> String {
    status::bytes(value as u64)
}

/// Milliseconds.
pub fn millis(value: f64) -> String {
    match value {
        0.0..0.995 => format!("{value:.2}ms"),
        0.0..9.95 => format!("{value:.1}ms"),
        0.0..999.5 => format!("{value:.0}ms"),
        _ => format!("{:.1}s", value / 1000.0),
    }
}

/// A share of a core.
pub fn percent(value: f64) -> String {
    format!("{:.0}%", value * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> =
            [0.0, 0.04, 1.0, 1.26, 12.4, 999.4, 1000.0, 99_949.0, 123_456.0, 2e6, 7e15, 7e18].map(short).into();
        assert_eq!(shown, ["0", "0.0", "1", "1.3", "12", "999", "1.0k", "99.9k", "123k", "2.0M", "7P", "7000P"]);
        assert_eq!([0.0, 0.25, 4.0, 250.0, 2500.0].map(millis), ["0.00ms", "0.25ms", "4.0ms", "250ms", "2.5s"]);
        assert_eq!([0.0, 0.123, 1.5].map(percent), ["0%", "12%", "150%"]);
    }
}
