//! What a route does with a request: weights, cookies, breakers, fixed answers, edits, paths and hosts, and what is said
//! of the client.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use harness::http::{Message, Peer, get, listener, pool, reply, request, site};
use harness::{Backend, Evener, SOON, free_port, http_get, now, wait_until};

const ONE_THREAD: &str = "[process]\nworkers = 1\n";

fn start(text: &str) -> Evener {
    Evener::start(&(ONE_THREAD.to_owned() + text))
}

/// Answers with the request's line.
fn telling() -> Backend {
    Backend::web("telling", |request, stream| stream.write_all(reply("200 OK", &request.start).as_bytes()))
}

#[track_caller]
fn asked(port: u16, bytes: &str) -> Message {
    Peer::of(port).ask(bytes)
}

/// A route of listener `web` that does this.
fn route(name: &str, keys: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nlistener = \"web\"\n{keys}\n\n")
}

#[test]
fn counts_of_what_a_reload_has_removed_are_gone_and_the_others_stay() {
    let (backend, metrics) = (Backend::webs("a"), free_port());
    let process = format!("[process]\nworkers = 1\nmetrics = \"127.0.0.1:{metrics}\"\n");
    let web = site("", "", "", &[&backend]) + &route("tea", "pool = \"web\"\nmatch = { path = \"/tea\" }");
    let old =
        (listener("") + &route("gone", "pool = \"web\"")).replace("web]", "old]").replace("r = \"web\"", "r = \"old\"");
    let evener = Evener::start(&(process.clone() + &web + &old));
    let counted = || -> Vec<String> {
        let (_, text) = http_get(metrics, "/metrics").unwrap();
        let lines = text.lines().filter(|line| line.starts_with("evener_http_requests_total{"));
        let mut counted: Vec<String> = lines.map(str::to_owned).collect();
        counted.sort();
        counted
    };
    let line = |listener: &str, route: &str, code: u16| {
        format!("evener_http_requests_total{{listener=\"{listener}\",route=\"{route}\",code=\"{code}\"}} 1")
    };
    let ask = |listener: &str, path: &str| asked(evener.port(listener), &get(path)).status();
    assert_eq!([ask("web", "/"), ask("web", "/tea"), ask("old", "/"), ask("old", "/%00")], [200, 200, 200, 400]);
    let all = [line("old", "", 400), line("old", "gone", 200), line("web", "all", 200), line("web", "tea", 200)];
    wait_until(SOON, "all are counted", || counted() == all);
    evener.reload(&(process.clone() + &site("", "", "", &[&backend])));
    wait_until(SOON, "what is gone is not counted any more", || counted() == [line("web", "all", 200)]);
}

// --- Choice ---------------------------------------------------------------------------------------------------------------

#[test]
fn requests_are_spread_over_backends_and_pools_by_weight() {
    let (a, b) = (Backend::webs("a"), Backend::webs("b"));
    let pools = "pools = [{ name = \"a\", weight = 90 }, { name = \"b\", weight = 10 }]";
    let evener = start(&(listener("") + &route("all", pools) + &pool("a", "", &[&a]) + &pool("b", "", &[&b])));
    let mut client = Peer::of(evener.port("web"));
    for _ in 0..500 {
        client.ask(get("/"));
    }
    let canaries = b.requests().len();
    assert!((15..=110).contains(&canaries), "{canaries} of 500 by a weight of 10 %");
    let evener = start(&site("", "", "", &[&a, &b]));
    let mut client = Peer::of(evener.port("web"));
    let names: Vec<String> = (0..4).map(|_| client.ask(get("/")).text()).collect();
    assert_eq!(names[..2], names[2..], "by turns, although the client's connection is one");
    assert_ne!(names[0], names[1]);
}

