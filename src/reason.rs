//! Why a connection or flow ended, or never began: one closed list, its log text and metric label, and HAProxy's
//! two-letter termination state for the same thing. And why a datagram was dropped: another one.
//!
//! A reason is the answer to "what happened to this client"; docs/observability.md says what to do about each.

/// How a connection ended. The text of [`CloseReason::as_str`] is the log field `reason` and the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseReason {
    /// Both sides sent FIN, the client first.
    ClientClosed,
    /// Both sides sent FIN, the backend first.
    BackendClosed,
    /// The client reset the connection.
    ClientReset,
    /// The backend reset the connection.
    BackendReset,
    /// The client's host stopped answering: keep-alive or TCP_USER_TIMEOUT.
    ClientLost,
    /// The backend's host stopped answering: keep-alive or TCP_USER_TIMEOUT.
    BackendLost,
    /// No byte in either direction for `idle_timeout`.
    ClientIdle,
    /// One side sent FIN and the other did not end within `half_close_timeout`.
    HalfCloseTimeout,
    /// Every attempt to connect was refused or failed.
    ConnectFailed,
    /// The last attempt to connect got no answer within `connect.timeout`.
    ConnectTimeout,
    /// No backend of the pool may take clients.
    NoBackend,
    /// Every backend is at its `max_connections` and the queue is full (or there is none).
    QueueFull,
    /// No backend came free within `queue.timeout`.
    QueueTimeout,
    /// The source address is not allowed.
    Denied,
    /// `max_connections` of the process or of the listener is reached.
    MaxConnections,
    /// The client's own limit of connections or rate is reached.
    Limited,
    /// A peer of `accept_proxy` sent no valid PROXY header, or not in time.
    BadProxyHeader,
    /// The client of a listener with `sni` sent a TLS hello that cannot be routed, or ended before the whole of it.
    BadClientHello,
    /// The client of a listener with `sni` has not sent the whole of its TLS hello in time.
    ClientHelloTimeout,
    /// The handshake with a client of a listener with `tls` failed.
    TlsHandshakeFailed,
    /// The handshake with a client of a listener with `tls` was not done within `handshake_timeout`.
    TlsHandshakeTimeout,
    /// The listener or the process went away and the drain was over.
    Drained,
    /// The backend went down and `on_down` says close.
    BackendDown,
    /// Ended by an operator, or by a second SIGTERM.
    Killed,
    /// It was as old as `max_age` allows.
    MaxAge,
    /// Out of file descriptors or of kernel memory.
    ResourceExhausted,
    /// Out of local ports towards the backends.
    PortExhausted,
    /// A flow has had all the replies that `udp.responses` expects.
    Answered,
    /// A flow was the longest idle one when `udp.max_flows` was reached, and gave its place to a new one; or a reload
    /// made `udp.max_flows` smaller.
    Shed,
}

impl CloseReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 29] = [
        Self::ClientClosed,
        Self::BackendClosed,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientLost,
        Self::BackendLost,
        Self::ClientIdle,
        Self::HalfCloseTimeout,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::NoBackend,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Denied,
        Self::MaxConnections,
        Self::Limited,
        Self::BadProxyHeader,
        Self::BadClientHello,
        Self::ClientHelloTimeout,
        Self::TlsHandshakeFailed,
        Self::TlsHandshakeTimeout,
        Self::Drained,
        Self::BackendDown,
        Self::Killed,
        Self::MaxAge,
        Self::ResourceExhausted,
        Self::PortExhausted,
        Self::Answered,
        Self::Shed,
    ];

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The log text and metric label.
    pub const fn as_str(self) -> &'static str {
        self.describe().0
    }

    /// HAProxy's termination state: who ended it (C client, S server, P proxy, R resources, K killed, D down, c/s
    /// time-outs) and in which phase (P header, R request, Q queue, C connect, D data; `-` after the end).
    pub const fn code(self) -> &'static str {
        self.describe().1
    }

    const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::ClientClosed => ("client_closed", "--"),
            Self::BackendClosed => ("backend_closed", "--"),
            Self::ClientReset => ("client_reset", "CD"),
            Self::BackendReset => ("backend_reset", "SD"),
            Self::ClientLost => ("client_lost", "CD"),
            Self::BackendLost => ("backend_lost", "SD"),
            Self::ClientIdle => ("client_idle", "cD"),
            Self::HalfCloseTimeout => ("half_close_timeout", "sD"),
            Self::ConnectFailed => ("connect_failed", "SC"),
            Self::ConnectTimeout => ("connect_timeout", "sC"),
            Self::NoBackend => ("no_backend", "SC"),
            Self::QueueFull => ("queue_full", "PQ"),
            Self::QueueTimeout => ("queue_timeout", "sQ"),
            Self::Denied => ("denied", "PR"),
            Self::MaxConnections => ("max_connections", "PR"),
            Self::Limited => ("limited", "PR"),
            Self::BadProxyHeader => ("bad_proxy_header", "PR"),
            Self::BadClientHello => ("bad_client_hello", "PR"),
            Self::ClientHelloTimeout => ("client_hello_timeout", "cR"),
            Self::TlsHandshakeFailed => ("tls_handshake_failed", "PR"),
            Self::TlsHandshakeTimeout => ("tls_handshake_timeout", "cR"),
            Self::Drained => ("drained", "KD"),
            Self::BackendDown => ("backend_down", "DD"),
            Self::Killed => ("killed", "KD"),
            Self::MaxAge => ("max_age", "KD"),
            Self::ResourceExhausted => ("resource_exhausted", "RC"),
            Self::PortExhausted => ("port_exhausted", "RC"),
            Self::Answered => ("answered", "--"),
            Self::Shed => ("shed", "RD"),
        }
    }

    /// Whether a flow of datagrams can end like this: the labels of `udp_flows_closed_total`.
    pub const fn ends_flows(self) -> bool {
        matches!(
            self,
            Self::ClientIdle
                | Self::Answered
                | Self::Shed
                | Self::Drained
                | Self::BackendDown
                | Self::Killed
                | Self::ConnectFailed
                | Self::PortExhausted
                | Self::ResourceExhausted
        )
    }

    /// Whether a connection can end like this: the labels of `connections_closed_total`.
    pub const fn ends_connections(self) -> bool {
        !matches!(self, Self::Answered | Self::Shed)
    }

    /// True for a client that was refused before it was given to a pool: `listener_connections_refused_total`.
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::MaxConnections
                | Self::Limited
                | Self::BadProxyHeader
                | Self::BadClientHello
                | Self::ClientHelloTimeout
                | Self::TlsHandshakeFailed
                | Self::TlsHandshakeTimeout
        )
    }
}

