//! UDP through the binary: datagrams arrive unchanged and replies at whom they belong to, flows are shared out, move
//! away from dead backends, end when they should, and floods change nothing for those who were there before.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use evener::sys::datagram::{DatagramSocket, Inbox, Offload, Outbox};
use harness::datagram::{
    SERVERS, UdpServer, ask, hear, is_not_answered, udp_client, udp_client_from, who_answers, who_answers_in_the_end,
};
use harness::{Evener, SOON, holds_for, wait_until};
use serde_json::Value;

/// One listener `dns` and its pool, without checks unless `pool_keys` has some.
fn config(bind: &str, udp: &str, listener_keys: &str, pool_keys: &str, backends: &[&UdpServer]) -> String {
    let backends: Vec<String> = backends.iter().map(|backend| backend.entry("")).collect();
    config_of(bind, udp, listener_keys, pool_keys, &backends)
}

fn config_of(bind: &str, udp: &str, listener_keys: &str, pool_keys: &str, backends: &[String]) -> String {
    let health = if pool_keys.contains("health") { "" } else { "health = { kind = \"none\" }" };
    format!(
        "[process]\nworkers = 2\nlog = {{ format = \"json\", access = \"all\" }}\n\n\
         [listener.dns]\nbind = \"{bind}\"\nprotocol = \"udp\"\npool = \"dns\"\nudp = {{ {udp} }}\n{listener_keys}\n\n\
         [pool.dns]\nbackends = [{}]\n{health}\n{pool_keys}\n",
        backends.join(", ")
    )
}

const LOOPBACK: &str = "127.0.0.1:0";

/// An address whose port is free for TCP and UDP, and stays so: nobody else of the tests is at this host.
fn quiet_address() -> SocketAddr {
    let find = || {
        let address = UdpSocket::bind("127.0.0.3:0").ok()?.local_addr().ok()?;
        TcpListener::bind(address).ok()?.local_addr().ok()
    };
    std::iter::repeat_with(find).flatten().next().unwrap()
}

fn listener(evener: &Evener) -> Value {
    let status = evener.status();
    status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "dns").unwrap().clone()
}

fn flows(evener: &Evener) -> u64 {
    listener(evener)["connections"]["active"].as_u64().unwrap()
}

fn dropped(evener: &Evener, reason: &str) -> u64 {
    listener(evener)["udp"]["dropped"][reason].as_u64().unwrap_or(0)
}

fn open_files(evener: &Evener) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", evener.pid())).unwrap().count()
}

/// Bytes that tell their place and their datagram.
fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn datagrams_of_every_size_come_back_unchanged_over_both_families() {
    for bind in [LOOPBACK, "[::1]:0"] {
        let server = UdpServer::echo(if bind == LOOPBACK { SERVERS } else { bind });
        let evener = Evener::start(&config(bind, "", "", "", &[&server]));
        let client = udp_client(evener.address("dns"));
        for (seed, len) in [0, 1, 64, 1199, 1200, 1472, 1473, 9000, 65_507 - 20, 65_507].into_iter().enumerate() {
            if bind.starts_with('[') && len > 65_487 {
                continue; // an IPv6 header is longer
            }
            let datagram = content(seed as u8, len);
            assert_eq!(ask(&client, &datagram), datagram, "{len} bytes over {bind}");
        }
        assert_eq!(flows(&evener), 1);
        evener.stop();
    }
}

#[test]
fn each_client_hears_its_own_replies() {
    let echo = |name| UdpServer::on(SERVERS, name, |datagram, _| vec![datagram.to_vec()]);
    let servers = [echo("a"), echo("b")];
    let evener = Evener::start(&config(LOOPBACK, "", "", "", &[&servers[0], &servers[1]]));
    let address = evener.address("dns");
    // All are there until the end: another client may not have the port of one that is gone.
    let clients: Vec<Vec<UdpSocket>> = (0..4).map(|_| (0..100).map(|_| udp_client(address)).collect()).collect();
    std::thread::scope(|scope| {
        for (thread, clients) in clients.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..5 {
                    for (number, client) in clients.iter().enumerate() {
                        client.send(format!("{thread} {number} {round}").as_bytes()).unwrap();
                    }
                    for (number, client) in clients.iter().enumerate() {
                        assert_eq!(hear(client).unwrap(), format!("{thread} {number} {round}").into_bytes());
                    }
                }
            });
        }
    });
    assert_eq!(flows(&evener), 400);
    // To a backend each flow is one sender, all along.
    let senders: Vec<_> = servers.iter().flat_map(|server| server.senders().into_values()).collect();
    assert_eq!((senders.len(), senders.iter().all(|count| *count == 5)), (400, true));
}

#[test]
fn a_flow_stays_with_its_backend_and_others_are_shared_out() {
    let servers = ["a", "b"].map(UdpServer::named);
    let entries = [servers[0].entry("weight = 300"), servers[1].entry("weight = 100")];
    let evener = Evener::start(&config_of(LOOPBACK, "", "", "", &entries));
    let clients: Vec<UdpSocket> = (0..80).map(|_| udp_client(evener.address("dns"))).collect();
    let first: Vec<String> = clients.iter().map(who_answers).collect();
    let second: Vec<String> = clients.iter().map(who_answers).collect();
    assert_eq!(first, second);
    let of_a = first.iter().filter(|name| *name == "a").count();
    assert!((58..=62).contains(&of_a), "three of four go to a: {of_a} of 80");
    assert_eq!(evener.active("dns", "a") as usize, of_a);
    wait_until(SOON, "the log has all of them", || evener.events().len() >= 80);
    let ids: BTreeSet<u64> = evener.events().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 80, "each has an id of its own, whichever worker has it");
}

