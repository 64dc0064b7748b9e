//! What has changed, in order: the last events, for those who follow `GET /v1/events` and for the status page.
//!
//! The ring belongs to the supervisor. Somebody who follows has only a place and the number of the last event that he
//! was told; what is new he asks for at the desk when he is ready for it. So a slow reader costs nothing: what the ring
//! has forgotten meanwhile is lost to him, and he is told how much.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http_body_util::Either;
use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::desk::{Desk, Gone, Request};
use super::http::{self, Answer};
use super::wanted::{Backend, Wanted};
use super::{publish, wall_clock};
use crate::api::{self, EventKind, State};
use crate::config;
use crate::id::PoolId;

/// Events that are kept.
const KEPT_MAX: usize = 2048;
/// Characters of an event's text.
const TEXT_CHARS_MAX: usize = 400;
/// Events that one answer of the desk has.
const BATCH_MAX: usize = 64;
/// Who may follow at once; fewer than the connections that the admin API takes, so that there is always one left.
const FOLLOWERS_MAX: usize = 16;

/// The last events.
#[derive(Debug)]
pub struct Events {
    kept: VecDeque<api::Event>,
    newest: watch::Sender<u64>,
    places: Arc<Semaphore>,
    /// How each pool stood when it was looked at last.
    pools: BTreeMap<PoolId, Standing>,
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// A listener's name.
    pub listener: Option<&'a str>,
    /// A pool's name.
    pub pool: Option<&'a str>,
    /// A backend's name.
    pub backend: Option<&'a str>,
}

/// How a pool stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Serves,
    Panics,
    HasNobody,
}

