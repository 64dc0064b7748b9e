//! Bodies in chunks: whatever a chunk may look like, and what none may look like.

use super::*;
use naive::Reading;

/// A chunk as it may be sent: its data, how its size is written, and what stands behind that.
fn chunk() -> impl Strategy<Value = (Vec<u8>, usize, bool, String)> {
    let data = prop::collection::vec(any::<u8>(), 1..40);
    let extension = prop_oneof![Just(String::new()), "[ \t]{0,2}", "[ \t]{0,2};[ -~\t\u{80}-\u{ff}]{0,20}"];
    (data, 0..5_usize, any::<bool>(), extension)
}

proptest! {
    #[test]
    fn any_body_is_decoded_however_it_is_cut(
        chunks in prop::collection::vec(chunk(), 0..6), last in "0{1,4}(;[ -~]{0,9})?",
        sums in prop::collection::vec(("[a-z]{1,5}", "[!-~]{1,8}"), 0..4), behind in telling_bytes(), places in places(),
    ) {
        let (mut sent, mut data, mut trailers) = (Vec::new(), Vec::new(), HeaderMap::new());
        for (bytes, zeros, is_upper, extension) in &chunks {
            let digits = if *is_upper { format!("{:X}", bytes.len()) } else { format!("{:x}", bytes.len()) };
            sent.extend_from_slice(format!("{}{digits}{extension}\r\n", "0".repeat(*zeros)).as_bytes());
            sent.extend_from_slice(bytes);
            sent.extend_from_slice(b"\r\n");
            data.extend_from_slice(bytes);
        }
        sent.extend_from_slice(format!("{last}\r\n").as_bytes());
        for (name, value) in &sums {
            sent.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            trailers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        sent.extend_from_slice(b"\r\n");
        let all = [&sent[..], &behind].concat();
        for pieces in [vec![&all[..]], bytewise(&all), cut(&all, &places)] {
            let body = body_in(&mut Decoder::chunked(), &pieces);
            prop_assert_eq!((&body.data, body.over), (&data, Ok(true)));
            prop_assert_eq!(body.trailers, (!sums.is_empty()).then(|| trailers.clone()));
            prop_assert_eq!(&body.left[..], &behind[..]);
        }
        // No part of it is a whole one.
        for length in 0..sent.len() {
            let body = body_in(&mut Decoder::chunked(), &[&sent[..length]]);
            prop_assert_eq!(body.over, Ok(false));
            prop_assert!(data.starts_with(&body.data));
        }
    }

    #[test]
    fn any_bytes_are_read_as_the_grammar_says(bytes in telling_bytes(), places in places()) {
        let body = body_in(&mut Decoder::chunked(), &cut(&bytes, &places));
        prop_assert_eq!(&body, &body_in(&mut Decoder::chunked(), &[&bytes]));
        let (data, reading) = naive::read(&bytes);
        prop_assert_eq!(&body.data, &data);
        match reading {
            // A line may be seen to be wrong before its end.
            Reading::Begins => prop_assert!(matches!(body.over, Ok(false) | Err(Bad::Chunk))),
            Reading::Whole(left) => prop_assert_eq!((body.over, body.left.len()), (Ok(true), left)),
            Reading::Trails => {}
            // It may wait for the end of what it takes for an extension.
            Reading::Wrong => {
                let more = body_in(&mut Decoder::chunked(), &[&bytes, b"\r\n"]);
                prop_assert_eq!((more.data, more.over), (data, Err(Bad::Chunk)));
            }
        }
    }

    #[test]
    fn any_bytes_in_the_place_of_trailers_are_cut_anywhere(bytes in telling_bytes(), places in places()) {
        let all = [b"1;x\r\na\r\n0\r\n", &bytes[..]].concat();
        let body = body_in(&mut Decoder::chunked(), &cut(&all, &places));
        prop_assert_eq!(&body, &body_in(&mut Decoder::chunked(), &[&all]));
        prop_assert_eq!(&body.data[..], b"a");
    }
}

#[test]
fn a_size_has_digits_and_ends_its_line_with_both() {
    for text in [
        "\r\n",
        ";\r\n",
        ";x\r\n",
        " \r\n",
        " 5\r\nabcde\r\n",
        "\t5\r\nabcde\r\n",
        "x\r\n",
        "+5\r\nabcde\r\n",
        "-0\r\n\r\n",
        "0x5\r\nabcde\r\n",
        "5 5\r\nabcde\r\n",
        "5x\r\nabcde\r\n",
        "5,\r\nabcde\r\n",
        "5\nabcde\r\n",
        "0\n\r\n",
        "5;a\nb\r\nabcde\r\n",
        "5;a\n\r\nabcde\r\n",
        "5;\"\n0\r\n\r\n",
        "5\rabcde\r\n",
        "5\r\rabcde\r\n",
        "5;a\rb\r\nabcde\r\n",
        "5 \rb\r\nabcde\r\n",
        "00000000000000005\r\nabcde\r\n",
        "10000000000000000\r\n",
        "\u{ff15}\r\nabcde\r\n",
    ] {
        let body = chunked(text);
        assert_eq!((body.data.len(), body.over), (0, Err(Bad::Chunk)), "{text:?}");
        let body = body_in(&mut Decoder::chunked(), &bytewise(text.as_bytes()));
        assert_eq!((body.data.len(), body.over), (0, Err(Bad::Chunk)), "{text:?}");
    }
    assert_eq!(chunked("ffffffffffffffff\r\nabc").data, b"abc");
    assert_eq!(chunked("0000000000000005 \t;x\r\nabcde").data, b"abcde");
}

#[test]
fn data_is_as_long_as_its_size_says() {
    for text in [
        "3\r\nabcd\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n\r\n",
        "3\r\nabc\r\r\n",
    ] {
        let body = chunked(text);
        assert_eq!((&body.data[..], body.over), (&b"abc"[..], Err(Bad::Chunk)), "{text:?}");
    }
    let body = chunked("3\r\nab\r\n0\r\n\r\n");
    assert_eq!((&body.data[..], body.over), (&b"ab\r"[..], Err(Bad::Chunk)));
}

#[test]
fn a_last_chunk_is_followed_by_trailers_or_an_empty_line() {
    for text in [
        "0\r\n\n",
        "0\r\n\r\r\n",
        "0\r\n\rx: y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
    ] {
        assert!(chunked(text).over.is_err(), "{text:?}");
        assert!(body_in(&mut Decoder::chunked(), &bytewise(text.as_bytes())).over.is_err(), "{text:?}");
    }
}

/// Chunks of one byte, each with an extension that makes its line so long.
fn extended(lines: &[usize]) -> String {
    lines.iter().map(|length| format!("1;{}\r\na\r\n", "x".repeat(length - 4))).collect()
}

#[test]
fn a_line_with_a_size_has_its_limit() {
    let over = |length, step| {
        let text = extended(&[length]);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        body_in(&mut Decoder::chunked(), &pieces).over
    };
    for step in [1, 100, 10_000] {
        assert_eq!(over(4096, step), Ok(false), "{step}");
        assert_eq!(over(4097, step), Err(Bad::Chunk), "{step}");
    }
    let endless = format!("1;{}", "x".repeat(5000));
    assert_eq!(body_in(&mut Decoder::chunked(), &bytewise(endless.as_bytes())).over, Err(Bad::Chunk));
    assert_eq!(chunked(&endless).over, Err(Bad::Chunk));
}

#[test]
fn extensions_have_their_limit_together() {
    // What a line without any could have at most does not count: 18 bytes of each.
    let lines = [4018, 4018, 4018, 4018, 402];
    assert_eq!(lines.iter().map(|length| length - 18).sum::<usize>(), 16 * 1024);
    assert_eq!(chunked(&extended(&lines)).over, Ok(false));
    for text in [extended(&lines), extended(&[18; 5000])] {
        let body = chunked(&format!("{text}{}", extended(&[18])));
        assert_eq!((body.over, body.left.len()), (Ok(false), 0));
    }
    let body = chunked(&format!("{}{}", extended(&lines), extended(&[19])));
    assert_eq!((body.data.len(), body.over), (5, Err(Bad::Chunk)));
}

/// A body whose trailers are so many and have so many bytes together.
fn trailed(count: usize, bytes: usize) -> String {
    let each = "x: y\r\n";
    let last = bytes - 2 - count * each.len();
    format!("0\r\n{}x: {}\r\n\r\n", each.repeat(count - 1), "y".repeat(last + 1))
}

#[test]
fn trailers_have_their_limits() {
    let over = |count, bytes, step| {
        let text = trailed(count, bytes);
        assert_eq!(text.len(), 3 + bytes);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        let body = body_in(&mut Decoder::chunked(), &pieces);
        body.over.map(|_| body.trailers.map_or(0, |trailers| trailers.len()))
    };
    for step in [100, 1000, 100_000] {
        assert_eq!(over(100, 1000, step), Ok(100), "{step}");
        assert_eq!(over(101, 1000, step), Err(Bad::TooLarge), "{step}");
        assert_eq!(over(2, 16 * 1024, step), Ok(2), "{step}");
        assert_eq!(over(2, 16 * 1024 + 1, step), Err(Bad::TooLarge), "{step}");
    }
}
