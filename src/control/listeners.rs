//! The listening sockets: bound before anything else changes, handed to the workers, kept as duplicates so that
//! their options can change without binding again.
//!
//! An IP address has one socket for each worker (SO_REUSEPORT); a unix socket has one, at worker 0. A unix socket is
//! made with mode 0666: clients are other users, and who may reach it is decided by its folder. TCP and UDP may share an
//! address and port, as DNS has it: they are different sites.

mod handover;
pub mod site;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;

use self::site::{Site, bind_alone, local, sites};
use super::inherited::{Inherited, Keeper};
use super::udp;
use crate::config::{Config, Keepalive, Listener, Protocol};
use crate::engine::Command;
use crate::id::ListenerId;
use crate::sys::datagram::{DatagramSocket, Offload};
use crate::sys::socket::{self, ListenOptions};

/// Access to a unix listener; see the module.
const UNIX_MODE: u32 = 0o666;

/// The sockets that are open.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    /// What datagram sockets ask the kernel for.
    offload: Offload,
    open: Vec<Open>,
    /// What the service manager has in store, by listener.
    stored: Vec<(String, Site)>,
    /// Those of a predecessor, until they are claimed.
    inherited: handover::Inherited,
}

/// One address of one listener.
#[derive(Debug)]
struct Open {
    name: String,
    site: Site,
    /// The gateway serves it, also where it is a unix socket.
    is_http: bool,
    /// They mean nothing to UDP.
    options: ListenOptions,
    /// Duplicates of what the threads have, in their order.
    sockets: Vec<OwnedFd>,
    /// What the threads are to have, until they do.
    given: Vec<OwnedFd>,
    /// Where it really is.
    local: Option<SocketAddr>,
    /// Whose its unix socket file is, so that a successor's is not removed.
    inode: Option<(u64, u64)>,
    keeper: Keeper,
}

/// New sockets that are bound, but not yet given to anybody: dropping this undoes it.
#[derive(Debug, Default)]
pub struct Bound(Vec<Open>);

/// A command for one thread: the workers come first, then the gateway's.
pub type Order = (usize, Command);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener.{listener}: {address}: {error}\n{advice}")]
pub struct ListenError {
    listener: String,
    address: String,
    error: io::Error,
    advice: String,
}

impl Listeners {
    /// None yet, for so many workers.
    pub fn new(workers: usize, offload: Offload) -> Self {
        Self { workers, offload, open: Vec::new(), stored: Vec::new(), inherited: Vec::new() }
    }

    /// What datagram sockets ask the kernel for.
    pub const fn offload(&self) -> Offload {
        self.offload
    }

    /// Binds what `config` has and is not open yet, unless it was inherited.
    ///
    /// # Errors
    /// The first address that cannot be had; nothing has changed then.
    pub fn bind(&mut self, config: &Config, inherited: &mut Inherited) -> Result<Bound, ListenError> {
        let mut bound = self.claim(config);
        let is_there =
            |listener: &Listener, site: &Site| self.open.iter().chain(&bound.0).any(|open| open.is(listener, site));
        let missing: Vec<(&Listener, Site)> =
            sites(config).filter(|(listener, site)| !is_there(listener, site)).collect();
        // All are probed before the first is bound: with SO_REUSEPORT our own sockets would be found taken.
        for (listener, site) in missing.iter().filter(|(listener, site)| !inherited.has(&listener.name, site)) {
            self.probe(site, &bound).map_err(|error| explain(listener, site, error))?;
        }
        for (listener, site) in missing {
            let open = match self.moved(config, &site) {
                Some(from) => from.duplicate(listener, &site, options(config, listener)),
                None => match inherited.take(&listener.name, &site) {
                    Ok(given) if given.is_empty() => self.open(config, listener, &site),
                    given => given.and_then(|given| self.adopt(config, listener, &site, given)),
                },
            };
            bound.0.push(open.map_err(|error| explain(listener, &site, error))?);
        }
        Ok(bound)
    }

