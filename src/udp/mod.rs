//! UDP without sockets and clocks: which flow a datagram belongs to, which backend the flow, when it ends.
//!
//! ```text
//!                 the table's bound, allow and deny, the client's limits, pick
//!   a client's first datagram ──────────────────────────────────────▶ fresh ──▶ settled
//!                                                                      │           │
//!        its second one after a reply makes it settled ────────────────┘           │
//!        backend down, or nobody listens there: another backend with the next one  │
//!        idle · answered · shed · drained · backend down · killed ◀────────────────┘
//! ```
//!
//! A *flow* is a client's address and port together with the address that it spoke to; what the flow's backend sends
//! back belongs to it. [`Table`] holds the flows of one listener in one worker, and with them an opaque `S`, the worker's
//! socket towards the backend. Whoever floods with forged addresses never gets beyond fresh: he cannot answer a reply.
//! When the bound is reached the longest idle fresh flow is shed first, and a settled one only when there is no fresh
//! one; so a flood does not cost anybody his flow who had it before.
//!
//! `line` keeps flows in the order in which they fell silent, `train` says which datagrams may leave as one.

pub mod flow;
mod handover;
mod line;
pub mod table;
pub mod train;

pub use flow::{Flow, Peer};
pub use table::Table;
