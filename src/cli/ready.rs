//! `evener status --ready`: yes or no, for programs that decide by it where clients go.

use super::client::Client;
use crate::api::{Pool, State};

/// Fails unless new clients are served: by the process, and by this pool or by all of them.
pub fn ready(client: &Client, pool: Option<&str>) -> anyhow::Result<()> {
    let status = client.status()?;
    anyhow::ensure!(!status.draining, "not ready: the process drains and takes no new clients");
    if let Some(name) = pool {
        let known = status.pools.iter().any(|pool| pool.name == name);
        anyhow::ensure!(known, "there is no pool `{name}`: `evener status` shows those there are");
    }
    let mut asked = status.pools.iter().filter(|known| pool.is_none_or(|name| known.name == name));
    match asked.find(|pool| !serves(pool)) {
        Some(pool) => anyhow::bail!("not ready: pool `{}` has no backend that takes clients", pool.name),
        None => Ok(()),
    }
}

/// A pool in panic does: it ignores health.
fn serves(pool: &Pool) -> bool {
    pool.panic || pool.backends.iter().any(|backend| backend.state == State::Up)
}
