//! `evener upgrade`: sockets, connections, flows and all that is known go to the program on disk, or nothing does.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;
use std::time::Duration;

use harness::datagram::{UdpServer, ask, udp_client};
use harness::tls::Authority;
use harness::{
    ALWAYS_UP, Backend, Ending, Evener, Line, NO_CHECKS, Pattern, SOON, config, connect, digest_of, ending, exchange,
    free_port, http_get, is_alive, program, read_name, shut_write, try_connect, wait_until, wait_until_steady, who,
};
use serde_json::Value;

const MIB: u64 = 1024 * 1024;

fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Sends numbered messages and reads them back until it is told to end; says how many.
fn chat(mut stream: TcpStream, end: std::sync::Arc<harness::Flag>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut count = 0_u64;
        while !end.is_raised() {
            count += 1;
            let said = format!("message {count:10}");
            assert_eq!(exchange(&mut stream, said.as_bytes()).unwrap(), said.as_bytes());
        }
        shut_write(&stream);
        assert_eq!(ending(&mut stream), (Ending::Closed, 0));
        count
    })
}

#[test]
fn connections_go_on_through_ten_upgrades_in_a_row_without_a_lost_byte() {
    const STREAM: u64 = 96 * MIB;
    let (echo, source, held) = (Backend::echo(), Backend::source(STREAM), Backend::held());
    let mut file = String::new();
    for (name, backend) in [("echo", &echo), ("source", &source), ("held", &held)] {
        file += &format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\n[pool.{name}]\nbackends = [{}]\n{ALWAYS_UP}\n",
            backend.entry("")
        );
    }
    let line = Line::start(&file);
    let [to_echo, to_source, to_held] = ["echo", "source", "held"].map(|name| line.port(name));
    let flag = std::sync::Arc::new(harness::Flag::default());
    let chats: Vec<_> = (0..4).map(|_| chat(connect(to_echo), flag.clone())).collect();
    // Half closed: its backend has seen the end, and answers only later.
    let mut quiet = connect(to_echo);
    quiet.write_all(b"said before").unwrap();
    wait_until(SOON, "it is carried", || echo.read() > 0);
    // A client that reads nothing yet, and one that writes all it can: pipes and buffers are full.
    let mut download = connect(to_source);
    let mut first = [0; 1000];
    download.read_exact(&mut first).unwrap();
    wait_until_steady(SOON, Duration::from_millis(100), "nothing more fits", || source.sent());
    let upload = connect(to_held);
    let mut taken = held.take();
    let sender = std::thread::spawn(move || {
        let mut stream = upload;
        // It has to wait for the backend between two upgrades.
        stream.set_write_timeout(None).unwrap();
        Pattern::default().send(&mut stream, STREAM).unwrap();
        shut_write(&stream);
        assert_eq!(ending(&mut stream), (Ending::Closed, 0));
    });
    let mut fds_after_the_first = 0;
    let (mut got, mut uploaded) = (Vec::new(), Vec::new());
    for round in 0..10 {
        let said = line.upgrade_wholly();
        assert!(said.contains("moved: ") && !said.contains("left to"), "{said}");
        // A little of both streams between two upgrades, so that pipes are full anew.
        for (stream, got) in [(&mut download, &mut got), (&mut taken, &mut uploaded)] {
            let mut piece = vec![0; 2 * MIB as usize];
            stream.read_exact(&mut piece).unwrap();
            got.extend(piece);
        }
        if round == 0 {
            fds_after_the_first = fds(line.now());
        }
    }
    wait_until(SOON, "there are no more descriptors than after the first", || {
        fds(line.now()) <= fds_after_the_first + 2
    });
    drop(flag.raise_on_drop());
    for chat in chats {
        assert!(chat.join().unwrap() > 10);
    }
    let mut whole = uploaded.chain(&taken);
    assert_eq!(digest_of(&mut whole).unwrap(), Pattern::digest(STREAM));
    shut_write(&taken);
    sender.join().unwrap();
    shut_write(&quiet);
    let mut rest = Vec::new();
    quiet.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"said before");
    let mut whole = first.chain(got.as_slice()).chain(&download);
    assert_eq!(digest_of(&mut whole).unwrap(), Pattern::digest(STREAM));
    shut_write(&download);
    // One line of the access log for each, with everything since its beginning.
    line.wait_for_endings(6, "client_closed");
    line.wait_for_endings(1, "backend_closed");
    let events = line.events();
    let total = |key: &str| events.iter().map(|event| event[key].as_u64().unwrap_or(0)).max().unwrap();
    assert_eq!((events.len(), total("bytes_in"), total("bytes_out")), (7, STREAM, STREAM), "{}", line.access());
    let ids: std::collections::BTreeSet<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 7);
}

