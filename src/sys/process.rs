//! What the process asks of the kernel about itself: descriptors, also those that it was started with, and the cores of
//! its threads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use super::check;

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const PASSED_FIRST: RawFd = 3;
/// Descriptors that a service manager may pass.
const PASSED_MAX: RawFd = 4096;
/// What those have for a name that have none.
const UNNAMED: &str = "unknown";

/// Raises the soft limit of file descriptors (RLIMIT_NOFILE) to the hard one and returns it.
///
/// # Errors
/// Those of getrlimit(2); when only raising fails, the soft limit that stays is returned.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = nofile()?;
    if limit.rlim_cur < limit.rlim_max {
        let soft = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer names one rlimit that lives through the call.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).is_err() {
            return Ok(soft);
        }
    }
    Ok(limit.rlim_cur)
}

fn nofile() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer names one rlimit that the kernel may write.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// How many file descriptors are open. Since Linux 6.2 the size of /proc/self/fd says so (proc(5)); before, its
/// entries are counted.
///
/// # Errors
/// When /proc is not mounted.
pub fn open_fds() -> io::Result<u64> {
    let folder = Path::new("/proc/self/fd");
    match folder.metadata()?.len() {
        // The listing itself has one open.
        0 => Ok((folder.read_dir()?.count() as u64).saturating_sub(1)),
        count => Ok(count),
    }
}

/// The descriptors that a service manager has passed to this process, each with its name (LISTEN_FDS, LISTEN_PID and
/// LISTEN_FDNAMES, sd_listen_fds(3)). They are not passed on: they close at exec, and what speaks of them leaves the
/// environment. To be called first of all, before anything is opened and before there is another thread.
///
/// # Errors
/// When the variables make no sense, name a descriptor that is not open, or when there is another thread already.
pub fn take_passed() -> io::Result<Vec<(String, OwnedFd)>> {
    let variable = |name| std::env::var(name).ok();
    let passed = passed_names(
        std::process::id(),
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
    );
    let passed = passed.map_err(io::Error::other)?;
    let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];
    if !variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(Vec::new());
    }
    if Path::new("/proc/self/task").read_dir()?.count() != 1 {
        return Err(io::Error::other("the descriptors of the service manager are asked for too late"));
    }
    // SAFETY: this thread is the only one, so that nobody reads the environment meanwhile.
    variables.iter().for_each(|name| unsafe { std::env::remove_var(name) });
    let claim = |(fd, name): (RawFd, String)| {
        // SAFETY: it takes no pointer; a descriptor that is not open is an error.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })
            .map_err(|error| io::Error::other(format!("LISTEN_FDS: descriptor {fd} cannot be used: {error}")))?;
        // SAFETY: it is open, was given to this process for itself, and a second call finds no variable that names it.
        Ok((name, unsafe { OwnedFd::from_raw_fd(fd) }))
    };
    (PASSED_FIRST..).zip(passed).map(claim).collect()
}

/// The names of the descriptors that are passed, by what the environment says of them.
fn passed_names(own: u32, pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Result<Vec<String>, String> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    // What another process was passed is nothing to this one, which was started by it.
    if pid.parse() != Ok(own) {
        return Ok(Vec::new());
    }
    let count = match count.parse::<RawFd>() {
        Ok(count) if (0..=PASSED_MAX).contains(&count) => count as usize,
        _ => return Err(format!("LISTEN_FDS={count:?} is no number from 0 to {PASSED_MAX}")),
    };
    let named = names.filter(|names| !names.is_empty()).map(|names| names.split(':').map(str::to_owned));
    let names: Vec<String> = named.map_or_else(|| vec![UNNAMED.to_owned(); count], Iterator::collect);
    if names.len() != count {
        return Err(format!("LISTEN_FDNAMES has {} names for LISTEN_FDS={count}", names.len()));
    }
    Ok(names)
}

/// How long each thread of the process has been on a core, by its name (proc(5), schedstat). Threads of one name are
/// added up; those that the kernel does not tell of are left out.
pub fn thread_times() -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    let Ok(threads) = Path::new("/proc/self/task").read_dir() else { return times };
    for thread in threads.flatten().map(|entry| entry.path()) {
        let read = |name| std::fs::read_to_string(thread.join(name)).ok();
        let nanos = read("schedstat").and_then(|stat| stat.split(' ').next()?.parse().ok());
        if let (Some(name), Some(nanos)) = (read("comm"), nanos) {
            *times.entry(name.trim_end().to_owned()).or_default() += Duration::from_nanos(nanos);
        }
    }
    times
}

/// Pins the calling thread to one core, counted among those the process may use; wraps around (sched_setaffinity(2)).
///
/// # Errors
/// Those of sched_getaffinity(2) and sched_setaffinity(2).
pub fn pin_thread(index: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `allowed` is a valid cpu_set_t of the size given, and pid 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) })?;
    // SAFETY: the numbers stay below CPU_SETSIZE, the bits that the set holds.
    let cores: Vec<usize> =
        (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &allowed) }).collect();
    let Some(core) = cores.get(index % cores.len().max(1)) else {
        return Err(io::Error::other("the process may use no core"));
    };
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` came out of a set of the same size.
    unsafe { libc::CPU_SET(*core, &mut one) };
    // SAFETY: `one` is a valid cpu_set_t of the size given, and pid 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one) })?;
    Ok(())
}

/// Whether something keeps the clock of this host right (adjtimex(2)).
///
/// # Errors
/// Where a sandbox forbids the question.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: an all-zero timex asks and changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer names one timex that the kernel may write.
    check(unsafe { libc::adjtimex(&raw mut timex) })?;
    Ok(timex.status & libc::STA_UNSYNC == 0)
}

/// Gives what this thread has freed back to the system at once, also what lies between things that are still in use. By
/// itself the allocator does so when the thread asks for memory again, which one that has become idle does not.
pub fn release_free_memory() {
    // SAFETY: it takes no pointer, and looks only at this thread's own heap and what threads that have ended left.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_descriptors_have_their_names_and_only_those_for_this_process_count() {
        let read = |pid, count, names| passed_names(7, pid, count, names);
        assert_eq!(read(None, None, None), Ok(vec![]));
        assert_eq!(read(Some("8"), Some("2"), Some("a:b")), Ok(vec![]));
        assert_eq!(read(Some("x"), Some("2"), None), Ok(vec![]));
        assert_eq!(read(Some("7"), Some("2"), Some("a:b")), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(read(Some("7"), Some("1"), None), Ok(vec!["unknown".into()]));
        assert_eq!(read(Some("7"), Some("0"), None), Ok(vec![]));
        for (count, names) in [("-1", None), ("4097", None), ("many", None), ("2", Some("a")), ("1", Some("a:b"))] {
            assert!(read(Some("7"), Some(count), names).is_err(), "{count} {names:?}");
        }
    }

    #[test]
    fn an_open_file_is_counted() {
        let before = open_fds().expect("/proc");
        let files: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        // Other tests open and close files meanwhile, but not a hundred.
        assert!(open_fds().expect("/proc") > before + 50);
        drop(files);
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let raised = raise_nofile().expect("a limit");
        let now = nofile().expect("a limit");
        assert_eq!((now.rlim_cur, now.rlim_cur), (raised, now.rlim_max));
    }
}
