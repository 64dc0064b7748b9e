//! One direction of a connection: fill, drain, FIN. Written once, owned twice.

use std::io;

use super::conduit::{Conduit, PIPE_BYTES, Room, Stream};

/// Full reads in a row, each written on whole, that make a direction a stream: from then on it is spliced.
const STREAM_AFTER_READS: u8 = 3;

/// Splices in a row that moved less than [`SMALL_SPLICE_BYTES`] and end a stream: from then on it is copied.
const STREAM_ENDS_AFTER: u8 = 3;

/// A splice of fewer bytes would have been cheaper as a copy.
const SMALL_SPLICE_BYTES: usize = 8 * 1024;

/// Bytes taken from the source and not yet taken by the sink.
#[derive(Debug)]
pub(super) enum Residue<P> {
    None,
    /// Copied ones.
    Buffer(Box<Rest>),
    /// Spliced ones. The count may exceed what the pipe is said to hold: its slots are fragments, not pages.
    Pipe(P, u32),
}

/// What is left of a read.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) bytes: Vec<u8>,
    /// How many of them are gone already.
    pub(super) gone: usize,
}

impl<P> Residue<P> {
    pub(super) fn buffer(bytes: Vec<u8>) -> Self {
        Self::Buffer(Box::new(Rest { bytes, gone: 0 }))
    }
}

/// How a pump left a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// It waits for readiness of its source or sink.
    Blocked,
    /// Its budget is spent and there is more: pump again without waiting for an event.
    Again,
    /// FIN was passed on just now (or left to the close): this direction is over.
    Finished,
    /// The source failed, and all that came before has been passed on.
    SourceFailed(Fault),
    /// The sink failed; what was held for it is lost.
    SinkFailed(Fault),
}

/// How a side failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It reset the connection, or closed while bytes were on their way to it.
    Reset,
    /// It stopped answering: keep-alive, TCP_USER_TIMEOUT, or the network says it is unreachable.
    Lost,
    /// This host is out of memory for it.
    Exhausted,
}

impl Fault {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
                Self::Lost
            }
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            _ => Self::Reset,
        }
    }
}

/// One direction.
#[derive(Debug)]
pub struct Half<P> {
    pub(super) residue: Residue<P>,
    /// Bytes of the source that the sink has taken.
    pub bytes: u64,
    /// Of them, those that went through a pipe.
    pub spliced: u64,
    /// Bytes of a preloaded header that the sink has not taken yet.
    pub(super) header_left: u16,
    /// An edge said so and no read has found the source empty since.
    pub(super) source_ready: bool,
    /// The same for writing.
    pub(super) sink_ready: bool,
    /// An edge announced FIN: after the next read that finds the source empty there will be no more.
    pub(super) fin_announced: bool,
    /// A short read does not prove the source empty any more: behind its bytes waits an error, or there is urgent data,
    /// at which reads stop (tcp(7)).
    pub(super) short_reads_mislead: bool,
    /// The source was found broken by the other direction: its end is no FIN any more.
    pub(super) source_broken: Option<Fault>,
    pub(super) eof: bool,
    pub(super) over: bool,
    pub(super) streaming: bool,
    /// While copying: full reads in a row. While streaming: small splices in a row.
    pub(super) streak: u8,
}

impl<P> Default for Half<P> {
    fn default() -> Self {
        Self {
            residue: Residue::None,
            bytes: 0,
            spliced: 0,
            header_left: 0,
            source_ready: false,
            sink_ready: false,
            fin_announced: false,
            short_reads_mislead: false,
            source_broken: None,
            eof: false,
            over: false,
            streaming: false,
            streak: 0,
        }
    }
}

impl<P> Half<P> {
    /// The source may have bytes; with `fin` also its end.
    pub fn source_event(&mut self, fin: bool) {
        self.source_ready = true;
        self.fin_announced |= fin;
    }

    /// The source sends urgent data, or has an error to tell: from now on only a read that finds nothing proves it empty.
    pub fn distrust_short_reads(&mut self) {
        self.short_reads_mislead = true;
    }

    /// The other direction found that this one's source takes no bytes any more: what it has sent is still passed on,
    /// but then it failed, however it ends.
    pub fn source_broke(&mut self, fault: Fault) {
        self.source_broken = Some(fault);
        self.source_ready = true;
    }

    /// The sink may take bytes.
    pub fn sink_event(&mut self) {
        self.sink_ready = true;
    }

