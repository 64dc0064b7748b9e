"""evener side by side with its peers, with the kernel's NAT and with no proxy at all, on this machine.

Builds evener and the load generator, says which peers it found and how to get the others (it installs nothing), and
measures all of them in interleaved rounds. Prints tables in Markdown, and how evener stands against its bars.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time

from . import bars, growth, namespace, rounds, tables, works
from .figures import Figures
from .programs import PROXIES
from .stage import Stage
from .trial import LeftOut

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENOUGH_ROUNDS = 7
DESCRIPTORS = 65536
WORKS = {work.name: work for work in [*works.WORKS, *growth.works()]}
SUITES = list(dict.fromkeys(work.suite for work in WORKS.values()))
BY_NAME = {proxy.name: proxy for proxy in PROXIES}


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--suite",
        metavar="NAMES",
        default=",".join(SUITES),
        help="of %(default)s; or names of single works, also udp-FLOWSxINFLIGHTxBYTES",
    )
    add("--proxies", metavar="NAMES", default=",".join(BY_NAME), help="of %(default)s")
    add("--rounds", type=int, default=ENOUGH_ROUNDS)
    add("--seconds", type=float, default=2.0, help="of each measurement")
    add("--warm-up", type=float, default=0.5, help="seconds before each measurement")
    add("--workers", type=int, default=1, help="workers or threads of each proxy")
    add("--congestion", metavar="NAME", help="TCP's congestion control, as root; default: cubic, else reno")
    add("--binary", metavar="FILE", help="an evener built already")
    add("--load", metavar="FILE", help="a load generator built already")
    add("--envoy", metavar="FILE", help="where envoy is")
    add("--caddy", metavar="FILE", help="where caddy is")
    add("--json", metavar="FILE", help="keep every round in this file, from the first one on")
    add("--plots", metavar="DIR", help="draw a figure (SVG) for each suite; needs matplotlib")
    add(
        "--from",
        metavar="FILE",
        dest="kept",
        nargs="+",
        help="measure nothing: tables and plots of files that --json kept",
    )
    options = parser.parse_args()
    names = options.suite.split(",")
    for name in names:
        if name not in SUITES and name not in WORKS and not works.UDP_NAME.fullmatch(name):
            parser.error(
                f"no suite and no work is called {name}: there are {', '.join(dict.fromkeys([*SUITES, *WORKS]))}"
            )
    options.works = [work for work in WORKS.values() if {work.suite, work.name} & set(names)]
    options.works += [works.udp(name) for name in names if name not in SUITES and name not in WORKS]
    options.proxies = options.proxies.split(",")
    for name in options.proxies:
        if name not in BY_NAME:
            parser.error(f"no proxy is called {name}: there are {', '.join(BY_NAME)}")
    if options.plots and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plots needs matplotlib: pip install matplotlib")
    if options.json:
        open(options.json, "a").close()  # a file that cannot be written fails now, not after the first round
    return options


def build(name, what):
    """Builds with cargo and returns the path of the executable of this name."""
    words = ["cargo", *what, "--locked", "--message-format=json"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} could not be built")
    built = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [one["executable"] for one in built if one.get("executable") and one["target"]["name"] == name][-1]


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}"


def found(stage):
    """The proxies that are there, with their versions; and why the others are not."""
    versions, left_out = {}, {}
    for name in stage.options.proxies:
        try:
            versions[name] = BY_NAME[name].find(stage)
        except LeftOut as why:
            left_out[name] = str(why)
    return versions, left_out


def measured(options):
    """Measures, and returns all that is to be kept."""
    with Stage(options) as stage:
        stage.is_apart, network = namespace.enter(options.congestion)
        versions, left_out = found(stage)
        proxies, broken = rounds.rehearsed(stage, [BY_NAME[name] for name in versions], options.works)
        for name, version in versions.items():
            rounds.say(f"found {name}: {version}" if name not in broken else f"left out {name}: {broken[name]}")
        for name, why in left_out.items():
            rounds.say(f"left out {name}: {why}")
        if not proxies:
            sys.exit("there is nothing to measure")
        rounds.say(network)
        if options.rounds < ENOUGH_ROUNDS:
            rounds.say(f"fewer than {ENOUGH_ROUNDS} rounds: take what comes out as a hint, not as a result")
        rounds.say(rounds.plan(proxies, options.works, options))
        pace = rounds.pace_of(stage, proxies) if any(work.is_paced for work in options.works) else None
        kept = {
            "machine": machine(),
            "network": network,
            "versions": {proxy.name: versions[proxy.name] for proxy in proxies},
            "left_out": left_out | broken,
            "workers": options.workers,
            "seconds": options.seconds,
            "warm_up": options.warm_up,
            "pace": pace,
        }

        def keep(results):
            kept["rounds"] = results
            if options.json:
                with open(options.json, "w") as file:
                    json.dump(kept, file, indent=1)

        rounds.run(stage, proxies, options.works, pace, keep)
    return kept


def read(paths):
    """What was kept, of several files as if it had been one run."""
    everything = []
    for path in paths:
        with open(path) as file:
            everything.append(json.load(file))
    kept = everything[0]
    for other in everything[1:]:
        kept["rounds"] |= other["rounds"]
        kept["versions"] |= other["versions"]
    return kept


def show(kept, plots):
    figures = Figures(kept)
    all_works = WORKS | {name: works.udp(name) for name in kept["rounds"] if name not in WORKS}
    chosen = [work for work in all_works.values() if work.name in kept["rounds"]]
    count = max(map(len, kept["rounds"].values()))
    each = f"{kept['workers']} worker{'s' * (kept['workers'] > 1)} each, {count} rounds of {kept['seconds']:g} s"
    where = f"{kept['machine']}; {each}"
    print(f"{where}, {kept['network']}.")
    print("; ".join(f"{name}: {version}" for name, version in kept["versions"].items()) + ".")
    if kept["pace"]:
        print(f"10 % load: {kept['pace']} connections per second.")
    for text in tables.everything(figures, chosen):
        print("\n" + text, end="")
    faults = list(tables.faults(figures))
    print("\n" + "\n".join(faults or ["No request failed."]))
    rows = list(bars.rows(figures, all_works))
    if rows:
        print("\n" + tables.table(bars.HEADS, rows), end="")
    if plots:
        from .plots import draw  # only here: matplotlib may not be there

        draw(figures, chosen, plots, where)


def main():
    options = arguments()
    if options.kept:
        show(read(options.kept), options.plots)
        return
    options.load = options.load or build("load", ["bench", "--bench", "load", "--no-run"])
    if "evener" in options.proxies:
        options.binary = options.binary or build("evener", ["build", "--release", "--bin", "evener"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most), most)
    )
    try:
        kept = measured(options)
    except KeyboardInterrupt:
        sys.exit(130)
    show(kept, options.plots)
