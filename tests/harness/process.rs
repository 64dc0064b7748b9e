//! Looking at processes from outside: memory, CPU time, sockets; signals; and running a test again inside a namespace.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `send_signal(pid, "HUP")`; the shell's kill, for a test needs no unsafe code.
pub fn send_signal(pid: u32, name: &str) {
    let done = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Keeps a process from running meanwhile, so that it finds everything at once afterwards.
pub fn asleep(pid: u32, action: impl FnOnce()) {
    send_signal(pid, "STOP");
    super::wait_until(super::SOON, "all threads have stopped", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let mut stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap());
        stats.all(|stat| stat[stat.rfind(')').unwrap()..].starts_with(") T"))
    });
    action();
    send_signal(pid, "CONT");
}

/// Anonymous resident memory in bytes: what the process itself holds, without its code (proc(5), RssAnon).
pub fn memory_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// User and system time of all threads so far (proc(5), fields 14 and 15, in ticks of 10 ms).
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = &stat[stat.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The inodes of the IPv4 sockets that listen on this port: the same sockets have the same inodes.
pub fn inodes_listening_on(port: u16) -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let here = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && row[1].ends_with(&here)).map(|row| row[9].to_owned()).collect()
}

/// How many connections to a unix socket have been accepted and are open. Its name may have been a longer one when it was
/// made.
pub fn accepted_at(path: &Path) -> usize {
    const CONNECTED: &str = "03";
    let path = path.to_str().unwrap();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[5] == CONNECTED && row.get(7).is_some_and(|at| at.starts_with(path))).count()
}

/// Whether the kernel has a timer for keep-alive on this connection of 127.0.0.1, and no other one (proc_pid_net(5)).
pub fn has_keepalive_timer(local: SocketAddr, remote: SocketAddr) -> bool {
    const KEEPALIVE: &str = "02";
    let port = |column: &str| column.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut own = rows.filter(|row| (port(row[1]), port(row[2])) == (Some(local.port()), Some(remote.port())));
    own.next().is_some_and(|row| row[5].starts_with(KEEPALIVE))
}

/// Raises our own limit of open files to what we may have.
pub fn allow_many_files() {
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    let hard = String::from_utf8(hard.stdout).unwrap();
    let limit = hard.trim().parse::<u64>().unwrap_or(65536).min(65536);
    let _ =
        Command::new("prlimit").args([format!("--pid={}", std::process::id()), format!("--nofile={limit}:")]).output();
}

pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// A program in these folders or where programs are.
pub fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut all = folders.iter().cloned().chain(std::env::split_paths(&path)).chain(usual);
    all.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}

/// Whether these programs are there. If not, says that the test is skipped, or fails where all of them are required.
pub fn require(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|name| find(name, &[]).is_none()).collect();
    if !missing.is_empty() {
        skip(test, &format!("{missing:?}"));
    }
    missing.is_empty()
}

/// The same, and whether we are root: for tests that make network namespaces.
pub fn require_root(test: &str, programs: &[&str]) -> bool {
    if !is_root() {
        println!("SKIPPED {test}: needs root for network namespaces");
    }
    is_root() && require(test, programs)
}

/// Says that a test is skipped for what is missing, or fails where that is required.
pub fn skip(test: &str, missing: &str) {
    let required = std::env::var("EVENER_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs {missing}, and EVENER_REQUIRE_SERVERS=1");
    println!("SKIPPED {test}: {missing} missing");
}

/// Runs an ignored test of this very program again under `command` (a namespace) and passes its failure on.
pub fn rerun_inside(command: &[&str], test: &str, environment: &[(&str, &str)]) {
    let own = std::env::current_exe().unwrap();
    let mut words = command.to_vec();
    words.extend([own.to_str().unwrap(), "--exact", test, "--ignored", "--nocapture"]);
    let output = Command::new(words[0]).args(&words[1..]).envs(environment.iter().copied()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{test} inside {command:?}:\n{out}\n{err}");
}
