//! What a direction moves bytes with: streams, pipes, and the room that all connections of a worker share.

use std::io;

use crate::sys::pipe::Pipe;
use crate::sys::socket::Socket;

/// One end of a connection. The kernel's sockets are streams; so are the scripted ones of the simulation.
pub trait Stream {
    /// The kind of pipe it can be spliced with.
    type Pipe: Conduit;

    /// Reads what is there; 0 = FIN.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, any other when the connection is broken.
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as it takes.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now, any other when the connection is broken.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Moves at most `max` bytes into the empty pipe; 0 = FIN.
    ///
    /// # Errors
    /// As [`Self::recv`]; `InvalidInput` and `Unsupported` when it cannot be spliced.
    fn fill(&mut self, pipe: &Self::Pipe, max: usize) -> io::Result<usize>;

    /// Moves at most `max` bytes out of the pipe.
    ///
    /// # Errors
    /// As [`Self::send`].
    fn drain(&mut self, pipe: &Self::Pipe, max: usize) -> io::Result<usize>;

    /// Passes FIN on.
    ///
    /// # Errors
    /// When the connection is gone already.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether it is a socket and nothing around it: then it can be spliced, and its close passes FIN on.
    fn is_bare(&self) -> bool {
        true
    }
}

/// A pipe that can be made.
pub trait Conduit: Sized {
    /// A new, empty one with room for about `capacity` bytes, and the room it really has.
    ///
    /// # Errors
    /// When no descriptor is left.
    fn open(capacity: usize) -> io::Result<(Self, usize)>;
}

impl Stream for Socket {
    type Pipe = Pipe;

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Self::recv(self, into)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::send(self, bytes)
    }

    fn fill(&mut self, pipe: &Pipe, max: usize) -> io::Result<usize> {
        pipe.fill(self, max)
    }

    fn drain(&mut self, pipe: &Pipe, max: usize) -> io::Result<usize> {
        pipe.drain(self, max)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Self::shutdown_write(self)
    }
}

impl Conduit for Pipe {
    fn open(capacity: usize) -> io::Result<(Self, usize)> {
        Self::new(capacity)
    }
}

/// Bytes of the scratch buffer: how much one read may bring, and how much one direction may be left holding.
pub const SCRATCH_BYTES: usize = 16 * 1024;

/// Bytes a direction may move in one pump, when nobody else waits.
pub const BUDGET_BYTES: usize = 512 * 1024;

/// Bytes a pipe is asked to hold.
pub const PIPE_BYTES: usize = 256 * 1024;

/// A pipe smaller than this is not worth two system calls: the user's quota is used up (see pipe(7)).
const PIPE_BYTES_MIN: usize = 32 * 1024;

/// Empty pipes a worker keeps. Uncongested traffic needs one.
const PIPES_FREE_MAX: usize = 16;

/// Pipes a worker needs at most, two descriptors each: what a user's default quota has of 64 KiB (pipe(7)). Beyond it
/// bytes are copied.
pub const PIPES_MAX: usize = 1024;

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Room<P> {
    /// Where reads land before they are written on.
    pub scratch: Box<[u8]>,
    /// Bytes a direction may move in one pump; then others have theirs.
    pub budget: usize,
    /// Empty pipes.
    pub pipes: Pipes<P>,
}

impl<P: Conduit> Room<P> {
    /// With at most so many pipes; 0 = everything is copied.
    pub fn new(pipes_max: usize) -> Self {
        Self {
            scratch: vec![0; SCRATCH_BYTES].into(),
            budget: BUDGET_BYTES,
            pipes: Pipes { free: Vec::new(), in_use: 0, max: pipes_max },
        }
    }
}

/// The pipes of one worker. A direction borrows one only while bytes are inside it.
#[derive(Debug)]
pub struct Pipes<P> {
    free: Vec<P>,
    in_use: usize,
    max: usize,
}

impl<P: Conduit> Pipes<P> {
    /// Whether it makes sense to ask.
    pub fn enabled(&self) -> bool {
        self.max > 0
    }

    /// Never again: the kernel does not splice here.
    pub fn disable(&mut self) {
        self.max = 0;
        self.free.clear();
    }

    /// An empty pipe; `None` when the bound, the quota or the descriptors are used up: then copy.
    pub fn borrow(&mut self) -> Option<P> {
        let pipe = match self.free.pop() {
            Some(pipe) => pipe,
            None if self.in_use >= self.max => return None,
            None => match P::open(PIPE_BYTES) {
                Ok((pipe, bytes)) if bytes >= PIPE_BYTES_MIN => pipe,
                _ => return None,
            },
        };
        self.in_use += 1;
        Some(pipe)
    }

    /// Counts a pipe that was made elsewhere and holds bytes.
    pub fn adopt(&mut self) {
        self.in_use += 1;
    }

    /// Takes an empty pipe back.
    pub fn give_back(&mut self, pipe: P) {
        self.in_use -= 1;
        if self.free.len() < PIPES_FREE_MAX.min(self.max) {
            self.free.push(pipe);
        }
    }

    /// Closes a pipe that still holds bytes, which nobody wants any more.
    pub fn discard(&mut self, pipe: P) {
        self.in_use -= 1;
        drop(pipe);
    }

    /// (in use, free).
    pub fn counts(&self) -> (usize, usize) {
        (self.in_use, self.free.len())
    }
}
