//! `evener status --watch`: the same table again and again, in place on a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::client::Client;
use super::status;

/// From the beginning of the screen; the rest of a line, and of the screen, is cleared (ECMA-48: CUP, EL, ED).
const HOME: &str = "\x1b[H";
/// What is longer than a line is cut while it is drawn, and not after (DEC private mode 7).
const CUT: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows it until the process is ended. On a terminal, where somebody looks, a process that does not answer is waited
/// for; elsewhere it is a failure.
pub fn watch(client: &Client, pool: Option<&str>, json: bool, interval: Duration) -> anyhow::Result<()> {
    let is_live = std::io::stdout().is_terminal() && !json;
    let mut is_first = true;
    loop {
        let text = match json {
            true => status::json(client, pool, false),
            false => status::text(client, pool),
        };
        let text = match text {
            Err(error) if is_live && !is_first => format!("{error:#}\n"),
            text => text?,
        };
        let text = match (is_live, is_first || json) {
            (true, _) => frame(&text, rows()),
            (false, true) => text,
            (false, false) => format!("\n{text}"),
        };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        drop(stdout);
        is_first = false;
        pause(interval);
    }
}

/// A text in place of what is on a screen of so many rows, the last of which stays free: a line more would scroll it.
fn frame(text: &str, rows: usize) -> String {
    let mut out = CUT.to_owned() + HOME;
    for line in text.lines().take(rows.saturating_sub(1)) {
        let _ = writeln!(out, "{line}{CLEAR_LINE}");
    }
    out + CLEAR_BELOW + WRAP
}

fn rows() -> usize {
    let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_row);
    // A terminal that does not say how high it is shows everything.
    if rows == 0 { usize::MAX } else { rows.into() }
}

#[allow(clippy::disallowed_methods)] // the interval between two looks is time itself
fn pause(interval: Duration) {
    std::thread::sleep(interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_stays_within_the_screen_and_leaves_nothing_of_the_one_before() {
        assert_eq!(frame("a\nb\nc\n", 3), "\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(frame("", 0), "\x1b[?7l\x1b[H\x1b[J\x1b[?7h");
    }
}
