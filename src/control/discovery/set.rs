//! From what was said to a set of backends, and how far it is believed. Pure: no socket, no clock.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::book::Service;
use crate::config::{self, Address, TIER_MAX, WEIGHT};
use crate::handover;

/// A backend that was discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As if it stood in the file.
    pub backend: Arc<config::Backend>,
    /// Where it is, when DNS said so: its address is the name that was asked for then.
    pub at: Option<SocketAddr>,
}

impl Member {
    /// In words that another process understands.
    pub fn describe(&self) -> handover::Member {
        let config::Backend { name, address, weight, tier, max_connections } = &*self.backend;
        let (name, address, weight, tier) = (name.clone(), address.to_string(), *weight, *tier);
        handover::Member { name, address, weight, tier, max_connections: *max_connections, at: self.at }
    }

    /// From such words; `None` when this program does not understand them.
    pub fn read(said: &handover::Member) -> Option<Self> {
        let handover::Member { name, address, weight, tier, max_connections, at } = said;
        let (name, address) = (name.clone(), address.parse().ok()?);
        let backend =
            config::Backend { name, address, weight: *weight, tier: *tier, max_connections: *max_connections };
        Some(Self { backend: Arc::new(backend), at: *at })
    }
}

/// What is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// These.
    pub kept: Vec<T>,
    /// How many there would be, when they are too few to be believed.
    pub too_few: Option<usize>,
    /// These are too many.
    pub left_out: Vec<T>,
}

/// What follows from `said`: nothing is removed while a part is unknown, too few are not believed, and of too many
/// those go that were not there before. A thing is the same when its key is.
pub fn settle<T: Clone, K: Eq + Hash>(
    before: &[T],
    said: Vec<T>,
    is_whole: bool,
    (min, max): (usize, usize),
    key: impl Fn(&T) -> K,
) -> Settled<T> {
    let mut next = said;
    if !is_whole {
        let there: HashSet<K> = next.iter().map(&key).collect();
        next.extend(before.iter().filter(|old| !there.contains(&key(old))).cloned());
    }
    if next.len() < min {
        let too_few = is_whole.then_some(next.len());
        return Settled { kept: before.to_vec(), too_few, left_out: Vec::new() };
    }
    if next.len() <= max {
        return Settled { kept: next, too_few: None, left_out: Vec::new() };
    }
    let there: HashSet<K> = before.iter().map(&key).collect();
    let old = next.iter().filter(|item| there.contains(&key(item))).count().min(max);
    let (mut old_left, mut new_left) = (old, max - old);
    let (kept, left_out) = next.into_iter().partition(|item| {
        let left = if there.contains(&key(item)) { &mut old_left } else { &mut new_left };
        let fits = *left > 0;
        *left -= usize::from(fits);
        fits
    });
    Settled { kept, too_few: None, left_out }
}

/// The backends of a host name: one for each address.
pub fn of_addresses(name: &str, port: u16, mut ips: Vec<IpAddr>, max_connections: Option<NonZeroU32>) -> Vec<Member> {
    ips.sort_unstable();
    ips.iter().map(|ip| member(name, SocketAddr::new(*ip, port), WEIGHT, 0, max_connections)).collect()
}

/// The hosts of services, each once, those of the first priority first; no more than `max`.
pub fn hosts_of<'s>(services: impl Iterator<Item = &'s Service>, max: usize) -> Vec<&'s str> {
    let mut seen = HashSet::new();
    services.map(|service| service.host.as_str()).filter(|host| seen.insert(*host)).take(max).collect()
}

/// The backends of services: one for each address of each host. Priorities become tiers in their order; weights stay
/// as they are, but that 0 is little and not nothing, and all 0 is all the same (RFC 2782).
pub fn of_services<'s>(
    services: impl Iterator<Item = &'s Service>,
    addresses: impl Fn(&str) -> Vec<IpAddr>,
    max_connections: Option<NonZeroU32>,
) -> Vec<Member> {
    let mut services: Vec<&Service> = services.collect();
    services.sort_unstable();
    let mut seen = HashSet::new();
    let mut members = Vec::new();
    for (tier, group) in
        (0..=TIER_MAX).chain(std::iter::repeat(TIER_MAX)).zip(services.chunk_by(|a, b| a.priority == b.priority))
    {
        let has_weights = group.iter().any(|service| service.weight > 0);
        for service in group {
            let weight = if has_weights { u32::from(service.weight).max(1) } else { WEIGHT };
            let mut ips = addresses(&service.host);
            ips.sort_unstable();
            let places = ips.into_iter().map(|ip| SocketAddr::new(ip, service.port));
            let fresh: Vec<SocketAddr> = places.filter(|at| seen.insert(*at)).collect();
            members.extend(fresh.into_iter().map(|at| member(&service.host, at, weight, tier, max_connections)));
        }
    }
    members.sort_by_key(|member| (member.backend.tier, member.at));
    members
}

