//! What `check` warns of: open routes whose requests leave, stripped or rewritten, as requests of protected ones do. No
//! route is looked for again by the path that leaves, so nobody asks who they are.

use std::sync::Arc;

use super::overlap::{
    Entry, conditions_cover, host_covers, methods_meet, path_covers, path_meets, segment_covers, segment_meets,
};
use super::path::{End, Segment, Shape, literal};
use super::rewrite::{Piece, pieces};
use super::{Known, Table, ranked};
use crate::config::http::{Action, HostPattern, PathPattern, Route};

impl Table {
    /// Routes that ask nobody who they are, without saying that this is meant, and by whose `strip_prefix` or
    /// `rewrite_path` a pool gets paths that it also gets by a route that asks. First the open one.
    pub fn sidesteps(&self) -> Vec<(&Arc<Route>, &Arc<Route>)> {
        let entries = ranked(&self.routes);
        let protected = self.routes.iter().enumerate().filter(|(_, known)| known.is_protected());
        let protected: Vec<_> = protected.map(|(at, known)| (at, known, leaving(known))).collect();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (rank, open) in entries.iter().enumerate() {
            let known = &self.routes[open.0];
            let Some(change) = Change::of(known).filter(|_| known.is_open()) else { continue };
            // The few that may have requests of its paths first.
            let rivals: Vec<_> = entries[..rank].iter().filter(|before| self.goes_before(before, open)).collect();
            let is_taken = |path: &Shape| rivals.iter().any(|(at, _)| path_covers(&self.routes[*at].shape, path));
            for (at, asks, left) in &protected {
                let arrives = |left| change.arriving(&known.shape, left).iter().any(|path| !is_taken(path));
                if shares(known, open.1.as_ref(), asks) && left.iter().any(arrives) {
                    pairs.push((open.0, *at));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs.into_iter().map(|(open, asks)| (&self.routes[open].route, &self.routes[asks].route)).collect()
    }

    /// Whether one takes all requests of another one with paths that are of both.
    fn goes_before(&self, before: &Entry, other: &Entry) -> bool {
        let (first, second) = (&self.routes[before.0], &self.routes[other.0]);
        before.0 != other.0
            && host_covers(before.1.as_ref(), other.1.as_ref())
            && conditions_cover(&first.route.matches, &second.route.matches)
            && path_meets(&first.shape, &second.shape)
    }
}

/// Whether a pool may get the same request, but for its path, by one at this host and by another one.
fn shares(one: &Known, host: Option<&HostPattern>, other: &Known) -> bool {
    let (Action::Forward(pools), Action::Forward(others)) = (&one.route.action, &other.route.action) else {
        return false;
    };
    let hosts = &other.route.matches.hosts;
    pools.iter().any(|(name, weight)| *weight > 0 && others.iter().any(|(other, _)| other == name))
        && methods_meet(&one.route.matches, &other.route.matches)
        && (hosts.is_empty()
            || hosts.iter().any(|other| host_covers(host, Some(other)) || host_covers(Some(other), host)))
}

/// The paths that its pools get.
fn leaving(known: &Known) -> Vec<Shape> {
    let shape = &known.shape;
    match Change::of(known) {
        None => vec![shape.clone()],
        Some(Change::Rewrite(template)) => template.made(shape),
        Some(Change::Strip(prefix)) => {
            let whole = (!path_covers(&prefix, shape)).then(|| shape.clone());
            stripped(&prefix.segments, shape).into_iter().chain(whole).collect()
        }
    }
}

/// What becomes of a path.
enum Change {
    /// With the prefix as a pattern.
    Strip(Shape),
    Rewrite(Template),
}

impl Change {
    fn of(known: &Known) -> Option<Self> {
        match (&known.route.rewrite_path, &known.strip) {
            (Some(template), _) => Some(Self::Rewrite(Template::new(template, &known.shape))),
            (None, Some(prefix)) => Some(Self::Strip(Shape::new(&PathPattern::Prefix(prefix.clone())))),
            (None, None) => None,
        }
    }

    /// The paths of a route that leave it, changed, as one of these; perhaps a few more.
    fn arriving(&self, shape: &Shape, left: &Shape) -> Vec<Shape> {
        let mut paths = match self {
            Self::Rewrite(template) => template.before(shape, left),
            Self::Strip(prefix) if matches!(left.end, End::Regex(_)) => vec![prefix.clone()],
            Self::Strip(prefix) => joined(&prefix.segments, &left.segments, &left.end),
        };
        paths.retain(|path| path_meets(path, shape));
        paths
    }
}

/// What is left of paths of this shape that begin with these segments.
fn stripped(prefix: &[Segment], shape: &Shape) -> Option<Shape> {
    if !prefix.iter().zip(&shape.segments).all(|(prefix, own)| segment_covers(own, prefix)) {
        return None;
    }
    match (shape.segments.get(prefix.len()..), &shape.end) {
        (Some([]), End::Here) => Some(Shape { segments: vec![Segment::Literal("".into())], end: End::Here }),
        (Some(left), end) => Some(Shape { segments: left.to_vec(), end: end.clone() }),
        (None, End::Here) => None,
        (None, _) => Some(Shape { segments: Vec::new(), end: End::Below }),
    }
}

/// Paths of both parts; also without the slash between them where that is all of the second one.
fn joined(head: &[Segment], tail: &[Segment], end: &End) -> Vec<Shape> {
    let mut whole = vec![Shape { segments: [head, tail].concat(), end: end.clone() }];
    if *end == End::Here && *tail == [Segment::Literal("".into())] {
        whole.push(Shape { segments: head.to_vec(), end: End::Here });
    }
    whole
}

/// A `rewrite_path`, as far as its segments are known.
struct Template {
    /// A variable without a name is one that shares its segment with others, or with text.
    segments: Vec<Segment>,
    rest: Rest,
}

/// What follows them.
#[derive(Clone, Copy, PartialEq)]
enum Rest {
    Nothing,
    /// What the rest of the path that came is.
    Same,
    Anything,
}

impl Template {
    fn new(template: &str, shape: &Shape) -> Self {
        let is_of_one = |name| shape.segments.contains(&Segment::Variable(name));
        let mut segments = Vec::new();
        let mut texts = template.split('/').skip(1).peekable();
        while let Some(text) = texts.next() {
            let pieces = pieces(text);
            let mut names = pieces.iter().filter_map(|piece| match piece {
                Piece::Name(name) => Some(name),
                Piece::Text(_) => None,
            });
            let is_whole = pieces.len() == 3 && text.starts_with('{') && text.ends_with('}');
            if names.clone().any(|name| !is_of_one(name.clone())) {
                let is_same = is_whole && texts.peek().is_none();
                return Self { segments, rest: if is_same { Rest::Same } else { Rest::Anything } };
            }
            segments.push(match names.next() {
                None => Segment::Literal(literal(text)),
                Some(name) if is_whole => Segment::Variable(name.clone()),
                Some(_) => Segment::Variable("".into()),
            });
        }
        Self { segments, rest: Rest::Nothing }
    }

    /// What it makes of paths of this shape.
    fn made(self, shape: &Shape) -> Vec<Shape> {
        let Self { segments, rest } = self;
        if rest == Rest::Nothing {
            return vec![Shape { segments, end: End::Here }];
        }
        let folder = Shape { segments: [&*segments, &[Segment::Literal("".into())]].concat(), end: End::Here };
        let more = Shape { segments, end: End::Rest("".into()) };
        let is_never_empty = rest == Rest::Same && matches!(shape.end, End::Rest(_));
        if is_never_empty { vec![more] } else { vec![more, folder] }
    }

    /// The paths of this shape of which it makes one of these; perhaps a few more.
    fn before(&self, shape: &Shape, left: &Shape) -> Vec<Shape> {
        let pairs = self.segments.iter().zip(&left.segments);
        if pairs.clone().any(|(made, wanted)| !segment_meets(made, wanted)) {
            return Vec::new();
        }
        // What is wanted behind its segments; `None` = they are more than that.
        let more = left.segments.get(self.segments.len()..);
        let is_possible = match (more, &left.end, self.rest) {
            (_, End::Regex(_), _) => true,
            (None, end, _) => *end != End::Here,
            (Some(more), end, Rest::Nothing) => more.is_empty() && !matches!(end, End::Rest(_)),
            (Some(more), end, _) => !more.is_empty() || *end != End::Here,
        };
        if !is_possible {
            return Vec::new();
        }
        let mut path = shape.clone();
        for (made, wanted) in pairs.filter(|(_, wanted)| matches!(wanted, Segment::Literal(_))) {
            path.segments.iter_mut().filter(|own| *own == made).for_each(|own| *own = wanted.clone());
        }
        match (more, self.rest) {
            (Some(more), Rest::Same) if !matches!(left.end, End::Regex(_)) => joined(&path.segments, more, &left.end),
            _ => vec![path],
        }
    }
}
