//! What the gateway says itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use super::refusal::Refusal;

/// RFC 9457, 3: a problem as JSON, with the id by which its line in the log is found.
pub fn problem(refusal: Refusal, request_id: Option<&HeaderValue>) -> Response<ResponseBody> {
    let request_id = request_id.and_then(|id| id.to_str().ok());
    let (status, title) = (refusal.status(), refusal.title());
    let instance = request_id.map_or(String::new(), |id| format!(",\"instance\":\"urn:request:{id}\""));
    let text = format!("{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{}{instance}}}\n", status.as_u16());
    fixed(status, &HeaderValue::from_static("application/problem+json"), text.into())
}

/// A fixed answer.
pub fn fixed(status: StatusCode, content_type: &HeaderValue, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    response
}

/// The client is sent elsewhere.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The answer to a browser that asks what it may do.
pub fn preflight(headers: HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}
