//! What resolvers have said: each question stands here once, whoever needs its answer. Pure: no socket, no clock.
//!
//! A resolver that fails, refuses or is silent has said nothing: what it said before is kept. Only an answer replaces
//! an answer, and "there is no such name" is one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

/// No answer is asked for again before this, however short it says that it lives.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Each answer is asked for again after this, however long it says that it lives.
pub const TTL_MAX: Duration = Duration::from_hours(1);
/// The same for the answer that there is nothing: somebody waits for it to change.
pub const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
/// After a failure.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Each wait is longer by up to this share, so that many names are not asked for at one instant.
const JITTER: f32 = 0.1;
/// Records of one answer that are used.
pub const RECORDS_MAX: usize = 4096;
/// The text of an error is cut to this many bytes: parts of it may come from others.
const WHY_BYTES_MAX: usize = 300;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// As it was written.
    pub name: String,
    /// For what.
    pub kind: Kind,
    /// Whom; `None` = the system's resolvers.
    pub resolver: Option<SocketAddr>,
}

/// For what a name is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A and AAAA: a reply of two parts.
    Host,
    /// SRV: a reply of one part.
    Services,
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// A or AAAA.
    Ip(IpAddr),
    /// SRV.
    Service(Service),
}

/// What an SRV record says (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower ones first.
    pub priority: u16,
    /// Among those of one priority.
    pub weight: u16,
    /// Never 0.
    pub port: u16,
    /// A host name, without the dot at its end.
    pub host: String,
}

/// What became of a question for one type of record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These, for so long.
    Records(Vec<Record>, Duration),
    /// There are none, for so long; why.
    Nothing(&'static str, Duration),
    /// Nobody said anything; why.
    Failed(String),
}

/// How a source has been doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// How often it said something else than before.
    pub updates: u64,
    /// How often it failed.
    pub failures: u64,
    /// When it answered last.
    pub success: Option<SystemTime>,
    /// Its last error, and when.
    pub error: Option<(String, SystemTime)>,
    /// Whether it fails now.
    pub fails: bool,
}

impl Track {
    /// Notes an answer.
    pub fn good(&mut self, time: SystemTime) {
        (self.success, self.fails) = (Some(time), false);
    }

    /// Notes a failure.
    pub fn bad(&mut self, mut why: String, time: SystemTime) {
        why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
        self.failures += 1;
        (self.error, self.fails) = (Some((why, time)), true);
    }

    /// What it fails with now.
    pub fn trouble(&self) -> Option<&str> {
        self.error.as_ref().filter(|_| self.fails).map(|(why, _)| why.as_str())
    }
}

/// A question with what is known.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The last answer to each part; `None` = there was none.
    kept: Vec<Option<Vec<Record>>>,
    /// When to ask; `None` while an answer is awaited.
    pub due: Option<Instant>,
    /// Whether there was a reply, good or bad.
    pub was_asked: bool,
    /// How it has been doing.
    pub track: Track,
}

impl Entry {
    /// To be asked at once.
    pub fn new(now: Instant) -> Self {
        Self { kept: Vec::new(), due: Some(now), was_asked: false, track: Track::default() }
    }

