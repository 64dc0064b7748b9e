//! The documents against the code: what the program says and takes is written down, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use evener::config::{self, print};
use evener::reason::{CloseReason, ConnectFailure, DropReason};

use super::assert_none;
use super::source::{files, read, root, words};

/// The documents for users.
fn documents() -> Vec<String> {
    let mut documents = files(&["docs"], ".md");
    documents.extend(["README.md", "CHANGELOG.md"].map(str::to_owned));
    documents
}

/// The part of a document below a heading, up to the next one of the same or a higher level.
pub fn part<'t>(text: &'t str, heading: &str) -> &'t str {
    let start = text.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("there is no heading `{heading}`"));
    let body = &text[start + heading.len()..];
    let level = heading.split(' ').next().unwrap().len();
    let mut ends = (1..=level).filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level))));
    let first = ends.next();
    let end = ends.chain(first).min().unwrap_or(body.len());
    &body[..end]
}

/// The rows of the first table, without its head; backticks stripped.
pub fn table(part: &str) -> Vec<Vec<String>> {
    let lines = part.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        // A bar within a cell stands behind a backslash.
        let line = line.replace("\\|", "\0");
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').replace('\0', "|"));
        cells.collect::<Vec<_>>()
    };
    lines.skip(2).map(cells).collect()
}

fn first_column(rows: &[Vec<String>]) -> BTreeSet<String> {
    let first: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(first.len(), rows.len(), "a row stands twice");
    first
}

fn set<T: Into<String>>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

/// Both ways, with a message that says which.
pub fn assert_documented(what: &str, documented: &BTreeSet<String>, real: &BTreeSet<String>) {
    let missing = real.difference(documented).map(|name| format!("{what} `{name}` is not documented"));
    let stale = documented.difference(real).map(|name| format!("{what} `{name}` is documented and does not exist"));
    assert_none(missing.into_iter().chain(stale).collect());
}

/// The texts in quotes that follow `before`.
fn quoted_after<'t>(text: &'t str, before: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(before).filter_map(move |(at, _)| {
        let rest = text[at + before.len()..].trim_start().strip_prefix('"')?;
        rest.split('"').next()
    })
}

/// The part of a source before its tests.
fn before_tests(path: &str) -> String {
    let text = read(path);
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

#[test]
fn every_reason_is_documented_with_its_code() {
    let text = read("docs/observability.md");
    let rows = table(part(&text, "## Reasons"));
    assert_documented("reason", &first_column(&rows), &set(CloseReason::ALL.map(CloseReason::as_str)));
    for reason in CloseReason::ALL {
        let row = rows.iter().find(|row| row[0] == reason.as_str()).unwrap();
        assert_eq!(row[1], reason.code(), "the code of {}", reason.as_str());
    }
    let refusals = CloseReason::ALL.into_iter().filter(|reason| reason.is_refusal());
    let named: Vec<String> = refusals.map(|reason| format!("`{}`", reason.as_str())).collect();
    let (last, others) = named.split_last().unwrap();
    let sentence = format!("{} and {last} are refusals", others.join(", "));
    assert!(text.replace('\n', " ").contains(&sentence), "{sentence}");

    // Those of flows are named, and so are those that a connection cannot have.
    let of_flows = CloseReason::ALL.into_iter().filter(|reason| reason.ends_flows());
    let named: Vec<String> = of_flows.map(|reason| format!("`{}`", reason.as_str())).collect();
    let (last, others) = named.split_last().unwrap();
    let sentence = format!("Flows end with {} or {last}", others.join(", "));
    assert!(text.replace('\n', " ").contains(&sentence), "{sentence}");
    let only = CloseReason::ALL.into_iter().filter(|reason| !reason.ends_connections());
    let only: Vec<String> = only.map(|reason| format!("`{}`", reason.as_str())).collect();
    let sentence = format!("{}, which only flows have", only.join(" and "));
    assert!(text.replace('\n', " ").contains(&sentence), "{sentence}");

    let failures = table(part(&text, "## Failed attempts to connect"));
    let real = set(ConnectFailure::ALL.map(ConnectFailure::as_str));
    assert_documented("failure to connect", &first_column(&failures), &real);

    let drops = table(part(&text, "## Dropped datagrams"));
    assert_documented("reason to drop", &first_column(&drops), &set(DropReason::ALL.map(DropReason::as_str)));
    assert!(drops.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())), "what to do about each");
}

