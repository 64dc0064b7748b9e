//! Patterns of paths, cut into segments, and the tree in which they are looked up.

use std::collections::HashMap;

use crate::config::http::{PathPattern, Pattern};
use crate::gateway::canonical::canonical_path;

/// A pattern: its segments from the root, and what may follow them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub segments: Vec<Segment>,
    pub end: End,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Segment {
    /// This one.
    Literal(Box<str>),
    /// Any but an empty one, and its name.
    Variable(Box<str>),
}

/// What may follow the segments.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// Nothing.
    Here,
    /// Nothing, or more segments.
    Below,
    /// At least one byte more, and its name.
    Rest(Box<str>),
    /// There are no segments: this decides.
    Regex(Pattern),
}

/// How specific a pattern is: smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Exact,
    Template,
    Prefix,
    Regex,
    Any,
}

impl Shape {
    /// Cuts a pattern. What it says literally is made canonical, as paths are.
    pub fn new(pattern: &PathPattern) -> Self {
        let (text, end) = match pattern {
            PathPattern::Any => ("", End::Below),
            PathPattern::Template(text) => (text.as_str(), End::Here),
            PathPattern::Prefix(text) => (text.trim_end_matches('/'), End::Below),
            PathPattern::Regex(regex) => ("", End::Regex(regex.clone())),
        };
        let mut shape = Self { segments: Vec::new(), end };
        for segment in text.strip_prefix('/').into_iter().flat_map(|text| text.split('/')) {
            let name = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
            match name.filter(|_| shape.end == End::Here) {
                Some(name) => match name.strip_prefix('*') {
                    Some(rest) => shape.end = End::Rest(rest.into()),
                    None => shape.segments.push(Segment::Variable(name.into())),
                },
                None => shape.segments.push(Segment::Literal(literal(segment))),
            }
        }
        shape
    }

    pub fn class(&self) -> Class {
        match &self.end {
            End::Regex(_) => Class::Regex,
            End::Below if self.segments.is_empty() => Class::Any,
            End::Below | End::Rest(_) => Class::Prefix,
            End::Here if self.literals() == self.segments.len() => Class::Exact,
            End::Here => Class::Template,
        }
    }

    pub fn literals(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count()
    }

    /// What the pattern's name stands for in a path that it matches; `rest` is what follows a prefix.
    pub fn variable<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        let mut left = path.strip_prefix('/');
        for segment in &self.segments {
            let (value, next) = cut(left?);
            if matches!(segment, Segment::Variable(known) if **known == *name) {
                return Some(value);
            }
            left = next;
        }
        match &self.end {
            End::Rest(known) if **known == *name => left,
            End::Below if name == "rest" => Some(left.unwrap_or_default()),
            _ => None,
        }
    }
}

/// The first segment of what is left of a path, and what is left then.
fn cut(left: &str) -> (&str, Option<&str>) {
    left.split_once('/').map_or((left, None), |(segment, next)| (segment, Some(next)))
}

/// A segment as it stands in a canonical path. One that no canonical path can hold stays as it is, and never matches.
pub(super) fn literal(segment: &str) -> Box<str> {
    let canonical = canonical_path(&format!("/{segment}")).ok().flatten();
    canonical.as_ref().and_then(|path| path.strip_prefix('/')).unwrap_or(segment).into()
}

/// Ranks of routes by the shape of their paths. Each list is in ascending order, since they are inserted so.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    root: Node,
    regex: Vec<(Pattern, u32)>,
    any: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    variable: Option<Box<Node>>,
    here: Vec<u32>,
    below: Vec<u32>,
    rest: Vec<u32>,
}

impl Paths {
    /// A rank higher than all before.
    pub fn insert(&mut self, shape: &Shape, rank: u32) {
        match (&shape.end, shape.class()) {
            (End::Regex(regex), _) => return self.regex.push((regex.clone(), rank)),
            (_, Class::Any) => return self.any.push(rank),
            _ => {}
        }
        let node = shape.segments.iter().fold(&mut self.root, |node, segment| match segment {
            Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
            Segment::Variable(_) => node.variable.get_or_insert_default(),
        });
        match &shape.end {
            End::Below => node.below.push(rank),
            End::Rest(_) => node.rest.push(rank),
            End::Here | End::Regex(_) => node.here.push(rank),
        }
    }

    /// Shows the lists of all patterns that match, the most specific ones first, mostly: the ranks decide.
    /// `visit` is told whether the list still matters by what it returns: the lowest rank found so far.
    pub fn visit(&self, path: &str, visit: &mut impl FnMut(&[u32]) -> u32) {
        if let Some(path) = path.strip_prefix('/') {
            self.root.visit(Some(path), visit);
        }
        let mut best = visit(&[]);
        for (regex, rank) in &self.regex {
            if *rank >= best {
                break;
            }
            if regex.0.is_match(path) {
                best = visit(&[*rank]);
            }
        }
        visit(&self.any);
    }
}

impl Node {
    /// `left`: of the path, behind the slash that follows this node; nothing where the path ends here.
    fn visit(&self, left: Option<&str>, visit: &mut impl FnMut(&[u32]) -> u32) {
        if let Some(left) = left {
            let (segment, next) = cut(left);
            if let Some(node) = self.literals.get(segment) {
                node.visit(next, visit);
            }
            if let Some(node) = self.variable.as_ref().filter(|_| !segment.is_empty()) {
                node.visit(next, visit);
            }
            if !left.is_empty() {
                visit(&self.rest);
            }
        } else {
            visit(&self.here);
        }
        visit(&self.below);
    }
}
