//! What the service manager is told (sd_notify(3)); without one, nothing happens.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sd_notify::NotifyState;

use crossbeam_utils::CachePadded;

use crate::stats::WorkerStats;

/// Another process is the service now: what happens here is nothing to the manager.
static IS_SUCCEEDED: AtomicBool = AtomicBool::new(false);

/// How often systemd wants a sign of life: half of WATCHDOG_USEC; `None` = not at all.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Listeners are bound and the workers run.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line about the state of things.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The file is being read again; ends with [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// On the way out.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// This process serves from now on: those are the last words of this one, which is still the one that is listened to.
pub fn succeeded_by(pid: u32) {
    send(&[NotifyState::MainPid(pid)]);
    IS_SUCCEEDED.store(true, Relaxed);
}

/// A sign of life.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if IS_SUCCEEDED.load(Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Whether the workers still turn. A worker that has nothing to do is woken before each look, so one that has not
/// turned since the last look hangs.
#[derive(Debug, Default)]
pub struct Pulse(Vec<u64>);

impl Pulse {
    /// True when every worker has turned since the last look.
    pub fn beats(&mut self, workers: &[CachePadded<WorkerStats>]) -> bool {
        let turns: Vec<u64> = workers.iter().map(|worker| worker.turns.read().map(|(count, _)| count).sum()).collect();
        let beats = self.0.len() != turns.len() || self.0.iter().zip(&turns).all(|(before, now)| before != now);
        self.0 = turns;
        beats
    }
}

/// Connections that all workers carry.
pub fn carried(workers: &[CachePadded<WorkerStats>]) -> u32 {
    workers.iter().map(|worker| worker.active.load(Relaxed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_turn_stops_the_signs_of_life() {
        let workers = crate::stats::workers(2);
        let mut pulse = Pulse::default();
        assert!(pulse.beats(&workers), "the first look only remembers");
        assert!(!pulse.beats(&workers));
        workers.iter().for_each(|worker| worker.turns.record(Duration::ZERO));
        assert!(pulse.beats(&workers));
        workers[1].turns.record(Duration::ZERO);
        assert!(!pulse.beats(&workers), "worker 0 hangs");
    }
}
