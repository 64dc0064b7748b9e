//! The status page on the metrics' address: what is served, to whom, and what a browser (headless Chromium) makes of it.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use harness::{Backend, Evener, NO_CHECKS, SOON, config, free_port, require, wait_until};
use serde_json::Value;

/// How long a browser may take on a busy machine.
const BROWSER_SECONDS: &str = "90";
const FAST: &str =
    "health = { interval = \"100ms\", fast_interval = \"50ms\", timeout = \"100ms\", rise = 1, fall = 1 }\n";

/// How the page says that nobody answers.
const AWAY: &str = ">No answer since ";

/// A run with metrics on a port of its own.
fn running(keys: &str, pool_keys: &str, backends: &[String]) -> (Evener, u16) {
    let port = free_port();
    let process = format!("[process]\nmetrics = \"127.0.0.1:{port}\"\n{keys}\n");
    (Evener::start(&(process + &config("", pool_keys, backends))), port)
}

/// Head and body of an answer.
fn fetch(port: u16, method: &str, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    write!(socket, "{method} {path} HTTP/1.1\r\nhost: evener\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The page as Chromium has it after so many milliseconds of its own time.
fn dom(port: u16, milliseconds: u32) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", BROWSER_SECONDS, "chromium", "--headless", "--no-sandbox", "--disable-gpu"]);
    command.args(["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--virtual-time-budget={milliseconds}")).arg("--dump-dom");
    let output = command.arg(format!("http://127.0.0.1:{port}/")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_page_asks_for_nothing_else_and_the_data_hold_what_status_and_events_say() {
    let backend = Backend::named("a");
    let (evener, port) = running("", NO_CHECKS, &[backend.entry("")]);
    let (head, page) = fetch(port, "GET", "/");
    assert!(head.starts_with("HTTP/1.1 200") && page.starts_with("<!doctype html>"));
    let head = head.to_lowercase();
    for words in ["content-security-policy: default-src 'none';", "nosniff", "no-referrer", "no-store", "text/html"] {
        assert!(head.contains(words), "no {words} in {head}");
    }
    let (head, data) = fetch(port, "GET", "/status.json");
    assert!(head.contains("application/json") && head.contains("nosniff"), "{head}");
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data["status"]["pid"], evener.pid());
    assert_eq!(data["status"]["pools"][0]["backends"][0]["name"], "a");
    assert_eq!(data["events"][0]["kind"], "started");
    assert!(data["status"]["process"]["threads"][0]["cpu_ms"].is_number());
    assert!(fetch(port, "GET", "/metrics").1.contains("evener_build_info"));
    assert!(fetch(port, "POST", "/").0.starts_with("HTTP/1.1 405"));
    assert!(fetch(port, "PUT", "/status.json").0.starts_with("HTTP/1.1 405"));
    assert!(fetch(port, "GET", "/v1/status").0.starts_with("HTTP/1.1 404"), "this is not the admin API");
}

#[test]
fn the_page_can_be_switched_off() {
    let backend = Backend::named("a");
    let (_evener, port) = running("status_page = false", NO_CHECKS, &[backend.entry("")]);
    for path in ["/", "/status.json"] {
        assert!(fetch(port, "GET", path).0.starts_with("HTTP/1.1 404"), "{path}");
    }
    assert!(fetch(port, "GET", "/metrics").0.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_browser_shows_the_state_of_things_and_takes_no_text_for_markup() {
    if !require("the status page in a browser", &["chromium"]) {
        return;
    }
    let backend = Backend::named("alpha");
    // What a check says is text of others on the page.
    let markup = "<script>document.title=1</script><img src=x onerror=alert(1)>";
    let checks = format!(
        "health = {{ kind = \"command\", interval = \"1s\", timeout = \"1s\", fall = 1, \
         run = [\"sh\", \"-c\", \"echo '{markup}'; exit 1\"] }}\n"
    );
    let (evener, port) = running("", &checks, &[backend.entry("")]);
    let why = || evener.backend("web", "alpha")["why"].as_str().unwrap().to_owned();
    wait_until(SOON, "the check has failed and says so", || why().contains(markup));
    let shown = dom(port, 7000);
    for words in ["alpha", "127.0.0.1:", "pool web has no backend that takes clients", "&lt;script&gt;", "worker-0"] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    assert!(shown.contains("<title>! evener</title>"), "the title says that something is wrong\n{shown}");
    let after_script = shown.split("</script>").count();
    assert_eq!(after_script, 2, "there is one script, that of the page\n{shown}");
    assert!(!shown.contains("<img"));
}

#[test]
fn the_page_draws_rates_and_says_that_all_is_well() {
    if !require("rates on the status page", &["chromium"]) {
        return;
    }
    let backend = Backend::named("alpha");
    let (evener, port) = running("", FAST, &[backend.entry("")]);
    wait_until(SOON, "the backend is up", || evener.state("web", "alpha") == "up");
    let shown = dom(port, 7000);
    assert!(shown.contains("all is well: 1 of 1 backends up"), "{shown}");
    assert!(shown.contains("<polyline points=\""), "{shown}");
    assert!(shown.contains("0/s"), "rates are those of two answers");
    assert!(!shown.contains(AWAY), "{shown}");
}

/// A stand-in that serves the page, answers once, is away, and answers again.
fn stand_in(page: String, data: String) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut asked = 0;
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut head = [0; 4096];
            let _ = socket.set_read_timeout(Some(Duration::from_secs(1)));
            let read = socket.read(&mut head).unwrap_or(0);
            let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or("").to_owned();
            let (kind, body) = match path.as_str() {
                "/" => ("text/html", &page),
                "/status.json" => {
                    asked += 1;
                    // The second question and those after it are not answered.
                    if asked > 1 {
                        continue;
                    }
                    ("application/json", &data)
                }
                _ => continue,
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            let _ = socket.write_all((head + body).as_bytes());
        }
    });
    port
}

#[test]
fn the_page_says_that_evener_is_away_and_keeps_what_it_knows() {
    if !require("the status page without evener", &["chromium"]) {
        return;
    }
    let backend = Backend::named("alpha");
    let (_evener, port) = running("", NO_CHECKS, &[backend.entry("")]);
    let (page, data) = (fetch(port, "GET", "/").1, fetch(port, "GET", "/status.json").1);
    let shown = dom(stand_in(page, data), 7000);
    assert!(shown.contains(AWAY) && shown.contains("alpha"), "{shown}");
    assert!(shown.contains("<body class=\"away\">"), "{shown}");
}
