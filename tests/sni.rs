//! TLS by name: real servers and clients of TLS, hellos in whatever pieces, what is refused, and reloads in between.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{
    Backend, Ending, Evener, NO_CHECKS, Pattern, SOON, breathe, connect, ending, exchange, free_port, is_refused,
    local, now, read_name, require, reset, shut_write, try_connect, wait_until,
};

const MIB: u64 = 1024 * 1024;
/// As much as one record of TLS carries, with its header.
const HELLO_BYTES_MAX: usize = 5 + 16 * 1024;

// --- Hellos by hand -----------------------------------------------------------------------------------------------------

/// A length of so many bytes, and the bytes.
fn vector(length_bytes: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - length_bytes..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, data)].concat()
}

/// The extension that asks for a server.
fn named(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
}

/// A ClientHello with these extensions, without the headers of records.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let start = [&[3, 3][..], &[7; 32], &vector(1, b""), &vector(2, &[0x13, 1]), &vector(1, &[0])].concat();
    [&[1][..], &vector(3, &[&start[..], &vector(2, &extensions.concat())].concat())].concat()
}

/// In records that hold so many bytes each.
fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    message.chunks(fragment_bytes).flat_map(|fragment| [&[22, 3, 1][..], &vector(2, fragment)].concat()).collect()
}

fn hello(name: &str) -> Vec<u8> {
    records(&message(&[extension(43, &[2, 3, 4]), named(name.as_bytes())]), 16 * 1024)
}

/// One that is as long as this.
fn long_hello(name: &str, bytes: usize) -> Vec<u8> {
    let with = |padding: &[u8]| message(&[named(name.as_bytes()), extension(21, padding)]);
    let padding = bytes - 5 - with(b"").len();
    records(&with(&vec![0; padding]), 16 * 1024)
}

// --- evener in front ---------------------------------------------------------------------------------------------------

/// A pool with one backend.
fn pool(name: &str, address: SocketAddr, keys: &str) -> String {
    let entry = harness::entry(name, address, "");
    format!("[pool.{name}]\nbackends = [{entry}]\n{NO_CHECKS}{keys}\n")
}

/// Listener `web` with default pool `other`.
fn file(port: u16, listener_keys: &str, pools: &[String]) -> String {
    format!("[listener.web]\nbind = \"127.0.0.1:{port}\"\npool = \"other\"\n{listener_keys}\n\n{}", pools.join("\n"))
}

const NAMES: &str = "sni = { \"a.example.com\" = \"a\", \"*.b.example.com\" = \"b\" }";

/// Backends `a`, `b` and `other`, each behind a pool of its name, and names that lead to the first two.
struct Trio {
    a: Backend,
    b: Backend,
    other: Backend,
}

impl Trio {
    fn new(backend: impl Fn(&str) -> Backend) -> Self {
        Self { a: backend("a"), b: backend("b"), other: backend("other") }
    }

    fn start(&self, listener_keys: &str, pool_keys: &str) -> Evener {
        let pools = [("a", &self.a), ("b", &self.b), ("other", &self.other)];
        let pools = pools.map(|(name, backend)| pool(name, backend.address(), pool_keys));
        Evener::start(&file(0, &format!("{NAMES}\n{listener_keys}"), &pools))
    }

    fn accepted(&self) -> [u64; 3] {
        [&self.a, &self.b, &self.other].map(Backend::accepted)
    }
}

/// Sends this and says which backend answers; the connection stays.
fn reach(port: u16, bytes: &[u8]) -> (TcpStream, String) {
    let mut client = connect(port);
    client.write_all(bytes).unwrap();
    let name = answer(&mut client, bytes);
    (client, name)
}

/// Which backend answers to this, which it sends back as it came.
#[track_caller]
fn answer(client: &mut TcpStream, sent: &[u8]) -> String {
    let name = read_name(client).unwrap();
    let mut back = vec![0; sent.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == sent, "{name} got {:?}", back.escape_ascii().to_string());
    name
}

