//! HTTP over TLS on both sides: which version is agreed upon, what backends hear of it, and who is not served.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use harness::http::{Peer, get, listener, pool_of, reply, request, site};
use harness::tls::{Authority, secure, try_secure};
use harness::{Backend, Evener, SOON, connect, local, require, try_connect, wait_until};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn curl(authority: &Authority, port: u16, words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30", "curl", "-sS", "--cacert"]).arg(authority.file());
    for name in ["a.test", "b.test"] {
        command.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
    }
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

/// A listener with certificates for these names, one each.
fn tls(authority: &Authority, names: &[&str]) -> String {
    let signed: Vec<String> = names.iter().map(|name| format!("{{ {} }}", authority.sign(&[name]).keys())).collect();
    format!("tls = [{}]", signed.join(", "))
}

/// The answers to these requests, as text, to the end of the connection.
fn talk(client: &mut (impl Read + Write), bytes: &str) -> String {
    client.write_all(bytes.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    answer
}

#[test]
fn curl_agrees_on_a_version_and_backends_hear_that_it_was_https() {
    if !require("curl_agrees_on_a_version_and_backends_hear_that_it_was_https", &["curl"]) {
        return;
    }
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let keys = format!("tls = {{ {} }}", authority.sign(&["a.test"]).keys());
    let evener = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&backend])));
    let port = evener.port("web");
    let url = format!("https://a.test:{port}/x");
    for (version, shown) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
        let output = curl(&authority, port, &[version, "-w", " %{http_version}", &url]);
        assert!(output.status.success(), "{version}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("b {shown}"), "{version}");
        let seen = backend.requests().pop().unwrap();
        assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.field("forwarded"), Some("for=127.0.0.1;proto=https"));
        assert_eq!(seen.field("x-forwarded-port"), Some(port.to_string().as_str()));
    }
    wait_until(SOON, "the log has the name that was asked for", || {
        evener.events().iter().filter(|event| event["event"] == "request" && event["sni"] == "a.test").count() == 3
    });
}

#[test]
fn requests_share_a_session_and_it_ends_in_order() {
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let keys = format!("tls = {{ {} }}", authority.sign(&["a.test"]).keys());
    let evener = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&backend])));
    let mut client = secure(evener.port("web"), &authority.client(None), "a.test");
    let answer = talk(&mut client, &(get("/1") + &get("/2") + &request("GET", "/3", "connection: close\r\n")));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn a_request_for_a_host_that_the_certificate_does_not_speak_for_is_misdirected() {
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let evener =
        Evener::start(&(ONE_THREAD.to_owned() + &site(&tls(&authority, &["a.test", "b.test"]), "", "", &[&backend])));
    let config = authority.client(None);
    let ask = |name: &str, host: &str| {
        let mut client = secure(evener.port("web"), &config, name);
        talk(&mut client, &format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
    };
    for name in ["a.test", "b.test"] {
        assert!(ask(name, name).starts_with("HTTP/1.1 200 "), "{name}");
    }
    assert!(ask("a.test", "b.test").starts_with("HTTP/1.1 421 "));
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn who_speaks_plain_http_to_a_tls_listener_is_sent_away() {
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let keys = format!("tls = {{ {} }}", authority.sign(&["a.test"]).keys());
    let evener = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&backend])));
    let answer = talk(&mut connect(evener.port("web")), &get("/"));
    assert!(!answer.contains("HTTP/1.1 2"), "{answer}");
    assert!(backend.requests().is_empty());
    wait_until(SOON, "it is counted", || evener.endings("tls_handshake_failed") == 1);
}

