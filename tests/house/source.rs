//! Rust sources as the house rules look at them: comments and texts blanked out, so that a rule never stumbles over a
//! word that is only talked about, and once more without what is compiled for tests alone.

use std::fs;
use std::path::{Path, PathBuf};

/// A file.
pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments, strings and characters blanked; line for line as long as `text`.
    pub code: String,
    /// `code` without `#[cfg(test)]` items; empty in a file that is a test as a whole.
    pub product: String,
}

/// A function's line (from 1), name and length in lines.
#[derive(Debug, PartialEq)]
pub struct Function {
    pub line: usize,
    pub name: String,
    pub lines: usize,
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below these folders that end like this, sorted, as paths from the root.
pub fn files(folders: &[&str], suffix: &str) -> Vec<String> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != ".git" {
                waiting.push(path);
            } else if path.is_file() && name.ends_with(suffix) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file in {folders:?} ends with {suffix}");
    found
}

/// The Rust files below these folders.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let mut sources: Vec<Source> =
        files(folders, ".rs").into_iter().map(|path| Source::new(&path, read(&path))).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in sources.iter_mut().filter(|source| tests.iter().any(|module| holds(module, &source.path))) {
        source.product.clear();
    }
    sources
}

impl Source {
    /// A file of this path and text.
    pub fn new(path: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        let code = blank(&text);
        let product = without_tests(&code);
        Self { path: path.to_owned(), text, code, product }
    }

    /// The module right below the root that it belongs to.
    pub fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        // A twin for builds without a feature stands where the module does.
        inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs").trim_start_matches("no_")
    }

    /// The modules right below the root that it imports, with lines: by `crate::`, `evener::` or enough of `super::`.
    pub fn imports(&self) -> Vec<(usize, String)> {
        let depth = self.path.split('/').count() - 1 - usize::from(self.path.ends_with("/mod.rs"));
        let code = &self.product;
        let mut found = Vec::new();
        for (at, word) in words(code) {
            let is_path = code[at + word.len()..].starts_with("::");
            // In the middle of a path (`self::crate`, `super::super`) it has been seen already.
            if !is_path || code[..at].ends_with("::") {
                continue;
            }
            let rest = match word {
                "crate" | "evener" => &code[at + word.len() + 2..],
                "super" => {
                    let chain = code[at..].split("::").take_while(|part| *part == "super").count();
                    if chain < depth {
                        continue;
                    }
                    &code[at + chain * "super::".len()..]
                }
                _ => continue,
            };
            let line = line_of(code, at);
            found.extend(heads(rest).into_iter().map(|head| (line, head)));
        }
        found
    }

    /// Every function outside of tests.
    pub fn functions(&self) -> Vec<Function> {
        let code = &self.product;
        let mut found = Vec::new();
        for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
            let Some((_, name)) = words(&code[at + 2..]).next() else { continue };
            // `fn(usize) -> bool` is a type and has no name before its parenthesis.
            if code[at + 2..].trim_start().starts_with('(') {
                continue;
            }
            let Some(end) = item_end(code, at).filter(|end| code[..*end].ends_with('}')) else { continue };
            let lines = code[at..end].matches('\n').count() + 1;
            found.push(Function { line: line_of(code, at), name: name.to_owned(), lines });
        }
        found
    }

    /// Lines of code: neither blank nor a comment nor part of a test.
    pub fn code_lines(&self) -> usize {
        self.product.lines().filter(|line| !line.trim().is_empty()).count()
    }
}

/// Identifiers, keywords and numbers with their places.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_word)?;
        let length = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        rest = start + length;
        Some((start, &code[start..rest]))
    })
}

/// The line of a place, from 1.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The first names of what stands behind `crate::`: one, or those of `{a, b::c, d::{e, f}}`.
fn heads(path: &str) -> Vec<String> {
    let first = |text: &str| words(text).next().map(|(_, word)| word.to_owned());
    let Some(group) = path.strip_prefix('{') else { return first(path).into_iter().collect() };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.extend(first(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// Blanks comments, strings and character literals.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_inside_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => string_length(rest),
            'b' | 'c' | 'r' if !is_inside_word => raw_string_length(rest),
            '\'' => char_length(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            // A byte becomes a space, so that places stay the same in both.
            out.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        match &text[at..] {
            "" => return at,
            inner if inner.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            inner if inner.starts_with("*/") => (depth, at) = (depth - 1, at + 2),
            inner => at += inner.chars().next().map_or(0, char::len_utf8),
        }
        if depth == 0 {
            return at;
        }
    }
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Of `r"…"`, `r#"…"#`, `b"…"`, `c"…"` and their mixtures; 0 when it is only a word that begins so.
fn raw_string_length(text: &str) -> usize {
    let after = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - after.len();
    if prefix > 1 {
        return 0;
    }
    let Some(raw) = after.strip_prefix('r') else {
        return if after.starts_with('"') { prefix + string_length(after) } else { 0 };
    };
    let inner = raw.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(raw.len() - inner.len()));
    match inner.strip_prefix('"') {
        Some(body) => text.len() - body.len() + body.find(&end).map_or(body.len(), |at| at + end.len()),
        None => 0,
    }
}

/// Of a character literal; 0 for a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            text[escaped + 1..].find('\'').map_or(text.len(), |at| escaped + 1 + at + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 0,
    }
}

