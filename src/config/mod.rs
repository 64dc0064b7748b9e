//! The configuration, valid by type: what the file says once every problem in it has been refused.
//!
//! `file` reads the bytes, `syntax` makes a table of TOML of them, `raw` walks that table and refuses unknown keys,
//! `validate` turns it into these types with the help of `units`, `address`, `server_names`, `tls`, `payload` and `words`.
//! `list` reads files of backends, which other programs write.
//! `error` shows all problems at once with their places, `diff` says what a reload changes, `print` writes a configuration
//! back as a file.
//! The names and meanings of the keys are the contract with users; defaults stand in `validate` and nowhere else.

mod address;
mod diff;
mod discover;
mod error;
mod file;
#[cfg(feature = "gateway")]
pub mod http;
#[cfg(not(feature = "gateway"))]
#[path = "no_http.rs"]
pub mod http;
mod list;
mod named_file;
mod payload;
mod print;
mod raw;
#[cfg(test)]
pub(crate) mod sample;
mod server_names;
mod syntax;
pub mod tls;
mod units;
mod validate;
mod validity;
mod words;

pub use address::{UNIX_PATH_BYTES_MAX, is_host_name};
pub use diff::{Diff, Names, PoolChange, diff};
pub use discover::{Discover, Origin};
pub use error::{PROBLEMS_SHOWN_MAX, Problem, Report, Severity};
pub use file::{FILE_BYTES_MAX, Loaded, load, parse};
pub use list::{LIST_BYTES_MAX, parse_list};
pub use payload::format_payload;
pub use print::{print, print_masked};
pub use server_names::ServerNames;
pub use units::{DURATION_MAX, format_duration};
pub use validate::{LISTENERS_MAX, POOLS_MAX, TIER_MAX, WEIGHT, WEIGHT_MAX};

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// The file as a JSON Schema, for editors: its keys, their kinds and what they mean. What two keys say of each other is not
/// in it. The tests hold it against the keys that are read, and its words against the documents.
pub const SCHEMA: &str = include_str!("schema.json");

/// A whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[process]`.
    pub process: Process,
    /// `[listener.*]`, in the order of the file; each names pools that exist.
    pub listeners: Vec<Arc<Listener>>,
    /// `[pool.*]`, in the order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// What the listeners for HTTP do.
    pub gateway: Arc<http::Gateway>,
}

/// `[process]`: what holds for the whole process.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Threads of the data plane; `None` = one per core that the process may use.
    pub workers: Option<NonZeroUsize>,
    /// Pin worker i to core i.
    pub pin: bool,
    /// Look for events for a moment before sleeping, while that pays.
    pub busy_poll: bool,
    /// Connections at once over all listeners; `None` = what the file-descriptor limit allows.
    pub max_connections: Option<NonZeroU32>,
    /// The admin API's unix socket; `None` = off.
    pub admin: Option<PathBuf>,
    /// Where Prometheus text is served on `/metrics`; `None` = off.
    pub metrics: Option<SocketAddr>,
    /// Whether the same address has a page for people.
    pub status_page: bool,
    /// Whether streams may pass through kernel pipes.
    pub splice: Splice,
    /// What is logged and how.
    pub log: Log,
    /// How connections end when the process or a listener goes away.
    pub drain: Drain,
}

/// Whether bytes may move through kernel pipes (splice(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splice {
    /// Streams are spliced, small messages are copied.
    Auto,
    /// Everything is copied.
    Off,
}

/// `process.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
    /// Which events of a connection are written.
    pub access: Access,
}

/// `process.log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `process.log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of `key=value` an event.
    Text,
    /// One JSON object a line an event.
    Json,
}

/// `process.log.access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No access log.
    Off,
    /// One event when a connection has ended.
    Close,
    /// At open, at intervals while it lasts, and at the end.
    All,
}

/// `process.drain` and `listener.drain`: endings are spread evenly over `spread` with jitter, and all have ended by `deadline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long connections may go on by themselves; what is left then is ended.
    pub deadline: Duration,
    /// Over how long the forced endings are spread, before the deadline.
    pub spread: Duration,
}

