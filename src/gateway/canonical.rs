//! The one form of a request in which routing, policies, log and backend see it, or why it has none.
//!
//! It is made once, before anything looks at the request, and what is made here is what is forwarded: so there is no
//! second reading by which a policy could be walked around. What could be read in two ways is refused. A request that
//! is canonical already, as nearly all are, is shared and not copied.
//!
//! Framing is read before, in `http1::head`: differing Content-Lengths, and one next to a Transfer-Encoding, are refused
//! there. Transfer-Encoding itself is never passed on; see `forwarded`.
//! A fragment (`#...`) is cut off by the parser of URIs and never gets here.

use std::net::Ipv6Addr;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use percent_encoding::percent_decode_str;

use super::meaning::is_odd;
use super::message::Head;
use crate::config::http::folded;

/// Bytes of a host, as DNS has it (RFC 1035, 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// A request's canonical authority, path and query.
#[derive(Clone, Debug, PartialEq)]
pub struct Canonical {
    /// Whether it came over TLS.
    pub is_secure: bool,
    authority: Authority,
    path_and_query: PathAndQuery,
}

/// Host and port as the backend gets them.
#[derive(Clone, Debug, PartialEq)]
struct Authority {
    text: HeaderValue,
    /// The part of `text` that is the host.
    host_bytes: usize,
    port: Option<u16>,
}

/// Why a request has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum Malformed {
    #[error("CONNECT is not for a gateway")]
    Connect,
    #[error("its scheme is neither http nor https")]
    Scheme,
    #[error("it names no host")]
    NoHost,
    #[error("it has several Host headers")]
    SeveralHosts,
    #[error("its URI and its Host header name different hosts")]
    HostsDiffer,
    #[error("its host is not a name or an address, with or without a port")]
    BadHost,
    #[error("its path does not begin with a slash")]
    NoSlash,
    #[error("it asks for `*` and is not OPTIONS")]
    Star,
    #[error("its path or query holds a byte that must be percent-encoded")]
    RawByte,
    #[error("its path holds a backslash")]
    Backslash,
    #[error("its path holds a `%` without two hexadecimal digits")]
    Percent,
    #[error("its path holds a percent-encoded slash, backslash or control byte")]
    Encoded,
    #[error("its path is percent-encoded twice")]
    EncodedTwice,
    #[error("its path is not UTF-8 once decoded")]
    NotUtf8,
    #[error("its path leads out of the root")]
    Escapes,
    #[error("its path holds a dot segment with parameters")]
    DotParameters,
    #[error("its path is too long once encoded")]
    TooLong,
    #[error("it has a header whose name many backends read as that of a protected one")]
    Alias,
    #[error("its Connection header wants to take a protected header away")]
    Connection,
}

/// Makes the request canonical. `identity`: the names of headers by which backends are told who the client is.
///
/// HTTP/1.0 may name no host: then it is empty, and only routes without a host take the request.
pub fn canonical(head: &Head, is_secure: bool, identity: &[HeaderName]) -> Result<Canonical, Malformed> {
    if head.method == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    if head.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Malformed::Scheme);
    }
    if has_alias(head.headers.special(), identity) {
        return Err(Malformed::Alias);
    }
    let authority = authority(head, is_secure)?;
    let path_and_query = path_and_query(&head.method, head.uri.path_and_query().ok_or(Malformed::NoSlash)?)?;
    Ok(Canonical { is_secure, authority, path_and_query })
}

impl Canonical {
    /// In small letters, without a dot at its end; IPv6 in brackets; empty = HTTP/1.0 that named none.
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port that was named.
    pub fn port(&self) -> Option<u16> {
        self.authority.port
    }

    /// Host and port: what the backend gets as Host.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority.text
    }

    /// Begins with a slash, or is `*`.
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// As it was sent, without the question mark.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    /// Both.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }
}

// --- Authority -------------------------------------------------------------------------------------------------------

/// The one authority of a request (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn authority(head: &Head, is_secure: bool) -> Result<Authority, Malformed> {
    let host = head.headers.host().ok_or(Malformed::SeveralHosts)?;
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    match (host, named) {
        (Some(host), None) => Authority::read(host),
        (Some(host), Some(named)) => {
            let authority = Authority::read(host.clone())?;
            if host != named && !authority.is_same(&Authority::parse(named)?, is_secure) {
                return Err(Malformed::HostsDiffer);
            }
            Ok(authority)
        }
        (None, Some(named)) if head.version != Version::HTTP_11 => Authority::parse(named),
        (None, None) if head.version < Version::HTTP_11 => {
            Ok(Authority { text: HeaderValue::from_static(""), host_bytes: 0, port: None })
        }
        (None, _) => Err(Malformed::NoHost),
    }
}

