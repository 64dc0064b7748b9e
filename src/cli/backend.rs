//! `evener backend POOL/NAME ready|drain|maint|auto` and `… weight N`: overrides at run time.

use std::io::Write;

use clap::Subcommand;

use super::client::Client;
use super::table::count;
use crate::api::{self, ChangeState};

/// A backend on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// Before the first slash.
    pub pool: String,
    /// After it.
    pub name: String,
}

/// Reads POOL/NAME; a name may hold slashes itself (a unix socket's path).
pub fn parse(text: &str) -> Result<Which, String> {
    match text.split_once('/') {
        Some((pool, name)) if !pool.is_empty() && !name.is_empty() => {
            Ok(Which { pool: pool.to_owned(), name: name.to_owned() })
        }
        _ => Err("a backend is named POOL/NAME, as in pg/pg1".to_owned()),
    }
}

/// What is to change.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Word {
    /// Takes clients again, as far as the checks allow
    Ready,
    /// No new clients; those it has stay
    Drain,
    /// No new clients, and its checks do not matter; those it has stay
    Maint,
    /// As the file says: clears state and weight
    Auto,
    /// This weight instead of the file's; 0 = no new clients
    Weight {
        /// 0 to 65535
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(api::WEIGHT_MAX)))]
        weight: u32,
    },
}

/// Overrides, and shows what came of it.
pub fn change(client: &Client, which: &Which, word: Word) -> anyhow::Result<()> {
    let state = |state| api::Change { state: Some(state), weight: None };
    let change = match word {
        Word::Ready => state(ChangeState::Ready),
        Word::Drain => state(ChangeState::Drain),
        Word::Maint => state(ChangeState::Maint),
        Word::Auto => state(ChangeState::Auto),
        Word::Weight { weight } => api::Change { state: None, weight: Some(weight) },
    };
    let mut stdout = std::io::stdout().lock();
    for backend in client.change(&which.pool, &which.name, &change)? {
        let (pool, name, state, why) = (&which.pool, &backend.name, backend.state.as_str(), &backend.why);
        let (weight, active) = (backend.weight, count(backend.connections.active as usize, "connection"));
        writeln!(stdout, "{pool}/{name}: {state} ({why}), weight {weight}, {active}")?;
    }
    Ok(())
}
