//! What is so on this host, gathered in one place: all files are read below a root, which tests put in a folder of their
//! own. Whatever cannot be read is simply not known, and nothing is said of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::SystemTime;

use super::holder::Holder;
use crate::config::{Bind, Config};
use crate::control::capacity;
use crate::sys::process::is_clock_synchronised;

/// The settings of the kernel that are looked at, as sysctl(8) names them.
const SYSCTLS: [&str; 20] = [
    "fs.file-max",
    "fs.nr_open",
    "fs.pipe-user-pages-soft",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_fastopen",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
];

/// The state of the host as far as the file asks for it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whose limits count.
    pub holder: Holder,
    /// Threads of the data plane.
    pub workers: usize,
    /// Of the kernel, by their names.
    pub sysctls: BTreeMap<String, String>,
    /// Linux, its first two numbers.
    pub kernel: Option<(u32, u32)>,
    /// Bytes of memory that the process may have: of the host, or of a control group around it where that is less.
    pub memory: Option<u64>,
    /// Addresses of the file that cannot be bound here, and the kernel's answer.
    pub absent: Vec<(IpAddr, String)>,
    /// Whether something keeps the clock right; `None` = nobody knows.
    pub is_synchronised: Option<bool>,
    /// The time of day.
    pub now: SystemTime,
}

impl Facts {
    /// Looks at the host below `root` ("/"), at the process `running` or at what would start it.
    pub fn gather(root: &Path, file: &Path, config: &Config, running: Option<u32>, now: SystemTime) -> Self {
        let holder = Holder::find(root, file, running);
        let read = |name: &&str| {
            let path = root.join("proc/sys").join(name.replace('.', "/"));
            Some(((*name).to_owned(), std::fs::read_to_string(path).ok()?.trim().to_owned()))
        };
        Self {
            workers: capacity::workers(config),
            sysctls: SYSCTLS.iter().filter_map(read).collect(),
            kernel: std::fs::read_to_string(root.join("proc/sys/kernel/osrelease"))
                .ok()
                .and_then(|text| version(&text)),
            memory: memory(root, &holder),
            absent: absent(config),
            is_synchronised: is_clock_synchronised().ok(),
            holder,
            now,
        }
    }

    /// The numbers of a setting; empty where it is not known.
    pub fn numbers(&self, sysctl: &str) -> Vec<u64> {
        let words = self.word(sysctl).unwrap_or_default().split_whitespace();
        words.map_while(|word| word.parse().ok()).collect()
    }

    /// The one number of a setting.
    pub fn number(&self, sysctl: &str) -> Option<u64> {
        self.numbers(sysctl).first().copied()
    }

    /// A setting that is a word.
    pub fn word(&self, sysctl: &str) -> Option<&str> {
        debug_assert!(SYSCTLS.contains(&sysctl), "{sysctl} is not gathered");
        self.sysctls.get(sysctl).map(String::as_str)
    }
}

/// "6.1.0-37-amd64" is 6.1.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn memory(root: &Path, holder: &Holder) -> Option<u64> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    let groups = holder.group.iter().flat_map(|group| Path::new(group.trim_start_matches('/')).ancestors());
    let limits = groups.filter_map(|group| {
        let limit = std::fs::read_to_string(root.join("sys/fs/cgroup").join(group).join("memory.max")).ok()?;
        limit.trim().parse().ok()
    });
    Some(limits.chain([total]).min().unwrap_or(total))
}

/// Asks the kernel itself, with a socket that is closed again at once: it knows of routes to whole networks, of addresses
/// that may be bound before they are there, and of hosts without IPv6.
fn absent(config: &Config) -> Vec<(IpAddr, String)> {
    let binds = config.listeners.iter().flat_map(|listener| &listener.bind).filter_map(|bind| match bind {
        Bind::Ip(address) => Some(*address),
        Bind::Unix(_) => None,
    });
    let sources = config.pools.iter().filter_map(|pool| pool.source).map(|source| SocketAddr::new(source, 0));
    // With any port, but with the interface that a link-local address names.
    let any_port = |mut address: SocketAddr| {
        address.set_port(0);
        address
    };
    let mut all: Vec<SocketAddr> = binds.chain(sources).chain(config.process.metrics).map(any_port).collect();
    all.sort_unstable();
    all.dedup();
    let refused = |address: SocketAddr| Some((address.ip(), UdpSocket::bind(address).err()?.to_string()));
    all.into_iter().filter_map(refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_kernel_are_read() {
        for (text, read) in [
            ("6.1.0-37-amd64\n", Some((6, 1))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("4.18", Some((4, 18))),
            ("", None),
            ("six", None),
        ] {
            assert_eq!(version(text), read, "{text}");
        }
    }

    #[test]
    fn a_host_is_read_below_its_root_and_what_is_not_there_is_not_known() {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let config = crate::config::sample::config();
        let gather = |running| Facts::gather(root.path(), Path::new("/x"), &config, running, SystemTime::UNIX_EPOCH);
        let nothing = gather(None);
        assert_eq!((nothing.sysctls.len(), nothing.kernel, nothing.memory), (0, None, None));
        put("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        put("proc/sys/net/core/somaxconn", "4096\n");
        put("proc/sys/net/ipv4/tcp_congestion_control", "bbr\n");
        put("proc/sys/kernel/osrelease", "6.1.0-37-amd64\n");
        put("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
        put("proc/7/cmdline", "evener\0run\0");
        put("proc/7/cgroup", "0::/system.slice/evener.service\n");
        put("sys/fs/cgroup/system.slice/evener.service/memory.max", "1048576\n");
        let facts = gather(Some(7));
        assert_eq!(facts.numbers("net.ipv4.ip_local_port_range"), [32_768, 60_999]);
        assert_eq!(facts.number("net.core.somaxconn"), Some(4096));
        assert_eq!(facts.word("net.ipv4.tcp_congestion_control"), Some("bbr"));
        assert_eq!((facts.kernel, facts.memory), (Some((6, 1)), Some(1 << 20)));
        assert_eq!(facts.number("net.netfilter.nf_conntrack_max"), None);
        assert_eq!(gather(None).memory, Some(2 << 20), "the shell is in no group");
        put("sys/fs/cgroup/system.slice/memory.max", "524288\n");
        assert_eq!(gather(Some(7)).memory, Some(1 << 19), "the group around it has less");
        assert!(facts.absent.is_empty(), "127.0.0.1 is here: {:?}", facts.absent);
    }
}
