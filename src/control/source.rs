//! Where the configuration comes from: a file, or a program that embeds the balancer.

use std::path::PathBuf;

use crate::config::{self, Config, Loaded, Report};

/// Where to read.
#[derive(Clone, Debug)]
pub enum Source {
    /// This file, again at each reload.
    File(PathBuf),
    /// This one; a reload changes nothing.
    Memory(Box<Config>),
}

impl Source {
    /// Reads and validates.
    ///
    /// # Errors
    /// All problems at once.
    pub fn read(&self) -> Result<Loaded, Report> {
        match self {
            Self::Memory(config) => Ok(Loaded { config: Config::clone(config), warnings: Vec::new() }),
            Self::File(path) => config::load(path),
        }
    }
}
