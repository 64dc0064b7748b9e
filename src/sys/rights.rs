//! Descriptors that travel over a unix socket beside bytes (unix(7), SCM_RIGHTS), and what two processes need to agree
//! about them.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use super::{check, check_len};

/// Descriptors in one message (SCM_MAX_FD).
pub const RIGHTS_MAX: usize = 253;

/// Room for the ancillary data of one message, with the alignment that it needs.
type Control = [u64; 132];

/// Sends bytes, at least one, and these descriptors with the first of them. They stay open here too.
///
/// # Errors
/// Those of sendmsg(2); `WouldBlock` when the peer has to read first, ETOOMANYREFS when too many are on their way.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(!bytes.is_empty() && fds.len() <= RIGHTS_MAX);
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let len = size_of::<RawFd>() * raw.len();
    let mut control: Control = [0; 132];
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is one without address, data and ancillary data.
    let mut header: libc::msghdr = unsafe { zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut vector, 1);
    if !raw.is_empty() {
        header.msg_control = (&raw mut control).cast();
        // SAFETY: it computes a size.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(len as u32) } as _;
        // SAFETY: the ancillary data has room for one header (msg_controllen, of `control`), so there is a first one.
        let first = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const header) };
        (first.cmsg_level, first.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        // SAFETY: it computes a size.
        first.cmsg_len = unsafe { libc::CMSG_LEN(len as u32) } as _;
        // SAFETY: behind the header there is room for `len` bytes (CMSG_SPACE of at most RIGHTS_MAX descriptors).
        unsafe { ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), libc::CMSG_DATA(first), len) };
    }
    loop {
        // SAFETY: `header` names buffers that live through the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        match check_len(sent) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Receives what is there, with the descriptors that came along; 0 = the peer has closed.
///
/// # Errors
/// Those of recvmsg(2); EMFILE when some of the descriptors could not be taken and are lost.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control: Control = [0; 132];
    let mut vector = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: an all-zero msghdr is one without address, data and ancillary data.
    let mut header: libc::msghdr = unsafe { zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut vector, 1);
    (header.msg_control, header.msg_controllen) = ((&raw mut control).cast(), size_of::<Control>() as _);
    let got = loop {
        // SAFETY: `header` names buffers that live through the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match check_len(got) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    // SAFETY: the kernel has filled the header and set the length of the ancillary data that is valid.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: a pointer that CMSG_FIRSTHDR or CMSG_NXTHDR gives is null or names a whole header.
    while let Some(found) = unsafe { next.as_ref() } {
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it computes a size.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let len: usize = found.cmsg_len as _;
            let count = len.saturating_sub(empty) / size_of::<RawFd>();
            for at in 0..count {
                // SAFETY: cmsg_len says that so many descriptors follow, of which nobody else knows yet.
                let fd = unsafe { ptr::read_unaligned(libc::CMSG_DATA(next).cast::<RawFd>().add(at)) };
                // SAFETY: the kernel has just opened it for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `next` is a header of `header`'s ancillary data.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(got)
}

/// The inode of a descriptor: of a socket the same in each process that has it.
///
/// # Errors
/// Those of fstat(2).
pub fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: an all-zero stat is a valid one.
    let mut stat: libc::stat = unsafe { zeroed() };
    // SAFETY: the descriptor is open while it is borrowed, and the pointer names one stat.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_ino)
}

/// Takes standard input over, in whose place /dev/null is from now on.
///
/// # Errors
/// Those of fcntl(2), open(2) and dup2(2).
pub fn take_standard_input() -> io::Result<OwnedFd> {
    // SAFETY: a call with integers.
    let taken = check(unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: fcntl just made it, and nobody else owns it.
    let taken = unsafe { OwnedFd::from_raw_fd(taken) };
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both are open; standard input is owned by nobody who would close it.
    check(unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) })?;
    Ok(taken)
}

/// CLOCK_MONOTONIC, which all processes share.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer names one timespec. It cannot fail: the clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_in_their_order_and_do_not_run_into_the_next_message() {
        let (one, other) = UnixStream::pair().expect("sockets");
        let pipes: Vec<(std::io::PipeReader, std::io::PipeWriter)> =
            (0..RIGHTS_MAX).map(|_| std::io::pipe().expect("a pipe")).collect();
        let writers: Vec<_> = pipes.iter().map(|(_, write)| write.as_fd()).collect();
        assert_eq!(send(one.as_fd(), b"first", &writers).expect("room"), 5);
        assert_eq!(send(one.as_fd(), b"second", &[]).expect("room"), 6);
        let (mut bytes, mut fds) = ([0; 64], Vec::new());
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut fds).expect("bytes"), 5);
        assert_eq!((&bytes[..5], fds.len()), (&b"first"[..], RIGHTS_MAX));
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut fds).expect("bytes"), 6);
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut fds).expect("the end"), 0);
        for (at, (fd, (mut read, write))) in fds.into_iter().zip(pipes).enumerate() {
            assert_eq!(inode(fd.as_fd()).expect("an inode"), inode(write.as_fd()).expect("an inode"));
            drop(write);
            File::from(fd).write_all(&[at as u8]).expect("a pipe");
            let mut said = Vec::new();
            read.read_to_end(&mut said).expect("what was written");
            assert_eq!(said, [at as u8]);
        }
    }
}
