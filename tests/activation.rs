//! Sockets that come from outside: of a service manager's socket units, by name, and of its store, in which listeners
//! outlive a crash. The service manager is played here; `systemd-socket-activate` is the real one's.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use harness::datagram::{UdpServer, hear, udp_client, who_answers};
use harness::{
    Backend, Evener, Line, NO_CHECKS, Plan, SOON, config, connect, evener, exchange, free_port, holds_for, local,
    patiently, read_name, require, try_connect, wait_until, who,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

fn at(port: u16, text: &str) -> String {
    text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
}

fn passed(name: &str, socket: impl Into<OwnedFd>) -> (String, OwnedFd) {
    (name.to_owned(), socket.into())
}

/// What a service manager is told (sd_notify(3)), and what it keeps.
struct Manager {
    folder: tempfile::TempDir,
    store: Arc<Mutex<Vec<(String, OwnedFd)>>>,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let store: Arc<Mutex<Vec<(String, OwnedFd)>>> = Arc::default();
        let kept = store.clone();
        std::thread::spawn(move || {
            while let Some((text, sockets)) = receive(&socket) {
                let mut store = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
                    store.retain(|(stored, _)| stored != name);
                }
                for socket in sockets {
                    // The same socket is kept once, as systemd does it.
                    if !store.iter().any(|(_, known)| inode(known) == inode(&socket)) {
                        store.push((name.to_owned(), socket));
                    }
                }
            }
        });
        Self { folder, store }
    }

    fn plan(&self, text: &str) -> Plan {
        Evener::plan(text).env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    fn stored(&self) -> Vec<String> {
        let mut names: Vec<String> = self.store.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn wait_for(&self, stored: &[&str]) {
        wait_until(SOON, &format!("{stored:?} are in store, not {:?}", self.stored()), || self.stored() == stored);
    }

    /// What the next process is passed; the store keeps it.
    fn passes(&self) -> Vec<(String, OwnedFd)> {
        let store = self.store.lock().unwrap();
        store.iter().map(|(name, socket)| (name.clone(), socket.try_clone().unwrap())).collect()
    }
}

fn inode(socket: &OwnedFd) -> String {
    std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().display().to_string()
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let length = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            sockets.extend(passed);
        }
    }
    Some((String::from_utf8_lossy(&bytes[..length]).into_owned(), sockets))
}

// --- Socket units ----------------------------------------------------------------------------------------------------

#[test]
fn sockets_of_a_unit_are_used_by_name_and_nothing_speaks_of_them_to_children() {
    let a = Backend::named("a");
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, metrics_port) = (web.local_addr().unwrap().port(), metrics.local_addr().unwrap().port());
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let check = format!(
        "health = {{ kind = \"command\", run = [\"/bin/sh\", \"-c\", \"env > {0}.new; mv {0}.new {0}\"] }}",
        seen.display()
    );
    let text = format!("[process]\nmetrics = \"127.0.0.1:{metrics_port}\"\n\n{}", config("", &check, &[a.entry("")]));
    // It waited before there was anybody to serve it.
    let mut early = patiently(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let plan = Evener::plan(&at(port, &text)).passing(vec![passed("web", web), passed("metrics", metrics)]);
    let mut evener = plan.passing_admin().start();
    assert_eq!(read_name(&mut early).unwrap(), "a");
    drop(early);
    assert_eq!(who(port).unwrap(), "a");
    assert!(harness::http_get(metrics_port, "/metrics").unwrap().1.contains("evener_build_info"));
    wait_until(SOON, "a child has run", || seen.exists());
    let environment = std::fs::read_to_string(&seen).unwrap();
    assert!(!environment.contains("LISTEN_"), "{environment}");
    evener.signal("TERM");
    assert!(evener.wait(SOON).success());
    assert!(evener.admin().exists(), "its file is not ours to remove");
}

#[test]
fn several_sockets_of_one_name_are_all_accepted_from_whatever_the_number_of_workers() {
    let a = Backend::named("a");
    for protocol in ["tcp", "http"] {
        let (one, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.2:0").unwrap());
        let third = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [&one, &other].map(|socket| socket.local_addr().unwrap());
        drop(third);
        let text = match protocol {
            "tcp" => format!(
                "[listener.web]\nbind = [\"{}\", \"{}\"]\npool = \"web\"\n\n[pool.web]\nbackends = [{}]\n{NO_CHECKS}",
                ports[0],
                ports[1],
                a.entry("")
            ),
            _ => format!(
                "[listener.web]\nbind = [\"{}\", \"{}\"]\nprotocol = \"http\"\n\n\
                 [[route]]\nname = \"r\"\nlistener = \"web\"\nreply = {{ status = 200, body = \"a\" }}\n",
                ports[0], ports[1]
            ),
        };
        let plan = Evener::plan(&format!("[process]\nworkers = 2\n\n{text}"));
        let evener = plan.passing(vec![passed("web", one), passed("web", other)]).start();
        for address in ports.iter().cycle().take(10) {
            let mut stream = patiently(TcpStream::connect(address).unwrap());
            match protocol {
                "tcp" => assert_eq!(read_name(&mut stream).unwrap(), "a"),
                _ => {
                    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.ends_with('a'), "{answer}");
                }
            }
        }
        drop(evener);
    }
}

