//! `evener events`: what happens, a line each, until somebody has seen enough.

use std::io::Write;
use std::ops::ControlFlow;

use anyhow::anyhow;

use super::client::Client;
use super::coloured;
use super::table::{Look, printable};
use crate::api::{Event, EventKind};

/// Where to begin.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Begin {
    /// Begin with so many events that there have been already
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    last: u64,
    /// Begin after the event of this number; 0 = all that are kept
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    since: Option<u64>,
}

/// Follows the events until the process ends, which is a failure for those who wait for more.
pub fn events(client: &Client, begin: Begin, json: bool) -> anyhow::Result<()> {
    let begin = match begin.since {
        Some(seq) => format!("since={seq}"),
        None => format!("last={}", begin.last),
    };
    let mut failure = None;
    client.follow(&begin, |event| match show(&event, json) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    Err(failure.unwrap_or_else(|| anyhow!("evener has ended, or another process has taken its place: ask again")))
}

fn show(event: &Event, json: bool) -> anyhow::Result<()> {
    let line = if json { serde_json::to_string(event)? } else { line(event, coloured()) };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    Ok(())
}

fn line(event: &Event, coloured: bool) -> String {
    let kind = look(event.kind).paint(event.kind.as_str(), coloured);
    let about = about(event);
    let about = if about.is_empty() { about } else { format!(" {about}") };
    printable(&format!("{} ", event.time)) + &kind + &printable(&format!("{about}: {}", event.text))
}

/// "pool/backend", or the listener.
pub fn about(event: &Event) -> String {
    let parts = [&event.listener, &event.pool, &event.backend];
    parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
}

/// How an event looks.
pub const fn look(kind: EventKind) -> Look {
    match kind {
        EventKind::BackendUp | EventKind::PoolServes => Look::Good,
        EventKind::Draining
        | EventKind::BackendDrain
        | EventKind::BackendMaint
        | EventKind::OverrideSet
        | EventKind::Lost => Look::Notable,
        EventKind::ReloadFailed
        | EventKind::BackendDown
        | EventKind::BackendEjected
        | EventKind::BackendUnresolved
        | EventKind::NoBackend
        | EventKind::Panic
        | EventKind::LimitReached
        | EventKind::ThreadStuck => Look::Bad,
        _ => Look::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_kind_and_whom_it_is_about_and_no_control_characters() {
        let event = Event {
            seq: 1,
            time: "2026-01-05T06:52:00.847Z".into(),
            kind: EventKind::BackendDown,
            listener: None,
            pool: Some("pg".into()),
            backend: Some("pg2".into()),
            text: "from up to down: \x1b[31mrefused\n".into(),
            lost: 0,
        };
        let expected = "2026-01-05T06:52:00.847Z backend_down pg/pg2: from up to down: ?[31mrefused?";
        assert_eq!(line(&event, false), expected);
        let reload =
            Event { kind: EventKind::ReloadDone, pool: None, backend: None, text: "no change".into(), ..event };
        assert_eq!(line(&reload, false), "2026-01-05T06:52:00.847Z reload_done: no change");
    }
}
