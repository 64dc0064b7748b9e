//! TLS that is ended and begun here: real clients, certificates by name, sessions, reloads, streams that are cut, and
//! clients that mean no good.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use harness::tls::{Authority, Client, Signed, backend, cut, echo, exchange, secure, try_secure};
use harness::{
    ALWAYS_UP, Backend, Ending, Evener, Pattern, SOON, connect, digest_of, echo_digest, ending, free_port, now,
    require, reset, shut_write, wait_until,
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

const MIB: u64 = 1024 * 1024;

/// A listener with a pool of its name, which has one backend.
fn pair(name: &str, port: u16, backend: SocketAddr, listener_keys: &str, pool_keys: &str) -> String {
    format!(
        "[listener.{name}]\nbind = \"127.0.0.1:{port}\"\npool = \"{name}\"\n{listener_keys}\n\n\
         [pool.{name}]\nbackends = [\"{backend}\"]\n{ALWAYS_UP}{pool_keys}\n\n"
    )
}

/// Listener `web` with this certificate and these further keys of `tls`, before one backend.
fn web(backend: &Backend, signed: &Signed, tls: &str) -> String {
    pair("web", 0, backend.address(), &format!("tls = {{ {}{tls} }}", signed.keys()), "")
}

fn s_client(port: u16, arguments: &[&str], input: &str) -> Output {
    let mut client = Command::new("timeout");
    client.args(["-k", "1", "60", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What openssl says in all.
fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn subject(output: &Output) -> String {
    let text = said(output);
    let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
    subject.and_then(|subject| subject.rsplit('=').next()).unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

/// The same config with another mind about something.
fn with(config: &Arc<ClientConfig>, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    change(&mut config);
    Arc::new(config)
}

fn close(mut client: Client) {
    client.conn.send_close_notify();
    client.flush().unwrap();
}

// --- Who is served with what -------------------------------------------------------------------------------------------

#[test]
fn real_clients_are_shown_the_certificate_of_the_server_that_they_name() {
    if !require("real_clients_are_shown_the_certificate_of_the_server_that_they_name", &["openssl", "curl"]) {
        return;
    }
    let ca = Authority::new();
    let certificates = ["a.example.com", "*.b.example.com", "c.example.com"].map(|name| ca.sign(&[name]));
    let tables: Vec<String> = certificates.iter().map(|signed| format!("{{ {} }}", signed.keys())).collect();
    let backend = Backend::http("one");
    let evener = Evener::start(&pair("web", 0, backend.address(), &format!("tls = [{}]", tables.join(", ")), ""));
    let port = evener.port("web");
    for version in ["-tls1_2", "-tls1_3"] {
        for (name, shown) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.COM", "a.example.com"),
            ("x.b.example.com", "*.b.example.com"),
            ("y.x.b.example.com", "a.example.com"),
            ("c.example.com", "c.example.com"),
            ("unknown.example.com", "a.example.com"),
        ] {
            assert_eq!(subject(&s_client(port, &["-servername", name, version], "")), shown, "{name} {version}");
        }
        assert_eq!(subject(&s_client(port, &["-noservername", version], "")), "a.example.com");
    }
    for name in ["a.example.com", "x.b.example.com", "c.example.com"] {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "60", "--resolve", &format!("{name}:{port}:127.0.0.1"), "--cacert"]);
        let output = curl.arg(ca.file()).arg(format!("https://{name}:{port}/")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one", "{output:?}");
    }
    wait_until(SOON, "all are logged", || {
        evener.events().iter().filter(|event| event["sni"] == "c.example.com").count() == 3
    });
}

#[test]
fn clients_need_a_certificate_where_one_is_asked_for() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let (server, own, foreign) = (ca.sign(&["localhost"]), ca.sign(&["client"]), stranger.sign(&["client"]));
    let backend = Backend::echo();
    let evener = Evener::start(&web(&backend, &server, &format!(", client_ca = \"{}\"", ca.file().display())));
    let port = evener.port("web");
    assert_eq!(exchange(&mut secure(port, &ca.client(Some(&own)), "localhost"), b"hello"), b"hello");
    for config in [ca.client(None), ca.client(Some(&foreign))] {
        for versions in [[&rustls::version::TLS12], [&rustls::version::TLS13]] {
            let builder = ClientConfig::builder_with_protocol_versions(&versions).with_root_certificates(ca.roots());
            let mut config = ClientConfig::clone(&config);
            let resolver = config.client_auth_cert_resolver.clone();
            config = builder.with_client_cert_resolver(resolver);
            let refused = try_secure(connect(port), &Arc::new(config), "localhost")
                .and_then(|mut client| client.write_all(b"hello").and_then(|()| client.read(&mut [0])));
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    evener.wait_for_endings(4, "tls_handshake_failed");
    assert_eq!(backend.accepted(), 1, "nobody else has reached it");
}

#[test]
fn versions_and_protocols_are_as_the_file_says() {
    if !require("versions_and_protocols_are_as_the_file_says", &["openssl"]) {
        return;
    }
    let ca = Authority::new();
    let backend = Backend::echo();
    let keys = ", min_version = \"1.3\", alpn = [\"two\", \"one\"]";
    let evener = Evener::start(&web(&backend, &ca.sign(&["localhost"]), keys));
    let port = evener.port("web");
    assert!(!s_client(port, &["-tls1_2"], "").status.success());
    let chosen = said(&s_client(port, &["-alpn", "one,two"], ""));
    assert!(chosen.contains("TLSv1.3") && chosen.contains("ALPN protocol: two"), "{chosen}");
    assert!(said(&s_client(port, &[], "")).contains("No ALPN negotiated"), "who offers none is served");
    let stranger = s_client(port, &["-alpn", "three"], "");
    assert!(!stranger.status.success() && said(&stranger).contains("no application protocol"), "{stranger:?}");
}

// --- Sessions --------------------------------------------------------------------------------------------------------------

/// How the handshake went; an exchange lets the tickets arrive.
fn kind(port: u16, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut client = secure(port, config, "localhost");
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    let kind = client.conn.handshake_kind().unwrap();
    close(client);
    kind
}

#[test]
fn sessions_are_resumed_also_after_a_reload_that_renews_the_certificate() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let file = |tls: &str| {
        pair(
            "web",
            port_of(&ca),
            backend.address(),
            &format!("tls = {{ {}{tls} }}", ca.sign(&["localhost"]).keys()),
            "",
        )
    };
    let evener = Evener::start(&file(""));
    let port = evener.port("web");
    let config = ca.client(None);
    assert_eq!(kind(port, &config), HandshakeKind::Full);
    assert_eq!(kind(port, &config), HandshakeKind::Resumed);
    evener.reload(&file(""));
    assert_eq!(kind(port, &config), HandshakeKind::Resumed);
    // From now on clients need a certificate, and who had none before has to begin anew.
    evener.reload(&file(&format!(", client_ca = \"{}\"", ca.file().display())));
    let refused = try_secure(connect(port), &config, "localhost")
        .and_then(|mut client| client.write_all(b"hello").and_then(|()| client.read(&mut [0])));
    assert!(refused.is_err(), "{refused:?}");
}

/// A port that stays with this authority's test, so that a reload keeps the listener.
fn port_of(ca: &Authority) -> u16 {
    let file = ca.folder().join("port");
    let known = fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
    known.unwrap_or_else(|| {
        let port = free_port();
        fs::write(file, port.to_string()).unwrap();
        port
    })
}

#[test]
fn a_session_without_a_certificate_is_no_key_to_a_listener_that_asks_for_one() {
    let ca = Authority::new();
    let (server, backend) = (ca.sign(&["localhost"]), Backend::echo());
    let open = format!("tls = {{ {} }}", server.keys());
    let shut = format!("tls = {{ {}, client_ca = \"{}\" }}", server.keys(), ca.file().display());
    let files = [pair("open", 0, backend.address(), &open, ""), pair("shut", 0, backend.address(), &shut, "")];
    let evener = Evener::start(&files.concat());
    let config = ca.client(None);
    assert_eq!(kind(evener.port("open"), &config), HandshakeKind::Full);
    let refused = try_secure(connect(evener.port("shut")), &config, "localhost")
        .and_then(|mut client| client.write_all(b"hello").and_then(|()| client.read(&mut [0])));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(kind(evener.port("open"), &config), HandshakeKind::Resumed);
}

#[test]
fn openssl_resumes_in_both_versions() {
    if !require("openssl_resumes_in_both_versions", &["openssl"]) {
        return;
    }
    let ca = Authority::new();
    let evener = Evener::start(&web(&Backend::http("one"), &ca.sign(&["localhost"]), ""));
    let session = ca.folder().join("session");
    let session = session.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let port = evener.port("web");
        let get = "GET / HTTP/1.1\r\n\r\n";
        // Without a backend's answer it would be gone before the ticket comes.
        let first = s_client(port, &[version, "-ign_eof", "-sess_out", session], get);
        assert!(said(&first).contains("New, "), "{}", said(&first));
        let second = s_client(port, &[version, "-ign_eof", "-sess_in", session], get);
        assert!(said(&second).contains("Reused, "), "{version}: {}", said(&second));
    }
}

// --- Reloads ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_renewed_certificate_is_for_new_connections_and_a_broken_one_for_nobody() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let signed = ca.sign(&["localhost"]);
    let file = pair("web", free_port(), backend.address(), &format!("tls = {{ {} }}", signed.keys()), "");
    let evener = Evener::start(&file);
    let port = evener.port("web");
    let leaf = |client: &Client| client.conn.peer_certificates().unwrap()[0].to_vec();
    let config = with(&ca.client(None), |config| config.resumption = rustls::client::Resumption::disabled());
    let mut old = secure(port, &config, "localhost");
    assert_eq!(ca.sign(&["localhost"]).certificate, signed.certificate, "the same files");
    assert_eq!(leaf(&secure(port, &config, "localhost")), leaf(&old), "nobody has asked for a reload");
    evener.reload(&file);
    let new = secure(port, &config, "localhost");
    assert!(leaf(&new) != leaf(&old));
    assert_eq!(exchange(&mut old, b"still here"), b"still here");

    for (path, text, says) in [
        (&signed.key, ca.sign(&["another"]).key, "the key does not fit the certificate"),
        (&signed.certificate, ca.folder().join("port"), "there is no certificate in this file"),
    ] {
        let before = fs::read(path).unwrap();
        fs::write(ca.folder().join("port"), "no PEM").unwrap();
        fs::copy(text, path).unwrap();
        let output = evener.try_reload();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
        fs::write(path, before).unwrap();
    }
    fs::remove_file(&signed.key).unwrap();
    let said = String::from_utf8_lossy(&evener.try_reload().stderr).into_owned();
    assert!(said.contains("there is no such file") && said.contains("evener.toml:"), "{said}");
    assert_eq!(leaf(&secure(port, &config, "localhost")), leaf(&new), "nothing has changed");
}

// --- Bytes -----------------------------------------------------------------------------------------------------------------

/// Clear, then TLS on one side, on both, on the other: three listeners in a row, each the backend of the one before.
fn chain(ca: &Authority, backend: SocketAddr, keys: [&str; 2]) -> Evener {
    let tls = format!("tls = {{ {} }}", ca.sign(&["localhost"]).keys());
    let to_tls = format!("tls = {{ server_name = \"localhost\", ca = \"{}\" }}\n{}", ca.file().display(), keys[1]);
    let (middle, last) = (free_port(), free_port());
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let accepts = format!("{tls}\n{}", keys[0]);
    let files = [
        pair("first", 0, at(middle), "", &to_tls),
        pair("middle", middle, at(last), &accepts, &to_tls),
        pair("last", last, backend, &accepts, ""),
    ];
    Evener::start(&files.concat())
}

#[test]
fn ten_mebibytes_come_whole_through_every_combination_with_the_end_of_each_direction() {
    let ca = Authority::new();
    let (bytes, echoing, digesting) = (10 * MIB, Backend::echo(), Backend::digest());
    let evener = chain(&ca, echoing.address(), ["", ""]);
    assert_eq!(echo_digest(connect(evener.port("first")), bytes), Pattern::digest(bytes));
    evener.wait_for_endings(3, "client_closed");
    for event in evener.events() {
        assert_eq!((event["bytes_in"].as_u64(), event["bytes_out"].as_u64()), (Some(bytes), Some(bytes)), "{event}");
    }
    // It answers once the client has ended, so the ends of the two directions lie apart.
    let evener = chain(&ca, digesting.address(), ["", ""]);
    let mut client = connect(evener.port("first"));
    Pattern::default().send(&mut client, bytes).unwrap();
    shut_write(&client);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (length, digest) = Pattern::digest(bytes);
    assert_eq!(answer, format!("{length} {digest}"));
    // And a backend that ends first.
    let source = Backend::source(bytes);
    let evener = chain(&ca, source.address(), ["", ""]);
    let mut client = connect(evener.port("first"));
    assert_eq!(digest_of(&mut client).unwrap(), Pattern::digest(bytes));
    shut_write(&client);
    evener.wait_for_endings(3, "backend_closed");
}

#[test]
fn a_client_that_does_not_read_holds_the_backend_back() {
    let ca = Authority::new();
    let source = Backend::source(64 * MIB);
    let evener = chain(&ca, source.address(), ["", ""]);
    let mut client = connect(evener.port("first"));
    harness::wait_until_steady(4 * SOON, SOON / 10, "the backend is held back", || source.sent());
    assert!(source.sent() < 48 * MIB, "{}", source.sent());
    assert_eq!(digest_of(&mut client).unwrap(), Pattern::digest(64 * MIB));
}

#[test]
fn small_messages_go_to_and_fro() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let evener = chain(&ca, backend.address(), ["", ""]);
    let mut client = connect(evener.port("first"));
    for round in 0..200usize {
        let message = vec![round as u8; 1 + round * 7 % 1000];
        assert_eq!(harness::exchange(&mut client, &message).unwrap(), message);
    }
}

