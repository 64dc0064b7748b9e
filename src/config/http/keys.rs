//! The keys that tokens are verified with.

/// Keys by their id, and one for tokens that name none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySet {}
