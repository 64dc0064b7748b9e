//! What a reload changes: listeners, pools and backends by name, and the keys that only a restart can change.

use std::collections::HashMap;
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;

use super::{Backend, Config, Listener, Pool, Process};

/// The difference between two configurations. `Display` gives one line for the log:
/// "listeners: +a -b ~c; pools: ~pg (+1 -1 backends); restart needed for process.workers".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Listeners by name. A listener whose `bind` changed is among `changed` and in `rebound`; one whose `protocol`
    /// changed is another one: removed and added.
    pub listeners: Names,
    /// Those of `listeners.changed` that must bind other addresses than before.
    pub rebound: Vec<String>,
    /// Pools by name.
    pub pools: Names,
    /// What changed in each of `pools.changed`, in the same order.
    pub pool_changes: Vec<PoolChange>,
    /// Routes, issuers of tokens and consumers by name, where there are changes.
    pub gateway: Vec<(&'static str, Names)>,
    /// Keys of `[process]` that changed and take effect at once: `log`, `drain`.
    pub process: Vec<&'static str>,
    /// Keys of `[process]` that changed and take effect at the next start.
    pub restart: Vec<&'static str>,
}

/// Names that came, went or stayed with other contents, each in the order of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Only in the new configuration.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, and not the same.
    pub changed: Vec<String>,
}

/// What changed in a pool that is in both configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolChange {
    /// The pool.
    pub pool: String,
    /// Backends by name; one whose address changed is another one: removed and added.
    pub backends: Names,
    /// Whether something other than the backends changed, or their order.
    pub options: bool,
}

/// What the new configuration changes.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let (mut listeners, mut same_listeners) =
        compare(&old.listeners, &new.listeners, |listener: &Arc<Listener>| listener.name.as_str());
    same_listeners.retain(|(old, new)| {
        let is_another = discriminant(&old.protocol) != discriminant(&new.protocol);
        if is_another {
            listeners.replace(&new.name);
        }
        !is_another
    });
    let (pools, same_pools) = compare(&old.pools, &new.pools, |pool| pool.name.as_str());
    let rebound = |(old, new): &(&Arc<Listener>, &Arc<Listener>)| {
        let same = old.bind.len() == new.bind.len() && new.bind.iter().all(|bind| old.bind.contains(bind));
        (!same).then(|| new.name.clone())
    };
    let (process, restart) = compare_process(&old.process, &new.process);
    Diff {
        rebound: same_listeners.iter().filter_map(rebound).collect(),
        listeners,
        pool_changes: same_pools
            .into_iter()
            .filter(|(old, new)| old != new)
            .map(|(old, new)| change(old, new))
            .collect(),
        pools,
        gateway: new.gateway.diff(&old.gateway),
        process,
        restart,
    }
}

impl Diff {
    /// Whether nothing changes, now or at the next start.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Names {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What has changed is another thing under the same name.
    fn replace(&mut self, name: &str) {
        self.changed.retain(|changed| changed != name);
        self.added.push(name.to_owned());
        self.removed.push(name.to_owned());
    }
}

