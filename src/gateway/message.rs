//! Messages on their way through the gateway: the head of a request, an answer, and the header of both.

use std::sync::LazyLock;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, request};

use super::http1::Lines;
use super::meaning::Meaning;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// Its method.
    pub method: Method,
    /// What it asks for.
    pub uri: Uri,
    /// How it came.
    pub version: Version,
    /// Its header.
    pub headers: Headers,
}

/// An answer: a backend's, or one of the gateway.
#[derive(Debug)]
pub struct Answer<B> {
    /// Its status.
    pub status: StatusCode,
    /// What a backend calls its status, where that is not what it is called.
    pub reason: Option<HeaderValue>,
    /// Its header.
    pub headers: Headers,
    /// Its body.
    pub body: B,
}

/// A header. To make a map of what is only passed on would cost more than all else that is done with it.
#[derive(Debug)]
pub enum Headers {
    /// As it was read: a plain one, of which nothing has to be looked at before it is passed on, and only what is of one
    /// hop by its own name has to be taken away.
    Plain(Lines),
    /// For everybody else.
    Map(HeaderMap),
}

/// A field of a header.
#[derive(Clone, Copy, Debug)]
pub struct Field<'h> {
    /// What its name means.
    pub meaning: Meaning,
    /// Its name.
    pub name: &'h [u8],
    /// Its value.
    pub value: &'h [u8],
    /// Both as HTTP/1.1 writes them, with the end of the line, where they were read so.
    pub line: Option<&'h [u8]>,
}

impl Headers {
    /// As a map, which it is from now on.
    pub fn map(&mut self) -> &mut HeaderMap {
        if let Self::Plain(_) = self {
            *self = Self::Map(self.to_map());
        }
        match self {
            Self::Map(map) => map,
            Self::Plain(_) => unreachable!("it has just become a map"),
        }
    }

    /// A map of its own.
    pub fn to_map(&self) -> HeaderMap {
        match self {
            Self::Plain(lines) => lines.to_map(),
            Self::Map(map) => map.clone(),
        }
    }

    /// What is not plain in it: nothing, or all of it.
    pub fn special(&self) -> &HeaderMap {
        static NOTHING: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        match self {
            Self::Plain(_) => &NOTHING,
            Self::Map(map) => map,
        }
    }

    /// That of which something may have to be taken away, besides what is of one hop by its own name.
    pub fn special_mut(&mut self) -> Option<&mut HeaderMap> {
        match self {
            Self::Plain(_) => None,
            Self::Map(map) => Some(map),
        }
    }

    /// How many fields there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Plain(lines) => lines.count(),
            Self::Map(map) => map.len(),
        }
    }

    /// Its `Host`, if it has one; `None` = it has several.
    pub fn host(&self) -> Option<Option<HeaderValue>> {
        match self {
            Self::Plain(lines) => Some(lines.host()),
            Self::Map(map) => {
                let mut hosts = map.get_all(HOST).iter();
                let host = hosts.next().cloned();
                hosts.next().is_none().then_some(host)
            }
        }
    }

    /// Tells each field.
    pub fn each(&self, mut tell: impl FnMut(Field<'_>)) {
        match self {
            Self::Plain(lines) => {
                lines.iter().for_each(tell);
            }
            Self::Map(map) => {
                for (name, value) in map {
                    let name = name.as_str().as_bytes();
                    tell(Field { meaning: Meaning::of(name), name, value: value.as_bytes(), line: None });
                }
            }
        }
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        Self::Map(map)
    }
}

impl From<request::Parts> for Head {
    fn from(parts: request::Parts) -> Self {
        let request::Parts { method, uri, version, headers, .. } = parts;
        Self { method, uri, version, headers: headers.into() }
    }
}

impl<B> Answer<B> {
    /// With this header.
    pub fn new(status: StatusCode, headers: HeaderMap, body: B) -> Self {
        Self { status, reason: None, headers: headers.into(), body }
    }

    /// With another body.
    pub fn with<C>(self, other: impl FnOnce(B) -> C) -> Answer<C> {
        let Self { status, reason, headers, body } = self;
        Answer { status, reason, headers, body: other(body) }
    }
}

impl<B> From<Response<B>> for Answer<B> {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self::new(parts.status, parts.headers, body)
    }
}

impl<B> From<Answer<B>> for Response<B> {
    fn from(mut answer: Answer<B>) -> Self {
        let headers = std::mem::take(answer.headers.map());
        let mut response = Self::new(answer.body);
        (*response.status_mut(), *response.headers_mut()) = (answer.status, headers);
        response
    }
}
