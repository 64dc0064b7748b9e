//! The `command` check: a program decides; status 0 = up.
//!
//! It finds EVENER_POOL, EVENER_BACKEND, EVENER_ADDRESS, EVENER_HOST and EVENER_PORT in its environment, besides ours
//! (for a unix socket the address is "unix:PATH", the host PATH and the port empty). Its standard input is empty. The
//! last line it writes, to either output, is the reason of a failure. It has a process group of its own, which is killed
//! at the check's time-out: most programs here are shell scripts, and what hangs is what they have started. What an
//! ended program leaves running is its own matter.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::Target;
use super::{Failure, text};
use crate::config::Endpoint;

/// Bytes kept of the end of the output.
const TAIL_MAX: usize = 1024;
/// How long the output is waited for once the program has ended: a child of its own may hold it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

pub(super) async fn probe(run: &[String], target: &Target, endpoint: &Endpoint) -> Result<(), Failure> {
    let Some((program, arguments)) = run.split_first() else { return Err(Failure::new("no program to run")) };
    let (output, input) = io::pipe()?;
    let mut output = pipe::Receiver::from_owned_fd(output.into())?;
    let (address, host, port) = place(endpoint);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("EVENER_POOL", &target.pool.name)
        .env("EVENER_BACKEND", &target.name)
        .env("EVENER_ADDRESS", address)
        .env("EVENER_HOST", host)
        .env("EVENER_PORT", port)
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| cannot_start(program, error))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    // It holds the writing ends of the pipe; only the child may, or the output would never end.
    drop(command);

    let mut tail = Vec::new();
    let status = {
        let reading = read_tail(&mut output, &mut tail);
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                group.release();
                // The status counts; of the output comes what comes.
                let _ = timeout(OUTPUT_GRACE, reading).await;
                status?
            }
            () = &mut reading => child.wait().await?,
        }
    };
    group.release();
    if status.success() {
        return Ok(());
    }
    let output = text(&tail);
    let last_line = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Err(Failure::new(match last_line {
        Some(line) => format!("{status}: {line}"),
        None => status.to_string(),
    }))
}

/// A running program with all that it has started; dropped, they are killed.
struct Group(Option<Pid>);

impl Group {
    /// The program has been waited for: its number may soon be another's.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // They may all have ended by themselves.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads to the end and keeps the last [`TAIL_MAX`] bytes. An error is an end as well.
async fn read_tail(output: &mut pipe::Receiver, tail: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..count]);
        let surplus = tail.len().saturating_sub(TAIL_MAX);
        tail.drain(..surplus);
    }
}

fn place(endpoint: &Endpoint) -> (String, String, String) {
    match endpoint {
        Endpoint::Ip(address) => (address.to_string(), address.ip().to_string(), address.port().to_string()),
        Endpoint::Unix(path) => (format!("unix:{}", path.display()), path.display().to_string(), String::new()),
    }
}

/// EAGAIN: this host's limit of processes.
fn cannot_start(program: &str, error: io::Error) -> Failure {
    let is_full = error.raw_os_error() == Some(libc::EAGAIN);
    let failure = Failure::from(error);
    Failure { why: format!("cannot start {program}: {}", failure.why), is_ours: failure.is_ours || is_full }
}
