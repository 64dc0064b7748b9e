//! What every end-to-end test stands on: a real evener process on ports the kernel chose, in-process backends that
//! behave and misbehave, clients, and waiting for an event instead of sleeping.
//!
//! `EVENER_BIN` names another binary to prove, for example an installed one.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

mod backend;
mod client;
pub mod datagram;
pub mod http;
mod line;
mod process;
pub mod tls;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use backend::{Backend, Pattern};
pub use client::{
    Ending, bound_from, connect, connect_from, digest_of, echo_digest, ending, exchange, http_get, is_refused,
    patiently, read_name, reset, shut_write, try_connect, try_connect_from, who, who_from,
};
pub use line::{Line, is_alive};
pub use process::{
    accepted_at, allow_many_files, asleep, cpu_time, find, has_keepalive_timer, inodes_listening_on, is_root,
    memory_of, require, require_root, rerun_inside, send_signal, skip,
};

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// The time; the tests measure real processes.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// The one sleep of the tests: between two looks, or to make two writes two segments.
#[allow(clippy::disallowed_methods)]
pub fn breathe() {
    std::thread::sleep(LOOK_EVERY);
}

/// Looks until `condition` holds; panics after `limit`, saying what was awaited.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        breathe();
    }
}

/// Looks for the whole of `span` whether `condition` still holds.
#[track_caller]
pub fn holds_for(span: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = now();
    while start.elapsed() < span {
        assert!(condition(), "after {:?} it no longer held that {what}", start.elapsed());
        breathe();
    }
}

/// Looks until `value` has stayed the same for `span`.
#[track_caller]
pub fn wait_until_steady<T: PartialEq>(limit: Duration, span: Duration, what: &str, mut value: impl FnMut() -> T) {
    let (mut last, mut since) = (value(), now());
    wait_until(limit, what, || {
        let value = value();
        if value != last {
            (last, since) = (value, now());
        }
        since.elapsed() > span
    });
}

/// Tells the threads of a load to stop, also when the test fails.
#[derive(Default)]
pub struct Flag(AtomicBool);

/// Raises its flag when it goes.
pub struct Raise<'a>(&'a Flag);

impl Flag {
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub fn raise_on_drop(&self) -> Raise<'_> {
        Raise(self)
    }
}

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

/// Keys of a pool whose backends are not checked.
pub const NO_CHECKS: &str = "health = { kind = \"none\" }\n";
/// The same for one whose backends are not ejected either.
pub const ALWAYS_UP: &str = "health = { kind = \"none\" }\npassive = false\n";

/// An entry of `backends`, with these further keys of TOML (`"weight = 3"`).
pub fn entry(name: &str, address: SocketAddr, keys: &str) -> String {
    let comma = if keys.is_empty() { "" } else { ", " };
    format!("{{ address = \"{address}\", name = \"{name}\"{comma}{keys} }}")
}

/// One listener `web` on a port of the kernel's choice and one pool `web` with these backends; the keys are lines of TOML.
pub fn config(listener_keys: &str, pool_keys: &str, backends: &[String]) -> String {
    format!(
        "[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n{listener_keys}\n\n[pool.web]\nbackends = [{}]\n{pool_keys}\n",
        backends.join(", ")
    )
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A port of this host.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("EVENER_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_evener")), PathBuf::from)
}

/// Runs the program with these arguments and nothing of our environment that it reads; one that hangs is ended
/// by timeout(1), whose status is 124.
pub fn evener(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    quiet(&mut command).args(["-k", "1", "20"]).arg(program()).args(arguments).output().unwrap()
}

