//! What the demo shows: a bar for each backend that is drawn anew on a terminal, a line a second elsewhere.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::load::{CLIENTS, Load, Outcome};
use super::{NAMES, Story, VICTIM};
use crate::api::{State, Status};
use crate::cli::coloured;
use crate::cli::table::Look;

/// Between two drawings on a terminal, and two lines elsewhere.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Characters of a bar that stands for all traffic.
const BAR_CHARS: f64 = 60.0;

/// The screen.
pub struct Screen {
    start: Instant,
    is_live: bool,
    is_drawn: bool,
    shown_at: Instant,
    totals: Vec<u64>,
    requests: u64,
}

impl Screen {
    /// Prints what the demo is about.
    pub fn new(start: Instant, address: SocketAddr) -> Self {
        let backends = NAMES.len();
        print(&format!(
            "{CLIENTS} clients -> evener on {address} -> {backends} backends. {} dies after 5 seconds and is back after 9.\n\n",
            NAMES[VICTIM]
        ));
        let is_live = std::io::IsTerminal::is_terminal(&std::io::stdout());
        Self { start, is_live, is_drawn: false, shown_at: start, totals: vec![0; backends], requests: 0 }
    }

    /// An event, above the bars.
    pub fn tell(&mut self, at: Instant, what: &str) {
        self.wipe();
        let seconds = at.duration_since(self.start).as_secs_f64();
        print(&format!("{seconds:5.1}s  {what}\n"));
    }

    /// The state of things, when it is time for it.
    pub fn show(&mut self, at: Instant, status: &Status, load: &Load) {
        let passed = at.duration_since(self.shown_at);
        if passed < if self.is_live { DRAW_INTERVAL } else { LINE_INTERVAL } {
            return;
        }
        self.shown_at = at;
        let backends = &status.pools[0].backends;
        let fresh: Vec<u64> =
            backends.iter().zip(&self.totals).map(|(backend, before)| backend.connections.total - before).collect();
        let requests = load.counts().requests.load(Relaxed);
        let rate = |count: u64| (count as f64 / passed.as_secs_f64()).round();
        let all = fresh.iter().sum::<u64>().max(1);
        let counts = load.counts();
        let sum = format!(
            "{:4.0} connections/s {:5.0} requests/s  {} lost",
            rate(fresh.iter().sum()),
            rate(requests - self.requests),
            counts.lost.load(Relaxed)
        );
        let mut out = String::new();
        if self.is_live {
            for (backend, fresh) in backends.iter().zip(&fresh) {
                let length = (*fresh as f64 / all as f64 * BAR_CHARS).round() as usize;
                let look = if backend.state == State::Up { Look::Good } else { Look::Bad };
                let state = look.paint(&format!("{:5}", backend.state.as_str()), coloured());
                let bar = look.paint(&"█".repeat(length), coloured());
                let _ = writeln!(out, "  {:5} {state} {:4.0}/s {bar}", backend.name, rate(*fresh));
            }
            let _ = writeln!(out, "  {sum}");
        } else {
            let _ = write!(out, "{:5.1}s ", at.duration_since(self.start).as_secs_f64());
            for (backend, fresh) in backends.iter().zip(&fresh) {
                let _ = write!(out, " {} {} {:.0}/s ", backend.name, backend.state.as_str(), rate(*fresh));
            }
            let _ = writeln!(out, " {sum}");
        }
        self.wipe();
        print(&out);
        self.is_drawn = self.is_live;
        self.totals = backends.iter().map(|backend| backend.connections.total).collect();
        self.requests = requests;
    }

    /// What came of it all.
    pub fn summary(&self, load: &Outcome, story: &Story, end: Instant) {
        let seconds = end.duration_since(self.start).as_secs_f64().max(0.001);
        let name = NAMES[VICTIM];
        let mut out = String::new();
        let lost = if load.lost == 0 { Look::Good } else { Look::Bad };
        let lost = lost.paint(&format!("{} lost", load.lost), coloured());
        let _ = writeln!(
            out,
            "\n{} connections, {lost}; {:.0} requests/s",
            load.connections,
            load.requests as f64 / seconds
        );
        let _ = writeln!(
            out,
            "a request took {:.2}ms (p50), {:.2}ms (p99)",
            load.percentile_ms(50),
            load.percentile_ms(99)
        );
        let since = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| to.saturating_duration_since(from).as_millis())
        };
        if let Some(noticed) = since(story.died, story.noticed) {
            let _ = writeln!(out, "{name}'s death was acted on after {noticed}ms");
        }
        match (since(story.died, story.last_sent), story.died) {
            (Some(last), _) => {
                let tried = story.tried_in_vain();
                let _ = writeln!(
                    out,
                    "the last of {tried} connections sent to it after its death went there after {last}ms; each was \
                     tried at another backend at once"
                );
            }
            (None, Some(_)) => {
                let _ = writeln!(out, "no connection was sent to it after its death");
            }
            (None, None) => {}
        }
        if let Some(back) = since(story.returned, story.back) {
            let _ = writeln!(out, "after its return it took clients again within {back}ms");
        }
        print(&out);
    }

    /// Takes the bars away, so that the next lines stand in their place.
    fn wipe(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            // Up by the number of lines, then erase to the end of the screen (ECMA-48: CUU, ED).
            print(&format!("\x1b[{}A\x1b[J", NAMES.len() + 1));
        }
    }
}

/// To stdout; a demo that nobody reads any more goes on to its end.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
