//! An answer to a client: its head, and what of its body is to be sent next.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame};

use super::framing::Encoder;
use super::head;
use super::wire::Outbox;
use crate::gateway::body::{Cut, ResponseBody};
use crate::gateway::meaning::Meaning;
use crate::gateway::message::Answer;

/// What an answer has to know of its request.
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// HTTP/1.0.
    pub is_old: bool,
    /// The connection may carry another one.
    pub keeps: bool,
}

/// An answer on its way.
pub struct Reply {
    encoder: Encoder,
    /// Another request may follow.
    pub keeps: bool,
    /// Its body is over.
    pub is_over: bool,
    /// It broke off before its end.
    pub is_cut: bool,
}

impl Reply {
    /// Writes its head.
    pub fn begin(asked: &Asked, keeps: bool, answer: &Answer<ResponseBody>, date: &[u8], row: &mut Vec<u8>) -> Self {
        let status = answer.status;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let is_bare = head::has_no_body(status, &asked.method);
        let length = answer.body.size_hint().exact();
        let encoder = match length {
            _ if is_bare => Encoder::Length(0),
            Some(length) => Encoder::Length(length),
            None if asked.is_old => Encoder::UntilClose,
            None => Encoder::Chunked,
        };
        head::answer(answer, asked.is_old, row);
        let (mut closes, mut says_length, mut says_date) = (false, false, false);
        answer.headers.each(|field| {
            let is_ours = match field.meaning {
                Meaning::Connection => {
                    closes |= field.value == b"close";
                    !switches
                }
                Meaning::Length => {
                    says_length = true;
                    // Of a body that is not sent it says how long it would be.
                    !is_bare || status == StatusCode::NO_CONTENT || switches
                }
                Meaning::Coding => true,
                Meaning::Date => {
                    says_date = true;
                    false
                }
                _ => false,
            };
            if !is_ours {
                head::pass(field, row);
            }
        });
        let keeps = keeps && !closes && encoder != Encoder::UntilClose;
        match encoder {
            Encoder::Chunked => head::field(b"transfer-encoding", b"chunked", row),
            Encoder::Length(length) if !is_bare => head::length(length, row),
            _ => {
                let would_be = length.filter(|length| *length > 0 && asked.method == Method::HEAD);
                if let Some(length) = would_be.filter(|_| !says_length) {
                    head::length(length, row);
                }
            }
        }
        if !says_date && !switches {
            head::field(b"date", date, row);
        }
        if !keeps && !switches {
            head::field(b"connection", b"close", row);
        } else if asked.is_old && !switches {
            head::field(b"connection", b"keep-alive", row);
        }
        row.extend_from_slice(b"\r\n");
        Self { encoder, keeps, is_over: is_bare, is_cut: false }
    }

    /// Whether nothing but the end of the connection tells its end.
    pub fn ends_with_connection(&self) -> bool {
        self.encoder == Encoder::UntilClose
    }

    /// Takes the next piece of its body.
    pub fn take(&mut self, frame: Option<Result<Frame<Bytes>, Cut>>, outbox: &mut Outbox) {
        let added = match frame.transpose().map(|frame| frame.map(Frame::into_data)) {
            Err(_) => return (self.is_over, self.is_cut) = (true, true),
            Ok(Some(Ok(data))) => outbox.piece(data, &mut self.encoder),
            Ok(Some(Err(trailers))) => {
                self.is_over = true;
                outbox.end(trailers.into_trailers().ok().as_ref(), self.encoder)
            }
            Ok(None) => {
                self.is_over = true;
                outbox.end(None, self.encoder)
            }
        };
        if added.is_err() {
            (self.is_over, self.is_cut) = (true, true);
        }
    }
}
