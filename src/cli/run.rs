//! `evener run`: the balancer itself.

use std::path::Path;

use super::Misuse;
use crate::control::desk::Desk;
use crate::control::inherited::Inherited;
use crate::control::source::Source;
use crate::control::{self, Failure};

/// Runs until a signal ends it.
pub fn run(config: &Path) -> anyhow::Result<()> {
    // First of all: nothing is open yet.
    let inherited = Inherited::of_service_manager()?;
    match control::run(Source::File(config.to_owned()), inherited, Desk::open()) {
        Err(Failure::File(report)) => Err(Misuse::file(report).into()),
        other => Ok(other?),
    }
}
