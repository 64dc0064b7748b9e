//! A header that is only passed on becomes the same as one that everybody has looked into.

use bytes::BytesMut;
use http::Method;

use super::*;
use crate::gateway::http1::head::{self, Limits};
use crate::gateway::message::Head;

const LIMITS: Limits = Limits { bytes: 8192, fields: 100 };
const NAMES: [&str; 24] = [
    "Host",
    "connection",
    "Connection",
    "keep-alive",
    "Transfer-Encoding",
    "content-length",
    "TE",
    "upgrade",
    "X-Forwarded-For",
    "x-forwarded-proto",
    "X_Forwarded_For",
    "X-Real-IP",
    "X-Request-Id",
    "forwarded",
    "expect",
    "Proxy",
    "proxy-connection",
    "Proxy-Authorization",
    "http2-settings",
    "Authorization",
    "Date",
    "x-a",
    "X-A",
    "accept",
];
const VALUES: [&str; 10] =
    ["", "a", "keep-alive", "Close", "x-a", "trailers", "chunked", "5", "203.0.113.9", "keep-alive, host"];

/// Fields, one in two of them with a name that means nothing to a gateway.
fn fields() -> impl Strategy<Value = String> {
    let name = prop_oneof![prop::sample::select(&NAMES[..]), prop::sample::select(&NAMES[19..])];
    let between = prop::sample::select(&[": ", ":", ":\t"][..]);
    let field = (name, between, prop::sample::select(&VALUES[..]), prop::sample::select(&["\r\n", "\n"][..]));
    let field = field.prop_map(|(name, between, value, end)| format!("{name}{between}{value}{end}"));
    prop::collection::vec(field, 0..8).prop_map(|fields| fields.concat())
}

/// What the backend is sent of it, or why nothing is.
fn sent(mut head: Head, peer: &str) -> Result<(IpAddr, HeaderMap), Malformed> {
    let identity = [HeaderName::from_static("x-user")];
    let canonical = canonical(&head, false, &identity)?;
    let client = client(ip(peer), head.headers.special(), &trusted());
    let id = request_id(head.headers.special(), client.is_trusted, || 0xabc);
    strip_request(&mut head.headers, &identity)?;
    if let Some(announced) = Peer::new(ip(peer), false).announce(&mut head.headers, &canonical, client, &id) {
        announced.put_among(head.headers.map());
    }
    Ok((client.address, head.headers.to_map()))
}

proptest! {
    #[test]
    fn a_request_is_the_same_to_a_backend_whether_it_was_a_map_or_not(
        fields in fields(), peer in prop::sample::select(&["10.0.0.1", "192.0.2.1"][..]),
    ) {
        let text = format!("GET / HTTP/1.1\r\nHost: Example.com\r\n{fields}\r\n");
        let read = || head::request(&mut BytesMut::from(text.as_bytes()), LIMITS).ok().flatten();
        if let (Some(as_read), Some(as_map)) = (read(), read()) {
            let mut map = as_map.head;
            map.headers.map();
            prop_assert_eq!(sent(as_read.head, peer), sent(map, peer));
        }
    }

    #[test]
    fn a_response_is_the_same_to_a_client_whether_it_was_a_map_or_not(fields in fields()) {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let read = || head::response(&mut BytesMut::from(text.as_bytes()), LIMITS, &Method::GET).ok().flatten();
        if let (Some(as_read), Some(as_map)) = (read(), read()) {
            let (mut as_read, mut map) = (as_read.answer.headers, as_map.answer.headers);
            map.map();
            strip_response(&mut as_read);
            strip_response(&mut map);
            prop_assert_eq!(as_read.to_map(), map.to_map());
        }
    }
}

#[test]
fn a_usual_header_is_a_plain_one() {
    let request = |fields: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = head::request(&mut BytesMut::from(text.as_bytes()), LIMITS).unwrap().unwrap().head;
        matches!(head.headers, Headers::Plain(_))
    };
    for usual in ["", "Connection: keep-alive\r\n", "Connection: Close\r\n", "Content-Length: 1\r\nX-A: b\r\n"] {
        assert!(request(usual), "{usual}");
    }
    for special in ["Connection: x\r\n", "Upgrade: x\r\n", "Host: a\r\n", "X-Forwarded-For: 1\r\n", "a_b: c\r\n"] {
        assert!(!request(special), "{special}");
    }
}
