//! The words of the command line: `--name value`, or `--name` alone.

use std::time::Duration;

pub fn has(words: &[String], name: &str) -> bool {
    place(words, name).is_some()
}

pub fn word<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    words.get(place(words, name)? + 1).map(String::as_str)
}

pub fn number(words: &[String], name: &str, default: u64) -> u64 {
    word(words, name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

pub fn seconds(words: &[String], name: &str, default: f64) -> Duration {
    Duration::from_secs_f64(word(words, name).and_then(|value| value.parse().ok()).unwrap_or(default))
}

fn place(words: &[String], name: &str) -> Option<usize> {
    words.iter().position(|word| word.strip_prefix("--") == Some(name))
}
