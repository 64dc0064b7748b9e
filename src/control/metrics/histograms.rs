//! Histograms in Prometheus text, written by hand: the facade takes samples one by one, and a scrape must not cost as
//! much as all connections since the start.

use std::fmt::Write as _;

use super::help::help;
use super::{Labels, known, labels};
use crate::control::status::Scene;
use crate::stats::{Histogram, LATENCY_BOUNDS_US, LIFETIME_BOUNDS_US};

/// All histograms of the moment.
pub fn render(scene: &Scene<'_>, out: &mut String) {
    let lives = |carries_datagrams: bool, name: &str, out: &mut String| {
        let listeners = scene.wanted.listeners.iter();
        for listener in listeners.filter(|listener| listener.carries_datagrams() == carries_datagrams) {
            let of = listener.stats.cells().map(|cell| &cell.durations);
            histogram(out, name, &[("listener", &listener.config.name)], &LIFETIME_BOUNDS_US, of);
        }
    };
    begin(out, "evener_connection_duration_seconds");
    lives(false, "evener_connection_duration_seconds", out);
    begin(out, "evener_udp_flow_duration_seconds");
    lives(true, "evener_udp_flow_duration_seconds", out);
    let backends = || scene.wanted.pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
    begin(out, "evener_backend_connect_seconds");
    for (pool, backend) in backends() {
        let Some(known) = known(backend) else { continue };
        let of = known.stats.cells().map(|cell| &cell.connects);
        histogram(out, "evener_backend_connect_seconds", &labels(pool, backend), &LATENCY_BOUNDS_US, of);
    }
    begin(out, "evener_health_check_seconds");
    for (pool, backend) in backends() {
        let of = std::iter::once(&backend.observed.counts.took);
        histogram(out, "evener_health_check_seconds", &labels(pool, backend), &LATENCY_BOUNDS_US, of);
    }
    begin(out, "evener_http_request_seconds");
    for counts in &scene.routes {
        let labels = [("listener", counts.listener.as_str()), ("route", counts.route.as_str())];
        series(out, "evener_http_request_seconds", &labels, &LATENCY_BOUNDS_US, &counts.seconds);
    }
    begin(out, "evener_worker_loop_seconds");
    for (number, worker) in scene.threads.iter().enumerate() {
        let of = std::iter::once(&worker.turns);
        histogram(out, "evener_worker_loop_seconds", &[("worker", &number.to_string())], &LATENCY_BOUNDS_US, of);
    }
}

fn begin(out: &mut String, name: &str) {
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", help(name));
}

/// One series of a histogram in the text format: each bucket counts all that is at most `le`.
pub fn histogram<'a>(
    out: &mut String,
    name: &str,
    labels: Labels<'_>,
    bounds_us: &[u64],
    of: impl Iterator<Item = &'a Histogram>,
) {
    let mut buckets = vec![(0u64, 0u64); bounds_us.len() + 1];
    for one in of {
        for (total, (count, sum_us)) in buckets.iter_mut().zip(one.read()) {
            *total = (total.0 + count, total.1.saturating_add(sum_us));
        }
    }
    series(out, name, labels, bounds_us, &buckets);
}

fn series(out: &mut String, name: &str, labels: Labels<'_>, bounds_us: &[u64], buckets: &[(u64, u64)]) {
    let text: String = labels.iter().map(|(name, value)| format!("{name}=\"{}\",", escape(value))).collect();
    let bounds = bounds_us.iter().map(|us| (*us as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
    let (mut count, mut sum_us) = (0, 0u64);
    for (bound, bucket) in bounds.zip(buckets) {
        count += bucket.0;
        sum_us = sum_us.saturating_add(bucket.1);
        let _ = writeln!(out, "{name}_bucket{{{text}le=\"{bound}\"}} {count}");
    }
    let text = text.trim_end_matches(',');
    let _ = writeln!(out, "{name}_sum{{{text}}} {}\n{name}_count{{{text}}} {count}", sum_us as f64 / 1e6);
}

/// A label's value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
