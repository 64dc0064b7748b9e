//! Open routes whose requests leave as those of protected ones.

use proptest::prelude::*;

use super::*;

/// A route with what it strips ("-/a") or rewrites ("=/a/{v}"), if anything.
fn changing(name: &str, change: &str) -> Route {
    with(name, |route| {
        route.strip_prefix = change.strip_prefix('-').map(str::to_owned);
        route.rewrite_path = change.strip_prefix('=').map(str::to_owned);
    })
}

fn secret(name: &str, change: &str) -> Route {
    Route {
        policies: Policies { auth: Some(Arc::new(Auth::default())), ..Policies::default() },
        ..changing(name, change)
    }
}

#[test]
fn an_open_route_whose_requests_leave_as_those_of_a_protected_one_is_named() {
    let admin = || secret(" /admin/*", "");
    let of =
        |method: Method, route: Route| Route { matches: Match { methods: vec![method], ..route.matches }, ..route };
    let (get, put) = (|route| of(Method::GET, route), |route| of(Method::PUT, route));
    let meant =
        Route { policies: Policies { is_meant_open: true, ..Policies::default() }, ..changing(" /app/*", "-/app") };
    let to = |pools: &[(&str, u32)], route: Route| {
        let pools = pools.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Route { action: Action::Forward(pools), ..route }
    };
    for (is_named, routes) in [
        (true, vec![admin(), changing(" /app/*", "-/app")]),
        (false, vec![admin(), changing(" /app/*", "")]),
        (false, vec![admin(), meant]),
        (false, vec![admin(), secret(" /app/*", "-/app")]),
        (true, vec![admin(), changing(" *", "-/app")]),
        (true, vec![admin(), changing(" ~/app/.*", "-/app")]),
        (true, vec![admin(), changing(" /app/{x}/{*all}", "-/app")]),
        (true, vec![admin(), changing(" /{tenant}/admin", "-/app")]),
        (false, vec![admin(), changing(" /app/{x}", "-/app/x")]),
        (false, vec![admin(), changing(" /app/static/*", "-/app")]),
        (true, vec![secret(" /", ""), changing(" /app", "-/app")]),
        // By a template.
        (true, vec![admin(), changing(" /app/*", "=/{rest}")]),
        (true, vec![admin(), changing(" /app/*", "=/admin/{rest}")]),
        (false, vec![admin(), changing(" /app/*", "=/v2/{rest}")]),
        (false, vec![secret(" /v2", ""), changing(" /app/*", "=/v2/{rest}")]),
        (true, vec![admin(), changing(" /app/{x}", "=/{x}")]),
        (true, vec![admin(), changing(" /app/{x}", "=/a{x}")]),
        (false, vec![admin(), changing(" /app/{x}", "=/public/{x}")]),
        (false, vec![secret(" /u/{id}/keys", ""), changing(" /user/{id}", "=/u/{id}/name")]),
        (true, vec![admin(), changing(" /state", "=/admin/state")]),
        (false, vec![admin(), changing(" /state", "=/state/admin")]),
        // What leaves a protected route is what counts, and what a protected route takes first does not.
        (true, vec![secret(" /internal/*", "-/internal"), changing(" /app/*", "-/app")]),
        (false, vec![secret(" /app/admin/*", "-/app"), changing(" /app/*", "-/app")]),
        (false, vec![secret(" /app/admin/*", "=/admin/{rest}"), changing(" /app/*", "=/{rest}")]),
        (false, vec![secret(" /u/me", "=/users/me"), changing(" /u/{id}", "=/users/{id}")]),
        (true, vec![secret(" /me", "=/users/me"), changing(" /u/{id}", "=/users/{id}")]),
        (false, vec![admin(), secret(" /app/admin/*", "-/app"), changing(" /app/*", "-/app")]),
        (true, vec![admin(), get(secret(" /app/admin/*", "-/app")), changing(" /app/*", "-/app")]),
        // Hosts, methods and pools.
        (false, vec![secret("a /admin/*", ""), changing("b /app/*", "-/app")]),
        (true, vec![secret("*.a,c /admin/*", ""), changing("b.a /app/*", "-/app")]),
        (false, vec![get(admin()), put(changing(" /app/*", "-/app"))]),
        (false, vec![to(&[("q", 1)], admin()), changing(" /app/*", "-/app")]),
        (true, vec![to(&[("q", 1), ("p", 0)], admin()), changing(" /app/*", "-/app")]),
        (false, vec![to(&[("q", 1)], admin()), to(&[("p", 1), ("q", 0)], changing(" /app/*", "-/app"))]),
    ] {
        let table = table(routes);
        let told: Vec<_> =
            table.routes().map(|route| (&route.name, &route.strip_prefix, &route.rewrite_path)).collect();
        assert_eq!(!table.sidesteps().is_empty(), is_named, "{told:?}");
    }
}

