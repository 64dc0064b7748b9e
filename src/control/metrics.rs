//! The metrics, rendered when a scrape asks: a fresh recorder is filled from the counts and thrown away, so there are
//! no series of anything that the file does not have any more.
//!
//! Counters and gauges go through the `metrics` facade. Histograms are written here: the facade takes samples one by
//! one, and a scrape must not cost as much as all connections since the start.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::publish;
use super::status::Scene;
use super::wanted::{Backend, Listener, Place, Pool};
use crate::api::State;
use crate::reason::{CloseReason, ConnectFailure};
use crate::snapshot;
use crate::stats::{Counter, Histogram, LATENCY_BOUNDS_US, LIFETIME_BOUNDS_US};

/// What each name means.
const HELP: [(&str, &str); 33] = [
    ("evener_build_info", "Always 1; the version is the label."),
    ("evener_snapshot_generation", "Number of the configuration snapshot that the workers act on."),
    ("evener_config_last_reload_success", "1 when the file was taken over the last time it was read."),
    ("evener_config_last_reload_timestamp_seconds", "When the file was read last."),
    ("evener_process_fds_open", "File descriptors in use."),
    ("evener_process_fds_limit", "The limit of file descriptors."),
    ("evener_process_pipes_in_use", "Kernel pipes that hold bytes."),
    ("evener_process_pipes_free", "Empty kernel pipes kept for the next use."),
    ("evener_access_log_dropped_total", "Access-log events lost because the log was not read fast enough."),
    ("evener_listener_connections_accepted_total", "Connections accepted."),
    ("evener_listener_connections_active", "Connections now."),
    ("evener_listener_connections_refused_total", "Connections refused before a pool was asked."),
    ("evener_listener_bytes_total", "Bytes from clients (in) and to clients (out)."),
    ("evener_pool_connections_active", "Connections to the pool's backends now."),
    ("evener_pool_queue_length", "Connections that wait for a backend."),
    ("evener_pool_no_backend_total", "Connections for which no backend could be chosen."),
    ("evener_backend_up", "1 while the backend may take clients: neither down, ejected, taken out nor unresolved."),
    ("evener_backend_weight", "The weight that counts now; 0 = no new clients."),
    ("evener_backend_connections_active", "Connections now, those being connected included."),
    ("evener_backend_connections_total", "Connections established."),
    ("evener_backend_connect_failures_total", "Failed attempts to connect."),
    ("evener_backend_retries_total", "Connections that came here because an attempt elsewhere had failed."),
    ("evener_backend_bytes_total", "Bytes to the backend (in) and from it (out)."),
    ("evener_backend_spliced_bytes_total", "Bytes of both directions that passed through kernel pipes."),
    ("evener_backend_health_checks_total", "Health checks that have ended."),
    ("evener_backend_health_changes_total", "Changes of the health state."),
    ("evener_connections_closed_total", "Connections that ended, by reason."),
    ("evener_worker_connections_active", "Connections that the worker carries."),
    ("evener_worker_accepts_total", "Connections that the worker accepted."),
    ("evener_backend_connect_seconds", "Time to connect to the backend."),
    ("evener_connection_duration_seconds", "How long connections lasted."),
    ("evener_health_check_seconds", "How long health checks took."),
    ("evener_worker_loop_seconds", "How long one turn of a worker's loop took, waiting not counted."),
];

/// Prometheus text of the moment.
pub fn render(scene: &Scene<'_>) -> String {
    let mut page = Page { recorder: PrometheusBuilder::new().build_recorder() };
    page.process(scene);
    scene.wanted.listeners.iter().for_each(|listener| page.listener(listener));
    for pool in &scene.wanted.pools {
        page.pool(pool);
        let panic = publish::is_in_panic(pool);
        for backend in &pool.backends {
            page.backend(scene, pool, backend, panic);
        }
    }
    let mut text = page.recorder.handle().render();
    histograms(scene, &mut text);
    text
}

type Labels<'a> = &'a [(&'static str, &'a str)];

struct Page {
    recorder: PrometheusRecorder,
}

