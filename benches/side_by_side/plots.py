"""What was measured, as figures: one for each suite, and one of all peers. Needs matplotlib."""

import os
import statistics

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import FixedLocator

from . import growth
from .metrics import METRICS, label
from .programs import PEERS, PROXIES
from .tables import number

# Of each suite's works.
PLOTTED = {
    "small": ("cpu_us", "per_second", "p99_us"),
    "pingpong": ("added_us", "cpu_us"),
    "connect": ("cpu_us", "per_second", "p99_us"),
    "sizes": ("cpu_us",),
    "uploads": ("cpu_us", "per_second"),
    "mix": ("p99_us", "stream_mib_per_second"),
    "idle": ("idle_bytes",),
    "latency": ("added_us", "p99_us"),
    "udp": ("per_second",),
    **dict.fromkeys(("http-small", "http-connection", "http-jwt", "http-limit"), ("cpu_us", "per_second", "p99_us")),
    "http-64k": ("cpu_us", "per_second"),
    "http-idle": ("idle_bytes",),
    "tls-handshakes": ("cpu_us", "per_second", "p99_us"),
    "tls-bulk": ("cpu_us",),
}
EVENER, PEER, LIMIT, INK, QUIET = "#d9480f", "#8a96a3", "#d5dbe1", "#1f2933", "#6b7785"
SERIES = ["#1c6dd0", "#0b8457", "#8e44ad", "#b7791f", "#c2255c", "#495057", "#0c8599"]
MARKERS = dict(zip(PEERS, "oDsP^vX"))
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "evener",
    "svg.fonttype": "none",
}
COLUMNS = 3
WIDE = 4.3  # inches of a panel


def colour(name):
    return EVENER if name == "evener" else PEER if name in PEERS else LIMIT


def way(metric):
    return "less is better" if METRICS[metric].smaller_is_better else "more is better"


def save(figure, title, footer, path):
    height = figure.get_figheight()
    figure.text(0.08 / figure.get_figwidth(), 1 - 0.08 / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(0.08 / figure.get_figwidth(), 0.06 / height, footer, va="bottom", fontsize=7, color=QUIET)
    figure.get_layout_engine().set(rect=(0, 0.25 / height, 1, 1 - 0.65 / height), wspace=0.04, hspace=0.06)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def panels(count, height):
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    size = (WIDE * max(columns, 1.6), height * rows + 0.65)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def head(axes, heading, below):
    axes.set_title(f"{heading}\n", fontweight="bold")
    axes.annotate(below, (0, 1), (0, 4), "axes fraction", "offset points", color=QUIET, va="bottom")


def short(value, _):
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:g}"


