"""Outages: all hosts of each contestant's upstream fail in the same way, and become healthy again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from harness.config import Tree, cluster_of, listener, plugin, route, socket_address
from harness.envoy import Envoy, replace_file
from harness.load import Load, Request
from harness.say import say
from harness.upstream import Behaviour, Upstream
from harness.wait import until

from .answers import RUN, SLOW, asked_in, failed, first_of_run, good, refused

# With this many connections, the rate holds even while every request waits for the route's timeout.
RATE, CONNECTIONS, TIMEOUT = 50, 120, "2s"
FAULT_SECONDS = 6.0
RECOVERY_DEADLINE = 20.0

BREAKER = {
    "consecutiveFailures": 5,
    "unansweredAfter": f"{SLOW:g}s",
    "notReadyFor": "2s",
    "maxNotReadyFor": "4s",
    "trial": {"requests": 1, "successes": 2},
}
CHECK = {
    "httpGet": {"path": "/healthz"},
    "periodSeconds": 0.5,
    "timeoutSeconds": 0.5,
    "failureThreshold": 2,
    "successThreshold": 1,
}
# The same interval, number of consecutive failures and wait as graygate has.
OUTLIER = {
    "consecutive_5xx": 5,
    "interval": "0.25s",
    "base_ejection_time": "2s",
    "max_ejection_percent": 100,
    "split_external_local_origin_errors": False,
}
# By default, workers see a change up to a second late if it follows another within a second. An ejection that follows
# the end of another does.
AT_ONCE = {"update_merge_window": "0s"}
# By default, Envoy sends requests to all hosts if more than half of them are ejected. Here there is only one host.
PANIC_OFF = {"healthy_panic_threshold": {"value": 0}}
# In seconds, a bit longer than graygate's longest wait. After that much healthy time, its waits start over, as Envoy's
# do.
HEALTHY_PAUSE = 4.5


@dataclass(frozen=True)
class Contestant:
    """`settings` are for its cluster. `upstream` is its upstream in graygate's policy, or None without graygate."""

    title: str
    settings: Tree
    upstream: Tree | None = None


def ejecting(balancing: Tree) -> Tree:
    return {"outlier_detection": OUTLIER, "common_lb_config": balancing}


CONTESTANTS = {
    "nothing": Contestant("nothing", {}),
    "outlier": Contestant("outlier", ejecting(AT_ONCE)),
    "no-panic": Contestant("outlier, panic off", ejecting({**AT_ONCE, **PANIC_OFF})),
    "breaker": Contestant("graygate, breaker", {}, {"circuitBreaker": BREAKER}),
    "checks": Contestant("graygate, breaker and checks", {}, {"circuitBreaker": BREAKER, "readinessProbe": CHECK}),
}


# -- the configuration ------------------------------------------------------------


def endpoints_file(name: str) -> str:
    return f"./{name}.eds.json"


def endpoints(name: str, ports: Sequence[int]) -> Tree:
    """Returns a discovery response with the hosts of one cluster."""
    assignment = cluster_of(name, *map(socket_address, ports))["load_assignment"]
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"resources": [{"@type": kind, **assignment}]}


def discovered(name: str, settings: Tree) -> Tree:
    """Returns a cluster that discovers its hosts from its file."""
    tree = cluster_of(name)
    del tree["load_assignment"]
    source = {"path_config_source": {"path": endpoints_file(name)}, "resource_api_version": "V3"}
    return {**tree, "type": "EDS", "eds_cluster_config": {"eds_config": source}, **settings}


def contestant_listener(name: str, upstream: Tree | None) -> Tree:
    """Returns a listener that distributes its connections evenly among the workers."""
    policy = {"name": name, "upstreams": {"app": {"cluster": name, **(upstream or {})}}, "gates": [{"upstream": "app"}]}
    # Each policy has VMs of its own, so that no policy waits for another.
    filters = [{"name": "graygate", "typed_config": plugin(policy, vm_id=name)}] if upstream else []
    tree = listener(name, filters, [route(name, TIMEOUT)], {"access_log": []})
    return {**tree, "connection_balance_config": {"exact_balance": {}}}


