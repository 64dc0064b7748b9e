//! The Debian package: what is in it, and installing, upgrading, removing and purging it in a Debian of its own, made by
//! debootstrap from the mirror that this host has in /etc/apt.

#![allow(clippy::unwrap_used)] // everything here is a test

mod harness;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{program, require, require_root, skip};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn both(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Packages the program under test.
fn package(folder: &Path, version: &str) -> PathBuf {
    let mut script = Command::new("/usr/bin/python3");
    script.arg(repository("scripts/package")).arg("--output").arg(folder).args(["--quick", "--version", version]);
    run(script.env("EVENER_BIN", program()));
    let is_ours = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains(&format!("_{version}_"));
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(is_ours).unwrap()
}

/// Whether a package can be made here.
fn is_there(test: &str) -> bool {
    let python = Command::new("/usr/bin/python3").args(["-c", "import tomllib"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        skip(test, "Python 3.11");
        return false;
    }
    require(test, &["dpkg-deb", "dpkg"])
}

#[test]
fn the_package_has_what_an_operator_looks_for() {
    if !is_there("the_package_has_what_an_operator_looks_for") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let deb = package(folder.path(), "0.1.0-1");
    let listed = run(Command::new("dpkg-deb").arg("-c").arg(&deb));
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/evener"),
        ("-rw-r--r-- root/root", "./etc/evener/evener.toml"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/evener.service"),
        ("-rw-r--r-- root/root", "./usr/lib/sysusers.d/evener.conf"),
        ("-rw-r--r-- root/root", "./usr/share/man/man8/evener.8.gz"),
        ("-rw-r--r-- root/root", "./usr/share/bash-completion/completions/evener"),
        ("-rw-r--r-- root/root", "./usr/share/zsh/vendor-completions/_evener"),
        ("-rw-r--r-- root/root", "./usr/share/fish/vendor_completions.d/evener.fish"),
        ("-rw-r--r-- root/root", "./usr/share/doc/evener/copyright"),
        ("-rw-r--r-- root/root", "./usr/share/doc/evener/operations.md"),
        ("-rw-r--r-- root/root", "./usr/share/doc/evener/examples/dns.toml"),
    ] {
        let line = listed.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("no {path} in\n{listed}"));
        assert!(line.starts_with(mode), "{line}");
    }
    let field = |name: &str| run(Command::new("dpkg-deb").arg("-f").arg(&deb).arg(name)).trim().to_owned();
    assert_eq!((field("Package"), field("Version")), ("evener".to_owned(), "0.1.0-1".to_owned()));
    assert!(field("Depends").contains("libc6") && !field("Depends").contains("$auto"), "{}", field("Depends"));
    let conffiles = run(Command::new("dpkg-deb").args(["-I"]).arg(&deb).arg("conffiles"));
    assert_eq!(conffiles, "/etc/evener/evener.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        let text = run(Command::new("dpkg-deb").args(["-I"]).arg(&deb).arg(script));
        assert_eq!(text, std::fs::read_to_string(repository("scripts/debian").join(script)).unwrap());
        run(Command::new("sh").args(["-n"]).arg(repository("scripts/debian").join(script)));
    }
}

/// A Debian, made once and kept with what is built; `None` where there is no mirror.
fn debian() -> Option<PathBuf> {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    if base.join("complete").exists() {
        return Some(base);
    }
    let list = ["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages", "Component: main"];
    let mirrors = run(Command::new("apt-get").args(list));
    let (site, release) = mirrors.lines().find_map(|line| line.split_once(' '))?;
    let _ = std::fs::remove_dir_all(&base);
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=systemd,procps,libgcc-s1", release]).arg(&base).arg(site);
    let output = command.output().unwrap();
    if !output.status.success() {
        println!("debootstrap: {}", both(&output));
        return None;
    }
    std::fs::write(base.join("complete"), "").unwrap();
    Some(base)
}

/// A copy of it, which goes with the test.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn copy(base: &Path) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(folder.path().join("root")));
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    /// Runs a line of shell in it, with processes and mounts of its own.
    fn sh(&self, line: &str) -> Output {
        let root = self.at("");
        let script = format!("mount -t proc proc '{0}/proc' && exec chroot '{0}' /bin/sh -ec '{line}'", root.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--net", "sh", "-c", &script]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").output().unwrap()
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let output = self.sh(line);
        assert!(output.status.success(), "{line}: {}", both(&output));
        both(&output)
    }

    fn install(&self, deb: &Path) {
        std::fs::copy(deb, self.at("tmp/evener.deb")).unwrap();
        self.ok("dpkg -i /tmp/evener.deb");
    }

    /// A systemctl that is asked in place of systemd's, which does not run here, and writes down what for.
    fn pretend_systemd(&self, version: &str) {
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> /tmp/asked\n[ \"$1\" != --version ] || echo 'systemd {version} ({version}-1)'\n"
        );
        std::fs::create_dir_all(self.at("run/systemd/system")).unwrap();
        for path in ["usr/local/bin/systemctl", "usr/local/sbin/systemctl"] {
            std::fs::write(self.at(path), &script).unwrap();
            run(Command::new("chmod").arg("755").arg(self.at(path)));
        }
        // What deb-systemd-invoke asks before it does anything.
        let _ = std::fs::remove_file(self.at("usr/sbin/policy-rc.d"));
    }
}

