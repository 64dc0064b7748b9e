//! The only room with unsafe code: the system calls that the standard library, mio and socket2 do not offer.
#![allow(unsafe_code)]

pub mod pipe;
pub mod process;
pub mod socket;

use std::io;

/// Turns a system call's result into its value, or into the error that errno names.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a length.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
