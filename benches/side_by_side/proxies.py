"""The ways from clients to backends: those that are compared, and those that say what the kernel takes by itself."""

import contextlib
import json
import os
import re
import shutil
import socket
import string
import subprocess
import time
from dataclasses import dataclass

PEERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers")
EACH = re.compile(r"^ *# for each (TCP|UDP) listener\n(.*?)^ *# end\n", re.MULTILINE | re.DOTALL)
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
# A connection that has ended is forgotten soon, or the table of the NAT would fill with them and drop new ones.
NAT_TIME_WAIT = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"


class LeftOut(Exception):
    """A proxy that cannot be measured, and why."""


@dataclass(frozen=True)
class Running:
    ports: dict  # of each service
    pids: tuple = ()  # whose CPU time and memory count


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + SBIN)


def filled(template, stage, work, ports, **values):
    """A file of benches/peers, with what stands between `# for each TCP listener` and `# end` once for each."""

    def repeated(match):
        protocol, block = match[1].lower(), string.Template(match[2])
        listeners = []
        for service in work.services:
            if service.protocol == protocol:
                backends = stage.backends(service)
                all_of_them = json.dumps([f"127.0.0.1:{port}" for port in backends])
                own = {"name": service.name, "port": ports[service.name]}
                listeners.append(block.substitute(values, **own, backend=backends[0], backends=all_of_them))
        return "".join(listeners)

    with open(os.path.join(PEERS, template)) as file:
        return string.Template(EACH.sub(repeated, file.read())).substitute(values)


def chosen_ports(stage, work):
    return {service.name: stage.free_port(service.protocol) for service in work.services}


def answers(protocol, port):
    """Whether a connection is taken, or a datagram comes back."""
    try:
        if protocol == "tcp":
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.settimeout(0.1)
            one.connect(("127.0.0.1", port))
            one.send(b"hello")
            return one.recv(100) == b"hello"
    except OSError:
        return False


def wait_until_it_answers(work, ports, has_ended=lambda: False):
    deadline = time.monotonic() + 10
    for service in work.services:
        while not answers(service.protocol, ports[service.name]):
            if has_ended() or time.monotonic() > deadline:
                raise LeftOut(
                    "ended at its start" if has_ended() else f"does not answer at its port for {service.name}"
                )
            time.sleep(0.02)


class Direct:
    """No proxy at all."""

    name, carries, is_peer, is_for_large = "direct", {"tcp", "udp"}, False, False

    def find(self, _stage):
        """Its version; LeftOut when it is not there."""
        return "no proxy"

    @contextlib.contextmanager
    def running(self, stage, work):
        """Anew for each measurement: so nothing is left over from the one before."""
        yield Running({service.name: stage.backends(service)[0] for service in work.services})


class Floor:
    """The load's own relay: about the least that a proxy over epoll can do, and no more than that."""

    name, carries, is_peer, is_for_large = "floor", {"tcp"}, False, False

    def find(self, _stage):
        return "the least that a proxy over epoll can do"

    @contextlib.contextmanager
    def running(self, stage, work):
        relays = {
            service.name: stage.serving("relay", "--backend", stage.backends(service)[0]) for service in work.services
        }
        try:
            ports = {name: ports[0] for name, (_, ports) in relays.items()}
            yield Running(ports, tuple(process.pid for process, _ in relays.values()))
        finally:
            for process, _ in relays.values():
                stage.end(process)


class KernelNat:
    """nftables: no proxy, but addresses rewritten on their way. Its table is there only while it is measured, for what
    it makes the kernel remember of each connection would slow the others."""

    name, carries, is_peer, is_for_large = "kernel-nat", {"tcp", "udp"}, False, False

    def find(self, stage):
        if not stage.is_apart:
            raise LeftOut("it needs root, and a network namespace of its own")
        if program("nft") is None:
            raise LeftOut("not installed: apt-get install nftables")
        return (
            subprocess.run([program("nft"), "--version"], capture_output=True, text=True).stdout.split(" (")[0].strip()
        )

    @contextlib.contextmanager
    def running(self, stage, work):
        ports = chosen_ports(stage, work)
        rules = filled("kernel-nat.nft", stage, work, ports)
        done = subprocess.run([program("nft"), "-f", "-"], input=rules, capture_output=True, text=True)
        if done.returncode:
            raise LeftOut(f"nft said: {done.stderr.strip()}")
        try:
            with open(NAT_TIME_WAIT, "w") as file:
                file.write("1")
            wait_until_it_answers(work, ports)
            yield Running(ports)
        finally:
            subprocess.run([program("nft"), "delete", "table", "ip", "evener_bench"], check=True)
