//! Who may come in: addresses, limits, and what a PROXY header says of a client.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use harness::{
    Backend, Evener, NO_CHECKS, SOON, breathe, config, connect, connect_from, ending, exchange, holds_for, is_refused,
    now, read_name, reset, try_connect, try_connect_from, wait_until, who, who_from,
};

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn start(listener_keys: &str, pool_keys: &str, backend: &Backend) -> Evener {
    Evener::start(&config(listener_keys, &format!("{NO_CHECKS}{pool_keys}"), &[backend.entry("")]))
}

fn source(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 0, last)
}

#[test]
fn only_allowed_sources_come_in_and_deny_wins() {
    let backend = Backend::named("a");
    let evener = start("allow = [\"127.9.0.0/24\"]\ndeny = [\"127.9.0.7/32\", \"127.9.0.64/26\"]", "", &backend);
    let port = evener.port("web");
    for (last, welcome) in [(1, true), (7, false), (8, true), (63, true), (64, false), (127, false), (128, true)] {
        assert_eq!(who_from(source(last), port).is_ok(), welcome, "127.9.0.{last}");
    }
    assert!(who(port).is_err(), "127.0.0.1 is not on the list");
    evener.wait_for_endings(4, "denied");
    assert_eq!(backend.accepted(), 4, "no backend saw a refused client");
}

#[test]
fn without_allow_all_but_the_denied_come_in() {
    let backend = Backend::named("a");
    let evener = start("deny = [\"127.9.0.0/16\"]", "", &backend);
    assert!(who(evener.port("web")).is_ok());
    assert!(who_from(source(1), evener.port("web")).is_err());
}

#[test]
fn a_listener_takes_max_connections_and_no_more() {
    let backend = Backend::named("a");
    let evener = start("max_connections = 3", "", &backend);
    let mut staying: Vec<TcpStream> = (0..3).map(|_| stay(connect(evener.port("web")))).collect();
    for _ in 0..5 {
        assert!(is_refused(try_connect(evener.port("web"))));
    }
    evener.wait_for_endings(5, "max_connections");
    staying.iter_mut().for_each(|stream| assert_eq!(exchange(stream, b"mine").unwrap(), b"mine"));
    drop(staying.pop());
    wait_until(SOON, "there is room again", || who(evener.port("web")).is_ok());
}

#[test]
fn the_process_takes_max_connections_over_all_listeners() {
    let backend = Backend::named("a");
    let second = "[listener.other]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    let file = config("", NO_CHECKS, &[backend.entry("")]);
    let evener = Evener::start(&format!("[process]\nmax_connections = 4\n\n{second}\n{file}"));
    let mut staying: Vec<TcpStream> = (0..2).map(|_| stay(connect(evener.port("web")))).collect();
    staying.extend((0..2).map(|_| stay(connect(evener.port("other")))));
    assert!(who(evener.port("web")).is_err() && who(evener.port("other")).is_err());
    evener.wait_for_endings(2, "max_connections");
    staying.clear();
    wait_until(SOON, "there is room again", || who(evener.port("other")).is_ok());
}

#[test]
fn one_client_has_a_limit_of_its_own() {
    let backend = Backend::named("a");
    let evener = start("per_client = { connections = 2 }", "", &backend);
    let port = evener.port("web");
    let mut staying: Vec<TcpStream> = (0..2).map(|_| stay(connect_from(source(1), port))).collect();
    assert!(who_from(source(1), port).is_err());
    assert!(who_from(source(2), port).is_ok(), "another client is not concerned");
    evener.wait_for_endings(1, "limited");
    reset(staying.pop().unwrap());
    wait_until(SOON, "there is room again", || who_from(source(1), port).is_ok());
}

#[test]
fn a_rate_allows_a_burst_of_one_period_and_refills() {
    let backend = Backend::named("a");
    let evener = start("per_client = { rate = \"10/s\" }", "", &backend);
    let port = evener.port("web");
    let begun = now();
    let welcome = (0..30).filter(|_| who_from(source(1), port).is_ok()).count();
    let refilled = (begun.elapsed().as_secs_f64() * 10.0).ceil() as usize;
    assert!((10..=10 + refilled).contains(&welcome), "{welcome} of 30 at 10/s in {:?}", begun.elapsed());
    assert!(who_from(source(2), port).is_ok(), "another client is not concerned");
    let again = now();
    wait_until(SOON, "it refills", || who_from(source(1), port).is_ok());
    assert!(again.elapsed() < Duration::from_millis(500), "continuously, not once a second: {:?}", again.elapsed());
    evener.wait_for_endings(30 - welcome, "limited");
}

