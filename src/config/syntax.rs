//! All errors of syntax in a text, said in words for those who do not know TOML's grammar.

use std::borrow::Cow;
use std::collections::HashSet;

use toml::de::{DeTable, Error};

use super::error::{Finding, Findings, Span};
use super::raw::quoted;

/// In a larger file only the first syntax error is looked for: noise of this size can hold an error at each byte, and
/// what wrote a file so large writes the same error everywhere.
const RECOVERY_BYTES_MAX: usize = 256 * 1024;

/// Lines that are mended one after another, so that what follows them is read as well.
const REPAIRS_MAX: usize = 20;

/// The syntax errors, at most one a line (the first causes the others), and the text to read on with: the same, but
/// for lines that would make the parser lose all that follows. Every byte keeps its place. `None` for a text that is
/// not worth reading on.
pub(super) fn check(text: &str) -> (Option<Cow<'_, str>>, Findings) {
    let mut findings = Findings::default();
    match DeTable::parse(text) {
        Ok(_) => return (Some(Cow::Borrowed(text)), findings),
        Err(error) if text.len() > RECOVERY_BYTES_MAX => {
            findings.push(explain(text, &error));
            return (None, findings);
        }
        Err(_) => {}
    }
    let mut mended = Cow::Borrowed(text);
    let mut lines_done = HashSet::new();
    for _ in 0..=REPAIRS_MAX {
        let mut errors = DeTable::parse_recoverable(&mended).1;
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let (mut repairs, mut line_end) = (Vec::new(), None);
        for error in &errors {
            let start = error.span().map_or(0, |span| span.start);
            // The lines are looked for once each: one of noise may hold an error at every byte.
            if line_end.is_some_and(|end| start <= end) {
                continue;
            }
            line_end = Some(end_of_line(text, start));
            if lines_done.insert(start_of_line(text, start)) {
                findings.push_with(|| explain(text, error));
                repairs.extend(repair(&mended, start, error.message()));
            }
        }
        if repairs.is_empty() {
            break;
        }
        let mut bytes = mended.into_owned().into_bytes();
        for (span, with) in repairs {
            if bytes[span.clone()] == *b"\n" {
                // The line behind the header is now part of it, and cannot be judged.
                lines_done.insert(span.end);
            }
            bytes[span].fill(with);
        }
        mended = Cow::Owned(String::from_utf8(bytes).unwrap_or_default());
    }
    (Some(mended), findings)
}

/// What to write over the text so that the parser does not stop there: it reads an open header up to the next `]`,
/// and ends at a key without a value.
fn repair(text: &str, at: usize, message: &str) -> Option<(Span, u8)> {
    if message.starts_with("unclosed table") {
        let is_free = text.as_bytes().get(at).is_some_and(u8::is_ascii_whitespace);
        return is_free.then_some((at..at + 1, b']'));
    }
    let stops = message.starts_with("key with no value") || message == "recursion limit";
    stops.then(|| (start_of_line(text, at)..end_of_line(text, at), b' '))
}

/// Whether a finding is on a line that could not be read, where whatever was found means nothing.
pub(super) fn is_overshadowed(finding: &Finding, errors: &[Span], text: &str) -> bool {
    if errors.is_empty() {
        return false;
    }
    let Some(span) = &finding.span else { return true };
    let lines = start_of_line(text, span.start)..=end_of_line(text, span.end);
    finding.absence || errors.iter().any(|error| lines.contains(&error.start))
}