#[test]
fn ip_hash_keeps_all_flows_of_a_client_together_and_a_higher_tier_waits() {
    let servers = ["a", "b", "c"].map(UdpServer::named);
    let entries = [servers[0].entry(""), servers[1].entry(""), servers[2].entry("tier = 1")];
    let evener = Evener::start(&config_of(LOOPBACK, "", "", "balance = \"ip_hash\"", &entries));
    let mut seen = BTreeSet::new();
    for host in 1..20 {
        let names: BTreeSet<String> = (0..5)
            .map(|_| who_answers(&udp_client_from(&format!("127.0.3.{host}:0"), evener.address("dns"))))
            .collect();
        assert_eq!(names.len(), 1, "one client, one backend");
        seen.extend(names);
    }
    assert_eq!(seen, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_flow_whose_backend_dies_is_given_another_with_its_next_datagram() {
    let mut servers = ["a", "b"].map(UdpServer::named);
    let passive = "passive = { failures = 1, window = \"10s\", eject = \"60s\" }";
    let mut evener = Evener::start(&config(LOOPBACK, "", "", passive, &[&servers[0], &servers[1]]));
    let clients: Vec<UdpSocket> = (0..20).map(|_| udp_client(evener.address("dns"))).collect();
    let of_a: Vec<&UdpSocket> = clients.iter().filter(|client| who_answers(client) == "a").collect();
    assert_eq!(of_a.len(), 10);
    servers[0].kill();
    // The first one's datagram provokes the refusal, and is lost; all others are spared that.
    assert!(is_not_answered(of_a[0], b"who"));
    evener.wait_for_state("dns", "a", "ejected");
    for client in &of_a {
        assert_eq!(who_answers(client), "b");
    }
    assert_eq!(flows(&evener), 20, "they are the same flows");
    assert_eq!((evener.active("dns", "a"), evener.active("dns", "b")), (0, 20));
    evener.end_at_once();
    let opened = evener.events().iter().filter(|event| event["event"] == "open").count();
    assert_eq!((opened, evener.endings("killed")), (20, 20), "each was told once");
}

#[test]
fn of_a_burst_towards_a_dead_backend_all_but_the_first_go_to_another() {
    let mut servers = ["a", "b"].map(UdpServer::named);
    let evener = Evener::start(&config(LOOPBACK, "", "", "passive = false", &[&servers[0], &servers[1]]));
    let clients = [0, 1].map(|_| udp_client(evener.address("dns")));
    let of_a = clients.iter().find(|client| who_answers(client) == "a").unwrap();
    let before = servers[1].count();
    servers[0].kill();
    harness::asleep(evener.pid(), || {
        for len in 1..=40 {
            // No train, which would be refused as a whole: each is longer than the one before.
            of_a.send(&content(0, len)).unwrap();
        }
    });
    wait_until(SOON, "they have come", || servers[1].count() >= before + 38);
}

#[test]
fn without_a_second_backend_a_flow_stays_and_is_served_again() {
    let mut server = UdpServer::named("a");
    let evener = Evener::start(&config(LOOPBACK, "", "", "", &[&server]));
    let client = udp_client(evener.address("dns"));
    assert_eq!(who_answers(&client), "a");
    server.kill();
    for _ in 0..5 {
        assert!(is_not_answered(&client, b"lost"));
    }
    server.revive();
    assert_eq!(who_answers_in_the_end(&client), "a");
    assert!(dropped(&evener, "unreachable") > 0);
}

#[test]
fn on_down_keep_holds_a_flow_and_close_ends_it() {
    for (on_down, reason) in [("keep", None), ("close", Some("backend_down"))] {
        let mut servers = ["a", "b"].map(UdpServer::named);
        let keys = format!(
            "on_down = \"{on_down}\"\nhealth = {{ kind = \"udp\", send = \"check\", expect = \"check\", interval = \"50ms\", \
             fast_interval = \"20ms\", timeout = \"50ms\", fall = 2, rise = 1 }}"
        );
        let evener = Evener::start(&config(LOOPBACK, "", "", &keys, &[&servers[0], &servers[1]]));
        let clients: Vec<UdpSocket> = (0..2).map(|_| udp_client(evener.address("dns"))).collect();
        let of_a = clients.iter().find(|client| who_answers(client) == "a").unwrap();
        servers[0].kill();
        evener.wait_for_state("dns", "a", "down");
        match reason {
            None => {
                assert!(is_not_answered(of_a, b"who"));
                assert_eq!(evener.active("dns", "a"), 1);
                servers[0].revive();
                assert_eq!(who_answers_in_the_end(of_a), "a");
            }
            Some(reason) => {
                evener.wait_for_endings(1, reason);
                assert_eq!(who_answers(of_a), "b");
            }
        }
    }
}

#[test]
fn a_silent_flow_ends_and_the_log_says_what_passed() {
    let server = UdpServer::named("a");
    let evener = Evener::start(&config(LOOPBACK, "idle_timeout = \"200ms\"", "", "", &[&server]));
    let client = udp_client(evener.address("dns"));
    ask(&client, b"12345");
    ask(&client, b"12345");
    evener.wait_for_endings(1, "client_idle");
    let events = evener.events();
    let (open, close) = (&events[0], &events[1]);
    assert_eq!((open["event"].as_str(), open["id"].clone()), (Some("open"), close["id"].clone()));
    assert_eq!(close["client"], client.local_addr().unwrap().to_string());
    assert_eq!((close["datagrams_in"].as_u64(), close["datagrams_out"].as_u64()), (Some(2), Some(2)));
    assert_eq!((close["bytes_in"].as_u64(), close["bytes_out"].as_u64()), (Some(10), Some(14)));
    assert_eq!((close["backend"].as_str(), close["attempts"].as_u64()), (Some("a"), Some(1)));
    assert!(close["duration_ms"].as_f64().unwrap() >= 200.0);
    assert_eq!(flows(&evener), 0);
    assert_eq!(who_answers(&client), "a", "the next datagram opens another flow");
}

#[test]
fn a_flow_ends_with_its_answers_and_its_port_is_used_again() {
    let server = UdpServer::on(SERVERS, "twice", |datagram, _| vec![datagram.to_vec(); 2]);
    let evener = Evener::start(&config(LOOPBACK, "responses = 2", "", "", &[&server]));
    for number in 0..200_u8 {
        let client = udp_client(evener.address("dns"));
        assert_eq!(ask(&client, &[number]), [number]);
        assert_eq!(hear(&client).unwrap(), [number]);
        wait_until(SOON, "the flow has ended", || flows(&evener) == 0);
    }
    evener.wait_for_endings(200, "answered");
    assert!(server.senders().len() <= 4, "one port for each worker, perhaps two: {:?}", server.senders());
}

#[test]
fn a_reply_that_comes_too_late_reaches_nobody_who_has_the_port_now() {
    let server = UdpServer::on(SERVERS, "twice", |datagram, _| vec![datagram.to_vec(), b"late".to_vec()]);
    let file = config(LOOPBACK, "responses = 1", "", "", &[&server]).replace("workers = 2", "workers = 1");
    let (head, pool) = file.split_once("[pool").unwrap();
    let (process, own) = head.split_once("[listener.dns]").unwrap();
    let evener = Evener::start(&format!("{process}[listener.dns]{own}[listener.other]{own}[pool{pool}"));
    let late = |name: &str| {
        let status = evener.status();
        let found = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == name);
        found.unwrap()["udp"]["dropped"]["late"].as_u64().unwrap_or(0)
    };
    for round in 1..4 {
        for name in ["dns", "other"] {
            let client = udp_client(evener.address(name));
            assert_eq!(ask(&client, name.as_bytes()), name.as_bytes());
            wait_until(SOON, "the second reply is dropped", || late(name) == round);
        }
    }
    assert_eq!(server.senders().len(), 1, "both listeners use one port, one after the other");
}

#[test]
fn a_flow_waits_for_the_answers_of_all_its_datagrams() {
    // It answers only when it has heard three, all at once.
    let heard = std::sync::Mutex::new(Vec::new());
    let server = UdpServer::on(SERVERS, "late", move |datagram, _| {
        let mut heard = heard.lock().unwrap();
        heard.push(datagram.to_vec());
        if heard.len() == 3 { std::mem::take(&mut *heard) } else { Vec::new() }
    });
    let evener = Evener::start(&config(LOOPBACK, "responses = 1", "", "", &[&server]));
    let client = udp_client(evener.address("dns"));
    for number in 0..3 {
        client.send(&[number]).unwrap();
    }
    let replies: BTreeSet<Vec<u8>> = (0..3).map(|_| hear(&client).unwrap()).collect();
    assert_eq!(replies, BTreeSet::from([vec![0], vec![1], vec![2]]));
    evener.wait_for_endings(1, "answered");
}

#[test]
fn one_way_gives_each_datagram_to_a_backend_by_itself() {
    let servers = ["a", "b", "c"].map(UdpServer::silent);
    let evener = Evener::start(&config(LOOPBACK, "one_way = true", "", "", &[&servers[0], &servers[1], &servers[2]]));
    let client = udp_client(evener.address("dns"));
    for number in 0..300_u32 {
        client.send(&number.to_be_bytes()).unwrap();
        if number % 50 == 0 {
            wait_until(SOON, "they have come", || {
                servers.iter().map(UdpServer::count).sum::<usize>() > number as usize
            });
        }
    }
    wait_until(SOON, "all have come", || servers.iter().map(UdpServer::count).sum::<usize>() == 300);
    let all: BTreeSet<Vec<u8>> =
        servers.iter().flat_map(|server| server.heard()).map(|(_, datagram)| datagram).collect();
    assert_eq!(all.len(), 300);
    assert!(servers.iter().all(|server| server.count() == 100), "{:?}", servers.each_ref().map(UdpServer::count));
    assert_eq!(flows(&evener), 0);
}

#[test]
fn a_listener_becomes_one_way_and_has_flows_again_by_a_reload() {
    let backend = UdpSocket::bind(SERVERS).unwrap();
    backend.set_read_timeout(Some(SOON)).unwrap();
    let entry = format!("{{ address = \"{}\" }}", backend.local_addr().unwrap());
    let file = |udp: &str| config_of(LOOPBACK, udp, "", "", std::slice::from_ref(&entry));
    let evener = Evener::start(&file(""));
    let client = udp_client(evener.address("dns"));
    let sends = |datagram: &[u8]| {
        client.send(datagram).unwrap();
        let mut buffer = [0; 20];
        let (len, from) = backend.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..len], *datagram);
        from
    };
    let flow = sends(b"question");
    evener.reload(&file("one_way = true"));
    backend.send_to(b"answer", flow).unwrap();
    assert_eq!(hear(&client).unwrap(), b"answer", "it was asked for before");
    let outlet = sends(b"message");
    assert_ne!(outlet, flow);
    assert_eq!(sends(b"another"), outlet);
    backend.send_to(b"nobody asked", outlet).unwrap();
    wait_until(SOON, "it is dropped", || dropped(&evener, "late") == 1);
    evener.reload(&file(""));
    assert_eq!(sends(b"question"), flow, "its flow is still there");
    backend.send_to(b"answer", flow).unwrap();
    assert_eq!(hear(&client).unwrap(), b"answer");
    assert_eq!((flows(&evener), evener.events().len()), (1, 1), "one flow, opened once");
}

