//! `evener completions`: what a shell must know to complete verbs and options.

use std::io::Write;

use clap_complete::Shell;

/// Writes them to stdout.
pub fn completions(mut command: clap::Command, shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "evener", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