/// A place among those who follow.
#[derive(Debug)]
pub struct Place {
    newest: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl<'a> About<'a> {
    /// A listener.
    pub fn listener(name: &'a str) -> Self {
        Self { listener: Some(name), ..Self::default() }
    }

    /// A pool.
    pub fn pool(name: &'a str) -> Self {
        Self { pool: Some(name), ..Self::default() }
    }

    /// A backend of a pool.
    pub fn backend(pool: &'a str, name: &'a str) -> Self {
        Self { pool: Some(pool), backend: Some(name), ..Self::default() }
    }
}

impl Events {
    /// None yet.
    pub fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            newest: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            pools: BTreeMap::new(),
        }
    }

    /// Something has happened.
    pub fn tell(&mut self, kind: EventKind, about: About<'_>, text: impl AsRef<str>) {
        self.tell_at(wall_clock(), kind, about, text.as_ref());
    }

    fn tell_at(&mut self, time: SystemTime, kind: EventKind, about: About<'_>, text: &str) {
        let seq = *self.newest.borrow() + 1;
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(api::Event {
            seq,
            time: humantime::format_rfc3339_millis(time).to_string(),
            kind,
            listener: about.listener.map(str::to_owned),
            pool: about.pool.map(str::to_owned),
            backend: about.backend.map(str::to_owned),
            text: text.chars().take(TEXT_CHARS_MAX).collect(),
            lost: 0,
        });
        self.newest.send_replace(seq);
    }

    /// The next ones after the one of this number, with a word about those that are not kept any more. A number that
    /// there has not been yet is of a process before this one: then, as with 0, all that are kept are new.
    pub fn after(&self, seq: u64) -> Vec<api::Event> {
        let oldest = self.kept.front().map_or(0, |event| event.seq);
        let seq = if seq > *self.newest.borrow() { 0 } else { seq };
        let lost = if seq == 0 { 0 } else { oldest.saturating_sub(seq + 1) };
        let at = self.kept.partition_point(|event| event.seq <= seq);
        let mut events: Vec<api::Event> = self.kept.iter().skip(at).take(BATCH_MAX).cloned().collect();
        if let (1.., Some(first)) = (lost, events.first()) {
            let text = format!("{lost} events were not read in time and are not kept any more");
            let time = first.time.clone();
            let (listener, pool, backend) = (None, None, None);
            let word = api::Event { seq: oldest - 1, time, kind: EventKind::Lost, listener, pool, backend, text, lost };
            events.insert(0, word);
        }
        events
    }

    /// The last ones, the newest at the end.
    pub fn last(&self, count: usize) -> Vec<api::Event> {
        self.kept.iter().skip(self.kept.len().saturating_sub(count)).cloned().collect()
    }

    /// A place for somebody who wants to follow; `None` = all are taken.
    pub fn follow(&self) -> Option<Place> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { newest: self.newest.subscribe(), _permit: permit })
    }

    /// A backend's state has changed.
    pub fn backend(&mut self, pool: &config::Pool, backend: &Backend, from: State, to: State) {
        let kind = match to {
            State::Up => EventKind::BackendUp,
            State::Down => EventKind::BackendDown,
            State::Ejected => EventKind::BackendEjected,
            State::Drain => EventKind::BackendDrain,
            State::Maint => EventKind::BackendMaint,
            State::Unresolved => EventKind::BackendUnresolved,
        };
        let text = format!("from {} to {}: {}", from.as_str(), to.as_str(), backend.why(pool));
        self.tell(kind, About::backend(&pool.name, &backend.name), text);
    }

    /// Looks how the pools stand, and tells where that has changed.
    pub fn look_at_pools(&mut self, wanted: &Wanted) {
        let before = std::mem::take(&mut self.pools);
        for pool in &wanted.pools {
            let standing = match (publish::has_nobody(pool), publish::is_in_panic(pool)) {
                (true, _) => Standing::HasNobody,
                (false, true) => Standing::Panics,
                (false, false) => Standing::Serves,
            };
            self.pools.insert(pool.stats.id, standing);
            let name = pool.config.name.as_str();
            let (kind, text) = match (before.get(&pool.stats.id).copied().unwrap_or(Standing::Serves), standing) {
                (old, new) if old == new => continue,
                (_, Standing::HasNobody) => (EventKind::NoBackend, "no backend takes clients"),
                (_, Standing::Panics) => (EventKind::Panic, "too few are up: health is ignored"),
                (_, Standing::Serves) => (EventKind::PoolServes, "it takes clients as it should again"),
            };
            self.tell(kind, About::pool(name), text);
        }
    }

    /// Backends that came and went.
    pub fn compare(&mut self, before: &Wanted, after: &Wanted) {
        type Name<'a> = (&'a str, &'a str);
        fn names(wanted: &Wanted) -> impl Iterator<Item = Name<'_>> {
            let pools = wanted.pools.iter();
            pools.flat_map(|pool| pool.backends.iter().map(|b| (pool.config.name.as_str(), b.name.as_str())))
        }
        let (old, new): (std::collections::HashSet<_>, std::collections::HashSet<_>) =
            (names(before).collect(), names(after).collect());
        for (pool, name) in names(before).filter(|name| !new.contains(name)) {
            self.tell(EventKind::BackendRemoved, About::backend(pool, name), "not among the pool's backends any more");
        }
        for (pool, name) in names(after).filter(|name| !old.contains(name)) {
            self.tell(EventKind::BackendAdded, About::backend(pool, name), "new among the pool's backends");
        }
        let has = |wanted: &Wanted, name: &str| wanted.listeners.iter().any(|listener| listener.config.name == name);
        for gone in before.listeners.iter().filter(|old| !has(after, &old.config.name)) {
            self.tell(EventKind::ListenerRemoved, About::listener(&gone.config.name), "takes no clients any more");
        }
        for new in after.listeners.iter().filter(|new| !has(before, &new.config.name)) {
            self.tell(EventKind::ListenerAdded, About::listener(&new.config.name), "takes clients");
        }
    }
}

/// Where a stream of events begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// After the event of this number.
    Since(u64),
    /// With so many that there have been already.
    Last(u64),
}

