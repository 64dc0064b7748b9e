//! Kernel pipes, and splice(2) between them and sockets: bytes move without being copied to user space.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::pipe::SpliceFlags;

use super::check;
use super::socket::Socket;

/// A pipe with both ends, non-blocking.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// A new pipe that holds `capacity` bytes where the quota allows it, and how much it really holds.
    ///
    /// Beyond the user's quota (/proc/sys/fs/pipe-user-pages-soft, see pipe(7)) the kernel makes pipes of one or two
    /// pages without an error; so the caller must look at the second value.
    ///
    /// # Errors
    /// Those of pipe2(2): EMFILE, ENFILE.
    pub fn new(capacity: usize) -> io::Result<(Self, usize)> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors that pipe2 writes.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
        // SAFETY: pipe2 just made both descriptors, and nobody else owns them.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        let wanted = libc::c_int::try_from(capacity).unwrap_or(libc::c_int::MAX);
        // SAFETY: a call on an open descriptor with an integer argument. Refusal (EPERM at the quota) leaves the pipe
        // as it is, and the next call tells how large that is.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, wanted) };
        // SAFETY: a call on an open descriptor without further arguments.
        let size = check(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
        Ok((Self { read, write }, usize::try_from(size).unwrap_or(0)))
    }

    /// A pipe that another process has made, by its ends.
    pub fn of((read, write): (OwnedFd, OwnedFd)) -> Self {
        Self { read, write }
    }

    /// Other descriptors of both ends.
    ///
    /// # Errors
    /// EMFILE.
    pub fn duplicate(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.read.try_clone()?, self.write.try_clone()?))
    }

    /// Moves at most `max` bytes from the socket into the pipe; 0 = the socket's end.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is empty **or the pipe is full**; EINVAL when the socket cannot be spliced.
    pub fn fill(&self, source: &Socket, max: usize) -> io::Result<usize> {
        splice(source, &self.write, max)
    }

    /// Moves at most `max` bytes from the pipe into the socket.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes no more, or the pipe is empty.
    pub fn drain(&self, sink: &Socket, max: usize) -> io::Result<usize> {
        splice(&self.read, sink, max)
    }
}

/// splice(2), never blocking. SPLICE_F_MORE is left out on purpose: it corks the socket until more comes.
fn splice(from: impl AsFd, to: impl AsFd, max: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK;
    Ok(retry_on_intr(|| rustix::pipe::splice(&from, None, &to, None, max, flags))?)
}
