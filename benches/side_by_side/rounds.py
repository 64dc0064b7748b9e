"""Measures, round by round: every proxy once for each work, in rotating order: a noisy neighbour hits all alike."""

import json
import sys
import time

from . import cost
from .trial import LeftOut
from .works import CONNECT

# What a measurement takes besides its seconds: a start, and an end.
AROUND_SECONDS = 0.3
PACE = 0.1
# Connections are idle for so long before their memory is looked at: buffers are given back by then where they are.
SETTLE_SECONDS = 8


def say(text):
    print(text, file=sys.stderr, flush=True)


def partakers(proxies, work):
    def takes_part(proxy):
        if work.protocol not in proxy.carries or work.features & proxy.lacks:
            return False
        if proxy.is_for_large and not work.is_large:
            return False
        return not work.proxies or proxy.name in work.proxies

    return list(filter(takes_part, proxies))


def rehearsed(stage, proxies, works):
    """Those that start and carry something; and why the others do not."""
    able, left_out = [], {}
    for proxy in proxies:
        for work in works:
            if proxy in partakers(proxies, work):
                try:
                    with proxy.running(stage, work):
                        able.append(proxy)
                except (LeftOut, OSError) as why:
                    left_out[proxy.name] = str(why)
                break
    return able, left_out


def plan(proxies, works, options):
    """How long it will take, in words."""
    counts = {work: len(partakers(proxies, work)) for work in works}
    around = options.seconds + options.warm_up + AROUND_SECONDS
    total = options.rounds * sum(count * (work.opening + around) for work, count in counts.items())
    count = options.rounds * sum(counts.values())
    return f"{count} measurements in {options.rounds} rounds: about {total / 60:.0f} minutes"


def words_of(work, ports, seconds, warm_up, pace):
    first, *others = [ports[service.name] for service in work.services]
    words = [*work.words, "--port", first, "--seconds", seconds]
    if work.protocol != "udp":
        words += ["--warm-up", warm_up + work.opening]
    if work.mode == "mix":
        words += ["--stream-port", others[0]]
    if work.is_paced:
        words += ["--per-second", pace]
    return words


def run_load(stage, words, pids=(), settle=0):
    """The last object that the load prints, with what it cost from its mark to there."""
    client = stage.load(*words)
    try:
        before = cost.so_far(pids)
        for line in client.stdout:
            said = json.loads(line)
            if not said.get("warm"):
                time.sleep(settle)
                return said, before, cost.so_far(pids)
            before = cost.so_far(pids)
        raise LeftOut("the load has failed")
    finally:
        stage.end(client)


def measure(stage, proxy, work, seconds, pace=None):
    """What the load says and what it cost; or why it failed."""
    warm_up = stage.options.warm_up
    try:
        with proxy.running(stage, work) as running:
            if work.protocol == "udp" and work.is_warmed:
                run_load(stage, words_of(work, running.ports, warm_up, 0, pace))
            words = words_of(work, running.ports, seconds, warm_up, pace)
            settle = SETTLE_SECONDS if work.mode == "idle" else 0
            result, before, after = run_load(stage, words, running.pids, settle)
    except (LeftOut, OSError) as why:
        say(f"{proxy.name}: no {work.name}: {why}")
        return {"failed": str(why)}
    done = result["requests"]
    if done == 0:
        return {key: value for key, value in result.items() if not key.endswith("_us")}
    result["machine_us"] = (after.machine_ns - before.machine_ns) / 1000 / done
    if running.pids:
        result["cpu_us"] = (after.cpu_ns - before.cpu_ns) / 1000 / done
    if running.pids and work.mode == "idle":
        result["idle_bytes"] = (after.memory_bytes - before.memory_bytes) / done
    return result


def pace_of(stage, proxies):
    """Connections per second: so few of what the slowest proxy can do, the same for all."""
    seconds = min(1.0, stage.options.seconds)
    results = [measure(stage, proxy, CONNECT, seconds) for proxy in partakers(proxies, CONNECT)]
    rates = [result["per_second"] for result in results if result.get("per_second")]
    return max(1, round(min(rates, default=0) * PACE))


def run(stage, proxies, works, pace, keep):
    """The rounds of each work: what each proxy did, by name. `keep` is given them after each round."""
    results = {work.name: [] for work in works}
    start, rounds = time.monotonic(), stage.options.rounds
    for number in range(rounds):
        for work in works:
            names = partakers(proxies, work)
            first = number % max(len(names), 1)
            turn = names[first:] + names[:first]
            measured = {proxy.name: measure(stage, proxy, work, stage.options.seconds, pace) for proxy in turn}
            results[work.name].append(measured)
        keep(results)
        left = (time.monotonic() - start) / (number + 1) * (rounds - number - 1) / 60
        say(f"round {number + 1} of {rounds} done, {left:.0f} minutes to go")
    return results