    /// All records that are known.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter().flatten().flatten()
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ip = |record: &Record| match record {
            Record::Ip(ip) => Some(*ip),
            Record::Service(_) => None,
        };
        self.records().filter_map(ip).collect()
    }

    /// Its services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.records().filter_map(|record| match record {
            Record::Service(service) => Some(service),
            Record::Ip(_) => None,
        })
    }

    /// Whether the records are all that there are. A resolver that never says anything about AAAA does not keep the
    /// addresses of A from being the whole answer.
    pub fn is_whole(&self) -> bool {
        !self.kept.is_empty() && self.kept.iter().all(Option::is_some) || self.records().next().is_some()
    }

    /// Takes a reply in, and sets when to ask again. `jitter` is from 0 to 1. True when something is known that was not.
    pub fn hear(&mut self, reply: Vec<Part>, now: Instant, time: SystemTime, jitter: f32) -> bool {
        let before = (self.kept.clone(), self.track.trouble().map(str::to_owned));
        let (mut ttl, mut nothing, mut failed, mut silent) = (None::<Duration>, None, None, None);
        self.kept.resize(reply.len(), None);
        for (kept, part) in self.kept.iter_mut().zip(reply) {
            match part {
                Part::Records(mut records, lives) => {
                    records.sort_unstable();
                    records.dedup();
                    records.truncate(RECORDS_MAX);
                    ttl = Some(ttl.map_or(lives, |ttl| ttl.min(lives)));
                    *kept = Some(records);
                }
                Part::Nothing(why, lives) => {
                    nothing = Some((why, lives.min(NEGATIVE_TTL_MAX)));
                    *kept = Some(Vec::new());
                }
                Part::Failed(why) if kept.is_some() => failed = Some(why),
                Part::Failed(why) => silent = Some(why),
            }
        }
        self.was_asked = true;
        let failed = failed.or_else(|| silent.filter(|_| !self.is_whole()));
        let wait = match (&failed, ttl, nothing) {
            (Some(_), ..) => RETRY_INTERVAL,
            (None, Some(ttl), _) => ttl.clamp(TTL_MIN, TTL_MAX),
            (None, None, Some((_, ttl))) => ttl.clamp(TTL_MIN, TTL_MAX),
            (None, None, None) => RETRY_INTERVAL,
        };
        self.due = Some(now + wait + wait.mul_f32(JITTER * jitter.clamp(0.0, 1.0)));
        if before.0 != self.kept {
            self.track.updates += 1;
        }
        match (failed, nothing) {
            (Some(why), _) => self.track.bad(why, time),
            (None, Some((why, _))) if self.records().next().is_none() => {
                self.track.success = Some(time);
                self.track.bad(why.to_owned(), time);
            }
            (None, _) => self.track.good(time),
        }
        before.0 != self.kept || before.1.as_deref() != self.track.trouble()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{now, wall_clock};
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn ip(text: &str) -> Record {
        Record::Ip(text.parse().expect("an address"))
    }

    fn some(records: &[&str]) -> Part {
        Part::Records(records.iter().map(|text| ip(text)).collect(), LONG)
    }

    fn failed() -> Part {
        Part::Failed("SERVFAIL".into())
    }

    fn none() -> Part {
        Part::Nothing("no such name", LONG)
    }

    /// What is known after these replies: the addresses, whether they are all, and the trouble.
    fn after(replies: &[[Part; 2]]) -> (Vec<String>, bool, Option<String>) {
        let mut entry = Entry::new(now());
        for reply in replies {
            entry.hear(reply.to_vec(), now(), wall_clock(), 0.0);
        }
        let addresses = entry.addresses().iter().map(ToString::to_string).collect();
        (addresses, entry.is_whole(), entry.track.trouble().map(str::to_owned))
    }

    fn known(addresses: &[&str], whole: bool, trouble: Option<&str>) -> (Vec<String>, bool, Option<String>) {
        (addresses.iter().map(|text| text.to_string()).collect(), whole, trouble.map(str::to_owned))
    }

    #[test]
    fn a_failure_never_replaces_an_answer_and_an_answer_always_does() {
        let (a, b) = (|| some(&["10.0.0.1"]), || some(&["10.0.0.2", "10.0.0.2"]));
        assert_eq!(after(&[[failed(), failed()]]), known(&[], false, Some("SERVFAIL")));
        assert_eq!(after(&[[a(), none()], [failed(), failed()]]), known(&["10.0.0.1"], true, Some("SERVFAIL")));
        assert_eq!(after(&[[a(), none()], [failed(), failed()], [b(), none()]]), known(&["10.0.0.2"], true, None));
        assert_eq!(after(&[[a(), none()], [none(), none()]]), known(&[], true, Some("no such name")));
    }

    #[test]
    fn each_family_is_kept_by_itself() {
        let (a, six) = (|| some(&["10.0.0.1"]), || some(&["::1"]));
        assert_eq!(after(&[[a(), six()], [a(), failed()]]), known(&["10.0.0.1", "::1"], true, Some("SERVFAIL")));
        assert_eq!(after(&[[a(), six()], [a(), none()]]), known(&["10.0.0.1"], true, None));
        assert_eq!(after(&[[a(), failed()]]), known(&["10.0.0.1"], true, None), "nobody ever answers for AAAA");
        assert_eq!(after(&[[none(), failed()]]), known(&[], false, Some("SERVFAIL")), "there may be AAAA");
        assert_eq!(after(&[[a(), failed()], [none(), failed()]]), known(&[], false, Some("SERVFAIL")));
    }

    #[test]
    fn the_next_question_comes_when_the_answer_has_lived_within_bounds() {
        let start = now();
        let wait = |reply: [Part; 2], jitter| {
            let mut entry = Entry::new(start);
            entry.hear(reply.to_vec(), start, wall_clock(), jitter);
            entry.due.expect("it was asked") - start
        };
        let lives = |seconds| Part::Records(vec![ip("10.0.0.1")], Duration::from_secs(seconds));
        let gone = |seconds| Part::Nothing("no such name", Duration::from_secs(seconds));
        assert_eq!(wait([lives(30), lives(20)], 0.0), Duration::from_secs(20));
        assert_eq!(wait([lives(0), gone(30)], 0.0), TTL_MIN);
        assert_eq!(wait([lives(1 << 31), gone(0)], 0.0), TTL_MAX, "that there is no AAAA does not matter");
        assert_eq!(wait([gone(7), gone(9000)], 0.0), NEGATIVE_TTL_MAX);
        assert_eq!(wait([failed(), failed()], 0.0), RETRY_INTERVAL);
        assert_eq!(wait([lives(3000), failed()], 0.0), Duration::from_secs(3000));
        let jittered = wait([lives(100), gone(1)], 1.0);
        assert!((Duration::from_secs(109)..=Duration::from_secs(111)).contains(&jittered), "{jittered:?}");
    }

    #[test]
    fn only_what_is_new_asks_for_a_change() {
        let mut entry = Entry::new(now());
        let mut hear = |reply: [Part; 2]| entry.hear(reply.to_vec(), now(), wall_clock(), 0.5);
        assert!(hear([failed(), failed()]));
        assert!(!hear([failed(), failed()]));
        assert!(hear([some(&["10.0.0.1", "10.0.0.2"]), none()]));
        assert!(!hear([some(&["10.0.0.2", "10.0.0.1"]), none()]), "in another order it is the same");
        assert!(hear([some(&["10.0.0.2"]), none()]));
    }

    #[test]
    fn an_answer_has_its_limit() {
        let mut entry = Entry::new(now());
        let many = (0..10_000u32).map(|at| Record::Ip(IpAddr::from(at.to_be_bytes()))).collect();
        entry.hear(vec![Part::Records(many, LONG)], now(), wall_clock(), 0.0);
        assert_eq!(entry.addresses().len(), RECORDS_MAX);
        entry.hear(vec![Part::Failed("é".repeat(10_000))], now(), wall_clock(), 0.0);
        assert!(entry.track.trouble().is_some_and(|why| why.len() <= WHY_BYTES_MAX));
    }
}
