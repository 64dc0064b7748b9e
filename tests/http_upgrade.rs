//! Upgrades, byte by byte: nothing of another protocol passes before the backend has agreed to it.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use harness::http::{Peer, get, reply, request, site};
use harness::{ALWAYS_UP, Backend, Evener, SOON, free_port, holds_for, http_get, reset, shut_write, wait_until};

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: y\r\n\r\n";

fn start(backend: &Backend, route_keys: &str) -> Evener {
    Evener::start(&("[process]\nworkers = 1\n".to_owned() + &site("", route_keys, "", &[backend])))
}

/// A client and a backend that have switched.
fn switched(evener: &Evener, backend: &Backend) -> (Peer, Peer) {
    let mut client = Peer::of(evener.port("web"));
    client.send(request("GET", "/chat", UPGRADE));
    let mut server = Peer::on(backend.take());
    let seen = server.request().unwrap().unwrap();
    assert_eq!((seen.field("upgrade"), seen.field("connection")), (Some("websocket"), Some("upgrade")));
    server.send(SWITCH);
    let answer = client.response();
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!((answer.field("connection"), answer.field("sec-websocket-accept")), (Some("upgrade"), Some("y")));
    (client, server)
}

#[track_caller]
fn passes(from: &mut Peer, to: &mut Peer, bytes: &[u8]) {
    from.send(bytes);
    let mut came = vec![0; bytes.len()];
    to.0.read_exact(&mut came).unwrap();
    assert_eq!(came, bytes);
}

#[test]
fn after_the_switch_bytes_pass_both_ways_and_ends_too() {
    let backend = Backend::held();
    let evener = start(&backend, "");
    let (mut client, mut server) = switched(&evener, &backend);
    passes(&mut client, &mut server, b"\x81\x02hi");
    passes(&mut server, &mut client, &[b'x'; 300_000]);
    passes(&mut client, &mut server, get("/no-request").as_bytes());
    shut_write(client.stream());
    assert!(server.is_over());
    passes(&mut server, &mut client, b"the rest");
    drop(server);
    assert!(client.is_over());
    wait_until(SOON, "its place is free", || evener.active("web", "held") == 0);
}

#[test]
fn what_comes_before_the_backend_agrees_waits_for_that() {
    let backend = Backend::held();
    let evener = start(&backend, "");
    let mut client = Peer::of(evener.port("web"));
    client.send(request("GET", "/chat", UPGRADE) + "early");
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    server.stream().set_nonblocking(true).unwrap();
    holds_for(Duration::from_millis(300), "the backend hears nothing", || server.stream().read(&mut [0; 16]).is_err());
    server.stream().set_nonblocking(false).unwrap();
    server.send(SWITCH);
    assert_eq!(client.response().status(), 101);
    let mut early = [0; 5];
    server.0.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
}

#[test]
fn a_backend_that_does_not_agree_leaves_the_client_with_http() {
    let backend = Backend::web("plain", |request, stream| stream.write_all(reply("200 OK", request.path()).as_bytes()));
    let evener = start(&backend, "");
    let mut client = Peer::of(evener.port("web"));
    client.send(request("GET", "/chat", UPGRADE) + &get("/next?../admin"));
    assert_eq!(client.response().text(), "/chat");
    assert_eq!(client.response().text(), "/next?../admin");
    assert_eq!(client.ask(get("/third")).text(), "/third");
    wait_until(SOON, "each of them is a request in the log", || {
        evener.events().iter().filter(|event| event["event"] == "request").count() == 3
    });
}

#[test]
fn a_switch_that_nobody_asked_for_is_a_failure_of_the_backend() {
    let backend = Backend::web("eager", |_, stream| stream.write_all(SWITCH.as_bytes()));
    let evener = start(&backend, "");
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(get("/")).status(), 502);
    assert_eq!(
        client.ask(request("GET", "/", "upgrade: websocket\r\n")).status(),
        502,
        "without Connection it asks nothing"
    );
    assert!(backend.requests().iter().all(|request| request.all("upgrade").is_empty()));
}

