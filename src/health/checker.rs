//! The schedule: one task a backend, which checks it at intervals, at once on a hint, and never twice at a time.
//!
//! `interval` while the state is settled, `fast_interval` while checks contradict it, both from the start of one check
//! to the start of the next and varied by `jitter`. The first check comes at a random moment of the first second (or
//! interval, if shorter), so that a thousand backends are not asked at once and yet are known soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::sleep_until;

use super::probe::{self, Stream};
use super::{CheckResult, Judge, Target, Verdict, now};
use crate::config::{Check, Health};
use crate::id::BackendId;

/// Checks under way at once; more wait for their turn. It bounds the file descriptors: one each, a `command` three.
pub const CHECKS_AT_ONCE: usize = 256;
/// The first check of a backend starts within this time, or within its interval if that is shorter.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(1);

/// All running checks. Dropping it ends them.
pub struct Checkers {
    verdicts: mpsc::Sender<Verdict>,
    permits: Arc<Semaphore>,
    running: HashMap<BackendId, Checker>,
}

impl std::fmt::Debug for Checkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkers").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

/// The handle of one task, which ends when this is dropped.
struct Checker {
    target: watch::Sender<Arc<Target>>,
    hint: Arc<Notify>,
}

impl Checkers {
    /// No checks yet. When `verdicts` is full, checks wait.
    pub fn new(verdicts: mpsc::Sender<Verdict>) -> Self {
        Self { verdicts, permits: Arc::new(Semaphore::new(CHECKS_AT_ONCE)), running: HashMap::new() }
    }

    /// Makes the running checks equal to this list: new ones start, gone ones stop (a verdict of theirs may still be on
    /// its way), the others go on with their state. A check that now asks something else is broken off and asks anew
    /// soon, also with its state. `kind = "none"` is not checked at all.
    ///
    /// Needs a tokio runtime with I/O and time.
    pub fn set(&mut self, targets: Vec<Target>) {
        let mut before = std::mem::take(&mut self.running);
        for target in targets {
            if target.pool.health.kind == Check::None {
                continue;
            }
            let backend = target.backend;
            let checker = match before.remove(&backend) {
                Some(checker) => {
                    checker.target.send_if_modified(|current| {
                        let is_new_question = !current.asks_like(&target);
                        *current = Arc::new(target);
                        is_new_question
                    });
                    checker
                }
                None => self.start(target),
            };
            self.running.insert(backend, checker);
        }
    }

    /// A connection to this backend has failed: it is checked now, but not sooner than `fast_interval` after the start
    /// of its last check.
    pub fn hint(&self, backend: BackendId) {
        if let Some(checker) = self.running.get(&backend) {
            checker.hint.notify_one();
        }
    }

    fn start(&self, target: Target) -> Checker {
        let hint = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(Arc::new(target));
        tokio::spawn(run(receiver, Arc::clone(&hint), Arc::clone(&self.permits), self.verdicts.clone()));
        Checker { target: sender, hint }
    }
}

/// One check, now, outside of any schedule.
pub async fn check(target: &Target) -> CheckResult {
    let (result, stream) = ask(target).await;
    if let Some(stream) = stream {
        probe::leave(stream).await;
    }
    result
}

/// The task of one backend.
async fn run(
    mut target: watch::Receiver<Arc<Target>>,
    hint: Arc<Notify>,
    permits: Arc<Semaphore>,
    verdicts: mpsc::Sender<Verdict>,
) {
    let mut judge = Judge::new(target.borrow().is_up);
    let mut due = now() + first_delay(&target.borrow().pool.health);
    let mut last_start: Option<Instant> = None;
    loop {
        let current = Arc::clone(&target.borrow_and_update());
        let health = &current.pool.health;
        tokio::select! {
            changed = target.changed() => {
                if changed.is_err() {
                    return;
                }
                due = now() + first_delay(&target.borrow().pool.health);
                continue;
            }
            () = hint.notified() => {
                let earliest = last_start.map_or_else(now, |start| start + health.fast_interval);
                due = due.min(earliest);
                continue;
            }
            () = sleep_until(due.into()) => {}
        }
        let asking = async {
            // The semaphore is never closed.
            let permit = permits.acquire().await;
            last_start = Some(now());
            let (result, stream) = ask(&current).await;
            (result, stream, permit)
        };
        // Only the asking may be broken off: what has been judged must reach the control plane.
        let (result, stream, _permit) = tokio::select! {
            changed = target.changed() => {
                if changed.is_err() {
                    return;
                }
                due = now() + first_delay(&target.borrow().pool.health);
                continue;
            }
            asked = asking => asked,
        };
        if verdicts.send(judged(&mut judge, &current, result)).await.is_err() {
            return;
        }
        due = last_start.unwrap_or_else(now) + delay(health, judge.is_settled(), fastrand::f64());
        if let Some(stream) = stream {
            probe::leave(stream).await;
        }
    }
}