/// What stands in the status of everything that is counted and known of the backend `name`.
fn known(line: &Line, name: &str) -> Value {
    let mut backend = line.backend("web", name);
    // A later check may have taken longer, and counts go on.
    backend["observed"]["last_check"]["took_ms"] = Value::Null;
    backend
}

#[test]
fn health_overrides_and_counts_go_along() {
    let (mut dead, other) = (Backend::named("dead"), Backend::named("other"));
    let times = |often: &str| {
        let health =
            format!("kind = \"tcp\", interval = \"{often}\", fast_interval = \"{often}\", fall = 1, jitter = \"0%\"");
        config("", &format!("health = {{ {health} }}\npassive = false\n"), &[dead.entry(""), other.entry("weight = 5")])
    };
    let (often, seldom) = (times("50ms"), times("1h"));
    let line = Line::start(&often);
    let port = line.port("web");
    for _ in 0..6 {
        who(port).unwrap();
    }
    line.cli_ok(&["backend", "web/other", "weight", "7"]);
    dead.kill();
    line.wait_for_state("web", "dead", "down");
    line.wait_for_endings(6, "client_closed");
    // The successor has not asked anybody when it is asked: what it knows it was told.
    line.rewrite(&seldom);
    line.upgrade_wholly();
    let accepted = line.status()["listeners"][0]["connections"]["accepted"].clone();
    let before = [known(&line, "dead"), known(&line, "other")];
    assert_eq!((&before[0]["state"], &before[0]["observed"]["health"]), (&"down".into(), &"down".into()));
    assert!(before[0]["why"].as_str().unwrap().contains("refused"), "{}", before[0]);
    assert_eq!((&before[1]["override"]["weight"], &accepted), (&7.into(), &6.into()), "{}", before[1]);
    let total = |backend: &Value| backend["connections"]["total"].as_u64().unwrap();
    assert_eq!(total(&before[0]) + total(&before[1]), 6);
    assert_eq!(who(port).unwrap(), "other", "nobody is sent to the one that is down");
    line.upgrade_wholly();
    assert_eq!(known(&line, "dead"), before[0], "the second time too");
    assert!(!line.log().contains("panicked"));
    // Where the file has another weight, that is the newer word.
    line.rewrite(&seldom.replace("weight = 5", "weight = 6"));
    line.upgrade_wholly();
    assert_eq!(
        (&line.backend("web", "other")["override"], &line.backend("web", "other")["weight"]),
        (&Value::Null, &6.into())
    );
}

#[test]
fn a_wrong_file_an_address_that_is_taken_and_a_wrong_program_change_nothing() {
    let backend = Backend::echo();
    let file = config("", ALWAYS_UP, &[backend.entry("")]);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("evener");
    fs::copy(program(), &copy).unwrap();
    let script = format!("shift; exec {} \"$@\"", copy.display());
    let line = Line::of(Evener::plan(&file).under(&["sh", "-c", &script, "sh"]));
    let mut client = connect(line.port("web"));
    let mut is_well = |line: &Line| {
        assert_eq!(exchange(&mut client, b"alive").unwrap(), b"alive");
        assert_eq!(exchange(&mut connect(line.port("web")), b"and new").unwrap(), b"and new");
    };
    is_well(&line);

    line.rewrite(&file.replace("pool = \"web\"", "pool = \"wbe\""));
    let output = line.cli(&["upgrade", "--admin", line.admin().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "the file is wrong: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("wbe"), "{output:?}");
    is_well(&line);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    line.rewrite(&format!("{file}\n[listener.new]\nbind = \"{address}\"\npool = \"web\"\n"));
    let said = line.fail();
    assert!(said.contains(&format!("listener.new: {address}")) && said.contains("ss -ltnp"), "{said}");
    is_well(&line);
    line.rewrite(&file);

    let put = |bytes: &[u8]| {
        // A file that runs cannot be written; one that is renamed over it can.
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, bytes).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&fresh, mode).unwrap();
        fs::rename(&fresh, &copy).unwrap();
    };
    for (wrong, says) in [(&b"no program"[..], "cannot be started"), (b"#!/bin/sh\nexit 3\n", "exit status: 3")] {
        put(wrong);
        let said = line.fail();
        assert!(said.contains(says), "{said}");
        is_well(&line);
    }
    put(b"#!/bin/sh\necho no message at all, but long enough >&0\nsleep 10\n");
    let said = line.fail();
    assert!(said.contains("is it another program?"), "{said}");
    is_well(&line);
    put(&fs::read(program()).unwrap());
    line.upgrade_wholly();
    is_well(&line);
}