#[test]
fn clients_are_kept_out_or_limited() {
    let server = UdpServer::named("a");
    let keys = "allow = [\"127.0.0.0/16\"]\ndeny = [\"127.0.0.66/32\"]\nper_client = { connections = 2 }";
    let evener = Evener::start(&config(LOOPBACK, "idle_timeout = \"300ms\"", keys, "", &[&server]));
    let address = evener.address("dns");
    for outside in ["127.1.0.1:0", "127.0.0.66:0"] {
        assert!(is_not_answered(&udp_client_from(outside, address), b"x"));
    }
    assert_eq!(dropped(&evener, "denied"), 2);
    let two: Vec<UdpSocket> = (0..2).map(|_| udp_client_from("127.0.0.9:0", address)).collect();
    assert!(two.iter().all(|client| who_answers(client) == "a"));
    let third = udp_client_from("127.0.0.9:0", address);
    assert!(is_not_answered(&third, b"x"));
    assert!(dropped(&evener, "limited") > 0);
    assert_eq!(who_answers(&udp_client_from("127.0.0.10:0", address)), "a", "others are not concerned");
    assert_eq!(who_answers_in_the_end(&third), "a", "and later it has its turn");
}

#[test]
fn a_flood_fills_the_table_to_its_bound_and_those_who_were_there_are_answered() {
    let servers = ["a", "b"].map(UdpServer::named);
    let evener =
        Evener::start(&config(LOOPBACK, "max_flows = 500, idle_timeout = \"4s\"", "", "", &[&servers[0], &servers[1]]));
    let address = evener.address("dns");
    let old = udp_client(address);
    let its_backend = who_answers(&old);
    who_answers(&old);
    let files = open_files(&evener);
    for round in 0..10_u8 {
        for host in 1..=250_u8 {
            // Open together, so that each has a port of its own.
            let forged = [0; 4].map(|port| UdpSocket::bind((Ipv4Addr::new(127, 9, round, host), port)).unwrap());
            for forged in &forged {
                forged.send_to(b"flood", address).unwrap();
            }
        }
        assert!(flows(&evener) <= 500);
        assert_eq!(who_answers(&old), its_backend, "the old flow is served all along");
    }
    assert!(open_files(&evener) <= files + 500);
    evener.wait_for_endings(1000, "shed");
    let old_address = old.local_addr().unwrap().to_string();
    assert!(evener.events().iter().all(|event| event["event"] != "close" || event["client"] != old_address.as_str()));
    wait_until(SOON, "the flood has passed", || flows(&evener) <= 1);
    assert!(["a", "b"].contains(&who_answers(&udp_client(address)).as_str()), "newcomers are served again");
    wait_until(SOON, "its descriptors are back", || open_files(&evener) <= files + 2);
}

