//! The fields of a head as they were read, and what one look at each of them tells.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;

use super::head::{Bad, place};
use crate::gateway::meaning::Meaning;
use crate::gateway::message::Field;

const END: &[u8] = b"\r\n";

/// The fields of a head, in its bytes.
#[derive(Debug)]
pub struct Lines {
    head: Bytes,
    lines: Vec<Line>,
}

/// Where in a head a field stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    name: u32,
    value: u32,
    value_bytes: u32,
    name_bytes: u16,
    /// Nothing stands between them but a colon and a space, and behind them only the end of the line.
    is_tidy: bool,
    meaning: Meaning,
}

impl Lines {
    pub(super) fn new(head: Bytes, lines: Vec<Line>) -> Self {
        Self { head, lines }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Each field.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| Field {
            meaning: line.meaning,
            name: &self.head[line.name()],
            value: &self.head[line.value()],
            line: line.is_tidy.then(|| &self.head[line.name().start..line.value().end + END.len()]),
        })
    }

    /// Takes away those of which this is not true.
    pub fn retain(&mut self, stays: impl Fn(Meaning) -> bool) {
        self.lines.retain(|line| stays(line.meaning));
    }

    /// `Host`.
    pub fn host(&self) -> Option<HeaderValue> {
        let line = self.lines.iter().find(|line| line.meaning == Meaning::Host)?;
        Some(self.value_of(line))
    }

    fn value_of(&self, line: &Line) -> HeaderValue {
        let value = HeaderValue::from_maybe_shared(self.head.slice(line.value()));
        // Of each byte a test shows that httparse takes none in values, and none in names, that these types do not.
        value.expect("httparse has read it as a value")
    }

    /// As a map.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for line in &self.lines {
            let name = HeaderName::from_bytes(&self.head[line.name()]);
            map.append(name.expect("httparse has read it as a name, and it is not too long"), self.value_of(line));
        }
        map
    }
}

impl Line {
    fn name(self) -> std::ops::Range<usize> {
        self.name as usize..self.name as usize + usize::from(self.name_bytes)
    }

    fn value(self) -> std::ops::Range<usize> {
        self.value as usize..self.value as usize + self.value_bytes as usize
    }
}

/// What a head says of its connection and of its body.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// It names what the connection is to be.
    stays: bool,
    closes: bool,
    /// What Content-Length says, in how many digits, how often, and whether it is wrong.
    length: Option<u64>,
    digits: usize,
    lengths: usize,
    is_length_bad: bool,
    /// How often there is a coding, and whether it is the one that is known.
    codings: usize,
    is_chunked: bool,
    hosts: usize,
    /// The client waits for a word before it sends its body.
    pub(super) expects: bool,
    /// There is something of one hop to be looked at: an upgrade, trailers, or other names in Connection.
    has_hop: bool,
    /// Something that a client may not say as it likes.
    has_claim: bool,
    has_expectation: bool,
}

/// Looks at each field, of which httparse has found the places.
pub(super) fn look(read: &[u8], fields: &[Header<'_>]) -> Result<(Vec<Line>, Seen), Bad> {
    let mut seen = Seen::default();
    let mut lines = Vec::with_capacity(fields.len());
    for field in fields {
        let meaning = Meaning::of(field.name.as_bytes());
        seen.note(meaning, field.value);
        let (name, value) = (place(read, field.name.as_bytes()), place(read, field.value));
        let too_long = |_| Bad::Syntax(httparse::Error::HeaderName);
        let name_bytes = u16::try_from(name.len()).map_err(too_long)?;
        let at = |at: usize| u32::try_from(at).map_err(|_| Bad::TooLarge);
        let (colon, end) = (name.end..value.start, value.end..value.end + END.len());
        let is_tidy = read.get(colon) == Some(b": ") && read.get(end) == Some(END);
        let (name, value_bytes, value) = (at(name.start)?, at(value.len())?, at(value.start)?);
        lines.push(Line { name, value, value_bytes, name_bytes, is_tidy, meaning });
    }
    Ok((lines, seen))
}

impl Seen {
    fn note(&mut self, meaning: Meaning, value: &[u8]) {
        match meaning {
            Meaning::Ordinary | Meaning::Date | Meaning::Hop => {}
            Meaning::Host => self.hosts += 1,
            Meaning::Length => {
                let length = number(value);
                let is_another = (length, value.len()) != (self.length, self.digits);
                self.is_length_bad |= length.is_none() || (self.lengths > 0 && is_another);
                (self.length, self.digits) = (length, value.len());
                self.lengths += 1;
            }
            Meaning::Coding => {
                self.codings += 1;
                self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            Meaning::Connection => {
                for option in value.split(|byte| *byte == b',') {
                    match option.trim_ascii() {
                        option if option.eq_ignore_ascii_case(b"keep-alive") => self.stays = true,
                        option if option.eq_ignore_ascii_case(b"close") => self.closes = true,
                        _ => self.has_hop = true,
                    }
                }
            }
            Meaning::Upgrade | Meaning::Te => self.has_hop = true,
            Meaning::Expect => {
                // Only the first one counts.
                self.expects |= !self.has_expectation && value.eq_ignore_ascii_case(b"100-continue");
                self.has_expectation = true;
            }
            Meaning::Client => self.has_claim = true,
        }
    }

    /// Whether the connection stays for another message (RFC 9112, 9.3).
    pub(super) fn keeps(&self, is_old: bool) -> bool {
        !self.closes && (self.stays || !is_old)
    }

    /// Whether its body is in chunks.
    pub(super) fn is_chunked(&self, is_old: bool) -> Result<bool, Bad> {
        match self.codings {
            0 => Ok(false),
            1 if self.is_chunked && !is_old => Ok(true),
            _ => Err(Bad::Coding),
        }
    }

    /// Whether a body is to follow, as far as its header says.
    pub(super) fn announces_body(&self) -> bool {
        self.codings > 0 || self.length.is_some_and(|length| length > 0)
    }

    /// What Content-Length says.
    pub(super) fn length(&self) -> Result<Option<u64>, Bad> {
        if self.is_length_bad { Err(Bad::Length) } else { Ok(self.length) }
    }

    /// Whether a request is only to be passed on, as far as its header tells.
    pub(super) fn is_plain_request(&self) -> bool {
        let Self { has_hop, has_claim, has_expectation, hosts, lengths, .. } = *self;
        !has_hop && !has_claim && !has_expectation && hosts <= 1 && lengths <= 1
    }

    /// Whether a response is only to be passed on, as far as its header tells.
    pub(super) fn is_plain_response(&self) -> bool {
        !self.has_hop && self.lengths <= usize::from(self.codings == 0)
    }

    /// Makes one line of a Content-Length that is said several times alike (RFC 9112, 6.3).
    pub(super) fn say_length_once(&self, headers: &mut HeaderMap) {
        if self.lengths > 1
            && let Some(length) = self.length
        {
            headers.insert(CONTENT_LENGTH, length.into());
        }
    }
}

/// Digits and nothing else: a sign, which a number may have elsewhere, is none here.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
