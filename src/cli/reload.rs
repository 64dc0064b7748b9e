//! `evener reload`: makes the running process read its file again.

use std::io::Write;

use super::client::Client;

/// Waits for the outcome and shows it.
pub fn reload(client: &Client) -> anyhow::Result<()> {
    let done = client.reload()?;
    let mut stderr = std::io::stderr().lock();
    for warning in &done.warnings {
        // Those of the file come ready to print.
        let prefix = if warning.starts_with("warning") { "" } else { "warning: " };
        writeln!(stderr, "{prefix}{}", warning.trim_end())?;
    }
    writeln!(std::io::stdout().lock(), "reloaded, generation {}: {}", done.generation, done.summary)?;
    Ok(())
}
