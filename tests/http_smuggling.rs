//! Requests that two programs could read in two ways. What counts is what reaches the backend: for each request of a
//! client at most one, framed once, and nothing of it taken for another.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};

use harness::http::{Peer, get, reply, request, site};
use harness::{Backend, Evener, SOON, connect, shut_write, wait_until};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";
/// What a smuggler wants the backend to see.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a.test\r\n\r\n";

/// A backend that reads by the book and evener in front of it.
struct Pair {
    backend: Backend,
    evener: Evener,
}

impl Pair {
    fn start(listener_keys: &str) -> Self {
        let backend = Backend::web("b", |_, stream| stream.write_all(reply("200 OK", "b").as_bytes()));
        let evener = Evener::start(&(ONE_THREAD.to_owned() + &site(listener_keys, "", "", &[&backend])));
        Self { backend, evener }
    }

    /// Sends these bytes and an end, and tells the statuses that came back and the paths that the backend saw.
    #[track_caller]
    fn send(&self, bytes: impl AsRef<[u8]>) -> (Vec<u16>, Vec<String>) {
        let before = self.backend.requests().len();
        let mut client = connect(self.evener.port("web"));
        // It may be answered and ended before all was sent.
        let _ = client.write_all(bytes.as_ref());
        let mut answers = Vec::new();
        let mut piece = [0; 4096];
        client.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        while let Ok(read @ 1..) = client.read(&mut piece) {
            answers.extend_from_slice(&piece[..read]);
        }
        let answers = String::from_utf8_lossy(&answers).into_owned();
        let heads =
            answers.match_indices("HTTP/1.1 ").map(|(at, start)| answers[at + start.len()..][..3].parse().unwrap());
        let requests = &self.backend.requests()[before..];
        for request in requests {
            let framings = (request.all("content-length").len(), request.all("transfer-encoding"));
            assert!(
                matches!(framings, (0 | 1, ref te) if te.is_empty()) || framings == (0, vec!["chunked"]),
                "{request:?}"
            );
            assert!(request.start.ends_with(" HTTP/1.1") && request.all("host").len() == 1, "{request:?}");
        }
        (heads.collect(), requests.iter().map(|request| request.path().to_owned()).collect())
    }

    /// Refused: one 400 and not a byte for the backend, whatever follows.
    #[track_caller]
    fn refuses(&self, bytes: impl AsRef<[u8]>) {
        let shown = bytes.as_ref().escape_ascii().to_string();
        let (statuses, paths) = self.send([bytes.as_ref(), SMUGGLED.as_bytes()].concat());
        assert!(paths.is_empty(), "the backend saw {paths:?} of {shown}");
        assert!(
            statuses.iter().all(|status| (400..600).contains(status)) && statuses.len() <= 1,
            "{statuses:?} to {shown}"
        );
    }

    /// One request, and nothing behind it: the connection is over.
    #[track_caller]
    fn ends_after(&self, bytes: impl AsRef<[u8]>) {
        let shown = bytes.as_ref().escape_ascii().to_string();
        let (statuses, paths) = self.send([bytes.as_ref(), SMUGGLED.as_bytes()].concat());
        assert!(paths.len() <= 1 && paths.iter().all(|path| path == "/"), "the backend saw {paths:?} of {shown}");
        assert!(statuses.len() <= 1, "{statuses:?} to {shown}");
    }
}

fn post(fields: &str, body: &str) -> String {
    request("POST", "/", fields) + body
}

// --- Framing ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_length_beside_chunks_is_refused() {
    let pair = Pair::start("");
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 50\r\nTransfer-Encoding: CHUNKED\r\n",
    ] {
        pair.refuses(post(fields, "0\r\n\r\n"));
    }
    // By its length the request would hold the next one.
    let length = 5 + SMUGGLED.len();
    pair.refuses(post(
        &format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        &format!("0\r\n\r\n{SMUGGLED}"),
    ));
}

