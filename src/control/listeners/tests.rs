//! Tests: real sockets on ports of the kernel's choice.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use super::*;
use crate::config::{Bind, sample};

fn config(binds: &[(&str, Bind)]) -> Config {
    mixed(&binds.iter().map(|(name, bind)| (sample::listener(name), bind.clone())).collect::<Vec<_>>())
}

fn datagrams(binds: &[(&str, Bind)]) -> Config {
    mixed(&binds.iter().map(|(name, bind)| (sample::udp_listener(name), bind.clone())).collect::<Vec<_>>())
}

fn mixed(listeners: &[(Listener, Bind)]) -> Config {
    let listener = |(listener, bind): &(Listener, Bind)| Listener { bind: vec![bind.clone()], ..listener.clone() };
    Config { listeners: listeners.iter().map(listener).map(Arc::new).collect(), ..sample::config() }
}

fn new(workers: usize) -> Listeners {
    Listeners::new(workers, Offload::probe())
}

/// What the workers are given, in their order.
fn sockets(orders: Vec<Order>) -> Vec<OwnedFd> {
    let socket = |(_, command)| match command {
        Command::Listen { socket, .. } => Some(socket),
        _ => None,
    };
    orders.into_iter().filter_map(socket).collect()
}

fn ip(text: &str) -> Bind {
    Bind::Ip(text.parse().expect("an address"))
}

fn id(name: &str) -> Option<ListenerId> {
    Some(ListenerId(name.len() as u32))
}

/// Binds and keeps; the orders hold the workers' sockets.
fn take(listeners: &mut Listeners, config: &Config) -> Vec<Order> {
    let bound = listeners.bind(config, &mut Inherited::default()).expect("free addresses");
    listeners.keep(bound, id).expect("duplicates")
}

#[test]
fn each_worker_has_its_own_socket_on_the_same_port() {
    let mut listeners = new(3);
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
    let other = new(1).bind(&config(&[("web", ip("127.0.0.1:0"))]), &mut Inherited::default()).expect("a free port");
    let address = other.0[0].local.expect("bound");
    let bind = Bind::Ip(address);
    let mut mine = new(2);
    let error = mine
        .bind(&config(&[("web", ip("127.0.0.1:0")), ("pg", bind.clone())]), &mut Inherited::default())
        .expect_err("taken");
    let text = error.to_string();
    assert!(text.starts_with(&format!("listener.pg: {address}: ")), "{text}");
    assert!(text.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{text}");
    drop(other);
    mine.bind(&config(&[("pg", bind)]), &mut Inherited::default()).expect("free again");
}

#[test]
fn connections_that_a_predecessor_left_do_not_keep_its_port() {
    let old = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = old.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("a connection");
    let (served, _) = old.accept().expect("a connection");
    drop(old);
    new(1)
        .bind(&config(&[("web", Bind::Ip(address))]), &mut Inherited::default())
        .expect("only an established connection is left");
    // Now in TIME_WAIT on the side of the port.
    drop(served);
    drop(client);
    new(1).bind(&config(&[("web", Bind::Ip(address))]), &mut Inherited::default()).expect("only a waiting one is left");
}

#[test]
fn an_address_that_moves_to_another_listener_keeps_its_queue() {
    let mut listeners = new(1);
    let _workers = take(&mut listeners, &config(&[("web", ip("127.0.0.1:0"))]));
    let address = listeners.open[0].local.expect("bound");
    let mut fixed = new(1);
    let first = config(&[("web", Bind::Ip(address))]);
    drop(listeners);
    drop(_workers);
    let before = take(&mut fixed, &first);
    let waiting = TcpStream::connect(address).expect("in the queue");

    let second = config(&[("other", Bind::Ip(address))]);
    let mut after = take(&mut fixed, &second);
    let (unlisten, _) = fixed.release(&second, id);
    assert!(matches!(&unlisten[..], [(0, Command::Unlisten { listener, .. })] if Some(*listener) == id("web")));
    drop(before);
    let Some((0, Command::Listen { listener, socket, .. })) = after.pop() else { panic!("one socket") };
    assert_eq!(Some(listener), id("other"));
    let accepted = TcpListener::from(socket).accept().expect("the client that waited");
    assert_eq!(accepted.1, waiting.local_addr().expect("connected"));
}

#[test]
fn what_the_file_drops_is_let_go_and_the_rest_is_not_bound_again() {
    let mut listeners = new(1);
    let both = config(&[("web", ip("127.0.0.1:0")), ("api", ip("[::1]:0"))]);
    let _workers = take(&mut listeners, &both);
    let kept = listeners.addresses("api");
    let one = config(&[("api", ip("[::1]:0"))]);
    assert!(take(&mut listeners, &one).is_empty(), "nothing new to bind");
    assert_eq!(listeners.release(&one, id).0.len(), 1);
    assert_eq!((listeners.addresses("api"), listeners.addresses("web")), (kept, vec![]));
}

#[test]
fn a_unix_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let config = config(&[("web", Bind::Unix(path.clone()))]);
    drop(UnixListener::bind(&path).expect("a stale one"));
    let mut listeners = new(2);
    let orders = take(&mut listeners, &config);
    assert_eq!(orders.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [0], "one socket, at worker 0");
    assert_eq!(path.metadata().expect("a socket").permissions().mode() & 0o777, UNIX_MODE);
    UnixStream::connect(&path).expect("it listens");
    let error = new(2).bind(&config, &mut Inherited::default()).expect_err("it lives").to_string();
    assert!(error.contains("ss -lx"), "{error}");
    UnixStream::connect(&path).expect("and still does");
    listeners.close();
    assert!(!path.exists());
}

