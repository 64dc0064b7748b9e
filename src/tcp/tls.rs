//! TLS on one side of a connection, or on both.
//!
//! A [`Session`] stands around a stream. The relay sees what is inside of it: it reads on until the peer's close_notify,
//! which is FIN to it, and sends close_notify where it would send FIN. An end without close_notify is a fault, as a reset
//! is: bytes may be missing, and nobody may take a stream that was cut for a whole one.
//!
//! What one session can hold is bounded: of its peer one record and one read, for its peer what was taken from the other
//! side at once, for it takes nothing more until that has been written.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::conduit::{Conduit, Room, Stream};
use super::half::Fault;
use super::relay::{End, Progress, Readiness, Relay};
use crate::id::Side;

/// Reads of one step of a handshake: a peer that sends without end has others before it.
const READS_MAX: usize = 4;

/// A session with more plaintext than this takes no more records (a limit of rustls).
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

/// TLS around one stream.
#[derive(Debug)]
pub struct Session {
    tls: Connection,
    /// What the peer sent and could not be looked at yet.
    unseen: Vec<u8>,
    /// close_notify is on its way, and FIN follows it.
    fin_due: bool,
}

/// What a step of a handshake led to.
#[derive(Debug)]
pub enum Shaken {
    /// It is over, and both know each other as far as they asked.
    Done,
    /// It waits for readiness of its stream.
    Waiting,
    /// There is more to do without an event.
    Again,
    /// It failed, and why. The peer was told.
    Failed(io::Error),
}

impl Session {
    /// With a client, of which these bytes were received already.
    ///
    /// # Errors
    /// None that this configuration can cause.
    pub fn with_client(config: Arc<ServerConfig>, received: Vec<u8>) -> Result<Self, rustls::Error> {
        let tls = ServerConnection::new(config)?.into();
        Ok(Self { tls, unseen: received, fin_due: false })
    }

    /// With a backend, which is asked for this name.
    ///
    /// # Errors
    /// None that this configuration can cause.
    pub fn with_backend(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let tls = ClientConnection::new(config, name)?.into();
        Ok(Self { tls, unseen: Vec::new(), fin_due: false })
    }

    /// The server that the client asks for.
    pub fn server_name(&self) -> Option<&str> {
        match &self.tls {
            Connection::Server(tls) => tls.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// Whether it has something to write.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Goes on with the handshake.
    pub fn shake<S: Stream>(&mut self, stream: &mut S, scratch: &mut [u8]) -> Shaken {
        for _ in 0..READS_MAX {
            let result = if self.unseen.is_empty() { Ok(()) } else { self.look_again() };
            let told = self.flush(stream);
            if let Err(error) = result.and(told) {
                return Shaken::Failed(error);
            }
            if !self.tls.is_handshaking() {
                return Shaken::Done;
            }
            match stream.recv(scratch) {
                Ok(0) => return Shaken::Failed(io::Error::other("the connection ended within the handshake")),
                Ok(got) => self.unseen.extend_from_slice(&scratch[..got]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Shaken::Waiting,
                Err(error) => return Shaken::Failed(error),
            }
        }
        Shaken::Again
    }

    fn recv<S: Stream>(&mut self, stream: &mut S, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if !self.unseen.is_empty() {
                self.look_again()?;
                continue;
            }
            match stream.recv(into) {
                // The reader knows from now on whether it is the end or a cut.
                Ok(0) => drop(self.tls.read_tls(&mut io::empty())?),
                Ok(got) => self.look_at(&into[..got])?,
                Err(error) => {
                    // Nothing comes for a while: the buffer for records, which shrinks when it is read into, may go.
                    let _ = self.tls.read_tls(&mut Nothing);
                    return Err(error);
                }
            }
        }
    }

    fn look_again(&mut self) -> io::Result<()> {
        let unseen = std::mem::take(&mut self.unseen);
        self.look_at(&unseen)
    }

    /// Opens records as far as there is room for what is in them.
    fn look_at(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.tls.read_tls(&mut bytes)? == 0 {
                // The peer has ended: what comes behind close_notify is nothing.
                return Ok(());
            }
            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > PLAINTEXT_BYTES_MAX {
                self.unseen = bytes.to_vec();
                return Ok(());
            }
        }
        Ok(())
    }

    fn send<S: Stream>(&mut self, stream: &mut S, bytes: &[u8]) -> io::Result<usize> {
        self.flush(stream)?;
        if self.tls.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.tls.writer().write(bytes)?;
        self.flush(stream)?;
        Ok(taken)
    }

    /// Writes what is to be written, as far as the stream takes it.
    fn flush<S: Stream>(&mut self, stream: &mut S) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Gather(stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.fin_due) {
            // A stream that is gone already says so to who reads from it.
            let _ = stream.shutdown_write();
        }
        Ok(())
    }