    /// Keeps what was bound, and says who is to listen where.
    ///
    /// # Errors
    /// Those of [`Bound::duplicate`]; nothing is kept then.
    pub fn keep(&mut self, mut bound: Bound, id: impl Fn(&str) -> Option<ListenerId>) -> io::Result<Vec<Order>> {
        bound.duplicate()?;
        let mut orders = Vec::new();
        for mut open in bound.0 {
            let Some(listener) = id(&open.name) else { continue };
            for (thread, socket) in open.threads(self.workers).zip(std::mem::take(&mut open.given)) {
                orders.push((thread, Command::Listen { listener, bind: open.site.bind(), socket }));
            }
            self.open.push(open);
        }
        Ok(orders)
    }

    /// Lets go of what `config` does not have any more, and says who is to stop, and where.
    pub fn release(&mut self, config: &Config, id: impl Fn(&str) -> Option<ListenerId>) -> (Vec<Order>, Vec<Site>) {
        let has = |open: &Open| sites(config).any(|(listener, site)| open.is(listener, &site));
        let (kept, gone): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open).into_iter().partition(has);
        self.open = kept;
        let mut orders = Vec::new();
        for open in &gone {
            if !self.open.iter().any(|other| other.site == open.site) {
                open.remove_file();
            }
            let Some(listener) = id(&open.name) else { continue };
            let unlisten = |thread| (thread, Command::Unlisten { listener, bind: open.site.bind() });
            orders.extend(open.threads(self.workers).map(unlisten));
        }
        (orders, gone.into_iter().map(|open| open.site).collect())
    }

    /// Applies the options to the sockets that are open.
    ///
    /// # Errors
    /// The first socket that refuses.
    pub fn configure(&mut self, config: &Config) -> Result<(), ListenError> {
        for listener in &config.listeners {
            let options = options(config, listener);
            // Also those that have not changed: the kernel's own limit of backlogs may have (listen(2)).
            for open in self.open.iter_mut().filter(|open| open.name == listener.name) {
                for socket in &open.sockets {
                    configure(socket, &open.site, &options).map_err(|error| explain(listener, &open.site, error))?;
                }
                open.options = options;
            }
        }
        Ok(())
    }

    /// Whether a socket unit has sockets of this listener, and listens on them whatever happens here.
    pub fn are_units(&self, name: &str) -> bool {
        self.open.iter().any(|open| open.name == name && open.keeper == Keeper::Unit)
    }

    /// Where a listener really listens.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        self.open.iter().filter(|open| open.name == name).map(Open::address).collect()
    }

    /// Closes all sockets; what the workers have is theirs. The addresses can still be told.
    pub fn close(&mut self) {
        for open in &mut self.open {
            open.sockets.clear();
            open.remove_file();
        }
    }

    /// Whether anybody still has one of these: workers let go in their own time. The file of a unix socket is gone at
    /// once.
    pub fn are_held(&self, sites: &[Site]) -> bool {
        sites.iter().any(|site| !matches!(site, Site::Unix(_)) && self.probe(site, &Bound::default()).is_err())
    }

    /// An open socket of this site whose listener gives it up in `config`.
    fn moved(&self, config: &Config, site: &Site) -> Option<&Open> {
        if site.is_chosen() {
            return None;
        }
        let stays = |open: &Open| sites(config).any(|(listener, site)| open.is(listener, &site));
        self.open.iter().find(|open| open.site.is_kin_of(site) && open.site.bind() == site.bind() && !stays(open))
    }

    /// Whether somebody else has the address. SO_REUSEPORT lets a second process of the same user bind it too and
    /// take half of the clients, silently; a bind without it is refused while anybody has it.
    fn probe(&self, site: &Site, bound: &Bound) -> io::Result<()> {
        let address = match site {
            Site::Tcp(address) | Site::Http(address) | Site::Udp(address) => *address,
            Site::Unix(path) if self.known(bound).any(|open| open.site == *site) => {
                return path.metadata().map(drop);
            }
            Site::Unix(path) => return clear_stale(path),
        };
        let is_ours =
            |open: &Open| open.site.is_kin_of(site) && open.local.is_some_and(|local| local.port() == address.port());
        if address.port() == 0 || self.known(bound).any(is_ours) {
            return Ok(());
        }
        bind_alone(site, address).map(drop)
    }

    /// Everything that is open here, in whoever's name.
    fn known<'a>(&'a self, bound: &'a Bound) -> impl Iterator<Item = &'a Open> {
        self.open.iter().chain(&bound.0).chain(self.inherited.iter().map(|(_, open)| open))
    }

    fn open(&self, config: &Config, listener: &Listener, site: &Site) -> io::Result<Open> {
        let options = options(config, listener);
        let (sockets, inode) = match site {
            Site::Udp(address) if address.port() == 0 => {
                // With SO_REUSEPORT the kernel may choose a port that another listener of this user has, and share it.
                let chosen = bind_alone(site, *address)?.local_addr()?.as_socket();
                (self.open_some(site, chosen.unwrap_or(*address), &options, self.workers)?, None)
            }
            Site::Tcp(address) | Site::Http(address) | Site::Udp(address) => {
                (self.open_some(site, *address, &options, self.workers)?, None)
            }
            Site::Unix(path) => {
                let socket = socket::listen_unix(path, &options)?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(UNIX_MODE))?;
                (vec![socket], inode(path))
            }
        };
        let local = sockets.first().and_then(local);
        let (name, site, is_http) = (listener.name.clone(), site.clone(), is_http(listener));
        let (given, keeper) = (Vec::new(), Keeper::Own);
        Ok(Open { name, site, is_http, options, sockets, given, local, inode, keeper })
    }

    /// So many sockets at an IP address; with port 0 the first one chooses and the others join it.
    fn open_some(
        &self,
        site: &Site,
        mut address: SocketAddr,
        options: &ListenOptions,
        count: usize,
    ) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = match site {
                Site::Udp(_) => DatagramSocket::bind(address, udp::RECEIVE_BUFFER_BYTES, self.offload)?.into(),
                _ => socket::listen_ip(address, options)?,
            };
            if let Some(local) = local(&socket) {
                address.set_port(local.port());
            }
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

