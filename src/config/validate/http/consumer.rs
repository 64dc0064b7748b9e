//! `[consumer.NAME]`: who is known by a key or a password.

use std::collections::HashMap;

use toml::de::DeValue;

use crate::config::error::{Finding, Span};
use crate::config::http::Consumer;
use crate::config::raw::{Fault, Reader, fault, text};

/// Keys of one consumer.
const KEYS_MAX: usize = 1_024;

const PREFIX: &str = "sha256:";
const HELP: &str = "write \"sha256:\" and what `printf %s KEY | sha256sum` says: 64 digits from 0 to 9 and a to f";

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("key", "did you mean `keys`?"),
    ("plan", "this version has no plans: limit by consumer, `rate_limit = { …, key = [\"consumer\"] }`"),
    ("username", "the name of the table is the name of the consumer"),
];

/// Whose keys are known so far, to find two with the same one.
pub(super) type Keys = HashMap<[u8; 32], Span>;

pub(super) fn read(r: &mut Reader, name: &str, known: &mut Keys) -> Consumer {
    r.hints(HINTS);
    let listed = r.list("keys", KEYS_MAX, hash);
    for (key, span) in &listed {
        if let Some(first) = known.insert(*key, span.clone()) {
            r.findings.push_with(|| {
                Finding::error(span.clone(), "two consumers have the same key, or one has it twice")
                    .label("again here")
                    .help("who has sent a request must be certain: give each consumer keys of its own")
                    .also(first, "first here")
            });
        }
    }
    let password = r.optional("password", hash);
    if !r.has("keys") && !r.has("password") {
        let finding = Finding::warning(r.span.clone(), "nobody can be this consumer").label("no `keys`, no `password`");
        r.findings
            .push(finding.help("add `keys = [\"sha256:…\"]` or `password = \"sha256:…\"`, or leave it out").absence());
    }
    Consumer { name: name.to_owned(), keys: listed.into_iter().map(|(key, _)| key).collect(), password }
}

/// "sha256:" and 64 digits.
fn hash(value: &DeValue) -> Result<[u8; 32], Fault> {
    let text = text(value)?;
    // What is wrong may be the key itself: it is not repeated.
    let wrong = |what: &str| fault(what, "not a hash").help(HELP);
    let Some(hex) = text.strip_prefix(PREFIX) else {
        return Err(wrong("keys and passwords stand here as their SHA-256"));
    };
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(wrong("SHA-256 has 64 digits, with small letters"));
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..hex.len()).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong("SHA-256 has 64 digits"))?;
    }
    Ok(hash)
}