#[test]
fn the_backend_is_told_the_client_in_text() {
    let backend = Backend::recorder();
    let evener = start("", "send_proxy = \"v1\"", &backend);
    let mut client = connect_from(source(5), evener.port("web"));
    let from = client.local_addr().unwrap().port();
    client.write_all(b"hello").unwrap();
    let expected = format!("PROXY TCP4 127.9.0.5 127.0.0.1 {from} {}\r\nhello", evener.port("web"));
    wait_until(SOON, "the backend has it", || backend.records().first().is_some_and(|got| got.len() >= expected.len()));
    assert_eq!(String::from_utf8_lossy(&backend.records()[0]), expected);
}

#[test]
fn the_backend_is_told_the_client_in_binary_even_before_the_client_speaks() {
    let backend = Backend::recorder();
    let evener = start("", "send_proxy = \"v2\"", &backend);
    let client = connect_from(source(5), evener.port("web"));
    let from = client.local_addr().unwrap().port();
    wait_until(SOON, "the backend has it", || backend.records().first().is_some_and(|got| got.len() >= 28));
    let expected = v2(0x21, 0x11, &v4_block([127, 9, 0, 5], [127, 0, 0, 1], from, evener.port("web")));
    assert_eq!(backend.records()[0][..16], expected[..16], "PROXY, TCP over IPv4, 12 bytes");
    assert_eq!(backend.records()[0][16..28], expected[16..28]);
}

/// A listener that wants a header from everybody here and passes what it says on as text.
fn believing(backend: &Backend) -> Evener {
    start("accept_proxy = [\"127.0.0.0/8\"]", "send_proxy = \"v1\"", backend)
}

#[test]
fn a_header_is_understood_wherever_it_is_torn() {
    let text = b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 2222\r\n".to_vec();
    let binary = v2(0x21, 0x11, &v4_block([192, 0, 2, 1], [198, 51, 100, 2], 1111, 2222));
    let with_more =
        v2(0x21, 0x11, &[v4_block([192, 0, 2, 1], [198, 51, 100, 2], 1111, 2222), vec![4, 0, 3, 1, 2, 3]].concat());
    for header in [text, binary, with_more] {
        let backend = Backend::recorder();
        let evener = believing(&backend);
        let port = evener.port("web");
        let whole = [header.as_slice(), b"payload"].concat();
        let mut clients = Vec::new();
        for tear in 1..whole.len() {
            let mut client = connect(port);
            client.write_all(&whole[..tear]).unwrap();
            breathe();
            client.write_all(&whole[tear..]).unwrap();
            clients.push(client);
        }
        let expected = b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 2222\r\npayload";
        wait_until(SOON, "the backend has all", || {
            backend.records().len() == clients.len() && backend.records().iter().all(|got| got.len() >= expected.len())
        });
        for got in backend.records() {
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
        }
    }
}

#[test]
fn a_header_byte_by_byte_is_a_header() {
    let backend = Backend::recorder();
    let evener = believing(&backend);
    let mut client = connect(evener.port("web"));
    for byte in b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 1\r\nx" {
        client.write_all(&[*byte]).unwrap();
        breathe();
    }
    let expected = "PROXY TCP6 2001:db8::1 2001:db8::2 65535 1\r\nx";
    wait_until(SOON, "the backend has it", || backend.records().first().is_some_and(|got| got.len() >= expected.len()));
    assert_eq!(String::from_utf8_lossy(&backend.records()[0]), expected);
}

#[test]
fn unknown_and_local_mean_the_connections_own_addresses() {
    let backend = Backend::recorder();
    let evener = believing(&backend);
    let local = v2(0x20, 0x00, &[]);
    let local_with_addresses = v2(0x20, 0x11, &v4_block([192, 0, 2, 1], [192, 0, 2, 2], 1, 2));
    for header in
        [b"PROXY UNKNOWN\r\n".to_vec(), b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), local, local_with_addresses]
    {
        let before = backend.records().len();
        let mut client = connect_from(source(9), evener.port("web"));
        let from = client.local_addr().unwrap().port();
        client.write_all(&header).unwrap();
        client.write_all(b"x").unwrap();
        let expected = format!("PROXY TCP4 127.9.0.9 127.0.0.1 {from} {}\r\nx", evener.port("web"));
        wait_until(SOON, "the backend has it", || {
            backend.records().get(before).is_some_and(|got| got.len() >= expected.len())
        });
        assert_eq!(String::from_utf8_lossy(&backend.records()[before]), expected);
    }
}

