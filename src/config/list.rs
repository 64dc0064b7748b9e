//! A file of backends (`pool.discover.file`), which other programs write: a backend a line, or JSON.
//!
//! ```text
//! # ADDRESS [name=…] [weight=…] [tier=…] [max_connections=…]
//! 10.0.0.11:8080 weight=50
//! ```
//!
//! JSON is a list of such addresses, or of objects with the keys that an entry of `backends` has. Nothing of a file
//! with a mistake is taken: half a list would be half the backends gone.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::address::parse_address;
use super::error::{Finding, Findings, Report, Span};
use super::raw::{Fault, fault, quoted};
use super::validate::{BACKENDS_MAX, TIER_MAX, WEIGHT, WEIGHT_MAX, backend_name};
use super::words::nearest;
use super::{Address, Backend};

/// A file of backends is no larger.
pub const LIST_BYTES_MAX: usize = 4 << 20;

const KEYS: [&str; 5] = ["address", "name", "weight", "tier", "max_connections"];

/// What one entry says.
#[derive(Default)]
struct Entry {
    address: Option<Address>,
    name: Option<String>,
    weight: Option<u32>,
    tier: u32,
    max_connections: Option<NonZeroU32>,
    /// The keys so far.
    given: Vec<String>,
}

/// Reads a file of backends; `path` names it in messages.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse_list(path: &Path, bytes: &[u8]) -> Result<Vec<Arc<Backend>>, String> {
    let said = |finding: Finding, text: &str| {
        let mut findings = Findings::default();
        findings.push(finding);
        let problem = Report::resolve(&path.display().to_string(), text, findings).into_problems().pop();
        problem.map(|problem| problem.to_string()).unwrap_or_default()
    };
    if bytes.len() > LIST_BYTES_MAX {
        return Err(format!("{}: the file is larger than {} MiB", path.display(), LIST_BYTES_MAX >> 20));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            // What stands before is text, and enough to find the line.
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let end = before.len();
            return Err(said(Finding::error(end..end, "the file is not UTF-8 text"), &before));
        }
    };
    let backends = if is_json(text) { of_json(text) } else { of_lines(text) };
    backends.and_then(unique).map_err(|finding| said(*finding, text))
}

/// Backends with their places.
type Placed = Vec<(Arc<Backend>, Span)>;
/// Boxed, for it is large.
type Wrong = Box<Finding>;

/// An IPv6 address stands in brackets too, but neither quotes nor braces follow them.
fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    let inner = text.strip_prefix('[').map(|rest| rest.trim_start().chars().next());
    text.starts_with('{') || inner.is_some_and(|first| matches!(first, None | Some('"' | '{' | '[' | ']')))
}

fn of_lines(text: &str) -> Result<Placed, Wrong> {
    let mut backends = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let said = line.split_once('#').map_or(line, |(said, _)| said);
        let mut words = words(said, start);
        start += line.len();
        let Some((address, at)) = words.next() else { continue };
        let end = at.start + said.trim().len();
        let mut entry = Entry::default();
        entry.set("address", &Value::from(address)).map_err(|fault| placed(fault, at.clone(), "address"))?;
        for (word, span) in words {
            let Some((key, value)) = word.split_once('=') else {
                let fault = fault("behind the address stand settings", "not a setting")
                    .help("write KEY=VALUE, such as `weight=50`; one backend a line");
                return Err(placed(fault, span, "backend"));
            };
            // Numbers are written without quotes in both forms.
            let value = value.parse::<u32>().map_or_else(|_| Value::from(value), Value::from);
            let value = if key == "name" { Value::from(&word["name=".len()..]) } else { value };
            entry.set(key, &value).map_err(|fault| placed(fault, span, key))?;
        }
        backends.push((entry.finish().map_err(|fault| placed(fault, at.clone(), "backend"))?, at.start..end));
        refuse_too_many(&backends)?;
    }
    Ok(backends)
}

/// The words of a line that begins at `start`.
fn words(line: &str, start: usize) -> impl Iterator<Item = (&str, Span)> {
    line.split_whitespace().map(move |word| {
        // Both are of the same text.
        let at = start + (word.as_ptr() as usize - line.as_ptr() as usize);
        (word, at..at + word.len())
    })
}

