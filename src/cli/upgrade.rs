//! `evener upgrade`: the program on disk takes over from the running one.

use std::io::Write;

use super::client::Client;

/// Waits for the outcome and shows it.
pub fn upgrade(client: &Client) -> anyhow::Result<()> {
    let done = client.upgrade()?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "upgraded: process {} (evener {}) serves now", done.pid, done.version)?;
    writeln!(stdout, "moved: {} connections, {} flows", done.connections, done.flows)?;
    if done.draining > 0 {
        let (count, within) = (done.draining, done.drain_deadline);
        writeln!(stdout, "left to the old process, which ends with the last of them, or in {within}: {count}")?;
    }
    Ok(())
}
