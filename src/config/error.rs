//! Problems of a file: each with its place, all of them shown at once, in the manner of rustc.
//!
//! The reading collects `Finding`s, which name a span of the text; `Report::resolve` turns them into `Problem`s, which
//! carry the one line they are about and no longer need the text. What is kept and what is shown has limits: a file of
//! noise is reported as shortly as any other.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Problems that are shown; the others are counted.
pub const PROBLEMS_SHOWN_MAX: usize = 50;
/// Problems that are kept until they can be put in the order of the file; those found later are only counted.
const PROBLEMS_KEPT_MAX: usize = 1_000;
/// Of a longer line only this much around the underlined place is kept, in bytes.
const LINE_BYTES_MAX: usize = 1_024;
/// Of such a line this much is kept before the underlined place, in bytes.
const LINE_LEAD_BYTES: usize = 60;

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but will hurt.
    Warning,
}

/// One problem of a file. `Display` gives it as one line, `evener.toml:3:5: what is wrong`, for a log.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub title: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The file, as it was named.
    path: Arc<str>,
    /// Where; `None` for a file that could not be read at all.
    place: Option<Place>,
    /// Another place that belongs to it, such as the first of two of one name.
    also: Option<Place>,
}

/// One underlined place.
#[derive(Clone, Debug)]
struct Place {
    span: Span,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The line, or what is kept of it.
    source: String,
    /// What is underlined, in bytes of `source`.
    marked: Span,
    /// `source` is not the whole line, so that columns cannot be counted in it.
    cut: bool,
    label: String,
}

/// Why a file was refused, or what it was warned of: never empty, in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    path: Arc<str>,
    problems: Vec<Problem>,
    /// Found, but not among `problems`.
    more: usize,
}

impl Problem {
    /// Line and column, both from 1; `None` when the file as a whole is meant.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// The underlined bytes of the text (behind a byte order mark); `None` when the file as a whole is meant.
    pub fn span(&self) -> Option<Range<usize>> {
        self.place.as_ref().map(|place| place.span.clone())
    }

    /// The problem with its line, underlined, and what to do about it.
    pub fn render(&self, coloured: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.title.as_str()));
        for (kind, place) in [(AnnotationKind::Primary, &self.place), (AnnotationKind::Context, &self.also)] {
            match place {
                Some(place) => group = place.show(group, &self.path, kind),
                None if kind == AnnotationKind::Primary => group = group.element(Origin::path(&*self.path)),
                None => {}
            }
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path)?;
        if let Some(place) = &self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        write!(f, " {}", self.title)?;
        match &self.help {
            Some(help) => write!(f, " ({})", help.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

impl Place {
    fn show<'a>(&'a self, group: Group<'a>, path: &'a str, kind: AnnotationKind) -> Group<'a> {
        let label = Some(self.label.as_str()).filter(|label| !label.is_empty());
        let snippet = Snippet::source(self.source.as_str())
            .line_start(self.line)
            .annotation(kind.span(self.marked.clone()).label(label));
        if self.cut {
            group.element(Origin::path(path).line(self.line).char_column(self.column)).element(snippet)
        } else {
            group.element(snippet.path(path))
        }
    }
}

impl Report {
    /// The problems that are kept, at most [`PROBLEMS_SHOWN_MAX`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems were found, kept or not.
    pub fn count(&self) -> usize {
        self.problems.len() + self.more
    }

    /// All problems as text for a terminal, and how many they are.
    pub fn render(&self, coloured: bool) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&problem.render(coloured));
            text.push_str("\n\n");
        }
        let summary = match (self.count(), self.more) {
            (1, _) => format!("1 problem in {}", self.path),
            (count, 0) => format!("{count} problems in {}", self.path),
            (count, more) => format!("{count} problems in {}; {more} more are not shown", self.path),
        };
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        text.push_str(&renderer.render(&[Group::with_title(Level::ERROR.primary_title(summary))]));
        text
    }

    /// A problem of the file as a whole, which could not be read.
    pub(super) fn unreadable(path: &str, title: impl Into<String>, help: impl Into<String>) -> Self {
        let path: Arc<str> = path.into();
        let problem = Problem {
            severity: Severity::Error,
            title: title.into(),
            help: Some(help.into()),
            path: path.clone(),
            place: None,
            also: None,
        };
        Self { path, problems: vec![problem], more: 0 }
    }

    /// Gives the findings of one severity their places in the text.
    pub(super) fn resolve(path: &str, text: &str, findings: Findings) -> Self {
        let path: Arc<str> = path.into();
        let Findings { mut kept, dropped, .. } = findings;
        // What is said of the file as a whole comes last: the places explain it more often than not.
        kept.sort_by_key(|finding| finding.span.as_ref().map_or(usize::MAX, |span| span.start));
        let more = dropped + kept.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        let lines = Lines::new(text);
        let resolve = |finding: Finding| Problem {
            severity: finding.severity,
            title: finding.title,
            help: finding.help,
            path: path.clone(),
            place: finding.span.map(|span| lines.place(span, finding.label)),
            also: finding.also.map(|(span, label)| lines.place(span, label)),
        };
        let problems = kept.into_iter().take(PROBLEMS_SHOWN_MAX).map(resolve).collect();
        Self { path, problems, more }
    }

    /// The problems, for those who need no summary of them.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl fmt::Display for Report {
    /// Without colour; see [`Report::render`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// A problem as it is found: a span of the text and what is wrong there.
#[derive(Debug)]
pub(super) struct Finding {
    pub severity: Severity,
    pub span: Option<Span>,
    pub title: String,
    pub label: String,
    pub help: Option<String>,
    pub also: Option<(Span, String)>,
    /// It says that something is missing, which proves nothing in a file that could not be read to its end.
    pub absence: bool,
}

