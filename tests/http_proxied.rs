//! HTTP behind a proxy that speaks the PROXY protocol: whom requests come from then, and who is not let in.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use harness::http::{Message, Peer, get, site};
use harness::tls::{Authority, try_secure};
use harness::{
    Backend, Evener, SOON, breathe, connect, connect_from, cpu_time, ending, holds_for, require, shut_write, wait_until,
};

/// Everybody here speaks for others.
const ALL: &str = "accept_proxy = [\"127.0.0.0/8\"]";
/// Only 127.9.0.1 does.
const ONE: &str = "accept_proxy = [\"127.9.0.1/32\"]";
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 2222\r\n";
/// The same in version 2, with a type-length-value behind it.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\xc0\0\x02\x01\xc6\x33\x64\x02\x04\x57\x08\xae\x04\0\x03abc";

fn start(keys: &str, backend: &Backend) -> Evener {
    Evener::start(&format!("[process]\nworkers = 1\n{}", site(keys, "", "", &[backend])))
}

/// A client of this listener, with a header before its first request.
fn behind(evener: &Evener, header: &[u8]) -> Peer {
    let mut client = Peer::of(evener.port("web"));
    client.send(header);
    client
}

fn refused(evener: &Evener, bytes: &[u8]) {
    let mut client = connect(evener.port("web"));
    let _ = client.write_all(bytes);
    assert_eq!(ending(&mut client).1, 0, "{:?}", String::from_utf8_lossy(bytes));
}

/// Who the last request's backend was told the client is.
#[track_caller]
fn told(backend: &Backend) -> String {
    let seen: Message = backend.requests().pop().unwrap();
    seen.field("x-forwarded-for").unwrap().to_owned()
}

#[test]
fn the_client_is_the_one_that_the_header_names() {
    let backend = Backend::webs("b");
    let evener = start(ALL, &backend);
    for header in [HEADER, BINARY] {
        let mut client = behind(&evener, header);
        for path in ["/1", "/2"] {
            assert_eq!(client.ask(get(path)).text(), "b");
            assert_eq!(told(&backend), "192.0.2.1", "for all requests of the connection");
        }
    }
    let seen = backend.requests().pop().unwrap();
    assert_eq!(seen.field("forwarded"), Some("for=192.0.2.1;proto=http"));
    wait_until(SOON, "all are logged", || evener.events().len() == 4);
    for event in evener.events() {
        assert_eq!(
            (event["client"].as_str(), event["local"].as_str()),
            (Some("192.0.2.1:1111"), Some("198.51.100.2:2222"))
        );
    }
}

#[test]
fn a_header_is_understood_wherever_it_is_torn() {
    let backend = Backend::webs("b");
    let evener = start(ALL, &backend);
    for header in [HEADER, BINARY] {
        let whole = [header, get("/").as_bytes()].concat();
        let torn: Vec<Peer> = (1..=header.len() + 1)
            .map(|tear| {
                let mut client = behind(&evener, &whole[..tear]);
                breathe();
                client.send(&whole[tear..]);
                client
            })
            .collect();
        for mut client in torn {
            assert_eq!(client.response().text(), "b");
            assert_eq!(told(&backend), "192.0.2.1");
        }
    }
}

#[test]
fn unknown_means_the_connections_own_address() {
    let backend = Backend::webs("b");
    let evener = start(ALL, &backend);
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut client = Peer::on(connect_from([127, 9, 0, 9].into(), evener.port("web")));
        client.send(header);
        assert_eq!(client.ask(get("/")).text(), "b");
        assert_eq!(told(&backend), "127.9.0.9");
    }
}

#[test]
fn only_those_who_may_are_believed_and_they_must_send_one() {
    let backend = Backend::webs("b");
    let evener = start(ONE, &backend);
    let from = |last: u8| Peer::on(connect_from([127, 9, 0, last].into(), evener.port("web")));
    let mut direct = from(2);
    assert_eq!(direct.ask(get("/")).text(), "b", "others need none");
    assert_eq!(told(&backend), "127.9.0.2");
    let mut liar = from(2);
    liar.send([HEADER, get("/").as_bytes()].concat());
    assert_eq!(liar.response().status(), 400, "their header is no request");
    let mut silent = from(1);
    silent.send(get("/"));
    assert!(silent.is_over());
    evener.wait_for_endings(1, "bad_proxy_header");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn what_is_no_header_is_refused_before_any_backend() {
    let backend = Backend::webs("b");
    let evener = start(ALL, &backend);
    let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 4096]].concat();
    let wrong: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PROXY TCP4 192.0.2.300 192.0.2.2 1111 2222\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        &endless,
    ];
    wrong.iter().for_each(|bytes| refused(&evener, bytes));
    evener.wait_for_endings(wrong.len(), "bad_proxy_header");
    let mut half = connect(evener.port("web"));
    half.write_all(&HEADER[..20]).unwrap();
    shut_write(&half);
    assert_eq!(ending(&mut half).1, 0);
    evener.wait_for_endings(wrong.len() + 1, "bad_proxy_header");
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_header_that_does_not_come_costs_nothing_but_its_time() {
    let backend = Backend::webs("b");
    let evener = start(ALL, &backend);
    let mut slow = connect(evener.port("web"));
    slow.write_all(&HEADER[..20]).unwrap();
    let before = cpu_time(evener.pid());
    evener.wait_for_endings(1, "bad_proxy_header");
    assert_eq!(ending(&mut slow).1, 0);
    let spent = cpu_time(evener.pid()) - before;
    assert!(spent < SOON / 20, "{spent:?} for waiting");
}

