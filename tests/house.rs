//! The rules of the house as tests. `src/lib.rs` is the map that people read; here it is held against the code, and so
//! are the documents. A rule that must be broken has a list of exceptions, each with its reason.

#![allow(clippy::unwrap_used)] // everything here is a test

#[path = "house/documents.rs"]
mod documents;
#[path = "house/schema.rs"]
mod schema;
#[path = "house/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, files, line_of, read, sources, words};

/// Lines of code in a file, tests not counted.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, from its name to its brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];
/// Functions that may be longer, as "FILE NAME", and why.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// Words of other programs for what is a listener, a pool or a backend here.
const FOREIGN_WORDS: [&str; 5] = ["frontend", "upstream", "downstream", "cluster", "target"];
/// Where one of them means something else.
const FOREIGN_WORDS_ALLOWED: &[(&str, &str, &str)] = &[
    ("src/health/", "target", "what a check asks is more than a backend: also how and through which port"),
    ("src/sys/process.rs", "target", "the C library that it is built for"),
    ("src/control/observe.rs", "target", "fills the list of what health checks"),
    ("src/control/discovery/dns.rs", "target", "what the resolver's library calls the host of an SRV record"),
    ("src/control/log.rs", "target", "the name that tracing-subscriber has for the source of an event"),
];

/// Files that may name serde: they make JSON of the types in `src/api.rs` and `src/handover.rs`, or read them from it. Keys
/// and tokens are JSON of others, and so are files of backends.
const SERDE: [&str; 16] = [
    "src/api.rs",
    "src/api/event.rs",
    "src/handover.rs",
    "src/control/http.rs",
    "src/control/admin.rs",
    "src/control/events.rs",
    "src/control/log.rs",
    "src/cli/client.rs",
    "src/cli/doctor.rs",
    "src/cli/events.rs",
    "src/cli/explain.rs",
    "src/cli/status.rs",
    "src/config/http/keys.rs",
    "src/config/list.rs",
    "src/control/upgrade/channel.rs",
    "src/gateway/policy/jwt.rs",
];

/// The first layer that may ask the clock and do I/O.
const ENGINES: u8 = 4;

// --- The map -----------------------------------------------------------------------------------------------------------

/// A row of the table in `src/lib.rs`.
#[derive(Debug, PartialEq)]
struct Row {
    module: String,
    layer: u8,
    imports: BTreeSet<String>,
}

/// Reads lines like "L0  id, reason ->" and "    stats -> id reason".
fn rows(map: &str) -> Vec<Row> {
    let table = map.split_once("# Direction").expect("the map has a part `# Direction`").1;
    let table = table.split("```").nth(1).expect("the map has a table");
    let mut layer = None;
    let mut rows = Vec::new();
    for line in table.lines().map(|line| line.trim_start_matches("//!").trim()) {
        let Some((left, right)) = line.split_once("->") else { continue };
        let named = left.strip_prefix('L').and_then(|rest| rest.split_once(' '));
        let names = match named.and_then(|(number, names)| Some((number.parse().ok()?, names))) {
            Some((number, names)) => {
                layer = Some(number);
                names
            }
            None => left,
        };
        for module in names.split(',') {
            let imports = right.split_whitespace().map(str::to_owned).collect();
            rows.push(Row { module: module.trim().to_owned(), layer: layer.expect("a row has a layer"), imports });
        }
    }
    rows
}

fn map() -> Vec<Row> {
    rows(&read("src/lib.rs"))
}

/// What is wrong with the table itself: an import from its own layer's engines, from below or from nowhere.
fn faults_of_map(rows: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        for import in &row.imports {
            match rows.iter().position(|other| other.module == *import) {
                Some(above) if above >= at => faults.push(format!("{} -> {import}: not a row above it", row.module)),
                Some(above) if rows[above].layer == ENGINES && row.layer == ENGINES => {
                    faults.push(format!("{} -> {import}: engines do not know each other", row.module));
                }
                Some(_) => {}
                None => faults.push(format!("{} -> {import}: no such row", row.module)),
            }
        }
    }
    faults
}

