//! The one form of a request in which routing, policies, log and backend see it.
