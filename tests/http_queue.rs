//! Requests that wait for a place on a backend: one line for all threads, and for connections of TCP.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use harness::http::{Peer, get, listener, reply, request, site};
use harness::{ALWAYS_UP, Backend, Evener, SOON, connect, holds_for, now, reset, wait_until};

const TWO_THREADS: &str = "[process]\nworkers = 2\n";
/// Who waits is served or has gone away long before.
const LONG: &str = "queue = { max = 10, timeout = \"60s\" }";

/// A backend that keeps the requests as they come, and answers one for each word that the sender gives.
fn gated(name: &str) -> (Backend, Sender<()>) {
    let (go, gate) = channel();
    let gate = Mutex::new(gate);
    let backend = Backend::web(name, move |_, stream| {
        let _ = gate.lock().unwrap().recv();
        stream.write_all(reply("200 OK", "").as_bytes())
    });
    (backend, go)
}

fn pool(queue: &str, backends: &[&Backend]) -> String {
    let entries: Vec<_> = backends.iter().map(|backend| backend.entry("max_connections = 1")).collect();
    format!("[pool.web]\nbackends = [{}]\n{ALWAYS_UP}{queue}\n", entries.join(", "))
}

/// Listener `web` for HTTP and listener `plain` for TCP, with the same pool.
fn both(route_keys: &str, queue: &str, backends: &[&Backend]) -> String {
    let plain = "[listener.plain]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\n";
    let route = format!("[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n{route_keys}\n");
    TWO_THREADS.to_owned() + plain + &listener("") + &route + &pool(queue, backends)
}

/// A client whose request has the only place.
fn holder(evener: &Evener) -> Peer {
    let client = asking(evener, "/holds");
    wait_until(SOON, "it has the place", || evener.active("web", "a") == 1);
    client
}

fn asking(evener: &Evener, path: &str) -> Peer {
    let mut client = Peer::of(evener.port("web"));
    client.send(get(path));
    client
}

/// Clients that wait, the first one first.
fn waiting(evener: &Evener, count: usize) -> Vec<Peer> {
    let wait = |at: usize| {
        let client = asking(evener, &format!("/{at}"));
        wait_until(SOON, "it waits", || evener.queue_length("web") == at as u64);
        client
    };
    (1..=count).map(wait).collect()
}

fn paths(backend: &Backend) -> Vec<String> {
    backend.requests().iter().map(|request| request.path().to_owned()).collect()
}

