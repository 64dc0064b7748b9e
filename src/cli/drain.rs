//! `evener drain`: the running process stops accepting, lets its connections finish and ends.

use std::io::Write;
use std::time::Duration;

use super::client::Client;
use crate::api;

/// Begins it and says how long it may take.
pub fn drain(client: &Client, deadline: Option<Duration>) -> anyhow::Result<()> {
    let deadline = deadline.map(|deadline| humantime::format_duration(deadline).to_string());
    let begun = client.drain(&api::Drain { deadline })?;
    let within = begun.deadline.unwrap_or_default();
    writeln!(std::io::stdout().lock(), "draining: no new clients, connections have {within} to finish")?;
    Ok(())
}
