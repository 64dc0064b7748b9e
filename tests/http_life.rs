//! The gateway over time and at its limits: reloads and drains under load, the log and the counts, and clients that are
//! too large, too slow or too many.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::time::Duration;

use harness::http::{Peer, chunked, first_answer, get, listener, post, reply, request, site};
use harness::tls::{Authority, secure};
use harness::{
    Backend, Evener, Flag, SOON, asleep, connect, ending, free_port, holds_for, http_get, is_refused, now, try_connect,
    wait_until,
};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

fn fixed_port(port: u16, text: &str) -> String {
    text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
}

/// The status and how many requests were refused so in the log.
#[track_caller]
fn wait_for_refusal(evener: &Evener, refusal: &str) {
    wait_until(SOON, &format!("{refusal} is in the log"), || {
        evener.events().iter().any(|event| event["event"] == "request" && event["refusal"] == refusal)
    });
}

// --- Reload and drain ------------------------------------------------------------------------------------------------------

#[test]
fn reloads_under_load_lose_no_request_and_the_next_request_goes_by_the_new_file() {
    let (old, new) = (Backend::webs("old"), Backend::webs("new"));
    let port = free_port();
    let file = |backend: &Backend| fixed_port(port, &site("", "", "", &[backend]));
    let evener = Evener::start(&file(&old));
    let stop = Flag::default();
    std::thread::scope(|scope| {
        let stop_at_the_end = stop.raise_on_drop();
        let loads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut count) = (Peer::of(port), 0);
                    while !stop.is_raised() {
                        let answer = client.ask(post("/", "body"));
                        assert!(
                            answer.status() == 200 && ["old", "new"].contains(&answer.text().as_str()),
                            "{answer:?}"
                        );
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..5 {
            evener.reload(&file(if round % 2 == 0 { &new } else { &old }));
        }
        let mut fresh = Peer::of(port);
        wait_until(SOON, "the new file holds", || fresh.ask(get("/")).text() == "new");
        assert!((0..20).all(|_| fresh.ask(get("/")).text() == "new"));
        drop(stop_at_the_end);
        assert!(loads.into_iter().all(|load| load.join().unwrap() > 10));
    });
}

#[test]
fn a_connection_that_is_open_takes_the_new_routes() {
    let text = |body: &str| {
        listener("")
            + &format!("[[route]]\nname = \"r\"\nlistener = \"web\"\nreply = {{ status = 200, body = \"{body}\" }}\n")
    };
    let port = free_port();
    let evener = start(&fixed_port(port, &text("one")));
    let mut client = Peer::of(port);
    assert_eq!(client.ask(get("/")).text(), "one");
    evener.reload(&(ONE_THREAD.to_owned() + &fixed_port(port, &text("two"))));
    assert_eq!(client.ask(get("/")).text(), "two");
}

#[test]
fn sigterm_lets_requests_finish_and_ends_idle_connections() {
    let backend = Backend::held();
    let mut evener = start(&site("", "", "", &[&backend]));
    let port = evener.port("web");
    let (mut idle, mut resting, mut busy) = (Peer::of(port), Peer::of(port), Peer::of(port));
    let mut server = first_answer(&mut idle, &backend);
    busy.send(get("/busy"));
    server.request().unwrap().unwrap();
    evener.signal("TERM");
    assert!(idle.is_over() && resting.is_over(), "with a request behind them or none");
    wait_until(SOON, "nobody listens", || try_connect(port).is_err());
    assert!(evener.runs());
    server.send(reply("200 OK", "finished"));
    let answer = busy.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("finished", Some("close")));
    assert!(busy.is_over());
    assert!(evener.wait(SOON).success());
}

/// After this an idle connection has given back all but its socket.
const RESTS: Duration = Duration::from_millis(1600);

#[test]
fn sigterm_ends_connections_that_rest_in_order_and_what_was_asked_just_before_is_answered() {
    ends_in_order_at_sigterm(true);
}

#[test]
fn sigterm_does_the_same_to_connections_that_have_just_been_used() {
    ends_in_order_at_sigterm(false);
}

