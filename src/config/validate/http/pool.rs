//! What a pool has for HTTP: `http`, `breaker` and `passive.statuses`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::Percent;
use crate::config::http::{Breaker, PoolOptions, Speech, VERSIONS};
use crate::config::raw::{Fault, Reader, fault, whole};

use super::super::{count, health, percent, positive};

/// Idle connections to one backend: more than it has places for.
const IDLE_MAX: u32 = 100_000;
/// Requests that the window of a breaker counts.
const REQUESTS_MAX: u32 = 1_000_000;

const BREAKER: Breaker = Breaker {
    error_rate: Percent(50),
    min_requests: NonZeroU32::new(20).expect("it is not 0"),
    window: Duration::from_secs(10),
    open_for: Duration::from_secs(30),
};

/// All but `passive.statuses`, which stand in another table.
pub(in crate::config::validate) fn read(r: &mut Reader, failures: Vec<RangeInclusive<u16>>) -> PoolOptions {
    let default = PoolOptions::default().speech;
    let speech = r.table("http", |r| Speech {
        version: r.word("version", VERSIONS, default.version),
        idle_timeout: r.or("idle_timeout", positive, default.idle_timeout),
        idle_max: r.or("idle_max", |value| whole(value, 0, IDLE_MAX), default.idle_max),
    });
    let breaker = match r.take("breaker") {
        None => None,
        Some(_) => r.table_or_false("breaker", |r| Breaker {
            error_rate: r.or("error_rate", error_rate, BREAKER.error_rate),
            min_requests: r.or("min_requests", count(REQUESTS_MAX), BREAKER.min_requests),
            window: r.or("window", positive, BREAKER.window),
            open_for: r.or("open_for", positive, BREAKER.open_for),
        }),
    };
    PoolOptions { speech, breaker, failures }
}

fn error_rate(value: &DeValue) -> Result<Percent, Fault> {
    match percent(value)? {
        Percent(0) => Err(fault("it would open without an error", "zero").help("write a share such as \"50%\"")),
        share => Ok(share),
    }
}

/// `passive.statuses`.
pub(in crate::config::validate) fn failures(r: &mut Reader) -> Vec<RangeInclusive<u16>> {
    r.or("statuses", health::status, Vec::new())
}
