//! Real PostgreSQL, Redis, MariaDB and unbound for tests: each in a folder and on a port of its own, ended when dropped.
//!
//! `start` answers `None` when the program is not installed. PostgreSQL refuses to run as root, so then it runs as the
//! user `postgres` (or `nobody`), by setpriv(1).

#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings fail")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{self, breathe, find, free_port, now, send_signal};

/// For a program to start and answer.
const START_TIME: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, as long as programs may take to start.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    harness::wait_until(START_TIME, what, condition);
}

/// Keys of a pool with this check (`kind = …`), quick enough for tests and slow enough for such servers; no ejection.
pub fn checks(kind: &str) -> String {
    let times = "interval = \"300ms\", fast_interval = \"100ms\", timeout = \"300ms\"";
    format!("health = {{ {kind}, {times}, rise = 1, fall = 2 }}\npassive = false\n")
}

/// A folder that others may enter, for programs that run as another user.
fn open_folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("evener-test-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    output
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    let errors = log.try_clone().unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().unwrap()
}

/// How often `text` stands in a log. Trying to connect instead could meet itself: the port is one that the kernel may
/// choose for the near end as well.
fn count(log: &Path, text: &str) -> usize {
    fs::read(log).map_or(0, |bytes| String::from_utf8_lossy(&bytes).matches(text).count())
}

/// Ends our own child by its own number and waits for it.
fn end(child: &mut Child, signal: &str) {
    if !matches!(child.try_wait(), Ok(None)) {
        return; // its number may be another's by now
    }
    send_signal(child.id(), signal);
    let start = now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        breathe();
    }
}

/// PostgreSQL with the role `postgres`, from a fresh initdb.
pub struct Postgres {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// What it has logged.
    pub log: PathBuf,
    bin: PathBuf,
    data: PathBuf,
    user: Option<(String, u32)>,
    child: Option<Child>,
    dir: TempDir,
}

impl Postgres {
    /// `hba` is the text of pg_hba.conf, `settings` more lines of postgresql.conf. Returns once it answers.
    pub fn start(hba: &str, settings: &str) -> Option<Self> {
        let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
            .unwrap_or_default();
        folders.sort();
        folders.reverse();
        let bin = find("initdb", &folders)?.parent()?.to_owned();
        let dir = open_folder();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        let user = other_user();
        if let Some((_, uid)) = &user {
            chown(&home, Some(*uid), None).unwrap();
        }
        let (data, log) = (home.join("data"), dir.path().join("log"));
        let mut postgres = Self { port: free_port(), log, bin, data, user, child: None, dir };
        let data = postgres.data.display().to_string();
        run(postgres.program("initdb").args(["-D", &data, "-U", "postgres", "-A", "trust", "-N", "--locale=C"]));
        fs::write(postgres.data.join("pg_hba.conf"), hba).unwrap();
        let basics = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n\
             log_connections = off\nlog_disconnections = off\nautovacuum = off\nmax_wal_senders = 0\n{settings}\n",
            postgres.port,
            home.display()
        );
        fs::write(postgres.data.join("postgresql.conf"), basics).unwrap();
        postgres.resume();
        Some(postgres)
    }

    /// Starts it (again) and waits until it listens.
    pub fn resume(&mut self) {
        const LISTENS: &str = "listening on IPv4 address";
        let before = count(&self.log, LISTENS);
        let data = self.data.display().to_string();
        self.child = Some(spawn(self.program("postgres").args(["-D", &data]), &self.log));
        wait_until("PostgreSQL listens", || count(&self.log, LISTENS) > before);
    }

    /// Ends it with SIGINT: fast shutdown.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child, "INT");
        }
    }

    /// Its data directory, of which it owns everything.
    pub fn write(&self, name: &str, text: &str) {
        let file = self.data.join(name);
        fs::write(&file, text).unwrap();
        if let Some((_, uid)) = &self.user {
            chown(&file, Some(*uid), None).unwrap();
        }
    }

    /// Runs SQL as `postgres` through the unix socket.
    pub fn sql(&self, sql: &str) -> Result<String, String> {
        let home = self.dir.path().join("home").display().to_string();
        let port = self.port.to_string();
        let arguments = ["-h", &home, "-p", &port, "-U", "postgres", "-d", "postgres", "-XAtqc", sql];
        answer(self.program("psql").args(arguments))
    }

    fn program(&self, name: &str) -> Command {
        let file = self.bin.join(name);
        let mut command = match &self.user {
            None => Command::new(file),
            Some((user, _)) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--clear-groups", "--"]).arg(file);
                command
            }
        };
        command.current_dir("/tmp").env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "20");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whom to become when we are root: name and number.
fn other_user() -> Option<(String, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    ["postgres", "nobody"].into_iter().find_map(|name| Some((name.to_owned(), id(&["-u", name])?)))
}

