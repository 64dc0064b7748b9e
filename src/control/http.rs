//! The small HTTP server of the control plane: the admin API on a unix socket, metrics on a TCP port.
//!
//! Its clients may be anybody, so everything is bounded: connections at once, headers, bodies, time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::events::Lines;
use crate::api;

/// Connections at once on one socket; more wait in its backlog.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head that are buffered.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// From the first byte of a request's head to its last, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that one connection lasts, unless its answer is a stream.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Before accepting again after an accept that failed, say for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// An answer: whole, or a stream.
pub type Answer = Response<Either<Full<Bytes>, Lines>>;

/// Where connections come from.
pub trait Listen {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Listen for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> std::io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listen for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> std::io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl<L: Listen + Send + Sync> Listen for Arc<L> {
    type Stream = L::Stream;

    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send {
        L::next(self)
    }
}

/// Serves connections until the task is dropped.
pub async fn serve<L, H, F>(listener: L, handle: H)
where
    L: Listen,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Goes with this task: who has a connection then is to come again, for another process may answer.
    let listening = Arc::new(());
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.next().await {
            Ok(stream) => {
                let (handle, listening) = (handle.clone(), Arc::downgrade(&listening));
                tokio::spawn(async move {
                    let _place = place;
                    serve_one(stream, handle, listening).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept on the control plane's socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one<S, H, F>(stream: S, handle: H, listening: Weak<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer> + Send + 'static,
{
    let streams = AtomicBool::new(false);
    let service = service_fn(|request| {
        let (answer, streams, listening) = (handle(request), &streams, &listening);
        async move {
            let mut answer = answer.await;
            if listening.strong_count() == 0 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            streams.store(matches!(answer.body(), Either::Right(_)), Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a client of ours ends is its own affair.
    let ended = tokio::time::timeout(CONNECTION_TIMEOUT, connection.as_mut()).await;
    if ended.is_err() && streams.load(Relaxed) {
        let _ = connection.await;
    }
}

/// The body of a request, when it is short enough.
///
/// # Errors
/// What to answer instead.
pub async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let limited = Limited::new(request.into_body(), BODY_BYTES_MAX);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(error(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_BYTES_MAX} bytes"))),
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A failure as JSON.
pub fn error(status: StatusCode, what: impl Into<String>) -> Answer {
    json(status, &api::Error { error: what.into() })
}

/// The path is known, the method is not.
pub fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, format!("allowed here: {allow}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