fn any_route() -> impl Strategy<Value = Route> {
    let names = [
        " /a/*",
        " /a/b/*",
        " /a/{v}",
        " /{v}/b",
        " /a/{*r}",
        " /{v}",
        " /a/b",
        " *",
        " ~/a.*",
        " /{v}/{*r}",
        " /{v}/{w}",
        " /b",
        " /",
        " /b/*",
    ];
    let changes = [
        "",
        "",
        "-/a",
        "-/a",
        "-/a/b",
        "=/b/{rest}",
        "=/{v}",
        "=/b",
        "=/a/{v}",
        "=/{r}",
        "=/b/{r}/a",
        "=/a{v}",
        "=/{rest}",
        "=/b/{v}/{r}",
        "=/{r}/{v}",
        "=/{w}/{v}",
        "=/{w}/b/{v}",
    ];
    let parts =
        (prop::sample::select(names.to_vec()), prop::sample::select(changes.to_vec()), any::<bool>(), -1..2_i32);
    parts.prop_filter_map("a name that the path does not have", |(name, change, is_secret, priority)| {
        let has = |template: &str, pattern| !change.contains(template) || name.contains(pattern);
        let route = if is_secret { secret(name, change) } else { changing(name, change) };
        (has("{v}", "{v}") && has("{w}", "{w}") && has("{r}", "{*r}") && has("{rest}", "/*"))
            .then_some(Route { priority, ..route })
    })
}

/// All paths of up to three segments of two letters.
fn paths() -> Vec<String> {
    let mut paths = vec![String::new()];
    for at in 0..14 {
        let longer = paths.get(at / 2).map(|path| format!("{path}/{}", ["a", "b"][at % 2]));
        paths.extend(longer);
    }
    let folders: Vec<_> = paths.iter().map(|path| format!("{path}/")).collect();
    paths.into_iter().skip(1).chain(folders).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whoever_leaves_as_a_protected_one_does_is_named(routes in prop::collection::vec(any_route(), 2..5)) {
        let table = table(routes);
        let known = table.sidesteps();
        let requests: Vec<_> = paths().iter().map(|path| request(&format!("GET http://h{path}"), &[])).collect();
        let left = requests.iter().filter_map(|request| {
            let found = table.find(&asked(request))?;
            Some((request.1.path(), found.route(), found.forwarded(&request.1).ok()?))
        });
        let left: Vec<_> = left.collect();
        let is_changed = |(path, route, sent): &&(&str, &Arc<Route>, PathAndQuery)| {
            route.policies.auth.is_none() && *path != sent.as_str()
        };
        for (path, open, sent) in left.iter().filter(is_changed) {
            for (_, asks, same) in left.iter().filter(|(_, route, _)| route.policies.auth.is_some()) {
                let is_known = known.iter().any(|(one, other)| Arc::ptr_eq(one, open) && Arc::ptr_eq(other, asks));
                prop_assert!(sent != same || is_known, "{path} of {:?} leaves as {sent} of {:?}", open.name, asks.name);
            }
        }
    }
}
