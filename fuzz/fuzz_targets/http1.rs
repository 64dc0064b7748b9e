//! Any bytes as a request, as a response and as a body in chunks: what they are does not depend on where they are cut, no
//! byte is lost or read twice, and what is accepted is read again as the same once it is written.
//! `scripts/fuzz 60 http1`

#![no_main]

use bytes::BytesMut;
use evener::gateway::http1::framing::{Decoder, Encoder, Piece};
use evener::gateway::http1::head::{self, Bad, Limits, RequestHead, ResponseHead};
use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;

/// What may stand before the bytes, so that they need not find their way to the chunks again and again.
const BEGINNINGS: [&str; 8] = [
    "",
    "GET / HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 ",
    "POST /a?b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 404 None\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "PUT / HTTP/1.1\r\nContent-Length: 20\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
];
/// Each stands for one byte from 0xc0 on, so that long words need not be found letter by letter.
const WORDS: [&str; 16] = [
    "\r\n",
    "\r\n\r\n",
    "0\r\n",
    "\r\n0\r\n\r\n",
    "5\r\nabcde\r\n",
    "5;x=\"y\"\r\n",
    "GET /a?b HTTP/1.1\r\n",
    "HTTP/1.1 200",
    "HTTP/1.0 304 ",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x\r\n",
    "Expect: 100-continue\r\n",
    "Max-Forwards: 1\r\n",
    "Set-Cookie: a=b\r\n",
    "x: y\r\n",
];
const NEVER_TRAILERS: [&str; 16] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A head, and what was said of it; or why there is none.
type Taken<H> = Result<Option<(H, String)>, Bad>;

/// What became of a body.
#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    over: Result<bool, Bad>,
}

/// Pieces of so many bytes by turns.
fn cut(mut bytes: &[u8], sizes: [usize; 2]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    for size in sizes.into_iter().cycle() {
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    pieces
}

/// Takes a head as connections do.
fn fed<H>(
    pieces: &[&[u8]],
    limits: Limits,
    take: impl Fn(&mut BytesMut) -> Result<Option<(H, String)>, Bad>,
) -> (Taken<H>, BytesMut) {
    let (mut read, mut tried, mut taken) = (BytesMut::new(), 0, Ok(None));
    for piece in pieces {
        read.extend_from_slice(piece);
        if !matches!(taken, Ok(None)) || read.is_empty() {
            continue;
        }
        if head::may_be_whole(&read, tried) {
            taken = take(&mut read);
            tried = read.len();
        } else if read.len() > limits.bytes {
            taken = Err(Bad::TooLarge);
        }
    }
    (taken, read)
}

/// The head that is there however the bytes are cut, with what is left behind it.
fn head_in<H>(
    bytes: &[u8],
    sizes: [usize; 2],
    limits: Limits,
    take: impl Fn(&mut BytesMut) -> Result<Option<(H, String)>, Bad>,
) -> Option<(H, BytesMut)> {
    let (at_once, left) = fed(&[bytes], limits, &take);
    let (in_pieces, left_of_pieces) = fed(&cut(bytes, sizes), limits, &take);
    // What cannot become a head any more may be refused at once or later, and for the one or the other reason.
    let (at_once, in_pieces) = (at_once.ok().flatten(), in_pieces.ok().flatten());
    let told = |head: &Option<(H, String)>| head.as_ref().map(|(_, told)| told.clone());
    assert_eq!(told(&at_once), told(&in_pieces));
    let (head, _) = at_once?;
    assert_eq!(left, left_of_pieces);
    assert!(bytes.ends_with(&left) && bytes.len() - left.len() <= limits.bytes);
    Some((head, left))
}

fn decoded(decoder: &mut Decoder, pieces: &[&[u8]]) -> (Body, BytesMut) {
    let (mut body, mut left) = (Body { data: Vec::new(), trailers: None, over: Ok(false) }, BytesMut::new());
    for piece in pieces {
        left.extend_from_slice(piece);
        while body.over == Ok(false) {
            match decoder.decode(&mut left) {
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty());
                    body.data.extend_from_slice(&data);
                }
                Ok(Some(Piece::Trailers(trailers))) => (body.trailers, body.over) = (Some(trailers), Ok(true)),
                Ok(Some(Piece::End)) => body.over = Ok(true),
                Ok(None) => break,
                Err(bad) => body.over = Err(bad),
            }
        }
        assert_eq!(decoder.is_over(), body.over == Ok(true));
    }
    (body, left)
}

/// Reads a body at once and in pieces; `make` gives its decoder.
fn check_body(make: impl Fn() -> Decoder, bytes: &[u8], sizes: [usize; 2]) {
    let (mut at_once, mut in_pieces) = (make(), make());
    let (body, left) = decoded(&mut at_once, &[bytes]);
    assert_eq!((&body, &left), (&decoded(&mut in_pieces, &cut(bytes, sizes)).0, &left));
    assert_eq!(at_once, in_pieces);
    assert!(bytes.ends_with(&left));
    match make() {
        Decoder::Length(length) => {
            assert_eq!(body.data, bytes[..bytes.len() - left.len()]);
            assert_eq!(at_once.left().map(|to_come| to_come + body.data.len() as u64), Some(length));
        }
        Decoder::UntilClose => assert_eq!(body.data, bytes),
        Decoder::Chunked(_) if body.over == Ok(true) => {
            assert!(body.data.len() + left.len() + b"0\r\n\r\n".len() <= bytes.len());
            check_encoded(body);
        }
        Decoder::Chunked(_) => assert!(body.data.len() + left.len() <= bytes.len()),
    }
}

