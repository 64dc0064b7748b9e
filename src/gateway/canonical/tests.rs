//! Each way to say one thing in two ways, and that nothing else gets through.

use http::header::HOST;
use http::{Request, Uri};
use proptest::prelude::*;

use super::*;

/// The canonical form of a request like "GET /path", with these headers.
fn of(version: Version, line: &str, headers: &[(&str, &str)]) -> Result<Canonical, Malformed> {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().version(version).method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    canonical(&request.body(()).unwrap().into_parts().0.into(), false, &[HeaderName::from_static("x-user")])
}

fn path(sent: &str) -> Result<String, Malformed> {
    let canonical = of(Version::HTTP_11, &format!("GET {sent}"), &[("host", "a")])?;
    Ok(canonical.path_and_query().as_str().to_owned())
}

fn host(sent: &str) -> Result<(String, String), Malformed> {
    let canonical = of(Version::HTTP_11, "GET /", &[("host", sent)])?;
    Ok((canonical.host().to_owned(), canonical.authority().to_str().unwrap().to_owned()))
}

#[test]
fn a_path_has_one_form() {
    for (sent, canonical) in [
        ("/", "/"),
        ("/a/b.c~d-e_f", "/a/b.c~d-e_f"),
        ("/a;b=c/@d:e", "/a;b=c/@d:e"),
        ("/%61%2D%7e", "/a-~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b%3f%23", "/a%20b%3F%23"),
        ("/50%25", "/50%25"),
        ("/50%25/41", "/50%25/41"),
        ("/a%3bb", "/a%3Bb"),
        ("/a|b[0]", "/a%7Cb%5B0%5D"),
        ("//a///b//", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/a/..", "/"),
        ("/a//../b", "/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a?b=//../%2f%00%zz;c", "/a?b=//../%2f%00%zz;c"),
        ("/a?", "/a?"),
    ] {
        assert_eq!(path(sent).as_deref(), Ok(canonical), "{sent}");
    }
}

#[test]
fn a_path_with_two_readings_is_refused() {
    for (sent, why) in [
        ("/..", Malformed::Escapes),
        ("/a/../..", Malformed::Escapes),
        ("/%2e%2e/etc", Malformed::Escapes),
        ("/a%2fb", Malformed::Encoded),
        ("/a%2F..", Malformed::Encoded),
        ("/a%5cb", Malformed::Encoded),
        ("/a%00", Malformed::Encoded),
        ("/a%0d%0ab", Malformed::Encoded),
        ("/a%7f", Malformed::Encoded),
        ("/a\\b", Malformed::Backslash),
        ("/a%252fb", Malformed::EncodedTwice),
        ("/a%252E%252e/b", Malformed::EncodedTwice),
        ("/a%25%32%66b", Malformed::EncodedTwice),
        ("/a%25252f", Malformed::EncodedTwice),
        ("/a%", Malformed::Percent),
        ("/a%2", Malformed::Percent),
        ("/a%zz", Malformed::Percent),
        ("/a%2%66", Malformed::Percent),
        ("/a%+2f", Malformed::Percent),
        ("/%c0%af", Malformed::NotUtf8),
        ("/%e0%80%af", Malformed::NotUtf8),
        ("/%ff", Malformed::NotUtf8),
        ("/é", Malformed::RawByte),
        ("/a?é", Malformed::RawByte),
        ("/a/..;/b", Malformed::DotParameters),
        ("/a/%2e%2e;x/b", Malformed::DotParameters),
        ("/a/..%3bx/b", Malformed::DotParameters),
        ("/.;/b", Malformed::DotParameters),
    ] {
        assert_eq!(path(sent), Err(why), "{sent}");
    }
    let long = format!("/{}", "|".repeat(40_000));
    assert_eq!(path(&long), Err(Malformed::TooLong));
}

#[test]
fn a_path_begins_with_a_slash_and_a_star_is_for_options() {
    let of = |line, version| of(version, line, &[("host", "a")]).map(|canonical| canonical.path().to_owned());
    assert_eq!(of("OPTIONS *", Version::HTTP_11).as_deref(), Ok("*"));
    assert_eq!(of("GET *", Version::HTTP_11), Err(Malformed::Star));
    assert_eq!(of("GET http://a", Version::HTTP_11).as_deref(), Ok("/"));
    assert_eq!(of("GET http://a?x", Version::HTTP_11), Err(Malformed::NoSlash));
    assert_eq!(of("GET https://a?x", Version::HTTP_2), Err(Malformed::NoSlash));
    assert_eq!(of("GET a", Version::HTTP_11), Err(Malformed::NoSlash));
    assert_eq!(of("CONNECT a:443", Version::HTTP_11), Err(Malformed::Connect));
    assert_eq!(of("CONNECT https://a/chat", Version::HTTP_2), Err(Malformed::Connect));
    assert_eq!(of("GET ftp://a/", Version::HTTP_11), Err(Malformed::Scheme));
}

#[test]
fn a_host_has_one_form() {
    for (sent, name, authority) in [
        ("example.com", "example.com", "example.com"),
        ("EXAMPLE.com", "example.com", "example.com"),
        ("example.com.", "example.com", "example.com"),
        ("Example.com.:8443", "example.com", "example.com:8443"),
        ("example.com:80", "example.com", "example.com:80"),
        ("example.com:0080", "example.com", "example.com:80"),
        ("10.0.0.1:80", "10.0.0.1", "10.0.0.1:80"),
        ("[2001:DB8:0::1]", "[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:443", "[2001:db8::1]", "[2001:db8::1]:443"),
        ("a_b-c", "a_b-c", "a_b-c"),
    ] {
        assert_eq!(host(sent), Ok((name.to_owned(), authority.to_owned())), "{sent}");
    }
    let long = "a".repeat(256);
    for bad in [
        "",
        ".",
        "a..b",
        ".a",
        "a..",
        "a:",
        "a:b",
        "a:+1",
        "a:65536",
        "a:1:2",
        "u@a",
        "a b",
        "a/b",
        "a%2e",
        "a,b",
        "[::1",
        "::1",
        "[::1]x",
        "[::1%25eth0]",
        "x[::1]",
        "[a]",
        "é",
        "a\\b",
        &long,
    ] {
        assert_eq!(host(bad), Err(Malformed::BadHost), "{bad}");
    }
}

#[test]
fn there_is_exactly_one_authority() {
    let of = |version, line, hosts: &[&str]| {
        let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        of(version, line, &headers).map(|canonical| canonical.authority().to_str().unwrap().to_owned())
    };
    let (old, http, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    assert_eq!(of(http, "GET /", &[]), Err(Malformed::NoHost));
    assert_eq!(of(http, "GET http://a/", &[]), Err(Malformed::NoHost));
    assert_eq!(of(http, "GET /", &["a", "a"]), Err(Malformed::SeveralHosts));
    assert_eq!(of(http, "GET /", &["a", "b"]), Err(Malformed::SeveralHosts));
    assert_eq!(of(http, "GET http://a/", &["b"]), Err(Malformed::HostsDiffer));
    assert_eq!(of(http, "GET http://a:81/", &["a"]), Err(Malformed::HostsDiffer));
    assert_eq!(of(http, "GET http://u@a/", &["a"]), Err(Malformed::BadHost));
    assert_eq!(of(http, "GET http://A:80/", &["a"]).as_deref(), Ok("a"));
    assert_eq!(of(h2, "GET http://a/", &[]).as_deref(), Ok("a"));
    assert_eq!(of(h2, "GET http://a/", &["A"]).as_deref(), Ok("a"));
    assert_eq!(of(h2, "GET http://a/", &["b"]), Err(Malformed::HostsDiffer));
    assert_eq!(of(h2, "GET /", &["a"]).as_deref(), Ok("a"));
    assert_eq!(of(h2, "GET /", &[]), Err(Malformed::NoHost));
    assert_eq!(of(old, "GET /", &[]).as_deref(), Ok(""));
    assert_eq!(of(old, "GET /", &["a"]).as_deref(), Ok("a"));
    assert_eq!(of(old, "GET /", &[""]), Err(Malformed::BadHost));
}

#[test]
fn a_name_that_reads_like_a_protected_one_is_refused() {
    for name in [
        "x_forwarded_for",
        "x-forwarded_proto",
        "x.forwarded.for",
        "x_real_ip",
        "x_request_id",
        "x_user",
        "x-forwarded_anything",
        "transfer_encoding",
        "content_length",
    ] {
        assert_eq!(of(Version::HTTP_11, "GET /", &[("host", "a"), (name, "1")]), Err(Malformed::Alias), "{name}");
    }
    for name in ["x_own", "x-user", "x-forwarded-for", "authorization", "user_agent"] {
        assert!(of(Version::HTTP_11, "GET /", &[("host", "a"), (name, "1")]).is_ok(), "{name}");
    }
}

#[test]
fn what_is_canonical_already_is_shared() {
    let request = Request::builder().uri("/a/b.c?d").header("host", "example.com:8080").body(()).unwrap();
    let head = Head::from(request.into_parts().0);
    let canonical = canonical(&head, true, &[]).unwrap();
    assert_eq!(canonical.path_and_query().as_str().as_ptr(), head.uri.path_and_query().unwrap().as_str().as_ptr());
    assert_eq!(canonical.authority().as_bytes().as_ptr(), head.headers.special()["host"].as_bytes().as_ptr());
    assert_eq!((canonical.port(), canonical.query()), (Some(8080), Some("d")));
}

/// Paths that are mostly what can go wrong.
fn paths() -> impl Strategy<Value = String> {
    let parts = [
        "/", "/", "%2", "%25", "2", "5", "e", "f", "E", ".", "..", ";", "%2e", "%2f", "%5c", "%c3%a9", "%41", "a", "|",
        "\\", "%3B",
    ];
    let parts = prop::collection::vec(prop::sample::select(parts.to_vec()), 0..12);
    prop_oneof![parts.prop_map(|parts| format!("/{}", parts.concat())), "/[ -~]{0,20}", "/\\PC{0,10}"]
}

proptest! {
    #[test]
    fn a_canonical_path_stays_as_it_is_and_holds_nothing_that_is_refused(sent in paths()) {
        if let Ok(changed) = canonical_path(&sent) {
            let canonical = changed.clone().unwrap_or(sent.clone());
            prop_assert_ne!(changed.as_ref(), Some(&sent));
            prop_assert_eq!(canonical_path(&canonical), Ok(None));
            prop_assert!(canonical.starts_with('/') && !canonical.contains("//") && canonical.is_ascii());
            prop_assert!(canonical.split('/').all(|segment| segment != "." && segment != ".."));
            let lower = canonical.to_ascii_lowercase();
            prop_assert!(["%2f", "%5c", "%2e", "%00", "%252f", "%252e", "\\", "/..;"].iter().all(|bad| !lower.contains(bad)));
            // Nobody who decodes it once, or twice, finds another path in it.
            let once = percent_decode_str(&canonical).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(once.matches('/').count(), canonical.matches('/').count());
            let twice = percent_decode_str(&once).decode_utf8_lossy().into_owned();
            prop_assert_eq!(twice.split('/').filter(|segment| *segment == "..").count(), 0);
        }
    }

    #[test]
    fn no_request_is_too_odd(
        uri in prop::collection::vec(any::<u8>(), 1..40),
        host in prop::collection::vec(any::<u8>(), 0..20),
        name in "[a-z_.-]{1,20}",
    ) {
        let mut request = Request::new(());
        if let (Ok(uri), Ok(host), Ok(name)) = (Uri::try_from(uri), HeaderValue::from_bytes(&host), name.parse::<HeaderName>()) {
            *request.uri_mut() = uri;
            request.headers_mut().insert(HOST, host);
            request.headers_mut().insert(name, HeaderValue::from_static("x"));
            let head = request.into_parts().0.into();
            if let Ok(canonical) = canonical(&head, false, &[]) {
                prop_assert_eq!(canonical.host(), canonical.host().to_ascii_lowercase());
                prop_assert!(!canonical.host().ends_with('.') && !canonical.host().is_empty());
            }
        }
    }

    #[test]
    fn a_canonical_host_stays_as_it_is(sent in "[A-Za-z0-9.:\\[\\]-]{0,20}") {
        if let Ok((name, authority)) = host(&sent) {
            prop_assert_eq!(host(&authority), Ok((name, authority)));
        }
    }
}
