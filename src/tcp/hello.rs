//! The name of the server that a TLS client asks for, found in the ClientHello at the start of its stream (server name
//! indication, RFC 6066, 3). The hello is looked at and nothing else: its bytes are passed on as they came.
//!
//! A hello that two readers could understand in two ways must not be routed by one of them: so what RFC 8446 and
//! RFC 6066 forbid about names is refused, as every TLS server does. What is not TLS at all, and a hello without a name,
//! are no errors. Encrypted names (ECH) stay so: the outer name is what is found.

use std::borrow::Cow;

/// The longest hello that is read, the headers of its records included: as much as one record can carry. Those of today
/// have 200 to 2000 bytes.
pub const HELLO_BYTES_MAX: usize = RECORD_HEADER_BYTES + FRAGMENT_BYTES_MAX;

/// RFC 8446, 5.1: type, version and length.
const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446, 5.1: the most that one record holds.
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// RFC 8446, 5.1: the type of a record with a handshake.
const HANDSHAKE: u8 = 22;
/// SSL 3.0 and all versions of TLS; the minor part says nothing (RFC 8446, 5.1).
const MAJOR_VERSION: u8 = 3;
/// RFC 8446, 4: type and length.
const MESSAGE_HEADER_BYTES: usize = 4;
/// RFC 8446, 4.
const CLIENT_HELLO: u8 = 1;
/// RFC 8446, 4.1.2.
const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
/// RFC 6066, 3: the extension, and the one kind of name in it.
const SERVER_NAME: [u8; 2] = [0, 0];
const HOST_NAME: [u8; 1] = [0];
/// RFC 1035, 2.3.4: 255 octets on the wire are 253 characters of text.
const NAME_BYTES_MAX: usize = 253;

/// What the bytes so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A hello may still come of it.
    Incomplete {
        /// With fewer bytes than this from the start on it is not worth asking again: more than there are now, and never
        /// more than the hello has. So whoever waits for them asks a few times, in however many pieces they come.
        needed: usize,
    },
    /// A whole hello, or something other than TLS.
    Done {
        /// In small letters and without a dot at its end: ASCII without spaces and control characters, at most 253 of
        /// them. `None` when the client names no server.
        server_name: Option<String>,
    },
}

/// No TLS server would answer this, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Reads a hello from the start of a stream. It holds no state: each call is given all bytes from the start on, and
/// [`HELLO_BYTES_MAX`] of them always decide. What follows the hello is not looked at.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes {
        [] | [HANDSHAKE] => return Ok(Parsed::Incomplete { needed: bytes.len() + 1 }),
        [HANDSHAKE, MAJOR_VERSION, ..] => {}
        _ => return Ok(Parsed::Done { server_name: None }),
    }
    let window = &bytes[..bytes.len().min(HELLO_BYTES_MAX)];
    let mut rest = window;
    let mut message: Cow<[u8]> = Cow::Borrowed(&[]);
    loop {
        let missing = missing(&message)?;
        if missing == 0 {
            return server_name(&message).map(|server_name| Parsed::Done { server_name });
        }
        let Some(fragment) = next_fragment(&mut rest)? else {
            // Each byte of the message is at least one of the stream.
            let needed = window.len() + missing;
            let fits = needed <= HELLO_BYTES_MAX;
            return if fits { Ok(Parsed::Incomplete { needed }) } else { Err(Malformed("the hello is too long")) };
        };
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
    }
}

/// The piece of the message in the next record, as far as it is there; `None` when nothing of it is.
fn next_fragment<'b>(rest: &mut &'b [u8]) -> Result<Option<&'b [u8]>, Malformed> {
    let Some((header, body)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    let [kind, major, _, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if (kind, major) != (HANDSHAKE, MAJOR_VERSION) {
        return Err(Malformed("another record stands in the middle of the hello"));
    }
    if !(1..=FRAGMENT_BYTES_MAX).contains(&length) {
        return Err(Malformed("a record has an impossible length"));
    }
    let (fragment, next) = body.split_at(length.min(body.len()));
    *rest = next;
    Ok(Some(fragment).filter(|fragment| !fragment.is_empty()))
}

/// How many bytes of the message are not there yet: at least so many as long as its length is not.
fn missing(message: &[u8]) -> Result<usize, Malformed> {
    match *message {
        [kind, ..] if kind != CLIENT_HELLO => Err(Malformed("the first message is no hello")),
        [_, high, middle, low, ..] => {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            Ok((MESSAGE_HEADER_BYTES + length).saturating_sub(message.len()))
        }
        _ => Ok(MESSAGE_HEADER_BYTES - message.len()),
    }
}

/// The name in a whole message (RFC 8446, 4.1.2).
fn server_name(message: &[u8]) -> Result<Option<String>, Malformed> {
    let mut message = Fields(message);
    message.take(1)?; // its type
    let mut hello = message.vector(3)?;
    hello.take(VERSION_AND_RANDOM_BYTES)?;
    hello.vector(1)?; // session
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression methods
    if hello.is_empty() {
        return Ok(None); // before TLS 1.3 there need not be extensions (RFC 5246, 7.4.1.2)
    }
    let mut extensions = hello.vector(2)?;
    hello.end()?;
    let mut name = None;
    while !extensions.is_empty() {
        let kind = extensions.take(2)?;
        let data = extensions.vector(2)?;
        // RFC 8446, 4.2: no extension stands there twice.
        if kind == SERVER_NAME && name.replace(host_name(data)?).is_some() {
            return Err(Malformed("two lists of server names"));
        }
    }
    Ok(name)
}

/// The one name of the list (RFC 6066, 3). There are no kinds of names but one, and never two of a kind.
fn host_name(mut extension: Fields<'_>) -> Result<String, Malformed> {
    let mut list = extension.vector(2)?;
    extension.end()?;
    if list.take(1)? != HOST_NAME {
        return Err(Malformed("a server name of an unknown kind"));
    }
    let Fields(name) = list.vector(2)?;
    list.end()?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed("what stands for the server name is no name"));
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// What is left of a structure (RFC 8446, 3).
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("a length exceeds what there is"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A length of so many bytes, and what it counts.
    fn vector(&mut self, length_bytes: usize) -> Result<Self, Malformed> {
        let length = self.take(length_bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length).map(Self)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed("more than the lengths say")) }
    }
}

#[cfg(test)]
mod tests;
