//! An evener through its upgrades: whoever serves now, and the successor that stands still where a test wants it.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Output;
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Evener, Plan, SOON, send_signal, wait_until};

/// An evener and the processes that have succeeded it. Those are not our children: they are killed by their ids.
pub struct Line {
    evener: Evener,
    /// The file that says where the next successor is to stand still.
    stand: PathBuf,
    _folder: tempfile::TempDir,
}

impl Line {
    pub fn start(toml: &str) -> Self {
        Self::of(Evener::plan(toml))
    }

    pub fn of(plan: Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("evener-stand-").tempdir().unwrap();
        let stand = folder.path().join("at");
        let evener = plan.env("EVENER_TEST_STAND", stand.to_str().unwrap()).start();
        Self { evener, stand, _folder: folder }
    }

    /// Who serves now.
    #[track_caller]
    pub fn now(&self) -> u32 {
        self.status()["pid"].as_u64().unwrap() as u32
    }

    /// Upgrades; says what the command says, which has to be the truth.
    #[track_caller]
    pub fn upgrade(&self) -> String {
        let before = self.now();
        let said = self.cli_ok(&["upgrade"]);
        let now = self.now();
        assert_ne!(before, now, "another process answers");
        assert!(said.contains(&format!("process {now} ")), "{said}");
        said
    }

    /// Upgrades and waits until the process before has ended.
    #[track_caller]
    pub fn upgrade_wholly(&self) -> String {
        let before = self.now();
        let said = self.upgrade();
        wait_until(SOON, "the process before has ended", || !is_alive(before));
        said
    }

    /// An upgrade that comes to nothing.
    #[track_caller]
    pub fn fail(&self) -> String {
        let before = self.now();
        let output = self.cli(&["upgrade"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(self.now(), before, "{said}");
        said
    }

    pub fn begin(&self) -> JoinHandle<Output> {
        let admin = self.admin();
        std::thread::spawn(move || super::evener(&["upgrade", "--admin", admin.to_str().unwrap()]))
    }

    /// The next new process is to stand still at this step.
    pub fn stand_at(&self, step: &str) {
        let _ = fs::remove_file(self.pid_file());
        fs::write(&self.stand, step).unwrap();
    }

    /// Lets the one that stands go on, and all others.
    pub fn go_on(&self) {
        fs::write(&self.stand, "nowhere").unwrap();
    }

    /// Waits until a new process stands still; its process id.
    #[track_caller]
    pub fn standing(&self) -> u32 {
        let mut pid = None;
        wait_until(SOON, "the new process stands still", || {
            pid = fs::read_to_string(self.pid_file()).ok().and_then(|pid| pid.parse().ok());
            pid.is_some()
        });
        pid.unwrap()
    }

    fn pid_file(&self) -> PathBuf {
        let mut file = self.stand.clone().into_os_string();
        file.push(".pid");
        file.into()
    }
}

impl Deref for Line {
    type Target = Evener;

    fn deref(&self) -> &Evener {
        &self.evener
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let status =
            self.evener.request("GET", "/v1/status", "").and_then(|(_, body)| serde_json::from_str(&body).ok());
        let now = status.and_then(|status: Value| status["pid"].as_u64());
        if let Some(now) = now.filter(|now| *now as u32 != self.evener.pid()) {
            super::send_signal(now as u32, "KILL");
        }
    }
}

/// Whether a process runs; one that has ended and waits for its parent does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').is_some_and(|at| !stat[at..].starts_with(") Z"))
}
