//! Tests: a script of one's own.

use super::*;
use crate::config::Step;
use crate::health::probe::script;

#[tokio::test]
async fn a_script_goes_on_behind_each_match() {
    let steps = |last: &str| {
        vec![
            Step::Expect(b"220 ".to_vec()),
            Step::Send(b"EHLO\r\n".to_vec()),
            Step::Expect(b"250".to_vec()),
            Step::Expect(last.as_bytes().to_vec()),
            Step::Send(b"QUIT\r\n".to_vec()),
        ]
    };
    for piece in PIECES {
        let turns = vec![(0, b"220 mail\r\n".to_vec()), (6, b"250-one\r\n250 two\r\n".to_vec())];
        let (mut near, heard) = backend(piece, turns.clone());
        assert_eq!(script::probe(&mut near, &steps("250")).await, Ok(()));
        drop(near);
        assert_eq!(heard.await.unwrap(), b"EHLO\r\nQUIT\r\n");
        let (mut near, _heard) = backend(piece, turns);
        assert_eq!(
            reason(script::probe(&mut near, &steps("220 ")).await),
            "step 4 (expect): it closed the connection in the middle of its answer; \
             expected \"220 \", got \"-one\\r\\n250 two\\r\\n\"",
            "what stood before a match is gone"
        );
    }
}
