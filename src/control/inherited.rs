//! Listening sockets that came from outside, by name: of the service manager, whose socket units and whose store hold
//! them (sd_listen_fds(3)), or of the process before this one.
//!
//! A socket unit says by `FileDescriptorName=` whose its sockets are: a listener's, or `admin` or `metrics`. Several of
//! one name are several addresses, or one for each worker. What the store holds was put there by this program itself
//! (`store`), so nothing of it can be the operator's mistake: what does not fit any more is only let go.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::{SockRef, Type};

use super::listeners::site::{Site, local, sites};
use super::store;
use crate::config::{Config, Process};

/// The name of the admin API's socket.
pub const ADMIN: &str = "admin";
/// The name of the metrics' socket.
pub const METRICS: &str = "metrics";

/// Those that were not taken yet, and all of socket units: a listener that goes may come again.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Inherit>);

/// A socket, bound and, where it is for connections, listening.
#[derive(Debug)]
pub struct Inherit {
    /// A listener's, [`ADMIN`] or [`METRICS`].
    pub name: String,
    /// Itself.
    pub socket: OwnedFd,
    /// Who else has it.
    pub keeper: Keeper,
}

/// Who has a listening socket besides this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A socket unit of the service manager, which listens whatever becomes of this process.
    Unit,
    /// Nobody, or nobody who would not give it up: it was bound by this program.
    Own,
}

/// Why what came from outside cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The environment or a descriptor is broken.
    #[error("the service manager's sockets: {0}")]
    Broken(#[from] io::Error),
    /// The file and the socket unit contradict each other.
    #[error(
        "{owner}: the socket unit passes a socket at {socket}, but the file has {wanted}\n\
         make both the same (ListenStream=, or ListenDatagram= for UDP), and restart the unit: systemctl restart evener.socket"
    )]
    Elsewhere {
        /// The key of the file.
        owner: String,
        /// Where the socket is.
        socket: String,
        /// Where it should be.
        wanted: String,
    },
    /// Nobody would find it.
    #[error(
        "{owner}: the socket unit's socket at unix {path} has lost its file, so that nobody can connect to it\n\
         restart the unit, which makes it anew: systemctl restart evener.socket"
    )]
    Gone {
        /// The key of the file.
        owner: String,
        /// Where its file was.
        path: String,
    },
    /// It would let clients in past `allow` and `deny`.
    #[error(
        "{owner}: the socket unit's socket at {socket} takes IPv4 too, which an IPv6 address means nowhere in the file\n\
         write BindIPv6Only=ipv6-only into the socket unit, and a second ListenStream= for IPv4"
    )]
    DualStack {
        /// The key of the file.
        owner: String,
        /// Where the socket is.
        socket: String,
    },
}

impl Inherited {
    /// What the service manager has passed; to be called first of all, see [`crate::sys::process::take_passed`].
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn of_service_manager() -> Result<Self, InheritError> {
        let passed = crate::sys::process::take_passed()?.into_iter();
        Ok(Self::new(passed.map(|(name, socket)| match store::listener_of(&name) {
            Some(name) => Inherit { name: name.to_owned(), socket, keeper: Keeper::Own },
            None => Inherit { name, socket, keeper: Keeper::Unit },
        })))
    }

    /// These.
    pub fn new(sockets: impl IntoIterator<Item = Inherit>) -> Self {
        Self(sockets.into_iter().collect())
    }

    /// Those of socket units, for a successor.
    pub fn units(&self) -> impl Iterator<Item = &Inherit> {
        self.0.iter().filter(|one| one.keeper == Keeper::Unit)
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds the sockets of units against the file, before anything is bound. Those that no name of the file claims are
    /// closed, with a warning.
    ///
    /// # Errors
    /// The first one that is not where the file has it.
    pub fn verify(&mut self, config: &Config) -> Result<(), InheritError> {
        self.0.retain(|one| {
            let is_known = one.keeper == Keeper::Own
                || [ADMIN, METRICS].contains(&one.name.as_str())
                || config.listeners.iter().any(|listener| listener.name == one.name);
            if !is_known {
                let (name, address) = (&one.name, describe(&one.socket));
                tracing::warn!(
                    name,
                    address,
                    "the service manager passes a socket that nobody claims; it is closed. FileDescriptorName= in its \
                     socket unit must be the name of a listener, \"{ADMIN}\" or \"{METRICS}\""
                );
            }
            is_known
        });
        self.units().try_for_each(|one| verify(one, config))
    }

    /// The sockets of this listener and place, in the order in which they came.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn take(&mut self, listener: &str, site: &Site) -> io::Result<Vec<Inherit>> {
        let mut port = None;
        self.take_if(|one| {
            // Where the kernel chooses the port, the first one has it.
            let local = local(&one.socket).map(|local| local.port());
            one.name == listener && is_at(&one.socket, site) && *port.get_or_insert(local) == local
        })
    }

    /// Closes what is left of those that no socket unit has: the file has other listeners by now.
    pub fn settle(&mut self) {
        self.0.retain(|one| {
            if one.keeper == Keeper::Own {
                let address = describe(&one.socket);
                tracing::info!(
                    listener = one.name,
                    address,
                    "a socket from before is in the file no longer; it is closed"
                );
                store::forget(&one.name);
            }
            one.keeper == Keeper::Unit
        });
    }

    /// Whether there is a socket of this listener and place.
    pub fn has(&self, listener: &str, site: &Site) -> bool {
        self.0.iter().any(|one| one.name == listener && is_at(&one.socket, site))
    }

