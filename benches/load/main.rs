//! The load of the side-by-side benchmark: a backend that answers, and clients that ask it, each a single thread over
//! epoll, so light that the proxy between them is what is measured.
//!
//! TCP:
//! `load serve --port 0 --request N --answer M [--ports K]` answers each N bytes with M bytes, on K ports that follow
//! each other unless the first is 0, and prints them.
//! `load drive --mode MODE --port P --request N --answer M --seconds S [--warm-up W] …` asks, and prints a JSON object:
//!
//! - `stay --connections C`: request, answer, request on connections that stay.
//! - `connect --connections C`: a connection for each request, so many at a time; the client closes it.
//! - `rate --per-second R`: so many of those are begun at fixed times, whatever became of earlier ones.
//! - `mix --connections C --stream-port Q --streams K --stream-answer B`: as `stay`, beside K connections to Q that ask
//!   for B bytes each time and are counted apart.
//! - `idle --connections C`: one request each, then silence until stdin ends.
//!
//! All but `idle` also print `{"warm": true}` when the first W seconds are over and the S begin.
//! `load relay --port 0 --backend P` is the least that a proxy can do, and prints its port.
//!
//! With `--http` both ends speak HTTP/1.1: the requests are heads alone (`--bearer T` gives them a token), N is not
//! used, and the answers have M bytes besides their heads. With `--tls` the clients speak TLS 1.3, whatever certificate
//! they are shown; `load certificate` makes one with its key, and prints them.
//!
//! UDP:
//! `load serve-udp --port 0 --backends N` sends each datagram back, on N ports that follow each other unless the first
//! is 0, and prints them.
//! `load drive-udp --port P --flows F --inflight K --bytes B [--gso] --seconds S [--timeout-ms T]` prints a JSON object.

mod clients;
mod drive;
mod echo;
mod histogram;
mod http;
mod ledger;
mod message;
mod payload;
mod relay;
mod schedule;
mod serve;
mod tls;
mod wire;
mod words;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use words::{has, number};

const EVENTS: usize = 1024;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.first().map(String::as_str) {
        Some("serve") => {
            let addresses = addresses(&words, "ports");
            let (request, answer) = sizes(&words)?;
            let server = serve::Server::bind(&addresses, request, answer, has(&words, "http"))?;
            print_ports(server.addresses());
            server.run()
        }
        Some("drive") => drive::drive(&words),
        Some("relay") => {
            let relay = relay::Relay::bind(local(number(&words, "port", 0)), local(number(&words, "backend", 0)))?;
            print_ports([relay.address()?].into_iter());
            relay.run()
        }
        Some("certificate") => {
            println!("{}", tls::certificate()?);
            Ok(())
        }
        Some("serve-udp") => {
            let mut echo = echo::Echo::bind(&addresses(&words, "backends"))?;
            print_ports(echo.addresses());
            loop {
                echo.turn(None)?;
            }
        }
        Some("drive-udp") => clients::drive(&words),
        // `cargo bench` runs every benchmark without arguments.
        _ => {
            eprintln!("load serve|drive|relay|certificate|serve-udp|drive-udp: see the top of benches/load/main.rs");
            Ok(())
        }
    }
}

fn local(port: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port as u16))
}

/// As many as the word of this name says, from `--port` on.
fn addresses(words: &[String], count: &str) -> Vec<SocketAddr> {
    let first = number(words, "port", 0);
    (0..number(words, count, 1).max(1)).map(|at| local(if first == 0 { 0 } else { first + at })).collect()
}

/// Bytes of a request, which has none with HTTP, and of an answer.
fn sizes(words: &[String]) -> io::Result<(usize, usize)> {
    match (number(words, "request", 64) as usize, number(words, "answer", 64) as usize) {
        (_, answer @ 1..) if has(words, "http") => Ok((0, answer)),
        (0, _) | (_, 0) => Err(io::Error::other("--request and --answer are at least 1")),
        sizes => Ok(sizes),
    }
}

fn print_ports(addresses: impl Iterator<Item = SocketAddr>) {
    let ports: Vec<u16> = addresses.map(|address| address.port()).collect();
    println!("{{\"port\": {}, \"ports\": {ports:?}}}", ports[0]);
}

/// Waits for events. A debugger or a tracer that comes or goes interrupts it, which is no event.
fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

#[allow(clippy::disallowed_methods)] // a benchmark owns its clock
fn now() -> Instant {
    Instant::now()
}