#[test]
fn a_full_table_sheds_nobody_while_nobody_comes() {
    let server = UdpServer::named("a");
    // One of the two workers has more than half of them.
    let evener = Evener::start(&config(LOOPBACK, "max_flows = 11", "", "", &[&server]));
    let clients: Vec<UdpSocket> = (0..11).map(|_| udp_client(evener.address("dns"))).collect();
    for _ in 0..3 {
        clients.iter().for_each(|client| assert_eq!(who_answers(client), "a"));
    }
    assert_eq!((flows(&evener), server.senders().len()), (11, 11));
}

#[test]
fn a_smaller_bound_costs_the_longest_idle_flows_and_those_in_use_no_datagram() {
    // It answers clients, and nobody whose address is made up.
    let server = UdpServer::on(SERVERS, "a", |datagram, _| match datagram {
        b"who" => vec![b"a who".to_vec()],
        _ => Vec::new(),
    });
    let file = |max: usize| config(LOOPBACK, &format!("max_flows = {max}"), "", "", &[&server]);
    let evener = Evener::start(&file(1000));
    let address = evener.address("dns");
    let ask_all = |clients: &[UdpSocket]| clients.iter().for_each(|client| assert_eq!(who_answers(client), "a"));
    let in_use: Vec<UdpSocket> = (0..20).map(|_| udp_client(address)).collect();
    (0..2).for_each(|_| ask_all(&in_use));
    let mut expected = 20;
    for (net, count) in [(10, 300), (11, 400)] {
        for port in 20_000..20_000 + count {
            UdpSocket::bind((Ipv4Addr::new(127, net, 0, 1), port)).unwrap().send_to(b"forged", address).unwrap();
        }
        expected += u64::from(count);
        wait_until(SOON, "all have a flow", || flows(&evener) == expected);
    }
    evener.reload(&file(60));
    wait_until(SOON, "there are no more than there may be", || {
        ask_all(&in_use);
        flows(&evener) <= 60
    });
    evener.wait_for_endings(660, "shed");
    ask_all(&in_use);
    // Both workers may end their last one too much at the same moment.
    let left = flows(&evener) as usize;
    assert!((59..=60).contains(&left), "{left}: no more of them than had to");
    evener.wait_for_endings(720 - left, "shed");
    let shed = evener.events().into_iter().filter(|event| event["reason"] == "shed");
    let shed: Vec<String> = shed.map(|event| event["client"].as_str().unwrap().to_owned()).collect();
    let of_net = |net: &str| shed.iter().filter(|client| client.starts_with(net)).count();
    let expected = (300, 420 - left);
    assert_eq!((of_net("127.10."), of_net("127.11.")), expected, "the longest idle ones first, and none in use");
    // From here on it is a full table like any other.
    ask_all(&[udp_client(address), udp_client(address)]);
    assert_eq!((flows(&evener), dropped(&evener, "table_full")), (60, 0));
}

