//! Whose limits count: those of the evener that runs with the file, else those that its unit will give to it, else those
//! of the shell that asks, whose children would have the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What systemd gives where a unit does not say (DefaultLimitNOFILE).
const UNIT_NOFILE: u64 = 524_288;
const UNIT: &str = "evener.service";
/// Where units are, the folder that beats all others last (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] = [
    "lib/systemd/system",
    "usr/lib/systemd/system",
    "usr/local/lib/systemd/system",
    "run/systemd/system",
    "etc/systemd/system",
];

/// Who holds the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The evener that runs, perhaps as a unit.
    Running(u32, Option<String>),
    /// The unit that starts one with this file.
    Unit(String),
    /// A shell.
    Shell,
}

/// A right that a process may have (capabilities(7)), by its number.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Right {
    NetBindService = 10,
    NetAdmin = 12,
    SysAdmin = 21,
    SysResource = 24,
}

const RIGHTS: [(&str, Right); 4] = [
    ("CAP_NET_BIND_SERVICE", Right::NetBindService),
    ("CAP_NET_ADMIN", Right::NetAdmin),
    ("CAP_SYS_ADMIN", Right::SysAdmin),
    ("CAP_SYS_RESOURCE", Right::SysResource),
];

/// Who it is, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub who: Who,
    /// File descriptors: the hard limit, to which evener raises its own.
    pub nofile: Option<u64>,
    /// The effective set, one bit each; `None` = not known.
    pub rights: Option<u64>,
    /// The control group, below that of all.
    pub group: Option<String>,
    /// Listeners whose sockets systemd opens: it needs no right of the process.
    pub sockets: Vec<String>,
}

impl Holder {
    /// Looks below `root`. A process that cannot be looked at does not count.
    pub fn find(root: &Path, file: &Path, running: Option<u32>) -> Self {
        let running = running.filter(|pid| runs(&root.join("proc").join(pid.to_string())));
        let mut holder = match (running, unit(root, file)) {
            (None, Some(unit)) => unit,
            (pid, _) => Self::process(root, pid),
        };
        if let Some(unit) = holder.unit() {
            holder.sockets = sockets(root, unit);
        }
        holder
    }

    fn process(root: &Path, pid: Option<u32>) -> Self {
        let folder = root.join("proc").join(pid.map_or("self".to_owned(), |pid| pid.to_string()));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let group = read("cgroup").lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned));
        let unit = group.as_ref().and_then(|group| group.rsplit('/').next()).filter(|name| name.ends_with(".service"));
        Self {
            who: pid.map_or(Who::Shell, |pid| Who::Running(pid, unit.map(str::to_owned))),
            nofile: read("limits").lines().find_map(|line| hard(line.strip_prefix("Max open files")?)),
            rights: read("status")
                .lines()
                .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()),
            group,
            sockets: Vec::new(),
        }
    }

    /// Whether it has the right. Nothing is said against one of which nothing is known.
    pub fn may(&self, right: Right) -> bool {
        self.rights.is_none_or(|rights| rights >> (right as u64) & 1 == 1)
    }

    /// In a sentence.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Running(pid, Some(unit)) => format!("the running evener ({unit}, pid {pid})"),
            Who::Running(pid, None) => format!("the running evener (pid {pid})"),
            Who::Unit(unit) => format!("the unit {unit}"),
            Who::Shell => "this shell".to_owned(),
        }
    }

    /// The unit whose settings change its limits.
    pub fn unit(&self) -> Option<&str> {
        match &self.who {
            Who::Running(_, unit) => unit.as_deref(),
            Who::Unit(unit) => Some(unit),
            Who::Shell => None,
        }
    }
}

/// Whether this is a folder of an `evener run`: the number may be of another namespace.
fn runs(folder: &Path) -> bool {
    std::fs::read(folder.join("cmdline")).is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == b"run"))
}

/// "   1024    1048576    files": the second one.
fn hard(limits: &str) -> Option<u64> {
    match limits.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The unit, where it starts evener with this file.
fn unit(root: &Path, file: &Path) -> Option<Holder> {
    let mut parts: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut own = None;
    for folder in UNIT_FOLDERS.map(|folder| root.join(folder)) {
        own = Some(folder.join(UNIT)).filter(|unit| unit.is_file()).or(own);
        let parts_here = std::fs::read_dir(folder.join(format!("{UNIT}.d"))).into_iter().flatten().flatten();
        parts.extend(parts_here.map(|part| (part.file_name().to_string_lossy().into_owned(), part.path())));
    }
    let parts = parts.into_values().filter(|part| part.extension().is_some_and(|end| end == "conf"));
    let texts = own.into_iter().chain(parts).filter_map(|path| std::fs::read_to_string(path).ok());
    let text: String = texts.map(|text| text + "\n").collect();
    let values = |key: &str| {
        let values = text.lines().filter_map(move |line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        values.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
    };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string();
    let starts = values("ExecStart");
    let default = |start: &String| !start.contains(" -c") && !start.contains("--config") && file == super::DEFAULT_FILE;
    if !starts.last().is_some_and(|start| start.split([' ', '=']).any(|word| word == file) || default(start)) {
        return None;
    }
    let nofile = values("LimitNOFILE").last().and_then(|limit| match limit.rsplit(':').next()? {
        "infinity" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    let is_root = values("User").last().is_none_or(|user| user == "root" || user == "0");
    let rights = if is_root { u64::MAX } else { rights(&values("AmbientCapabilities")) };
    let who = Who::Unit(UNIT.to_owned());
    Some(Holder {
        who,
        nofile: Some(nofile.unwrap_or(UNIT_NOFILE)),
        rights: Some(rights),
        group: None,
        sockets: Vec::new(),
    })
}

/// The names of the sockets that units of systemd open for this one (systemd.socket(5)).
fn sockets(root: &Path, unit: &str) -> Vec<String> {
    let entries =
        UNIT_FOLDERS.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten());
    let units = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "socket"));
    let named = units.filter_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        let value = |key: &str| {
            text.lines().find_map(|line| line.trim().strip_prefix(key).map(|value| value.trim().to_owned()))
        };
        let is_ours = match value("Service=") {
            Some(service) => service == unit,
            None => path.file_stem() == Path::new(unit).file_stem(),
        };
        value("FileDescriptorName=").filter(|_| is_ours)
    });
    named.collect()
}

