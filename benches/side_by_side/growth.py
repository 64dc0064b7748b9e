"""Works that show what growth costs: more connections, more backends, more listeners. evener against itself, with what
the kernel adds by itself (`direct`, `floor`) where connections are many."""

from dataclasses import dataclass

from .works import SMALL, Service, Work, drive

ALGORITHMS = ("round_robin", "least_conn", "least_time", "random", "ip_hash", "first")


@dataclass(frozen=True)
class Group:
    title: str
    sizes: tuple
    base: int  # the last of the sizes is compared with this one


GROUPS = {
    "connections": Group("requests on so many connections", (10, 100, 1000, 4000), 100),
    "backends": Group("a connection for each request, to one of so many backends", (2, 50, 1000), 2),
    "listeners": Group("a connection for each request, beside so many listeners", (1, 500), 1),
}

# At the least, also with other work on the machine.
OPENED_PER_SECOND = 2000


def name(group, series, size):
    return f"growth-{series}-{size}" if group == series else f"growth-{group}-{series}-{size}"


def work(group, series, size, words, **more):
    title = f"{GROUPS[group].title}: {size}" + ("" if group == series else f", {series}")
    place = (group, series, size)
    return Work(name(*place), "growth", title, words, growth=place, metrics=("cpu_us", "machine_us"), **more)


def works():
    them = {"proxies": ("direct", "floor", "evener")}
    for size in GROUPS["connections"].sizes:
        yield work("connections", "connections", size, drive("stay", size), opening=size / OPENED_PER_SECOND, **them)
    connects = {"unit": "connection", "proxies": ("evener",)}
    for balance in ALGORITHMS:
        for size in GROUPS["backends"].sizes:
            services = (Service("small", backends=size),)
            yield work("backends", balance, size, drive("connect", 64), services=services, balance=balance, **connects)
    for size in GROUPS["listeners"].sizes:
        services = (SMALL, *(Service(f"other-{number}") for number in range(1, size)))
        yield work("listeners", "listeners", size, drive("connect", 64), services=services, **connects)
