//! Which headers are passed on, and what is said of the client in them.
//!
//! What a header says of the client counts only if a trusted proxy sent it, and is taken away otherwise. Headers of one
//! hop go first, as the request came; what we say is added afterwards, so nobody can have it taken away again.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, FORWARDED, TE, UPGRADE, ValueIter};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::canonical::{Canonical, Malformed, is_protected, reads_as_protected};
use super::meaning::Meaning;
use super::message::Headers;
use crate::config::http::read_alike;

/// Bytes of an x-request-id that is taken over.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The name of a request, in the log of everything that it passes.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn meaning(name: &HeaderName) -> Meaning {
    Meaning::of(name.as_str().as_bytes())
}

// --- Headers of one hop ----------------------------------------------------------------------------------------------

/// Takes from a request what is meant for this hop. An upgrade must have been looked at before.
/// `identity`: as for [`super::canonical::canonical`].
pub fn strip_request(headers: &mut Headers, identity: &[HeaderName]) -> Result<(), Malformed> {
    let Some(headers) = of_one_hop(headers) else { return Ok(()) };
    let named = named_by_connection(headers);
    if named.iter().any(|name| is_protected(name.as_str(), identity)) {
        return Err(Malformed::Connection);
    }
    strip(headers, &named);
    Ok(())
}

/// Takes from a response what is meant for this hop. An upgrade must have been looked at before.
pub fn strip_response(headers: &mut Headers) {
    let Some(headers) = of_one_hop(headers) else { return };
    let named = named_by_connection(headers);
    strip(headers, &named);
}

/// That of which there may be more to take away than fields of known names.
fn of_one_hop(headers: &mut Headers) -> Option<&mut HeaderMap> {
    match headers {
        Headers::Plain(lines) => {
            lines.retain(|meaning| !meaning.is_of_one_hop());
            None
        }
        // As a rule there is nothing, which one look at each name tells.
        Headers::Map(map) => {
            let is_hop = |meaning: Meaning| meaning == Meaning::Te || meaning.is_of_one_hop();
            map.keys().map(meaning).any(is_hop).then_some(map)
        }
    }
}

/// Makes one line of the cookies that HTTP/2 may send one by one (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_some() && crumbs.next().is_some() {
        let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let whole = HeaderValue::from_maybe_shared(Bytes::from(all.join(&b"; "[..])));
        headers.insert(COOKIE, whole.expect("values have no control signs, nor has what joins them"));
    }
}

/// Takes from a request's trailers what says who the client is: nobody has looked at it there.
pub fn strip_trailers(trailers: &mut HeaderMap, identity: &[HeaderName]) {
    remove_if(trailers, |name| meaning(name).is_of_one_hop() || reads_as_protected(name, identity));
}

/// Takes away these headers, and all that a backend may read as one of them.
pub fn remove_with_aliases<'n>(headers: &mut HeaderMap, names: impl Iterator<Item = &'n HeaderName> + Clone) {
    remove_if(headers, |known| names.clone().any(|name| read_alike(known, name)));
}

/// As a rule there are none, which one look at each name tells.
fn remove_if(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

fn strip(headers: &mut HeaderMap, named: &[HeaderName]) {
    remove_if(headers, |name| meaning(name).is_of_one_hop() || named.contains(name));
    if headers.contains_key(TE) {
        let takes_trailers =
            elements(headers.get_all(TE).iter()).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// The headers that Connection takes away, without those that go or stay in any case.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let usual: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"te"];
    let named = elements(headers.get_all(CONNECTION).iter());
    let named = named.filter(|name| !usual.iter().any(|usual| name.eq_ignore_ascii_case(usual)));
    named.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// The protocols that a request asks to switch to, in its order (RFC 9110, 7.8). Never among them is h2c, a matter of one
/// hop that RFC 9113, 3.1, has taken away: a backend that took it would answer requests that nobody has looked at.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_h2c = |protocol: &&[u8]| protocol.eq_ignore_ascii_case(b"h2c");
    let mut protocols: Vec<&[u8]> = elements(headers.get_all(UPGRADE).iter()).filter(|any| !is_h2c(any)).collect();
    let is_asked =
        || elements(headers.get_all(CONNECTION).iter()).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    if protocols.is_empty() || !is_asked() {
        return None;
    }
    protocols.reverse();
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok()
}

/// The elements of a list from the right, over all headers of its name. They are bytes: whoever wants text asks each
/// element for it, so that one that is none spoils no other.
fn elements<'a>(values: ValueIter<'a, HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    values.rev().flat_map(|value| split(value.as_bytes(), b','))
}

/// What stands between signs that are not in quotes, from the right, where a client's own quotes cannot reach what
/// was added behind them.
fn split(list: &[u8], sign: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let parts = list.rsplit(move |next| {
        is_quoted ^= *next == b'"';
        *next == sign && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii)
}

// --- The client ------------------------------------------------------------------------------------------------------

/// Who asks, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address next to the last trusted proxy; without one, the peer's.
    pub address: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub is_trusted: bool,
}

/// Finds the client behind trusted proxies: X-Forwarded-For is read from the right, or Forwarded where there is none,
/// up to the first address that is not trusted. What is no address ends the walk at the last one that was.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&peer) {
        return Client { address: peer, is_trusted: false };
    }
    let mut address = peer;
    let mut walk = |named: Option<IpAddr>| {
        address = named.unwrap_or(address);
        named.is_some_and(|named| is_trusted(&named))
    };
    if headers.contains_key(&X_FORWARDED_FOR) {
        let _ended = elements(headers.get_all(&X_FORWARDED_FOR).iter()).map(read_address).all(&mut walk);
    } else {
        let _ended = elements(headers.get_all(FORWARDED).iter()).map(read_forwarded).all(&mut walk);
    }
    Client { address, is_trusted: true }
}

