//! Where backends are: addresses of host names, and the backends that DNS or a file tells of. All of it reaches the
//! supervisor as messages; nothing waits for it but a start and, for a moment, a reload.
//!
//! `dns` asks resolvers and `files` looks at files, in tasks that `asker` starts. `book` keeps what they said, `set` decides
//! what follows from it; both are pure. What is believed stays until something else is.

mod asker;
mod book;
mod dns;
mod files;
mod report;
mod set;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use self::asker::Asker;
use self::book::{Entry, Kind, Part, Question};
use self::files::{Found, Seen, Watched};
pub use self::report::Report;
use self::set::Member;
use super::{now, wall_clock};
use crate::api;
use crate::config::{self, Address, Config, Endpoint, Origin, Protocol};
use crate::handover;

/// The longest that a start waits for the first answers: what has none then begins without backends.
pub const START_PATIENCE: Duration = Duration::from_secs(2);
/// The same for the names that are new with a reload, during which the supervisor does nothing else.
pub const RELOAD_PATIENCE: Duration = Duration::from_millis(250);
/// Messages that wait for the supervisor; a task beyond waits.
pub const NEWS_MAX: usize = 64;
/// Addresses of one name among the `backends` that are used.
const ADDRESSES_MAX: usize = 64;
/// Backends that a line of the log names.
const SHOWN_MAX: usize = 10;

/// What a task has found out.
#[derive(Debug)]
pub struct News(Topic);

#[derive(Debug)]
enum Topic {
    Answer(Question, Vec<Part>),
    Look(PathBuf, Seen, Found),
}

/// Whom to tell.
pub type Teller = mpsc::Sender<News>;

/// A backend of a pool.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As it is shown: the file's name, or `name@address` where a host name has several.
    pub name: String,
    /// What the file says, or what would stand there.
    pub file: Arc<config::Backend>,
    /// Where it is, or why nobody knows.
    pub place: Result<Endpoint, String>,
    /// Who told of it.
    pub origin: api::Origin,
}

/// What a pool has of its `discover`.
#[derive(Debug)]
struct Gathered {
    /// Of whom the members are.
    origin: Origin,
    members: Vec<Member>,
    /// What is wrong with what was said, and since when.
    note: Option<(String, SystemTime)>,
    updates: u64,
}