/// Writes a body in chunks, and reads it again.
fn check_encoded(mut body: Body) {
    let (mut out, mut encoder) = (Vec::new(), Encoder::Chunked);
    for piece in body.data.chunks(17) {
        let after = encoder.piece(piece.len(), &mut out).unwrap();
        out.extend_from_slice(piece);
        out.extend_from_slice(after);
    }
    encoder.end(body.trailers.as_ref(), &mut out).unwrap();
    NEVER_TRAILERS.iter().for_each(|name| drop(body.trailers.as_mut().and_then(|trailers| trailers.remove(*name))));
    body.trailers = body.trailers.filter(|trailers| !trailers.is_empty());
    assert_eq!(decoded(&mut Decoder::chunked(), &[&out]), (body, BytesMut::new()));
}

fn told(head: &RequestHead) -> String {
    let RequestHead { head, body, keeps, waits } = head;
    let headers = head.headers.to_map();
    format!("{} {:?} {:?} {:?} {body:?} {keeps} {waits}", head.method, head.uri, head.version, headers)
}

fn told_back(head: &ResponseHead) -> String {
    let ResponseHead { answer, body, keeps } = head;
    let mut line = Vec::new();
    head::answer(answer, false, &mut line);
    format!("{} {:?} {body:?} {keeps}", line.escape_ascii(), answer.headers.to_map())
}

fn write_fields(headers: &HeaderMap, out: &mut Vec<u8>) {
    headers.iter().for_each(|(name, value)| head::field(name.as_str().as_bytes(), value.as_bytes(), out));
    out.extend_from_slice(b"\r\n");
}

fn check_request(bytes: &[u8], sizes: [usize; 2], limits: Limits) {
    let take = |read: &mut BytesMut| head::request(read, limits).map(|head| head.map(told_with(told)));
    let Some((RequestHead { head, body, .. }, left)) = head_in(bytes, sizes, limits, take) else { return };
    let headers = head.headers.to_map();
    assert!(headers.len() <= limits.fields);
    let mut out = Vec::new();
    head::ask(&head.method, &head.uri, &mut out);
    write_fields(&headers, &mut out);
    // A path is what the gateway writes; a request for a whole URI has become one before.
    let has_path = head.uri.scheme().is_none() && head.uri.path_and_query().is_some();
    if has_path && head.version == http::Version::HTTP_11 {
        let again = head::request(&mut out.as_slice().into(), Limits { bytes: usize::MAX, ..limits });
        let again = again.unwrap().unwrap();
        assert_eq!((&again.head.method, &again.head.uri), (&head.method, &head.uri));
        assert_eq!((again.head.headers.to_map(), &again.body), (headers, &body));
    }
    check_body(|| copy(&body), &left, sizes);
}

fn check_response(bytes: &[u8], sizes: [usize; 2], limits: Limits, to: &Method) {
    let take = |read: &mut BytesMut| head::response(read, limits, to).map(|head| head.map(told_with(told_back)));
    let Some((ResponseHead { answer, body, .. }, left)) = head_in(bytes, sizes, limits, take) else { return };
    let headers = answer.headers.to_map();
    let mut out = Vec::new();
    head::answer(&answer, false, &mut out);
    let line = out.clone();
    write_fields(&headers, &mut out);
    let again = head::response(&mut out.as_slice().into(), Limits { bytes: usize::MAX, ..limits }, to);
    let again = again.unwrap().unwrap();
    out.clear();
    head::answer(&again.answer, false, &mut out);
    assert_eq!((out, again.answer.headers.to_map(), &again.body), (line, headers, &body));
    check_body(|| copy(&body), &left, sizes);
}

fn told_with<H>(tell: impl Fn(&H) -> String) -> impl Fn(H) -> (H, String) {
    move |head| {
        let told = tell(&head);
        (head, told)
    }
}

/// The same decoder, before it has decoded anything.
fn copy(decoder: &Decoder) -> Decoder {
    match decoder {
        Decoder::Length(length) => Decoder::Length(*length),
        Decoder::Chunked(_) => Decoder::chunked(),
        Decoder::UntilClose => Decoder::UntilClose,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [how, first, second, bytes @ ..] = bytes else { return };
    let mut message = BEGINNINGS[usize::from(how & 7)].as_bytes().to_vec();
    for byte in bytes {
        let word = WORDS.get(usize::from(byte.wrapping_sub(0xc0))).filter(|_| how & 0x80 != 0);
        message.extend_from_slice(word.map_or(std::slice::from_ref(byte), |word| word.as_bytes()));
    }
    let bytes = &message[..];
    let sizes = [[1, 2, 7, 300][usize::from(first & 3)], [1, 3, 16, 64][usize::from(second & 3)]];
    // Few fields are read without an allocation, many with one.
    let limits = Limits { bytes: 600, fields: if how & 8 == 0 { 5 } else { 101 } };
    let method = if how & 0x70 == 0 { Method::HEAD } else { Method::GET };
    check_request(bytes, sizes, limits);
    check_response(bytes, sizes, limits, &method);
    check_body(Decoder::chunked, bytes, sizes);
});
