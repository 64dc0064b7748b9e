//! Sizes, as the file writes them: "16KiB". Reading what was written gives the same value.

use crate::config::raw::{Fault, fault};

/// The units of a size, largest first, in bytes.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads "512B", "16KiB" or "1GiB".
pub(in crate::config) fn parse_size(text: &str) -> Result<u64, Fault> {
    let malformed = |what: &str| {
        fault(what, "not a size").help(r#"write a whole number and one of B, KiB, MiB, GiB, TiB: "64KiB", "1GiB""#)
    };
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let Some(number) = digits.parse::<u64>().ok() else { return Err(malformed("a size begins with a whole number")) };
    if unit.is_empty() {
        return Err(malformed("the number has no unit").help(format!("write \"{number}B\" if bytes are meant")));
    }
    let Some((_, size)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        let short = |name: &str| name.to_lowercase().replace('i', "");
        let near = SIZES.iter().find(|(name, _)| short(name) == short(unit));
        return Err(match near {
            Some((near, _)) => malformed("unknown unit").help(format!("write \"{number}{near}\"")),
            None => malformed("unknown unit"),
        });
    };
    number.checked_mul(*size).ok_or_else(|| malformed("the number is too large"))
}

/// Writes a size in the largest unit that gives a whole number.
pub fn format_size(bytes: u64) -> String {
    let fits = |(_, size): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*size);
    let (unit, size) = SIZES.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_with_their_units_and_others_are_refused_with_advice() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("16KiB", 16_384), ("1GiB", 1 << 30), ("3TiB", 3 << 40)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
            assert_eq!(format_size(bytes), text);
        }
        for (text, advice) in [
            ("16", "\"16B\""),
            ("16kb", "\"16KiB\""),
            ("16k", "one of B"),
            ("16KB", "\"16KiB\""),
            ("16kib", "\"16KiB\""),
            ("", "whole number"),
            ("B", "whole number"),
            ("-1B", "whole number"),
            ("1.5MiB", "whole number"),
            ("99999999TiB", "whole number"),
        ] {
            let help = parse_size(text).unwrap_err().help.unwrap();
            assert!(help.contains(advice), "{text}: {help}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_written_reads_back(bytes in any::<u64>(), shift in 0u32..64) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_size(&format_size(bytes)).ok(), Some(bytes));
        }

        #[test]
        fn no_text_makes_a_size_panic(text in "[0-9]{0,24}.{0,4}") {
            let _ = parse_size(&text);
        }
    }
}
