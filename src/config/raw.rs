//! Reads tables of TOML key by key: a `Reader` remembers which keys were asked for and refuses the others, and a value
//! that cannot be used is noted with its place while the reading goes on, so that all problems come to light at once.
//!
//! A missing table is read like an empty one. So the defaults of its keys stand in one place, whether it is there or not.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Finding, Findings, Span};
use super::words::{Words, nearest};

/// Text of the file in a message is cut to this many characters.
const QUOTED_CHARS_MAX: usize = 60;

/// What the outermost table is called.
pub(super) const FILE: &str = "this file";

/// What is wrong with a value, whose place the reader knows.
#[derive(Debug)]
pub(super) struct Fault {
    pub what: String,
    pub label: String,
    pub help: Option<String>,
}

pub(super) fn fault(what: impl Into<String>, label: impl Into<String>) -> Fault {
    Fault { what: what.into(), label: label.into(), help: None }
}

impl Fault {
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub fn at(self, span: Span, key: &str) -> Finding {
        let finding = Finding::error(span, format!("invalid `{}`: {}", quoted(key), self.what)).label(self.label);
        Finding { help: self.help, ..finding }
    }
}

/// A value with its place.
pub(super) type Item<'t> = Spanned<DeValue<'t>>;

/// A key that the file chooses, and its value.
pub(super) type Entry<'t> = (&'t Spanned<DeString<'t>>, &'t Item<'t>);

/// One table of the file, or one that is missing.
pub(super) struct Reader<'t, 'f> {
    table: Option<&'t DeTable<'t>>,
    /// Where the table is, for what is said of it as a whole.
    pub span: Span,
    /// The table in a message: "[pool.pg]" or "`health`".
    name: String,
    known: Vec<&'static str>,
    /// Keys that are read as if they were not there.
    refused: Vec<&'static str>,
    /// What to say of keys that stand elsewhere or in no file of this version.
    hints: &'static [(&'static str, &'static str)],
    pub findings: &'f mut Findings,
    errors_before: usize,
}

impl<'t, 'f> Reader<'t, 'f> {
    pub fn new(table: Option<&'t DeTable<'t>>, span: Span, name: String, findings: &'f mut Findings) -> Self {
        let errors_before = findings.errors;
        Self { table, span, name, known: Vec::new(), refused: Vec::new(), hints: &[], findings, errors_before }
    }

    /// Names keys that are refused with more than the nearest valid key.
    pub fn hints(&mut self, hints: &'static [(&'static str, &'static str)]) {
        self.hints = hints;
    }

    /// Whether nothing was found wrong in this table so far: what is said of several values together would else be
    /// said of values that are not in the file.
    pub fn is_sound(&self) -> bool {
        self.findings.errors == self.errors_before
    }