#[test]
fn without_a_descriptor_left_the_longest_idle_flow_gives_its_own_up() {
    let server = UdpServer::named("a");
    let evener = Evener::plan(&config(LOOPBACK, "", "", "", &[&server])).under(&["prlimit", "--nofile=60"]).start();
    let clients: Vec<UdpSocket> = (0..150).map(|_| udp_client(evener.address("dns"))).collect();
    for _ in 0..2 {
        for client in &clients {
            assert_eq!(who_answers_in_the_end(client), "a");
        }
    }
    wait_until(SOON, "that is in the log", || evener.endings("shed") > 50);
    assert_eq!(evener.status()["listeners"][0]["state"], "listening");
}

#[test]
fn a_reload_that_leaves_the_listener_alone_keeps_its_flows() {
    let servers = ["a", "b"].map(UdpServer::named);
    let file = |keys: &str, with_b: bool| {
        let all = [&servers[0], &servers[1]];
        config(LOOPBACK, "", keys, "", if with_b { &all } else { &all[..1] })
    };
    let evener = Evener::start(&file("", true));
    let clients: Vec<UdpSocket> = (0..30).map(|_| udp_client(evener.address("dns"))).collect();
    clients.iter().for_each(|client| drop(who_answers(client)));
    let senders = servers[0].senders().len() + servers[1].senders().len();
    evener.reload(&file("deny = [\"192.0.2.0/24\"]", true));
    clients.iter().for_each(|client| drop(who_answers(client)));
    assert_eq!(servers[0].senders().len() + servers[1].senders().len(), senders, "nobody had to begin anew");
    assert_eq!((flows(&evener), evener.endings("drained")), (30, 0));
    // A backend that is taken out drains; its flows go on elsewhere at the latest when that is over.
    let drain = "[process.drain]\ndeadline = \"200ms\"\nspread = \"100ms\"\n";
    evener.reload(&format!("{}\n{drain}", file("", false)));
    evener.wait_for_endings(15, "drained");
    assert!(clients.iter().all(|client| who_answers(client) == "a"));
}

#[test]
fn a_listener_that_goes_ends_its_flows_and_one_that_comes_takes_its_address_over() {
    let server = UdpServer::named("a");
    let bind = quiet_address();
    let file = config(&bind.to_string(), "", "", "", &[&server]);
    let evener = Evener::start(&file);
    let client = udp_client(evener.address("dns"));
    assert_eq!(who_answers(&client), "a");
    evener.reload(&file.replace("[listener.dns]", "[listener.renamed]"));
    evener.wait_for_endings(1, "drained");
    assert_eq!(who_answers(&client), "a");
    assert_eq!(evener.address("renamed"), bind);
}

#[test]
fn tcp_and_udp_share_a_port() {
    let server = UdpServer::named("a");
    let tcp = harness::Backend::named("tcp");
    let bind = quiet_address();
    let evener = Evener::start(&format!(
        "{}\n[listener.tcp]\nbind = \"{bind}\"\npool = \"tcp\"\n[pool.tcp]\nbackends = [{}]\n",
        config(&bind.to_string(), "", "", "", &[&server]),
        tcp.entry("")
    ));
    assert_eq!(who_answers(&udp_client(evener.address("dns"))), "a");
    let mut name = String::new();
    BufReader::new(TcpStream::connect(bind).unwrap()).read_line(&mut name).unwrap();
    assert_eq!(name.trim(), "tcp");
}

/// PROXY v2 for UDP over IPv4 (proxy-protocol.txt, 2.2).
fn proxy_header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else { panic!("IPv4") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c".to_vec();
    header.extend(source.ip().octets().iter().chain(&destination.ip().octets()));
    header.extend(source.port().to_be_bytes().iter().chain(&destination.port().to_be_bytes()));
    header
}

#[test]
fn a_proxy_header_stands_before_each_datagram_or_before_the_first() {
    for (kind, first_only) in [("v2", false), ("v2_first", true)] {
        let server = UdpServer::on(SERVERS, "b", |_, _| vec![b"ok".to_vec()]);
        let keys = format!("send_proxy = \"{kind}\"");
        let evener = Evener::start(&config(LOOPBACK, "", "", &keys, &[&server]));
        let address = evener.address("dns");
        let client = udp_client(address);
        let header = proxy_header(client.local_addr().unwrap(), address);
        for datagram in [&b"one"[..], b"two", b""] {
            assert_eq!(ask(&client, datagram), b"ok");
        }
        let rest = if first_only { &[][..] } else { &header };
        let expected = [[&header, &b"one"[..]].concat(), [rest, b"two"].concat(), rest.to_vec()];
        let heard: Vec<Vec<u8>> = server.heard().into_iter().map(|(_, datagram)| datagram).collect();
        assert_eq!(heard, expected, "{kind}");
        if !first_only {
            assert!(is_not_answered(&client, &content(1, 65_507)), "with its header it is too long");
            assert_eq!(dropped(&evener, "too_long"), 1);
        }
    }
}