impl PoolChange {
    fn counts(&self) -> String {
        let backends = &self.backends;
        let counts = [("+", backends.added.len()), ("-", backends.removed.len()), ("~", backends.changed.len())];
        let counts: Vec<_> =
            counts.iter().filter(|(_, count)| *count > 0).map(|(sign, count)| format!("{sign}{count}")).collect();
        match (counts.is_empty(), self.options) {
            (true, _) => "(options)".to_owned(),
            (false, false) => format!("({} backends)", counts.join(" ")),
            (false, true) => format!("({} backends, options)", counts.join(" ")),
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.listeners.is_empty() {
            let note = |name: &String| if self.rebound.contains(name) { " (other addresses)" } else { "" }.to_owned();
            parts.push(summary("listeners", &self.listeners, note));
        }
        if !self.pools.is_empty() {
            let counts: HashMap<_, _> =
                self.pool_changes.iter().map(|change| (&change.pool, format!(" {}", change.counts()))).collect();
            parts.push(summary("pools", &self.pools, |name| counts.get(name).cloned().unwrap_or_default()));
        }
        parts.extend(self.gateway.iter().map(|(what, names)| summary(what, names, |_| String::new())));
        if !self.process.is_empty() {
            parts.push(format!("process: ~{}", self.process.join(" ~")));
        }
        if !self.restart.is_empty() {
            parts.push(format!("restart needed for process.{}", self.restart.join(", process.")));
        }
        if parts.is_empty() {
            return f.write_str("no change");
        }
        f.write_str(&parts.join("; "))
    }
}

/// Names that the summary shows of each sort; the others are counted.
const NAMES_SHOWN_MAX: usize = 10;

fn summary(what: &str, names: &Names, note: impl Fn(&String) -> String) -> String {
    let mut text = format!("{what}:");
    for (sign, names) in [("+", &names.added), ("-", &names.removed), ("~", &names.changed)] {
        for name in names.iter().take(NAMES_SHOWN_MAX) {
            text.push_str(&format!(" {sign}{name}"));
            if sign == "~" {
                text.push_str(&note(name));
            }
        }
        if names.len() > NAMES_SHOWN_MAX {
            text.push_str(&format!(" and {} more {sign}", names.len() - NAMES_SHOWN_MAX));
        }
    }
    text
}

/// The names, and the pairs of those that are in both.
pub(super) fn compare<'c, T: PartialEq>(
    old: &'c [T],
    new: &'c [T],
    name: impl Fn(&T) -> &str,
) -> (Names, Vec<(&'c T, &'c T)>) {
    let before: HashMap<&str, &T> = old.iter().map(|item| (name(item), item)).collect();
    let after: HashMap<&str, &T> = new.iter().map(|item| (name(item), item)).collect();
    let both: Vec<_> = new.iter().filter_map(|item| Some((*before.get(name(item))?, item))).collect();
    let names = Names {
        added: new.iter().map(&name).filter(|name| !before.contains_key(name)).map(str::to_owned).collect(),
        removed: old.iter().map(&name).filter(|name| !after.contains_key(name)).map(str::to_owned).collect(),
        changed: both.iter().filter(|(old, new)| old != new).map(|(_, new)| name(new).to_owned()).collect(),
    };
    (names, both)
}

fn change(old: &Pool, new: &Pool) -> PoolChange {
    let (mut backends, both) = compare(&old.backends, &new.backends, |backend: &Arc<Backend>| backend.name.as_str());
    for (_, moved) in both.iter().filter(|(old, new)| old.address != new.address) {
        backends.replace(&moved.name);
    }
    let order = |pool: &Pool| pool.backends.iter().map(|backend| backend.name.clone()).collect::<Vec<_>>();
    let options = Pool { backends: Vec::new(), ..old.clone() } != Pool { backends: Vec::new(), ..new.clone() };
    let reordered = backends.is_empty() && order(old) != order(new);
    PoolChange { pool: new.name.clone(), options: options || reordered, backends }
}

/// Keys that take effect at once, and those that need a restart. The struct is taken apart whole, so that a new key
/// cannot be forgotten here.
fn compare_process(old: &Process, new: &Process) -> (Vec<&'static str>, Vec<&'static str>) {
    let Process { workers, pin, busy_poll, max_connections, admin, metrics, status_page, splice, log, drain } = new;
    let changed = |keys: &[(&'static str, bool)]| keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
    let live = [
        ("max_connections", *max_connections == old.max_connections),
        ("log", *log == old.log),
        ("drain", *drain == old.drain),
    ];
    let fixed = [
        ("workers", *workers == old.workers),
        ("pin", *pin == old.pin),
        ("busy_poll", *busy_poll == old.busy_poll),
        ("admin", *admin == old.admin),
        ("metrics", *metrics == old.metrics),
        ("status_page", *status_page == old.status_page),
        ("splice", *splice == old.splice),
    ];
    (changed(&live), changed(&fixed))
}