impl Page {
    fn process(&mut self, scene: &Scene<'_>) {
        self.gauge("evener_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        self.gauge("evener_snapshot_generation", &[], scene.generation as f64);
        let (at, ok) = scene.last_reload;
        self.gauge("evener_config_last_reload_success", &[], f64::from(u8::from(ok)));
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.gauge("evener_config_last_reload_timestamp_seconds", &[], at.as_millis() as f64 / 1000.0);
        self.gauge("evener_process_fds_open", &[], scene.fds_open as f64);
        self.gauge("evener_process_fds_limit", &[], scene.fds_limit as f64);
        let pipes = |of: fn(&crate::stats::WorkerStats) -> u32| scene.workers.iter().map(|w| of(w)).sum::<u32>();
        self.gauge("evener_process_pipes_in_use", &[], pipes(|worker| worker.pipes_in_use.load(Relaxed)).into());
        self.gauge("evener_process_pipes_free", &[], pipes(|worker| worker.pipes_free.load(Relaxed)).into());
        self.counter("evener_access_log_dropped_total", &[], scene.journal.dropped());
        for (number, worker) in scene.workers.iter().enumerate() {
            let number = number.to_string();
            let labels = [("worker", number.as_str())];
            self.gauge("evener_worker_connections_active", &labels, worker.active.load(Relaxed).into());
            self.counter("evener_worker_accepts_total", &labels, worker.accepts.read());
        }
    }

    fn listener(&mut self, listener: &Listener) {
        let (name, stats) = (listener.config.name.as_str(), &listener.stats);
        let labels = [("listener", name)];
        let accepted = sum(stats.cells().map(|cell| &cell.accepted));
        self.counter("evener_listener_connections_accepted_total", &labels, accepted);
        self.gauge("evener_listener_connections_active", &labels, stats.active().into());
        for reason in CloseReason::ALL {
            let labels = [("listener", name), ("reason", reason.as_str())];
            let count = sum(stats.cells().map(|cell| &cell.closed[reason.index()]));
            self.counter("evener_connections_closed_total", &labels, count);
            if reason.is_refusal() {
                self.counter("evener_listener_connections_refused_total", &labels, count);
            }
        }
        let (bytes_in, bytes_out) =
            (sum(stats.cells().map(|cell| &cell.bytes_in)), sum(stats.cells().map(|cell| &cell.bytes_out)));
        for (direction, bytes) in [("in", bytes_in), ("out", bytes_out)] {
            self.counter("evener_listener_bytes_total", &[("listener", name), ("direction", direction)], bytes);
        }
    }

    fn pool(&mut self, pool: &Pool) {
        let labels = [("pool", pool.config.name.as_str())];
        let active: u32 = pool.backends.iter().filter_map(known).map(|known| known.stats.active()).sum();
        self.gauge("evener_pool_connections_active", &labels, active.into());
        self.gauge("evener_pool_queue_length", &labels, pool.stats.queue.len().into());
        self.counter("evener_pool_no_backend_total", &labels, sum(pool.stats.cells().map(|cell| &cell.no_backend)));
    }

    fn backend(&mut self, scene: &Scene<'_>, pool: &Pool, backend: &Backend, panic: bool) {
        let labels = labels(pool, backend);
        let up = backend.state(&pool.config) == State::Up;
        let weight = publish::weight_shown(pool, backend, panic, scene.now);
        self.gauge("evener_backend_up", &labels, f64::from(u8::from(up)));
        self.gauge("evener_backend_weight", &labels, weight.into());
        let with = |name, value| [labels[0], labels[1], (name, value)];
        let counts = &backend.observed.counts;
        let name = "evener_backend_health_checks_total";
        self.counter(name, &with("result", "ok"), counts.good.read());
        self.counter(name, &with("result", "failed"), counts.failed.read());
        let name = "evener_backend_health_changes_total";
        self.counter(name, &with("to", "up"), counts.went_up.read());
        self.counter(name, &with("to", "down"), counts.went_down.read());
        let Some(known) = known(backend) else { return };
        let cells = || known.stats.cells();
        self.gauge("evener_backend_connections_active", &labels, known.stats.active().into());
        self.counter("evener_backend_connections_total", &labels, sum(cells().map(|cell| &cell.established)));
        self.counter("evener_backend_retries_total", &labels, sum(cells().map(|cell| &cell.retries)));
        self.counter("evener_backend_spliced_bytes_total", &labels, sum(cells().map(|cell| &cell.spliced)));
        for failure in ConnectFailure::ALL {
            let count = sum(cells().map(|cell| &cell.connect_failures[failure.index()]));
            self.counter("evener_backend_connect_failures_total", &with("reason", failure.as_str()), count);
        }
        let name = "evener_backend_bytes_total";
        self.counter(name, &with("direction", "in"), sum(cells().map(|cell| &cell.bytes_in)));
        self.counter(name, &with("direction", "out"), sum(cells().map(|cell| &cell.bytes_out)));
    }

    fn counter(&mut self, name: &'static str, labels: Labels<'_>, value: u64) {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help(name).into());
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(value);
    }

    fn gauge(&mut self, name: &'static str, labels: Labels<'_>, value: f64) {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help(name).into());
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }
}

const METADATA: Metadata<'static> = Metadata::new("evener", Level::INFO, None);

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

fn help(name: &str) -> &'static str {
    HELP.iter().find(|(known, _)| *known == name).map_or("", |(_, help)| help)
}

fn labels<'a>(pool: &'a Pool, backend: &'a Backend) -> [(&'static str, &'a str); 2] {
    [("pool", pool.config.name.as_str()), ("backend", backend.name.as_str())]
}

fn known(backend: &Backend) -> Option<&snapshot::Backend> {
    match &backend.place {
        Place::Known(known) => Some(known),
        Place::Unresolved(_) => None,
    }
}

fn sum<'a>(counters: impl Iterator<Item = &'a Counter>) -> u64 {
    counters.map(Counter::read).sum()
}

fn histograms(scene: &Scene<'_>, out: &mut String) {
    begin(out, "evener_connection_duration_seconds");
    for listener in &scene.wanted.listeners {
        let of = listener.stats.cells().map(|cell| &cell.durations);
        histogram(
            out,
            "evener_connection_duration_seconds",
            &[("listener", &listener.config.name)],
            &LIFETIME_BOUNDS_US,
            of,
        );
    }
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
    begin(out, "evener_worker_loop_seconds");
    for (number, worker) in scene.workers.iter().enumerate() {
        let of = std::iter::once(&worker.turns);
        histogram(out, "evener_worker_loop_seconds", &[("worker", &number.to_string())], &LATENCY_BOUNDS_US, of);
    }
}

fn begin(out: &mut String, name: &str) {
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", help(name));
}

/// One series of a histogram in the text format: each bucket counts all that is at most `le`.
fn histogram<'a>(
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

#[cfg(test)]
mod tests;
