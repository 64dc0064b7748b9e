//! What a process tells its successor at an upgrade: listening sockets, what was seen of backends, the connections and
//! flows that go on there, and the counts. See `control::upgrade` for who says what when.
//!
//! Written by hand and kept apart from the inner types, as those of the admin API are. Descriptors travel beside the
//! words, in their order. Times are microseconds of the workers' clock, which goes on in the successor.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::api::{Override, State};

/// Grows with each change of these types that an older program would misunderstand.
pub const FORMAT: u32 = 1;

/// What the successor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromSuccessor {
    /// It has read its file and knows its names.
    Hello {
        /// Its [`FORMAT`].
        format: u32,
        /// Its version.
        version: String,
    },
    /// It has all it needs to serve.
    Prepared(Prepared),
    /// It holds a batch, but for these, by their tokens: their listener or backend is not in its file any more.
    Held(Vec<u64>),
    /// It serves from now on. The point of no return: before this is said it has touched nothing.
    Taken,
    /// It cannot.
    Refused {
        /// Why.
        why: String,
        /// Its file is what is wrong.
        is_file: bool,
    },
}

/// What the successor does with the sockets it was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Those of [`Inventory::listening`], by their places, that its file has no listener for.
    pub left: Vec<usize>,
    /// It answers at the same admin socket.
    pub admin: bool,
}

/// What its predecessor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToSuccessor {
    /// What there is, with the sockets that are listened on.
    State(Box<Inventory>),
    /// Connections and flows, with their descriptors.
    Batch(Moved),
    /// That was all: serve.
    Commit(Commit),
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The predecessor's [`FORMAT`].
    pub format: u32,
    /// When the workers' clock was at 0, by CLOCK_MONOTONIC.
    pub start_us: u64,
    /// Whose sockets come first.
    pub listening: Vec<Listening>,
    /// The names of the service manager's socket units, whose sockets come next.
    pub units: Vec<String>,
    /// The admin socket's path; its socket comes next.
    pub admin: Option<Admin>,
    /// The metrics' address; its socket comes last.
    pub metrics: Option<SocketAddr>,
    /// Listeners that an operator drains, and how many microseconds are left of that.
    pub drained: Vec<(String, u64)>,
    /// What is believed of names and of discovered backends: should the resolver be gone just now.
    pub discovered: Discovered,
    /// What is known of backends.
    pub backends: Vec<Backend>,
}

/// The sockets of one address of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// The listener's name.
    pub listener: String,
    /// As the file has it.
    pub bind: Bind,
    /// "tcp", "udp" or "http".
    pub protocol: String,
    /// How many sockets.
    pub sockets: usize,
    /// Of a unix socket's file: device and inode.
    pub inode: Option<(u64, u64)>,
}

/// What was discovered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Discovered {
    /// The addresses of host names.
    pub hosts: Vec<(String, Vec<IpAddr>)>,
    /// By pool, and where it is said.
    pub pools: Vec<(String, String, Vec<Member>)>,
}

/// A backend of a pool that was discovered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its address, or the name that was asked for, as the file would have it.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// Its tier.
    pub tier: u32,
    /// Its limit.
    pub max_connections: Option<NonZeroU32>,
    /// Where it is, when DNS said so.
    pub at: Option<SocketAddr>,
}

/// Where a listener is bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Bind {
    /// An address.
    Ip(SocketAddr),
    /// A path.
    Unix(String),
}

/// The admin socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admin {
    /// Its path.
    pub path: String,
    /// Device and inode of its file.
    pub inode: Option<(u64, u64)>,
}

/// Which backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendName {
    /// Its pool.
    pub pool: String,
    /// Its name there.
    pub name: String,
    /// Where it is; empty while that is not known.
    pub address: String,
}

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Which one.
    pub backend: BackendName,
    /// The file's weight: an override of another one is over.
    pub file_weight: u32,
    /// What an operator said of it.
    pub operator: Override,
    /// What its checks say.
    pub up: Option<bool>,
    /// What led to that.
    pub why: String,
    /// The last check.
    pub last: Option<Check>,
    /// It is left alone for so long.
    pub ejected_us: Option<u64>,
    /// It is up again for so long, and its slow start lasts.
    pub rising_us: Option<u64>,
    /// Since when it is in the state that was told last, in milliseconds since 1970.
    pub since_ms: u64,
    /// That state.
    pub told: State,
    /// It has been up before.
    pub served: bool,
    /// Its checks had it down.
    pub down: bool,
    /// Its connections are to be ended in so long.
    pub close_us: Option<u64>,
    /// What connecting to it costs.
    pub connect_cost_us: u64,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Whether it was good.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// How long it took.
    pub took_us: u64,
}