/// `[listener.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The table's name.
    pub name: String,
    /// Where clients arrive; at least one, IP addresses or unix sockets.
    pub bind: Vec<Bind>,
    /// What it carries. Of the fields below, those about connections mean something with TCP only.
    pub protocol: Protocol,
    /// The pool that serves it; `None` with HTTP, where routes choose.
    pub pool: Option<String>,
    /// The pools that serve TLS clients who ask for these servers instead; `pool` serves all others.
    pub sni: ServerNames,
    /// How clients are spoken to; `None` = as they speak.
    pub tls: Option<tls::ListenerTls>,
    /// When not empty, all other sources are refused.
    pub allow: Vec<IpNet>,
    /// Refused sources; wins over `allow`.
    pub deny: Vec<IpNet>,
    /// Connections at once; `None` = no limit of its own.
    pub max_connections: Option<NonZeroU32>,
    /// Limits by source address (IPv6 by /64).
    pub per_client: PerClient,
    /// Peers that must send a PROXY header; from all others none is accepted.
    pub accept_proxy: Vec<IpNet>,
    /// A connection ends when no byte moved in either direction for this long; `None` (the file's "0s") = never.
    pub idle_timeout: Option<Duration>,
    /// How long a connection may be silent once one side has sent FIN.
    pub half_close_timeout: Duration,
    /// listen(2)'s backlog.
    pub backlog: NonZeroU32,
    /// TCP Fast Open.
    pub fast_open: bool,
    /// TCP_DEFER_ACCEPT: only for protocols in which the client speaks first.
    pub defer_accept: bool,
    /// TCP keep-alive on both sides of each connection; `None` (the file's `keepalive = false`) = off.
    pub keepalive: Option<Keepalive>,
    /// How its connections end when it, or the process, goes away; `None` = as `process.drain` says.
    pub drain: Option<Drain>,
    /// How old a connection may become; `None` (the file's "0s") = as old as it likes.
    pub max_age: Option<Duration>,
}

impl Listener {
    /// The pools that it uses without routes, once each.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        let default = self.pool.as_deref();
        let named = self.sni.pools().into_iter().filter(move |pool| Some(*pool) != default);
        default.into_iter().chain(named)
    }

    /// Whether this client may come: deny wins, and an allow list refuses all others.
    pub fn allows(&self, client: IpAddr) -> bool {
        !contains(&self.deny, client) && (self.allow.is_empty() || contains(&self.allow, client))
    }

    /// Whether this peer has to send a PROXY header.
    pub fn expects_header_of(&self, peer: IpAddr) -> bool {
        contains(&self.accept_proxy, peer)
    }
}

/// Whether one of these networks has the address.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// `listener.protocol`, with the options that only that protocol has.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Flows of datagrams.
    Udp(Udp),
    /// Requests.
    Http(Arc<http::Http>),
}

/// `listener.udp`: what a flow is. A client's address and port with the address that it spoke to is one flow, and what
/// its backend sends back belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// A flow ends when no datagram passed in either direction for this long.
    pub idle_timeout: Duration,
    /// A flow ends once so many replies have come for each of its datagrams; `None` (the file's 0) = it does not.
    pub responses: Option<NonZeroU32>,
    /// Flows at once; a further one takes the place of the longest idle one.
    pub max_flows: NonZeroU32,
    /// There are no flows: each datagram is given to a backend by itself, and no reply is expected.
    pub one_way: bool,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IPv4 or IPv6 address and port; port 0 = the kernel chooses.
    Ip(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// `listener.per_client`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct PerClient {
    /// Connections or flows at once from one client.
    pub connections: Option<NonZeroU32>,
    /// New connections or flows per time from one client; datagrams with `udp.one_way`.
    pub rate: Option<Rate>,
}

/// So many per so long: "50/s". One `per`'s worth may come at once; it refills continuously.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long.
    pub per: Duration,
}

/// TCP keep-alive (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Probes without answer until the peer counts as dead.
    pub count: NonZeroU32,
}

impl Keepalive {
    /// Idle time, interval and count, as sockets are told them.
    pub fn probes(self) -> (Duration, Duration, u32) {
        (self.idle, self.interval, self.count.get())
    }
}

/// `[pool.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The table's name.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// At least one where nothing is discovered; names are unique.
    pub backends: Vec<Arc<Backend>>,
    /// Where further ones come from.
    pub discover: Option<Discover>,
    /// How a backend is connected to.
    pub connect: Connect,
    /// Waiting for a backend under its `max_connections`.
    pub queue: Queue,
    /// The active check.
    pub health: Health,
    /// Ejection by what connections observe; `None` (the file's `passive = false`) = off.
    pub passive: Option<Passive>,
    /// When fewer than this share of the backends is up, health is ignored and all are used.
    pub panic_below: Percent,
    /// What becomes of the connections and flows of a backend that went down. `None` (nothing in the file):
    /// connections are kept, and a flow is given another backend with its client's next datagram.
    pub on_down: Option<OnDown>,
    /// Over how long a backend that came up grows to its full weight; zero = at once.
    pub slow_start: Duration,
    /// The PROXY header sent to backends.
    pub send_proxy: SendProxy,
    /// The address bound before connecting.
    pub source: Option<IpAddr>,
    /// How backends are spoken to; `None` = as their clients speak.
    pub tls: Option<tls::PoolTls>,
    /// What only HTTP listeners use.
    pub http: http::PoolOptions,
}

