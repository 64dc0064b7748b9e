//! Hellos by hand and of OpenSSL, every split of them, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

/// `openssl s_client -servername www.Example.com` of OpenSSL 3.0, TLS 1.3.
const OPENSSL: &str = "160301013c010001380303e96868a582e667c1902d6523df357e42711afcc8ee6d657e16c549b15347e0a720c44bfc578d\
    7cd9134b2ac1e8ec2495b974dff87e56c56f3a35e8e7acd4b47b16003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006b\
    c023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000b100000014001200000f7777772e4578616d706c652e636f\
    6d000b000403000102000a00160014001d0017001e0019001801000101010201030104002300000016000000170000000d002a0028040305030603\
    080708080809080a080b080408050806040105010601030303010302040205020602002b0009080304030303020301002d00020101003300260024\
    001d00209f91edb29b92598ea202f73826c58f1a293ae2f72bccf1084ed195a3aa759a3c";

/// The same with `-noservername -tls1_2` and one cipher suite.
const OPENSSL_NAMELESS: &str = "16030100830100007f0303d5abe764b22941621b3cdd73ef8bc9dd13353cdf94352054066198baed1dc48a0000\
    04c02b00ff01000052000b000403000102000a000c000a001d0017001e00190018002300000016000000170000000d002a002804030503060308\
    0708080809080a080b080408050806040105010601030303010302040205020602";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().map(|digit| char::from(digit).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A length of so many bytes, and the bytes.
fn vector(length_bytes: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - length_bytes..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, data)].concat()
}

/// The extension with a list of names, each with its kind.
fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [&[*kind][..], &vector(2, name)].concat()).collect();
    extension(0, &vector(2, &list))
}

fn named(name: &[u8]) -> Vec<u8> {
    names(&[(0, name)])
}

/// Everything of a hello before its extensions.
const START: [u8; 46] = {
    let mut start = [7; 46];
    [start[0], start[1]] = [3, 3]; // version, random
    start[34] = 0; // session
    [start[35], start[36]] = [0, 6]; // cipher suites
    start[43] = 2; // compression methods
    start
};

fn message_of(body: &[u8]) -> Vec<u8> {
    [&[CLIENT_HELLO][..], &vector(3, body)].concat()
}

fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    message_of(&[&START[..], &vector(2, &extensions.concat())].concat())
}

/// In records that hold so many bytes each.
fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector(2, fragment)].concat();
    message.chunks(fragment_bytes).flat_map(record).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(extensions), FRAGMENT_BYTES_MAX)
}

fn done(name: &str) -> Result<Parsed, Malformed> {
    Ok(Parsed::Done { server_name: Some(name.to_owned()) })
}

const NAMELESS: Result<Parsed, Malformed> = Ok(Parsed::Done { server_name: None });

/// A hello of so many bytes in one record.
fn padded(bytes: usize) -> Vec<u8> {
    let name = named(b"a.example.com");
    let rest = bytes - hello(&[name.clone(), extension(21, b"")]).len();
    hello(&[name, extension(21, &vec![0; rest])])
}

#[test]
fn the_hellos_of_openssl_are_read() {
    assert_eq!(parse(&hex(OPENSSL)), done("www.example.com"));
    assert_eq!(parse(&hex(OPENSSL_NAMELESS)), NAMELESS);
}

#[test]
fn a_name_is_found_among_other_extensions_in_any_version_and_in_one_spelling() {
    let others = [extension(0x0a0a, b""), extension(16, b"\0\x03\x02h2"), extension(43, &[2, 3, 4])];
    for at in 0..=others.len() {
        let mut all = others.to_vec();
        all.insert(at, named(b"A.Example.COM."));
        assert_eq!(parse(&hello(&all)), done("a.example.com"));
    }
    for minor in 0..=4 {
        let mut bytes = hello(&[named(b"a.example.com")]);
        (bytes[2], bytes[10]) = (minor, minor);
        assert_eq!(parse(&bytes), done("a.example.com"));
    }
    for name in ["localhost", "192.0.2.1", "_dmarc.x", "x*\"y", &"a".repeat(253)] {
        assert_eq!(parse(&hello(&[named(name.as_bytes())])), done(name));
    }
}

