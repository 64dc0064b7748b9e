//! What is asked of a request before it goes on, one file a policy.
