//! What `check` warns of: routes that nothing can reach, and open ones beside protected ones.

use std::sync::Arc;

use http::Method;

use super::path::{Class, End, Segment, Shape};
use super::{Known, Table, ranked, takes_questions};
use crate::config::http::{Action, HostPattern, Match, Route, ValuePattern};

/// A place in the order of routes: a route, and one of its hosts.
pub(super) type Entry = (usize, Option<HostPattern>);

impl Table {
    /// Routes that no request takes, each with one that takes all of its requests, or the first part of them.
    pub fn shadowed(&self) -> Vec<(&Arc<Route>, &Arc<Route>)> {
        let entries = ranked(&self.routes);
        let cover = |rank: usize| {
            let mut before = entries[..rank].iter();
            before.find(|before| before.0 != entries[rank].0 && self.covers(before, &entries[rank]))
        };
        let pairs = (0..self.routes.len()).filter_map(|at| {
            let mut own = (0..entries.len()).filter(|rank| entries[*rank].0 == at);
            let by = cover(own.next()?)?;
            own.all(|rank| cover(rank).is_some()).then(|| (&self.routes[at].route, &self.routes[by.0].route))
        });
        pairs.collect()
    }

    /// Routes that ask nobody who they are, without saying that this is meant, and take requests to hosts and paths of
    /// one that does: because they go before it, or because a request does not meet its further conditions. First the
    /// open one.
    pub fn exposed(&self) -> Vec<(&Arc<Route>, &Arc<Route>)> {
        let entries = ranked(&self.routes);
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (open_rank, open) in entries.iter().enumerate().filter(|(_, (at, _))| self.routes[*at].is_open()) {
            let protected = entries.iter().enumerate().filter(|(_, (at, _))| self.routes[*at].is_protected());
            for (rank, protected) in protected {
                let [asks, others] = [protected.0, open.0].map(|at| &self.routes[at].route.matches);
                let takes = open_rank < rank || !conditions_cover(asks, others);
                if takes && self.meets(open, protected) && !pairs.contains(&(open.0, protected.0)) {
                    pairs.push((open.0, protected.0));
                }
            }
        }
        pairs.sort_unstable();
        pairs.into_iter().map(|(open, protected)| (&self.routes[open].route, &self.routes[protected].route)).collect()
    }

    /// Whether every request of `b` is one of `a`.
    fn covers(&self, a: &Entry, b: &Entry) -> bool {
        let (first, second) = (&self.routes[a.0], &self.routes[b.0]);
        host_covers(a.1.as_ref(), b.1.as_ref())
            && path_covers(&first.shape, &second.shape)
            && conditions_cover(&first.route.matches, &second.route.matches)
            && questions_cover(&first.route, &second.route)
    }

    /// Whether a request can be one of both, as far as host, path and method say.
    fn meets(&self, a: &Entry, b: &Entry) -> bool {
        let (first, second) = (&self.routes[a.0], &self.routes[b.0]);
        let (host, other) = (a.1.as_ref(), b.1.as_ref());
        (host_covers(host, other) || host_covers(other, host))
            && methods_meet(&first.route.matches, &second.route.matches)
            && path_meets(&first.shape, &second.shape)
    }
}

impl Known {
    pub(super) fn is_protected(&self) -> bool {
        self.route.policies.auth.is_some()
    }

    /// Whether anybody may have requests forwarded by it, and nothing says that this is meant.
    pub(super) fn is_open(&self) -> bool {
        let is_meant = self.route.policies.is_meant_open;
        !self.is_protected() && !is_meant && matches!(self.route.action, Action::Forward(_))
    }
}

pub(super) fn host_covers(a: Option<&HostPattern>, b: Option<&HostPattern>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(HostPattern::Wildcard(suffix)), Some(HostPattern::Exact(name))) => {
            name.split_once('.').is_some_and(|(_, behind)| behind == suffix)
        }
        (Some(a), Some(b)) => a == b,
        (Some(_), None) => false,
    }
}