fn quiet(command: &mut Command) -> &mut Command {
    for name in [
        "EVENER_CONFIG",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1")
}

/// What a run is made of before it starts.
pub struct Plan {
    toml: String,
    under: Vec<String>,
    environment: Vec<(String, String)>,
    sockets: Vec<(String, OwnedFd)>,
    passes_admin: bool,
}

impl Plan {
    /// Through another program, such as `prlimit`, which becomes evener by exec.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(ToString::to_string).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With sockets as a service manager passes them, each under its name; three at most, for a child is given that many
    /// descriptors without a word of unsafe code.
    pub fn passing(mut self, sockets: Vec<(String, OwnedFd)>) -> Self {
        self.sockets = sockets;
        self
    }

    /// The same with the admin API's socket.
    pub fn passing_admin(mut self) -> Self {
        self.passes_admin = true;
        self
    }

    /// Starts it and waits until the admin socket answers.
    pub fn start(self) -> Evener {
        let mut evener = self.spawn();
        evener.wait_until_it_answers();
        evener
    }

    /// Starts it, expects it to end by itself, and returns its status and what it said.
    pub fn fail(self) -> (Option<i32>, String) {
        let mut evener = self.spawn();
        let status = evener.wait(SOON);
        (status.code(), evener.log())
    }

    fn spawn(mut self) -> Evener {
        let folder = tempfile::Builder::new().prefix("evener-").tempdir().unwrap();
        let file = folder.path().join("evener.toml");
        fs::write(&file, with_admin(&self.toml, &folder.path().join("admin.sock"))).unwrap();
        let (access, operation) = (folder.path().join("access.log"), folder.path().join("operation.log"));
        let (out, err) = (File::create(&access).unwrap(), File::create(&operation).unwrap());
        let mut words = self.under;
        if self.passes_admin {
            let admin = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
            self.sockets.push(("admin".to_owned(), admin.into()));
        }
        if !self.sockets.is_empty() {
            words.extend(passing(self.sockets.len()));
        }
        words.push(program().to_str().unwrap().to_owned());
        let mut command = Command::new(&words[0]);
        quiet(&mut command).args(&words[1..]).args(["run", "-c"]).arg(&file);
        command.envs(self.environment).stdin(Stdio::null()).stdout(out).stderr(err);
        command.env("ACCESS", access).env("OPERATION", operation);
        let (names, sockets): (Vec<String>, Vec<OwnedFd>) = self.sockets.into_iter().unzip();
        if !names.is_empty() {
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        for (at, socket) in sockets.into_iter().enumerate() {
            match at {
                0 => command.stdin(socket),
                1 => command.stdout(socket),
                _ => command.stderr(socket),
            };
        }
        Evener { child: command.spawn().unwrap(), folder, ended: None }
    }
}

/// A shell that turns the first descriptors of a process into those from 3 on, and becomes what follows.
fn passing(count: usize) -> [String; 4] {
    let moves = ["3<&0", "4<&1", "5<&2"][..count].join(" ");
    let logs = r#"exec </dev/null >>"$ACCESS" 2>>"$OPERATION""#;
    let script = format!(r#"exec {moves}; {logs}; export LISTEN_PID=$$; exec "$@""#);
    ["bash", "-c", &script, "bash"].map(str::to_owned)
}

/// A running evener; dropping it kills this one process and nothing else.
pub struct Evener {
    child: Child,
    folder: tempfile::TempDir,
    ended: Option<ExitStatus>,
}

impl Evener {
    /// Runs this file. `process.admin` is added to it, and a JSON access log unless the file has a `log` of its own.
    pub fn start(toml: &str) -> Self {
        Self::plan(toml).start()
    }

    pub fn plan(toml: &str) -> Plan {
        let (under, environment, sockets) = (Vec::new(), Vec::new(), Vec::new());
        Plan { toml: toml.to_owned(), under, environment, sockets, passes_admin: false }
    }

    fn wait_until_it_answers(&mut self) {
        let start = now();
        while self.request("GET", "/v1/status", "").is_none_or(|(code, _)| code != 200) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("evener ended with {status} at its start:\n{}", self.log());
            }
            assert!(start.elapsed() < SOON, "the admin socket does not answer:\n{}", self.log());
            breathe();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("evener.toml")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The operation log (stderr) so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("operation.log")).unwrap()).into_owned()
    }

    /// The access log (stdout) so far.
    pub fn access(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("access.log")).unwrap()).into_owned()
    }

    /// The whole lines of a JSON access log so far.
    pub fn events(&self) -> Vec<Value> {
        let text = self.access();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many connections have ended for this reason, by the access log.
    pub fn endings(&self, reason: &str) -> usize {
        self.events().iter().filter(|event| event["event"] == "close" && event["reason"] == reason).count()
    }

    #[track_caller]
    pub fn wait_for_endings(&self, count: usize, reason: &str) {
        let start = now();
        while self.endings(reason) < count {
            assert!(start.elapsed() < SOON, "no {count} × {reason} in the access log:\n{}", self.access());
            breathe();
        }
    }

    /// A request to the admin API: status and body; `None` when nobody answers.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut socket = UnixStream::connect(self.admin()).ok()?;
        socket.set_read_timeout(Some(SOON)).ok()?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: evener\r\nconnection: close\r\ncontent-length: {length}\r\n");
        socket.write_all(format!("{head}content-type: application/json\r\n\r\n{body}").as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        client::parse_answer(&answer)
    }

    /// `GET /v1/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let (code, body) = self.request("GET", "/v1/status", "").expect("the admin socket answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    // The shape of the status stands in the next few functions and nowhere else.

    fn listener_of(status: &Value, name: &str) -> Option<Value> {
        status["listeners"].as_array()?.iter().find(|listener| listener["name"] == name).cloned()
    }

    /// Where the listener of this name really listens (its first address).
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let status = self.status();
        let found =
            Self::listener_of(&status, listener).unwrap_or_else(|| panic!("no listener {listener} in {status}"));
        found["bind"][0].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn port(&self, listener: &str) -> u16 {
        self.address(listener).port()
    }

    /// Whether it takes clients: a listener that only drains does not.
    pub fn has_listener(&self, name: &str) -> bool {
        Self::listener_of(&self.status(), name).is_some_and(|listener| listener["state"] == "listening")
    }

    /// A backend of a pool as the status shows it; `Null` when it is not there.
    pub fn backend(&self, pool: &str, backend: &str) -> Value {
        let status = self.status();
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let backends = pools.iter().find(|one| one["name"] == pool).map(|one| one["backends"].clone());
        let backends = backends.and_then(|list| list.as_array().cloned()).unwrap_or_default();
        backends.into_iter().find(|one| one["name"] == backend).unwrap_or(Value::Null)
    }

    /// `up`, `down` and so on.
    pub fn state(&self, pool: &str, backend: &str) -> String {
        self.backend(pool, backend)["state"].as_str().unwrap_or("absent").to_owned()
    }

    /// How many wait for a backend; 0 for a pool that is gone.
    pub fn queue_length(&self, pool: &str) -> u64 {
        let status = self.status();
        let pools = status["pools"].as_array().unwrap();
        pools.iter().find(|one| one["name"] == pool).map_or(0, |one| one["queue"]["length"].as_u64().unwrap())
    }

    pub fn active(&self, pool: &str, backend: &str) -> u64 {
        self.backend(pool, backend)["connections"]["active"].as_u64().unwrap_or(0)
    }

    #[track_caller]
    pub fn wait_for_state(&self, pool: &str, backend: &str, state: &str) {
        let start = now();
        while self.state(pool, backend) != state {
            let shown = self.backend(pool, backend);
            assert!(start.elapsed() < SOON, "{pool}/{backend} does not become {state}: {shown}\n{}", self.log());
            breathe();
        }
    }

    // Until here.

    /// A verb of the command line on this run's file.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let file = self.file();
        let mut words = arguments.to_vec();
        words.extend(["-c", file.to_str().unwrap()]);
        evener(&words)
    }

    /// The same; it has to succeed. Returns what it printed.
    #[track_caller]
    pub fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(output.status.success(), "evener {arguments:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes another file in place of the first and does nothing else.
    pub fn rewrite(&self, toml: &str) {
        let fresh = self.folder.path().join("evener.toml.new");
        fs::write(&fresh, with_admin(toml, &self.admin())).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }

    /// Writes another file and has it applied; when this returns, it holds.
    #[track_caller]
    pub fn reload(&self, toml: &str) {
        self.rewrite(toml);
        let output = self.cli(&["reload"]);
        assert!(output.status.success(), "reload: {output:?}\n{}", self.log());
    }

    /// Asks for a reload through the socket alone: a broken file cannot say where the socket is.
    pub fn try_reload(&self) -> Output {
        evener(&["reload", "--admin", self.admin().to_str().unwrap()])
    }

    /// "HUP", "TERM", …
    pub fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Whether the process has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.ended = self.ended.or_else(|| self.child.try_wait().unwrap());
        self.ended.is_none()
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = now();
        while self.runs() {
            assert!(start.elapsed() < limit, "evener has not ended within {limit:?}:\n{}", self.log());
            breathe();
        }
        self.ended.unwrap()
    }

    /// Ends it politely; it has to end with 0.
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.end_at_once();
        assert!(status.success(), "ended with {status}:\n{}", self.log());
    }

    /// Does not wait for connections: says it until it was heard twice, for two signals that come at once are one.
    #[track_caller]
    pub fn end_at_once(&mut self) -> ExitStatus {
        let start = now();
        while self.runs() {
            assert!(start.elapsed() < SOON, "evener has not ended within {SOON:?}:\n{}", self.log());
            self.signal("TERM");
            breathe();
        }
        self.wait(SOON)
    }
}

impl Drop for Evener {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let access = self.access();
            let last: Vec<&str> = access.lines().rev().take(10).collect();
            eprintln!("--- operation log\n{}\n--- end of the access log, last first\n{}", self.log(), last.join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file with `process.admin` in it, and with a machine-readable log when it does not ask for one itself.
pub fn with_admin(toml: &str, admin: &Path) -> String {
    let mut keys = format!("[process]\nadmin = \"{}\"\n", admin.display());
    if !toml.lines().any(|line| line.trim_start().starts_with("log =")) {
        keys.push_str("log = { format = \"json\" }\n");
    }
    match toml.split_once("[process]\n") {
        Some((before, after)) => format!("{before}{keys}{after}"),
        None => format!("{keys}\n{toml}"),
    }
}
