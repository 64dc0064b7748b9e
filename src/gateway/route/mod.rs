//! Which route a request takes: pure.
//!
//! Routes stand in one order, best first: by `priority`, then host (named, by wildcard, none), path (without variables,
//! with them, by prefix, by expression, none; more segments first), number of further conditions, place in the file.
//! The first of them whose conditions all hold wins. Nobody walks that list: hosts are looked up in a map and paths in a
//! tree, which give the few routes that may match with their places (ranks) in it.
//!
//! `path` has the patterns of paths and their tree, `rewrite` the paths that leave, `overlap` and `sidestep` what `check`
//! warns of.

mod overlap;
mod path;
mod rewrite;
mod sidestep;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;

use self::path::{Paths, Shape};
use self::rewrite::{Piece, pieces};
use super::canonical::{Canonical, Malformed, canonical_path};
use super::policy::cors::asked_method;
use crate::config::http::{Gateway, HostPattern, Match, Route, ValuePattern};

/// The routes of a listener.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Known>,
    /// The route of each rank.
    ranks: Vec<u32>,
    /// By host.
    exact: HashMap<String, Paths>,
    /// By what follows the first label and its dot.
    wildcard: HashMap<String, Paths>,
    /// Of every host.
    any: Paths,
    looks_at_headers: bool,
    looks_at_questions: bool,
}

/// A route with what was made of it once.
#[derive(Clone, Debug)]
struct Known {
    route: Arc<Route>,
    shape: Shape,
    /// `strip_prefix`, canonical.
    strip: Option<String>,
    /// Of `rewrite_path`.
    rewrite: Option<Vec<Piece>>,
}

/// What routes look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request's.
    pub method: &'a Method,
    /// Its host, path and query.
    pub canonical: &'a Canonical,
    /// All of them, as the client sent them, if [`Table::looks_at_headers`] of this method.
    pub headers: &'a HeaderMap,
    /// Who asks, behind trusted proxies.
    pub client: IpAddr,
}

/// The route that a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// Its place among the routes of the listener, in the order of the file: see [`Table::routes`].
    pub index: usize,
    known: &'t Known,
}

impl Table {
    /// The routes of this listener.
    pub fn build(gateway: &Gateway, listener: &str) -> Self {
        let own = gateway.routes.iter().filter(|route| route.listener == listener);
        let mut table = Self { routes: own.map(Known::new).collect(), ..Self::default() };
        table.looks_at_headers = table.routes.iter().any(|known| looks_at_headers(&known.route.matches));
        table.looks_at_questions = table.routes.iter().any(|known| takes_questions(&known.route));
        for (rank, (at, host)) in (0..).zip(ranked(&table.routes)) {
            let paths = match host {
                Some(HostPattern::Exact(name)) => table.exact.entry(name).or_default(),
                Some(HostPattern::Wildcard(suffix)) => table.wildcard.entry(suffix).or_default(),
                None => &mut table.any,
            };
            paths.insert(&table.routes[at].shape, rank);
            table.ranks.push(u32::try_from(at).expect("a file of routes is not that long"));
        }
        table
    }

    /// All of them, in the order of the file.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.iter().map(|known| &known.route)
    }

    /// Whether any of them does for such a request: else nobody need have a map of its headers to find one.
    pub fn looks_at_headers(&self, method: &Method) -> bool {
        self.looks_at_headers || self.looks_at_questions && *method == Method::OPTIONS
    }

    /// The first route of the order whose conditions all hold.
    pub fn find(&self, asked: &Asked<'_>) -> Option<Found<'_>> {
        let has_hosts = !self.exact.is_empty() || !self.wildcard.is_empty();
        let host = if has_hosts { asked.canonical.host() } else { "" };
        let question = if self.looks_at_questions { asked_method(asked.method, asked.headers) } else { None };
        let wildcard = host.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        let mut best = u32::MAX;
        for paths in [self.exact.get(host), wildcard, Some(&self.any)].into_iter().flatten() {
            paths.visit(asked.canonical.path(), &mut |ranks| {
                let mut better = ranks.iter().copied().take_while(|rank| *rank < best);
                let holds = |rank: &u32| holds(&self.routes[self.route_of(*rank)].route, asked, question);
                if let Some(rank) = better.find(holds) {
                    best = rank;
                }
                best
            });
        }
        let index = self.ranks.get(best as usize).map(|at| *at as usize)?;
        Some(Found { index, known: &self.routes[index] })
    }

    fn route_of(&self, rank: u32) -> usize {
        self.ranks[rank as usize] as usize
    }
}

impl Known {
    fn new(route: &Arc<Route>) -> Self {
        let shape = Shape::new(&route.matches.path);
        let canonical = |prefix: &String| canonical_path(prefix).ok().flatten().unwrap_or_else(|| prefix.clone());
        let (strip, rewrite) = (route.strip_prefix.as_ref().map(canonical), route.rewrite_path.as_deref().map(pieces));
        Self { route: route.clone(), shape, strip, rewrite }
    }
}