    /// The admin API's socket.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn take_admin(&mut self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let found = self.take_if(|one| one.name == ADMIN && is_at_path(&one.socket, path))?;
        Ok(found.into_iter().next().map(|one| one.socket))
    }

    /// The metrics' socket.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn take_metrics(&mut self, address: SocketAddr) -> io::Result<Option<OwnedFd>> {
        let site = Site::Tcp(address);
        let found = self.take_if(|one| one.name == METRICS && is_at(&one.socket, &site))?;
        Ok(found.into_iter().next().map(|one| one.socket))
    }

    /// Those of socket units stay, and duplicates are given away.
    fn take_if(&mut self, mut which: impl FnMut(&Inherit) -> bool) -> io::Result<Vec<Inherit>> {
        let mut taken = Vec::new();
        for one in self.0.extract_if(.., |one| which(one)).collect::<Vec<_>>() {
            if one.keeper == Keeper::Unit {
                let (name, socket, keeper) = (one.name.clone(), one.socket.try_clone()?, one.keeper);
                taken.push(Inherit { name, socket, keeper });
                self.0.push(one);
            } else {
                taken.push(one);
            }
        }
        Ok(taken)
    }
}

/// Holds one socket against the file.
fn verify(one: &Inherit, config: &Config) -> Result<(), InheritError> {
    let Process { admin, metrics, .. } = &config.process;
    let listener = config.listeners.iter().find(|listener| listener.name == one.name);
    let sites = sites(config).filter(|(listener, _)| listener.name == one.name);
    let sites: Vec<Site> = sites.map(|(_, site)| site).collect();
    let is_admin = one.name == ADMIN && admin.as_deref().is_some_and(|path| is_at_path(&one.socket, path));
    let is_metrics = one.name == METRICS && metrics.is_some_and(|address| is_at(&one.socket, &Site::Tcp(address)));
    let is_listener = sites.iter().any(|site| is_at(&one.socket, site));
    let owner = match (listener, one.name.as_str()) {
        (Some(listener), _) => format!("listener.{}", listener.name),
        (None, name) => format!("process.{name}"),
    };
    let path = SockRef::from(&one.socket).local_addr().ok().and_then(|at| at.as_pathname().map(Path::to_owned));
    if let Some(path) = path.filter(|path| !path.exists()) {
        return Err(InheritError::Gone { owner, path: path.display().to_string() });
    }
    let socket = describe(&one.socket);
    if !(is_admin || is_metrics || is_listener) {
        let wanted = match (listener, one.name.as_str()) {
            (Some(_), _) => sites.iter().map(place).collect::<Vec<_>>().join(", "),
            (None, ADMIN) => admin.as_ref().map_or("\"\"".to_owned(), |path| format!("unix {}", path.display())),
            (None, _) => metrics.map_or("none".to_owned(), |address| format!("tcp {address}")),
        };
        return Err(InheritError::Elsewhere { owner, socket, wanted });
    }
    let local = local(&one.socket);
    let is_open_v6 = local.is_some_and(|local| local.is_ipv6() && local.ip().is_unspecified());
    if is_open_v6 && !SockRef::from(&one.socket).only_v6().unwrap_or(true) {
        return Err(InheritError::DualStack { owner, socket });
    }
    Ok(())
}

/// Whether a socket is what would be bound for this place.
fn is_at(socket: &OwnedFd, site: &Site) -> bool {
    let options = SockRef::from(socket);
    let is_of = |kind| options.r#type().is_ok_and(|of| of == kind);
    let listens = || is_of(Type::STREAM) && options.is_listener().unwrap_or(false);
    let is_here = |address: &SocketAddr| {
        let local = local(socket);
        local.is_some_and(|at| at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port()))
    };
    match site {
        Site::Tcp(address) | Site::Http(address) => listens() && is_here(address),
        Site::Udp(address) => is_of(Type::DGRAM) && is_here(address),
        // One whose file is gone is found by nobody.
        Site::Unix(path) => listens() && is_at_path(socket, path) && path.exists(),
    }
}

fn is_at_path(socket: &OwnedFd, path: &Path) -> bool {
    let options = SockRef::from(socket);
    options.is_listener().unwrap_or(false)
        && options.local_addr().is_ok_and(|local| local.as_pathname().is_some_and(|at| at == path))
}

/// A place as messages have it.
fn place(site: &Site) -> String {
    match site {
        Site::Tcp(address) | Site::Http(address) => format!("tcp {address}"),
        Site::Udp(address) => format!("udp {address}"),
        Site::Unix(path) => format!("unix {}", path.display()),
    }
}

/// A socket in the same words.
fn describe(socket: &OwnedFd) -> String {
    let options = SockRef::from(socket);
    let kind = options.r#type().ok();
    let local = options.local_addr().ok();
    let path = local.as_ref().and_then(|local| local.as_pathname().map(|path| format!("unix {}", path.display())));
    let ip = local.as_ref().and_then(socket2::SockAddr::as_socket);
    let connection = || kind == Some(Type::STREAM) && !options.is_listener().unwrap_or(false);
    match (path, ip) {
        _ if connection() => "no address: it does not listen (Accept=no is needed)".to_owned(),
        (Some(path), _) => path,
        (None, Some(address)) if kind == Some(Type::DGRAM) => format!("udp {address}"),
        (None, Some(address)) => format!("tcp {address}"),
        (None, None) => "an address of another family".to_owned(),
    }
}
