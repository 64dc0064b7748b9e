//! A client's connection.
//!
//! One that is idle gives everything back but its socket: what a request needs is made again when the next one begins to
//! arrive. So many idle clients cost little memory.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Version};
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep_until;

use super::conn::{Conn, Upload};
use super::framing::Decoder;
use super::head::{Bad, Limits, RequestHead};
use super::reply::{Asked, Reply};
use super::step::in_step;
use crate::gateway::body::{Cut, Incoming, ResponseBody};
use crate::gateway::client::Client;
use crate::gateway::exchange;
use crate::gateway::io::Io;
use crate::gateway::message::Answer;
use crate::gateway::refusal::Refusal;
use crate::gateway::thread::Thread;
use crate::gateway::tunnel::{self, Tunnel};
use crate::gateway::watch::{Due, Leash, Watch};
use crate::reason::CloseReason;

/// What is taken of a client after the last answer, and for how long.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Larger answers are better passed on while they are in the caches.
const STEP_BYTES_MAX: u64 = 4 * 1024;

/// How a connection goes on.
enum Next {
    /// It is idle: everything but the socket can be given back.
    Rest,
    /// What follows is another protocol.
    Switch(Tunnel),
    /// It is over.
    End(CloseReason),
    /// It is over, and the client must not take that for the end of the answer.
    Abort(CloseReason),
}

/// Carries a connection to its end. What goes on while it is idle is small; all else is on the heap, and only while it is
/// needed.
pub async fn serve(client: Rc<Client>, leash: &Leash, mut io: Io) -> CloseReason {
    let reason = loop {
        let next;
        (io, next) = Box::pin(session(&client, leash, io)).await;
        match next {
            Next::End(reason) => break reason,
            Next::Abort(reason) => {
                io.reset_on_close();
                return reason;
            }
            Next::Switch(tunnel) => return Box::pin(tunnel::carry(io, tunnel, &client, leash)).await,
            Next::Rest => client.thread.note_rest(),
        }
        if let Err(reason) = doze(&client, leash, &io).await {
            // The next request may be there without having been told yet: this looks for new events.
            tokio::task::yield_now().await;
            if reason == CloseReason::Killed || !io.is_readable() {
                break reason;
            }
        }
    };
    if reason != CloseReason::Killed && !io.meter.ended.get() {
        Box::pin(close(&client.thread, io)).await;
    }
    reason
}

/// Ends a connection in order: the client sees the end, and what it still sends is taken for a moment. Closing a socket
/// with unread bytes would be a reset, which may destroy the answer on its way (RFC 9112, 9.6).
async fn close(thread: &Thread, mut io: Io) {
    let linger = async {
        // A client that is gone already needs none of it.
        io.shutdown().await?;
        let mut left = LINGER_BYTES;
        while left > 0 {
            // All idle clients may be ended at once: room of their own would be much.
            match poll_fn(|cx| pin!(io.read(&mut thread.scratch.borrow_mut())).poll(cx)).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER_TIME, linger).await;
}

/// Waits for the next request with nothing but the socket. One that has come goes before all that is due.
async fn doze(client: &Client, leash: &Leash, io: &Io) -> Result<(), CloseReason> {
    let patience = client.idle_since.get() + client.limits().idle_timeout;
    tokio::select! {
        biased;
        readable = io.readable() => readable.map_err(|_| CloseReason::ClientReset),
        () = sleep_until(patience.min(leash.age.unwrap_or(patience)).into()) => {
            Err(leash.is_aged(client.thread.clock.now()).unwrap_or(CloseReason::ClientIdle))
        }
        () = leash.pulled.notified() => Err(leash.doom.get().map_or(CloseReason::Drained, |(_, reason)| reason)),
    }
}

/// Carries requests until the connection has been idle for a while.
async fn session(client: &Rc<Client>, leash: &Leash, io: Io) -> (Io, Next) {
    let limits = client.limits();
    let session = Session {
        client,
        leash,
        conn: Rc::new(RefCell::new(Conn::new(io))),
        limits: Limits { bytes: limits.header_bytes as usize, fields: limits.header_fields as usize },
        is_last: Cell::new(false),
        answer: Cell::new(Sending::Nothing),
    };
    let mut requests = pin!(session.requests());
    let mut watch = Watch::new(client, leash);
    let next = poll_fn(|cx| {
        client.thread.clock.now();
        loop {
            if let Poll::Ready(next) = requests.as_mut().poll(cx) {
                return Poll::Ready(next);
            }
            match watch.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Due::Late) => {}
                Poll::Ready(Due::Shutdown) => session.is_last.set(true),
                Poll::Ready(Due::Rest) => return Poll::Ready(Next::Rest),
                Poll::Ready(Due::End(CloseReason::ClientIdle)) if session.give_up() => {}
                Poll::Ready(Due::End(reason)) if session.answer.get() == Sending::UntilClose => {
                    return Poll::Ready(Next::Abort(reason));
                }
                Poll::Ready(Due::End(reason)) => return Poll::Ready(Next::End(reason)),
            }
        }
    });
    let next = next.await;
    let io = session.conn.borrow_mut().leave();
    (io, next)
}

