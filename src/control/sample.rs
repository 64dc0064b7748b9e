//! A small configuration for tests: one listener, one pool of two backends, all else as plain as it gets.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::config::*;

fn n(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("above 0")
}

/// Listener "web" on 127.0.0.1:0, pool "app" with "a" and "b".
pub fn config() -> Config {
    Config { process: process(), listeners: vec![Arc::new(listener("web"))], pools: vec![Arc::new(pool("app"))] }
}

pub fn process() -> Process {
    Process {
        workers: NonZeroUsize::new(2),
        pin: false,
        max_connections: None,
        admin: None,
        metrics: None,
        splice: Splice::Auto,
        log: Log { level: LogLevel::Warn, format: LogFormat::Text, access: Access::Off },
        drain: Drain { deadline: Duration::from_secs(30), spread: Duration::from_secs(5) },
    }
}

pub fn listener(name: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        bind: vec![Bind::Ip("127.0.0.1:0".parse().expect("an address"))],
        pool: "app".to_owned(),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
        deny: Vec::new(),
        max_connections: None,
        per_client: PerClient::default(),
        accept_proxy: Vec::new(),
        idle_timeout: None,
        half_close_timeout: Duration::from_secs(30),
        backlog: n(16),
        fast_open: false,
        defer_accept: false,
        keepalive: None,
    }
}

/// One for datagrams.
pub fn udp_listener(name: &str) -> Listener {
    let udp = Udp { idle_timeout: Duration::from_secs(30), responses: None, max_flows: n(100_000), one_way: false };
    Listener { protocol: Protocol::Udp(udp), ..listener(name) }
}

pub fn backend(name: &str, address: &str) -> Backend {
    let address = Address::Ip(address.parse().expect("an address"));
    Backend { name: name.to_owned(), address, weight: 100, tier: 0, max_connections: None }
}

pub fn pool(name: &str) -> Pool {
    Pool {
        name: name.to_owned(),
        balance: Balance::RoundRobin,
        backends: vec![Arc::new(backend("a", "10.0.0.1:80")), Arc::new(backend("b", "10.0.0.2:80"))],
        connect: Connect { timeout: Duration::from_secs(3), attempts: n(3), user_timeout: None },
        queue: Queue { max: 0, timeout: Duration::from_secs(5) },
        health: Health {
            kind: Check::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: n(2),
            fall: n(3),
            jitter: Percent(10),
            initial_up: true,
        },
        passive: None,
        panic_below: Percent(0),
        on_down: None,
        slow_start: Duration::ZERO,
        send_proxy: SendProxy::Off,
        source: None,
    }
}