#[test]
fn proxy_headers_go_before_the_handshake_on_both_sides() {
    let ca = Authority::new();
    let backend = Backend::echo();
    for version in ["v1", "v2"] {
        let send = format!("send_proxy = \"{version}\"");
        let evener = chain(&ca, backend.address(), ["accept_proxy = [\"127.0.0.1/32\"]", &send]);
        let mut client = connect(evener.port("first"));
        let from = client.local_addr().unwrap().to_string();
        assert_eq!(harness::exchange(&mut client, b"hello").unwrap(), b"hello");
        drop(client);
        wait_until(SOON, "all are logged", || evener.events().len() == 3);
        assert!(evener.events().iter().all(|event| event["client"] == from.as_str()), "{}", evener.access());
    }
}

#[test]
fn a_hello_right_behind_a_header_that_fills_the_first_read_is_answered() {
    let ca = Authority::new();
    let signed = ca.sign(&["localhost"]);
    let echo = Backend::echo();
    let keys = format!("accept_proxy = [\"127.0.0.1/32\"]\ntls = {{ {} }}", signed.keys());
    let evener = Evener::start(&pair("web", 0, echo.address(), &keys, ""));
    // PROXY over IPv4, filled up with a TLV that means nothing (PP2_TYPE_NOOP): 4096 bytes, as many as are read at once.
    let padding = vec![0; 4096 - 16 - 12 - 3];
    let length = |length: usize| (length as u16).to_be_bytes();
    let addresses = [192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 2, 2];
    let start = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length(4096 - 16), &addresses].concat();
    let mut bytes = [&start[..], &[4], &length(padding.len()), &padding].concat();
    assert_eq!(bytes.len(), 4096);
    let mut session = ClientConnection::new(ca.client(None), "localhost".try_into().unwrap()).unwrap();
    session.write_tls(&mut bytes).unwrap();
    let mut stream = connect(evener.port("web"));
    stream.write_all(&bytes).unwrap();
    assert_eq!(exchange(&mut Client::new(session, stream), b"hello"), b"hello");
}