#[test]
fn an_upgrade_with_a_body_is_refused() {
    let backend = Backend::held();
    let evener = start(&backend, "");
    for framing in ["content-length: 4\r\n", "transfer-encoding: chunked\r\n"] {
        let answer = Peer::of(evener.port("web")).ask(request("POST", "/", &format!("{UPGRADE}{framing}")));
        assert_eq!(answer.status(), 400);
    }
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn what_else_stands_in_connection_hides_no_upgrade() {
    let backend = Backend::held();
    let evener = start(&backend, "");
    let mut client = Peer::of(evener.port("web"));
    client.send(b"GET /chat HTTP/1.1\r\nhost: a.test\r\nconnection: \xe9, upgrade\r\nupgrade: websocket\r\n\r\n");
    let mut server = Peer::on(backend.take());
    let seen = server.request().unwrap().unwrap();
    assert_eq!((seen.field("upgrade"), seen.field("connection")), (Some("websocket"), Some("upgrade")));
    server.send(SWITCH);
    assert_eq!(client.response().status(), 101);
}

#[test]
fn h2c_is_not_passed_on_as_an_upgrade() {
    let backend = Backend::webs("plain");
    let evener = start(&backend, "");
    let fields = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let answer = Peer::of(evener.port("web")).ask(request("GET", "/", fields));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "plain"));
    let seen = backend.requests().pop().unwrap();
    assert!(seen.all("upgrade").is_empty() && seen.all("http2-settings").is_empty());
    for upgrade in ["upgrade: h2c, websocket, irc\r\n", "upgrade: websocket\r\nupgrade: irc, H2C\r\n"] {
        Peer::of(evener.port("web")).ask(request("GET", "/", &format!("connection: upgrade\r\n{upgrade}")));
        assert_eq!(backend.requests().pop().unwrap().field("upgrade"), Some("websocket, irc"));
    }
}

#[test]
fn a_reset_of_one_side_is_one_for_the_other_and_what_was_cut_does_not_look_whole() {
    let backend = Backend::held();
    let evener = start(&backend, "");
    let is_reset = |peer: &mut Peer| match peer.stream().read(&mut [0]) {
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(_) => false,
    };
    for is_backend in [false, true] {
        let (mut client, mut server) = switched(&evener, &backend);
        passes(&mut server, &mut client, b"half of");
        let (breaks, mut hears) = if is_backend { (server, client) } else { (client, server) };
        reset(breaks.0.into_inner());
        assert!(is_reset(&mut hears), "by the backend: {is_backend}");
        wait_until(SOON, "its place is free", || evener.active("web", "held") == 0);
    }
    let (client, mut server) = switched(&evener, &backend);
    shut_write(&client.0.into_inner());
    assert!(server.is_over(), "an end is an end");
}

#[test]
fn a_silent_tunnel_ends_by_the_idle_time() {
    let backend = Backend::held();
    let evener = start(&backend, "timeout = { idle = \"1s\" }");
    let (mut client, mut server) = switched(&evener, &backend);
    assert!(client.is_over() && server.is_over());
}

#[test]
fn a_drain_ends_tunnels_by_its_deadline() {
    let backend = Backend::held();
    let mut evener = Evener::start(
        &("[process]\nworkers = 1\ndrain = { deadline = \"1s\" }\n".to_owned() + &site("", "", "", &[&backend])),
    );
    let (mut client, mut server) = switched(&evener, &backend);
    evener.signal("TERM");
    passes(&mut client, &mut server, b"still");
    assert!(client.is_over() && server.is_over());
    assert!(evener.wait(SOON).success());
}

#[test]
fn on_down_ends_what_runs_on_a_backend_that_its_checks_find_down() {
    let (backend, asked) = (Backend::held(), Backend::http("check"));
    let health = format!(
        "passive = false\nhealth = {{ kind = \"http\", path = \"/\", port = {}, interval = \"50ms\", rise = 1, fall = 1 }}\n",
        asked.address().port()
    );
    for (on_down, ends) in [("close", true), ("keep", false)] {
        asked.be_sick(false);
        let file = site("", "", &format!("on_down = \"{on_down}\""), &[&backend]).replace(ALWAYS_UP, &health);
        let metrics = free_port();
        let evener = Evener::start(&format!("[process]\nworkers = 1\nmetrics = \"127.0.0.1:{metrics}\"\n{file}"));
        let (mut client, mut server) = switched(&evener, &backend);
        let mut waiting = Peer::of(evener.port("web"));
        waiting.send(get("/waiting"));
        let mut answering = Peer::on(backend.take());
        answering.request().unwrap().unwrap();
        asked.be_sick(true);
        evener.wait_for_state("web", "held", "down");
        if ends {
            assert_eq!(waiting.response().status(), 502);
            assert!(client.is_over());
            let counted = "evener_connections_closed_total{listener=\"web\",reason=\"backend_down\"} 1";
            wait_until(SOON, "it is counted", || http_get(metrics, "/metrics").unwrap().1.contains(counted));
        } else {
            passes(&mut client, &mut server, b"still here");
            answering.send(reply("200 OK", "as ever"));
            assert_eq!(waiting.response().text(), "as ever");
        }
    }
}
