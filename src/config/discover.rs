//! `pool.discover`: where a pool's further backends come from, and how far that is believed.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// `pool.discover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Who says it.
    pub origin: Origin,
    /// With fewer backends than this an answer is not believed: the pool keeps those it has.
    pub min: u32,
    /// Backends beyond are left out.
    pub max: NonZeroU32,
    /// Connections and flows at once to each backend that comes without a limit of its own; `None` = no limit.
    pub max_connections: Option<NonZeroU32>,
}

/// Who says which backends there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The addresses of a host name, all at this port.
    Addresses {
        /// As the file has it.
        name: String,
        /// 1..=65535.
        port: u16,
        /// Who is asked; `None` = the system's resolvers.
        resolver: Option<SocketAddr>,
    },
    /// SRV records.
    Services {
        /// As the file has it.
        name: String,
        /// Who is asked; `None` = the system's resolvers.
        resolver: Option<SocketAddr>,
    },
    /// A file of backends.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { name, port, .. } => write!(f, "{name}:{port}"),
            Self::Services { name, .. } => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
