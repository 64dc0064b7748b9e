//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): who the client is, said in front of the
//! stream by the proxy that it came through.
//!
//! Both ways are pure functions on bytes. The type-length-values of version 2 are skipped, its checksum (CRC32c)
//! included: TCP has its own. IPv4-mapped IPv6 addresses are read as IPv4, like everywhere else; of two addresses of
//! different families the IPv4 one is written mapped.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The longest line of version 1, CRLF included.
pub const V1_MAX_BYTES: usize = 107;

/// The longest header of version 2 that is accepted: a few KB of type-length-values, among which a client's
/// certificate is the largest. The protocol itself would allow 65 551.
pub const V2_MAX_BYTES: usize = V2_FIXED_BYTES + 4096;

/// The header of version 1 that says nothing of the client: the receiver uses the connection's own addresses (2.1).
pub const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// The header of version 2 that says nothing of a client: "the connection was established by the proxy itself, such as a
/// health check" (2.2).
pub const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;
const V2_LOCAL_COMMAND: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

/// How long a peer may take to send its header.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Source (the client) and destination (where it connected to) of the connection that a header speaks of.
pub type Ends = (SocketAddr, SocketAddr);

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header may still come of it: ask again with more bytes behind these.
    Incomplete,
    /// A whole header.
    Done {
        /// Its length; the client's bytes begin behind it.
        consumed: usize,
        /// None when the connection's own addresses hold: UNKNOWN of version 1, LOCAL of version 2, and what is not
        /// TCP over IP.
        source: Option<Ends>,
    },
}

/// The bytes are no PROXY header, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub struct Malformed;

/// Reads a header from the start of a stream. It holds no state: each call is given all bytes from the start on, and
/// [`V2_MAX_BYTES`] of them always decide. What cannot become a header any more is refused without waiting for its end.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'P') => parse_v1(bytes),
        Some(_) => parse_v2(bytes),
    }
}

/// Appends a header of version 1. None, for a client without IP address (a unix socket), is written as UNKNOWN.
pub fn write_v1(out: &mut Vec<u8>, ends: Option<Ends>) {
    let Some((source, destination)) = ends else {
        return out.extend_from_slice(V1_UNKNOWN);
    };
    let mut line = String::with_capacity(V1_MAX_BYTES);
    let (from, to) = (source.port(), destination.port());
    let written = match one_family(source.ip(), destination.ip()) {
        Family::V4(source, destination) => write!(line, "PROXY TCP4 {source} {destination} {from} {to}\r\n"),
        Family::V6(source, destination) => {
            write!(line, "PROXY TCP6 {} {} {from} {to}\r\n", Hex(source), Hex(destination))
        }
    };
    debug_assert!(written.is_ok(), "a string takes everything");
    out.extend_from_slice(line.as_bytes());
}