/// Differences between the table and the imports of the code, both ways.
fn faults_of_imports(rows: &[Row], sources: &[Source]) -> Vec<String> {
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.path != "src/lib.rs") {
        let module = source.module();
        let Some(row) = rows.iter().find(|row| row.module == module) else {
            faults.push(format!("{}: the map has no row for `{module}`: give it a layer", source.path));
            continue;
        };
        for (line, import) in source.imports() {
            if import != module && !row.imports.contains(&import) {
                faults.push(format!(
                    "{}:{line}: `{module}` imports `{import}`, which the map does not allow: move what is needed down, \
                     hand it in as a value or a message, or change the map in src/lib.rs and say why",
                    source.path
                ));
            }
            used.entry(module).or_default().insert(import);
        }
    }
    for row in rows {
        let used = used.get(row.module.as_str()).cloned().unwrap_or_default();
        for import in row.imports.difference(&used) {
            faults.push(format!("`{}` does not import `{import}` any more: take it out of the map", row.module));
        }
    }
    faults
}

#[test]
fn modules_import_what_the_map_allows_and_nothing_else() {
    assert_none(faults_of_map(&map()));
    assert_none(faults_of_imports(&map(), &sources(&["src"])));
}

#[test]
fn the_map_names_every_module_once_and_no_other() {
    let declared = read("src/lib.rs");
    let declared = declared.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut declared: Vec<&str> = declared.chain(["main"]).collect();
    // A module may have a twin for builds without its feature.
    declared.dedup();
    let rows = map();
    let mut mapped: Vec<&str> = rows.iter().map(|row| row.module.as_str()).collect();
    declared.sort_unstable();
    mapped.sort_unstable();
    assert_eq!(declared, mapped);
}

#[test]
fn a_wrong_edge_a_cycle_and_a_dead_edge_are_found() {
    let map = "//! # Direction\n//! ```text\n//! L0  a, b ->\n//! L4  w -> a b\n//!     h -> a\n//! ```";
    let rows = rows(map);
    assert_eq!(rows.iter().map(|row| row.layer).collect::<Vec<_>>(), [0, 0, 4, 4]);
    assert!(faults_of_map(&rows).is_empty());
    let found = |text: &str| {
        let w = Source::new("src/w/inner.rs", text);
        let h = Source::new("src/h.rs", "use crate::a::A;");
        faults_of_imports(&rows, &[w, h])
    };
    assert!(found("use crate::{a, b::B};").is_empty());
    assert_eq!(found("use crate::a; fn f() { crate::b::g(); super::super::h::x() }").len(), 1);
    assert_eq!(found("use crate::a;").len(), 1, "b is not used any more");
    assert_eq!(faults_of_imports(&rows, &[Source::new("src/new.rs", "")]).len(), 4, "no row, and three dead edges");

    let faulty = |line: &str| faults_of_map(&self::rows(&map.replace("//!     h -> a", line)));
    assert_eq!(faulty("//!     h -> w").len(), 1, "engines");
    assert_eq!(faulty("//!     h -> z").len(), 1, "unknown");
    assert_eq!(faulty("//!     h -> h").len(), 1, "itself");
}

// --- What may be named where ----------------------------------------------------------------------------------------------

/// Places where `word` is named outside of tests, in the files for which `forbidden` holds.
fn named(sources: &[Source], forbidden: impl Fn(&Source) -> bool, names: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| forbidden(source)) {
        for (at, word) in words(&source.product).filter(|(_, word)| names.contains(word)) {
            found.push(format!("{}:{}: {word}", source.path, line_of(&source.product, at)));
        }
    }
    found
}

fn layer(rows: &[Row], source: &Source) -> u8 {
    rows.iter().find(|row| row.module == source.module()).map_or(0, |row| row.layer)
}

