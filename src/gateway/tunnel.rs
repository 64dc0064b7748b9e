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

/// Carries it to its end.
pub async fn carry(io: Io, tunnel: Tunnel, client: &Client, leash: &Leash) -> CloseReason {
    let Tunnel { backend, place, idle } = tunnel;
    let (meters, handle) = ((io.meter.clone(), backend.meter.clone()), backend.handle.clone());
    let ended = || handle.as_ref().and_then(|handle| handle.ended());
    let (client_read, client_write) = tokio::io::split(io);
    let (backend_read, backend_write) = tokio::io::split(backend);
    let both = async {
        let up = copy(client_read, backend_write);
        let down = copy(backend_read, client_write);
        tokio::join!(up, down)
    };
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
    let reason = tokio::select! {
        (up, down) = both => match (up, down) {
            (Err(()), _) => CloseReason::ClientReset,
            (_, Err(())) => CloseReason::BackendReset,
            _ => CloseReason::ClientClosed,
        },
        reason = watch => reason,
    };
    drop(place);
    ended().unwrap_or(reason)
}

/// One direction, to its end; an end is passed on as one.
async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) -> Result<(), ()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await.map_err(drop)?;
        if count == 0 {
            return to.shutdown().await.map_err(drop);
        }
        to.write_all(&buffer[..count]).await.map_err(drop)?;
        to.flush().await.map_err(drop)?;
    }
}
