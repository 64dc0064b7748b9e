//! Heads of messages (RFC 9112, 2 to 5).

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use httparse::{Header, Status};

use super::framing::Decoder;
use super::lines::{Lines, look};
use crate::gateway::meaning::is_odd;
use crate::gateway::message::{Answer, Field, Head, Headers};

/// More the type for it does not hold.
const URI_BYTES_MAX: usize = u16::MAX as usize - 1;
/// So many fields are read without an allocation.
const FIELDS_ON_STACK: usize = 100;

/// What a head may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, with its first line.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// Why bytes are no message of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// More than the limits allow.
    #[error("its header has too many bytes or fields")]
    TooLarge,
    /// Not what the grammar says.
    #[error("its header is not HTTP/1.1: {0}")]
    Syntax(httparse::Error),
    /// Its first line asks for, or answers, something that is none.
    #[error("its first line is not HTTP/1.1")]
    FirstLine,
    /// It may be framed in two ways.
    #[error("it has a Transfer-Encoding and a Content-Length")]
    FramedTwice,
    /// Only chunks are known, and only of HTTP/1.1.
    #[error("its Transfer-Encoding is not `chunked`")]
    Coding,
    /// No number, several, or not what follows.
    #[error("its Content-Length is wrong")]
    Length,
    /// Its body is in chunks, but they are none.
    #[error("its chunks are malformed")]
    Chunk,
}

/// What is known of a request once its head is read.
#[derive(Debug)]
pub struct RequestHead {
    /// Itself.
    pub head: Head,
    /// How its body is framed.
    pub body: Decoder,
    /// Whether the connection may carry another one.
    pub keeps: bool,
    /// The client sends its body once it is told to (RFC 9110, 10.1.1).
    pub waits: bool,
}

/// What is known of a response once its head is read.
#[derive(Debug)]
pub struct ResponseHead {
    /// Itself, without its body.
    pub answer: Answer<()>,
    /// How its body is framed.
    pub body: Decoder,
    /// Whether the connection may carry another one.
    pub keeps: bool,
}

/// Takes a request's head from what was read; `None` = more must be read.
///
/// # Errors
/// When it is none, or can be understood in two ways.
pub fn request(read: &mut BytesMut, limits: Limits) -> Result<Option<RequestHead>, Bad> {
    let (mut few, mut many) = slots(limits.fields);
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(read, room(&mut few, &mut many, limits.fields));
    let Some(length) = length_of_head(parsed, read, limits)? else { return Ok(None) };
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Bad::FirstLine);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Bad::FirstLine)?;
    let path = place(read, path.as_bytes());
    if path.len() > URI_BYTES_MAX {
        return Err(Bad::TooLarge);
    }
    let is_odd = request.headers.iter().any(|field| is_odd(field.name.as_bytes()));
    let (lines, seen) = look(read, request.headers)?;
    let is_old = version == 0;
    let body = match (seen.is_chunked(is_old)?, seen.length()?) {
        (true, Some(_)) => return Err(Bad::FramedTwice),
        (true, None) => Decoder::chunked(),
        (false, length) => Decoder::Length(length.unwrap_or(0)),
    };
    let text = read.split_to(length).freeze();
    let uri = Uri::from_maybe_shared(text.slice(path)).map_err(|_| Bad::FirstLine)?;
    let version = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = Headers::Plain(Lines::new(text, lines));
    if is_odd || !seen.is_plain_request() {
        seen.say_length_once(headers.map());
    }
    let head = Head { method, uri, version, headers };
    Ok(Some(RequestHead { head, body, keeps: seen.keeps(is_old), waits: seen.expects && !is_old }))
}

/// Takes the head of a response to a request of this method from what was read; `None` = more must be read.
///
/// # Errors
/// When it is none, or says nothing certain about its end.
pub fn response(read: &mut BytesMut, limits: Limits, to: &Method) -> Result<Option<ResponseHead>, Bad> {
    let (mut few, mut many) = slots(limits.fields);
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let slots = room(&mut few, &mut many, limits.fields);
    let parsed = config.parse_response_with_uninit_headers(&mut response, read, slots);
    let Some(length) = length_of_head(parsed, read, limits)? else { return Ok(None) };
    let (Some(code), Some(version)) = (response.code, response.version) else { return Err(Bad::FirstLine) };
    let status = StatusCode::from_u16(code).map_err(|_| Bad::FirstLine)?;
    let reason = response.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| place(read, reason.as_bytes()));
    let (lines, seen) = look(read, response.headers)?;
    let is_old = version == 0;
    let (mut keeps, length_said) = (seen.keeps(is_old), seen.length()?);
    let text = read.split_to(length).freeze();
    let reason = reason.and_then(|place| HeaderValue::from_maybe_shared(text.slice(place)).ok());
    let mut headers = Headers::Plain(Lines::new(text, lines));
    if !seen.is_plain_response() {
        seen.say_length_once(headers.map());
    }
    let body = if has_no_body(status, to) {
        // What must not say so (RFC 9112, 6.1) may send it, too: that would be taken for the next response.
        keeps &= !(may_not_announce(status) && seen.announces_body());
        Decoder::Length(0)
    } else if seen.is_chunked(is_old)? {
        // Chunks win, and whoever sends both is not to be trusted with another request (RFC 9112, 6.3).
        if length_said.is_some() {
            headers.map().remove(CONTENT_LENGTH);
            keeps = false;
        }
        Decoder::chunked()
    } else {
        length_said.map_or(Decoder::UntilClose, Decoder::Length)
    };
    Ok(Some(ResponseHead { answer: Answer { status, reason, headers, body: () }, body, keeps }))
}