impl Finding {
    pub fn error(span: Span, title: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span: Some(span),
            title: title.into(),
            label: String::new(),
            help: None,
            also: None,
            absence: false,
        }
    }

    pub fn warning(span: Span, title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, title) }
    }

    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub fn also(self, span: Span, label: impl Into<String>) -> Self {
        Self { also: Some((span, label.into())), ..self }
    }

    pub fn absence(self) -> Self {
        Self { absence: true, ..self }
    }
}

/// The findings so far, at most [`PROBLEMS_KEPT_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub kept: Vec<Finding>,
    pub dropped: usize,
    /// Of all of them, those that are errors, or may be: dropped ones are not looked at.
    pub errors: usize,
}

impl Findings {
    pub fn push(&mut self, finding: Finding) {
        self.push_with(|| finding);
    }

    /// Like `push`, but makes the finding only when it will be kept: for what a file of noise holds by the million.
    pub fn push_with(&mut self, finding: impl FnOnce() -> Finding) {
        if self.kept.len() == PROBLEMS_KEPT_MAX {
            self.dropped += 1;
            self.errors += 1;
            return;
        }
        let finding = finding();
        self.errors += usize::from(finding.severity == Severity::Error);
        self.kept.push(finding);
    }
}

/// The lines of a text, to find the one that holds a byte.
struct Lines<'t> {
    text: &'t str,
    /// The offset of each line's first byte. A file is far smaller than 4 GiB (`FILE_BYTES_MAX`).
    starts: Vec<u32>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let after_newline = text.bytes().zip(1u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
        Self { text, starts: std::iter::once(0).chain(after_newline).collect() }
    }

    /// The place of a span, cut to its first line and to whole characters.
    fn place(&self, span: Span, label: String) -> Place {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let index = self.starts.partition_point(|first| *first as usize <= start).saturating_sub(1);
        let line_start = self.starts[index] as usize;
        let line_end = self.starts.get(index + 1).map_or(self.text.len(), |next| *next as usize - 1);
        let line = &self.text[line_start..line_end];
        let line = line.strip_suffix('\r').unwrap_or(line);
        let from = (start - line_start).min(line.len());
        let to = line.floor_char_boundary(span.end.saturating_sub(line_start).clamp(from, line.len()));
        let column = line[..from].chars().count() + 1;
        let span = line_start + from..line_start + to;
        if line.len() <= LINE_BYTES_MAX {
            let source = line.to_owned();
            return Place { span, line: index + 1, column, source, marked: from..to, cut: false, label };
        }
        const MARK: &str = "…";
        let window_start = line.floor_char_boundary(from.saturating_sub(LINE_LEAD_BYTES));
        let window_end = line.floor_char_boundary((window_start + LINE_BYTES_MAX).min(line.len()));
        let shift = |at: usize| at.min(window_end) - window_start + MARK.len();
        let source = format!("{MARK}{}{MARK}", &line[window_start..window_end]);
        Place { span, line: index + 1, column, source, marked: shift(from)..shift(to), cut: true, label }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(text: &str, spans: impl IntoIterator<Item = Span>) -> Report {
        let mut findings = Findings::default();
        for span in spans {
            findings.push(Finding::error(span, "it is wrong").label("here").help("make it right"));
        }
        Report::resolve("evener.toml", text, findings)
    }

    #[test]
    fn a_problem_shows_its_place_its_line_and_what_to_do() {
        let text = "[pool.pg]\r\nbakends = []\r\n";
        let shown = report(text, std::iter::once(11..18)).render(false);
        assert_eq!(
            shown,
            "error: it is wrong\n --> evener.toml:2:1\n  |\n2 | bakends = []\n  | ^^^^^^^ here\n  |\n  = help: make it right\n\nerror: 1 problem in evener.toml"
        );
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let report = report("a\nb\nc\n", [4..5, 0..1, 2..3]);
        let places: Vec<_> = report.problems().iter().filter_map(Problem::position).collect();
        assert_eq!(places, [(1, 1), (2, 1), (3, 1)]);
    }

    #[test]
    fn only_so_many_are_shown_and_the_rest_is_counted() {
        let text = "=\n".repeat(5_000);
        let report = report(&text, (0..5_000).map(|line| line * 2..line * 2 + 1));
        assert_eq!(report.problems().len(), PROBLEMS_SHOWN_MAX);
        assert_eq!(report.count(), 5_000);
        assert!(report.render(false).ends_with("5000 problems in evener.toml; 4950 more are not shown"));
    }

    #[test]
    fn a_line_of_noise_is_cut_around_its_place_and_the_column_stays_true() {
        let text = "é".repeat(5 << 20);
        let report = report(&text, std::iter::once(1 << 20..5 << 20));
        assert_eq!(report.problems()[0].position(), Some((1, (1 << 19) + 1)));
        let shown = report.render(false);
        assert!(shown.contains("evener.toml:1:524289"), "{shown}");
        assert!(shown.len() < 4 * LINE_BYTES_MAX, "{}", shown.len());
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        let shown = report("a = \"\x1b[31m\"\n", std::iter::once(0..1)).render(false);
        assert!(!shown.contains('\x1b'), "{shown:?}");
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_has_a_place_within_it(text in "(.|\n|\r\n|é){0,80}", start in 0usize..400, length in 0usize..400) {
            let report = report(&text, std::iter::once(start..start + length));
            let span = report.problems()[0].span().unwrap();
            prop_assert!(text.get(span).is_some());
            report.render(true);
        }
    }
}
