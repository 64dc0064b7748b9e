//! Limits in the chain: what they tell, whom they count, what outlives a reload.

use super::*;

#[test]
fn a_limit_tells_what_is_left_and_when_to_come_again() {
    let prepared = prepared(Policies { rate_limits: vec![limited(2, &[LimitKey::ClientIp])], ..Policies::default() });
    let left = |client, seconds| {
        let result = ask_at(&prepared, client, &mut HeaderMap::new(), seconds);
        let response = match &result {
            Ok(admitted) => &admitted.response,
            Err(Stopped::Refused(rejection)) => &rejection.response,
            Err(other) => panic!("{other:?}"),
        };
        let headers = applied(response, &[(HeaderName::from_static("ratelimit"), "of the backend")]);
        assert_eq!(all(&headers, "ratelimit-policy"), ["\"client_ip\";q=2;w=60"]);
        let text = |name| all(&headers, name).join("|");
        (result.is_ok(), text("ratelimit"), text("retry-after"))
    };
    let expected = |is_ok, left: &str, retry: &str| (is_ok, left.to_owned(), retry.to_owned());
    assert_eq!(left("2001:db8::1", 0), expected(true, "\"client_ip\";r=1;t=30", ""));
    assert_eq!(left("2001:db8::ffff", 10), expected(true, "\"client_ip\";r=0;t=50", ""), "the same /64");
    assert_eq!(left("2001:db8::2", 20), expected(false, "\"client_ip\";r=0;t=10", "10"));
    assert_eq!(left("2001:db8:0:1::1", 20), expected(true, "\"client_ip\";r=1;t=30", ""), "another /64");
    assert_eq!(left("192.0.2.1", 20), expected(true, "\"client_ip\";r=1;t=30", ""));
    assert_eq!(left("::ffff:192.0.2.1", 20), expected(true, "\"client_ip\";r=0;t=60", ""), "the same address");
    assert_eq!(left("2001:db8::1", 30), expected(true, "\"client_ip\";r=0;t=60", ""));
}

#[test]
fn the_key_of_a_limit_is_all_of_its_parts() {
    let tenant = HeaderName::from_static("x-tenant");
    let key = [LimitKey::Header(tenant.clone()), LimitKey::ClientIp];
    let limits = vec![limited(1, &key), limited(3, &[LimitKey::Route])];
    let prepared = prepared(Policies { rate_limits: limits, ..Policies::default() });
    let pass = |client, pairs: &[&str]| {
        let pairs: Vec<_> = pairs.iter().map(|value| (tenant.clone(), *value)).collect();
        ask_at(&prepared, client, &mut headers(&pairs), 0).is_ok()
    };
    assert!(pass("192.0.2.1", &["a"]) && !pass("192.0.2.1", &["a"]));
    assert!(pass("192.0.2.2", &["a"]), "another address");
    assert!(pass("192.0.2.1", &["a", "b"]), "another list of values");
    assert!(!pass("192.0.2.1", &["b"]), "the route's own limit");
    let rejection = refused(ask_at(&prepared, "192.0.2.9", &mut HeaderMap::new(), 0));
    assert_eq!((rejection.refusal, &*rejection.detail), (Refusal::Limited, "route"));
    let headers = applied(&rejection.response, &[]);
    assert_eq!(all(&headers, "ratelimit-policy"), ["\"x-tenant+client_ip\";q=1;w=60, \"route\";q=3;w=60"]);
    assert_eq!(all(&headers, "ratelimit"), ["\"x-tenant+client_ip\";r=0;t=60, \"route\";r=0;t=20"]);
}

#[test]
fn limits_without_a_name_come_before_auth_and_those_by_consumer_after_it() {
    let rate_limits = vec![limited(1, &[LimitKey::Consumer]), limited(4, &[LimitKey::ClientIp])];
    let prepared = prepared(Policies { rate_limits, ..with_auth(every_auth()) });
    let ask = |key: &str| match ask(&prepared, &mut headers(&[(KEY, key)])) {
        Ok(_) => "ok".to_owned(),
        other => {
            let rejection = refused(other);
            format!("{} {}", rejection.refusal.label(), rejection.detail)
        }
    };
    assert_eq!(ask("k1"), "ok");
    assert_eq!(ask("k2"), "limited consumer", "both keys are acme's");
    assert_eq!(ask("k3"), "ok", "bare has a bucket of its own");
    assert_eq!(ask("wrong"), "unauthenticated unknown API key");
    assert_eq!(ask("wrong"), "limited client_ip", "guessing is limited before anything is compared");
}