pub(super) fn path_covers(a: &Shape, b: &Shape) -> bool {
    match (&a.end, &b.end) {
        _ if a.class() == Class::Any => true,
        (End::Regex(a), End::Regex(b)) => a == b,
        (End::Regex(regex), _) => b.class() == Class::Exact && regex.0.is_match(&text(b)),
        (_, End::Regex(_)) => false,
        _ => {
            let covers = a.segments.iter().zip(&b.segments).all(|(a, b)| segment_covers(a, b));
            covers && a.segments.len() <= b.segments.len() && end_covers(a, b)
        }
    }
}

fn end_covers(a: &Shape, b: &Shape) -> bool {
    let more = &b.segments[a.segments.len()..];
    match a.end {
        End::Here => more.is_empty() && b.end == End::Here,
        End::Below => true,
        // At least a byte must follow: an empty segment alone has none.
        _ if more.is_empty() => matches!(b.end, End::Rest(_)),
        _ => *more != [Segment::Literal("".into())],
    }
}

pub(super) fn segment_covers(a: &Segment, b: &Segment) -> bool {
    match (a, b) {
        (Segment::Variable(_), Segment::Literal(literal)) => !literal.is_empty(),
        (Segment::Variable(_), Segment::Variable(_)) => true,
        (a, b) => a == b,
    }
}

pub(super) fn path_meets(a: &Shape, b: &Shape) -> bool {
    let regex_meets = |a: &Shape, b: &Shape| path_covers(a, b) || b.class() != Class::Exact;
    match (&a.end, &b.end) {
        (End::Regex(_), _) => regex_meets(a, b),
        (_, End::Regex(_)) => regex_meets(b, a),
        _ => {
            let (short, long) = if a.segments.len() <= b.segments.len() { (a, b) } else { (b, a) };
            let more = long.segments.len() - short.segments.len();
            let ends_meet = match (&short.end, &long.end) {
                (End::Here, End::Here | End::Below) => more == 0,
                (End::Here, _) => false,
                (End::Rest(_), End::Here) => more > 0,
                _ => true,
            };
            ends_meet && a.segments.iter().zip(&b.segments).all(|(a, b)| segment_meets(a, b))
        }
    }
}

pub(super) fn segment_meets(a: &Segment, b: &Segment) -> bool {
    segment_covers(a, b) || segment_covers(b, a)
}

pub(super) fn methods_meet(a: &Match, b: &Match) -> bool {
    a.methods.is_empty() || b.methods.is_empty() || a.methods.iter().any(|method| b.methods.contains(method))
}

/// The path of a pattern without variables.
fn text(shape: &Shape) -> String {
    let segments = shape.segments.iter().map(|segment| match segment {
        Segment::Literal(text) | Segment::Variable(text) => format!("/{text}"),
    });
    segments.collect()
}

/// Whether browsers' questions that `b` takes are of `a`, where their other requests are.
fn questions_cover(a: &Route, b: &Route) -> bool {
    let methods = &a.matches.methods;
    !takes_questions(b) || methods.is_empty() || a.policies.cors.is_some() || methods.contains(&Method::OPTIONS)
}

/// Whether what `b` asks beside host and path is at least what `a` asks. `false` also where that is hard to say.
pub(super) fn conditions_cover(a: &Match, b: &Match) -> bool {
    let holds = |wanted: &ValuePattern, known: &ValuePattern| wanted == known || *wanted == ValuePattern::Present;
    let within = |net: &ipnet::IpNet| a.client_ip.iter().any(|wide| wide.contains(net));
    (a.methods.is_empty() || !b.methods.is_empty() && b.methods.iter().all(|method| a.methods.contains(method)))
        && (a.client_ip.is_empty() || !b.client_ip.is_empty() && b.client_ip.iter().all(within))
        && (a.user_agent.is_none() || a.user_agent == b.user_agent)
        && a.headers
            .iter()
            .all(|(name, wanted)| b.headers.iter().any(|(known, value)| known == name && holds(wanted, value)))
        && a.query
            .iter()
            .all(|(name, wanted)| b.query.iter().any(|(known, value)| known == name && holds(wanted, value)))
}