#[test]
fn listeners_come_and_go_with_the_file_of_the_same_moment() {
    let backend = Backend::echo();
    let listener = |name: &str, bind: &str| format!("[listener.{name}]\nbind = \"{bind}\"\npool = \"web\"\n");
    let (stays, goes, comes) = (free_port(), free_port(), free_port());
    let file = |listeners: &[(&str, u16)]| {
        let listeners: String =
            listeners.iter().map(|(name, port)| listener(name, &format!("127.0.0.1:{port}"))).collect();
        format!("{listeners}\n[pool.web]\nbackends = [{}]\n{ALWAYS_UP}", backend.entry(""))
    };
    let line = Line::start(&format!(
        "{}\n[process]\ndrain = {{ deadline = \"20s\", spread = \"0s\" }}\n",
        file(&[("stays", stays), ("goes", goes)])
    ));
    let (mut one, mut other) = (connect(stays), connect(goes));
    for client in [&mut one, &mut other] {
        exchange(client, b"before").unwrap();
    }
    let first = line.now();
    line.rewrite(&file(&[("renamed", stays), ("comes", comes)]));
    let said = line.upgrade();
    // Its listener is not in the file any more: it has until the deadline, as after a reload.
    assert!(said.contains("left to the old process") && said.contains("20s: 2"), "{said}");
    for client in [&mut one, &mut other] {
        assert_eq!(exchange(client, b"after").unwrap(), b"after");
    }
    for port in [stays, comes] {
        assert_eq!(exchange(&mut connect(port), b"new").unwrap(), b"new");
    }
    assert!(harness::is_refused(harness::try_connect(goes)));
    drop((one, other));
    wait_until(SOON, "the first one ends with the last of its connections", || !is_alive(first));
}

#[test]
fn what_cannot_move_is_drained_while_the_next_upgrade_is_on_its_way() {
    let (authority, echo) = (Authority::new(), Backend::echo());
    let signed = authority.sign(&["a.test"]);
    let listener =
        |name: &str, keys: &str| format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"echo\"\n{keys}\n\n");
    let file = format!(
        "{}{}[pool.echo]\nbackends = [{}]\n{ALWAYS_UP}",
        listener("plain", ""),
        listener("tls", &format!("tls = {{ {} }}", signed.keys())),
        echo.entry("")
    );
    let line = Line::start(&file);
    let (plain, tls) = (line.port("plain"), line.port("tls"));
    let (first, config) = (line.now(), authority.client(None));
    let mut secured = harness::tls::secure(tls, &config, "a.test");
    harness::tls::exchange(&mut secured, b"before");
    let mut client = connect(plain);
    exchange(&mut client, b"before").unwrap();
    let said = line.upgrade();
    assert!(said.contains("moved: 1 connections, 0 flows") && said.contains("in 30s: 1"), "{said}");
    let second = line.now();
    let said = line.upgrade();
    assert!(said.contains("moved: 1 connections") && !said.contains("left to"), "{said}");
    wait_until(SOON, "the second one, which has nothing left, ends", || !is_alive(second));
    assert!(is_alive(first));
    assert_eq!(harness::tls::exchange(&mut secured, b"still there"), b"still there");
    assert_eq!(exchange(&mut client, b"moved twice").unwrap(), b"moved twice");
    harness::tls::exchange(&mut harness::tls::secure(tls, &config, "a.test"), b"new");
    drop(secured);
    wait_until(SOON, "the first one ends with its connection", || !is_alive(first));
    assert!(line.admin().exists(), "its admin socket is the third one's");
}

