//! How heads say where their bodies end, and how that is written.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

use super::*;
use crate::gateway::http1::framing::Encoder;

/// A request's body, and how often its length is said to whoever gets it.
fn asked(version: &str, fields: &str) -> Result<(Decoder, usize), Bad> {
    let head = request(&format!("POST / HTTP/{version}\r\n{fields}\r\n"))?;
    Ok((head.body, head.head.headers.to_map().get_all(CONTENT_LENGTH).iter().count()))
}

/// A response's body, and whether another request may follow.
fn answered(fields: &str) -> Result<(Decoder, bool), Bad> {
    response(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| (head.body, head.keeps))
}

#[test]
fn a_length_is_a_number_that_is_said_once_or_alike() {
    for (fields, expected) in [
        ("", Ok((Decoder::Length(0), 0))),
        ("Content-Length: 0\r\n", Ok((Decoder::Length(0), 1))),
        ("content-length:  17 \r\n", Ok((Decoder::Length(17), 1))),
        ("Content-Length: 007\r\n", Ok((Decoder::Length(7), 1))),
        ("Content-Length: 18446744073709551615\r\n", Ok((Decoder::Length(u64::MAX), 1))),
        ("Content-Length: 5\r\nX: y\r\nContent-Length: 5\r\ncontent-length: 5\r\n", Ok((Decoder::Length(5), 1))),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(Bad::Length)),
        ("Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Err(Bad::Length)),
        ("Content-Length: 5\r\nContent-Length: 05\r\n", Err(Bad::Length)),
        ("Content-Length: 5\r\nContent-Length:\r\n", Err(Bad::Length)),
        ("Content-Length: 5, 5\r\n", Err(Bad::Length)),
        ("Content-Length: 18446744073709551616\r\n", Err(Bad::Length)),
        ("Content-Length:\r\n", Err(Bad::Length)),
        ("Content-Length: +5\r\n", Err(Bad::Length)),
        ("Content-Length: -5\r\n", Err(Bad::Length)),
        ("Content-Length: 0x5\r\n", Err(Bad::Length)),
        ("Content-Length: 5a\r\n", Err(Bad::Length)),
        ("Content-Length: 1 2\r\n", Err(Bad::Length)),
        ("Content-Length: 5.0\r\n", Err(Bad::Length)),
        ("Content-Length: \u{b2}\r\n", Err(Bad::Length)),
    ] {
        for version in ["1.1", "1.0"] {
            assert_eq!(asked(version, fields), expected, "{version} {fields:?}");
        }
        let of_response = answered(fields).map(|(body, _)| body);
        let of_request = if fields.is_empty() { Ok(Decoder::UntilClose) } else { expected.map(|(body, _)| body) };
        assert_eq!(of_response, of_request, "{fields:?}");
    }
}

#[test]
fn a_request_in_chunks_says_so_in_one_way() {
    for (fields, expected) in [
        ("Transfer-Encoding: chunked\r\n", Ok((Decoder::chunked(), 0))),
        ("transfer-encoding: \tCHUNKED \r\n", Ok((Decoder::chunked(), 0))),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Bad::FramedTwice)),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Err(Bad::FramedTwice)),
        ("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", Err(Bad::Length)),
        ("Transfer-Encoding:\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: identity\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked,\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: \"chunked\"\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked;q=1\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: xchunked\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunke\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", Err(Bad::Coding)),
    ] {
        assert_eq!(asked("1.1", fields), expected, "{fields:?}");
        assert_eq!(asked("1.0", fields), Err(Bad::Coding), "{fields:?}");
    }
}

