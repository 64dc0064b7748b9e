//! Bytes: all of them, in order, both ways; ends and resets as the peers made them; nothing held for a slow or silent one.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{
    Backend, Ending, Evener, NO_CHECKS, Pattern, SOON, config, connect, digest_of, echo_digest, ending, exchange,
    holds_for, memory_of, now, reset, shut_write, wait_until, wait_until_steady,
};

const MIB: u64 = 1024 * 1024;
const SPLICE: [&str; 2] = ["auto", "off"];

/// One backend, no checks that would connect to it besides.
fn start(splice: &str, listener_keys: &str, backend: &Backend) -> Evener {
    let file = config(listener_keys, NO_CHECKS, &[backend.entry("")]);
    Evener::start(&format!("[process]\nworkers = 2\nsplice = \"{splice}\"\n\n{file}"))
}

/// A connection through evener: the client's end and the backend's.
fn pair(evener: &Evener, backend: &Backend) -> (TcpStream, TcpStream) {
    (connect(evener.port("web")), backend.take())
}

#[test]
fn streams_of_every_length_around_a_buffer_edge_come_back_unchanged() {
    let lengths = [4096, 16384, 65536, 262_144, MIB].into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]);
    for splice in SPLICE {
        let backend = Backend::echo();
        let evener = start(splice, "", &backend);
        let port = evener.port("web");
        for length in [0, 1].into_iter().chain(lengths.clone()) {
            assert_eq!(echo_digest(connect(port), length), Pattern::digest(length), "splice {splice}, {length} bytes");
        }
    }
}

#[test]
fn sixty_four_mebibytes_go_both_ways_at_once_unchanged() {
    for splice in SPLICE {
        let backend = Backend::echo();
        let evener = start(splice, "", &backend);
        assert_eq!(echo_digest(connect(evener.port("web")), 64 * MIB), Pattern::digest(64 * MIB), "splice {splice}");
        evener.wait_for_endings(1, "client_closed");
        let event = evener.events().pop().unwrap();
        assert_eq!((event["bytes_in"].as_u64(), event["bytes_out"].as_u64()), (Some(64 * MIB), Some(64 * MIB)));
        let spliced = event["spliced_bytes"].as_u64().unwrap();
        assert_eq!(spliced > 0, splice == "auto", "splice {splice}: {spliced} bytes spliced");
    }
}

#[test]
fn many_streams_at_once_do_not_mix() {
    let backend = Backend::echo();
    let evener = start("auto", "", &backend);
    let port = evener.port("web");
    std::thread::scope(|scope| {
        for number in 0..40 {
            scope.spawn(move || {
                let length = 300_000 + number * 7919;
                assert_eq!(echo_digest(connect(port), length), Pattern::digest(length));
            });
        }
    });
}

#[test]
fn the_client_ends_first_and_still_gets_the_answer() {
    for splice in SPLICE {
        let backend = Backend::digest();
        let evener = start(splice, "", &backend);
        for length in [0, 1, 70_000, 3 * MIB] {
            let mut client = connect(evener.port("web"));
            Pattern::default().send(&mut client, length).unwrap();
            shut_write(&client);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            let (bytes, hash) = Pattern::digest(length);
            assert_eq!(answer, format!("{bytes} {hash}"), "splice {splice}");
        }
        evener.wait_for_endings(4, "client_closed");
    }
}

#[test]
fn the_backend_ends_first_and_still_gets_the_rest() {
    for splice in SPLICE {
        let backend = Backend::held();
        let evener = start(splice, "", &backend);
        let (mut client, mut server) = pair(&evener, &backend);
        server.write_all(b"bye").unwrap();
        shut_write(&server);
        assert_eq!(ending(&mut client), (Ending::Closed, 3));
        let reader = std::thread::spawn(move || digest_of(&mut server).unwrap());
        Pattern::default().send(&mut client, 2 * MIB).unwrap();
        shut_write(&client);
        assert_eq!(reader.join().unwrap(), Pattern::digest(2 * MIB), "splice {splice}");
        evener.wait_for_endings(1, "backend_closed");
    }
}

#[test]
fn both_may_end_at_once_with_bytes_under_way() {
    let backend = Backend::held();
    let evener = start("auto", "", &backend);
    for _ in 0..50 {
        let (mut client, mut server) = pair(&evener, &backend);
        Pattern::default().send(&mut client, 20_000).unwrap();
        Pattern::default().send(&mut server, 30_000).unwrap();
        shut_write(&client);
        shut_write(&server);
        assert_eq!(digest_of(&mut client).unwrap(), Pattern::digest(30_000));
        assert_eq!(digest_of(&mut server).unwrap(), Pattern::digest(20_000));
    }
    wait_until(SOON, "all are counted out", || evener.active("web", "held") == 0);
}

