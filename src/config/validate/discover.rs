//! `pool.discover`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use toml::de::DeValue;

use crate::config::Address;
use crate::config::address::{is_host_name, looks_like_ipv4, parse_address, parse_socket_address};
use crate::config::discover::{Discover, Origin};
use crate::config::error::Finding;
use crate::config::raw::{Fault, Reader, fault, quoted, text, whole};
use crate::config::words::{DISCOVER_KINDS, DiscoverKind};

use super::{BACKENDS_MAX, count, limit};

/// So that an empty answer or file never empties a pool, unless it is told to.
const MIN: u32 = 1;
const MAX: NonZeroU32 = NonZeroU32::new(1000).expect("it is not 0");
/// The path of a file, in bytes (PATH_MAX).
const PATH_BYTES_MAX: usize = 4095;
const BACKENDS: u32 = BACKENDS_MAX as u32;

const EXAMPLE: &str = "discover = { dns = \"web.internal:80\" }";

/// `None` where the pool has no such key, or it cannot be read.
pub(super) fn read(r: &mut Reader) -> Option<Discover> {
    if !r.has("discover") {
        return None;
    }
    r.table("discover", |r| {
        r.hints(&[
            ("name", "did you mean `dns`?"),
            ("srv", "write `dns = \"_http._tcp.web.internal\", kind = \"srv\"`"),
            ("port", "write it behind the name: `dns = \"web.internal:80\"`"),
            ("path", "did you mean `file`?"),
            ("interval", "a name is asked for again when its time to live is over, a file is looked at each second"),
            ("weight", "SRV records and lines of a file have weights; all others have the same"),
        ]);
        let origin = origin(r);
        let min = r.or("min", |value| whole(value, 0, BACKENDS), MIN);
        let max = r.or("max", count(BACKENDS), MAX);
        if min > max.get() && r.is_sound() {
            let finding = Finding::error(r.span_of("min"), format!("invalid `min`: it is larger than `max`, {max}"))
                .label("never reached")
                .help("no answer would ever be believed: write a smaller `min` or a larger `max`");
            r.findings.push(finding);
        }
        let max_connections = r.or("max_connections", limit, None);
        Some(Discover { origin: origin?, min, max, max_connections })
    })
}

fn origin(r: &mut Reader) -> Option<Origin> {
    match (r.has("dns"), r.has("file")) {
        (true, true) => {
            r.refuse("file", |span| {
                Finding::error(span, "`dns` and `file` in one `discover`")
                    .label("one too many")
                    .help("a pool has one of the two; give the other one a pool of its own")
            });
        }
        (false, true) => {
            for key in ["kind", "resolver"] {
                r.refuse(key, |span| {
                    Finding::error(span, format!("`{key}` is about `dns`, and this is a `file`"))
                        .label("nothing is asked")
                        .help("leave it out")
                });
            }
        }
        (true, false) => {}
        (false, false) => {
            let finding = Finding::error(r.span.clone(), "`discover` has neither `dns` nor `file`")
                .label("nobody to ask")
                .help(format!("write `{EXAMPLE}` or `discover = {{ file = \"/run/web.backends\" }}`"));
            r.findings.push(finding.absence());
        }
    }
    let file = r.optional("file", path).map(Origin::File);
    let kind = r.word("kind", DISCOVER_KINDS, DiscoverKind::Addresses);
    let resolver = r.optional("resolver", resolver);
    let dns = match kind {
        DiscoverKind::Addresses => r.optional("dns", name_and_port).map(|(name, port)| (name, Some(port))),
        DiscoverKind::Services => r.optional("dns", service).map(|name| (name, None)),
    };
    file.or_else(|| {
        Some(match dns? {
            (name, Some(port)) => Origin::Addresses { name, port, resolver },
            (name, None) => Origin::Services { name, resolver },
        })
    })
}

fn name_and_port(value: &DeValue) -> Result<(String, u16), Fault> {
    let name = text(value)?;
    if name.starts_with('_') && is_host_name(name) {
        let fault = fault("the address has no port", "no port");
        return Err(fault.help("if this name has SRV records, write `kind = \"srv\"` beside it"));
    }
    match parse_address(name)? {
        Address::Host { name, port } => Ok((name, port)),
        Address::Ip(_) | Address::Unix(_) => Err(fault("a host name is needed to ask for", "not a host name")
            .help(format!("an address that stays stands in `backends`: `backends = [\"{}\"]`", quoted(name)))),
    }
}

fn service(value: &DeValue) -> Result<String, Fault> {
    let name = text(value)?;
    if let Some((host, port)) = name.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        let fault = fault("SRV records name the ports", "a port");
        return Err(fault.help(format!("write \"{}\"", quoted(host))));
    }
    if !is_host_name(name) || looks_like_ipv4(name) {
        return Err(
            fault("not a name", "not a name").help("write a name with SRV records: \"_http._tcp.web.internal\"")
        );
    }
    Ok(name.to_owned())
}

fn resolver(value: &DeValue) -> Result<SocketAddr, Fault> {
    let resolver = text(value)?;
    if let Ok(ip) = resolver.parse() {
        let with_port = SocketAddr::new(ip, 53);
        return Err(fault("the address has no port", "no port").help(format!("write \"{with_port}\"")));
    }
    match parse_socket_address(resolver) {
        Ok(address) if address.port() == 0 => Err(fault("a resolver has a port", "port 0").help("DNS has port 53")),
        Ok(address) => Ok(address),
        Err(wrong) => Err(wrong.help("write the resolver's IP address and port, such as \"127.0.0.1:8600\"")),
    }
}

fn path(value: &DeValue) -> Result<PathBuf, Fault> {
    let path = text(value)?;
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
        return Err(fault("it is the name of a file", "not a name").help("write a path, such as \"/run/web.backends\""));
    }
    Ok(PathBuf::from(path))
}
