//! The chain as a whole: what comes before what, and what a backend and a client get to see.

mod limits;

use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, ORIGIN, VARY};
use http::{StatusCode, Uri};
use proptest::prelude::*;

use super::*;
use crate::config::http::keys::{Algorithm, secret};
use crate::config::http::{
    Action, ApiKey, Auth as AuthConfig, Consumer, Cors as CorsConfig, Jwt, KeySource, Match, RateLimit as LimitConfig,
    Route, Timeouts,
};

const SECRET: &[u8] = b"a secret of thirty-two bytes, or";
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
const KEY: HeaderName = HeaderName::from_static("x-api-key");
const USER: HeaderName = HeaderName::from_static("x-user");

fn sha256(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap()
}

fn jwt() -> Arc<Jwt> {
    Arc::new(Jwt {
        name: "main".into(),
        issuer: None,
        audience: Vec::new(),
        algorithms: vec![Algorithm::HS256],
        keys: KeySource::Fixed { path: "secret".into(), keys: secret(SECRET).unwrap() },
        leeway: Duration::ZERO,
        require: vec![("scope".into(), vec!["read".into()])],
        claims_to_headers: vec![("sub".into(), USER), ("role".into(), HeaderName::from_static("x-role"))],
    })
}

fn token(claims: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let claims: serde_json::Value = serde_json::from_str(&format!("{{\"exp\":1800000060,{claims}}}")).unwrap();
    format!("Bearer {}", jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap())
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn every_auth() -> AuthConfig {
    let api_key = Some(ApiKey { header: KEY, hide: true });
    AuthConfig { jwt: Some(jwt()), api_key, basic: Some("a \"b\"".into()) }
}

fn limited(limit: u32, key: &[LimitKey]) -> LimitConfig {
    let limit = NonZeroU32::new(limit).unwrap();
    LimitConfig { limit, per: Duration::from_secs(60), burst: limit, key: key.to_vec() }
}

fn cors() -> CorsConfig {
    CorsConfig {
        origins: Some(vec!["https://a.example".into(), "null".into()]),
        methods: vec![Method::GET, Method::PUT],
        headers: None,
        expose_headers: vec![HeaderName::from_static("x-total")],
        credentials: true,
        max_age: Some(Duration::from_secs(600)),
    }
}

fn gateway(policies: Policies) -> Gateway {
    let route = Route {
        name: "orders".into(),
        listener: "web".into(),
        matches: Match::default(),
        priority: 0,
        action: Action::Forward(vec![("orders".into(), 1)]),
        strip_prefix: None,
        rewrite_path: None,
        policies,
        timeout: Timeouts { request: None, idle: None },
        retry: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
        sticky: None,
    };
    let acme = Consumer { name: "acme".into(), keys: vec![sha256("k1"), sha256("k2")], password: Some(sha256("p:w")) };
    let bare = Consumer { name: "bare".into(), keys: vec![sha256("k3")], password: None };
    Gateway { routes: vec![Arc::new(route)], jwt: vec![jwt()], consumers: vec![Arc::new(acme), Arc::new(bare)] }
}

fn prepared(policies: Policies) -> Arc<Prepared> {
    Kept::default().prepare(&gateway(policies)).remove(0)
}

fn with_auth(auth: AuthConfig) -> Policies {
    Policies { auth: Some(Arc::new(auth)), ..Policies::default() }
}

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn ask_at(prepared: &Prepared, client: &str, headers: &mut HeaderMap, seconds: u64) -> Result<Admitted, Stopped> {
    let method = if headers.contains_key("access-control-request-method") { Method::OPTIONS } else { Method::GET };
    let since_start = Duration::from_secs(seconds);
    let now = Moment { since_start, since_epoch: EPOCH + since_start };
    let mut whole = Headers::from(std::mem::take(headers));
    let admitted = prepared.admit(Asked { method: &method, client: client.parse().ok(), headers: &mut whole, now });
    *headers = std::mem::take(whole.map());
    admitted
}

fn ask(prepared: &Prepared, headers: &mut HeaderMap) -> Result<Admitted, Stopped> {
    ask_at(prepared, "192.0.2.1", headers, 0)
}

fn refused(result: Result<Admitted, Stopped>) -> Rejection {
    match result {
        Err(Stopped::Refused(rejection)) => *rejection,
        other => panic!("not refused: {other:?}"),
    }
}

fn applied(response: &OnResponse, pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = Headers::from(headers(pairs));
    response.apply(&mut headers);
    headers.to_map()
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn without_policies_everything_passes_as_it_is() {
    let mut asked = headers(&[(ORIGIN, "https://b.example"), (AUTHORIZATION, "whatever")]);
    let before = asked.clone();
    let admitted = ask(&prepared(Policies::default()), &mut asked).unwrap();
    assert!(admitted.consumer.is_none() && asked == before);
    assert!(applied(&admitted.response, &[]).is_empty());
}

#[test]
fn addresses_are_allowed_and_denied() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let policies =
        Policies { allow: nets(&["10.0.0.0/8", "2001:db8::/32"]), deny: nets(&["10.9.0.0/16"]), ..Policies::default() };
    let prepared = prepared(policies);
    for (client, is_allowed) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("2001:db8::1", true),
        ("10.9.1.1", false),
        ("::ffff:10.9.1.1", false),
        ("192.0.2.1", false),
        ("a unix socket", true),
    ] {
        match ask_at(&prepared, client, &mut HeaderMap::new(), 0) {
            Ok(_) => assert!(is_allowed, "{client}"),
            denied => assert!(!is_allowed && refused(denied).refusal == Refusal::Denied, "{client}"),
        }
    }
}