#[test]
fn it_is_installed_upgraded_removed_and_purged_as_debian_has_it() {
    let test = "it_is_installed_upgraded_removed_and_purged_as_debian_has_it";
    if !require_root(test, &["debootstrap", "unshare", "apt-get"]) || !is_there(test) {
        return;
    }
    let Some(base) = debian() else { return skip(test, "a Debian mirror") };
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (package(folder.path(), "0.1.0-1"), package(folder.path(), "0.1.0-2"));
    let machine = Machine::copy(&base);
    const FILE: &str = "etc/evener/evener.toml";
    const PART: &str = "usr/lib/systemd/system/evener.service.d/notify-reload.conf";

    machine.install(&first);
    machine.ok("getent passwd evener && evener check");
    machine.ok("evener --version && evener doctor --json > /tmp/doctor.json || test $? = 1");
    assert!(machine.read("tmp/doctor.json").contains("the unit evener.service"), "the unit that was installed counts");
    let verified = machine.ok("systemd-analyze verify --man=no evener.service");
    assert!(!verified.contains("evener.service"), "{verified}");
    machine.ok("systemd-analyze security --offline=true --threshold=20 --no-pager evener.service");
    assert!(
        !machine.at("etc/systemd/system/multi-user.target.wants/evener.service").exists(),
        "nothing starts by itself"
    );
    assert!(!machine.at(PART).exists() || !machine.ok("systemctl --version").contains("systemd 252"));

    let edited = machine.read(FILE) + "# mine\n";
    std::fs::write(machine.at(FILE), &edited).unwrap();
    machine.pretend_systemd("257");
    machine.install(&second);
    assert_eq!(machine.read(FILE), edited, "what was edited stays");
    assert!(machine.read(PART).contains("Type=notify-reload"), "this systemd is new enough");
    let asked = machine.read("tmp/asked");
    assert!(asked.contains("daemon-reload") && asked.contains("is-active --quiet evener.service"), "{asked}");
    assert!(!asked.contains("stop evener.service"), "an upgrade stops nothing: {asked}");
    // The one that runs is nobody's here, so that it cannot be handed over.
    assert!(asked.lines().any(|line| line.contains("restart") && line.contains("evener.service")), "{asked}");

    // A file that the new program refuses would end it for good: then the program before it goes on.
    std::fs::write(machine.at(FILE), "unknown = 1\n").unwrap();
    std::fs::remove_file(machine.at("tmp/asked")).unwrap();
    machine.install(&first);
    assert!(!machine.read("tmp/asked").contains("restart"), "{}", machine.read("tmp/asked"));
    std::fs::write(machine.at(FILE), &edited).unwrap();

    machine.ok("dpkg -r evener");
    assert!(!machine.at("usr/bin/evener").exists() && !machine.at(PART).exists());
    assert!(machine.read("tmp/asked").contains("stop evener.service"), "{}", machine.read("tmp/asked"));
    assert_eq!(machine.read(FILE), edited, "the file stays");
    machine.install(&second);
    assert_eq!(machine.read(FILE), edited, "and is found again");
    machine.ok("dpkg -P evener");
    assert!(!machine.at("etc/evener").exists(), "nothing is left");
    assert!(!machine.at("usr/lib/systemd/system/evener.service.d").exists());
}
