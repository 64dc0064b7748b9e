//! The routes of the file, ready for use: made once for each file, shared by all threads. What must outlive a file (counts,
//! limits, breakers) is kept by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderName;

use super::breaker::Breaker;
use super::message::Headers;
use super::policy;
use super::route::Table;
use super::stats::RouteStats;
use super::sticky;
use crate::config::http::{Action, Gateway, Route};
use crate::id::{ListenerId, PoolId};
use crate::snapshot::{Pool, Site, Snapshot};
use crate::stats::RouteCounts;

/// What all threads share.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The file that `tables` was made of.
    gateway: Option<Arc<Gateway>>,
    tables: HashMap<String, Arc<SiteTable>>,
    /// What policies keep over files.
    kept: policy::Kept,
    /// The policies of each route of the file.
    policies: Vec<Arc<policy::Prepared>>,
    /// By listener and route; "" = outside of all routes.
    stats: HashMap<(String, String), Arc<RouteStats>>,
    breakers: BTreeMap<PoolId, Arc<Mutex<Breaker>>>,
}

/// The routes of one listener.
pub struct SiteTable {
    /// Finds one.
    pub table: Table,
    /// By the number that the table gives them.
    pub routes: Vec<Arc<Prepared>>,
    /// Counts requests that found none.
    pub outside: Arc<RouteStats>,
    /// By what headers backends are told who the client is.
    pub identity: Vec<HeaderName>,
}

/// A route with what belongs to it.
pub struct Prepared {
    /// Its name.
    pub name: Arc<str>,
    /// What the file says.
    pub route: Arc<Route>,
    /// What it asks of a client.
    pub policies: Arc<policy::Prepared>,
    /// Its counts.
    pub stats: Arc<RouteStats>,
}

/// A thread's own view, which takes no lock while the file is the same.
#[derive(Default)]
pub struct Sites {
    gateway: Option<Arc<Gateway>>,
    tables: BTreeMap<ListenerId, Arc<SiteTable>>,
    /// Of listeners that the file does not have any more: by them goes what is left of their connections.
    gone: BTreeMap<ListenerId, Arc<SiteTable>>,
}

impl Sites {
    /// The routes of this listener. `is_left` tells whether a listener has connections; asked when there is a new file.
    pub fn table(
        &mut self,
        (registry, threads): (&Registry, usize),
        snapshot: &Snapshot,
        site: &Site,
        is_left: impl Fn(ListenerId) -> bool,
    ) -> Arc<SiteTable> {
        if !self.gateway.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, &snapshot.gateway)) {
            let is_gone = |id: &ListenerId| snapshot.site(*id).is_none();
            self.gone.retain(|id, _| is_gone(id) && is_left(*id));
            let before = std::mem::take(&mut self.tables);
            self.gone.extend(before.into_iter().filter(|(id, _)| is_gone(id)));
            self.gateway = Some(snapshot.gateway.clone());
        }
        if let Some(table) = self.tables.get(&site.id).or_else(|| self.gone.get(&site.id)) {
            return table.clone();
        }
        let table = registry.table(threads, &snapshot.gateway, &site.config.name);
        self.tables.insert(site.id, table.clone());
        table
    }
}

impl Registry {
    fn table(&self, threads: usize, gateway: &Arc<Gateway>, listener: &str) -> Arc<SiteTable> {
        let mut state = self.lock();
        if !state.gateway.as_ref().is_some_and(|current| Arc::ptr_eq(current, gateway)) {
            state.gateway = Some(gateway.clone());
            state.tables.clear();
            state.policies = state.kept.prepare(gateway);
            let routes = &gateway.routes;
            state.stats.retain(|(listener, name), _| {
                let is_of =
                    |route: &Arc<Route>| route.listener == *listener && [&route.name, ""].contains(&name.as_str());
                routes.iter().any(is_of)
            });
        }
        if let Some(table) = state.tables.get(listener) {
            return table.clone();
        }
        let State { stats, policies, .. } = &mut *state;
        let mut stats = |route: &str| {
            let key = (listener.to_owned(), route.to_owned());
            stats.entry(key).or_insert_with(|| Arc::new(RouteStats::new(threads))).clone()
        };
        let own = gateway.routes.iter().zip(policies).filter(|(route, _)| route.listener == listener);
        let routes = own.map(|(route, policies)| {
            let (name, route) = (route.name.as_str().into(), route.clone());
            Arc::new(Prepared { name, policies: policies.clone(), stats: stats(&route.name), route })
        });
        let (table, routes) = (Table::build(gateway, listener), routes.collect());
        let identity = policy::reserved_headers(gateway).cloned().collect();
        let made = SiteTable { table, routes, outside: stats(""), identity };
        let made = Arc::new(made);
        state.tables.insert(listener.to_owned(), made.clone());
        made
    }

    /// The breaker of a pool that has one.
    pub fn breaker(&self, pool: &Pool) -> Option<Arc<Mutex<Breaker>>> {
        let rules = pool.config.http.breaker?;
        let mut state = self.lock();
        let known = state.breakers.entry(pool.id).or_insert_with(|| Arc::new(Mutex::new(Breaker::new(rules))));
        if *known.lock().unwrap_or_else(PoisonError::into_inner).rules() != rules {
            *known = Arc::new(Mutex::new(Breaker::new(rules)));
        }
        Some(known.clone())
    }

    /// Forgets the breakers of all other pools.
    pub fn retain(&self, stays: impl Fn(PoolId) -> bool) {
        self.lock().breakers.retain(|pool, _| stays(*pool));
    }

    /// What was counted so far.
    pub fn counts(&self) -> Vec<RouteCounts> {
        let state = self.lock();
        let mut counts: Vec<_> =
            state.stats.iter().map(|((listener, route), stats)| stats.counts(listener, route)).collect();
        counts.sort_by(|a, b| (&a.listener, &a.route).cmp(&(&b.listener, &b.route)));
        counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// The pool for the next request of this route: where the client's cookie says that it stays, or by weight.
    pub fn pool(&self, headers: &mut Headers, rng: &mut fastrand::Rng) -> Option<&str> {
        let Action::Forward(pools) = &self.route.action else { return None };
        if let [(pool, _)] = pools.as_slice() {
            return Some(pool);
        }
        if let Some(rule) = &self.route.sticky {
            let mut open = pools.iter().filter(|(_, weight)| *weight > 0);
            if let Some((pool, _)) = open.find(|(pool, _)| sticky::backend(rule, pool, headers.map()).is_some()) {
                return Some(pool);
            }
        }
        let all = pools.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        let mut at = rng.u64(0..all.max(1));
        let chosen = pools.iter().find(|(_, weight)| {
            let is_here = at < u64::from(*weight);
            at = at.saturating_sub(u64::from(*weight));
            is_here
        });
        chosen.or(pools.first()).map(|(pool, _)| pool.as_str())
    }
}