#[test]
fn one_way_each_datagram_has_a_header_also_where_only_the_first_of_a_flow_has_one() {
    let server = UdpServer::silent("a");
    let evener = Evener::start(&config(LOOPBACK, "one_way = true", "", "send_proxy = \"v2_first\"", &[&server]));
    let client = udp_client(evener.address("dns"));
    let expected = [proxy_header(client.local_addr().unwrap(), evener.address("dns")), b"x".to_vec()].concat();
    (0..3).for_each(|_| {
        client.send(b"x").unwrap();
    });
    wait_until(SOON, "all have come", || server.count() == 3);
    assert!(server.heard().iter().all(|(_, datagram)| *datagram == expected));
}

#[test]
fn a_flow_that_has_the_port_of_another_begins_with_a_header_of_its_own() {
    let server = UdpServer::echo(SERVERS);
    let evener = Evener::start(&config(LOOPBACK, "responses = 1", "", "send_proxy = \"v2_first\"", &[&server]));
    let address = evener.address("dns");
    for _ in 0..10 {
        let client = udp_client(address);
        let header = proxy_header(client.local_addr().unwrap(), address);
        assert_eq!(ask(&client, b"x"), [&header, &b"x"[..]].concat());
        wait_until(SOON, "the flow has ended", || flows(&evener) == 0);
    }
    assert!(server.senders().len() < 10);
}

#[test]
fn a_socket_without_a_flow_is_kept_while_it_is_used_and_closed_soon_after() {
    let observe = |udp: &str| {
        let servers = ["a", "b", "c"].map(UdpServer::named);
        let evener = Evener::start(&config(LOOPBACK, udp, "", "", &servers.each_ref()));
        let (client, files) = (udp_client(evener.address("dns")), open_files(&evener));
        holds_for(Duration::from_secs(6), "there is one for each backend", || {
            client.send(b"x").unwrap();
            servers.iter().all(|server| server.senders().len() <= 1)
        });
        wait_until(SOON * 2, "they are closed", || open_files(&evener) <= files);
    };
    std::thread::scope(|scope| {
        ["one_way = true", "responses = 1"].iter().for_each(|udp| drop(scope.spawn(move || observe(udp))));
    });
}

#[test]
fn a_listener_that_goes_takes_its_sockets_along() {
    let servers = ["a", "b", "c"].map(UdpServer::silent);
    let bind = quiet_address();
    let file = config(&bind.to_string(), "one_way = true", "", "", &servers.each_ref());
    let evener = Evener::start(&file);
    let (client, files) = (udp_client(bind), open_files(&evener));
    (0..3).for_each(|_| {
        client.send(b"x").unwrap();
    });
    wait_until(SOON, "all have come", || servers.iter().all(|server| server.count() == 1));
    evener.reload(&file.replace("[listener.dns]", "[listener.renamed]"));
    wait_until(SOON, "its sockets are closed", || open_files(&evener) <= files);
}

#[test]
fn what_is_more_than_one_turn_takes_is_taken_in_the_next_ones() {
    // As long as the socket does not say so again: nothing else comes.
    let backend = UdpSocket::bind(SERVERS).unwrap();
    let entry = format!("{{ address = \"{}\" }}", backend.local_addr().unwrap());
    let evener = Evener::start(&config_of(LOOPBACK, "", "", "", &[entry]));
    let client = udp_client(evener.address("dns"));
    socket2::SockRef::from(&client).set_recv_buffer_size(1 << 20).unwrap();
    harness::asleep(evener.pid(), || {
        (0..540).for_each(|_| {
            client.send(b"x").unwrap();
        })
    });
    wait_until(SOON, "all have come", || listener(&evener)["udp"]["datagrams_in"] == 540);
    let (_, flow) = backend.recv_from(&mut [0]).unwrap();
    // The first ones show that a stream comes, for which a socket has a larger buffer.
    for count in [20, 400_usize] {
        harness::asleep(evener.pid(), || {
            (0..count).for_each(|number| {
                backend.send_to(&content(0, number % 7), flow).unwrap();
            });
        });
        for number in 0..count {
            assert_eq!(hear(&client).unwrap(), content(0, number % 7), "{number} of {count}");
        }
    }
}

#[test]
fn what_a_full_buffer_costs_is_counted_once() {
    const COUNT: u64 = 40_000;
    let server = UdpServer::silent("a");
    let evener = Evener::start(&config(LOOPBACK, "", "", "", &[&server]));
    let client = udp_client(evener.address("dns"));
    harness::asleep(evener.pid(), || {
        (0..COUNT).for_each(|_| {
            client.send(b"x").unwrap();
        })
    });
    let known = || listener(&evener)["udp"]["datagrams_in"].as_u64().unwrap() + dropped(&evener, "receive_buffer_full");
    let mut sent = COUNT;
    wait_until(SOON, "all are counted", || {
        // What is lost is told with the next one.
        client.send(b"x").unwrap();
        sent += 1;
        known() >= COUNT
    });
    assert!(dropped(&evener, "receive_buffer_full") > 0);
    holds_for(Duration::from_millis(200), "none is counted twice", || known() <= sent);
}

#[test]
fn a_connection_that_waits_has_the_place_of_a_flow_that_ends() {
    let tcp = harness::Backend::on(SERVERS, "both", |mut stream, _| stream.write_all(b"served\n"));
    let server = UdpServer::on(&tcp.address().to_string(), "both", |_, _| Vec::new());
    let entries = [server.entry("max_connections = 1")];
    let file = config_of(LOOPBACK, "idle_timeout = \"300ms\"", "", "queue = { max = 1, timeout = \"60s\" }", &entries);
    let evener = Evener::start(&format!("{file}\n[listener.tcp]\nbind = \"{LOOPBACK}\"\npool = \"dns\"\n"));
    udp_client(evener.address("dns")).send(b"x").unwrap();
    wait_until(SOON, "the flow has the place", || server.count() == 1);
    let mut line = String::new();
    let stream = harness::patiently(TcpStream::connect(evener.address("tcp")).unwrap());
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert_eq!(line, "served\n");
    // Its worker counts the end of the flow after it has given the place back.
    wait_until(SOON, "the flow has ended in silence", || evener.endings("client_idle") == 1);
}

