//! The date of an answer (RFC 9110, 6.6.1), which is written anew only now and then.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// How long one is good for.
const INTERVAL: Duration = Duration::from_millis(500);

/// The first second that has five digits for its year.
const END: Duration = Duration::from_secs(253_402_300_800);

/// As headers have it (RFC 9110, 5.6.7).
pub type Date = [u8; 29];

/// The last one, and when it was made.
#[derive(Debug, Default)]
pub struct Dates(Cell<Option<(Instant, Date)>>);

impl Dates {
    /// The date of now.
    pub fn date(&self, now: Instant, wall_clock: impl FnOnce() -> SystemTime) -> Date {
        if let Some((_, date)) = self.0.get().filter(|(at, _)| now - *at < INTERVAL) {
            return date;
        }
        // A clock may be wrong.
        let time = wall_clock().clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + (END - Duration::from_secs(1)));
        let text = httpdate::HttpDate::from(time).to_string();
        let date = text.as_bytes().try_into().expect("a date of these years has 29 signs");
        self.0.set(Some((now, date)));
        date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_rfc_9110_has_it_and_again_only_after_a_while() {
        let dates = Dates::default();
        #[allow(clippy::disallowed_methods)] // any moment will do
        let now = Instant::now();
        let clock = |seconds| move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(dates.date(now, clock(784_111_777)), *b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(dates.date(now + INTERVAL / 2, clock(0)), *b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(dates.date(now + INTERVAL, clock(0)), *b"Thu, 01 Jan 1970 00:00:00 GMT");
        let before = || SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(dates.date(now + 2 * INTERVAL, before), *b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(dates.date(now + 3 * INTERVAL, clock(u64::MAX >> 2)), *b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
