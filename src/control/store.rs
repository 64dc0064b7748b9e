//! The service manager's store of descriptors (sd_pid_notify_with_fds(3), `FileDescriptorStoreMax=`). Listening sockets
//! that this program has bound lie there as well, so that they outlive a crash: clients wait in their backlogs, and the
//! next process is given the sockets again (`inherited`).
//!
//! What is listened on no longer is taken out, for else its clients would wait for nobody.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with,
};

/// What the names of stored sockets begin with: no listener can have such a name, and no socket unit should.
const PREFIX: &str = "store/";
/// Descriptors in one message (SCM_MAX_FD of the kernel).
const FDS_MAX: usize = 253;
/// Room for them.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// Whose a stored socket is; `None` for one that comes from elsewhere.
pub fn listener_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// Lays a listener's sockets by. Those that lie there already stay as they are.
pub fn keep(listener: &str, sockets: &[OwnedFd]) {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    for sockets in sockets.chunks(FDS_MAX) {
        tell(&format!("FDSTORE=1\nFDNAME={PREFIX}{listener}"), sockets);
    }
}

/// Takes all sockets of a listener out.
pub fn forget(listener: &str) {
    tell(&format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{listener}"), &[]);
}

fn tell(message: &str, sockets: &[BorrowedFd<'_>]) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(manager.as_encoded_bytes(), message, sockets) {
        tracing::warn!(%error, "the service manager could not be told which sockets to keep");
    }
}

/// `manager` is a path, or a name in the abstract namespace after an `@`.
fn send(manager: &[u8], message: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match manager {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let mut room = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sendmsg_addr(&socket, &address, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_store_holds_is_known_for_it() {
        assert_eq!(listener_of("store/web"), Some("web"));
        assert_eq!(listener_of("web"), None);
        assert_eq!(listener_of("evener.socket"), None);
    }
}