#[test]
fn nothing_below_the_engines_knows_an_event_loop() {
    let (rows, sources) = (map(), sources(&["src"]));
    let loops = ["mio", "tokio", "hyper", "hyper_util", "http_body_util"];
    // To hand a socket to tokio's loop is unsafe.
    let exempt = "src/sys/watched.rs";
    assert_none(named(&sources, |source| layer(&rows, source) < ENGINES && source.path != exempt, &loops));
    assert_none(named(&sources, |source| source.module() == "worker", &loops[1..]));
    assert_none(named(&sources, |source| source.module() != "worker", &loops[..1]));
}

/// Questions to the clock outside of tests.
fn clocks(source: &Source) -> Vec<String> {
    let asks = ["Instant::now", "SystemTime::now", ".elapsed("];
    let places = asks.iter().flat_map(|ask| source.product.match_indices(ask));
    places.map(|(at, ask)| format!("{}:{}: {ask}", source.path, line_of(&source.product, at))).collect()
}

#[test]
fn nothing_below_the_engines_asks_the_clock() {
    let (rows, sources) = (map(), sources(&["src"]));
    assert_none(sources.iter().filter(|source| layer(&rows, source) < ENGINES).flat_map(clocks).collect());
}

/// Blocks, functions and impls outside of `src/sys`, or in it without a reason right above.
fn unsafe_faults(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut faults = Vec::new();
    for (at, _) in words(&source.code).filter(|(_, word)| *word == "unsafe") {
        let line = line_of(&source.code, at);
        let place = format!("{}:{line}", source.path);
        if source.module() != "sys" {
            faults.push(format!("{place}: unsafe code belongs into src/sys"));
        } else if !has_safety(&lines[..line - 1]) {
            faults.push(format!("{place}: no `// SAFETY:` comment above it says why it is sound"));
        }
    }
    faults
}

/// Whether the comment above ends at most two lines of the same statement before, and says SAFETY.
fn has_safety(above: &[&str]) -> bool {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let code = above.iter().rev().take_while(|line| !is_comment(line)).count();
    let mut comment = above[..above.len() - code].iter().rev().take_while(is_comment);
    let ends_statement = |line: &&str| line.trim_end().ends_with([';', '}']);
    code <= 2
        && !above[above.len() - code..].iter().any(ends_statement)
        && comment.any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
}

#[test]
fn unsafe_code_is_only_in_sys_and_says_why_it_is_sound() {
    assert_none(sources(&["src", "tests", "benches", "fuzz"]).iter().flat_map(unsafe_faults).collect());
}

#[test]
fn serde_stays_with_the_wire_types() {
    let sources = sources(&["src"]);
    let outside = |source: &Source| !SERDE.contains(&source.path.as_str());
    assert_none(named(&sources, outside, &["serde", "serde_json", "Serialize", "Deserialize"]));
    let derives = |source: &Source| {
        let derives = source.product.match_indices("derive(").map(|(at, _)| at);
        let serde = derives.filter(|at| {
            let list = source.product[*at..].split(')').next().unwrap_or_default();
            list.contains("Serialize") || list.contains("Deserialize")
        });
        serde.map(|at| format!("{}:{}", source.path, line_of(&source.product, at))).collect::<Vec<_>>()
    };
    assert_none(
        sources.iter().filter(|source| !SERDE[..3].contains(&source.path.as_str())).flat_map(derives).collect(),
    );
}

#[test]
fn a_forbidden_name_a_clock_and_an_unsafe_block_are_found() {
    let source = |path, text: &str| Source::new(path, text);
    let text = "use mio::Poll;\n// tokio\n#[cfg(test)]\nmod tests { use tokio::x; }\nfn f() { Instant::now(); started.elapsed(); }";
    let low = source("src/id.rs", text);
    assert_eq!(named(std::slice::from_ref(&low), |_| true, &["mio", "tokio"]), ["src/id.rs:1: mio"]);
    assert_eq!(clocks(&low).len(), 2);

    let count = |path, text| unsafe_faults(&source(path, text)).len();
    assert_eq!(count("src/tcp/half.rs", "// SAFETY: none\nunsafe {}"), 1);
    assert_eq!(count("src/sys/pipe.rs", "// SAFETY: the pointer\n// lives.\nlet a = f(\n    unsafe { x });"), 0);
    assert_eq!(count("src/sys/pipe.rs", "// SAFETY: one.\nunsafe { x };\nunsafe { y };"), 1);
    assert_eq!(count("src/sys/pipe.rs", "// because\nunsafe impl Send for X {}"), 1);
}