#[test]
fn every_metric_is_documented() {
    let files = ["src/control/metrics.rs", "src/control/metrics/help.rs", "src/control/metrics/histograms.rs"];
    let source: String = files.iter().map(|path| before_tests(path)).collect();
    let names = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("evener_"));
    let names = set(names);
    assert!(names.len() > 20);
    let text = read("docs/observability.md");
    let rows = table(part(&text, "## Metrics"));
    assert_documented("metric", &first_column(&rows), &names);
    for row in rows {
        let (name, kind) = (row[0].as_str(), row[1].as_str());
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is no {kind}");
        let is_drawn = source.contains(&format!("begin(out, \"{name}\")"));
        assert_eq!(is_drawn, kind == "histogram", "{name} is no {kind}");
    }
    // Wherever else one is named, it exists.
    for path in documents() {
        let text = read(&path);
        let mentioned = words(&text).map(|(_, word)| word).filter(|word| word.starts_with("evener_"));
        assert_none(mentioned.filter(|name| !names.contains(*name)).map(|name| format!("{path}: {name}")).collect());
    }
}

#[test]
fn every_subject_of_the_doctor_is_documented() {
    let sources: String = files(&["src/cli/doctor"], ".rs").iter().map(|path| before_tests(path)).collect();
    let named = quoted_after(&sources, "const SUBJECT: &str = ");
    let rows = read("docs/doctor.md");
    let rows = table(part(&rows, "# Is the host fit for the file?").split("**The size").nth(1).unwrap());
    assert_documented("subject", &first_column(&rows), &set(named));
}

#[test]
fn every_kind_of_event_is_documented() {
    let rows = table(part(&read("docs/observability.md"), "## Events"));
    let kinds = evener::api::EventKind::ALL;
    assert_documented("kind of event", &first_column(&rows), &set(kinds.map(evener::api::EventKind::as_str)));
    for kind in kinds {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str(), "on the wire and on the screen");
    }
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let source = before_tests("src/control/log.rs");
    let fields = source.split("fn fields").nth(1).unwrap().split("\nfn text").next().unwrap();
    let rows = table(part(&read("docs/observability.md"), "## The access log")).to_vec();
    assert_documented("field", &first_column(&rows), &set(quoted_after(fields, "        (")));
}

/// Tables whose keys the file chooses.
const CHOSEN: [&str; 7] = ["sni", "header", "query", "set", "add", "require", "claims_to_headers"];

/// The paths of all values: "pool.backends.address". Names that the file chooses are left out.
fn paths(value: &toml::Value, path: &[&str], found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) if !path.last().is_some_and(|last| CHOSEN.contains(last)) => {
            for (key, inner) in table {
                let is_name = matches!(path, ["listener" | "pool" | "jwt" | "consumer"]);
                let deeper: Vec<&str> = path.iter().copied().chain((!is_name).then_some(key.as_str())).collect();
                match is_name {
                    true => paths(inner, &[path[0], ""], found),
                    false => paths(inner, &deeper, found),
                }
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            found.insert(joined(path));
            items.iter().for_each(|item| paths(item, path, found));
        }
        _ => {
            found.insert(joined(path));
        }
    }
}

fn joined(path: &[&str]) -> String {
    path.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
}

/// Every key that a file may have: those of files that have them all, and what is printed of them.
pub fn keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in ["tests/conf/valid/everything.toml", "tests/conf/valid/http.toml"] {
        let text = read(path);
        let printed = config::parse(path, text.as_bytes()).map(|loaded| print(&loaded.config));
        assert!(printed.is_ok() || path.contains("http") && !cfg!(feature = "gateway"), "{path}: {printed:?}");
        for text in [text, printed.unwrap_or_default()] {
            paths(&toml::Value::Table(text.parse().unwrap()), &[], &mut found);
        }
    }
    // The list itself; its keys are documented.
    found.remove("route");
    found
}