#[test]
fn a_new_process_that_is_killed_at_any_step_leaves_everything_as_it_was() {
    const STREAM: u64 = 24 * MIB;
    let (echo, source) = (Backend::echo(), Backend::source(STREAM));
    let udp = UdpServer::named("u");
    let mut file = format!(
        "[listener.udp]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"udp\"\n[pool.udp]\nbackends = [{}]\n{NO_CHECKS}\n",
        udp.entry("")
    );
    for (name, backend) in [("echo", &echo), ("source", &source)] {
        file += &format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\n[pool.{name}]\nbackends = [{}]\n{ALWAYS_UP}\n",
            backend.entry("")
        );
    }
    let line = Line::start(&file);
    let (to_echo, to_udp) = (line.port("echo"), line.address("udp"));
    let flag = std::sync::Arc::new(harness::Flag::default());
    let chats: Vec<_> = (0..3).map(|_| chat(connect(to_echo), flag.clone())).collect();
    let mut idle = connect(to_echo);
    exchange(&mut idle, b"before").unwrap();
    let asker = udp_client(to_udp);
    ask(&asker, b"before");
    let mut download = connect(line.port("source"));
    let mut got = vec![0; 1000];
    download.read_exact(&mut got).unwrap();
    let first = line.now();
    // A stream that waits for its client holds a pipe from now on.
    wait_until_steady(SOON, Duration::from_millis(100), "nothing more fits", || (source.sent(), fds(first)));
    let before = fds(first);
    for step in ["hello", "state", "prepared", "batch", "held", "commit"] {
        line.stand_at(step);
        let upgrade = line.begin();
        let pid = line.standing();
        harness::send_signal(pid, "KILL");
        let output = upgrade.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{step}: {said}");
        assert!(said.contains("ended too early, signal: 9 (SIGKILL)"), "{step}: {said}");
        assert_eq!(line.now(), first, "{step}");
        assert_eq!(exchange(&mut idle, b"alive").unwrap(), b"alive", "{step}");
        assert_eq!(exchange(&mut connect(to_echo), b"new").unwrap(), b"new", "{step}");
        assert_eq!(ask(&asker, b"alive"), b"u alive", "{step}");
        let mut piece = vec![0; MIB as usize];
        download.read_exact(&mut piece).unwrap();
        got.extend(piece);
    }
    wait_until(SOON, "there are no more descriptors than before", || fds(first) <= before);
    assert_eq!(udp.senders().len(), 1, "the flow has kept its port");
    line.go_on();
    line.upgrade_wholly();
    drop(flag.raise_on_drop());
    for chat in chats {
        assert!(chat.join().unwrap() > 10);
    }
    let mut whole = got.chain(&download);
    assert_eq!(digest_of(&mut whole).unwrap(), Pattern::digest(STREAM));
    assert_eq!(exchange(&mut idle, b"moved").unwrap(), b"moved");
    assert_eq!(ask(&asker, b"moved"), b"u moved");
    assert_eq!(udp.senders().len(), 1);
}

#[test]
fn flows_keep_their_backends_and_ports() {
    let servers = [UdpServer::named("a"), UdpServer::named("b"), UdpServer::named("c")];
    let entries: Vec<String> = servers.iter().map(|server| server.entry("")).collect();
    let file = format!(
        "[process]\nworkers = 3\n[listener.udp]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"udp\"\n\n\
         [pool.udp]\nbackends = [{}]\n{NO_CHECKS}",
        entries.join(", ")
    );
    let line = Line::start(&file);
    let clients: Vec<_> = (0..30).map(|_| udp_client(line.address("udp"))).collect();
    let answers: Vec<Vec<u8>> = clients.iter().map(|client| ask(client, b"x")).collect();
    let senders = || servers.iter().map(|server| server.senders().into_keys().collect::<Vec<_>>()).collect::<Vec<_>>();
    let before = senders();
    for workers in [3, 1, 2] {
        line.rewrite(&file.replace("workers = 3", &format!("workers = {workers}")));
        let said = line.upgrade_wholly();
        assert!(said.contains("moved: 0 connections, 30 flows") && !said.contains("left to"), "{said}");
        for (client, answer) in clients.iter().zip(&answers) {
            assert_eq!(ask(client, b"x"), *answer);
        }
        assert_eq!(senders(), before);
        assert_eq!(line.status()["process"]["flows"], 30);
    }
    let datagrams = line.status()["listeners"][0]["udp"]["datagrams_in"].clone();
    assert_eq!(datagrams, 120, "the counts go on");
}

