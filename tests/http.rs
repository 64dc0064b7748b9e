//! HTTP messages through evener, byte by byte: bodies both ways, framing, trailers, and what becomes of connections.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use harness::http::{Peer, chunked, get, post, reply, request, site};
use harness::{Backend, Evener, Pattern, SOON, connect, holds_for, memory_of, reset, wait_until, wait_until_steady};

const MIB: usize = 1024 * 1024;
const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn pattern(bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    Pattern::default().send(&mut body, bytes as u64).unwrap();
    body
}

fn start(backend: &Backend) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + &site("", "", "", &[backend])))
}

/// Sends the request's body back, framed as its path says.
fn mirror() -> Backend {
    Backend::web("mirror", |request, stream| {
        if request.path() == "/chunked" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            stream.write_all(&chunked(&request.body, ""))
        } else {
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len()).as_bytes())?;
            stream.write_all(&request.body)
        }
    })
}

// --- Bodies ------------------------------------------------------------------------------------------------------------

#[test]
fn bodies_pass_both_ways_byte_by_byte_with_a_length_and_in_chunks() {
    let backend = mirror();
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    let body = pattern(MIB);
    for path in ["/length", "/chunked"] {
        for is_chunked in [false, true] {
            let (fields, framed) = match is_chunked {
                true => ("transfer-encoding: chunked\r\n".to_owned(), chunked(&body, "")),
                false => (format!("content-length: {MIB}\r\n"), body.clone()),
            };
            let mut writing = client.stream().try_clone().unwrap();
            let answer = std::thread::scope(|scope| {
                scope.spawn(move || {
                    writing.write_all(request("POST", path, &fields).as_bytes()).unwrap();
                    writing.write_all(&framed).unwrap();
                });
                client.response()
            });
            assert_eq!(answer.status(), 200, "{path} {is_chunked}");
            assert!(answer.body == body, "{path} {is_chunked}: {} bytes came back", answer.body.len());
            let seen = backend.requests().pop().unwrap();
            assert!(seen.body == body, "{path} {is_chunked}: {} bytes went there", seen.body.len());
            assert_eq!(seen.field("content-length").is_none(), is_chunked, "the framing goes on as it came");
            assert_eq!(answer.field("content-length").is_none(), path == "/chunked", "and comes back so");
        }
    }
    assert_eq!(backend.accepted(), 1, "one connection carried all");
}

