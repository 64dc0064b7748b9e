//! Names of servers in `listener.sni`, and which of them a client means. A name is written in small letters and without a
//! dot at its end, here as in what is looked for: so letter case and that dot make no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address::{is_host_name, looks_like_ipv4};
use super::raw::{Fault, fault, quoted};

/// `listener.sni`: which pool serves the clients who ask for which server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames(BTreeMap<String, String>);

impl ServerNames {
    /// Whether no name is given, so that nobody is asked for one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and their pools, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, pool)| (name.as_str(), pool.as_str()))
    }

    /// The pools, once each, in the order of their names.
    pub fn pools(&self) -> BTreeSet<&str> {
        self.0.values().map(String::as_str).collect()
    }

    /// The pool for this name: that of the name itself, else that of the wildcard for what is behind its first label.
    pub fn pool_of(&self, name: &str) -> Option<&str> {
        let wildcard = || match name.split_once('.')? {
            ("", _) => None,
            (_, parent) => self.0.get(&format!("*.{parent}")),
        };
        self.0.get(name).or_else(wildcard).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for ServerNames {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// "a.example.com", or "*.example.com" for every name of one label before it.
pub(super) fn parse_server_name(text: &str) -> Result<String, Fault> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let wrong = |what: &str, label: &str, help: &str| Err(fault(what, label).help(help));
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        let help = "leave it out: a client that knows only an address asks for no name, and is served by `pool`";
        return wrong("no client asks for an IP address", "an IP address", help);
    }
    if name == "*" {
        let help = "leave it out: whoever asks for no name, or for one that is not here, is served by `pool`";
        return wrong("a wildcard has a name behind it", "every name", help);
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.contains('*') {
        let help = "write `*.` and the rest of the name, such as \"*.example.com\"";
        return wrong("a wildcard stands for the whole first label of a name", "a wildcard elsewhere", help);
    }
    if !text.is_ascii() {
        let help = "write it as clients send it, such as \"xn--bcher-kva.example\"";
        return wrong("a host name has no other letters than a to z", "not a host name", help);
    }
    if host.ends_with('.') || looks_like_ipv4(host) || !is_host_name(host) {
        let what = format!("`{}` is no host name", quoted(text));
        let help = "write a name without scheme, port and path, such as \"a.example.com\" or \"*.example.com\"";
        return wrong(&what, "not a host name", help);
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(names: &[(&str, &str)]) -> ServerNames {
        names.iter().map(|(name, pool)| (parse_server_name(name).unwrap(), (*pool).to_owned())).collect()
    }

    #[test]
    fn a_name_beats_a_wildcard_and_a_wildcard_is_one_label() {
        let names = names(&[("a.example.com", "a"), ("*.Example.com.", "any"), ("*.b.example.com", "b"), ("db", "db")]);
        for (name, pool) in [
            ("a.example.com", Some("a")),
            ("b.example.com", Some("any")),
            ("x.b.example.com", Some("b")),
            ("x.a.example.com", None),
            ("y.x.b.example.com", None),
            ("example.com", None),
            (".example.com", None),
            ("*.example.com", Some("any")),
            ("*.a.example.com", None),
            ("db", Some("db")),
            ("x.db", None),
            ("com", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(names.pool_of(name), pool, "{name}");
        }
        assert!(names.pools().into_iter().eq(["a", "any", "b", "db"]));
    }

    #[test]
    fn what_is_no_name_of_a_server_is_refused_with_advice() {
        for (text, advice) in [
            ("192.0.2.1", "no name"),
            ("192.0.2.1.", "such as"),
            ("[2001:db8::1]", "no name"),
            ("10.0.0.300", "such as"),
            ("*", "`pool`"),
            ("*.", "`pool`"),
            ("*.*.example.com", "first label"),
            ("a.*.example.com", "first label"),
            ("a*.example.com", "first label"),
            ("*example.com", "first label"),
            ("b\u{fc}cher.example", "xn--"),
            ("a.example.com:443", "port"),
            ("https://a.example.com/", "scheme"),
            ("a..example.com", "such as"),
            ("*..example.com", "such as"),
            ("a.example.com..", "such as"),
            ("-a.example.com", "such as"),
            ("a b.example.com", "such as"),
            ("", "such as"),
            (".", "such as"),
        ] {
            let fault = parse_server_name(text).unwrap_err();
            assert!(format!("{} {:?}", fault.what, fault.help).contains(advice), "{text}: {fault:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_read_reads_the_same(text in "\\*?[*.a-zA-Z0-9:é-]{0,16}\\.?") {
            if let Ok(name) = parse_server_name(&text) {
                prop_assert_eq!(parse_server_name(&name).unwrap(), name);
            }
        }

        #[test]
        fn a_wildcard_fits_what_ends_like_it_with_one_label_more(name in "[a-z.]{0,12}", parent in "[a-z]{1,2}(\\.[a-z]{1,2}){0,2}") {
            let names = names(&[(&format!("*.{parent}"), "any")]);
            let label = name.strip_suffix(&format!(".{parent}"));
            let fits = label.is_some_and(|label| !label.is_empty() && !label.contains('.'));
            prop_assert_eq!(names.pool_of(&name).is_some(), fits);
        }
    }
}