#[test]
fn a_client_that_fails_too_often_has_to_wait_whatever_it_has_then() {
    let mut kept = Kept::default();
    let mut reload = || kept.prepare(&gateway(with_auth(every_auth()))).remove(0);
    let prepared = reload();
    let ask = |prepared: &Prepared, client: &str, pairs: &[(HeaderName, &str)], seconds| {
        let Err(Stopped::Refused(rejection)) = ask_at(prepared, client, &mut headers(pairs), seconds) else {
            return "ok".to_owned();
        };
        let wait = all(&applied(&rejection.response, &[]), "retry-after").join("");
        format!("{}{wait}", rejection.refusal.label())
    };
    let (passed, unknown, limited) = ("ok", "unauthenticated", "limited1");
    let (guess, right) = ([(KEY, "guess")], [(KEY, "k1")]);
    for _ in 0..200 {
        assert_eq!(ask(&prepared, "2001:db8::1", &[], 0), unknown, "without credentials nobody guesses");
        assert_eq!(ask(&prepared, "2001:db8::1", &right, 0), passed);
        assert_eq!(ask(&prepared, "a unix socket", &guess, 0), unknown);
    }
    for number in 0..100 {
        let client = format!("2001:db8::{number}");
        assert_eq!(ask(&prepared, &client, &guess, 0), unknown, "{number}");
    }
    for prepared in [&prepared, &reload()] {
        assert_eq!(ask(prepared, "2001:db8::1", &guess, 0), limited);
        assert_eq!(ask(prepared, "2001:db8::2", &right, 0), limited, "its credentials are not looked at");
        assert_eq!(ask(prepared, "2001:db8:0:1::1", &right, 0), passed, "another client");
    }
    for _ in 0..20 {
        assert_eq!(ask(&prepared, "2001:db8::1", &guess, 1), unknown);
    }
    assert_eq!(ask(&prepared, "2001:db8::1", &right, 1), limited);
    assert_eq!(ask(&prepared, "2001:db8::1", &right, 2), passed);
}

#[test]
fn a_token_and_a_consumer_of_one_name_are_two() {
    let rate_limits = vec![limited(1, &[LimitKey::Consumer])];
    let prepared = prepared(Policies { rate_limits, ..with_auth(every_auth()) });
    let acme = token("\"sub\":\"acme\",\"scope\":\"read\"");
    assert!(ask(&prepared, &mut headers(&[(AUTHORIZATION, &acme)])).is_ok());
    assert!(ask(&prepared, &mut headers(&[(KEY, "k1")])).is_ok());
    assert!(ask(&prepared, &mut headers(&[(AUTHORIZATION, &acme)])).is_err());
    assert!(ask(&prepared, &mut headers(&[(KEY, "k1")])).is_err());
}

#[test]
fn counts_survive_a_reload_while_the_limit_is_the_same() {
    let mut kept = Kept::default();
    let key = [LimitKey::ClientIp];
    let mut reload = |limits: Vec<LimitConfig>| {
        kept.prepare(&gateway(Policies { rate_limits: limits, ..Policies::default() })).remove(0)
    };
    let passes = |prepared: &Prepared| (0..9).filter(|_| ask(prepared, &mut HeaderMap::new()).is_ok()).count();
    assert_eq!(passes(&reload(vec![limited(2, &key)])), 2);
    assert_eq!(passes(&reload(vec![limited(2, &key)])), 0);
    assert_eq!(passes(&reload(vec![limited(9, &[LimitKey::Route]), limited(2, &key)])), 0, "at another place");
    assert_eq!(passes(&reload(vec![limited(3, &key)])), 3, "another limit");
    assert_eq!(passes(&reload(vec![limited(2, &key)])), 2, "nothing is kept of limits that were gone");
    assert_eq!(passes(&reload(vec![limited(2, &key), limited(2, &key)])), 0);
}
