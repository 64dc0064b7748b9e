//! From when and until when a certificate holds (RFC 5280, 4.1.2.5): two dates at a place in DER that needs no more than to
//! be counted up to.

use std::ops::Range;
use std::time::SystemTime;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Of one certificate in DER; `None` for what is none.
pub(super) fn validity(certificate: &[u8]) -> Option<Range<SystemTime>> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = skip(rest)?;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        rest = skip(rest)?;
    }
    let (dates, _) = element(rest, SEQUENCE)?;
    let (from, rest) = date(dates)?;
    let (until, _) = date(rest)?;
    Some(from..until)
}

/// "260105065204Z" or "20260105065204Z", and what follows.
fn date(der: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (tag, text, rest) = split(der)?;
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?.strip_suffix('Z')?;
    let text = match tag {
        // Two digits of a year: 1950 to 2049.
        UTC_TIME if text.len() == 12 => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        GENERALIZED_TIME if text.len() == 14 => text.to_owned(),
        _ => return None,
    };
    let part = |range: Range<usize>| &text[range];
    let (day, time) =
        ([part(0..4), part(4..6), part(6..8)].join("-"), [part(8..10), part(10..12), part(12..14)].join(":"));
    Some((humantime::parse_rfc3339(&format!("{day}T{time}Z")).ok()?, rest))
}

/// The contents of an element of this kind, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    split(der).filter(|(found, ..)| *found == tag).map(|(_, contents, rest)| (contents, rest))
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    split(der).map(|(.., rest)| rest)
}

/// Tag, contents, rest (X.690, 8.1).
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn the_dates_of_a_certificate_are_read_in_both_forms() {
        let seconds = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
        for (from, until) in
            [((2020, 1, 31), (2049, 12, 31)), ((1999, 2, 28), (2050, 1, 1)), ((2096, 2, 29), (3000, 1, 1))]
        {
            let mut params = CertificateParams::new(["a.example.com".to_owned()]).expect("a name");
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(until.0, until.1, until.2);
            let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed");
            let read = validity(made.der()).expect("dates");
            let day = |(year, month, day): (i32, u8, u8)| format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
            assert_eq!((seconds(read.start), seconds(read.end)), (day(from), day(until)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = validity(&bytes);
            let made = include_bytes!("../../tests/conf/tls/shop.pem");
            let der = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(made).expect("PEM");
            let _ = validity(&der[..cut.min(der.len())]);
        }
    }
}