#[test]
fn backends_see_the_source_that_the_pool_names() {
    // Also those whose socket was opened before a reload: the one of all datagrams, and the one of a flow that has ended.
    for udp in ["", "one_way = true", "responses = 1"] {
        let server = UdpServer::named("a");
        let file = |source: &str| config(LOOPBACK, udp, "", &format!("source = \"{source}\""), &[&server]);
        let evener = Evener::start(&file("127.0.0.77"));
        let client = udp_client(evener.address("dns"));
        let sources = ["127.0.0.77", "127.0.0.78"];
        for (number, source) in sources.iter().enumerate() {
            evener.reload(&file(source));
            client.send(b"x").unwrap();
            wait_until(SOON, "it has come", || server.count() > number);
            wait_until(SOON, "the flow has ended", || udp.is_empty() || flows(&evener) == 0);
        }
        let heard: Vec<String> = server.heard().iter().map(|(from, _)| from.ip().to_string()).collect();
        // A flow keeps what it has.
        assert_eq!(heard, if udp.is_empty() { [sources[0]; 2] } else { sources });
    }
}

#[test]
fn a_reply_leaves_from_the_address_that_the_client_spoke_to() {
    for (any, spoken_to) in [("0.0.0.0:0", ["127.0.0.5", "127.0.0.6"]), ("[::]:0", ["::1", "::1"])] {
        let server = UdpServer::echo(SERVERS);
        let evener = Evener::start(&config(any, "", "", "", &[&server]));
        let port = evener.address("dns").port();
        let source = if any.starts_with('[') { "[::1]:0" } else { "127.0.0.9:0" };
        let client = UdpSocket::bind(source).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        for address in spoken_to {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            client.send_to(b"x", address).unwrap();
            let (_, from) = client.recv_from(&mut [0; 10]).unwrap();
            assert_eq!(from, address);
        }
        let different: BTreeSet<_> = spoken_to.into_iter().collect();
        assert_eq!(flows(&evener), different.len() as u64, "what was spoken to is part of the flow");
        wait_until(SOON, "the log has them", || evener.events().len() >= different.len());
        let local = |at: usize| evener.events()[at]["local"].as_str().unwrap().parse::<SocketAddr>().unwrap();
        assert_eq!(local(0), SocketAddr::new(spoken_to[0].parse().unwrap(), port));
    }
}

#[test]
fn the_end_of_the_process_waits_for_flows_that_are_in_use() {
    let server = UdpServer::named("a");
    let mut evener = Evener::start(&config(LOOPBACK, "", "", "", &[&server]));
    let address = evener.address("dns");
    let (busy, quiet) = (udp_client(address), udp_client(address));
    assert_eq!((who_answers(&busy), who_answers(&quiet)), ("a".to_owned(), "a".to_owned()));
    evener.signal("TERM");
    holds_for(Duration::from_millis(2500), "a flow in use is served", || who_answers(&busy) == "a");
    evener.wait_for_endings(1, "drained");
    assert!(is_not_answered(&udp_client(address), b"new"), "new flows are not opened");
    assert!(evener.runs());
    // Once it is quiet too, the process ends long before its deadline.
    assert!(evener.wait(SOON).success());
}

#[test]
fn clients_and_backends_that_vanish_do_not_disturb_others() {
    let mut servers = ["a", "b"].map(UdpServer::named);
    let evener = Evener::start(&config(LOOPBACK, "", "", "passive = false", &[&servers[0], &servers[1]]));
    let address = evener.address("dns");
    let steady = udp_client(address);
    let name = who_answers(&steady);
    // Clients that are gone when the reply comes: the host says so, to nobody who minds.
    for _ in 0..200 {
        udp_client(address).send(b"gone").unwrap();
    }
    let other = usize::from(name == "a");
    servers[other].kill();
    for _ in 0..200 {
        udp_client(address).send(b"refused").unwrap();
    }
    for _ in 0..20 {
        assert_eq!(who_answers(&steady), name);
    }
    assert_eq!(evener.status()["listeners"][0]["state"], "listening");
}

#[test]
fn trains_of_datagrams_arrive_as_the_same_datagrams() {
    let server = UdpServer::echo(SERVERS);
    let evener = Evener::start(&config(LOOPBACK, "", "", "", &[&server]));
    let offload = Offload::probe();
    let client = DatagramSocket::connect(evener.address("dns"), None).unwrap();
    client.widen(1 << 20, offload).unwrap();
    let mut inbox = Inbox::new();
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for (round, (segment, last, count)) in
        [(1200, 1200, 32), (1200, 7, 20), (64, 64, 64), (1, 1, 2)].into_iter().enumerate()
    {
        let datagrams: Vec<Vec<u8>> = (0..count)
            .map(|at| content((round * 64 + at) as u8, if at + 1 == count { last } else { segment }))
            .collect();
        let train = datagrams.concat();
        inbox.slot_mut(0)[..train.len()].copy_from_slice(&train);
        let mut outbox = Outbox::default();
        outbox.begin(0, None, None);
        outbox.add(0, 0, train.len());
        outbox.set_segment(segment);
        outbox.send(0, &client, &inbox).unwrap();
        sent.extend(datagrams);
        let mut came: Vec<Vec<u8>> = Vec::new();
        wait_until(SOON, "all replies are there", || {
            for slot in 0..inbox.receive(&client, 0, 64).unwrap_or(0) {
                let segment = inbox.received(slot).segment.max(1) as usize;
                came.extend(inbox.bytes(slot).chunks(segment).map(<[u8]>::to_vec));
            }
            came.len() >= count
        });
        assert_eq!(came, sent[sent.len() - count..], "round {round}");
    }
    let heard: Vec<Vec<u8>> = server.heard().into_iter().map(|(_, datagram)| datagram).collect();
    assert_eq!(heard, sent);
}

