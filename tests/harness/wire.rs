//! Two network namespaces and a wire between them: evener runs in the near one, clients and backends in the far one.
//! Needs root and ip(8) and ethtool(8).

#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings fail")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::process::Command;

use crate::harness::{require_root, rerun_inside};

/// The near end.
pub const OURS: &str = "10.213.7.1";
pub const OURS_V6: &str = "fd13::1";
/// The far end.
pub const PEERS: &str = "10.213.7.2";
pub const PEERS_V6: &str = "fd13::2";
/// The links' own addresses.
const OURS_ON_LINK: &str = "fe80::1";
const PEERS_ON_LINK: &str = "fe80::2";

/// Gone when dropped.
pub struct Wire {
    pub near: String,
    pub far: String,
}

impl Wire {
    /// Packets of up to `mtu` bytes; without `offload` each of them crosses by itself, as over a simple network card.
    pub fn lay(purpose: &str, mtu: u16, offload: bool) -> Self {
        let tag = format!("{}-{purpose}", std::process::id());
        let (wire, mtu) =
            (Self { near: format!("evener-near-{tag}"), far: format!("evener-far-{tag}") }, mtu.to_string());
        for namespace in [&wire.near, &wire.far] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        let veth = ["link", "add", "wire", "mtu", &mtu, "type", "veth", "peer", "wire", "netns", &wire.far];
        run("ip", &[&["-n", &wire.near][..], &veth].concat());
        let ends = [(&wire.near, [OURS, OURS_V6, OURS_ON_LINK]), (&wire.far, [PEERS, PEERS_V6, PEERS_ON_LINK])];
        for (namespace, [v4, v6, on_link]) in ends {
            run("ip", &["-n", namespace, "link", "set", "wire", "addrgenmode", "none"]);
            run("ip", &["-n", namespace, "address", "add", &format!("{v4}/24"), "brd", "+", "dev", "wire"]);
            for address in [v6, on_link] {
                run("ip", &["-n", namespace, "address", "add", &format!("{address}/64"), "dev", "wire", "nodad"]);
            }
            run("ip", &["-n", namespace, "link", "set", "wire", "mtu", &mtu, "up"]);
            if !offload {
                let off = ["tso", "off", "gso", "off", "gro", "off", "sg", "off", "tx", "off", "rx", "off"];
                run("ip", &[&["netns", "exec", namespace, "ethtool", "-K", "wire"][..], &off].concat());
            }
        }
        wire
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
        }
    }
}

/// Lays a wire and runs `inner`, an ignored test of the same file, at its far end; EVENER_NEAR names the near one.
pub fn at_the_far_end(test: &str, inner: &str) {
    if require_root(test, &["ip", "ethtool"]) {
        let wire = Wire::lay(inner, 1500, false);
        rerun_inside(&["ip", "netns", "exec", &wire.far], inner, &[("EVENER_NEAR", &wire.near)]);
    }
}

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