impl Bound {
    /// Makes what the threads are to have, as far as it is not there yet: no descriptor will be missing later.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn duplicate(&mut self) -> io::Result<()> {
        for open in &mut self.0 {
            for socket in &open.sockets[open.given.len()..] {
                open.given.push(socket.try_clone()?);
            }
        }
        Ok(())
    }

    /// Whether the gateway is to serve one of them.
    pub fn has_http(&self) -> bool {
        self.0.iter().any(|open| open.is_http)
    }

    /// Bytes that the smallest receive buffer of the datagram sockets holds; `None` = there are none.
    pub fn receive_buffer_bytes(&self) -> Option<usize> {
        let open = self.0.iter().filter(|open| matches!(open.site, Site::Udp(_)));
        // The kernel counts twice what was asked for (socket(7)).
        let bytes = |socket| SockRef::from(socket).recv_buffer_size().map_or(0, |bytes| bytes / 2);
        open.flat_map(|open| &open.sockets).map(bytes).min()
    }
}

impl Open {
    fn is(&self, listener: &Listener, site: &Site) -> bool {
        self.name == listener.name && self.site == *site && self.is_http == is_http(listener)
    }

    /// Who has its sockets, among the workers or the gateway's threads, of which there are as many: one each, unless a
    /// predecessor had more workers.
    fn threads(&self, workers: usize) -> impl Iterator<Item = usize> + use<> {
        let first = if self.is_http { workers } else { 0 };
        (0..self.sockets.len()).map(move |socket| first + socket % workers)
    }

    fn address(&self) -> String {
        self.local.map_or_else(|| self.site.to_string(), |local| local.to_string())
    }

