//! What operators do at run time: overrides of backends, the end of a backend's connections, listeners that take no
//! clients for a while. What they have said outlives a reload; what the file changes by itself, it clears.

use std::time::Duration;

use super::desk::{ListenerChange, Refusal, Span};
use super::events::About;
use super::wanted::Wanted;
use super::{Supervisor, now};
use crate::api::{self, ChangeState, EventKind, OperatorState};
use crate::config::Drain;
use crate::engine::{Command, Scope};
use crate::reason::CloseReason;

impl Supervisor {
    /// Overrides what the file says of a backend.
    pub(super) fn change(
        &mut self,
        pool: &str,
        name: &str,
        change: &api::Change,
    ) -> Result<Vec<api::Backend>, Refusal> {
        if self.is_succeeded() {
            return Err(self.is_over());
        }
        let mut names = Vec::new();
        for backend in self.wanted.named(pool, name)? {
            let operator = &mut backend.operator;
            let state = match change.state {
                Some(ChangeState::Auto) => {
                    *operator = api::Override::default();
                    None
                }
                Some(ChangeState::Ready) => Some(OperatorState::Ready),
                Some(ChangeState::Drain) => Some(OperatorState::Drain),
                Some(ChangeState::Maint) => Some(OperatorState::Maint),
                None => operator.state,
            };
            if change.state.is_some() {
                (operator.state, operator.reason) = (state, change.reason.clone());
            }
            operator.weight = change.weight.or(operator.weight);
            let state = operator.state.map_or("auto", OperatorState::as_str);
            let weight = operator.weight.map_or("auto".to_owned(), |weight| weight.to_string());
            let reason = operator.reason.as_deref().unwrap_or("");
            tracing::info!(pool, backend = backend.name, state, weight, reason, "an operator's override");
            let is_set = *operator != api::Override::default();
            let kind = if is_set { EventKind::OverrideSet } else { EventKind::OverrideCleared };
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            self.events.tell(kind, About::backend(pool, &backend.name), format!("state {state}, weight {weight}{why}"));
            names.push(backend.name.clone());
        }
        self.refresh(now());
        let shown = self.wanted.pool(pool).map(|pool| self.scene().pool(pool).backends).unwrap_or_default();
        Ok(shown.into_iter().filter(|backend| names.contains(&backend.name)).collect())
    }

    /// Ends a backend's connections, flows and requests. Whether it gets new ones is not asked here.
    pub(super) fn close(&mut self, pool: &str, name: &str, spread: Option<Duration>) -> Result<api::Closing, Refusal> {
        let spread = spread.unwrap_or(self.wanted.config.process.drain.spread);
        let mut backends = Vec::new();
        for backend in self.wanted.named(pool, name)? {
            let Some((id, connections)) = backend.id().zip(backend.active()) else { continue };
            let reason = CloseReason::Killed;
            self.engines.tell_all(|| Command::CloseBackend { backend: id, reason, spread });
            let spread = humantime::format_duration(spread);
            tracing::info!(pool, backend = backend.name, connections, %spread, "an operator ends a backend's connections");
            backends.push(api::ClosingBackend { name: backend.name.clone(), connections });
        }
        Ok(api::Closing { spread: humantime::format_duration(spread).to_string(), backends })
    }

    /// Why nothing is changed here any more.
    pub(super) fn is_over(&self) -> Refusal {
        let why = match self.is_succeeded() {
            true => "another process has taken over and serves now: ask again, it answers",
            false => "the process is ending",
        };
        Refusal::Failed(why.to_owned())
    }

    /// A listener takes no clients, or takes them again.
    pub(super) async fn change_listener(
        &mut self,
        name: &str,
        change: ListenerChange,
    ) -> Result<api::Listener, Refusal> {
        if self.leaving.is_some() {
            return Err(self.is_over());
        }
        let at = self.wanted.listeners.iter().position(|listener| listener.config.name == name);
        let Some(at) = at else { return Err(Refusal::Unknown(format!("there is no listener \"{name}\""))) };
        match change {
            ListenerChange::Drain(span) => self.drain_listener(at, span).await,
            ListenerChange::Ready if self.wanted.listeners[at].drain.is_some() => self.ready_listener(at)?,
            ListenerChange::Ready => {}
        }
        Ok(self.scene().listener(&self.wanted.listeners[at]))
    }

