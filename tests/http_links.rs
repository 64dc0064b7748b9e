//! Connections to backends: how they are kept, shared and given up, and how one is found whose other end is gone.
#![allow(clippy::unwrap_used)]

#[path = "harness/frames.rs"]
mod frames;
mod harness;
#[path = "harness/wire.rs"]
mod wire;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use frames::{Client, DATA, HEADERS, Server, answer_to, status};
use harness::http::{Peer, first_answer, get, site};
use harness::{Backend, Evener, SOON, free_port, has_keepalive_timer, holds_for, wait_until};
use wire::{PEERS, at_the_far_end, run};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

/// One backend that speaks HTTP/2.
fn start_http2(route_keys: &str, pool_keys: &str, backend: &Backend) -> Evener {
    start(&site("", route_keys, &format!("http = {{ version = \"2\"{pool_keys} }}"), &[backend]))
}

/// A client that is told each status in full, for [`status`] knows no table (RFC 9113, 6.5.2).
fn client(evener: &Evener) -> Client {
    const HEADER_TABLE_SIZE: u16 = 1;
    Client::of(evener.port("web"), &[(HEADER_TABLE_SIZE, 0)])
}

// --- Whether the other end is there -------------------------------------------------------------------------------------

#[test]
fn both_sides_of_a_request_are_probed_unless_the_listener_says_otherwise() {
    let backend = Backend::held();
    for (keys, is_probed) in [("", true), ("keepalive = false", false)] {
        let evener = start(&site(keys, "", "", &[&backend]));
        let mut client = Peer::of(evener.port("web"));
        let mut server = first_answer(&mut client, &backend);
        for other_end in [client.stream(), server.stream()] {
            // That of evener is where this one leads to.
            let (local, remote) = (other_end.peer_addr().unwrap(), other_end.local_addr().unwrap());
            wait_until(SOON, "what was sent is acknowledged, and the timer is one of keep-alive or none", || {
                has_keepalive_timer(local, remote) == is_probed
            });
        }
    }
}

