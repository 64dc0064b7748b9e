//! `evener schema`: the JSON Schema of the file.

use std::io::Write;

use crate::config::SCHEMA;

/// Writes it to stdout.
pub fn schema() -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(SCHEMA.as_bytes())?;
    Ok(())
}
