//! What `evener top` knows: the last answer of the admin API, what has changed since the one before, and the lines that
//! are drawn of it. No terminal, no socket, and the clock is the caller's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::api::{Backend, Event, Listener, Pool, Route, Status, Thread};

/// Points of a line: more than a terminal is wide.
const POINTS_MAX: usize = 240;
/// Events that are kept for the tail.
const EVENTS_MAX: usize = 200;

/// What can be shown as a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The listeners.
    Listeners,
    /// The pools.
    Pools,
    /// All backends of all pools.
    Backends,
    /// The gateway's routes.
    Routes,
    /// The threads that carry traffic.
    Threads,
}

impl Part {
    /// In the order of the screen.
    pub const ALL: [Self; 5] = [Self::Listeners, Self::Pools, Self::Backends, Self::Routes, Self::Threads];
}

/// What is told of one row in one interval; `None` = it is not known yet, or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Connections, flows or requests begun a second.
    pub fresh: Option<f64>,
    /// Refusals, failed attempts, answers of 5xx a second.
    pub bad: Option<f64>,
    /// Requests that a route refused, clients of a pool that found no backend, a second.
    pub lost: Option<f64>,
    /// Bytes from clients a second.
    pub bytes_in: Option<f64>,
    /// Bytes to clients a second.
    pub bytes_out: Option<f64>,
    /// 99 of 100 connects or requests took at most so many milliseconds.
    pub p99_ms: Option<f64>,
    /// Of a core, 0 to 1.
    pub load: Option<f64>,
}

/// The past of one row.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Begun a second.
    pub fresh: VecDeque<f64>,
    /// Milliseconds.
    pub p99_ms: VecDeque<f64>,
}

/// Whether there is somebody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It answers.
    Up,
    /// It does not; why.
    Away(String),
}

/// All of it.
#[derive(Debug)]
pub struct Model {
    /// The last answer.
    pub status: Status,
    /// Whether it is of now.
    pub link: Link,
    /// The last events, the newest at the end.
    pub events: VecDeque<Event>,
    /// Of everything together.
    pub total: (Rates, Line),
    at: Instant,
    rows: HashMap<(Part, String), (Rates, Line)>,
}

/// The name of a backend's row.
pub fn backend_name(pool: &Pool, backend: &Backend) -> String {
    format!("{}/{}", pool.name, backend.name)
}

/// The name of a route's row.
pub fn route_name(route: &Route) -> String {
    let name = if route.route.is_empty() { "(no route)" } else { &route.route };
    format!("{}/{name}", route.listener)
}

impl Model {
    /// From the first answer: there are no rates yet.
    pub fn new(status: Status, at: Instant) -> Self {
        Self { status, link: Link::Up, events: VecDeque::new(), total: Default::default(), at, rows: HashMap::new() }
    }

    /// The next answer.
    pub fn take(&mut self, status: Status, at: Instant) {
        let span = at.saturating_duration_since(self.at);
        // Another process counts from the beginning.
        let is_same = status.pid == self.status.pid && status.uptime_s >= self.status.uptime_s;
        let before = std::mem::replace(&mut self.status, status);
        (self.link, self.at) = (Link::Up, at);
        let span = if is_same { span } else { Duration::ZERO };
        let rows = compare(&before, &self.status, span);
        let mut lines = std::mem::take(&mut self.rows);
        for (name, rates) in rows {
            let mut line = lines.remove(&name).map(|(_, line)| line).unwrap_or_default();
            line.push(&rates);
            self.rows.insert(name, (rates, line));
        }
        self.total.0 = self.sum(&before, span);
        let total = self.total.0;
        self.total.1.push(&total);
    }

    /// Nobody answers.
    pub fn miss(&mut self, why: String) {
        self.link = Link::Away(why);
    }

    /// Somebody answers again.
    pub fn meet(&mut self) {
        self.link = Link::Up;
    }

