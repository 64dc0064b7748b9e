//! What follows an upgrade (RFC 9110, 7.8): bytes both ways, as they come. It begins only after the backend's 101, so that
//! no client can speak to a backend that did not agree.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Client;
use super::io::Io;
use super::watch::Leash;
use crate::reason::CloseReason;
use crate::stats::BackendSlot;

/// What is held of one direction.
const BUFFER_BYTES: usize = 16 * 1024;
/// How often is looked whether bytes still move.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A backend that has switched to another protocol.
pub struct Tunnel {
    /// Its connection.
    pub backend: Io,
    /// Its place, until the end.
    pub place: BackendSlot,
    /// How long it may be silent.
    pub idle: Option<Duration>,
}

/// Carries it to its end. One that both sides have ended in turn is closed as they did; any other is reset on both, so that
/// what was cut does not look whole.
pub async fn carry(mut io: Io, tunnel: Tunnel, client: &Client, leash: &Leash) -> CloseReason {
    let Tunnel { mut backend, place, idle } = tunnel;
    let (meters, handle) = ((io.meter.clone(), backend.meter.clone()), backend.handle.clone());
    let ended = || handle.as_ref().and_then(|handle| handle.ended());
    let watch = async {
        let mut seen = (0, client.thread.clock.now());
        loop {
            let pulled = leash.pulled.notified();
            // Whoever pulls has set the time by which it ends.
            let _ = tokio::time::timeout(LOOK_INTERVAL, pulled).await;
            let (moved, now) = (meters.0.read.get() + meters.1.read.get(), client.thread.clock.now());
            if moved != seen.0 {
                seen = (moved, now);
            } else if idle.is_some_and(|idle| now - seen.1 >= idle) {
                return CloseReason::ClientIdle;
            }
            if let Some(reason) = ended().or(leash.is_due(now)).or(leash.is_aged(now)) {
                return reason;
            }
        }
    };
    let outcome = tokio::select! {
        outcome = relay(&mut io, &mut backend) => outcome.map_err(|reason| ended().unwrap_or(reason)),
        reason = watch => Err(reason),
    };
    if outcome.is_err() {
        io.reset_on_close();
        backend.reset_on_close();
    }
    drop(place);
    outcome.err().unwrap_or(CloseReason::ClientClosed)
}

/// Both directions, until both have ended.
///
/// # Errors
/// Who broke it off.
async fn relay(client: &mut Io, backend: &mut Io) -> Result<(), CloseReason> {
    let (client_read, client_write) = tokio::io::split(client);
    let (backend_read, backend_write) = tokio::io::split(backend);
    let up = copy((client_read, CloseReason::ClientReset), (backend_write, CloseReason::BackendReset));
    let down = copy((backend_read, CloseReason::BackendReset), (client_write, CloseReason::ClientReset));
    tokio::try_join!(up, down).map(drop)
}

/// One direction, to its end; an end is passed on as one. Each side comes with what its failure is called.
async fn copy(
    (mut from, from_failed): (impl AsyncReadExt + Unpin, CloseReason),
    (mut to, to_failed): (impl AsyncWriteExt + Unpin, CloseReason),
) -> Result<(), CloseReason> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await.map_err(|_| from_failed)?;
        if count == 0 {
            return to.shutdown().await.map_err(|_| to_failed);
        }
        to.write_all(&buffer[..count]).await.map_err(|_| to_failed)?;
        to.flush().await.map_err(|_| to_failed)?;
    }
}