// --- Streams that are cut --------------------------------------------------------------------------------------------------

#[test]
fn a_stream_without_its_end_is_passed_on_as_a_reset() {
    let ca = Authority::new();
    let signed = ca.sign(&["localhost"]);
    let held = Backend::held();
    let evener = Evener::start(&web(&held, &signed, ""));
    let mut client = secure(evener.port("web"), &ca.client(None), "localhost");
    client.write_all(b"only the beg").unwrap();
    shut_write(&client.sock);
    assert_eq!(ending(&mut held.take()), (Ending::Reset, 12), "FIN without close_notify");
    evener.wait_for_endings(1, "client_reset");

    let address = backend(&signed, None, cut);
    let to_tls = format!("tls = {{ server_name = \"localhost\", ca = \"{}\" }}", ca.file().display());
    let evener = Evener::start(&pair("web", 0, address, "", &to_tls));
    let (how, bytes) = ending(&mut connect(evener.port("web")));
    assert!(how == Ending::Reset && bytes <= 12, "{how:?} after {bytes}");
    evener.wait_for_endings(1, "backend_reset");
}

#[test]
fn a_reset_of_one_side_resets_the_other() {
    let ca = Authority::new();
    let held = Backend::held();
    let evener = Evener::start(&web(&held, &ca.sign(&["localhost"]), ""));
    let mut client = secure(evener.port("web"), &ca.client(None), "localhost");
    reset(held.take());
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    evener.wait_for_endings(1, "backend_reset");
    let client = secure(evener.port("web"), &ca.client(None), "localhost");
    let mut backend = held.take();
    reset(client.sock);
    assert_eq!(ending(&mut backend).0, Ending::Reset);
    evener.wait_for_endings(1, "client_reset");
}

