//! Addresses as the file writes them: "1.2.3.4:5432", "[2001:db8::1]:5432", "unix:/run/app.sock", "db.internal:5432",
//! and networks, "10.0.0.0/8". Each has one text, used for printing and as the default name of a backend.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::raw::{Fault, fault, quoted};
use super::{Address, Bind};

/// sun_path holds 108 bytes with the NUL at its end (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
/// RFC 1035, 2.3.4: 255 octets on the wire are 253 characters of text.
const HOST_BYTES_MAX: usize = 253;
/// RFC 1035, 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Where a listener listens: an IP address and port, or a unix socket.
pub(super) fn parse_bind(text: &str) -> Result<Bind, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_unix_path(path).map(Bind::Unix);
    }
    parse_socket_address(text).map(Bind::Ip)
}

/// An IP address and a port; a host name is refused with what to write for it.
pub(super) fn parse_socket_address(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = |what: &str, label: &str, help: String| Err(fault(what, label).help(help));
    if let Some(fault) = bare_ip(text) {
        return Err(fault);
    }
    if text.parse::<u16>().is_ok() {
        let help = format!("write \"0.0.0.0:{text}\" for all IPv4 addresses of this host, \"[::]:{text}\" for IPv6");
        return wrong("this is only a port", "no address", help);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(
            "it has no port",
            "not an address",
            "write an IP address and a port: \"0.0.0.0:5432\"".to_owned(),
        );
    };
    if port.parse::<u16>().is_err() {
        return Err(bad_port(port));
    }
    match host {
        "" | "*" => {
            let help =
                format!("write \"0.0.0.0:{port}\" for all IPv4 addresses of this host, \"[::]:{port}\" for IPv6");
            wrong("the address is missing", "no address", help)
        }
        "localhost" => wrong(
            "an IP address is needed here, not a host name",
            "a host name",
            format!("write \"127.0.0.1:{port}\" (or \"[::1]:{port}\")"),
        ),
        _ if looks_like_ipv4(host) => {
            wrong("not an IPv4 address", "not an address", "an IPv4 address is four numbers from 0 to 255".to_owned())
        }
        _ => wrong(
            "an IP address is needed here, not a host name",
            "not an IP address",
            format!("write the IP address of an interface, or \"0.0.0.0:{port}\" for all of them"),
        ),
    }
}

/// As another process has written it.
impl std::str::FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        parse_address(text).map_err(drop)
    }
}

/// Where a backend is: an IP address, a unix socket or a host name, each but the socket with a port.
pub(super) fn parse_address(text: &str) -> Result<Address, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_unix_path(path).map(Address::Unix);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(bad_port("0")) } else { Ok(Address::Ip(address)) };
    }
    let wrong = |what: &str, label: &str, help: String| Err(fault(what, label).help(help));
    if let Some((scheme, rest)) = text.split_once("://") {
        let help = format!("leave `{}://` out: \"{}\"", quoted(scheme), quoted(rest.trim_end_matches('/')));
        return wrong("a backend is an address and a port, not a URL", "a URL", help);
    }
    if let Some(fault) = bare_ip(text) {
        return Err(fault);
    }
    if text.starts_with('/') {
        return wrong("a path needs `unix:` before it", "a path", format!("write \"unix:{}\"", quoted(text)));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let help = if is_host_name(text) {
            format!("write the port behind it, such as \"{text}:5432\"")
        } else {
            address_help()
        };
        return wrong("the address has no port", "no port", help);
    };
    if looks_like_ipv4(host) {
        return wrong(
            "not an IPv4 address",
            "not an address",
            "an IPv4 address is four numbers from 0 to 255".to_owned(),
        );
    }
    if !is_host_name(host) {
        return wrong("neither an IP address nor a host name", "not an address", address_help());
    }
    match port.parse::<u16>() {
        Ok(port @ 1..) if is_plain_number(text, host) => Ok(Address::Host { name: host.to_owned(), port }),
        _ => Err(bad_port(port)),
    }
}

