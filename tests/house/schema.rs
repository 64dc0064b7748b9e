//! The JSON Schema against the keys of the file, both ways, and its words against docs/configuration.md: one text, two
//! places. Run with `BLESS=1` to take the words of the document over.

use std::collections::{BTreeMap, BTreeSet};

use evener::config::SCHEMA;
use serde_json::Value;

use super::assert_none;
use super::documents::{OF_ROUTES, SECTIONS, assert_documented, keys, part, table};
use super::source::root;

/// Follows a reference within the schema.
fn resolved<'s>(schema: &'s Value, node: &'s Value) -> &'s Value {
    match node["$ref"].as_str() {
        Some(reference) => resolved(schema, schema.pointer(reference.trim_start_matches('#')).expect(reference)),
        None => node,
    }
}

/// All paths of keys below a table, each with the pointer to what says it.
fn walk(schema: &Value, at: &str, path: &str, found: &mut BTreeMap<String, String>) {
    let node = schema.pointer(at).unwrap();
    for (at_each, part) in node["anyOf"].as_array().into_iter().flatten().enumerate() {
        assert!(part.is_object());
        walk(schema, &format!("{at}/anyOf/{at_each}"), path, found);
    }
    if node["items"].is_object() {
        walk(schema, &format!("{at}/items"), path, found);
    }
    for (key, inner) in node["properties"].as_object().into_iter().flatten() {
        assert_eq!(node["additionalProperties"], Value::Bool(false), "{path} takes any key");
        let (at, path) = (format!("{at}/properties/{key}"), format!("{path}.{key}"));
        if !inner["$ref"].as_str().is_some_and(|reference| reference.contains("/properties/")) {
            walk(schema, &at, &path, found);
        }
        found.insert(path, at);
    }
}

/// Every key that the schema has, and where.
fn known() -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut found = BTreeMap::new();
    for table in schema["properties"].as_object().unwrap().keys() {
        let node = resolved(&schema, &schema["properties"][table]);
        let named = [&node["additionalProperties"], &node["items"], node].map(|node| resolved(&schema, node));
        assert!(named.contains(&&schema["$defs"][table]), "{table}");
        walk(&schema, &format!("/$defs/{table}"), table, &mut found);
    }
    found
}

#[test]
fn the_schema_has_every_key_of_the_file_and_no_other() {
    let known = known();
    let is_parent = |key: &str| known.keys().any(|other| other.starts_with(&format!("{key}.")));
    let keys = keys();
    // What only holds others, and the expressions below names that the file chooses.
    let known: BTreeSet<String> = known.keys().filter(|key| keys.contains(*key) || !is_parent(key)).cloned().collect();
    let of_routes = |key: &String| {
        let inner = key.strip_prefix("listener.").and_then(|key| key.split('.').next());
        inner.is_some_and(|inner| OF_ROUTES.contains(&inner))
    };
    let real: BTreeSet<String> = keys.into_iter().filter(|key| !of_routes(key)).collect();
    for key in OF_ROUTES {
        assert!(known.contains(&format!("listener.{key}")), "{key}");
    }
    assert_documented("key of the schema", &known.into_iter().filter(|key| !of_routes(key)).collect(), &real);
}

/// A cell of a table as plain text.
fn plain(cell: &str) -> String {
    let mut text = cell.replace('`', "");
    while let Some((at, end)) = text.find("](").and_then(|at| Some((at, at + text[at..].find(')')?))) {
        let start = text[..at].rfind('[').unwrap();
        text = format!("{}{}{}", &text[..start], &text[start + 1..at], &text[end + 1..]);
    }
    text
}

#[test]
fn the_schema_speaks_the_words_of_the_document() {
    let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let known = known();
    let mut faults = Vec::new();
    for (heading, prefix) in SECTIONS {
        for row in table(part(&text, heading)) {
            let Some(at) = known.get(&format!("{prefix}.{}", row[0])) else { continue };
            let node = schema.pointer_mut(at).unwrap().as_object_mut().unwrap();
            let (says, should) = (node.get("description").cloned(), plain(&row[3]));
            let should = (!should.is_empty()).then_some(Value::String(should));
            if says != should {
                faults.push(format!("{prefix}.{}: {says:?}, and the document says {should:?}", row[0]));
            }
            node.remove("description");
            node.extend(should.map(|should| ("description".to_owned(), should)));
        }
    }
    if std::env::var_os("BLESS").is_some() {
        let fresh = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        std::fs::write(root().join("src/config/schema.json"), fresh).unwrap();
        return;
    }
    assert_none(faults);
}
