//! Tests: real sockets on ports of the kernel's choice.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use super::super::sample;
use super::*;

fn config(binds: &[(&str, Bind)]) -> Config {
    let listener =
        |(name, bind): &(&str, Bind)| Arc::new(Listener { bind: vec![bind.clone()], ..sample::listener(name) });
    Config { listeners: binds.iter().map(listener).collect(), ..sample::config() }
}

fn ip(text: &str) -> Bind {
    Bind::Ip(text.parse().expect("an address"))
}

fn id(name: &str) -> Option<ListenerId> {
    Some(ListenerId(name.len() as u32))
}

/// Binds and keeps; the orders hold the workers' sockets.
fn take(listeners: &mut Listeners, config: &Config) -> Vec<Order> {
    let bound = listeners.bind(config).expect("free addresses");
    listeners.keep(bound, id).expect("duplicates")
}

#[test]
fn each_worker_has_its_own_socket_on_the_same_port() {
    let mut listeners = Listeners::new(3);
    let orders = take(&mut listeners, &config(&[("web", ip("127.0.0.1:0"))]));
    let mut workers: Vec<usize> = orders.iter().map(|(worker, _)| *worker).collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 1, 2]);
    let mut ports: Vec<u16> = orders
        .iter()
        .filter_map(|(_, command)| match command {
            Command::Listen { socket, .. } => local(socket).map(|local| local.port()),
            _ => None,
        })
        .collect();
    ports.dedup();
    assert_eq!(ports.len(), 1);
    assert_eq!(listeners.addresses("web"), [format!("127.0.0.1:{}", ports[0])]);
    TcpStream::connect(("127.0.0.1", ports[0])).expect("it listens");
}

#[test]
fn a_port_that_somebody_listens_on_is_refused_with_who_to_look_for() {
    // Also somebody who would share it: a second process like this one.
    let other = Listeners::new(1).bind(&config(&[("web", ip("127.0.0.1:0"))])).expect("a free port");
    let address = other.0[0].local.expect("bound");
    let bind = Bind::Ip(address);
    let mine = Listeners::new(2);
    let error = mine.bind(&config(&[("web", ip("127.0.0.1:0")), ("pg", bind.clone())])).expect_err("taken");
    let text = error.to_string();
    assert!(text.starts_with(&format!("listener.pg: {address}: ")), "{text}");
    assert!(text.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{text}");
    drop(other);
    mine.bind(&config(&[("pg", bind)])).expect("free again");
}

#[test]
fn connections_that_a_predecessor_left_do_not_keep_its_port() {
    let old = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = old.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("a connection");
    let (served, _) = old.accept().expect("a connection");
    drop(old);
    Listeners::new(1).bind(&config(&[("web", Bind::Ip(address))])).expect("only an established connection is left");
    // Now in TIME_WAIT on the side of the port.
    drop(served);
    drop(client);
    Listeners::new(1).bind(&config(&[("web", Bind::Ip(address))])).expect("only a waiting one is left");
}

#[test]
fn an_address_that_moves_to_another_listener_keeps_its_queue() {
    let mut listeners = Listeners::new(1);
    let _workers = take(&mut listeners, &config(&[("web", ip("127.0.0.1:0"))]));
    let address = listeners.open[0].local.expect("bound");
    let mut fixed = Listeners::new(1);
    let first = config(&[("web", Bind::Ip(address))]);
    drop(listeners);
    drop(_workers);
    let before = take(&mut fixed, &first);
    let waiting = TcpStream::connect(address).expect("in the queue");

    let second = config(&[("other", Bind::Ip(address))]);
    let mut after = take(&mut fixed, &second);
    let unlisten = fixed.release(&second, id);
    assert!(matches!(&unlisten[..], [(0, Command::Unlisten { listener, .. })] if Some(*listener) == id("web")));
    drop(before);
    let Some((0, Command::Listen { listener, socket, .. })) = after.pop() else { panic!("one socket") };
    assert_eq!(Some(listener), id("other"));
    let accepted = TcpListener::from(socket).accept().expect("the client that waited");
    assert_eq!(accepted.1, waiting.local_addr().expect("connected"));
}

#[test]
fn what_the_file_drops_is_let_go_and_the_rest_is_not_bound_again() {
    let mut listeners = Listeners::new(1);
    let both = config(&[("web", ip("127.0.0.1:0")), ("api", ip("[::1]:0"))]);
    let _workers = take(&mut listeners, &both);
    let kept = listeners.addresses("api");
    let one = config(&[("api", ip("[::1]:0"))]);
    assert!(take(&mut listeners, &one).is_empty(), "nothing new to bind");
    assert_eq!(listeners.release(&one, id).len(), 1);
    assert_eq!((listeners.addresses("api"), listeners.addresses("web")), (kept, vec![]));
}

#[test]
fn a_unix_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let config = config(&[("web", Bind::Unix(path.clone()))]);
    drop(UnixListener::bind(&path).expect("a stale one"));
    let mut listeners = Listeners::new(2);
    let orders = take(&mut listeners, &config);
    assert_eq!(orders.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [0], "one socket, at worker 0");
    assert_eq!(path.metadata().expect("a socket").permissions().mode() & 0o777, UNIX_MODE);
    UnixStream::connect(&path).expect("it listens");
    let error = Listeners::new(2).bind(&config).expect_err("it lives").to_string();
    assert!(error.contains("ss -lx"), "{error}");
    UnixStream::connect(&path).expect("and still does");
    listeners.close();
    assert!(!path.exists());
}

#[test]
fn changed_options_reach_the_open_socket() {
    let mut listeners = Listeners::new(1);
    let mut config = config(&[("web", ip("127.0.0.1:0"))]);
    let _workers = take(&mut listeners, &config);
    let alive = |listeners: &Listeners| SockRef::from(&listeners.open[0].sockets[0]).keepalive().expect("a socket");
    assert!(!alive(&listeners));
    Arc::make_mut(&mut config.listeners[0]).keepalive = Some(crate::config::Keepalive {
        idle: std::time::Duration::from_secs(60),
        interval: std::time::Duration::from_secs(10),
        count: std::num::NonZero::new(6).expect("above 0"),
    });
    listeners.configure(&config).expect("accepted");
    assert!(alive(&listeners));
}