#[test]
fn lengths_that_differ_or_are_none_are_refused() {
    let pair = Pair::start("");
    for lengths in [
        "content-length: 4\r\ncontent-length: 0\r\n",
        "content-length: 4, 0\r\n",
        "content-length: +4\r\n",
        "content-length: -4\r\n",
        "content-length: 0x4\r\n",
        "content-length: 4 4\r\n",
        "content-length: 4;q=1\r\n",
        "content-length: four\r\n",
        "content-length: \r\n",
        "content-length: 18446744073709551620\r\n",
        "content-length: 99999999999999999999999999\r\n",
        "content-length: 4\r\nContent_Length: 0\r\n",
    ] {
        pair.refuses(post(lengths, "body"));
    }
}

#[test]
fn a_length_that_is_said_twice_alike_is_one() {
    let pair = Pair::start("");
    let (statuses, paths) = pair.send(post("content-length: 4\r\ncontent-length: 4\r\n", "body") + &get("/next"));
    // 200 and one request each, or refused: but never the body as a request.
    assert!(
        paths == ["/", "/next"] && statuses == [200, 200] || paths.is_empty() && statuses == [400],
        "{statuses:?} {paths:?}"
    );
}

#[test]
fn other_codings_than_chunked_at_the_end_are_refused() {
    let pair = Pair::start("");
    for coding in [
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunkedx\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding: \r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "transfer-encoding: identity\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer_encoding: chunked\r\n",
    ] {
        pair.refuses(post(coding, "0\r\n\r\n"));
    }
    for coding in [
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: , chunked\r\n",
        "transfer-encoding:\tchunked\r\n",
        "transfer-encoding: \tchunked \t\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    ] {
        // Refused, or read as chunks; what follows is another request of this client, or nothing.
        let (statuses, paths) = pair.send(post(coding, "0\r\n\r\n") + &get("/next"));
        let is_refused = paths.is_empty() && statuses == [400];
        let is_chunked = paths == ["/", "/next"] && statuses == [200, 200] || paths == ["/"] && statuses == [200];
        assert!(is_refused || is_chunked, "{coding:?}: {statuses:?} {paths:?}");
    }
}

#[test]
fn a_header_line_that_can_be_read_in_two_ways_is_refused() {
    let pair = Pair::start("");
    for fields in [
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "transfer encoding: chunked\r\n",
        "x-a: 1\r\n transfer-encoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "x-a: 1\r\n\tfolded\r\n",
        "x-a\r\n",
        ": empty\r\n",
        "x-a: 1\rtransfer-encoding: chunked\r\n",
        "x-a: a\0b\r\n",
        "x\0a: b\r\n",
        "x-a: 1\x0btransfer-encoding: chunked\r\n\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "transfer-encoding: chunked\x0b\r\n",
        "x(a): 1\r\n",
        "x-\u{e9}: 1\r\n",
    ] {
        pair.refuses(post(fields, "0\r\n\r\n"));
    }
}

#[test]
fn lines_that_end_without_cr_hide_nothing() {
    let pair = Pair::start("");
    for bytes in [
        "POST / HTTP/1.1\nhost: a.test\ntransfer-encoding: chunked\n\n0\n\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: a.test\r\nx-a: 1\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        post("x-a: 1\ncontent-length: 5\r\n", "0\r\n\r\n"),
    ] {
        let (statuses, paths) = pair.send(bytes.clone() + &get("/next"));
        assert!(statuses.len() <= 2 && paths.len() <= 2, "{bytes:?}: {statuses:?} {paths:?}");
        assert!(paths.iter().all(|path| path == "/" || path == "/next"), "{bytes:?}: {paths:?}");
    }
}

#[test]
fn http_1_0_has_no_chunks() {
    let pair = Pair::start("");
    pair.refuses("POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    pair.refuses("POST / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n");
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/1.01", "http/1.1", "HTTP/11", "HTTP /1.1", "HTTPS/1.1"] {
        pair.refuses(format!("GET / {version}\r\nhost: a.test\r\n\r\n"));
    }
}