#[test]
fn a_backlog_is_served_by_more_or_fewer_workers() {
    let backend = Backend::named("b");
    let file = format!("[process]\nworkers = 3\n{}", config("", ALWAYS_UP, &[backend.entry("")]));
    let line = Line::start(&file);
    let port = line.port("web");
    for workers in [1, 2, 4] {
        line.rewrite(&file.replace("workers = 3", &format!("workers = {workers}")));
        // They connect while nobody accepts: between the old one's last look and the new one's first.
        line.stand_at("batch");
        let mut held = connect(port);
        assert_eq!(read_name(&mut held).unwrap(), "b");
        let upgrade = line.begin();
        line.standing();
        let mut waiting: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
        line.go_on();
        assert!(upgrade.join().unwrap().status.success());
        for client in &mut waiting {
            assert_eq!(read_name(client).unwrap(), "b");
        }
        assert_eq!(exchange(&mut held, b"x").unwrap(), b"x");
        assert_eq!(line.status()["process"]["workers"], workers);
    }
}

#[test]
fn the_service_manager_is_told_who_the_service_is_now() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let backend = Backend::named("a");
    let path = folder.path().join("notify");
    let plan = Evener::plan(&config("", NO_CHECKS, &[backend.entry("")])).env("NOTIFY_SOCKET", path.to_str().unwrap());
    // The manager names the first process; the next one has to feel asked all the same.
    let line = Line::of(plan.env("WATCHDOG_USEC", "1000000"));
    let next = || {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    while !next().contains("READY=1") {}
    line.upgrade_wholly();
    let now = line.now();
    let mut heard = Vec::new();
    while !heard.iter().any(|said: &String| said.contains("READY=1")) {
        heard.push(next());
    }
    let main = format!("MAINPID={now}");
    let told = heard.iter().position(|said| said.contains(&main)).unwrap_or_else(|| panic!("{heard:?}"));
    // Before that it is not the main process, to which alone the manager listens.
    let stored: Vec<usize> = (0..heard.len()).filter(|at| heard[*at].contains("FDSTORE")).collect();
    assert!(!stored.is_empty() && stored.iter().all(|at| *at > told), "{heard:?}");
    while !next().contains("WATCHDOG=1") {}
    assert!(!heard.iter().any(|said| said.contains("STOPPING=1")), "{heard:?}");
}

#[test]
fn http_and_metrics_go_on_at_the_same_sockets() {
    if !cfg!(feature = "gateway") {
        return;
    }
    let backend = Backend::http("h");
    let metrics = free_port();
    let file = format!(
        "[process]\nmetrics = \"127.0.0.1:{metrics}\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\n\
         [[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n\n[pool.web]\nbackends = [{}]\n{ALWAYS_UP}",
        backend.entry("")
    );
    let line = Line::start(&file);
    let port = line.port("web");
    for _ in 0..3 {
        assert_eq!(http_get(port, "/").unwrap(), (200, "h".to_owned()));
        assert_eq!(http_get(metrics, "/metrics").unwrap().0, 200);
        let inodes = [port, metrics].map(harness::inodes_listening_on);
        line.upgrade_wholly();
        assert_eq!([port, metrics].map(harness::inodes_listening_on), inodes, "the very same sockets");
    }
    assert_eq!(http_get(port, "/").unwrap(), (200, "h".to_owned()));
    assert_eq!(http_get(metrics, "/metrics").unwrap().0, 200);
}

#[test]
fn a_second_request_and_one_of_a_process_that_ends_are_refused() {
    let backend = Backend::echo();
    let line = Line::start(&config("", ALWAYS_UP, &[backend.entry("")]));
    line.stand_at("hello");
    let upgrade = line.begin();
    line.standing();
    assert!(line.fail().contains("an upgrade is under way already"));
    // The process serves on meanwhile.
    let mut client = connect(line.port("web"));
    assert_eq!(exchange(&mut client, b"x").unwrap(), b"x");
    line.go_on();
    assert!(upgrade.join().unwrap().status.success());
    assert_eq!(exchange(&mut client, b"x").unwrap(), b"x");
    line.cli_ok(&["drain", "--deadline", "5s"]);
    assert!(line.fail().contains("the process is ending"));
    drop(client);
}

#[test]
fn a_listener_that_an_operator_drains_stays_drained_until_it_is_ready_again() {
    let backend = Backend::named("a");
    let port = free_port();
    let file = config("", NO_CHECKS, &[backend.entry("")]).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let line = Line::start(&file);
    assert_eq!(who(port).unwrap(), "a");
    line.cli_ok(&["drain", "web"]);
    wait_until(SOON, "clients are refused", || try_connect(port).is_err());
    for _ in 0..2 {
        line.upgrade_wholly();
        assert!(try_connect(port).is_err());
    }
    line.cli_ok(&["ready", "web"]);
    assert_eq!(who(port).unwrap(), "a");
}