impl Authority {
    fn parse(sent: &str) -> Result<Self, Malformed> {
        Self::read(HeaderValue::from_str(sent).map_err(|_| Malformed::BadHost)?)
    }

    fn read(sent: HeaderValue) -> Result<Self, Malformed> {
        let text = sent.to_str().map_err(|_| Malformed::BadHost)?;
        let find = |sign: u8| text.bytes().position(|byte| byte == sign);
        let (host, port) = match text.as_bytes() {
            [b'[', ..] => text.split_at(find(b']').ok_or(Malformed::BadHost)? + 1),
            _ => text.split_at(find(b':').unwrap_or(text.len())),
        };
        let port = read_port(port)?;
        let canonical = canonical_host(host)?;
        let host_bytes = canonical.as_ref().map_or(host.len(), String::len);
        // Canonical already, unless its port begins with a zero.
        let digits = text.as_bytes().get(host.len() + 1..).unwrap_or_default();
        if canonical.is_none() && (digits.len() <= 1 || digits[0] != b'0') {
            return Ok(Self { text: sent, host_bytes, port });
        }
        let mut text = canonical.unwrap_or_else(|| host.to_owned());
        if let Some(port) = port {
            text.push_str(&format!(":{port}"));
        }
        Ok(Self { text: HeaderValue::try_from(text).map_err(|_| Malformed::BadHost)?, host_bytes, port })
    }

    fn host(&self) -> &str {
        std::str::from_utf8(&self.text.as_bytes()[..self.host_bytes]).expect("a host is read as ASCII")
    }

    /// Whether both are the same place, be the port that goes without saying named or not.
    fn is_same(&self, other: &Self, is_secure: bool) -> bool {
        let usual = if is_secure { 443 } else { 80 };
        self.host() == other.host() && self.port.unwrap_or(usual) == other.port.unwrap_or(usual)
    }
}

/// What stands behind a host: nothing, or a colon and a number.
fn read_port(text: &str) -> Result<Option<u16>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(':').ok_or(Malformed::BadHost)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(Some).ok_or(Malformed::BadHost)
}

/// The canonical form of a host, where it is another one.
fn canonical_host(host: &str) -> Result<Option<String>, Malformed> {
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr =
            address.strip_suffix(']').and_then(|address| address.parse().ok()).ok_or(Malformed::BadHost)?;
        let canonical = format!("[{address}]");
        return Ok(Some(canonical).filter(|canonical| canonical != host));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut is_canonical = name.len() == host.len();
    // An empty label is one that ends where it begins.
    let mut before = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if before == b'.' => return Err(Malformed::BadHost),
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {}
            b'A'..=b'Z' => is_canonical = false,
            _ => return Err(Malformed::BadHost),
        }
        before = byte;
    }
    if before == b'.' || name.len() > HOST_BYTES_MAX {
        return Err(Malformed::BadHost);
    }
    Ok((!is_canonical).then(|| name.to_ascii_lowercase()))
}

// --- Path ------------------------------------------------------------------------------------------------------------

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Stays, and is decoded where it is percent-encoded (RFC 3986, 2.3).
    Unreserved,
    /// Stays as it was sent.
    Reserved,
    /// `/`.
    Slash,
    /// `%`.
    Percent,
    /// Is percent-encoded: no URI has it, but some clients send it.
    Sloppy,
    /// Is refused, raw and encoded.
    Backslash,
    /// Is refused, raw and encoded.
    Control,
    /// Is refused unless it is encoded.
    Raw,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Raw; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Kind::Unreserved,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Kind::Reserved,
            b'/' => Kind::Slash,
            b'%' => Kind::Percent,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Kind::Sloppy,
            b'\\' => Kind::Backslash,
            0..=0x1f | 0x7f => Kind::Control,
            _ => Kind::Raw,
        };
        byte += 1;
    }
    kinds
};

/// The canonical path with the query as it was sent.
fn path_and_query(method: &Method, sent: &PathAndQuery) -> Result<PathAndQuery, Malformed> {
    if sent.as_str() == "*" {
        return if method == Method::OPTIONS { Ok(sent.clone()) } else { Err(Malformed::Star) };
    }
    let query = sent.query();
    if query.is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Malformed::RawByte);
    }
    if !sent.as_str().starts_with('/') {
        return Err(Malformed::NoSlash);
    }
    let Some(mut path) = canonical_path(sent.path())? else { return Ok(sent.clone()) };
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::try_from(path).map_err(|_| Malformed::TooLong)
}

