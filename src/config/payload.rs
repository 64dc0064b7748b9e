//! Bytes to send and to expect, as the file writes them: plain text, or "hex:00ff 12" for what is none. Whatever bytes
//! there are, they have one text, and reading it gives them back.

use std::fmt::Write;

use super::raw::{Fault, fault, quoted};

/// What bytes begin with that are written in hex.
const HEX: &str = "hex:";
/// The largest payload of a datagram over IPv4, 65507 bytes, less the PROXY header that may stand before it.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_507 - 16;

/// Reads text, or "hex:" with two digits for each byte and spaces between bytes.
pub(super) fn parse_payload(text: &str) -> Result<Vec<u8>, Fault> {
    let Some(hex) = text.strip_prefix(HEX) else { return Ok(text.as_bytes().to_vec()) };
    let wrong = |what: String, label: &str| {
        Err(fault(what, label)
            .help("write two digits for each byte, with spaces between bytes where you like: \"hex:00ff 12\""))
    };
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    for group in hex.split(' ') {
        if let Some(other) = group.chars().find(|c| !c.is_ascii_hexdigit()) {
            return wrong(format!("`{}` is not a digit from 0 to f", other.escape_debug()), "not hex");
        }
        if !group.len().is_multiple_of(2) {
            return wrong(format!("`{}` has an odd number of digits", quoted(group)), "half a byte");
        }
        let pairs = (0..group.len()).step_by(2).map(|at| &group[at..at + 2]);
        bytes.extend(pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()));
    }
    Ok(bytes)
}

/// Writes bytes as the text that they are, or in hex when they are none that can be read and typed.
pub fn format_payload(bytes: &[u8]) -> String {
    let is_plain = |text: &&str| {
        !text.starts_with(HEX) && !text.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t'))
    };
    if let Some(text) = std::str::from_utf8(bytes).ok().filter(is_plain) {
        return text.to_owned();
    }
    let mut hex = HEX.to_owned();
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_text_or_hex() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("QUIT\r\n", b"QUIT\r\n"),
            ("hex", b"hex"),
            ("HEX:00", b"HEX:00"),
            ("hex:", b""),
            ("hex:00fF12", b"\0\xff\x12"),
            ("hex: 0001  02 ", b"\0\x01\x02"),
        ] {
            assert_eq!(parse_payload(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_hex_is_refused_and_shown() {
        for (text, shown) in [
            ("hex:0", "`0` has an odd"),
            ("hex:00 1 22", "`1` has an odd"),
            ("hex:0x12", "`x` is not"),
            ("hex:00-11", "`-` is not"),
            ("hex:é", "`é` is not"),
            ("hex:00\t11", "`\\t` is not"),
        ] {
            let what = parse_payload(text).unwrap_err().what;
            assert!(what.contains(shown), "{text}: {what}");
        }
    }

    #[test]
    fn text_stays_text_and_the_rest_is_written_in_hex() {
        for (bytes, text) in [
            (&b"PING\r\n"[..], "PING\r\n"),
            ("é".as_bytes(), "é"),
            (b"hex:00", "hex:6865783a3030"),
            (b"\0a", "hex:0061"),
            (b"\xff", "hex:ff"),
        ] {
            assert_eq!(format_payload(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in "(hex:)?[a-f0-9 \\n]{0,9}") {
            prop_assert_eq!(parse_payload(&format_payload(&bytes)).ok(), Some(bytes));
            prop_assert_eq!(parse_payload(&format_payload(text.as_bytes())).ok(), Some(text.into_bytes()));
        }

        #[test]
        fn no_text_makes_it_panic(text in "hex:.{0,20}") {
            let _ = parse_payload(&text);
        }
    }
}