fn reached(port: u16, bytes: &[u8]) -> String {
    reach(port, bytes).1
}

// --- Real ones ------------------------------------------------------------------------------------------------------------

/// `openssl s_server` with a certificate of its own for a name; it answers GET. Ended when dropped.
struct TlsServer {
    port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl TlsServer {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        let words =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let mut made = Command::new("openssl");
        made.args(words).args(["-subj", &subject, "-addext", &names]).arg("-keyout").arg(&key);
        let made = made.arg("-out").arg(&certificate).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let (port, log) = (free_port(), folder.path().join("log"));
        let mut server = Command::new("openssl");
        server.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}")]);
        server.arg("-key").arg(key).arg("-cert").arg(certificate);
        server.stdin(Stdio::null()).stdout(File::create(&log).unwrap()).stderr(Stdio::null());
        let server = Self { port, child: server.spawn().unwrap(), folder };
        wait_until(Duration::from_secs(60), "the TLS server listens", || {
            fs::read_to_string(&log).unwrap().contains("ACCEPT")
        });
        server
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whose certificate `openssl s_client` with these arguments is shown at this port.
fn shown(port: u16, arguments: &[&str]) -> String {
    let to = format!("127.0.0.1:{port}");
    let mut client = Command::new("timeout");
    client.args(["-k", "1", "60", "openssl", "s_client", "-connect", &to]).args(arguments).stdin(Stdio::null());
    let output = client.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
    subject.and_then(|subject| subject.rsplit('=').next()).unwrap_or_else(|| panic!("{output:?}")).trim().to_owned()
}

#[test]
fn real_clients_are_shown_the_certificate_of_the_server_that_they_name() {
    if !require("real_clients_are_shown_the_certificate_of_the_server_that_they_name", &["openssl", "curl"]) {
        return;
    }
    let servers = ["a.example.com", "any.b.example.com", "other.example.com"].map(TlsServer::start);
    let pools = ["a", "b", "other"].into_iter().zip(&servers);
    let pools: Vec<String> = pools.map(|(name, server)| pool(name, local(server.port), "")).collect();
    let evener = Evener::start(&file(0, NAMES, &pools));
    let port = evener.port("web");
    for version in ["-tls1_2", "-tls1_3"] {
        for (name, subject) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.COM", "a.example.com"),
            ("a.example.com.", "a.example.com"),
            ("x.b.example.com", "any.b.example.com"),
            ("b.example.com", "other.example.com"),
            ("y.x.b.example.com", "other.example.com"),
            ("unknown.example.com", "other.example.com"),
        ] {
            assert_eq!(shown(port, &["-servername", name, version]), subject, "{name} {version}");
        }
        assert_eq!(shown(port, &["-noservername", version]), "other.example.com");
    }
    // curl trusts the one certificate that it is given, and looks at the name in it.
    for (name, server) in [("a.example.com", &servers[0]), ("any.b.example.com", &servers[1])] {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "60", "--resolve", &format!("{name}:{port}:127.0.0.1"), "--cacert"]);
        let output = curl.arg(server.certificate()).arg(format!("https://{name}:{port}/")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Cipher"), "{output:?}");
    }
    wait_until(SOON, "all are logged", || evener.events().len() == 18);
    let count = |name: &str| evener.events().iter().filter(|event| event["sni"] == name).count();
    assert_eq!((count("a.example.com"), count("x.b.example.com"), count("any.b.example.com")), (7, 2, 1));
    assert_eq!(evener.events().iter().filter(|event| event["sni"].is_null()).count(), 2);
}

// --- Names and pieces ------------------------------------------------------------------------------------------------------