#[test]
fn clients_prove_who_they_are_where_they_are_asked() {
    let (authority, stranger, backend) = (Authority::new(), Authority::new(), Backend::webs("b"));
    let own = authority.sign(&["client"]);
    let keys =
        format!("tls = {{ {}, client_ca = \"{}\" }}", authority.sign(&["a.test"]).keys(), authority.file().display());
    let evener = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&backend])));
    let ask = |own| {
        let client = try_secure(connect(evener.port("web")), &authority.client(own), "a.test");
        client.map_or(String::new(), |mut client| talk(&mut client, &request("GET", "/", "connection: close\r\n")))
    };
    assert!(ask(Some(&own)).starts_with("HTTP/1.1 200 "));
    assert!(!ask(None).contains("HTTP/1.1"));
    assert!(!ask(Some(&stranger.sign(&["client"]))).contains("HTTP/1.1"));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn backends_are_spoken_to_by_tls_in_either_version() {
    let (authority, deep) = (
        Authority::new(),
        Backend::web("deep", |request, stream| stream.write_all(reply("200 OK", request.path()).as_bytes())),
    );
    // evener is the backend: it speaks both versions.
    let keys = format!("tls = {{ {} }}", authority.sign(&["inner.test"]).keys());
    let inner = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&deep])));
    for (version, shown) in [("1.1", "HTTP/1.1"), ("2", "HTTP/2")] {
        let trust = format!(
            "tls = {{ ca = \"{}\", server_name = \"inner.test\" }}\nhttp = {{ version = \"{version}\" }}",
            authority.file().display()
        );
        let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n\
                     request_headers = { set = { host = \"inner.test\" } }\n";
        let outer = listener("") + route + &pool_of("web", local(inner.port("web")), &trust);
        let outer = Evener::start(&(ONE_THREAD.to_owned() + &outer));
        let mut client = connect(outer.port("web"));
        let answer = talk(&mut client, &request("GET", &format!("/{version}"), "connection: close\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&format!("/{version}")),
            "{version}: {answer}"
        );
        wait_until(SOON, "the inner one has it in its log", || {
            inner.events().iter().any(|event| event["path"] == format!("/{version}") && event["version"] == shown)
        });
    }
}

#[test]
fn who_has_just_shaken_hands_when_a_drain_begins_may_still_ask() {
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let keys = format!("tls = {{ {} }}", authority.sign(&["a.test"]).keys());
    // There is half a second to ask in, which a busy machine may need for itself.
    let is_answered = || {
        let mut evener = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&backend])));
        let port = evener.port("web");
        let mut client = secure(port, &authority.client(None), "a.test");
        evener.signal("TERM");
        wait_until(SOON, "it takes nobody any more", || try_connect(port).is_err());
        let _ = client.write_all(get("/").as_bytes());
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        assert!(evener.wait(SOON).success());
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close")
    };
    assert!((0..5).any(|_| is_answered()));
}

#[test]
fn a_reload_that_trusts_another_name_uses_no_connection_that_trusted_the_old_one() {
    let (authority, deep) = (Authority::new(), Backend::webs("deep"));
    let keys = format!("tls = {{ {} }}", authority.sign(&["inner.test"]).keys());
    let inner = Evener::start(&(ONE_THREAD.to_owned() + &site(&keys, "", "", &[&deep])));
    for version in ["1.1", "2"] {
        let file = |name: &str| {
            let trust = format!("tls = {{ ca = \"{}\", server_name = \"{name}\" }}", authority.file().display());
            let pool =
                pool_of("web", local(inner.port("web")), &format!("{trust}\nhttp = {{ version = \"{version}\" }}"));
            let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
            ONE_THREAD.to_owned() + &listener("") + route + &pool
        };
        let evener = Evener::start(&file("inner.test"));
        let mut client = Peer::of(evener.port("web"));
        assert_eq!(client.ask(get("/")).status(), 200);
        evener.rewrite(&file("other.test"));
        evener.cli_ok(&["reload"]);
        assert_eq!(client.ask(get("/")).status(), 502, "HTTP/{version}");
        evener.rewrite(&file("inner.test"));
        evener.cli_ok(&["reload"]);
        assert_eq!(client.ask(get("/")).status(), 200, "HTTP/{version}");
    }
}
