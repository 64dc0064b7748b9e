//! The `script` check: send and expect, step by step, for line protocols without a check of their own.
//!
//! `expect` waits until its bytes occur in what came since the last match; what stood before them is skipped. A script
//! leaves as cleanly as its last `send` makes it (a "QUIT\r\n" where the protocol has one).

use super::{Failure, Io, Talk, expected, heard};
use crate::config::Step;

pub(super) async fn probe<S: Io>(stream: &mut S, steps: &[Step]) -> Result<(), Failure> {
    let mut talk = Talk::new(stream);
    for (index, step) in steps.iter().enumerate() {
        let outcome = match step {
            Step::Send(bytes) => talk.say(bytes).await.map_err(|failure| (failure, "send")),
            Step::Expect(bytes) if bytes.is_empty() => Ok(()),
            Step::Expect(bytes) => talk.take_through(bytes).await.map(drop).map_err(|failure| (failure, "expect")),
        };
        if let Err((failure, verb)) = outcome {
            let mut why = format!("step {} ({verb}): {}", index + 1, failure.why);
            if let Step::Expect(bytes) = step {
                let (wanted, came) = (expected(bytes), heard(&talk.heard));
                why = format!("{why}; expected \"{wanted}\", got \"{came}\"");
            }
            return Err(Failure { why, ..failure });
        }
    }
    Ok(())
}
