//! Over a wire that carries segments instead of loopback's large pieces: a pipe is full long before its bytes are, which
//! is where splicing proxies have hung. Needs root.
#![allow(clippy::unwrap_used)]

mod harness;
#[path = "harness/wire.rs"]
mod wire;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use harness::{Backend, Ending, Evener, Pattern, digest_of, echo_digest, patiently};
use wire::{OURS, PEERS, at_the_far_end, run};

const STREAM: u64 = 64 << 20;

#[test]
fn streams_of_small_segments_arrive_unchanged_and_never_stall() {
    let test = "streams_of_small_segments_arrive_unchanged_and_never_stall";
    at_the_far_end(test, "inside_the_far_namespace");
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_the_far_namespace() {
    let near = std::env::var("EVENER_NEAR").unwrap();
    for splice in ["auto", "off"] {
        echo_over_the_wire(&near, splice);
    }
    slow_reader_over_the_wire(&near);
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_a_spliced_stream_is_found() {
    let test = "a_peer_that_vanishes_in_the_middle_of_a_spliced_stream_is_found";
    at_the_far_end(test, "inside_a_namespace_that_is_cut_off");
}

#[test]
#[ignore = "runs inside a network namespace, started by the test above"]
fn inside_a_namespace_that_is_cut_off() {
    let near = std::env::var("EVENER_NEAR").unwrap();
    let backend =
        Backend::on(&format!("{PEERS}:0"), "endless", |stream, _| Pattern::default().send(&mut &*stream, u64::MAX));
    let (evener, address) = start(&near, "auto", &backend);
    let mut stream = patiently(TcpStream::connect(address).unwrap());
    std::io::copy(&mut (&mut stream).take(8 << 20), &mut std::io::sink()).unwrap();
    run("ip", &["link", "set", "wire", "down"]);
    // Bytes to the client were under way: TCP_USER_TIMEOUT ends it, long before keep-alive or the idle timeout would.
    evener.wait_for_endings(1, "client_lost");
    assert!(evener.events()[0]["spliced_bytes"].as_u64().unwrap() > 0);
}

fn start(near: &str, splice: &str, backend: &Backend) -> (Evener, SocketAddr) {
    let file = format!(
        "[process]\nworkers = 1\nsplice = \"{splice}\"\n\n[listener.web]\nbind = \"{OURS}:0\"\npool = \"web\"\n\n\
         [pool.web]\nbackends = [{}]\nhealth = {{ kind = \"none\" }}\n\
         connect = {{ user_timeout = \"1s\" }}\n",
        backend.entry("")
    );
    let evener = Evener::plan(&file).under(&["ip", "netns", "exec", near]).start();
    let address = evener.address("web");
    (evener, address)
}

fn echo_over_the_wire(near: &str, splice: &str) {
    let backend = Backend::on(&format!("{PEERS}:0"), "echo", |stream, _| {
        std::io::copy(&mut &*stream, &mut &*stream)?;
        stream.shutdown(std::net::Shutdown::Write)
    });
    let (evener, address) = start(near, splice, &backend);
    let stream = patiently(TcpStream::connect(address).unwrap());
    assert_eq!(echo_digest(stream, STREAM), Pattern::digest(STREAM), "splice {splice}");
    evener.wait_for_endings(1, "client_closed");
    let spliced = evener.events()[0]["spliced_bytes"].as_u64().unwrap();
    assert_eq!(spliced > 0, splice == "auto", "splice {splice}: {spliced} bytes spliced");
    // Several at once share the pipes.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let stream = patiently(TcpStream::connect(address).unwrap());
                assert_eq!(echo_digest(stream, 6 << 20), Pattern::digest(6 << 20), "splice {splice}");
            });
        }
    });
}

/// A reader that stops and goes on: the pipe fills up, and must empty again.
fn slow_reader_over_the_wire(near: &str) {
    let backend = Backend::on(&format!("{PEERS}:0"), "source", |stream, _| {
        Pattern::default().send(&mut &*stream, STREAM / 4)?;
        stream.shutdown(std::net::Shutdown::Write)
    });
    let (_evener, address) = start(near, "auto", &backend);
    let stream = patiently(TcpStream::connect(address).unwrap());
    let mut pausing = Pausing { stream, read: 0 };
    assert_eq!(digest_of(&mut pausing).unwrap(), Pattern::digest(STREAM / 4));
    assert_eq!(harness::ending(&mut pausing.stream), (Ending::Closed, 0));
}

struct Pausing {
    stream: TcpStream,
    read: u64,
}

impl Read for Pausing {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.read % (512 << 10) < 4096 {
            harness::holds_for(Duration::from_millis(30), "it pauses", || true);
        }
        let read = self.stream.read(into)?;
        self.read += read as u64;
        Ok(read)
    }
}
