//! Which headers are passed on, and what is said of the client in them.