#[test]
fn a_hello_without_a_name_and_what_is_no_tls_have_none() {
    assert_eq!(parse(&hello(&[])), NAMELESS);
    assert_eq!(parse(&records(&message_of(&START), 99)), NAMELESS, "no extensions at all");
    let others: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n",
        b"S",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02",
        b"\x15\x03\x01",
    ];
    for other in others {
        assert_eq!(parse(other), NAMELESS, "{:?}", other.escape_ascii().to_string());
    }
}

#[test]
fn what_no_server_would_answer_is_refused() {
    let long = [b'a'; 254];
    let name: &[u8] = b"a.example.com";
    let wrong_names = [
        names(&[]),
        named(b""),
        named(b"."),
        named(b"a\0.example.com"),
        named(b"a example.com"),
        named("b\u{fc}cher.example".as_bytes()),
        named(&long),
        names(&[(0, name), (0, name)]),
        names(&[(0, name), (0, b"b.example.com")]),
        names(&[(1, name)]),
        names(&[(0, name), (1, b"x")]),
        extension(0, b""),
        extension(0, &vector(2, &[&[0][..], &vector(2, name), b"x"].concat())),
        extension(0, &[&vector(2, &[&[0][..], &vector(2, name)].concat())[..], b"x"].concat()),
        [named(name), named(name)].concat(),
        [named(name), extension(21, b""), named(b"b.example.com")].concat(),
    ];
    for wrong in wrong_names {
        assert!(parse(&hello(std::slice::from_ref(&wrong))).is_err(), "{:?}", wrong.escape_ascii().to_string());
    }
    let mut cut = message(&[named(name)]);
    cut.pop();
    cut[3] -= 1;
    let mut of_a_server = message(&[named(name)]);
    of_a_server[0] = 2;
    let more = message_of(&[&START[..], &vector(2, &named(name)), b"x"].concat());
    for wrong in [cut, of_a_server, more, message_of(b""), message_of(&START[..40])] {
        assert!(parse(&records(&wrong, 99)).is_err(), "{:?}", wrong.escape_ascii().to_string());
    }
}

#[test]
fn what_cannot_become_a_hello_is_refused_without_waiting_for_its_end() {
    for start in [
        &b"\x16\x03\x01\0\0"[..],
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\0\x01\x02",
        b"\x16\x03\x01\x02\0\x01\0\x40\0",
        b"\x16\x03\x01\0\x04\x01\0\0\x50\x17\x03\x01\0\x01",
        b"\x16\x03\x01\0\x04\x01\0\0\x50\x16\x02\x01\0\x01",
        b"\x16\x03\x01\0\x04\x01\0\0\x50\x16\x03\x01\0\0",
    ] {
        assert!(parse(start).is_err(), "{:?}", start.escape_ascii().to_string());
        let before = parse(&start[..start.len() - 1]);
        assert!(matches!(before, Ok(Parsed::Incomplete { .. })), "{:?}: {before:?}", start.escape_ascii().to_string());
    }
}

#[test]
fn a_hello_may_be_as_long_as_one_record_and_no_longer() {
    let longest = padded(HELLO_BYTES_MAX);
    assert_eq!(parse(&longest), done("a.example.com"));
    let (head, _) = longest.split_at(HELLO_BYTES_MAX - 1);
    assert_eq!(parse(head), Ok(Parsed::Incomplete { needed: HELLO_BYTES_MAX }));

    // The same message in two records has one header more.
    let message = message(&[named(b"a"), extension(21, &vec![0; FRAGMENT_BYTES_MAX - 66])]);
    assert_eq!(message.len(), FRAGMENT_BYTES_MAX);
    assert_eq!(parse(&records(&message, FRAGMENT_BYTES_MAX)), done("a"));
    let torn = records(&message, FRAGMENT_BYTES_MAX - 1);
    assert!(parse(&torn).is_err());
    assert!(parse(&torn[..HELLO_BYTES_MAX]).is_err(), "as many bytes as may be always decide");
}

#[test]
fn what_follows_the_hello_is_not_looked_at() {
    let early_data = b"\x14\x03\x03\0\x01\x01\x17\x03\x03\0\x01x";
    assert_eq!(parse(&[&hex(OPENSSL)[..], early_data].concat()), done("www.example.com"));
    let together = [message(&[named(b"a.example.com")]), b"\x0b\0\0\0".to_vec()].concat();
    assert_eq!(parse(&records(&together, 99)), done("a.example.com"), "another message in the same record");
}

