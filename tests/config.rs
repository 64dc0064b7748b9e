//! The files that are shipped and those under `tests/conf`: what is valid loads, what is not is refused with the text
//! that stands beside it. Run with `BLESS=1` to write these texts anew, and read them as a user would.

#![allow(clippy::unwrap_used)] // everything here is a test

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use evener::config::{self, Loaded, diff, print};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && is_in_this_build(path));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// What git does not keep: only their owner may read keys.
fn hide_keys() {
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conf/tls")).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o640)).unwrap();
    }
}

/// Files for HTTP begin with that word; without the gateway there is one that says so.
fn is_in_this_build(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    match name {
        "http_without_gateway.toml" => !cfg!(feature = "gateway"),
        name => cfg!(feature = "gateway") || !name.starts_with("http"),
    }
}

/// The file under its bare name, so that messages are the same on every machine.
fn parse(path: &Path) -> Result<Loaded, config::Report> {
    hide_keys();
    let name = path.file_name().unwrap().to_str().unwrap();
    config::parse(name, &fs::read(path).unwrap())
}

fn assert_reads_as_printed(loaded: &Loaded) {
    let text = print(&loaded.config);
    let again = config::parse("printed", text.as_bytes()).unwrap_or_else(|report| panic!("{report}\n{text}"));
    assert_eq!(again.config, loaded.config, "{text}");
    assert!(diff(&loaded.config, &again.config).is_empty());
}

/// Compares with the text beside the file.
fn assert_says(path: &Path, said: &str) {
    let expected = path.with_extension("expected");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expected, said).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap_or_default();
    assert!(said == expected, "{} says\n\n{said}\n\nand should say\n\n{expected}", path.display());
}

#[test]
fn every_shipped_file_is_valid_without_a_warning() {
    for path in files("conf") {
        let loaded = config::load(&path).unwrap_or_else(|report| panic!("{report}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(|warning| warning.render(false)).collect();
        assert!(warnings.is_empty(), "{}", warnings.join("\n"));
        assert_reads_as_printed(&loaded);
    }
}

#[test]
fn every_valid_file_loads_and_is_printed_so_that_it_reads_the_same() {
    for path in files("tests/conf/valid") {
        let loaded = parse(&path).unwrap_or_else(|report| panic!("{report}"));
        assert_reads_as_printed(&loaded);
        let warnings: Vec<String> = loaded.warnings.iter().map(|warning| warning.render(false) + "\n\n").collect();
        assert_says(&path, &warnings.concat());
    }
}

#[test]
fn every_invalid_file_is_refused_with_all_its_problems() {
    for path in files("tests/conf/invalid") {
        let report = parse(&path).expect_err(&path.display().to_string());
        assert_says(&path, &(report.render(false) + "\n"));
    }
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("shop.key");
    let secret = fs::read_to_string("tests/conf/tls/shop.key").unwrap();
    fs::write(&key, &secret).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let text = format!(
        "[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\ntls = {{ certificate = \"tests/conf/tls/shop.pem\", key = \"{}\" }}\n[pool.a]\nbackends = [\"127.0.0.1:1\"]\n",
        key.display()
    );
    let loaded = config::parse("evener.toml", text.as_bytes()).unwrap();
    assert!(loaded.warnings[0].title.contains("every user of this host can read this key"), "{:?}", loaded.warnings);
    let line = secret.lines().nth(1).unwrap();
    assert!(!print(&loaded.config).contains(line) && !format!("{:?}", loaded.config).contains("PRIVATE"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(config::parse("evener.toml", text.as_bytes()).unwrap().warnings.is_empty());
}

#[test]
fn a_renewed_certificate_is_a_change_and_the_same_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let text = format!(
        "[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\ntls = {{ certificate = \"{}\", key = \"{}\" }}\n[pool.a]\nbackends = [\"127.0.0.1:1\"]\n",
        certificate.display(),
        key.display()
    );
    let read = |name: &str| {
        fs::copy(format!("tests/conf/tls/{name}.pem"), &certificate).unwrap();
        fs::copy(format!("tests/conf/tls/{name}.key"), &key).unwrap();
        config::parse("evener.toml", text.as_bytes()).unwrap().config
    };
    let (shop, again, db) = (read("shop"), read("shop"), read("db"));
    assert!(diff(&shop, &again).is_empty());
    assert_eq!(diff(&shop, &db).to_string(), "listeners: ~a");
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = config::load(&folder.path().join("evener.toml")).unwrap_err().render(false);
    assert!(missing.contains("no such file") && missing.contains("EVENER_CONFIG"), "{missing}");
    let directory = config::load(folder.path()).unwrap_err().render(false);
    assert!(directory.contains("folder"), "{directory}");
    let device = config::load(Path::new("/dev/zero")).unwrap_err().render(false);
    assert!(device.contains("not a regular file"), "{device}");
    let large = folder.path().join("large.toml");
    fs::File::create(&large).unwrap().set_len(config::FILE_BYTES_MAX as u64 + 1).unwrap();
    let large = config::load(&large).unwrap_err().render(false);
    assert!(large.contains("larger than 16 MiB"), "{large}");
}
