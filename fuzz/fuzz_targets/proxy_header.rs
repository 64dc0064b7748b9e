//! Any bytes as a PROXY header: whatever is read is the same when it comes in two parts, and never claims more bytes
//! than there are. `scripts/fuzz 60 proxy_header`

#![no_main]

use evener::proxy_header::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Ok(Parsed::Done { consumed, .. }) = &whole {
        assert!(*consumed <= bytes.len());
    }
    let (first, _) = bytes.split_at(bytes.len() / 2);
    match (parse(first), &whole) {
        (Ok(Parsed::Incomplete), _) => {}
        (Ok(done), whole) => assert_eq!(Ok(done), *whole, "more bytes change nothing about a whole header"),
        (Err(_), whole) => assert!(whole.is_err(), "what is malformed stays so"),
    }
});
