//! `evener explain` and what `check` warns of: which way a request would go, without a running process.
#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used)]

mod harness;

use harness::evener;

const FILE: &str = r#"
[listener.web]
bind = "127.0.0.1:8080"
protocol = "http"
trusted_proxies = ["10.0.0.0/8"]
deny = ["192.0.2.66/32"]

[listener.other]
bind = "127.0.0.1:8081"
protocol = "http"

[[route]]
name = "orders"
listener = "web"
match = { host = "api.example.com", path_prefix = "/orders", method = ["GET", "POST"] }
pools = [{ name = "v1", weight = 95 }, { name = "v2", weight = 5 }]
strip_prefix = "/orders"

[[route]]
name = "user"
listener = "web"
match = { path = "/u/{id}" }
pool = "v1"
rewrite_path = "/v2/{id}"

[[route]]
name = "old"
listener = "web"
match = { path_prefix = "/old" }
redirect = { to = "https://{host}/new/{rest}", status = 302 }

[[route]]
name = "teapot"
listener = "web"
match = { path = "/tea", header = { x-tea = "green" } }
reply = { status = 418, body = "short and stout" }

[pool.v1]
backends = ["127.0.0.1:1"]

[pool.v2]
backends = ["127.0.0.1:2"]
"#;

/// What is said for these arguments, with FILE; status, stdout, stderr.
fn explain(arguments: &[&str]) -> (i32, String, String) {
    with(FILE, &[&["explain"], arguments].concat())
}