/// A network with a prefix: "10.0.0.0/8".
pub(super) fn parse_network(text: &str) -> Result<IpNet, Fault> {
    if let Ok(network) = text.parse::<IpNet>() {
        if let Some(known) = mapped(network) {
            return Err(fault("clients are known by their IPv4 addresses, which are not in here", "holds nobody")
                .help(format!("write \"{known}\"")));
        }
        if network.trunc() == network {
            return Ok(network);
        }
        let help = format!(
            "write \"{}\" for the network, \"{}\" for the one address",
            network.trunc(),
            IpNet::from(network.addr())
        );
        return Err(fault("the address has bits set behind its prefix", "not a network").help(help));
    }
    let wrong = fault("not a network", "not a network");
    Err(match text.parse::<IpAddr>() {
        Ok(address) => {
            let network = IpNet::from(address.to_canonical());
            fault("a network has a prefix", "no prefix").help(format!("write \"{network}\""))
        }
        Err(_) => match text.split_once('/').map(|(address, _)| address.parse::<IpAddr>()) {
            Some(Ok(IpAddr::V4(_))) => wrong.help("the prefix of an IPv4 network is a number from 0 to 32"),
            Some(Ok(IpAddr::V6(_))) => wrong.help("the prefix of an IPv6 network is a number from 0 to 128"),
            _ => wrong.help("write an address and a prefix: \"10.0.0.0/8\", \"2001:db8::/32\""),
        },
    })
}

/// The IPv4 network that one of mapped addresses means (RFC 4291, 2.5.5.2). Clients are never compared by those.
fn mapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(network) = network else { return None };
    let (address, prefix) = (network.addr().to_ipv4_mapped()?, network.prefix_len().checked_sub(96)?);
    ipnet::Ipv4Net::new(address, prefix).ok().map(|network| IpNet::V4(network.trunc()))
}

/// The path of a unix socket: absolute, for a reload, the command line and the process need not stand in one folder.
pub(super) fn parse_unix_path(path: &str) -> Result<PathBuf, Fault> {
    if !Path::new(path).is_absolute() {
        return Err(fault("the path of a unix socket begins with `/`", "not an absolute path")
            .help("write the whole path, such as \"unix:/run/app.sock\""));
    }
    if path.chars().any(char::is_control) {
        return Err(fault("the path holds a control character", "not a path"));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(fault(
            format!("the path of a unix socket has at most {UNIX_PATH_BYTES_MAX} bytes"),
            format!("{} bytes", path.len()),
        )
        .help("choose a shorter path, such as one in /run"));
    }
    Ok(PathBuf::from(path))
}

/// An IP address without its port, or an IPv6 address and port without brackets.
fn bare_ip(text: &str) -> Option<Fault> {
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        let help = format!("write \"[{host}]:{port}\"");
        return Some(fault("an IPv6 address stands in brackets", "no brackets").help(help));
    }
    let ip = text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
    let help = format!("write the port behind it, such as \"{}\"", SocketAddr::new(ip, 5432));
    Some(fault("the address has no port", "no port").help(help))
}

fn bad_port(port: &str) -> Fault {
    match port {
        "0" => fault("a backend has a port", "port 0").help("write a port from 1 to 65535"),
        "" => fault("the port is missing", "no port").help("write a port from 1 to 65535"),
        _ => fault("not a port", "not a port").help("a port is a number from 1 to 65535"),
    }
}

fn address_help() -> String {
    r#"write "10.0.0.11:5432", "[2001:db8::1]:5432", "db.internal:5432" or "unix:/run/app.sock""#.to_owned()
}

/// Only digits and dots cannot be a host name: "10.0.0.300" is a mistake and never a name to resolve.
pub(super) fn looks_like_ipv4(host: &str) -> bool {
    host.trim_end_matches('.')
        .rsplit('.')
        .next()
        .is_some_and(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit()))
}

