//! What the process asks of the kernel about itself: descriptors, and the cores of its threads.

use std::io;
use std::path::Path;

use super::check;

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

/// Gives freed memory back to the system that lies between what is still in use (malloc_trim(3)). Takes about a
/// millisecond for each 10 MB, during which other threads may wait to allocate.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
