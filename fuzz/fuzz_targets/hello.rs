//! Any bytes as a TLS ClientHello, whole and in two parts: a verdict stays, and what is still needed is never more than
//! it takes. `scripts/fuzz 60 hello`

#![no_main]

use evener::tcp::hello::{HELLO_BYTES_MAX, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says where the stream is torn, in 256ths.
    let Some((tear, stream)) = bytes.split_first() else { return };
    let (first, _) = stream.split_at(stream.len() * usize::from(*tear) / 256);
    let whole = parse(stream);
    if let Ok(Parsed::Done { server_name: Some(name) }) = &whole {
        assert!((1..=253).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    match (parse(first), &whole) {
        (Ok(Parsed::Incomplete { needed }), Ok(Parsed::Incomplete { needed: more })) => {
            assert!(first.len() < needed && needed <= *more && *more <= HELLO_BYTES_MAX && stream.len() < *more);
        }
        (Ok(Parsed::Incomplete { needed }), Ok(Parsed::Done { .. })) => assert!(needed <= stream.len()),
        (Ok(Parsed::Incomplete { .. }), Err(_)) => {}
        (Ok(done), whole) => assert_eq!(Ok(done), *whole, "more bytes change nothing about a whole hello"),
        (Err(_), whole) => assert!(whole.is_err(), "what is malformed stays so"),
    }
});
