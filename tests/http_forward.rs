//! Where requests go, and where they go again: tries after failures, time-outs, cookies, weights, breakers, and edits.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use harness::http::{Message, Peer, first_answer, get, listener, pool_of, post, reply, site};
use harness::{Backend, Evener, SOON, free_port, http_get, local, now, wait_until};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

fn retry(on: &str, more: &str) -> String {
    format!("retry = {{ on = {on}{more} }}")
}

/// Ends every connection as soon as a request has come, without a word.
fn breaking() -> Backend {
    Backend::web("breaking", |_, stream| stream.shutdown(Shutdown::Both))
}

/// Answers so.
fn answering(name: &str, status: &'static str) -> Backend {
    let body = name.to_owned();
    Backend::web(name, move |_, stream| stream.write_all(reply(status, &body).as_bytes()))
}

#[track_caller]
fn asked(port: u16, bytes: &str) -> Message {
    Peer::of(port).ask(bytes)
}

/// The line of a request in the log.
#[track_caller]
fn logged(evener: &Evener, path: &str) -> serde_json::Value {
    let mut found = None;
    wait_until(SOON, "the request is in the log", || {
        found = evener.events().into_iter().find(|event| event["event"] == "request" && event["path"] == path);
        found.is_some()
    });
    found.unwrap()
}

// --- Another try --------------------------------------------------------------------------------------------------------

#[test]
fn a_backend_that_refuses_connections_costs_no_request() {
    let good = Backend::webs("good");
    let dead = local(free_port());
    let backends = format!("{}, {}", harness::entry("dead", dead, ""), good.entry(""));
    let route = "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let pool = format!("[pool.web]\nbackends = [{backends}]\n{}", harness::ALWAYS_UP);
    let evener = start(&format!("{}{route}{pool}", listener("")));
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..4 {
        assert_eq!(client.ask(post("/", "once")).text(), "good", "nothing was sent: it may go elsewhere");
    }
}

#[test]
fn nobody_there_is_502() {
    let evener = start(&format!(
        "{}{}",
        site("", "", "", &[]).split("[pool").next().unwrap(),
        pool_of("web", local(free_port()), "")
    ));
    let answer = asked(evener.port("web"), &get("/x"));
    assert_eq!(answer.status(), 502);
    let event = logged(&evener, "/x");
    assert_eq!((&event["refusal"], &event["attempts"]), (&"backend_failed".into(), &3.into()));
}

#[test]
fn a_backend_that_is_back_in_a_moment_costs_no_request() {
    let mut backend = Backend::webs("back");
    backend.kill();
    let metrics = free_port();
    let file = site("", "", "connect = { attempts = 100 }", &[&backend]);
    let evener = start(&(format!("metrics = \"127.0.0.1:{metrics}\"\n") + &file));
    let mut client = Peer::of(evener.port("web"));
    client.send(post("/", "once"));
    wait_until(SOON, "two attempts have failed", || {
        let (_, text) = http_get(metrics, "/metrics").unwrap();
        text.contains("evener_backend_connect_failures_total{pool=\"web\",backend=\"back\",reason=\"refused\"} 2")
    });
    backend.revive();
    assert_eq!(client.response().text(), "back");
}

#[test]
fn a_connection_that_fails_costs_a_retry_where_the_pool_has_no_attempts_left() {
    let (mut dead, good) = (Backend::webs("dead"), Backend::webs("good"));
    dead.kill();
    let pool = "balance = \"first\"\nconnect = { attempts = 1 }";
    for (on, status) in [("[\"connect\"]", 200), ("[\"reset\", \"timeout\"]", 502)] {
        let metrics = free_port();
        let file = site("", &retry(on, ""), pool, &[&dead, &good]);
        let evener = start(&(format!("metrics = \"127.0.0.1:{metrics}\"\n") + &file));
        assert_eq!(asked(evener.port("web"), &post("/", "nothing of it was sent")).status(), status, "{on}");
        let (_, text) = http_get(metrics, "/metrics").unwrap();
        let count =
            format!("evener_backend_retries_total{{pool=\"web\",backend=\"good\"}} {}", u8::from(status == 200));
        assert!(text.contains(&count), "{text}");
    }
}

