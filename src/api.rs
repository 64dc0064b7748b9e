//! The wire types of the admin API: what `GET /v1/status` and its kin answer, and what they accept.
//!
//! Written by hand and kept apart from the inner types, so that the inside may change without the outside noticing.
//! Times are RFC 3339, durations carry their unit in the name, bytes and connections are plain numbers.

mod event;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use event::{Event, EventKind};

/// `GET /v1/status`: the whole process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Number of the snapshot that the workers act on; grows with each change.
    pub generation: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// True once the process is on its way out.
    pub draining: bool,
    /// How long that may still take; only while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Countdown>,
    /// The process as a whole.
    pub process: Process,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file.
    pub pools: Vec<Pool>,
    /// The gateway's routes and what was counted of them; empty while it has no listener.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Upper bounds of all counts by time (`connect_times`, `times`), in milliseconds; these have one number more, of
    /// what took longer.
    #[serde(default)]
    pub time_bounds_ms: Vec<f64>,
}

/// The whole state and the last events, the newest at the end: what the status page shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// As `GET /v1/status`.
    pub status: Status,
    /// As `GET /v1/events`.
    pub events: Vec<Event>,
}

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Threads of the data plane.
    pub workers: usize,
    /// Connections carried now.
    pub connections: u32,
    /// The most that are carried at once.
    pub max_connections: u32,
    /// Flows carried now.
    pub flows: u32,
    /// The most that are carried at once, over all listeners; 0 = no listener has any.
    pub max_flows: u64,
    /// File descriptors in use.
    pub fds_open: u64,
    /// The limit of file descriptors (RLIMIT_NOFILE).
    pub fds_limit: u64,
    /// Kernel pipes that hold bytes.
    pub pipes_in_use: u32,
    /// Empty kernel pipes kept for the next use.
    pub pipes_free: u32,
    /// Pipes that there may be, of both kinds.
    #[serde(default)]
    pub pipes_max: u64,
    /// Ports that the host gives to connections towards one backend's address, and to all flows; 0 = it does not say.
    #[serde(default)]
    pub local_ports: u32,
    /// The threads that carry traffic.
    #[serde(default)]
    pub threads: Vec<Thread>,
    /// Access-log events lost because nobody read the log fast enough.
    pub access_log_dropped: u64,
    /// The last time the file was read.
    pub last_reload: Reload,
}

/// A thread that carries traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// "worker-0" and so on; "gateway-0" for HTTP.
    pub name: String,
    /// Connections that it carries.
    pub connections: u32,
    /// Connections that it accepted since the start.
    pub accepted: u64,
    /// Time on a core since the start, in milliseconds.
    pub cpu_ms: f64,
}

/// A route of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The listener's name.
    pub listener: String,
    /// The route's; empty = requests that found none.
    pub route: String,
    /// Requests that were answered since the start, by status; only those that there were.
    pub requests: BTreeMap<String, u64>,
    /// Those that evener answered by itself, by reason; only those that there were.
    pub refused: BTreeMap<String, u64>,
    /// How many took how long, from head to last byte: by `time_bounds_ms`.
    pub times: Vec<u64>,
}

/// The last time the file was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// When (RFC 3339).
    pub at: String,
    /// False: the file was refused and nothing changed.
    pub ok: bool,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// The table's name.
    pub name: String,
    /// Where it really listens: a port 0 of the file shows as the port that the kernel chose.
    pub bind: Vec<String>,
    /// "tcp", "udp" or "http".
    pub protocol: String,
    /// The pool that serves it; empty with "http", where routes choose.
    pub pool: String,
    /// "listening", "draining" or "drained": nothing is left of what was there, and no client is taken.
    pub state: String,
    /// How long its connections still have; only while it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Countdown>,
    /// Its connections; with "udp" its flows.
    pub connections: ListenerConnections,
    /// Bytes from clients since the start.
    pub bytes_in: u64,
    /// Bytes to clients since the start.
    pub bytes_out: u64,
    /// Its datagrams; only with "udp".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Datagrams>,
}

/// How long a drain may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countdown {
    /// Seconds until what is left will have been ended, rounded up.
    pub left_s: u64,
}

