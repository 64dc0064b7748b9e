//! From what is known to what is on the screen, for any size of it: what matters least goes first when there is little
//! room.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::keys::{HELP, View};
use super::rows::{Row, bytes, columns, millis, percent, rows, short};
use super::sample::{Line, Link, Model, Part, Rates};
use crate::api::State;
use crate::cli::table::Look;
use crate::cli::{events, status};

/// Between columns.
const GAP: u16 = 2;
/// The last column of a table is not cut below this: it is left out instead.
const LAST_MIN: u16 = 8;
/// Problems that are shown at once; on a small screen fewer.
const PROBLEMS_MAX: u16 = 4;
/// Events that scripts are shown.
const PLAIN_EVENTS_MAX: u16 = 10;
/// Of a budget: worth a look, and nearly gone.
const HIGH: f64 = 0.8;
const FULL: f64 = 0.95;
/// A line's levels.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A screen of which lines are taken from above and below.
struct Canvas<'b> {
    buffer: &'b mut Buffer,
    rest: Rect,
    has_colour: bool,
}

impl Canvas<'_> {
    /// The next line from above; `None` = there is no room.
    fn line(&mut self) -> Option<Rect> {
        let line = Rect { height: 1, ..self.rest };
        (self.rest.height > 0).then(|| {
            self.rest = Rect { y: self.rest.y + 1, height: self.rest.height - 1, ..self.rest };
            line
        })
    }

    /// So many lines from below, or what there is.
    fn below(&mut self, height: u16) -> Rect {
        let height = height.min(self.rest.height);
        self.rest.height -= height;
        Rect { y: self.rest.bottom(), height, ..self.rest }
    }

    /// Writes into a line what fits and returns what is left of it.
    fn put(&mut self, line: Rect, text: &str, look: Look) -> Rect {
        self.styled(line, text, style(look, self.has_colour))
    }

    fn styled(&mut self, line: Rect, text: &str, style: Style) -> Rect {
        if line.width == 0 || line.height == 0 {
            return line;
        }
        let (x, _) = self.buffer.set_stringn(line.x, line.y, text, line.width.into(), style);
        Rect { x, width: line.right().saturating_sub(x), ..line }
    }
}

fn style(look: Look, has_colour: bool) -> Style {
    let style = Style::new();
    let coloured = |colour| if has_colour { style.fg(colour) } else { style };
    match look {
        Look::Plain => style,
        Look::Heading => style.add_modifier(Modifier::BOLD),
        Look::Good => coloured(Color::Green),
        Look::Notable => coloured(Color::Yellow),
        Look::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        Look::Faint => style.add_modifier(Modifier::DIM),
    }
}

/// Draws everything.
pub fn draw(model: &Model, view: &View, now: SystemTime, area: Rect, buffer: &mut Buffer) {
    let mut canvas = Canvas { buffer, rest: area, has_colour: view.has_colour };
    header(&mut canvas, model, view);
    if !view.is_plain {
        let line = canvas.below(1);
        footer(&mut canvas, line, view);
    }
    problems(&mut canvas, model, now, area.height / 6 + 1);
    if view.has_help {
        return help(&mut canvas);
    }
    let room = if view.is_plain { u16::MAX } else { area.height };
    if room >= 10 {
        budgets(&mut canvas, model);
    }
    if room >= 14 {
        lines(&mut canvas, model, view);
        threads(&mut canvas, model);
    }
    let events = match room {
        _ if view.is_plain => PLAIN_EVENTS_MAX,
        _ if view.has_events => room / 2,
        18.. => room / 8,
        _ => 0,
    };
    let tail = canvas.below(events.min(u16::try_from(model.events.len()).unwrap_or(u16::MAX)));
    tables(&mut canvas, model, view, now);
    tell_events(&mut canvas, tail, model);
}

fn header(canvas: &mut Canvas<'_>, model: &Model, view: &View) {
    let Some(line) = canvas.line() else { return };
    let status = &model.status;
    let backends = || status.pools.iter().flat_map(|pool| &pool.backends);
    let (up, all) = (backends().filter(|one| one.state == State::Up).count(), backends().count());
    let line = canvas.put(line, &format!("evener {}", status.version), Look::Heading);
    let line = if view.is_paused { canvas.put(line, "  PAUSED", Look::Notable) } else { line };
    let look = if up == all { Look::Good } else { Look::Bad };
    let line = canvas.put(line, &format!("  {up}/{all} up"), look);
    let age = status::age(Duration::from_secs(status.uptime_s));
    let text = format!("  pid {}  for {age}  generation {}", status.pid, status.generation);
    let line = canvas.put(line, &text, Look::Plain);
    let rates = model.total.0;
    let show = |value: Option<f64>| value.map_or("-".to_owned(), bytes);
    canvas.put(line, &format!("  in {}/s  out {}/s", show(rates.bytes_in), show(rates.bytes_out)), Look::Plain);
}