#[test]
fn the_time_of_a_request_counts_while_its_backend_is_connected_to() {
    let hole = Backend::black_hole();
    let pool = "connect = { timeout = \"60s\", attempts = 100 }";
    let evener = start(&site("", "timeout = { request = \"500ms\" }", pool, &[&hole]));
    let began = now();
    assert_eq!(asked(evener.port("web"), &post("/x", "body")).status(), 504);
    assert!((Duration::from_millis(450)..SOON).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(logged(&evener, "/x")["refusal"], "backend_timeout");
}

#[test]
fn a_backend_that_hangs_up_on_every_connection_is_502_and_not_asked_for_ever() {
    for backend in
        [Backend::resetting(), Backend::on("127.0.0.1:0", "closing", |stream, _| stream.shutdown(Shutdown::Both))]
    {
        let evener = start(&site("", "", "", &[&backend]));
        for bytes in [get("/"), post("/", "body")] {
            assert_eq!(asked(evener.port("web"), &bytes).status(), 502);
        }
        assert!(backend.accepted() < 20, "{} connections", backend.accepted());
    }
}

#[test]
fn a_get_whose_connection_breaks_goes_elsewhere_where_the_route_says_so() {
    let (bad, good) = (breaking(), Backend::webs("good"));
    let evener = start(&site("", &retry("[\"reset\"]", ""), "", &[&bad, &good]));
    for _ in 0..2 {
        assert_eq!(asked(evener.port("web"), &get("/")).text(), "good");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (1, 2), "the second began with the good one");
}

#[test]
fn without_retry_a_broken_connection_is_502() {
    let bad = breaking();
    let evener = start(&site("", "", "", &[&bad]));
    assert_eq!(asked(evener.port("web"), &get("/")).status(), 502);
    assert_eq!(bad.requests().len(), 1);
}

#[test]
fn a_post_that_may_have_been_sent_is_not_sent_again() {
    let (bad, good) = (breaking(), Backend::webs("good"));
    let evener = start(&site("", &retry("[\"reset\", \"timeout\", \"503\"]", ""), "", &[&bad, &good]));
    let statuses: BTreeSet<u16> = (0..2).map(|_| asked(evener.port("web"), &post("/", "pay")).status()).collect();
    assert_eq!(statuses, [200, 502].into());
    assert_eq!((bad.requests().len(), good.requests().len()), (1, 1));
}

#[test]
fn statuses_are_tried_again_only_where_the_route_names_them() {
    let (busy, good) = (answering("busy", "503 Busy"), Backend::webs("good"));
    let evener = start(&site("", &retry("[\"503\"]", ""), "", &[&busy, &good]));
    for _ in 0..2 {
        assert_eq!(asked(evener.port("web"), &get("/")).text(), "good");
    }
    assert_eq!(busy.requests().len(), 1);
    let wrong = answering("wrong", "500 Oops");
    let evener = start(&site("", &retry("[\"503\"]", ""), "", &[&wrong, &good]));
    let statuses: BTreeSet<u16> = (0..2).map(|_| asked(evener.port("web"), &get("/")).status()).collect();
    assert_eq!(statuses, [200, 500].into(), "what is not named is an answer");
}

#[test]
fn a_broken_connection_is_not_tried_again_where_only_statuses_are_named() {
    let (bad, good) = (breaking(), Backend::webs("good"));
    let evener = start(&site("", &retry("[\"503\"]", ""), "", &[&bad, &good]));
    let statuses: BTreeSet<u16> = (0..2).map(|_| asked(evener.port("web"), &get("/")).status()).collect();
    assert_eq!(statuses, [200, 502].into());
}

#[test]
fn the_last_answer_counts_when_all_tries_fail() {
    let (one, two) = (answering("one", "503 Busy"), answering("two", "503 Busy"));
    let evener = start(&site("", &retry("[\"503\"]", ", attempts = 1"), "", &[&one, &two]));
    let answer = asked(evener.port("web"), &get("/x"));
    assert_eq!(answer.status(), 503);
    assert!(["one", "two"].contains(&answer.text().as_str()), "it is the backend's own: {answer:?}");
    assert_eq!(one.requests().len() + two.requests().len(), 2);
    assert_eq!(logged(&evener, "/x")["attempts"], 2);
}

#[test]
fn a_single_backend_is_tried_again_itself() {
    let one = answering("one", "503 Busy");
    let evener = start(&site("", &retry("[\"503\"]", ", attempts = 2"), "", &[&one]));
    let answer = asked(evener.port("web"), &get("/"));
    assert_eq!((answer.status(), answer.text().as_str()), (503, "one"));
    assert_eq!(one.requests().len(), 3);
}

#[test]
fn retries_have_a_budget() {
    let one = answering("one", "503 Busy");
    let evener = start(&site("", &retry("[\"503\"]", ", attempts = 1, budget = \"10%\""), "", &[&one]));
    for _ in 0..100 {
        assert_eq!(asked(evener.port("web"), &get("/")).status(), 503);
    }
    let retries = one.requests().len() - 100;
    assert!((8..=20).contains(&retries), "{retries} retries of 100 requests");
}

#[test]
fn a_slow_try_is_given_up_for_another() {
    let (slow, good) = (Backend::held(), Backend::webs("good"));
    let keys = retry("[\"timeout\"]", ", per_try_timeout = \"200ms\"");
    let evener = start(&site("", &keys, "balance = \"first\"", &[&slow, &good]));
    assert_eq!(asked(evener.port("web"), &get("/")).text(), "good");
    let mut abandoned = Peer::on(slow.take());
    abandoned.request().unwrap().unwrap();
    assert!(abandoned.is_over());
}

#[test]
fn a_request_of_whatever_version_that_takes_longer_than_a_second_is_over_in_its_time() {
    let slow = Backend::held();
    let evener = start(&site("", "timeout = { request = \"1500ms\" }", "", &[&slow]));
    let inner = ([127, 0, 0, 1], evener.port("web")).into();
    let outer = listener("") + "[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let outer = start(&(outer + &pool_of("web", inner, "http = { version = \"2\" }")));
    for port in [evener.port("web"), outer.port("web")] {
        let began = now();
        let mut client = Peer::of(port);
        // The second one on a connection, too.
        for path in ["/x", "/y"] {
            assert_eq!(client.ask(get(path)).status(), 504);
        }
        assert!(
            (Duration::from_millis(2900)..Duration::from_secs(5)).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(logged(&evener, "/y")["refusal"], "backend_timeout");
    }
}

