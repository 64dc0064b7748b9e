//! A client's connection with HTTP/2, which is hyper's.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::{Incoming, ResponseBody};
use super::client::Client;
use super::exchange;
use super::io::Io;
use super::motion::Motion;
use super::watch::{Due, Leash, Watch};
use crate::reason::CloseReason;

/// Windows: what a client may send of one request, and of all on a connection, before a backend has taken it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What is held of one response while the client's window is closed.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Gives each request its exchange.
struct Exchanges(Rc<Client>);

impl Service<Request<hyper::body::Incoming>> for Exchanges {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let client = self.0.clone();
        let (parts, body) = request.into_parts();
        let (mut head, mut incoming) = (parts.into(), Incoming::Http2(body));
        Box::pin(async move { Ok(exchange::answer(&client, &mut head, &mut incoming).await.into()) })
    }
}

/// Carries a connection to its end.
pub async fn serve(client: Rc<Client>, leash: &Leash, io: Io) -> CloseReason {
    client.meter.is_shared.set(true);
    let limits = client.limits();
    let mut builder = http2::Builder::new(Tasks(client.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams.get())
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(limits.streams.get() as usize)
        .max_local_error_reset_streams(limits.resets.get() as usize);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), Exchanges(client.clone())));
    let mut watch = Watch::new(&client, leash);
    poll_fn(|cx| {
        client.thread.clock.now();
        loop {
            match connection.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(leash.agreed()),
                Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::ClientReset),
                Poll::Pending => client.meter.settle(),
            }
            if client.resets.get().0 > limits.resets.get() {
                return Poll::Ready(CloseReason::Limited);
            }
            match watch.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Due::Shutdown) => connection.as_mut().graceful_shutdown(),
                Poll::Ready(Due::Rest | Due::Late) => {}
                Poll::Ready(Due::End(reason)) => return Poll::Ready(reason),
            }
        }
    })
    .await
}

/// Carries each stream of a connection as a task.
#[derive(Clone)]
struct Tasks(Rc<Client>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(carry(self.0.clone(), stream));
    }
}

/// Carries a stream to its end, or until it has stood still for too long: hyper resets what is dropped. It cannot do that
/// by itself, for it asks a body for nothing while the client's window is closed.
async fn carry(client: Rc<Client>, stream: impl Future<Output = ()>) {
    let motion = Rc::new(Motion::new(client.thread.clock.now(), client.limits().header_timeout));
    let _seat = client.streams.add(motion.clone());
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        client.thread.clock.now();
        if motion.is_ended(cx) {
            return Poll::Ready(());
        }
        let before = client.carry(motion.clone());
        let outcome = stream.as_mut().poll(cx);
        client.carry(before);
        outcome
    })
    .await;
}