/// Where the item that begins here ends: behind its `;`, or behind the brace that closes its body.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, ';' | '}') {
            return Some(start + at + 1);
        }
    }
    None
}

const TEST_ONLY: &str = "#[cfg(test)]";

fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find(TEST_ONLY) {
        let end = item_end(&out, start + TEST_ONLY.len()).unwrap_or(out.len());
        let blanked: String = out[start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// Whether a file is this module, or a part of it.
fn holds(module: &str, path: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The modules that a file declares for tests alone, as paths without an ending.
fn test_modules(source: &Source) -> Vec<String> {
    let folder = match source.path.strip_suffix("/mod.rs") {
        Some(folder) => folder,
        None => source.path.trim_end_matches(".rs"),
    };
    let places = source.code.match_indices(TEST_ONLY).map(|(at, _)| at + TEST_ONLY.len());
    let declared = places.filter_map(|at| {
        let item = &source.code[at..item_end(&source.code, at)?];
        let name = item.trim().strip_suffix(';')?.rsplit_once("mod ")?.1;
        Some(format!("{folder}/{}", name.trim()))
    });
    declared.collect()
}

#[test]
fn what_is_only_talked_about_is_blanked_and_places_stay() {
    let text = "let a = \"unsafe \\\" {\"; // unsafe\nlet b = r#\"fn \" x\"#; /* a /* b */ fn */ let c = b\"x\";\nlet d: &'a u8 = '{'; let e = '\\''; let f = '\\u{7b}'; let r#type = br\"{\";\nlet crab = \"ü\"; end";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.find("end"), text.find("end"));
    let seen: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    let expected = "let a let b let c let d a u8 let e let f let r type let crab end";
    assert_eq!(seen.join(" "), expected);
    assert!(!code.contains(['{', '}']), "{code}");
}

#[test]
fn imports_are_seen_in_every_form_and_not_in_tests() {
    let text = "use crate::id::A;\nuse crate::{\n    api::{self, x}, config, stats::Y,\n};\nfn f() { crate::sys::g(); super::limit::h(); self::own::i() }\n// crate::no\n#[cfg(test)]\nmod tests { use crate::worker::W; }\nfn last() { evener::cli::main() }";
    let names = |path| {
        let found = Source::new(path, text).imports();
        found.into_iter().map(|(line, name)| format!("{line}:{name}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("src/queue.rs"), "1:id 2:api 2:config 2:stats 5:sys 5:limit 9:cli");
    assert_eq!(names("src/worker/mod.rs"), "1:id 2:api 2:config 2:stats 5:sys 5:limit 9:cli");
    assert_eq!(names("src/worker/open.rs"), "1:id 2:api 2:config 2:stats 5:sys 9:cli");
    let deep = Source::new("src/a/b/c.rs", "use super::super::x; use super::super::super::id::Y; use super::z;");
    assert_eq!(deep.imports(), [(1, "id".to_owned())]);
}

#[test]
fn functions_are_measured_with_their_bodies_and_declarations_are_not() {
    let text = "fn short(a: [u8; 4]) {}\ntrait T {\n    fn declared(&self);\n}\nfn long(f: fn(u8) -> u8)\nwhere\n    (): Sized,\n{\n    if a { b }\n}\n#[cfg(test)]\nmod tests {\n    fn test() {}\n}\n";
    let function = |line, name: &str, lines| Function { line, name: name.to_owned(), lines };
    let source = Source::new("src/a.rs", text);
    assert_eq!(source.functions(), [function(1, "short", 1), function(5, "long", 6)]);
    assert_eq!(source.code_lines(), 10);
}

#[test]
fn a_module_declared_for_tests_is_no_product() {
    let of = |path, text| test_modules(&Source::new(path, text));
    assert_eq!(of("src/a/mod.rs", "#[cfg(test)]\npub(super) mod tests;\nmod b;"), ["src/a/tests"]);
    assert_eq!(of("src/a/b.rs", "#[cfg(test)]\nmod sample;"), ["src/a/b/sample"]);
    assert!(of("src/a.rs", "#[cfg(test)]\nmod tests { mod inner; }").is_empty());
    for (path, is_test) in [("tests.rs", true), ("tests/mod.rs", true), ("tests/b.rs", true), ("tests_of.rs", false)] {
        assert_eq!(holds("src/a/tests", &format!("src/a/{path}")), is_test, "{path}");
    }
}

#[test]
fn the_module_of_a_file_is_the_one_below_the_root() {
    for (path, module) in [("src/id.rs", "id"), ("src/tcp/mod.rs", "tcp"), ("src/config/validate/pool.rs", "config")] {
        assert_eq!(Source::new(path, "").module(), module);
    }
}
