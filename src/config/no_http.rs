//! In place of `http` in a build without the gateway: the same names, of which nothing can be made.

use super::diff::Names;
use super::print::Lines;

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

    /// None.
    pub fn summary(&self) -> Vec<[String; 4]> {
        Vec::new()
    }

    /// Nothing.
    pub(super) fn diff(&self, _old: &Self) -> Vec<(&'static str, Names)> {
        Vec::new()
    }
}

pub(super) fn print_http(_out: &mut Lines, http: &Http) {
    match *http {}
}

pub(super) fn print_gateway(_out: &mut Lines, _gateway: &Gateway, _masked: bool) {}

pub(super) fn print_pool(_out: &mut Lines, _options: &PoolOptions, _is_used: bool) {}

pub(super) fn print_statuses(_options: &PoolOptions) -> Option<String> {
    None
}
