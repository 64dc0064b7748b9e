"""A network of our own: the machine's firewall slows nothing there, and our NAT touches nothing of the machine."""

import contextlib
import ctypes
import os
import shutil
import subprocess

CLONE_NEWNET = 0x40000000  # unshare(2)
# Settings that a namespace has for itself and that are often changed: they are made the same as outside.
SETTINGS = [
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_wmem",
]

CONGESTION = "net/ipv4/tcp_congestion_control"
# What Linux has unless somebody chose otherwise; and what is nearest to it where that may not be set.
USUAL_CONGESTION = ["cubic", "reno"]


def read(name):
    with open(f"/proc/sys/{name}") as file:
        return file.read().split()


def choose_congestion(names):
    """The first of these congestion controls that may be set; or the one that is there."""
    for name in names:
        with contextlib.suppress(OSError):
            with open(f"/proc/sys/{CONGESTION}", "w") as file:
                file.write(name)
            return name
    return read(CONGESTION)[0]


def enter(congestion):
    """Whether we are in one now, and a sentence about it. Without a name the congestion control is the usual one."""
    if os.geteuid() != 0:
        return False, "not root: in the machine's own network, with its firewall"
    if shutil.which("ip") is None:
        return False, "no ip (apt-get install iproute2): in the machine's own network, with its firewall"
    outside = {name: read(name) for name in SETTINGS}
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False, f"in the machine's own network: unshare: {os.strerror(ctypes.get_errno())}"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    changed = [name for name in SETTINGS if read(name) != outside[name]]
    for name in changed:
        with contextlib.suppress(OSError), open(f"/proc/sys/{name}", "w") as file:
            file.write(" ".join(outside[name]))
    alike = [name for name in changed if read(name) == outside[name]]
    chosen = choose_congestion([congestion] if congestion else USUAL_CONGESTION)
    notes = [f"in a network namespace of its own with {chosen} as its congestion control"]
    if alike:
        values = [f"{name.replace('/', '.')} = {' '.join(outside[name])}" for name in alike]
        notes.append(f"where these were set as outside: {'; '.join(values)}")
    if len(alike) < len(changed):
        notes.append("some settings of which are not as outside: " + " ".join(sorted(set(changed) - set(alike))))
    return True, ", ".join(notes)
