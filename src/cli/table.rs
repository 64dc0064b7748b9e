//! Aligned tables for people: as narrow as their contents, numbers to the right, the last column ragged. On a terminal
//! that is too narrow the last column is cut, then columns of less interest are left out: a table that wraps cannot be
//! read, and names must stay whole to be typed.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::control::log::wants_colour;

/// How a cell looks on a terminal that shows colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// As it is.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// All is well.
    Good,
    /// Somebody wanted it so.
    Notable,
    /// Something is broken.
    Bad,
    /// Of less interest.
    Faint,
}

impl Look {
    /// `text` in this look.
    pub fn paint(self, text: &str, coloured: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Heading => "1",
            Self::Good => "32",
            Self::Notable => "33",
            Self::Bad => "1;31",
            Self::Faint => "2",
        };
        if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    is_number: bool,
    look: Look,
}

impl Cell {
    /// To the left. Control characters of any origin do not reach the terminal.
    pub fn text(text: impl AsRef<str>) -> Self {
        let text = printable(text.as_ref());
        Self { text, is_number: false, look: Look::Plain }
    }

    /// To the right.
    pub fn number(text: impl ToString) -> Self {
        Self { text: text.to_string(), is_number: true, look: Look::Plain }
    }

    /// With this look.
    pub fn look(self, look: Look) -> Self {
        Self { look, ..self }
    }
}

/// What is written on.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    /// Whether it shows colour.
    pub coloured: bool,
    /// Characters of a line; `None` = as many as it takes.
    pub width: Option<usize>,
}

impl Paper {
    /// That of stdout: only a terminal has a width and colours.
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
        Self { coloured: wants_colour(&stdout), width: (columns > 0).then_some(columns.into()) }
    }
}

/// Between columns.
const GAP: &str = "  ";
/// The last column is not cut below so many characters: it is left out instead.
const LAST_CHARS_MIN: usize = 12;

/// Writes rows below their headings; each row has as many cells as there are headings. `spare` are headings of columns
/// that may be left out, the least interesting one first.
pub fn render(headings: &[&str], rows: &[Vec<Cell>], spare: &[&str], paper: Paper, out: &mut String) {
    let is_number = |column: usize| rows.iter().any(|row| row[column].is_number);
    let heading = |(column, text): (usize, &&str)| {
        let cell = if is_number(column) { Cell::number(text) } else { Cell::text(text) };
        cell.look(Look::Heading)
    };
    let headings: Vec<Cell> = headings.iter().enumerate().map(heading).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]).chain([&headings[column]]);
        cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let columns = fit(&headings, &mut widths, spare, paper.width.unwrap_or(usize::MAX));
    for row in std::iter::once(&headings).chain(rows) {
        for &column in &columns {
            let cell = &row[column];
            let text = cut(&cell.text, widths[column]);
            let padding = " ".repeat(widths[column] - text.chars().count());
            let painted = cell.look.paint(&text, paper.coloured);
            let gap = if column == 0 { "" } else { GAP };
            let is_last = column + 1 == row.len();
            let _ = match (cell.is_number, is_last) {
                (true, _) => write!(out, "{gap}{padding}{painted}"),
                (false, true) => write!(out, "{gap}{painted}"),
                (false, false) => write!(out, "{gap}{painted}{padding}"),
            };
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

/// Which columns stay within `width` characters; the last one may become narrower. The first one always stays.
fn fit(headings: &[Cell], widths: &mut [usize], spare: &[&str], width: usize) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..headings.len()).collect();
    let mut spare = spare.iter();
    loop {
        let needed = columns.iter().map(|&column| widths[column] + GAP.len()).sum::<usize>() - GAP.len();
        let surplus = needed.saturating_sub(width);
        let last = columns.last().filter(|&&column| column + 1 == headings.len());
        if let Some(&last) = last.filter(|&&last| widths[last] >= surplus + LAST_CHARS_MIN || surplus == 0) {
            widths[last] -= surplus;
            return columns;
        }
        match spare.next() {
            Some(least) if surplus > 0 => columns.retain(|&column| headings[column].text != **least),
            _ => return columns,
        }
    }
}

fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    if text.chars().count() <= chars {
        return text.into();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// Control characters of any origin do not reach the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// "1 pool", "2 pools".
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paper = Paper { coloured: false, width: None };

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_to_the_right() {
        let rows = [
            vec![Cell::text("pg1"), Cell::number(7), Cell::text("up")],
            vec![Cell::text("é"), Cell::number(12345), Cell::text("a\x1b[31m\nb")],
        ];
        let mut out = String::new();
        render(&["NAME", "N", "WHY"], &rows, &[], PLAIN, &mut out);
        assert_eq!(out, "NAME      N  WHY\npg1       7  up\né     12345  a?[31m?b\n");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_last_column_and_then_goes_without_the_least() {
        let rows = [vec![Cell::text("a-long-name"), Cell::number(1), Cell::text("the reason, at some length")]];
        let at = |width| {
            let mut out = String::new();
            let paper = Paper { coloured: false, width: Some(width) };
            render(&["NAME", "N", "WHY"], &rows, &["WHY", "N"], paper, &mut out);
            out
        };
        assert_eq!(at(80), "NAME         N  WHY\na-long-name  1  the reason, at some length\n");
        assert_eq!(at(30), "NAME         N  WHY\na-long-name  1  the reason, a…\n");
        assert_eq!(at(27), "NAME         N\na-long-name  1\n");
        assert_eq!(at(13), "NAME\na-long-name\n");
        assert_eq!(at(2), at(13), "a name is never cut");
    }

    #[test]
    fn colour_does_not_change_the_alignment() {
        let rows = [vec![Cell::text("x").look(Look::Bad), Cell::text("y")]];
        let mut out = String::new();
        render(&["A", "B"], &rows, &[], Paper { coloured: true, width: None }, &mut out);
        let plain = out.replace("\x1b[1m", "").replace("\x1b[1;31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, "A  B\nx  y\n");
        assert_ne!(plain, out);
    }
}
