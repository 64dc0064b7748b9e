//! From a path or from bytes to a configuration: everything that can be wrong with a file before its words matter.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use toml::de::DeTable;

use super::error::{Finding, Findings, Report, Severity, Span};
use super::{Config, Problem, syntax, validate};

/// A larger file is refused unread: the limits on listeners and backends fit into it with room to spare.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a file says.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Valid.
    pub config: Config,
    /// What is allowed and will hurt, in the order of the file.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The configuration of a file; see [`load`], which gives the warnings as well.
    ///
    /// # Errors
    /// All problems of the file.
    pub fn load(path: &Path) -> Result<Self, Report> {
        load(path).map(|loaded| loaded.config)
    }
}

/// Reads a file.
///
/// # Errors
/// All problems of the file at once, or why it could not be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => parse(&name, &bytes),
        Err((what, help)) => Err(Report::unreadable(&name, what, help)),
    }
}

/// Reads the text of a file; `name` is what it is called in messages.
///
/// # Errors
/// All problems of the text at once.
pub fn parse(name: &str, text: &[u8]) -> Result<Loaded, Report> {
    if text.len() > FILE_BYTES_MAX {
        let (what, help) = too_large();
        return Err(Report::unreadable(name, what, help));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(name, text, error.valid_up_to())),
    };
    let (readable, mut findings) = syntax::check(text);
    let syntax_errors: Vec<Span> = findings.kept.iter().filter_map(|finding| finding.span.clone()).collect();
    let config = readable.map(|readable| {
        let table = DeTable::parse_recoverable(&readable).0.into_inner();
        let mut more = Findings::default();
        let config = validate::read(&table, &mut more);
        more.kept.retain(|finding| !syntax::is_overshadowed(finding, &syntax_errors, text));
        findings.kept.append(&mut more.kept);
        findings.dropped += more.dropped;
        config
    });
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.kept.into_iter().partition(|finding| finding.severity == Severity::Error);
    let errors = Findings { kept: errors, dropped: findings.dropped, ..Findings::default() };
    match config {
        // What was dropped may have been errors: a file with so many problems is none to run with.
        Some(config) if errors.kept.is_empty() && errors.dropped == 0 => {
            let warnings = Findings { kept: warnings, ..Findings::default() };
            Ok(Loaded { config, warnings: Report::resolve(name, text, warnings).into_problems() })
        }
        _ => Err(Report::resolve(name, text, errors)),
    }
}

/// The bytes of a regular file, or what is wrong and what to do about it.
fn read(path: &Path) -> Result<Vec<u8>, (String, String)> {
    const ELSEWHERE: &str = "name another file with `-c FILE` or in EVENER_CONFIG";
    let refuse = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => ("there is no such file".to_owned(), format!("create it, or {ELSEWHERE}")),
        ErrorKind::PermissionDenied => (
            "the file may not be read".to_owned(),
            format!("let the user that runs evener read it and enter its folders, or {ELSEWHERE}"),
        ),
        _ => (format!("the file cannot be read: {error}"), ELSEWHERE.to_owned()),
    };
    // Asked before it is opened: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(refuse)?;
    if metadata.is_dir() {
        return Err(("this is a folder, not a file".to_owned(), ELSEWHERE.to_owned()));
    }
    if !metadata.is_file() {
        let help = format!("a reload reads the file again, so that it must be a regular file; {ELSEWHERE}");
        return Err(("this is not a regular file".to_owned(), help));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed, for a file that grows while it is read.
    let limit = FILE_BYTES_MAX as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(refuse)?;
    if bytes.len() > FILE_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> (String, String) {
    let mebibytes = FILE_BYTES_MAX / (1024 * 1024);
    (
        format!("the file is larger than {mebibytes} MiB"),
        "name the configuration file with `-c FILE` or in EVENER_CONFIG".to_owned(),
    )
}

/// Shows the line with the first byte that is not UTF-8.
fn not_utf8(name: &str, bytes: &[u8], at: usize) -> Report {
    // The same length up to the place; there stands a replacement character.
    let text = String::from_utf8_lossy(bytes);
    let mut findings = Findings::default();
    let title = format!("the file is not UTF-8 text: byte 0x{:02x} at offset {at}", bytes[at]);
    let finding = Finding::error(at..at + char::REPLACEMENT_CHARACTER.len_utf8(), title);
    findings.push(finding.label("not UTF-8").help("save the file as UTF-8"));
    Report::resolve(name, &text, findings)
}