#[test]
fn changed_options_reach_the_open_socket() {
    let mut listeners = new(1);
    let mut config = config(&[("web", ip("127.0.0.1:0"))]);
    let _workers = take(&mut listeners, &config);
    let alive = |listeners: &Listeners| SockRef::from(&listeners.open[0].sockets[0]).keepalive().expect("a socket");
    assert!(alive(&listeners));
    let keepalive = config.listeners[0].keepalive;
    for (keepalive, is_alive) in [(None, false), (keepalive, true)] {
        Arc::make_mut(&mut config.listeners[0]).keepalive = keepalive;
        listeners.configure(&config).expect("accepted");
        assert_eq!(alive(&listeners), is_alive);
    }
}

#[test]
#[cfg(feature = "gateway")]
fn what_a_client_sends_and_is_sent_may_stay_unacknowledged_as_long_as_the_slowest_of_its_pools_allows() {
    let file = |second: &str| {
        let routes = "[[route]]\nname = \"a\"\nlistener = \"web\"\npool = \"a\"\nmatch = { path = \"/a\" }\n\
                      [[route]]\nname = \"b\"\nlistener = \"web\"\npool = \"b\"\n";
        let pool = |name: &str, time: &str| {
            format!("[pool.{name}]\nbackends = [\"127.0.0.1:1\"]\nconnect = {{ user_timeout = \"{time}\" }}\n")
        };
        let listener = "[listener.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n";
        let text = [listener, routes, &pool("a", "3s"), &pool("b", second)].concat();
        crate::config::parse("test", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
    };
    for (second, seconds) in [("7s", Some(7)), ("0s", None)] {
        let mut listeners = new(1);
        let _workers = take(&mut listeners, &file(second));
        let timeout = SockRef::from(&listeners.open[0].sockets[0]).tcp_user_timeout().expect("a socket");
        assert_eq!(timeout, seconds.map(std::time::Duration::from_secs), "the other one has {second}");
    }
}

/// The length of a datagram that comes to one of these soon.
fn receive(sockets: Vec<OwnedFd>) -> Option<usize> {
    let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
    for socket in &sockets {
        socket.set_nonblocking(false).expect("a socket");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(20))).expect("a socket");
    }
    (0..100).find_map(|_| sockets.iter().find_map(|socket| socket.recv(&mut [0; 16]).ok()))
}

