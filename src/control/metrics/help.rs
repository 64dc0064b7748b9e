//! What each metric means, as a scrape says it.

/// What each name means.
pub const HELP: [(&str, &str); 46] = [
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
    ("evener_udp_flows_active", "Flows now."),
    ("evener_udp_flows_opened_total", "Flows opened."),
    ("evener_udp_flows_closed_total", "Flows that ended, by reason."),
    ("evener_udp_datagrams_total", "Datagrams from clients (in) and to clients (out), dropped ones included."),
    ("evener_udp_dropped_total", "Datagrams of both directions that were dropped, by reason."),
    ("evener_pool_connections_active", "Connections and flows to the pool's backends now."),
    ("evener_pool_queue_length", "Connections that wait for a backend."),
    ("evener_pool_no_backend_total", "Connections and flows for which no backend could be chosen."),
    ("evener_discovery_updates_total", "How often names, SRV records or a file of backends said something new."),
    ("evener_discovery_failures_total", "Failed attempts to ask for a name or to read a file of backends."),
    (
        "evener_discovery_failing",
        "Names or files whose last attempt failed, or was not believed; what was known stays.",
    ),
    ("evener_discovery_last_success_timestamp_seconds", "The last good attempt; of several the oldest, 0 = never."),
    ("evener_backend_up", "1 while the backend may take clients: neither down, ejected, taken out nor unresolved."),
    ("evener_backend_weight", "The weight that counts now; 0 = no new clients."),
    ("evener_backend_connections_active", "Connections and flows now, connections being connected included."),
    ("evener_backend_connections_total", "Connections established and flows begun."),
    ("evener_backend_connect_failures_total", "Failed attempts to connect."),
    ("evener_backend_retries_total", "Connections that came here because an attempt elsewhere had failed."),
    ("evener_backend_bytes_total", "Bytes to the backend (in) and from it (out)."),
    ("evener_backend_spliced_bytes_total", "Bytes of both directions that passed through kernel pipes."),
    ("evener_backend_health_checks_total", "Health checks that have ended."),
    ("evener_backend_health_changes_total", "Changes of the health state."),
    ("evener_connections_closed_total", "Connections that ended, by reason."),
    ("evener_http_requests_total", "Requests that were answered, by the status of the answer."),
    ("evener_http_rejected_total", "Requests that the gateway answered by itself, by what refused them."),
    ("evener_http_request_seconds", "From a request's head to the last byte of its answer."),
    ("evener_worker_connections_active", "Connections that the worker carries."),
    ("evener_worker_accepts_total", "Connections that the worker accepted."),
    ("evener_backend_connect_seconds", "Time to connect to the backend."),
    ("evener_connection_duration_seconds", "How long connections lasted."),
    ("evener_udp_flow_duration_seconds", "How long flows lasted."),
    ("evener_health_check_seconds", "How long health checks took."),
    ("evener_worker_loop_seconds", "How long one turn of a worker's loop took, waiting not counted."),
];

/// The text for this name.
pub fn help(name: &str) -> &'static str {
    HELP.iter().find(|(known, _)| *known == name).map_or("", |(_, help)| help)
}
