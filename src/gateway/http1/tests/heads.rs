//! Heads: cut anywhere, up to their limits, and whether a connection stays behind them.

use http::Version;

use super::*;

/// A field as it is sent.
type Field = (String, String, &'static str);

const ENDS: [&str; 2] = ["\r\n", "\n"];

fn end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(ENDS.as_slice())
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let value = prop_oneof![Just(String::new()), "[ \t]{0,2}[!-~]([ -~]{0,20}[!-~])?[ \t]{0,2}"];
    prop::collection::vec(("[xX]-[a-cA-C0-9!#$%&'*+.^_`|~-]{0,8}", value, end()), 0..12)
}

fn sent(line: &str, fields: &[Field], (of_line, of_head): (&str, &str)) -> String {
    let fields = fields.iter().map(|(name, value, end)| format!("{name}:{value}{end}"));
    format!("{line}{of_line}{}{of_head}", fields.collect::<String>())
}

fn assert_has(headers: &Headers, fields: &[Field]) {
    let mut told = Vec::new();
    headers.each(|field| {
        told.push((field.name.to_ascii_lowercase(), field.value.to_owned()));
        assert!(field.line.is_none_or(|line| line == [field.name, b": ", field.value, b"\r\n"].concat()));
    });
    told.sort();
    let headers = headers.to_map();
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes().to_owned(), value.as_bytes().to_owned()))
        .collect();
    all.sort();
    assert_eq!(told, all);
    assert_eq!(headers.len(), fields.len());
    for name in headers.keys() {
        let is_it = |(other, ..): &&Field| other.eq_ignore_ascii_case(name.as_str());
        let expected: Vec<_> = fields.iter().filter(is_it).map(|(_, value, _)| value.trim()).collect();
        assert!(headers.get_all(name).iter().eq(expected), "{name}");
    }
}