/// Why a datagram was dropped: the label of `udp_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The client's address is not allowed.
    Denied,
    /// The client's own limit of flows or of their rate is reached.
    Limited,
    /// `udp.max_flows` is reached, and this worker has no flow that could give its place up.
    TableFull,
    /// No backend of the pool may take clients.
    NoBackend,
    /// Every backend is at its `max_connections`.
    BackendsFull,
    /// The process is ending and takes no new flow.
    Draining,
    /// It is longer than a datagram may be, with the PROXY header before it or on its way to the receiver.
    TooLong,
    /// Nobody listens at the backend, or there is no way to it or back to the client.
    Unreachable,
    /// The socket's send buffer was full.
    SendBufferFull,
    /// The kernel dropped it because this process did not read fast enough (SO_RXQ_OVFL).
    ReceiveBufferFull,
    /// A reply that came after its flow had ended.
    Late,
    /// Out of local ports towards the backends.
    PortExhausted,
    /// Out of file descriptors or of kernel memory.
    ResourceExhausted,
    /// The kernel refused to send it for another reason; the log's level "debug" has it.
    SendFailed,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Denied,
        Self::Limited,
        Self::TableFull,
        Self::NoBackend,
        Self::BackendsFull,
        Self::Draining,
        Self::TooLong,
        Self::Unreachable,
        Self::SendBufferFull,
        Self::ReceiveBufferFull,
        Self::Late,
        Self::PortExhausted,
        Self::ResourceExhausted,
        Self::SendFailed,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::TableFull => "table_full",
            Self::NoBackend => "no_backend",
            Self::BackendsFull => "backends_full",
            Self::Draining => "draining",
            Self::TooLong => "too_long",
            Self::Unreachable => "unreachable",
            Self::SendBufferFull => "send_buffer_full",
            Self::ReceiveBufferFull => "receive_buffer_full",
            Self::Late => "late",
            Self::PortExhausted => "port_exhausted",
            Self::ResourceExhausted => "resource_exhausted",
            Self::SendFailed => "send_failed",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Why one attempt to connect to a backend failed: the label of `backend_connect_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectFailure {
    /// Nothing listens there, or it refused.
    Refused,
    /// No answer within `connect.timeout`.
    Timeout,
    /// No route to the host or network.
    Unreachable,
    /// The handshake of TLS failed: it is not who it should be, or speaks no TLS.
    Tls,
    /// We have no local port left; not the backend's fault.
    NoPort,
    /// We have no file descriptor or memory left; not the backend's fault.
    NoResource,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Tls, Self::NoPort, Self::NoResource, Self::Other];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// What a failed connect(2), or the error it ended with, means.
    pub fn of(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::NoResource,
            // EAGAIN is a unix socket whose backlog is full (unix(7)).
            Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EAGAIN | libc::ENOENT) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::Timeout,
            Some(
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENETDOWN | libc::EACCES | libc::EPERM,
            ) => Self::Unreachable,
            Some(libc::EADDRNOTAVAIL) => Self::NoPort,
            _ => Self::Other,
        }
    }

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::NoPort => "no_port",
            Self::NoResource => "no_resource",
            Self::Other => "other",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it says something about the backend (and not about this host).
    pub const fn blames_backend(self) -> bool {
        !matches!(self, Self::NoPort | Self::NoResource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_number_with_its_own_text() {
        for (i, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert_eq!(reason.code().len(), 2);
            assert_eq!(CloseReason::ALL.iter().filter(|r| r.as_str() == reason.as_str()).count(), 1);
        }
        for (i, failure) in ConnectFailure::ALL.iter().enumerate() {
            assert_eq!(failure.index(), i);
        }
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.as_str() == reason.as_str()).count(), 1);
        }
    }
}