#[test]
fn a_consumer_is_known_by_each_of_its_credentials() {
    let prepared = prepared(with_auth(every_auth()));
    for (pairs, name) in [
        (vec![(KEY, "k1".to_owned())], "acme"),
        (vec![(KEY, "k2".to_owned())], "acme"),
        (vec![(KEY, "k3".to_owned())], "bare"),
        (vec![(AUTHORIZATION, basic("acme:p:w"))], "acme"),
        (vec![(AUTHORIZATION, basic("acme:p:w").replace("Basic", "bAsIc  "))], "acme"),
        (vec![(AUTHORIZATION, token("\"sub\":\"anna\",\"scope\":\"read\""))], "anna"),
        (vec![(AUTHORIZATION, "Bearer no".to_owned()), (KEY, "k1".to_owned())], "acme"),
    ] {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
        let admitted = ask(&prepared, &mut headers(&pairs)).unwrap_or_else(|_| panic!("{pairs:?}"));
        assert_eq!(admitted.consumer.as_deref(), Some(name));
    }
}

#[test]
fn whoever_is_not_known_is_told_what_would_do() {
    let prepared = prepared(with_auth(every_auth()));
    let challenges = [
        "Bearer error=\"invalid_token\"",
        "ApiKey header=\"x-api-key\"",
        "Basic realm=\"a \\\"b\\\"\", charset=\"UTF-8\"",
    ];
    for pairs in [
        vec![(KEY, "k4".to_owned())],
        vec![(KEY, "K1".to_owned())],
        vec![(KEY, String::new())],
        vec![(KEY, "k1".to_owned()), (KEY, "k1".to_owned())],
        vec![(KEY, "k".repeat(10_000))],
        vec![(AUTHORIZATION, basic("acme:wrong"))],
        vec![(AUTHORIZATION, basic("acme"))],
        vec![(AUTHORIZATION, basic("bare:"))],
        vec![(AUTHORIZATION, basic("nobody:p:w"))],
        vec![(AUTHORIZATION, basic("ACME:p:w"))],
        vec![(AUTHORIZATION, basic(":"))],
        vec![(AUTHORIZATION, "Basic acme:p:w".to_owned())],
        vec![(AUTHORIZATION, basic("acme:p:w")), (AUTHORIZATION, basic("acme:p:w"))],
        vec![(AUTHORIZATION, "Bearer".to_owned())],
        vec![(AUTHORIZATION, format!("Bearer {}", "a".repeat(9000)))],
    ] {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
        let rejection = refused(ask(&prepared, &mut headers(&pairs)));
        assert_eq!(rejection.refusal, Refusal::Unauthenticated, "{pairs:?}");
        assert_eq!(all(&applied(&rejection.response, &[]), "www-authenticate"), challenges, "{pairs:?}");
    }
    let rejection = refused(ask(&prepared, &mut HeaderMap::new()));
    assert_eq!(rejection.detail, "no credentials");
    assert_eq!(all(&applied(&rejection.response, &[]), "www-authenticate")[0], "Bearer");
    let rejection = refused(ask(&prepared, &mut headers(&[(AUTHORIZATION, &token("\"scope\":\"write\""))])));
    assert_eq!((rejection.refusal, rejection.refusal.status()), (Refusal::Forbidden, StatusCode::FORBIDDEN));
    let bearer = "Bearer error=\"insufficient_scope\"";
    assert_eq!(all(&applied(&rejection.response, &[]), "www-authenticate"), [bearer]);
}