/// An address with or without a port.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// The address of an element of Forwarded (RFC 7239, 4), if it names one, and only one.
fn read_forwarded(element: &[u8]) -> Option<IpAddr> {
    let mut named = split(element, b';').filter_map(|pair| {
        let sign = pair.iter().position(|byte| *byte == b'=')?;
        pair[..sign].eq_ignore_ascii_case(b"for").then(|| &pair[sign + 1..])
    });
    let (value, None) = (named.next()?, named.next()) else { return None };
    read_address(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

// --- What is said of it ----------------------------------------------------------------------------------------------

/// The peer of a connection, and what is said of it: made once for all its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// In IPv4 where it can be.
    pub address: IpAddr,
    is_secure: bool,
    /// In X-Forwarded-For.
    plain: HeaderValue,
    /// In Forwarded.
    element: HeaderValue,
    /// Both and X-Forwarded-Proto, as HTTP/1.1 writes them.
    lines: Bytes,
}

impl Peer {
    /// A peer that came with or without TLS.
    pub fn new(address: IpAddr, is_secure: bool) -> Self {
        let address = address.to_canonical();
        let (plain, scheme) = (address.to_string(), scheme(is_secure));
        let element = format!("{};proto={scheme}", element(&plain, address));
        let lines = format!("x-forwarded-for: {plain}\r\nforwarded: {element}\r\nx-forwarded-proto: {scheme}\r\n");
        // One block without spare room, for it is there for each connection.
        let lines = Bytes::from(lines.into_boxed_str().into_boxed_bytes());
        let value = |start: usize, length: usize| {
            HeaderValue::from_maybe_shared(lines.slice(start..start + length)).expect("an address is text")
        };
        let start_of_plain = "x-forwarded-for: ".len();
        let start_of_element = start_of_plain + plain.len() + "\r\nforwarded: ".len();
        let (plain, element) = (value(start_of_plain, plain.len()), value(start_of_element, element.len()));
        Self { address, is_secure, plain, element, lines }
    }

    /// Makes the headers what a backend may be told of the client. Trusted proxies are heard, and added to; what others said
    /// is taken away, and what is to be said instead is given.
    pub fn announce<'r>(
        &'r self,
        headers: &mut Headers,
        canonical: &'r Canonical,
        client: Client,
        id: &'r RequestId,
    ) -> Option<Announced<'r>> {
        if client.is_trusted {
            let headers = headers.map();
            headers.insert(&X_REQUEST_ID, id.to_value());
            self.continue_chain(headers, canonical, client.address);
            return None;
        }
        if let Some(headers) = headers.special_mut() {
            // What an untrusted peer says of itself.
            remove_if(headers, |name| meaning(name) == Meaning::Client);
        }
        Some(Announced { peer: self, canonical, id })
    }

    /// Adds the peer to what trusted proxies have said, and what they have left out.
    fn continue_chain(&self, headers: &mut HeaderMap, canonical: &Canonical, client: IpAddr) {
        self.lengthen_lists(headers, client);
        let is_scheme = |value: &HeaderValue| value == "http" || value == "https";
        let is_secure = match single(headers, &X_FORWARDED_PROTO).filter(|value| is_scheme(value)) {
            Some(known) => known == "https",
            None => {
                headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme(self.is_secure)));
                self.is_secure
            }
        };
        if single(headers, &X_FORWARDED_HOST).is_none() {
            headers.insert(&X_FORWARDED_HOST, canonical.authority().clone());
        }
        let is_port = |value: &HeaderValue| value.to_str().is_ok_and(|port| port.parse::<u16>().is_ok());
        if !single(headers, &X_FORWARDED_PORT).is_some_and(is_port) {
            headers.insert(&X_FORWARDED_PORT, port(canonical, is_secure));
        }
    }

    /// Adds the peer to the list that led to the client. The other list, if there was one, may be what the client made
    /// up, and is written anew.
    fn lengthen_lists(&self, headers: &mut HeaderMap, client: IpAddr) {
        let is_plain = headers.contains_key(&X_FORWARDED_FOR);
        let plain = if is_plain { joined(headers, &X_FORWARDED_FOR) } else { client.to_string().into_bytes() };
        let is_forwarded = !is_plain && headers.contains_key(FORWARDED);
        let forwarded =
            if is_forwarded { joined(headers, &FORWARDED) } else { element(&client.to_string(), client).into_bytes() };
        let is_chain = is_plain || is_forwarded;
        let add = |mut list: Vec<u8>, own: &HeaderValue| {
            list.extend_from_slice(b", ");
            list.extend_from_slice(own.as_bytes());
            HeaderValue::from_maybe_shared(Bytes::from(list)).ok().filter(|_| is_chain)
        };
        headers.insert(&X_FORWARDED_FOR, add(plain, &self.plain).unwrap_or_else(|| self.plain.clone()));
        headers.insert(FORWARDED, add(forwarded, &self.element).unwrap_or_else(|| self.element.clone()));
    }
}