#[test]
fn a_response_ends_where_it_says_or_with_its_connection() {
    for (fields, expected) in [
        ("", Ok((Decoder::UntilClose, true))),
        ("Content-Length: 5\r\n", Ok((Decoder::Length(5), true))),
        ("Transfer-Encoding: chunked\r\n", Ok((Decoder::chunked(), true))),
        ("Transfer-Encoding: chunked\r\nConnection: close\r\n", Ok((Decoder::chunked(), false))),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Ok((Decoder::chunked(), false))),
        ("Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n", Err(Bad::Length)),
        ("Transfer-Encoding: gzip\r\n", Err(Bad::Coding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Bad::Coding)),
    ] {
        assert_eq!(answered(fields), expected, "{fields:?}");
    }
    let both = response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert!(!both.answer.headers.to_map().contains_key(CONTENT_LENGTH));
    assert!(both.answer.headers.to_map().contains_key(TRANSFER_ENCODING));
    let old = response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.map(|_| ()), Err(Bad::Coding));
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    for fields in ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        for (method, code, has_body) in [
            (Method::GET, 200, true),
            (Method::HEAD, 200, false),
            (Method::HEAD, 404, false),
            (Method::GET, 100, false),
            (Method::GET, 101, false),
            (Method::POST, 199, false),
            (Method::GET, 204, false),
            (Method::GET, 304, false),
            (Method::GET, 205, true),
            (Method::GET, 303, true),
        ] {
            let head = response_to(&method, &format!("HTTP/1.1 {code} X\r\n{fields}\r\n")).unwrap();
            assert_eq!(head.body != Decoder::Length(0), has_body, "{method} {code} {fields}");
            // What it says of its length is for the client.
            assert_eq!(head.answer.headers.to_map().contains_key(CONTENT_LENGTH), fields.contains('5'));
        }
    }
}

#[test]
fn who_announces_a_body_where_there_can_be_none_may_send_it_and_is_not_asked_again() {
    let (bare, empty) = ("", "Content-Length: 0\r\n");
    let (length, chunks) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    let both = format!("{length}{chunks}");
    for (method, code, kept, lost) in [
        (Method::GET, 204, &[bare, empty][..], &[length, chunks, &both][..]),
        (Method::HEAD, 204, &[bare, empty], &[length, chunks, &both]),
        (Method::GET, 103, &[bare, empty], &[length, chunks, &both]),
        (Method::GET, 304, &[bare, empty, length, chunks], &[]),
        (Method::HEAD, 200, &[bare, empty, length, chunks], &[]),
        (Method::GET, 205, &[empty, length, chunks], &[&both]),
    ] {
        for (fields, keeps) in kept.iter().map(|fields| (fields, true)).chain(lost.iter().map(|fields| (fields, false)))
        {
            let head = response_to(&method, &format!("HTTP/1.1 {code} X\r\n{fields}\r\n")).unwrap();
            assert_eq!(head.keeps, keeps, "{method} {code} {fields}");
        }
    }
}

#[test]
fn a_body_of_a_length_ends_there_and_one_without_ends_with_its_connection() {
    let mut decoder = Decoder::Length(5);
    let body = body_in(&mut decoder, &[b"ab"]);
    assert_eq!((&body.data[..], body.over, decoder.left()), (&b"ab"[..], Ok(false), Some(3)));
    assert!(!decoder.ends_with_connection());
    let body = body_in(&mut decoder, &[b"cdefg"]);
    assert_eq!((&body.data[..], body.over, &body.left[..]), (&b"cde"[..], Ok(true), &b"fg"[..]));
    assert!(decoder.ends_with_connection());

    let mut decoder = Decoder::UntilClose;
    let body = body_in(&mut decoder, &[b"ab", b"", b"c"]);
    assert_eq!((&body.data[..], body.over, decoder.left()), (&b"abc"[..], Ok(false), None));
    assert!(decoder.ends_with_connection() && decoder.is_over());

    let mut decoder = Decoder::chunked();
    assert_eq!(body_in(&mut decoder, &[b"1\r\na\r\n"]).over, Ok(false));
    assert!(!decoder.ends_with_connection() && decoder.left().is_none());
}