#[test]
fn only_a_token_writes_the_headers_of_claims_on_every_route() {
    let forged = [(USER, "root"), (USER, "admin"), (HeaderName::from_static("x-role"), "admin")];
    let mut asked = headers(&forged);
    ask(&prepared(Policies::default()), &mut asked).unwrap();
    assert!(asked.is_empty(), "also where nobody is asked who it is: {asked:?}");

    let prepared = prepared(with_auth(every_auth()));
    let mut asked = headers(&forged);
    asked.insert(AUTHORIZATION, HeaderValue::from_str(&token("\"sub\":\"anna\",\"scope\":\"read\"")).unwrap());
    ask(&prepared, &mut asked).unwrap();
    assert_eq!((all(&asked, "x-user"), all(&asked, "x-role")), (vec!["anna"], vec![]), "a claim that is not there");
    let mut asked = headers(&forged);
    asked.insert(KEY, HeaderValue::from_static("k1"));
    ask(&prepared, &mut asked).unwrap();
    assert!(asked.is_empty(), "a key says nothing of claims, and is hidden: {asked:?}");

    let shown = AuthConfig { api_key: Some(ApiKey { header: KEY, hide: false }), ..AuthConfig::default() };
    let mut asked = headers(&[(KEY, "k1")]);
    ask(&self::prepared(with_auth(shown)), &mut asked).unwrap();
    assert_eq!(all(&asked, "x-api-key"), ["k1"]);
}

#[test]
fn a_hidden_key_stays_hidden_whoever_the_client_is_known_as() {
    let prepared = prepared(with_auth(every_auth()));
    for authorization in [token("\"sub\":\"anna\",\"scope\":\"read\""), basic("acme:p:w"), "Bearer no".to_owned()] {
        for key in ["k1", "k3"] {
            let mut asked = headers(&[(AUTHORIZATION, &authorization), (KEY, key)]);
            ask(&prepared, &mut asked).unwrap();
            assert_eq!(
                (all(&asked, "x-api-key"), asked.contains_key(AUTHORIZATION)),
                (vec![], true),
                "{authorization}"
            );
        }
    }
    let mut asked = headers(&[(AUTHORIZATION, &basic("acme:p:w")), (KEY, "unknown")]);
    ask(&prepared, &mut asked).unwrap();
    assert!(all(&asked, "x-api-key").is_empty(), "it may be a key of somewhere else");
}

#[test]
fn a_table_whose_keys_are_not_there_lets_nobody_in() {
    let url = KeySource::Url { url: Uri::from_static("http://127.0.0.1:1/"), refresh: EPOCH, cooldown: EPOCH };
    let tokens = Tokens::new(&Arc::new(Jwt { keys: url, ..(*jwt()).clone() }), None);
    let token = token("\"scope\":\"read\"");
    assert!(tokens.check(token.trim_start_matches("Bearer ").as_bytes(), EPOCH).is_err());
}

