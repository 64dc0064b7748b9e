//! Other real servers behind evener, with their own clients: nginx, Redis, MariaDB.
#![allow(clippy::unwrap_used)]

mod harness;
#[path = "harness/servers.rs"]
mod servers;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use harness::{Evener, Pattern, SOON, config, digest_of, entry, find, free_port, http_get, local, require, wait_until};
use servers::{MariaDb, Redis, checks};

fn run(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// evener before servers at these ports of this host.
fn start(check: &str, servers: &[(&str, u16)]) -> Evener {
    let entries: Vec<String> = servers.iter().map(|&(name, port)| entry(name, local(port), "")).collect();
    Evener::start(&config("", &checks(check), &entries))
}

/// nginx on a port of its own, serving a folder; ended when dropped.
struct Nginx {
    port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    fn start(name: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // Its workers give up root, and still have to read this.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (here, port) = (folder.path().display(), free_port());
        fs::write(folder.path().join("name"), name).unwrap();
        Pattern::default().send(&mut fs::File::create(folder.path().join("big")).unwrap(), 24 << 20).unwrap();
        let conf = format!(
            "worker_processes 1;\ndaemon off;\npid {here}/pid;\nerror_log {here}/error.log;\nevents {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3;\n\
             uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5; sendfile on;\n\
             server {{ listen 127.0.0.1:{port}; root {here}; }} }}\n"
        );
        fs::write(folder.path().join("nginx.conf"), conf).unwrap();
        let mut nginx = Self { port, child: Self::spawn(folder.path()), folder };
        nginx.wait();
        nginx
    }

    fn spawn(folder: &Path) -> Child {
        let mut command = Command::new(find("nginx", &[]).unwrap());
        command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&mut self) {
        wait_until(SOON, "nginx answers", || http_get(self.port, "/name").is_ok());
    }

    fn stop(&mut self) {
        harness::send_signal(self.child.id(), "TERM");
        self.child.wait().unwrap();
    }

    fn resume(&mut self) {
        self.child = Self::spawn(self.folder.path());
        self.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.stop();
        }
    }
}

#[test]
fn nginx_serves_large_files_and_falls_and_rises() {
    if !require("nginx_serves_large_files_and_falls_and_rises", &["nginx", "curl"]) {
        return;
    }
    let (mut one, other) = (Nginx::start("one"), Nginx::start("other"));
    let check = "kind = \"http\", path = \"/name\", status = \"200\"";
    let evener = start(check, &[("one", one.port), ("other", other.port)]);
    let url = format!("http://127.0.0.1:{}", evener.port("web"));
    let names: BTreeSet<String> = (0..6).map(|_| text(&run(&["curl", "-sSf", &format!("{url}/name")]))).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for _ in 0..2 {
        let got = evener.folder().join("big");
        text(&run(&["curl", "-sSf", "-o", got.to_str().unwrap(), &format!("{url}/big")]));
        assert_eq!(digest_of(&mut fs::File::open(&got).unwrap()).unwrap(), Pattern::digest(24 << 20));
    }
    one.stop();
    for _ in 0..6 {
        assert_eq!(text(&run(&["curl", "-sSf", &format!("{url}/name")])), "other");
    }
    evener.wait_for_state("web", "one", "down");
    one.resume();
    evener.wait_for_state("web", "one", "up");
    wait_until(SOON, "it serves again", || text(&run(&["curl", "-sSf", &format!("{url}/name")])) == "one");
}

#[test]
fn redis_answers_its_own_client_and_its_own_benchmark() {
    let test = "redis_answers_its_own_client_and_its_own_benchmark";
    if !require(test, &["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let redis = Redis::start("").unwrap();
    let evener = start("kind = \"redis\"", &[("redis", redis.port)]);
    evener.wait_for_state("web", "redis", "up");
    let port = evener.port("web").to_string();
    let tool = |name: &str, words: &[&str]| text(&run(&[&[name, "-h", "127.0.0.1", "-p", &port], words].concat()));
    assert_eq!(tool("redis-cli", &["SET", "horse", "evener"]), "OK");
    assert_eq!(tool("redis-cli", &["GET", "horse"]), "evener");
    // Many small ones, pipelined; then a few of a megabyte.
    for load in [["-n", "20000", "-c", "30", "-P", "4"], ["-n", "200", "-c", "4", "-d", "1000000"]] {
        let said = tool("redis-benchmark", &[&["-q", "-t", "set,get"][..], &load].concat());
        assert!(!said.to_lowercase().contains("error"), "{said}");
    }
}

#[test]
fn mariadb_speaks_first_and_is_heard() {
    if !require("mariadb_speaks_first_and_is_heard", &["mariadbd", "mariadb", "mariadb-install-db"]) {
        return;
    }
    let mariadb = MariaDb::start().unwrap();
    mariadb.sql("CREATE USER 'rider'@'%'; CREATE USER 'check'@'%'").unwrap();
    let evener = start("kind = \"mysql\", user = \"check\"", &[("mariadb", mariadb.port)]);
    evener.wait_for_state("web", "mariadb", "up");
    let port = format!("-P{}", evener.port("web"));
    for number in 0..5 {
        let query = format!("SELECT {number} + 1");
        let words = ["mariadb", "--no-defaults", "-urider", "-h127.0.0.1", &port, "-Ne", &query];
        assert_eq!(text(&run(&words)), (number + 1).to_string());
    }
    let large = "SELECT LENGTH(REPEAT('x', 8000000)), REPEAT('y', 8000000)";
    let words = ["mariadb", "--no-defaults", "--max-allowed-packet=16M", "-urider", "-h127.0.0.1", &port, "-Ne", large];
    assert!(text(&run(&words)).starts_with("8000000\tyyy"));
}
