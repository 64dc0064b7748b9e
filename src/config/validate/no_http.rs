//! In place of `http` in a build without the gateway: whatever belongs to it is refused.

use std::ops::RangeInclusive;

use crate::config::error::{Finding, Span};
use crate::config::http::{Gateway, Http, PoolOptions};
use crate::config::raw::Reader;

use super::{Used, listener, protocol};

/// Nobody can be asked for.
pub(super) struct Known;

/// No listener has any.
pub(super) enum Defaults {}

fn refusal(span: Span) -> Finding {
    Finding::error(span, "this evener was built without the gateway")
        .label("not in this build")
        .help("leave it out, or take a build with the feature `gateway`; as TCP, HTTP passes through as it is")
}

pub(super) fn known(r: &mut Reader) -> Known {
    for key in ["jwt", "consumer"] {
        r.refuse(key, refusal);
    }
    Known
}

pub(super) fn listener(r: &mut Reader, _known: &Known) -> Option<(Http, Defaults)> {
    let finding = refusal(r.span_of("protocol"));
    r.findings.push(finding);
    protocol::pass_over(r);
    None
}

pub(super) fn failures(r: &mut Reader) -> Vec<RangeInclusive<u16>> {
    r.refuse("statuses", refusal);
    Vec::new()
}

pub(super) fn pool(r: &mut Reader, _failures: Vec<RangeInclusive<u16>>) -> PoolOptions {
    for key in ["http", "breaker"] {
        r.refuse(key, refusal);
    }
    PoolOptions
}

pub(super) fn gateway(r: &mut Reader, _known: Known, listeners: &[listener::Placed]) -> (Gateway, Vec<Used>) {
    debug_assert!(listeners.iter().all(|placed| placed.defaults.is_none()), "there are none that could be");
    r.refuse("route", refusal);
    (Gateway, Vec::new())
}
