//! The metrics, rendered when a scrape asks: a fresh recorder is filled from the counts and thrown away, so there are
//! no series of anything that the file does not have any more.
//!
//! Counters and gauges go through the `metrics` facade, histograms do not: see there.

mod help;
mod histograms;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use self::help::help;
use super::publish;
use super::status::Scene;
use super::wanted::{Backend, Listener, Place, Pool};
use crate::api::{Origin, State};
use crate::reason::{CloseReason, ConnectFailure, DropReason};
use crate::snapshot;
use crate::stats::{Counter, RouteCounts};

/// Prometheus text of the moment.
pub fn render(scene: &Scene<'_>) -> String {
    let mut page = Page { recorder: PrometheusBuilder::new().build_recorder() };
    page.process(scene);
    scene.wanted.listeners.iter().for_each(|listener| page.listener(listener));
    for pool in &scene.wanted.pools {
        page.pool(pool);
        page.discovery(scene, pool);
        let panic = publish::is_in_panic(pool);
        for backend in &pool.backends {
            page.backend(scene, pool, backend, panic);
        }
    }
    scene.routes.iter().for_each(|route| page.route(route));
    let mut text = page.recorder.handle().render();
    histograms::render(scene, &mut text);
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
        let pipes = |of: fn(&crate::stats::WorkerStats) -> u32| scene.threads.iter().map(|w| of(w)).sum::<u32>();
        self.gauge("evener_process_pipes_in_use", &[], pipes(|worker| worker.pipes_in_use.load(Relaxed)).into());
        self.gauge("evener_process_pipes_free", &[], pipes(|worker| worker.pipes_free.load(Relaxed)).into());
        self.counter("evener_access_log_dropped_total", &[], scene.journal.dropped());
        for (number, worker) in scene.threads.iter().enumerate() {
            let number = number.to_string();
            let labels = [("worker", number.as_str())];
            self.gauge("evener_worker_connections_active", &labels, worker.active.load(Relaxed).into());
            self.counter("evener_worker_accepts_total", &labels, worker.accepts.read());
        }
    }

    fn listener(&mut self, listener: &Listener) {
        let (name, stats) = (listener.config.name.as_str(), &listener.stats);
        if listener.carries_datagrams() {
            self.datagrams(listener);
        } else {
            self.connections(listener);
        }
        let (bytes_in, bytes_out) =
            (sum(stats.cells().map(|cell| &cell.bytes_in)), sum(stats.cells().map(|cell| &cell.bytes_out)));
        for (direction, bytes) in [("in", bytes_in), ("out", bytes_out)] {
            self.counter("evener_listener_bytes_total", &[("listener", name), ("direction", direction)], bytes);
        }
    }

    fn connections(&mut self, listener: &Listener) {
        let (name, stats) = (listener.config.name.as_str(), &listener.stats);
        let labels = [("listener", name)];
        let accepted = sum(stats.cells().map(|cell| &cell.accepted));
        self.counter("evener_listener_connections_accepted_total", &labels, accepted);
        self.gauge("evener_listener_connections_active", &labels, stats.active().into());
        for reason in CloseReason::ALL.into_iter().filter(|reason| reason.ends_connections()) {
            let labels = [("listener", name), ("reason", reason.as_str())];
            let count = sum(stats.cells().map(|cell| &cell.closed[reason.index()]));
            self.counter("evener_connections_closed_total", &labels, count);
            if reason.is_refusal() {
                self.counter("evener_listener_connections_refused_total", &labels, count);
            }
        }
    }

    fn datagrams(&mut self, listener: &Listener) {
        let (name, stats) = (listener.config.name.as_str(), &listener.stats);
        let labels = [("listener", name)];
        let opened = sum(stats.cells().map(|cell| &cell.accepted));
        self.counter("evener_udp_flows_opened_total", &labels, opened);
        self.gauge("evener_udp_flows_active", &labels, stats.active().into());
        for reason in CloseReason::ALL.into_iter().filter(|reason| reason.ends_flows()) {
            let count = sum(stats.cells().map(|cell| &cell.closed[reason.index()]));
            self.counter("evener_udp_flows_closed_total", &[labels[0], ("reason", reason.as_str())], count);
        }
        for reason in DropReason::ALL {
            let count = sum(stats.cells().map(|cell| &cell.dropped[reason.index()]));
            self.counter("evener_udp_dropped_total", &[labels[0], ("reason", reason.as_str())], count);
        }
        let (datagrams_in, datagrams_out) =
            (sum(stats.cells().map(|cell| &cell.datagrams_in)), sum(stats.cells().map(|cell| &cell.datagrams_out)));
        for (direction, datagrams) in [("in", datagrams_in), ("out", datagrams_out)] {
            self.counter("evener_udp_datagrams_total", &[labels[0], ("direction", direction)], datagrams);
        }
    }

    fn pool(&mut self, pool: &Pool) {
        let labels = [("pool", pool.config.name.as_str())];
        let active: u32 = pool.backends.iter().filter_map(known).map(|known| known.stats.active()).sum();
        self.gauge("evener_pool_connections_active", &labels, active.into());
        self.gauge("evener_pool_queue_length", &labels, pool.stats.queue.len().into());
        self.counter("evener_pool_no_backend_total", &labels, sum(pool.stats.cells().map(|cell| &cell.no_backend)));
    }

    /// The sources of one sort together: their names may be others' words, and as many as there are hosts.
    fn discovery(&mut self, scene: &Scene<'_>, pool: &Pool) {
        let reports = scene.discovery.reports(&pool.config);
        for origin in [Origin::Dns, Origin::File] {
            let tracks = || reports.iter().filter(|report| report.origin == origin).map(|report| &report.track);
            if tracks().next().is_none() {
                continue;
            }
            let labels = [("pool", pool.config.name.as_str()), ("origin", origin.as_str())];
            self.counter("evener_discovery_updates_total", &labels, tracks().map(|track| track.updates).sum());
            self.counter("evener_discovery_failures_total", &labels, tracks().map(|track| track.failures).sum());
            let failing = tracks().filter(|track| track.fails).count();
            self.gauge("evener_discovery_failing", &labels, failing as f64);
            let seconds =
                |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64 / 1000.0;
            let oldest = tracks().map(|track| track.success.map_or(0.0, seconds)).fold(f64::INFINITY, f64::min);
            self.gauge("evener_discovery_last_success_timestamp_seconds", &labels, oldest);
        }
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

    fn route(&mut self, counts: &RouteCounts) {
        let labels = [("listener", counts.listener.as_str()), ("route", counts.route.as_str())];
        for (status, count) in &counts.by_status {
            let code = status.to_string();
            self.counter("evener_http_requests_total", &[labels[0], labels[1], ("code", &code)], *count);
        }
        for (policy, count) in &counts.refused {
            self.counter("evener_http_rejected_total", &[labels[0], labels[1], ("policy", policy)], *count);
        }
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

#[cfg(test)]
mod tests;