/// Many clients, after a rest or at once: half of them ask just before the signal.
fn ends_in_order_at_sigterm(rest: bool) {
    let authority = Authority::new();
    let tls = format!("tls = {{ {} }}", authority.sign(&["a.test"]).keys());
    let route = |name: &str| {
        format!("[[route]]\nname = \"{name}\"\nlistener = \"{name}\"\nreply = {{ status = 200, body = \"b\" }}\n\n")
    };
    let secured = listener(&tls).replace("listener.web", "listener.safe");
    let mut evener = start(&(listener("") + &secured + &route("web") + &route("safe")));
    let mut plain: Vec<Peer> = (0..300).map(|_| Peer::of(evener.port("web"))).collect();
    let config = authority.client(None);
    let mut safe: Vec<_> = (0..20).map(|_| secure(evener.port("safe"), &config, "a.test")).collect();
    assert!(plain.iter_mut().all(|client| client.ask(get("/")).status() == 200));
    for client in &mut safe {
        client.write_all(get("/").as_bytes()).unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nb") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
    }
    if rest {
        holds_for(RESTS, "they stay", || evener.status()["process"]["connections"] == 320);
    }
    let asks = |at: usize| at.is_multiple_of(2);
    asleep(evener.pid(), || {
        plain.iter_mut().enumerate().filter(|(at, _)| asks(*at)).for_each(|(_, client)| client.send(get("/")));
        for (_, client) in safe.iter_mut().enumerate().filter(|(at, _)| asks(*at)) {
            client.write_all(get("/").as_bytes()).unwrap();
        }
        evener.signal("TERM");
    });
    let is_answer = |text: &str| text.starts_with("HTTP/1.1 200 OK\r\n");
    for (at, client) in plain.iter_mut().enumerate() {
        let mut text = String::new();
        client.0.read_to_string(&mut text).unwrap();
        assert_eq!(is_answer(&text), asks(at), "plain {at}: {text:?}");
    }
    for (at, client) in safe.iter_mut().enumerate() {
        let mut text = String::new();
        // Without close_notify this is an error.
        client.read_to_string(&mut text).unwrap();
        assert_eq!(is_answer(&text), asks(at), "safe {at}: {text:?}");
    }
    assert!(evener.wait(SOON).success());
}

#[test]
fn clients_in_the_backlog_at_sigterm_are_answered_and_hold_nothing_up() {
    let backend = Backend::webs("b");
    let mut evener = start(&site("", "", "", &[&backend]));
    let port = evener.port("web");
    let mut client = None;
    asleep(evener.pid(), || {
        let mut waiting = Peer::of(port);
        waiting.send(get("/"));
        client = Some(waiting);
        evener.signal("TERM");
    });
    let mut client = client.unwrap();
    assert_eq!(client.response().text(), "b");
    assert!(client.is_over(), "no further request");
    assert!(evener.wait(SOON).success());
}

#[test]
fn a_request_that_outlasts_the_drain_is_ended_by_its_deadline() {
    let backend = Backend::held();
    let mut evener = start(&("drain = { deadline = \"1s\" }\n".to_owned() + &site("", "", "", &[&backend])));
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    evener.signal("TERM");
    assert!(evener.wait(SOON).success());
    assert!(client.is_over() && server.is_over());
}

// --- Log and counts ----------------------------------------------------------------------------------------------------------

#[test]
fn a_request_is_a_line_in_the_log_and_counts_in_the_metrics() {
    let (backend, metrics) = (Backend::webs("answer"), free_port());
    let evener = start(&(format!("metrics = \"127.0.0.1:{metrics}\"\n") + &site("", "", "", &[&backend])));
    let mut client = Peer::of(evener.port("web"));
    client.ask(request("POST", "/a/../b?secret=1", "content-length: 4\r\n") + "body");
    let mut line = serde_json::Value::Null;
    wait_until(SOON, "the line is there", || {
        line = evener.events().into_iter().find(|event| event["event"] == "request").unwrap_or_default();
        !line.is_null()
    });
    for (field, value) in [
        ("method", "POST"),
        ("host", "a.test"),
        ("path", "/b?"),
        ("version", "HTTP/1.1"),
        ("route", "all"),
        ("backend", "answer"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&200.into(), &4.into(), &6.into()), "{line}");
    assert_eq!(line["request_id"], backend.requests()[0].field("x-request-id").unwrap());
    let (_, metrics) = http_get(metrics, "/metrics").unwrap();
    let count = "evener_http_requests_total{listener=\"web\",route=\"all\",code=\"200\"} 1";
    assert!(metrics.contains(count), "{metrics}");
}

