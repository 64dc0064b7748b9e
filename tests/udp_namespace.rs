//! UDP over a wire between two hosts: several addresses, small packets, hosts that are gone, a tunnel, and a sender who
//! means harm. Needs root.
#![allow(clippy::unwrap_used)]

mod harness;
#[path = "harness/wire.rs"]
mod wire;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use evener::sys::datagram::{DatagramSocket, Inbox, Offload, Outbox};
use harness::datagram::{
    DATAGRAM_MAX, UdpServer, ask, hear, is_not_answered, udp_client_from, who_answers, who_answers_in_the_end,
};
use harness::{Evener, SOON, asleep, holds_for, is_root, memory_of, require, rerun_inside, wait_until};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use wire::{OURS, OURS_V6, PEERS, PEERS_V6, Wire, run};

/// A second address of the near host.
const OURS_TOO: &str = "10.213.7.3";
const OURS_TOO_V6: &str = "fd13::3";

/// Lays a wire and runs `inner`, an ignored test, at its far end.
fn at_the_far_end(test: &str, inner: &str, mtu: u16, offload: bool) {
    if !is_root() {
        println!("SKIPPED {test}: needs root for network namespaces");
        return;
    }
    if require(test, &["ip", "ethtool", "sysctl"]) {
        let wire = Wire::lay(&format!("{inner}-{mtu}"), mtu, offload);
        let inside = ["ip", "netns", "exec", &wire.far];
        rerun_inside(&inside, inner, &[("EVENER_NEAR", &wire.near), ("EVENER_MTU", &mtu.to_string())]);
    }
}

fn near() -> String {
    std::env::var("EVENER_NEAR").unwrap()
}

/// `ip` at the near end.
fn ip_at_near(arguments: &[&str]) {
    run("ip", &[&["-n", &near()], arguments].concat());
}

fn set_at_near(setting: &str) {
    run("ip", &["netns", "exec", &near(), "sysctl", "-q", "-w", setting]);
}

fn entry(name: &str, address: SocketAddr) -> String {
    format!("{{ address = \"{address}\", name = \"{name}\" }}")
}

/// One listener `dns` at the near end, and its pool without checks.
fn config(bind: &str, listener_keys: &str, backends: &[String]) -> String {
    format!(
        "[process]\nworkers = 2\nlog = {{ format = \"json\", level = \"debug\", access = \"all\" }}\n\n\
         [listener.dns]\nbind = \"{bind}\"\nprotocol = \"udp\"\npool = \"dns\"\n{listener_keys}\n\n\
         [pool.dns]\nbackends = [{}]\nhealth = {{ kind = \"none\" }}\n",
        backends.join(", ")
    )
}

fn start(config: &str) -> Evener {
    Evener::plan(config).under(&["ip", "netns", "exec", &near()]).start()
}

fn listener(evener: &Evener) -> Value {
    evener.status()["listeners"][0].clone()
}

fn flows(evener: &Evener) -> u64 {
    listener(evener)["connections"]["active"].as_u64().unwrap()
}

fn dropped(evener: &Evener, reason: &str) -> u64 {
    listener(evener)["udp"]["dropped"][reason].as_u64().unwrap_or(0)
}

fn open_files(evener: &Evener) -> usize {
    fs::read_dir(format!("/proc/{}/fd", evener.pid())).unwrap().count()
}

fn drops_nothing(evener: &Evener) -> bool {
    listener(evener)["udp"]["dropped"].as_object().unwrap().values().all(|count| *count == 0)
}

/// An address with a port of the kernel's choice.
fn any_port(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:0") } else { format!("{ip}:0") }
}

fn bound(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(any_port(ip)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Bytes that tell their place and their datagram.
fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed as u8)).collect()
}

/// Numbered datagrams of one size.
fn numbered(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| content(number, len)).collect()
}

fn send_all(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    send_all_to(socket, datagrams, socket.peer_addr().unwrap());
}

fn send_all_to(socket: &UdpSocket, datagrams: &[Vec<u8>], to: SocketAddr) {
    for datagram in datagrams {
        assert_eq!(socket.send_to(datagram, to).unwrap(), datagram.len());
    }
}

/// These datagrams come, in this order.
#[track_caller]
fn hear_all(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    for (number, datagram) in datagrams.iter().enumerate() {
        let heard = hear(socket).unwrap();
        assert!(heard == *datagram, "number {number}: {} bytes instead of {}", heard.len(), datagram.len());
    }
}

