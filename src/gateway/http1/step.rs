//! Requests in step.

use std::future::poll_fn;
use std::task::Poll;

/// Lets the others that are ready in this turn come as far as this first.
///
/// A request takes more code than a processor's first cache holds, here and in the kernel. Where each goes all its way
/// before the next one begins, each loads all of that anew; where those of a turn go a part of the way together, the first
/// one loads it for all (benches/README.md). A thread with nothing else to do loses the time of asking once more. Who has
/// many bytes to pass on should do that at once: they are in the caches, too.
///
/// tokio's own `yield_now` would look for new events first, by a system call.
pub async fn in_step() {
    let mut is_first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