    /// Whether its FIN was passed on, or it was given up.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the next pump is likely to write.
    pub fn expects_bytes(&self) -> bool {
        self.holds_bytes() || (self.source_ready && !self.fin_announced)
    }

    /// Whether the source has nothing more to say to this direction.
    pub fn at_eof(&self) -> bool {
        self.eof || self.over
    }

    /// Whether it is spliced.
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Whether bytes are held for the sink.
    pub fn holds_bytes(&self) -> bool {
        !matches!(self.residue, Residue::None)
    }

    /// Puts bytes in front of whatever the source will bring: a PROXY header of our own, which does not count as the
    /// source's, and what was read from the source already. All of it is held, so whoever reads ahead has a limit. To be
    /// called before the first pump.
    pub fn preload(&mut self, header: &[u8], payload: &[u8]) {
        let bytes = [header, payload].concat();
        debug_assert!(self.bytes == 0 && !self.holds_bytes());
        if !bytes.is_empty() {
            self.header_left = header.len() as u16;
            self.residue = Residue::buffer(bytes);
        }
    }
}

/// What a step of a pump leads to: on with the loop, or out of it.
enum Step {
    Moved(usize),
    Out(Pumped),
}

impl<P: Conduit> Half<P> {
    /// Moves bytes until one of the two ends blocks, ends or fails, or the budget is spent. When this is the `last`
    /// direction, its FIN is left to the close of the sink that follows: one system call less.
    pub fn pump<S: Stream<Pipe = P>>(
        &mut self,
        source: &mut S,
        sink: &mut S,
        room: &mut Room<P>,
        last: bool,
    ) -> Pumped {
        if self.over {
            return Pumped::Blocked;
        }
        let mut moved = 0;
        loop {
            let step = if self.holds_bytes() {
                self.drain(source, sink, room)
            } else if self.eof {
                self.finish(sink, last)
            } else if !(self.source_ready && self.sink_ready) {
                // Reading what cannot be written on would only move it from the kernel's buffer into ours.
                Step::Out(Pumped::Blocked)
            } else if moved >= room.budget {
                Step::Out(Pumped::Again)
            } else if self.streaming {
                self.splice(source, room)
            } else {
                self.copy(source, sink, room)
            };
            match step {
                Step::Moved(bytes) => moved += bytes,
                Step::Out(pumped) => return pumped,
            }
        }
    }

    /// Gives the direction up: what it holds is dropped and it never moves again.
    pub fn abandon(&mut self, room: &mut Room<P>) {
        if let Residue::Pipe(pipe, _) = std::mem::replace(&mut self.residue, Residue::None) {
            room.pipes.discard(pipe);
        }
        self.over = true;
    }

    fn finish<S: Stream<Pipe = P>>(&mut self, sink: &mut S, last: bool) -> Step {
        self.over = true;
        if let Some(fault) = self.source_broken {
            return Step::Out(Pumped::SourceFailed(fault));
        }
        if !last || !sink.is_bare() {
            // A sink that is gone already says so to the other direction, which reads from it.
            let _ = sink.shutdown_write();
        }
        Step::Out(Pumped::Finished)
    }

