//! The only room with unsafe code: the system calls that the standard library, mio, socket2 and rustix do not offer.
#![allow(unsafe_code)]

pub mod alloc;
pub mod datagram;
pub mod pipe;
pub mod process;
pub mod rights;
pub mod socket;
#[cfg(feature = "gateway")]
pub mod watched;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Turns a system call's result into its value, or into the error that errno names.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a length.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets an integer option of a socket.
fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the pointer and length name one i32.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), len) })?;
    Ok(())
}
