//! The order of routes, each condition, and what leaves.

mod naive;
mod sidestep;

use http::{Request, StatusCode};
use ipnet::IpNet;

use super::*;
use crate::config::http::{Action, Auth, Cors, Edits, PathPattern, Pattern, Policies, Timeouts};
use crate::gateway::canonical::canonical;
use crate::gateway::message::Head;

/// A route named by its pattern: "HOSTS PATH", where a host may be missing, `*` is any path, `/a/*` a prefix, `~x` an
/// expression, and the rest a template.
fn route(name: &str) -> Route {
    let (hosts, path) = name.split_once(' ').unwrap();
    let host = |host: &str| match host.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
        None => HostPattern::Exact(host.to_owned()),
    };
    let path = match (path, path.strip_suffix("/*"), path.strip_prefix('~')) {
        ("*", ..) => PathPattern::Any,
        (_, Some(prefix), _) => PathPattern::Prefix(prefix.to_owned()),
        (.., Some(regex)) => PathPattern::Regex(whole(regex)),
        _ => PathPattern::Template(path.to_owned()),
    };
    let hosts = hosts.split(',').filter(|text| !text.is_empty()).map(host).collect();
    Route {
        name: name.to_owned(),
        listener: "web".to_owned(),
        matches: Match { hosts, path, ..Match::default() },
        priority: 0,
        action: Action::Forward(vec![("p".to_owned(), 1)]),
        strip_prefix: None,
        rewrite_path: None,
        policies: Policies::default(),
        timeout: Timeouts { request: None, idle: None },
        retry: None,
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        sticky: None,
    }
}

/// An expression for a whole value, as the configuration compiles it.
fn whole(text: &str) -> Pattern {
    Pattern(regex::Regex::new(&format!("^(?:{text})$")).unwrap())
}

fn with(name: &str, change: impl FnOnce(&mut Route)) -> Route {
    let mut route = route(name);
    change(&mut route);
    route
}

fn table(routes: Vec<Route>) -> Table {
    let routes = routes.into_iter().map(Arc::new).collect();
    Table::build(&Gateway { routes, ..Gateway::default() }, "web")
}

fn of(names: &[&str]) -> Table {
    table(names.iter().map(|name| route(name)).collect())
}

/// A request like "GET http://host/path".
fn request(line: &str, headers: &[(&str, &str)]) -> (Head, Canonical) {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let head = Head::from(request.body(()).unwrap().into_parts().0);
    let canonical = canonical(&head, false, &[]).unwrap();
    (head, canonical)
}

fn asked<'a>(request: &'a (Head, Canonical)) -> Asked<'a> {
    let (head, canonical) = request;
    Asked { method: &head.method, canonical, headers: head.headers.special(), client: IpAddr::from([192, 0, 2, 1]) }
}

/// The name of the route that "http://host/path" takes.
fn taken(table: &Table, uri: &str) -> Option<String> {
    let request = request(&format!("GET http://{uri}"), &[]);
    table.find(&asked(&request)).map(|found| found.route().name.clone())
}

#[test]
fn the_most_specific_route_wins_wherever_it_stands_in_the_file() {
    let order = [
        "a.example.com /u/list",
        "a.example.com /u/{id}",
        "a.example.com /{x}/{y}",
        "a.example.com /u/*",
        "a.example.com /*",
        "*.example.com /u/list",
        "*.example.com *",
        " /u/list",
        " /u/{id}",
        " /u/*",
        " ~/u/.*",
        " *",
    ];
    let mut reversed = order;
    reversed.reverse();
    for names in [order, reversed] {
        let table = of(&names);
        for (uri, name) in [
            ("a.example.com/u/list", "a.example.com /u/list"),
            ("A.Example.com.:8080/u/li%73t?x", "a.example.com /u/list"),
            ("a.example.com/u/1", "a.example.com /u/{id}"),
            ("a.example.com/v/1", "a.example.com /{x}/{y}"),
            ("a.example.com/u/1/2", "a.example.com /u/*"),
            ("a.example.com/u/", "a.example.com /u/*"),
            ("a.example.com/u", "a.example.com /u/*"),
            ("a.example.com/uu", "a.example.com /*"),
            ("b.example.com/u/list", "*.example.com /u/list"),
            ("b.example.com/", "*.example.com *"),
            ("b.a.example.com/u/list", " /u/list"),
            ("example.com/u/7", " /u/{id}"),
            ("example.com/u/7/8", " /u/*"),
            ("example.com/U/7", " *"),
        ] {
            assert_eq!(taken(&table, uri).as_deref(), Some(name), "{uri}");
        }
    }
}

