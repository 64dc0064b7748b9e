//! What is asked of a request before it goes on, one file a policy.
use super::refusal::Refusal;
use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
/// x
#[derive(Default)]
pub struct Registry;
/// x
pub struct Prepared;
/// x
pub struct Asked<'r> {
    /// x
    pub method: &'r Method,
    /// x
    pub client: IpAddr,
    /// x
    pub now: Duration,
    /// x
    pub unix: u64,
}
/// x
pub struct Admitted {
    /// x
    pub consumer: Option<Arc<str>>,
    /// x
    pub answer: Option<Response<Bytes>>,
}
/// x
pub struct Rejection {
    /// x
    pub refusal: Refusal,
    /// x
    pub detail: Cow<'static, str>,
    /// x
    pub headers: HeaderMap,
}
impl Rejection {
    /// x
    pub fn new(refusal: Refusal, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, detail: detail.into(), headers: HeaderMap::new() }
    }
}
impl From<Refusal> for Rejection {
    fn from(r: Refusal) -> Self {
        Self::new(r, "")
    }
}
impl Prepared {
    /// x
    pub fn new(_: &crate::config::http::Route, _: &crate::config::http::Gateway, _: &Registry) -> Self {
        Self
    }
    /// x
    pub fn admit(&self, _: &Asked<'_>, _: &mut HeaderMap) -> Result<Admitted, Rejection> {
        Ok(Admitted { consumer: None, answer: None })
    }
}
impl Admitted {
    /// x
    pub fn on_response(&self, _: &mut HeaderMap) {}
}
