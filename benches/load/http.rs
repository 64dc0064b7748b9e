//! The heads of HTTP/1.1 messages: no more than it takes to send some, and to find where others end and what they say.

use std::io;
use std::ops::Range;

/// A head that has not ended within so much is nobody's here.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const END: &[u8] = b"\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 ";
const LENGTH: &[u8] = b"content-length:";
/// The mark is the path of a request, in so many digits.
const DIGITS: Range<usize> = 5..8;

/// The heads of what one end sends: all are the same, but for the marks of requests.
pub struct Heads {
    text: Vec<u8>,
    has_mark: bool,
}

impl Heads {
    pub fn of_requests(bearer: Option<&str>) -> Self {
        let token = bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let text = format!("GET /000 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n{token}\r\n");
        Self { text: text.into(), has_mark: true }
    }

    pub fn of_answers(bytes: usize) -> Self {
        let text = format!(
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {bytes}\r\n\r\n"
        );
        Self { text: text.into(), has_mark: false }
    }

    pub fn write(&self, mark: u8, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.text);
        if self.has_mark {
            into[DIGITS].copy_from_slice(&[100, 10, 1].map(|power| b'0' + mark / power % 10));
        }
    }
}

/// The bytes of the head that these begin with; `None` when its end is still to come.
pub fn head_bytes(bytes: &[u8]) -> io::Result<Option<usize>> {
    let near = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    match near.windows(END.len()).position(|four| four == END) {
        None if bytes.len() >= HEAD_BYTES_MAX => Err(io::ErrorKind::InvalidData.into()),
        end => Ok(end.map(|end| end + END.len())),
    }
}

/// That of a request.
pub fn mark(head: &[u8]) -> Option<u8> {
    std::str::from_utf8(head.get(DIGITS)?).ok()?.parse().ok()
}

/// How many bytes follow the head of an answer that is as it should be.
pub fn body_bytes(head: &[u8]) -> Option<usize> {
    let lines = head.strip_prefix(OK)?.split(|byte| *byte == b'\n');
    let value = |line: &[u8]| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then(|| std::str::from_utf8(value).ok()?.trim().parse().ok()).flatten()
    };
    lines.filter_map(value).next()
}
