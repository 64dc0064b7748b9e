//! A small configuration for tests: one listener, one pool of two backends, all else as the file leaves it.

use super::*;

/// Listener "web" on 127.0.0.1:0, pool "app" with "a" and "b".
pub fn config() -> Config {
    read("web", "tcp")
}

pub fn listener(name: &str) -> Listener {
    Listener::clone(&read(name, "tcp").listeners[0])
}

/// One for datagrams.
pub fn udp_listener(name: &str) -> Listener {
    Listener::clone(&read(name, "udp").listeners[0])
}

pub fn pool() -> Pool {
    Pool::clone(&config().pools[0])
}

/// Of "web.test:80".
pub fn discover() -> Option<Discover> {
    let origin = Origin::Addresses { name: "web.test".to_owned(), port: 80, resolver: None };
    Some(Discover { origin, min: 1, max: NonZeroU32::MAX, max_connections: None })
}

fn read(listener: &str, protocol: &str) -> Config {
    let text = format!(
        "[process]\nworkers = 2\nadmin = \"\"\n\n\
         [listener.{listener}]\nbind = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\npool = \"app\"\n\n\
         [pool.app]\npassive = false\nbackends = [\n\
         {{ name = \"a\", address = \"10.0.0.1:80\" }}, {{ name = \"b\", address = \"10.0.0.2:80\" }},\n]\n"
    );
    parse("sample", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
}
