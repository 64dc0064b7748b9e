//! `evener status --ready`: yes or no, for programs that decide by it where clients go.

use super::client::Client;
use crate::api::{Pool, Status};

/// Fails unless new clients are served: by the process, and by this pool or by all of them.
pub fn ready(client: &Client, pool: Option<&str>) -> anyhow::Result<()> {
    let status = client.status()?;
    anyhow::ensure!(!status.draining, "not ready: the process drains and takes no new clients");
    if let Some(name) = pool {
        let known = status.pools.iter().any(|pool| pool.name == name);
        anyhow::ensure!(known, "there is no pool `{name}`: `evener status` shows those there are");
    }
    let mut asked = status.pools.iter().filter(|known| pool.is_none_or(|name| known.name == name));
    asked.try_for_each(|pool| {
        anyhow::ensure!(pool.serves(), "not ready: pool `{}` has no backend that takes clients", pool.name);
        anyhow::ensure!(
            !is_shut(&status, pool),
            "not ready: every listener of pool `{}` drains or is drained",
            pool.name
        );
        Ok(())
    })
}

/// Whether no listener lets clients in; one for HTTP names no pool, its routes do.
fn is_shut(status: &Status, pool: &Pool) -> bool {
    let mut listeners = status.listeners.iter().filter(|listener| listener.pool == pool.name).peekable();
    listeners.peek().is_some() && listeners.all(|listener| listener.state != "listening")
}