    /// The same sockets under another listener's name: what waits in their queues is not lost.
    fn duplicate(&self, listener: &Listener, site: &Site, options: ListenOptions) -> io::Result<Self> {
        let sockets: Vec<OwnedFd> = self.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        for socket in &sockets {
            configure(socket, &self.site, &options)?;
        }
        let (name, site, is_http) = (listener.name.clone(), site.clone(), is_http(listener));
        let (local, inode, keeper) = (self.local, self.inode, self.keeper);
        Ok(Self { name, site, is_http, options, sockets, given: Vec::new(), local, inode, keeper })
    }

    fn remove_file(&self) {
        if let (Site::Unix(path), Some(_)) = (&self.site, self.inode)
            && inode(path) == self.inode
        {
            // A file that stays behind is found stale by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_http(listener: &Listener) -> bool {
    matches!(listener.protocol, Protocol::Http(_))
}

fn configure(socket: &OwnedFd, site: &Site, options: &ListenOptions) -> io::Result<()> {
    match site {
        Site::Tcp(_) | Site::Http(_) => socket::configure(socket, options),
        Site::Udp(_) => Ok(()),
        Site::Unix(_) => SockRef::from(socket).listen(i32::try_from(options.backlog).unwrap_or(i32::MAX)),
    }
}

fn options(config: &Config, listener: &Listener) -> ListenOptions {
    ListenOptions {
        backlog: listener.backlog.get(),
        fast_open: listener.fast_open,
        defer_accept: listener.defer_accept,
        keepalive: listener.keepalive.map(Keepalive::probes),
        user_timeout: user_timeout(config, listener),
    }
}

/// How long a client may leave unacknowledged what it is sent. Where routes lead to several pools it is the longest time of
/// theirs, and none where one has none: it has to suffice for the slowest reader of each.
fn user_timeout(config: &Config, listener: &Listener) -> Option<Duration> {
    let names = listener.pool.as_deref().into_iter().chain(config.gateway.pools_of(&listener.name));
    let pools = names.filter_map(|name| config.pools.iter().find(|pool| pool.name == name));
    let times: Option<Vec<Duration>> = pools.map(|pool| pool.connect.user_timeout).collect();
    times?.into_iter().max()
}

/// Removes a unix socket file that nobody listens on any more.
///
/// # Errors
/// EADDRINUSE when somebody does, EEXIST when it is no socket.
pub fn clear_stale(path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of this name that is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Device and inode of a file.
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn explain(listener: &Listener, site: &Site, error: io::Error) -> ListenError {
    let advice = match site {
        Site::Tcp(address) | Site::Http(address) => advise(*address, &error),
        Site::Udp(address) => advise_udp(*address, &error),
        Site::Unix(path) => advise_unix(path, &error),
    };
    ListenError { listener: listener.name.clone(), address: site.to_string(), error, advice }
}

/// What to do about a TCP address that cannot be bound.
pub fn advise(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has this port; who: ss -ltnp 'sport = :{}'", address.port())
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this host has no address {}; those it has: ip -brief address", address.ip())
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE: AmbientCapabilities=CAP_NET_BIND_SERVICE under systemd, \
             or once: setcap cap_net_bind_service=+ep PROGRAM"
                .to_owned()
        }
        _ => "nothing was changed".to_owned(),
    }
}

fn advise_udp(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has this UDP port; who: ss -lunp 'sport = :{}'", address.port())
        }
        _ => advise(address, error),
    }
}

fn advise_unix(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("another program listens there; who: ss -lxp src {}", path.display()),
        io::ErrorKind::AlreadyExists => "remove it, or choose another path".to_owned(),
        io::ErrorKind::NotFound => format!("make the folder {} first", folder.display()),
        io::ErrorKind::PermissionDenied => format!("the process may not write to the folder {}", folder.display()),
        _ => "nothing was changed".to_owned(),
    }
}

mod outside;
#[cfg(test)]
mod tests;
