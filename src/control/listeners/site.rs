//! Where a listener is, and the sockets found there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{Bind, Config, Listener, Protocol};

/// An address, and what arrives there: TCP and UDP have each their own ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// Connections, for the workers.
    Tcp(SocketAddr),
    /// Connections, for the gateway.
    Http(SocketAddr),
    /// Datagrams.
    Udp(SocketAddr),
    /// Connections of this host.
    Unix(PathBuf),
}

impl Site {
    /// Of this address of a listener.
    pub fn of(listener: &Listener, bind: &Bind) -> Self {
        match (bind, &listener.protocol) {
            (Bind::Unix(path), _) => Self::Unix(path.clone()),
            (Bind::Ip(address), Protocol::Tcp) => Self::Tcp(*address),
            (Bind::Ip(address), Protocol::Http(_)) => Self::Http(*address),
            (Bind::Ip(address), Protocol::Udp(_)) => Self::Udp(*address),
        }
    }

    /// Whether they have their ports in common.
    pub fn is_kin_of(&self, other: &Self) -> bool {
        let kind = |site: &Self| match site {
            Self::Tcp(_) | Self::Http(_) => 0,
            Self::Udp(_) => 1,
            Self::Unix(_) => 2,
        };
        kind(self) == kind(other)
    }

    /// Whether the kernel chooses the port.
    pub const fn is_chosen(&self) -> bool {
        match self {
            Self::Tcp(address) | Self::Http(address) | Self::Udp(address) => address.port() == 0,
            Self::Unix(_) => false,
        }
    }

    /// As the file has it.
    pub fn bind(&self) -> Bind {
        match self {
            Self::Tcp(address) | Self::Http(address) | Self::Udp(address) => Bind::Ip(*address),
            Self::Unix(path) => Bind::Unix(path.clone()),
        }
    }
}

impl std::fmt::Display for Site {
    /// How the address stands in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) | Self::Http(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Every address of every listener.
pub fn sites(config: &Config) -> impl Iterator<Item = (&Listener, Site)> {
    let listeners = config.listeners.iter().map(|listener| &**listener);
    listeners.flat_map(|listener| listener.bind.iter().map(move |bind| (listener, Site::of(listener, bind))))
}

/// Binds an address as nobody can who shares it; connections that a predecessor has left do no harm (SO_REUSEADDR,
/// socket(7)).
pub fn bind_alone(site: &Site, address: SocketAddr) -> io::Result<Socket> {
    let is_udp = matches!(site, Site::Udp(_));
    let kind = if is_udp { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    // With UDP it would mean to share.
    socket.set_reuse_address(!is_udp)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Where an IP socket is bound.
pub fn local(socket: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(&socket.as_fd()).local_addr().ok()?.as_socket()
}
