//! Any bytes as a request's URI and host: a canonical path stays as it is, and nothing that is refused is left in it.
//! `scripts/fuzz 60 canonical`

#![no_main]

use evener::gateway::canonical::{canonical, canonical_path};
use http::{HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The host is what stands before the first line break.
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (host, uri) = (&bytes[..end], &bytes[(end + 1).min(bytes.len())..]);
    let mut request = Request::new(());
    let (Ok(uri), Ok(host)) = (Uri::try_from(uri), HeaderValue::from_bytes(host)) else { return };
    *request.uri_mut() = uri;
    request.headers_mut().insert("host", host);
    let Ok(canonical) = canonical(&request.into_parts().0.into(), false, &[]) else { return };
    let path = canonical.path();
    assert_eq!(canonical_path(path), Ok(None));
    assert!(!path.contains("//") && path.split('/').all(|segment| segment != "." && segment != ".."));
    assert!(!canonical.host().bytes().any(|byte| byte.is_ascii_uppercase()));
});