#[test]
fn a_response_without_framing_ends_with_the_connection() {
    let backend = Backend::web("closing", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")?;
        stream.shutdown(Shutdown::Both)
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(get("/")).text(), "all of it");
    assert_eq!(client.ask(get("/")).text(), "all of it", "the client's connection stays");
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn a_body_that_breaks_off_is_cut_for_the_client_too_and_the_log_says_so() {
    let backend = Backend::web("breaking", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")?;
        stream.shutdown(Shutdown::Both)
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/"));
    assert!(client.try_response().is_err(), "less came than was announced");
    wait_until(SOON, "the log tells it", || {
        evener.events().iter().any(|event| event["event"] == "request" && event["cut"] == "yes")
    });
}

#[test]
fn the_answer_to_head_has_the_length_that_get_would_have_and_no_body() {
    let backend = Backend::web("heads", |request, stream| match request.path() {
        "/length" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n"),
        "/none" => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"),
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    for (path, length) in
        [("/length", Some("1048576")), ("/none", None), ("/chunked", None), ("/length", Some("1048576"))]
    {
        client.send(request("HEAD", path, ""));
        let answer = client.response_to_head();
        assert_eq!((answer.status(), answer.field("content-length")), (200, length), "{path}");
    }
    assert!(backend.requests().iter().all(|request| request.start.starts_with("HEAD ")));
}

#[test]
fn answers_without_a_body_are_framed_right() {
    let backend = Backend::web("bare", |request, stream| match request.path() {
        "/204" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"),
        _ => stream.write_all(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\netag: \"1\"\r\n\r\n"),
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..2 {
        let answer = client.ask(get("/204"));
        assert_eq!((answer.status(), answer.field("content-length")), (204, None));
        let answer = client.ask(get("/304"));
        assert_eq!((answer.status(), answer.field("etag")), (304, Some("\"1\"")));
    }
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn trailers_pass_both_ways() {
    let backend = Backend::web("trailers", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")?;
        stream.write_all(&chunked(b"down", "x-sum: 2\r\n"))
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "te: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n"));
    client.send(chunked(b"up", "x-sum: 1\r\n"));
    let answer = client.response();
    let seen = backend.requests().pop().unwrap();
    assert_eq!((seen.text().as_str(), seen.field("te")), ("up", Some("trailers")));
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!(answer.text(), "down");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "2".to_owned())]);
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on_and_the_backend_is_not_asked_to() {
    let backend = mirror();
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "content-length: 4\r\nexpect: 100-continue\r\n"));
    assert_eq!(client.head().status(), 100);
    assert_eq!(client.ask("body").text(), "body");
    assert_eq!(backend.requests()[0].field("expect"), None);
}

#[test]
fn hints_of_a_backend_before_its_answer_do_no_harm() {
    let backend = Backend::web("hints", |_, stream| {
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
        stream.write_all(reply("200 OK", "answer").as_bytes())
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..2 {
        let mut answer = client.ask(get("/"));
        while answer.status() == 103 {
            answer = client.response();
        }
        assert_eq!(answer.text(), "answer");
    }
}

// --- As it comes ----------------------------------------------------------------------------------------------------------

#[test]
fn events_arrive_one_by_one_while_the_response_is_open() {
    let backend = Backend::held();
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/events"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    server.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(client.head().field("content-type"), Some("text/event-stream"), "the head comes before any event");
    for event in ["data: one\n\n", "data: two\n\n"] {
        server.send(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(client.chunk(), event.as_bytes());
    }
    server.send("0\r\n\r\n");
    assert_eq!(client.chunk(), b"");
}

#[test]
fn a_request_is_passed_on_while_it_comes() {
    let backend = Backend::held();
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "transfer-encoding: chunked\r\n"));
    let mut server = Peer::on(backend.take());
    assert_eq!(server.head().all("transfer-encoding"), ["chunked"]);
    for piece in ["one", "another"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(server.chunk(), piece.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(server.chunk(), b"");
    server.send(reply("200 OK", ""));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_client_that_does_not_read_holds_its_backend_back_and_costs_little() {
    let backend = Backend::on("127.0.0.1:0", "source", |stream, shared| {
        Peer::on(stream.try_clone()?).request()?;
        (&*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")?;
        shared.send_pattern(stream, 1 << 30)
    });
    let evener = start(&backend);
    let before = memory_of(evener.pid());
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/"));
    client.head();
    wait_until_steady(SOON, Duration::from_millis(300), "the backend is held back", || backend.sent());
    let grown = memory_of(evener.pid()).saturating_sub(before);
    assert!(grown < 4 * MIB as u64, "evener holds {grown} bytes more");
    assert!(backend.sent() < 64 * MIB as u64, "{} bytes left the backend", backend.sent());
}

#[test]
fn a_request_goes_on_while_its_client_does_not_read_the_response() {
    const RESPONSE: usize = 64 * MIB;
    let backend = Backend::on("127.0.0.1:0", "both", |stream, shared| {
        let mut from = Peer::on(stream.try_clone()?);
        let mut message = from.head();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                message.body = vec![0; 4 * MIB];
                from.0.read_exact(&mut message.body).unwrap();
                shared.keep(&message);
            });
            (&*stream).write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {RESPONSE}\r\n\r\n").as_bytes())?;
            shared.send_pattern(stream, RESPONSE as u64)
        })
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", &format!("content-length: {}\r\n", 4 * MIB)));
    wait_until(SOON, "the response begins", || backend.sent() > 0);
    wait_until_steady(SOON, Duration::from_millis(300), "the backend is held back", || backend.sent());
    assert!(backend.sent() < RESPONSE as u64);
    client.send(pattern(4 * MIB));
    wait_until(SOON, "the request has come", || !backend.requests().is_empty());
    assert!(backend.requests()[0].body == pattern(4 * MIB) && backend.sent() < RESPONSE as u64);
    assert_eq!(client.response().body.len(), RESPONSE);
}

#[test]
fn a_backend_that_does_not_read_holds_its_client_back_and_costs_little() {
    let backend = Backend::held();
    let evener = start(&backend);
    let before = memory_of(evener.pid());
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "content-length: 1073741824\r\n"));
    let mut server = Peer::on(backend.take());
    server.head();
    client.stream().set_nonblocking(true).unwrap();
    let (piece, mut sent) = (vec![0; MIB], 0);
    wait_until_steady(SOON, Duration::from_millis(300), "the client is held back", || {
        sent += client.stream().write(&piece).unwrap_or(0);
        sent
    });
    let grown = memory_of(evener.pid()).saturating_sub(before);
    assert!(grown < 4 * MIB as u64, "evener holds {grown} bytes more");
    assert!(sent < 64 * MIB, "{sent} bytes left the client");
}

// --- Connections ----------------------------------------------------------------------------------------------------------

#[test]
fn one_connection_of_a_client_carries_many_requests_and_so_does_one_to_the_backend() {
    let backend = Backend::webs("b");
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    for round in 0..50 {
        assert_eq!(client.ask(get(&format!("/{round}"))).text(), "b");
    }
    let mut another = Peer::of(evener.port("web"));
    assert_eq!(another.ask(get("/")).text(), "b");
    assert_eq!(backend.accepted(), 1, "the next client's request finds it too");
}

#[test]
fn requests_that_come_together_are_answered_in_their_order() {
    let backend = Backend::web("paths", |request, stream| stream.write_all(reply("200 OK", request.path()).as_bytes()));
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    let all: String =
        (0..20).map(|at| if at % 3 == 0 { post(&format!("/{at}"), "body") } else { get(&format!("/{at}")) }).collect();
    client.send(all);
    for at in 0..20 {
        assert_eq!(client.response().text(), format!("/{at}"));
    }
    let seen: Vec<String> = backend.requests().iter().map(|request| request.path().to_owned()).collect();
    assert_eq!(seen, (0..20).map(|at| format!("/{at}")).collect::<Vec<_>>());
}

#[test]
fn connection_close_ends_the_clients_connection_and_not_the_backends() {
    let backend = Backend::webs("b");
    let evener = start(&backend);
    for _ in 0..3 {
        let mut client = Peer::of(evener.port("web"));
        let answer = client.ask(request("GET", "/", "connection: close\r\n"));
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("b", Some("close")));
        assert!(client.is_over());
    }
    assert_eq!(backend.accepted(), 1);
    assert!(backend.requests().iter().all(|request| request.field("connection") != Some("close")));
}

#[test]
fn a_backend_that_wants_its_connection_closed_does_not_close_the_clients() {
    let backend = Backend::web("closing", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nb")?;
        stream.shutdown(Shutdown::Both)
    });
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    for round in 1..4 {
        let answer = client.ask(get("/"));
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("b", None));
        assert_eq!(backend.accepted(), round);
    }
}

