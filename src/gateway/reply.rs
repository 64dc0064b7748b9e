//! What the gateway says itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::ResponseBody;
use super::forwarded::RequestId;
use super::message::Answer;
use super::refusal::Refusal;

/// RFC 9457, 3: a problem as JSON, with the id by which its line in the log is found. What is wrong with the client's own
/// bytes it may know; all other details are of the inside, and for the log alone.
pub fn problem(refusal: Refusal, detail: &str, request_id: Option<&RequestId>) -> Answer<ResponseBody> {
    let (status, title) = (refusal.status(), refusal.title());
    let detail = match refusal {
        // Our own words, in which nothing needs another form as JSON.
        Refusal::Malformed if !detail.is_empty() => format!(",\"detail\":{detail:?}"),
        _ => String::new(),
    };
    let instance = request_id.map_or(String::new(), |id| format!(",\"instance\":\"urn:request:{}\"", id.as_str()));
    let text = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{}{detail}{instance}}}\n",
        status.as_u16()
    );
    fixed(status, &HeaderValue::from_static("application/problem+json"), text.into())
}

/// A fixed answer.
pub fn fixed(status: StatusCode, content_type: &HeaderValue, body: Bytes) -> Answer<ResponseBody> {
    Answer::new(status, with(CONTENT_TYPE, content_type.clone()), ResponseBody::whole(body))
}

/// The client is sent elsewhere.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Answer<ResponseBody> {
    Answer::new(status, with(LOCATION, location), ResponseBody::whole(Bytes::new()))
}

/// The answer to a browser that asks what it may do.
pub fn preflight(headers: HeaderMap) -> Answer<ResponseBody> {
    Answer::new(StatusCode::NO_CONTENT, headers, ResponseBody::whole(Bytes::new()))
}

fn with(name: HeaderName, value: HeaderValue) -> HeaderMap {
    [(name, value)].into_iter().collect()
}