#[test]
fn a_cookie_keeps_a_client_with_its_backend_and_a_forged_one_does_not() {
    let (a, b) = (Backend::webs("a"), Backend::webs("b"));
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let sticky = format!("sticky = {{ cookie = \"stay\", secret_file = \"{}\" }}", secret.display());
    let evener = start(&site("", &sticky, "", &[&a, &b]));
    let first = asked(evener.port("web"), &get("/"));
    let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("stay="), "{cookie}");
    for _ in 0..10 {
        let answer = asked(evener.port("web"), &request("GET", "/", &format!("cookie: x=y; {cookie}\r\n")));
        assert_eq!(answer.text(), first.text());
    }
    let forged = format!("cookie: {}x\r\n", &cookie[..cookie.len() - 1]);
    let names: Vec<String> = (0..2).map(|_| asked(evener.port("web"), &request("GET", "/", &forged)).text()).collect();
    assert_ne!(names[0], names[1], "by turns");
    let (mut gone, other) = if first.text() == "a" { (a, b) } else { (b, a) };
    gone.kill();
    let answer = asked(evener.port("web"), &request("GET", "/", &format!("cookie: {cookie}\r\n")));
    assert_eq!(answer.text(), other.name(), "a backend that is gone keeps nobody");
    assert!(answer.field("set-cookie").is_some(), "and the cookie is another one from now on");
}