#[test]
fn each_worker_has_its_own_datagram_socket_on_the_same_port() {
    let mut listeners = new(3);
    let workers = sockets(take(&mut listeners, &datagrams(&[("dns", ip("127.0.0.1:0"))])));
    let ports: Vec<_> = workers.iter().map(|socket| local(socket).expect("bound")).collect();
    assert_eq!(ports.len(), 3);
    assert!(ports[0].port() > 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    assert_eq!(listeners.addresses("dns"), [ports[0].to_string()]);
    listeners.configure(&datagrams(&[("dns", ip("127.0.0.1:0"))])).expect("nothing to do");

    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.send_to(b"ping", ports[0]).expect("sent");
    assert_eq!(receive(workers), Some(4), "one of the workers has it");
}

/// An address that neither a TCP nor a UDP socket has.
fn free_of_both() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("bound");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

#[test]
fn tcp_and_udp_share_an_address_and_port() {
    let address = free_of_both();
    let bind = Bind::Ip(address);
    let mut listeners = new(2);
    let both = mixed(&[(sample::listener("dns"), bind.clone()), (sample::udp_listener("dns-udp"), bind.clone())]);
    assert_eq!(take(&mut listeners, &both).len(), 4);
    assert_eq!(listeners.addresses("dns"), listeners.addresses("dns-udp"));
    let _client = TcpStream::connect(address).expect("it listens");
    // One goes, the other stays.
    let (orders, sites) = listeners.release(&config(&[("dns", bind)]), id);
    assert_eq!((orders.len(), sites), (2, vec![Site::Udp(address)]));
    assert_eq!(listeners.addresses("dns-udp"), Vec::<String>::new());
}

#[test]
fn a_udp_port_that_somebody_has_is_refused_with_who_to_look_for() {
    // Also somebody who would share it: a second process like this one.
    let other = new(1).bind(&datagrams(&[("dns", ip("127.0.0.1:0"))]), &mut Inherited::default()).expect("a free port");
    let address = other.0[0].local.expect("bound");
    let bind = Bind::Ip(address);
    let mut mine = new(2);
    let error = mine.bind(&datagrams(&[("dns", bind.clone())]), &mut Inherited::default()).expect_err("taken");
    let text = error.to_string();
    assert!(text.starts_with(&format!("listener.dns: {address}: ")), "{text}");
    assert!(text.contains(&format!("ss -lunp 'sport = :{}'", address.port())), "{text}");
    assert!(mine.are_held(&[Site::Udp(address)]));
    drop(other);
    assert!(!mine.are_held(&[Site::Udp(address)]));
    mine.bind(&datagrams(&[("dns", bind)]), &mut Inherited::default()).expect("free again");
}

#[test]
fn a_listener_that_changes_its_protocol_is_bound_anew_and_lets_the_old_sockets_go() {
    let address = free_of_both();
    let bind = Bind::Ip(address);
    let mut listeners = new(2);
    let before = take(&mut listeners, &config(&[("dns", bind.clone())]));
    let after = datagrams(&[("dns", bind)]);
    let workers = sockets(take(&mut listeners, &after));
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|socket| SockRef::from(socket).r#type().expect("a socket") == socket2::Type::DGRAM));
    let (orders, sites) = listeners.release(&after, id);
    assert_eq!(orders.len(), 2);
    assert_eq!(sites, [Site::Tcp(address)]);
    assert!(listeners.are_held(&sites), "the workers have them still");
    drop(before);
    assert!(!listeners.are_held(&sites));
    assert!(take(&mut listeners, &after).is_empty(), "nothing new to bind");
}

#[test]
fn a_renamed_listener_for_datagrams_keeps_its_sockets() {
    let bind = Bind::Ip(free_of_both());
    let mut listeners = new(1);
    let _before = take(&mut listeners, &datagrams(&[("dns", bind.clone())]));
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.send_to(b"waits", listeners.open[0].local.expect("bound")).expect("sent");
    let after = sockets(take(&mut listeners, &datagrams(&[("names", bind)])));
    assert_eq!(receive(after), Some(5), "what waited is not lost");
}

#[test]
fn the_receive_buffer_of_new_datagram_sockets_is_known() {
    let mut listeners = new(2);
    let bound =
        listeners.bind(&datagrams(&[("dns", ip("127.0.0.1:0"))]), &mut Inherited::default()).expect("a free port");
    let bytes = bound.receive_buffer_bytes().expect("there are datagram sockets");
    assert!((1..=udp::RECEIVE_BUFFER_BYTES).contains(&bytes), "{bytes}");
    let bound = listeners.bind(&config(&[("web", ip("127.0.0.1:0"))]), &mut Inherited::default()).expect("a free port");
    assert_eq!(bound.receive_buffer_bytes(), None);
}
