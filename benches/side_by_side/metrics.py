"""The figures of a work: how they are called, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    label: str  # {unit} is what the work counts
    smaller_is_better: bool = True


METRICS = {
    "per_second": Metric("{units}/s", smaller_is_better=False),
    "p50_us": Metric("p50 µs"),
    "added_us": Metric("added to direct's p50, µs"),
    "p99_us": Metric("p99 µs"),
    "cpu_us": Metric("CPU µs/{unit}"),
    "machine_us": Metric("machine µs/{unit}"),
    "stream_mib_per_second": Metric("streams, MiB/s", smaller_is_better=False),
    "idle_bytes": Metric("user memory, bytes/connection"),
    "lost": Metric("lost, all rounds"),
}
PLURALS = {"request": "requests", "connection": "connections", "reply": "replies", "handshake": "handshakes"}


def label(metric, unit):
    return METRICS[metric].label.format(unit=unit, units=PLURALS[unit])
