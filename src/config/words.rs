//! The words that the file uses for closed choices, once for reading and writing.

use super::{Access, Balance, LogFormat, LogLevel, SendProxy, Splice};

pub(super) type Words<T> = &'static [(&'static str, T)];

pub(super) const LOG_LEVELS: Words<LogLevel> = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
pub(super) const LOG_FORMATS: Words<LogFormat> = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const ACCESS: Words<Access> = &[("off", Access::Off), ("close", Access::Close), ("all", Access::All)];
pub(super) const SPLICE: Words<Splice> = &[("auto", Splice::Auto), ("off", Splice::Off)];
pub(super) const BALANCE: Words<Balance> = &[
    ("round_robin", Balance::RoundRobin),
    ("least_conn", Balance::LeastConn),
    ("least_time", Balance::LeastTime),
    ("random", Balance::Random),
    ("ip_hash", Balance::IpHash),
    ("first", Balance::First),
];
pub(super) const SEND_PROXY: Words<SendProxy> =
    &[("off", SendProxy::Off), ("v1", SendProxy::V1), ("v2", SendProxy::V2), ("v2_first", SendProxy::V2First)];
/// `discover.kind`.
pub(super) const DISCOVER_KINDS: Words<DiscoverKind> =
    &[("a", DiscoverKind::Addresses), ("srv", DiscoverKind::Services)];
/// `health.initial`: whether a backend counts as up before its first check.
pub(super) const INITIAL: Words<bool> = &[("up", true), ("down", false)];

/// What a name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscoverKind {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Services,
}

/// The word for a value; every value of these types has one.
pub(super) fn word_of<T: PartialEq>(words: Words<T>, value: &T) -> &'static str {
    words.iter().find(|(_, v)| v == value).map_or("", |(word, _)| word)
}

/// The key or word that was probably meant: a spelling mistake away, or in other letter case.
pub(super) fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    /// Longer ones are no mistyped words, and the distance takes time in proportion to the length.
    const WORD_BYTES_MAX: usize = 40;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(word.len()) / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_finds_its_word_and_noise_finds_none() {
        let known = ["backends", "balance", "health", "on_down", "send_proxy"];
        for (typed, meant) in [
            ("bakends", Some("backends")),
            ("backend", Some("backends")),
            ("Balance", Some("balance")),
            ("ballance", Some("balance")),
            ("send-proxy", Some("send_proxy")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest(&"b".repeat(10_000), known), None);
    }
}