/// A listener's connections or flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerConnections {
    /// Now.
    pub active: u32,
    /// Since the start.
    pub accepted: u64,
    /// Refused by deny, allow and limits since the start; with "udp" these are datagrams.
    pub refused: u64,
}

/// A listener's datagrams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Datagrams {
    /// From clients since the start, those that were dropped included.
    pub datagrams_in: u64,
    /// To clients since the start, those that the kernel would not take included.
    pub datagrams_out: u64,
    /// Dropped since the start, of both directions, by reason; only those that there were.
    pub dropped: BTreeMap<String, u64>,
}

/// `POST /v1/upgrade`: another process serves now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upgraded {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Connections that go on there.
    pub connections: u64,
    /// Flows that go on there.
    pub flows: u64,
    /// Connections and flows that could not move: the process that was asked drains them.
    pub draining: u64,
    /// By when it ends them by force, from now.
    pub drain_deadline: String,
}

/// A pool: also `GET /v1/pools/{pool}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The table's name.
    pub name: String,
    /// How a backend is chosen, as in the file.
    pub balance: String,
    /// Its connections and flows.
    pub connections: PoolConnections,
    /// Connections that wait for a backend.
    pub queue: Queue,
    /// Fewer than `panic_below` are up: health is ignored, and backends that are down take clients too.
    pub panic: bool,
    /// Where backends come from, but for addresses in the file itself: `discover` first, then host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discovery: Vec<Discovery>,
    /// In the order of the file; those that were discovered behind.
    pub backends: Vec<Backend>,
}

impl Pool {
    /// Whether anybody takes new clients. To be up is not enough: a weight of 0 takes none, and in a panic those that are
    /// down do.
    pub fn serves(&self) -> bool {
        self.backends.iter().any(|backend| backend.weight > 0)
    }
}

/// Where backends come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// "dns" or "file".
    pub origin: Origin,
    /// The name that is asked for, or the file's path.
    pub name: String,
    /// Backends or addresses that it gives now.
    pub backends: usize,
    /// Whether the last attempt was good; what was known stays where it was not.
    pub ok: bool,
    /// How often it said something else than before, since the start.
    pub updates: u64,
    /// Failed attempts since the start.
    pub failures: u64,
    /// The last good attempt (RFC 3339); null = there was none.
    pub last_success: Option<String>,
    /// The last error, also one that is over; null = there was none.
    pub last_error: Option<DiscoveryError>,
}

/// Why a source of backends failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscoveryError {
    /// In words.
    pub why: String,
    /// When (RFC 3339).
    pub at: String,
}

/// Who told of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration names it.
    #[default]
    Config,
    /// `discover.dns`.
    Dns,
    /// `discover.file`.
    File,
}

impl Origin {
    /// The text of the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Dns => "dns",
            Self::File => "file",
        }
    }
}

/// A pool's connections and flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolConnections {
    /// Now.
    pub active: u32,
    /// For which there was no backend, since the start.
    pub no_backend: u64,
}

/// A pool's queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Waiting now.
    pub length: u32,
    /// The most that may wait.
    pub max: u32,
}

/// A backend. What the file says, what an operator overrode and what the checks observe stand apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name; `name@address` where a host name has several addresses.
    pub name: String,
    /// Where it is; the host name as in the file while it is not resolved.
    pub address: String,
    /// Who told of it.
    #[serde(default)]
    pub origin: Origin,
    /// What comes of the three layers.
    pub state: State,
    /// Why it is in this state.
    pub why: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// What the file says, or what DNS or the file of backends says in its place.
    pub file: BackendFile,
    /// What an operator overrode; null = nothing.
    #[serde(rename = "override")]
    pub operator: Option<Override>,
    /// What checks and connections observe.
    pub observed: Observed,
    /// The weight that counts now, after override, state and slow start; 0 = no new clients.
    pub weight: u32,
    /// Its connections and flows.
    pub connections: BackendConnections,
    /// Failed attempts to connect since the start.
    pub connect_failures: u64,
    /// How many of the others took how long: by `time_bounds_ms`. Empty = it has no address.
    #[serde(default)]
    pub connect_times: Vec<u64>,
    /// Bytes to the backend since the start.
    pub bytes_in: u64,
    /// Bytes from the backend since the start.
    pub bytes_out: u64,
}