// --- Clients that mean no good ------------------------------------------------------------------------------------------------

#[test]
fn who_does_not_finish_the_handshake_is_sent_away_and_holds_up_nobody() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let tls = format!("tls = {{ {}, handshake_timeout = \"1s\" }}", ca.sign(&["localhost"]).keys());
    let clear = pair("clear", 0, backend.address(), "", "");
    let evener =
        Evener::start(&format!("[process]\nworkers = 1\n{}{clear}", pair("web", 0, backend.address(), &tls, "")));
    let port = evener.port("web");
    let mut slow: Vec<_> = (0..100).map(|_| connect(port)).collect();
    for client in &mut slow {
        // The begin of a hello of 512 bytes.
        client.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    }
    let mut other = connect(evener.port("clear"));
    let start = now();
    assert_eq!(harness::exchange(&mut other, b"hello").unwrap(), b"hello");
    assert_eq!(exchange(&mut secure(port, &ca.client(None), "localhost"), b"hello"), b"hello");
    assert!(start.elapsed() < SOON);
    evener.wait_for_endings(100, "tls_handshake_timeout");
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn many_handshakes_at_once_all_succeed() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let evener = Evener::start(&format!("[process]\nworkers = 1\n{}", web(&backend, &ca.sign(&["localhost"]), "")));
    let (port, config) = (evener.port("web"), ca.client(None));
    std::thread::scope(|scope| {
        let one = || assert_eq!(exchange(&mut secure(port, &config, "localhost"), b"hello"), b"hello");
        let threads: Vec<_> = (0..60).map(|_| scope.spawn(one)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(backend.accepted(), 60);
}

#[test]
fn what_is_no_tls_is_refused() {
    let ca = Authority::new();
    let backend = Backend::echo();
    let evener = Evener::start(&web(&backend, &ca.sign(&["localhost"]), ""));
    let port = evener.port("web");
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 5000],
        &[22, 3, 1, 0, 0, 22, 3, 1, 0, 0],
        &[255; 70_000],
        &[22, 3, 3, 0, 1, 2],
    ];
    for bytes in garbage {
        let mut client = connect(port);
        let _ = client.write_all(bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let _ = ending(&mut client);
    }
    drop(connect(port));
    evener.wait_for_endings(6, "tls_handshake_failed");
    assert_eq!(backend.accepted(), 0);
    assert_eq!(exchange(&mut secure(port, &ca.client(None), "localhost"), b"hello"), b"hello");
}

// --- Backends ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_backend_must_prove_who_it_is_and_another_is_asked_where_it_cannot() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let good = backend(&ca.sign(&["db.internal"]), None, echo);
    let impostor = backend(&stranger.sign(&["db.internal"]), None, echo);
    let other_name = backend(&ca.sign(&["other.internal"]), None, echo);
    let clear = Backend::named("clear");
    let start = |backends: &[SocketAddr]| {
        let backends: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
        let tls = format!("tls = {{ server_name = \"db.internal\", ca = \"{}\" }}", ca.file().display());
        Evener::start(&format!(
            "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pool.web]\nbalance = \"first\"\nbackends = [{}]\n{ALWAYS_UP}{tls}\n",
            backends.join(", ")
        ))
    };
    for (bad, says) in [(impostor, "UnknownIssuer"), (other_name, "db.internal"), (clear.address(), "")] {
        let evener = start(&[bad, good]);
        let mut client = connect(evener.port("web"));
        assert_eq!(harness::exchange(&mut client, b"hello").unwrap(), b"hello");
        let log = evener.log();
        assert!(log.contains("TLS handshake with a backend failed") && log.contains(says), "{log}");
        drop(client);
        wait_until(SOON, "it is logged", || evener.events().iter().any(|event| event["attempts"] == 2));

        let evener = start(&[bad]);
        assert_eq!(ending(&mut connect(evener.port("web"))), (Ending::Reset, 0));
        evener.wait_for_endings(1, "connect_failed");
    }
}