def bars(axes, figures, work, metric):
    """A bar for each proxy: the median; a whisker from the least to the most of the rounds."""
    names = figures.proxies(work.name, [proxy.name for proxy in PROXIES])
    names = [name for name in names if any(figures.values(work.name, name, other) for other in PLOTTED[work.suite])]
    most = 0
    for place, name in enumerate(names):
        values = figures.values(work.name, name, metric)
        middle = statistics.median(values) if values else 0
        most = max([most, *values])
        axes.barh(place, middle, color=colour(name), height=0.68)
        axes.plot(
            [min(values, default=0), max(values, default=0)],
            [place, place],
            color=INK,
            linewidth=1.1,
            marker="|" * bool(values),
        )
        axes.annotate(
            number(middle if values else None),
            (max(values, default=0), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names):
        tick.set_fontweight("bold" if name == "evener" else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.25 or 1)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(pyplot.MaxNLocator(4))
    axes.xaxis.set_major_formatter(short)


def of_suite(figures, suite, works, footer, path):
    chosen = [(work, metric) for work in works for metric in PLOTTED[suite]]
    figure, axes = panels(len(chosen), 2.9)
    for place, (work, metric) in zip(axes, chosen):
        bars(place, figures, work, metric)
        what = label(metric, work.unit)
        head(place, *((work.title, f"{what}: {way(metric)}") if len(works) > 1 else (what, way(metric))))
    titles = {
        "sizes": "Answers by size",
        "udp": "UDP: flows × datagrams in flight × size",
        "tls-bulk": "HTTP over TLS, answers by size",
    }
    title = titles.get(suite) if len(works) > 1 else works[0].title[0].upper() + works[0].title[1:]
    save(figure, title, f"{footer}; bars: medians, whiskers: all rounds", path)


def line(axes, figures, points, proxy, metric, name, hue):
    """Medians over sizes, with the range of the rounds behind."""
    found = [(size, values) for size, work in points if (values := figures.values(work, proxy, metric))]
    if not found:
        return
    sizes = [size for size, _ in found]
    axes.plot(
        sizes, [statistics.median(values) for _, values in found], color=hue, marker="o", markersize=4, label=name
    )
    axes.fill_between(
        sizes,
        [min(values) for _, values in found],
        [max(values) for _, values in found],
        color=hue,
        alpha=0.13,
        linewidth=0,
    )


def of_growth(figures, works, footer, path):
    groups = [name for name in growth.GROUPS if any(work.growth[0] == name for work in works)]
    figure, all_axes = panels(len(groups), 3.6)
    for axes, name in zip(all_axes, groups):
        group = growth.GROUPS[name]
        members = [work for work in works if work.growth[0] == name]
        series = list(dict.fromkeys(work.growth[1] for work in members))
        for at, one in enumerate(series):
            points = [(size, growth.name(name, one, size)) for size in group.sizes]
            if len(series) > 1:
                line(axes, figures, points, "evener", "cpu_us", one, SERIES[at])
            else:
                line(axes, figures, points, "evener", "cpu_us", "evener", EVENER)
                line(axes, figures, points, "floor", "cpu_us", "floor (what the kernel adds)", PEER)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(group.sizes))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(short)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(name)
        axes.set_ylabel(label("cpu_us", members[0].unit))
        head(axes, f"evener with more {name}", "flat is best")
        axes.legend(frameon=False, fontsize=8, loc="lower right", ncols=2 if len(series) > 1 else 1)
    save(figure, "What growth costs", f"{footer}; lines: medians, shades: all rounds", path)


def overview(figures, works, footer, path):
    """The CPU time of each peer as a multiple of evener's: work by work."""
    chosen = [work for work in works if "cpu_us" in work.metrics and not work.growth]
    rows = [work for work in chosen if figures.proxies(work.name, ["evener"]) and figures.proxies(work.name, PEERS)]
    if not rows:
        return
    figure, (axes,) = panels(1, 1.1 + 0.3 * len(rows))
    figure.set_figwidth(WIDE * 2.4)
    for place, work in enumerate(rows):
        axes.axhline(place, color=LIMIT, linewidth=0.7, zorder=0)
        for at, name in enumerate(PEERS):
            found = figures.ratios(work.name, "cpu_us", [name])
            if found:
                times = 1 / statistics.median(found)
                axes.plot(times, place, linestyle="", markersize=7, color=SERIES[at], marker=MARKERS[name], label=name)
    axes.axvline(1, color=EVENER, linewidth=2.5)
    axes.set_yticks(range(len(rows)), [("UDP: " if work.suite == "udp" else "") + work.title for work in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("times the CPU time that evener takes")
    known = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(known.values(), known, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    head(axes, "evener = 1", "further right: dearer than evener")
    save(figure, "CPU time of the peers for the same work", f"{footer}; medians of the ratios within each round", path)


def draw(figures, works, folder, footer):
    os.makedirs(folder, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for suite in dict.fromkeys(work.suite for work in works):
            members = [work for work in works if work.suite == suite]
            path = os.path.join(folder, f"{suite}.svg")
            if suite == "growth":
                of_growth(figures, members, footer, path)
            else:
                of_suite(figures, suite, members, footer, path)
        overview(figures, works, footer, os.path.join(folder, "overview.svg"))