#[test]
fn datagrams_come_through_a_socket_of_a_unit() {
    let a = UdpServer::named("a");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let text = format!(
        "[listener.dns]\nbind = \"0.0.0.0:{port}\"\nprotocol = \"udp\"\npool = \"dns\"\n\n[pool.dns]\nbackends = [{}]\n{NO_CHECKS}",
        a.entry("")
    );
    let evener = Evener::plan(&text).passing(vec![passed("dns", socket)]).start();
    assert_eq!(who_answers(&udp_client(local(port))), "a");
    drop(evener);
}

#[test]
fn a_socket_elsewhere_than_the_file_says_is_an_error_that_tells_what_to_do() {
    let a = Backend::named("a");
    let wrong = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = wrong.local_addr().unwrap();
    let text = at(free_port(), &config("", NO_CHECKS, &[a.entry("")]));
    let (status, said) = Evener::plan(&text).passing(vec![passed("web", wrong)]).fail();
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("listener.web: the socket unit passes a socket at tcp {place}")), "{said}");
    assert!(said.contains("ListenStream="), "{said}");

    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = datagrams.local_addr().unwrap().port();
    let text = at(port, &config("", NO_CHECKS, &[a.entry("")]));
    let (status, said) = Evener::plan(&text).passing(vec![passed("web", datagrams)]).fail();
    assert!(status == Some(1) && said.contains(&format!("udp 127.0.0.1:{port}")), "{said}");

    let both = TcpListener::bind("[::]:0").unwrap();
    let port = both.local_addr().unwrap().port();
    let text = config("", NO_CHECKS, &[a.entry("")]).replace("127.0.0.1:0", &format!("[::]:{port}"));
    let (status, said) = Evener::plan(&text).passing(vec![passed("web", both)]).fail();
    assert!(status == Some(1) && said.contains("BindIPv6Only=ipv6-only"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let lost = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let place = format!("unix:{}", path.display());
    let gone = config("", NO_CHECKS, &[a.entry("")]).replace("127.0.0.1:0", &place);
    let (status, said) = Evener::plan(&gone).passing(vec![passed("web", lost)]).fail();
    assert!(status == Some(1) && said.contains("has lost its file") && said.contains("systemctl restart"), "{said}");

    let accepted = TcpListener::bind("127.0.0.1:0").unwrap();
    let (connection, _) = (TcpStream::connect(accepted.local_addr().unwrap()).unwrap(), accepted.accept().unwrap());
    let (status, said) = Evener::plan(&text).passing(vec![passed("web", connection)]).fail();
    assert!(status == Some(1) && said.contains("Accept=no"), "{said}");
}

#[test]
fn a_socket_that_nobody_claims_is_closed_with_a_warning() {
    let a = Backend::named("a");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let plan = Evener::plan(&config("", NO_CHECKS, &[a.entry("")])).passing(vec![passed("evener.socket", other)]);
    let evener = plan.start();
    assert_eq!(who(evener.port("web")).unwrap(), "a");
    assert!(evener.log().contains("FileDescriptorName="), "{}", evener.log());
    wait_until(SOON, "nobody listens there", || try_connect(port).is_err());
}

#[test]
fn a_listener_with_a_units_socket_is_drained_and_removed_and_has_it_again() {
    let a = Backend::named("a");
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    let text = at(port, &config("", NO_CHECKS, &[a.entry("")]));
    let evener = Evener::plan(&text).passing(vec![passed("web", web)]).start();
    assert_eq!(who(port).unwrap(), "a");
    evener.cli_ok(&["drain", "web"]);
    let mut waiting = patiently(TcpStream::connect(("127.0.0.1", port)).unwrap());
    waiting.set_nonblocking(true).unwrap();
    holds_for(std::time::Duration::from_millis(200), "it waits", || waiting.peek(&mut [0]).is_err());
    waiting.set_nonblocking(false).unwrap();
    evener.cli_ok(&["ready", "web"]);
    assert_eq!(read_name(&mut waiting).unwrap(), "a");
    evener.reload(&text.replace("[listener.web]", "[listener.other]").replace(&port.to_string(), "0"));
    evener.reload(&text);
    assert_eq!(who(port).unwrap(), "a");
}

#[test]
fn sockets_of_units_go_along_at_an_upgrade() {
    let (a, d) = (Backend::named("a"), UdpServer::named("d"));
    let (web, dns) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = web.local_addr().unwrap().port();
    let (metrics_port, dns_port) = (free_port(), dns.local_addr().unwrap().port());
    // More workers than sockets, and a listener of our own beside them.
    let text = format!(
        "[process]\nworkers = 3\nmetrics = \"127.0.0.1:{metrics_port}\"\n\n\
         [listener.own]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\n\
         [listener.dns]\nbind = \"127.0.0.1:{dns_port}\"\nprotocol = \"udp\"\npool = \"dns\"\n\n\
         [pool.dns]\nbackends = [{}]\n{NO_CHECKS}\n{}",
        d.entry(""),
        at(port, &config("", NO_CHECKS, &[a.entry("")]))
    );
    let sockets = vec![passed("web", web), passed("dns", dns)];
    let line = Line::of(Evener::plan(&text).passing(sockets).passing_admin());
    let own = line.port("own");
    let client = udp_client(local(dns_port));
    for round in 0..3 {
        for port in [port, own, port] {
            assert_eq!(who(port).unwrap(), "a");
        }
        assert_eq!(who_answers(&client), "d");
        assert!(harness::http_get(metrics_port, "/metrics").is_ok());
        if round < 2 {
            line.upgrade_wholly();
        }
    }
    line.cli_ok(&["drain", "web"]);
    line.upgrade_wholly();
    let mut waiting = patiently(TcpStream::connect(("127.0.0.1", port)).unwrap());
    line.cli_ok(&["ready", "web"]);
    assert_eq!(read_name(&mut waiting).unwrap(), "a");
    drop(waiting);
    assert!(line.admin().exists());

    // A listener that is in the next file no longer leaves its unit's socket alone.
    let elsewhere = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", free_port()));
    line.rewrite(&elsewhere);
    assert!(line.fail().contains("listener.web: the socket unit passes a socket at"));
    line.rewrite(
        &text.replace("[listener.web]", "[listener.other]").replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0"),
    );
    line.upgrade_wholly();
    assert_eq!(who(line.port("other")).unwrap(), "a");
    assert_eq!(who(own).unwrap(), "a");
}
#[test]
fn systemd_socket_activate_starts_it_with_the_first_client() {
    if !require("systemd_socket_activate_starts_it_with_the_first_client", &["systemd-socket-activate"]) {
        return;
    }
    let a = Backend::named("a");
    let port = free_port();
    let text = at(port, &config("", NO_CHECKS, &[a.entry("")]));
    let address = format!("127.0.0.1:{port}");
    let first = std::thread::spawn(move || {
        let mut stream = None;
        wait_until(SOON, "the port is listened on", || {
            stream = TcpStream::connect(("127.0.0.1", port)).ok();
            stream.is_some()
        });
        read_name(&mut patiently(stream.unwrap())).unwrap()
    });
    let evener = Evener::plan(&text).under(&["systemd-socket-activate", "-l", &address, "--fdname=web"]).start();
    assert_eq!(first.join().unwrap(), "a");
    assert_eq!(who(port).unwrap(), "a");
    drop(evener);
}

// --- The store -------------------------------------------------------------------------------------------------------

#[test]
fn clients_who_come_between_a_crash_and_the_next_start_are_served() {
    let (manager, a) = (Manager::listen(), Backend::echo());
    let entry = [harness::entry("a", a.address(), "")];
    let port = free_port();
    let file =
        |workers: usize| format!("[process]\nworkers = {workers}\n\n{}", at(port, &config("", NO_CHECKS, &entry)));
    let evener = manager.plan(&file(2)).start();
    manager.wait_for(&["store/web", "store/web"]);
    drop(evener); // by SIGKILL

    // One more worker than sockets, then fewer: the backlog of each socket is served.
    for workers in [3, 1] {
        let mut waiting: Vec<TcpStream> = (0..30).map(|_| connect(port)).collect();
        waiting.iter_mut().for_each(|stream| stream.write_all(b"early").unwrap());
        let evener = manager.plan(&file(workers)).passing(manager.passes().into_iter().take(3).collect()).start();
        for stream in &mut waiting {
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"early");
        }
        assert_eq!(exchange(&mut connect(port), b"late").unwrap(), b"late");
        manager.wait_for(&["store/web"; 3]);
        drop(evener);
    }
}