#[test]
fn a_cookie_keeps_a_client_with_its_pool_unless_that_takes_nobody() {
    let (a, b) = (Backend::webs("a"), Backend::webs("b"));
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let file = |weight: u32| {
        let pools = format!("pools = [{{ name = \"old\", weight = {weight} }}, {{ name = \"new\", weight = 1 }}]");
        let sticky = format!("sticky = {{ secret_file = \"{}\" }}", secret.display());
        let route = format!("[[route]]\nname = \"all\"\nlistener = \"web\"\n{pools}\n{sticky}\n");
        listener("") + &route + &pool("old", "", &[&a]) + &pool("new", "", &[&b])
    };
    let evener = start(&file(1));
    let visitor = |name: &str| {
        let answers = std::iter::repeat_with(|| asked(evener.port("web"), &get("/")));
        let answer = answers.take(200).find(|answer| answer.text() == name).expect("each has half of the clients");
        answer.field("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    };
    let ask = |cookie: &str| asked(evener.port("web"), &request("GET", "/", &format!("cookie: {cookie}\r\n"))).text();
    let (old, new) = (visitor("a"), visitor("b"));
    assert!((0..20).all(|_| ask(&old) == "a" && ask(&new) == "b"));
    evener.rewrite(&file(0));
    evener.cli_ok(&["reload"]);
    assert!((0..20).all(|_| ask(&old) == "b"), "weight 0 takes nobody");
}

#[test]
fn a_breaker_opens_and_closes() {
    let backend = Backend::http("b");
    backend.be_sick(true);
    let breaker = "breaker = { error_rate = \"50%\", min_requests = 4, window = \"10s\", open_for = \"1s\" }";
    let evener = start(&site("", "", breaker, &[&backend]));
    let status = || asked(evener.port("web"), &get("/")).status();
    for _ in 0..4 {
        assert_eq!(status(), 503);
    }
    let seen = backend.records().len();
    let answer = asked(evener.port("web"), &get("/open"));
    assert_eq!((answer.status(), answer.field("content-type")), (503, Some("application/problem+json")));
    assert_eq!(backend.records().len(), seen, "it was spared");
    backend.be_sick(false);
    wait_until(SOON, "a probe has found it well", || status() == 200);
    assert!((0..10).all(|_| status() == 200));
}

#[test]
fn a_client_that_goes_away_does_not_keep_a_breaker_open() {
    let backend = Backend::held();
    let breaker = "breaker = { error_rate = \"50%\", min_requests = 1, window = \"10s\", open_for = \"2s\" }";
    let evener = start(&site("", "", breaker, &[&backend]));
    let ask = |path: &str, status: &str| {
        let mut client = Peer::of(evener.port("web"));
        client.send(get(path));
        let mut server = Peer::on(backend.take());
        server.request().unwrap().unwrap();
        server.send(reply(status, ""));
        client.response().status()
    };
    assert_eq!(ask("/bad", "500 Oops"), 500);
    let open = now();
    assert_eq!(asked(evener.port("web"), &get("/")).status(), 503);
    wait_until(SOON, "it lets one through", || open.elapsed() > Duration::from_millis(2100));
    let mut gone = Peer::of(evener.port("web"));
    gone.send(get("/gone"));
    let mut held = Peer::on(backend.take());
    held.request().unwrap().unwrap();
    drop(gone);
    wait_until(SOON, "it is gone", || evener.events().iter().any(|event| event["path"] == "/gone"));
    assert_eq!(ask("/next", "200 OK"), 200, "the next one finds out");
}

// --- Answers of our own -----------------------------------------------------------------------------------------------------

#[test]
fn a_route_answers_by_itself() {
    let fixed = route(
        "fixed",
        "match = { path = \"/ok\" }\nreply = { status = 202, body = \"fine\\n\", content_type = \"text/plain\" }",
    );
    let moved = route(
        "moved",
        "match = { path = \"/old/{id}\" }\nredirect = { to = \"https://{host}/new/{id}{query}\", status = 308 }",
    );
    let evener = start(&(listener("") + &fixed + &moved));
    let mut client = Peer::of(evener.port("web"));
    let answer = client.ask(get("/ok"));
    assert_eq!((answer.status(), answer.text().as_str()), (202, "fine\n"));
    assert_eq!((answer.field("content-type"), answer.field("content-length")), (Some("text/plain"), Some("5")));
    client.send(request("HEAD", "/ok", ""));
    assert_eq!(client.response_to_head().field("content-length"), Some("5"));
    let answer = client.ask(get("/old/7?a=b"));
    assert_eq!((answer.status(), answer.field("location")), (308, Some("https://a.test/new/7?a=b")));
    let answer = client.ask(request("POST", "/ok", "content-length: 4\r\n") + "body");
    assert_eq!(answer.status(), 202, "a body that nobody reads does no harm");
    assert_eq!(client.ask(get("/ok")).status(), 202);
}

#[test]
fn what_no_route_takes_is_a_problem_with_the_id_that_the_log_has() {
    let evener =
        start(&(listener("") + &route("one", "match = { path = \"/one\" }\nreply = { status = 200, body = \"\" }")));
    let answer = asked(evener.port("web"), &get("/two"));
    assert_eq!((answer.status(), answer.field("content-type")), (404, Some("application/problem+json")));
    let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((&problem["status"], &problem["type"]), (&404.into(), &"about:blank".into()));
    wait_until(SOON, "the log has the same id", || {
        evener.events().iter().any(|event| {
            problem["instance"] == format!("urn:request:{}", event["request_id"].as_str().unwrap_or_default())
                && (event["refusal"] == "no_route" && event["status"] == 404)
        })
    });
}

#[test]
fn who_sends_what_can_be_read_in_two_ways_is_told_which_rule_it_breaks() {
    let evener = start(&site("", "", "", &[&telling()]));
    for (sent, detail) in [
        (get("/a%2fb"), "its path holds a percent-encoded slash, backslash or control byte"),
        (
            request("GET", "/", "transfer-encoding: chunked\r\ncontent-length: 3\r\n"),
            "it has a Transfer-Encoding and a Content-Length",
        ),
    ] {
        let answer = asked(evener.port("web"), &sent);
        let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((answer.status(), &problem["detail"]), (400, &detail.into()));
    }
}

// --- Edits ------------------------------------------------------------------------------------------------------------------

#[test]
fn headers_are_removed_set_and_added_both_ways() {
    let backend = Backend::web("headers", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: secret\r\nx-both: its\r\nx-set: its\r\nkeep-alive: 5\r\n\r\n")
    });
    let keys = "request_headers = { set = { x-set = \"ours\" }, add = { x-both = \"ours\" }, remove = [\"x-gone\"] }\n\
                response_headers = { set = { x-set = \"ours\" }, add = { x-both = \"ours\" }, remove = [\"server\"] }";
    let evener = start(&site("", keys, "", &[&backend]));
    let fields = "x-set: its\r\nx-set: again\r\nx-both: its\r\nx-gone: 1\r\nx-gone: 2\r\nx-other: stays\r\n";
    let answer = asked(evener.port("web"), &request("GET", "/", fields));
    let seen = &backend.requests()[0];
    for message in [seen, &answer] {
        assert_eq!((message.all("x-set"), message.all("x-both")), (vec!["ours"], vec!["its", "ours"]));
    }
    assert!(seen.all("x-gone").is_empty() && seen.field("x-other") == Some("stays"));
    assert!(answer.all("server").is_empty() && answer.all("keep-alive").is_empty());
}

#[test]
fn what_a_backend_may_read_as_an_edited_header_goes_with_it() {
    let backend = telling();
    let keys = "request_headers = { set = { x-set = \"ours\", a_b = \"ours\" }, add = { x-both = \"ours\" }, \
                remove = [\"x-gone\"] }";
    let evener = start(&site("", keys, "", &[&backend]));
    let fields =
        "x_set: its\r\nX.Set: its\r\nx-gone: its\r\nX_Gone: its\r\na-b: its\r\nx_both: its\r\nx_other: its\r\n";
    assert_eq!(asked(evener.port("web"), &request("GET", "/", fields)).status(), 200);
    let seen = &backend.requests()[0];
    for (name, values) in [
        ("x-set", &["ours"][..]),
        ("a_b", &["ours"]),
        ("x-both", &["ours"]),
        ("x_both", &["its"]),
        ("x_other", &["its"]),
        ("x_set", &[]),
        ("x.set", &[]),
        ("x-gone", &[]),
        ("x_gone", &[]),
        ("a-b", &[]),
    ] {
        assert_eq!(seen.all(name), values, "{name}");
    }
}

#[test]
fn prefixes_are_stripped_and_paths_rewritten_and_the_query_goes_with_them() {
    let backend = telling();
    let stripped = route("files", "match = { path_prefix = \"/files\" }\npool = \"web\"\nstrip_prefix = \"/files\"");
    let rewritten =
        route("orders", "match = { path = \"/orders/{id}\" }\npool = \"web\"\nrewrite_path = \"/v2/{id}/x\"");
    let evener = start(&(listener("") + &stripped + &rewritten + &pool("web", "", &[&backend])));
    let mut client = Peer::of(evener.port("web"));
    for (asked, seen) in [
        ("/files/a/b?c=d", "/a/b?c=d"),
        ("/files", "/"),
        ("/files/../files//a", "/a"),
        ("/%66iles/%7Ea", "/~a"),
        ("/orders/7?full=%2F", "/v2/7/x?full=%2F"),
    ] {
        assert_eq!(client.ask(get(asked)).text(), format!("GET {seen} HTTP/1.1"), "{asked}");
    }
    assert_eq!(client.ask(get("/filesx")).status(), 404);
}

// --- Hosts ------------------------------------------------------------------------------------------------------------------

#[test]
fn there_is_exactly_one_host_and_the_backend_sees_that_one() {
    let backend = telling();
    let evener = start(&site("", "", "", &[&backend]));
    let port = evener.port("web");
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
    ] {
        assert_eq!(asked(port, bad).status(), 400, "{bad:?}");
    }
    assert!(backend.requests().is_empty());
    let good = [
        ("GET http://A.Test:81/x?y HTTP/1.1\r\nhost: a.test:81\r\n\r\n", "/x?y", "a.test:81"),
        ("GET /x HTTP/1.1\r\nHOST: A.TEST.\r\n\r\n", "/x", "a.test"),
        ("GET /x HTTP/1.1\r\nhost: [2001:DB8::0:1]:8080\r\n\r\n", "/x", "[2001:db8::1]:8080"),
    ];
    for (bytes, path, host) in good {
        assert_eq!(asked(port, bytes).status(), 200, "{bytes:?}");
        let seen = backend.requests().pop().unwrap();
        assert_eq!((seen.path(), seen.field("host")), (path, Some(host)), "{bytes:?}");
    }
}