/// Each line adds to those before; an empty one forgets them (systemd.exec(5)).
fn rights(lines: &[String]) -> u64 {
    lines.iter().fold(0, |rights, line| match line.is_empty() {
        true => 0,
        false => line.split_whitespace().fold(rights, |rights, word| {
            let known = RIGHTS.iter().find(|(name, _)| *name == word);
            rights | known.map_or(0, |(_, right)| 1 << (*right as u64))
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    const FILE: &str = "/etc/evener/evener.toml";
    const OWN: &str = "[Service]\nExecStart=/usr/bin/evener run -c /etc/evener/evener.toml\nUser=evener\nLimitNOFILE=1048576\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n";

    #[test]
    fn a_running_process_says_what_it_has() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "proc/42/cmdline", "/usr/bin/evener\0run\0-c\0x\0");
        put(
            root.path(),
            "proc/42/limits",
            "Limit  Soft  Hard  Units\nMax open files            1024                 4096                 files     \n",
        );
        put(root.path(), "proc/42/status", "Name:\tevener\nCapEff:\t0000000000000400\n");
        put(root.path(), "proc/42/cgroup", "0::/system.slice/evener.service\n");
        let holder = Holder::find(root.path(), Path::new(FILE), Some(42));
        assert_eq!(holder.who, Who::Running(42, Some("evener.service".into())));
        assert_eq!(holder.nofile, Some(4096));
        assert!(holder.may(Right::NetBindService) && !holder.may(Right::NetAdmin));
        assert_eq!(holder.group.as_deref(), Some("/system.slice/evener.service"));
    }

    #[test]
    fn a_number_that_is_somebody_else_does_not_count() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "proc/1/cmdline", "/sbin/init\0");
        put(
            root.path(),
            "proc/self/limits",
            "Max open files            1024                 unlimited            files\n",
        );
        for running in [Some(1), Some(7), None] {
            let holder = Holder::find(root.path(), Path::new(FILE), running);
            assert_eq!((holder.who, holder.nofile, holder.rights), (Who::Shell, Some(u64::MAX), None));
        }
    }

    #[test]
    fn the_unit_counts_where_it_starts_this_file_and_its_parts_beat_it() {
        let root = tempfile::tempdir().expect("a folder");
        let find = |file: &str| Holder::find(root.path(), Path::new(file), None);
        put(root.path(), "usr/lib/systemd/system/evener.service", OWN);
        assert_eq!(find(FILE).who, Who::Unit(UNIT.to_owned()));
        assert_eq!(find(FILE).nofile, Some(1_048_576));
        assert_eq!(find(FILE).rights, Some(1 << 10));
        assert_eq!(find("/tmp/evener.toml").who, Who::Shell);
        put(
            root.path(),
            "etc/systemd/system/evener.service.d/a.conf",
            "[Service]\nLimitNOFILE = 1024:2048\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_ADMIN CAP_SYS_RESOURCE\n",
        );
        put(root.path(), "etc/systemd/system/evener.service.d/b.txt", "[Service]\nLimitNOFILE=7\n");
        assert_eq!(find(FILE).nofile, Some(2048));
        assert_eq!(find(FILE).rights, Some(1 << 12 | 1 << 24));
        put(root.path(), "etc/systemd/system/evener.service", "[Service]\nExecStart=/usr/bin/evener run\n");
        put(root.path(), "etc/systemd/system/evener.service.d/a.conf", "");
        assert_eq!(find(FILE).nofile, Some(UNIT_NOFILE), "and the folder of this host beats that of the package");
        assert!(find(FILE).may(Right::SysAdmin), "no user is root");

        put(
            root.path(),
            "etc/systemd/system/evener-web.socket",
            "[Socket]\nFileDescriptorName=web\nService=evener.service\n",
        );
        put(root.path(), "etc/systemd/system/evener.socket", "[Socket]\nFileDescriptorName=pg\n");
        put(root.path(), "etc/systemd/system/other.socket", "[Socket]\nFileDescriptorName=db\n");
        let mut sockets = find(FILE).sockets;
        sockets.sort();
        assert_eq!(sockets, ["pg", "web"]);
    }
}
