//! The path that a backend gets, and where a redirect leads. Both are made of canonical parts; a path is looked at once
//! more as a whole, since parts that are harmless alone can be something else together.

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::path::Shape;
use crate::gateway::canonical::{Canonical, Malformed, canonical_path};

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// This.
    Text(Box<str>),
    /// What this name stands for.
    Name(Box<str>),
}

/// Cuts a template at its `{name}`s. A brace without its other half is text.
pub(super) fn pieces(template: &str) -> Vec<Piece> {
    let (mut pieces, mut left) = (Vec::new(), template);
    while let Some((text, (name, next))) =
        left.split_once('{').and_then(|(text, behind)| Some((text, behind.split_once('}')?)))
    {
        pieces.push(Piece::Text(text.into()));
        pieces.push(Piece::Name(name.strip_prefix('*').unwrap_or(name).into()));
        left = next;
    }
    pieces.push(Piece::Text(left.into()));
    pieces
}

/// The path that `rewrite_path` wants, with the query as it was.
pub(super) fn rewritten(pieces: &[Piece], shape: &Shape, canonical: &Canonical) -> Result<PathAndQuery, Malformed> {
    let mut path = String::with_capacity(canonical.path().len());
    for piece in pieces {
        path.push_str(match piece {
            Piece::Text(text) => text,
            Piece::Name(name) => shape.variable(name, canonical.path()).unwrap_or_default(),
        });
    }
    let path = canonical_path(&path)?.unwrap_or(path);
    with_query(path, canonical.query())
}

/// The path without the prefix, if it has it by whole segments, with the query as it was.
pub(super) fn stripped(prefix: &str, canonical: &Canonical) -> Result<PathAndQuery, Malformed> {
    match canonical.path().strip_prefix(prefix) {
        Some("") => with_query("/".to_owned(), canonical.query()),
        Some(rest) if !prefix.is_empty() && rest.starts_with('/') => with_query(rest.to_owned(), canonical.query()),
        _ => Ok(canonical.path_and_query().clone()),
    }
}

fn with_query(mut path: String, query: Option<&str>) -> Result<PathAndQuery, Malformed> {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::try_from(path).map_err(|_| Malformed::TooLong)
}

/// Where a redirect leads. Host, path and query are ASCII without spaces and control bytes, so that nothing in them ends
/// the header; nor is there such a byte in the file.
pub(super) fn location(pieces: &[Piece], shape: &Shape, canonical: &Canonical) -> HeaderValue {
    let mut to = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => to.push_str(text),
            Piece::Name(name) => match &**name {
                "host" => to.push_str(canonical.host()),
                "path" => to.push_str(canonical.path()),
                "query" => {
                    if let Some(query) = canonical.query() {
                        to.push('?');
                        to.push_str(query);
                    }
                }
                name => to.push_str(shape.variable(name, canonical.path()).unwrap_or_default()),
            },
        }
    }
    HeaderValue::try_from(to).unwrap_or_else(|_| HeaderValue::from_static("/"))
}
