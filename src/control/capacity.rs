//! How many connections the limit of file descriptors allows.

use crate::config::{Bind, Config, Splice};
use crate::worker::PIPES_MAX;

/// Descriptors that are not for connections: standard streams, polls, wake-ups, the admin API, metrics, and checks, of
/// which 256 may be under way.
const RESERVED: u64 = 512;
/// A connection has a socket to the client and one to the backend.
const SOCKETS: u64 = 2;
/// A pipe has two ends.
const PIPE_ENDS: u64 = 2;
/// At most this part of all descriptors goes to pipes: only streams that wait for a slow reader hold one.
const PIPES_PART: u64 = 8;

/// Connections at once: what the file says, else what `fds` descriptors allow.
pub fn max_connections(config: &Config, fds: u64, workers: usize) -> u32 {
    match config.process.max_connections {
        Some(max) => max.get(),
        None => {
            let pipes = (pipes(config, fds, workers) * workers) as u64 * PIPE_ENDS;
            let sockets = room(config, fds, workers).saturating_sub(pipes);
            u32::try_from(sockets / SOCKETS).unwrap_or(u32::MAX).max(1)
        }
    }
}

/// Why `max_connections` of the file cannot be reached with `fds` descriptors, and what to do; `None` = it can.
pub fn shortage(config: &Config, fds: u64, workers: usize) -> Option<String> {
    let max = u64::from(config.process.max_connections?.get());
    let needed = max * SOCKETS + fds.saturating_sub(room(config, fds, workers));
    (needed > fds).then(|| {
        format!(
            "process.max_connections = {max} needs {needed} file descriptors, but the limit is {fds}: raise it \
             (systemd: LimitNOFILE={needed}; a shell: ulimit -n {needed})"
        )
    })
}

fn room(config: &Config, fds: u64, workers: usize) -> u64 {
    let sockets = config.listeners.iter().flat_map(|listener| &listener.bind).map(|bind| match bind {
        // One for each worker, and control's duplicate of it.
        Bind::Ip(_) => 2 * workers as u64,
        Bind::Unix(_) => 2,
    });
    fds.saturating_sub(RESERVED.min(fds / 2)).saturating_sub(sockets.sum())
}

/// Pipes that each worker may hold.
pub fn pipes(config: &Config, fds: u64, workers: usize) -> usize {
    match config.process.splice {
        Splice::Auto => {
            usize::try_from(fds / PIPES_PART / PIPE_ENDS).map_or(PIPES_MAX, |all| all / workers).min(PIPES_MAX)
        }
        Splice::Off => 0,
    }
}

/// Threads of the data plane: the file's number, else one for each core that the process may use.
pub fn workers(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
    config.process.workers.unwrap_or_else(cores).get()
}

#[cfg(test)]
mod tests {
    use super::super::sample::config;
    use super::*;

    #[test]
    fn without_a_number_in_the_file_the_descriptors_decide() {
        let mut config = config();
        config.process.splice = Splice::Off;
        assert_eq!(max_connections(&config, 10_512 + 4, 2), 5_000);
        config.process.splice = Splice::Auto;
        assert_eq!(max_connections(&config, 10_512 + 4, 2), 4_344);
        assert_eq!(max_connections(&config, 0, 2), 1);
    }

    #[test]
    fn a_number_in_the_file_that_does_not_fit_is_named_with_what_it_needs() {
        let mut config = config();
        config.process.max_connections = std::num::NonZero::new(50_000);
        assert_eq!(max_connections(&config, 1024, 2), 50_000);
        let what = shortage(&config, 1024, 2).expect("too few");
        assert!(what.contains("LimitNOFILE=100516"), "{what}");
        assert_eq!(shortage(&config, 100_516, 2), None);
        assert!(shortage(&config, 100_515, 2).is_some());
    }
}