#[test]
fn a_name_chooses_the_pool_and_all_others_have_the_default() {
    let trio = Trio::new(Backend::named);
    let evener = trio.start("", "");
    let port = evener.port("web");
    for (name, pool) in [
        ("a.example.com", "a"),
        ("A.EXAMPLE.COM.", "a"),
        ("x.b.example.com", "b"),
        ("*.b.example.com", "b"),
        (".b.example.com", "other"),
        ("b.example.com", "other"),
        ("x.a.example.com", "other"),
        ("192.0.2.1", "other"),
    ] {
        assert_eq!(reached(port, &hello(name)), pool, "{name}");
    }
    assert_eq!(reached(port, &records(&message(&[]), 99)), "other", "a hello without a name");
    for text in ["GET / HTTP/1.1\r\n\r\n", "S", "\u{16}\u{2}", "\0\0\0\u{8}"] {
        assert_eq!(reached(port, text.as_bytes()), "other", "{text:?} is no TLS");
    }
    wait_until(SOON, "all are logged", || evener.events().len() == 13);
    let pool_of = |name: &str| evener.events().iter().find(|event| event["sni"] == name).unwrap()["pool"].clone();
    assert_eq!((pool_of("a.example.com"), pool_of("192.0.2.1")), ("a".into(), "other".into()));
}

#[test]
fn a_hello_arrives_unchanged_wherever_it_is_torn() {
    let trio = Trio::new(|_| Backend::recorder());
    let evener = trio.start("", "");
    let port = evener.port("web");
    let whole = [&hello("a.example.com")[..], b"and more"].concat();
    let mut clients = Vec::new();
    for tear in 1..whole.len() {
        let mut client = connect(port);
        client.write_all(&whole[..tear]).unwrap();
        breathe();
        client.write_all(&whole[tear..]).unwrap();
        clients.push(client);
    }
    wait_until(SOON, "the backend has all", || {
        let records = trio.a.records();
        records.len() == clients.len() && records.iter().all(|got| got.len() == whole.len())
    });
    assert!(trio.a.records().iter().all(|got| *got == whole));
    assert_eq!(trio.accepted(), [clients.len() as u64, 0, 0]);
}

#[test]
fn a_hello_that_drips_and_one_in_tiny_records_arrive_unchanged() {
    let trio = Trio::new(|_| Backend::recorder());
    let evener = trio.start("", "");
    let port = evener.port("web");
    let (drip, tiny) = (hello("x.b.example.com"), records(&message(&[named(b"x.b.example.com")]), 1));
    let mut dripping = connect(port);
    for byte in &drip {
        dripping.write_all(&[*byte]).unwrap();
        breathe();
    }
    wait_until(SOON, "the backend has the first", || trio.b.read() == drip.len() as u64);
    let mut at_once = connect(port);
    at_once.write_all(&tiny).unwrap();
    wait_until(SOON, "the backend has both", || trio.b.read() == (drip.len() + tiny.len()) as u64);
    assert_eq!(trio.b.records(), [drip, tiny]);
}

#[test]
fn the_longest_hello_is_followed_by_a_stream_behind_a_header_of_our_own() {
    const STREAM: u64 = 6 * MIB;
    let trio = Trio::new(|_| Backend::recorder());
    let evener = trio.start("", "send_proxy = \"v1\"");
    let hello = long_hello("a.example.com", HELLO_BYTES_MAX);
    assert_eq!(hello.len(), HELLO_BYTES_MAX);
    let mut client = connect(evener.port("web"));
    let from = client.local_addr().unwrap().port();
    let mut expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {}\r\n", evener.port("web")).into_bytes();
    expected.extend_from_slice(&hello);
    Pattern::default().send(&mut expected, STREAM).unwrap();
    client.write_all(&hello).unwrap();
    Pattern::default().send(&mut client, STREAM).unwrap();
    shut_write(&client);
    assert_eq!(ending(&mut client), (Ending::Closed, 0));
    assert!(trio.a.records() == [expected], "{} bytes arrived", trio.a.read());
    evener.wait_for_endings(1, "client_closed");
    let event = evener.events().pop().unwrap();
    assert_eq!(
        event["bytes_in"].as_u64(),
        Some(HELLO_BYTES_MAX as u64 + STREAM),
        "the hello counts, our header does not"
    );
    assert!(event["spliced_bytes"].as_u64().unwrap() > 0, "{event}");
}