fn member(host: &str, at: SocketAddr, weight: u32, tier: u32, max_connections: Option<NonZeroU32>) -> Member {
    let address = Address::Host { name: host.to_owned(), port: at.port() };
    let backend = config::Backend { name: at.to_string(), address, weight, tier, max_connections };
    Member { backend: Arc::new(backend), at: Some(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settled(before: &str, said: &str, is_whole: bool, min: usize, max: usize) -> (String, Option<usize>, String) {
        let before: Vec<char> = before.chars().collect();
        let settled = settle(&before, said.chars().collect(), is_whole, (min, max), |c| *c);
        (settled.kept.iter().collect(), settled.too_few, settled.left_out.iter().collect())
    }

    fn just(kept: &str) -> (String, Option<usize>, String) {
        (kept.to_owned(), None, String::new())
    }

    #[test]
    fn an_answer_is_believed_when_it_is_whole_and_has_enough() {
        assert_eq!(settled("", "ab", true, 1, 9), just("ab"));
        assert_eq!(settled("ab", "bc", true, 1, 9), just("bc"));
        assert_eq!(settled("ab", "", true, 1, 9), ("ab".into(), Some(0), "".into()));
        assert_eq!(settled("ab", "", true, 0, 9), just(""), "the file may allow it");
        assert_eq!(settled("abc", "ac", true, 3, 9), ("abc".into(), Some(2), "".into()));
        assert_eq!(settled("", "a", true, 2, 9), ("".into(), Some(1), "".into()));
    }

    #[test]
    fn nothing_is_removed_while_a_part_is_unknown() {
        assert_eq!(settled("ab", "c", false, 1, 9), just("cab"));
        assert_eq!(settled("ab", "", false, 1, 9), just("ab"));
        assert_eq!(settled("", "", false, 1, 9), just(""), "and nothing was said that could be too little");
    }

    #[test]
    fn of_too_many_those_stay_that_were_there() {
        assert_eq!(settled("", "abcd", true, 1, 2), ("ab".into(), None, "cd".into()));
        assert_eq!(settled("cd", "abcd", true, 1, 2), ("cd".into(), None, "ab".into()));
        assert_eq!(settled("d", "abcd", true, 1, 2), ("ad".into(), None, "bc".into()));
        assert_eq!(settled("dcba", "abcd", true, 1, 2), ("ab".into(), None, "cd".into()));
    }

    fn service(priority: u16, weight: u16, port: u16, host: &str) -> Service {
        Service { priority, weight, port, host: host.to_owned() }
    }

    fn shown(services: &[Service]) -> Vec<String> {
        let addresses = |host: &str| match host {
            "a" => vec!["10.0.0.2".parse().expect("one"), "10.0.0.1".parse().expect("one")],
            "b" => vec!["10.0.0.3".parse().expect("one")],
            _ => vec![],
        };
        let members = of_services(services.iter(), addresses, NonZeroU32::new(7));
        members.iter().map(|m| format!("{} {} {}", m.backend.name, m.backend.weight, m.backend.tier)).collect()
    }

    #[test]
    fn services_become_backends_with_their_ports_weights_and_tiers() {
        let services =
            [service(20, 0, 81, "b"), service(10, 5, 80, "a"), service(10, 0, 80, "b"), service(10, 9, 80, "c")];
        assert_eq!(shown(&services), ["10.0.0.1:80 5 0", "10.0.0.2:80 5 0", "10.0.0.3:80 1 0", "10.0.0.3:81 100 1"]);
        assert_eq!(shown(&[service(1, 3, 80, "b"), service(2, 3, 80, "b")]), ["10.0.0.3:80 3 0"], "one place, once");
        let many: Vec<Service> = (0..2000).map(|at| service(at, 1, at + 1, "b")).collect();
        let tiers: Vec<u32> = of_services(many.iter(), |_| vec!["::1".parse().expect("one")], None)
            .iter()
            .map(|member| member.backend.tier)
            .collect();
        assert_eq!((tiers[0], tiers[1], tiers[1999]), (0, 1, TIER_MAX));
        assert_eq!(hosts_of(services.iter(), 2), ["b", "a"]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_within_its_bounds_and_was_said_or_there(
            before in "[a-h]{0,8}", said in "[a-h]{0,8}", is_whole: bool, min in 0usize..4, more in 0usize..5,
        ) {
            let unique = |text: &str| { let mut c: Vec<char> = text.chars().collect(); c.sort_unstable(); c.dedup(); c };
            let (before, said, max) = (unique(&before), unique(&said), (min + more).max(1));
            prop_assume!(before.len() <= max);
            let settled = settle(&before, said.clone(), is_whole, (min, max), |c| *c);
            prop_assert!(settled.kept.len() <= max);
            prop_assert!(settled.kept.len() >= min || settled.kept == before);
            prop_assert!(settled.kept.iter().all(|c| said.contains(c) || before.contains(c)));
            let all_there = before.iter().all(|c| settled.kept.contains(c));
            prop_assert!(is_whole || all_there, "{settled:?}");
            prop_assert_eq!(settled.kept.iter().collect::<HashSet<_>>().len(), settled.kept.len());
        }
    }
}