/// Answers `GET /v1/events`: a stream of lines that ends with the process.
pub async fn answer(desk: &Desk, query: Option<&str>) -> Result<Answer, Gone> {
    let begin = match read_begin(query) {
        Ok(begin) => begin,
        Err(why) => return Ok(http::error(StatusCode::UNPROCESSABLE_ENTITY, why)),
    };
    let Some(place) = desk.ask(Request::Follow).await? else {
        let why = format!("{FOLLOWERS_MAX} follow the events already, and there is no place for more");
        return Ok(http::error(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let last = match begin {
        Begin::Since(seq) => seq,
        Begin::Last(count) => place.newest.borrow().saturating_sub(count),
    };
    let (sender, lines) = mpsc::channel(1);
    tokio::spawn(follow(desk.clone(), place, last, sender));
    let mut answer = Response::new(Either::Right(Lines(lines)));
    let kind = hyper::header::HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    Ok(answer)
}

fn read_begin(query: Option<&str>) -> Result<Begin, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(Begin::Last(0)) };
    let (key, number) = query.split_once('=').unwrap_or((query, ""));
    match (key, number.parse()) {
        ("since", Ok(seq)) => Ok(Begin::Since(seq)),
        ("last", Ok(count)) => Ok(Begin::Last(count)),
        _ => Err("the query may be since=SEQ, the last event that you know, or last=COUNT".to_owned()),
    }
}

/// Hands on what is new as fast as it is read.
async fn follow(desk: Desk, mut place: Place, mut last: u64, lines: mpsc::Sender<Bytes>) {
    loop {
        place.newest.mark_unchanged();
        let Ok(events) = desk.ask(|answer| Request::Events(last, answer)).await else { return };
        let mut text = Vec::new();
        for event in &events {
            if serde_json::to_writer(&mut text, event).is_ok() {
                text.push(b'\n');
            }
        }
        match events.last() {
            Some(event) => last = event.seq,
            None => {
                let newer = tokio::select! {
                    newer = place.newest.changed() => newer,
                    () = lines.closed() => return,
                };
                if newer.is_err() {
                    return;
                }
                continue;
            }
        }
        if lines.send(text.into()).await.is_err() {
            return;
        }
    }
}

/// The body of the answer.
#[derive(Debug)]
pub struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|lines| lines.map(|lines| Ok(Frame::data(lines))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(count: u64) -> Events {
        let mut events = Events::new();
        for number in 1..=count {
            events.tell_at(SystemTime::UNIX_EPOCH, EventKind::ReloadDone, About::default(), &number.to_string());
        }
        events
    }

    fn numbers(events: &[api::Event]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn each_event_comes_once_and_in_order_however_it_is_asked_for() {
        let events = told(100);
        let mut seen = Vec::new();
        let mut last = 0;
        loop {
            let next = events.after(last);
            let Some(event) = next.last() else { break };
            last = event.seq;
            assert!(next.len() <= BATCH_MAX);
            seen.extend(numbers(&next));
        }
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
        assert_eq!(numbers(&events.after(98)), [99, 100]);
        assert_eq!(numbers(&events.last(2)), [99, 100]);
        assert!(Events::new().after(0).is_empty());
    }

    #[test]
    fn a_slow_reader_is_told_how_many_it_has_lost() {
        let events = told(KEPT_MAX as u64 + 10);
        let next = events.after(3);
        assert_eq!((next[0].kind, next[0].lost, next[0].seq), (EventKind::Lost, 7, 10));
        assert_eq!(next[1].seq, 11);
        assert_eq!(events.after(10)[0].seq, 11, "none was lost");
        assert_eq!(events.after(0)[0].seq, 11, "who asks for all that there are has lost none");
    }

    #[test]
    fn a_number_of_a_process_before_this_one_brings_all_that_there_are() {
        assert_eq!(numbers(&told(3).after(500)), [1, 2, 3]);
    }

    #[test]
    fn only_so_many_follow_and_a_place_is_given_back() {
        let events = told(1);
        let mut places: Vec<Place> = (0..FOLLOWERS_MAX).filter_map(|_| events.follow()).collect();
        assert_eq!(places.len(), FOLLOWERS_MAX);
        assert!(events.follow().is_none());
        places.pop();
        assert!(events.follow().is_some());
    }

    #[test]
    fn a_long_text_is_cut() {
        let mut events = Events::new();
        events.tell(EventKind::ReloadFailed, About::default(), "é".repeat(TEXT_CHARS_MAX * 2));
        assert_eq!(events.last(1)[0].text.chars().count(), TEXT_CHARS_MAX);
    }

    #[test]
    fn the_query_says_where_to_begin_or_nothing() {
        assert_eq!(read_begin(None), Ok(Begin::Last(0)));
        assert_eq!(read_begin(Some("since=7")), Ok(Begin::Since(7)));
        assert_eq!(read_begin(Some("last=10")), Ok(Begin::Last(10)));
        for bad in ["since", "since=", "since=-1", "last=x", "until=3", "since=1&last=2", "=1"] {
            assert!(read_begin(Some(bad)).is_err(), "{bad}");
        }
    }
}
