//! Paths of routes. A request's path is brought into one form before it is matched, so a path of the file is in that
//! form too, or it would match nothing.

use crate::config::raw::{Fault, fault, quoted};

/// A path of the file, in bytes.
const PATH_BYTES_MAX: usize = 4_096;
/// Names that mean something else in `redirect.to`.
const TAKEN_NAMES: [&str; 3] = ["host", "path", "query"];

/// `match.path`: the names of its parts.
pub(super) fn parse_template(text: &str) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::new();
    let segments: Vec<&str> = segments(text)?.collect();
    for (at, segment) in segments.iter().enumerate() {
        let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                let help = "write it as a whole segment, such as \"/users/{id}\", or use `path_regex`";
                return Err(fault("`{…}` stands for a whole segment", "not a segment").help(help));
            }
            check_segment(segment, at + 1 == segments.len())?;
            continue;
        };
        let name = inner.strip_prefix('*').unwrap_or(inner);
        if inner.starts_with('*') && at + 1 < segments.len() {
            return Err(fault(format!("`{{*{}}}` stands at the end only", quoted(name)), "not at the end"));
        }
        check_name(name)?;
        if names.iter().any(|known| known == name) {
            return Err(fault(format!("the name `{name}` stands there twice"), "twice the same name"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// `match.path_prefix` and `strip_prefix`: without a slash at its end.
pub(super) fn parse_prefix(text: &str) -> Result<String, Fault> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    if let Some(bare) = prefix.strip_suffix('*') {
        let help = format!("write \"{}\": it means this path and all below it", quoted(bare));
        return Err(fault("a prefix has no `*`", "not a path").help(help));
    }
    let segments: Vec<&str> = segments(text)?.collect();
    for (at, segment) in segments.iter().enumerate() {
        check_segment(segment, at + 1 == segments.len())?;
    }
    Ok(prefix.to_owned())
}

fn segments(text: &str) -> Result<impl Iterator<Item = &str>, Fault> {
    if text.len() > PATH_BYTES_MAX {
        return Err(fault(format!("a path has at most {PATH_BYTES_MAX} bytes"), format!("{} bytes", text.len())));
    }
    match text.strip_prefix('/') {
        Some(rest) => Ok(rest.split('/')),
        None if text.contains("://") => Err(fault("a path is needed, not a URL", "not a path")
            .help("write the path here, and the name of the host into `match.host`")),
        None => Err(fault("a path begins with `/`", "no `/`").help(format!("write \"/{}\"", quoted(text)))),
    }
}

fn check_name(name: &str) -> Result<(), Fault> {
    let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || !is_word {
        return Err(fault(format!("`{}` is no name", quoted(name)), "not a name")
            .help("use letters a-z and A-Z, digits and `_`, such as \"/users/{id}\""));
    }
    if TAKEN_NAMES.contains(&name) {
        let what = format!("`{name}` means something else in `redirect.to`");
        return Err(fault(what, "taken").help("choose another name"));
    }
    Ok(())
}

/// One segment, as it is in the one form of a request's path.
fn check_segment(segment: &str, is_last: bool) -> Result<(), Fault> {
    if segment.is_empty() && !is_last {
        return Err(fault("requests have one slash where several were written", "two slashes"));
    }
    if matches!(segment, "." | "..") {
        return Err(fault("requests have no `.` and `..` left", "a dot segment").help("write the path without it"));
    }
    let mut rest = segment;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '%' => {
                check_escape(rest)?;
                if rest.starts_with("25") && is_escape(&rest[2..]) {
                    return Err(fault("requests that are encoded twice are refused", "encoded twice"));
                }
                rest = &rest[2..];
            }
            '?' | '#' => {
                return Err(fault(format!("a path has no `{c}`"), "not a path").help("match the query with `query`"));
            }
            c if c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c) => {}
            c => {
                let encoded: String = c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("%{b:02X}")).collect();
                let help = match c {
                    '\\' => "requests with a backslash are refused".to_owned(),
                    _ => format!("write \"{encoded}\""),
                };
                return Err(fault(format!("`{}` cannot stand in a path", c.escape_debug()), "not a path").help(help));
            }
        }
    }
    Ok(())
}

/// Whether it begins with two digits.
fn is_escape(rest: &str) -> bool {
    rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit())
}

