//! What operators do at run time: the end of a backend's connections, reasons, overrides and the file, listeners that
//! take no clients for a while; and connections that become too old.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::datagram::{UdpServer, ask, is_not_answered, udp_client};
use harness::http::{Peer, first_answer, get, reply, site};
use harness::{
    ALWAYS_UP, Backend, Ending, Evener, NO_CHECKS, SOON, config, connect, ending, exchange, free_port, holds_for,
    local, now, try_connect, wait_until, who,
};

fn at(port: u16, text: &str) -> String {
    text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
}

/// A connection that a backend which echoes has served.
fn served(port: u16) -> TcpStream {
    let mut stream = connect(port);
    assert_eq!(exchange(&mut stream, b"here").unwrap(), b"here");
    stream
}

/// How long each connection lasted after `begun`, in order, and how it ended.
fn lasted(streams: Vec<TcpStream>, begun: Instant) -> Vec<Duration> {
    let watch = |mut stream: TcpStream| {
        std::thread::spawn(move || {
            ending(&mut stream);
            begun.elapsed()
        })
    };
    let watching: Vec<_> = streams.into_iter().map(watch).collect();
    let mut times: Vec<Duration> = watching.into_iter().map(|one| one.join().unwrap()).collect();
    times.sort();
    times
}

fn listener<'s>(status: &'s serde_json::Value, name: &str) -> &'s serde_json::Value {
    status["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == name).unwrap()
}

// --- Backends --------------------------------------------------------------------------------------------------------

#[test]
fn closing_a_backend_ends_its_connections_spread_over_the_time_and_no_others() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let entries = [harness::entry("a", a.address(), ""), harness::entry("b", b.address(), "")];
    let evener = Evener::start(&config("", ALWAYS_UP, &entries));
    let port = evener.port("web");
    let streams: Vec<TcpStream> = (0..40).map(|_| served(port)).collect();
    wait_until(SOON, "they are shared", || evener.active("web", "a") == 20);
    evener.cli_ok(&["backend", "web/a", "drain"]);
    let begun = now();
    let said = evener.cli_ok(&["backend", "web/a", "close", "--spread", "1500ms"]);
    assert!(said.contains("web/a: 20 connections end within 1s 500ms"), "{said}");
    wait_until(SOON, "all of them have ended", || evener.active("web", "a") == 0);
    let whole = begun.elapsed();
    assert!(whole > Duration::from_millis(700), "not all at once: {whole:?}");
    evener.wait_for_endings(20, "killed");
    assert_eq!(evener.active("web", "b"), 20, "the others stay");
    let alive = streams.into_iter().filter_map(|mut stream| exchange(&mut stream, b"still").ok());
    assert_eq!(alive.filter(|answer| answer == b"still").count(), 20);
    assert_eq!(evener.endings("killed"), 20);
    let unknown = evener.cli(&["backend", "web/c", "close"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn closing_a_backend_ends_its_flows() {
    let a = UdpServer::named("a");
    let text = format!(
        "[listener.dns]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"dns\"\n\n[pool.dns]\nbackends = [{}]\n{NO_CHECKS}",
        a.entry("")
    );
    let evener = Evener::start(&text);
    let client = udp_client(local(evener.port("dns")));
    ask(&client, b"one");
    assert_eq!(evener.status()["process"]["flows"], 1);
    evener.cli_ok(&["backend", "dns/a", "close", "--spread", "0s"]);
    evener.wait_for_endings(1, "killed");
    ask(&client, b"two");
    assert_eq!(evener.status()["process"]["flows"], 1, "its next datagram opens another one");
}

#[test]
fn closing_a_backend_ends_requests_that_run_on_it_and_blames_nobody() {
    let backend = Backend::held();
    let passive = "passive = { failures = 1, window = \"10s\", eject = \"60s\", max_ejected = \"100%\" }";
    let file = site("", "", passive, &[&backend]).replace("passive = false\n", "");
    let evener = Evener::start(&format!("[process]\nworkers = 1\n{file}"));
    let port = evener.port("web");
    let (mut waiting, mut reading) = (Peer::of(port), Peer::of(port));
    waiting.send(get("/waiting"));
    let mut first = Peer::on(backend.take());
    first.request().unwrap().unwrap();
    reading.send(get("/reading"));
    let mut second = Peer::on(backend.take());
    second.request().unwrap().unwrap();
    second.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun");
    assert_eq!(reading.head().status(), 200);
    let name = backend.name().to_owned();
    evener.cli_ok(&["backend", &format!("web/{name}"), "close", "--spread", "100ms"]);
    let refused = waiting.response();
    assert_eq!(refused.status(), 503, "{refused:?}");
    ending(reading.stream());
    wait_until(SOON, "it is in the log", || evener.events().iter().any(|event| event["refusal"] == "killed"));
    assert_eq!(evener.backend("web", &name)["observed"]["ejected"], false);
    let mut next = Peer::of(port);
    next.send(get("/next"));
    let mut third = Peer::on(backend.take());
    third.request().unwrap().unwrap();
    third.send(reply("200 OK", "served"));
    assert_eq!(next.response().text(), "served");
}

#[test]
fn a_reason_is_shown_wherever_the_state_is() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let evener = Evener::start(&config("", ALWAYS_UP, &[a.entry(""), b.entry("")]));
    let said = evener.cli_ok(&["backend", "web/a", "maint", "--reason", "disk swap, ticket 12"]);
    assert!(said.contains("disk swap, ticket 12"), "{said}");
    let shown = evener.backend("web", "a");
    assert_eq!(shown["override"]["reason"], "disk swap, ticket 12");
    assert_eq!(shown["why"], "set by an operator: disk swap, ticket 12");
    assert!(evener.cli_ok(&["status"]).contains("disk swap, ticket 12"));
    assert!(evener.log().contains("disk swap, ticket 12"), "{}", evener.log());
    for bad in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(257)] {
        let output = evener.cli(&["backend", "web/a", "maint", "--reason", bad]);
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {output:?}");
    }
    assert_eq!(evener.backend("web", "a")["override"]["reason"], "disk swap, ticket 12", "nothing has changed");
    evener.cli_ok(&["backend", "web/a", "drain"]);
    assert_eq!(evener.backend("web", "a")["why"], "set by an operator");
    evener.cli_ok(&["backend", "web/a", "auto"]);
    assert_eq!(evener.backend("web", "a")["override"], serde_json::Value::Null);
}