#[test]
fn a_backend_may_speak_when_nobody_asked_and_a_long_flow_keeps_its_place() {
    // As a tunnel does: keep-alives from both sides, bursts now and then, and one address all along.
    let server = UdpServer::on(SERVERS, "tunnel", |datagram, _| match datagram {
        b"burst" => (0..50_u8).map(|number| content(number, 1420)).collect(),
        _ => Vec::new(),
    });
    let evener = Evener::start(&config(LOOPBACK, "idle_timeout = \"400ms\"", "", "", &[&server]));
    let client = udp_client(evener.address("dns"));
    for _ in 0..8 {
        client.send(b"keepalive").unwrap();
        holds_for(Duration::from_millis(150), "the flow is there", || flows(&evener) <= 1);
        client.send(b"burst").unwrap();
        for number in 0..50 {
            assert_eq!(hear(&client).unwrap(), content(number, 1420));
        }
    }
    assert_eq!((flows(&evener), server.senders().len()), (1, 1));
}

#[test]
fn a_backend_holds_no_more_flows_than_it_may() {
    let servers = ["a", "b"].map(UdpServer::named);
    let entries = [servers[0].entry("max_connections = 3"), servers[1].entry("max_connections = 2")];
    let evener = Evener::start(&config_of(LOOPBACK, "", "", "", &entries));
    let clients: Vec<UdpSocket> = (0..5).map(|_| udp_client(evener.address("dns"))).collect();
    let names: Vec<String> = clients.iter().map(who_answers).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    assert_eq!(counts, BTreeMap::from([("a", 3), ("b", 2)]));
    assert!(is_not_answered(&udp_client(evener.address("dns")), b"x"));
    assert_eq!(dropped(&evener, "backends_full"), 1);
}

#[test]
fn a_client_may_open_so_many_flows_a_second() {
    let server = UdpServer::named("a");
    let evener = Evener::start(&config(LOOPBACK, "", "per_client = { rate = \"5/h\" }", "", &[&server]));
    let address = evener.address("dns");
    let clients: Vec<UdpSocket> = (0..5).map(|_| udp_client(address)).collect();
    assert!(clients.iter().all(|client| who_answers(client) == "a"));
    assert!(is_not_answered(&udp_client(address), b"x"));
    assert_eq!(dropped(&evener, "limited"), 1);
    assert!(clients.iter().all(|client| who_answers(client) == "a"), "the flows that are there go on");
}

#[test]
fn a_broadcast_is_carried_once_however_many_workers_there_are() {
    let server = UdpServer::silent("a");
    for udp in ["one_way = true", "responses = 1"] {
        let evener = Evener::start(&config("0.0.0.0:0", udp, "", "", &[&server]));
        let before = server.count();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_broadcast(true).unwrap();
        for _ in 0..5 {
            client.send_to(b"all", ("127.255.255.255", evener.address("dns").port())).unwrap();
        }
        wait_until(SOON, "they have come", || server.count() >= before + 5);
        holds_for(Duration::from_millis(100), "there are no copies", || server.count() == before + 5);
    }
}

#[test]
fn flows_and_datagrams_are_in_the_metrics_and_in_the_table_for_people() {
    let server = UdpServer::named("a");
    let port = harness::free_port();
    let keys = "deny = [\"127.0.0.66/32\"]";
    let file = config(LOOPBACK, "idle_timeout = \"2s\"", keys, "", &[&server]);
    let evener = Evener::start(&file.replace("workers = 2", &format!("workers = 2\nmetrics = \"127.0.0.1:{port}\"")));
    let address = evener.address("dns");
    let client = udp_client(address);
    (0..3).for_each(|_| drop(who_answers(&client)));
    assert!(is_not_answered(&udp_client_from("127.0.0.66:0", address), b"x"));
    let has = |series: &str| {
        let (_, text) = harness::http_get(port, "/metrics").unwrap();
        text.lines().any(|line| line == series)
    };
    for series in [
        "evener_udp_flows_active{listener=\"dns\"} 1",
        "evener_udp_flows_opened_total{listener=\"dns\"} 1",
        "evener_udp_datagrams_total{listener=\"dns\",direction=\"in\"} 4",
        "evener_udp_datagrams_total{listener=\"dns\",direction=\"out\"} 3",
        "evener_udp_dropped_total{listener=\"dns\",reason=\"denied\"} 1",
        "evener_listener_bytes_total{listener=\"dns\",direction=\"in\"} 9",
        "evener_backend_connections_active{pool=\"dns\",backend=\"a\"} 1",
    ] {
        assert!(has(series), "{series} in\n{}", harness::http_get(port, "/metrics").unwrap().1);
    }
    let table = evener.cli_ok(&["status"]);
    assert!(table.contains(&format!("udp {address}")) && table.contains("denied"), "{table}");
    wait_until(SOON, "its end is counted", || {
        has("evener_udp_flows_closed_total{listener=\"dns\",reason=\"client_idle\"} 1")
    });
    assert!(has("evener_udp_flow_duration_seconds_count{listener=\"dns\"} 1"));
}