#[test]
fn no_more_and_no_less_is_written_than_was_said() {
    let mut out = Vec::new();
    let mut encoder = Encoder::Length(5);
    assert_eq!(encoder.piece(3, &mut out), Ok(&b""[..]));
    assert_eq!(encoder.end(None, &mut out), Err(Bad::Length));
    assert_eq!(encoder.piece(3, &mut out), Err(Bad::Length));
    let mut encoder = Encoder::Length(5);
    assert_eq!(encoder.piece(5, &mut out), Ok(&b""[..]));
    assert_eq!(encoder.end(None, &mut out), Ok(()));
    assert_eq!(encoder.piece(1, &mut out), Err(Bad::Length));
    let mut encoder = Encoder::UntilClose;
    assert_eq!(encoder.piece(usize::MAX, &mut out), Ok(&b""[..]));
    assert_eq!(encoder.end(None, &mut out), Ok(()));
    assert!(out.is_empty());
}

#[test]
fn a_trailer_says_nothing_that_had_to_be_known_before() {
    let never = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "host",
        "max-forwards",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
    ];
    let mut trailers = HeaderMap::new();
    for name in never.iter().chain(["x-sum", "etag", "x-sum"].iter()) {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let mut out = Vec::new();
    Encoder::Chunked.end(Some(&trailers), &mut out).unwrap();
    assert_eq!(out.escape_ascii().to_string(), r"0\r\nx-sum: 1\r\nx-sum: 1\r\netag: 1\r\n\r\n");
    out.clear();
    Encoder::Chunked.end(None, &mut out).unwrap();
    assert_eq!(out, b"0\r\n\r\n");
    // Where there are no chunks there is no place for them.
    out.clear();
    Encoder::Length(0).end(Some(&trailers), &mut out).unwrap();
    Encoder::UntilClose.end(Some(&trailers), &mut out).unwrap();
    assert!(out.is_empty());
}

fn assert_written(number: u64) {
    let mut out = Vec::new();
    head::hexadecimal(number as usize, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("{number:x}"));
    let mut out = Vec::new();
    head::length(number, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("content-length: {number}\r\n"));
}

#[test]
fn numbers_at_the_borders_are_written_with_all_digits_and_no_more() {
    for bits in 0..64 {
        let power = 1_u64 << bits;
        [power - 1, power, power + 1].into_iter().for_each(assert_written);
    }
    for exponent in 0..20 {
        let power = 10_u64.pow(exponent);
        [power - 1, power, power + 1].into_iter().for_each(assert_written);
    }
    assert_written(u64::MAX);
}

proptest! {
    #[test]
    fn any_number_is_written_as_everyone_does(number in any::<u64>(), shift in 0..64) {
        assert_written(number >> shift);
    }

    #[test]
    fn what_was_encoded_is_decoded(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), kind in 0..3,
        sums in prop::collection::vec("[!-~]{1,8}", 0..3), behind in telling_bytes(), places in places(),
    ) {
        let whole = parts.concat();
        let length = whole.len() as u64;
        let (mut encoder, mut decoder) = match kind {
            0 => (Encoder::Length(length), Decoder::Length(length)),
            1 => (Encoder::Chunked, Decoder::chunked()),
            _ => (Encoder::UntilClose, Decoder::UntilClose),
        };
        let mut trailers = HeaderMap::new();
        for sum in &sums {
            trailers.append("x-sum", sum.parse().unwrap());
        }
        let mut out = Vec::new();
        for part in &parts {
            let after = encoder.piece(part.len(), &mut out).unwrap();
            out.extend_from_slice(part);
            out.extend_from_slice(after);
        }
        encoder.end(Some(&trailers), &mut out).unwrap();
        let ends = decoder != Decoder::UntilClose;
        if ends {
            out.extend_from_slice(&behind);
        }
        let body = body_in(&mut decoder, &cut(&out, &places));
        prop_assert_eq!((&body.data, body.over), (&whole, Ok(ends)));
        prop_assert_eq!(&body.left[..], if ends { &behind[..] } else { &[] });
        let is_trailed = kind == 1 && !sums.is_empty();
        prop_assert_eq!(body.trailers, is_trailed.then_some(trailers));
        prop_assert!(decoder.ends_with_connection());
    }
}