    fn shutdown_write<S: Stream>(&mut self, stream: &mut S) -> io::Result<()> {
        self.tls.send_close_notify();
        self.fin_due = true;
        self.flush(stream)
    }
}

/// A stream from which nothing comes now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Writes the parts of a flight as one.
struct Gather<'a, S>(&'a mut S);

impl<S: Stream> Write for Gather<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match parts {
            [one] => self.0.send(one),
            parts => {
                let mut whole = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                self.0.send(&whole)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A side of a connection, with its session where it has one.
struct Ended<'a, S> {
    stream: &'a mut S,
    session: Option<&'a mut Session>,
}

impl<S: Stream> Stream for Ended<'_, S> {
    type Pipe = S::Pipe;

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.recv(self.stream, into),
            None => self.stream.recv(into),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.send(self.stream, bytes),
            None => self.stream.send(bytes),
        }
    }

    fn fill(&mut self, pipe: &S::Pipe, max: usize) -> io::Result<usize> {
        self.stream.fill(pipe, max)
    }

    fn drain(&mut self, pipe: &S::Pipe, max: usize) -> io::Result<usize> {
        self.stream.drain(pipe, max)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => session.shutdown_write(self.stream),
            None => self.stream.shutdown_write(),
        }
    }

    fn is_bare(&self) -> bool {
        self.session.is_none()
    }
}

/// The sessions of a connection.
#[derive(Debug, Default)]
pub struct Sessions {
    /// With the client.
    pub client: Option<Box<Session>>,
    /// With the backend.
    pub backend: Option<Box<Session>>,
    /// Both directions are over, and a session has last words to write.
    end: Option<End>,
}

impl Sessions {
    /// Tells the relay, before its first pump, what it cannot know: what came with a handshake waits in a session, and a
    /// short read of one does not prove its stream empty.
    pub fn begin<P>(&self, relay: &mut Relay<P>) {
        for side in [Side::Client, Side::Backend] {
            relay.event(side, Readiness { readable: true, writable: true, ..Readiness::default() });
        }
        if self.client.is_some() {
            relay.to_backend.distrust_short_reads();
        }
        if self.backend.is_some() {
            relay.to_client.distrust_short_reads();
        }
    }

    /// Moves what can be moved, both ways.
    pub fn pump<P: Conduit, S: Stream<Pipe = P>>(
        &mut self,
        relay: &mut Relay<P>,
        client: &mut S,
        backend: &mut S,
        room: &mut Room<P>,
    ) -> Progress {
        if let Some(end) = self.end {
            return self.conclude(end, client, backend);
        }
        // What a session holds the relay does not know of, so the event may be for it. An error comes again.
        let _ = self.flush(client, backend);
        let progress = relay.pump(
            &mut Ended { stream: client, session: self.client.as_deref_mut() },
            &mut Ended { stream: backend, session: self.backend.as_deref_mut() },
            room,
        );
        match progress {
            Progress::Ended(end) if !end.reset => {
                self.end = Some(end);
                self.conclude(end, client, backend)
            }
            // Reading may have made a session answer by itself.
            progress => self.flush(client, backend).map_or(progress, |()| progress),
        }
    }

    /// The end, once the last words are written.
    fn conclude<S: Stream>(&mut self, end: End, client: &mut S, backend: &mut S) -> Progress {
        match self.flush(client, backend) {
            Err((side, error)) => Progress::Ended(End::fault(side, Fault::of(&error))),
            Ok(()) if [&self.client, &self.backend].into_iter().flatten().any(|session| session.wants_write()) => {
                Progress::Waiting
            }
            Ok(()) => Progress::Ended(end),
        }
    }

    fn flush<S: Stream>(&mut self, client: &mut S, backend: &mut S) -> Result<(), (Side, io::Error)> {
        let client = self.client.as_mut().map_or(Ok(()), |session| session.flush(client));
        let backend = self.backend.as_mut().map_or(Ok(()), |session| session.flush(backend));
        client.map_err(|error| (Side::Client, error))?;
        backend.map_err(|error| (Side::Backend, error))
    }
}

#[cfg(test)]
mod tests;
