//! Asking resolvers: those of /etc/resolv.conf with its search list, behind /etc/hosts, or one that the file names.
//! No answer is kept here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::book::{Kind, Part, Question, Record, Service};

/// One attempt at one resolver.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// One question, with all attempts at all resolvers.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an entry of /etc/hosts is relied on.
const HOSTS_TTL: Duration = Duration::from_secs(10);
/// Domains of the search list that are tried; resolv.conf(5) names no limit.
const SEARCH_MAX: usize = 16;
/// A name on the wire has at most so many bytes (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// What the system says of resolvers, at one moment.
pub struct System {
    hosts: Hosts,
    search: Vec<String>,
    dots: usize,
    resolver: Result<TokioResolver, String>,
}

impl System {
    /// Reads /etc/hosts and /etc/resolv.conf. What is missing there is as resolv.conf(5) says: a resolver on this host.
    pub fn read() -> Self {
        let local = || {
            ResolverConfig::from_parts(
                None,
                Vec::new(),
                vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())],
            )
        };
        let (config, options) = system_conf::read_system_conf().unwrap_or_else(|_| (local(), ResolverOpts::default()));
        let domains = if config.search.is_empty() { config.domain.as_slice() } else { &config.search };
        let search = domains.iter().take(SEARCH_MAX).map(|domain| domain.to_ascii()).collect();
        let dots = options.ndots;
        let resolver = resolver(config, options).map_err(|error| error.to_string());
        Self { hosts: Hosts::from_system().unwrap_or_default(), search, dots, resolver }
    }

    /// Asks; never takes longer than a fixed time.
    pub async fn ask(&self, question: &Question) -> Vec<Part> {
        let asked = tokio::time::timeout(QUESTION_TIMEOUT, self.ask_on(question)).await;
        asked.unwrap_or_else(|_| {
            let why = format!("{}: no answer within {}s", question.name, QUESTION_TIMEOUT.as_secs());
            vec![Part::Failed(why); parts(question.kind)]
        })
    }

    async fn ask_on(&self, question: &Question) -> Vec<Part> {
        if let Some(found) = self.in_hosts(question) {
            return found;
        }
        let own = question.resolver.map(|address| resolver(only(address), ResolverOpts::default()));
        let (resolver, names) = match (&own, &self.resolver) {
            (Some(Ok(own)), _) => (own, vec![question.name.clone()]),
            (None, Ok(system)) => (system, candidates(&question.name, &self.search, self.dots)),
            (Some(Err(error)), _) => return vec![Part::Failed(error.to_string()); parts(question.kind)],
            (None, Err(why)) => return vec![Part::Failed(why.clone()); parts(question.kind)],
        };
        let mut last = Vec::new();
        for name in names {
            last = ask_for(resolver, &name, question.kind).await;
            // A failure says nothing about this name, and the next one in the list may be another host's.
            if last.iter().any(|part| !matches!(part, Part::Nothing(..))) {
                break;
            }
        }
        last
    }

    fn in_hosts(&self, question: &Question) -> Option<Vec<Part>> {
        if question.kind != Kind::Host || question.resolver.is_some() {
            return None;
        }
        let name = absolute(&question.name)?;
        let [four, six] = [RecordType::A, RecordType::AAAA].map(|kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            let records: Vec<Record> = found.answers().iter().filter_map(|record| read(&record.data, kind)).collect();
            Some(records).filter(|records| !records.is_empty())
        });
        let part = |found: Option<Vec<Record>>| match found {
            Some(records) => Part::Records(records, HOSTS_TTL),
            None => Part::Nothing("no address in /etc/hosts", HOSTS_TTL),
        };
        (four.is_some() || six.is_some()).then(|| vec![part(four), part(six)])
    }
}

const fn parts(kind: Kind) -> usize {
    match kind {
        Kind::Host => 2,
        Kind::Services => 1,
    }
}

fn only(address: SocketAddr) -> ResolverConfig {
    let mut resolver = NameServerConfig::udp_and_tcp(address.ip());
    resolver.connections.iter_mut().for_each(|connection| connection.port = address.port());
    ResolverConfig::from_parts(None, Vec::new(), vec![resolver])
}

fn resolver(config: ResolverConfig, options: ResolverOpts) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    let options = builder.options_mut();
    options.timeout = options.timeout.min(ATTEMPT_TIMEOUT);
    // We ask again when an answer's time is over, and not before.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    builder.build()
}

