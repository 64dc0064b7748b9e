//! Numbers with a unit, as the file writes them: durations "1m30s", rates "50/s", shares "50%". Each way there is a
//! way back, and reading what was written gives the same value.

use std::num::NonZeroU32;
use std::time::Duration;

use super::raw::{Fault, fault, quoted};
use super::{Percent, Rate};

/// The longest duration that the file may name: 10 years. Deadlines are sums of these, and none may overflow.
pub const DURATION_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// The units of a duration, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The times that a rate may be given per.
const PERIODS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_mins(1)), ("h", Duration::from_hours(1))];

/// Reads "250ms", "5s", "10m", "1h", "2d" or a sum from the longest unit to the shortest: "1m30s".
pub(super) fn parse_duration(text: &str) -> Result<Duration, Fault> {
    const SHAPE: &str = r#"a whole number and one of ms, s, m, h, d: "250ms", "5s", "1m30s""#;
    let malformed = |what: &str| fault(what, "not a duration").help(format!("write {SHAPE}"));
    if text.is_empty() {
        return Err(malformed("it is empty"));
    }
    let (mut rest, mut millis, mut last_unit) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let (digits, after) = split_where(rest, |c| !c.is_ascii_digit());
        let (unit, next) = split_where(after, |c| !c.is_ascii_alphabetic());
        if digits.is_empty() {
            return Err(malformed("a duration is a whole number and a unit"));
        }
        if unit.is_empty() {
            let advice = if next.is_empty() {
                format!("write \"{}s\" if seconds are meant", quoted(text))
            } else {
                format!("write {SHAPE}")
            };
            return Err(fault("the number has no unit", "not a duration").help(advice));
        }
        let Some(&(_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(malformed("unknown unit"));
        };
        if size >= last_unit {
            return Err(malformed("units go from the longest to the shortest, each once"));
        }
        let count: u64 = digits.parse().unwrap_or(u64::MAX);
        millis = millis.saturating_add(count.saturating_mul(size));
        (rest, last_unit) = (next, size);
    }
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        return Err(fault("it is longer than 10 years", "too long").help("the longest duration is \"3650d\""));
    }
    Ok(duration)
}

/// Writes a duration in the longest unit that gives a whole number. What is below a millisecond is dropped: the file
/// cannot say it.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS.iter().find(|(_, size)| millis.is_multiple_of(*size)).unwrap_or(&("ms", 1));
    format!("{}{unit}", millis / size)
}

/// Reads "100/s", "6000/m" or "10/h".
pub(super) fn parse_rate(text: &str) -> Result<Rate, Fault> {
    let malformed =
        |what: &str| fault(what, "not a rate").help(r#"write a whole number per s, m or h: "100/s", "6000/m", "10/h""#);
    let Some((count, per)) = text.split_once('/') else {
        return Err(malformed("a rate has a `/`"));
    };
    let Some(&(_, per)) = PERIODS.iter().find(|(name, _)| *name == per) else {
        return Err(malformed("a rate is per s, m or h"));
    };
    match whole_number(count).map(u32::try_from) {
        None => Err(malformed("a rate begins with a whole number")),
        Some(Ok(0)) => Err(fault("a rate of 0 lets nobody in", "zero").help("leave the key out for no limit")),
        Some(Err(_)) => Err(malformed("the number is too large")),
        Some(Ok(count)) => Ok(Rate { count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN), per }),
    }
}

/// Writes a rate. A `per` that is none of the file's becomes the nearest thing that the file can say.
pub(super) fn format_rate(rate: Rate) -> String {
    let name = PERIODS.iter().find(|(_, per)| *per >= rate.per).map_or("h", |(name, _)| name);
    format!("{}/{name}", rate.count)
}

/// Reads "50%".
pub(super) fn parse_percent(text: &str) -> Result<Percent, Fault> {
    let number = text.strip_suffix('%').and_then(whole_number);
    match number.map(u8::try_from) {
        Some(Ok(share @ 0..=100)) => Ok(Percent(share)),
        Some(_) => Err(fault("a share is at most 100%", "too much").help("write \"0%\" to \"100%\"")),
        None => Err(fault("a share is a whole number and `%`", "not a share").help("write \"0%\" to \"100%\"")),
    }
}

/// Digits only: neither a sign nor spaces, which `parse` would let through.
fn whole_number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_units_and_sums() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1m30s", 90_000),
            ("1h1ms", 3_600_001),
            ("0s", 0),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "5 s",
            "5S",
            "30s1m",
            "5s5s",
            "3651d",
            "99999999999999999999999d",
            "5s ",
            "٣s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_shares_are_read_and_their_limits_kept() {
        assert_eq!(parse_rate("6000/m").unwrap().per, Duration::from_mins(1));
        assert_eq!(parse_rate("10/h").unwrap().count.get(), 10);
        for text in ["", "5", "/s", "0/s", "5/d", "5/", "-5/s", "+5/s", "4294967296/s", "5/s/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_percent("0%").unwrap(), Percent(0));
        assert_eq!(parse_percent("100%").unwrap(), Percent(100));
        for text in ["", "%", "50", "101%", "-1%", "+1%", "5.5%", "300%", "50%%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0u64..315_360_000_000, count in 1u32.., period in 0usize..3) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)).ok(), Some(duration));
            let rate = Rate { count: NonZeroU32::new(count).unwrap(), per: PERIODS[period].1 };
            prop_assert_eq!(parse_rate(&format_rate(rate)).ok(), Some(rate));
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in ".{0,20}") {
            let _ = (parse_duration(&text), parse_rate(&text), parse_percent(&text));
        }
    }
}