/// RFC 1123, 2.1, and the underscores that are seen in practice.
pub fn is_host_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    labels.len() <= HOST_BYTES_MAX
        && labels.split('.').all(|label| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// The port is digits only: `parse` would take "+80".
fn is_plain_number(text: &str, host: &str) -> bool {
    text[host.len() + 1..].bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_an_address_is_read_and_has_its_text() {
        for text in
            ["10.0.0.11:5432", "[2001:db8::1]:5432", "unix:/run/app.sock", "db.internal:5432", "db_1:1", "db.:65535"]
        {
            assert_eq!(parse_address(text).unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:5432", "[::]:0", "unix:/run/app.sock"] {
            assert_eq!(parse_bind(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_advice() {
        for (text, advice) in [
            ("10.0.0.11", "10.0.0.11:5432"),
            ("2001:db8::1", "[2001:db8::1]:5432"),
            ("http://web:80/", "\"web:80\""),
            ("/run/app.sock", "unix:/run/app.sock"),
            ("db.internal", "db.internal:5432"),
            ("10.0.0.300:5432", "0 to 255"),
            ("10.0.0.1:0", "1 to 65535"),
            ("db:0", "1 to 65535"),
            ("db:+80", "1 to 65535"),
            ("db:99999", "1 to 65535"),
            ("db:", "1 to 65535"),
            ("-db:80", "db.internal:5432"),
            ("a b:80", "db.internal:5432"),
            (":80", "db.internal:5432"),
            ("", "db.internal:5432"),
            ("unix:app.sock", "whole path"),
        ] {
            assert!(parse_address(text).unwrap_err().help.unwrap().contains(advice), "{text}");
        }
        for (text, advice) in [
            ("5432", "0.0.0.0:5432"),
            (":5432", "0.0.0.0:5432"),
            ("*:5432", "0.0.0.0:5432"),
            ("localhost:5432", "127.0.0.1:5432"),
            ("::1:5432", "[::1]:5432"),
            ("db.internal:5432", "interface"),
            ("0.0.0.0", "0.0.0.0:5432"),
            ("0.0.0.0:70000", "1 to 65535"),
        ] {
            assert!(parse_bind(text).unwrap_err().help.unwrap().contains(advice), "{text}");
        }
    }

    #[test]
    fn a_unix_path_fits_the_kernels_structure() {
        let fits = format!("unix:/{}", "a".repeat(UNIX_PATH_BYTES_MAX - 1));
        assert!(parse_bind(&fits).is_ok());
        assert!(parse_bind(&format!("{fits}a")).is_err());
        assert!(parse_bind("unix:/a\0b").is_err());
    }

    #[test]
    fn a_network_has_no_bits_behind_its_prefix() {
        assert_eq!(parse_network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        for (text, advice) in [
            ("10.1.2.3/8", "\"10.0.0.0/8\""),
            ("10.1.2.3/8", "\"10.1.2.3/32\""),
            ("10.0.0.1", "\"10.0.0.1/32\""),
            ("::1", "\"::1/128\""),
            ("::ffff:203.0.113.0/120", "\"203.0.113.0/24\""),
            ("::ffff:0:0/96", "\"0.0.0.0/0\""),
            ("::ffff:203.0.113.7", "\"203.0.113.7/32\""),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("net", "10.0.0.0/8"),
        ] {
            assert!(parse_network(text).unwrap_err().help.unwrap().contains(advice), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_an_address_panic_and_what_is_read_has_a_text_that_reads_the_same(text in "(unix:)?[\\[\\]/:.a-z0-9é%+-]{0,24}") {
            if let Ok(address) = parse_address(&text) {
                prop_assert_eq!(parse_address(&address.to_string()).ok(), Some(address));
            }
            if let Ok(bind) = parse_bind(&text) {
                prop_assert_eq!(parse_bind(&bind.to_string()).ok(), Some(bind));
            }
            let _ = parse_network(&text);
        }
    }
}
