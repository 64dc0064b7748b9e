//! Taking a new file over: all of it or nothing. Sockets are bound first, for only that can fail; then everybody sees
//! the new snapshot at once, and what is gone drains.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::desk::Refusal;
use super::events::About;
use super::listeners::site::Site;
use super::listeners::{Bound, Order};
use super::wanted::{Place, Wanted};
use super::{Supervisor, TIDY_INTERVAL, capacity, discovery, log, notify, now, operate, udp, wall_clock};
use crate::api::{self, EventKind};
use crate::config::{self, Config, Drain, Endpoint};
use crate::engine::{Command, Scope};
use crate::id::BackendId;

/// The longest that a reload waits for sockets to be closed.
const LET_GO_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two looks whether they are.
const LET_GO_LOOK: Duration = Duration::from_millis(5);

impl Supervisor {
    /// Reads the file again. The names that are new in it are waited for a moment, so that their backends do not
    /// begin unresolved.
    pub(super) async fn reload(&mut self) -> Result<api::Reloaded, Refusal> {
        if self.leaving.is_some() {
            return Err(self.is_over());
        }
        if self.offer.is_under_way() {
            let why = "an upgrade is under way, and the new process has read the file already: reload once it serves";
            tracing::warn!("the file was not read: {why}");
            // Who has sent a signal waits for both words.
            notify::reloading();
            notify::ready(&self.status);
            return Err(Refusal::Failed(why.to_owned()));
        }
        notify::reloading();
        let result = self.try_reload().await;
        self.last_reload = (wall_clock(), result.is_ok());
        match &result {
            Ok(done) => {
                for warning in &done.warnings {
                    log::warn(warning);
                }
                tracing::info!(generation = done.generation, "the file was taken over: {}", done.summary);
                self.events.tell(EventKind::ReloadDone, About::default(), &done.summary);
            }
            Err(Refusal::Unknown(why) | Refusal::Invalid(why) | Refusal::Failed(why)) => {
                tracing::error!("the file was not taken over, nothing has changed:\n{why}");
                self.events.tell(EventKind::ReloadFailed, About::default(), why.lines().next().unwrap_or_default());
            }
        }
        notify::ready(&self.status);
        result
    }

    async fn try_reload(&mut self) -> Result<api::Reloaded, Refusal> {
        let read = self.source.read().map_err(|report| Refusal::Invalid(report.render(false)))?;
        let mut config = read.config;
        let cut = capacity::fit_flows(&mut config, self.fds_limit, self.engines.workers.count());
        let config = Arc::new(config);
        let (teller, news) = (&self.inbox.teller, &mut self.inbox.news);
        self.discovery.wait(&config, discovery::RELOAD_PATIENCE, (teller, news)).await;
        let bound = match self.bind(&self.wanted.listening_of(&config)) {
            Ok(bound) => bound,
            Err(refusal) => {
                // What was heard while waiting holds for the old file too.
                self.discovery.settle(&self.wanted.config, wall_clock());
                self.rebuild(self.wanted.config.clone());
                self.refresh(now());
                return Err(refusal);
            }
        };

        let diff = config::diff(&self.wanted.config, &config);
        let mut warnings: Vec<String> = read.warnings.iter().map(|warning| warning.render(false)).collect();
        warnings.extend(diff.restart.iter().map(|key| format!("process.{key} has changed: it takes a restart")));
        if self.wanted.config.process.log.access != config.process.log.access {
            warnings.push("process.log.access has changed: it takes a restart".to_owned());
        }
        warnings.extend(bound.receive_buffer_bytes().and_then(udp::shortage));
        if let Some(cut) = cut.filter(|_| capacity::max_flows(&config) != capacity::max_flows(&self.wanted.config)) {
            tracing::info!("{cut}");
        }
        if udp::is_in(&config) && !udp::is_in(&self.wanted.config) {
            udp::tell(self.listeners.offload());
        }
        let before = self.rebuild(config.clone());
        let cleared = operate::cleared(&before, &self.wanted);
        self.max_connections = capacity::max_connections(&config, self.fds_limit, self.engines.workers.count());
        self.refresh(now());

        match self.listeners.keep(bound, |name| self.wanted.listener_id(name)) {
            Ok(orders) => self.engines.order(orders),
            Err(error) => warnings.push(format!("a new listener does not listen: {error}")),
        }
        let (unlisten, sites) = self.listeners.release(&self.wanted.listening(), |name| before.listener_id(name));
        self.listeners.store();
        self.let_go(unlisten, &sites).await;
        let stays = |id| self.wanted.listeners.iter().any(|listener| listener.stats.id == id);
        for gone in before.listeners.iter().filter(|old| !stays(old.stats.id)) {
            let Drain { deadline, spread } = gone.config.drain.unwrap_or(config.process.drain);
            let scope = Scope::Listener(gone.stats.id);
            self.engines.tell_all(|| Command::Drain { scope, deadline, spread });
        }
        if let Err(error) = self.listeners.configure(&config) {
            warnings.push(error.to_string());
        }
        log::set_up(&config.process.log);
        if let Some(access_log) = &self.access_log {
            access_log.set_format(config.process.log.format);
        }
        let summary: Vec<String> = std::iter::once(diff.to_string()).chain(cleared).collect();
        Ok(api::Reloaded { generation: self.publisher.current().generation, summary: summary.join("; "), warnings })
    }