// --- Addresses ----------------------------------------------------------------------------------------------------------------

#[test]
fn replies_leave_from_the_address_spoken_to_where_a_host_has_several() {
    let test = "replies_leave_from_the_address_spoken_to_where_a_host_has_several";
    at_the_far_end(test, "inside_several_addresses", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_several_addresses() {
    ip_at_near(&["address", "add", &format!("{OURS_TOO}/24"), "dev", "wire"]);
    ip_at_near(&["address", "add", &format!("{OURS_TOO_V6}/64"), "dev", "wire", "nodad"]);
    let link = fs::read_to_string("/sys/class/net/wire/ifindex").unwrap();
    let on_link = |ip: &str| format!("{ip}%{}", link.trim());
    let (ours, peers) = (on_link("fe80::1"), on_link("fe80::2"));
    let v4 = [(OURS, PEERS), (OURS_TOO, PEERS)];
    let v6 = [(OURS_V6, PEERS_V6), (OURS_TOO_V6, PEERS_V6), (ours.as_str(), peers.as_str())];
    for (any, pairs) in [("0.0.0.0:0", &v4[..]), ("[::]:0", &v6[..])] {
        let server = UdpServer::echo(&any_port(pairs[0].1));
        let evener = start(&config(any, "", &[server.entry("")]));
        let port = evener.address("dns").port();
        let at_port = |ip: &str| {
            let mut address: SocketAddr = any_port(ip).parse().unwrap();
            address.set_port(port);
            address
        };
        let addresses: Vec<SocketAddr> = pairs.iter().map(|(ours, _)| at_port(ours)).collect();
        // A connected socket hears nobody else.
        for (address, (_, from)) in addresses.iter().zip(pairs) {
            let clients = [0, 1].map(|_| udp_client_from(&any_port(from), *address));
            for (number, client) in clients.iter().enumerate() {
                for len in [0, 5, 1200, 20_000] {
                    assert_eq!(ask(client, &content(number, len)), content(number, len), "{address}");
                }
            }
            // Several at once leave as one train.
            for round in 0..10 {
                let burst = numbered(30, 1000 + round);
                send_all(&clients[0], &burst);
                hear_all(&clients[0], &burst);
            }
        }
        assert_eq!(flows(&evener), 2 * pairs.len() as u64);
        // One client may speak to both.
        let client = bound(pairs[0].1);
        for address in addresses[..2].iter().chain(&addresses[..2]) {
            client.send_to(b"who", address).unwrap();
            assert_eq!(client.recv_from(&mut [0; 10]).unwrap().1, *address);
        }
        assert_eq!(flows(&evener), 2 * pairs.len() as u64 + 2, "what was spoken to is part of the flow");
        assert!(drops_nothing(&evener));
    }
}

// --- Small packets ------------------------------------------------------------------------------------------------------------

#[test]
fn datagrams_cross_a_wire_of_small_packets_unchanged() {
    let test = "datagrams_cross_a_wire_of_small_packets_unchanged";
    // Without offloads: what leaves as a train is cut by the kernel, or refused where it would be fragmented.
    for mtu in [1500, 1280] {
        at_the_far_end(test, "inside_small_packets", mtu, false);
    }
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_small_packets() {
    let is_narrow = std::env::var("EVENER_MTU").unwrap() == "1280";
    for (ours, peers, longest) in [(OURS, PEERS, 65_507), (OURS_V6, PEERS_V6, 65_487)] {
        let backend = bound(peers);
        let evener = start(&config(&any_port(ours), "", &[entry("a", backend.local_addr().unwrap())]));
        let client = udp_client_from(&any_port(peers), evener.address("dns"));
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut flow = None;
        for len in [0, 1, 1232, 1233, 1252, 1253, 1452, 1453, 1472, 1473, 9000, longest] {
            client.send(&content(len, len)).unwrap();
            let (got, from) = backend.recv_from(&mut buffer).unwrap();
            assert!(buffer[..got] == content(len, len), "{len} bytes became {got}");
            backend.send_to(&content(len + 1, len), from).unwrap();
            assert!(hear(&client).unwrap() == content(len + 1, len), "{len} bytes back");
            flow = Some(from);
        }
        // What comes at once and is of one size leaves as a train.
        for (len, count) in [(64, 64), (1200, 40), (1400, 40), (1452, 30), (1472, 30), (1473, 20), (9000, 6)] {
            let burst = numbered(count, len);
            asleep(evener.pid(), || send_all(&client, &burst));
            hear_all(&backend, &burst);
            asleep(evener.pid(), || send_all_to(&backend, &burst, flow.unwrap()));
            hear_all(&client, &burst);
        }
        assert!(drops_nothing(&evener), "{}", listener(&evener));
        assert_eq!(evener.log().contains("no such train of datagrams can be sent to a backend"), is_narrow);
    }
}

/// A socket that sends and receives trains.
struct Station {
    socket: DatagramSocket,
    inbox: Inbox,
}

impl Station {
    fn new(socket: DatagramSocket) -> Self {
        Self { socket, inbox: Inbox::new() }
    }

    fn send(&mut self, datagrams: &[Vec<u8>], to: Option<SocketAddr>) {
        let (train, segment) = (datagrams.concat(), datagrams[0].len());
        self.inbox.slot_mut(0)[..train.len()].copy_from_slice(&train);
        let mut outbox = Outbox::default();
        outbox.begin(0, to, None);
        outbox.add(0, 0, train.len());
        outbox.set_segment(segment);
        assert_eq!(outbox.send(0, &self.socket, &self.inbox).unwrap(), 1);
    }

    /// So many datagrams, by how many messages they came, and from whom.
    fn hear(&mut self, count: usize) -> (Vec<Vec<u8>>, usize, SocketAddr) {
        let (mut datagrams, mut messages, mut from) = (Vec::new(), 0, None);
        wait_until(SOON, "all have come", || {
            let received = self.inbox.receive(&self.socket, 0, 64).unwrap_or(0);
            for slot in 0..received {
                let message = self.inbox.received(slot);
                from = Some(message.source);
                datagrams.extend(self.inbox.bytes(slot).chunks(message.segment as usize).map(<[u8]>::to_vec));
            }
            messages += received;
            datagrams.len() >= count
        });
        (datagrams, messages, from.unwrap())
    }
}

#[test]
fn trains_cross_the_wire_whole_and_are_taken_apart_where_the_path_is_narrower() {
    let test = "trains_cross_the_wire_whole_and_are_taken_apart_where_the_path_is_narrower";
    at_the_far_end(test, "inside_a_wire_for_trains", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_wire_for_trains() {
    let offload = Offload::probe();
    for (ours, peers, prefix, longest) in [(OURS, PEERS, 32, 1472), (OURS_V6, PEERS_V6, 128, 1452)] {
        let backend = DatagramSocket::bind(any_port(peers).parse().unwrap(), 1 << 20, offload).unwrap();
        let address = backend.local_address().unwrap();
        let evener = start(&config(&any_port(ours), "", &[entry("a", address)]));
        let client = DatagramSocket::connect(evener.address("dns"), None).unwrap();
        client.widen(1 << 20, offload).unwrap();
        let (mut backend, mut client) = (Station::new(backend), Station::new(client));
        // By how many messages they came there and back.
        let mut exchange = |len: usize| {
            let train = numbered(40, len);
            client.send(&train, None);
            let (heard, there, flow) = backend.hear(40);
            assert!(heard == train, "{len} bytes");
            backend.send(&train, Some(flow));
            let (heard, back, _) = client.hear(40);
            assert!(heard == train, "{len} bytes back");
            (there, back)
        };
        // The socket to a backend takes trains only after it has met many replies at once, so the first one may come in pieces.
        wait_until(SOON, "the flow takes trains both ways", || exchange(1200) == (1, 1));
        assert_eq!(exchange(longest), (1, 1));
        // Backend and client are behind something narrower, as far as the near host knows.
        ip_at_near(&["route", "add", &format!("{peers}/{prefix}"), "dev", "wire", "mtu", "1280"]);
        for len in [longest, 1400] {
            let (there, back) = exchange(len);
            assert!(there > 1 && back > 1, "{there} and {back} messages of {len} bytes");
        }
        assert_eq!(exchange(1200), (1, 1));
        assert!(drops_nothing(&evener), "{}", listener(&evener));
    }
}

#[test]
fn a_router_with_smaller_packets_is_no_fault_of_the_backend_behind_it() {
    let test = "a_router_with_smaller_packets_is_no_fault_of_the_backend_behind_it";
    at_the_far_end(test, "inside_a_router", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_router() {
    const COUNT: u64 = 10;
    // Behind the far host is a net of packets of up to 1280 bytes, on which nobody lives.
    run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"]);
    run("ip", &["link", "add", "beyond", "mtu", "1280", "type", "veth", "peer", "nowhere"]);
    run("ip", &["address", "add", "10.213.8.1/24", "dev", "beyond"]);
    ["beyond", "nowhere"].iter().for_each(|link| run("ip", &["link", "set", link, "addrgenmode", "none", "up"]));
    run("ip", &["neigh", "add", "10.213.8.2", "lladdr", "02:00:00:00:00:02", "dev", "beyond"]);
    ip_at_near(&["route", "add", "10.213.8.0/24", "via", PEERS]);
    let reserve = UdpServer::on(&any_port(PEERS), "reserve", |_, _| Vec::new());
    let backends = [entry("beyond", "10.213.8.2:53".parse().unwrap()), reserve.entry("tier = 1")];
    let evener = start(&(config(&any_port(OURS), "", &backends) + "passive = { failures = 1 }\n"));
    let client = udp_client_from(&any_port(PEERS), evener.address("dns"));
    let packets = || fs::read_to_string("/sys/class/net/beyond/statistics/tx_packets").unwrap().trim().parse::<u64>();
    // The first one is lost, and tells how small packets must be. Each other one is cut in two.
    wait_until(SOON, "all fragments are through", || {
        send_all(&client, &numbered(1, 1400));
        packets().unwrap() >= COUNT * 2
    });
    assert_eq!((evener.state("dns", "beyond").as_str(), evener.active("dns", "beyond")), ("up", 1));
    assert!(drops_nothing(&evener), "{}", listener(&evener));
}

// --- Hosts that are gone ------------------------------------------------------------------------------------------------------

#[test]
fn a_flow_leaves_a_backend_whose_host_is_gone_and_so_does_everybody_else() {
    let test = "a_flow_leaves_a_backend_whose_host_is_gone_and_so_does_everybody_else";
    at_the_far_end(test, "inside_a_net_with_a_host_that_is_gone", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_net_with_a_host_that_is_gone() {
    // Nobody answers for an address: three questions, each for so long (arp(7)).
    set_at_near("net.ipv4.neigh.wire.retrans_time_ms=50");
    set_at_near("net.ipv6.neigh.wire.retrans_time_ms=50");
    // Nobody on the wire has the first ones, and there is no way to the others.
    let v4 = (OURS, PEERS, "10.213.7.99:53", "192.0.2.1:53");
    let v6 = (OURS_V6, PEERS_V6, "[fd13::99]:53", "[2001:db8::1]:53");
    for (ours, peers, gone, far_off) in [v4, v6] {
        let server = UdpServer::on(&any_port(peers), "a", |datagram, _| vec![[b"a ", datagram].concat()]);
        let evener = start(&config(&any_port(ours), "", &[server.entry(""), entry("gone", gone.parse().unwrap())]));
        let address = evener.address("dns");
        let clients: Vec<UdpSocket> = (0..20).map(|_| udp_client_from(&any_port(peers), address)).collect();
        clients.iter().for_each(|client| send_all(client, &[b"first".to_vec()]));
        wait_until(SOON, "it is known that nobody is there", || dropped(&evener, "unreachable") >= 5);
        evener.wait_for_state("dns", "gone", "ejected");
        assert_eq!(evener.backend("dns", "gone")["connections"]["active"], 10, "a flow waits for its next datagram");
        // Those of "gone" have lost one datagram, and lose no more.
        let of_gone = clients.iter().filter(|client| ask(client, b"second") == b"a second").count();
        assert_eq!(of_gone, 10, "the others hear the reply to their first datagram");
        assert_eq!((flows(&evener), evener.active("dns", "a")), (20, 20));
        assert_eq!(who_answers(&udp_client_from(&any_port(peers), address)), "a");

        let evener = start(&config(&any_port(ours), "", &[server.entry(""), entry("off", far_off.parse().unwrap())]));
        let address = evener.address("dns");
        let clients: Vec<UdpSocket> = (0..10).map(|_| udp_client_from(&any_port(peers), address)).collect();
        assert!(clients.iter().all(|client| who_answers(client) == "a"), "no datagram is lost on the way to nowhere");
        evener.wait_for_state("dns", "off", "ejected");
        assert!(drops_nothing(&evener), "{}", listener(&evener));
    }
}

#[test]
fn a_flow_survives_the_address_that_it_was_sent_from() {
    let test = "a_flow_survives_the_address_that_it_was_sent_from";
    at_the_far_end(test, "inside_a_host_whose_address_changes", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_host_whose_address_changes() {
    for scope in ["all", "wire"] {
        set_at_near(&format!("net.ipv4.conf.{scope}.promote_secondaries=1"));
    }
    ip_at_near(&["address", "add", &format!("{OURS_TOO}/24"), "dev", "wire"]);
    let server = UdpServer::on(&any_port(PEERS), "a", |datagram, _| vec![[b"a ", datagram].concat()]);
    let evener = start(&config("0.0.0.0:0", "", &[server.entry("")]));
    let address = SocketAddr::new(OURS_TOO.parse().unwrap(), evener.address("dns").port());
    let client = udp_client_from(&any_port(PEERS), address);
    assert_eq!(who_answers(&client), "a");
    ip_at_near(&["address", "del", &format!("{OURS}/24"), "dev", "wire"]);
    assert_eq!(who_answers_in_the_end(&client), "a");
    let sources: Vec<String> = server.senders().keys().map(|from| from.ip().to_string()).collect();
    assert_eq!(sources, [OURS, OURS_TOO]);
    assert_eq!(flows(&evener), 1);
}

// --- Ports that are gone ------------------------------------------------------------------------------------------------------

#[test]
fn running_out_of_local_ports_costs_a_datagram_and_is_not_the_backends_fault() {
    let test = "running_out_of_local_ports_costs_a_datagram_and_is_not_the_backends_fault";
    if !is_root() {
        println!("SKIPPED {test}: needs root for a network namespace");
        return;
    }
    if require(test, &["unshare", "ip"]) {
        rerun_inside(&["unshare", "--net"], "inside_with_ten_ports", &[]);
    }
}

#[test]
#[ignore = "runs inside a network namespace of its own, started by the test above"]
fn inside_with_ten_ports() {
    const PORTS: std::ops::Range<u16> = 40_000..40_010;
    run("ip", &["link", "set", "lo", "up"]);
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009").unwrap();
    // No port of ours may come from that range.
    let server = UdpServer::on("127.0.0.1:21000", "a", |datagram, _| vec![[b"a ", datagram].concat()]);
    for source in ["", "source = \"127.0.0.1\"\n"] {
        let file = config("127.0.0.1:21001", "", &[server.entry("")]).replace("workers = 2", "workers = 1");
        let evener = Evener::start(&format!("{file}passive = {{ failures = 1 }}\n{source}"));
        let client = |port: u16| udp_client_from(&format!("127.0.0.1:{port}"), evener.address("dns"));
        let taken: Vec<UdpSocket> = PORTS.map(|port| UdpSocket::bind(("127.0.0.1", port)).unwrap()).collect();
        let first = client(22_000);
        assert!(is_not_answered(&first, b"lost"));
        assert_eq!((dropped(&evener, "port_exhausted"), flows(&evener)), (1, 0));
        evener.wait_for_endings(1, "port_exhausted");
        holds_for(Duration::from_millis(200), "it is not the backend's fault", || evener.state("dns", "a") == "up");
        drop(taken);
        assert_eq!(who_answers(&first), "a");
        // Now flows have all ports: the longest idle one gives its own to a new one.
        let others: Vec<UdpSocket> = (22_001..22_013).map(client).collect();
        assert!(others.iter().all(|client| who_answers(client) == "a"));
        evener.wait_for_endings(3, "shed");
        assert_eq!((flows(&evener), evener.active("dns", "a")), (10, 10));
        assert_eq!(dropped(&evener, "port_exhausted"), 1);
        assert_eq!(evener.state("dns", "a"), "up");
    }
}

// --- A tunnel -----------------------------------------------------------------------------------------------------------------

#[test]
fn a_tunnel_lasts_as_long_as_either_side_speaks() {
    at_the_far_end("a_tunnel_lasts_as_long_as_either_side_speaks", "inside_a_tunnel", 1500, false);
}

/// The server of a tunnel and its client; datagrams are numbered over the whole test.
struct Tunnel {
    server: UdpSocket,
    client: UdpSocket,
    flow: SocketAddr,
    number: usize,
}

impl Tunnel {
    fn client_sends(&mut self, lens: &[usize]) {
        let datagrams: Vec<Vec<u8>> = lens.iter().map(|len| self.next(*len)).collect();
        send_all(&self.client, &datagrams);
        let mut buffer = vec![0; DATAGRAM_MAX];
        for datagram in datagrams {
            let (len, from) = self.server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..len] == datagram, "datagram {} from the client", self.number);
            assert_eq!(from, self.flow, "one port all along");
        }
    }

    fn server_sends(&mut self, lens: &[usize]) {
        let datagrams: Vec<Vec<u8>> = lens.iter().map(|len| self.next(*len)).collect();
        send_all_to(&self.server, &datagrams, self.flow);
        hear_all(&self.client, &datagrams);
    }

    fn next(&mut self, len: usize) -> Vec<u8> {
        self.number += 1;
        content(self.number, len)
    }
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_tunnel() {
    // The lengths of WireGuard: keep-alive 32, handshake 148 and 92, data up to the wire's MTU.
    const KEEPALIVE: &[usize] = &[32];
    const IDLE: &str = "udp = { idle_timeout = \"1s\" }";
    let (server, other) = (bound(PEERS), UdpServer::named("other"));
    let file = config(&any_port(OURS), IDLE, &[entry("a", server.local_addr().unwrap())]);
    let evener = start(&file);
    let client = udp_client_from(&any_port(PEERS), evener.address("dns"));
    client.send(&content(0, 148)).unwrap();
    let (_, flow) = server.recv_from(&mut [0; 200]).unwrap();
    let mut tunnel = Tunnel { server, client, flow, number: 0 };
    tunnel.server_sends(&[92]);
    let pause = || holds_for(Duration::from_millis(250), "the flow is there", || flows(&evener) == 1);
    // Each longer than the idle timeout: one side alone keeps the flow, as both do.
    for _ in 0..5 {
        tunnel.client_sends(KEEPALIVE);
        pause();
    }
    for _ in 0..5 {
        tunnel.server_sends(KEEPALIVE);
        pause();
    }
    let long = |count: usize| (0..count).map(|at| if at % 8 == 7 { 96 } else { 1452 }).collect::<Vec<_>>();
    for round in 0..6 {
        tunnel.client_sends(&long(60));
        tunnel.server_sends(&[1472; 60]);
        tunnel.server_sends(&long(60));
        tunnel.client_sends(&[1472; 40]);
        pause();
        if round % 2 == 0 {
            // Other things change: a limit that holds for new flows, another listener and its pool.
            let changed = config(
                &any_port(OURS),
                &format!("{IDLE}\nper_client = {{ connections = {} }}", 5 + round),
                &[entry("a", tunnel.server.local_addr().unwrap())],
            );
            let more = format!(
                "[listener.other]\nbind = \"{OURS}:0\"\nprotocol = \"udp\"\npool = \"other\"\n\n[pool.other]\nbackends = [{}]\n",
                other.entry(&format!("weight = {}", 100 + round))
            );
            evener.reload(&format!("{changed}\n{more}"));
        }
    }
    let status = evener.status();
    let dns = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "dns").unwrap();
    assert_eq!((&dns["connections"]["active"], &dns["connections"]["accepted"]), (&1.into(), &1.into()), "{dns}");
    assert!(dns["udp"]["dropped"].as_object().unwrap().values().all(|count| *count == 0), "{dns}");
    // Once both are silent it ends.
    evener.wait_for_endings(1, "client_idle");
}

// --- A sender who means harm ----------------------------------------------------------------------------------------------------

/// An IPv4 packet with a UDP datagram (RFC 791, RFC 768) without a checksum; the kernel fills in the packet's own length
/// and checksum (raw(7)).
fn packet(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.ip().octets().iter().chain(&destination.ip().octets()));
    packet.extend(
        [source.port(), destination.port(), 8 + payload.len() as u16, 0].iter().flat_map(|word| word.to_be_bytes()),
    );
    packet.extend(payload);
    packet
}

/// It sends whole packets (IPPROTO_RAW).
fn raw_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap()
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else { panic!("{address} is IPv4") };
    address
}

#[test]
fn a_reply_that_cannot_be_sent_takes_no_other_with_it() {
    at_the_far_end("a_reply_that_cannot_be_sent_takes_no_other_with_it", "inside_with_senders_at_port_0", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_with_senders_at_port_0() {
    let backend = bound(PEERS);
    let evener = start(&config(&any_port(OURS), "", &[entry("a", backend.local_addr().unwrap())]));
    let (address, raw) = (evener.address("dns"), raw_socket());
    let forged = (0..20_u8).map(|host| SocketAddrV4::new([10, 213, 7, 100 + host].into(), 0));
    let clients: Vec<UdpSocket> = (0..20).map(|_| udp_client_from(&any_port(PEERS), address)).collect();
    for (client, forged) in clients.iter().zip(forged) {
        client.send(b"question").unwrap();
        raw.send_to(&packet(forged, v4(address), b"question"), &address.into()).unwrap();
    }
    let flows: Vec<SocketAddr> = (0..40).map(|_| backend.recv_from(&mut [0; 20]).unwrap().1).collect();
    // All replies at once.
    asleep(evener.pid(), || flows.iter().for_each(|flow| send_all_to(&backend, &[b"answer".to_vec()], *flow)));
    assert!(clients.iter().all(|client| hear(client).unwrap() == b"answer"));
    wait_until(SOON, "the others are counted", || dropped(&evener, "send_failed") == 20);
}

#[test]
fn forged_and_broken_datagrams_disturb_nobody() {
    at_the_far_end("forged_and_broken_datagrams_disturb_nobody", "inside_a_flood", 1500, true);
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_flood() {
    const MAX: u64 = 1000;
    const UNTIL_FULL: usize = 6000;
    const ROUNDS: usize = 20;
    // Replies to forged addresses find a way out, and end there.
    ip_at_near(&["route", "add", "198.18.0.0/15", "via", PEERS]);
    let server = UdpServer::on(&any_port(PEERS), "a", |datagram, _| vec![[b"a ", datagram].concat()]);
    let keys = format!(
        "udp = {{ max_flows = {MAX}, idle_timeout = \"2s\" }}\nper_client = {{ connections = 50, rate = \"1000/s\" }}"
    );
    let file = config(&any_port(OURS), &keys, &[server.entry("")]);
    let evener = start(&file.replace("\"debug\"", "\"info\"").replace("\"all\"", "\"close\""));
    let address = evener.address("dns");
    let destination = v4(address);
    let raw = raw_socket();
    let mut rng = fastrand::Rng::with_seed(3);
    let forge = |rng: &mut fastrand::Rng| {
        // Of all ports, and a part of them without one.
        let port = if rng.u8(..) < 8 { 0 } else { rng.u16(..) };
        let source = SocketAddrV4::new(Ipv4Addr::from_bits(0xc612_0000 | rng.u32(..0x2_0000)), port);
        let payload: Vec<u8> = (0..rng.usize(..1400)).map(|_| rng.u8(..)).collect();
        let mut packet = packet(source, destination, &payload);
        match rng.u8(..16) {
            0 => packet[24] = rng.u8(..),                           // a length that is not true
            1 => packet[26..28].copy_from_slice(&[rng.u8(1..), 1]), // a checksum that is wrong
            2 => packet.truncate(rng.usize(20..28)),                // no whole header
            3 => packet[6] = 0x20,                                  // a fragment that nothing follows
            _ => {}
        }
        // A full queue of the sender's is no loss.
        let _ = raw.send_to(&packet, &destination.into());
    };
    let old = udp_client_from(&any_port(PEERS), address);
    assert_eq!((who_answers(&old), who_answers(&old)), ("a".to_owned(), "a".to_owned()));
    (0..UNTIL_FULL).for_each(|_| forge(&mut rng));
    wait_until(SOON, "the table is full", || flows(&evener) == MAX);
    assert_eq!(who_answers_in_the_end(&old), "a");
    let (memory, files) = (memory_of(evener.pid()), open_files(&evener));
    for _ in 0..ROUNDS {
        (0..1000).for_each(|_| forge(&mut rng));
        assert!(flows(&evener) <= MAX);
        assert_eq!(who_answers_in_the_end(&old), "a", "who was there before is answered");
    }
    let grown = memory_of(evener.pid()).saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes more after {memory}");
    assert!(open_files(&evener) < files + 10);
    let opened = listener(&evener)["connections"]["accepted"].as_u64().unwrap();
    assert!(opened > 10 * MAX, "{opened} flows");
    let old_address = old.local_addr().unwrap().to_string();
    assert!(evener.events().iter().all(|event| event["client"] != old_address.as_str()), "its flow has not ended");
    wait_until(SOON, "the flood has passed", || flows(&evener) <= 1);
    assert_eq!(who_answers(&udp_client_from(&any_port(PEERS), address)), "a");
    evener.stop();
}
