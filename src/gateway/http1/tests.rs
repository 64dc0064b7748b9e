//! What is read is the same however it was cut on its way, what can be read in two ways is refused, and what is written
//! is read as it was meant.

mod chunks;
mod framing;
mod heads;
mod naive;
mod sockets;

use bytes::BytesMut;
use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::framing::{Decoder, Piece};
use super::head::{self, Bad, Limits, RequestHead, ResponseHead};
use crate::gateway::message::Headers;

const LIMITS: Limits = Limits { bytes: 8192, fields: 100 };

/// A head that parts of a second one may follow, as both sides of a connection take it.
type Taken<H> = (Result<Option<H>, Bad>, BytesMut);

/// Takes a head from pieces in the order in which connections try it; with it, what is left of the bytes.
fn fed<H>(pieces: &[&[u8]], limits: Limits, take: impl Fn(&mut BytesMut) -> Result<Option<H>, Bad>) -> Taken<H> {
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

fn request_in(pieces: &[&[u8]], limits: Limits) -> Taken<RequestHead> {
    fed(pieces, limits, |read| head::request(read, limits))
}

fn response_in(pieces: &[&[u8]], limits: Limits, to: &Method) -> Taken<ResponseHead> {
    fed(pieces, limits, |read| head::response(read, limits, to))
}

fn request(text: &str) -> Result<RequestHead, Bad> {
    let (taken, left) = request_in(&[text.as_bytes()], LIMITS);
    taken.map(|head| {
        assert!(left.is_empty(), "{text}");
        head.expect("it is whole")
    })
}

/// The response to a GET.
fn response(text: &str) -> Result<ResponseHead, Bad> {
    response_to(&Method::GET, text)
}

fn response_to(method: &Method, text: &str) -> Result<ResponseHead, Bad> {
    response_in(&[text.as_bytes()], LIMITS, method).0.map(|head| head.expect("it is whole"))
}

/// All that is known of a request.
fn told(head: &RequestHead) -> String {
    let RequestHead { head, body, keeps, waits } = head;
    let (method, uri, version, headers) = (&head.method, &head.uri, head.version, head.headers.to_map());
    format!("{method} {uri} {version:?} {headers:?} {body:?} {keeps} {waits}")
}

/// All that is known of a response, with what its status is called.
fn told_back(head: &ResponseHead) -> String {
    let ResponseHead { answer, body, keeps } = head;
    let mut line = Vec::new();
    head::answer(answer, false, &mut line);
    format!("{} {:?} {body:?} {keeps}", line.escape_ascii(), answer.headers.to_map())
}

/// What became of a body.
#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether it is over, or what is wrong with it.
    over: Result<bool, Bad>,
    /// Not used of what was read.
    left: BytesMut,
}

/// Decodes a body from pieces.
fn body_in(decoder: &mut Decoder, pieces: &[&[u8]]) -> Body {
    let mut body = Body { data: Vec::new(), trailers: None, over: Ok(false), left: BytesMut::new() };
    for piece in pieces {
        body.left.extend_from_slice(piece);
        while body.over == Ok(false) {
            match decoder.decode(&mut body.left) {
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty());
                    body.data.extend_from_slice(&data);
                }
                Ok(Some(Piece::Trailers(trailers))) => (body.trailers, body.over) = (Some(trailers), Ok(true)),
                Ok(Some(Piece::End)) => body.over = Ok(true),
                Ok(None) => {
                    assert!(body.left.len() < 16 * 1024, "{} bytes are held to read more", body.left.len());
                    break;
                }
                Err(bad) => body.over = Err(bad),
            }
        }
        assert_eq!(decoder.is_over(), body.over == Ok(true));
    }
    body
}

/// A body in chunks that comes at once.
fn chunked(text: &str) -> Body {
    body_in(&mut Decoder::chunked(), &[text.as_bytes()])
}

/// One byte after the other.
fn bytewise(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// The pieces between these places.
fn cut<'b>(bytes: &'b [u8], places: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn places() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

/// Bytes that mean something where messages end, more often than others would.
fn telling_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => prop::sample::select(b"\r\n\r\n0123aF; \t:x,".as_slice()), 1 => any::<u8>()];
    prop::collection::vec(byte, 0..60)
}