def bootstrap() -> Tree:
    return {
        "node": {"id": "faults", "cluster": "faults"},
        "admin": {"address": socket_address()},
        "static_resources": {
            "listeners": [contestant_listener(name, each.upstream) for name, each in CONTESTANTS.items()],
            "clusters": [discovered(name, each.settings) for name, each in CONTESTANTS.items()],
        },
    }


# -- the faults of an upstream ----------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A contestant with its running Envoy and its upstream's hosts."""

    name: str
    envoy: Envoy
    hosts: Sequence[Upstream]

    def put(self, ports: Sequence[int]) -> None:
        """Makes these the cluster's hosts."""
        replace_file(self.envoy.directory / endpoints_file(self.name), endpoints(self.name, ports))
        gauge = f"cluster.{self.name}.membership_total"
        until(lambda: self.envoy.stats(gauge)[gauge] == len(ports), 30, f"{gauge} as in its file")

    def each(self, act: Callable[[Upstream], None]) -> None:
        for host in self.hosts:
            act(host)

    def changes(self) -> int | None:
        """Returns the number of graygate's transitions or of Envoy's ejections. None if the contestant has neither."""
        contestant = CONTESTANTS[self.name]
        if contestant.upstream:
            return self.envoy.transitions(policy=self.name)
        ejections = f"cluster.{self.name}.outlier_detection.ejections_enforced_total"
        return self.envoy.stats(ejections)[ejections] if contestant.settings else None


Act = Callable[[Site], None]


def on_each_host(begin: Callable[[Upstream], None], end: Callable[[Upstream], None]) -> tuple[Act, Act]:
    return lambda site: site.each(begin), lambda site: site.each(end)


def behaving(behaviour: Behaviour) -> tuple[Act, Act]:
    """Returns how the fault begins and ends. It affects all paths alike, so that checks fail like requests."""
    return on_each_host(lambda host: host.behave(behaviour), lambda host: host.answer())


# Valid HTTP up to the end of the first chunk. All of it is sent at once.
GARBAGE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nno length\r\n"

# Maps each fault to the functions that begin and end it.
FAULTS: Mapping[str, tuple[Act, Act]] = {
    "refuses connections": on_each_host(Upstream.refuse, Upstream.accept),
    "hangs": behaving(Behaviour(hang=True)),
    "resets before the response": behaving(Behaviour(reset="before")),
    "resets mid-response": behaving(Behaviour(reset="mid-body")),
    "answers slowly": behaving(Behaviour(delay=1.0)),
    "answers 500": behaving(Behaviour(500)),
    "broken body": behaving(Behaviour(whole=GARBAGE)),
    "disappears": (lambda site: site.put([]), lambda site: site.put([host.port for host in site.hosts])),
}


# -- the measurement --------------------------------------------------------------


@dataclass(frozen=True)
class Healthy:
    requests: int
    answered_500: int
    refused: int
    changes: int | None


@dataclass(frozen=True)
class Figures:
    """The figures of one fault and one contestant. None if the gate never closed, or if it did not recover in time."""

    requests: int
    failed_before_gate: int
    seconds_to_gate: float | None
    failed_in_all: int
    seconds_to_recover: float | None


# The figures of each fault and contestant. None for a contestant that had not recovered before the fault began.
FaultFigures = dict[str, dict[str, Figures | None]]


def measure(load: Load, begun: float, healed: float) -> Figures:
    answers = asked_in(load, begun, healed)
    closed = first_of_run(answers, refused, RUN - 2)
    well = first_of_run(asked_in(load, healed), good, RUN - 1)
    failures = [answer.asked for answer in answers if failed(answer)]
    return Figures(
        requests=len(answers),
        failed_before_gate=len([asked for asked in failures if closed is None or asked < closed]),
        seconds_to_gate=None if closed is None else round(closed - begun, 3),
        failed_in_all=len(failures),
        seconds_to_recover=None if well is None else round(well - healed, 3),
    )


# -- the run ----------------------------------------------------------------------


@contextmanager
def loads(sites: Sequence[Site], requests: Sequence[Request]) -> Iterator[list[Load]]:
    """Puts the same load on each site. Stops all loads at the same time, as each takes some seconds to stop."""
    with ExitStack() as stack:
        started = [stack.enter_context(Load(site.envoy.port(site.name), requests, RATE, CONNECTIONS)) for site in sites]
        try:
            yield started
        finally:
            for load in started:
                load.stop()