/// How a backend is chosen among those in rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Fewest connections (those being connected counted) for its weight.
    LeastConn,
    /// Lowest peak EWMA of connect time × (connections + 1) / weight.
    LeastTime,
    /// The better of two random ones.
    Random,
    /// By the client's address, consistently (Maglev).
    IpHash,
    /// The first in the file that is not full.
    First,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool; the address's text where the file gives none.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// 0..=65535; 0 = no new clients.
    pub weight: u32,
    /// A tier serves only when every lower one is down.
    pub tier: u32,
    /// Connections and flows at once; `None` = no limit.
    pub max_connections: Option<NonZeroU32>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Ip(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
    /// A host name and port, resolved by the control plane.
    Host {
        /// As the file has it.
        name: String,
        /// 1..=65535.
        port: u16,
    },
}

/// `pool.connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// For one attempt.
    pub timeout: Duration,
    /// Attempts in all, each at another backend while there is one.
    pub attempts: NonZeroU32,
    /// TCP_USER_TIMEOUT towards backends and clients: how long sent bytes may stay unacknowledged, or a peer's window
    /// closed. `None` (the default, "0s") = the kernel's own patience.
    pub user_timeout: Option<Duration>,
}

/// `pool.queue`: first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections that may wait; 0 = a full pool refuses at once.
    pub max: u32,
    /// How long one waits.
    pub timeout: Duration,
}

/// `pool.health`.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked.
    pub kind: Check,
    /// Another port of the backend's host.
    pub port: Option<u16>,
    /// Whether it is asked through TLS, with the pool's `tls` where it has one.
    pub tls: bool,
    /// Between checks.
    pub interval: Duration,
    /// Between checks while the state is changing.
    pub fast_interval: Duration,
    /// For one check, connect and answer.
    pub timeout: Duration,
    /// Good checks in a row until a backend is up.
    pub rise: NonZeroU32,
    /// Failed checks in a row until a backend is down.
    pub fall: NonZeroU32,
    /// Each interval varies by up to this share.
    pub jitter: Percent,
    /// Whether a backend counts as up before its first check.
    pub initial_up: bool,
}

/// `health.kind` with the keys of that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No check: always up.
    None,
    /// A connect.
    Tcp,
    /// A connect and a handshake of TLS. What is asked in a pool with `tls` that names no kind.
    Tls,
    /// A GET whose status (and body) is looked at.
    Http {
        /// Path and query.
        path: String,
        /// The Host header; `None` = the backend's address.
        host: Option<String>,
        /// Statuses that count as good.
        status: Vec<RangeInclusive<u16>>,
        /// Text that the body must hold.
        body: Option<String>,
    },
    /// PostgreSQL's start-up, up to its first answer.
    Postgres {
        /// The role that is named.
        user: String,
        /// The database that is named.
        database: String,
    },
    /// MySQL's and MariaDB's handshake.
    Mysql {
        /// The account that is named.
        user: String,
    },
    /// PING.
    Redis,
    /// A datagram. Without `expect` a backend is good unless its host says that nobody listens there. What is asked in a
    /// pool that only UDP listeners use and that names no kind.
    Udp {
        /// What is sent; may be empty.
        send: Vec<u8>,
        /// Bytes that must come somewhere in one of the answers.
        expect: Option<Vec<u8>>,
    },
    /// Send and expect, step by step.
    Script {
        /// At least one.
        steps: Vec<Step>,
    },
    /// A program: status 0 = up. It finds EVENER_POOL, EVENER_BACKEND, EVENER_ADDRESS, EVENER_HOST, EVENER_PORT in its environment.
    Command {
        /// Program and arguments; at least the program.
        run: Vec<String>,
    },
}

impl Check {
    /// Whether it is a talk over a stream, which TLS can carry.
    pub fn is_talk(&self) -> bool {
        !matches!(self, Self::None | Self::Tcp | Self::Tls | Self::Udp { .. } | Self::Command { .. })
    }
}

/// A step of a `script` check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes to send.
    Send(Vec<u8>),
    /// Bytes that must come somewhere in the answer.
    Expect(Vec<u8>),
}

/// `pool.passive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Failures within `window` that eject a backend.
    pub failures: NonZeroU32,
    /// The window they are counted in.
    pub window: Duration,
    /// For how long it is ejected.
    pub eject: Duration,
    /// At most this share of a pool is ejected at once.
    pub max_ejected: Percent,
}

/// A share: 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// `pool.on_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They live on.
    Keep,
    /// They end once the backend has been down for this long (zero = at once).
    CloseAfter(Duration),
}

/// `pool.send_proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    Off,
    /// The text form.
    V1,
    /// The binary form; before each datagram with UDP.
    V2,
    /// The same with TCP; with UDP before the first datagram of a flow only.
    V2First,
}

/// Where a backend is reached, host names resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An IPv4 or IPv6 address and port.
    Ip(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