#[test]
fn a_browsers_question_is_answered_before_limits_and_auth_but_not_to_denied_ones() {
    let rate_limits = vec![limited(1, &[LimitKey::ClientIp])];
    let policies = Policies {
        cors: Some(Arc::new(cors())),
        rate_limits,
        deny: vec!["10.0.0.0/8".parse().unwrap()],
        ..with_auth(every_auth())
    };
    let prepared = prepared(policies);
    let question = |origin| {
        let method = HeaderName::from_static("access-control-request-method");
        let names = HeaderName::from_static("access-control-request-headers");
        headers(&[(ORIGIN, origin), (method, "PUT"), (names, "authorization,x-a")])
    };
    for _ in 0..3 {
        let Err(Stopped::Preflight(answer)) = ask(&prepared, &mut question("https://a.example")) else { panic!() };
        for (name, value) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "authorization,x-a"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
        ] {
            assert_eq!(all(&answer, name), [value]);
        }
        assert!(answer.contains_key(VARY) && answer.len() == 6, "{answer:?}");
    }
    for origin in [
        "https://b.example",
        "https://a.example.b",
        "HTTPS://A.EXAMPLE",
        "https://a.example:443",
        "http://a.example",
        "",
    ] {
        let Err(Stopped::Preflight(answer)) = ask(&prepared, &mut question(origin)) else { panic!() };
        assert_eq!(answer.len(), 1, "{origin}: {answer:?}");
    }
    assert_eq!(refused(ask_at(&prepared, "10.0.0.1", &mut question("https://a.example"), 0)).refusal, Refusal::Denied);
    let mut plain = headers(&[(ORIGIN, "https://a.example")]);
    assert_eq!(refused(ask(&prepared, &mut plain)).refusal, Refusal::Unauthenticated, "no question, so auth is asked");
}

#[test]
fn what_a_page_may_read_is_said_on_every_response_also_on_refusals() {
    let credentials = HeaderName::from_static("access-control-allow-credentials");
    let allow = HeaderName::from_static("access-control-allow-origin");
    let backend = [(allow, "*"), (credentials, "true"), (VARY, "accept")];
    let prepared = prepared(Policies { cors: Some(Arc::new(cors())), ..with_auth(every_auth()) });
    let response = |origins: &[&str]| {
        let pairs: Vec<_> = origins.iter().map(|origin| (ORIGIN, *origin)).collect();
        applied(&refused(ask(&prepared, &mut headers(&pairs))).response, &backend)
    };
    let good = response(&["https://a.example"]);
    assert_eq!(all(&good, "access-control-allow-origin"), ["https://a.example"]);
    assert_eq!(all(&good, "access-control-allow-credentials"), ["true"]);
    assert_eq!(all(&good, "access-control-expose-headers"), ["x-total"]);
    assert_eq!(all(&good, "vary"), ["accept", "origin"]);
    assert_eq!(all(&response(&["null"]), "access-control-allow-origin"), ["null"], "it is listed");
    for origins in [&[][..], &["https://b.example"], &["https://a.example", "https://b.example"]] {
        let headers = response(origins);
        assert_eq!(all(&headers, "vary"), ["accept", "origin"], "{origins:?}");
        assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{origins:?}: {headers:?}");
    }
    let open = CorsConfig { origins: None, credentials: false, ..cors() };
    let open = self::prepared(Policies { cors: Some(Arc::new(open)), ..Policies::default() });
    let admitted = ask(&open, &mut headers(&[(ORIGIN, "https://b.example")])).unwrap();
    let headers = applied(&admitted.response, &backend);
    assert_eq!((all(&headers, "access-control-allow-origin"), all(&headers, "vary")), (vec!["*"], vec!["accept"]));
    assert!(all(&headers, "access-control-allow-credentials").is_empty());
    let bare = CorsConfig { headers: Some(Vec::new()), ..cors() };
    let method = (HeaderName::from_static("access-control-request-method"), "GET");
    let question =
        self::headers(&[(ORIGIN, "null"), method, (HeaderName::from_static("access-control-request-headers"), "x")]);
    assert!(!Cors::new(&bare).preflight(&question).contains_key("access-control-allow-headers"), "no header is listed");
}

proptest! {
    #[test]
    fn foreign_credentials_let_nobody_in(
        scheme in "Bearer|bearer|Basic|BASIC|Digest|[ -~]{0,8}", space in " {0,2}",
        rest in prop::collection::vec(prop_oneof![Just(b'.'), Just(b':'), Just(b'='), 0x20_u8..0x7f, 0x80_u8..=0xff], 0..200),
    ) {
        let value = [scheme.as_bytes(), space.as_bytes(), &rest].concat();
        let value = HeaderValue::from_bytes(&value).unwrap();
        let mut asked = HeaderMap::new();
        asked.insert(AUTHORIZATION, value.clone());
        asked.insert(KEY, value);
        prop_assert_eq!(refused(ask(&prepared(with_auth(every_auth())), &mut asked)).refusal, Refusal::Unauthenticated);
    }
}
