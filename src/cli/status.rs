//! `evener status`: what a person asks first: is all well, and if not, what and since when?

use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::client::Client;
use super::table::{Cell, Look, Paper, count, printable, render};
use crate::api::{Backend, Discovery, Listener, Pool, State, Status};

/// Shows the state, of everything or of one pool.
pub fn status(client: &Client, pool: Option<&str>, json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => self::json(client, pool, true)?,
        false => text(client, pool)?,
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The state as a table.
pub fn text(client: &Client, pool: Option<&str>) -> anyhow::Result<String> {
    let paper = Paper::of_stdout();
    let Some(pool) = pool else { return Ok(whole(&client.status()?, now(), paper)) };
    let mut out = String::new();
    one_pool(&client.pool(pool)?, now(), paper, &mut out);
    Ok(out)
}

/// The state as JSON, for people or on one line.
pub fn json(client: &Client, pool: Option<&str>, is_pretty: bool) -> anyhow::Result<String> {
    fn write(value: &impl serde::Serialize, is_pretty: bool) -> serde_json::Result<String> {
        if is_pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }
    }
    let text = match pool {
        None => write(&client.status()?, is_pretty),
        Some(pool) => write(&client.pool(pool)?, is_pretty),
    };
    Ok(text? + "\n")
}

fn whole(status: &Status, now: SystemTime, paper: Paper) -> String {
    let mut out = String::new();
    let process = &status.process;
    let _ = write!(
        out,
        "evener {}  pid {}  up {}  generation {}  workers {}  connections {}/{}",
        status.version,
        status.pid,
        age(Duration::from_secs(status.uptime_s)),
        status.generation,
        process.workers,
        process.connections,
        process.max_connections,
    );
    if process.max_flows > 0 {
        let _ = write!(out, "  flows {}/{}", process.flows, process.max_flows);
    }
    let _ = writeln!(out, "  fds {}/{}", process.fds_open, process.fds_limit);
    out.push_str(&verdict(status, now, paper));
    out.push('\n');
    listeners(&status.listeners, paper, &mut out);
    for pool in &status.pools {
        out.push('\n');
        one_pool(pool, now, paper, &mut out);
    }
    out
}

/// What is not as it should be, a line each; or that all is well.
fn verdict(status: &Status, now: SystemTime, paper: Paper) -> String {
    let mut out = String::new();
    let mut say = |look: Look, text: String| {
        let _ = writeln!(out, "{}", look.paint(&text, paper.coloured));
    };
    if status.draining {
        let left = status.drain.map_or(0, |drain| drain.left_s);
        let (connections, flows) = (status.process.connections, status.process.flows);
        let flows = if flows > 0 { format!(", {}", count(flows as usize, "flow")) } else { String::new() };
        let connections = count(connections as usize, "connection");
        say(
            Look::Notable,
            format!("! draining, {connections}{flows}, {left} s left: no new clients, the process ends"),
        );
    }
    for listener in status.listeners.iter().filter(|listener| listener.state != "listening" && !status.draining) {
        let (name, state) = (&listener.name, &listener.state);
        let what = if listener.udp.is_some() { "flow" } else { "connection" };
        let active = count(listener.connections.active as usize, what);
        let text = match listener.drain {
            Some(drain) => format!("! {name} {state}, {active}, {} s left: no new clients", drain.left_s),
            None => format!("! {name} {state}: no new clients until `evener ready {name}`"),
        };
        say(Look::Notable, text);
    }
    let reload = &status.process.last_reload;
    if !reload.ok {
        let since = since(&reload.at, now);
        say(Look::Bad, format!("! the file was refused {since} ago and is not in effect: evener check says why"));
    }
    if status.process.access_log_dropped > 0 {
        say(Look::Notable, format!("! {} events of the access log were lost", status.process.access_log_dropped));
    }
    let mut all = 0;
    let mut up = 0;
    for pool in &status.pools {
        all += pool.backends.len();
        let of_pool = pool.backends.iter().filter(|backend| backend.state == State::Up).count();
        up += of_pool;
        if pool.panic {
            let text = format!("! pool {} is in panic: too few are up, so that health is ignored", pool.name);
            say(Look::Bad, text);
        } else if !pool.serves() {
            say(Look::Bad, format!("! pool {} has no backend that takes clients", pool.name));
        }
        for source in pool.discovery.iter().filter(|source| !source.ok) {
            let Some(error) = &source.last_error else { continue };
            let (origin, name) = (source.origin.as_str(), printable(&source.name));
            let (since, why) = (since(&error.at, now), printable(&error.why));
            say(Look::Notable, format!("! pool {}: {origin} {name}, {since} ago: {why}", pool.name));
        }
        for backend in pool.backends.iter().filter(|backend| backend.state != State::Up) {
            let (name, state, since) = (&backend.name, backend.state.as_str(), since(&backend.since, now));
            let text = format!("! {}/{name} {state} for {since}: {}", pool.name, printable(&backend.why));
            say(look(backend.state), text);
        }
    }
    if up == all {
        say(Look::Good, format!("{} of {} up", count(up, "backend"), all));
    }
    out
}

