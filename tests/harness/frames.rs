//! HTTP/2, frame by frame: a client that may do what none should, and a backend.

#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings fail")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::harness::{connect, patiently};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// RFC 9113, 7.
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// A frame (RFC 9113, 4.1).
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = (self.payload.len() as u32).to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }

    /// The code of a GOAWAY or a RST_STREAM.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A field as a literal without a name from the table (RFC 7541, 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| match text.len() {
        length @ ..127 => [&[length as u8][..], text.as_bytes()].concat(),
        length => {
            let mut rest = length - 127;
            let mut bytes = vec![127];
            while rest >= 128 {
                bytes.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            bytes.push(rest as u8);
            [&bytes[..], text.as_bytes()].concat()
        }
    };
    [vec![0], text(name), text(value)].concat()
}

pub fn head(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    usual.iter().chain(fields).flat_map(|(name, value)| field(name, value)).collect()
}

/// A client that has greeted.
pub struct Client {
    stream: TcpStream,
    next: u32,
}

impl Client {
    pub fn of(port: u16, settings: &[(u16, u32)]) -> Self {
        let mut client = Self { stream: connect(port), next: 1 };
        let pairs = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        let settings = Frame::new(SETTINGS, 0, 0, &pairs.collect::<Vec<u8>>());
        client.stream.write_all(&[PREFACE, &settings.bytes()].concat()).unwrap();
        client
    }

    pub fn try_send(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.bytes())
    }

    #[track_caller]
    pub fn send(&mut self, frame: &Frame) {
        self.try_send(frame).unwrap();
    }

    /// The number of the next stream.
    pub fn number(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// GET on a new stream.
    #[track_caller]
    pub fn get(&mut self, fields: &[(&str, &str)]) -> u32 {
        let stream = self.number();
        self.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", fields)));
        stream
    }

    /// POST on a new stream, with a part of its body.
    #[track_caller]
    pub fn half_a_post(&mut self) -> u32 {
        let stream = self.number();
        self.send(&Frame::new(HEADERS, END_HEADERS, stream, &head("POST", &[("content-length", "100")])));
        self.send(&Frame::new(DATA, 0, stream, b"half"));
        stream
    }

    fn frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()) & 0x7fff_ffff,
            payload,
        };
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            self.try_send(&Frame::new(SETTINGS, ACK, 0, &[]))?;
        }
        if frame.kind == PING && frame.flags & ACK == 0 {
            self.try_send(&Frame::new(PING, ACK, 0, &frame.payload))?;
        }
        Ok(frame)
    }

    /// Reads until a frame is the one that is waited for; `None` at the connection's end.
    #[track_caller]
    pub fn until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            match self.frame() {
                Ok(frame) if is_it(&frame) => return Some(frame),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("neither a frame nor an end"),
                Err(_) => return None,
            }
        }
    }

    /// Whether the connection ends.
    #[track_caller]
    pub fn ends(&mut self) -> bool {
        self.until(|_| false).is_none()
    }
}

/// The other end of a connection of evener, as a backend that has been greeted and greets.
pub struct Server(Client);

impl Server {
    #[track_caller]
    pub fn on(stream: TcpStream) -> Self {
        let mut own = Client { stream: patiently(stream), next: 2 };
        let mut preface = [0; PREFACE.len()];
        own.stream.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
        own.send(&Frame::new(SETTINGS, 0, 0, &[]));
        Self(own)
    }

    /// The stream of the next request.
    #[track_caller]
    pub fn request(&mut self) -> u32 {
        self.0.until(|frame| frame.kind == HEADERS).expect("a request").stream
    }

    /// Answers 200, and goes on if that is not all.
    #[track_caller]
    pub fn answer(&mut self, stream: u32, is_all: bool) {
        let end = if is_all { END_STREAM } else { 0 };
        self.0.send(&Frame::new(HEADERS, END_HEADERS | end, stream, &[STATUS_200]));
    }

    /// The last bytes of an answer.
    #[track_caller]
    pub fn finish(&mut self, stream: u32, bytes: &[u8]) {
        self.0.send(&Frame::new(DATA, END_STREAM, stream, bytes));
    }

    /// Says that it is there.
    #[track_caller]
    pub fn ping(&mut self) {
        self.0.send(&Frame::new(PING, 0, 0, &[0; 8]));
        assert!(self.0.until(|frame| frame.kind == PING && frame.flags & ACK != 0).is_some());
    }

    /// Whether the connection ends without another request.
    #[track_caller]
    pub fn ends(&mut self) -> bool {
        self.0.until(|frame| frame.kind == HEADERS).is_none()
    }
}

/// In the static table (RFC 7541, A).
const STATUS_200: u8 = 0x88;

/// That the encoder keeps no table (RFC 7541, 6.3).
const NO_TABLE: u8 = 0x20;

/// The status at the start of a response's header: of the static table, or a literal in Huffman's code (RFC 7541, A and B).
pub fn status(headers: &Frame) -> u16 {
    let payload = headers.payload.strip_prefix(&[NO_TABLE]).unwrap_or(&headers.payload);
    let usual = [(STATUS_200, 200), (0x89, 204), (0x8c, 400), (0x8d, 404), (0x8e, 500)];
    if let Some((_, status)) = usual.iter().find(|(index, _)| *index == payload[0]) {
        return *status;
    }
    let length = usize::from(payload[1] & 127);
    let literal = &payload[2..2 + length];
    (100..600).find(|status: &u16| huffman(&status.to_string()) == literal).unwrap()
}

/// Digits in Huffman's code, filled up with ones.
fn huffman(digits: &str) -> Vec<u8> {
    let codes = digits.bytes().map(|digit| match digit - b'0' {
        low @ 0..=2 => format!("{low:05b}"),
        high => format!("{:06b}", 0x19 + high - 3),
    });
    let mut bits: String = codes.collect();
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    (0..bits.len()).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap()).collect()
}

pub fn answer_to(stream: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.stream == stream && (frame.kind == HEADERS || frame.kind == RST_STREAM)
}