impl<'t> Found<'t> {
    /// It.
    pub fn route(&self) -> &'t Arc<Route> {
        &self.known.route
    }

    /// What a name of the path's template stands for, as it stands in the path; `rest` is what follows a prefix.
    pub fn variable<'p>(&self, name: &str, canonical: &'p Canonical) -> Option<&'p str> {
        self.known.shape.variable(name, canonical.path())
    }

    /// Path and query as the backend gets them: canonical too. Fails where what the client sent would make another
    /// thing of the path that `rewrite_path` wants.
    pub fn forwarded(&self, canonical: &Canonical) -> Result<PathAndQuery, Malformed> {
        match (&self.known.rewrite, &self.known.strip) {
            _ if canonical.path() == "*" => Ok(canonical.path_and_query().clone()),
            (Some(pieces), _) => rewrite::rewritten(pieces, &self.known.shape, canonical),
            (None, Some(prefix)) => rewrite::stripped(prefix, canonical),
            (None, None) => Ok(canonical.path_and_query().clone()),
        }
    }

    /// Where a redirect to this template leads.
    pub fn location(&self, to: &str, canonical: &Canonical) -> HeaderValue {
        rewrite::location(&pieces(to), &self.known.shape, canonical)
    }
}

/// All hosts of all routes in the order in which they are asked.
fn ranked(routes: &[Known]) -> Vec<(usize, Option<HostPattern>)> {
    let mut entries: Vec<(usize, Option<HostPattern>)> = Vec::new();
    for (at, known) in routes.iter().enumerate() {
        let hosts = known.route.matches.hosts.iter().cloned().map(Some);
        entries.extend(hosts.map(|host| (at, host)));
        if known.route.matches.hosts.is_empty() {
            entries.push((at, None));
        }
    }
    entries.sort_by_cached_key(|(at, host)| {
        let known = &routes[*at];
        let host = match host {
            Some(HostPattern::Exact(_)) => 0,
            Some(HostPattern::Wildcard(_)) => 1,
            None => 2,
        };
        let (class, literals) = (known.shape.class(), Reverse(known.shape.literals()));
        (Reverse(known.route.priority), host, class, literals, Reverse(conditions(&known.route.matches)), *at)
    });
    entries
}

/// How many conditions there are beside host and path.
fn conditions(matches: &Match) -> usize {
    let single = [!matches.methods.is_empty(), matches.user_agent.is_some(), !matches.client_ip.is_empty()];
    matches.headers.len() + matches.query.len() + single.into_iter().filter(|is_set| *is_set).count()
}

/// Whether [`holds`] does.
fn looks_at_headers(matches: &Match) -> bool {
    !matches.headers.is_empty() || matches.user_agent.is_some()
}

/// Whether it takes browsers' questions (`cors`) about some methods only.
fn takes_questions(route: &Route) -> bool {
    route.policies.cors.is_some() && !route.matches.methods.is_empty()
}

/// Whether what is asked beside host and path holds. A browser's question is one of the route that answers it and takes
/// the method that it asks about.
fn holds(route: &Route, asked: &Asked<'_>, question: Option<&[u8]>) -> bool {
    let matches = &route.matches;
    let is_asked_about = |method: &Method| question.is_some_and(|wanted| method.as_str().as_bytes() == wanted);
    (matches.methods.is_empty()
        || matches.methods.contains(asked.method)
        || takes_questions(route) && matches.methods.iter().any(is_asked_about))
        && (matches.client_ip.is_empty() || matches.client_ip.iter().any(|net| net.contains(&asked.client)))
        && matches.headers.iter().all(|(name, pattern)| has_header(asked.headers, name, pattern))
        && matches.query.iter().all(|(name, pattern)| has_parameter(asked.canonical.query(), name, pattern))
        && matches.user_agent.as_ref().is_none_or(|agent| {
            let mut values = asked.headers.get_all(USER_AGENT).iter();
            values.any(|value| agent.0.is_match(&String::from_utf8_lossy(value.as_bytes())))
        })
}

/// Whether a header has the value: in one of its lines, or as one element of a list, for a proxy on the way may have
/// joined lines to a list.
fn has_header(headers: &HeaderMap, name: &HeaderName, pattern: &ValuePattern) -> bool {
    // What is no text is no way around an expression.
    let text = |value: &[u8]| match pattern {
        ValuePattern::Present => true,
        ValuePattern::Exact(wanted) => wanted.as_bytes() == value,
        ValuePattern::Regex(wanted) => wanted.0.is_match(&String::from_utf8_lossy(value)),
    };
    headers.get_all(name).iter().map(HeaderValue::as_bytes).any(|line| {
        text(line) || line.contains(&b',') && line.split(|byte| *byte == b',').any(|part| text(part.trim_ascii()))
    })
}

/// Whether a parameter of the query has the value, once decoded as forms are (a `+` is a space).
fn has_parameter(query: Option<&str>, name: &str, pattern: &ValuePattern) -> bool {
    query.unwrap_or_default().split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !pair.is_empty()
            && is_decoded(key, |key| key == name)
            && match pattern {
                ValuePattern::Present => true,
                ValuePattern::Exact(wanted) => is_decoded(value, |value| value == wanted),
                ValuePattern::Regex(wanted) => is_decoded(value, |value| wanted.0.is_match(value)),
            }
    })
}

fn is_decoded(text: &str, wanted: impl Fn(&str) -> bool) -> bool {
    if !text.contains(['%', '+']) {
        return wanted(text);
    }
    wanted(&percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy())
}

#[cfg(test)]
mod tests;