    /// Makes `config` what is wanted, and lets the backends go that it does not have. Returns what was wanted before.
    pub(super) fn rebuild(&mut self, config: Arc<Config>) -> Wanted {
        let (discovery, identities) = (&mut self.discovery, &mut self.identities);
        let next = Wanted::build(config.clone(), Some(&self.wanted), discovery, identities, wall_clock());
        let before = std::mem::replace(&mut self.wanted, next);
        self.events.compare(&before, &self.wanted);
        discovery.follow(&config, now());
        discovery.forget(&config);
        self.next_tidy = Some(now() + TIDY_INTERVAL);
        self.observers.set(&mut self.wanted);
        let Drain { deadline, spread } = config.process.drain;
        for gone in gone(&before, &self.wanted) {
            self.closes.remove(&gone);
            self.engines.tell_all(|| Command::Drain { scope: Scope::Backend(gone), deadline, spread });
        }
        before
    }

    /// Binds what `config` has and is not open yet, and sees to it that there are threads for it.
    pub(super) fn bind(&mut self, config: &Config) -> Result<Bound, Refusal> {
        let bound = self.listeners.bind(config, &mut self.inherited);
        let mut bound = bound.map_err(|error| Refusal::Failed(error.to_string()))?;
        bound
            .duplicate()
            .map_err(|error| Refusal::Failed(format!("no socket can be given to the threads: {error}")))?;
        let prepared = self.engines.prepare(&bound);
        prepared.map_err(|error| Refusal::Failed(format!("the threads for HTTP cannot start: {error}")))?;
        Ok(bound)
    }

    /// Tells the workers to stop listening, and waits a moment until they have: then whoever asked for the reload may
    /// rely on it.
    pub(super) async fn let_go(&mut self, unlisten: Vec<Order>, sites: &[Site]) {
        self.engines.order(unlisten);
        let limit = now() + LET_GO_TIMEOUT;
        while now() < limit && self.listeners.are_held(sites) {
            tokio::time::sleep(LET_GO_LOOK).await;
        }
    }
}

/// Backends that are gone. One that only has another name is not: its connections stay.
fn gone(before: &Wanted, after: &Wanted) -> Vec<BackendId> {
    let places = |wanted: &Wanted| -> Vec<(String, Endpoint, BackendId)> {
        let backends = wanted.pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
        let known = backends.filter_map(|(pool, backend)| match &backend.place {
            Place::Known(known) => Some((pool.config.name.clone(), known.endpoint.clone(), known.id)),
            Place::Unresolved(_) => None,
        });
        known.collect()
    };
    let stay: HashSet<(String, Endpoint)> = places(after).into_iter().map(|(pool, at, _)| (pool, at)).collect();
    places(before)
        .into_iter()
        .filter(|(pool, at, _)| !stay.contains(&(pool.clone(), at.clone())))
        .map(|g| g.2)
        .collect()
}