#[test]
fn the_file_clears_exactly_what_it_says_anew() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let file = |a_keys: &str, with_b: bool, queue: &str| {
        let mut entries = vec![a.entry(a_keys)];
        entries.extend(with_b.then(|| b.entry("")));
        config("", &format!("{ALWAYS_UP}{queue}"), &entries)
    };
    let evener = Evener::start(&file("", true, ""));
    evener.cli_ok(&["backend", "web/a", "weight", "20"]);
    evener.cli_ok(&["backend", "web/a", "drain", "--reason", "why not"]);
    evener.cli_ok(&["backend", "web/b", "maint"]);

    evener.rewrite(&file("tier = 0", true, "slow_start = \"1s\"\n"));
    let said = evener.cli_ok(&["reload"]);
    assert!(!said.contains("cleared"), "{said}");
    assert_eq!(evener.backend("web", "a")["override"]["weight"], 20);

    evener.rewrite(&file("weight = 50", true, ""));
    let said = evener.cli_ok(&["reload"]);
    assert!(said.contains("web/a: weight 20 by an operator is cleared, the file says 50"), "{said}");
    assert!(evener.log().contains("is cleared, the file says 50"));
    let kept = evener.backend("web", "a")["override"].clone();
    assert_eq!((&kept["weight"], &kept["state"]), (&serde_json::Value::Null, &"drain".into()), "{kept}");
    assert_eq!(kept["reason"], "why not");

    evener.rewrite(&file("weight = 50", false, ""));
    let said = evener.cli_ok(&["reload"]);
    assert!(said.contains("web/b: what an operator said of it is gone with it"), "{said}");
    evener.reload(&file("weight = 50", true, ""));
    assert_eq!(evener.state("web", "b"), "up", "it comes back as the file has it");
}