#[test]
fn chunks_are_read_by_the_letter() {
    let pair = Pair::start("");
    let chunked = "transfer-encoding: chunked\r\n";
    for body in [
        "0x4\r\nbody\r\n0\r\n\r\n",
        "+4\r\nbody\r\n0\r\n\r\n",
        "-4\r\nbody\r\n0\r\n\r\n",
        "4\r\nbodyX\r\n0\r\n\r\n",
        "4\r\nbody0\r\n\r\n",
        "4 4\r\nbody\r\n0\r\n\r\n",
        "g\r\nbody\r\n0\r\n\r\n",
        "\r\nbody\r\n0\r\n\r\n",
        "4\nbody\r\n0\r\n\r\n",
        "4\r\nbody\n0\r\n\r\n",
        "4\rbody\r\n0\r\n\r\n",
        "10000000000000004\r\nbody\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nbody\r\n0\r\n\r\n",
        "4;x=\ny\r\nbody\r\n0\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "0\n\n",
        "0\r\n\rX",
    ] {
        pair.ends_after(post(chunked, body));
    }
    let (statuses, paths) = pair.send(post(chunked, "4;name=\"value\"\r\nbody\r\n000\r\n\r\n") + &get("/next"));
    assert_eq!((statuses, paths), (vec![200, 200], vec!["/".to_owned(), "/next".to_owned()]));
}

#[test]
fn extensions_of_chunks_are_not_without_end() {
    let pair = Pair::start("");
    let long = format!("4;{}\r\nbody\r\n0\r\n\r\n", "x".repeat(64 * 1024));
    pair.ends_after(post("transfer-encoding: chunked\r\n", &long));
    let trailers: String = (0..10_000).map(|at| format!("x-{at}: 1\r\n")).collect();
    pair.ends_after(post("transfer-encoding: chunked\r\n", &format!("0\r\n{trailers}\r\n")));
}

#[test]
fn trailers_say_nothing_about_framing_or_the_client() {
    let pair = Pair::start("");
    let trailers = "content-length: 50\r\ntransfer-encoding: chunked\r\nhost: evil\r\nx-forwarded-for: 6.6.6.6\r\nauthorization: x\r\n";
    pair.send(post("te: trailers\r\ntrailer: content-length, transfer-encoding, host, x-forwarded-for, authorization, x-sum\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n{trailers}\r\n")));
    for request in pair.backend.requests() {
        assert!(request.trailers.is_empty(), "{:?}", request.trailers);
    }
}

#[test]
fn bodies_of_get_head_and_delete_are_bodies() {
    let pair = Pair::start("");
    for method in ["GET", "DELETE", "OPTIONS"] {
        let with = request(method, "/", &format!("content-length: {}\r\n", SMUGGLED.len())) + SMUGGLED;
        let (statuses, paths) = pair.send(with + &get("/next"));
        assert_eq!((statuses, paths), (vec![200, 200], vec!["/".to_owned(), "/next".to_owned()]), "{method}");
        let seen = pair.backend.requests();
        assert_eq!(seen[seen.len() - 2].text(), SMUGGLED);
    }
}

#[test]
fn a_refused_request_takes_what_is_glued_to_it_along() {
    let pair = Pair::start("limits = { body = \"1KiB\" }");
    let large = format!("{SMUGGLED}{}", "x".repeat(5000));
    pair.refuses(post(&format!("content-length: {}\r\n", large.len()), &large));
    let (statuses, paths) = pair.send("GET / HTTP/1.1\r\n\r\n".to_owned() + &get("/next"));
    assert!(statuses.first() == Some(&400) && paths.iter().all(|path| path == "/next"), "{statuses:?} {paths:?}");
}