#[test]
fn a_head_may_be_cut_anywhere_and_what_is_behind_it_stays() {
    let head = "\r\nPOST /a?b HTTP/1.1\r\nHost: x\nContent-Length: 9\r\nExpect: 100-Continue\r\nX: \r\n\r\n";
    let (expected, behind) = (told(&request(head).unwrap()), "\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    let all = format!("{head}{behind}");
    for at in 0..=all.len() {
        let (first, second) = all.as_bytes().split_at(at);
        let (taken, left) = request_in(&[first, second], LIMITS);
        assert_eq!(told(&taken.unwrap().unwrap()), expected, "{at}");
        assert_eq!(left, behind.as_bytes(), "{at}");
    }
    for length in 0..head.len() {
        let (taken, left) = request_in(&bytewise(&head.as_bytes()[..length]), LIMITS);
        assert!(taken.unwrap().is_none(), "{length}");
        assert_eq!(left.len(), length);
    }

    let head = "HTTP/1.1 404 Gone fishing\r\nServer: x\r\nSet-Cookie: a\nSet-Cookie: b\r\nContent-Length: 3\r\n\n";
    let expected = told_back(&response(head).unwrap());
    assert!(expected.starts_with("HTTP/1.1 404 Gone fishing\\r\\n "), "{expected}");
    let all = format!("{head}abc");
    for at in 0..=all.len() {
        let (first, second) = all.as_bytes().split_at(at);
        let (taken, left) = response_in(&[first, second], LIMITS, &Method::GET);
        assert_eq!(told_back(&taken.unwrap().unwrap()), expected, "{at}");
        assert_eq!(left, b"abc".as_slice());
    }
}

#[test]
fn a_head_is_tried_again_only_where_it_could_have_ended() {
    let head = b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n";
    let tries = (1..=head.len()).filter(|seen| head::may_be_whole(&head[..*seen], seen - 1));
    assert_eq!(tries.collect::<Vec<_>>(), [1, head.len()]);
    // The end may have come with more, and lie across what was seen.
    for (read, seen, may) in [
        ("a\n\r\nb", 1, true),
        ("a\n\r\nb", 2, true),
        ("a\n\r\nb", 3, true),
        ("a\n\nb", 2, true),
        ("a\r\nb\r\n", 1, false),
        ("a\n\r\nbcd", 6, false),
    ] {
        assert_eq!(head::may_be_whole(read.as_bytes(), seen), may, "{read:?} {seen}");
    }
}

#[test]
fn the_limit_of_bytes_is_exact() {
    for fields in [100, 101] {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Long: 0123456789\r\n\r\n";
        let ask = |pieces: &[&[u8]], bytes| request_in(pieces, Limits { bytes, fields }).0.map(|head| head.is_some());
        let answer = |pieces: &[&[u8]], bytes| {
            response_in(pieces, Limits { bytes, fields }, &Method::GET).0.map(|head| head.is_some())
        };
        let back = head.replace("GET / HTTP/1.1", "HTTP/1.1 200 O");
        for behind in ["", "more"] {
            let (head, back) = (format!("{head}{behind}"), format!("{back}{behind}"));
            let border = head.len() - behind.len();
            for pieces in [bytewise(head.as_bytes()), vec![head.as_bytes()]] {
                assert_eq!(ask(&pieces, border), Ok(true));
                assert_eq!(ask(&pieces, border - 1), Err(Bad::TooLarge));
            }
            for pieces in [bytewise(back.as_bytes()), vec![back.as_bytes()]] {
                assert_eq!(answer(&pieces, border), Ok(true));
                assert_eq!(answer(&pieces, border - 1), Err(Bad::TooLarge));
            }
        }
    }
}

#[test]
fn the_limit_of_fields_is_exact() {
    for limit in [0, 1, 99, 100, 101, 250] {
        let limits = Limits { bytes: 8192, fields: limit };
        for (count, expected) in [(limit, Ok(limit)), (limit + 1, Err(Bad::TooLarge))] {
            let fields: String = (0..count).map(|at| format!("x-{at}: y\r\n")).collect();
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            let found = request_in(&[head.as_bytes()], limits).0.map(|head| head.unwrap().head.headers.count());
            assert_eq!(found, expected, "{limit}");
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let taken = response_in(&[head.as_bytes()], limits, &Method::GET).0;
            assert_eq!(taken.map(|head| head.unwrap().answer.headers.count()), expected, "{limit}");
        }
    }
}

#[test]
fn a_head_without_an_end_is_too_large() {
    let limits = Limits { bytes: 500, fields: 4 };
    for (start, more) in [
        ("GET /", "a"),
        ("", "G"),
        ("", "\r\n"),
        ("GET / HTTP/1.1\r\n", "x"),
        ("GET / HTTP/1.1\r\nx: ", "y"),
        ("GET / HTTP/1.1\r\nx:", " "),
        ("GET / HTTP/1.1\r\n", "x:y\r\n"),
    ] {
        let endless = format!("{start}{}", more.repeat(600));
        for step in [1, 7, 600] {
            let pieces: Vec<&[u8]> = endless.as_bytes().chunks(step).collect();
            assert_eq!(request_in(&pieces, limits).0.map(|_| ()), Err(Bad::TooLarge), "{start:?} {more:?} {step}");
        }
    }
    for (start, more) in [("HTTP/1.1 200 ", "a"), ("HTTP/1.1 200 OK\r\n", "x"), ("HTTP/1.1 200 OK\r\nx: ", "y")] {
        let endless = format!("{start}{}", more.repeat(600));
        for step in [1, 7, 600] {
            let pieces: Vec<&[u8]> = endless.as_bytes().chunks(step).collect();
            let taken = response_in(&pieces, limits, &Method::GET).0;
            assert_eq!(taken.map(|_| ()), Err(Bad::TooLarge), "{start:?} {more:?} {step}");
        }
    }
}

#[test]
fn what_is_no_head_is_refused() {
    for head in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "G\u{e9}T / HTTP/1.1\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
        "GET http:// HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\na\r\n\r\n",
        "GET / HTTP/1.1\r\n a: b\r\n\r\n",
        "GET / HTTP/1.1\r\na : b\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\0\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\r\r\n\r\n",
    ] {
        assert!(request(head).is_err(), "{head:?}");
    }
    for head in [
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
    ] {
        assert!(response(head).is_err(), "{head:?}");
    }
}