#[test]
fn what_is_no_header_is_refused_before_any_backend() {
    let backend = Backend::recorder();
    let evener = believing(&backend);
    let mut wrong_version = v2(0x31, 0x11, &v4_block([1, 1, 1, 1], [2, 2, 2, 2], 1, 2));
    let too_short = v2(0x21, 0x11, &[1, 2, 3]);
    let unknown_command = v2(0x2F, 0x11, &v4_block([1, 1, 1, 1], [2, 2, 2, 2], 1, 2));
    wrong_version.extend_from_slice(b"x");
    let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 4096]].concat();
    let refused: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1111\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.300 192.0.2.2 1111 2222\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 65536\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1111 2222\r\n".to_vec(),
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1111 2222\r\n".to_vec(),
        b"proxy TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n".to_vec(),
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1111 2222\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c".to_vec(),
        wrong_version,
        too_short,
        unknown_command,
        endless,
    ];
    let count = refused.len();
    for bytes in refused {
        let mut client = connect(evener.port("web"));
        let _ = client.write_all(&bytes);
        assert_eq!(ending(&mut client).1, 0, "{:?}", String::from_utf8_lossy(&bytes));
    }
    evener.wait_for_endings(count, "bad_proxy_header");
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_peer_that_sends_half_a_header_and_ends_is_refused() {
    let backend = Backend::recorder();
    let evener = believing(&backend);
    let mut client = connect(evener.port("web"));
    client.write_all(b"PROXY TCP4 192.0.2.1").unwrap();
    harness::shut_write(&client);
    assert_eq!(ending(&mut client).1, 0);
    wait_until(SOON, "it is logged", || evener.events().len() == 1);
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_header_from_a_peer_without_trust_is_never_believed() {
    let backend = Backend::recorder();
    let evener = start("accept_proxy = [\"10.99.0.0/16\"]", "send_proxy = \"v1\"", &backend);
    let mut client = connect(evener.port("web"));
    let _ = client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\nx");
    // It is payload or a refusal; what the backend is told is the peer's own address.
    wait_until(SOON, "it arrives or is refused", || {
        !evener.events().is_empty() || backend.records().first().is_some_and(|got| got.len() > 60)
    });
    for got in backend.records() {
        assert!(got.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "), "{:?}", String::from_utf8_lossy(&got));
    }
}

#[test]
fn the_address_in_a_header_is_the_one_that_is_judged() {
    let backend = Backend::recorder();
    let evener = start("accept_proxy = [\"127.0.0.0/8\"]\ndeny = [\"192.0.2.0/24\"]", "", &backend);
    let mut denied = connect(evener.port("web"));
    denied.write_all(b"PROXY TCP4 192.0.2.77 198.51.100.2 1111 2222\r\nx").unwrap();
    assert_eq!(ending(&mut denied).1, 0);
    evener.wait_for_endings(1, "denied");
    let mut welcome = connect(evener.port("web"));
    welcome.write_all(b"PROXY TCP4 198.51.100.77 198.51.100.2 1111 2222\r\nx").unwrap();
    wait_until(SOON, "the backend has it", || backend.records() == [b"x".to_vec()]);
    drop(welcome);
    wait_until(SOON, "it is logged", || evener.events().len() == 2);
    let event = evener.events().pop().unwrap();
    assert!(event["client"].as_str().unwrap().starts_with("198.51.100.77"), "{event}");
}

#[test]
fn refusing_is_cheap_and_leaves_the_others_alone() {
    let backend = Backend::echo();
    let evener = start("deny = [\"127.9.0.0/16\"]", "", &backend);
    let mut staying = connect(evener.port("web"));
    holds_for(Duration::from_millis(500), "the welcome one is served", || {
        assert!(is_refused(try_connect_from(source(1), evener.port("web"))));
        exchange(&mut staying, b"mine").is_ok()
    });
}

fn v4_block(from: [u8; 4], to: [u8; 4], from_port: u16, to_port: u16) -> Vec<u8> {
    [from.as_slice(), &to, &from_port.to_be_bytes(), &to_port.to_be_bytes()].concat()
}

/// The PROXY protocol's section 2.2: signature, version and command, family, length, block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[command, family], &length, block].concat()
}

/// Proves that the connection is served.
fn stay(mut stream: TcpStream) -> TcpStream {
    assert_eq!(read_name(&mut stream).unwrap(), "a");
    stream
}