#[test]
fn listeners_on_unix_sockets_and_for_datagrams_outlive_a_crash_too() {
    let (manager, a, d) = (Manager::listen(), Backend::named("a"), UdpServer::named("d"));
    let folder = tempfile::tempdir().unwrap();
    let (path, port) = (folder.path().join("web.sock"), free_port());
    let text = format!(
        "[process]\nworkers = 1\n\n[listener.web]\nbind = \"unix:{}\"\npool = \"web\"\n\n\
         [listener.dns]\nbind = \"127.0.0.1:{port}\"\nprotocol = \"udp\"\npool = \"dns\"\n\n\
         [pool.web]\nbackends = [{}]\n{NO_CHECKS}\n[pool.dns]\nbackends = [{}]\n{NO_CHECKS}",
        path.display(),
        a.entry(""),
        d.entry("")
    );
    drop(manager.plan(&text).start());
    manager.wait_for(&["store/dns", "store/web"]);
    let mut waiting = UnixStream::connect(&path).unwrap();
    waiting.set_read_timeout(Some(SOON)).unwrap();
    let client = udp_client(local(port));
    client.send(b"early").unwrap();
    let mut evener = manager.plan(&text).passing(manager.passes()).start();
    let mut name = [0];
    waiting.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"a");
    assert!(hear(&client).unwrap().starts_with(b"d"));
    assert!(evener.end_at_once().success());
    assert!(!path.exists(), "its file is ours");
    manager.wait_for(&[]);
}

