//! The `udp` check: a datagram, and what comes back.
//!
//! With `expect` an answer must hold its bytes; other answers are passed over until the time-out. Without it silence is
//! good, for many servers answer nothing to what they do not understand: a backend is down only when an error comes back
//! within the time-out, above all its host's word that nobody listens there (ICMP port unreachable, "Connection refused").
//! So a good check of a silent backend takes the whole time-out. A host that is gone altogether is silent as well: of
//! ICMP's host and network unreachable Linux tells only sockets that ask for them (IP_RECVERR, ip(7)), and that nobody
//! answers to ARP it knows after three seconds, when a check is over.
//!
//! The socket is connected, so that nobody but the backend is heard. A check is one datagram: one that gets lost is a
//! failed check, and `fall` is there for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::super::Target;
use super::{Failure, expected, heard, no_source, proxy_header};
use crate::config::{Endpoint, SendProxy};

/// No datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Answers that one check looks at.
const ANSWERS_MAX: usize = 64;

pub(super) async fn probe(
    target: &Target,
    endpoint: &Endpoint,
    send: &[u8],
    expect: Option<&[u8]>,
    deadline: Instant,
) -> Result<(), Failure> {
    let Endpoint::Ip(address) = endpoint else { return Err(Failure::new("a unix socket carries no UDP")) };
    let socket = connect(*address, target.pool.source).await?;
    // The text form of the header has no UDP.
    let header = if target.pool.send_proxy == SendProxy::V1 { b"" } else { proxy_header(target) };
    socket.send(&[header, send].concat()).await?;
    let Some(wanted) = expect else {
        let mut nothing = [0; 1];
        return match timeout_at(deadline.into(), socket.recv(&mut nothing)).await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(_) => Ok(()),
        };
    };
    let mut last = None;
    match timeout_at(deadline.into(), listen(&socket, wanted, &mut last)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(failure)) => Err(failure),
        Ok(Ok(false)) | Err(_) => Err(Failure::new(match last {
            None => format!("no answer within {:?}", target.pool.health.timeout),
            Some(came) => format!("an answer came, but without \"{}\"; got \"{came}\"", expected(wanted)),
        })),
    }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> Result<UdpSocket, Failure> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).await;
    let socket = socket.map_err(|error| match source {
        Some(source) => no_source(source, &error),
        None => error.into(),
    })?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Whether one of the answers holds the bytes; `last` is the last of those that do not, as it may be shown.
async fn listen(socket: &UdpSocket, wanted: &[u8], last: &mut Option<String>) -> Result<bool, Failure> {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..ANSWERS_MAX {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        if answer.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(true);
        }
        *last = Some(heard(answer));
    }
    Ok(false)
}
