//! The `redis` check: PING.
//!
//! Up: `+PONG`, and the errors NOAUTH and NOPERM: a backend that wants a password first is alive, and only we lack it.
//! Down: any other error. Redis answers PING with an error on purpose when clients should go elsewhere: LOADING,
//! MASTERDOWN (a replica that lost its master and must not serve stale data), BUSY (a script that does not end),
//! MISCONF (it cannot save). DENIED (protected mode) and "max number of clients reached" hold for clients as well, for
//! they come from the same address as the check.
//!
//! Source: redis.io, "Redis serialization protocol specification", and its list of commands. PING and QUIT need no
//! keys; PING without log-in is refused with NOAUTH and logs nothing.

use super::{Failure, Io, Talk, text};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";

pub(super) async fn probe<S: Io>(stream: &mut S) -> Result<(), Failure> {
    let mut talk = Talk::new(stream);
    talk.say(PING).await?;
    let line = talk.take_through(b"\r\n").await?;
    let is_alive = match line.strip_prefix(b"-") {
        None => line == b"+PONG\r\n",
        Some(error) => matches!(error.split(|&byte| byte == b' ').next(), Some(b"NOAUTH" | b"NOPERM")),
    };
    if !is_alive {
        let what = if line.starts_with(b"-") { "it answers PING with" } else { "not a Redis answer:" };
        return Err(Failure::new(format!("{what} {}", text(&line).trim())));
    }
    // It is up already; whether the goodbye arrives changes nothing.
    let _ = talk.say(QUIT).await;
    Ok(())
}
