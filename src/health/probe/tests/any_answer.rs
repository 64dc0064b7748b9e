//! Tests: what no protocol foresees.

use proptest::prelude::*;

use super::*;
use crate::config::Step;
use crate::health::probe::{http, mysql, postgres, redis, script};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a backend says, each check ends with a verdict.
    #[test]
    fn no_answer_breaks_a_check(
        start in prop::sample::select(vec![&b""[..], b"R\0\0\0\x08\0\0\0\0", b"E\0\0\0\x20", b"\x50\0\0\0\x0a8.0\0", b"HTTP/1.1 200 OK\r\n", b"+"]),
        rest in prop::collection::vec(any::<u8>(), 0..200), for_ever: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let says = [start, &rest, b"\n"].concat();
        runtime.block_on(async {
            let near = || stubborn(says.clone(), for_ever);
            let _ = postgres::probe(&mut near(), "u", "d").await;
            let _ = mysql::probe(&mut near(), "u").await;
            let _ = redis::probe(&mut near()).await;
            let _ = script::probe(&mut near(), &[Step::Expect(b"no such thing in there".to_vec())]).await;
            let _ = http::probe(&mut near(), "/", "h", &[200..=299], Some("no such thing in there")).await;
        });
    }
}