/// Where the keys of each table are documented.
pub const SECTIONS: [(&str, &str); 6] = [
    ("## `[process]`", "process"),
    ("## `[listener.NAME]`", "listener"),
    ("## `[pool.NAME]`", "pool"),
    ("### `[[route]]`", "route"),
    ("### `[jwt.NAME]`", "jwt"),
    ("### `[consumer.NAME]`", "consumer"),
];

/// What a listener may set for its routes, and is documented with them.
pub const OF_ROUTES: [&str; 7] =
    ["auth", "rate_limit", "cors", "timeout", "retry", "request_headers", "response_headers"];

#[test]
fn every_key_of_the_file_is_documented() {
    let text = read("docs/configuration.md");
    let documented = SECTIONS.iter().flat_map(|(heading, prefix)| {
        first_column(&table(part(&text, heading))).into_iter().map(move |key| format!("{prefix}.{key}"))
    });
    let of_routes = |key: &String| {
        let inner = key.strip_prefix("listener.").and_then(|key| key.split('.').next());
        inner.is_some_and(|key| OF_ROUTES.contains(&key))
    };
    assert_documented("key", &documented.collect(), &keys().into_iter().filter(|key| !of_routes(key)).collect());
}

/// The keys that the validation asks a table for.
fn asked(source: &str) -> BTreeSet<String> {
    let calls = [
        ".or(",
        ".optional(",
        ".required(",
        ".word(",
        ".list(",
        ".table(",
        ".table_or_false(",
        ".take(",
        ".entries(",
        "filled_list(r, ",
        "networks(r, ",
        "named(r, ",
        "one_or_list(r, ",
        "all_or(r, ",
        " or(r, ",
        "values(r, ",
    ];
    set(calls.iter().flat_map(|call| quoted_after(source, call)))
}

#[test]
fn the_file_with_every_key_has_every_key_that_is_asked_for() {
    let sources: String = files(&["src/config/validate"], ".rs").iter().map(|path| before_tests(path)).collect();
    let parts: BTreeSet<String> = keys().iter().flat_map(|path| path.split('.').map(str::to_owned)).collect();
    let mut asked = asked(&sources);
    // Stands below names that the file chooses.
    asked.remove("regex");
    let missing = asked.difference(&parts).map(|key| format!("`{key}` is not in tests/conf/valid/everything.toml"));
    let unseen = parts.difference(&asked).map(|key| format!("`{key}`: this test does not see where it is asked for"));
    assert_none(missing.chain(unseen).collect());
}

/// Files for HTTP begin with that word.
fn is_in_this_build(path: &str) -> bool {
    cfg!(feature = "gateway") || !path.contains("/http")
}

#[test]
fn every_shipped_file_loads() {
    for path in files(&["conf", "tests/conf/valid"], ".toml").into_iter().filter(|path| is_in_this_build(path)) {
        config::load(&root().join(&path)).unwrap_or_else(|report| panic!("{report}"));
    }
}

/// The blocks of a language, with their first lines.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(word) if !inside && word == language => {
                inside = true;
                blocks.push((at + 2, String::new()));
            }
            Some(_) => inside = false,
            None if inside => blocks.last_mut().unwrap().1.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    blocks
}

/// An example with what it leaves out: a pool for each listener, a listener for each pool.
fn completed(example: &str) -> String {
    let value: toml::Table = example.parse().unwrap_or_else(|error| panic!("{error}\n{example}"));
    let tables = |key: &str| value.get(key).and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let (listeners, pools) = (tables("listener"), tables("pool"));
    let wanted: BTreeMap<&str, ()> = listeners.values().filter_map(|l| Some((l.get("pool")?.as_str()?, ()))).collect();
    // Where the examples have their certificates, the tests have theirs.
    let mut text = example.replace("/etc/evener/", "tests/conf/tls/");
    for pool in wanted.keys().filter(|pool| !pools.contains_key(**pool)) {
        text.push_str(&format!("\n[pool.{pool}]\nbackends = [\"127.0.0.1:1\"]\n"));
    }
    for pool in pools.keys().filter(|pool| !wanted.contains_key(pool.as_str())) {
        text.push_str(&format!("\n[listener.for_{pool}]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n"));
    }
    if listeners.is_empty() && pools.is_empty() {
        text.push_str("\n[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\n[pool.a]\nbackends = [\"127.0.0.1:1\"]\n");
    }
    text
}

