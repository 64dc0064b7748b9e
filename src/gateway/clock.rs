//! What time it is for a thread.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use super::http1::date::{Date, Dates};

/// A thread's clock.
#[derive(Debug)]
pub struct Clock {
    turn: Cell<Instant>,
    dates: Dates,
}

impl Clock {
    /// One that has not been asked since then.
    pub fn new(start: Instant) -> Self {
        Self { turn: Cell::new(start), dates: Dates::default() }
    }

    /// Now.
    #[allow(clippy::disallowed_methods)] // the cores are given its time
    pub fn now(&self) -> Instant {
        let now = Instant::now();
        self.turn.set(now);
        now
    }

    /// What the clock said last. Whoever carries requests asks it once whenever it is its turn, and that is the time of
    /// all it does then: reading the clock costs as much as some of that.
    pub fn turn(&self) -> Instant {
        self.turn.get()
    }

    /// The time of day, in which tokens and the log are dated.
    pub fn since_epoch(&self) -> Duration {
        time_of_day().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// The time of day, for answers.
    pub fn date(&self) -> Date {
        self.dates.date(self.turn(), time_of_day)
    }
}

#[allow(clippy::disallowed_methods)] // the policies are given it
fn time_of_day() -> SystemTime {
    SystemTime::now()
}