    /// Another event.
    pub fn hear(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// What is known of a row.
    pub fn rates(&self, part: Part, name: &str) -> Rates {
        self.row(part, name).map(|(rates, _)| *rates).unwrap_or_default()
    }

    /// The past of a row.
    pub fn line(&self, part: Part, name: &str) -> Option<&Line> {
        self.row(part, name).map(|(_, line)| line)
    }

    fn row(&self, part: Part, name: &str) -> Option<&(Rates, Line)> {
        self.rows.get(&(part, name.to_owned()))
    }

    fn sum(&self, before: &Status, span: Duration) -> Rates {
        let listeners: Vec<Rates> =
            self.status.listeners.iter().map(|listener| self.rates(Part::Listeners, &listener.name)).collect();
        let all = |of: fn(&Rates) -> Option<f64>| listeners.iter().filter_map(of).reduce(|a, b| a + b);
        let then = by_name(before);
        let times = pairs(&self.status, &then).filter(|_| !span.is_zero());
        Rates {
            fresh: all(|rates| rates.fresh),
            bad: all(|rates| rates.bad),
            bytes_in: all(|rates| rates.bytes_in),
            bytes_out: all(|rates| rates.bytes_out),
            p99_ms: p99(times, &self.status.time_bounds_ms),
            ..Rates::default()
        }
    }
}

impl Line {
    fn push(&mut self, rates: &Rates) {
        for (points, value) in [(&mut self.fresh, rates.fresh), (&mut self.p99_ms, rates.p99_ms)] {
            if points.len() == POINTS_MAX {
                points.pop_front();
            }
            points.push_back(value.unwrap_or(0.0));
        }
    }
}

/// How much a count has grown a second; nothing when it has shrunk, for then it is another count of the same name.
fn rate(before: u64, now: u64, span: Duration) -> Option<f64> {
    let grown = now.checked_sub(before)?;
    (!span.is_zero()).then(|| grown as f64 / span.as_secs_f64())
}

/// The 99th percentile of what was counted between pairs of (now, before), in milliseconds; beyond the last bound it is
/// that bound.
fn p99<'a>(pairs: impl Iterator<Item = (&'a Vec<u64>, &'a Vec<u64>)>, bounds_ms: &[f64]) -> Option<f64> {
    let mut counts = vec![0u64; bounds_ms.len() + 1];
    for (now, before) in pairs {
        for ((count, now), before) in counts.iter_mut().zip(now).zip(before) {
            *count += now.saturating_sub(*before);
        }
    }
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let mut rest = all as f64 * 0.99;
    let mut below = 0.0;
    for (count, bound) in counts.iter().zip(bounds_ms) {
        let count = *count as f64;
        if rest <= count && count > 0.0 {
            return Some(below + (bound - below) * rest / count);
        }
        rest -= count;
        below = *bound;
    }
    bounds_ms.last().copied()
}

fn by_name(status: &Status) -> HashMap<(&str, &str), &Backend> {
    let pools = status.pools.iter();
    pools.flat_map(|pool| pool.backends.iter().map(|b| ((pool.name.as_str(), b.name.as_str()), b))).collect()
}

/// The times to connect of all backends that were there before too: now, and before.
fn pairs<'a>(
    now: &'a Status,
    then: &'a HashMap<(&str, &str), &Backend>,
) -> impl Iterator<Item = (&'a Vec<u64>, &'a Vec<u64>)> {
    let backends = now.pools.iter().flat_map(|pool| pool.backends.iter().map(|b| (pool.name.as_str(), b)));
    backends.filter_map(|(pool, b)| Some((&b.connect_times, &then.get(&(pool, b.name.as_str()))?.connect_times)))
}