#[test]
fn a_proxy_header_comes_before_the_hello_together_with_it_or_not() {
    let trio = Trio::new(|_| Backend::recorder());
    let evener = trio.start("accept_proxy = [\"127.0.0.0/8\"]\ndeny = [\"192.0.2.66/32\"]", "");
    let port = evener.port("web");
    let (header, hello) = (b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 2222\r\n", hello("a.example.com"));
    let whole = [&header[..], &hello].concat();
    for tear in [1, header.len() - 1, header.len(), header.len() + 1, header.len() + 9, whole.len()] {
        let before = trio.a.accepted();
        let mut client = connect(port);
        client.write_all(&whole[..tear]).unwrap();
        breathe();
        client.write_all(&whole[tear..]).unwrap();
        wait_until(SOON, "the hello arrives", || trio.a.records().get(before as usize) == Some(&hello));
    }
    wait_until(SOON, "all are logged", || evener.events().len() == 6);
    for event in evener.events() {
        assert_eq!((event["client"].as_str(), event["sni"].as_str()), (Some("192.0.2.1:1111"), Some("a.example.com")));
    }
    let mut denied = connect(port);
    denied.write_all(&[b"PROXY TCP4 192.0.2.66 198.51.100.2 1 2\r\n", &hello[..]].concat()).unwrap();
    assert_eq!(ending(&mut denied).1, 0);
    evener.wait_for_endings(1, "denied");
    let mut without = connect(port);
    without.write_all(&hello).unwrap();
    assert_eq!(ending(&mut without).1, 0);
    evener.wait_for_endings(1, "bad_proxy_header");
    assert_eq!(trio.accepted(), [6, 0, 0]);
}

// --- What is refused -------------------------------------------------------------------------------------------------------

#[test]
fn a_hello_that_no_server_would_answer_is_refused_before_any_backend() {
    let trio = Trio::new(Backend::named);
    let evener = trio.start("", "");
    let port = evener.port("web");
    let with = |extensions: &[Vec<u8>]| records(&message(extensions), 16 * 1024);
    let refused = [
        b"\x16\x03\x01\0\0".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x16\x03\x01\0\x05\x02\0\0\0\0".to_vec(),
        b"\x16\x03\x01\0\x04\x01\0\xff\xff".to_vec(),
        [b"\x16\x03\x01\x01\0\x01\0\0\xfc".to_vec(), vec![0x55; 0xfc]].concat(),
        with(&[named(b"a.example.com"), named(b"x.b.example.com")]),
        with(&[named(b"a.example.com\0.b.example.com")]),
        with(&[named(b"")]),
        long_hello("a.example.com", HELLO_BYTES_MAX - 5)[..5].iter().copied().chain([0; 600]).collect(),
        records(&message(&[named(b"a.example.com"), extension(21, &[0; 20_000])]), 16 * 1024),
    ];
    for bytes in &refused {
        let mut client = connect(port);
        let _ = client.write_all(bytes);
        assert_eq!(ending(&mut client).1, 0, "{:?}", bytes[..bytes.len().min(40)].escape_ascii().to_string());
    }
    let mut half = connect(port);
    half.write_all(&hello("a.example.com")[..30]).unwrap();
    shut_write(&half);
    assert_eq!(ending(&mut half).1, 0, "it ends before its hello does");
    evener.wait_for_endings(refused.len() + 1, "bad_client_hello");
    assert_eq!(trio.accepted(), [0; 3]);
    let status = evener.status();
    assert_eq!(status["listeners"][0]["connections"]["refused"], refused.len() as u64 + 1);
}

#[test]
fn a_client_that_keeps_its_hello_back_is_refused_after_five_seconds_and_holds_its_place_until_then() {
    let trio = Trio::new(Backend::named);
    let evener = trio.start("per_client = { connections = 3 }", "");
    let port = evener.port("web");
    let begun = now();
    let (mut silent, mut slow) = (connect(port), connect(port));
    let active = || evener.status()["listeners"][0]["connections"]["active"].clone();
    wait_until(SOON, "both have their places", || active() == 2);
    slow.write_all(&hello("a.example.com")[..30]).unwrap();
    let (mut served, name) = reach(port, &hello("a.example.com"));
    assert_eq!(name, "a");
    assert!(is_refused(try_connect(port)), "those who wait count");
    evener.wait_for_endings(1, "limited");
    for client in [&mut silent, &mut slow] {
        assert_eq!(ending(client).1, 0);
    }
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(4) && lasted < Duration::from_secs(9), "{lasted:?}");
    evener.wait_for_endings(2, "client_hello_timeout");
    assert_eq!(exchange(&mut served, b"still").unwrap(), b"still");
    assert_eq!(reached(port, &hello("a.example.com")), "a", "their places are free");
}

