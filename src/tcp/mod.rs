//! The core of a TCP connection, without a socket and without a clock.
//!
//! ```text
//!            client                      backend
//!              |  recv/fill    send/drain  ^
//!              +------> Half: to_backend --+
//!              ^                           |
//!              +-- Half: to_client <-------+
//! ```
//!
//! A [`relay::Relay`] owns two [`half::Half`]s. A half reads from its source only when it holds nothing and believes its
//! sink writable, so what one connection can hold is one pipe or one buffer per direction. Bytes are copied through the
//! worker's scratch buffer while messages are small, and spliced through a borrowed pipe while they stream.
//!
//! A half ends by passing its source's FIN on, or with a fault of its source or of its sink. The relay turns the two
//! ends into one [`relay::End`]: which reason, and which sides see a reset.
//!
//! Where TLS is ended or begun here, [`tls`] stands between the relay and its sockets: the relay sees what is inside.
//!
//! [`handover`] writes down how far a relay has come, and goes on from there.
//!
//! [`hello`] finds the name in a TLS ClientHello.

pub mod conduit;
pub mod half;
pub mod handover;
pub mod hello;
pub mod relay;
pub mod tls;