/// Feeds a stream in pieces of so many bytes as whoever waits for `needed` does, and counts how often it asks.
fn drip(stream: &[u8], piece: usize) -> (Result<Parsed, Malformed>, usize) {
    let (mut asked, mut needed, mut end) = (0, 0, 0);
    loop {
        if end >= needed {
            asked += 1;
            match parse(&stream[..end]) {
                Ok(Parsed::Incomplete { needed: more }) => {
                    assert!(more > end, "it is told to wait for what is there");
                    needed = more;
                }
                verdict => return (verdict, asked),
            }
        }
        if end == stream.len() {
            return (Ok(Parsed::Incomplete { needed }), asked);
        }
        end = (end + piece).min(stream.len());
    }
}

#[test]
fn a_hello_that_drips_byte_by_byte_is_looked_at_a_few_times_only() {
    for (fragment_bytes, asked_max) in [(FRAGMENT_BYTES_MAX, 10), (1000, 20), (1, 80)] {
        let message = message(&[named(b"a.example.com"), extension(21, &[0; 2600])]);
        let (verdict, asked) = drip(&records(&message, fragment_bytes), 1);
        assert_eq!(verdict, done("a.example.com"));
        assert!(asked <= asked_max, "{asked} times in records of {fragment_bytes}");
    }
}

fn any_message() -> impl Strategy<Value = (Vec<u8>, Option<String>)> {
    let other = (1_u16..100, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| extension(kind, &data));
    let name = prop::option::of("[a-zA-Z0-9.*_-]{0,20}[a-zA-Z0-9]\\.?");
    (prop::collection::vec(other, 0..5), name, any::<prop::sample::Index>()).prop_map(|(mut all, name, at)| {
        if let Some(name) = &name {
            all.insert(at.index(all.len() + 1), named(name.as_bytes()));
        }
        let spelt = |name: String| name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
        (message(&all), name.map(spelt))
    })
}

proptest! {
    #[test]
    fn any_split_into_records_and_pieces_gives_the_same(
        (message, server_name) in any_message(),
        fragment_bytes in 1_usize..400,
        piece in 1_usize..50,
        more in any::<[u8; 3]>(),
    ) {
        let stream = records(&message, fragment_bytes);
        for length in 0..stream.len() {
            match parse(&stream[..length]) {
                Ok(Parsed::Incomplete { needed }) => prop_assert!((length + 1..=stream.len()).contains(&needed)),
                other => prop_assert!(false, "{length} of {}: {other:?}", stream.len()),
            }
        }
        let whole = Ok(Parsed::Done { server_name });
        prop_assert_eq!(&parse(&stream), &whole);
        prop_assert_eq!(&drip(&stream, piece).0, &whole);
        prop_assert_eq!(&parse(&[&stream[..], &more].concat()), &whole);
    }

    #[test]
    fn a_damaged_hello_never_panics_and_more_bytes_never_change_a_verdict(
        (message, _) in any_message(),
        fragment_bytes in 1_usize..400,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        more in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut stream = records(&message, fragment_bytes);
        for (place, byte) in damage {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        stream.extend(more);
        never_changes_its_mind(&stream)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_usize..4) {
        let start: &[u8] = [b"".as_slice(), b"\x16\x03", b"\x16\x03\x01\0\xf0\x01\0\0", b"\x16\x03\x01\0\x01\x01\x16\x03\x01\0"][kind];
        never_changes_its_mind(&[start, &bytes].concat())?;
    }
}

/// Refused is refused; only the reason may become another one.
fn never_changes_its_mind(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (mut verdict, mut needed) = (None, 0);
    for length in 0..=bytes.len() {
        let now = parse(&bytes[..length]);
        match (&verdict, &now) {
            (None, Ok(Parsed::Incomplete { needed: more })) => {
                prop_assert!(*more > length && *more >= needed);
                needed = *more;
                continue;
            }
            (None, Ok(Parsed::Done { .. })) => prop_assert!(length >= needed, "{length} were enough, not {needed}"),
            (None | Some(Err(_)), Err(_)) => {}
            (Some(before), now) => prop_assert_eq!(before, now, "{}", length),
        }
        verdict = Some(now);
    }
    Ok(())
}
