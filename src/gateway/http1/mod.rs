//! HTTP/1.1 (RFC 9112), on both sides.
//!
//! Heads and chunk sizes are read by httparse and held in the types of `http`; what is ours is how messages are framed
//! and how a connection goes from one to the next. A library for all of it was used first. It cost more time for each
//! request than a peer takes for everything (benches/README.md), did not let a request with two framings be refused,
//! and kept buffers for idle connections. HTTP/2 is left to hyper.
//!
//! `head`, its `lines` and `framing` know no socket: bytes in, messages out, and the other way. `wire` holds what was read and what is
//! to be written. `server` carries a client's connection (`conn`) from request to request, keeps `step` with the others of
//! its turn, and sends each `reply`; `link` is a connection to a backend.

mod conn;
pub mod date;
pub mod framing;
pub mod head;
mod lines;
mod link;
mod reply;
mod server;
mod step;
mod wire;

pub use conn::Upload;
pub use lines::Lines;
pub use link::Link;
pub use server::serve;

#[cfg(test)]
mod tests;