/// A batch of connections and flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Descriptors of each: client, backend, then read and write end of the pipe of each direction that has one.
    pub pairs: Vec<Pair>,
    /// A descriptor each: the socket towards the backend.
    pub flows: Vec<Flow>,
}

/// A batch with what stands beside the words.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whose they are.
    pub moved: Moved,
    /// What was read from one side and not yet written to the other, one behind the other.
    pub bytes: Vec<u8>,
    /// In the order of `moved`.
    pub fds: Vec<OwnedFd>,
}

/// An established connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The predecessor's word for it.
    pub token: u64,
    /// Whose client it is.
    pub listener: String,
    /// Who serves it.
    pub backend: BackendName,
    /// In the log.
    pub id: u64,
    /// Who connected.
    pub peer: Option<SocketAddr>,
    /// Source and destination by a PROXY header.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The server that the client asked for.
    pub server_name: Option<String>,
    /// When it was accepted.
    pub opened_us: u64,
    /// How long the connect took.
    pub connect_us: u32,
    /// Attempts to connect.
    pub attempts: u16,
    /// It counts among its client's connections.
    pub limited: bool,
    /// The backend side sends small segments at once.
    pub nodelay: bool,
    /// Dead-peer detection is on.
    pub watched: bool,
    /// One side has ended, and the time since then counts.
    pub hurried: bool,
    /// When bytes moved last.
    pub active_us: u64,
    /// How long it may be idle; 0 = for ever.
    pub idle_ms: u64,
    /// The same once one side has ended.
    pub half_close_ms: u64,
    /// When it ends by force, and why.
    pub doom: Option<(u64, String)>,
    /// When the log hears of it next.
    pub report_us: Option<u64>,
    /// Which side has ended first: true = the client.
    pub client_ended_first: Option<bool>,
    /// A side has failed.
    pub failing: bool,
    /// From the client to the backend.
    pub to_backend: Half,
    /// From the backend to the client.
    pub to_client: Half,
}

/// A direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Half {
    /// Bytes that the sink has taken.
    pub bytes: u64,
    /// Of them, those that went through a pipe.
    pub spliced: u64,
    /// Bytes of a header that the sink has not taken.
    pub header_left: u16,
    /// What is held for the sink.
    pub held: Held,
    /// The source has announced its end.
    pub fin_announced: bool,
    /// A short read does not prove the source empty.
    pub short_reads_mislead: bool,
    /// How the source was found broken.
    pub source_broken: Option<String>,
    /// The source has ended.
    pub eof: bool,
    /// Its end was passed on.
    pub over: bool,
    /// It is spliced.
    pub streaming: bool,
    /// Reads or splices in a row.
    pub streak: u8,
}

/// What is held for a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// So many bytes, which are sent along.
    Bytes(u32),
    /// So many bytes in a pipe, which is sent as it is.
    Pipe(u32),
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The predecessor's word for it.
    pub token: u64,
    /// The inode of the listener's socket that its client's datagrams come to.
    pub inlet: u64,
    /// Whose client it is.
    pub listener: String,
    /// Who serves it.
    pub backend: BackendName,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client spoke to.
    pub local: Option<IpAddr>,
    /// In the log.
    pub id: u64,
    /// When it was opened.
    pub opened_us: u64,
    /// When a datagram passed last.
    pub active_us: u64,
    /// Datagrams and bytes from the client, and to it.
    pub counts: [u64; 4],
    /// Backends it has had.
    pub attempts: u32,
    /// Replies that are still to come.
    pub awaited: u64,
    /// Its client has answered a reply.
    pub settled: bool,
    /// Its backend's host has refused.
    pub refused: bool,
    /// When it ends by force, and why.
    pub doom: Option<(u64, String)>,
    /// A PROXY header has gone out.
    pub greeted: bool,
    /// Its socket is fit for streams.
    pub is_wide: bool,
    /// Longer segments are refused, to the backend or to the client.
    pub train_max: [u64; 2],
    /// The kernel's count of what the socket's buffer has cost.
    pub overflow: u32,
}

/// The last words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The last id in the log.
    pub last_id: u64,
    /// What was counted so far.
    pub counts: Vec<(Counted, Counts)>,
}

/// Whose counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// Of a listener: name and protocol.
    Listener(String, String),
    /// Of a pool.
    Pool(String),
    /// Of a backend's connections.
    Backend(BackendName),
    /// Of its checks.
    Checks(BackendName),
}

/// Counts by name; those that are 0 are left out.
pub type Counts = BTreeMap<String, u64>;
