"""What was measured, as tables in Markdown: a row for each proxy, and rows of ratios below."""

import statistics

from . import growth
from .metrics import label
from .programs import PROXIES, family

# Calls and requests that failed, connections that were not opened in time, replies that came late, twice or wrong.
FAULTS = ["errors", "opened_late", "late", "duplicates", "corrupt"]
NAMES = [proxy.name for proxy in PROXIES]


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def number(value):
    return "–" if value is None else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def ratio(found):
    return f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})" if found else "–"


def of_work(figures, work):
    names = figures.proxies(work.name, NAMES)
    rows = []
    for name in names:
        cells = [number(figures.median(work.name, name, metric)) for metric in work.metrics]
        if work.metrics[-1] == "lost":
            cells[-1] = f"{figures.total(work.name, name, 'lost'):,}"
        rows.append([name, *cells])
    for over in (*work.families, "best peer"):
        if set(family(over)) & set(names) and "evener" in names:
            shown = [metric for metric in work.metrics if metric != "lost"]
            cells = [ratio(figures.ratios(work.name, metric, family(over))) for metric in shown]
            rows.append([f"evener / {over}", *cells, *["–"] * (len(work.metrics) - len(shown))])
    return table([work.title, *(label(metric, work.unit) for metric in work.metrics)], rows)


def of_group(figures, name, works):
    """A table of growth: the sizes from left to right."""
    group = growth.GROUPS[name]
    last = group.sizes[-1]
    rows = []
    for series in dict.fromkeys(work.growth[1] for work in works):
        for proxy in figures.proxies(growth.name(name, series, last), NAMES):
            metric = "machine_us" if proxy == "direct" else "cpu_us"
            points = [growth.name(name, series, size) for size in group.sizes]
            cells = [number(figures.median(point, proxy, metric)) for point in points]
            against = figures.growth(points[-1], points[group.sizes.index(group.base)], proxy, metric)
            what = proxy if series == name else series
            rows.append([f"{what}: {label(metric, works[0].unit)}", *cells, ratio(against)])
    return table([group.title, *map(str, group.sizes), f"{last} / {group.base} (range)"], rows)


def everything(figures, works):
    """The tables of these works."""
    grown = {}
    for work in works:
        if work.growth:
            grown.setdefault(work.growth[0], []).append(work)
        else:
            yield of_work(figures, work)
    for name, members in grown.items():
        yield of_group(figures, name, members)


def faults(figures):
    for work, rounds in figures.rounds.items():
        for name in figures.proxies(work, NAMES):
            found = {fault: figures.total(work, name, fault) for fault in FAULTS}
            failed = sum("failed" in measured.get(name, {}) for measured in rounds)
            said = [f"{total:,} {fault}" for fault, total in found.items() if total]
            said += [f"failed in {failed} of {len(rounds)} rounds"] if failed else []
            if said:
                yield f"- {name}, {work}: " + ", ".join(said)