fn of_json(text: &str) -> Result<Placed, Wrong> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let at = offset(text, error.line(), error.column());
        let what = if error.is_eof() { "the file ends too early".to_owned() } else { error.to_string() };
        let what = what.split(" at line ").next().unwrap_or_default().to_owned();
        Box::new(Finding::error(at..at, format!("not JSON: {what}")))
    })?;
    let Value::Array(items) = value else {
        let finding = Finding::error(0..0, "a list is needed");
        return Err(Box::new(finding.help(r#"write ["10.0.0.11:80", {"address": "10.0.0.12:80", "weight": 50}]"#)));
    };
    let mut backends = Vec::new();
    for (number, item) in (1..).zip(items) {
        // JSON's values come without their places.
        let entry = entry_of(&item).map_err(|fault| placed(fault, 0..0, &format!("entry {number}")))?;
        backends.push((entry, 0..0));
        refuse_too_many(&backends)?;
    }
    Ok(backends)
}

fn entry_of(item: &Value) -> Result<Arc<Backend>, Fault> {
    let mut entry = Entry::default();
    match item {
        Value::String(_) => entry.set("address", item)?,
        Value::Object(keys) => Map::iter(keys).try_for_each(|(key, value)| {
            entry.set(key, value).map_err(|wrong| Fault { what: format!("`{}`: {}", quoted(key), wrong.what), ..wrong })
        })?,
        _ => return Err(fault("an address or an object with one is needed", "neither")),
    }
    entry.finish()
}

impl Entry {
    fn set(&mut self, key: &str, value: &Value) -> Result<(), Fault> {
        let text = || value.as_str().ok_or_else(|| fault("text is needed", "not text"));
        let number = |max: u32| {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= max);
            number.ok_or_else(|| fault(format!("a whole number from 0 to {max} is needed"), "not such a number"))
        };
        if self.given.iter().any(|given| given == key) {
            return Err(fault(format!("`{}` is there already", quoted(key)), "a second time"));
        }
        self.given.push(key.to_owned());
        match key {
            "address" => self.address = Some(parse_address(text()?)?),
            "name" => self.name = Some(backend_name(text()?)?),
            "weight" => self.weight = Some(number(WEIGHT_MAX)?),
            "tier" => self.tier = number(TIER_MAX)?,
            "max_connections" => self.max_connections = NonZeroU32::new(number(u32::MAX)?),
            _ => {
                let fault = fault(format!("unknown key `{}`", quoted(key)), "unknown");
                return Err(match nearest(key, KEYS) {
                    Some(near) => fault.help(format!("did you mean `{near}`?")),
                    None => fault.help(format!("known here: {}", KEYS.join(", "))),
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Arc<Backend>, Fault> {
        let Some(address) = self.address else { return Err(fault("it has no `address`", "no address")) };
        Ok(Arc::new(Backend {
            name: self.name.unwrap_or_else(|| address.to_string()),
            address,
            weight: self.weight.unwrap_or(WEIGHT),
            tier: self.tier,
            max_connections: self.max_connections,
        }))
    }
}

fn placed(fault: Fault, span: Span, key: &str) -> Wrong {
    Box::new(fault.at(span, key))
}

fn refuse_too_many(backends: &Placed) -> Result<(), Wrong> {
    match backends.last() {
        Some((_, span)) if backends.len() > BACKENDS_MAX => {
            Err(Box::new(Finding::error(span.clone(), format!("more than {BACKENDS_MAX} backends"))))
        }
        _ => Ok(()),
    }
}

fn unique(backends: Placed) -> Result<Vec<Arc<Backend>>, Wrong> {
    let mut names = HashSet::new();
    for (backend, span) in &backends {
        if !names.insert(backend.name.as_str()) {
            let finding = Finding::error(span.clone(), format!("two backends named `{}`", quoted(&backend.name)));
            return Err(Box::new(finding.help("give each its own `name`, or leave one of them out")));
        }
    }
    Ok(backends.into_iter().map(|(backend, _)| backend).collect())
}

/// A place of serde_json's, whose lines and columns (in bytes) begin with 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<Backend>, String> {
        let backends = parse_list(Path::new("web.backends"), text.as_bytes())?;
        Ok(backends.iter().map(|backend| Backend::clone(backend)).collect())
    }

    #[test]
    fn lines_and_json_say_the_same() {
        let lines = "# the web\n\n  10.0.0.1:80\t# the first\n[::1]:80 weight=7 tier=1 name=six\r\nunix:/run/a max_connections=9\n\
                     db.internal:1 name=5 weight=0";
        let json = r#"["10.0.0.1:80", {"address": "[::1]:80", "weight": 7, "tier": 1, "name": "six"},
                      {"address": "unix:/run/a", "max_connections": 9},
                      {"name": "5", "address": "db.internal:1", "weight": 0}]"#;
        let read = [lines, json].map(|text| read(text).unwrap());
        assert_eq!(read[0], read[1]);
        let [first, six, ..] = &read[0][..] else { panic!("four backends: {read:?}") };
        assert_eq!((first.name.as_str(), first.weight, first.tier), ("10.0.0.1:80", WEIGHT, 0));
        assert_eq!((six.name.as_str(), six.weight, six.tier), ("six", 7, 1));
        assert_eq!(read[0].len(), 4);
    }

    #[test]
    fn nothing_is_an_empty_list() {
        for text in ["", "\n\n", "# nobody\n", "[]", " [ ]\n"] {
            assert_eq!(read(text).unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn each_mistake_is_told_with_its_place_and_nothing_of_the_file_is_taken() {
        let cases = [
            ("10.0.0.1:80\n10.0.0.2\n", "web.backends:2:1: invalid `address`: the address has no port"),
            (
                "10.0.0.1:80 wieght=7\n",
                "web.backends:1:13: invalid `wieght`: unknown key `wieght` (did you mean `weight`?)",
            ),
            ("10.0.0.1:80 weight=70000\n", "web.backends:1:13: invalid `weight`: a whole number from 0 to 65535"),
            ("10.0.0.1:80 weight=-1\n", "web.backends:1:13: invalid `weight`: a whole number from 0 to 65535"),
            ("10.0.0.1:80 10.0.0.2:80\n", "web.backends:1:13: invalid `backend`: behind the address stand settings"),
            ("a:1\n\nb:1 name=a:1\n", "web.backends:3:1: two backends named `a:1`"),
            ("a:1 name=x/y\n", "web.backends:1:5: invalid `name`: a name has no `/`"),
            ("[\"10.0.0.1:80\",\n \"10.0.", "web.backends:2:7: not JSON: the file ends too early"),
            ("[", "web.backends:1:1: not JSON: the file ends too early"),
            ("{\"backends\": []}", "web.backends:1:1: a list is needed"),
            ("[\"10.0.0.1:80\", 7]", "web.backends:1:1: invalid `entry 2`: an address or an object"),
            ("a:1 address=b:1", "web.backends:1:5: invalid `address`: `address` is there already"),
            ("a:1 weight=1 weight=2", "web.backends:1:14: invalid `weight`: `weight` is there already"),
            ("[{\"weight\": 1}]", "web.backends:1:1: invalid `entry 1`: it has no `address`"),
            (
                "[{\"address\": \"a:1\", \"weight\": \"1\"}]",
                "web.backends:1:1: invalid `entry 1`: `weight`: a whole number",
            ),
        ];
        for (text, told) in cases {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(told), "{text:?}: {error}");
        }
        let error = parse_list(Path::new("web.backends"), b"a:1\nb\xff:1\n").unwrap_err();
        assert_eq!(error, "web.backends:2:2: the file is not UTF-8 text");
    }

    #[test]
    fn a_file_of_noise_has_its_limits() {
        assert!(parse_list(Path::new("x"), &vec![b' '; LIST_BYTES_MAX]).is_ok());
        assert!(parse_list(Path::new("x"), &vec![b' '; LIST_BYTES_MAX + 1]).unwrap_err().contains("larger than 4 MiB"));
        let many: String = (0..=BACKENDS_MAX).map(|at| format!("a:1 name={at}\n")).collect();
        assert!(read(&many).unwrap_err().contains("more than 16384 backends"));
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    /// A backend as both forms write it.
    fn written() -> impl Strategy<Value = Backend> {
        let address = prop_oneof![
            any::<(std::net::IpAddr, u16)>().prop_map(|(ip, port)| Address::Ip((ip, port.max(1)).into())),
            ("[a-z][a-z0-9]{0,9}", 1u16..).prop_map(|(name, port)| Address::Host { name, port }),
            "/[a-z/]{1,20}".prop_map(|path| Address::Unix(path.into())),
        ];
        (address, 0..=WEIGHT_MAX, 0..=TIER_MAX, any::<u32>()).prop_map(|(address, weight, tier, max)| Backend {
            name: address.to_string(),
            address,
            weight,
            tier,
            max_connections: NonZeroU32::new(max),
        })
    }

    proptest! {
        #[test]
        fn what_was_written_reads_the_same_in_both_forms(backends in proptest::collection::vec(written(), 0..8)) {
            let numbered = backends.into_iter().enumerate().map(|(at, b)| Backend { name: format!("n{at}"), ..b });
            let backends: Vec<Backend> = numbered.collect();
            let max = |b: &Backend| b.max_connections.map_or(0, NonZeroU32::get);
            let lines: String = backends.iter().map(|b| {
                format!("{} name={} weight={} tier={} max_connections={}\n", b.address, b.name, b.weight, b.tier, max(b))
            }).collect();
            let json = Value::from_iter(backends.iter().map(|b| serde_json::json!({
                "address": b.address.to_string(), "name": b.name, "weight": b.weight, "tier": b.tier,
                "max_connections": max(b),
            })));
            prop_assert_eq!(read(&lines), Ok(backends.clone()));
            prop_assert_eq!(read(&json.to_string()), Ok(backends));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[{\"a-f0-9:.=# \n,}\\]]{0,60}") {
            let _ = parse_list(Path::new("x"), &bytes);
            let _ = read(&text);
        }
    }
}
