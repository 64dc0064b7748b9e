"""What is measured. A suite has works; a work is what one kind of clients does, for every proxy that carries it."""

import re
from dataclasses import dataclass

from .tokens import TOKEN

KIB, MIB = 1 << 10, 1 << 20
TIMES = ("p50_us", "p99_us")
COSTS = ("cpu_us", "machine_us")
# A proxy that has seen so many flows is not warmed up with them: they would linger, and it has to open them anew.
MANY_FLOWS = 1000
UDP_NAME = re.compile(r"udp-(gso-)?(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True)
class Service:
    """A listener of each proxy with what is behind it: backends that answer a request of one size by one of another."""

    name: str
    protocol: str = "tcp"
    request: int = 64
    answer: int = 64
    backends: int = 1
    features: frozenset = frozenset()  # what the proxy has to do besides, with HTTP: tls, jwt, limit

    @property
    def token(self):
        return TOKEN if "jwt" in self.features else None


@dataclass(frozen=True)
class Work:
    name: str
    suite: str
    title: str
    words: tuple  # of the load, without ports and times
    services: tuple = (Service("small"),)  # the load speaks to the first; its streams, if any, to the second
    unit: str = "request"
    metrics: tuple = ("per_second", *TIMES, *COSTS)
    families: tuple = ()  # peers against which a ratio of its own is shown
    is_paced: bool = False  # at a tenth of what the slowest proxy can do
    is_warmed: bool = True
    opening: float = 0.0  # seconds before the warm-up, in which many connections are opened
    proxies: tuple = ()  # those that take part; empty = all that carry it
    balance: str = "round_robin"
    growth: tuple = ()  # (group, series, at): its place in the tables of growth

    @property
    def protocol(self):
        return self.services[0].protocol

    @property
    def features(self):
        return frozenset().union(*(service.features for service in self.services))

    @property
    def is_large(self):
        return any(max(service.request, service.answer) > 16 * KIB for service in self.services)

    @property
    def mode(self):
        return self.words[self.words.index("--mode") + 1] if self.protocol != "udp" else "udp"


def drive(mode, connections, service=Service("small"), *more):
    sizes = ("--request", service.request, "--answer", service.answer)
    return ("drive", "--mode", mode, "--connections", connections, *sizes, *more)


def sized(name, suite, title, connections, **sizes):
    """Requests or answers that are large."""
    service = Service(name, **sizes)
    title = f"{title}, {connections} connections"
    return Work(name, suite, title, drive("stay", connections, service), (service,), families=("nginx", "nginx-64k"))


def http(name, suite, title, mode, connections, *features, answer=100, **more):
    """Requests without a body."""
    service = Service("http", "http", 0, answer, features=frozenset(features))
    words = [*drive(mode, connections, service), "--http", *["--tls"] * ("tls" in features)]
    words += ["--bearer", service.token] if service.token else []
    return Work(name, suite, title, tuple(words), (service,), **more)


def udp(name):
    """The work of a name like udp-64x16x1200: flows, datagrams in flight of each, bytes; udp-gso-…: as trains."""
    gso, *numbers = UDP_NAME.fullmatch(name).groups()
    flows, in_flight, size = map(int, numbers)
    title = f"{flows} flows × {in_flight} in flight × {size} B" + (", as trains" if gso else "")
    # Lost is what has no reply after 200 ms, or after the time in which a proxy of 5 replies a ms serves them all.
    timeout = max(200, flows * in_flight // 5)
    words = ("drive-udp", "--flows", flows, "--inflight", in_flight, "--bytes", size, "--timeout-ms", timeout)
    return Work(
        name,
        "udp",
        title,
        words + ("--gso",) * bool(gso),
        (Service("udp", "udp"),),
        unit="reply",
        metrics=("per_second", *TIMES, *COSTS, "lost"),
        families=("nginx", "envoy"),
        is_warmed=flows < MANY_FLOWS,
    )


SMALL = Service("small")
STREAMS = Service("streams", answer=MIB)
UDP = ["udp-64x1x64", "udp-64x16x64", "udp-64x16x1200", "udp-4x64x1200", "udp-2000x1x64", "udp-gso-4x32x1200"]
CONNECT = Work(
    "connect", "connect", "a connection for each request, 64 at a time", drive("connect", 64), unit="connection"
)
WORKS = [
    Work("small", "small", "small request/response, 64 connections", drive("stay", 64)),
    Work(
        "pingpong",
        "pingpong",
        "small request/response, one connection",
        drive("stay", 1),
        metrics=("per_second", "p50_us", "added_us", "p99_us", *COSTS),
    ),
    CONNECT,
    sized("answers-4k", "sizes", "answers of 4 KiB", 64, answer=4 * KIB),
    sized("answers-64k", "sizes", "answers of 64 KiB", 32, answer=64 * KIB),
    sized("answers-1m", "sizes", "answers of 1 MiB", 16, answer=MIB),
    sized("uploads", "uploads", "requests of 1 MiB", 16, request=MIB),
    Work(
        "mix",
        "mix",
        "32 small connections beside 2 streams of answers of 1 MiB",
        drive("mix", 32, SMALL, "--streams", 2, "--stream-answer", MIB),
        (SMALL, STREAMS),
        metrics=("per_second", *TIMES, "stream_mib_per_second"),
    ),
    Work("idle", "idle", "3000 idle connections", drive("idle", 3000), unit="connection", metrics=("idle_bytes",)),
    Work(
        "latency",
        "latency",
        "a connection for each request, at 10 % load",
        drive("rate", 64),
        unit="connection",
        metrics=("p50_us", "added_us", "p99_us", "cpu_us"),
        is_paced=True,
    ),
    *map(udp, UDP),
    http("http-small", "http-small", "HTTP, answers of 100 bytes, 64 connections", "stay", 64),
    http(
        "http-connection",
        "http-connection",
        "HTTP, a connection of the client for each request, 64 at a time",
        "connect",
        64,
        families=("nginx",),
    ),
    http("http-64k", "http-64k", "HTTP, answers of 64 KiB, 32 connections", "stay", 32, answer=64 * KIB),
    http("http-jwt", "http-jwt", "HTTP with a token (HS256), 64 connections", "stay", 64, "jwt"),
    http("http-limit", "http-limit", "HTTP with a rate limit out of reach, 64 connections", "stay", 64, "limit"),
    http(
        "http-idle",
        "http-idle",
        "3000 idle HTTP connections",
        "idle",
        3000,
        unit="connection",
        metrics=("idle_bytes",),
    ),
    http(
        "tls-handshakes",
        "tls-handshakes",
        "a TLS 1.3 connection for each HTTP request, 64 at a time",
        "connect",
        64,
        "tls",
        unit="handshake",
    ),
    http("tls-64k", "tls-bulk", "HTTP over TLS, answers of 64 KiB, 32 connections", "stay", 32, "tls", answer=64 * KIB),
    http("tls-1m", "tls-bulk", "HTTP over TLS, answers of 1 MiB, 16 connections", "stay", 16, "tls", answer=MIB),
]
