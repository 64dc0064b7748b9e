//! When the host runs out of file descriptors or ports: nothing spins, nothing is lost that was held, and it passes.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::{
    Backend, Evener, NO_CHECKS, SOON, bound_from, config, connect, cpu_time, ending, exchange, holds_for, local, now,
    require_root, rerun_inside, wait_until,
};

/// CPU time per second of the process while nothing should happen.
fn burning(evener: &Evener) -> f64 {
    let (start, before) = (now(), cpu_time(evener.pid()));
    holds_for(Duration::from_millis(1200), "it runs", || true);
    (cpu_time(evener.pid()) - before).as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
fn running_out_of_file_descriptors_neither_spins_nor_kills_and_passes() {
    let backend = Backend::echo();
    let process = "[process]\nworkers = 1\nmax_connections = 1000\n\n";
    let evener = Evener::start(&format!("{process}{}", config("", NO_CHECKS, &[backend.entry("")])));
    let port = evener.port("web");
    // Lowered behind its back, so that no limit computed at the start holds: accept(2) itself fails with EMFILE.
    let open = std::fs::read_dir(format!("/proc/{}/fd", evener.pid())).unwrap().count();
    let lowered = format!("--nofile={0}:{0}", open + 20);
    let done = Command::new("prlimit").args([format!("--pid={}", evener.pid()), lowered]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut clients: Vec<TcpStream> = (0..150).map(|_| connect(port)).collect();
    let burnt = burning(&evener);
    assert!(burnt < 0.2, "{:.0} % of a core while out of file descriptors", burnt * 100.0);
    assert_eq!(exchange(&mut clients[0], b"early").unwrap(), b"early", "who was in is served");
    clients.truncate(1);
    wait_until(SOON, "new clients are served again", || {
        let mut client = connect(port);
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        exchange(&mut client, b"again").is_ok()
    });
    for _ in 0..30 {
        assert_eq!(exchange(&mut connect(port), b"and again").unwrap(), b"and again");
    }
    assert_eq!(exchange(&mut clients[0], b"still").unwrap(), b"still");
}

#[cfg(feature = "gateway")]
#[test]
fn a_reload_for_which_descriptors_are_missing_changes_nothing_and_succeeds_later() {
    let backend = Backend::http("h");
    let workers = "[process]\nworkers = 2\nmax_connections = 100\n\n";
    let pool = format!("[pool.web]\nbackends = [{}]\n{NO_CHECKS}", backend.entry(""));
    let plain = "[listener.plain]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n";
    let web = "[listener.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n";
    let evener = Evener::start(&format!("{workers}{plain}{pool}"));
    let limit = |limit: usize| {
        let words = [format!("--pid={}", evener.pid()), format!("--nofile={limit}:20000")];
        assert!(Command::new("prlimit").args(words).status().unwrap().success());
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", evener.pid())).unwrap().count();
    evener.rewrite(&format!("{workers}{plain}{web}{pool}"));
    // One descriptor more each time: it fails at another step, until nothing is missing.
    for spare in 0.. {
        assert!(spare < 40, "it never succeeds");
        let refused = || evener.log().matches("was not taken over").count();
        let before = refused();
        limit(open + spare);
        evener.signal("HUP");
        wait_until(SOON, "it has tried", || refused() > before || evener.log().contains("was taken over"));
        limit(20_000);
        if evener.log().contains("was taken over") {
            break;
        }
    }
    assert!(!evener.log().contains("does not listen"), "{}", evener.log());
    let port = evener.port("web");
    // Each thread has a socket, to which some of these come.
    assert!((0..50).all(|_| harness::http_get(port, "/").unwrap().0 == 200));
}

#[test]
fn by_default_the_limit_of_connections_fits_the_file_descriptors() {
    let backend = Backend::echo();
    let file = format!("[process]\nworkers = 1\n\n{}", config("", NO_CHECKS, &[backend.entry("")]));
    let evener = Evener::plan(&file).under(&["prlimit", "--nofile=256:256"]).start();
    let port = evener.port("web");
    let clients: Vec<TcpStream> = (0..150).filter_map(|_| harness::try_connect(port).ok()).collect();
    wait_until(SOON, "those beyond the limit are refused", || evener.endings("max_connections") > 0);
    assert_eq!(evener.endings("resource_exhausted"), 0, "the limit holds before the descriptors are gone");
    assert!(evener.active("web", "echo") >= 20, "{}", evener.status());
    drop(clients);
    wait_until(SOON, "all have ended", || evener.active("web", "echo") == 0);
    assert_eq!(exchange(&mut connect(port), b"again").unwrap(), b"again");
}

#[test]
fn running_out_of_local_ports_is_not_the_backends_fault() {
    let test = "running_out_of_local_ports_is_not_the_backends_fault";
    if require_root(test, &["unshare", "ip"]) {
        rerun_inside(&["unshare", "--net"], "inside_with_ten_ports", &[]);
    }
}

#[test]
#[ignore = "runs inside a network namespace of its own, started by the test above"]
fn inside_with_ten_ports() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009").unwrap();
    // No port of ours may come from that range.
    let backend =
        Backend::on("127.0.0.1:21000", "echo", |stream, _| std::io::copy(&mut &*stream, &mut &*stream).map(|_| ()));
    let port = 21001_u16;
    let process = "[process]\nworkers = 1\n\n";
    let file = config("", NO_CHECKS, &[backend.entry("")]).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let evener = Evener::start(&format!("{process}{file}"));
    let client = |number: u16| -> TcpStream {
        let socket = bound_from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 22000 + number));
        socket.connect(&local(port).into()).unwrap();
        harness::patiently(socket.into())
    };
    let mut clients: Vec<TcpStream> = (0..30).map(client).collect();
    evener.wait_for_endings(20, "port_exhausted");
    assert_eq!(evener.active("web", "echo"), 10);
    assert_eq!(evener.state("web", "echo"), "up", "not the backend's fault");
    let burnt = burning(&evener);
    assert!(burnt < 0.2, "{:.0} % of a core while out of ports", burnt * 100.0);
    let served = clients.iter_mut().filter_map(|client| exchange(client, b"held").ok()).count();
    assert_eq!(served, 10, "who has a port keeps it");
    // Reset, so that no TIME_WAIT keeps the ports.
    clients.drain(..).for_each(harness::reset);
    wait_until(SOON, "all have ended", || evener.active("web", "echo") == 0);
    assert_eq!(exchange(&mut client(100), b"again").unwrap(), b"again");
    let mut last = client(101);
    harness::shut_write(&last);
    assert_eq!(ending(&mut last).1, 0);
}
