"""What evener has to reach: in the median of the ratios within each round, or itself in every round."""

import statistics
from dataclasses import dataclass

from . import growth
from .metrics import label
from .programs import family
from .works import UDP

BEST = "best peer"
HEADS = ["the bars", "", "evener /", "measured", "bar", ""]
# Rows with more than one datagram in flight, none of them as trains.
BURSTS = ["udp-64x16x64", "udp-64x16x1200", "udp-4x64x1200"]


@dataclass(frozen=True)
class Bar:
    work: str
    metric: str
    bound: float
    over: str = BEST  # a peer, or another work of growth; "" = nothing: the figure itself, in every round
    is_least: bool = False


def of_growth(group, series):
    last, base = growth.GROUPS[group].sizes[-1], growth.GROUPS[group].base
    return Bar(growth.name(group, series, last), "cpu_us", 1.3, growth.name(group, series, base))


BARS = [
    Bar("small", "cpu_us", 0.85),
    Bar("small", "per_second", 1.05, is_least=True),
    Bar("pingpong", "added_us", 0.9),
    Bar("connect", "cpu_us", 0.92),
    Bar("connect", "per_second", 1.0, is_least=True),
    Bar("answers-64k", "cpu_us", 0.90),
    Bar("answers-64k", "cpu_us", 0.65, "nginx"),
    Bar("answers-1m", "cpu_us", 0.88),
    Bar("answers-1m", "cpu_us", 0.42, "nginx"),
    Bar("uploads", "cpu_us", 0.88),
    Bar("uploads", "cpu_us", 0.42, "nginx"),
    Bar("mix", "p99_us", 1.0),
    Bar("idle", "idle_bytes", 384, ""),
    of_growth("connections", "connections"),
    *(of_growth("backends", balance) for balance in growth.ALGORITHMS),
    Bar("udp-64x1x64", "per_second", 1.0, "nginx", is_least=True),
    *(Bar(name, "per_second", 1.5, "nginx", is_least=True) for name in BURSTS),
    *(Bar(name, "per_second", 2.0, "envoy", is_least=True) for name in BURSTS),
    *(Bar(name, "cpu_us", 0.6, "nginx") for name in BURSTS),
    Bar("udp-2000x1x64", "per_second", 1.5, "nginx", is_least=True),
    Bar("udp-gso-4x32x1200", "per_second", 5.0, is_least=True),
    *(Bar(name, "lost", 0, "") for name in UDP),
    Bar("http-small", "cpu_us", 1.0),
    Bar("http-jwt", "cpu_us", 1.0),
    Bar("http-connection", "cpu_us", 1.2, "nginx"),
    Bar("http-idle", "idle_bytes", 4096, ""),
    Bar("http-idle", "idle_bytes", 9216, ""),
]


def measured(bar, figures):
    if not bar.over:
        return figures.values(bar.work, "evener", bar.metric)
    if bar.over.startswith("growth-"):
        return figures.growth(bar.work, bar.over, "evener", bar.metric)
    return figures.ratios(bar.work, bar.metric, family(bar.over))


def rows(figures, works):
    """A row of the table for each bar of what was measured."""
    for bar in BARS:
        found = measured(bar, figures) if bar.work in works else []
        if not found:
            continue
        middle = statistics.median(found) if bar.over else max(found)
        holds = middle >= bar.bound if bar.is_least else middle <= bar.bound
        over = f"at {works[bar.over].growth[2]}" if bar.over in works else bar.over or "–"
        shown = f"{middle:.2f} ({min(found):.2f}–{max(found):.2f})" if bar.over else f"{middle:,.0f}"
        bound = f"{'≥' if bar.is_least else '≤'} {bar.bound:g}"
        work = works[bar.work]
        yield [work.title, label(bar.metric, work.unit), over, shown, bound, "holds" if holds else "**does not hold**"]
