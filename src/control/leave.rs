//! Signals, and the way out: no new clients, let connections and flows finish, end what is left by the deadline.

use std::time::{Duration, Instant};

use tokio::signal::unix::{self, SignalKind};

use super::desk::Span;
use super::events::About;
use super::{Failure, Supervisor, notify, now};
use crate::api::EventKind;
use crate::config::Drain;
use crate::engine::{Command, Scope};
use crate::id::ListenerId;

/// How long past the deadline is waited for the workers' last endings.
const GRACE: Duration = Duration::from_secs(1);
/// How often is looked whether all connections have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// So many looks in a row must find nothing: clients in a backlog are only seen once a worker has accepted them.
const QUIET_LOOKS: u32 = 2;

/// The signals that mean something.
#[derive(Debug)]
pub struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    End,
}

impl Signals {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn catch() -> Result<Self, Failure> {
        let catch = |kind| unix::signal(kind).map_err(|error| Failure::System { what: "signal handlers", error });
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Whether one to end has come already; it is taken out then.
    pub async fn has_end(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            () = std::future::ready(()) => false,
        }
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
        }
    }
}

/// On the way out.
#[derive(Debug)]
pub struct Leaving {
    /// When it ends whatever is left.
    until: Option<Instant>,
    /// When to look next.
    pub next_look: Instant,
    quiet: u32,
    /// Another process has taken over. Nobody has asked this one to end in a hurry.
    pub is_succeeded: bool,
}

impl Leaving {
    /// Without waiting for anybody.
    pub fn at_once() -> Self {
        Self { until: None, next_look: now(), quiet: 0, is_succeeded: false }
    }

    fn until_at(until: Instant) -> Self {
        Self { until: Some(until), next_look: now() + LOOK_INTERVAL, quiet: 0, is_succeeded: false }
    }

    /// When what is left is ended.
    pub fn until(&self) -> Instant {
        self.until.map_or(self.next_look, |until| until - GRACE)
    }

    /// Whether it is over, when so many connections and flows are left.
    fn is_over(&mut self, carried: u32, now: Instant) -> bool {
        let Some(until) = self.until else { return true };
        if now < self.next_look {
            return false;
        }
        self.next_look = now + LOOK_INTERVAL;
        self.quiet = if carried == 0 { self.quiet + 1 } else { 0 };
        self.quiet >= QUIET_LOOKS || now >= until
    }
}

impl Supervisor {
    /// A signal to end: the first one drains, a second one ends at once.
    pub(super) fn leave(&mut self) {
        if self.leaving.is_none() || self.is_succeeded() {
            self.drain(Span::default());
            return;
        }
        let (connections, flows) = (notify::carried(&self.counts), self.wanted.flows());
        tracing::warn!(connections, flows, "a second signal: ending at once");
        self.leaving = Some(Leaving::at_once());
    }

    /// No new clients from now on, and an end by the deadline at the latest, which is the longest of all listeners:
    /// returned.
    pub(super) fn drain(&mut self, span: Span) -> Duration {
        let process = self.wanted.config.process.drain;
        let each =
            self.wanted.listeners.iter().map(|one| (one.stats.id, span.over(one.config.drain.unwrap_or(process))));
        let each: Vec<(ListenerId, Drain)> = each.collect();
        let drains = each.iter().map(|(_, drain)| *drain);
        let longest = drains.chain([span.over(process)]).max_by_key(|drain| drain.deadline).unwrap_or(process);
        let Drain { deadline, spread } = longest;
        tracing::info!(
            connections = notify::carried(&self.counts),
            flows = self.wanted.flows(),
            deadline = %humantime::format_duration(deadline),
            "draining: no new clients, connections and flows may finish"
        );
        let text = format!("no new clients; all has ended within {}", humantime::format_duration(deadline));
        self.events.tell(EventKind::Draining, About::default(), text);
        notify::stopping();
        // Ours are duplicates: as long as one is open, the kernel goes on taking clients.
        self.listeners.close();
        self.listeners.store();
        self.engines.tell_all(|| Command::Drain { scope: Scope::All, deadline, spread });
        for (listener, drain) in each.into_iter().filter(|(_, drain)| *drain != longest) {
            let (scope, deadline, spread) = (Scope::Listener(listener), drain.deadline, drain.spread);
            self.engines.tell_all(|| Command::Drain { scope, deadline, spread });
        }
        let until = now() + deadline + GRACE;
        let earlier = self.leaving.as_ref().and_then(|leaving| leaving.until).map_or(until, |set| set.min(until));
        self.leaving = Some(Leaving::until_at(earlier));
        deadline
    }

    /// Whether another process has taken over.
    pub(super) fn is_succeeded(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.is_succeeded)
    }

    /// Whether the way out has come to its end.
    pub(super) fn has_left(&mut self) -> bool {
        let carried = notify::carried(&self.counts) + self.wanted.flows();
        self.leaving.as_mut().is_some_and(|leaving| leaving.is_over(carried, now()))
    }

    /// Ends the workers and writes what is left of the access log.
    pub(super) fn end(mut self) {
        self.engines.tell_all(|| Command::Stop);
        self.engines.join();
        self.listeners.close();
        if let Some(log) = self.access_log {
            log.end();
        }
        tracing::info!("ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nothing_is_left_twice_or_at_the_deadline() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let leaving = || Leaving { until: Some(at(1000)), next_look: at(50), quiet: 0, is_succeeded: false };

        let mut idle = leaving();
        assert!(!idle.is_over(0, at(10)));
        assert!(!idle.is_over(0, at(50)), "the first look may be too early");
        assert!(!idle.is_over(0, at(60)), "not a look");
        assert!(idle.is_over(0, at(100)));

        let mut busy = leaving();
        assert!(!busy.is_over(0, at(50)));
        assert!(!busy.is_over(1, at(100)), "somebody came out of the backlog");
        assert!(!busy.is_over(0, at(150)));
        assert!(!busy.is_over(1, at(999)));
        assert!(busy.is_over(1, at(1049)));
        assert!(Leaving::at_once().is_over(9, start));
    }
}
