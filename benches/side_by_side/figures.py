"""Medians of what was measured, and ratios within each round: whatever disturbed a round disturbed both sides."""

import statistics

from .metrics import METRICS


class Figures:
    def __init__(self, kept):
        self.rounds = kept["rounds"]

    def proxies(self, work, among):
        """Those of these names that took part in a work."""
        return [name for name in among if any(name in measured for measured in self.rounds.get(work, []))]

    def value(self, work, number, proxy, metric):
        """In one round; None when there is none."""
        measured = self.rounds[work][number]
        if metric != "added_us":
            return measured.get(proxy, {}).get(metric)
        both = [measured.get(name, {}).get("p50_us") for name in (proxy, "direct")]
        return both[0] - both[1] if proxy != "direct" and None not in both else None

    def values(self, work, proxy, metric):
        found = [self.value(work, number, proxy, metric) for number in range(len(self.rounds.get(work, [])))]
        return [value for value in found if value is not None]

    def median(self, work, proxy, metric):
        values = self.values(work, proxy, metric)
        return statistics.median(values) if values else None

    def total(self, work, proxy, metric):
        return sum(self.values(work, proxy, metric))

    def best(self, work, metric, peers):
        """Of these the one with the best median. The best of each round would be whom noise favoured most in it."""
        medians = {peer: median for peer in peers if (median := self.median(work, peer, metric)) is not None}
        choose = min if METRICS[metric].smaller_is_better else max
        return choose(medians, key=medians.get, default=None)

    def ratios(self, work, metric, peers):
        """evener against the best of these peers, round by round."""
        best, found = self.best(work, metric, peers), []
        for number in range(len(self.rounds.get(work, []))):
            ours, theirs = [self.value(work, number, name, metric) for name in ("evener", best)]
            # What is added to direct's latency can be lost in noise: then there is nothing to compare.
            if ours is not None and theirs is not None and theirs > 0:
                found.append(ours / theirs)
        return found

    def growth(self, work, base, proxy, metric):
        """A work against another one in the same round, round by round."""
        numbers = range(min(len(self.rounds.get(name, [])) for name in (work, base)))
        pairs = [[self.value(name, number, proxy, metric) for name in (work, base)] for number in numbers]
        return [grown / first for grown, first in pairs if grown is not None and first]
