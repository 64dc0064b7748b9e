//! What the gateway itself says and hears in HTTP/1.1: dates, first lines, versions, what it refuses, and clients that do
//! not finish.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::http::{Peer, first_answer, get, listener, pool_of, post, reply, request, site};
use harness::{Backend, Ending, Evener, SOON, connect, ending, now, reset, shut_write, wait_until};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

/// A backend that answers with these bytes, and evener before it.
fn behind(answer: &'static str) -> (Backend, Evener) {
    let backend = Backend::web("b", move |_, stream| stream.write_all(answer.as_bytes()));
    let evener = start(&site("", "", "", &[&backend]));
    (backend, evener)
}

#[test]
fn an_answer_has_one_date_its_own_or_ours() {
    let (_backend, evener) = behind("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let answer = Peer::of(evener.port("web")).ask(get("/"));
    let date = answer.field("date").unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    let (_backend, evener) =
        behind("HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n");
    let answer = Peer::of(evener.port("web")).ask(get("/"));
    assert_eq!(answer.field("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
}

#[test]
fn what_a_backend_calls_its_status_is_passed_on() {
    let (_backend, evener) = behind("HTTP/1.1 299 Nearly Fine\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(Peer::of(evener.port("web")).ask(get("/")).start, "HTTP/1.1 299 Nearly Fine");
    for line in ["HTTP/1.1 200 \r\n", "HTTP/1.1 200\r\n", "HTTP/1.1 200 \u{dc}bel\r\n"] {
        let answer = line.to_owned() + "content-length: 0\r\n\r\n";
        let (_backend, evener) = behind(answer.leak());
        assert_eq!(Peer::of(evener.port("web")).ask(get("/")).start, "HTTP/1.1 200 OK", "{line:?}");
    }
}

#[test]
fn what_comes_before_a_response_is_not_the_response() {
    let (_backend, evener) = behind(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..3 {
        let answer = client.ask(get("/"));
        assert_eq!((answer.status(), answer.text().as_str(), answer.field("link")), (200, "ok", None));
    }
}

#[test]
fn a_backend_that_announces_a_body_where_there_can_be_none_is_asked_by_another_connection() {
    for (answer, status) in [
        ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", 204),
        ("HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        let (backend, evener) = behind(answer);
        let mut client = Peer::of(evener.port("web"));
        for count in 1..=3 {
            assert_eq!(client.ask(get("/")).status(), status);
            assert_eq!(backend.accepted(), count);
        }
    }
}

#[test]
fn what_is_no_request_is_told_so_and_counted() {
    let (backend, evener) = behind("");
    for bytes in ["nonsense\r\n\r\n", "GET / HTTP/1.1\r\nno field\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n"] {
        let mut client = Peer::of(evener.port("web"));
        let answer = client.ask(bytes);
        assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")), "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/problem+json"));
        assert!(client.is_over());
    }
    wait_until(SOON, "each is a line in the log", || {
        evener.events().iter().filter(|event| event["refusal"] == "malformed").count() == 3
    });
    assert!(backend.requests().is_empty());
}

#[test]
fn several_requests_sent_at_once_are_answered_one_after_the_other() {
    let backend = Backend::web("b", |request, stream| stream.write_all(reply("200 OK", request.path()).as_bytes()));
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    let bodies = post("/0", &"x".repeat(50_000)) + &post("/1", "") + &get("/2") + &post("/3", "body") + &get("/4");
    client.send(bodies);
    for at in 0..5 {
        assert_eq!(client.response().text(), format!("/{at}"));
    }
    let last = request("GET", "/last", "connection: close\r\n") + &get("/never");
    let answer = client.ask(last);
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("/last", Some("close")));
    assert!(client.is_over() && backend.requests().len() == 6);
}

#[test]
fn the_beginning_of_a_request_behind_another_is_not_waited_for_longer_than_any() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { header_timeout = \"2s\", idle_timeout = \"300s\" }", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    let began = now();
    assert_eq!(client.ask(get("/") + "GET /next HTTP/1.1\r\nhost:").status(), 200);
    assert_eq!(client.response().status(), 408);
    assert!(client.is_over());
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn an_empty_line_behind_a_request_is_not_the_beginning_of_another() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { header_timeout = \"2s\", idle_timeout = \"300s\" }", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(post("/", "body") + "\r\n").status(), 200);
    assert_eq!(client.ask(get("/") + "\r\n").status(), 200);
    assert!(client.is_over(), "and it is not answered");
}

#[test]
fn a_first_request_that_stops_after_a_byte_is_not_waited_for_longer_than_any() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { header_timeout = \"2s\", idle_timeout = \"300s\" }", "", "", &[&backend]));
    for begun in ["G", "GET / HTTP/1.1\r\nhost:"] {
        let (mut client, began) = (Peer::of(evener.port("web")), now());
        client.send(begun);
        assert_eq!(client.response().status(), 408);
        assert!(client.is_over());
        assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}

#[test]
fn a_client_that_takes_no_answers_is_ended_also_where_no_route_says_when() {
    let evener = start(&listener("limits = { header_timeout = \"1s\" }"));
    let mut client = connect(evener.port("web"));
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let some = get("/nowhere").repeat(1000);
    // Until neither side takes any more.
    assert!((0..1000).any(|_| client.write_all(some.as_bytes()).is_err()));
    client.set_nonblocking(true).unwrap();
    wait_until(SOON, "it is ended", || {
        client.write(b"x").is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    });
}

#[test]
fn two_requests_and_an_end_behind_them_are_both_answered() {
    let backend = Backend::webs("b");
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/1") + &get("/2"));
    shut_write(client.stream());
    assert_eq!(client.response().text(), "b");
    let second = client.try_response().unwrap();
    assert!(second.is_none_or(|answer| answer.text() == "b"), "nobody else is behind it: it may be given up");
}

#[test]
fn an_open_ended_answer_that_is_given_up_is_reset() {
    let backend = Backend::web("b", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n")
    });
    let evener = start(&site("", "timeout = { idle = \"1s\" }", "", &[&backend]));
    let mut client = connect(evener.port("web"));
    client.write_all(OLD.as_bytes()).unwrap();
    assert_eq!(ending(&mut client).0, Ending::Reset);
}

#[test]
fn a_backend_that_never_comes_to_the_point_is_given_up() {
    let backend =
        Backend::web("b", |_, stream| stream.write_all("HTTP/1.1 102 Processing\r\n\r\n".repeat(200).as_bytes()));
    let evener = start(&site("", "", "", &[&backend]));
    assert_eq!(Peer::of(evener.port("web")).ask(get("/")).status(), 502);
}

#[test]
fn a_body_nobody_asked_for_does_not_end_a_connection_if_it_is_there_already() {
    let text = listener("")
        + "[[route]]\nname = \"r\"\nlistener = \"web\"\nreply = { status = 403, body = \"no\" }\nlimits = { body = \"1MiB\" }\n";
    let evener = start(&text);
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..3 {
        let answer = client.ask(post("/", "a short body"));
        assert_eq!((answer.status(), answer.field("connection")), (403, None));
    }
    let answer = client.ask(request("POST", "/", "content-length: 100000\r\n") + "the start of a long one");
    assert_eq!((answer.status(), answer.field("connection")), (403, Some("close")));
    assert!(client.is_over());
}

// --- HTTP/1.0 -------------------------------------------------------------------------------------------------------------

const OLD: &str = "GET / HTTP/1.0\r\nhost: a.test\r\n\r\n";
const OLD_KEPT: &str = "GET / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n\r\n";

#[test]
fn an_old_client_keeps_its_connection_if_it_asks_to() {
    let backend = Backend::webs("b");
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..3 {
        let answer = client.ask(OLD_KEPT);
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("b", Some("keep-alive")));
    }
    assert_eq!(client.ask(OLD).field("connection"), Some("close"));
    assert!(client.is_over());
}

#[test]
fn an_old_client_gets_a_body_without_chunks_and_sees_when_it_is_cut() {
    let (_backend, evener) = behind("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n");
    let mut client = Peer::of(evener.port("web"));
    let answer = client.ask(OLD_KEPT);
    assert_eq!((answer.text().as_str(), answer.all("transfer-encoding").len()), ("whole", 0));
    let backend = Backend::web("b", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwh")?;
        Err(std::io::ErrorKind::Other.into())
    });
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = connect(evener.port("web"));
    client.write_all(OLD.as_bytes()).unwrap();
    assert_eq!(ending(&mut client).0, Ending::Reset, "an end would say that this was all");
}

// --- Clients that go ------------------------------------------------------------------------------------------------------

/// Goes by a reset, or by an end of what it sends.
fn go(client: Peer, by_reset: bool) -> Option<TcpStream> {
    let stream = client.0.into_inner();
    if by_reset {
        reset(stream);
        return None;
    }
    shut_write(&stream);
    Some(stream)
}

#[test]
fn a_client_that_goes_is_not_answered_by_anybody() {
    for is_reset in [false, true] {
        let backend = Backend::held();
        let evener = start(&site("", "", "", &[&backend]));
        let mut client = Peer::of(evener.port("web"));
        client.send(get("/"));
        let mut server = Peer::on(backend.take());
        server.request().unwrap().unwrap();
        let _half = go(client, is_reset);
        assert!(server.is_over(), "its backend is not asked any more");
        wait_until(SOON, "it is in the log", || evener.events().iter().any(|event| event["status"] == 499));
    }
}

#[test]
fn who_breaks_an_upload_off_is_neither_answered_nor_is_the_backend_blamed() {
    for is_reset in [false, true] {
        let backend = Backend::held();
        let evener = start(&site("", "", "", &[&backend]));
        let mut client = Peer::of(evener.port("web"));
        client.send(request("POST", "/", "content-length: 100\r\n") + "half");
        let mut server = Peer::on(backend.take());
        server.head();
        server.0.read_exact(&mut [0; 4]).unwrap();
        let _half = go(client, is_reset);
        assert!(server.is_over());
        wait_until(SOON, "it is in the log", || evener.events().iter().any(|event| event["event"] == "request"));
        let events = evener.events();
        let event = events.iter().find(|event| event["event"] == "request").unwrap();
        assert_eq!((&event["status"], &event["refusal"]), (&499.into(), &serde_json::Value::Null), "{event}");
    }
}

#[test]
fn an_upload_to_a_backend_with_http2_ends_with_its_client() {
    let backend = Backend::held();
    let inner = start(&site("", "", "", &[&backend]));
    let outer = listener("") + "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let address = ([127, 0, 0, 1], inner.port("web")).into();
    let outer = start(&(outer + &pool_of("web", address, "http = { version = \"2\" }")));
    let mut client = Peer::of(outer.port("web"));
    client.send(request("POST", "/", "content-length: 100\r\n") + "half");
    let mut server = Peer::on(backend.take());
    server.head();
    reset(client.0.into_inner());
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut server.0, &mut rest);
    assert!(rest.len() < 100, "{rest:?}");
    // What was kept for it is free again: the same connection carries others.
    let mut another = Peer::of(outer.port("web"));
    let _server = first_answer(&mut another, &backend);
}