/// What follows a `%`.
fn check_escape(rest: &str) -> Result<(), Fault> {
    let digits = rest.get(..2).filter(|digits| is_escape(digits));
    let Some((digits, byte)) = digits.and_then(|digits| Some((digits, u8::from_str_radix(digits, 16).ok()?))) else {
        return Err(fault("two digits from 0 to F follow a `%`", "not a path").help("write \"%25\" for none at all"));
    };
    let wrong = |what: &str, help: String| Err(fault(what, "not as requests have it").help(help));
    match byte {
        b'/' | b'\\' | ..=0x1f | 0x7f => {
            let what = format!("requests with \"%{digits}\" in their path are refused");
            wrong(&what, "leave it out".to_owned())
        }
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
            wrong("what needs no encoding is not encoded", format!("write \"{}\"", char::from(byte)))
        }
        _ if digits.bytes().any(|b| b.is_ascii_lowercase()) => {
            wrong("requests have capital letters here", format!("write \"%{}\"", digits.to_ascii_uppercase()))
        }
        _ => Ok(()),
    }
}

/// A text with `{name}` in it: each must be one of `known`.
pub(super) fn check_placeholders(text: &str, known: &[String]) -> Result<(), Fault> {
    let there_are = || {
        let known: Vec<String> = known.iter().map(|name| format!("`{{{name}}}`")).collect();
        if known.is_empty() { "there is none here".to_owned() } else { format!("there are {}", known.join(", ")) }
    };
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let inner = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = inner else {
            return Err(fault("a brace has no other half", "a lone brace").help(there_are()));
        };
        if !known.iter().any(|known| known == name) {
            return Err(fault(format!("there is no `{{{}}}`", quoted(name)), "unknown").help(there_are()));
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_template_has_whole_segments_and_names() {
        for (text, names) in [
            ("/", &[][..]),
            ("/a/b/", &[]),
            ("/users/{id}", &["id"]),
            ("/{a}/x/{*rest}", &["a", "rest"]),
            ("/caf%C3%A9/(1);v=2", &[]),
            ("/100%25", &[]),
        ] {
            assert_eq!(parse_template(text).unwrap(), names, "{text}");
        }
        for (text, about) in [
            ("", "begins with"),
            ("a", "begins with"),
            ("http://a/b", "URL"),
            ("/{a}/{a}", "twice"),
            ("/{*a}/b", "at the end"),
            ("/a{b}", "whole segment"),
            ("/{}", "no name"),
            ("/{a-b}", "no name"),
            ("/{path}", "something else"),
            ("/a//b", "one slash"),
            ("/a/../b", "`..`"),
            ("/a?b", "`?`"),
            ("/a b", "`%20`"),
            ("/é", "%C3%A9"),
            ("/a\\b", "backslash"),
            ("/%2f", "refused"),
            ("/%00", "refused"),
            ("/%2541", "twice"),
            ("/%41", "\"A\""),
            ("/%c3", "\"%C3\""),
            ("/%", "two digits"),
            ("/%é", "two digits"),
        ] {
            let fault = parse_template(text).unwrap_err();
            let said = format!("{} {}", fault.what, fault.help.unwrap_or_default()).replace("\"%20\"", "`%20`");
            assert!(said.contains(about), "{text}: {said}");
        }
    }

    #[test]
    fn a_prefix_has_no_slash_at_its_end() {
        for (text, prefix) in [("/", ""), ("/a", "/a"), ("/a/", "/a"), ("/a/b", "/a/b")] {
            assert_eq!(parse_prefix(text).unwrap(), prefix);
        }
        for text in ["", "/a/*", "/{id}", "//", "/a//"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_known_names_stand_in_braces() {
        let known = ["id".to_owned()];
        for text in ["", "/a", "/{id}/{id}"] {
            assert!(check_placeholders(text, &known).is_ok(), "{text}");
        }
        for text in ["{", "}", "/{id", "/id}", "{{id}}", "/{no}"] {
            assert!(check_placeholders(text, &known).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "/?[a-c/{}*%.é\\\\0-9 ]{0,12}") {
            let _ = (parse_template(&text), check_placeholders(&text, &[]));
            if let Ok(prefix) = parse_prefix(&text) {
                prop_assert!(prefix.is_empty() || parse_prefix(&prefix).unwrap() == prefix);
            }
        }
    }
}
