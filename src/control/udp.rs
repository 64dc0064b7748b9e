//! What the host gives to UDP, and what to do where it is little.

use crate::config::{Config, Protocol};
use crate::sys::datagram::Offload;

/// Asked for each socket that clients' datagrams come to: room for the thousands of them that may come while the worker
/// is at something else.
pub const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Whether any listener of the file carries datagrams.
pub fn is_in(config: &Config) -> bool {
    config.listeners.iter().any(|listener| matches!(listener.protocol, Protocol::Udp(_)))
}

/// Logs what this kernel can do for trains of datagrams.
pub fn tell(offload: Offload) {
    match missing(offload) {
        Some(missing) => tracing::info!("{missing}"),
        None => tracing::debug!("this kernel hands over and takes trains of datagrams (UDP_GRO, UDP_SEGMENT)"),
    }
}

fn missing(offload: Offload) -> Option<&'static str> {
    match (offload.receive, offload.send) {
        (true, true) => None,
        (true, false) => Some(
            "this kernel takes no trains of datagrams (UDP_SEGMENT): each datagram is sent by itself; Linux 4.18 has it",
        ),
        (false, true) => Some(
            "this kernel hands over no trains of datagrams (UDP_GRO): each datagram is received by itself; Linux 5.0 has it",
        ),
        (false, false) => Some(
            "this kernel neither hands over nor takes trains of datagrams (UDP_GRO, UDP_SEGMENT): each datagram is \
             received and sent by itself; Linux 5.0 has both",
        ),
    }
}

/// What to do when the kernel gives smaller receive buffers than it was asked for.
pub fn shortage(receive_buffer_bytes: usize) -> Option<String> {
    (receive_buffer_bytes < RECEIVE_BUFFER_BYTES).then(|| {
        format!(
            "udp: the kernel gives receive buffers of {}KiB where {}KiB were asked for; it drops what comes in a burst \
             beyond them: sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}, or give the process CAP_NET_ADMIN",
            receive_buffer_bytes >> 10,
            RECEIVE_BUFFER_BYTES >> 10,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_said_and_nothing_where_all_is_there() {
        let said = |receive, send| missing(Offload { receive, send }).unwrap_or_default();
        assert_eq!(said(true, true), "");
        assert!(said(true, false).contains("UDP_SEGMENT") && !said(true, false).contains("UDP_GRO"));
        assert!(said(false, true).contains("UDP_GRO") && !said(false, true).contains("UDP_SEGMENT"));
        assert!(said(false, false).contains("UDP_GRO, UDP_SEGMENT"));
    }

    #[test]
    fn a_small_receive_buffer_is_named_with_what_to_do() {
        assert_eq!(shortage(RECEIVE_BUFFER_BYTES), None);
        let said = shortage(212_992).expect("too small");
        assert!(said.contains("208KiB where 8192KiB") && said.contains("net.core.rmem_max=8388608"), "{said}");
    }
}