#[test]
fn bytes_sent_just_before_the_whole_connection_is_closed_arrive() {
    for splice in SPLICE {
        let backend = Backend::held();
        let evener = start(splice, "", &backend);
        for length in [1, 5000, 200_000, 2 * MIB] {
            let (mut client, mut server) = pair(&evener, &backend);
            let writer = std::thread::spawn(move || Pattern::default().send(&mut server, length).unwrap());
            assert_eq!(digest_of(&mut client).unwrap(), Pattern::digest(length), "splice {splice}");
            writer.join().unwrap();
        }
    }
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_backend() {
    for splice in SPLICE {
        let backend = Backend::held();
        let evener = start(splice, "", &backend);
        let (mut client, mut server) = pair(&evener, &backend);
        exchange_across(&mut client, &mut server);
        reset(client);
        assert_eq!(ending(&mut server).0, Ending::Reset, "splice {splice}");
        evener.wait_for_endings(1, "client_reset");
    }
}

#[test]
fn a_reset_by_the_backend_is_a_reset_for_the_client() {
    for splice in SPLICE {
        let backend = Backend::held();
        let evener = start(splice, "", &backend);
        let (mut client, mut server) = pair(&evener, &backend);
        exchange_across(&mut client, &mut server);
        reset(server);
        assert_eq!(ending(&mut client).0, Ending::Reset, "splice {splice}");
        evener.wait_for_endings(1, "backend_reset");
    }
}

#[test]
fn a_reset_after_a_fin_is_still_a_reset() {
    let backend = Backend::held();
    let evener = start("auto", "", &backend);

    let (mut client, mut server) = pair(&evener, &backend);
    shut_write(&client);
    assert_eq!(ending(&mut server), (Ending::Closed, 0));
    reset(server);
    assert_eq!(ending(&mut client).0, Ending::Reset, "the backend resets after the client's FIN");

    let (mut client, mut server) = pair(&evener, &backend);
    shut_write(&server);
    assert_eq!(ending(&mut client), (Ending::Closed, 0));
    reset(client);
    assert_eq!(ending(&mut server).0, Ending::Reset, "the client resets after the backend's FIN");

    let (client, mut server) = pair(&evener, &backend);
    shut_write(&client);
    assert_eq!(ending(&mut server), (Ending::Closed, 0));
    reset(client);
    // A socket that has read FIN shows the reset to its next write only.
    wait_until(SOON, "the backend learns of the reset", || server.write_all(b"x").is_err());
}

#[test]
fn a_stream_cut_by_a_reset_never_looks_complete() {
    for splice in SPLICE {
        let backend = Backend::held();
        let evener = start(splice, "", &backend);
        for _ in 0..10 {
            let (mut client, mut server) = pair(&evener, &backend);
            // A backend that resets before the worker has seen the connection is a failed connect, and tried again.
            exchange_across(&mut client, &mut server);
            let reader = std::thread::spawn(move || ending(&mut client));
            Pattern::default().send(&mut server, 3 * MIB).unwrap();
            reset(server);
            assert_eq!(reader.join().unwrap().0, Ending::Reset, "splice {splice}");
        }
        for _ in 0..10 {
            let (mut client, mut server) = pair(&evener, &backend);
            let reader = std::thread::spawn(move || ending(&mut server));
            Pattern::default().send(&mut client, 3 * MIB).unwrap();
            reset(client);
            assert_eq!(reader.join().unwrap().0, Ending::Reset, "splice {splice}");
        }
    }
}

#[test]
fn two_hundred_slow_readers_cost_no_memory_and_lose_nothing() {
    const READERS: usize = 200;
    const STREAM: u64 = 16 * MIB;
    harness::allow_many_files();
    for splice in SPLICE {
        let backend = Backend::source(STREAM);
        let evener = start(splice, "", &backend);
        let port = evener.port("web");
        drop(connect(port));
        let before = memory_of(evener.pid());
        let mut readers: Vec<TcpStream> = (0..READERS).map(|_| connect(port)).collect();
        wait_until(SOON, "all are served", || backend.accepted() >= READERS as u64);
        wait_until_stalled(&backend);
        let grown = memory_of(evener.pid()).saturating_sub(before);
        // At most one buffer's residue each.
        assert!(grown < READERS as u64 * 64 * 1024 + 8 * MIB, "splice {splice}: {grown} bytes for {READERS} readers");
        for reader in readers.drain(..).take(4).collect::<Vec<_>>().iter_mut() {
            assert_eq!(digest_of(reader).unwrap(), Pattern::digest(STREAM), "splice {splice}");
        }
    }
}

/// Until the backend gets rid of nothing more.
fn wait_until_stalled(backend: &Backend) {
    let (limit, span) = (Duration::from_secs(30), Duration::from_millis(400));
    wait_until_steady(limit, span, "the streams have stalled", || backend.sent());
}

#[test]
fn a_stalled_reader_does_not_hold_up_the_others() {
    let backend = Backend::source(32 * MIB);
    let evener = start("auto", "", &backend);
    let port = evener.port("web");
    let stalled: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
    wait_until_stalled(&backend);
    assert_eq!(digest_of(&mut connect(port)).unwrap(), Pattern::digest(32 * MIB));
    drop(stalled);
}

#[test]
fn a_silent_connection_ends_after_its_idle_timeout_and_a_talking_one_does_not() {
    let backend = Backend::echo();
    let evener = start("auto", "idle_timeout = \"700ms\"", &backend);
    let (mut silent, mut talking) = (connect(evener.port("web")), connect(evener.port("web")));
    exchange(&mut silent, b"hello").unwrap();
    let start = now();
    let watcher = std::thread::spawn(move || {
        ending(&mut silent);
        start.elapsed()
    });
    holds_for(Duration::from_millis(1800), "the talking one lives", || exchange(&mut talking, b"x").is_ok());
    let lasted = watcher.join().unwrap();
    assert!(lasted > Duration::from_millis(600) && lasted < Duration::from_millis(1700), "{lasted:?}");
    evener.wait_for_endings(1, "client_idle");
    assert_eq!(evener.endings("client_idle"), 1);
}

#[test]
fn bytes_in_one_direction_only_keep_a_connection_alive() {
    let backend = Backend::held();
    let evener = start("auto", "idle_timeout = \"500ms\"", &backend);
    let (mut client, mut server) = pair(&evener, &backend);
    let mut sent = 0_u64;
    holds_for(Duration::from_millis(1500), "the backend may go on talking", || {
        sent += 1;
        server.write_all(b"x").is_ok()
    });
    shut_write(&server);
    assert_eq!(ending(&mut client), (Ending::Closed, sent));
}

#[test]
fn the_idle_timeout_also_runs_while_a_stream_is_spliced() {
    let backend = Backend::held();
    let evener = start("auto", "idle_timeout = \"700ms\"", &backend);
    let (mut client, mut server) = pair(&evener, &backend);
    let reader = std::thread::spawn(move || ending(&mut client).1);
    Pattern::default().send(&mut server, 8 * MIB).unwrap();
    let stopped = now();
    assert_eq!(reader.join().unwrap(), 8 * MIB);
    assert!(stopped.elapsed() > Duration::from_millis(500) && stopped.elapsed() < Duration::from_secs(2));
    evener.wait_for_endings(1, "client_idle");
    let event = evener.events().pop().unwrap();
    assert!(event["spliced_bytes"].as_u64().unwrap() > 0, "{event}");
}

#[test]
fn the_idle_timeout_ends_a_stream_that_nobody_reads() {
    let backend = Backend::source(64 * MIB);
    let evener = start("auto", "idle_timeout = \"700ms\"", &backend);
    let stalled = connect(evener.port("web"));
    evener.wait_for_endings(1, "client_idle");
    drop(stalled);
}

#[test]
fn half_a_connection_ends_after_its_own_timeout() {
    let backend = Backend::held();
    let evener = start("auto", "half_close_timeout = \"600ms\"", &backend);
    let (client, mut server) = pair(&evener, &backend);
    let start = now();
    shut_write(&client);
    assert_eq!(ending(&mut server), (Ending::Closed, 0));
    evener.wait_for_endings(1, "half_close_timeout");
    assert!(start.elapsed() > Duration::from_millis(500) && start.elapsed() < Duration::from_secs(2));
    drop((client, server));
}

#[test]
fn an_idle_connection_costs_at_most_512_bytes() {
    const WARM: usize = 200;
    const MANY: usize = 3000;
    harness::allow_many_files();
    let backend = Backend::held();
    let evener = start("auto", "", &backend);
    let port = evener.port("web");
    let open = |count: usize| -> Vec<TcpStream> {
        let before = backend.accepted();
        let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(port)).collect();
        wait_until(SOON, "all are connected", || backend.accepted() == before + count as u64);
        clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
        clients
    };
    let warm = open(WARM);
    let before = memory_of(evener.pid());
    let many = open(MANY);
    wait_until(SOON, "all are counted", || evener.active("web", "held") == (WARM + MANY) as u64);
    let each = memory_of(evener.pid()).saturating_sub(before) / MANY as u64;
    println!("{each} bytes of user memory for an idle connection");
    assert!(each <= 512, "{each} bytes for an idle connection");
    drop((warm, many));
    wait_until(SOON, "all have ended", || {
        while backend.holds() > 0 {
            drop(backend.take());
        }
        evener.active("web", "held") == 0
    });
}

fn exchange_across(client: &mut TcpStream, server: &mut TcpStream) {
    let mut four = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut four).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut four).unwrap();
}