/// Takes trailers from what was read; `None` = more must be read.
pub(super) fn fields(read: &mut BytesMut, limits: Limits) -> Result<Option<HeaderMap>, Bad> {
    let mut slots = [httparse::EMPTY_HEADER; FIELDS_ON_STACK];
    match httparse::parse_headers(read, &mut slots) {
        Ok(Status::Complete((length, fields))) if length <= limits.bytes => {
            let (lines, _) = look(read, fields)?;
            Ok(Some(Lines::new(read.split_to(length).freeze(), lines).to_map()))
        }
        Ok(Status::Partial) if read.len() < limits.bytes => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(Bad::TooLarge),
        Err(error) => Err(Bad::Syntax(error)),
    }
}

/// Whether a response has no body, whatever its header says (RFC 9112, 6.3).
pub fn has_no_body(status: StatusCode, to: &Method) -> bool {
    *to == Method::HEAD
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// Whether a response must not say that a body follows. Others tell how long it would be (RFC 9110, 8.6).
fn may_not_announce(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// Whether more has come that could be the end of a head of which so many bytes were seen before: else reading it again
/// after each byte would take time in the square of its length.
pub fn may_be_whole(read: &[u8], seen: usize) -> bool {
    let new = &read[seen.saturating_sub(3)..];
    seen == 0 || new.windows(2).any(|end| end == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n")
}

// --- Reading ---------------------------------------------------------------------------------------------------------

type Slot<'b> = MaybeUninit<Header<'b>>;

fn slots<'b>(fields: usize) -> ([Slot<'b>; FIELDS_ON_STACK], Vec<Header<'b>>) {
    let many = Vec::with_capacity(if fields > FIELDS_ON_STACK { fields } else { 0 });
    ([const { MaybeUninit::uninit() }; FIELDS_ON_STACK], many)
}

fn room<'s, 'b>(few: &'s mut [Slot<'b>], many: &'s mut Vec<Header<'b>>, fields: usize) -> &'s mut [Slot<'b>] {
    if fields > few.len() { &mut many.spare_capacity_mut()[..fields] } else { &mut few[..fields] }
}

fn length_of_head(parsed: httparse::Result<usize>, read: &[u8], limits: Limits) -> Result<Option<usize>, Bad> {
    match parsed {
        Ok(Status::Complete(length)) if length <= limits.bytes => Ok(Some(length)),
        Ok(Status::Partial) if read.len() < limits.bytes => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(Bad::TooLarge),
        Err(error) => Err(Bad::Syntax(error)),
    }
}

/// Where in the head its part stands. Nothing stands nowhere: httparse may give an empty text of its own.
pub(super) fn place(head: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - head.as_ptr().addr();
    start..start + part.len()
}

// --- Writing ---------------------------------------------------------------------------------------------------------

/// Writes a request's first line.
pub fn ask(method: &Method, uri: &Uri, out: &mut Vec<u8>) {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a response's first line.
pub fn answer<B>(answer: &Answer<B>, is_old: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(answer.status.as_str().as_bytes());
    out.push(b' ');
    let usual = || answer.status.canonical_reason().unwrap_or_default().as_bytes();
    out.extend_from_slice(answer.reason.as_ref().map_or_else(usual, HeaderValue::as_bytes));
    out.extend_from_slice(b"\r\n");
}

/// Writes a field that goes on as it is.
pub fn pass(field: Field<'_>, out: &mut Vec<u8>) {
    match field.line {
        Some(line) => out.extend_from_slice(line),
        None => self::field(field.name, field.value, out),
    }
}

/// Writes a field.
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes Content-Length.
pub fn length(bytes: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = bytes;
    while {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        left > 0
    } {}
    field(b"content-length", &digits[at..], out);
}

/// Writes a number as the size of a chunk.
pub fn hexadecimal(number: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|at| b"0123456789abcdef"[number >> (4 * at) & 15]));
}