#[test]
fn a_backend_that_never_finishes_its_handshake_is_given_up_after_the_time_to_connect() {
    let ca = Authority::new();
    let silent = Backend::held();
    let keys = format!(
        "tls = {{ server_name = \"a\", ca = \"{}\" }}\nconnect = {{ timeout = \"300ms\", attempts = 1 }}",
        ca.file().display()
    );
    let evener = Evener::start(&pair("web", 0, silent.address(), "", &keys));
    assert_eq!(ending(&mut connect(evener.port("web"))), (Ending::Reset, 0));
    evener.wait_for_endings(1, "connect_timeout");
}

#[test]
fn we_show_our_certificate_to_backends_that_ask_for_it() {
    let ca = Authority::new();
    let address = backend(&ca.sign(&["db.internal"]), Some(&ca), echo);
    let own = ca.sign(&["evener"]);
    let tls = format!("server_name = \"db.internal\", ca = \"{}\"", ca.file().display());
    let evener = Evener::start(&pair("web", 0, address, "", &format!("tls = {{ {tls}, {} }}", own.keys())));
    assert_eq!(harness::exchange(&mut connect(evener.port("web")), b"hello").unwrap(), b"hello");
    let evener = Evener::start(&pair("web", 0, address, "", &format!("tls = {{ {tls} }}")));
    let mut client = connect(evener.port("web"));
    let _ = client.write_all(b"hello");
    assert_eq!(ending(&mut client).0, Ending::Reset);
}

