//! HTTP/2, frame by frame: what a client must not do, and how little it can do by it.
#![allow(clippy::unwrap_used)]

#[path = "harness/frames.rs"]
mod frames;
mod harness;

use std::io::{Read, Write};
use std::time::Duration;

use frames::*;
use harness::http::{listener, pool_of, reply, site};
use harness::{Backend, Evener, SOON, holds_for, local, memory_of, wait_until, wait_until_steady};

const MIB: u64 = 1024 * 1024;

fn start(listener_keys: &str, backend: &Backend) -> Evener {
    Evener::start(
        &("[process]\nworkers = 1\n".to_owned() + &site(listener_keys, "timeout = { idle = \"1s\" }", "", &[backend])),
    )
}

#[test]
fn many_requests_share_a_connection_and_one_to_the_backend_each_at_a_time() {
    let backend = Backend::webs("b");
    let evener = start("", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    for _ in 0..20 {
        let stream = client.get(&[("cookie", "a=b"), ("cookie", "c=d")]);
        let answer = client.until(answer_to(stream)).unwrap();
        assert_eq!(status(&answer), 200);
        client.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0);
    }
    assert_eq!(backend.accepted(), 1);
    let seen = backend.requests().pop().unwrap();
    assert_eq!((seen.start.as_str(), seen.field("host")), ("GET / HTTP/1.1", Some("a.test")));
    assert!(seen.all("content-length").is_empty() && seen.all("transfer-encoding").is_empty());
    assert_eq!(seen.field("cookie"), Some("a=b; c=d"), "one line again (RFC 9113, 8.2.3)");
}