#[test]
fn a_status_is_called_what_the_backend_calls_it() {
    for (line, expected) in [
        ("200 OK", "200 OK"),
        ("200 Fine", "200 Fine"),
        ("404 ", "404 Not Found"),
        // Such backends are there, and httparse has no bytes of theirs to show for it.
        ("404", "404 Not Found"),
        ("200 Gr\u{fc}n", "200 OK"),
        ("799 Own word", "799 Own word"),
        ("799", "799 "),
        ("799 ", "799 "),
    ] {
        for end in ENDS {
            let head = response(&format!("HTTP/1.1 {line}{end}a: b{end}{end}")).unwrap();
            let mut out = Vec::new();
            head::answer(&head.answer, false, &mut out);
            assert_eq!(out, format!("HTTP/1.1 {expected}\r\n").into_bytes());
            out.clear();
            head::answer(&head.answer, true, &mut out);
            assert_eq!(out, format!("HTTP/1.0 {expected}\r\n").into_bytes());
        }
    }
}

#[test]
fn a_connection_stays_as_its_options_say() {
    for (version, options, expected) in [
        ("1.1", &[][..], true),
        ("1.0", &[], false),
        ("1.1", &["close"], false),
        ("1.1", &["CLOSE"], false),
        ("1.1", &["x, Close"], false),
        ("1.1", &["x,close\t,y"], false),
        ("1.1", &["x", "close"], false),
        ("1.1", &["closed"], true),
        ("1.1", &["x close"], true),
        ("1.1", &["keep-alive"], true),
        ("1.1", &["keep-alive, close"], false),
        ("1.0", &["keep-alive"], true),
        ("1.0", &["Keep-Alive"], true),
        ("1.0", &["x , KEEP-ALIVE"], true),
        ("1.0", &["x", "keep-alive"], true),
        ("1.0", &["keep-alive", "close"], false),
        ("1.0", &["keep-alives"], false),
        ("1.0", &["\"keep-alive\""], false),
    ] {
        let fields: String = options.iter().map(|option| format!("Connection: {option}\r\n")).collect();
        let asked = request(&format!("GET / HTTP/{version}\r\n{fields}\r\n")).unwrap();
        assert_eq!(asked.keeps, expected, "{version} {options:?}");
        let answered = response(&format!("HTTP/{version} 204 No Content\r\n{fields}\r\n")).unwrap();
        assert_eq!(answered.keeps, expected, "{version} {options:?}");
    }
}

#[test]
fn no_byte_of_a_field_is_one_that_a_map_does_not_take() {
    for byte in 0..=u8::MAX {
        for field in [[b"a", &[byte][..], b"b: c"], [b"a: b", &[byte], b"c"], [&[byte], b": ", b""]] {
            let text = [b"GET / HTTP/1.1\r\n", &field.concat()[..], b"\r\n\r\n"].concat();
            if let (Ok(Some(head)), _) = request_in(&[&text], LIMITS) {
                assert!(head.head.headers.to_map().len() <= 2, "{byte}");
            }
        }
    }
    let name = "a".repeat(usize::from(u16::MAX) + 1);
    let limits = Limits { bytes: 1 << 20, fields: 1 };
    let text = format!("GET / HTTP/1.1\r\n{name}: b\r\n\r\n");
    assert!(request_in(&[text.as_bytes()], limits).0.is_err());
    let (head, _) = request_in(&[text.replacen('a', "", 1).as_bytes()], limits);
    assert_eq!(head.unwrap().unwrap().head.headers.to_map().len(), 1);
}

#[test]
fn a_client_waits_when_it_says_so_and_is_not_old() {
    for (version, expect, waits) in [
        ("1.1", "Expect: 100-continue\r\n", true),
        ("1.1", "expect: 100-CONTINUE\r\n", true),
        ("1.1", "Expect: 100-continues\r\n", false),
        ("1.1", "", false),
        ("1.0", "Expect: 100-continue\r\n", false),
    ] {
        let head = request(&format!("POST / HTTP/{version}\r\nContent-Length: 1\r\n{expect}\r\n")).unwrap();
        assert_eq!(head.waits, waits, "{version} {expect}");
        assert_eq!(head.head.version, if version == "1.1" { Version::HTTP_11 } else { Version::HTTP_10 });
    }
}