#[test]
fn the_address_in_a_header_is_the_one_that_is_judged() {
    let backend = Backend::webs("b");
    let keys =
        format!("{ALL}\nallow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.66/32\"]\nper_client = {{ connections = 1 }}");
    let evener = start(&keys, &backend);
    let of = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.2 1111 2222\r\n").into_bytes();
    refused(&evener, &of(66));
    refused(&evener, b"PROXY TCP4 198.51.100.1 198.51.100.2 1111 2222\r\n");
    evener.wait_for_endings(2, "denied");
    let mut first = behind(&evener, &of(1));
    assert_eq!(first.ask(get("/")).text(), "b");
    refused(&evener, &of(1));
    evener.wait_for_endings(1, "limited");
    assert_eq!(behind(&evener, &of(2)).ask(get("/")).text(), "b", "another client of the same proxy");
    drop(first);
    wait_until(SOON, "its place is free again", || {
        let mut again = behind(&evener, &of(1));
        again.stream().write_all(get("/").as_bytes()).is_ok()
            && again.try_response().is_ok_and(|answer| answer.is_some())
    });
    let refusals: Vec<_> = evener.events().into_iter().filter(|event| event["reason"] == "denied").collect();
    assert_eq!(refusals[0]["client"], "192.0.2.66:1111", "the log says who it was");
}

#[test]
fn tls_begins_behind_the_header_together_with_it_or_not() {
    let (authority, backend) = (Authority::new(), Backend::webs("b"));
    let evener = start(&format!("{ALL}\ntls = {{ {} }}", authority.sign(&["a.test"]).keys()), &backend);
    let config = authority.client(None);
    let greet = |mut stream: TcpStream| {
        stream.write_all(HEADER).unwrap();
        let mut client = try_secure(stream, &config, "a.test").unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(told(&backend), "192.0.2.1");
    };
    greet(connect(evener.port("web")));
    if !require("tls_begins_behind_the_header_together_with_it_or_not", &["curl"]) {
        return;
    }
    let (port, mut command) = (evener.port("web"), Command::new("curl"));
    command.args(["-sS", "-m", "30", "--haproxy-protocol", "--http2", "--cacert"]).arg(authority.file());
    command.args(["--resolve", &format!("a.test:{port}:127.0.0.1"), &format!("https://a.test:{port}/")]);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b", "{output:?}");
    assert_eq!(told(&backend), "127.0.0.1", "curl speaks for itself");
}

#[test]
fn trusted_proxies_are_looked_for_behind_the_header() {
    let backend = Backend::webs("b");
    let evener = start(&format!("{ALL}\ntrusted_proxies = [\"192.0.2.0/24\"]"), &backend);
    let mut client = behind(&evener, HEADER);
    let request = harness::http::request("GET", "/", "x-forwarded-for: 203.0.113.5\r\n");
    assert_eq!(client.ask(&request).text(), "b");
    assert_eq!(told(&backend), "203.0.113.5, 192.0.2.1");
    let mut other = behind(&evener, b"PROXY TCP4 198.51.100.1 198.51.100.2 1111 2222\r\n");
    assert_eq!(other.ask(&request).text(), "b");
    assert_eq!(told(&backend), "198.51.100.1", "that the peer is of 127.0.0.0/8 says nothing");
}

#[test]
fn who_sends_its_header_while_the_process_ends_is_not_waited_for() {
    let backend = Backend::webs("b");
    let mut evener = start(ALL, &backend);
    let mut client = connect(evener.port("web"));
    client.write_all(&HEADER[..20]).unwrap();
    holds_for(SOON / 100, "it waits for the rest", || evener.events().is_empty());
    evener.signal("TERM");
    assert!(evener.wait(SOON / 2).success());
}
