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

impl PoolOptions {
    /// The ALPN name of HTTP/1.1, which nobody asks for.
    pub fn alpn(&self) -> &'static [u8] {
        b"http/1.1"
    }
}

impl Gateway {
    /// None.
    pub fn pools_of(&self, _listener: &str) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}
