//! Listening sockets that go from one process to the next: the very same ones, so that nobody who waits in a queue of
//! theirs is lost.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::site::{Site, local, sites};
use super::{Bound, ListenError, Listeners, Open, Order, explain, is_http, options};
use crate::config::{Bind, Config};
use crate::control::inherited::Keeper;
use crate::engine::Command;
use crate::handover::{self, Listening};
use crate::id::ListenerId;
use crate::sys::rights;
use crate::sys::socket::{self, ListenOptions};

/// Options that no socket has: the next look at them sets what the file wants.
const UNKNOWN: ListenOptions =
    ListenOptions { backlog: 0, fast_open: false, defer_accept: false, keepalive: None, user_timeout: None };

/// Sockets of a predecessor, by the places that it knows them by.
pub type Inherited = Vec<(usize, Open)>;

impl Listeners {
    /// All sockets in their order, but for those of socket units: they go to a successor as they came.
    pub fn list(&self) -> (Vec<Listening>, Vec<BorrowedFd<'_>>) {
        let ours = || self.open.iter().filter(|open| open.keeper == Keeper::Own);
        let list = ours().map(|open| Listening {
            listener: open.name.clone(),
            bind: match open.site.bind() {
                Bind::Ip(address) => handover::Bind::Ip(address),
                Bind::Unix(path) => handover::Bind::Unix(path.to_string_lossy().into_owned()),
            },
            protocol: open.protocol().to_owned(),
            sockets: open.sockets.len(),
            inode: open.inode,
        });
        (list.collect(), ours().flat_map(|open| &open.sockets).map(AsFd::as_fd).collect())
    }

    /// Takes those of a predecessor, for [`Listeners::bind`] to use.
    pub fn inherit(&mut self, list: &[Listening], mut sockets: impl Iterator<Item = OwnedFd>) {
        for (place, listening) in list.iter().enumerate() {
            let sockets: Vec<OwnedFd> = sockets.by_ref().take(listening.sockets).collect();
            let is_http = listening.protocol == "http";
            let site = match (&listening.bind, listening.protocol.as_str()) {
                (handover::Bind::Unix(path), _) => Site::Unix(PathBuf::from(path)),
                (handover::Bind::Ip(address), "udp") => Site::Udp(*address),
                (handover::Bind::Ip(address), "http") => Site::Http(*address),
                (handover::Bind::Ip(address), _) => Site::Tcp(*address),
            };
            let local = sockets.first().and_then(local);
            let (name, inode, options) = (listening.listener.clone(), listening.inode, UNKNOWN);
            let open =
                Open { name, site, is_http, options, sockets, given: Vec::new(), local, inode, keeper: Keeper::Own };
            self.inherited.push((place, open));
        }
    }

    /// Those of the predecessor that `config` has a listener for: first of all the same one, else one at the same address.
    pub(super) fn claim(&mut self, config: &Config) -> Bound {
        let mut bound = Bound::default();
        for is_same in [true, false] {
            for (listener, site) in sites(config) {
                let is_there = |open: &Open| open.is(listener, &site);
                if self.open.iter().any(is_there) || bound.0.iter().any(is_there) {
                    continue;
                }
                let fits = |open: &Open| match is_same {
                    true => is_there(open),
                    false => open.site.is_kin_of(&site) && open.site.bind() == site.bind() && !site.is_chosen(),
                };
                if let Some(at) = self.inherited.iter().position(|(_, open)| fits(open)) {
                    let (_, open) = self.inherited.swap_remove(at);
                    bound.0.push(Open { name: listener.name.clone(), is_http: is_http(listener), site, ..open });
                }
            }
        }
        bound
    }

    /// One more socket for each worker that would have none beside those of a predecessor. (Not of UDP: a client's datagrams
    /// would come to another one.) Only once nothing can go back: clients are in the queue of such a socket at once, and
    /// would end with it.
    ///
    /// # Errors
    /// The first address that refuses another one. There are the predecessor's all the same.
    pub fn fill(&self, bound: &mut Bound, config: &Config) -> Result<(), ListenError> {
        for open in bound.0.iter_mut().filter(|open| open.keeper == Keeper::Own) {
            let Some(listener) = config.listeners.iter().find(|listener| listener.name == open.name) else { continue };
            let (Site::Tcp(_) | Site::Http(_), Some(local)) = (&open.site, open.local) else { continue };
            while open.sockets.len() < self.workers {
                let socket = socket::listen_ip(local, &options(config, listener));
                open.sockets.push(socket.map_err(|error| explain(listener, &open.site, error))?);
            }
        }
        Ok(())
    }

    /// The places of those that nobody has claimed.
    pub fn left(&self) -> Vec<usize> {
        self.inherited.iter().map(|(place, _)| *place).collect()
    }

    /// Lets go of them: they are the predecessor's to close.
    pub fn forget_left(&mut self) {
        self.inherited.clear();
    }

    /// A successor has all sockets but those at these places. Says who is to stop, and where.
    pub fn leave(&mut self, left: &[usize], id: impl Fn(&str) -> Option<ListenerId>) -> Vec<Order> {
        let mut orders = Vec::new();
        // What the service manager has in store is the successor's.
        self.stored.clear();
        self.open.iter_mut().for_each(|open| open.sockets.clear());
        for (place, open) in self.open.iter_mut().filter(|open| open.keeper == Keeper::Own).enumerate() {
            if !left.contains(&place) {
                // Its file is the successor's.
                open.inode = None;
                continue;
            }
            let Some(listener) = id(&open.name) else { continue };
            let unlisten = |thread| (thread, Command::Unlisten { listener, bind: open.site.bind() });
            orders.extend(
                (0..self.workers).map(|thread| if open.is_http { self.workers + thread } else { thread }).map(unlisten),
            );
        }
        orders
    }

    /// The workers that have UDP sockets, by their inodes.
    pub fn inlets(&self, bound: &Bound) -> HashMap<u64, usize> {
        let udp = bound.0.iter().filter(|open| matches!(open.site, Site::Udp(_)));
        let all = udp.flat_map(|open| open.threads(self.workers).zip(&open.sockets));
        all.filter_map(|(thread, socket)| Some((rights::inode(socket.as_fd()).ok()?, thread))).collect()
    }

    /// The names of the listeners of those that nobody has claimed.
    pub fn left_names(&self) -> Vec<String> {
        self.inherited.iter().map(|(_, open)| open.name.clone()).collect()
    }
}

impl Open {
    fn protocol(&self) -> &'static str {
        match self.site {
            Site::Udp(_) => "udp",
            _ if self.is_http => "http",
            _ => "tcp",
        }
    }
}
