//! What `GET /v1/events` tells, a line for each.

use serde::{Deserialize, Serialize};

/// `GET /v1/events`: one of these a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; each is one more than the one before. A new process begins with 1.
    pub seq: u64,
    /// When (RFC 3339).
    pub time: String,
    /// What kind of thing has happened.
    pub kind: EventKind,
    /// The listener that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The pool that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The backend that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// In words.
    pub text: String,
    /// With [`EventKind::Lost`]: how many are missing here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes it so
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What kind of thing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The process takes clients.
    Started,
    /// The process takes no new clients and will end.
    Draining,
    /// The file was read again and is in effect.
    ReloadDone,
    /// The file was read again and refused.
    ReloadFailed,
    /// A listener is new.
    ListenerAdded,
    /// A listener is gone.
    ListenerRemoved,
    /// A backend is new.
    BackendAdded,
    /// A backend is gone.
    BackendRemoved,
    /// See [`super::State::Up`].
    BackendUp,
    /// See [`super::State::Down`].
    BackendDown,
    /// See [`super::State::Ejected`].
    BackendEjected,
    /// See [`super::State::Drain`].
    BackendDrain,
    /// See [`super::State::Maint`].
    BackendMaint,
    /// See [`super::State::Unresolved`].
    BackendUnresolved,
    /// An operator has overridden something of a backend.
    OverrideSet,
    /// Nothing of a backend is overridden any more.
    OverrideCleared,
    /// A pool has no backend that takes clients.
    NoBackend,
    /// A pool ignores health, because too few of its backends are up.
    Panic,
    /// Neither of the two any more.
    PoolServes,
    /// A limit was reached, and clients or log lines were lost to it.
    LimitReached,
    /// A thread that carries traffic does not turn any more.
    ThreadStuck,
    /// Events are missing here: they were not read in time.
    Lost,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// All that there are, in the order of the documents.
    pub const ALL: [Self; 22] = [
        Self::Started,
        Self::Draining,
        Self::ReloadDone,
        Self::ReloadFailed,
        Self::ListenerAdded,
        Self::ListenerRemoved,
        Self::BackendAdded,
        Self::BackendRemoved,
        Self::BackendUp,
        Self::BackendDown,
        Self::BackendEjected,
        Self::BackendDrain,
        Self::BackendMaint,
        Self::BackendUnresolved,
        Self::OverrideSet,
        Self::OverrideCleared,
        Self::NoBackend,
        Self::Panic,
        Self::PoolServes,
        Self::LimitReached,
        Self::ThreadStuck,
        Self::Lost,
    ];

    /// The text of the wire and of the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Draining => "draining",
            Self::ReloadDone => "reload_done",
            Self::ReloadFailed => "reload_failed",
            Self::ListenerAdded => "listener_added",
            Self::ListenerRemoved => "listener_removed",
            Self::BackendAdded => "backend_added",
            Self::BackendRemoved => "backend_removed",
            Self::BackendUp => "backend_up",
            Self::BackendDown => "backend_down",
            Self::BackendEjected => "backend_ejected",
            Self::BackendDrain => "backend_drain",
            Self::BackendMaint => "backend_maint",
            Self::BackendUnresolved => "backend_unresolved",
            Self::OverrideSet => "override_set",
            Self::OverrideCleared => "override_cleared",
            Self::NoBackend => "no_backend",
            Self::Panic => "panic",
            Self::PoolServes => "pool_serves",
            Self::LimitReached => "limit_reached",
            Self::ThreadStuck => "thread_stuck",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}