proptest! {
    #[test]
    fn any_request_is_read_the_same_however_it_is_cut(
        (method, path) in ("[A-Z!-]{1,10}", "/[!-\"$-~]{0,20}"), ends in (end(), end()), fields in fields(),
        heap in any::<bool>(), behind in telling_bytes(), places in places(),
    ) {
        prop_assume!(http::Uri::try_from(&path).is_ok());
        let head = sent(&format!("{method} {path} HTTP/1.1"), &fields, ends);
        let limits = Limits { bytes: head.len(), fields: if heap { 101 } else { 12 } };
        let all = [head.as_bytes(), &behind].concat();
        for pieces in [vec![&all[..]], bytewise(&all), cut(&all, &places)] {
            let (taken, left) = request_in(&pieces, limits);
            let RequestHead { head, body, keeps, waits } = taken.unwrap().unwrap();
            prop_assert_eq!((head.method.as_str(), head.uri.to_string()), (&*method, path.clone()));
            prop_assert_eq!((body, keeps, waits), (Decoder::Length(0), true, false));
            assert_has(&head.headers, &fields);
            prop_assert_eq!(&left[..], &behind[..]);
        }
    }

    #[test]
    fn any_response_is_read_the_same_however_it_is_cut(
        code in 100..1000_u16, reason in "( [ -~]{0,12})?", ends in (end(), end()), fields in fields(),
        behind in telling_bytes(), places in places(),
    ) {
        let head = sent(&format!("HTTP/1.1 {code}{reason}"), &fields, ends);
        let limits = Limits { bytes: head.len(), fields: 12 };
        let all = [head.as_bytes(), &behind].concat();
        for pieces in [vec![&all[..]], bytewise(&all), cut(&all, &places)] {
            let (taken, left) = response_in(&pieces, limits, &Method::GET);
            let ResponseHead { answer, keeps, .. } = taken.unwrap().unwrap();
            prop_assert_eq!((answer.status.as_u16(), keeps), (code, true));
            assert_has(&answer.headers, &fields);
            prop_assert_eq!(&left[..], &behind[..]);
            if reason.len() > 1 {
                let mut line = Vec::new();
                head::answer(&answer, false, &mut line);
                prop_assert_eq!(String::from_utf8(line).unwrap(), format!("HTTP/1.1 {code}{reason}\r\n"));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant(path in "/[a-z%?=&]{0,20}", fields in fields()) {
        let first = request(&sent(&format!("PUT {path} HTTP/1.1"), &fields, ("\n", "\r\n"))).unwrap();
        let mut out = Vec::new();
        head::ask(&first.head.method, &first.head.uri, &mut out);
        for (name, value) in &first.head.headers.to_map() {
            head::field(name.as_str().as_bytes(), value.as_bytes(), &mut out);
        }
        out.extend_from_slice(b"\r\n");
        prop_assert_eq!(told(&request(std::str::from_utf8(&out).unwrap()).unwrap()), told(&first));
    }

    #[test]
    fn any_bytes_are_a_head_or_none_or_its_beginning(
        line in prop::sample::select(["", "GET / HTTP/1.1\r\n", "HTTP/1.1 200", "HTTP/1.1 200 OK\n"].as_slice()),
        bytes in telling_bytes(), places in places(),
    ) {
        let limits = Limits { bytes: 40, fields: 2 };
        let all = [line.as_bytes(), &bytes].concat();
        let (at_once, left) = request_in(&[&all], limits);
        let (in_pieces, left_of_pieces) = request_in(&cut(&all, &places), limits);
        let (at_once, in_pieces) = (at_once.ok().flatten(), in_pieces.ok().flatten());
        prop_assert_eq!(at_once.as_ref().map(told), in_pieces.as_ref().map(told));
        prop_assert!(at_once.is_none() || left == left_of_pieces);
        let (at_once, left) = response_in(&[&all], limits, &Method::GET);
        let (in_pieces, left_of_pieces) = response_in(&cut(&all, &places), limits, &Method::GET);
        let (at_once, in_pieces) = (at_once.ok().flatten(), in_pieces.ok().flatten());
        prop_assert_eq!(at_once.as_ref().map(told_back), in_pieces.as_ref().map(told_back));
        prop_assert!(at_once.is_none() || left == left_of_pieces);
    }
}