/// What a backend is told of a client for whom no trusted proxy speaks. Of these names there is none among the request's
/// own headers: it can be written behind them, which costs less than putting it among them.
#[derive(Clone, Copy, Debug)]
pub struct Announced<'r> {
    peer: &'r Peer,
    canonical: &'r Canonical,
    id: &'r RequestId,
}

impl Announced<'_> {
    /// What is the same for all requests of the client, as HTTP/1.1 writes it.
    pub fn lines(&self) -> &[u8] {
        &self.peer.lines
    }

    /// Tells each header that is not among these lines.
    pub fn others(&self, mut tell: impl FnMut(&HeaderName, &[u8])) {
        let Self { peer, canonical, id } = *self;
        tell(&X_REQUEST_ID, id.as_str().as_bytes());
        tell(&X_FORWARDED_HOST, canonical.authority().as_bytes());
        tell(&X_FORWARDED_PORT, port(canonical, peer.is_secure).as_bytes());
    }

    /// Puts all among the headers.
    pub fn put_among(&self, headers: &mut HeaderMap) {
        headers.insert(&X_FORWARDED_FOR, self.peer.plain.clone());
        headers.insert(FORWARDED, self.peer.element.clone());
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme(self.peer.is_secure)));
        self.others(|name, value| {
            let value = HeaderValue::from_bytes(value);
            headers.insert(name, value.expect("an id, an authority that was a value, and a number"));
        });
    }
}

/// What a request is called.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestId {
    /// Made here, of hexadecimal digits.
    Own([u8; 32]),
    /// As a trusted proxy calls it.
    Given(Box<str>),
}

impl RequestId {
    /// It.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Own(digits) => std::str::from_utf8(digits).expect("hexadecimal digits are text"),
            Self::Given(text) => text,
        }
    }

    /// As a header has it.
    fn to_value(&self) -> HeaderValue {
        HeaderValue::from_str(self.as_str()).expect("digits, or what was a value")
    }
}

/// An id that a trusted proxy gave the request, or a new one of 128 random bits.
pub fn request_id(headers: &HeaderMap, is_trusted: bool, random: impl FnOnce() -> u128) -> RequestId {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/+=@".contains(byte);
    let is_id = |id: &&str| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_usual);
    let given = if is_trusted { single(headers, &X_REQUEST_ID) } else { None };
    if let Some(id) = given.and_then(|value| value.to_str().ok()).filter(is_id) {
        return RequestId::Given(id.into());
    }
    let random = random();
    RequestId::Own(std::array::from_fn(|at| b"0123456789abcdef"[(random >> (124 - 4 * at)) as usize & 15]))
}

/// The port that was asked for; the usual one goes without saying.
fn port(canonical: &Canonical, is_secure: bool) -> HeaderValue {
    let usual = HeaderValue::from_static(if is_secure { "443" } else { "80" });
    canonical.port().map_or(usual, HeaderValue::from)
}

/// A header's value, if it has exactly one.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..])
}

/// An address in Forwarded (RFC 7239, 6).
fn element(text: &str, address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("for={text}"),
        IpAddr::V6(_) => format!("for=\"[{text}]\""),
    }
}

fn scheme(is_secure: bool) -> &'static str {
    if is_secure { "https" } else { "http" }
}

#[cfg(test)]
mod tests;
