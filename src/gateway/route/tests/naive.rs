//! The table against one who walks the whole list.

use proptest::prelude::*;

use super::*;

/// An expression for the paths that fit a pattern.
fn expression(pattern: &PathPattern) -> regex::Regex {
    let expression = match pattern {
        PathPattern::Any => String::new(),
        PathPattern::Regex(regex) => return regex.0.clone(),
        PathPattern::Prefix(prefix) => format!("^{}(/.*)?$", regex::escape(prefix)),
        PathPattern::Template(template) => {
            let segments = template.split('/').map(|segment| match segment {
                _ if segment.starts_with("{*") => ".+".to_owned(),
                _ if segment.starts_with('{') => "[^/]+".to_owned(),
                _ => regex::escape(segment),
            });
            format!("^{}$", segments.collect::<Vec<_>>().join("/"))
        }
    };
    regex::Regex::new(&expression).unwrap()
}

/// A method, and the one that it asks about where it is a browser's question.
type Asking = (Method, Option<Method>);

fn any_method() -> impl Strategy<Value = Asking> {
    let question = |about: Method| (Method::OPTIONS, Some(about));
    let plain = [Method::GET, Method::PUT, Method::OPTIONS].map(|method| (method, None));
    prop::sample::select([plain.to_vec(), vec![question(Method::GET), question(Method::PUT)]].concat())
}

fn asking((method, about): &Asking, uri: &str) -> (Head, Canonical) {
    let about =
        about.as_ref().map(|about| [("origin", "https://a"), ("access-control-request-method", about.as_str())]);
    request(&format!("{method} http://{uri}"), about.as_ref().map_or(&[], |about| about))
}

/// The place in the file of the route that wins.
fn naive(routes: &[Route], paths: &[regex::Regex], asking: &Asking, host: &str, path: &str) -> Option<usize> {
    let (method, about) = asking;
    let candidates = routes.iter().enumerate().flat_map(|(at, route)| {
        let hosts: Vec<Option<&HostPattern>> =
            if route.matches.hosts.is_empty() { vec![None] } else { route.matches.hosts.iter().map(Some).collect() };
        hosts.into_iter().map(move |host| (at, route, host))
    });
    let fitting = candidates.filter(|(at, route, pattern)| {
        let is_host = match pattern {
            None => true,
            Some(HostPattern::Exact(name)) => name == host,
            Some(HostPattern::Wildcard(suffix)) => {
                let left = host.strip_suffix(suffix.as_str()).and_then(|left| left.strip_suffix('.'));
                left.is_some_and(|left| !left.is_empty() && !left.contains('.'))
            }
        };
        let methods = &route.matches.methods;
        let is_question = route.policies.cors.is_some() && about.as_ref().is_some_and(|about| methods.contains(about));
        is_host && (methods.is_empty() || methods.contains(method) || is_question) && paths[*at].is_match(path)
    });
    let best = fitting.min_by_key(|(at, route, host)| {
        let host = host.map_or(2, |host| usize::from(matches!(host, HostPattern::Wildcard(_))));
        let count = |text: &str| text.split('/').skip(1).filter(|segment| !segment.starts_with('{')).count();
        let (class, literals) = match &route.matches.path {
            PathPattern::Template(text) if !text.contains('{') => (0, count(text)),
            PathPattern::Template(text) if !text.contains("{*") => (1, count(text)),
            PathPattern::Prefix(text) if text.is_empty() => (4, 0),
            PathPattern::Template(text) | PathPattern::Prefix(text) => (2, count(text)),
            PathPattern::Regex(_) => (3, 0),
            PathPattern::Any => (4, 0),
        };
        (Reverse(route.priority), host, class, Reverse(literals), Reverse(route.matches.methods.len().min(1)), *at)
    });
    best.map(|(at, ..)| at)
}

fn any_route() -> impl Strategy<Value = Route> {
    let hosts = prop::sample::select(vec!["", "", "a.x", "b.x", "*.x", "a.x,*.y", "x", "*.a.x"]);
    let segment = || prop::sample::select(vec!["a", "b", "", "{v}", "{w}"]);
    let path = prop_oneof![
        prop::collection::vec(segment(), 1..4).prop_map(|segments| format!("/{}", segments.join("/"))),
        prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..3).prop_map(|segments| segments
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect::<String>()
            + "/*"),
        prop::sample::select(vec!["*", "~/a.*", "~.*b", "/{*r}", "/a/{*r}", "/{v}/b/{*r}"]).prop_map(str::to_owned),
    ];
    let methods = vec![vec![], vec![], vec![Method::GET], vec![Method::GET, Method::PUT], vec![Method::OPTIONS]];
    let methods = prop::sample::select(methods);
    (hosts, path, 0..10_i32, methods, any::<bool>()).prop_map(|(hosts, path, priority, methods, has_cors)| {
        with(&format!("{hosts} {path}"), |route| {
            route.priority = (priority / 9) * 2 - 1;
            route.matches.methods = methods;
            route.policies.cors = has_cors.then(|| Arc::new(any_origin()));
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_finds_what_a_walk_over_the_sorted_list_finds(
        routes in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec((
            prop::sample::select(vec!["a.x", "b.x", "x", "c.y", "y", "c.a.x", "z"]),
            prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4),
            any::<bool>(), any_method(),
        ), 1..20),
    ) {
        let known = table(routes.clone());
        let paths: Vec<_> = routes.iter().map(|route| expression(&route.matches.path)).collect();
        for (host, segments, is_folder, method) in requests {
            let path = format!("/{}{}", segments.join("/"), if is_folder && !segments.is_empty() { "/" } else { "" });
            let request = asking(&method, &format!("{host}{path}"));
            let found = known.find(&asked(&request)).map(|found| found.index);
            prop_assert_eq!(found, naive(&routes, &paths, &method, host, &path), "{:?} {}{}", method, host, path);
        }
    }

    #[test]
    fn no_request_takes_a_route_that_nothing_is_said_to_reach(
        routes in prop::collection::vec(any_route(), 2..6),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ""]), 1..4),
        host in prop::sample::select(vec!["a.x", "b.x", "x", "c.y"]),
        method in any_method(),
    ) {
        let table = table(routes);
        let request = asking(&method, &format!("{host}/{}", path.join("/")));
        if let Some(found) = table.find(&asked(&request)) {
            prop_assert!(table.shadowed().iter().all(|(route, _)| !Arc::ptr_eq(route, found.route())));
        }
    }

    #[test]
    fn whatever_is_rewritten_is_canonical(
        template in prop::collection::vec(prop::sample::select(vec!["/", "{a}", "{rest}", "{all}", ".", "x", "%2"]), 1..6),
        path in "(/[a-z.%0-9;]{1,4}){1,4}/?",
        name in prop::sample::select(vec![" /{a}/{*all}", " /{a}", " *", " /x/*"]),
    ) {
        let mut head = Head::from(Request::builder().uri("/").header("host", "h").body(()).unwrap().into_parts().0);
        let Ok(uri) = path.parse() else { return Ok(()) };
        head.uri = uri;
        let Ok(canonical) = canonical(&head, false, &[]) else { return Ok(()) };
        let table = table(vec![with(name, |route| route.rewrite_path = Some(template.concat()))]);
        let request = (head, canonical);
        if let Some(Ok(path)) = table.find(&asked(&request)).map(|found| found.forwarded(&request.1)) {
            prop_assert_eq!(canonical_path(path.path()), Ok(None));
        }
    }
}
