"""What every measurement stands on: processes that are sure to end, free ports, a folder, and the load generator."""

import contextlib
import functools
import glob
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from . import tokens

# Below those that the kernel gives to clients.
PORTS = range(20000, 32000)
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "http": socket.SOCK_STREAM}


def tree(pid):
    """The process and all that descend from it."""
    children = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.split("/")[2]))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def stop(number, _):
    sys.exit(128 + number)


class Stage:
    """Ends what it started, each process by its id with its whole tree, whatever happens to the measurement."""

    def __init__(self, options):
        self.options = options
        self.started = []
        self.ports = itertools.cycle(PORTS)
        self.served = {}  # (protocol, request, answer, how many) -> these backends: their process, their ports

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="evener-bench-")
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGHUP, stop)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in list(self.started):
            self.end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(self, words, **more):
        process = subprocess.Popen([str(word) for word in words], **{"stdin": subprocess.DEVNULL} | more)
        self.started.append(process)
        return process

    def end(self, process):
        """At once: nothing of it is needed any more, and a proxy that drains would only take its time."""
        if process.poll() is None:
            for pid in tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
        self.started.remove(process)

    def free_port(self, protocol):
        for port in self.ports:
            try:
                with socket.socket(type=KINDS[protocol]) as one:
                    one.bind(("127.0.0.1", port))
                    return port
            except OSError:
                pass

    def load(self, *words):
        """The load generator, which says what it has to say in lines of JSON."""
        return self.spawn([self.options.load, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def serving(self, *words):
        """The load as a server: its process, and its ports."""
        process = self.load(*words, "--port", 0)
        said = json.loads(process.stdout.readline())
        return process, said.get("ports") or [said["port"]]

    def backends(self, service):
        """The ports of what is behind a service; started when first asked for, and shared by all proxies."""
        key = (service.protocol, service.request, service.answer, service.backends)
        if key in self.served and self.served[key][0].poll() is not None:
            sys.exit("the load's backends have ended, and nothing can be measured without them")
        if key not in self.served:
            words = ["serve", "--request", service.request, "--answer", service.answer, "--ports", service.backends]
            words += ["--http"] * (service.protocol == "http")
            self.served[key] = self.serving(*(["serve-udp"] if service.protocol == "udp" else words))
        return self.served[key][1]

    @functools.cached_property
    def secret_file(self):
        path = f"{self.folder}/secret"
        with open(path, "w") as file:
            file.write(tokens.SECRET)
        return path

    @functools.cached_property
    def certificate(self):
        """Files of one that all proxies show: it, its key, and both."""
        process = self.load("certificate")
        made = json.loads(process.stdout.read())
        self.end(process)
        paths = {}
        for name, text in [*made.items(), ("certificate_and_key", made["certificate"] + made["key"])]:
            paths[name] = f"{self.folder}/{name}.pem"
            with open(paths[name], "w") as file:
                file.write(text)
        return paths