/// The rates of all rows.
fn compare(before: &Status, now: &Status, span: Duration) -> Vec<((Part, String), Rates)> {
    let mut rows = Vec::new();
    let old: HashMap<&str, &Listener> = before.listeners.iter().map(|l| (l.name.as_str(), l)).collect();
    for listener in &now.listeners {
        let rates = old.get(listener.name.as_str()).map(|old| of_listener(old, listener, span));
        rows.push(((Part::Listeners, listener.name.clone()), rates.unwrap_or_default()));
    }
    let backends = by_name(before);
    let pools: HashMap<&str, &Pool> = before.pools.iter().map(|p| (p.name.as_str(), p)).collect();
    for pool in &now.pools {
        let mut sum = Rates::default();
        for backend in &pool.backends {
            let old = backends.get(&(pool.name.as_str(), backend.name.as_str()));
            let rates = old.map(|old| of_backend(old, backend, now, span)).unwrap_or_default();
            for (total, one) in [
                (&mut sum.fresh, rates.fresh),
                (&mut sum.bad, rates.bad),
                (&mut sum.bytes_in, rates.bytes_in),
                (&mut sum.bytes_out, rates.bytes_out),
            ] {
                *total = one.map(|one| total.unwrap_or(0.0) + one).or(*total);
            }
            rows.push(((Part::Backends, backend_name(pool, backend)), rates));
        }
        if let Some(old) = pools.get(pool.name.as_str()).filter(|_| !span.is_zero()) {
            sum.lost = rate(old.connections.no_backend, pool.connections.no_backend, span);
            let of_pool = pool.backends.iter().filter_map(|b| {
                Some((&b.connect_times, &backends.get(&(pool.name.as_str(), b.name.as_str()))?.connect_times))
            });
            sum.p99_ms = p99(of_pool, &now.time_bounds_ms);
        }
        rows.push(((Part::Pools, pool.name.clone()), sum));
    }
    let routes: BTreeMap<(&str, &str), &Route> =
        before.routes.iter().map(|r| ((r.listener.as_str(), r.route.as_str()), r)).collect();
    for route in &now.routes {
        let old = routes.get(&(route.listener.as_str(), route.route.as_str()));
        let rates = old.map(|old| of_route(old, route, now, span)).unwrap_or_default();
        rows.push(((Part::Routes, route_name(route)), rates));
    }
    for thread in &now.process.threads {
        let old = before.process.threads.iter().find(|old| old.name == thread.name);
        let rates = old.map(|old| of_thread(old, thread, span)).unwrap_or_default();
        rows.push(((Part::Threads, thread.name.clone()), rates));
    }
    rows
}

fn of_listener(old: &Listener, now: &Listener, span: Duration) -> Rates {
    Rates {
        fresh: rate(old.connections.accepted, now.connections.accepted, span),
        bad: rate(old.connections.refused, now.connections.refused, span),
        bytes_in: rate(old.bytes_in, now.bytes_in, span),
        bytes_out: rate(old.bytes_out, now.bytes_out, span),
        ..Rates::default()
    }
}

fn of_backend(old: &Backend, now: &Backend, status: &Status, span: Duration) -> Rates {
    let times = (!span.is_zero()).then_some((&now.connect_times, &old.connect_times));
    Rates {
        fresh: rate(old.connections.total, now.connections.total, span),
        bad: rate(old.connect_failures, now.connect_failures, span),
        bytes_in: rate(old.bytes_in, now.bytes_in, span),
        bytes_out: rate(old.bytes_out, now.bytes_out, span),
        p99_ms: p99(times.into_iter(), &status.time_bounds_ms),
        ..Rates::default()
    }
}

fn of_route(old: &Route, now: &Route, status: &Status, span: Duration) -> Rates {
    let failed = |route: &Route| route.requests.range("500".to_owned()..).map(|(_, count)| count).sum();
    let times = (!span.is_zero()).then_some((&now.times, &old.times));
    Rates {
        fresh: rate(old.requests.values().sum(), now.requests.values().sum(), span),
        bad: rate(failed(old), failed(now), span),
        lost: rate(old.refused.values().sum(), now.refused.values().sum(), span),
        p99_ms: p99(times.into_iter(), &status.time_bounds_ms),
        ..Rates::default()
    }
}

fn of_thread(old: &Thread, now: &Thread, span: Duration) -> Rates {
    let busy_ms = (now.cpu_ms - old.cpu_ms).max(0.0);
    Rates {
        fresh: rate(old.accepted, now.accepted, span),
        load: (!span.is_zero()).then(|| busy_ms / 1000.0 / span.as_secs_f64()),
        ..Rates::default()
    }
}
