//! The PROXY header that a proxy sends in front of a client's connection. It is taken away to the byte, so that TLS or HTTP
//! begin where it ends.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use super::io::Raw;
use super::thread::Thread;
use crate::proxy_header::{self, Ends, Parsed, V2_MAX_BYTES};
use crate::reason::CloseReason;

/// Whom the header speaks of: source and destination, or nobody, where the connection's own addresses hold.
///
/// # Errors
/// There is none, or it is broken or late; or the client has gone.
pub async fn header(thread: &Thread, raw: &Raw) -> Result<Option<Ends>, CloseReason> {
    let read = poll_fn(|cx| poll_header(raw, cx, &mut thread.scratch.borrow_mut()[..V2_MAX_BYTES]));
    tokio::time::timeout(proxy_header::TIMEOUT, read).await.unwrap_or(Err(CloseReason::BadProxyHeader))
}

fn poll_header(raw: &Raw, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<Option<Ends>, CloseReason>> {
    const BAD: Poll<Result<Option<Ends>, CloseReason>> = Poll::Ready(Err(CloseReason::BadProxyHeader));
    loop {
        let Ok(mut ready) = ready!(raw.poll_read_ready(cx)) else { return Poll::Ready(Err(CloseReason::ClientReset)) };
        let socket = ready.get_inner();
        // Looked at first: what is behind the header belongs to others.
        let got = match socket.peek(scratch) {
            Ok(0) => return BAD,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                continue;
            }
            Err(_) => return Poll::Ready(Err(CloseReason::ClientReset)),
        };
        match proxy_header::parse(&scratch[..got]) {
            // The end of the stream is there already, behind these bytes.
            Ok(Parsed::Incomplete) if ready.ready().is_read_closed() => return BAD,
            Ok(Parsed::Incomplete) => ready.clear_ready(),
            Ok(Parsed::Done { consumed, source }) => {
                let is_taken = socket.recv(&mut scratch[..consumed]).is_ok_and(|taken| taken == consumed);
                return Poll::Ready(if is_taken { Ok(source) } else { Err(CloseReason::ClientReset) });
            }
            Err(_) => return BAD,
        }
    }
}
