//! Where both sides speak at once or stop half-way, and how backends come and go under requests.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::time::Duration;

use harness::http::{Peer, first_answer, get, listener, pool, post, reply, request, site};
use harness::{
    Backend, Evener, NO_CHECKS, SOON, connect, free_port, memory_of, now, reset, shut_write, try_connect, wait_until,
};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";
const MIB: u64 = 1024 * 1024;

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

// --- Half-way -----------------------------------------------------------------------------------------------------------------

#[test]
fn a_body_that_the_client_does_not_finish_is_never_whole_for_the_backend() {
    for is_reset in [false, true] {
        for framing in ["transfer-encoding: chunked\r\n", "content-length: 100\r\n"] {
            let backend = Backend::held();
            let evener = start(&site("", "", "", &[&backend]));
            let mut client = connect(evener.port("web"));
            client.write_all((request("POST", "/", framing) + "4\r\nbody\r\n").as_bytes()).unwrap();
            let mut server = Peer::on(backend.take());
            server.head();
            let mut seen = vec![0; 4];
            server.0.read_exact(&mut seen).unwrap();
            if is_reset {
                reset(client);
            } else {
                shut_write(&client);
            }
            let _ = server.0.read_to_end(&mut seen);
            let text = String::from_utf8_lossy(&seen).into_owned();
            assert!(!text.contains("0\r\n\r\n") && seen.len() < 100, "{framing:?} {is_reset}: {text:?}");
        }
    }
}

#[test]
fn an_answer_before_the_end_of_the_body_reaches_the_client_and_the_connection_is_not_used_again() {
    let backend = Backend::held();
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "content-length: 1000000\r\n") + "the start");
    let mut server = Peer::on(backend.take());
    server.head();
    server.send(reply("401 Unauthorized", "no"));
    let answer = client.response();
    assert_eq!((answer.status(), answer.text().as_str()), (401, "no"));
    let mut another = Peer::of(evener.port("web"));
    another.send(get("/next"));
    let mut fresh = Peer::on(backend.take());
    assert_eq!(fresh.request().unwrap().unwrap().path(), "/next", "by another connection");
    fresh.send(reply("200 OK", "next"));
    assert_eq!(another.response().text(), "next");
}

#[test]
fn a_post_on_a_connection_that_breaks_is_not_sent_twice_even_if_it_had_rested() {
    let backend = Backend::held();
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    let mut server = first_answer(&mut client, &backend);
    let began = now();
    wait_until(SOON, "a second has passed", || began.elapsed() > Duration::from_millis(1100));
    client.send(post("/pay", "once"));
    server.request().unwrap().unwrap();
    drop(server);
    assert_eq!(client.response().status(), 502);
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn what_a_backend_says_of_its_connection_stays_there() {
    let backend = Backend::web("b", |_, stream| {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nconnection: x-inside, keep-alive\r\nx-inside: 1\r\nproxy-authenticate: x\r\nupgrade: h2c\r\n\
              x-other: stays\r\ncontent-length: 0\r\n\r\n",
        )
    });
    let evener = start(&site("", "", "", &[&backend]));
    let answer = Peer::of(evener.port("web")).ask(get("/"));
    for gone in ["connection", "x-inside", "proxy-authenticate", "upgrade"] {
        assert!(answer.all(gone).is_empty(), "{gone}: {answer:?}");
    }
    assert_eq!(answer.field("x-other"), Some("stays"));
}

#[test]
fn an_endless_header_of_a_backend_is_502() {
    let backend = Backend::web("b", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        (0..100_000).try_for_each(|at| stream.write_all(format!("x-{at}: 1\r\n").as_bytes()))
    });
    let evener = start(&site("", "", "", &[&backend]));
    let before = memory_of(evener.pid());
    assert_eq!(Peer::of(evener.port("web")).ask(get("/")).status(), 502);
    assert!(memory_of(evener.pid()).saturating_sub(before) < 8 * MIB);
}