// --- Listeners -------------------------------------------------------------------------------------------------------

#[test]
fn a_drained_listener_refuses_clients_ends_what_is_left_and_is_called_ready_again() {
    let a = Backend::echo();
    let port = free_port();
    let entry = [harness::entry("a", a.address(), "")];
    let text = at(port, &config("drain = { deadline = \"60s\", spread = \"0s\" }", NO_CHECKS, &entry));
    let evener = Evener::start(&text);
    let mut streams: Vec<TcpStream> = (0..10).map(|_| served(port)).collect();
    let said = evener.cli_ok(&["drain", "web"]);
    assert!(said.contains("web: draining") && said.contains("10 connections, 60 s left"), "the file's own: {said}");
    assert!(try_connect(port).is_err(), "nobody listens");
    assert_eq!(exchange(&mut streams[0], b"still").unwrap(), b"still");
    let status = evener.status();
    let shown = listener(&status, "web");
    assert_eq!((&shown["state"], &shown["bind"][0]), (&"draining".into(), &format!("127.0.0.1:{port}").into()));
    assert!(shown["drain"]["left_s"].as_u64().unwrap() > 30, "{shown}");
    let table = evener.cli_ok(&["status"]);
    assert!(table.contains("! web draining, 10 connections, ") && table.contains(" s left"), "{table}");

    evener.reload(&(text.clone() + "\n"));
    assert!(try_connect(port).is_err(), "a reload says nothing of it");

    let begun = now();
    evener.cli_ok(&["drain", "web", "--deadline", "1500ms", "--spread", "1s"]);
    let times = lasted(streams, begun);
    assert!(times[0] > Duration::from_millis(300), "nobody ends before the spread begins: {times:?}");
    assert!(times[9] - times[0] > Duration::from_millis(200), "not all at once: {times:?}");
    evener.wait_for_endings(10, "drained");
    wait_until(SOON, "nothing is left", || listener(&evener.status(), "web")["state"] == "drained");
    assert!(evener.cli_ok(&["status"]).contains("! web drained: no new clients until `evener ready web`"));

    let said = evener.cli_ok(&["ready", "web"]);
    assert!(said.contains(&format!("web: listening on 127.0.0.1:{port}")), "{said}");
    drop(served(port));
    assert_eq!(evener.cli(&["drain", "nobody"]).status.code(), Some(1));
}