#[test]
fn http_1_0_is_answered_without_chunks_and_kept_open_only_if_asked() {
    let backend = mirror();
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    let answer = client.ask("POST /chunked HTTP/1.0\r\nhost: a.test\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!((answer.text().as_str(), answer.all("transfer-encoding")), ("body", vec![]));
    assert!(client.is_over(), "without a length, the end is the end");
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..2 {
        let answer = client.ask("POST / HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nbody");
        assert_eq!(answer.text(), "body", "a host is not needed");
    }
    assert!(backend.requests().iter().all(|request| request.start.ends_with("HTTP/1.1")), "backends hear 1.1");
}

#[test]
fn a_client_that_gives_up_ends_its_request_at_the_backend_by_a_reset_or_an_end() {
    let backend = Backend::held();
    let evener = start(&backend);
    for (round, is_reset) in [(1, true), (2, false)] {
        let mut client = connect(evener.port("web"));
        client.write_all(get("/").as_bytes()).unwrap();
        let mut server = Peer::on(backend.take());
        server.request().unwrap().unwrap();
        if is_reset {
            reset(client)
        } else {
            drop(client)
        }
        assert!(server.is_over(), "nobody waits for the answer");
        let is_given_up = |event: &serde_json::Value| event["event"] == "request" && event["status"] == 499;
        wait_until(SOON, "the log tells it", || evener.events().iter().filter(|one| is_given_up(one)).count() == round);
    }
}

#[test]
fn an_idle_connection_rests_and_goes_on() {
    let backend = Backend::webs("b");
    let evener = start(&backend);
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(get("/1")).text(), "b");
    // Longer than it takes until an idle connection gives its buffers back.
    holds_for(Duration::from_millis(2500), "evener runs", || evener.port("web") > 0);
    assert_eq!(client.ask(get("/2")).text(), "b");
    assert_eq!(backend.accepted(), 1, "the backend's connection has rested too");
}

#[test]
fn unix_sockets_carry_http_on_both_sides() {
    use std::io::{BufReader, Read};
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front.sock"), folder.path().join("back.sock"));
    let listening = UnixListener::bind(&back).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listening.accept().unwrap();
        let mut head = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") {
            std::io::BufRead::read_line(&mut reader, &mut head).unwrap();
        }
        stream.write_all(reply("200 OK", "by unix").as_bytes()).unwrap();
        head
    });
    let listener = format!("[listener.web]\nbind = \"unix:{}\"\nprotocol = \"http\"\n", front.display());
    let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let pool = format!("[pool.web]\nbackends = [\"unix:{}\"]\n{}", back.display(), harness::ALWAYS_UP);
    let _evener = Evener::start(&format!("{listener}{route}{pool}"));
    let mut client = UnixStream::connect(&front).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(request("GET", "/", "connection: close\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("by unix"), "{answer}");
    assert!(serving.join().unwrap().starts_with("GET / HTTP/1.1\r\n"));
}