/// Appends a header of version 2. None, for a client without IP address (a unix socket), is written as LOCAL, which
/// every receiver has to accept.
pub fn write_v2(out: &mut Vec<u8>, ends: Option<Ends>) {
    let Some((source, destination)) = ends else {
        return out.extend_from_slice(V2_LOCAL);
    };
    match one_family(source.ip(), destination.ip()) {
        Family::V4(source, destination) => {
            write_v2_start(out, V2_PROXY, V2_TCP4, 12);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        Family::V6(source, destination) => {
            write_v2_start(out, V2_PROXY, V2_TCP6, 36);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Appends a header of version 2 for a datagram from `source` to `destination`.
pub fn write_v2_datagram(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let family = out.len() + V2_SIGNATURE.len() + 1;
    write_v2(out, Some((source, destination)));
    // The lower half of the byte is the transport (2.2): 1 = STREAM, 2 = DGRAM.
    out[family] += 1;
}

fn write_v2_start(out: &mut Vec<u8>, command: u8, family: u8, length: u16) {
    out.extend_from_slice(&V2_SIGNATURE);
    out.extend_from_slice(&[command, family]);
    out.extend_from_slice(&length.to_be_bytes());
}

/// Two addresses as a header can carry them.
enum Family {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn one_family(source: IpAddr, destination: IpAddr) -> Family {
    match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Family::V4(source, destination),
        (source, destination) => Family::V6(as_v6(source), as_v6(destination)),
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// An IPv6 address in hexadecimal only, as version 1 wants it: the usual form of a mapped one ends in dotted decimal.
struct Hex(Ipv6Addr);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.to_ipv4_mapped() {
            None => write!(f, "{}", self.0),
            Some(_) => {
                let [.., high, low] = self.0.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
        }
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let (start, rest) = bytes.split_at(bytes.len().min(V1_START.len()));
    if !V1_START.starts_with(start) {
        return Err(Malformed);
    }
    let window = &rest[..rest.len().min(V1_MAX_BYTES - V1_START.len())];
    let Some(end) = window.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        // The last two bytes of the longest line are its CRLF.
        let fits = bytes.len() < V1_MAX_BYTES - 1;
        return if fits && may_become_line(window) { Ok(Parsed::Incomplete) } else { Err(Malformed) };
    };
    let source = parse_line(&window[..end])?;
    match window[end..] {
        [b'\r', b'\n', ..] => Ok(Parsed::Done { consumed: V1_START.len() + end + 2, source }),
        [b'\r'] if bytes.len() < V1_MAX_BYTES => Ok(Parsed::Incomplete),
        _ => Err(Malformed),
    }
}

/// A whole line between "PROXY " and CRLF.
fn parse_line(line: &[u8]) -> Result<Option<Ends>, Malformed> {
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(None); // the rest of the line, if any, must be ignored
    }
    let mut fields = std::str::from_utf8(line).map_err(|_| Malformed)?.split(' ');
    let mut next = || fields.next().ok_or(Malformed);
    let address: fn(&str) -> Result<IpAddr, Malformed> = match next()? {
        "TCP4" => parse_address::<Ipv4Addr>,
        "TCP6" => parse_address::<Ipv6Addr>,
        _ => return Err(Malformed),
    };
    let (source, destination) = (address(next()?)?, address(next()?)?);
    let (from, to) = (parse_port(next()?)?, parse_port(next()?)?);
    if fields.next().is_some() {
        return Err(Malformed);
    }
    Ok(Some((SocketAddr::new(source, from), SocketAddr::new(destination, to))))
}

/// Whether the begin of a line (no end in sight) can go on to be one: every field that is complete is right, and the
/// last one has no byte that it cannot have.
fn may_become_line(line: &[u8]) -> bool {
    const UNKNOWN: &[u8] = b"UNKNOWN ";
    if line.starts_with(UNKNOWN) || UNKNOWN.starts_with(line) {
        return true;
    }
    let Ok(line) = std::str::from_utf8(line) else {
        return false;
    };
    let Some((kind, fields)) = line.split_once(' ') else {
        return "TCP4".starts_with(line) || "TCP6".starts_with(line);
    };
    let v4 = kind == "TCP4";
    let is_address = |field: &str| match v4 {
        true => parse_address::<Ipv4Addr>(field).is_ok(),
        false => parse_address::<Ipv6Addr>(field).is_ok(),
    };
    let in_address = |byte: u8| match v4 {
        true => byte.is_ascii_digit() || byte == b'.',
        false => byte.is_ascii_hexdigit() || byte == b':' || byte == b'.',
    };
    let mut fields = fields.split(' ').enumerate().peekable();
    while let Some((number, field)) = fields.next() {
        let complete = fields.peek().is_some();
        let fits = match (number, complete) {
            (0 | 1, true) => is_address(field),
            (0 | 1, false) => field.bytes().all(in_address),
            (2, true) => parse_port(field).is_ok(),
            (2 | 3, false) => field.bytes().all(|byte| byte.is_ascii_digit()),
            _ => false,
        };
        if !fits {
            return false;
        }
    }
    v4 || kind == "TCP6"
}

fn parse_address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Malformed> {
    // The standard parsers are as strict as the protocol: no heading zeros in IPv4, no zone in IPv6.
    text.parse::<A>().map(|address| address.into().to_canonical()).map_err(|_| Malformed)
}

/// 0 to 65535, digits only and no heading zero.
fn parse_port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let start = &bytes[..bytes.len().min(V2_SIGNATURE.len())];
    let command = bytes.get(12).copied();
    let kind = bytes.get(13).copied();
    if !V2_SIGNATURE.starts_with(start)
        || command.is_some_and(|command| !matches!(command, V2_LOCAL_COMMAND | V2_PROXY))
    {
        return Err(Malformed);
    }
    // What LOCAL says of family and protocol is ignored.
    let is_known = |kind: u8| kind >> 4 <= 3 && kind & 0x0F <= 2;
    if command == Some(V2_PROXY) && kind.is_some_and(|kind| !is_known(kind)) {
        return Err(Malformed);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Parsed::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let tcp = kind.filter(|_| command == Some(V2_PROXY));
    let least = match tcp {
        Some(V2_TCP4) => 12,
        Some(V2_TCP6) => 36,
        _ => 0,
    };
    if length < least || length > V2_MAX_BYTES - V2_FIXED_BYTES {
        return Err(Malformed);
    }
    let Some(block) = rest.get(..length) else {
        return Ok(Parsed::Incomplete);
    };
    let source = match tcp {
        Some(V2_TCP4) => read_ends::<4, Ipv4Addr>(block),
        Some(V2_TCP6) => read_ends::<16, Ipv6Addr>(block),
        _ => None,
    };
    Ok(Parsed::Done { consumed: V2_FIXED_BYTES + length, source })
}

/// Two addresses of N bytes, then two ports, in network byte order; None when the block is too short for them.
fn read_ends<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Option<Ends> {
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let to = rest.first_chunk::<2>()?;
    let end = |address: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new(A::from(*address).into().to_canonical(), u16::from_be_bytes(*port))
    };
    Some((end(source, from), end(destination, to)))
}

#[cfg(test)]
mod tests;