#[test]
fn a_prefix_ends_at_a_segment_and_a_variable_is_never_empty() {
    let table = of(&[" /orders/*", " /u/{id}", " /u/{id}/x/{*tail}", " /v/"]);
    for (path, name) in [
        ("/orders", Some(" /orders/*")),
        ("/orders/", Some(" /orders/*")),
        ("/orders/1/2", Some(" /orders/*")),
        ("/ordersx", None),
        ("/order", None),
        ("/u/1", Some(" /u/{id}")),
        ("/u/", None),
        ("/u/1/", None),
        ("/u/1/x/a/b", Some(" /u/{id}/x/{*tail}")),
        ("/u/1/x/", None),
        ("/v/", Some(" /v/")),
        ("/v", None),
    ] {
        assert_eq!(taken(&table, &format!("h{path}")).as_deref(), name, "{path}");
    }
    assert_eq!(taken(&of(&[]), "h/"), None);
}

#[test]
fn a_literal_is_canonical_as_paths_are() {
    let table = of(&[" /caf%c3%a9/{x}", " /%61/*"]);
    assert!(taken(&table, "h/caf%C3%A9/1").is_some());
    assert!(taken(&table, "h/a/1").is_some());
}

#[test]
fn priority_goes_before_everything() {
    let table =
        table(vec![route("a /x"), with(" *", |route| route.priority = 1), with(" /x", |route| route.priority = -1)]);
    assert_eq!(taken(&table, "a/x").as_deref(), Some(" *"));
}

#[test]
fn more_conditions_go_first_and_a_route_whose_conditions_fail_leaves_the_next_one() {
    let methods = vec![Method::GET, Method::POST];
    let header = (HeaderName::from_static("x-beta"), ValuePattern::Present);
    let table = table(vec![
        route(" /a/*"),
        with(" /a/b", |route| route.matches.methods = methods),
        with(" /a/{x}", |route| route.matches.headers = vec![header]),
        route(" /a/{y}"),
    ]);
    let taken = |line: &str, headers: &[(&str, &str)]| {
        let request = request(line, headers);
        table.find(&asked(&request)).map(|found| found.index)
    };
    assert_eq!(taken("POST http://h/a/b", &[]), Some(1));
    assert_eq!(taken("PUT http://h/a/b", &[("x-beta", "")]), Some(2));
    assert_eq!(taken("PUT http://h/a/b", &[]), Some(3));
    assert_eq!(taken("PUT http://h/a/b/c", &[]), Some(0));
}

/// `cors` for every origin.
fn any_origin() -> Cors {
    let (methods, headers) = (vec![Method::GET], Some(Vec::new()));
    Cors { origins: None, methods, headers, expose_headers: Vec::new(), credentials: false, max_age: None }
}

#[test]
fn a_browsers_question_is_of_the_route_that_answers_it_and_takes_what_it_asks_about() {
    let of = |methods: &[Method], has_cors: bool| {
        with(" /a", |route| {
            route.matches.methods = methods.to_vec();
            route.policies.cors = has_cors.then(|| Arc::new(any_origin()));
        })
    };
    let mut routes = vec![of(&[Method::PUT], false), of(&[Method::GET, Method::PUT], true), route(" *")];
    let known = table(routes.clone());
    let taken = |about: &[&str], origins: &[&str], method: &str| {
        let headers = about.iter().map(|about| ("access-control-request-method", *about));
        let headers: Vec<_> = headers.chain(origins.iter().map(|origin| ("origin", *origin))).collect();
        let request = request(&format!("{method} http://h/a"), &headers);
        known.find(&asked(&request)).unwrap().index
    };
    for (about, origins, method, index) in [
        (&["PUT"][..], &["https://a"][..], "OPTIONS", 1),
        (&["GET"], &["https://a"], "OPTIONS", 1),
        (&["PUT"], &["https://a", "https://b"], "OPTIONS", 1),
        (&["put"], &["https://a"], "OPTIONS", 2),
        (&["POST"], &["https://a"], "OPTIONS", 2),
        (&["PUT", "PUT"], &["https://a"], "OPTIONS", 2),
        (&["PUT"], &[], "OPTIONS", 2),
        (&[], &["https://a"], "OPTIONS", 2),
        (&["GET"], &["https://a"], "PUT", 0),
        (&["GET"], &["https://a"], "POST", 2),
    ] {
        assert_eq!(taken(about, origins, method), index, "{method} {about:?} {origins:?}");
    }
    assert!(known.looks_at_headers(&Method::OPTIONS) && !known.looks_at_headers(&Method::GET));
    routes.remove(1);
    assert!(!table(routes).looks_at_headers(&Method::OPTIONS));
    assert!(!table(vec![of(&[], true)]).looks_at_headers(&Method::OPTIONS));
}