/// The state of a backend that comes of file, override and observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Takes clients.
    Up,
    /// The checks failed.
    Down,
    /// Its connections failed too often; it is left alone for a while.
    Ejected,
    /// An operator: no new clients, those it has stay.
    Drain,
    /// An operator: no new clients, and its checks do not matter; those it has stay.
    Maint,
    /// Its host name has no address yet.
    Unresolved,
}

impl State {
    /// The text of the wire and of the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Unresolved => "unresolved",
        }
    }
}

/// What the file says of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendFile {
    /// 0..=65535.
    pub weight: u32,
    /// A tier serves only when every lower one is down.
    pub tier: u32,
    /// Connections at once; null = no limit.
    pub max_connections: Option<u32>,
}

/// What an operator overrode; kept as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Null = not overridden.
    pub state: Option<OperatorState>,
    /// Why, in the operator's words; only beside `drain` and `maint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Null = not overridden.
    pub weight: Option<u32>,
}

/// A state that an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorState {
    /// Takes clients as far as the checks allow.
    Ready,
    /// No new clients.
    Drain,
    /// No new clients, and its checks do not matter.
    Maint,
}

impl OperatorState {
    /// The text of the wire and of the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What checks and connections observe of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// What the checks say.
    pub health: Health,
    /// The last check; null = there was none.
    pub last_check: Option<LastCheck>,
    /// Left alone because its connections failed too often.
    pub ejected: bool,
}

/// What the checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Good.
    Up,
    /// Bad.
    Down,
    /// No check has ended yet, or there is none.
    Unchecked,
}

/// The last check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastCheck {
    /// Whether it was good.
    pub ok: bool,
    /// What was found.
    pub why: String,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// A backend's connections and flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendConnections {
    /// Now, those being connected included.
    pub active: u32,
    /// Established since the start.
    pub total: u64,
}

/// `PUT /v1/pools/{pool}/backends/{backend}`: a state, a weight, or both. Answered with the [`Backend`]s it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// A state, or "auto" to clear what was overridden, the weight too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ChangeState>,
    /// Why; with `drain` and `maint` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A weight, 0..=65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// What `state` of a [`Change`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeState {
    /// See [`OperatorState::Ready`].
    Ready,
    /// See [`OperatorState::Drain`].
    Drain,
    /// See [`OperatorState::Maint`].
    Maint,
    /// Clears all that was overridden.
    Auto,
}

/// `POST /v1/pools/{pool}/backends/{backend}/close`: ends its connections, flows and requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// They end evenly over this duration, "10s"; null = `process.drain.spread`.
    #[serde(default)]
    pub spread: Option<String>,
}

/// What a [`Close`] is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// By when all have ended.
    pub spread: String,
    /// Whose: several, where one name of the file has several addresses.
    pub backends: Vec<ClosingBackend>,
}

/// A backend whose connections are being ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosingBackend {
    /// Its name.
    pub name: String,
    /// How many there are.
    pub connections: u32,
}

/// `PUT /v1/listeners/{listener}`. Answered with the [`Listener`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerChange {
    /// What it is to do.
    pub state: ListenerState,
    /// With `drain`: a duration as in the file; null = the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

/// What `state` of a [`ListenerChange`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerState {
    /// Takes clients.
    Ready,
    /// Takes none, and its connections end.
    Drain,
}

/// `POST /v1/reload`, when the file was taken over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The snapshot's number afterwards.
    pub generation: u64,
    /// What changed, in one line.
    pub summary: String,
    /// What the file is warned of, and keys that need a restart.
    pub warnings: Vec<String>,
}

/// `POST /v1/drain`, asked and answered: no new clients, and an end by the deadline at the latest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// A duration as in the file, "30s", for all; null = what the file says of each listener.
    #[serde(default)]
    pub deadline: Option<String>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

