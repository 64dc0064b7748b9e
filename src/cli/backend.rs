//! `evener backend POOL/NAME ready|drain|maint|auto` and `… weight N`: overrides at run time; `… close`: an end to its
//! connections.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};

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
#[derive(Clone, Debug, Subcommand)]
pub enum Word {
    /// Takes clients again, as far as the checks allow
    Ready,
    /// No new clients; those it has stay
    Drain(Why),
    /// No new clients, and its checks do not matter; those it has stay
    Maint(Why),
    /// As the file says: clears state and weight
    Auto,
    /// This weight instead of the file's; 0 = no new clients
    Weight {
        /// 0 to 65535
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(api::WEIGHT_MAX)))]
        weight: u32,
    },
    /// End its connections, flows and requests now; whether it gets new ones is for the other words
    Close {
        /// They end evenly over this time [default: process.drain.spread of the file]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        spread: Option<Duration>,
    },
}

/// A reason for others to read.
#[derive(Clone, Debug, Args)]
pub struct Why {
    /// Why, for those who look at the status or the log: "disk swap, ticket 12"
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Overrides, and shows what came of it.
pub fn change(client: &Client, which: &Which, word: &Word) -> anyhow::Result<()> {
    let state = |state| api::Change { state: Some(state), ..api::Change::default() };
    let with = |named, why: &Why| api::Change { reason: why.reason.clone(), ..state(named) };
    let change = match word {
        Word::Ready => state(ChangeState::Ready),
        Word::Drain(why) => with(ChangeState::Drain, why),
        Word::Maint(why) => with(ChangeState::Maint, why),
        Word::Auto => state(ChangeState::Auto),
        Word::Weight { weight } => api::Change { weight: Some(*weight), ..api::Change::default() },
        Word::Close { spread } => return close(client, which, *spread),
    };
    let mut stdout = std::io::stdout().lock();
    for backend in client.change(&which.pool, &which.name, &change)? {
        let (pool, name, state, why) = (&which.pool, &backend.name, backend.state.as_str(), &backend.why);
        let (weight, active) = (backend.weight, count(backend.connections.active as usize, "connection"));
        writeln!(stdout, "{pool}/{name}: {state} ({why}), weight {weight}, {active}")?;
    }
    Ok(())
}

fn close(client: &Client, which: &Which, spread: Option<Duration>) -> anyhow::Result<()> {
    let spread = spread.map(|spread| humantime::format_duration(spread).to_string());
    let closing = client.close(&which.pool, &which.name, &api::Close { spread })?;
    let mut stdout = std::io::stdout().lock();
    for backend in closing.backends {
        let (pool, name, spread) = (&which.pool, &backend.name, &closing.spread);
        writeln!(stdout, "{pool}/{name}: {} end within {spread}", count(backend.connections as usize, "connection"))?;
    }
    Ok(())
}
