//! In place of `http` in a build without the gateway: the same names, of which nothing can be made.

/// No routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway;

/// No HTTP listener can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Http {}

/// A pool has nothing for HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolOptions;

impl Gateway {
    /// None.
    pub fn pools_of(&self, _listener: &str) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}
