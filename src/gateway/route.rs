//! Which route a request takes: pure.
use super::canonical::Canonical;
use crate::config::http::{Gateway, Route};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use std::net::IpAddr;
use std::sync::Arc;
/// x
pub struct Table(Vec<Arc<Route>>);
/// x
pub struct Asked<'r> {
    /// x
    pub method: &'r Method,
    /// x
    pub canonical: &'r Canonical,
    /// x
    pub headers: &'r HeaderMap,
    /// x
    pub client: IpAddr,
}
/// x
pub struct Found {
    /// x
    pub index: usize,
}
impl Table {
    /// x
    pub fn build(g: &Gateway, l: &str) -> Self {
        Self(g.routes.iter().filter(|r| r.listener == l).cloned().collect())
    }
    /// x
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }
    /// x
    pub fn find(&self, a: &Asked<'_>) -> Option<Found> {
        self.0
            .iter()
            .position(|r| match &r.matches.path {
                crate::config::http::PathPattern::Prefix(p) => a.canonical.path().starts_with(p.as_str()),
                _ => true,
            })
            .map(|index| Found { index })
    }
}
impl Found {
    /// x
    pub fn forwarded(&self, c: &Canonical) -> PathAndQuery {
        c.path_and_query().clone()
    }
    /// x
    pub fn location(&self, _: &str, _: &Canonical) -> HeaderValue {
        HeaderValue::from_static("/")
    }
}
