//! Who is believed, what is passed on, and what the backend hears.

mod plain;

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::gateway::canonical::canonical;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
    let mut headers = HeaderMap::new();
    fields.for_each(|(name, value): (_, HeaderValue)| {
        headers.append(name, value);
    });
    headers
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn trusted() -> Vec<IpNet> {
    vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
}

/// Who is found behind 10.0.0.1.
fn found(headers: &HeaderMap) -> String {
    client(ip("10.0.0.1"), headers, &trusted()).address.to_string()
}

/// One field, of whatever bytes.
fn field(name: &'static str, value: &[u8]) -> HeaderMap {
    [(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())].into_iter().collect()
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_says() {
    let said = headers(&[("x-forwarded-for", "10.0.0.9"), ("forwarded", "for=10.0.0.9")]);
    for (peer, trusted) in [("192.0.2.1", trusted()), ("10.0.0.1", vec![]), ("::ffff:192.0.2.1", trusted())] {
        let client = client(ip(peer), &said, &trusted);
        assert_eq!(client, Client { address: ip(peer).to_canonical(), is_trusted: false });
    }
}

#[test]
fn the_list_is_read_from_the_right_up_to_the_first_address_that_is_not_trusted() {
    for (fields, expected) in [
        (&[][..], "10.0.0.1"),
        (&[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        (&[("x-forwarded-for", "1.1.1.1, 192.0.2.7, 10.0.0.2")], "192.0.2.7"),
        (&[("x-forwarded-for", "10.0.0.4, 10.0.0.3")], "10.0.0.4"),
        (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7,10.0.0.3")], "192.0.2.7"),
        (&[("x-forwarded-for", "192.0.2.7:4711")], "192.0.2.7"),
        (&[("x-forwarded-for", "2001:db9::1")], "2001:db9::1"),
        (&[("x-forwarded-for", "[2001:db9::1]:80")], "2001:db9::1"),
        (&[("x-forwarded-for", "[2001:db9::1]")], "2001:db9::1"),
        (&[("x-forwarded-for", "192.0.2.7, ::ffff:10.0.0.2")], "192.0.2.7"),
        (&[("x-forwarded-for", "192.0.2.7, unknown, 10.0.0.2")], "10.0.0.2"),
        (&[("x-forwarded-for", "192.0.2.7,")], "10.0.0.1"),
        (&[("x-forwarded-for", "")], "10.0.0.1"),
        (&[("forwarded", "for=1.1.1.1, For=192.0.2.7;proto=http, for=10.0.0.2;by=x")], "192.0.2.7"),
        (&[("forwarded", "for=\"[2001:db9::1]:80\";proto=\"a,b;c\"")], "2001:db9::1"),
        (&[("forwarded", "for=\"a\\\"b, for=192.0.2.7")], "192.0.2.7"),
        (&[("forwarded", "for=\"x, for=192.0.2.7;by=\"y\"")], "192.0.2.7"),
        (&[("forwarded", "for=192.0.2.7, for=_hidden, for=10.0.0.2")], "10.0.0.2"),
        (&[("forwarded", "for=192.0.2.7;for=1.1.1.1")], "10.0.0.1"),
        (&[("forwarded", "proto=http")], "10.0.0.1"),
        // A proxy that writes the one passes on what a client says in the other.
        (&[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=1.1.1.1")], "192.0.2.7"),
    ] {
        assert_eq!(found(&headers(fields)), expected, "{fields:?}");
    }
}

#[test]
fn what_is_no_text_is_no_address_and_hides_none_behind_it() {
    for (name, value, expected) in [
        ("x-forwarded-for", &b"\xe9, 192.0.2.7"[..], "192.0.2.7"),
        ("x-forwarded-for", b"1.1.1.1\xff,192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("x-forwarded-for", "1.1.1.1, caf\u{e9}, 10.0.0.2".as_bytes(), "10.0.0.2"),
        ("x-forwarded-for", b"192.0.2.7\xa0", "10.0.0.1"),
        ("forwarded", b"for=\xe9, for=192.0.2.7", "192.0.2.7"),
        ("forwarded", b"for=\"\xe9, for=192.0.2.7;proto=http, for=10.0.0.2", "192.0.2.7"),
        ("forwarded", b"for=1.1.1.1, for=192.0.2.7;host=\xe9", "192.0.2.7"),
        ("forwarded", b"for=192.0.2.7, for=\xe9;for=1.1.1.1, for=10.0.0.2", "10.0.0.2"),
    ] {
        assert_eq!(found(&field(name, value)), expected, "{}", value.escape_ascii());
    }
}

#[test]
fn headers_of_one_hop_are_not_passed_on() {
    let request = headers(&[
        ("connection", "Keep-Alive, X-Own, te"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("proxy", "http://evil/"),
        ("te", "gzip, trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("x-own", "1"),
        ("trailer", "x-sum"),
        ("traceparent", "00-1-2-03"),
        ("content-length", "3"),
        ("accept", "*/*"),
    ]);
    let mut response = Headers::from(request.clone());
    let mut request = Headers::from(request);
    assert_eq!(strip_request(&mut request, &[]), Ok(()));
    let left = [("te", "trailers"), ("trailer", "x-sum"), ("traceparent", "00-1-2-03"), ("content-length", "3")];
    assert_eq!(request.to_map(), headers(&[&left[..], &[("accept", "*/*")]].concat()));
    strip_response(&mut response);
    assert_eq!(response.to_map(), request.to_map());

    let mut gzip = Headers::from(headers(&[("te", "gzip")]));
    strip_response(&mut gzip);
    assert!(gzip.to_map().is_empty());
}

#[test]
fn connection_cannot_take_a_protected_header_away() {
    let identity = [HeaderName::from_static("x-user")];
    for name in [
        "X-Forwarded-For",
        "forwarded",
        "x-real-ip",
        "Authorization",
        "Content-Length",
        "host",
        "x-user",
        "x-request-id",
    ] {
        for list in [name.to_owned(), format!("close, {name}"), format!("{name} ,close")] {
            let mut request = Headers::from(headers(&[("connection", &list)]));
            assert_eq!(strip_request(&mut request, &identity), Err(Malformed::Connection), "{list}");
            strip_response(&mut request);
        }
    }
    // What is no text hides none of the others.
    assert_eq!(strip_request(&mut field("connection", b"\xe9, host").into(), &[]), Err(Malformed::Connection));
    // Not a name, and not one that counts.
    let mut odd = headers(&[("connection", "(x), x-other, \"")]).into();
    assert_eq!(strip_request(&mut odd, &identity), Ok(()));
}

#[test]
fn trailers_say_who_the_client_is_by_no_alias_either() {
    let identity = [HeaderName::from_static("x-user-id")];
    let mut trailers = headers(&[
        ("x-user-id", "1"),
        ("x_user_id", "2"),
        ("x.user-id", "3"),
        ("x_forwarded_for", "10.0.0.9"),
        ("x-real_ip", "10.0.0.9"),
        ("content_length", "50"),
        ("transfer_encoding", "chunked"),
        ("connection", "x-sum"),
        ("x-sum", "4"),
        ("x_user", "5"),
    ]);
    strip_trailers(&mut trailers, &identity);
    assert_eq!(trailers, headers(&[("x-sum", "4"), ("x_user", "5")]));
}

/// What the backend of "http://example.com:8080/" hears of a request from `peer`.
fn heard(peer: &str, is_secure: bool, fields: &[(&str, &str)]) -> Vec<String> {
    let heard = heard_of(peer, is_secure, headers(fields)).into_iter();
    heard.map(|line| String::from_utf8(line).unwrap()).collect()
}

/// The same of fields of whatever bytes.
fn heard_of(peer: &str, is_secure: bool, headers: HeaderMap) -> Vec<Vec<u8>> {
    let request = Request::builder().uri("/").header("host", "Example.com:8080").body(()).unwrap();
    let canonical = canonical(&request.into_parts().0.into(), is_secure, &[]).unwrap();
    let mut headers = Headers::from(headers);
    let client = client(ip(peer), headers.special(), &trusted());
    let id = request_id(headers.special(), client.is_trusted, || 0xabc);
    let peer = Peer::new(ip(peer), is_secure);
    if let Some(announced) = peer.announce(&mut headers, &canonical, client, &id) {
        let mut written = String::from_utf8(announced.lines().to_vec()).unwrap();
        announced.others(|name, value| written += &format!("{name}: {}\r\n", std::str::from_utf8(value).unwrap()));
        let mut put = HeaderMap::new();
        announced.put_among(&mut put);
        assert_eq!(put.len(), written.lines().count());
        for (name, value) in &put {
            assert!(written.lines().any(|line| line == format!("{name}: {}", value.to_str().unwrap())), "{written}");
            assert!(!headers.special().contains_key(name), "{name} is written behind the others");
        }
        announced.put_among(headers.map());
    }
    let line =
        |(name, value): (&HeaderName, &HeaderValue)| [name.as_str().as_bytes(), b": ", value.as_bytes()].concat();
    let mut lines: Vec<_> = headers.map().iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn what_an_untrusted_peer_says_of_itself_is_replaced() {
    let said = [
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-for", "10.0.0.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/admin"),
        ("x-forwarded-uri", "/"),
        ("forwarded", "for=10.0.0.9"),
        ("x-real-ip", "10.0.0.9"),
        ("x-request-id", "mine"),
        ("traceparent", "00-1-2-03"),
    ];
    let expected = [
        "forwarded: for=192.0.2.1;proto=http",
        "traceparent: 00-1-2-03",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: example.com:8080",
        "x-forwarded-port: 8080",
        "x-forwarded-proto: http",
        "x-request-id: 00000000000000000000000000000abc",
    ];
    assert_eq!(heard("192.0.2.1", false, &said), expected);
    let v6 = heard("2001:db9::1", true, &[]);
    assert!(v6.contains(&"forwarded: for=\"[2001:db9::1]\";proto=https".to_owned()), "{v6:?}");
    assert!(v6.contains(&"x-forwarded-for: 2001:db9::1".to_owned()), "{v6:?}");
}

#[test]
fn a_trusted_proxy_is_heard_and_added_to_the_list() {
    let said = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.org"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/a"),
        ("forwarded", "for=1.1.1.1"),
        ("x-request-id", "a-1"),
    ];
    let expected = [
        "forwarded: for=192.0.2.7, for=10.0.0.1;proto=http",
        "x-forwarded-for: 192.0.2.7, 10.0.0.2, 10.0.0.1",
        "x-forwarded-host: example.org",
        "x-forwarded-port: 443",
        "x-forwarded-prefix: /a",
        "x-forwarded-proto: https",
        "x-request-id: a-1",
    ];
    assert_eq!(heard("10.0.0.1", false, &said), expected);

    let lines = heard("10.0.0.1", false, &[("forwarded", "for=192.0.2.7"), ("x-forwarded-proto", "gopher")]);
    assert_eq!(lines[0], "forwarded: for=192.0.2.7, for=10.0.0.1;proto=http");
    assert_eq!(lines[1], "x-forwarded-for: 192.0.2.7, 10.0.0.1");
    assert_eq!(lines[4], "x-forwarded-proto: http");

    // What the client sent is still there, to the left of what proxies have added.
    let odd = heard_of("10.0.0.1", false, field("x-forwarded-for", b"\xe9, 192.0.2.7"));
    assert_eq!(
        odd[..2],
        [&b"forwarded: for=192.0.2.7, for=10.0.0.1;proto=http"[..], b"x-forwarded-for: \xe9, 192.0.2.7, 10.0.0.1"]
    );
    let odd = heard_of("10.0.0.1", false, field("forwarded", b"for=\"\xe9, for=192.0.2.7"));
    assert_eq!(
        odd[..2],
        [
            &b"forwarded: for=\"\xe9, for=192.0.2.7, for=10.0.0.1;proto=http"[..],
            b"x-forwarded-for: 192.0.2.7, 10.0.0.1"
        ]
    );

    let silent = heard("10.0.0.1", false, &[]);
    assert_eq!(silent[..2], ["forwarded: for=10.0.0.1;proto=http", "x-forwarded-for: 10.0.0.1"]);
}

#[test]
fn an_id_is_taken_over_only_from_trusted_proxies_and_only_if_it_is_harmless() {
    let long = "a".repeat(REQUEST_ID_BYTES_MAX);
    let of = |ids: &[&str], is_trusted| {
        let fields: Vec<_> = ids.iter().map(|id| ("x-request-id", *id)).collect();
        request_id(&headers(&fields), is_trusted, || u128::MAX).as_str().to_owned()
    };
    let new = "f".repeat(32);
    assert_eq!(of(&["a"], false), new);
    assert_eq!(of(&["5d2c-A.b_~:/+=@9"], true), "5d2c-A.b_~:/+=@9");
    assert_eq!(of(&[&long], true), long);
    for bad in [&["a", "b"][..], &[""], &["a b"], &["a\"b"], &["a\tb"], &[&format!("{long}a")], &[]] {
        assert_eq!(of(bad, true), new, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_list_is_too_odd_and_what_the_last_proxy_added_always_counts(
        left in prop::collection::vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80..=0xff_u8], 0..30), is_forwarded: bool,
    ) {
        let (name, last) = if is_forwarded { ("forwarded", "for=192.0.2.7") } else { ("x-forwarded-for", "192.0.2.7") };
        let list = [&left, b", ".as_slice(), last.as_bytes()].concat();
        prop_assert_eq!(found(&field(name, &list)), "192.0.2.7");
        let told = heard_of("10.0.0.1", true, field(name, &list));
        let other = ["forwarded: for=192.0.2.7, for=10.0.0.1;proto=https", "x-forwarded-for: 192.0.2.7, 10.0.0.1"];
        prop_assert!(told.contains(&other[usize::from(is_forwarded)].as_bytes().to_vec()), "{:?}", told);
        let _ = found(&field(name, &left));
        let value = HeaderValue::from_bytes(&left).unwrap();
        let odd = |names: &[&'static str]| -> HeaderMap {
            names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect()
        };
        let _ = strip_request(&mut odd(&["connection", "te"]).into(), &[]);
        let _ = heard_of("10.0.0.1", true, odd(&[name, "x-forwarded-port", "x-request-id"]));
    }
}
