//! Any request against a table with one route of each kind: the first of the order is found, and the path that leaves is
//! canonical. `scripts/fuzz 60 route`

#![no_main]

use std::sync::LazyLock;

use evener::config::parse;
use evener::gateway::canonical::{canonical, canonical_path};
use evener::gateway::route::{Asked, Table};
use http::{HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;

const FILE: &str = r#"
listener.web = { bind = "127.0.0.1:1", protocol = "http" }
pool.p = { backends = ["127.0.0.1:2"] }
route = [
    { name = "a", listener = "web", pool = "p", match = { host = "a.x", path = "/u/{id}" }, rewrite_path = "/v/{id}" },
    { name = "b", listener = "web", pool = "p", match = { host = "*.x", path = "/{a}/b/{*rest}" }, rewrite_path = "/{rest}{a}" },
    { name = "c", listener = "web", pool = "p", match = { path_prefix = "/c" }, strip_prefix = "/c" },
    { name = "d", listener = "web", pool = "p", match = { path_regex = "/d.*", query = { a = { regex = "x+" } } } },
    { name = "e", listener = "web", pool = "p", match = { header = { x-e = "1" } } },
    { name = "f", listener = "web", pool = "p" },
]
"#;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let read = parse("fuzz.toml", FILE.as_bytes()).expect("the file is valid");
    Table::build(&read.config.gateway, "web")
});

fuzz_target!(|bytes: &[u8]| {
    // Host, a header and the URI stand in lines.
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let (Some(host), Some(header), Some(uri)) = (lines.next(), lines.next(), lines.next()) else { return };
    let (Ok(host), Ok(header)) = (HeaderValue::from_bytes(host), HeaderValue::from_bytes(header)) else { return };
    let Ok(uri) = Uri::try_from(uri) else { return };
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    request.headers_mut().insert("host", host);
    request.headers_mut().insert("x-e", header);
    let head = request.into_parts().0.into();
    let Ok(canonical) = canonical(&head, false, &[]) else { return };
    let client = [192, 0, 2, 1].into();
    let asked = Asked { method: &head.method, canonical: &canonical, headers: head.headers.special(), client };
    let found = TABLE.find(&asked).expect("one route takes everything");
    if let Ok(path) = found.forwarded(&canonical) {
        assert!(path.path() == "*" || canonical_path(path.path()) == Ok(None));
    }
});