#[test]
fn every_value_of_a_repeated_header_or_parameter_counts() {
    let header = |value| with(" *", |route| route.matches.headers = vec![(HeaderName::from_static("x-role"), value)]);
    let query = |value| with(" *", |route| route.matches.query = vec![("role".to_owned(), value)]);
    let exact = || ValuePattern::Exact("admin".to_owned());
    let regex = || ValuePattern::Regex(whole("adm.*"));
    let takes = |route: Route, uri: &str, headers: &[(&str, &str)]| {
        let request = request(&format!("GET http://h/{uri}"), headers);
        table(vec![route]).find(&asked(&request)).is_some()
    };
    for lines in [&["admin"][..], &["user", "admin"], &["admin", "user"], &["user, admin"], &["user,admin ,x"]] {
        let headers: Vec<_> = lines.iter().map(|line| ("x-role", *line)).collect();
        assert!(takes(header(exact()), "", &headers) && takes(header(regex()), "", &headers), "{lines:?}");
    }
    for lines in [&["Admin"][..], &["xadmin"], &[], &["user; admin"]] {
        let headers: Vec<_> = lines.iter().map(|line| ("x-role", *line)).collect();
        assert!(!takes(header(exact()), "", &headers) && !takes(header(regex()), "", &headers), "{lines:?}");
    }
    for uri in ["?role=admin", "?role=user&role=admin", "?x&role=admin&role=user", "?r%6fle=%61dmin"] {
        assert!(takes(query(exact()), uri, &[]) && takes(query(regex()), uri, &[]), "{uri}");
    }
    for uri in ["", "?role", "?role=user", "?Role=admin", "?x=1;role=admin", "?"] {
        assert!(!takes(query(exact()), uri, &[]) && !takes(query(regex()), uri, &[]), "{uri}");
    }
    assert!(takes(query(ValuePattern::Present), "?role", &[]) && !takes(query(ValuePattern::Present), "?roles", &[]));
    assert!(takes(query(ValuePattern::Exact("a b".to_owned())), "?role=a+b", &[]));
}

#[test]
fn the_agent_is_found_anywhere_in_its_header_and_the_client_in_its_networks() {
    let net: IpNet = "192.0.2.0/24".parse().unwrap();
    let agent =
        table(vec![with(" *", |route| route.matches.user_agent = Some(Pattern(regex::Regex::new("curl").unwrap())))]);
    let client = table(vec![with(" *", |route| route.matches.client_ip = vec![net])]);
    let curl = request("GET http://h/", &[("user-agent", "x curl/8")]);
    let other = request("GET http://h/", &[]);
    assert!(agent.find(&asked(&curl)).is_some() && agent.find(&asked(&other)).is_none());
    assert!(client.find(&asked(&other)).is_some());
    assert!(client.find(&Asked { client: IpAddr::from([192, 0, 3, 1]), ..asked(&other) }).is_none());
}

#[test]
fn a_byte_that_is_no_text_is_no_way_around_an_expression() {
    let odd = |name: &'static str, value: &[u8]| -> HeaderMap {
        [(HeaderName::from_static(name), http::HeaderValue::from_bytes(value).unwrap())].into_iter().collect()
    };
    let agent = Pattern(regex::Regex::new("(?i)badbot").unwrap());
    let agent = table(vec![with(" *", |route| route.matches.user_agent = Some(agent.clone()))]);
    let role = (HeaderName::from_static("x-role"), ValuePattern::Regex(whole("bad.*")));
    let role = table(vec![with(" *", |route| route.matches.headers = vec![role.clone()])]);
    let any = request("GET http://h/", &[]);
    for (table, headers) in [(agent, odd("user-agent", b"BadBot/1 \xe9")), (role, odd("x-role", b"bad \xe9"))] {
        assert!(table.find(&Asked { headers: &headers, ..asked(&any) }).is_some(), "{headers:?}");
    }
}

