//! `evener doctor`: holds the host against the file. `facts` looks, `plan` says what the file asks for, and the others judge,
//! each from the two alone: nothing is tried out and nothing is changed.

mod certificates;
mod facts;
mod finding;
mod holder;
mod host;
mod limits;
mod network;
mod plan;
mod ports;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;
use serde_json::json;

pub use self::certificates::warnings;
use self::facts::Facts;
use self::finding::{Finding, Level};
use self::plan::Plan;
use super::client::Client;
use super::table::{Look, Paper, count};
use super::{DEFAULT_FILE, Misuse};
use crate::config;

/// Says what on this host is in the way of the file, and what to type; an error when something will break.
pub fn doctor(path: &Path, admin: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let config = config::load(path).map_err(Misuse::file)?.config;
    // Whoever may not ask, or asks in vain, learns about the unit or the shell instead.
    let running = Client::find(path, admin).and_then(|client| client.status()).ok().map(|status| status.pid);
    let facts = Facts::gather(Path::new("/"), path, &config, running, now());
    let findings = examine(&Plan::new(&config, &facts));
    let text = match json {
        true => serde_json::to_string_pretty(&machines(&facts, &findings))? + "\n",
        false => people(&facts, &findings, Paper::of_stdout()),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    match findings.iter().filter(|finding| finding.level == Level::Breaks).count() {
        0 => Ok(()),
        breaks => Err(anyhow!("{} will break at the size that {} asks for", count(breaks, "thing"), path.display())),
    }
}

/// All findings, the worst first.
fn examine(plan: &Plan) -> Vec<Finding> {
    let parts = [limits::examine, ports::examine, network::examine, host::examine, certificates::examine];
    let mut findings: Vec<Finding> = parts.iter().flat_map(|part| part(plan)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

fn people(facts: &Facts, findings: &[Finding], paper: Paper) -> String {
    let mut out = format!("the limits are those of {}\n\n", facts.holder.name());
    for Finding { level, subject, found, needed, commands } in findings {
        let look = match level {
            Level::Ok => Look::Good,
            Level::Advice => Look::Notable,
            Level::Breaks => Look::Bad,
        };
        let word = look.paint(&format!("{:<6}", level.as_str()), paper.coloured);
        let _ = writeln!(out, "{word}  {subject}: {found}");
        if !needed.is_empty() {
            let _ = writeln!(out, "        {needed}");
        }
        for command in commands {
            // The prompt of root; what is no command but an advice in words begins with the same sign.
            let command = command.strip_prefix("# ").unwrap_or(command);
            let _ = writeln!(out, "        {} {command}", Look::Faint.paint("#", paper.coloured));
        }
    }
    let of = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (breaks, advice, ok) = (of(Level::Breaks), of(Level::Advice), of(Level::Ok));
    let _ = writeln!(out, "\n{breaks} will break, {advice} could be better, {ok} are well");
    out
}

fn machines(facts: &Facts, findings: &[Finding]) -> serde_json::Value {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let findings = findings.iter().map(|Finding { level, subject, found, needed, commands }| {
        json!({ "level": level.as_str(), "subject": subject, "found": found, "needed": needed, "commands": commands })
    });
    let findings: Vec<serde_json::Value> = findings.collect();
    json!({ "level": worst.as_str(), "limits_of": facts.holder.name(), "findings": findings })
}

#[allow(clippy::disallowed_methods)] // certificates end at a time of day
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
