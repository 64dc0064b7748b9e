//! What keys do: they change what is looked at and how, never what is.

use std::time::SystemTime;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rows::{Order, columns, rows};
use super::sample::{Model, Part};

/// Keys and what they do, as the help shows it.
pub const HELP: [(&str, &str); 10] = [
    ("Tab, Shift-Tab, 1-5", "the next table, the one before, or that one"),
    ("Up Down j k", "choose a row: the lines above are its own"),
    ("PgUp PgDn Home End", "the same by pages"),
    ("s, S", "sort by the next column, by the one before"),
    ("r", "sort the other way round"),
    ("/", "show only rows with these letters; Enter keeps, Esc clears"),
    ("Esc", "back to how it began"),
    ("Space or p", "pause, go on"),
    ("e", "more or less of the events"),
    ("q or Ctrl-C", "end"),
];

/// Characters of a filter.
const FILTER_CHARS_MAX: usize = 64;
/// Rows that a page has.
const PAGE_ROWS: usize = 10;

/// What is looked at and how.
#[derive(Clone, Debug)]
pub struct View {
    /// The table that keys act on.
    pub part: Part,
    /// The name of the row that was chosen in it.
    pub chosen: Option<String>,
    /// The orders of the tables.
    pub orders: [Option<Order>; Part::ALL.len()],
    /// Only rows with this in their names.
    pub filter: String,
    /// Keys are letters of the filter.
    pub is_typing: bool,
    /// What is shown stays.
    pub is_paused: bool,
    /// Keys are explained.
    pub has_help: bool,
    /// Events have half of the screen.
    pub has_events: bool,
    /// On a screen that shows colour.
    pub has_colour: bool,
    /// For scripts: everything, and no word about keys.
    pub is_plain: bool,
}

impl View {
    /// As it begins.
    pub fn new(has_colour: bool) -> Self {
        Self {
            part: Part::Backends,
            chosen: None,
            orders: [None; Part::ALL.len()],
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            has_help: false,
            has_events: false,
            has_colour,
            is_plain: false,
        }
    }

    /// The order of a table.
    pub const fn order(&self, part: Part) -> Option<Order> {
        self.orders[part as usize]
    }

    /// Does what a key is for. False = it was the last one.
    pub fn press(&mut self, key: KeyEvent, model: &Model, now: SystemTime) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if with_control => return false,
            _ if with_control => {}
            code if self.is_typing => self.type_filter(code),
            _ if self.has_help => self.has_help = false,
            KeyCode::Char('q') => return false,
            code => self.act(code, model, now),
        }
        true
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.chars().count() < FILTER_CHARS_MAX => self.filter.push(letter),
            _ => {}
        }
    }

    fn act(&mut self, code: KeyCode, model: &Model, now: SystemTime) {
        match code {
            KeyCode::Char('?' | 'h') => self.has_help = true,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('e') => self.has_events = !self.has_events,
            KeyCode::Char(' ' | 'p') => self.is_paused = !self.is_paused,
            KeyCode::Tab => self.turn(model, 1),
            KeyCode::BackTab => self.turn(model, Part::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                let at = digit as usize - '1' as usize;
                (self.part, self.chosen) = (Part::ALL[at], None);
            }
            KeyCode::Char('s') => self.sort(1),
            KeyCode::Char('S') => self.sort(columns(self.part).len()),
            KeyCode::Char('r') => {
                if let Some(order) = &mut self.orders[self.part as usize] {
                    order.reversed = !order.reversed;
                }
            }
            KeyCode::Esc => *self = Self { part: self.part, has_colour: self.has_colour, ..Self::new(false) },
            KeyCode::Down | KeyCode::Char('j') => self.choose(model, now, |at, _| at.map_or(0, |at| at + 1)),
            KeyCode::Up | KeyCode::Char('k') => self.choose(model, now, |at, _| at.unwrap_or(0).saturating_sub(1)),
            KeyCode::PageDown => self.choose(model, now, |at, _| at.unwrap_or(0) + PAGE_ROWS),
            KeyCode::PageUp => self.choose(model, now, |at, _| at.unwrap_or(0).saturating_sub(PAGE_ROWS)),
            KeyCode::Home => self.choose(model, now, |_, _| 0),
            KeyCode::End => self.choose(model, now, |_, count| count),
            _ => {}
        }
    }

    /// The table so many places further that is not empty.
    fn turn(&mut self, model: &Model, step: usize) {
        let count = Part::ALL.len();
        for further in 1..=count {
            let part = Part::ALL[(self.part as usize + further * step) % count];
            if part != Part::Routes || !model.status.routes.is_empty() {
                (self.part, self.chosen) = (part, None);
                return;
            }
        }
    }

    /// By the column so many places further; after the last one the order is that of the beginning.
    fn sort(&mut self, step: usize) {
        let count = columns(self.part).len() + 1;
        let at = self.order(self.part).map_or(0, |order| order.column + 1);
        let next = (at + step) % count;
        self.orders[self.part as usize] = next.checked_sub(1).map(|column| Order { column, reversed: false });
    }

    fn choose(&mut self, model: &Model, now: SystemTime, to: impl Fn(Option<usize>, usize) -> usize) {
        let rows = rows(model, self.part, &self.filter, self.order(self.part), now);
        let at = self.chosen.as_ref().and_then(|name| rows.iter().position(|row| row.name == *name));
        let to = to(at, rows.len()).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(to).map(|row| row.name.clone());
    }
}