#[test]
fn a_drained_listener_whose_port_was_taken_meanwhile_stays_drained_and_says_so() {
    let a = Backend::named("a");
    let port = free_port();
    let evener = Evener::start(&at(port, &config("", NO_CHECKS, &[a.entry("")])));
    evener.cli_ok(&["drain", "web"]);
    let other = std::net::TcpListener::bind(local(port)).unwrap();
    let output = evener.cli(&["ready", "web"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ss -ltnp"), "{output:?}");
    assert!(!evener.has_listener("web"));
    drop(other);
    evener.cli_ok(&["ready", "web"]);
    assert_eq!(who(port).unwrap(), "a");
}

#[test]
fn a_drained_listener_of_datagrams_opens_no_flow_and_carries_those_that_are_there() {
    let a = UdpServer::named("a");
    let port = free_port();
    let evener = Evener::start(&format!(
        "[listener.dns]\nbind = \"127.0.0.1:{port}\"\nprotocol = \"udp\"\npool = \"dns\"\n\n[pool.dns]\nbackends = [{}]\n{NO_CHECKS}",
        a.entry("")
    ));
    let known = udp_client(local(port));
    ask(&known, b"one");
    // By the socket, which is quick: a flow that is quiet for two seconds is taken for finished.
    let (code, said) = evener.request("PUT", "/v1/listeners/dns", r#"{"state": "drain", "deadline": "60s"}"#).unwrap();
    assert_eq!(code, 200, "{said}");
    ask(&known, b"two");
    let fresh = udp_client(local(port));
    assert!(is_not_answered(&fresh, b"new"));
    evener.cli_ok(&["ready", "dns"]);
    ask(&fresh, b"new");
}

#[test]
fn a_drained_listener_of_requests_lets_them_finish_and_sends_idle_clients_away() {
    let backend = Backend::held();
    let evener = Evener::start(&format!("[process]\nworkers = 1\n{}", site("", "", "", &[&backend])));
    let port = evener.port("web");
    let (mut idle, mut busy) = (Peer::of(port), Peer::of(port));
    let mut server = first_answer(&mut idle, &backend);
    busy.send(get("/busy"));
    server.request().unwrap().unwrap();
    evener.cli_ok(&["drain", "web"]);
    assert!(idle.is_over());
    assert!(try_connect(port).is_err());
    server.send(reply("200 OK", "finished"));
    let answer = busy.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("finished", Some("close")));
    evener.cli_ok(&["ready", "web"]);
    let mut fresh = Peer::of(evener.port("web"));
    fresh.send(get("/fresh"));
    server.request().unwrap().unwrap();
    server.send(reply("200 OK", "again"));
    assert_eq!(fresh.response().text(), "again");
}

#[test]
fn each_listener_has_its_own_deadline_when_the_process_goes() {
    let a = Backend::echo();
    let (short, long) = (free_port(), free_port());
    let of = |name: &str, port: u16, deadline: &str| {
        format!(
            "[listener.{name}]\nbind = \"127.0.0.1:{port}\"\npool = \"web\"\ndrain = {{ deadline = \"{deadline}\", spread = \"0s\" }}\n\n"
        )
    };
    let pool = format!("[pool.web]\nbackends = [{}]\n{NO_CHECKS}", harness::entry("a", a.address(), ""));
    let mut evener = Evener::start(&(of("short", short, "1s") + &of("long", long, "6s") + &pool));
    let (mut quick, mut slow) = (served(short), served(long));
    evener.signal("TERM");
    wait_until(SOON, "it counts down", || evener.status()["drain"]["left_s"].as_u64().is_some_and(|left| left > 1));
    assert!(matches!(ending(&mut quick).0, Ending::Reset));
    assert_eq!(exchange(&mut slow, b"still").unwrap(), b"still");
    assert!(matches!(ending(&mut slow).0, Ending::Reset));
    assert!(evener.wait(SOON).success());
    assert_eq!(evener.endings("drained"), 2);
}

// --- Age -------------------------------------------------------------------------------------------------------------

#[test]
fn a_connection_ends_at_its_age_and_not_before() {
    let a = Backend::echo();
    let evener = Evener::start(&config("max_age = \"2s\"", NO_CHECKS, &[harness::entry("a", a.address(), "")]));
    let port = evener.port("web");
    let begun = now();
    let streams: Vec<TcpStream> = (0..20).map(|_| served(port)).collect();
    let opened = begun.elapsed();
    let times = lasted(streams, begun);
    assert!(times[0] > Duration::from_millis(1790), "{times:?}");
    assert!(times[19] < opened + Duration::from_secs(8), "{times:?}");
    evener.wait_for_endings(20, "max_age");
}

#[test]
fn a_client_of_requests_is_sent_away_at_its_age_after_its_request() {
    let backend = Backend::held();
    let file = site("max_age = \"3s\"", "", "", &[&backend]);
    let evener = Evener::start(&format!("[process]\nworkers = 1\n{file}"));
    let port = evener.port("web");
    let (mut idle, mut busy) = (Peer::of(port), Peer::of(port));
    idle.send(get("/idle"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    server.send(reply("200 OK", "ok"));
    assert_eq!(idle.response().field("connection"), None);
    busy.send(get("/busy"));
    server.request().unwrap().unwrap();
    assert!(idle.is_over());
    holds_for(Duration::from_millis(1200), "the request goes on", || {
        busy.stream().set_nonblocking(true).unwrap();
        let waits = busy.stream().peek(&mut [0]).is_err();
        busy.stream().set_nonblocking(false).unwrap();
        waits
    });
    server.send(reply("200 OK", "done"));
    let answer = busy.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("close")));
    assert!(busy.is_over());
}