#[test]
fn what_is_not_listened_on_any_more_leaves_the_store() {
    let (manager, a) = (Manager::listen(), Backend::named("a"));
    let (web, other) = (free_port(), free_port());
    let listener =
        |name: &str, port: u16| format!("[listener.{name}]\nbind = \"127.0.0.1:{port}\"\npool = \"web\"\n\n");
    let pool = format!("[process]\nworkers = 1\n\n[pool.web]\nbackends = [{}]\n{NO_CHECKS}", a.entry(""));
    let both = listener("web", web) + &listener("other", other) + &pool;
    let mut evener = manager.plan(&both).start();
    manager.wait_for(&["store/other", "store/web"]);
    evener.reload(&(listener("web", web) + &pool));
    manager.wait_for(&["store/web"]);
    evener.reload(&(listener("renamed", web) + &pool));
    manager.wait_for(&["store/renamed"]);
    evener.cli_ok(&["drain", "renamed"]);
    manager.wait_for(&[]);
    wait_until(SOON, "it is refused", || try_connect(web).is_err());
    evener.cli_ok(&["ready", "renamed"]);
    manager.wait_for(&["store/renamed"]);
    evener.signal("TERM");
    manager.wait_for(&[]);
    assert!(evener.wait(SOON).success());
}

#[test]
fn an_address_that_goes_with_an_upgrade_leaves_the_store() {
    let (manager, a) = (Manager::listen(), Backend::named("a"));
    let (kept, gone) = (free_port(), free_port());
    let text = format!("[process]\nworkers = 1\n\n{}", config("", NO_CHECKS, &[a.entry("")]));
    let at_both = format!("[\"127.0.0.1:{kept}\", \"127.0.0.1:{gone}\"]");
    let line = Line::of(manager.plan(&text.replace("\"127.0.0.1:0\"", &at_both)));
    manager.wait_for(&["store/web", "store/web"]);
    line.rewrite(&at(kept, &text));
    line.upgrade_wholly();
    manager.wait_for(&["store/web"]);
    assert_eq!(who(kept).unwrap(), "a");
    drop(line);
    let evener = manager.plan(&at(kept, &text)).passing(manager.passes()).start();
    assert_eq!(who(kept).unwrap(), "a");
    drop(evener);
}

#[test]
fn a_stored_socket_that_the_file_has_no_longer_is_let_go() {
    let (manager, a) = (Manager::listen(), Backend::named("a"));
    let port = free_port();
    let text = format!("[process]\nworkers = 1\n\n{}", at(port, &config("", NO_CHECKS, &[a.entry("")])));
    drop(manager.plan(&text).start());
    manager.wait_for(&["store/web"]);
    let next = free_port();
    let evener = manager.plan(&text.replace(&port.to_string(), &next.to_string())).passing(manager.passes()).start();
    assert_eq!(who(next).unwrap(), "a");
    manager.wait_for(&["store/web"]);
    wait_until(SOON, "nobody listens at the old place", || try_connect(port).is_err());
    drop(evener);
}

#[test]
fn variables_that_make_no_sense_are_an_error() {
    let output = std::process::Command::new("sh")
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=99 exec \"$0\" run -c /nonexistent"])
        .arg(harness::program())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("LISTEN_FDS: descriptor"), "{output:?}");
    assert_eq!(evener(&["check", "-c", "/nonexistent"]).status.code(), Some(2));
}