#[test]
fn a_star_takes_only_routes_of_every_path() {
    let request = request("OPTIONS http://h/", &[("host", "h")]);
    let mut parts = request.0;
    (parts.uri, parts.version) = (http::Uri::from_static("*"), http::Version::HTTP_11);
    let canonical = canonical(&parts, false, &[]).unwrap();
    let request = (parts, canonical);
    assert!(of(&[" /{*all}", " ~/.*", " /x/*"]).find(&asked(&request)).is_none());
    let any = table(vec![with(" *", |route| route.rewrite_path = Some("/x".to_owned()))]);
    assert_eq!(any.find(&asked(&request)).unwrap().forwarded(&request.1).unwrap().as_str(), "*");
}

/// What the backend gets as path.
fn forwarded(name: &str, change: impl FnOnce(&mut Route), uri: &str) -> Result<String, Malformed> {
    let (table, request) = (table(vec![with(name, change)]), request(&format!("GET http://{uri}"), &[]));
    let found = table.find(&asked(&request)).unwrap();
    found.forwarded(&request.1).map(|path| path.as_str().to_owned())
}

#[test]
fn a_prefix_is_stripped_by_segments_and_a_rewritten_path_is_canonical_again() {
    let strip = |uri| forwarded(" *", |route| route.strip_prefix = Some("/api".to_owned()), uri).unwrap();
    for (uri, path) in [
        ("h/api/a?b", "/a?b"),
        ("h/api", "/"),
        ("h/api/", "/"),
        ("h/api?q", "/?q"),
        ("h/apix", "/apix"),
        ("h/x/api", "/x/api"),
        ("h/api//evil", "/evil"),
        ("h/x/../api/a", "/a"),
    ] {
        assert_eq!(strip(uri), path, "{uri}");
    }
    for (name, to, uri, expected) in [
        (" /u/{id}", "/v2/{id}/x", "h/u/7?q=1", Ok("/v2/7/x?q=1")),
        (" /u/{a}/{*all}", "/{all}/{a}", "h/u/7/8/9", Ok("/8/9/7")),
        (" /old/*", "/new/{rest}", "h/old/a/b", Ok("/new/a/b")),
        (" /old/*", "/new/{rest}", "h/old", Ok("/new/")),
        (" /old/*", "/{rest}/x", "h/old/", Ok("/x")),
        (" *", "/all/{rest}", "h/a", Ok("/all/a")),
        (" *", "/same", "h/a?", Ok("/same?")),
        (" /{a}/{b}", "/{a}{b}", "h/%25/2fx", Err(Malformed::EncodedTwice)),
        (" /{a}", "{unknown}", "h/a", Err(Malformed::NoSlash)),
    ] {
        let rewritten = forwarded(name, |route| route.rewrite_path = Some(to.to_owned()), uri);
        assert_eq!(rewritten.as_deref(), expected.as_ref().map(|path| *path), "{name} {to} {uri}");
    }
}

#[test]
fn what_is_not_rewritten_is_shared() {
    let (table, request) = (of(&[" *"]), request("GET http://h/a?b", &[]));
    let forwarded = table.find(&asked(&request)).unwrap().forwarded(&request.1).unwrap();
    assert_eq!(forwarded.as_str().as_ptr(), request.1.path_and_query().as_str().as_ptr());
}

#[test]
fn a_redirect_is_made_of_canonical_parts() {
    let location = |name: &str, to: &str, uri: &str| {
        let action = Action::Redirect { status: StatusCode::FOUND, to: to.to_owned() };
        let (table, request) =
            (table(vec![with(name, |route| route.action = action)]), request(&format!("GET http://{uri}"), &[]));
        table.find(&asked(&request)).unwrap().location(to, &request.1).to_str().unwrap().to_owned()
    };
    assert_eq!(location(" *", "https://{host}{path}{query}", "A.b:8080/x%20y/../z?q=1"), "https://a.b/z?q=1");
    assert_eq!(location(" *", "https://{host}{path}{query}", "h/"), "https://h/");
    assert_eq!(location(" /u/{id}", "/user/{id}", "h/u/7"), "/user/7");
    assert_eq!(location(" /go/*", "/{rest}", "h/go//evil.example"), "/evil.example");
    assert_eq!(location(" *", "/{", "h/"), "/{");
}