    /// The value of a key, which is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'t Item<'t>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        if self.refused.contains(&key) { None } else { self.table?.get(key) }
    }

    /// Whether the file has the key.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Where a key's value is, or the table when the file does not give it.
    pub fn span_of(&self, key: &str) -> Span {
        self.table.and_then(|table| table.get(key)).map_or(self.span.clone(), Spanned::span)
    }

    /// Refuses a key that only others of its kind may have, with what `finding` says at its place: from now on it reads
    /// as if it were not there.
    pub fn refuse(&mut self, key: &'static str, finding: impl FnOnce(Span) -> Finding) {
        if self.has(key) {
            self.known.push(key);
            self.refused.push(key);
            let finding = finding(self.key_span(key));
            self.findings.push(finding);
        }
    }

    /// Where a key is, or the table when the file does not give it.
    pub fn key_span(&self, key: &str) -> Span {
        let entry = self.table.and_then(|table| table.get_key_value(key));
        entry.map_or(self.span.clone(), |(key, _)| key.span())
    }

    /// A value that was taken, or is an element of one.
    pub fn value<T>(
        &mut self,
        key: &str,
        item: &Item<'t>,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Fault>,
    ) -> Option<T> {
        read(item.get_ref()).map_err(|fault| self.findings.push_with(|| fault.at(item.span(), key))).ok()
    }

    /// A key that may be missing.
    pub fn optional<T>(&mut self, key: &'static str, read: impl FnOnce(&DeValue<'t>) -> Result<T, Fault>) -> Option<T> {
        let item = self.take(key)?;
        self.value(key, item, read)
    }

    /// A key with a default, which also stands for a value that cannot be used.
    pub fn or<T>(&mut self, key: &'static str, read: impl FnOnce(&DeValue<'t>) -> Result<T, Fault>, default: T) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// A key that must be there.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Fault>,
        example: &str,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, example);
        }
        self.optional(key, read)
    }

    /// Says that a key is missing.
    pub fn missing(&mut self, key: &str, example: &str) {
        let title = format!("{} has no `{key}`", self.name);
        self.findings.push(
            Finding::error(self.span.clone(), title)
                .label(format!("`{key}` is missing"))
                .help(format!("add `{example}`"))
                .absence(),
        );
    }

    /// One of a closed list of words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: Words<T>, default: T) -> T {
        self.or(key, |value| word(value, words), default)
    }

    /// The elements of a list with their places; each that cannot be used is noted.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        elements_max: usize,
        read: impl Fn(&DeValue<'t>) -> Result<T, Fault>,
    ) -> Vec<(T, Span)> {
        let items = self.take(key).map_or(&[][..], |item| self.elements(key, item, elements_max));
        items.iter().filter_map(|item| Some((self.value(key, item, &read)?, item.span()))).collect()
    }

    /// The elements of a value that must be a list.
    pub fn elements(&mut self, key: &str, item: &'t Item<'t>, elements_max: usize) -> &'t [Item<'t>] {
        match item.get_ref() {
            DeValue::Array(items) if items.len() > elements_max => {
                let what = format!("at most {elements_max} elements are allowed");
                self.findings.push(fault(what, format!("{} elements", items.len())).at(item.span(), key));
                &[]
            }
            DeValue::Array(items) => items,
            other => {
                let mut fault = mismatch(other, "a list");
                if let DeValue::String(text) = other {
                    fault = fault.help(format!("write [\"{}\"]", quoted(text)));
                }
                self.findings.push(fault.at(item.span(), key));
                &[]
            }
        }
    }

    /// A table within this one; a missing one is read like an empty one.
    pub fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Reader<'t, '_>) -> T) -> T {
        let item = self.take(key);
        self.inner(key, item, "a table", read)
    }

    /// A table, or `false` for `None`.
    pub fn table_or_false<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Reader<'t, '_>) -> T) -> Option<T> {
        let item = self.take(key);
        match item.map(Spanned::get_ref) {
            Some(DeValue::Boolean(false)) => None,
            Some(DeValue::Boolean(true)) => {
                let fault = fault("`true` says nothing", "neither a table nor `false`");
                let help = format!("leave `{key}` out for its defaults, or write a table");
                self.findings.push(fault.help(help).at(self.span_of(key), key));
                None
            }
            _ => Some(self.inner(key, item, "a table or `false`", read)),
        }
    }

    /// A table that is an element of a list; `finish` is done.
    pub fn element<T>(
        &mut self,
        table: &'t DeTable<'t>,
        span: Span,
        name: String,
        read: impl FnOnce(&mut Reader<'t, '_>) -> T,
    ) -> T {
        let mut reader = Reader::new(Some(table), span, name, self.findings);
        let value = read(&mut reader);
        reader.finish();
        value
    }

    /// All entries of a table whose keys are names, in the order of the file: `[pool.*]`. `help` says how it is written.
    pub fn entries(&mut self, key: &'static str, expected: &str, help: &str) -> Vec<Entry<'t>> {
        let Some(item) = self.take(key) else { return Vec::new() };
        let DeValue::Table(table) = item.get_ref() else {
            let finding = Finding::error(item.span(), format!("`{key}` must be {expected}"))
                .label(kind_of(item.get_ref()))
                .help(help);
            self.findings.push(finding);
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
    }

    /// Refuses the keys that nobody asked for.
    pub fn finish(self) {
        let unknown = self.table.into_iter().flatten().filter(|(key, _)| !self.known.contains(&&**key.get_ref()));
        for (key, _) in unknown {
            self.findings.push_with(|| {
                let (text, span) = (key.get_ref().as_ref(), key.span());
                let title = format!("unknown key `{}` in {}", quoted(text), self.name);
                let hint = self.hints.iter().find(|(hinted, _)| *hinted == text);
                let help = match (hint, nearest(text, self.known.iter().copied())) {
                    (Some((_, hint)), _) => (*hint).to_owned(),
                    (None, Some(near)) => format!("did you mean `{near}`?"),
                    (None, None) => format!("known here: {}", self.known.join(", ")),
                };
                Finding::error(span, title).label("unknown key").help(help)
            });
        }
    }

    fn inner<T>(
        &mut self,
        key: &str,
        item: Option<&'t Item<'t>>,
        expected: &str,
        read: impl FnOnce(&mut Reader<'t, '_>) -> T,
    ) -> T {
        let table = item.and_then(|item| item.get_ref().as_table());
        if let (Some(item), None) = (item, table) {
            self.findings.push(mismatch(item.get_ref(), expected).at(item.span(), key));
        }
        let span = item.map_or(self.span.clone(), Spanned::span);
        let name = if self.name == FILE { format!("[{key}]") } else { format!("`{key}`") };
        let mut reader = Reader::new(table, span, name, self.findings);
        let value = read(&mut reader);
        reader.finish();
        value
    }
}

/// Text.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Fault> {
    value.as_str().ok_or_else(|| mismatch(value, "text"))
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| match value.as_str() {
        Some(word @ ("true" | "false")) => {
            mismatch(value, "true or false").help(format!("leave the quotes out: {word}"))
        }
        _ => mismatch(value, "true or false"),
    })
}

/// A whole number within bounds.
pub(super) fn whole(value: &DeValue<'_>, min: u32, max: u32) -> Result<u32, Fault> {
    let expected = format!("a whole number from {min} to {max}");
    let DeValue::Integer(integer) = value else {
        let fault = mismatch(value, &expected);
        return Err(match value.as_str().map(str::parse::<u32>) {
            Some(Ok(number)) => fault.help(format!("leave the quotes out: {number}")),
            _ => fault,
        });
    };
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| u32::try_from(n).ok());
    match number {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        _ if integer.as_str().starts_with('-') => Err(fault(format!("{expected} is needed"), "negative")),
        Some(number) if number < min => Err(fault(format!("{expected} is needed"), "too small")),
        _ => Err(fault(format!("{expected} is needed"), "too large")),
    }
}

/// One of a closed list of words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: Words<T>) -> Result<T, Fault> {
    let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let known = known.join(", ");
    let Some(text) = value.as_str() else {
        return Err(mismatch(value, "text").help(format!("write one of {known}")));
    };
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let fault = fault(format!("there is no \"{}\"", quoted(text)), "unknown");
        match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => fault.help(format!("did you mean \"{near}\"? There are {known}")),
            None => fault.help(format!("write one of {known}")),
        }
    })
}

/// A value of the wrong type.
pub(super) fn mismatch(value: &DeValue<'_>, expected: &str) -> Fault {
    fault(format!("{expected} is needed"), format!("this is {}", kind_of(value)))
}

/// A value's type as a person would call it.
pub(super) fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Text of the file as it may stand in a message: short, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { format!("{head}…") } else { head }
}