def stay_healthy(sites: Sequence[Site], seconds: float) -> dict[str, Healthy]:
    """Measures while all is healthy. One response in a hundred is a 500, and the others take up to 9 ms."""
    delays = [f"/{number % 10}ms" for number in range(99)]
    for host in (host for site in sites for host in site.hosts):
        host.answer(500, path="/bad")
        for number in range(1, 10):
            host.slow(number / 1000, path=f"/{number}ms")
    say(f"healthy, {RATE} requests/s, 1 in 100 answers 500: {seconds:g} s")
    before = [site.changes() for site in sites]
    with loads(sites, [Request("/bad"), *map(Request, delays)]) as started:
        time.sleep(seconds)
    figures = {}
    for site, load, changes in zip(sites, started, before, strict=True):
        statuses = [answer.status for answer in load.answers]
        made = None if changes is None else (site.changes() or 0) - changes
        refusals = sum(map(refused, load.answers))
        figures[site.name] = Healthy(len(statuses), statuses.count(500), refusals, made)
        site.each(lambda host: host.answer())
    return figures


def have_recovered(started: Sequence[Load], since: Sequence[float]) -> list[bool]:
    """Returns for each load whether its contestant has recovered since then."""
    return [
        first_of_run(asked_in(load, at), good, RUN - 1) is not None for load, at in zip(started, since, strict=True)
    ]


def wait_until_recovered(started: Sequence[Load], since: Sequence[float]) -> list[bool]:
    """Waits until all have recovered, or until the deadline. Returns for each whether it has."""
    deadline = time.monotonic() + RECOVERY_DEADLINE
    while not all(well := have_recovered(started, since)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return well


def apply_to_all(sites: Sequence[Site], act: Act) -> list[float]:
    """Applies an action to all upstreams, one right after the other. Returns the time for each."""
    times = []
    for site in sites:
        times.append(time.monotonic())
        act(site)
    return times


def fail(fault: str, sites: Sequence[Site], started: Sequence[Load]) -> dict[str, Figures | None]:
    """Measures one fault. Gives None for a contestant that had not recovered before the fault began."""
    begin, heal = FAULTS[fault]
    was_well = have_recovered(started, [time.monotonic() - HEALTHY_PAUSE / 2] * len(sites))
    say(f"{fault}: {FAULT_SECONDS:g} s, ", end="")
    # Each contestant's times count from those of its own upstream, which differ by milliseconds.
    begun = apply_to_all(sites, begin)
    time.sleep(FAULT_SECONDS)
    healed = apply_to_all(sites, heal)
    say("healed, ", end="")
    well = wait_until_recovered(started, healed)
    say(f"{sum(well)} of {len(well)} well again after {time.monotonic() - max(healed):.1f} s")
    # By then, each request that was sent during the fault has its response as well.
    time.sleep(HEALTHY_PAUSE)
    rows = zip(sites, started, was_well, begun, healed, strict=True)
    return {site.name: measure(load, *times) if well else None for site, load, well, *times in rows}


def run(replicas: int, healthy_seconds: float, faults: Sequence[str]) -> tuple[dict[str, Healthy], FaultFigures]:
    """Measures these faults of upstreams with this many hosts, after a healthy time if it is not 0."""
    say(f"{replicas} replica{'s' if replicas > 1 else ''} of each upstream:")
    with ExitStack() as stack:
        hosts = {
            name: [stack.enter_context(Upstream(f"{name}-{number}")) for number in range(replicas)]
            for name in CONTESTANTS
        }
        files = {endpoints_file(name): endpoints(name, [host.port for host in each]) for name, each in hosts.items()}
        envoy = stack.enter_context(Envoy(bootstrap(), concurrency=2, files=files))
        sites = [Site(name, envoy, each) for name, each in hosts.items()]
        healthy = stay_healthy(sites, healthy_seconds) if healthy_seconds else {}
        with loads(sites, [Request()]) as started:
            wait_until_recovered(started, [time.monotonic()] * len(sites))
            return healthy, {fault: fail(fault, sites, started) for fault in faults}