// --- Checks ---------------------------------------------------------------------------------------------------------------

#[test]
fn checks_of_tls_and_through_tls_see_what_clients_would() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let good = backend(&ca.sign(&["db.internal"]), None, echo);
    let impostor = backend(&stranger.sign(&["db.internal"]), None, echo);
    let clear = Backend::http("clear");
    let https = {
        let http = Backend::http("https");
        let tls = format!("tls = {{ {} }}", ca.sign(&["localhost"]).keys());
        let evener = Evener::start(&pair("web", 0, http.address(), &tls, ""));
        (evener.address("web"), evener, http)
    };
    let pool = |name: &str, backends: &[SocketAddr], keys: &str| {
        let backends: Vec<String> =
            backends.iter().enumerate().map(|(at, address)| harness::entry(&format!("b{at}"), *address, "")).collect();
        let fast =
            "interval = \"50ms\", fast_interval = \"20ms\", initial = \"down\", rise = 1, fall = 1, timeout = \"5s\"";
        let keys = keys.replace("FAST", fast);
        format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n[pool.{name}]\nbackends = [{}]\n{keys}\n",
            backends.join(", ")
        )
    };
    let verified = format!("tls = {{ server_name = \"db.internal\", ca = \"{}\" }}", ca.file().display());
    let local = verified.replace("db.internal", "localhost");
    let evener = Evener::start(
        &[
            pool("verified", &[good, impostor, clear.address()], &format!("{verified}\nhealth = {{ FAST }}")),
            pool("anybody", &[good, impostor, clear.address()], "health = { kind = \"tls\", FAST }"),
            pool("https", &[https.0, clear.address()], "health = { kind = \"http\", tls = true, FAST }"),
            pool("https_verified", &[https.0], &format!("{local}\nhealth = {{ kind = \"http\", FAST }}")),
        ]
        .concat(),
    );
    let up = [("verified", "b0"), ("anybody", "b0"), ("anybody", "b1"), ("https", "b0"), ("https_verified", "b0")];
    for (pool, backend) in up {
        evener.wait_for_state(pool, backend, "up");
    }
    for (pool, backend) in [("verified", "b1"), ("verified", "b2"), ("anybody", "b2"), ("https", "b1")] {
        assert_eq!(evener.state(pool, backend), "down", "{pool}/{backend}");
    }
    wait_until(SOON, "the reason is shown", || evener.backend("verified", "b1").to_string().contains("UnknownIssuer"));
}

// --- Memory ---------------------------------------------------------------------------------------------------------------

/// Bytes that an idle connection may cost this process, beside what the kernel holds for it.
const IDLE_BYTES_MAX: u64 = 16 * 1024;

#[test]
fn an_idle_connection_costs_little_memory() {
    const CLIENTS: u64 = 500;
    harness::allow_many_files();
    let ca = Authority::new();
    let backend = Backend::echo();
    let evener = Evener::start(&web(&backend, &ca.sign(&["localhost"]), ""));
    let (port, config) = (evener.port("web"), ca.client(None));
    let open = |count: u64| {
        let mut clients: Vec<Client> = (0..count).map(|_| secure(port, &config, "localhost")).collect();
        // More than a record, so that every buffer has been used.
        let message = vec![7; 40_000];
        clients.iter_mut().for_each(|client| assert!(exchange(client, &message) == message));
        clients
    };
    let _first = open(50);
    let before = harness::memory_of(evener.pid());
    let _clients = open(CLIENTS);
    let each = harness::memory_of(evener.pid()).saturating_sub(before) / CLIENTS;
    assert!(each < IDLE_BYTES_MAX, "{each} bytes for each idle connection");
}