/// The names to try for a name, as resolv.conf(5) has it: one with enough dots first as it is.
fn candidates(name: &str, search: &[String], dots: usize) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let within = search.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.')));
    let within = within.filter(|name| name.len() <= NAME_BYTES_MAX && !name.ends_with('.'));
    let itself = std::iter::once(name.to_owned());
    if name.matches('.').count() >= dots { itself.chain(within).collect() } else { within.chain(itself).collect() }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

async fn ask_for(resolver: &TokioResolver, name: &str, kind: Kind) -> Vec<Part> {
    let Some(absolute) = absolute(name) else {
        return vec![Part::Failed(format!("{name} is not a name of DNS")); parts(kind)];
    };
    let ask = |kind| one(resolver, name, absolute.clone(), kind);
    match kind {
        Kind::Services => vec![ask(RecordType::SRV).await],
        Kind::Host => {
            let (four, six) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
            vec![four, six]
        }
    }
}

async fn one(resolver: &TokioResolver, name: &str, absolute: Name, kind: RecordType) -> Part {
    match resolver.lookup(absolute, kind).await {
        Ok(found) => {
            let answers = found.answers();
            let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
            let ttl = Duration::from_secs(ttl.into());
            let records: Vec<Record> = answers.iter().filter_map(|record| read(&record.data, kind)).collect();
            if records.is_empty() { Part::Nothing(nothing(kind), ttl) } else { Part::Records(records, ttl) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
            match none.response_code {
                ResponseCode::NXDomain => Part::Nothing("no such name", ttl),
                ResponseCode::NoError => Part::Nothing(nothing(kind), ttl),
                other => Part::Failed(format!("{name}: the resolver says {other}")),
            }
        }
        Err(error) => Part::Failed(format!("{name}: {}", explain(&error))),
    }
}

fn nothing(kind: RecordType) -> &'static str {
    if kind == RecordType::SRV { "the name has no SRV record" } else { "the name has no address" }
}

fn explain(error: &NetError) -> String {
    match error {
        NetError::Timeout => "the resolver did not answer".to_owned(),
        NetError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "nobody answers at the resolver's address".to_owned()
        }
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the resolver says {code}"),
        other => other.to_string(),
    }
}

/// What an answer says, when it is what was asked for and can be a place: a host that names itself "." says that there
/// is no service (RFC 2782).
fn read(data: &RData, kind: RecordType) -> Option<Record> {
    match (data, kind) {
        (RData::A(address), RecordType::A) => Some(Record::Ip(IpAddr::V4(address.0))),
        (RData::AAAA(address), RecordType::AAAA) => Some(Record::Ip(IpAddr::V6(address.0))),
        (RData::SRV(service), RecordType::SRV) => {
            let host = service.target.to_ascii().to_ascii_lowercase();
            let host = host.trim_end_matches('.').to_owned();
            let record = Service { priority: service.priority, weight: service.weight, port: service.port, host };
            (record.port > 0 && crate::config::is_host_name(&record.host)).then_some(Record::Service(record))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_list_is_tried_as_resolv_conf_says() {
        let search = ["a.test.".to_owned(), "b.test".to_owned()];
        assert_eq!(candidates("db", &search, 1), ["db.a.test", "db.b.test", "db"]);
        assert_eq!(candidates("db.x", &search, 1), ["db.x", "db.x.a.test", "db.x.b.test"]);
        assert_eq!(candidates("db.x", &search, 5), ["db.x.a.test", "db.x.b.test", "db.x"]);
        assert_eq!(candidates("db.x.", &search, 5), ["db.x."]);
        assert_eq!(candidates("db", &[], 1), ["db"]);
    }

    #[test]
    fn a_service_without_a_port_or_host_is_none() {
        let read = |port, host: &str| {
            let data =
                hickory_resolver::proto::rr::rdata::SRV::new(1, 2, port, Name::from_ascii(host).expect("a name"));
            read(&RData::SRV(data), RecordType::SRV)
        };
        let service = Service { priority: 1, weight: 2, port: 80, host: "a.test".into() };
        assert_eq!(read(80, "A.test."), Some(Record::Service(service)));
        assert_eq!((read(0, "a.test."), read(80, "."), read(80, "*.test.")), (None, None, None));
    }
}
