//! Where people and their programs ask: the admin socket and the port of the metrics.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;

use super::Failure;
use super::admin::{self, SocketFile};
use super::desk::Desk;
use super::http;
use super::inherited::{InheritError, Inherited};
use super::page;
use crate::config::Config;
use crate::handover;

/// What is open, and nobody answers there yet.
#[derive(Debug, Default)]
pub struct Closed {
    /// The admin socket.
    pub admin: Option<(UnixListener, SocketFile)>,
    /// The metrics' address, as the file has it.
    pub metrics: Option<(TcpListener, SocketAddr)>,
}

/// What is open, and answers.
#[derive(Debug, Default)]
pub struct Doors {
    /// Dropped at the end: the socket's file goes with it.
    admin: Option<(Arc<UnixListener>, SocketFile, AbortHandle)>,
    metrics: Option<(Arc<TcpListener>, SocketAddr, AbortHandle)>,
}

impl Closed {
    /// What the file wants: the service manager's socket where there is one, else one of its own.
    pub async fn claim(config: &Config, inherited: &mut Inherited) -> Result<Self, Failure> {
        let admin = match &config.process.admin {
            Some(path) => Some(match inherited.take_admin(path).map_err(InheritError::from)? {
                Some(socket) => admin::adopt(path, socket)?,
                None => admin::bind(path).await?,
            }),
            None => None,
        };
        let metrics = match config.process.metrics {
            None => None,
            Some(address) => {
                let listener = match inherited.take_metrics(address) {
                    Ok(None) => TcpListener::bind(address).await,
                    Ok(Some(socket)) => adopt(socket),
                    Err(error) => Err(error),
                };
                Some((listener.map_err(|error| Failure::Metrics { address, error })?, address))
            }
        };
        Ok(Self { admin, metrics })
    }

    /// The same, with a predecessor's socket where that is at the same place.
    pub async fn succeed(
        config: &Config,
        admin: Option<(OwnedFd, handover::Admin)>,
        metrics: Option<(OwnedFd, SocketAddr)>,
    ) -> Result<Self, Failure> {
        let taken = |error| Failure::System { what: "a socket of the running process", error };
        let admin = match (&config.process.admin, admin) {
            (Some(path), Some((socket, file))) if *path == *file.path => {
                let listener = UnixListener::from_std(socket.into()).map_err(taken)?;
                Some((listener, SocketFile::inherit(&file)))
            }
            (Some(path), _) => Some(admin::bind(path).await?),
            (None, _) => None,
        };
        let metrics = match (config.process.metrics, metrics) {
            (Some(address), Some((socket, before))) if address == before => {
                Some((TcpListener::from_std(socket.into()).map_err(taken)?, address))
            }
            (Some(address), _) => match TcpListener::bind(address).await {
                Ok(listener) => Some((listener, address)),
                Err(error) => return Err(Failure::Metrics { address, error }),
            },
            (None, _) => None,
        };
        Ok(Self { admin, metrics })
    }

    /// Begins to answer; by the metrics also with a page for browsers.
    pub fn open(self, desk: &Desk, has_page: bool) -> Doors {
        let metrics = self.metrics.map(|(listener, address)| {
            let (listener, desk) = (Arc::new(listener), desk.clone());
            let serve = http::serve(listener.clone(), move |request| page::answer(desk.clone(), has_page, request));
            (listener, address, tokio::spawn(serve).abort_handle())
        });
        let admin = self.admin.map(|(listener, mut file)| {
            file.set_ours(true);
            let (listener, desk) = (Arc::new(listener), desk.clone());
            let serve = http::serve(listener.clone(), move |request| admin::answer(desk.clone(), request));
            (listener, file, tokio::spawn(serve).abort_handle())
        });
        Doors { admin, metrics }
    }
}

impl Doors {
    /// The admin socket, for a successor.
    pub fn admin(&self) -> Option<handover::Admin> {
        self.admin.as_ref().map(|(_, file, _)| file.describe())
    }

    /// The metrics' address.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(_, address, _)| *address)
    }

    /// The sockets of both, in this order.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let admin = self.admin.iter().map(|(listener, ..)| listener.as_fd());
        admin.chain(self.metrics.iter().map(|(listener, ..)| listener.as_fd()))
    }

    /// A successor answers from now on; at the same admin socket when it has it. Who is being answered still is.
    pub fn leave(&mut self, has_admin: bool) {
        if let Some((_, file, task)) = &mut self.admin {
            task.abort();
            if has_admin {
                file.set_ours(false);
            }
        }
        if let Some((_, _, task)) = &self.metrics {
            task.abort();
        }
        *self = Self::default();
    }
}

fn adopt(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}
