//! Headers by hand, every split of them, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some((source.parse().unwrap(), destination.parse().unwrap()))
}

fn done(header: &[u8]) -> Option<Ends> {
    match parse(header) {
        Ok(Parsed::Done { consumed, source }) if consumed == header.len() => source,
        other => panic!("{:?}: {other:?}", header.escape_ascii().to_string()),
    }
}

fn v2(command_and_kind: [u8; 2], block: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend(command_and_kind);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

#[test]
fn lines_of_version_1_are_read() {
    let cases = [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ends("192.168.0.1:56324", "192.168.0.11:443")),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", ends("255.255.255.255:65535", "0.0.0.0:0")),
        ("PROXY TCP6 2001:DB8::1 2001:db8::2 1 2\r\n", ends("[2001:db8::1]:1", "[2001:db8::2]:2")),
        ("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n", ends("10.0.0.1:1", "10.0.0.2:2")),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            ends("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN \x00whatever it likes  :-)\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            None,
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(done(line.as_bytes()), expected, "{line}");
    }
    assert_eq!(cases[8].0.len(), V1_MAX_BYTES);
}

#[test]
fn lines_that_are_not_exactly_right_are_refused() {
    for line in [
        "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1  2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 \r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n",
        "PROXY\r\n",
        "PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
        "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rGET",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN \r \r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 \u{663}.2.3.4 1.2.3.4 1 2\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line}");
    }
}

#[test]
fn a_line_may_have_107_bytes_and_no_more() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert_eq!(done(line(107).as_bytes()), None);
    assert_eq!(parse(&line(107).as_bytes()[..106]), Ok(Parsed::Incomplete));
    for length in 106..=108 {
        assert_eq!(parse(&line(108).as_bytes()[..length]), Err(Malformed), "{length}");
    }
    assert_eq!(parse(&line(108).as_bytes()[..105]), Ok(Parsed::Incomplete));
}

#[test]
fn what_cannot_become_a_line_is_refused_at_once() {
    for start in [
        "X",
        "PX",
        "PROXY  ",
        "PROXY TCP5",
        "PROXY UD",
        "PROXY TCP4 x",
        "PROXY TCP4 1.2.3 ",
        "PROXY TCP4 1.2.3.4 :",
        "PROXY TCP6 g",
        "PROXY TCP6 ::1 ::1 a",
        "PROXY TCP6 ::1 ::1 99999 ",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ",
        "PROXY UNKNOWN\t",
        "PROXY TCP44",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    ] {
        assert_eq!(parse(start.as_bytes()), Err(Malformed), "{start}");
        let before = &start.as_bytes()[..start.len() - 1];
        assert_eq!(parse(before), Ok(Parsed::Incomplete), "{start} without its last byte");
    }
}