/// What is wrong with the whole; what is wrong with one backend stands in its row.
fn problems(canvas: &mut Canvas<'_>, model: &Model, now: SystemTime, most: u16) {
    let status = &model.status;
    let mut found = Vec::new();
    if let Link::Away(why) = &model.link {
        found.push((Look::Bad, format!("no answer, what is shown is older: {}", why.replace('\n', "; "))));
    }
    if status.draining {
        found.push((Look::Notable, "draining: no new clients, the process ends".to_owned()));
    }
    let reload = &status.process.last_reload;
    if !reload.ok {
        let since = status::since(&reload.at, now);
        found.push((Look::Bad, format!("the file was refused {since} ago: evener check says why")));
    }
    for listener in status.listeners.iter().filter(|one| one.state != "listening" && !status.draining) {
        found.push((Look::Notable, format!("listener {} {}: no new clients", listener.name, listener.state)));
    }
    for pool in &status.pools {
        if pool.panic {
            found.push((Look::Bad, format!("pool {} is in panic: health is ignored", pool.name)));
        } else if !pool.serves() {
            found.push((Look::Bad, format!("pool {} has no backend that takes clients", pool.name)));
        }
        for source in pool.discovery.iter().filter(|source| !source.ok) {
            let (name, origin) = (&pool.name, source.origin.as_str());
            let why = source.last_error.as_ref().map_or("", |error| error.why.as_str());
            found.push((Look::Notable, format!("pool {name}: {origin} {}: {why}", source.name)));
        }
    }
    let most = usize::from(most.min(PROBLEMS_MAX));
    let more = found.len().saturating_sub(most);
    for (at, (look, text)) in found.into_iter().take(most).enumerate() {
        let Some(line) = canvas.line() else { return };
        let more = if at + 1 == most && more > 0 { format!(" (and {more} more)") } else { String::new() };
        canvas.put(line, &format!("! {text}{more}"), look);
    }
}

fn budgets(canvas: &mut Canvas<'_>, model: &Model) {
    let process = &model.status.process;
    let backends = model.status.pools.iter().flat_map(|pool| &pool.backends);
    // Ports are shared by all flows, but not by connections to different addresses.
    let ports = backends.map(|backend| backend.connections.active).max().unwrap_or(0).max(process.flows);
    let budgets = [
        ("connections", u64::from(process.connections), u64::from(process.max_connections)),
        ("flows", process.flows.into(), process.max_flows),
        ("fds", process.fds_open, process.fds_limit),
        ("pipes", u64::from(process.pipes_in_use) + u64::from(process.pipes_free), process.pipes_max),
        ("ports", ports.into(), process.local_ports.into()),
    ];
    let Some(mut line) = canvas.line() else { return };
    for (name, used, limit) in budgets.into_iter().filter(|(_, _, limit)| *limit > 0) {
        let share = used as f64 / limit as f64;
        let look = if share >= FULL {
            Look::Bad
        } else if share >= HIGH {
            Look::Notable
        } else {
            Look::Plain
        };
        line = canvas.put(line, &format!("{name} "), Look::Faint);
        line = canvas.put(line, &format!("{}/{}  ", short(used as f64), short(limit as f64)), look);
    }
}

/// The past, of everything or of the row that was chosen.
fn lines(canvas: &mut Canvas<'_>, model: &Model, view: &View) {
    let empty = Line::default();
    let (name, rates, line) = match &view.chosen {
        Some(name) => (name.as_str(), model.rates(view.part, name), model.line(view.part, name).unwrap_or(&empty)),
        None => ("all", model.total.0, &model.total.1),
    };
    let what = if view.chosen.is_some() && view.part == Part::Routes { "p99" } else { "connect p99" };
    let Rates { fresh, p99_ms, .. } = rates;
    draw_line(canvas, &format!("{} new/s", cut(name, 20)), fresh.map(short), &line.fresh);
    draw_line(canvas, what, p99_ms.map(millis), &line.p99_ms);
}

fn draw_line(canvas: &mut Canvas<'_>, label: &str, value: Option<String>, points: &VecDeque<f64>) {
    let Some(line) = canvas.line() else { return };
    let value = value.unwrap_or_else(|| "-".to_owned());
    let line = canvas.put(line, &format!("{label:<26} "), Look::Faint);
    let line = canvas.put(line, &format!("{value:>6} "), Look::Plain);
    canvas.put(line, &spark(points, line.width.into()), Look::Good);
}

