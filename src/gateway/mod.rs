//! The HTTP gateway: an engine like the workers, on tokio and hyper.

pub mod canonical;
pub mod forwarded;
pub mod policy;
pub mod refusal;
pub mod route;
