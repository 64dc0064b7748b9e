//! What only HTTP has: defaults, what a route has of its listener, and what a reload changes. What is refused stands in
//! `tests/conf`.

use super::super::http::{Action, HostPattern, PathPattern, Route, Speech, Version};
use super::*;

const WEB: &str = "[listener.web]\nbind = \"127.0.0.1:80\"\nprotocol = \"http\"\n";
const POOL: &str = "[pool.web]\nbackends = [\"127.0.0.1:1\"]\n";
const TOKENS: &str = "[jwt.main]\naudience = \"a\"\nalgorithms = [\"RS256\"]\nkeys_url = \"https://a.example.com/\"\n";

/// A listener with these lines and a route with those.
fn file(listener: &str, route: &str) -> String {
    format!("{WEB}{listener}\n[[route]]\nname = \"a\"\npool = \"web\"\n{route}\n{POOL}{TOKENS}")
}

fn route(listener: &str, route: &str) -> Route {
    Route::clone(&read(&file(listener, route)).gateway.routes[0])
}

#[test]
fn what_a_file_of_http_leaves_out_has_the_defaults_of_the_contract() {
    let secs = Duration::from_secs;
    let config = read(&file("", ""));
    let listener = &config.listeners[0];
    let Protocol::Http(http) = &listener.protocol else { panic!("{listener:?}") };
    assert_eq!((listener.pool.as_deref(), http.log_query), (None, false));
    assert!(http.trusted_proxies.is_empty());
    let limits = http.limits;
    assert_eq!((limits.header_bytes, limits.header_fields, limits.body), (16 << 10, 100, 1 << 30));
    assert_eq!((limits.header_timeout, limits.idle_timeout), (secs(10), secs(60)));
    assert_eq!((limits.streams.get(), limits.resets.get()), (100, 200));
    let route = &config.gateway.routes[0];
    assert_eq!((route.listener.as_str(), route.priority), ("web", 0));
    assert_eq!(route.action, Action::Forward(vec![("web".to_owned(), 100)]));
    assert_eq!(route.matches, http::Match::default());
    assert_eq!((route.timeout.request, route.timeout.idle), (Some(secs(30)), Some(secs(60))));
    assert_eq!(route.policies, http::Policies { body: 1 << 30, ..http::Policies::default() });
    assert!(route.retry.is_none() && route.sticky.is_none());
    let pool = &config.pools[0].http;
    assert_eq!(pool.speech, Speech { version: Version::Http1, idle_timeout: secs(30), idle_max: 100 });
    assert!(pool.breaker.is_none() && pool.failures.is_empty());
}

#[test]
fn what_a_route_says_of_a_kind_replaces_what_its_listener_says_of_it_and_nothing_else() {
    let all = "auth = { jwt = \"main\" }\nrate_limit = { limit = 1, per = \"1s\" }\ncors = { origins = \"*\" }\nretry = {}\n\
               limits = { body = \"1KiB\" }\ntimeout = { request = \"1s\", idle = \"2s\" }\nrequest_headers = { remove = [\"a\"] }";
    let bare = route(all, "");
    let policies = &bare.policies;
    assert!(policies.auth.is_some() && policies.cors.is_some() && bare.retry.is_some());
    assert_eq!((policies.rate_limits.len(), policies.body, bare.request_headers.remove.len()), (1, 1024, 1));
    for (key, differs) in [
        ("cors = false", Route { policies: http::Policies { cors: None, ..policies.clone() }, ..bare.clone() }),
        (
            "auth = \"none\"",
            Route { policies: http::Policies { auth: None, is_meant_open: true, ..policies.clone() }, ..bare.clone() },
        ),
        (
            "rate_limit = []",
            Route { policies: http::Policies { rate_limits: Vec::new(), ..policies.clone() }, ..bare.clone() },
        ),
        ("retry = false", Route { retry: None, ..bare.clone() }),
        ("request_headers = {}", Route { request_headers: http::Edits::default(), ..bare.clone() }),
        (
            "limits.body = \"2KiB\"",
            Route { policies: http::Policies { body: 2048, ..policies.clone() }, ..bare.clone() },
        ),
    ] {
        assert_eq!(route(all, key), differs, "{key}");
    }
    let slower = route(all, "timeout.request = \"5s\"").timeout;
    assert_eq!((slower.request, slower.idle), (Some(Duration::from_secs(5)), Some(Duration::from_secs(60))));
}

#[test]
fn only_none_takes_auth_away() {
    for other in ["auth = false", "auth = {}", "auth = \"\"", "auth = []", "auth = \"off\""] {
        let text = file("auth = { jwt = \"main\" }", other);
        assert!(parse("evener.toml", text.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn hosts_and_paths_are_kept_in_their_one_form() {
    let matches = route(
        "",
        "match = { host = [\"A.Example.com.\", \"*.B.example.com\", \"[2001:DB8:0::1]\"], path_prefix = \"/a/\" }",
    )
    .matches;
    let exact = |name: &str| HostPattern::Exact(name.to_owned());
    let wildcard = HostPattern::Wildcard("b.example.com".to_owned());
    assert_eq!(matches.hosts, [exact("a.example.com"), wildcard, exact("[2001:db8::1]")]);
    assert_eq!(matches.path, PathPattern::Prefix("/a".to_owned()));
    assert_eq!(route("", "match.path_prefix = \"/\"").matches.path, PathPattern::Prefix(String::new()));
}

#[test]
fn patterns_match_the_whole_of_a_path_and_a_part_of_a_user_agent() {
    let matches = route("", "match = { path_regex = \"/a|/b\", user_agent = \"curl\" }").matches;
    let PathPattern::Regex(path) = &matches.path else { panic!("{matches:?}") };
    assert!(path.0.is_match("/b") && !path.0.is_match("/bc") && !path.0.is_match("/c/b"));
    assert_eq!(path.text(), "/a|/b");
    assert!(matches.user_agent.unwrap().0.is_match("a curl 8"));
}

#[test]
fn a_reload_says_which_routes_change_also_when_their_listener_is_why() {
    let (old, new) = (read(&file("", "")), read(&file("cors = { origins = \"*\" }", "")));
    assert_eq!(diff(&old, &new).to_string(), "routes: ~a");
    let other = read(&file("", "").replace("name = \"a\"", "name = \"b\"").replace("jwt.main", "jwt.other"));
    assert_eq!(diff(&old, &other).to_string(), "routes: +b -a; jwt: +other -main");
}

#[test]
fn hashes_are_masked_for_others() {
    let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let config = read(&format!("{}[consumer.acme]\nkeys = [\"sha256:{hash}\"]\n", file("", "")));
    assert!(print(&config).contains(hash));
    let masked = print_masked(&config);
    assert!(!masked.contains(hash) && masked.contains("keys = [\"sha256:…\"]"), "{masked}");
}

#[test]
fn a_summary_tells_what_is_asked_in_its_order() {
    let config = read(&file(
        "",
        "deny = [\"10.0.0.0/8\"]\nauth = { jwt = \"main\", basic = true }\nmatch = { host = \"*.example.com\", path_prefix = \"/a\", method = \"GET\" }\n\
         rate_limit = [{ limit = 5, per = \"1m\", key = \"consumer\" }, { limit = 9, per = \"1s\" }]",
    ));
    let asked = "deny, limit 9/1s by client_ip, auth jwt main or basic, limit 5/1m by consumer, body 1GiB";
    assert_eq!(config.gateway.summary(), [["a", "GET *.example.com/a/*", "web", asked].map(str::to_owned)]);
}
