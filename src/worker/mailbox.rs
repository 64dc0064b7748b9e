//! What other threads tell a worker: commands of control, fresh connections of its peers, turns in a queue.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Command;
use crate::snapshot::Listener;
use crate::stats::ListenerSlot;
use crate::sys::socket::Socket;

/// A message.
#[derive(Debug)]
pub enum Message {
    /// From control.
    Command(Command),
    /// A connection that another worker has accepted.
    Adopt(Fresh),
    /// The connection of this token is the first in its pool's queue now.
    Turn(usize),
}

/// A connection that was accepted and admitted by its listener.
#[derive(Debug)]
pub struct Fresh {
    /// The client.
    pub client: Socket,
    /// Its address.
    pub peer: Option<SocketAddr>,
    /// The listener as it was at accept.
    pub listener: Arc<Listener>,
    /// Its place among the listener's connections.
    pub slot: ListenerSlot,
}

/// A worker's mailbox: the worker is woken when the first message comes, and takes all there are.
#[derive(Debug)]
pub struct Mailbox {
    messages: Mutex<Vec<Message>>,
    waker: mio::Waker,
}

impl Mailbox {
    /// An empty one that wakes by this waker.
    pub fn new(waker: mio::Waker) -> Self {
        Self { messages: Mutex::default(), waker }
    }

    /// Puts a message in.
    pub fn put(&self, message: Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message);
        if messages.len() == 1 {
            // An eventfd takes a wake-up unless its counter is full, which means that one is on its way already.
            let _ = self.waker.wake();
        }
    }

    /// Swaps all messages into `into`, which is empty.
    pub fn take(&self, into: &mut Vec<Message>) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *messages, into);
    }
}