/// Connections and flows stand under the same words, ACTIVE and TOTAL: which of the two they are, the address says.
fn listeners(listeners: &[Listener], paper: Paper, out: &mut String) {
    let headings = ["LISTENER", "ADDRESS", "POOL", "STATE", "ACTIVE", "TOTAL", "REFUSED", "IN", "OUT"];
    let mut rows = Vec::new();
    for listener in listeners {
        let connections = &listener.connections;
        let prefix = match listener.protocol.as_str() {
            "udp" => "udp ",
            "http" => "http ",
            _ => "",
        };
        // One for HTTP has its pools by routes.
        let pool = if listener.pool.is_empty() { "-" } else { &listener.pool };
        let address = |address: &String| Cell::text(format!("{prefix}{address}"));
        let state = Cell::text(&listener.state);
        rows.push(vec![
            Cell::text(&listener.name),
            listener.bind.first().map_or(Cell::text("-"), address),
            Cell::text(pool),
            if listener.state == "listening" { state } else { state.look(Look::Notable) },
            Cell::number(connections.active),
            Cell::number(connections.accepted),
            Cell::number(connections.refused),
            Cell::number(bytes(listener.bytes_in)),
            Cell::number(bytes(listener.bytes_out)),
        ]);
        for further in listener.bind.iter().skip(1) {
            let mut row = vec![Cell::text(""), address(further)];
            row.resize(headings.len(), Cell::text(""));
            rows.push(row);
        }
    }
    render(&headings, &rows, &["OUT", "IN", "REFUSED", "TOTAL", "STATE", "POOL"], paper, out);
    for listener in listeners {
        dropped(listener, paper, out);
    }
}

/// What a listener dropped of its datagrams, the most frequent reason first.
fn dropped(listener: &Listener, paper: Paper, out: &mut String) {
    let Some(udp) = listener.udp.as_ref().filter(|udp| !udp.dropped.is_empty()) else { return };
    let mut reasons: Vec<(&String, u64)> = udp.dropped.iter().map(|(reason, count)| (reason, *count)).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let all: u64 = udp.dropped.values().sum();
    let text = format!("{} dropped {all} datagrams: {}", listener.name, reasons.join(", "));
    let _ = writeln!(out, "{}", Look::Notable.paint(&printable(&text), paper.coloured));
}

fn one_pool(pool: &Pool, now: SystemTime, paper: Paper, out: &mut String) {
    let _ = write!(
        out,
        "{}  {}  {} active",
        Look::Heading.paint(&format!("POOL {}", pool.name), paper.coloured),
        pool.balance,
        pool.connections.active
    );
    if pool.queue.max > 0 {
        let _ = write!(out, "  queue {}/{}", pool.queue.length, pool.queue.max);
    }
    if pool.connections.no_backend > 0 {
        let _ = write!(out, "  {} found no backend", pool.connections.no_backend);
    }
    out.push('\n');
    for source in &pool.discovery {
        let _ = writeln!(out, "{}", Look::Faint.paint(&printable(&told(source, now)), paper.coloured));
    }
    let headings = ["BACKEND", "ADDRESS", "STATE", "WEIGHT", "ACTIVE", "TOTAL", "FAILED", "IN", "OUT", "SINCE", "WHY"];
    let row = |backend: &Backend| {
        // A backend that is named by its address needs it once.
        let address = if backend.address == backend.name { "" } else { &backend.address };
        let failed = Cell::number(backend.connect_failures);
        vec![
            Cell::text(&backend.name),
            Cell::text(address),
            Cell::text(backend.state.as_str()).look(look(backend.state)),
            Cell::number(backend.weight),
            Cell::number(backend.connections.active),
            Cell::number(backend.connections.total),
            if backend.connect_failures > 0 { failed.look(Look::Notable) } else { failed },
            Cell::number(bytes(backend.bytes_in)),
            Cell::number(bytes(backend.bytes_out)),
            Cell::number(since(&backend.since, now)),
            Cell::text(why(backend)).look(if backend.state == State::Up { Look::Faint } else { Look::Plain }),
        ]
    };
    let rows: Vec<_> = pool.backends.iter().map(row).collect();
    render(&headings, &rows, &["WHY", "ADDRESS", "OUT", "IN", "TOTAL", "FAILED", "SINCE", "WEIGHT"], paper, out);
}

/// Where backends come from, in one line.
fn told(source: &Discovery, now: SystemTime) -> String {
    let when = match &source.last_success {
        Some(at) => format!("asked {} ago", since(at, now)),
        None => "never answered".to_owned(),
    };
    format!("{} {}: {}, {when}", source.origin.as_str(), source.name, count(source.backends, "backend"))
}

/// The reason, and what an operator has overridden or the last check says besides.
pub fn why(backend: &Backend) -> String {
    let mut why = backend.why.clone();
    match &backend.observed.last_check {
        Some(check) if backend.state == State::Up && check.ok => {
            let _ = write!(why, " ({:.1}ms)", check.took_ms);
        }
        Some(check) if backend.state == State::Up => {
            let _ = write!(why, "; the last one failed: {}", check.why);
        }
        _ => {}
    }
    if let Some(weight) = backend.operator.as_ref().and_then(|operator| operator.weight) {
        let _ = write!(why, "; weight {weight} by an operator, {} in the file", backend.file.weight);
    }
    why
}

pub const fn look(state: State) -> Look {
    match state {
        State::Up => Look::Good,
        State::Drain | State::Maint => Look::Notable,
        State::Down | State::Ejected | State::Unresolved => Look::Bad,
    }
}

/// In the largest unit that leaves a digit before the point.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// How long ago a time of the API was.
pub fn since(time: &str, now: SystemTime) -> String {
    match humantime::parse_rfc3339(time) {
        Ok(time) => age(now.duration_since(time).unwrap_or_default()),
        Err(_) => "?".to_owned(),
    }
}

/// In its two largest units.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, ..) => format!("{d}d{h:02}h"),
    }
}

#[allow(clippy::disallowed_methods)] // how long ago is told from the time of day
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests;
