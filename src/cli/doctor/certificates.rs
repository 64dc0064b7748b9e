//! Certificates that end, have ended or do not hold yet.

use std::time::{Duration, SystemTime};

use super::finding::{Finding, Level};
use super::now;
use super::plan::Plan;
use crate::config::Config;
use crate::config::tls::Certificate;

/// Whoever renews by hand wants to know so long before.
const SOON: Duration = Duration::from_hours(30 * 24);
const DAY: Duration = Duration::from_hours(24);

pub fn examine(plan: &Plan) -> Vec<Finding> {
    of(plan.config).map(|(key, certificate)| judge(&key, certificate, plan.facts.now)).collect()
}

/// What `check` says of certificates.
pub fn warnings(config: &Config) -> Vec<String> {
    let now = now();
    let findings = of(config).map(|(key, certificate)| judge(&key, certificate, now));
    let ending = findings.filter(|finding| finding.level > Level::Ok);
    ending.map(|Finding { found, needed, .. }| format!("{found}: {needed}")).collect()
}

/// Those of clients and those for backends, with the tables that name them.
fn of(config: &Config) -> impl Iterator<Item = (String, &Certificate)> {
    let to_clients = config.listeners.iter().flat_map(|listener| {
        let certificates = listener.tls.iter().flat_map(|tls| &tls.certificates);
        certificates.map(|certificate| (format!("listener.{}.tls", listener.name), certificate))
    });
    let to_backends = config.pools.iter().filter_map(|pool| {
        let certificate = pool.tls.as_ref()?.certificate.as_ref()?;
        Some((format!("pool.{}.tls", pool.name), certificate))
    });
    to_clients.chain(to_backends)
}

fn judge(key: &str, certificate: &Certificate, now: SystemTime) -> Finding {
    const SUBJECT: &str = "certificate";
    let path = certificate.path.display();
    let Some(valid) = certificate.validity() else {
        return Finding::advice(SUBJECT, format!("{path} has no dates that can be read"), format!("{key} has it"));
    };
    let day = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    if now < valid.start {
        let found = format!("{path} holds from {} on", day(valid.start));
        return Finding::breaks(SUBJECT, found, format!("{key} has it, and nobody will believe it before"));
    }
    let renew = || ["# renew it, then: evener reload".to_owned()];
    match valid.end.duration_since(now) {
        Err(_) => {
            let needed = format!("{key} has it, and nobody believes it any more");
            Finding::breaks(SUBJECT, format!("{path} ended on {}", day(valid.end)), needed).mend(renew())
        }
        Ok(left) if left < SOON => {
            let days = left.as_secs() / DAY.as_secs();
            let found = format!("{path} ends on {}, in {days} days", day(valid.end));
            Finding::advice(SUBJECT, found, format!("{key} has it, and nobody will believe it from then on"))
                .mend(renew())
        }
        Ok(_) => Finding::ok(SUBJECT, format!("{path} holds until {}", day(valid.end))),
    }
}