#[test]
fn first_lines_are_read_by_the_letter() {
    let pair = Pair::start("");
    for line in [
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1 ",
        "GE(T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /a\x7f HTTP/1.1",
        "GET /%2e%2e/x HTTP/1.1",
        "GET /a%2fb HTTP/1.1",
        "GET /a%00b HTTP/1.1",
        "GET /..;/x HTTP/1.1",
        "GET \\x HTTP/1.1",
        "GET x HTTP/1.1",
        "GET * HTTP/1.1",
        "CONNECT a.test:443 HTTP/1.1",
        "GET ftp://a.test/ HTTP/1.1",
    ] {
        let (statuses, paths) = pair.send(format!("{line}\r\nhost: a.test\r\n\r\n"));
        assert!(paths.is_empty() && statuses.iter().all(|status| *status >= 400), "{line:?}: {statuses:?} {paths:?}");
    }
}

// --- Headers of one hop -------------------------------------------------------------------------------------------------------

#[test]
fn connection_cannot_take_away_what_backends_trust() {
    let pair = Pair::start("");
    for named in [
        "x-forwarded-for",
        "X-Forwarded-Host",
        "authorization",
        "host",
        "content-length",
        "x-request-id",
        "forwarded",
        "close, x-real-ip",
    ] {
        let fields = format!("connection: {named}\r\nauthorization: x\r\n");
        let (statuses, paths) = pair.send(request("GET", "/", &fields));
        assert!(paths.is_empty() && statuses == [400], "{named}: {statuses:?}");
    }
}

#[test]
fn headers_of_one_hop_stay_on_it() {
    let pair = Pair::start("");
    let fields = "connection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: 5\r\nproxy-connection: keep-alive\r\nproxy: evil\r\n\
                  proxy-authorization: x\r\nte: gzip\r\nupgrade: h2c\r\nhttp2-settings: AAAA\r\nx-other: stays\r\n";
    pair.send(request("GET", "/", fields));
    let seen = pair.backend.requests().pop().unwrap();
    for gone in
        ["x-mine", "keep-alive", "proxy-connection", "proxy", "proxy-authorization", "te", "upgrade", "http2-settings"]
    {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert_eq!(seen.field("x-other"), Some("stays"));
}

#[test]
fn names_that_look_like_trusted_ones_are_refused() {
    let pair = Pair::start("");
    for name in
        ["x_forwarded_for", "X_Forwarded-Proto", "x-forwarded_host", "x_request_id", "x_real_ip", "authorization_"]
    {
        let (statuses, paths) = pair.send(request("GET", "/", &format!("{name}: 6.6.6.6\r\n")));
        let is_refused = paths.is_empty() && statuses == [400];
        assert!(is_refused || name == "authorization_", "{name}: {statuses:?} {paths:?}");
    }
}

// --- Responses ------------------------------------------------------------------------------------------------------------------

#[test]
fn a_backend_that_frames_twice_or_never_is_not_believed() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 2\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nx a: 1\r\n\r\nbody",
        "HTTP/9.9 200 OK\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let backend = Backend::web("bad", move |_, stream| stream.write_all(head.as_bytes()));
        let evener = Evener::start(&(ONE_THREAD.to_owned() + &site("", "", "", &[&backend])));
        let mut client = Peer::of(evener.port("web"));
        assert_eq!(client.ask(get("/")).status(), 502, "{head:?}");
        assert_eq!(client.ask(get("/")).status(), 502, "the client's connection is as good as before");
    }
}

#[test]
fn what_a_backend_sends_beyond_its_answer_is_nobodys() {
    let backend = Backend::web("chatty", |request, stream| {
        let answer = reply("200 OK", request.path());
        stream.write_all((answer + &reply("200 OK", "poison")).as_bytes())
    });
    let evener = Evener::start(&(ONE_THREAD.to_owned() + &site("", "", "", &[&backend])));
    for at in 0..20 {
        let path = format!("/{at}");
        let mut client = Peer::of(evener.port("web"));
        let answer = client.ask(get(&path));
        assert!(answer.status() == 502 || answer.text() == path, "{answer:?}");
        shut_write(client.stream());
    }
    wait_until(SOON, "the log has them", || evener.events().len() >= 20);
}