    /// Closes its sockets and gives its connections a time to end. Datagrams of flows that are there go on until then.
    async fn drain_listener(&mut self, at: usize, span: Span) {
        let listener = &mut self.wanted.listeners[at];
        let drain = span.over(listener.config.drain.unwrap_or(self.wanted.config.process.drain));
        // A second word does not give more time than the first one has given.
        let until = now() + drain.deadline;
        listener.drain = Some(listener.drain.map_or(until, |set| set.min(until)));
        let (name, id, active) = (&listener.config.name, listener.stats.id, listener.stats.active());
        let deadline = humantime::format_duration(drain.deadline);
        tracing::info!(listener = name, active, %deadline, "an operator drains a listener: it takes no clients");
        if self.listeners.are_units(name) {
            tracing::warn!(
                listener = name,
                "a socket unit of the service manager has its sockets: clients are not refused, they wait until it is ready"
            );
        }
        // First of all: who comes out of a backlog later is to know of it.
        self.refresh(now());
        let (unlisten, sites) = self.listeners.release(&self.wanted.listening(), |name| self.wanted.listener_id(name));
        self.listeners.store();
        self.let_go(unlisten, &sites).await;
        let (scope, Drain { deadline, spread }) = (Scope::Listener(id), drain);
        self.engines.tell_all(|| Command::Drain { scope, deadline, spread });
    }

    /// Listens again. Connections that were given a time to end keep it.
    fn ready_listener(&mut self, at: usize) -> Result<(), Refusal> {
        let until = self.wanted.listeners[at].drain.take();
        let name = self.wanted.listeners[at].config.name.clone();
        let bound = self.bind(&self.wanted.listening());
        let bound = bound.inspect_err(|_| self.wanted.listeners[at].drain = until)?;
        tracing::info!(listener = name, "an operator calls a listener ready: it takes clients again");
        self.refresh(now());
        let orders = self.listeners.keep(bound, |name| self.wanted.listener_id(name));
        let listen = orders.map(|orders| self.engines.order(orders));
        self.listeners.store();
        listen.map_err(|error| Refusal::Failed(format!("listener.{name}: {error}")))
    }
}

/// What the new file has cleared of what operators had said, a line each.
pub fn cleared(before: &Wanted, after: &Wanted) -> Vec<String> {
    let mut cleared = Vec::new();
    for (pool, backend) in before.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
    {
        let place = format!("{}/{}", pool.config.name, backend.name);
        let others = after.pool(&pool.config.name).map(|pool| pool.backends.as_slice()).unwrap_or_default();
        let kin = others.iter().find(|other| other.name == backend.name || other.file.name == backend.file.name);
        let same = others.iter().find(|other| other.id().is_some() && other.id() == backend.id());
        match (same.or(kin), backend.operator.weight) {
            (Some(now), Some(weight)) if now.operator.weight.is_none() => {
                cleared.push(format!(
                    "{place}: weight {weight} by an operator is cleared, the file says {}",
                    now.file.weight
                ));
            }
            (None, _) if backend.operator != api::Override::default() => {
                cleared.push(format!("{place}: what an operator said of it is gone with it"));
            }
            _ => {}
        }
    }
    let drained = before.listeners.iter().filter(|listener| listener.drain.is_some());
    let gone = drained.filter(|old| !after.listeners.iter().any(|new| new.stats.id == old.stats.id));
    cleared.extend(gone.map(|old| format!("listener {}: its drain is gone with it", old.config.name)));
    cleared
}

/// Reads an operator's reason.
///
/// # Errors
/// What is wrong with it.
pub fn check_reason(reason: &str) -> Result<(), String> {
    match reason {
        "" => Err("the reason is empty".to_owned()),
        long if long.len() > api::REASON_BYTES_MAX => {
            Err(format!("the reason has {} bytes, and at most {} are kept", long.len(), api::REASON_BYTES_MAX))
        }
        odd if odd.chars().any(char::is_control) => Err("the reason has control characters".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_and_printable() {
        assert_eq!(check_reason("disk swap, ticket 12"), Ok(()));
        assert_eq!(check_reason(&"é".repeat(api::REASON_BYTES_MAX / 2)), Ok(()));
        for bad in ["", "a\nb", "\u{1b}[2J", "\u{85}", &"x".repeat(api::REASON_BYTES_MAX + 1)] {
            assert!(check_reason(bad).is_err(), "{bad:?}");
        }
    }
}
