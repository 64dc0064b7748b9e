//! The load of the side-by-side benchmark: a backend that answers, and clients that ask it, each a single thread over
//! epoll, so light that the proxy between them is what is measured.
//!
//! `load serve --port 0 --bytes N` answers each request of 64 bytes with N bytes, and prints its port.
//! `load drive --port P --mode rr|connect|bulk|idle --connections N --seconds S --bytes N` prints one JSON object.
//!
//! `load serve-udp --port 0 --backends N` sends each datagram back, on N ports that follow each other unless the first
//! is 0, and prints them.
//! `load drive-udp --port P --flows F --inflight K --bytes B [--gso] --seconds S [--timeout-ms T]` prints one JSON object.

mod clients;
mod echo;
mod histogram;
mod ledger;
mod payload;
mod tcp;
mod words;

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use words::number;

const EVENTS: usize = 1024;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let port = number(&words, "port", 0) as u16;
    match words.first().map(String::as_str) {
        Some("serve") => tcp::Server::bind(port, number(&words, "bytes", 64) as usize)?.run(),
        Some("drive") => tcp::drive(&words),
        Some("serve-udp") => serve_udp(port, number(&words, "backends", 1) as u16),
        Some("drive-udp") => clients::drive(&words),
        // `cargo bench` runs every benchmark without arguments.
        _ => {
            eprintln!(
                "load serve|drive|serve-udp|drive-udp: the load of scripts/bench; see the top of benches/load/main.rs"
            );
            Ok(())
        }
    }
}

fn serve_udp(first: u16, count: u16) -> io::Result<()> {
    let port = |at: u16| if first == 0 { 0 } else { first + at };
    let addresses: Vec<_> = (0..count.max(1)).map(|at| SocketAddr::from(([127, 0, 0, 1], port(at)))).collect();
    let mut echo = echo::Echo::bind(&addresses)?;
    let ports: Vec<u16> = echo.addresses().map(|address| address.port()).collect();
    println!("{{\"port\": {}, \"ports\": {ports:?}}}", ports[0]);
    loop {
        echo.turn(None)?;
    }
}

#[allow(clippy::disallowed_methods)] // a benchmark owns its clock
fn now() -> Instant {
    Instant::now()
}