#[test]
fn every_example_of_a_file_is_valid_without_a_warning() {
    for key in files(&["tests/conf/tls"], ".key") {
        // What git does not keep: only their owner may read keys.
        std::fs::set_permissions(root().join(key), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    }
    let mut count = 0;
    for path in documents() {
        let of_this_build = |block: &&(usize, String)| cfg!(feature = "gateway") || !block.1.contains("[[route]]");
        for (line, block) in blocks(&read(&path), "toml").iter().filter(of_this_build) {
            let text = completed(block);
            let loaded = config::parse(&format!("{path}:{line}"), text.as_bytes());
            let loaded = loaded.unwrap_or_else(|report| panic!("{path}:{line}\n{report}"));
            let warnings: Vec<String> = loaded.warnings.iter().map(|warning| warning.render(false)).collect();
            assert!(warnings.is_empty(), "{path}:{line}\n{}", warnings.join("\n"));
            count += 1;
        }
    }
    assert!(count >= 8, "the documents have examples");
}

#[test]
fn every_example_of_json_is_json_of_the_api() {
    for (line, block) in blocks(&read("docs/operations.md"), "json") {
        let listener = serde_json::from_str::<evener::api::Listener>(&block);
        let backend = serde_json::from_str::<evener::api::Backend>(&block);
        assert!(listener.is_ok() || backend.is_ok(), "docs/operations.md:{line}: {listener:?}, {backend:?}");
    }
}

/// Links of a document to files that are not there.
fn dead_links(path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap();
    let links = text.match_indices("](").map(|(at, _)| text[at + 2..].split(')').next().unwrap_or_default());
    let local = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
    let dead = local.filter(|link| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let file = root().join(folder).join(file);
        let has_anchor = || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.lines().any(|line| line.starts_with('#') && slug(line) == anchor)
        };
        !file.exists() || !anchor.is_empty() && !has_anchor()
    });
    dead.map(|link| format!("{path}: {link}")).collect()
}

/// What a heading is called in a link.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_none(documents().iter().flat_map(|path| dead_links(path, &read(path))).collect());
}

#[test]
fn what_is_missing_or_stale_in_a_document_is_found() {
    let text = "# A\n## B\n\nText\n\n| x | y |\n|---|---|\n| `a` | `--` |\n| `b` | |\n\n| other |\n## C\n| n |\n";
    let rows = table(part(text, "## B"));
    assert_eq!(rows, [["a", "--"], ["b", ""]]);
    assert_eq!(first_column(&rows), set(["a", "b"]));
    assert!(std::panic::catch_unwind(|| assert_documented("x", &set(["a"]), &set(["a", "b"]))).is_err());
    assert!(std::panic::catch_unwind(|| assert_documented("x", &set(["a", "b"]), &set(["a"]))).is_err());

    let mut found = BTreeSet::new();
    let file = "[pool.x]\na = 1\nb = { c = 2 }\nd = [\"e\", { f = 3 }]\n[process]\ng = []";
    paths(&toml::Value::Table(file.parse().unwrap()), &[], &mut found);
    assert_eq!(found, set(["pool.a", "pool.b.c", "pool.d", "pool.d.f", "process.g"]));
    let asks = asked("r.or(\"a\", x); r.table(\n    \"b\", |r| networks(r, \"c\")); text.find(\"d\")");
    assert_eq!(asks, set(["a", "b", "c"]));

    assert_eq!(
        blocks("```toml\na\n```\n```sh\nb\n```\n```toml\nc\n```", "toml"),
        [(2, "a\n".into()), (8, "c\n".into())]
    );
    assert_eq!(
        dead_links("docs/x.md", "[a](https://x.y) [b](none.md) [c](../README.md) [d](../README.md#nowhere)").len(),
        2
    );
}
