//! The `http` check: a GET whose status, and if asked its body, are looked at. HTTP/1.1, one request a connection.
//!
//! Redirects are not followed: a 3xx is an answer and counts by `status`. Only the first 64 KiB of a body are searched.

use std::ops::RangeInclusive;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::{ANSWER_MAX, Failure, Io};

const AGENT: &str = concat!("evener/", env!("CARGO_PKG_VERSION"), " health");

pub(super) async fn probe<S: Io>(
    stream: &mut S,
    path: &str,
    host: &str,
    status: &[RangeInclusive<u16>],
    body: Option<&str>,
) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::new(format!("the check's path or host is no HTTP: {error}")))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(ANSWER_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(not_http)?;
        let code = answer.status().as_u16();
        if !status.iter().any(|range| range.contains(&code)) {
            return Err(Failure::new(format!("status {}", answer.status())));
        }
        match body {
            Some(wanted) => search(answer, wanted.as_bytes()).await,
            None => Ok(()),
        }
    };
    tokio::pin!(asking);
    // The connection moves the bytes; when it has ended first, what it brought is still to be looked at.
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        _ = connection => asking.await,
    }
}

async fn search(answer: Response<Incoming>, wanted: &[u8]) -> Result<(), Failure> {
    let (mut body, mut seen, mut searched) = (answer.into_body(), Vec::new(), 0);
    while !holds(&seen[searched..], wanted) {
        if seen.len() == ANSWER_MAX {
            return Err(Failure::new(format!("the first {} KiB of the body do not hold the text", ANSWER_MAX / 1024)));
        }
        searched = (seen.len() + 1).saturating_sub(wanted.len());
        let Some(frame) = body.frame().await else {
            return Err(Failure::new("the body does not hold the expected text"));
        };
        if let Ok(data) = frame.map_err(not_http)?.into_data() {
            seen.extend_from_slice(&data[..data.len().min(ANSWER_MAX - seen.len())]);
        }
    }
    Ok(())
}

fn holds(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

/// The cause says more than hyper's own text, where there is one.
fn not_http(error: hyper::Error) -> Failure {
    match std::error::Error::source(&error) {
        Some(source) => Failure::new(format!("{error}: {source}")),
        None => Failure::new(error.to_string()),
    }
}
