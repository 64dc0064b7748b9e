//! Identities: small numbers that stand for a listener, a pool or a backend of the file.
//!
//! The control plane hands out one number per identity (for a backend: pool, name and address) and never gives it to
//! another one while the process lives. So a number in a message or in a connection means the same thing after any
//! number of reloads, and a stale one simply finds nothing.

use std::fmt;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "#{}", self.0)
            }
        }
    };
}

identity!(
    /// A `[listener.NAME]`.
    ListenerId
);
identity!(
    /// A `[pool.NAME]`.
    PoolId
);
identity!(
    /// A backend of a pool: the same pool, name and address is the same backend.
    BackendId
);

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected to a listener.
    Client,
    /// The end that evener connected to.
    Backend,
}

impl Side {
    /// The end across.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}