fn answer(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Redis without persistence.
pub struct Redis {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// What it has logged.
    pub log: PathBuf,
    child: Child,
    _dir: TempDir,
}

impl Redis {
    /// `settings` are more lines of redis.conf. Returns once it listens.
    pub fn start(settings: &str) -> Option<Self> {
        let program = find("redis-server", &[])?;
        let (dir, port) = (open_folder(), free_port());
        let (conf, log) = (dir.path().join("redis.conf"), dir.path().join("log"));
        let folder = dir.path().display();
        let basics = format!("port {port}\nbind 127.0.0.1\nsave \"\"\ndir {folder}\nloglevel verbose\n{settings}\n");
        fs::File::create(&conf).unwrap().write_all(basics.as_bytes()).unwrap();
        let child = spawn(Command::new(program).arg(conf), &log);
        wait_until("Redis listens", || count(&log, "Ready to accept connections") == 1);
        Some(Self { port, log, child, _dir: dir })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.child, "TERM");
    }
}

/// MariaDB with the root account open through its unix socket, and `max_connect_errors = 10`.
pub struct MariaDb {
    /// Where it listens, on all addresses.
    pub port: u16,
    /// What it has logged.
    pub log: PathBuf,
    client: PathBuf,
    child: Child,
    dir: TempDir,
}

impl MariaDb {
    /// Returns once it answers.
    pub fn start() -> Option<Self> {
        let (program, client) = (find("mariadbd", &[])?, find("mariadb", &[])?);
        let install = find("mariadb-install-db", &[])?;
        let (dir, port) = (open_folder(), free_port());
        let user = if other_user().is_some() { "--user=root" } else { "--user=" };
        let data = format!("--datadir={}", dir.path().join("data").display());
        let root = "--auth-root-authentication-method=normal";
        run(Command::new(install)
            .args(["--no-defaults", &data, root, "--skip-test-db"])
            .args(some(user))
            .env("TMPDIR", dir.path()));
        let log = dir.path().join("log");
        let mut command = Command::new(program);
        command.args(["--no-defaults", &data, "--bind-address=0.0.0.0", "--max-connect-errors=10"]);
        command.args(["--performance-schema=ON", "--log-warnings=2", "--innodb-flush-log-at-trx-commit=0"]);
        command.args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M"]).args(some(user));
        command.arg(format!("--port={port}")).arg(format!("--socket={}", dir.path().join("s").display()));
        command.arg(format!("--pid-file={}", dir.path().join("pid").display()));
        let child = spawn(command.env("TMPDIR", dir.path()), &log);
        let mariadb = Self { port, log, client, child, dir };
        wait_until("MariaDB answers", || mariadb.sql("SELECT 1").is_ok());
        Some(mariadb)
    }

    /// Runs SQL as root through the unix socket.
    pub fn sql(&self, sql: &str) -> Result<String, String> {
        let socket = format!("--socket={}", self.dir.path().join("s").display());
        answer(Command::new(&self.client).args(["--no-defaults", "-uroot", &socket, "-Ne", sql]))
    }

    /// Logs in over TCP without password.
    pub fn log_in(&self, user: &str, host: &str) -> Result<String, String> {
        let (user, host, port) = (format!("-u{user}"), format!("-h{host}"), format!("-P{}", self.port));
        answer(Command::new(&self.client).args(["--no-defaults", &user, &host, &port, "-Ne", "SELECT 1"]))
    }
}

fn some(argument: &str) -> Option<&str> {
    Some(argument).filter(|argument| !argument.ends_with('='))
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        end(&mut self.child, "TERM");
    }
}

/// unbound for the zone `test.` alone: it asks nobody else.
pub struct Unbound {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    log: PathBuf,
    _dir: TempDir,
}

impl Unbound {
    /// On a free port of `host`, with these records. Choose a host from which nobody sends: there no other socket is
    /// given the port of one that has ended. Returns once it serves.
    pub fn start(host: &str, records: &[String]) -> Option<Self> {
        let program = find("unbound", &[])?;
        let dir = open_folder();
        let (conf, log) = (dir.path().join("unbound.conf"), dir.path().join("log"));
        let address = UdpSocket::bind((host, 0)).unwrap().local_addr().unwrap();
        let records: String = records.iter().map(|record| format!("local-data: '{record}'\n")).collect();
        let text = format!(
            "server:\nverbosity: 1\nuse-syslog: no\nlogfile: \"\"\ndo-daemonize: no\nusername: \"\"\nchroot: \"\"\n\
             pidfile: \"\"\ndirectory: \"{}\"\nnum-threads: 1\ninterface: {host}\nport: {}\nmodule-config: iterator\n\
             local-zone: test. static\n{records}remote-control:\ncontrol-enable: no\n",
            dir.path().display(),
            address.port()
        );
        fs::write(&conf, text).unwrap();
        let child = spawn(Command::new(program).arg("-d").arg("-c").arg(conf), &log);
        wait_until("unbound serves", || count(&log, "start of service") == 1);
        Some(Self { address, child, log, _dir: dir })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it and says how many questions it was asked.
    pub fn stop(mut self) -> u64 {
        end(&mut self.child, "TERM");
        let log = fs::read_to_string(&self.log).unwrap();
        let stats = log.lines().find_map(|line| line.split_once("server stats for thread 0: ")).unwrap().1;
        stats.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        end(&mut self.child, "TERM");
    }
}
