"""What a measurement costs: CPU time of processes, busy time of the machine, memory."""

import glob
import os
import re
from dataclasses import dataclass

TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid):
    """Of all threads of a process: to the nanosecond where the kernel says it (schedstat), else in ticks."""
    total = 0
    for task in glob.glob(f"/proc/{pid}/task/*"):
        try:
            with open(f"{task}/schedstat") as file:
                total += int(file.read().split()[0])
        except OSError:
            with open(f"{task}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) * TICK_NS  # proc(5): utime, stime
    return total


def machine_ns():
    """The time in which the processors did something: neither idle, nor waiting for a disk, nor taken away."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) * TICK_NS


def anonymous_bytes(pid):
    """User memory (proc(5): RssAnon)."""
    with open(f"/proc/{pid}/status") as file:
        found = re.search(r"RssAnon:\s+(\d+) kB", file.read())
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) * 1024


@dataclass(frozen=True)
class Cost:
    cpu_ns: int
    machine_ns: int
    memory_bytes: int


def so_far(pids):
    """Raises OSError when one of them has ended."""
    return Cost(sum(map(cpu_ns, pids)), machine_ns(), sum(map(anonymous_bytes, pids)))
