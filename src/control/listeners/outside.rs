//! Sockets that came from outside, and those that are laid by outside.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::site::{Site, local};
use super::{Listeners, Open, configure, inode, is_http, options};
use crate::config::{Config, Listener};
use crate::control::inherited::{Inherit, Keeper};
use crate::control::{store, udp};
use crate::sys::datagram::DatagramSocket;

impl Listeners {
    /// Makes of sockets that came from outside what [`Self::open`] would have made. All of them are listened on, also
    /// more than there are workers: clients may wait in each.
    pub(super) fn adopt(
        &self,
        config: &Config,
        listener: &Listener,
        site: &Site,
        given: Vec<Inherit>,
    ) -> io::Result<Open> {
        let options = options(config, listener);
        let is_units = given.iter().any(|one| one.keeper == Keeper::Unit);
        let mut sockets: Vec<OwnedFd> = given.into_iter().map(|one| one.socket).collect();
        for socket in &sockets {
            match site {
                Site::Udp(address) => {
                    let socket = DatagramSocket::from(socket.try_clone()?);
                    socket.adopt(*address, udp::RECEIVE_BUFFER_BYTES, self.offload)?;
                }
                Site::Tcp(_) | Site::Http(_) | Site::Unix(_) => SockRef::from(socket).set_nonblocking(true)?,
            }
            configure(socket, site, &options)?;
        }
        let local = sockets.first().and_then(local);
        let (name, site, is_http) = (listener.name.clone(), site.clone(), is_http(listener));
        let wanted = self.workers.saturating_sub(sockets.len());
        match local {
            // More workers than before: each has one of its own again.
            Some(address) if !is_units => sockets.extend(self.open_some(&site, address, &options, wanted)?),
            // Threads of the gateway pass no clients on to each other, so they share what there is.
            _ if is_http && is_units => {
                let shared = sockets.iter().cycle().take(wanted).map(OwnedFd::try_clone);
                sockets = shared.collect::<io::Result<Vec<_>>>()?.into_iter().chain(sockets).collect();
            }
            _ => {}
        }
        let (inode, keeper) = match &site {
            _ if is_units => (None, Keeper::Unit),
            Site::Unix(path) => (inode(path), Keeper::Own),
            _ => (None, Keeper::Own),
        };
        Ok(Open { name, site, is_http, options, sockets, given: Vec::new(), local, inode, keeper })
    }

    /// Has the service manager keep what this process has bound, and nothing else.
    pub fn store(&mut self) {
        let ours = self.open.iter().filter(|open| open.keeper == Keeper::Own && !open.sockets.is_empty());
        let ours: Vec<(String, Site)> = ours.map(|open| (open.name.clone(), open.site.clone())).collect();
        // A name is taken out as a whole.
        let gone = self.stored.iter().filter(|stored| !ours.contains(stored)).map(|(name, _)| name.clone());
        let gone: BTreeSet<String> = gone.collect();
        gone.iter().for_each(|name| store::forget(name));
        for open in &self.open {
            let now = (open.name.clone(), open.site.clone());
            if ours.contains(&now) && (gone.contains(&open.name) || !self.stored.contains(&now)) {
                store::keep(&open.name, &open.sockets);
            }
        }
        self.stored = ours;
    }
}
