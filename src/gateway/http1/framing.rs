//! Where a body ends (RFC 9112, 6 and 7), read and written.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
    MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use httparse::Status;

use super::head::{self, Bad, Limits};

/// Bytes of a line with a chunk's size and extensions; the size alone has 16 digits at most.
const SIZE_LINE_BYTES_MAX: usize = 4096;
/// Bytes of all extensions of a body's chunks, so that nobody is made to read much for little.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// A line of a size without extensions is no longer.
const BARE_LINE_BYTES: usize = 18;
/// What the trailers of a body may have.
const TRAILERS: Limits = Limits { bytes: 16 * 1024, fields: 100 };

/// Finds a body's end in what is read.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes are to come; 0 = it is over.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// It ends with the connection.
    UntilClose,
}

/// Where in a body of chunks.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    expects: Expects,
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Size,
    Data(u64),
    EndOfData,
    Trailers,
}

/// A piece of a body.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Bytes of it, at least one.
    Data(Bytes),
    /// What follows its last byte; then it is over.
    Trailers(HeaderMap),
    /// It is over.
    End,
}

impl Decoder {
    /// Of a body in chunks.
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks { expects: Expects::Size, extension_bytes: 0 })
    }

    /// Whether nothing is to come.
    pub fn is_over(&self) -> bool {
        *self == Self::Length(0)
    }

    /// How many bytes are to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// The connection has ended: whether the body has, too.
    pub fn ends_with_connection(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Length(0);
        }
        self.is_over()
    }

    /// Takes the next piece from what was read; `None` = more must be read.
    ///
    /// # Errors
    /// What is no chunk, or too long a line between two.
    pub fn decode(&mut self, read: &mut BytesMut) -> Result<Option<Piece>, Bad> {
        match self {
            Self::Length(0) => Ok(Some(Piece::End)),
            Self::Length(left) => Ok(take(left, read)),
            Self::UntilClose => Ok((!read.is_empty()).then(|| Piece::Data(read.split().freeze()))),
            Self::Chunked(chunks) => {
                let piece = chunks.decode(read)?;
                if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
                    *self = Self::Length(0);
                }
                Ok(piece)
            }
        }
    }
}

fn take(left: &mut u64, read: &mut BytesMut) -> Option<Piece> {
    let count = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= count as u64;
    (count > 0).then(|| Piece::Data(read.split_to(count).freeze()))
}

impl Chunks {
    fn decode(&mut self, read: &mut BytesMut) -> Result<Option<Piece>, Bad> {
        loop {
            match self.expects {
                Expects::Size => match self.size(read)? {
                    None => return Ok(None),
                    Some(0) => self.expects = Expects::Trailers,
                    Some(size) => self.expects = Expects::Data(size),
                },
                Expects::Data(mut left) => {
                    let piece = take(&mut left, read);
                    self.expects = if left == 0 { Expects::EndOfData } else { Expects::Data(left) };
                    return Ok(piece);
                }
                Expects::EndOfData => match read.as_ref() {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        self.expects = Expects::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Bad::Chunk),
                },
                Expects::Trailers => return trailers(read),
            }
        }
    }

    fn size(&mut self, read: &mut BytesMut) -> Result<Option<u64>, Bad> {
        match httparse::parse_chunk_size(read) {
            Ok(Status::Complete((length, size))) if length <= SIZE_LINE_BYTES_MAX => {
                // httparse takes a size without digits, and any byte in an extension: also the end of a line to others.
                let line = read.split_to(length);
                let is_one_line = !line[..length - 2].contains(&b'\n');
                self.extension_bytes += length.saturating_sub(BARE_LINE_BYTES);
                let is_good = line[0].is_ascii_hexdigit() && is_one_line && self.extension_bytes <= EXTENSION_BYTES_MAX;
                if is_good { Ok(Some(size)) } else { Err(Bad::Chunk) }
            }
            Ok(Status::Partial) if read.len() < SIZE_LINE_BYTES_MAX => Ok(None),
            Ok(_) | Err(_) => Err(Bad::Chunk),
        }
    }
}

fn trailers(read: &mut BytesMut) -> Result<Option<Piece>, Bad> {
    match read.as_ref() {
        [b'\r', b'\n', ..] => {
            read.advance(2);
            Ok(Some(Piece::End))
        }
        [] | [b'\r'] => Ok(None),
        [b'\r' | b'\n', ..] => Err(Bad::Chunk),
        _ => Ok(head::fields(read, TRAILERS)?.map(Piece::Trailers)),
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// So many bytes are to be sent.
    Length(u64),
    /// By a last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Encoder {
    /// A piece of so many bytes follows, at least one: writes what stands before it, and tells what stands behind.
    ///
    /// # Errors
    /// When the body is longer than it was said to be.
    pub fn piece(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<&'static [u8], Bad> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(bytes as u64).ok_or(Bad::Length)?;
                Ok(b"")
            }
            Self::UntilClose => Ok(b""),
            Self::Chunked => {
                head::hexadecimal(bytes, out);
                out.extend_from_slice(b"\r\n");
                Ok(b"\r\n")
            }
        }
    }

    /// The body is over.
    ///
    /// # Errors
    /// When it is shorter than it was said to be.
    pub fn end(self, trailers: Option<&HeaderMap>, out: &mut Vec<u8>) -> Result<(), Bad> {
        match self {
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Length(_) => Err(Bad::Length),
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n");
                let all = trailers.into_iter().flat_map(HeaderMap::iter);
                for (name, value) in all.filter(|(name, _)| !NEVER_TRAILERS.contains(name)) {
                    head::field(name.as_str().as_bytes(), value.as_bytes(), out);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// What says how a message is framed, routed or understood comes too late in a trailer (RFC 9110, 6.5.1).
const NEVER_TRAILERS: [http::HeaderName; 16] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