#[test]
fn routes_go_by_host_and_the_host_by_its_canonical_form() {
    let (a, b) = (Backend::webs("a"), Backend::webs("b"));
    let routes = route("a", "match = { host = \"a.test\" }\npool = \"a\"")
        + &route("b", "match = { host = \"*.b.test\" }\npool = \"b\"");
    let evener = start(&(listener("") + &routes + &pool("a", "", &[&a]) + &pool("b", "", &[&b])));
    let mut client = Peer::of(evener.port("web"));
    for (host, status, name) in
        [("A.test", 200, "a"), ("a.test:80", 200, "a"), ("x.B.test.", 200, "b"), ("b.test", 404, "")]
    {
        let answer = client.ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), status, "{host}");
        assert!(status == 404 || answer.text() == name, "{host}");
    }
}

// --- What is said of the client -------------------------------------------------------------------------------------------

const CLAIMS: &str = "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil\r\nx-forwarded-prefix: /evil\r\n\
                      forwarded: for=6.6.6.6;proto=https\r\nx-real-ip: 6.6.6.6\r\nx-request-id: evil\r\n";

fn said(request: &Message) -> BTreeMap<&str, &str> {
    let names =
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix", "forwarded", "x-real-ip"];
    names.into_iter().filter_map(|name| Some((name, request.field(name)?))).collect()
}