#[test]
fn a_route_that_nothing_reaches_is_named_with_one_before_it() {
    let get = |name| with(name, |route| route.matches.methods = vec![Method::GET]);
    let early = |name| with(name, |route| route.priority = 1);
    let answering = |name| {
        let mut route = get(name);
        route.policies.cors = Some(Arc::new(any_origin()));
        route
    };
    for (routes, expected) in [
        (vec![route(" /a"), route(" /b")], None),
        (vec![route(" /a/*"), route(" /a/b")], None),
        (vec![early(" /a/*"), route(" /a/b")], Some((1, 0))),
        (vec![early(" /a/*"), route("h /a/{x}")], Some((1, 0))),
        (vec![early("h /a/*"), route(" /a/{x}")], None),
        (vec![early("*.h *"), route("a.h,b.h /a")], Some((1, 0))),
        (vec![early("*.h *"), route("a.h,b.a.h /a")], None),
        (vec![route(" /a"), route(" /%61")], Some((1, 0))),
        (vec![get(" /a"), route(" /a")], None),
        (vec![route(" /{x}"), route(" /{y}")], Some((1, 0))),
        (vec![early(" /a/{*x}"), route(" /a/*")], None),
        (vec![early(" /a/{*x}"), route(" /a/")], None),
        (vec![early(" /a/{*x}"), route(" /a/b")], Some((1, 0))),
        (vec![early(" ~/a.*"), route(" /ab")], Some((1, 0))),
        (vec![early(" ~/a.*"), route(" /ab/*")], None),
        (vec![route(" *"), route(" /*")], Some((1, 0))),
        (vec![get(" /a"), answering(" /%61")], None),
        (vec![answering(" /a"), answering(" /%61")], Some((1, 0))),
        (vec![early(" /a"), answering(" /a")], Some((1, 0))),
    ] {
        let table = table(routes);
        let place = |wanted: &Arc<Route>| table.routes().position(|route| Arc::ptr_eq(route, wanted)).unwrap();
        let found = table.shadowed().first().map(|(route, by)| (place(route), place(by)));
        assert_eq!(found, expected, "{:?}", table.routes().map(|route| &route.name).collect::<Vec<_>>());
    }
}

#[test]
fn an_open_route_that_takes_requests_of_a_protected_one_is_named() {
    let auth = |route: &mut Route| route.policies.auth = Some(Arc::new(Auth::default()));
    let secret = |name| with(name, auth);
    let get = |name| with(name, |route| route.matches.methods = vec![Method::GET]);
    let secret_get = |name| with(name, |route| (auth(route), route.matches.methods = vec![Method::GET]).0);
    let meant = |name| with(name, |route| route.policies.is_meant_open = true);
    for (routes, is_exposed) in [
        (vec![secret(" /admin/*"), route(" *")], false),
        (vec![secret(" /admin/*"), meant(" /{x}/status")], false),
        (vec![secret_get(" /admin/*"), route(" *")], true),
        (vec![secret_get(" /admin/*"), with(" *", |route| route.matches.methods = vec![Method::PUT])], false),
        (vec![secret_get(" /admin/*"), get(" *")], false),
        (vec![secret(" /admin/*"), route(" /{x}/status")], true),
        (vec![secret(" /admin/*"), get(" /{x}")], true),
        (vec![secret(" /admin/{x}"), route(" /admin")], false),
        (vec![secret("a /admin/*"), route("b /admin/x")], false),
        (vec![secret("*.a /admin/*"), route("b.a /admin/x")], true),
        (vec![secret(" /admin/*"), route(" ~.*x")], false),
        (vec![secret(" *"), route(" ~.*x")], true),
    ] {
        let table = table(routes);
        let names: Vec<_> = table.routes().map(|route| &route.name).collect();
        assert_eq!(!table.exposed().is_empty(), is_exposed, "{names:?}");
    }
}
