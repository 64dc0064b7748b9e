//! Any header with credentials against a route that takes all kinds: nobody gets in but with the
//! one key there is. `scripts/fuzz 60 credentials`

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use evener::config::parse;
use evener::gateway::policy::{Asked, Kept, Moment, Prepared};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conf/files/jwks.json");
const FILE: &str = r#"
listener.web = { bind = "127.0.0.1:1", protocol = "http" }
pool.p = { backends = ["127.0.0.1:2"] }
route = [{ name = "a", listener = "web", pool = "p", auth = { jwt = "main", api_key = true, basic = true } }]
jwt.main = { algorithms = ["RS256", "ES256", "EdDSA"], keys_file = "KEYS" }
consumer.acme = { keys = ["sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"] }
"#;

static POLICIES: LazyLock<Arc<Prepared>> = LazyLock::new(|| {
    let read = parse("fuzz.toml", FILE.replace("KEYS", KEYS).as_bytes()).expect("the file is valid");
    Kept::default().prepare(&read.config.gateway).remove(0)
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let now = Moment { since_start: Duration::ZERO, since_epoch: Duration::ZERO };
    for name in ["authorization", "x-api-key"] {
        let mut headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]).into();
        // Without an address, so that no limit keeps the rest from being tried.
        let asked = Asked { method: &Method::GET, client: None, headers: &mut headers, now };
        assert!(POLICIES.admit(asked).is_err() || bytes == b"foo", "whose SHA-256 the file has");
    }
});