fn explain(text: &str, error: &Error) -> Finding {
    let span = error.span().unwrap_or(0..0);
    let found = text.get(span.clone()).unwrap_or_default();
    let (message, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), ""));
    let says = |title: &str, label: &str, help: String| Finding::error(span.clone(), title).label(label).help(help);
    match message {
        "duplicate key" => explain_duplicate(text, span, found),
        "string values must be quoted" if found.is_empty() => {
            says("a value is missing", "nothing stands here", "write a value behind the `=`".to_owned())
        }
        "string values must be quoted" | "invalid float" | "invalid integer" => {
            let (whole, value) = word_around(text, &span);
            let help = match value {
                "yes" | "on" | "Yes" | "On" | "TRUE" => "write true".to_owned(),
                "no" | "off" | "No" | "Off" | "FALSE" => "write false, or \"off\" where the key takes words".to_owned(),
                _ => format!("write \"{}\"", quoted(value)),
            };
            Finding::error(whole, "text stands in quotes").label("no quotes").help(help)
        }
        "invalid boolean" => says(
            "`true` and `false` are written in small letters",
            "neither",
            format!("write {}", found.to_lowercase()),
        ),
        "unclosed table" => says("the header of a table is not closed", "`]` is missing", "write `]` here".to_owned()),
        "unclosed array" => {
            says("a list is not closed", "`]` is missing", "write `]` at the end of the list".to_owned())
        }
        "unclosed inline table" => {
            says("a table is not closed", "`}` is missing", "write `}` at the end of the table".to_owned())
        }
        "invalid basic string" | "invalid literal string" if found.is_empty() => says(
            "text is not closed",
            "the quote is missing",
            format!("write {} behind the text", expected.trim_matches('`')),
        ),
        "key with no value" => {
            says("a key without a value", "`=` and a value are missing", "write `key = value`".to_owned())
        }
        _ if found.chars().chain(text[span.start..].chars().next()).any(|c| c.is_control() && !c.is_whitespace()) => {
            Finding::error(span, "a control character cannot stand here").label("not visible")
        }
        _ if expected.is_empty() || expected == "nothing" => Finding::error(span, message).label("not TOML"),
        _ => Finding::error(span, message).label(format!("expected {expected}")),
    }
}

/// Two of one name: shows the first one too where it can be found in the lines before.
fn explain_duplicate(text: &str, span: Span, found: &str) -> Finding {
    let line_start = start_of_line(text, span.start);
    let line = text[line_start..end_of_line(text, span.start)].trim();
    let is_header = line.starts_with('[');
    let name = if is_header { header_of(line) } else { found };
    let mut offset = line_start;
    let first = text[..line_start].split_inclusive('\n').rev().map(|line| {
        offset -= line.len();
        (offset, line.trim())
    });
    let first = if is_header {
        first.filter(|(_, line)| line.starts_with('[') && header_of(line) == name).last()
    } else {
        first
            .take_while(|(_, line)| !line.starts_with('['))
            .find(|(_, line)| line.strip_prefix(found).is_some_and(|rest| rest.trim_start().starts_with('=')))
    };
    let (what, advice) = if is_header {
        ("table", "give each its own name, or put the keys of both into one")
    } else {
        ("key", "keep one of the two")
    };
    let finding = Finding::error(span, format!("duplicate {what} `{}`", quoted(name))).label("again here").help(advice);
    match first {
        Some((at, line)) => {
            let start = at + text[at..].find(line).unwrap_or(0);
            let length = if is_header { name.len() } else { found.len() };
            finding.also(start..start + length, "first here")
        }
        None => finding,
    }
}

/// "[pool.pg]" of "[pool.pg] # comment".
fn header_of(line: &str) -> &str {
    line.find(']').map_or(line, |end| &line[..=end])
}

/// The whole of a value that TOML took for a broken number somewhere in its middle: "10.0.0.1:80".
fn word_around<'t>(text: &'t str, span: &Span) -> (Span, &'t str) {
    let part_of_word = |c: char| !c.is_whitespace() && !"=,[]{}\"'#".contains(c);
    let start = text[..span.start].rfind(|c| !part_of_word(c)).map_or(0, |at| text.ceil_char_boundary(at + 1));
    let end = text[span.start..].find(|c| !part_of_word(c)).map_or(text.len(), |length| span.start + length);
    let end = end.max(span.end);
    (start..end, &text[start..end])
}

fn start_of_line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1)
}

fn end_of_line(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    text.as_bytes()[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |length| at + length)
}
