//! TCP backends: each request of so many bytes is answered with so many bytes. One thread for all of them.

use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::http::Heads;
use crate::message::{BUFFER_BYTES, Message, Pattern};
use crate::wire::{Stream, Wire};
use crate::{EVENTS, wait};

pub struct Server {
    poll: Poll,
    /// Their tokens are the first ones; those of connections follow.
    listeners: Vec<TcpListener>,
    connections: Slab<Served>,
    request: usize,
    answer: usize,
    /// Of the answers, when they are HTTP.
    heads: Option<Heads>,
    buffer: Vec<u8>,
    pattern: Pattern,
}

struct Served {
    wire: Wire,
    has_answered: bool,
    /// The client sends no more.
    is_over: bool,
}

impl Server {
    pub fn bind(addresses: &[SocketAddr], request: usize, answer: usize, is_http: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::with_capacity(addresses.len());
        for (at, address) in addresses.iter().enumerate() {
            let mut listener = TcpListener::bind(*address)?;
            poll.registry().register(&mut listener, Token(at), Interest::READABLE)?;
            listeners.push(listener);
        }
        let heads = is_http.then(|| Heads::of_answers(answer));
        let (buffer, pattern) = (vec![0; BUFFER_BYTES], Pattern::new());
        Ok(Self { poll, listeners, connections: Slab::new(), request, answer, heads, buffer, pattern })
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok())
    }

    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            wait(&mut self.poll, &mut events, None)?;
            for event in &events {
                match event.token().0.checked_sub(self.listeners.len()) {
                    None => self.accept(event.token().0)?,
                    Some(key) if self.serve(key, event).unwrap_or(false) => {}
                    Some(key) => drop(self.connections.remove(key)),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let place = self.connections.vacant_entry();
            let token = Token(self.listeners.len() + place.key());
            let coming = Message::request_to_come(self.request);
            let mut wire = Wire::new(Stream::Plain(stream), token, coming, self.heads.is_some());
            wire.watch(self.poll.registry())?;
            place.insert(Served { wire, has_answered: false, is_over: false });
        }
    }

    /// False when the connection has ended.
    fn serve(&mut self, key: usize, event: &Event) -> io::Result<bool> {
        let Served { wire, has_answered, is_over } = &mut self.connections[key];
        *is_over |= event.is_read_closed();
        // Clients end after an answer: then there is nothing before the end that would have to be read.
        let has_ended = *is_over && *has_answered && !wire.is_receiving();
        if event.is_readable()
            && !has_ended
            && let Some(request) = wire.receive(&mut self.buffer, &self.pattern)?
        {
            let answer = Message::marked(request.mark_of_answer(), self.answer);
            wire.begin(self.heads.as_ref(), answer, Message::request_to_come(self.request));
            *has_answered = true;
        }
        if wire.is_sending() {
            wire.send(&self.pattern, self.poll.registry())?;
        }
        Ok(!*is_over || wire.is_sending())
    }
}