#[test]
fn headers_of_version_2_are_read() {
    let four = [192, 0, 2, 1, 198, 51, 100, 7, 0x1F, 0x90, 0x01, 0xBB];
    let expected = ends("192.0.2.1:8080", "198.51.100.7:443");
    assert_eq!(done(&v2([0x21, 0x11], &four)), expected);
    let with_values = [&four[..], &[0x03, 0, 4, 1, 2, 3, 4, 0x04, 0, 1, 0]].concat();
    assert_eq!(done(&v2([0x21, 0x11], &with_values)), expected, "type-length-values are skipped");

    let mut six = [0; 36];
    six[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
    six[15] = 1;
    six[31] = 1;
    six[33] = 7;
    six[34] = 1;
    assert_eq!(done(&v2([0x21, 0x21], &six)), ends("[2001:db8::1]:7", "[::1]:256"));
}

#[test]
fn headers_of_version_2_without_tcp_addresses_leave_the_connections_own() {
    assert_eq!(done(&v2([0x20, 0x00], &[])), None);
    assert_eq!(done(&v2([0x20, 0x11], &[9; 12])), None, "LOCAL ignores addresses");
    assert_eq!(done(&v2([0x20, 0xFF], &[9; 3])), None, "and family");
    for kind in [0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32] {
        assert_eq!(done(&v2([0x21, kind], &[1; 216])), None, "{kind:x}");
    }
}

#[test]
fn headers_of_version_2_that_are_wrong_are_refused_as_soon_as_it_shows() {
    for (header, shows_at) in [
        (v2([0x11, 0x11], &[1; 12]), 13),
        (v2([0x22, 0x11], &[1; 12]), 13),
        (v2([0x01, 0x11], &[1; 12]), 13),
        (v2([0x21, 0x41], &[1; 12]), 14),
        (v2([0x21, 0x13], &[1; 12]), 14),
        (v2([0x21, 0x11], &[1; 11]), 16),
        (v2([0x21, 0x21], &[1; 35]), 16),
        (v2([0x21, 0x00], &[1; 4097]), 16),
        (v2([0x20, 0x00], &[1; 65_535]), 16),
        (b"\r\n\r\nGET".to_vec(), 5),
    ] {
        for length in 0..header.len().min(40) {
            let expected = if length < shows_at { Ok(Parsed::Incomplete) } else { Err(Malformed) };
            assert_eq!(parse(&header[..length]), expected, "{length} of {:x?}", &header[..header.len().min(16)]);
        }
    }
    assert_eq!(done(&v2([0x21, 0x00], &[1; 4096])), None);
}

#[test]
fn headers_are_written_as_the_protocol_says() {
    let text = |ends| {
        let mut out = Vec::new();
        write_v1(&mut out, ends);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(ends("192.0.2.1:80", "10.0.0.1:5432")), "PROXY TCP4 192.0.2.1 10.0.0.1 80 5432\r\n");
    assert_eq!(text(ends("[2001:db8::1]:80", "[::1]:1")), "PROXY TCP6 2001:db8::1 ::1 80 1\r\n");
    assert_eq!(text(ends("[::ffff:192.0.2.1]:80", "10.0.0.1:1")), "PROXY TCP4 192.0.2.1 10.0.0.1 80 1\r\n");
    assert_eq!(text(ends("[::5]:80", "10.0.0.1:1")), "PROXY TCP6 ::5 ::ffff:a00:1 80 1\r\n");
    assert_eq!(text(None), "PROXY UNKNOWN\r\n");

    let mut out = b"before".to_vec();
    write_v2(&mut out, ends("192.0.2.1:80", "10.0.0.1:5432"));
    assert_eq!(out[6..], v2([0x21, 0x11], &[192, 0, 2, 1, 10, 0, 0, 1, 0, 80, 0x15, 0x38]));
    out.clear();
    write_v2(&mut out, None);
    assert_eq!(out, v2([0x20, 0x00], &[]));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
        (0_u128..20).prop_map(|bits| IpAddr::V6((bits << 24).into())),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn header() -> impl Strategy<Value = (Vec<u8>, Option<Ends>)> {
    (prop::option::of((address(), address())), any::<bool>()).prop_map(|(ends, text)| {
        let mut header = Vec::new();
        if text {
            write_v1(&mut header, ends)
        } else {
            write_v2(&mut header, ends)
        }
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        (header, ends.map(|(source, destination)| (canonical(source), canonical(destination))))
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_any_split_of_it_gives_the_same((header, expected) in header(), more in any::<[u8; 3]>()) {
        for length in 0..header.len() {
            prop_assert_eq!(parse(&header[..length]), Ok(Parsed::Incomplete));
        }
        let whole = Ok(Parsed::Done { consumed: header.len(), source: expected });
        prop_assert_eq!(parse(&header), whole);
        prop_assert_eq!(parse(&[&header[..], &more].concat()), whole, "what follows is not looked at");
    }

    #[test]
    fn a_damaged_header_never_panics_and_more_bytes_never_change_a_verdict(
        (mut header, _) in header(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        more in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        for (place, byte) in damage {
            let place = place.index(header.len());
            header[place] = byte;
        }
        header.extend(more);
        never_changes_its_mind(&header)?;
    }

    #[test]
    fn arbitrary_text_never_panics(tail in "( ?(TCP4|TCP6|UNKNOWN|1.2.3.4|::1|0|80|\r|\n|\r\n|.)){0,12}") {
        never_changes_its_mind(format!("PROXY{tail}").as_bytes())?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_usize..3) {
        let start: &[u8] = [b"".as_slice(), b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21"][kind];
        never_changes_its_mind(&[start, &bytes].concat())?;
    }
}

fn never_changes_its_mind(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut verdict = Ok(Parsed::Incomplete);
    for length in 0..=bytes.len() {
        let now = parse(&bytes[..length]);
        prop_assert!(verdict == Ok(Parsed::Incomplete) || verdict == now, "{length}: {verdict:?}, then {now:?}");
        if let Ok(Parsed::Done { consumed, .. }) = now {
            prop_assert!(consumed <= length);
        }
        verdict = now;
    }
    Ok(())
}