/// The last points that fit, the newest to the right, as high as the highest of them allows.
fn spark(points: &VecDeque<f64>, width: usize) -> String {
    let points: Vec<f64> = points.iter().skip(points.len().saturating_sub(width)).copied().collect();
    let top = points.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let level = |value: f64| LEVELS[((value / top * 7.0).round() as usize).min(7)];
    " ".repeat(width - points.len()) + &points.into_iter().map(level).collect::<String>()
}

fn threads(canvas: &mut Canvas<'_>, model: &Model) {
    let Some(line) = canvas.line() else { return };
    let mut line = canvas.put(line, "load ", Look::Faint);
    for thread in &model.status.process.threads {
        let load = model.rates(Part::Threads, &thread.name).load;
        let bar = load.map_or(' ', |load| LEVELS[((load * 7.0).round() as usize).min(7)]);
        let text = load.map_or("-".to_owned(), percent);
        line = canvas.put(line, &format!(" {} ", thread.name), Look::Faint);
        let look = if load.is_some_and(|load| load >= HIGH) { Look::Notable } else { Look::Plain };
        line = canvas.put(line, &format!("{bar}{text} "), look);
    }
}

/// All tables that have rows, that of the keys with the most room.
fn tables(canvas: &mut Canvas<'_>, model: &Model, view: &View, now: SystemTime) {
    let shown = Part::ALL.into_iter().filter(|part| match part {
        Part::Routes => view.part == *part || !model.status.routes.is_empty(),
        Part::Threads => view.part == *part || view.is_plain,
        _ => true,
    });
    let tables: Vec<(Part, Vec<Row>)> = shown
        .map(|part| {
            let filter = if part == view.part || view.is_plain { view.filter.as_str() } else { "" };
            (part, rows(model, part, filter, view.order(part), now))
        })
        .collect();
    let wants: Vec<u16> = tables.iter().map(|(_, rows)| u16::try_from(rows.len() + 1).unwrap_or(u16::MAX)).collect();
    let first = tables.iter().position(|(part, _)| *part == view.part).unwrap_or(0);
    let heights = if view.is_plain { wants } else { share(canvas.rest.height, &wants, first) };
    for ((part, rows), height) in tables.iter().zip(heights) {
        table(canvas, *part, rows, height, view);
        if view.is_plain {
            canvas.line();
        }
    }
}

/// How high each table is: the one of the keys has what the others leave it, and these have little unless it needs
/// less.
fn share(height: u16, wants: &[u16], first: usize) -> Vec<u16> {
    let mut heights = vec![0; wants.len()];
    let others = u16::try_from(wants.len()).unwrap_or(1).saturating_sub(1);
    if height < 2 + 3 * others || others == 0 {
        heights[first] = height.min(wants[first].max(1));
        return heights;
    }
    let little = (height / (2 * others)).max(2);
    for (at, want) in wants.iter().enumerate().filter(|(at, _)| *at != first) {
        heights[at] = little.min(*want);
    }
    let mut rest = height - heights.iter().sum::<u16>();
    heights[first] = rest.min(wants[first]);
    rest -= heights[first];
    for (at, want) in wants.iter().enumerate() {
        let more = rest.min(want - heights[at].min(*want));
        heights[at] += more;
        rest -= more;
    }
    heights
}

fn table(canvas: &mut Canvas<'_>, part: Part, rows: &[Row], height: u16, view: &View) {
    if height == 0 {
        return;
    }
    let has_keys = part == view.part && !view.is_plain;
    let order = view.order(part);
    let headings: Vec<String> = columns(part)
        .iter()
        .enumerate()
        .map(|(at, column)| match order {
            Some(order) if order.column == at => {
                format!("{}{}", if order.reversed { '▲' } else { '▼' }, column.heading)
            }
            _ if at == 0 && rows.len() + 1 > height.into() => format!("{} ({})", column.heading, rows.len()),
            _ => column.heading.to_owned(),
        })
        .collect();
    let widths = fit(part, &headings, rows, canvas.rest.width);
    let Some(line) = canvas.line() else { return };
    let heading = style(Look::Heading, canvas.has_colour);
    let heading = if has_keys { heading.add_modifier(Modifier::REVERSED) } else { heading };
    let cells = headings.iter().map(|text| (text.as_str(), heading));
    let rest = row(canvas, line, part, &widths, cells);
    canvas.styled(rest, &" ".repeat(rest.width.into()), heading);

    let room = usize::from(height - 1);
    let chosen = view.chosen.as_ref().filter(|_| has_keys);
    let chosen = chosen.and_then(|name| rows.iter().position(|row| row.name == *name));
    let start = chosen.unwrap_or(0).saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    for (at, one) in rows.iter().enumerate().skip(start).take(room) {
        let Some(line) = canvas.line() else { return };
        let mark = |style: Style| if chosen == Some(at) { style.add_modifier(Modifier::REVERSED) } else { style };
        let has_colour = canvas.has_colour;
        let cells = one.cells.iter().map(|cell| (cell.text.as_str(), mark(style(cell.look, has_colour))));
        row(canvas, line, part, &widths, cells);
    }
}