// --- Limits --------------------------------------------------------------------------------------------------------------------

#[test]
fn a_header_that_is_too_large_or_has_too_many_fields_is_431() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { header_bytes = \"8KiB\", header_fields = 20 }", "", "", &[&backend]));
    let port = evener.port("web");
    let large = request("GET", "/", &format!("x-large: {}\r\n", "x".repeat(9000)));
    assert_eq!(Peer::of(port).ask(large).status(), 431);
    let many: String = (0..30).map(|at| format!("x-{at}: 1\r\n")).collect();
    assert_eq!(Peer::of(port).ask(request("GET", "/", &many)).status(), 431);
    let endless = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-endless: {}", "x".repeat(40_000));
    assert_eq!(Peer::of(port).ask(endless).status(), 431, "although it never ends");
    assert!(Peer::of(port).ask(get(&format!("/{}", "x".repeat(9000)))).status() >= 414);
    let fits = request("GET", "/", &(0..18).map(|at| format!("x-{at}: {}\r\n", "x".repeat(300))).collect::<String>());
    assert_eq!(Peer::of(port).ask(fits).status(), 200);
    assert_eq!(backend.requests().len(), 1);
    wait_for_refusal(&evener, "header_too_large");
}

#[test]
fn a_body_that_is_too_large_is_413_declared_or_not() {
    let backend = Backend::webs("b");
    let evener = start(&site("", "limits = { body = \"1KiB\" }", "", &[&backend]));
    let port = evener.port("web");
    assert_eq!(Peer::of(port).ask(post("/", &"x".repeat(1024))).status(), 200);
    assert_eq!(Peer::of(port).ask(request("POST", "/", "content-length: 1025\r\n")).status(), 413, "before it comes");
    let mut client = Peer::of(port);
    client.send(request("POST", "/", "expect: 100-continue\r\ncontent-length: 1025\r\n"));
    assert_eq!(client.response().status(), 413, "instead of 100");
    let mut client = Peer::of(port);
    client.send(request("POST", "/", "transfer-encoding: chunked\r\n"));
    client.send(chunked(&[b'x'; 1500], ""));
    assert_eq!(client.response().status(), 413, "when it is seen");
    assert_eq!(backend.requests().len(), 1, "the backend got no whole one");
    wait_for_refusal(&evener, "body_too_large");
}