/// `evener explain --json`: what would become of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Where it comes to.
    pub listener: String,
    /// Method, host, path and query in their one form; empty = it has none.
    pub request: String,
    /// Who asks; empty = it did not get that far.
    pub client: String,
    /// The trusted proxy that it comes through.
    pub through: Option<String>,
    /// What takes it.
    pub route: Option<String>,
    /// What is asked, in the order in which it is asked.
    pub policies: Vec<String>,
    /// The pools that may serve it.
    pub pools: Vec<Weighted>,
    /// Path and query as the backend gets them.
    pub path: Option<String>,
    /// What is answered without a backend: a status, and where it leads or what it says.
    pub answer: Option<String>,
    /// Why it is not served.
    pub refusal: Option<Refused>,
}

/// A pool of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weighted {
    /// Its name.
    pub name: String,
    /// Beside the others.
    pub weight: u32,
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// Of the answer; 0 = the connection is closed without one.
    pub status: u16,
    /// The word in log and metrics.
    pub reason: String,
    /// In words.
    pub why: String,
}

/// The answer to anything that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// What, in words; may have several lines.
    pub error: String,
}

/// Bytes of an operator's reason.
pub const REASON_BYTES_MAX: usize = 256;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_names_its_three_layers_on_the_wire() {
        let backend = Backend {
            name: "pg1".into(),
            address: "10.0.0.1:5432".into(),
            origin: Origin::Config,
            state: State::Drain,
            why: "operator".into(),
            since: "2026-01-01T00:00:00Z".into(),
            file: BackendFile { weight: 100, tier: 0, max_connections: None },
            operator: Some(Override { state: Some(OperatorState::Drain), ..Override::default() }),
            observed: Observed {
                health: Health::Up,
                last_check: Some(LastCheck { ok: true, why: "connected".into(), took_ms: 0.4 }),
                ejected: false,
            },
            weight: 0,
            connections: BackendConnections { active: 3, total: 9 },
            connect_failures: 0,
            connect_times: vec![0, 9],
            bytes_in: 1,
            bytes_out: 2,
        };
        let json = serde_json::to_value(&backend).expect("plain data");
        assert_eq!(json["state"], "drain");
        assert_eq!(json["override"], serde_json::json!({"state": "drain", "weight": null}));
        assert_eq!(json["observed"]["health"], "up");
        assert_eq!(json["observed"]["last_check"]["took_ms"], 0.4);
        assert_eq!(json["file"]["weight"], 100);
        assert_eq!(serde_json::from_value::<Backend>(json).expect("reads back"), backend);
    }

    #[test]
    fn only_a_listener_for_datagrams_speaks_of_them() {
        let mut listener = Listener {
            name: "dns".into(),
            bind: vec!["0.0.0.0:53".into()],
            protocol: "udp".into(),
            pool: "dns".into(),
            state: "listening".into(),
            drain: None,
            connections: ListenerConnections { active: 3, accepted: 9, refused: 1 },
            bytes_in: 1,
            bytes_out: 2,
            udp: Some(Datagrams { datagrams_in: 20, datagrams_out: 18, dropped: [("denied".into(), 1)].into() }),
        };
        let json = serde_json::to_value(&listener).expect("plain data");
        assert_eq!(json["udp"], serde_json::json!({"datagrams_in": 20, "datagrams_out": 18, "dropped": {"denied": 1}}));
        assert_eq!(serde_json::from_value::<Listener>(json).expect("reads back"), listener);
        listener.udp = None;
        let json = serde_json::to_value(&listener).expect("plain data");
        assert!(json.get("udp").is_none());
        assert_eq!(serde_json::from_value::<Listener>(json).expect("reads back"), listener);
    }

    #[test]
    fn a_change_with_an_unknown_key_or_state_is_refused() {
        let read = |text| serde_json::from_str::<Change>(text);
        assert_eq!(read(r#"{"weight": 20}"#).expect("valid"), Change { weight: Some(20), ..Change::default() });
        assert_eq!(read(r#"{"state": "auto"}"#).expect("valid").state, Some(ChangeState::Auto));
        assert!(read(r#"{"wieght": 20}"#).is_err());
        assert!(read(r#"{"state": "off"}"#).is_err());
        assert!(read(r#"{"weight": -1}"#).is_err());
    }
}