async fn ask(target: &Target) -> (CheckResult, Option<Stream>) {
    let started = now();
    let (answer, stream) = probe::probe(target, started).await;
    let (ok, why, is_ours) = match answer {
        Ok(()) => (true, String::new(), false),
        Err(failure) => (false, failure.line(), failure.is_ours),
    };
    (CheckResult { ok, blames_backend: !is_ours, why, took: now() - started }, stream)
}

fn judged(judge: &mut Judge, target: &Target, check: CheckResult) -> Verdict {
    let health = &target.pool.health;
    let change = if check.ok || check.blames_backend {
        judge.note((!check.ok).then_some(check.why.as_str()), health.rise, health.fall, now())
    } else {
        None
    };
    Verdict { backend: target.backend, up: judge.is_up(), change, check }
}

/// From the start of a check to the start of the next one; `random` is in 0..1.
fn delay(health: &Health, is_settled: bool, random: f64) -> Duration {
    let interval = if is_settled { health.interval } else { health.fast_interval };
    let share = f64::from(health.jitter.0.min(100)) / 100.0;
    interval.mul_f64(1.0 + share * (2.0 * random - 1.0))
}

fn first_delay(health: &Health) -> Duration {
    health.interval.min(FIRST_CHECK_WITHIN).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::super::probe::tests::{pool, target};
    use super::*;
    use crate::config::Endpoint;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(3600);

    /// A place where nobody can ever listen.
    fn nowhere() -> Target {
        target(pool(Check::Tcp), Endpoint::Unix("/nonexistent/nobody.sock".into()))
    }

    fn changed(target: &Target, change: impl FnOnce(&mut crate::config::Pool)) -> Target {
        let mut pool = (*target.pool).clone();
        change(&mut pool);
        Target { is_up: pool.health.initial_up, pool: Arc::new(pool), ..target.clone() }
    }

    async fn next(verdicts: &mut mpsc::Receiver<Verdict>) -> Verdict {
        timeout(Duration::from_secs(20), verdicts.recv()).await.expect("a verdict comes").expect("checks go on")
    }

    #[tokio::test]
    async fn a_backend_goes_down_after_fall_checks_and_up_after_rise() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = Endpoint::Ip(listener.local_addr().unwrap());
        let (sender, mut verdicts) = mpsc::channel(1);
        let mut checkers = Checkers::new(sender);
        checkers.set(vec![nowhere()]);
        let states: Vec<_> = [next(&mut verdicts).await, next(&mut verdicts).await, next(&mut verdicts).await].into();
        assert_eq!(states.iter().map(|verdict| verdict.up).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(states[2].change.as_ref().unwrap().why, "3 checks in a row failed: No such file or directory");
        assert!(states[0].change.is_none() && !states[0].check.ok && states[0].check.blames_backend);

        checkers.set(vec![Target { endpoint: here, ..nowhere() }]);
        let mut verdict = next(&mut verdicts).await;
        while !verdict.check.ok {
            verdict = next(&mut verdicts).await;
        }
        assert!(!verdict.up, "the state has survived the change of address");
        let verdict = next(&mut verdicts).await;
        assert!(verdict.up && verdict.change.is_some_and(|change| change.up));
    }

    #[tokio::test]
    async fn a_target_that_is_gone_or_wants_no_check_is_not_checked() {
        let (sender, mut verdicts) = mpsc::channel(1);
        let mut checkers = Checkers::new(sender);
        checkers.set(vec![nowhere()]);
        next(&mut verdicts).await;
        checkers.set(vec![changed(&nowhere(), |pool| pool.health.kind = Check::None)]);
        drop(checkers);
        let end = timeout(Duration::from_secs(20), async { while verdicts.recv().await.is_some() {} });
        assert!(end.await.is_ok(), "all tasks have ended");
    }

    #[tokio::test]
    async fn a_hint_checks_at_once_but_not_sooner_than_the_fast_interval() {
        let (sender, mut verdicts) = mpsc::channel(64);
        let mut checkers = Checkers::new(sender);
        let slow = changed(&nowhere(), |pool| {
            pool.health.interval = LONG;
            pool.health.fast_interval = Duration::from_millis(200);
            pool.health.initial_up = false;
        });
        checkers.set(vec![slow]);
        checkers.hint(BackendId(7));
        next(&mut verdicts).await;
        let first = now();
        for _ in 0..3 {
            checkers.hint(BackendId(7));
            checkers.hint(BackendId(999));
            tokio::task::yield_now().await;
        }
        next(&mut verdicts).await;
        assert!(now() - first >= Duration::from_millis(150), "{:?}", now() - first);
        assert!(verdicts.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_change_breaks_off_a_check_under_way_and_other_changes_do_not() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, mut verdicts) = mpsc::channel(1);
        let mut checkers = Checkers::new(sender);
        let asked = changed(&nowhere(), |pool| {
            pool.health.kind = Check::Redis;
            pool.health.timeout = LONG;
        });
        let asked = Target { endpoint: Endpoint::Ip(silent.local_addr().unwrap()), ..asked };
        checkers.set(vec![asked.clone()]);
        let (mut first, _) = silent.accept().await.unwrap();
        checkers.set(vec![changed(&asked, |pool| pool.name = "other".into())]);
        first.write_all(b"+PONG\r\n").await.unwrap();
        assert!(next(&mut verdicts).await.check.ok, "the check under way went on");
        drop(first);

        let (_second, _) = silent.accept().await.unwrap();
        checkers.set(vec![Target { endpoint: nowhere().endpoint, ..asked }]);
        assert_eq!(next(&mut verdicts).await.check.why, "No such file or directory");
    }

    #[tokio::test]
    async fn checks_of_one_backend_never_overlap() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&open), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (open, most) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (mut reading, writing) = stream.into_split();
                    let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                    drop(writing);
                });
            }
        });
        let (sender, mut verdicts) = mpsc::channel(1);
        let mut checkers = Checkers::new(sender);
        let slow = changed(&nowhere(), |pool| {
            pool.health.kind = Check::Redis;
            pool.health.interval = Duration::from_millis(1);
            pool.health.fast_interval = Duration::from_millis(1);
            pool.health.timeout = Duration::from_millis(20);
        });
        checkers.set(vec![Target { endpoint: Endpoint::Ip(address), ..slow }]);
        for _ in 0..10 {
            assert!(!next(&mut verdicts).await.check.ok);
            checkers.hint(BackendId(7));
        }
        // A check that has timed out is closed before the next one starts; the backend may hear of it a moment later.
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn more_checks_than_the_limit_wait_for_their_turn() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = Endpoint::Ip(silent.local_addr().unwrap());
        let (sender, mut verdicts) = mpsc::channel(1);
        let mut checkers = Checkers::new(sender);
        let asked = changed(&nowhere(), |pool| {
            pool.health.kind = Check::Redis;
            pool.health.timeout = LONG;
            pool.health.fast_interval = LONG;
        });
        let many = (0..CHECKS_AT_ONCE as u32 + 10).map(BackendId);
        checkers.set(many.map(|backend| Target { backend, endpoint: here.clone(), ..asked.clone() }).collect());
        let mut open = Vec::new();
        for _ in 0..CHECKS_AT_ONCE {
            open.push(timeout(Duration::from_secs(20), silent.accept()).await.expect("a check").unwrap());
        }
        let one_more = timeout(Duration::from_millis(100), silent.accept()).await;
        assert!(one_more.is_err(), "no check above the limit");
        open.pop();
        assert!(!next(&mut verdicts).await.check.ok);
        assert!(timeout(Duration::from_secs(20), silent.accept()).await.is_ok(), "the next one has its turn");
    }

    #[test]
    fn a_check_that_we_could_not_make_is_not_judged() {
        let mut judge = Judge::new(true);
        let check =
            CheckResult { ok: false, blames_backend: false, why: "Too many open files".into(), took: Duration::ZERO };
        for _ in 0..10 {
            let verdict = judged(&mut judge, &nowhere(), check.clone());
            assert!(verdict.up && verdict.change.is_none() && judge.is_settled());
        }
    }

    #[test]
    fn delays_vary_by_the_jitter_and_are_fast_while_the_state_changes() {
        let mut health = pool(Check::Tcp).health;
        health.interval = Duration::from_secs(10);
        health.fast_interval = Duration::from_secs(1);
        assert_eq!(delay(&health, true, 0.0), Duration::from_secs(9));
        assert_eq!(delay(&health, true, 0.5), Duration::from_secs(10));
        assert_eq!(delay(&health, false, 0.5), Duration::from_secs(1));
        assert!((0..1000).all(|_| first_delay(&health) <= Duration::from_secs(1)));
        health.interval = Duration::from_millis(5);
        assert!((0..1000).all(|_| first_delay(&health) <= Duration::from_millis(5)));
    }
}
