//! Why a request was answered by the gateway itself: a closed list. Label, status and title stand here once.

use http::StatusCode;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The request can be understood in two ways, or in none.
    Malformed,
    /// It did not come in time.
    RequestTimeout,
    /// Its header has too many fields or bytes.
    HeaderTooLarge,
    /// Its host is not one that this connection's certificate speaks for.
    Misdirected,
    /// No route matches.
    NoRoute,
    /// `allow` or `deny`.
    Denied,
    /// `rate_limit`.
    Limited,
    /// Nobody known: no credentials, or none that count.
    Unauthenticated,
    /// Known, but `require` wants more.
    Forbidden,
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// No backend of the pool takes requests now.
    NoBackend,
    /// All backends of the pool are at their `max_connections`.
    PoolFull,
    /// The pool's breaker is open.
    BreakerOpen,
    /// No connection to a backend, or it broke before a response.
    BackendFailed,
    /// The backend did not answer in time.
    BackendTimeout,
    /// An operator ended the backend's connections.
    Killed,
    /// The upgrade that is asked for is not one that can be passed on.
    UpgradeRefused,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Malformed,
        Self::RequestTimeout,
        Self::HeaderTooLarge,
        Self::Misdirected,
        Self::NoRoute,
        Self::Denied,
        Self::Limited,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::BodyTooLarge,
        Self::NoBackend,
        Self::PoolFull,
        Self::BreakerOpen,
        Self::BackendFailed,
        Self::BackendTimeout,
        Self::Killed,
        Self::UpgradeRefused,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word in the log and in the metrics' label `policy`.
    pub const fn label(self) -> &'static str {
        self.words().0
    }

    /// The status that the client sees.
    pub const fn status(self) -> StatusCode {
        self.words().1
    }

    /// What the client reads (RFC 9457, 3.1.3); nothing about the inside.
    pub const fn title(self) -> &'static str {
        self.words().2
    }

    const fn words(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => ("malformed", StatusCode::BAD_REQUEST, "The request is malformed or ambiguous"),
            Self::RequestTimeout => {
                ("request_timeout", StatusCode::REQUEST_TIMEOUT, "The request did not come in time")
            }
            Self::HeaderTooLarge => {
                ("header_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's header is too large")
            }
            Self::Misdirected => ("misdirected", StatusCode::MISDIRECTED_REQUEST, "This host is not served here"),
            Self::NoRoute => ("no_route", StatusCode::NOT_FOUND, "There is nothing here"),
            Self::Denied => ("denied", StatusCode::FORBIDDEN, "Not from this address"),
            Self::Limited => ("limited", StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "Credentials are required"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "These credentials do not allow it"),
            Self::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The request's body is too large"),
            Self::NoBackend => ("no_backend", StatusCode::SERVICE_UNAVAILABLE, "No server is available"),
            Self::PoolFull => ("pool_full", StatusCode::SERVICE_UNAVAILABLE, "All servers are busy"),
            Self::BreakerOpen => ("breaker_open", StatusCode::SERVICE_UNAVAILABLE, "The servers are recovering"),
            Self::BackendFailed => ("backend_failed", StatusCode::BAD_GATEWAY, "The server did not answer"),
            Self::BackendTimeout => {
                ("backend_timeout", StatusCode::GATEWAY_TIMEOUT, "The server did not answer in time")
            }
            Self::Killed => ("killed", StatusCode::SERVICE_UNAVAILABLE, "The server is being taken out"),
            Self::UpgradeRefused => ("upgrade_refused", StatusCode::BAD_REQUEST, "This upgrade is not possible"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_the_place_in_the_list_and_labels_are_unique() {
        assert!(Refusal::ALL.iter().enumerate().all(|(at, refusal)| refusal.index() == at));
        let labels: std::collections::HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), Refusal::COUNT);
    }
}