#[test]
fn who_resets_streams_again_and_again_loses_the_connection() {
    let backend = Backend::held();
    let evener = start("limits = { resets = 20 }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let mut sent = 0;
    while sent < 5000 {
        let stream = client.number();
        let request = Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", &[]));
        let reset = Frame::new(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        if client.try_send(&request).and_then(|()| client.try_send(&reset)).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(client.ends());
    assert!(backend.accepted() < 500, "{} connections by {sent} resets", backend.accepted());
    let mut good = Client::of(evener.port("web"), &[]);
    good.send(&Frame::new(PING, 0, 0, &[0; 8]));
    assert!(good.until(|frame| frame.kind == PING).is_some(), "others are served");
}

#[test]
fn a_few_resets_are_forgiven() {
    let backend = Backend::webs("b");
    let evener = start("limits = { resets = 20 }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    for _ in 0..10 {
        let stream = client.get(&[]);
        client.send(&Frame::new(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let stream = client.get(&[]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
}

#[test]
fn a_header_that_goes_on_and_on_ends_the_connection() {
    let backend = Backend::webs("b");
    let evener = start("", &backend);
    let before = memory_of(evener.pid());
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.number();
    client.send(&Frame::new(HEADERS, END_STREAM, stream, &head("GET", &[])));
    let more = Frame::new(CONTINUATION, 0, stream, &field("x-more", &"x".repeat(8000)));
    let sent = (0..5000).take_while(|_| client.try_send(&more).is_ok()).count();
    assert!(sent < 5000, "40 MB were taken");
    assert!(client.ends());
    assert!(memory_of(evener.pid()).saturating_sub(before) < 8 * MIB);
    assert!(backend.requests().is_empty());
}

#[test]
fn empty_continuations_without_end_end_the_connection() {
    let backend = Backend::webs("b");
    let evener = start("", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.number();
    client.send(&Frame::new(HEADERS, END_STREAM, stream, &head("GET", &[])));
    let empty = Frame::new(CONTINUATION, 0, stream, &[]);
    let sent = (0..100_000).take_while(|_| client.try_send(&empty).is_ok()).count();
    assert!(sent < 100_000 && client.ends());
}

#[test]
fn too_many_fields_and_too_large_ones_are_431() {
    let backend = Backend::webs("b");
    let evener = start("limits = { header_bytes = \"8KiB\", header_fields = 20 }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[("x-a", "1"); 50]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 431);
    let large = "x".repeat(9000);
    // A new one, which has no table of what was said yet.
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[("x-large", &large)]);
    let refused = client.until(answer_to(stream));
    assert!(refused.is_none_or(|frame| frame.kind == RST_STREAM || status(&frame) == 431));
    assert!(backend.requests().is_empty());
}

#[test]
fn cookies_in_crumbs_are_fields() {
    let backend = Backend::webs("b");
    let evener = start("limits = { header_fields = 20 }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[("cookie", "a=b"); 100]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 431);
    assert!(backend.requests().is_empty());
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let backend = Backend::held();
    let evener = start("limits = { streams = 5 }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    client.until(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0);
    for _ in 0..5 {
        client.get(&[]);
    }
    let stream = client.get(&[]);
    let refused = client.until(answer_to(stream)).unwrap();
    assert_eq!((refused.kind, refused.code()), (RST_STREAM, REFUSED_STREAM));
    wait_until(SOON, "the others are served", || backend.accepted() == 5);
}

/// What one connection may cost: what is held of all its responses, and for each of 100 streams what the connection to its
/// backend has read.
const HELD_BYTES_MAX: u64 = MIB + 100 * 64 * 1024;
/// As large as they can be (RFC 9113, 6.9.1), and how a client begins with them (6.5.2).
const WINDOW_MAX: u32 = (1 << 31) - 1;
const INITIAL_WINDOW: u16 = 4;

/// Responses without end to so many requests, then short ones.
fn endless(count: u64) -> Backend {
    Backend::on("127.0.0.1:0", "source", move |stream, shared| {
        while let Some(request) = harness::http::Peer::on(stream.try_clone()?).request()? {
            shared.keep(&request);
            if shared.kept() > count {
                (&*stream).write_all(reply("200 OK", "short").as_bytes())?;
                continue;
            }
            (&*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")?;
            shared.send_pattern(stream, 1 << 30)?;
        }
        Ok(())
    })
}

impl Client {
    /// One that lets all responses have as many bytes as they like.
    fn generous(port: u16) -> Self {
        let mut client = Self::of(port, &[(INITIAL_WINDOW, WINDOW_MAX)]);
        client.send(&Frame::new(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes()));
        client
    }
}

#[test]
fn a_client_that_takes_nothing_holds_a_bounded_amount_and_not_for_long() {
    let backend = endless(u64::MAX);
    // No response may have a byte; or all may have as many as they like, and nobody reads them.
    for is_generous in [false, true] {
        let evener = start("", &backend);
        let before = memory_of(evener.pid());
        let accepted = backend.accepted();
        let mut client = match is_generous {
            true => Client::generous(evener.port("web")),
            false => Client::of(evener.port("web"), &[(INITIAL_WINDOW, 0)]),
        };
        for _ in 0..100 {
            client.get(&[]);
        }
        wait_until(SOON, "the backend has answered", || backend.accepted() == accepted + 100 && backend.sent() > 0);
        wait_until_steady(SOON, Duration::from_millis(200), "the backend is held back", || backend.sent());
        let held = memory_of(evener.pid()).saturating_sub(before);
        assert!(held < HELD_BYTES_MAX, "{held} bytes, generous {is_generous}");
        assert!(client.ends());
        wait_until(SOON, "the backend's connections are ended", || backend.open() == 0);
    }
}

#[test]
fn a_request_that_stands_still_beside_one_that_moves_is_reset_and_its_backend_let_go() {
    for is_upload in [false, true] {
        let backend = endless(2);
        let evener = start("", &backend);
        let mut client = Client::of(evener.port("web"), &[(INITIAL_WINDOW, 0)]);
        client.send(&Frame::new(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes()));
        // A response that may have no byte, or a body that stops in the middle.
        let still = if is_upload { client.half_a_post() } else { client.get(&[]) };
        let moves = client.get(&[]);
        wait_until(SOON, "both are under way", || backend.open() == 2);
        // Each piece that comes makes room for the next one.
        client.send(&Frame::new(WINDOW_UPDATE, 0, moves, &1024_u32.to_be_bytes()));
        let mut reset = None;
        wait_until(SOON, "one is reset", || {
            let frame = client.until(|frame| frame.kind == RST_STREAM || frame.kind == DATA).unwrap();
            if frame.kind == DATA {
                assert!(frame.stream == moves && frame.payload.len() <= 16 * 1024);
                client.send(&Frame::new(WINDOW_UPDATE, 0, moves, &(frame.payload.len() as u32).to_be_bytes()));
                return false;
            }
            reset = Some(frame);
            true
        });
        let reset = reset.unwrap();
        assert_eq!((reset.stream, reset.code()), (still, CANCEL));
        wait_until(SOON, "its backend is let go", || backend.open() == 1);
        client.send(&Frame::new(WINDOW_UPDATE, 0, moves, &1024_u32.to_be_bytes()));
        let goes_on = client.until(|frame| frame.stream == moves && frame.kind == DATA);
        assert!(goes_on.is_some(), "the other one goes on, upload {is_upload}");
    }
}

#[test]
fn a_body_that_waits_in_the_queue_does_not_stand_still() {
    let backend = Backend::held();
    let keys = ("timeout = { idle = \"1s\" }", "queue = { max = 10, timeout = \"60s\" }");
    let text = site("", keys.0, keys.1, &[&backend]).replace("name = \"held\"", "name = \"held\", max_connections = 1");
    let evener = Evener::start(&("[process]\nworkers = 1\n".to_owned() + &text));
    let mut first = harness::http::Peer::of(evener.port("web"));
    first.send(harness::http::get("/first"));
    let mut server = harness::http::Peer::on(backend.take());
    server.request().unwrap().unwrap();
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.half_a_post();
    wait_until(SOON, "it waits", || evener.queue_length("web") == 1);
    holds_for(Duration::from_millis(2500), "it waits on", || evener.queue_length("web") == 1);
    server.send(reply("200 OK", ""));
    assert_eq!(server.head().start, "POST / HTTP/1.1");
    client.send(&Frame::new(DATA, END_STREAM, stream, &[b'x'; 96]));
    server.0.read_exact(&mut [0; 100]).unwrap();
    server.send(reply("200 OK", ""));
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
}

#[test]
fn a_client_that_takes_no_answer_of_the_gateway_itself_is_not_waited_for() {
    let backend = Backend::webs("b");
    let evener = start("limits = { header_timeout = \"1s\" }", &backend);
    let mut client = Client::of(evener.port("web"), &[(INITIAL_WINDOW, 0)]);
    let stream = client.number();
    let two_hosts = [field("host", "b.test"), field("host", "c.test")].concat();
    let head = [head("GET", &[]), two_hosts].concat();
    client.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &head));
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 400);
    assert!(client.ends());
}

#[test]
fn responses_that_a_client_gives_up_leave_room_for_others() {
    let backend = endless(20);
    let evener = start("", &backend);
    let mut client = Client::generous(evener.port("web"));
    let given_up: Vec<u32> = (0..20).map(|_| client.get(&[])).collect();
    wait_until(SOON, "all are answered", || backend.accepted() == 20 && backend.sent() > 0);
    wait_until_steady(SOON, Duration::from_millis(100), "the backend is held back", || backend.sent());
    for stream in given_up {
        client.send(&Frame::new(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    for _ in 0..3 {
        let stream = client.get(&[]);
        assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
        assert_eq!(client.until(|frame| frame.stream == stream && frame.kind == DATA).unwrap().payload, b"short");
    }
}

#[test]
fn requests_that_http_2_forbids_are_refused() {
    let backend = Backend::web("b", |_, stream| stream.write_all(reply("200 OK", "b").as_bytes()));
    let evener = start("", &backend);
    let port = evener.port("web");
    let raw =
        |fields: &[(&str, &str)]| -> Vec<u8> { fields.iter().flat_map(|(name, value)| field(name, value)).collect() };
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
    for fields in [
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "1")]),
        with(&[(":path", "/again")]),
        with(&[("x-a", "1\r\nx-b: 2")]),
        with(&[("x-a", "a\0b")]),
        with(&[("host", "b.test")]),
        with(&[("content-length", "5")]),
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.test")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "x")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "user@a.test"), (":path", "/")],
        vec![("x-first", "1"), (":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")],
        vec![(":method", "CONNECT"), (":authority", "a.test:443")],
        vec![
            (":method", "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
        ],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/ HTTP/1.1\r\nx: y")],
    ] {
        let mut client = Client::of(port, &[]);
        let stream = client.number();
        client.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &raw(&fields)));
        let answer = client.until(|frame| answer_to(stream)(frame) || frame.kind == GOAWAY);
        let is_refused = answer.is_none_or(|frame| frame.kind != HEADERS || status(&frame) == 400);
        assert!(is_refused, "{fields:?}");
    }
    assert!(backend.requests().is_empty(), "{:?}", backend.requests());
}

#[test]
fn a_body_shorter_or_longer_than_its_length_reaches_no_backend_whole() {
    let backend = Backend::webs("b");
    let evener = start("", &backend);
    for data in ["abc", "abcdefgh"] {
        let mut client = Client::of(evener.port("web"), &[]);
        let stream = client.number();
        client.send(&Frame::new(HEADERS, END_HEADERS, stream, &head("POST", &[("content-length", "5")])));
        client.send(&Frame::new(DATA, END_STREAM, stream, data.as_bytes()));
        let answer = client.until(answer_to(stream));
        assert!(answer.is_none_or(|frame| frame.kind == RST_STREAM || status(&frame) >= 400));
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn a_drain_says_goaway_and_lets_streams_finish() {
    let backend = Backend::held();
    let mut evener = start("", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[]);
    let mut server = harness::http::Peer::on(backend.take());
    server.request().unwrap().unwrap();
    evener.signal("TERM");
    assert!(client.until(|frame| frame.kind == GOAWAY).is_some());
    server.send(reply("200 OK", "late"));
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    assert!(client.ends());
    assert!(evener.wait(SOON).success());
}

#[test]
fn streams_of_a_listener_that_a_reload_has_renamed_go_by_its_routes_until_the_client_has_heard() {
    let backend = Backend::webs("b");
    let bind = format!("bind = \"127.0.0.1:{}\"", harness::free_port());
    let file = |name: &str| {
        let file = site("", "", "", &[&backend]).replace("bind = \"127.0.0.1:0\"", &bind);
        file.replace("listener.web", &format!("listener.{name}"))
            .replace("listener = \"web\"", &format!("listener = \"{name}\""))
    };
    let evener = Evener::start(&file("old"));
    let mut client = Client::of(evener.port("old"), &[]);
    let stream = client.get(&[]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    evener.rewrite(&file("new"));
    evener.cli_ok(&["reload"]);
    // It has not answered the PING by which the server learns that a client knows of the GOAWAY (RFC 9113, 6.8).
    assert!(client.until(|frame| frame.kind == GOAWAY).is_some());
    let stream = client.get(&[]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    evener.stop();
}

#[test]
fn a_connection_of_age_says_goaway_and_lets_streams_finish() {
    let backend = Backend::held();
    let evener = start("max_age = \"2s\"", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[]);
    let mut server = harness::http::Peer::on(backend.take());
    server.request().unwrap().unwrap();
    assert!(client.until(|frame| frame.kind == GOAWAY).is_some());
    server.send(reply("200 OK", "late"));
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    assert!(client.ends());
    evener.stop();
}

#[test]
fn an_idle_connection_says_goaway_before_it_ends() {
    let backend = Backend::webs("b");
    let evener = start("limits = { idle_timeout = \"1s\" }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let stream = client.get(&[]);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    assert_eq!(client.until(|frame| frame.kind == GOAWAY).unwrap().code(), 0);
    assert!(client.ends());
    evener.stop();
}

#[test]
fn what_a_client_says_of_the_connection_itself_is_not_taken_for_a_request_that_never_comes() {
    let backend = Backend::webs("b");
    let evener = start("limits = { header_timeout = \"1s\" }", &backend);
    let mut client = Client::of(evener.port("web"), &[]);
    let asks = |client: &mut Client| {
        let stream = client.get(&[]);
        assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    };
    asks(&mut client);
    holds_for(Duration::from_secs(3), "it is told that we are here", || {
        client.send(&Frame::new(PING, 0, 0, b"still on"));
        client.until(|frame| frame.kind == PING && frame.flags == ACK).is_some()
    });
    asks(&mut client);
    evener.stop();
}

#[test]
fn a_backend_of_http_2_is_given_many_requests_by_one_connection() {
    let deep = Backend::webs("deep");
    let inner = start("", &deep);
    let outer = listener("") + "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let outer = outer + &pool_of("web", local(inner.port("web")), "http = { version = \"2\" }");
    let outer = Evener::start(&("[process]\nworkers = 1\n".to_owned() + &outer));
    let mut client = Client::of(outer.port("web"), &[]);
    let streams: Vec<u32> = (0..50).map(|_| client.get(&[])).collect();
    let mut left = streams.len();
    while left > 0 {
        let answer = client.until(|frame| frame.kind == HEADERS || frame.kind == RST_STREAM).unwrap();
        assert_eq!((answer.kind, status(&answer)), (HEADERS, 200));
        left -= 1;
    }
    wait_until(SOON, "all are in the log", || {
        inner.events().iter().filter(|event| event["version"] == "HTTP/2").count() == 50
    });
}