#[test]
fn requests_of_all_threads_are_served_in_the_order_in_which_they_came() {
    let (a, go) = gated("a");
    let evener = Evener::start(&both("", LONG, &[&a]));
    let mut clients = vec![holder(&evener)];
    clients.extend(waiting(&evener, 8));
    for (at, client) in clients.iter_mut().enumerate() {
        go.send(()).unwrap();
        assert_eq!(client.response().status(), 200);
        wait_until(SOON, "the next one is served", || paths(&a).len() == (at + 2).min(9));
    }
    assert_eq!(paths(&a), ["/holds", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"]);
    assert_eq!(evener.queue_length("web"), 0);
}

#[test]
fn the_limit_of_the_queue_is_one_for_all_threads() {
    let (a, go) = gated("a");
    let evener = Evener::start(&both("", "queue = { max = 3, timeout = \"60s\" }", &[&a]));
    let mut clients = vec![holder(&evener)];
    clients.extend(waiting(&evener, 3));
    for _ in 0..8 {
        assert_eq!(asking(&evener, "/one-too-many").response().status(), 503);
    }
    for client in &mut clients {
        go.send(()).unwrap();
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn a_request_and_a_connection_wait_in_one_line() {
    let (a, go) = gated("a");
    let evener = Evener::start(&both("", LONG, &[&a]));
    let mut first = holder(&evener);
    let mut plain = Peer::of(evener.port("plain"));
    wait_until(SOON, "the connection waits", || evener.queue_length("web") == 1);
    let mut last = asking(&evener, "/last");
    wait_until(SOON, "the request waits", || evener.queue_length("web") == 2);
    (0..3).for_each(|_| go.send(()).unwrap());
    assert_eq!(first.response().status(), 200);
    assert_eq!(plain.ask(get("/plain")).status(), 200);
    assert_eq!(evener.queue_length("web"), 1, "the connection holds its place until it ends");
    drop(plain);
    assert_eq!(last.response().status(), 200);
    assert_eq!(paths(&a), ["/holds", "/plain", "/last"]);
}

#[test]
fn the_end_of_a_tunnel_calls_who_waits() {
    let backend = Backend::held();
    let text = site("", "", LONG, &[&backend]).replace("name = \"held\"", "name = \"held\", max_connections = 1");
    let evener = Evener::start(&(TWO_THREADS.to_owned() + &text));
    let mut tunnel = Peer::of(evener.port("web"));
    tunnel.send(request("GET", "/chat", "connection: upgrade\r\nupgrade: websocket\r\n"));
    let mut far = Peer::on(backend.take());
    far.request().unwrap().unwrap();
    far.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().status(), 101);
    let mut next = asking(&evener, "/next");
    wait_until(SOON, "it waits", || evener.queue_length("web") == 1);
    drop((tunnel, far));
    let mut server = Peer::on(backend.take());
    assert_eq!(server.request().unwrap().unwrap().path(), "/next");
    server.send(reply("200 OK", "next"));
    assert_eq!(next.response().text(), "next");
}

#[test]
fn a_client_that_goes_away_leaves_the_line_to_the_others() {
    let (a, go) = gated("a");
    let evener = Evener::start(&both("", LONG, &[&a]));
    let mut first = holder(&evener);
    let mut clients = waiting(&evener, 3);
    reset(clients.remove(0).0.into_inner());
    wait_until(SOON, "two wait", || evener.queue_length("web") == 2);
    (0..3).for_each(|_| go.send(()).unwrap());
    assert_eq!(first.response().status(), 200);
    assert!(clients.iter_mut().all(|client| client.response().status() == 200));
    assert_eq!(paths(&a), ["/holds", "/2", "/3"]);
    drop(connect(evener.port("plain")));
    wait_until(SOON, "no place is held", || evener.active("web", "a") == 0);
}

#[test]
fn who_waits_is_served_by_a_backend_that_a_reload_brings() {
    let (a, go) = gated("a");
    let b = Backend::webs("b");
    let evener = Evener::start(&both("", LONG, &[&a]));
    let mut first = holder(&evener);
    let mut clients = waiting(&evener, 2);
    evener.rewrite(&both("", LONG, &[&a, &b]));
    evener.cli_ok(&["reload"]);
    assert!(clients.iter_mut().all(|client| client.response().text() == "b"));
    go.send(()).unwrap();
    assert_eq!(first.response().status(), 200);
}

#[test]
fn the_time_of_a_request_counts_in_the_queue_too() {
    let (a, go) = gated("a");
    let keys = "match = { path = \"/hurry\" }\ntimeout = { request = \"300ms\" }\n[[route]]\nname = \"rest\"\nlistener = \"web\"\npool = \"web\"";
    let evener = Evener::start(&both(keys, LONG, &[&a]));
    let mut first = holder(&evener);
    let began = now();
    assert_eq!(asking(&evener, "/hurry").response().status(), 503);
    assert!(began.elapsed() >= Duration::from_millis(250), "it waited");
    go.send(()).unwrap();
    assert_eq!(first.response().status(), 200);
    assert_eq!(paths(&a), ["/holds"]);
}

/// Longer than a body may stand still in these tests.
const WAIT: Duration = Duration::from_millis(3500);

#[test]
fn a_body_that_waits_in_the_queue_does_not_stand_still_and_has_its_time_from_when_it_is_read() {
    let backend = Backend::held();
    let text = site("", "timeout = { idle = \"2s\" }", LONG, &[&backend]);
    let text = text.replace("name = \"held\"", "name = \"held\", max_connections = 1");
    let evener = Evener::start(&("[process]\nworkers = 1\n".to_owned() + &text));
    let mut first = asking(&evener, "/first");
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    let mut second = Peer::of(evener.port("web"));
    second.send(request("POST", "/second", "content-length: 8\r\n") + "half");
    wait_until(SOON, "it waits", || evener.queue_length("web") == 1);
    holds_for(WAIT, "it waits on", || evener.queue_length("web") == 1);
    server.send(reply("200 OK", "first"));
    assert_eq!(first.response().text(), "first");
    assert_eq!(server.head().path(), "/second");
    // By now it has been looked at again.
    holds_for(Duration::from_millis(1200), "it is not cut", || evener.active("web", "held") == 1);
    second.send("half");
    let mut body = [0; 8];
    server.0.read_exact(&mut body).unwrap();
    server.send(reply("200 OK", "second"));
    assert_eq!((&body, second.response().text().as_str()), (b"halfhalf", "second"));
}

#[test]
fn a_body_does_not_stand_still_while_its_backend_is_connected_to() {
    let (hole, keys) = (Backend::black_hole(), "connect = { timeout = \"4s\", attempts = 1 }");
    let evener = Evener::start(&(TWO_THREADS.to_owned() + &site("", "timeout = { idle = \"1s\" }", keys, &[&hole])));
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(request("POST", "/", "content-length: 8\r\n") + "half").status(), 504);
}