/// Writes a row and returns what is left of its line.
fn row<'t>(
    canvas: &mut Canvas<'_>,
    line: Rect,
    part: Part,
    widths: &[Option<u16>],
    cells: impl Iterator<Item = (&'t str, Style)>,
) -> Rect {
    let mut line = line;
    for ((column, width), (text, style)) in columns(part).iter().zip(widths).zip(cells) {
        let Some(width) = *width else { continue };
        let text = cut(text, width.into());
        let padding = " ".repeat(usize::from(width) - text.chars().count());
        let gap = " ".repeat(GAP.into());
        let text = if column.is_number { format!("{padding}{text}{gap}") } else { format!("{text}{padding}{gap}") };
        line = canvas.styled(line, &text, style);
    }
    line
}

/// How wide each column is; `None` = there is no room for it. Names are cut to half of the width, the last column to
/// what is left.
fn fit(part: Part, headings: &[String], rows: &[Row], width: u16) -> Vec<Option<u16>> {
    let columns = columns(part);
    let chars = |text: &str| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let widest = |at: usize| rows.iter().map(|row| chars(&row.cells[at].text)).max().unwrap_or(0);
    let mut widths: Vec<Option<u16>> =
        headings.iter().enumerate().map(|(at, heading)| Some(widest(at).max(chars(heading)))).collect();
    let (first, last) = (0, columns.len() - 1);
    widths[first] = widths[first].map(|name| name.min((width / 2).max(1)));
    loop {
        let used: u32 = widths.iter().flatten().map(|width| u32::from(*width) + u32::from(GAP)).sum();
        let surplus = used.saturating_sub(u32::from(width) + u32::from(GAP));
        if surplus == 0 {
            return widths;
        }
        let surplus = u16::try_from(surplus).unwrap_or(u16::MAX);
        if let Some(narrower) = widths[last].map(|last| last.saturating_sub(surplus))
            && narrower >= LAST_MIN
            && !columns[last].is_number
        {
            widths[last] = Some(narrower);
            return widths;
        }
        let present = (0..columns.len()).filter(|at| widths[*at].is_some() && columns[*at].spare > 0);
        match present.max_by_key(|at| columns[*at].spare) {
            Some(least) => widths[least] = None,
            None => return widths,
        }
    }
}

fn tell_events(canvas: &mut Canvas<'_>, tail: Rect, model: &Model) {
    let events = model.events.iter().skip(model.events.len().saturating_sub(tail.height.into()));
    for (line, event) in (tail.y..tail.bottom()).map(|y| Rect { y, height: 1, ..tail }).zip(events) {
        let line = canvas.put(line, &format!("{} ", event.time.get(11..19).unwrap_or("?")), Look::Faint);
        let line = canvas.put(line, event.kind.as_str(), events::look(event.kind));
        canvas.put(line, &format!(" {} {}", events::about(event), event.text), Look::Plain);
    }
}

fn footer(canvas: &mut Canvas<'_>, line: Rect, view: &View) {
    if view.is_typing || !view.filter.is_empty() {
        let cursor = if view.is_typing { "_" } else { "" };
        let line = canvas.put(line, &format!("/{}{cursor}", view.filter), Look::Heading);
        canvas.put(line, if view.is_typing { "  Enter keeps, Esc clears" } else { "  Esc clears" }, Look::Faint);
    } else {
        let keys = "? help  q end  Tab table  s sort  / filter  space pause  e events";
        canvas.put(line, keys, Look::Faint);
    }
}

fn help(canvas: &mut Canvas<'_>) {
    canvas.line();
    for (keys, what) in HELP {
        let Some(line) = canvas.line() else { return };
        let line = canvas.put(line, &format!("{keys:<20} "), Look::Heading);
        canvas.put(line, what, Look::Plain);
    }
    canvas.line();
    if let Some(line) = canvas.line() {
        canvas.put(line, "any key: back", Look::Faint);
    }
}

fn cut(text: &str, chars: usize) -> String {
    match text.chars().count() <= chars {
        true => text.to_owned(),
        false => text.chars().take(chars.saturating_sub(1)).chain(['…']).take(chars).collect(),
    }
}