#[test]
fn a_header_that_comes_too_slowly_ends_the_connection() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { header_timeout = \"1s\" }", "", "", &[&backend]));
    let port = evener.port("web");
    let (began, start_of) = (now(), "GET / HTTP/1.1\r\nhost: a.test\r\n");
    let mut silent = connect(port);
    let (mut first, mut second) = (Peer::of(port), Peer::of(port));
    first.send(start_of);
    assert_eq!(second.ask(get("/")).status(), 200);
    second.send(start_of);
    // A byte now and then does not help.
    wait_until(SOON, "both are ended", || {
        let over = |peer: &mut Peer| peer.stream().write_all(b"x").is_err();
        over(&mut first) & over(&mut second)
    });
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let mut third = Peer::of(port);
    third.send(start_of);
    let answer = third.response();
    assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")), "who waits is told why");
    assert!(third.is_over());
    wait_for_refusal(&evener, "request_timeout");
    assert_eq!(ending(&mut silent).1, 0, "nor does silence");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn an_idle_connection_ends_after_its_time() {
    let backend = Backend::webs("b");
    let evener = start(&site("limits = { idle_timeout = \"2s\" }", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    assert_eq!(client.ask(get("/")).status(), 200);
    let began = now();
    assert!(client.is_over());
    assert!((Duration::from_millis(1500)..Duration::from_secs(6)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_body_is_not_waited_for() {
    let backend = Backend::held();
    let evener = start(&site("", "timeout = { idle = \"1s\", request = \"0s\" }", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "content-length: 100\r\n") + "half");
    let mut server = Peer::on(backend.take());
    server.head();
    server.0.read_exact(&mut [0; 4]).unwrap();
    let answer = client.response();
    assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")));
    assert!(client.is_over() && server.is_over());
    wait_for_refusal(&evener, "request_timeout");
}

#[test]
fn a_backend_that_takes_no_body_is_not_the_clients_doing() {
    let backend = Backend::held();
    let evener = start(&site("", "timeout = { idle = \"1s\", request = \"0s\" }", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    client.send(request("POST", "/", "content-length: 1000000000\r\n"));
    let _server = backend.take();
    let block = [b'x'; 65536];
    client.stream().set_write_timeout(Some(SOON)).unwrap();
    let refused = std::iter::repeat_with(|| client.stream().write_all(&block)).find_map(Result::err).unwrap();
    assert_ne!(refused.kind(), std::io::ErrorKind::WouldBlock, "it is not waited for either");
    wait_until(SOON, "it is in the log", || evener.events().iter().any(|event| event["event"] == "request"));
    let refusal = |event: &serde_json::Value| event["refusal"] == "request_timeout";
    assert!(!evener.events().iter().any(refusal), "{:?}", evener.events());
}

#[test]
fn a_backend_that_stops_in_the_middle_of_its_body_is_not_waited_for() {
    let backend = Backend::held();
    let evener = start(&site("", "timeout = { idle = \"1s\" }", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    client.send(get("/"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
    assert_eq!(client.head().status(), 200);
    assert!(client.try_response().is_err() && server.is_over());
}

#[test]
fn connections_beyond_max_connections_are_reset_and_the_pool_has_its_own_limit() {
    let backend = Backend::held();
    let pool_keys = "queue = { max = 1, timeout = \"5s\" }";
    let text = site("max_connections = 3", "", pool_keys, &[&backend])
        .replace("name = \"held\"", "name = \"held\", max_connections = 1");
    let evener = start(&text);
    let port = evener.port("web");
    let mut clients: Vec<Peer> = (0..3).map(|_| Peer::of(port)).collect();
    clients[0].send(get("/first"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    clients[1].send(get("/waits"));
    wait_until(SOON, "another one is too many", || is_refused(try_connect(port)));
    server.send(reply("200 OK", "1"));
    assert_eq!(clients[0].response().text(), "1");
    assert_eq!(server.request().unwrap().unwrap().path(), "/waits");
    server.send(reply("200 OK", "2"));
    assert_eq!(clients[1].response().text(), "2");
    assert_eq!(backend.accepted(), 1);
    evener.wait_for_endings(1, "max_connections");
}

#[test]
fn a_listener_that_is_renamed_again_and_again_loses_nobody() {
    let backend = Backend::webs("b");
    let port = free_port();
    let file = |name: &str| {
        let file = site("", "", "", &[&backend]).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        let file = file.replace("listener = \"web\"", &format!("listener = \"{name}\""));
        "[process]\nworkers = 2\n".to_owned() + &file.replace("listener.web", &format!("listener.{name}"))
    };
    let evener = Evener::start(&file("a"));
    let is_over = Flag::default();
    std::thread::scope(|scope| {
        let asks = || {
            let mut count = 0;
            while !is_over.is_raised() {
                assert_eq!(Peer::of(port).ask(get("/")).status(), 200, "after {count}");
                count += 1;
            }
            count
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(asks)).collect();
        let raise = is_over.raise_on_drop();
        for name in ["b", "a"].into_iter().cycle().take(10) {
            evener.rewrite(&file(name));
            evener.cli_ok(&["reload"]);
        }
        drop(raise);
        assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
    });
}