#[test]
fn a_backend_that_vanishes_while_it_is_sent_a_request_is_found() {
    let test = "a_backend_that_vanishes_while_it_is_sent_a_request_is_found";
    at_the_far_end(test, "inside_a_namespace_that_is_cut_off");
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_namespace_that_is_cut_off() {
    let near = std::env::var("EVENER_NEAR").unwrap();
    let backend = Backend::on(&format!("{PEERS}:0"), "sink", |stream, shared| {
        let mut peer = Peer::on(stream.try_clone()?);
        shared.keep(&peer.head());
        std::io::copy(&mut peer.0, &mut std::io::sink()).map(drop)
    });
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("web.sock");
    let file = site("", "", "connect = { user_timeout = \"1s\" }", &[&backend]);
    let file = ONE_THREAD.to_owned() + &file.replace("127.0.0.1:0", &format!("unix:{}", door.display()));
    let _evener = Evener::plan(&file).under(&["ip", "netns", "exec", &near]).start();
    // A socket in a folder is at both ends of the wire.
    let mut client = UnixStream::connect(&door).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\n").unwrap();
    wait_until(SOON, "the request has come", || !backend.requests().is_empty());
    run("ip", &["link", "set", "wire", "down"]);
    client.write_all(&[b'x'; 500]).unwrap();
    // Long before the request's own 30 seconds are over, and the kernel's quarter of an hour.
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 502");
}

#[test]
fn a_shared_connection_on_which_a_request_has_timed_out_gets_no_other_one_until_something_is_heard() {
    let backend = Backend::held();
    let evener = start_http2("timeout = { request = \"500ms\" }", "", &backend);
    let mut client = client(&evener);
    let goes_on = client.get(&[]);
    let mut server = Server::on(backend.take());
    let stream = server.request();
    server.answer(stream, false);
    assert_eq!(status(&client.until(answer_to(goes_on)).unwrap()), 200);
    // One that takes long, on a connection on which something comes, is just slow.
    let slow = client.get(&[]);
    server.request();
    server.ping();
    assert_eq!(status(&client.until(answer_to(slow)).unwrap()), 504);
    let silent = client.get(&[]);
    server.request();
    assert_eq!(status(&client.until(answer_to(silent)).unwrap()), 504);
    let next = client.get(&[]);
    let mut other = Server::on(backend.take());
    let other_stream = other.request();
    other.answer(other_stream, true);
    assert_eq!(status(&client.until(answer_to(next)).unwrap()), 200);
    // What was on the first one has lost nothing, and with it that one ends.
    server.finish(stream, b"late");
    let last = client.until(|frame| frame.stream == goes_on && frame.kind == DATA).unwrap();
    assert_eq!(last.payload, b"late");
    assert!(server.ends());
    assert_eq!(backend.accepted(), 2);
}

// --- For how long it is kept ----------------------------------------------------------------------------------------------

#[test]
fn a_shared_connection_ends_once_it_has_carried_nothing_for_its_time() {
    let backend = Backend::held();
    let evener = start_http2("", ", idle_timeout = \"1s\"", &backend);
    let mut client = client(&evener);
    let stream = client.get(&[]);
    let mut server = Server::on(backend.take());
    let asked = server.request();
    server.answer(asked, false);
    assert_eq!(status(&client.until(answer_to(stream)).unwrap()), 200);
    // One of its requests is not over: it is not idle, however long that takes.
    holds_for(Duration::from_millis(2500), "it is there", || {
        server.ping();
        true
    });
    let other = client.get(&[]);
    let other_asked = server.request();
    server.answer(other_asked, true);
    assert_eq!(status(&client.until(answer_to(other)).unwrap()), 200);
    server.finish(asked, b"all");
    assert!(server.ends());
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn connections_of_the_version_before_a_reload_are_not_kept_for_ever() {
    let backend = Backend::held();
    let bind = format!("bind = \"127.0.0.1:{}\"", free_port());
    let file = |version: &str| {
        let keys = format!("http = {{ version = \"{version}\", idle_timeout = \"1s\" }}");
        ONE_THREAD.to_owned() + &site("", "", &keys, &[&backend]).replace("bind = \"127.0.0.1:0\"", &bind)
    };
    let evener = Evener::start(&file("2"));
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/"));
    let mut shared = Server::on(backend.take());
    let stream = shared.request();
    shared.answer(stream, true);
    assert_eq!(client.response().status(), 200);
    evener.rewrite(&file("1.1"));
    evener.cli_ok(&["reload"]);
    let mut own = first_answer(&mut client, &backend);
    evener.rewrite(&file("2"));
    evener.cli_ok(&["reload"]);
    assert!(shared.ends() && own.is_over());
}

// --- How it is made -------------------------------------------------------------------------------------------------------

#[test]
fn requests_that_come_at_once_share_a_connection_from_the_first_on() {
    let backend = Backend::held();
    let evener = start_http2("", "", &backend);
    let mut client = client(&evener);
    for _ in 0..20 {
        client.get(&[]);
    }
    let mut server = Server::on(backend.take());
    for _ in 0..20 {
        let stream = server.request();
        server.answer(stream, true);
    }
    for _ in 0..20 {
        assert_eq!(status(&client.until(|frame| frame.kind == HEADERS).unwrap()), 200);
    }
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn a_failure_to_connect_is_one_for_all_who_wait_whoever_began_it() {
    let hole = Backend::black_hole();
    let evener = start_http2("", " }\nconnect = { timeout = \"2s\", attempts = 1", &hole);
    let has = |count: u64| {
        wait_until(SOON, "the requests wait", || evener.backend("web", "hole")["connections"]["active"] == count)
    };
    let [mut first, mut second] = [(); 2].map(|()| client(&evener));
    for _ in 0..5 {
        first.get(&[]);
    }
    has(5);
    for _ in 0..5 {
        second.get(&[]);
    }
    has(10);
    drop(first);
    for _ in 0..5 {
        assert_eq!(status(&second.until(|frame| frame.kind == HEADERS).unwrap()), 504);
    }
    assert_eq!(evener.backend("web", "hole")["connect_failures"], 1);
}