fn with(text: &str, arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evener.toml");
    std::fs::write(&file, text).unwrap();
    let output = evener(&[&["-c", file.to_str().unwrap()], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The line of this name.
fn line(arguments: &[&str], name: &str) -> Option<String> {
    let (status, out, err) = explain(arguments);
    assert_eq!((status, err.as_str()), (0, ""), "{arguments:?}");
    out.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

#[test]
fn a_request_is_followed_to_its_pools_and_the_path_that_they_get() {
    let url = "http://API.example.com.:8080/orders/x/../7?full=1";
    let (status, out, _) =
        explain(&["GET", url, "--client", "10.0.0.1", "--header", "X-Forwarded-For: 1.1.1.1, 192.0.2.7"]);
    assert_eq!(status, 0);
    let expected = "listener  web\n\
                    request   GET api.example.com /orders/7?full=1\n\
                    client    192.0.2.7 (through 10.0.0.1)\n\
                    route     orders\n\
                    policies  no auth; body 1GiB\n\
                    pool      v1 (weight 95), v2 (weight 5)\n\
                    path      /7?full=1\n";
    assert_eq!(out, expected);
    assert_eq!(line(&["PUT", "http://x:8080/u/7"], "path").as_deref(), Some("/v2/7"));
    assert_eq!(line(&["PUT", "http://x:8080/u/7"], "pool").as_deref(), Some("v1"));
}

#[test]
fn an_answer_without_a_backend_is_told() {
    let old = line(&["GET", "http://a.example.com:8080/old/x"], "answer");
    assert_eq!(old.as_deref(), Some("302 https://a.example.com/new/x"));
    let tea = line(&["GET", "http://a:8080/tea", "-H", "x-tea: black, green"], "answer");
    assert_eq!(tea.as_deref(), Some("418"));
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    for (arguments, refused) in [
        (&["GET", "http://a:8080/a%2fb"][..], "400 malformed: its path holds a percent-encoded slash"),
        (&["GET", "http://a:8080/../x"], "400 malformed: its path leads out"),
        (&["GET", "http://a:8080/a b"], "400 malformed: its URI cannot be read"),
        (&["GET", "http://a:8080\\x"], "400 malformed: its path holds a backslash"),
        (&["GET", "http://a:8080/", "-H", "x_forwarded_for: 1"], "400 malformed: it has a header whose name"),
        (&["GET", "http://a:8080/", "-H", "host: b", "-H", "host: b"], "400 malformed: it has several Host headers"),
        (&["GET", "http://a:8080/u/7", "-H", "connection: x-forwarded-for"], "400 malformed: its Connection header"),
        (&["CONNECT", "http://a:8080/"], "400 malformed: CONNECT"),
        (&["GET", "http://a:8080/tea"], "404 no_route"),
        (&["PUT", "http://api.example.com:8080/orders"], "404 no_route"),
        (&["GET", "http://a:8080/", "--client", "192.0.2.66"], "denied: the listener"),
        (&["GET", "http://a:8081/"], "404 no_route"),
        (&["GET", "http://a/", "--listener", "other"], "404 no_route"),
    ] {
        let said = line(arguments, "refused").unwrap_or_default();
        assert!(said.starts_with(refused), "{arguments:?}: {said}");
    }
}

#[test]
fn a_browsers_question_is_answered_by_the_gateway_unless_its_address_is_refused() {
    let route = "[[route]]\nname = \"api\"\nlistener = \"web\"\nmatch = { path = \"/api\", method = [\"GET\", \"PUT\"] }\n\
                 pool = \"v1\"\ncors = { origins = [\"https://app.example.com\"], methods = [\"GET\", \"PUT\"] }\n\
                 deny = [\"192.0.2.0/24\"]\n";
    let ask = |method: &str, origin: &str, about: &str, client: &str| {
        let (origin, about) = (format!("Origin: {origin}"), format!("Access-Control-Request-Method: {about}"));
        let question = ["explain", method, "http://a:8080/api", "-H", &origin, "-H", &about, "--client", client];
        let (status, out, err) = with(&format!("{FILE}\n{route}"), &question);
        assert_eq!((status, err.as_str()), (0, ""));
        out.lines().last().unwrap().to_owned()
    };
    let app = "https://app.example.com";
    for (question, said) in [
        (
            ["OPTIONS", app, "PUT", "127.0.0.1"],
            "answer    204 to a browser's question: pages of this origin may send GET, PUT",
        ),
        (
            ["OPTIONS", "https://evil.example.com", "PUT", "127.0.0.1"],
            "answer    204 to a browser's question: pages of this origin may not ask",
        ),
        (["OPTIONS", app, "DELETE", "127.0.0.1"], "refused   404 no_route: no route fits"),
        (["OPTIONS", app, "PUT", "192.0.2.1"], "refused   403 denied: `deny` has this address"),
        (["PUT", app, "PUT", "127.0.0.1"], "path      /api"),
    ] {
        let [method, origin, about, client] = question;
        assert_eq!(ask(method, origin, about, client), said, "{question:?}");
    }
}

#[test]
fn a_header_that_only_tokens_may_set_chooses_no_route() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let tokens =
        "algorithms = [\"HS256\"]\nissuer = \"us\"\naudience = [\"api\"]\nclaims_to_headers = { sub = \"x-tea\" }";
    let text = format!("{FILE}\n[jwt.main]\nsecret_file = \"{}\"\n{tokens}\n", secret.display());
    let (status, out, err) = with(&text, &["explain", "GET", "http://a:8080/tea", "-H", "x-tea: green"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("404 no_route"), "{out}");
}

#[test]
fn programs_get_json() {
    let (status, out, _) = explain(&["GET", "http://a:8080/a%00", "--json"]);
    let told: evener::api::Explanation = serde_json::from_str(&out).unwrap();
    assert_eq!((status, told.listener.as_str(), told.route), (0, "web", None));
    let refusal = told.refusal.unwrap();
    assert_eq!((refusal.status, refusal.reason.as_str()), (400, "malformed"));
}

#[test]
fn a_question_that_makes_no_sense_is_status_2() {
    for (arguments, about) in [
        (&["GET", "/orders"][..], "http://"),
        (&["GET", "ftp://a/"], "http://"),
        (&["GET"], "URL"),
        (&["G T", "http://a/"], "METHOD"),
        (&["GET", "http://a/", "-H", "x"], "NAME: VALUE"),
        (&["GET", "http://a:8082/"], "there are: web, other"),
        (&["GET", "http://a/", "--listener", "x"], "there are: web, other"),
        (&["GET", "http://a/", "--client", "x"], "IP"),
    ] {
        let (status, out, err) = explain(arguments);
        assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(about), "{arguments:?}: {err}");
    }
}

#[test]
fn check_warns_of_a_route_that_no_request_reaches() {
    let text = format!(
        "{FILE}\n[[route]]\nname = \"late\"\nlistener = \"web\"\nmatch = {{ path = \"/u/{{name}}\" }}\npool = \"v2\"\n"
    );
    let (status, _, err) = with(&text, &["check"]);
    assert_eq!(status, 0);
    assert!(err.contains("warning: no request takes the route `late`: `user` goes before it"), "{err}");
    assert_eq!(with(FILE, &["check"]).2, "");
}

/// What `check` says of a route `admin` with `auth` for pool `app`, an open one for pool `docs`, and another one.
fn checked(other: &str) -> String {
    let route = |keys: &str| format!("[[route]]\nlistener = \"web\"\n{keys}\n\n");
    let text = FILE.split_once("[[route]]").unwrap().0.to_owned()
        + &route("name = \"admin\"\nmatch = { path_prefix = \"/admin\" }\npool = \"app\"\nauth = { api_key = true }")
        + &route("name = \"docs\"\nmatch = { path_prefix = \"/docs\" }\npool = \"docs\"")
        + &route(other)
        + "[pool.app]\nbackends = [\"127.0.0.1:1\"]\n[pool.docs]\nbackends = [\"127.0.0.1:2\"]\n"
        + &format!("[consumer.acme]\nkeys = [\"sha256:{}\"]\n", "0".repeat(64));
    let text = text.replace("[listener.other]\nbind = \"127.0.0.1:8081\"\nprotocol = \"http\"\n", "");
    let (status, out, err) = with(&text, &["check"]);
    assert_eq!(status, 0, "{out}{err}");
    err
}

#[test]
fn check_warns_of_an_open_route_among_protected_paths_unless_it_says_that_it_is_one() {
    let open = "name = \"state\"\nmatch = { path = \"/{any}/state\" }\npool = \"app\"\n";
    let warning = "warning: the route `state` asks nobody who they are, and takes requests to hosts and paths of others \
                   that do: `admin`; if that is meant, say `auth = \"none\"` in it\n\n";
    assert_eq!(checked(open), warning);
    assert_eq!(checked(&format!("{open}auth = \"none\"\n")), "");
}

#[test]
fn check_warns_of_an_open_route_that_strips_its_way_to_protected_paths_of_its_pool() {
    let open = |pool: &str, change: &str| {
        format!("name = \"app\"\nmatch = {{ path_prefix = \"/app\" }}\npool = \"{pool}\"\n{change}\n")
    };
    let warning = |key: &str| {
        format!(
            "warning: the route `app` asks nobody who they are, and by its `{key}` requests come to their pool as those of \
             others that do: `admin`; no route is looked for again, so give it `auth`, or, if that is meant, say \
             `auth = \"none\"` in it\n\n"
        )
    };
    let (strip, rewrite) = ("strip_prefix = \"/app\"", "rewrite_path = \"/{rest}\"");
    assert_eq!(checked(&open("app", strip)), warning("strip_prefix"));
    assert_eq!(checked(&open("app", rewrite)), warning("rewrite_path"));
    assert_eq!(checked(&open("docs", strip)), "", "another pool");
    assert_eq!(checked(&open("app", "rewrite_path = \"/app/v2/{rest}\"")), "", "other paths");
    assert_eq!(checked(&open("app", &format!("{strip}\nauth = \"none\""))), "", "it is meant");
}