struct Session<'c> {
    client: &'c Rc<Client>,
    leash: &'c Leash,
    conn: Rc<RefCell<Conn>>,
    limits: Limits,
    /// There is no further request.
    is_last: Cell<bool>,
    answer: Cell<Sending>,
}

/// What is being sent of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Nothing,
    /// One that says itself where it ends.
    Framed,
    /// One of which nothing but the connection's end tells that it is whole.
    UntilClose,
}

impl Session<'_> {
    async fn requests(&self) -> Next {
        let mut has_looked = false;
        loop {
            let head = poll_fn(|cx| self.conn.borrow_mut().poll_head(self.limits, self.is_last.get(), cx));
            let outcome = match head.await {
                // The last one may be there without having been told yet: this looks for new events.
                Ok(None) if self.is_last.get() && !std::mem::replace(&mut has_looked, true) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(None) => return self.end(),
                Ok(Some(mut head)) => {
                    if self.conn.borrow().inbox.is_small() {
                        in_step().await;
                    }
                    self.request(&mut head).await
                }
                Err(Cut::Bad(Bad::TooLarge)) => {
                    return self.refuse(Refusal::HeaderTooLarge, Bad::TooLarge.to_string()).await;
                }
                Err(Cut::Bad(bad)) => return self.refuse(Refusal::Malformed, bad.to_string()).await,
                Err(Cut::Late) => return self.refuse(Refusal::RequestTimeout, Cut::Late.to_string()).await,
                Err(_) => return Next::End(CloseReason::ClientReset),
            };
            match outcome {
                Err(next) => return next,
                Ok(keeps) => {
                    if let Some(tunnel) = self.client.take_tunnel() {
                        return Next::Switch(tunnel);
                    }
                    if !keeps || self.is_last.get() {
                        return self.end();
                    }
                }
            }
            // What was read already of the next request is its beginning.
            self.client.begin_next(self.conn.borrow().inbox.bytes.len());
        }
    }

    /// Carries one request to the end of its answer; tells whether another one may follow.
    async fn request(&self, head: &mut RequestHead) -> Result<bool, Next> {
        let RequestHead { head, body, keeps, waits } = head;
        self.client.begin_request();
        let asked = Asked { method: head.method.clone(), is_old: head.version == Version::HTTP_10, keeps: *keeps };
        let is_bare = body.is_over();
        self.conn.borrow_mut().begin(std::mem::replace(body, Decoder::Length(0)), *waits);
        let response = {
            let mut incoming = if is_bare { Incoming::Empty } else { Incoming::Http1(Upload::new(&self.conn)) };
            let mut answer = pin!(exchange::answer(self.client, head, &mut incoming));
            poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => {
                    self.conn.borrow_mut().poll_gone(cx).map(|()| Err(Next::End(CloseReason::ClientReset)))
                }
            })
            .await?
        };
        if response.body.size_hint().upper().is_none_or(|bytes| bytes < STEP_BYTES_MAX) {
            in_step().await;
        }
        self.respond(asked, response).await
    }

    /// Answers what is no request, or not a whole one.
    async fn refuse(&self, refusal: Refusal, detail: String) -> Next {
        self.client.begin_request();
        let response = exchange::refuse_unread(self.client, refusal, detail);
        let asked = Asked { method: Method::default(), is_old: false, keeps: false };
        match self.respond(asked, response).await {
            Err(next) => next,
            Ok(_) if refusal == Refusal::RequestTimeout => self.end(),
            Ok(_) => Next::End(CloseReason::ClientReset),
        }
    }

    /// There is no further request.
    fn end(&self) -> Next {
        let is_late = self.conn.borrow().is_late;
        Next::End(if is_late { CloseReason::ClientIdle } else { self.leash.agreed() })
    }

    /// The client has stopped in the middle of its request: tells whether it can be answered so.
    fn give_up(&self) -> bool {
        self.answer.get() == Sending::Nothing && self.conn.borrow_mut().give_up(self.client.active.get() == 0)
    }

    async fn respond(&self, asked: Asked, answer: Answer<ResponseBody>) -> Result<bool, Next> {
        let keeps = asked.keeps && !self.is_last.get() && self.will_be_read();
        let date = self.client.thread.clock.date();
        let mut reply = Reply::begin(&asked, keeps, &answer, &date, self.conn.borrow_mut().outbox.row());
        let Answer { headers, reason, mut body, .. } = answer;
        // They would keep what they were read into from being read into again.
        drop((headers, reason));
        self.answer.set(if reply.ends_with_connection() { Sending::UntilClose } else { Sending::Framed });
        poll_fn(|cx| self.poll_reply(&mut reply, &mut body, cx)).await?;
        self.answer.set(Sending::Nothing);
        drop(body);
        Ok(reply.keeps && self.conn.borrow_mut().skip_body())
    }

    /// Whether the request's body will be read to its end: somebody is there who does it, or it is here already.
    fn will_be_read(&self) -> bool {
        let is_read = Rc::strong_count(&self.conn) > 1;
        let mut conn = self.conn.borrow_mut();
        conn.waits = false;
        is_read || conn.skip_body()
    }

    /// Sends what can be sent of an answer.
    fn poll_reply(&self, reply: &mut Reply, body: &mut ResponseBody, cx: &mut Context<'_>) -> Poll<Result<(), Next>> {
        loop {
            let mut waits = false;
            while !reply.is_over && !waits && self.conn.borrow().outbox.has_room() {
                // It may read the request's body meanwhile.
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => reply.take(frame, &mut self.conn.borrow_mut().outbox),
                    Poll::Pending => waits = true,
                }
            }
            let sent = self.conn.borrow_mut().poll_send(cx);
            if sent.is_pending() && !reply.is_over {
                // Nothing more is asked for until the client takes this, but its request goes on.
                body.poll_upload(cx);
            }
            ready!(sent).map_err(|_| Next::End(CloseReason::ClientReset))?;
            if reply.is_over {
                return Poll::Ready(match reply.is_cut {
                    false => Ok(()),
                    // Other framings tell that something is missing.
                    true if reply.ends_with_connection() => Err(Next::Abort(CloseReason::BackendReset)),
                    true => Err(Next::End(CloseReason::BackendReset)),
                });
            }
            if waits {
                return self.conn.borrow_mut().poll_gone(cx).map(|()| Err(Next::End(CloseReason::ClientReset)));
            }
        }
    }
}
