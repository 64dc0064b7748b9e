//! `evener schema` against the files that there are, by a validator that knows nothing of evener: Debian's
//! python3-jsonschema. What the program takes, editors must not complain of; most of what it refuses, they should.

#![allow(clippy::unwrap_used)] // everything here is a test

mod harness;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evener::config::SCHEMA;
use harness::{evener, skip};

const PYTHON: &str = "/usr/bin/python3";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Whether Debian's Python has the validator.
fn is_there(test: &str) -> bool {
    let import = Command::new(PYTHON).args(["-c", "import jsonschema, tomllib"]).output();
    let is_there = import.is_ok_and(|output| output.status.success());
    if !is_there {
        skip(test, "python3-jsonschema");
    }
    is_there
}

/// Each file with what the validator says of it.
fn validate(files: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut python = Command::new(PYTHON);
    python.arg(repository("tests/schema/validate.py")).args(files);
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SCHEMA.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the schema itself is one: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<_> = said
        .lines()
        .zip(files)
        .map(|(line, file)| {
            let verdict = line.strip_prefix(&format!("{}: ", file.display())).unwrap_or(line);
            (file.clone(), verdict.to_owned())
        })
        .collect();
    assert_eq!(verdicts.len(), files.len());
    verdicts
}

#[test]
fn the_verb_prints_the_schema() {
    let output = evener(&["schema"]);
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()), (Some(0), SCHEMA));
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn every_valid_file_is_valid_by_the_schema() {
    if !is_there("every_valid_file_is_valid_by_the_schema") {
        return;
    }
    let files = [files("conf"), files("tests/conf/valid")].concat();
    for (file, verdict) in validate(&files) {
        assert_eq!(verdict, "valid", "{}", file.display());
    }
}

#[test]
fn what_is_printed_with_all_defaults_is_valid_by_the_schema() {
    if !is_there("what_is_printed_with_all_defaults_is_valid_by_the_schema") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let is_in_this_build = |file: &PathBuf| cfg!(feature = "gateway") || !file.display().to_string().contains("http");
    let all = [files("conf"), files("tests/conf/valid")].concat().into_iter().filter(is_in_this_build);
    let printed: Vec<PathBuf> = all
        .enumerate()
        .map(|(at, file)| {
            let loaded = evener::config::load(&file).unwrap_or_else(|report| panic!("{report}"));
            let path = folder.path().join(format!("{at}.toml"));
            std::fs::write(&path, evener::config::print(&loaded.config)).unwrap();
            path
        })
        .collect();
    for (file, verdict) in validate(&printed) {
        assert_eq!(verdict, "valid", "{}", std::fs::read_to_string(file).unwrap());
    }
}

/// Invalid for what a schema cannot say, and not only in their syntax.
const BEYOND_A_SCHEMA: [&str; 2] = ["long_line.toml", "http_without_gateway.toml"];

#[test]
fn what_is_refused_is_mostly_invalid_by_the_schema_too() {
    if !is_there("what_is_refused_is_mostly_invalid_by_the_schema_too") {
        return;
    }
    for (file, verdict) in validate(&files("tests/conf/invalid")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(verdict == "valid", BEYOND_A_SCHEMA.contains(&name), "{name}: {verdict}");
    }
}

#[test]
fn mistakes_that_people_make_are_seen_at_their_place() {
    if !is_there("mistakes_that_people_make_are_seen_at_their_place") {
        return;
    }
    let good = "[listener.a]\nbind = \"0.0.0.0:80\"\npool = \"a\"\n[pool.a]\nbackends = [\"10.0.0.1:80\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let mistakes = [
        ("bind = \"0.0.0.0:80\"", "port = 80", "listener/a: "),
        ("bind = \"0.0.0.0:80\"", "bind = \"localhost:80\"", "listener/a/bind: "),
        ("pool = \"a\"", "pool = \"a\"\nidle_timeout = 30", "listener/a/idle_timeout: "),
        ("pool = \"a\"", "pool = \"a\"\nidle_timeout = \"30\"", "listener/a/idle_timeout: "),
        ("pool = \"a\"", "pool = \"a\"\nprotocol = \"quic\"", "listener/a/protocol: "),
        ("[\"10.0.0.1:80\"]", "[\"10.0.0.1\"]", "pool/a/backends/0: "),
        ("[\"10.0.0.1:80\"]", "[]", "pool/a/backends: "),
        ("[\"10.0.0.1:80\"]", "[\"10.0.0.1:80\"]\nbalance = \"roundrobin\"", "pool/a/balance: "),
        ("[\"10.0.0.1:80\"]", "[\"10.0.0.1:80\"]\nhealth = { intervall = \"1s\" }", "pool/a/health: "),
        ("[listener.a]", "[proces]\n[listener.a]", ": Additional properties"),
    ];
    let files: Vec<PathBuf> = mistakes
        .iter()
        .enumerate()
        .map(|(at, (before, after, _))| {
            assert!(good.contains(before), "{before}");
            let path = folder.path().join(format!("{at}.toml"));
            std::fs::write(&path, good.replacen(before, after, 1)).unwrap();
            path
        })
        .collect();
    for ((file, verdict), (.., place)) in validate(&files).iter().zip(mistakes) {
        assert!(verdict.starts_with(place), "{place}: {verdict}\n{}", std::fs::read_to_string(file).unwrap());
    }
}
