//! Probes against small backends in this process that speak each protocol, well or badly: one file a protocol.

mod any_answer;
mod command;
mod connect;
mod http;
mod mysql;
mod postgres;
mod redis;
mod script;
mod udp;

use std::sync::Arc;

use tokio::io::{DuplexStream, duplex, split};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::now;
use super::*;
use crate::config::{Health, Pool, sample};
use crate::id::BackendId;

/// Sizes of the pipe between probe and backend: with 1, every byte comes alone.
const PIECES: [usize; 4] = [1, 3, 7, 4096];

pub(in super::super) fn pool(kind: Check) -> Pool {
    let pool = sample::pool();
    let (interval, fast_interval) = (Duration::from_millis(20), Duration::from_millis(10));
    let health = Health { kind, interval, fast_interval, timeout: Duration::from_secs(10), ..pool.health };
    Pool { name: "db".into(), health, ..pool }
}

fn within(millis: u64, kind: Check) -> Pool {
    let mut pool = pool(kind);
    pool.health.timeout = Duration::from_millis(millis);
    pool
}

pub(in super::super) fn target(pool: Pool, endpoint: Endpoint) -> Target {
    let is_up = pool.health.initial_up;
    Target { backend: BackendId(7), name: "db1".into(), endpoint, pool: Arc::new(pool), is_up, tls: None }
}

async fn ask(target: &Target) -> Result<(), String> {
    let (result, stream) = probe(target, now()).await;
    if let Some(stream) = stream {
        leave(stream).await;
    }
    result.map_err(|failure| failure.line())
}

/// A backend that waits for as many bytes as each turn wants and then says its line; gives all that it heard.
fn backend(piece: usize, turns: Vec<(usize, Vec<u8>)>) -> (DuplexStream, JoinHandle<Vec<u8>>) {
    let (near, far) = duplex(piece);
    let (mut reading, mut writing) = split(far);
    let (count, mut counted) = watch::channel(0);
    let hearing = async move {
        let (mut heard, mut byte) = (Vec::new(), [0]);
        while reading.read_exact(&mut byte).await.is_ok() {
            heard.push(byte[0]);
            count.send_replace(heard.len());
        }
        heard
    };
    let saying = async move {
        let mut until = 0;
        for (wants, says) in turns {
            until += wants;
            if counted.wait_for(|&count| count >= until).await.is_err() || writing.write_all(&says).await.is_err() {
                return;
            }
        }
        let _ = writing.shutdown().await;
    };
    (near, tokio::spawn(async move { tokio::join!(hearing, saying).0 }))
}

/// A backend that says this, whatever it hears, again and again if told so.
fn stubborn(says: Vec<u8>, for_ever: bool) -> DuplexStream {
    let (near, far) = duplex(256);
    let (mut reading, mut writing) = split(far);
    tokio::spawn(async move {
        while writing.write_all(&says).await.is_ok() && for_ever {}
        let _ = writing.shutdown().await;
    });
    tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
    near
}

fn reason(answer: Result<(), Failure>) -> String {
    answer.expect_err("the check fails").line()
}

#[test]
fn reasons_are_one_short_line_without_control_bytes() {
    let failure = Failure::new("a\r\nb\u{1b}[0m \"c\" 'd' \\e ü \u{202e}\n");
    assert_eq!(failure.line(), "a\\r\\nb\\u{1b}[0m \"c\" 'd' \\e ü \\u{202e}");
    let long = Failure::new("ü".repeat(1000)).line();
    assert_eq!(long, "ü".repeat(200) + "…");
}