#[test]
fn a_request_is_over_in_its_time_however_many_tries_it_has() {
    let slow = Backend::held();
    let keys = format!("timeout = {{ request = \"500ms\" }}\n{}", retry("[\"timeout\"]", ", attempts = 10"));
    let evener = start(&site("", &keys, "", &[&slow]));
    let began = now();
    let answer = asked(evener.port("web"), &get("/x"));
    assert_eq!(answer.status(), 504);
    assert!((Duration::from_millis(450)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(logged(&evener, "/x")["refusal"], "backend_timeout");
}

#[test]
fn a_connection_that_the_backend_closes_while_it_is_idle_costs_no_request() {
    let backend = Backend::held();
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    for bytes in [get("/1"), post("/2", "body"), get("/3")] {
        client.send(bytes);
        let mut server = Peer::on(backend.take());
        server.request().unwrap().unwrap();
        server.send(reply("200 OK", "ok"));
        assert_eq!(client.response().text(), "ok");
        // It is closed before the next request, which finds that out before it is sent.
        drop(server);
    }
    assert_eq!(backend.accepted(), 3);
}

#[test]
fn a_connection_that_breaks_just_when_it_is_used_again_costs_no_get() {
    let backend = Backend::held();
    let evener = start(&site("", "", "", &[&backend]));
    let mut client = Peer::of(evener.port("web"));
    let mut server = first_answer(&mut client, &backend);
    // Only one that was idle for a while may have been meant by the backend to end.
    let began = now();
    wait_until(SOON, "a second has passed", || began.elapsed() > Duration::from_millis(1100));
    client.send(get("/2"));
    server.request().unwrap().unwrap();
    drop(server);
    let mut server = Peer::on(backend.take());
    assert_eq!(server.request().unwrap().unwrap().path(), "/2");
    server.send(reply("200 OK", "again"));
    assert_eq!(client.response().text(), "again");
}
