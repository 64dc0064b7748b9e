//! What is lost to limits. Counting it is the engines' affair, and a metric; that it has begun is an event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::events::{About, Events};
use super::wanted::Wanted;
use crate::access::Journal;
use crate::api::EventKind;
use crate::id::ListenerId;
use crate::reason::{CloseReason, DropReason};
use crate::stats::ListenerCell;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A limit is told again once it was not reached for so long.
const QUIET: Duration = Duration::from_secs(60);

/// Endings for want of room, for everybody. What one client may have is its own affair.
const ENDINGS: [CloseReason; 6] = [
    CloseReason::MaxConnections,
    CloseReason::QueueFull,
    CloseReason::QueueTimeout,
    CloseReason::ResourceExhausted,
    CloseReason::PortExhausted,
    CloseReason::Shed,
];
/// The same of datagrams.
const DROPS: [DropReason; 4] =
    [DropReason::TableFull, DropReason::ReceiveBufferFull, DropReason::PortExhausted, DropReason::ResourceExhausted];

/// What has been seen of each limit.
#[derive(Debug)]
pub struct Limits {
    /// When to look next.
    pub next_look: Instant,
    seen: BTreeMap<(Option<ListenerId>, Lost, &'static str), Seen>,
}

/// What a limit has cost: endings and drops share some of their reasons' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    Clients,
    Datagrams,
    Lines,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: u64,
    grew: Option<Instant>,
}

impl Limits {
    /// Nothing has been seen yet.
    pub fn new(now: Instant) -> Self {
        Self { next_look: now + LOOK_INTERVAL, seen: BTreeMap::new() }
    }

    /// What a predecessor has counted is no news.
    pub fn learn(&mut self, wanted: &Wanted, journal: &Journal, now: Instant) {
        self.look(wanted, journal, &mut Events::new(), now);
        self.seen.values_mut().for_each(|seen| seen.grew = None);
    }

    /// Tells what has been reached since the last look and was quiet before.
    pub fn look(&mut self, wanted: &Wanted, journal: &Journal, events: &mut Events, now: Instant) {
        self.next_look = now + LOOK_INTERVAL;
        let mut before = std::mem::take(&mut self.seen);
        let mut look = |key, count| {
            let seen = before.remove(&key).unwrap_or_default();
            let more = count - seen.count.min(count);
            let grew = if more > 0 { Some(now) } else { seen.grew };
            self.seen.insert(key, Seen { count, grew });
            let is_news = seen.grew.is_none_or(|grew| now.saturating_duration_since(grew) >= QUIET);
            (more > 0 && is_news).then_some(more)
        };
        for listener in &wanted.listeners {
            let sum = |of: &dyn Fn(&ListenerCell) -> u64| listener.stats.cells().map(of).sum::<u64>();
            let endings = ENDINGS.map(|reason| (reason.as_str(), sum(&|cell| cell.closed[reason.index()].read())));
            let about = About::listener(&listener.config.name);
            for (reason, count) in endings {
                if let Some(more) = look((Some(listener.stats.id), Lost::Clients, reason), count) {
                    events.tell(EventKind::LimitReached, about, format!("{reason}: {more} clients ended with it"));
                }
            }
            let drops = DROPS.map(|reason| (reason.as_str(), sum(&|cell| cell.dropped[reason.index()].read())));
            for (reason, count) in drops.into_iter().filter(|_| listener.carries_datagrams()) {
                if let Some(more) = look((Some(listener.stats.id), Lost::Datagrams, reason), count) {
                    events.tell(EventKind::LimitReached, about, format!("{reason}: {more} datagrams dropped"));
                }
            }
        }
        if let Some(more) = look((None, Lost::Lines, "access_log"), journal.dropped()) {
            let text = format!("the access log is not read fast enough: {more} events lost");
            events.tell(EventKind::LimitReached, About::default(), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{now, sample};
    use super::*;

    #[test]
    fn a_limit_is_told_when_it_is_reached_and_again_only_after_a_quiet_while() {
        sample::show(
            |_, _| {},
            |scene| {
                let start = now();
                let (mut limits, mut events) = (Limits::new(start), Events::new());
                let mut look = |at: u64| {
                    limits.look(scene.wanted, scene.journal, &mut events, start + Duration::from_secs(at));
                    events.last(1).pop().map_or(0, |event| event.seq)
                };
                let refused = &scene.wanted.listeners[0].stats.cell(0).closed[CloseReason::MaxConnections.index()];
                assert_eq!(look(0), 0);
                refused.add(3);
                assert_eq!((look(5), look(10)), (1, 1));
                refused.add(3);
                assert_eq!((look(20), look(70)), (1, 1), "it is known");
                refused.add(3);
                assert_eq!(look(80), 2, "it was quiet for a minute");
                scene.wanted.listeners[1].stats.cell(1).drop_datagrams(DropReason::TableFull, 9);
                scene.wanted.listeners[1].stats.cell(1).drop_datagrams(DropReason::Denied, 9);
                assert_eq!(look(85), 3);
                let event = events.last(1).remove(0);
                assert_eq!((event.kind, event.listener.as_deref()), (EventKind::LimitReached, Some("dns")));
                assert_eq!(event.text, "table_full: 9 datagrams dropped");

                let mut successor = Limits::new(start);
                successor.learn(scene.wanted, scene.journal, start);
                successor.look(scene.wanted, scene.journal, &mut events, start);
                assert_eq!(events.last(1).remove(0).seq, 3, "what was counted before is no news");
                refused.add(1);
                successor.look(scene.wanted, scene.journal, &mut events, start);
                assert_eq!(events.last(1).remove(0).seq, 4);
            },
        );
    }
}
