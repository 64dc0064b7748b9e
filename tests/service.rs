//! As a service: what the service manager is told, the unit file, and the installation.
#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Backend, Evener, NO_CHECKS, SOON, config, program, require, wait_until, wait_until_steady};

/// The other end of NOTIFY_SOCKET (sd_notify(3)).
struct Manager {
    folder: tempfile::TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ears = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                ears.lock().unwrap().push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        });
        Self { folder, heard }
    }

    fn start(&self, file: &str) -> Evener {
        let socket = self.folder.path().join("notify");
        let plan = Evener::plan(file).env("NOTIFY_SOCKET", socket.to_str().unwrap());
        plan.env("WATCHDOG_USEC", "300000").start()
    }

    fn count(&self, line: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().flat_map(|message| message.lines()).filter(|heard| heard.starts_with(line)).count()
    }

    /// The one message that holds this line.
    fn message(&self, line: &str) -> Option<String> {
        self.heard.lock().unwrap().iter().find(|message| message.lines().any(|heard| heard == line)).cloned()
    }

    #[track_caller]
    fn wait_for(&self, count: usize, line: &str) {
        wait_until(SOON, &format!("{count} × {line} is heard"), || self.count(line) >= count);
    }
}

#[test]
fn the_service_manager_is_told_everything_it_waits_for() {
    let (manager, backend) = (Manager::listen(), Backend::named("a"));
    let file = config("", "", &[backend.entry("")]);
    let mut evener = manager.start(&file);
    manager.wait_for(1, "READY=1");
    manager.wait_for(1, "STATUS=");
    manager.wait_for(3, "WATCHDOG=1");
    assert_eq!(manager.count("RELOADING=1"), 0);

    evener.rewrite(&file.replace("name = \"a\"", "name = \"b\""));
    evener.signal("HUP");
    manager.wait_for(2, "READY=1");
    let reloading = manager.message("RELOADING=1").unwrap();
    let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(stamp.parse::<u64>().unwrap() > 0, "in the same message: {reloading}");

    evener.rewrite("[[[");
    evener.signal("HUP");
    manager.wait_for(2, "RELOADING=1");
    manager.wait_for(3, "READY=1");

    evener.signal("TERM");
    manager.wait_for(1, "STOPPING=1");
    assert_eq!(evener.wait(SOON).code(), Some(0));
}

#[test]
fn a_stopped_process_gives_no_sign_of_life() {
    let (manager, backend) = (Manager::listen(), Backend::named("a"));
    let evener = manager.start(&config("", "", &[backend.entry("")]));
    manager.wait_for(1, "WATCHDOG=1");
    evener.signal("STOP");
    let start = harness::now();
    wait_until(SOON, "what was under way has arrived", || start.elapsed() > Duration::from_millis(50));
    let before = manager.count("WATCHDOG=1");
    harness::holds_for(Duration::from_millis(600), "it is silent", || manager.count("WATCHDOG=1") == before);
    evener.signal("CONT");
    manager.wait_for(before + 1, "WATCHDOG=1");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn install(destination: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(repository("scripts/install"));
    command.args(arguments).env("DESTDIR", destination).env("EVENER_BIN", program());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn installing_twice_is_installing_once_and_keeps_an_edited_file() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    install(root.path(), &[]);
    let installed = [
        "usr/local/bin/evener",
        "etc/systemd/system/evener.service",
        "etc/sysusers.d/evener.conf",
        "usr/local/share/man/man8/evener.8",
        "usr/local/share/bash-completion/completions/evener",
        "usr/local/share/zsh/site-functions/_evener",
        "usr/local/share/fish/vendor_completions.d/evener.fish",
        "etc/evener/evener.toml",
    ];
    let (conf, programs) = installed.split_last().unwrap();
    for path in installed {
        assert!(at(path).is_file(), "{path} is not there");
    }
    let check =
        Command::new(at("usr/local/bin/evener")).args(["check", "-c"]).arg(at("etc/evener/evener.toml")).output();
    assert_eq!(check.unwrap().status.code(), Some(0), "the file that comes with it is a good one");
    std::fs::write(at("etc/evener/evener.toml"), "# mine\n").unwrap();
    std::fs::write(at("usr/local/bin/evener"), "old").unwrap();
    install(root.path(), &[]);
    assert_eq!(std::fs::read_to_string(at("etc/evener/evener.toml")).unwrap(), "# mine\n");
    assert!(std::fs::metadata(at("usr/local/bin/evener")).unwrap().len() > 3, "the program is replaced");
    install(root.path(), &["--uninstall"]);
    for path in programs {
        assert!(!at(path).exists(), "{path} is still there");
    }
    assert_eq!(std::fs::read_to_string(at(conf)).unwrap(), "# mine\n", "yours stays");
    install(root.path(), &["--uninstall"]);
}

#[test]
fn an_idle_process_sleeps() {
    let evener = Evener::start(&config("", NO_CHECKS, &["\"127.0.0.1:1\"".to_owned()]));
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", evener.pid())).unwrap();
        let status = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        let count = |text: String| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        };
        status.map(count).sum()
    };
    let (limit, span) = (Duration::from_secs(20), Duration::from_secs(2));
    wait_until_steady(limit, span, "two seconds without a thread waking up", switches);
}

#[test]
fn the_unit_file_is_sound_and_gives_little_away() {
    if !require("the_unit_file_is_sound_and_gives_little_away", &["systemd-analyze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("evener.service");
    let text = std::fs::read_to_string(repository("systemd/evener.service")).unwrap();
    // It is not installed here, but built.
    std::fs::write(&unit, text.replace("=evener ", &format!("={} ", program().display()))).unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("evener.service")).collect();
    assert!(about_us.is_empty(), "{about_us:?}");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&unit)
        .output();
    let security = security.unwrap();
    assert!(security.status.success(), "exposure above 2.0:\n{}", String::from_utf8_lossy(&security.stdout));
}
