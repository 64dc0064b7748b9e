//! The listening sockets: bound before anything else changes, handed to the workers, kept as duplicates so that
//! their options can change without binding again.
//!
//! An IP address has one socket for each worker (SO_REUSEPORT); a unix socket has one, at worker 0. A unix socket is
//! made with mode 0666: clients are other users, and who may reach it is decided by its folder.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Bind, Config, Listener};
use crate::id::ListenerId;
use crate::sys::socket::{self, ListenOptions};
use crate::worker::Command;

/// Access to a unix listener; see the module.
const UNIX_MODE: u32 = 0o666;

/// The sockets that are open.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    open: Vec<Open>,
}

/// One address of one listener.
#[derive(Debug)]
struct Open {
    name: String,
    bind: Bind,
    options: ListenOptions,
    /// Duplicates of what the workers have, in the order of the workers.
    sockets: Vec<OwnedFd>,
    /// Where it really is.
    local: Option<SocketAddr>,
    /// Whose its unix socket file is, so that a successor's is not removed.
    inode: Option<(u64, u64)>,
}

/// New sockets that are bound, but not yet given to anybody: dropping this undoes it.
#[derive(Debug, Default)]
pub struct Bound(Vec<Open>);

/// A command for one worker.
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
    pub fn new(workers: usize) -> Self {
        Self { workers, open: Vec::new() }
    }

    /// Binds what `config` has and is not open yet.
    ///
    /// # Errors
    /// The first address that cannot be had; nothing has changed then.
    pub fn bind(&self, config: &Config) -> Result<Bound, ListenError> {
        let missing = || {
            let binds = config.listeners.iter().flat_map(|listener| listener.bind.iter().map(move |b| (listener, b)));
            binds.filter(|(listener, bind)| !self.open.iter().any(|open| open.is(&listener.name, bind)))
        };
        // All are probed before the first is bound: with SO_REUSEPORT our own sockets would be found taken.
        for (listener, bind) in missing() {
            self.probe(bind).map_err(|error| explain(listener, bind, error))?;
        }
        let mut bound = Bound::default();
        for (listener, bind) in missing() {
            let open = match self.moved(config, bind) {
                Some(from) => from.duplicate(&listener.name, options(config, listener)),
                None => self.open(config, listener, bind),
            };
            bound.0.push(open.map_err(|error| explain(listener, bind, error))?);
        }
        Ok(bound)
    }

    /// Keeps what was bound, and says who is to listen where.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn keep(&mut self, bound: Bound, id: impl Fn(&str) -> Option<ListenerId>) -> io::Result<Vec<Order>> {
        let mut orders = Vec::new();
        for open in bound.0 {
            let Some(listener) = id(&open.name) else { continue };
            for (worker, socket) in open.sockets.iter().enumerate() {
                let socket = socket.try_clone()?;
                orders.push((worker, Command::Listen { listener, bind: open.bind.clone(), socket }));
            }
            self.open.push(open);
        }
        Ok(orders)
    }

    /// Lets go of what `config` does not have any more, and says who is to stop.
    pub fn release(&mut self, config: &Config, id: impl Fn(&str) -> Option<ListenerId>) -> Vec<Order> {
        let has = |open: &Open| {
            config.listeners.iter().any(|listener| listener.bind.iter().any(|bind| open.is(&listener.name, bind)))
        };
        let (kept, gone): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open).into_iter().partition(has);
        self.open = kept;
        let mut orders = Vec::new();
        for open in gone {
            if !self.open.iter().any(|other| other.bind == open.bind) {
                open.remove_file();
            }
            let Some(listener) = id(&open.name) else { continue };
            let unlisten = |worker| (worker, Command::Unlisten { listener, bind: open.bind.clone() });
            orders.extend((0..open.sockets.len()).map(unlisten));
        }
        orders
    }

    /// Applies changed options to the sockets that are open.
    ///
    /// # Errors
    /// The first socket that refuses.
    pub fn configure(&mut self, config: &Config) -> Result<(), ListenError> {
        for listener in &config.listeners {
            let options = options(config, listener);
            for open in self.open.iter_mut().filter(|open| open.name == listener.name && open.options != options) {
                for socket in &open.sockets {
                    configure(socket, &open.bind, &options).map_err(|error| explain(listener, &open.bind, error))?;
                }
                open.options = options;
            }
        }
        Ok(())
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

    /// Whether anybody still listens on one of these addresses: workers let go in their own time. The file of a unix
    /// socket is gone at once.
    pub fn are_held(&self, binds: &[Bind]) -> bool {
        binds.iter().any(|bind| matches!(bind, Bind::Ip(_)) && self.probe(bind).is_err())
    }

    /// An open socket of this address whose listener gives it up in `config`.
    fn moved(&self, config: &Config, bind: &Bind) -> Option<&Open> {
        if matches!(bind, Bind::Ip(address) if address.port() == 0) {
            return None;
        }
        let stays = |open: &Open| {
            config.listeners.iter().any(|listener| listener.name == open.name && listener.bind.contains(bind))
        };
        self.open.iter().find(|open| open.bind == *bind && !stays(open))
    }

    /// Whether somebody else has the address. SO_REUSEPORT lets a second process of the same user bind it too and
    /// take half of the clients, silently; a bind without it is refused while anybody listens there, and is not
    /// bothered by connections that a predecessor has left (SO_REUSEADDR, socket(7)).
    fn probe(&self, bind: &Bind) -> io::Result<()> {
        let address = match bind {
            Bind::Ip(address) => *address,
            Bind::Unix(path) if self.open.iter().any(|open| open.bind == *bind) => {
                return path.metadata().map(drop);
            }
            Bind::Unix(path) => return clear_stale(path),
        };
        let ours = |open: &Open| matches!(open.local, Some(local) if local.port() == address.port());
        if address.port() == 0 || self.open.iter().any(ours) {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())
    }

    fn open(&self, config: &Config, listener: &Listener, bind: &Bind) -> io::Result<Open> {
        let options = options(config, listener);
        let (sockets, inode): (Vec<OwnedFd>, _) = match bind {
            Bind::Ip(address) => (self.open_ip(*address, &options)?, None),
            Bind::Unix(path) => {
                let socket = socket::listen_unix(path, &options)?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(UNIX_MODE))?;
                (vec![socket], inode(path))
            }
        };
        let local = sockets.first().and_then(local);
        Ok(Open { name: listener.name.clone(), bind: bind.clone(), options, sockets, local, inode })
    }

    /// One socket for each worker; with port 0 the first one chooses and the others join it.
    fn open_ip(&self, mut address: SocketAddr, options: &ListenOptions) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::with_capacity(self.workers);
        for _ in 0..self.workers {
            let socket = socket::listen_ip(address, options)?;
            if let Some(local) = local(&socket) {
                address.set_port(local.port());
            }
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

impl Open {
    fn is(&self, name: &str, bind: &Bind) -> bool {
        self.name == name && self.bind == *bind
    }

    fn address(&self) -> String {
        match (&self.bind, self.local) {
            (Bind::Ip(_), Some(local)) => local.to_string(),
            (bind, _) => text(bind),
        }
    }

    /// The same sockets under another listener's name: what waits in their queues is not lost.
    fn duplicate(&self, name: &str, options: ListenOptions) -> io::Result<Self> {
        let sockets: Vec<OwnedFd> = self.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        for socket in &sockets {
            configure(socket, &self.bind, &options)?;
        }
        let (bind, local, inode) = (self.bind.clone(), self.local, self.inode);
        Ok(Self { name: name.to_owned(), bind, options, sockets, local, inode })
    }

    fn remove_file(&self) {
        if let (Bind::Unix(path), Some(_)) = (&self.bind, self.inode)
            && inode(path) == self.inode
        {
            // A file that stays behind is found stale by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn configure(socket: &OwnedFd, bind: &Bind, options: &ListenOptions) -> io::Result<()> {
    match bind {
        Bind::Ip(_) => socket::configure(socket, options),
        Bind::Unix(_) => SockRef::from(socket).listen(i32::try_from(options.backlog).unwrap_or(i32::MAX)),
    }
}

fn local(socket: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(&socket.as_fd()).local_addr().ok()?.as_socket()
}

fn options(config: &Config, listener: &Listener) -> ListenOptions {
    let pool = config.pools.iter().find(|pool| pool.name == listener.pool);
    ListenOptions {
        backlog: listener.backlog.get(),
        fast_open: listener.fast_open,
        defer_accept: listener.defer_accept,
        keepalive: listener.keepalive.map(|alive| (alive.idle, alive.interval, alive.count.get())),
        user_timeout: pool.and_then(|pool| pool.connect.user_timeout),
    }
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

/// How an address stands in the file.
pub fn text(bind: &Bind) -> String {
    match bind {
        Bind::Ip(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn explain(listener: &Listener, bind: &Bind, error: io::Error) -> ListenError {
    let advice = match bind {
        Bind::Ip(address) => advise(*address, &error),
        Bind::Unix(path) => advise_unix(path, &error),
    };
    ListenError { listener: listener.name.clone(), address: text(bind), error, advice }
}

/// What to do about an address that cannot be bound.
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

#[cfg(test)]
mod tests;