#[test]
fn what_an_untrusted_peer_says_of_itself_is_replaced() {
    let backend = telling();
    let evener = start(&site("", "", "", &[&backend]));
    asked(evener.port("web"), &request("GET", "/", CLAIMS));
    let seen = backend.requests().pop().unwrap();
    let ours = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.test"),
        ("forwarded", "for=127.0.0.1;proto=http"),
    ];
    assert_eq!(said(&seen), ours.into());
    assert_eq!(seen.field("x-request-id").unwrap().len(), 32);
}

#[test]
fn what_a_trusted_proxy_says_is_heard_and_continued() {
    let backend = telling();
    let evener = start(&site("trusted_proxies = [\"127.0.0.0/8\"]", "", "", &[&backend]));
    asked(evener.port("web"), &request("GET", "/who", CLAIMS));
    let seen = backend.requests().pop().unwrap();
    assert_eq!(seen.field("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!((seen.field("x-forwarded-proto"), seen.field("x-request-id")), (Some("https"), Some("evil")));
    wait_until(SOON, "the log has the client", || {
        evener
            .events()
            .iter()
            .any(|event| event["path"] == "/who" && event["client"].as_str().unwrap().starts_with("6.6.6.6"))
    });
}

#[test]
fn nothing_that_a_client_writes_into_the_list_hides_what_the_proxy_has_added() {
    let backend = telling();
    let routes = route("near", "match = { path = \"/near\" }\npool = \"web\"\nallow = [\"127.0.0.0/8\"]")
        + &route("far", "match = { path = \"/far\" }\npool = \"web\"\nallow = [\"203.0.113.0/24\"]");
    let evener = start(&(listener("trusted_proxies = [\"127.0.0.0/8\"]") + &routes + &pool("web", "", &[&backend])));
    let lists = [
        &b"x-forwarded-for: \xe9, 203.0.113.5\r\n"[..],
        b"x-forwarded-for: \xe9\r\nx-forwarded-for: 203.0.113.5\r\n",
        b"forwarded: for=\"\xe9, for=203.0.113.5\r\n",
    ];
    for list in lists {
        let ask = |path: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n");
            Peer::of(evener.port("web")).ask([head.as_bytes(), list, b"\r\n"].concat()).status()
        };
        assert_eq!([ask("/near"), ask("/far")], [403, 200], "{}", list.escape_ascii());
        let seen = backend.requests().pop().unwrap();
        for name in ["x-forwarded-for", "forwarded"] {
            let list = seen.field(name).unwrap();
            assert!(list.contains("203.0.113.5, ") && list.contains("127.0.0.1"), "{name}: {list}");
        }
    }
}

#[test]
fn a_reload_ends_the_trust_in_a_proxy_for_connections_that_are_there_too() {
    let backend = Backend::webs("a");
    let text = |trusted: &str| ONE_THREAD.to_owned() + &site(trusted, "", "", &[&backend]);
    let evener = Evener::start(&text("trusted_proxies = [\"127.0.0.0/8\"]"));
    let mut client = Peer::of(evener.port("web"));
    let forwarded = request("GET", "/", "x-forwarded-for: 192.0.2.7\r\n");
    client.ask(&forwarded);
    evener.reload(&text(""));
    client.ask(&forwarded);
    let seen: Vec<String> = backend.requests().iter().map(|one| one.all("x-forwarded-for").join(", ")).collect();
    assert_eq!(seen, ["192.0.2.7, 127.0.0.1", "127.0.0.1"]);
}
