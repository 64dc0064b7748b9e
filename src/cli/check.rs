//! `evener check`: validates the file. Binds nothing, resolves nothing, needs no rights.

use std::io::{self, Write};
use std::path::Path;

use super::table::{Cell, Paper, count, render};
use super::{Misuse, coloured, doctor, explain};
use crate::config;
use crate::control::capacity;
use crate::control::log::wants_colour;
use crate::sys::process::raise_nofile;

/// Says what is wrong with the file, or that nothing is, and what each route asks of clients; prints the effective
/// configuration when asked.
pub fn check(path: &Path, print: bool) -> anyhow::Result<()> {
    let read = config::load(path).map_err(Misuse::file)?;
    let mut stderr = io::stderr().lock();
    for warning in &read.warnings {
        writeln!(stderr, "{}\n", warning.render(wants_colour(&io::stderr())).trim_end())?;
    }
    let shortage = raise_nofile().ok().and_then(|fds| {
        let workers = capacity::workers(&read.config);
        capacity::shortage(&read.config, fds, workers)
    });
    if let Some(shortage) = shortage {
        writeln!(stderr, "warning: {shortage}\n")?;
    }
    for warning in doctor::warnings(&read.config).into_iter().chain(explain::warnings(&read.config)) {
        writeln!(stderr, "warning: {warning}\n")?;
    }
    let mut stdout = io::stdout().lock();
    if print {
        write!(stdout, "{}", config::print(&read.config))?;
        return Ok(());
    }
    let (good, plain) = if coloured() { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
    let backends: usize = read.config.pools.iter().map(|pool| pool.backends.len()).sum();
    let (listeners, pools) = (read.config.listeners.len(), read.config.pools.len());
    let routes = read.config.gateway.summary();
    let mut counts = vec![count(listeners, "listener"), count(pools, "pool"), count(backends, "backend")];
    let discovering = read.config.pools.iter().filter(|pool| pool.discover.is_some()).count();
    if discovering > 0 {
        counts.push(count(discovering, "discovering pool"));
    }
    if !routes.is_empty() {
        counts.push(count(routes.len(), "route"));
    }
    writeln!(stdout, "{}: {good}valid{plain} ({})", path.display(), counts.join(", "))?;
    if !routes.is_empty() {
        let rows: Vec<Vec<Cell>> = routes.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
        let mut table = String::new();
        render(&["ROUTE", "MATCHES", "GOES TO", "ASKS IN THIS ORDER"], &rows, &[], Paper::of_stdout(), &mut table);
        write!(stdout, "\n{table}")?;
    }
    Ok(())
}