#[test]
fn an_idle_connection_to_a_backend_ends_after_its_time() {
    let backend = Backend::webs("b");
    let evener = start(&site("", "", "http = { idle_timeout = \"1s\" }", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(get("/")).status(), 200);
    assert_eq!(backend.open(), 1);
    wait_until(SOON, "it is closed, although nobody asks for anything", || backend.open() == 0);
    assert_eq!(client.ask(get("/")).status(), 200);
}

#[test]
fn many_idle_clients_cost_little() {
    harness::allow_many_files();
    let backend = Backend::webs("b");
    let evener = start(&site("", "", "", &[&backend]));
    let port = evener.port("web");
    let count = 1000;
    Peer::of(port).ask(get("/"));
    let before = memory_of(evener.pid());
    let mut clients: Vec<Peer> = (0..count).map(|_| Peer::of(port)).collect();
    for client in &mut clients {
        assert_eq!(client.ask(get("/")).status(), 200);
    }
    // They give their buffers back after a while of rest. How much the allocator keeps for later is a matter of luck.
    wait_until(SOON, "each costs less than 9 KiB", || {
        memory_of(evener.pid()).saturating_sub(before) < count * 9 * 1024
    });
    assert!(clients.iter_mut().all(|client| client.ask(get("/")).status() == 200));
}

// --- Backends that come and go ---------------------------------------------------------------------------------------------

#[test]
fn a_backend_whose_answers_are_errors_is_ejected_where_the_pool_says_so() {
    let sick = Backend::web("sick", |_, stream| stream.write_all(reply("500 Oops", "sick").as_bytes()));
    let well = Backend::webs("well");
    let entries = format!("{}, {}", sick.entry(""), well.entry(""));
    let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let pool = format!(
        "[pool.web]\nbackends = [{entries}]\n{NO_CHECKS}passive = {{ failures = 3, statuses = \"500-599\" }}\n"
    );
    let evener = start(&(listener("") + route + &pool));
    let mut client = Peer::of(evener.port("web"));
    wait_until(SOON, "it is ejected", || {
        client.ask(get("/"));
        evener.state("web", "sick") != "up"
    });
    let before = sick.requests().len();
    assert!((0..10).all(|_| client.ask(get("/")).text() == "well"));
    assert_eq!(sick.requests().len(), before);
}

#[test]
fn a_backend_that_is_drained_gets_no_further_request_of_the_same_connection() {
    let (a, b) = (Backend::webs("a"), Backend::webs("b"));
    let evener = start(&site("", "", "", &[&a, &b]));
    let mut client = Peer::of(evener.port("web"));
    client.ask(get("/"));
    evener.cli_ok(&["backend", "web/a", "drain"]);
    assert!((0..10).all(|_| client.ask(get("/")).text() == "b"), "the client's connection stays");
}

#[test]
fn a_full_pool_is_503_and_one_with_a_queue_waits() {
    let backend = Backend::held();
    let text = |queue: &str| {
        site("", "", queue, &[&backend]).replace("name = \"held\"", "name = \"held\", max_connections = 1")
    };
    let evener = start(&text(""));
    let mut first = Peer::of(evener.port("web"));
    first.send(get("/1"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    let answer = Peer::of(evener.port("web")).ask(get("/2"));
    assert_eq!((answer.status(), answer.field("content-type")), (503, Some("application/problem+json")));
    server.send(reply("200 OK", "1"));
    assert_eq!(first.response().text(), "1");
    drop(evener);
    let evener = start(&text("queue = { max = 1, timeout = \"300ms\" }"));
    let mut first = Peer::of(evener.port("web"));
    first.send(get("/1"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    let began = now();
    assert_eq!(Peer::of(evener.port("web")).ask(get("/2")).status(), 503);
    assert!(began.elapsed() >= Duration::from_millis(250), "it waited in the queue");
    drop(server);
    assert_eq!(first.response().status(), 502);
}

#[test]
fn a_listener_that_is_taken_away_lets_its_requests_finish() {
    let backend = Backend::held();
    let (old, other) = (free_port(), free_port());
    let both = |with_old: bool| {
        let front = |name: &str, port: u16| {
            format!(
                "[listener.{name}]\nbind = \"127.0.0.1:{port}\"\nprotocol = \"http\"\n[[route]]\nname = \"{name}\"\nlistener = \"{name}\"\npool = \"web\"\n"
            )
        };
        let fronts = if with_old { front("old", old) + &front("other", other) } else { front("other", other) };
        ONE_THREAD.to_owned() + &fronts + &pool("web", "", &[&backend])
    };
    let evener = Evener::start(&both(true));
    let (mut busy, mut idle) = (Peer::of(old), Peer::of(old));
    busy.send(get("/busy"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    evener.reload(&both(false));
    assert!(idle.is_over());
    wait_until(SOON, "nobody listens there", || try_connect(old).is_err());
    server.send(reply("200 OK", "finished"));
    let answer = busy.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("finished", Some("close")));
    assert!(busy.is_over());
    let mut still = Peer::of(other);
    still.send(get("/still"));
    assert_eq!(server.request().unwrap().unwrap().path(), "/still", "the backend's connection serves on");
}

#[test]
fn what_clients_do_wrong_neither_opens_a_breaker_nor_ejects_a_backend() {
    let backend = Backend::webs("well");
    let rules = "breaker = { error_rate = \"10%\", min_requests = 1, window = \"10s\", open_for = \"60s\" }\n\
                 passive = { failures = 1, eject = \"60s\", max_ejected = \"100%\" }";
    let pool = format!("[pool.web]\nbackends = [{}]\nhealth = {{ kind = \"none\" }}\n{rules}\n", backend.entry(""));
    let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\nlimits = { body = \"1KiB\" }\n";
    let evener = start(&(listener("") + route + &pool));
    let chunked = |rest: &str| request("POST", "/", "transfer-encoding: chunked\r\n") + rest;
    let long = format!("800\r\n{}\r\n", "x".repeat(0x800));
    for (sent, status) in [(chunked(&long), 413), (chunked("5\r\nabcde\r\nnonsense\r\n"), 400)] {
        let mut client = Peer::of(evener.port("web"));
        client.send(sent);
        assert!(client.try_response().ok().flatten().is_none_or(|answer| answer.status() == status), "{status}");
    }
    let mut client = Peer::of(evener.port("web"));
    client.send(post("/", "whole").trim_end_matches("le"));
    drop(client);
    for _ in 0..5 {
        assert_eq!(Peer::of(evener.port("web")).ask(get("/")).text(), "well");
    }
    assert_eq!(evener.state("web", backend.name()), "up");
}