// --- Shape -----------------------------------------------------------------------------------------------------------------

/// Files and functions that are too long, and exceptions that nothing needs.
fn sizes(sources: &[Source], long_files: &[(&str, &str)], long_functions: &[(&str, &str)]) -> Vec<String> {
    let (mut faults, mut excused) = (Vec::new(), BTreeSet::new());
    for source in sources {
        let (path, lines) = (source.path.as_str(), source.code_lines());
        if lines > FILE_LINES_MAX && !long_files.iter().any(|(known, _)| *known == path) {
            faults.push(format!(
                "{path}: {lines} lines of code, more than {FILE_LINES_MAX}: which part is a noun of its own?"
            ));
        } else if lines > FILE_LINES_MAX {
            excused.insert(path.to_owned());
        }
        for function in source.functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
            let name = format!("{path} {}", function.name);
            if long_functions.iter().any(|(known, _)| *known == name) {
                excused.insert(name);
            } else {
                let (line, lines) = (function.line, function.lines);
                faults.push(format!(
                    "{path}:{line}: fn {} has {lines} lines, more than {FUNCTION_LINES_MAX}",
                    function.name
                ));
            }
        }
    }
    let exceptions = long_files.iter().chain(long_functions).filter(|(name, _)| !excused.contains(*name));
    faults.extend(exceptions.map(|(name, _)| format!("{name}: short enough: take it off the list of exceptions")));
    faults
}

#[test]
fn files_and_functions_stay_short() {
    assert_none(sizes(&sources(&["src"]), LONG_FILES, LONG_FUNCTIONS));
}

#[test]
fn every_file_begins_with_what_it_is() {
    let sources = sources(&["src", "tests", "benches", "fuzz"]);
    let silent = |source: &&Source| !source.text.starts_with("//! ");
    let silent: Vec<String> = sources.iter().filter(silent).map(|source| source.path.clone()).collect();
    assert_none(silent);
}

/// Words of other programs, also as a part of a longer name.
fn foreign_words(source: &Source, allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, word) in words(&source.product) {
        let lower = word.to_lowercase();
        for foreign in FOREIGN_WORDS.iter().filter(|foreign| lower.contains(*foreign)) {
            if !allowed.iter().any(|(path, word, _)| source.path.starts_with(path) && word == foreign) {
                let line = line_of(&source.product, at);
                found.push(format!("{}:{line}: `{word}`: say listener, pool, backend or client", source.path));
            }
        }
    }
    found
}

#[test]
fn the_code_speaks_of_listeners_pools_backends_and_clients() {
    assert_none(sources(&["src"]).iter().flat_map(|source| foreign_words(source, FOREIGN_WORDS_ALLOWED)).collect());
}

/// Names that say nothing: of functions, types and files.
fn empty_names(source: &Source) -> Vec<String> {
    const ENDS: [&str; 6] = ["manager", "helper", "helpers", "util", "utils", "misc"];
    let functions = source.functions().into_iter().filter(|function| function.name.starts_with("get_"));
    let mut found: Vec<_> =
        functions.map(|function| format!("{}:{}: {}", source.path, function.line, function.name)).collect();
    let is_type = |word: &str| word.starts_with(char::is_uppercase);
    for (at, word) in words(&source.product).filter(|(_, word)| is_type(word)) {
        if ENDS.iter().any(|end| word.to_lowercase().ends_with(end)) {
            found.push(format!("{}:{}: {word}", source.path, line_of(&source.product, at)));
        }
    }
    let stem = source.path.trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
    if ENDS.contains(&stem) || stem == "common" {
        found.push(source.path.clone());
    }
    found
}

#[test]
fn names_say_what_a_thing_is() {
    assert_none(sources(&["src"]).iter().flat_map(empty_names).collect());
}

