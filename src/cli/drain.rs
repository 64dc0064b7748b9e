//! `evener drain`: the running process stops accepting, lets its connections finish and ends; `evener drain LISTENER` and
//! `evener ready LISTENER`: the same for one listener, and back.

use std::io::Write;
use std::time::Duration;

use super::client::Client;
use super::table::count;
use crate::api::{self, ListenerChange, ListenerState};

/// Begins it and says how long it may take.
pub fn drain(
    client: &Client,
    listener: Option<&str>,
    deadline: Option<Duration>,
    spread: Option<Duration>,
) -> anyhow::Result<()> {
    let text = |time: Duration| humantime::format_duration(time).to_string();
    let (deadline, spread) = (deadline.map(text), spread.map(text));
    let mut stdout = std::io::stdout().lock();
    let Some(name) = listener else {
        let begun = client.drain(&api::Drain { deadline, spread })?;
        let within = begun.deadline.unwrap_or_default();
        writeln!(stdout, "draining: no new clients, connections have {within} to finish")?;
        return Ok(());
    };
    let change = ListenerChange { state: ListenerState::Drain, deadline, spread };
    let listener = client.change_listener(name, &change)?;
    let active = count(listener.connections.active as usize, "connection");
    let left = listener.drain.map_or(0, |drain| drain.left_s);
    match listener.state.as_str() {
        "drained" => writeln!(stdout, "{name}: drained, no new clients until `evener ready {name}`")?,
        _ => writeln!(stdout, "{name}: draining, no new clients; {active}, {left} s left")?,
    }
    Ok(())
}

/// Undoes it for one listener.
pub fn ready(client: &Client, name: &str) -> anyhow::Result<()> {
    let change = ListenerChange { state: ListenerState::Ready, deadline: None, spread: None };
    let listener = client.change_listener(name, &change)?;
    writeln!(std::io::stdout().lock(), "{name}: {} on {}", listener.state, listener.bind.join(", "))?;
    Ok(())
}
