//! Tests: a scrape of made-up counts.

use std::sync::Arc;
use std::time::Duration;

use super::super::sample;
use super::super::wanted::Wanted;
use super::help::HELP;
use super::histograms::histogram;
use super::*;
use crate::stats::WorkersStats;

fn page(change: impl FnOnce(&mut Wanted, &WorkersStats)) -> String {
    sample::show(change, render)
}

fn known_stats(backend: &Backend) -> Arc<crate::stats::BackendStats> {
    known(backend).expect("resolved").stats.clone()
}

#[test]
fn counts_of_all_workers_are_added_up() {
    let text = page(|wanted, workers| {
        let listener = &wanted.listeners[0].stats;
        listener.cell(0).accepted.add(3);
        listener.cell(1).accepted.add(4);
        listener.cell(1).closed[CloseReason::Denied.index()].add(2);
        let backend = known_stats(&wanted.pools[0].backends[1]);
        backend.cell(0).bytes_in.add(10);
        backend.cell(1).bytes_in.add(5);
        backend.cell(1).connect_failures[ConnectFailure::Refused.index()].add(9);
        wanted.pools[0].backends[1].observed.up = Some(false);
        workers[1].accepts.add(4);
    });
    for line in [
        "evener_build_info{version=\"0.1.0\"} 1",
        "evener_snapshot_generation 7",
        "evener_config_last_reload_timestamp_seconds 1.5",
        "evener_listener_connections_accepted_total{listener=\"web\"} 7",
        "evener_listener_connections_refused_total{listener=\"web\",reason=\"denied\"} 2",
        "evener_connections_closed_total{listener=\"web\",reason=\"denied\"} 2",
        "evener_connections_closed_total{listener=\"web\",reason=\"client_closed\"} 0",
        "evener_backend_up{pool=\"app\",backend=\"a\"} 1",
        "evener_backend_up{pool=\"app\",backend=\"b\"} 0",
        "evener_backend_weight{pool=\"app\",backend=\"a\"} 100",
        "evener_backend_weight{pool=\"app\",backend=\"b\"} 0",
        "evener_backend_bytes_total{pool=\"app\",backend=\"b\",direction=\"in\"} 15",
        "evener_backend_connect_failures_total{pool=\"app\",backend=\"b\",reason=\"refused\"} 9",
        "evener_worker_accepts_total{worker=\"1\"} 4",
        "# TYPE evener_listener_connections_accepted_total counter",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_listener_for_datagrams_is_counted_in_flows_and_one_for_connections_in_connections() {
    let text = page(|wanted, _| {
        let dns = &wanted.listeners[1].stats;
        dns.cell(0).accepted.add(5);
        dns.cell(1).accepted.add(1);
        dns.cell(0).bytes_out.add(512);
        dns.cell(0).datagrams_in.add(7);
        dns.cell(1).datagrams_out.add(6);
        dns.cell(1).closed[CloseReason::Answered.index()].add(4);
        dns.cell(1).drop_datagrams(DropReason::ReceiveBufferFull, 3);
        dns.cell(0).durations.record(Duration::from_millis(2));
    });
    for line in [
        "evener_udp_flows_active{listener=\"dns\"} 0",
        "evener_udp_flows_opened_total{listener=\"dns\"} 6",
        "evener_udp_flows_closed_total{listener=\"dns\",reason=\"answered\"} 4",
        "evener_udp_flows_closed_total{listener=\"dns\",reason=\"shed\"} 0",
        "evener_udp_datagrams_total{listener=\"dns\",direction=\"in\"} 7",
        "evener_udp_datagrams_total{listener=\"dns\",direction=\"out\"} 6",
        "evener_udp_dropped_total{listener=\"dns\",reason=\"receive_buffer_full\"} 3",
        "evener_udp_dropped_total{listener=\"dns\",reason=\"late\"} 0",
        "evener_listener_bytes_total{listener=\"dns\",direction=\"out\"} 512",
        "evener_udp_flow_duration_seconds_count{listener=\"dns\"} 1",
        "evener_connection_duration_seconds_count{listener=\"web\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    for (listener, foreign) in [("dns", "connection"), ("web", "udp_"), ("web", "answered"), ("dns", "client_closed")] {
        let of = format!("listener=\"{listener}\"");
        let found = text.lines().find(|line| line.contains(&of) && line.contains(foreign));
        assert_eq!(found, None, "{listener} is not counted in {foreign}");
    }
}

#[test]
fn a_histogram_has_exact_counts_and_sums_and_its_buckets_add_up() {
    let text = page(|wanted, _| {
        let backend = known_stats(&wanted.pools[0].backends[0]);
        backend.cell(0).connects.record(Duration::from_micros(100));
        backend.cell(1).connects.record(Duration::from_micros(700));
        backend.cell(1).connects.record(Duration::from_secs(9));
    });
    let of = "pool=\"app\",backend=\"a\"";
    for (bound, count) in [("0.0001", 1), ("0.0005", 1), ("0.001", 2), ("5", 2), ("+Inf", 3)] {
        let line = format!("evener_backend_connect_seconds_bucket{{{of},le=\"{bound}\"}} {count}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(text.contains(&format!("evener_backend_connect_seconds_sum{{{of}}} 9.0008\n")), "{text}");
    assert!(text.contains(&format!("evener_backend_connect_seconds_count{{{of}}} 3\n")), "{text}");
    assert!(text.contains("evener_worker_loop_seconds_count{worker=\"0\"} 0\n"), "{text}");
}

#[test]
fn every_metric_has_its_help_and_type_once_and_every_help_its_metric() {
    let text = page(|_, _| {});
    for (name, help) in HELP {
        assert_eq!(text.matches(&format!("# HELP {name} {help}\n")).count(), 1, "{name}");
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
    }
    assert_eq!(text.matches("# HELP ").count(), HELP.len());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(series.starts_with("evener_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn a_name_cannot_break_out_of_its_label() {
    let mut out = String::new();
    histogram(&mut out, "x", &[("pool", "a\"} 1\n\\")], &[1], std::iter::empty());
    assert_eq!(out.lines().count(), 4);
    assert!(out.starts_with("x_bucket{pool=\"a\\\"} 1\\n\\\\\",le=\"0.000001\"} 0\n"), "{out}");
}
