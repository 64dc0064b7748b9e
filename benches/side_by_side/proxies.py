"""The ways from clients to backends: those that are compared, and those that say what the kernel takes by itself."""

import contextlib
import json
import os
import re
import shutil
import string
import subprocess
from dataclasses import dataclass

from . import tokens
from .trial import LeftOut, wait_until_it_answers

PEERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers")
EACH = re.compile(r"^ *# for each (TCP|UDP|HTTP) listener\n(.*?)^ *# end\n", re.MULTILINE | re.DOTALL)
WITH = re.compile(r"^ *# (with|without) (\w+)\n(.*?)^ *# end \1\n", re.MULTILINE | re.DOTALL)
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
# A connection that has ended is forgotten soon, or the table of the NAT would fill with them and drop new ones.
NAT_TIME_WAIT = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"


@dataclass(frozen=True)
class Running:
    ports: dict  # of each service
    pids: tuple = ()  # whose CPU time and memory count


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + SBIN)


def chosen(text, features):
    """The text without what stands between `# with jwt` and `# end with`, unless that is one of the features."""
    return WITH.sub(lambda match: match[3] if (match[2] in features) == (match[1] == "with") else "", text)


def filled(template, stage, work, ports, **values):
    """A file of benches/peers, with what stands between `# for each TCP listener` and `# end` once for each."""
    values |= tokens.VALUES | {"secret_file": stage.secret_file}
    values |= stage.certificate if "tls" in work.features else {}

    def repeated(match):
        protocol, block = match[1].lower(), match[2]
        listeners = []
        for service in work.services:
            if service.protocol == protocol:
                backends = stage.backends(service)
                all_of_them = json.dumps([f"127.0.0.1:{port}" for port in backends])
                own = {"name": service.name, "port": ports[service.name]}
                own |= {"backend": backends[0], "backends": all_of_them}
                listeners.append(string.Template(chosen(block, service.features)).substitute(values, **own))
        return "".join(listeners).replace("$", "$$")  # for the file as a whole is filled in, too

    with open(os.path.join(PEERS, template)) as file:
        return string.Template(chosen(EACH.sub(repeated, file.read()), work.features)).substitute(values)


def chosen_ports(stage, work):
    return {service.name: stage.free_port(service.protocol) for service in work.services}


class Direct:
    """No proxy at all."""

    name, carries, lacks, is_peer, is_for_large = "direct", {"tcp", "udp", "http"}, {"tls"}, False, False

    def find(self, _stage):
        """Its version; LeftOut when it is not there."""
        return "no proxy"

    @contextlib.contextmanager
    def running(self, stage, work):
        """Anew for each measurement: so nothing is left over from the one before."""
        yield Running({service.name: stage.backends(service)[0] for service in work.services})


class Floor:
    """The load's own relay: about the least that a proxy over epoll can do, and no more than that."""

    name, carries, lacks, is_peer, is_for_large = "floor", {"tcp", "http"}, {"tls", "jwt", "limit"}, False, False

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

    name, carries, lacks, is_peer, is_for_large = "kernel-nat", {"tcp", "udp"}, set(), False, False

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