/// Unfinished work.
fn unfinished(source: &Source) -> Vec<String> {
    let is_macro = |at: usize, word: &str| source.code[at + word.len()..].starts_with('!');
    let found =
        words(&source.code).filter(|(at, word)| ["todo", "unimplemented", "dbg"].contains(word) && is_macro(*at, word));
    found.map(|(at, word)| format!("{}:{}: {word}!", source.path, line_of(&source.code, at))).collect()
}

/// `allow` and `ignore` that do not say why: behind it, in a comment above, or as a reason.
fn unexplained(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut faults = Vec::new();
    for (at, line) in source.code.lines().enumerate() {
        let is_ignore = line.contains("#[ignore");
        let is_allow = line.contains("#[allow(") || line.contains("#![allow(");
        let above = at.checked_sub(1).map_or("", |above| lines[above]).trim_start();
        let explained = lines[at].contains("reason = \"") || lines[at].contains(" // ") || above.starts_with("//");
        if is_allow && !explained || is_ignore && !lines[at].contains("#[ignore = \"") {
            faults.push(format!("{}:{}: say why: {}", source.path, at + 1, lines[at].trim()));
        }
    }
    faults
}

#[test]
fn nothing_is_unfinished_and_every_exception_to_a_lint_has_its_reason() {
    let sources = sources(&["src", "tests", "benches", "fuzz"]);
    assert_none(sources.iter().flat_map(unfinished).collect());
    // In tests, what is allowed for the file as a whole explains itself.
    let is_test = |source: &Source| source.path.starts_with("tests/");
    assert_none(sources.iter().filter(|source| !is_test(source)).flat_map(unexplained).collect());
    let ignored = sources.iter().filter(|source| is_test(source)).flat_map(unexplained);
    assert_none(ignored.filter(|fault| fault.contains("#[ignore")).collect());
}

#[test]
fn what_is_long_foreign_unfinished_or_unexplained_is_found() {
    let source = |text: &str| Source::new("src/a.rs", text);
    let long = source(&format!("fn f() {{\n{}}}\n", "    x();\n".repeat(FILE_LINES_MAX)));
    assert_eq!(sizes(std::slice::from_ref(&long), &[], &[]).len(), 2);
    assert!(sizes(&[long], &[("src/a.rs", "why")], &[("src/a.rs f", "why")]).is_empty());
    assert_eq!(sizes(&[source("")], &[("src/a.rs", "why")], &[]).len(), 1, "an exception that nothing needs");

    let words = source("struct UpstreamPool; fn of(target_at: u8) { \"frontend\" } // cluster\nfn targeted() {}");
    assert_eq!(foreign_words(&words, &[]).len(), 3);
    assert_eq!(foreign_words(&words, &[("src/", "target", "why")]).len(), 1);
    assert_eq!(empty_names(&source("struct PoolManager; fn get_pool() {} fn widget_of() { x.get_mut() }")).len(), 2);
    assert_eq!(empty_names(&Source::new("src/tcp/util.rs", "")).len(), 1);

    assert_eq!(unfinished(&source("fn f() { todo!() }\n// dbg!(x)\nfn todo() {}")).len(), 1);
    let text = "#[allow(a)]\nfn f() {}\n#[allow(a)] // because\nfn g() {}\n/// The clock.\n#[allow(a)]\nfn h() {}\n#[ignore]\n#[ignore = \"slow\"]\nfn i() {}";
    assert_eq!(unexplained(&source(text)).len(), 2);
}

// --- All text ---------------------------------------------------------------------------------------------------------------

#[test]
fn no_text_names_a_place_of_one_machine() {
    // In parts, or this file would name them.
    let places = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()];
    let mut faults = Vec::new();
    for path in files(&["."], "") {
        let path = path.trim_start_matches("./").to_owned();
        let Ok(text) = std::fs::read_to_string(source::root().join(&path)) else { continue };
        for (at, line) in text.lines().enumerate() {
            if path != ".git" && places.iter().any(|place| line.contains(place.as_str())) {
                faults.push(format!("{path}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    assert_none(faults);
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
