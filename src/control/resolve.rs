//! Host names of backends: asked at the start, for new names at a reload, and again every few seconds while there is
//! no answer. A name without an answer is a backend that is down, never a reason not to start.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Address, Config};

/// The longest that one name is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts for names without an answer.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Addresses of one name that are used; a longer answer is cut.
const ADDRESSES_MAX: usize = 64;

/// A host name and port.
pub type Name = (String, u16);
/// What became of asking for a name: addresses in a fixed order, or why there is none.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// What is known of each name.
#[derive(Debug, Default)]
pub struct Names(HashMap<Name, Answer>);

impl Names {
    /// The addresses of a name.
    ///
    /// # Errors
    /// Why there is none.
    pub fn addresses(&self, name: &str, port: u16) -> Result<&[SocketAddr], &str> {
        match self.0.get(&(name.to_owned(), port)) {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(why)) => Err(why),
            None => Err("not resolved yet"),
        }
    }

    /// The names of `config` that have no address.
    pub fn missing(&self, config: &Config) -> Vec<Name> {
        let mut missing: Vec<Name> = of(config).filter(|(name, port)| self.addresses(name, *port).is_err()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Takes answers in; a failure never replaces an answer. True when an address was learnt.
    pub fn learn(&mut self, answers: Vec<(Name, Answer)>) -> bool {
        let mut learnt = false;
        for (name, answer) in answers {
            if answer.is_ok() || !matches!(self.0.get(&name), Some(Ok(_))) {
                learnt |= answer.is_ok();
                self.0.insert(name, answer);
            }
        }
        learnt
    }

    /// Forgets names that `config` does not have.
    pub fn forget(&mut self, config: &Config) {
        self.0.retain(|(name, port), _| of(config).any(|(other, at)| other == *name && at == *port));
    }
}

fn of(config: &Config) -> impl Iterator<Item = Name> {
    config.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| match &backend.address {
        Address::Host { name, port } => Some((name.clone(), *port)),
        Address::Ip(_) | Address::Unix(_) => None,
    })
}

/// Asks for all of these at the same time, no longer than a fixed time-out.
pub async fn ask(names: Vec<Name>) -> Vec<(Name, Answer)> {
    let mut asked = tokio::task::JoinSet::new();
    for name in names {
        asked.spawn(async move {
            let answer = ask_one(&name).await;
            (name, answer)
        });
    }
    asked.join_all().await
}

async fn ask_one((name, port): &Name) -> Answer {
    let lookup = tokio::net::lookup_host((name.as_str(), *port));
    match tokio::time::timeout(ANSWER_TIMEOUT, lookup).await {
        Err(_) => Err(format!("{name}: the resolver did not answer within {}s", ANSWER_TIMEOUT.as_secs())),
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Ok(Ok(found)) => settle(name, found.collect()),
    }
}

/// A fixed order, whatever the resolver shuffles.
fn settle(name: &str, mut found: Vec<SocketAddr>) -> Answer {
    found.sort_unstable();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Err(format!("{name}: no address")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_never_replaces_an_answer() {
        let mut names = Names::default();
        let name = || ("db".to_owned(), 5432);
        assert!(!names.learn(vec![(name(), Err("no".into()))]));
        assert_eq!(names.addresses("db", 5432), Err("no"));
        let address: SocketAddr = "10.0.0.1:5432".parse().expect("an address");
        assert!(names.learn(vec![(name(), Ok(vec![address]))]));
        names.learn(vec![(name(), Err("no".into()))]);
        assert_eq!(names.addresses("db", 5432), Ok(&[address][..]));
    }

    #[test]
    fn answers_have_a_fixed_order_and_no_doubles() {
        let read = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let found = vec![read("10.0.0.2:1"), read("10.0.0.1:1"), read("10.0.0.2:1")];
        assert_eq!(settle("db", found), Ok(vec![read("10.0.0.1:1"), read("10.0.0.2:1")]));
        assert!(settle("db", vec![]).is_err());
    }
}
