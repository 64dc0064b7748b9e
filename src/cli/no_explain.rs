//! In place of `explain` in a build without the gateway: there are no routes.

use std::path::Path;

use super::Misuse;
use crate::config::Config;

/// A request.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// The method and the URL
    #[arg(num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Says that there is nothing to explain.
pub fn explain(_path: &Path, _question: &Question) -> anyhow::Result<()> {
    Err(Misuse("error: this build has no HTTP gateway (cargo feature `gateway`)".to_owned()).into())
}

/// Nothing to warn of.
pub fn warnings(_config: &Config) -> Vec<String> {
    Vec::new()
}