/// The canonical form of a path that begins with a slash, where it is another one: dot segments are resolved, slashes
/// merged, what need not be encoded is decoded, once, and the rest is encoded in capitals.
pub fn canonical_path(path: &str) -> Result<Option<String>, Malformed> {
    if is_plain(path.as_bytes()) {
        return Ok(None);
    }
    let segments = path.strip_prefix('/').ok_or(Malformed::NoSlash)?.split('/');
    let mut canonical = String::with_capacity(path.len());
    // Whether the path ends with a slash.
    let mut is_folder = false;
    for segment in segments {
        let start = canonical.len();
        canonical.push('/');
        push_segment(&mut canonical, segment)?;
        is_folder = matches!(&canonical[start + 1..], "" | "." | "..");
        if is_folder {
            let is_up = &canonical[start + 1..] == "..";
            canonical.truncate(start);
            if is_up {
                let parent = canonical.rfind('/').ok_or(Malformed::Escapes)?;
                canonical.truncate(parent);
            }
        }
    }
    if is_folder {
        canonical.push('/');
    }
    Ok(Some(canonical).filter(|canonical| canonical != path))
}

/// Whether a path is canonical at first sight. There are others: those with something encoded, and those with a dot at
/// the start of a segment.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.first() == Some(&b'/')
        && path.iter().all(|&byte| {
            let is_plain = match KINDS[usize::from(byte)] {
                Kind::Unreserved => byte != b'.' || before != b'/',
                Kind::Slash => before != b'/',
                kind => kind == Kind::Reserved,
            };
            before = byte;
            is_plain
        })
}

fn push_segment(canonical: &mut String, segment: &str) -> Result<(), Malformed> {
    let start = canonical.len();
    let mut bytes = segment.bytes();
    let mut is_ascii = true;
    while let Some(byte) = bytes.next() {
        match KINDS[usize::from(byte)] {
            Kind::Unreserved | Kind::Reserved | Kind::Slash => canonical.push(char::from(byte)),
            Kind::Sloppy => push_encoded(canonical, byte),
            Kind::Percent => {
                let mut digit =
                    || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8);
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Malformed::Percent) };
                let byte = high * 16 + low;
                is_ascii &= byte.is_ascii();
                match KINDS[usize::from(byte)] {
                    Kind::Unreserved => canonical.push(char::from(byte)),
                    Kind::Slash | Kind::Backslash | Kind::Control => return Err(Malformed::Encoded),
                    _ => push_encoded(canonical, byte),
                }
            }
            Kind::Backslash => return Err(Malformed::Backslash),
            Kind::Control | Kind::Raw => return Err(Malformed::RawByte),
        }
    }
    // What is too long for its character ("%C0%AF") is another way to write a slash.
    if !is_ascii && percent_decode_str(segment).decode_utf8().is_err() {
        return Err(Malformed::NotUtf8);
    }
    let segment = &canonical[start..];
    let is_hex = |text: &str| text.len() >= 2 && text.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if segment.match_indices("%25").any(|(at, found)| is_hex(&segment[at + found.len()..])) {
        return Err(Malformed::EncodedTwice);
    }
    // Some backends cut parameters off before they look for dots.
    let after_dots = segment.strip_prefix('.').map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    if after_dots.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B")) {
        return Err(Malformed::DotParameters);
    }
    Ok(())
}

fn push_encoded(canonical: &mut String, byte: u8) {
    canonical.push_str(percent_encoding::percent_encode_byte(byte));
}

// --- Headers ---------------------------------------------------------------------------------------------------------

/// Headers that say who the client is, or where the request begins and ends. With X-Forwarded-*.
const PROTECTED: [&str; 7] =
    ["forwarded", "x-real-ip", "x-request-id", "host", "authorization", "content-length", "transfer-encoding"];

/// Whether a name is one that this gateway speaks for.
pub(super) fn is_protected(name: &str, identity: &[HeaderName]) -> bool {
    name.starts_with("x-forwarded-") || PROTECTED.contains(&name) || identity.iter().any(|known| known == name)
}

/// Whether there is a header like `x_forwarded_for`: backends that make variables of headers cannot tell it from the
/// real one. Other names with such signs pass.
fn has_alias(headers: &HeaderMap, identity: &[HeaderName]) -> bool {
    let mut odd = headers.keys().filter(|name| is_odd(name.as_str().as_bytes()));
    odd.any(|name| reads_as_protected(name, identity))
}

/// Whether a name is one that this gateway speaks for, or its alias.
pub(super) fn reads_as_protected(name: &HeaderName, identity: &[HeaderName]) -> bool {
    is_protected(folded(name).as_str(), identity)
}

#[cfg(test)]
mod tests;