impl Gathered {
    fn new(origin: Origin) -> Self {
        Self { origin, members: Vec::new(), note: None, updates: 0 }
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Discovery {
    book: HashMap<Question, Entry>,
    files: HashMap<PathBuf, Watched>,
    /// The believed addresses of host names among the backends.
    hosts: HashMap<String, Vec<IpAddr>>,
    /// By the name of the pool.
    pools: HashMap<String, Gathered>,
    next: Option<Instant>,
    asker: Asker,
}

impl Discovery {
    /// Adds what `config` needs to be known, to be asked for at once.
    pub fn follow(&mut self, config: &Config, now: Instant) {
        for question in self.questions(config) {
            self.book.entry(question).or_insert_with(|| {
                self.next = Some(now);
                Entry::new(now)
            });
        }
        for path in paths(config) {
            self.files.entry(path.clone()).or_insert_with(|| {
                self.next = Some(now);
                Watched::new(now)
            });
        }
    }

    /// Forgets what `config` does not need.
    pub fn forget(&mut self, config: &Config) {
        let questions: HashSet<Question> = self.questions(config).into_iter().collect();
        self.book.retain(|question, _| questions.contains(question));
        let paths: HashSet<&PathBuf> = paths(config).collect();
        self.files.retain(|path, _| paths.contains(path));
        let pools: HashSet<&str> =
            config.pools.iter().filter(|p| p.discover.is_some()).map(|p| p.name.as_str()).collect();
        self.pools.retain(|name, _| pools.contains(name.as_str()));
        self.hosts.retain(|name, _| questions.contains(&host(name, None)));
    }

    /// Asks for what is due.
    pub fn ask(&mut self, now: Instant, teller: &Teller) {
        self.next = None;
        for (question, entry) in &mut self.book {
            match entry.due {
                Some(due) if due <= now => {
                    entry.due = None;
                    self.asker.ask(question.clone(), teller.clone(), now);
                }
                Some(due) => self.next = Some(self.next.map_or(due, |next| next.min(due))),
                None => {}
            }
        }
        for (path, file) in &mut self.files {
            match file.due {
                Some(due) if due <= now => {
                    file.due = None;
                    self.asker.look(path.clone(), file.seen, teller.clone());
                }
                Some(due) => self.next = Some(self.next.map_or(due, |next| next.min(due))),
                None => {}
            }
        }
    }

    /// When [`Self::ask`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Takes a message in. True when [`Self::settle`] may come to something else.
    pub fn hear(&mut self, News(topic): News, now: Instant, time: SystemTime) -> bool {
        let (changed, due, track, source, before) = match topic {
            Topic::Answer(question, reply) => {
                let Some(entry) = self.book.get_mut(&question) else { return false };
                let (first, before) = (!entry.was_asked, entry.track.fails);
                let changed = entry.hear(reply, now, time, fastrand::f32());
                (changed || first, entry.due, &entry.track, question.name, before)
            }
            Topic::Look(path, seen, found) => {
                let Some(file) = self.files.get_mut(&path) else { return false };
                let (first, before) = (!file.was_asked, file.track.fails);
                let changed = file.hear((seen, found), now, time);
                (changed || first, file.due, &file.track, path.display().to_string(), before)
            }
        };
        match track.trouble() {
            Some(why) if !before => tracing::warn!(source, why, "discovery fails: what is known stays"),
            None if before => tracing::info!(source, "discovery works again"),
            _ => {}
        }
        self.next = self.next.into_iter().chain(due).min();
        changed
    }

    /// Waits until each question of `config` has had one reply, good or bad, but no longer than `patience`.
    pub async fn wait(
        &mut self,
        config: &Config,
        patience: Duration,
        (teller, news): (&Teller, &mut mpsc::Receiver<News>),
    ) {
        let limit = tokio::time::Instant::now() + patience;
        self.follow(config, now());
        self.ask(now(), teller);
        while self.is_waiting() {
            let Ok(Some(told)) = tokio::time::timeout_at(limit, news.recv()).await else { break };
            self.hear(told, now(), wall_clock());
            self.settle(config, wall_clock());
            self.follow(config, now());
            self.ask(now(), teller);
        }
        self.settle(config, wall_clock());
    }

    fn is_waiting(&self) -> bool {
        self.book.values().any(|entry| !entry.was_asked) || self.files.values().any(|file| !file.was_asked)
    }

    /// Decides what is believed now, and tells what is new. True when backends are others than before.
    pub fn settle(&mut self, config: &Config, time: SystemTime) -> bool {
        let mut changed = false;
        for pool in &config.pools {
            changed |= self.settle_pool(config, pool, time);
        }
        let names: HashSet<String> = self.host_names(config).map(str::to_owned).collect();
        for name in names {
            let Some(entry) = self.book.get(&host(&name, None)) else { continue };
            let before = self.hosts.get(&name).map_or(&[][..], Vec::as_slice);
            // Nobody can say how few are to be believed of a name among the backends: none is too few.
            let settled = set::settle(before, entry.addresses(), entry.is_whole(), (1, ADDRESSES_MAX), |ip| *ip);
            let mut addresses = settled.kept;
            addresses.sort_unstable();
            if before != addresses {
                let [added, removed] = differences(before, &addresses, IpAddr::to_string);
                tracing::info!(name, added, removed, "the addresses of a name have changed");
                self.hosts.insert(name, addresses);
                changed = true;
            }
        }
        changed
    }

    fn settle_pool(&mut self, config: &Config, pool: &config::Pool, time: SystemTime) -> bool {
        let Some(discover) = &pool.discover else { return false };
        let (mut said, is_whole) = self.said(discover);
        let all = said.len();
        said.retain(|member| fits(config, pool, member));
        let misfits = all - said.len();
        let known = self.pools.entry(pool.name.clone()).or_insert_with(|| Gathered::new(discover.origin.clone()));
        let mut before = known.members.clone();
        if known.origin != discover.origin && is_whole {
            // Those of another source stay until this one has spoken, whatever it says then.
            before.clear();
            known.origin = discover.origin.clone();
        }
        let bounds = (discover.min as usize, discover.max.get() as usize);
        let settled = set::settle(&before, said, is_whole, bounds, |member| member.backend.name.clone());
        let note = match (settled.too_few, settled.left_out.len(), misfits) {
            (Some(count), ..) => Some(format!("only {count}, and `min` is {}: what is known stays", bounds.0)),
            (None, 0, 0) => None,
            (None, 0, misfits) => Some(format!("left out, for this pool cannot reach it: {misfits}")),
            (None, ..) => {
                let names = shown(settled.left_out.iter().map(|member| member.backend.name.clone()).collect());
                Some(format!("left out, for `max` is {}: {names}", bounds.1))
            }
        };
        if note.as_ref() != known.note.as_ref().map(|(note, _)| note) {
            if let Some(why) = &note {
                tracing::warn!(pool = pool.name, source = %discover.origin, why, "discovery is not believed in full");
            }
            known.note = note.map(|note| (note, time));
        }
        if known.members == settled.kept {
            return false;
        }
        let [added, removed] = differences(&known.members, &settled.kept, |member| member.backend.name.clone());
        let backends = settled.kept.len();
        tracing::info!(pool = pool.name, source = %discover.origin, backends, added, removed, "backends were discovered");
        known.members = settled.kept;
        known.updates += 1;
        true
    }

    /// What the source of a pool says, and whether that is all.
    fn said(&self, discover: &config::Discover) -> (Vec<Member>, bool) {
        let limit = discover.max_connections;
        match &discover.origin {
            Origin::Addresses { name, port, resolver } => {
                let Some(entry) = self.book.get(&host(name, *resolver)) else { return (Vec::new(), false) };
                (set::of_addresses(name, *port, entry.addresses(), limit), entry.is_whole())
            }
            Origin::Services { name, resolver } => {
                let Some(entry) = self.book.get(&services(name, *resolver)) else { return (Vec::new(), false) };
                let of = |name: &str| self.book.get(&host(name, *resolver));
                let mut hosts = set::hosts_of(entry.services(), discover.max.get() as usize).into_iter();
                let is_whole = entry.is_whole() && hosts.all(|name| of(name).is_some_and(Entry::is_whole));
                let addresses = |name: &str| of(name).map_or(Vec::new(), Entry::addresses);
                (set::of_services(entry.services(), addresses, limit), is_whole)
            }
            Origin::File(path) => {
                let Some(file) = self.files.get(path) else { return (Vec::new(), false) };
                let member = |backend: &Arc<config::Backend>| {
                    let mut backend = backend.clone();
                    if backend.max_connections.is_none() && limit.is_some() {
                        Arc::make_mut(&mut backend).max_connections = limit;
                    }
                    Member { backend, at: None }
                };
                (file.backends.iter().flatten().map(member).collect(), file.backends.is_some())
            }
        }
    }

    /// The backends of a pool, those of the file first: whatever else has the name or place of one of them is that one.
    pub fn backends(&self, pool: &config::Pool) -> Vec<Candidate> {
        let mut all: Vec<Candidate> =
            pool.backends.iter().flat_map(|backend| self.places(pool, backend, api::Origin::Config)).collect();
        let Some(discover) = &pool.discover else { return all };
        let mut names: HashSet<String> = all.iter().map(|candidate| candidate.name.clone()).collect();
        let mut places: HashSet<Endpoint> = all.iter().filter_map(|candidate| candidate.place.clone().ok()).collect();
        let origin = if matches!(discover.origin, Origin::File(_)) { api::Origin::File } else { api::Origin::Dns };
        let members = self.pools.get(&pool.name).into_iter().flat_map(|known| &known.members);
        let further = members.flat_map(|member| match member.at {
            Some(at) => vec![Candidate {
                name: member.backend.name.clone(),
                file: member.backend.clone(),
                place: Ok(Endpoint::Ip(at)),
                origin,
            }],
            None => self.places(pool, &member.backend, origin),
        });
        let further = further.filter(|candidate| {
            let is_new = candidate.place.as_ref().map_or(true, |place| !places.contains(place));
            is_new && names.insert(candidate.name.clone()) && {
                places.extend(candidate.place.clone().ok());
                true
            }
        });
        all.extend(further.take(discover.max.get() as usize));
        all
    }

    /// One place, but for a host name with several addresses.
    fn places(&self, pool: &config::Pool, file: &Arc<config::Backend>, origin: api::Origin) -> Vec<Candidate> {
        let candidate = |name: String, place| Candidate { name, file: file.clone(), place, origin };
        let (name, port) = match &file.address {
            Address::Ip(address) => return vec![candidate(file.name.clone(), Ok(Endpoint::Ip(*address)))],
            Address::Unix(path) => return vec![candidate(file.name.clone(), Ok(Endpoint::Unix(path.clone())))],
            Address::Host { name, port } => (name, *port),
        };
        let known = self.hosts.get(name).map_or(&[][..], Vec::as_slice);
        let ips: Vec<IpAddr> = known.iter().copied().filter(|ip| is_reached(pool, *ip)).collect();
        match ips[..] {
            [ip] => vec![candidate(file.name.clone(), Ok(Endpoint::Ip((ip, port).into())))],
            [] => {
                let why = self.book.get(&host(name, None)).and_then(|entry| entry.track.trouble());
                let why = if known.is_empty() { why.unwrap_or("not resolved yet") } else { "`source` cannot reach it" };
                vec![candidate(file.name.clone(), Err(why.to_owned()))]
            }
            _ => {
                let place = |ip: IpAddr| candidate(format!("{}@{ip}", file.name), Ok(Endpoint::Ip((ip, port).into())));
                ips.into_iter().map(place).collect()
            }
        }
    }

    /// All that has to be asked for `config`, as far as is known.
    fn questions(&self, config: &Config) -> Vec<Question> {
        let mut questions: Vec<Question> = self.host_names(config).map(|name| host(name, None)).collect();
        for discover in config.pools.iter().filter_map(|pool| pool.discover.as_ref()) {
            match &discover.origin {
                Origin::Addresses { name, resolver, .. } => questions.push(host(name, *resolver)),
                Origin::Services { name, resolver } => {
                    let question = services(name, *resolver);
                    let known = self.book.get(&question).into_iter().flat_map(Entry::services);
                    let hosts = set::hosts_of(known, discover.max.get() as usize);
                    questions.extend(hosts.into_iter().map(|name| host(name, *resolver)));
                    questions.push(question);
                }
                Origin::File(_) => {}
            }
        }
        questions
    }

    /// The host names among the backends of the file, and of files of backends.
    fn host_names<'s>(&'s self, config: &'s Config) -> impl Iterator<Item = &'s str> {
        let members = |pool: &'s config::Pool| self.pools.get(&pool.name).into_iter().flat_map(|known| &known.members);
        let in_files = move |pool| members(pool).filter(|member| member.at.is_none()).map(|member| &*member.backend);
        let all = config.pools.iter().flat_map(move |pool| pool.backends.iter().map(|b| &**b).chain(in_files(pool)));
        all.filter_map(|backend| match &backend.address {
            Address::Host { name, .. } => Some(name.as_str()),
            Address::Ip(_) | Address::Unix(_) => None,
        })
    }

    /// What is believed, for a successor.
    pub fn bequeath(&self) -> handover::Discovered {
        let hosts = self.hosts.iter().map(|(name, addresses)| (name.clone(), addresses.clone())).collect();
        let pools = self.pools.iter().map(|(pool, known)| {
            (pool.clone(), known.origin.to_string(), known.members.iter().map(Member::describe).collect())
        });
        handover::Discovered { hosts, pools: pools.collect() }
    }

    /// Takes what a predecessor believes for what was believed so far, and decides anew.
    pub fn inherit(&mut self, config: &Config, known: &handover::Discovered, time: SystemTime) {
        self.hosts.extend(known.hosts.iter().cloned());
        for (name, origin, members) in &known.pools {
            let Some(pool) = config.pools.iter().find(|pool| pool.name == *name) else { continue };
            let Some(discover) = pool.discover.as_ref().filter(|one| one.origin.to_string() == *origin) else {
                continue;
            };
            let members = members.iter().filter_map(Member::read).filter(|member| fits(config, pool, member)).collect();
            let gathered = self.pools.entry(name.clone()).or_insert_with(|| Gathered::new(discover.origin.clone()));
            gathered.members = members;
        }
        self.settle(config, time);
        // The members may be host names.
        self.follow(config, now());
    }

    /// How each source of a pool has been doing.
    pub fn reports(&self, pool: &config::Pool) -> Vec<Report> {
        report::of(self, pool)
    }
}

fn host(name: &str, resolver: Option<SocketAddr>) -> Question {
    Question { name: name.to_owned(), kind: Kind::Host, resolver }
}

fn services(name: &str, resolver: Option<SocketAddr>) -> Question {
    Question { name: name.to_owned(), kind: Kind::Services, resolver }
}

fn paths(config: &Config) -> impl Iterator<Item = &PathBuf> {
    config.pools.iter().filter_map(|pool| match &pool.discover.as_ref()?.origin {
        Origin::File(path) => Some(path),
        Origin::Addresses { .. } | Origin::Services { .. } => None,
    })
}

/// A socket bound to an address of one family cannot connect to the other.
fn is_reached(pool: &config::Pool, ip: IpAddr) -> bool {
    pool.source.is_none_or(|source| source.is_ipv4() == ip.is_ipv4())
}

/// Whether the pool could use it; what stands in the configuration itself was looked at with it.
fn fits(config: &Config, pool: &config::Pool, member: &Member) -> bool {
    match (member.at, &member.backend.address) {
        (Some(at), _) => is_reached(pool, at.ip()),
        (None, Address::Ip(at)) => is_reached(pool, at.ip()),
        (None, Address::Host { .. }) => true,
        (None, Address::Unix(_)) => {
            let is_udp = |listener: &&Arc<config::Listener>| matches!(listener.protocol, Protocol::Udp(_));
            !config.listeners.iter().filter(is_udp).any(|listener| listener.pools().any(|name| name == pool.name))
        }
    }
}

/// What came and what went, for the log.
fn differences<T: PartialEq>(before: &[T], after: &[T], name: impl Fn(&T) -> String) -> [String; 2] {
    let names = |items: &[T]| -> Vec<String> { items.iter().map(&name).collect() };
    let (before, after) = (names(before), names(after));
    let only = |of: &[String], other: &[String]| {
        let other: HashSet<&String> = other.iter().collect();
        shown(of.iter().filter(|name| !other.contains(name)).cloned().collect())
    };
    [only(&after, &before), only(&before, &after)]
}

fn shown(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(SHOWN_MAX);
    let mut text = names[..names.len() - more].join(" ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
pub(super) mod tests;