    /// One read into the scratch buffer and one write out of it; what is not taken becomes the residue.
    fn copy<S: Stream<Pipe = P>>(&mut self, source: &mut S, sink: &mut S, room: &mut Room<P>) -> Step {
        let got = match source.recv(&mut room.scratch) {
            Ok(got) => got,
            Err(error) => return self.source_error(&error),
        };
        self.note_read(got, room.scratch.len());
        if got == 0 {
            return Step::Moved(0);
        }
        let taken = match sink.send(&room.scratch[..got]) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Step::Out(Pumped::SinkFailed(Fault::of(&error))),
        };
        self.bytes += taken as u64;
        if taken < got {
            self.sink_ready = false;
            self.residue = Residue::buffer(room.scratch[taken..got].to_vec());
            self.streak = 0;
        } else if got == room.scratch.len() {
            self.streak += 1;
            if self.streak >= STREAM_AFTER_READS && room.pipes.enabled() && source.is_bare() && sink.is_bare() {
                self.set_streaming(true);
            }
            self.streak = self.streak.min(STREAM_AFTER_READS);
        } else {
            self.streak = 0;
        }
        Step::Moved(got)
    }

    /// A read that did not fill the buffer has emptied the source. When FIN was announced before it, there will be no
    /// more; otherwise FIN will raise an edge of its own.
    fn note_read(&mut self, got: usize, asked: usize) {
        if got == 0 {
            self.eof = true;
        } else if got < asked && !self.short_reads_mislead {
            self.source_ready = false;
            self.eof = self.fin_announced;
        }
    }

    /// Fills an empty pipe; the next step drains it.
    fn splice<S: Stream<Pipe = P>>(&mut self, source: &mut S, room: &mut Room<P>) -> Step {
        let Some(pipe) = room.pipes.borrow() else {
            self.set_streaming(false);
            return Step::Moved(0);
        };
        match source.fill(&pipe, PIPE_BYTES) {
            Ok(0) => {
                room.pipes.give_back(pipe);
                self.eof = true;
                Step::Moved(0)
            }
            Ok(got) => {
                self.streak = if got < SMALL_SPLICE_BYTES { self.streak + 1 } else { 0 };
                self.residue = Residue::Pipe(pipe, u32::try_from(got).unwrap_or(u32::MAX));
                Step::Moved(got)
            }
            Err(error) => {
                // The pipe was empty, so WouldBlock can only mean that the source is.
                room.pipes.give_back(pipe);
                match error.kind() {
                    io::ErrorKind::InvalidInput => self.set_streaming(false),
                    io::ErrorKind::Unsupported => {
                        room.pipes.disable();
                        self.set_streaming(false);
                    }
                    _ => return self.source_error(&error),
                }
                Step::Moved(0)
            }
        }
    }

    /// Offers the residue to the sink.
    fn drain<S: Stream<Pipe = P>>(&mut self, source: &mut S, sink: &mut S, room: &mut Room<P>) -> Step {
        if !self.sink_ready {
            return Step::Out(Pumped::Blocked);
        }
        if self.bytes == 0 {
            self.top_up(source, room);
        }
        let result = match &self.residue {
            Residue::None => return Step::Moved(0),
            Residue::Buffer(rest) => sink.send(&rest.bytes[rest.gone..]),
            Residue::Pipe(pipe, left) => sink.drain(pipe, *left as usize),
        };
        match result {
            Ok(taken) => {
                let header = taken.min(self.header_left.into());
                self.header_left -= header as u16;
                self.bytes += (taken - header) as u64;
                self.take_from_residue(taken, room);
                Step::Moved(0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.sink_ready = false;
                Step::Out(Pumped::Blocked)
            }
            Err(error) => Step::Out(Pumped::SinkFailed(Fault::of(&error))),
        }
    }

    /// Lets the first bytes of the source leave in the same write as a preloaded header, as far as one read has room.
    fn top_up<S: Stream<Pipe = P>>(&mut self, source: &mut S, room: &mut Room<P>) {
        if !self.source_ready || self.eof {
            return;
        }
        let Residue::Buffer(rest) = &mut self.residue else { return };
        let space = room.scratch.len().saturating_sub(rest.bytes.len());
        if rest.gone > 0 || space == 0 {
            return;
        }
        match source.recv(&mut room.scratch[..space]) {
            Ok(got) => {
                rest.bytes.extend_from_slice(&room.scratch[..got]);
                self.note_read(got, space);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.source_ready = false,
            // A socket tells its error once.
            Err(error) => {
                self.source_broken = Some(Fault::of(&error));
                self.eof = true;
            }
        }
    }

    fn take_from_residue(&mut self, taken: usize, room: &mut Room<P>) {
        match std::mem::replace(&mut self.residue, Residue::None) {
            Residue::None => {}
            Residue::Buffer(mut rest) => {
                rest.gone += taken;
                if rest.gone < rest.bytes.len() {
                    self.residue = Residue::Buffer(rest);
                }
            }
            Residue::Pipe(pipe, left) => {
                self.spliced += taken as u64;
                let left = left - taken as u32;
                if left > 0 {
                    self.residue = Residue::Pipe(pipe, left);
                    return;
                }
                room.pipes.give_back(pipe);
                if self.streak >= STREAM_ENDS_AFTER {
                    self.set_streaming(false);
                }
            }
        }
    }

    fn set_streaming(&mut self, streaming: bool) {
        self.streaming = streaming;
        self.streak = 0;
    }

    fn source_error(&mut self, error: &io::Error) -> Step {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.source_ready = false;
            return Step::Out(Pumped::Blocked);
        }
        Step::Out(Pumped::SourceFailed(Fault::of(error)))
    }
}