// --- Reloads ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_reload_gives_names_to_other_pools_and_leaves_connections_where_they_are() {
    let (a, b, other) = (Backend::named("a"), Backend::named("b"), Backend::named("other"));
    let (port, hello) = (free_port(), hello("a.example.com"));
    let pools = [("a", &a), ("b", &b), ("other", &other)].map(|(name, one)| pool(name, one.address(), ""));
    let to = |pool: &str| file(port, &format!("sni = {{ \"a.example.com\" = \"{pool}\" }}"), &pools);
    let evener = Evener::start(&to("a"));
    let (mut staying, name) = reach(port, &hello);
    assert_eq!(name, "a");
    for (file, expected) in [(to("b"), "b"), (file(port, "", &pools), "other"), (to("a"), "a")] {
        evener.reload(&file);
        assert_eq!(reached(port, &hello), expected);
        assert_eq!(exchange(&mut staying, b"still").unwrap(), b"still");
    }
    let mut half = connect(port);
    half.write_all(&hello[..30]).unwrap();
    evener.reload(&to("b"));
    half.write_all(&hello[30..]).unwrap();
    assert_eq!(answer(&mut half, &hello), "b", "the name is looked up once it is known");
}

#[test]
fn clients_in_a_queue_go_where_a_reload_sends_them() {
    let (a, b, other) = (Backend::named("a"), Backend::named("b"), Backend::named("other"));
    let (port, hello) = (free_port(), hello("a.example.com"));
    let narrow = format!(
        "[pool.a]\nbackends = [{}]\nqueue = {{ max = 9, timeout = \"30s\" }}\n{NO_CHECKS}\n",
        a.entry("max_connections = 1")
    );
    let others = [pool("b", b.address(), ""), pool("other", other.address(), "")];
    let pools = [&[narrow][..], &others].concat();
    let evener = Evener::start(&file(port, "sni = { \"a.example.com\" = \"a\" }", &pools));
    let to_b = "sni = { \"a.example.com\" = \"b\" }";
    // Once the pool stays, once it is gone with the name.
    for file in [file(port, to_b, &pools), file(port, to_b, &others)] {
        let (mut first, name) = reach(port, &hello);
        assert_eq!(name, "a");
        let mut waiting: Vec<TcpStream> = (0..3).map(|_| connect(port)).collect();
        waiting.iter_mut().for_each(|client| client.write_all(&hello).unwrap());
        wait_until(SOON, "three wait", || evener.queue_length("a") == 3);
        reset(waiting.pop().unwrap());
        wait_until(SOON, "one has gone", || evener.queue_length("a") == 2);
        evener.reload(&file);
        waiting.iter_mut().for_each(|client| assert_eq!(answer(client, &hello), "b"));
        wait_until(SOON, "nobody waits", || evener.queue_length("a") == 0);
        assert_eq!(exchange(&mut first, b"still").unwrap(), b"still");
        drop(first);
        evener.reload(&self::file(port, "sni = { \"a.example.com\" = \"a\" }", &pools));
        wait_until(SOON, "there is room again", || evener.active("a", "a") == 0);
    }
    let reasons = ["client_closed", "backend_closed", "client_reset"];
    let bad = evener.events().into_iter().find(|event| !reasons.contains(&event["reason"].as_str().unwrap()));
    assert_eq!(bad, None);
}
