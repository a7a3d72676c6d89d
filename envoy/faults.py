"""An upstream that fails in eight ways, seen through graygate, Envoy's outlier detection, and nothing.

One Envoy with a listener for each contestant, each with one upstream of its own and the same
steady load. All upstreams are well at first, then fail at the same moment, one fault after the
other, and all contestants are seen to be well again in between. What is counted:

- An answer is *good* if it is a whole 200 in less than half a second; *refused at once* if it is
  the proxy's own word, as fast, that it will not ask the upstream; and *failed* otherwise.
- The gate is *closed* from the first of 20 requests in a row on that is refused at once, as at
  least 18 of the other 19 are: one may be a trial. So many come to all workers.
- A contestant has *recovered* with the first of 20 requests in a row that are all good.

Requests are in the order in which they were asked, so an answer that took long counts where its
request began. A fault's failures are those of the requests that were asked while it lasted; where
the gate never closed, all of them came before it. How soon a contestant recovers depends on where
in its wait the upstream becomes well, which is the same moment for all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

from harness.arguments import new_file
from harness.config import Tree, cluster, listener, plugin, route, socket_address
from harness.envoy import PROJECT, Envoy, replace_file
from harness.load import Answer, Load, Request
from harness.upstream import Behaviour, Upstream
from harness.wait import until

MODULE = PROJECT / "dist/graygate.wasm"

# So many connections that the rate holds even while every request waits for the route's timeout.
RATE, CONNECTIONS, TIMEOUT = 50, 120, "2s"
FAULT_SECONDS = 6.0
RECOVERY_DEADLINE = 20.0
# In seconds: what takes longer is no good answer, nor refused at once.
SLOW = 0.5
RUN = 20

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
# As eager as graygate: its tick, its failures in a row, its wait.
OUTLIER = {
    "consecutive_5xx": 5,
    "interval": "0.25s",
    "base_ejection_time": "2s",
    "max_ejection_percent": 100,
    "split_external_local_origin_errors": False,
}
# By default workers learn up to a second late of a change that follows another within a second, as the next
# ejection follows the end of one.
AT_ONCE = {"update_merge_window": "0s"}
# By default Envoy sends requests to all hosts if more than half of them are ejected, so to the one there is.
PANIC_OFF = {"healthy_panic_threshold": {"value": 0}}
# As long as graygate's longest wait, and a bit: after so much healthy time its waits start over, as Envoy's do.
CALM = 4.5


@dataclass(frozen=True)
class Contestant:
    """`settings` are its cluster's, `upstream` is what graygate's policy says of it; none without graygate."""

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


def endpoints(name: str, port: int | None) -> Tree:
    """The hosts of one cluster: its upstream, or none."""
    assignment = cluster(name, port or 0)["load_assignment"]
    if port is None:
        assignment["endpoints"] = []
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"resources": [{"@type": kind, **assignment}]}


def discovered(name: str, settings: Tree) -> Tree:
    """A cluster whose hosts are what its file says."""
    tree = cluster(name, 0)
    del tree["load_assignment"]
    source = {"path_config_source": {"path": endpoints_file(name)}, "resource_api_version": "V3"}
    return {**tree, "type": "EDS", "eds_cluster_config": {"eds_config": source}, **settings}


def entrance(name: str, upstream: Tree | None) -> Tree:
    """A listener whose connections are shared out evenly among the workers."""
    policy = {"name": name, "upstreams": {"app": {"cluster": name, **(upstream or {})}}, "gates": [{"upstream": "app"}]}
    # Each policy has VMs of its own, so that none waits for another's.
    filters = [{"name": "graygate", "typed_config": plugin(policy, vm_id=name)}] if upstream else []
    tree = listener(name, filters, [route(name, TIMEOUT)], {"access_log": []})
    return {**tree, "connection_balance_config": {"exact_balance": {}}}


def bootstrap() -> Tree:
    return {
        "node": {"id": "faults", "cluster": "faults"},
        "admin": {"address": socket_address()},
        "static_resources": {
            "listeners": [entrance(name, each.upstream) for name, each in CONTESTANTS.items()],
            "clusters": [discovered(name, each.settings) for name, each in CONTESTANTS.items()],
        },
    }


# -- what can go wrong with an upstream -------------------------------------------


@dataclass(frozen=True)
class Site:
    """A contestant at work."""

    name: str
    envoy: Envoy
    upstream: Upstream

    def put(self, port: int | None) -> None:
        """Makes the upstream the cluster's only host, or leaves the cluster without any."""
        replace_file(self.envoy.directory / endpoints_file(self.name), endpoints(self.name, port))
        gauge = f"cluster.{self.name}.membership_total"
        until(lambda: self.envoy.stats(gauge)[gauge] == (port is not None), 5, f"{gauge} as in its file")

    def changes(self) -> int | None:
        """How often it has changed its mind: graygate's transitions, Envoy's ejections. None: it has no mind."""
        contestant = CONTESTANTS[self.name]
        if contestant.upstream:
            return self.envoy.transitions(policy=self.name)
        ejections = f"cluster.{self.name}.outlier_detection.ejections_enforced_total"
        return self.envoy.stats(ejections)[ejections] if contestant.settings else None


Act = Callable[[Site], None]


def told(behaviour: Behaviour) -> tuple[Act, Act]:
    """For all paths alike, so that a check fares as a request does."""
    return lambda site: site.upstream.behave(behaviour), lambda site: site.upstream.answer()


# HTTP up to the end of the first chunk. All of it comes at once.
GARBAGE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nno length\r\n"

# By name: how it begins, and how it ends.
FAULTS: Mapping[str, tuple[Act, Act]] = {
    "refuses connections": (lambda site: site.upstream.refuse(), lambda site: site.upstream.accept()),
    "hangs": told(Behaviour(hang=True)),
    "resets before the response": told(Behaviour(reset="before")),
    "resets mid-response": told(Behaviour(reset="mid-body")),
    "answers slowly": told(Behaviour(delay=1.0)),
    "answers 500": told(Behaviour(500)),
    "broken body": told(Behaviour(whole=GARBAGE)),
    "disappears": (lambda site: site.put(None), lambda site: site.put(site.upstream.port)),
}


# -- what is counted --------------------------------------------------------------


def good(answer: Answer) -> bool:
    return answer.status == 200 and answer.seconds < SLOW


def refused(answer: Answer) -> bool:
    """In graygate's words, or in Envoy's for a cluster that has no host to ask. Its words for a host that was asked
    and did not answer are others."""
    words = b"is not ready" in answer.body or answer.body == b"no healthy upstream"
    return answer.status == 503 and words and answer.seconds < SLOW


def failed(answer: Answer) -> bool:
    return not good(answer) and not refused(answer)


def first_of_run(answers: Sequence[Answer], test: Callable[[Answer], bool], others: int) -> float | None:
    """When the first request was asked that passes the test, as do, of the others in its run, at least so many."""
    passed = [test(answer) for answer in answers]
    for first in range(len(answers) - RUN + 1):
        if passed[first] and sum(passed[first : first + RUN]) > others:
            return answers[first].asked
    return None


def asked_in(load: Load, begin: float, end: float = math.inf) -> list[Answer]:
    return sorted(load.since(begin, lambda answer: answer.asked < end), key=lambda answer: answer.asked)


@dataclass(frozen=True)
class Healthy:
    requests: int
    answered_500: int
    refused: int
    changes: int | None


@dataclass(frozen=True)
class Figures:
    """Of one fault and one contestant. None: the gate never closed; it did not recover in time."""

    requests: int
    failed_before_gate: int
    seconds_to_gate: float | None
    failed_in_all: int
    seconds_to_recover: float | None


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


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


@contextmanager
def loads(sites: Sequence[Site], requests: Sequence[Request]) -> Iterator[list[Load]]:
    """The same load on each. All end at the same time: each takes some seconds to."""
    with ExitStack() as stack:
        started = [stack.enter_context(Load(site.envoy.port(site.name), requests, RATE, CONNECTIONS)) for site in sites]
        try:
            yield started
        finally:
            for load in started:
                load.stop()


def stay_healthy(sites: Sequence[Site], seconds: float) -> dict[str, Healthy]:
    """One request in a hundred answers 500; the others take no time to some milliseconds."""
    delays = [f"/{number % 10}ms" for number in range(99)]
    for site in sites:
        site.upstream.answer(500, path="/bad")
        for number in range(1, 10):
            site.upstream.slow(number / 1000, path=f"/{number}ms")
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
        site.upstream.answer()
    return figures


def are_well(started: Sequence[Load], since: Sequence[float]) -> list[bool]:
    """Which have recovered since then."""
    return [
        first_of_run(asked_in(load, at), good, RUN - 1) is not None for load, at in zip(started, since, strict=True)
    ]


def wait_until_well(started: Sequence[Load], since: Sequence[float]) -> list[bool]:
    """Until all have recovered; which have, if some don't within the deadline."""
    deadline = time.monotonic() + RECOVERY_DEADLINE
    while not all(well := are_well(started, since)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return well


def now_on(sites: Sequence[Site], act: Act) -> list[float]:
    """At once on all upstreams; when on each."""
    times = []
    for site in sites:
        times.append(time.monotonic())
        act(site)
    return times


def fail(fault: str, sites: Sequence[Site], started: Sequence[Load]) -> dict[str, Figures | None]:
    """None for a contestant that was not well when the fault began: it has nothing to tell."""
    begin, heal = FAULTS[fault]
    was_well = are_well(started, [time.monotonic() - CALM / 2] * len(sites))
    say(f"{fault}: {FAULT_SECONDS:g} s, ", end="")
    # Each contestant's times count from its own upstream's: they differ by milliseconds.
    begun = now_on(sites, begin)
    time.sleep(FAULT_SECONDS)
    healed = now_on(sites, heal)
    say("healed, ", end="")
    well = wait_until_well(started, healed)
    say(f"{sum(well)} of {len(well)} well again after {time.monotonic() - max(healed):.1f} s")
    # Also so that each request that was asked during the fault is answered when it is counted.
    time.sleep(CALM)
    rows = zip(sites, started, was_well, begun, healed, strict=True)
    return {site.name: measure(load, *times) if well else None for site, load, well, *times in rows}


# -- what is said of it -----------------------------------------------------------

WIDTHS = (30, 23, 17, 15, 10, 20)
HEALTHY_HEADER = ("requests", "answered 500", "refused", "changes")
HEADER = ("failed before the gate", "time to gate, s", "failed in all", "requests", "time to recover, s")


def row(*cells: object) -> None:
    """Text to the left, numbers to the right."""
    first, *others = (str(cell) for cell in cells)
    say(
        (
            first.ljust(WIDTHS[0]) + "".join(cell.rjust(width) for cell, width in zip(others, WIDTHS[1:], strict=False))
        ).rstrip()
    )


def seconds(value: float | None, none: str) -> str:
    return none if value is None else f"{value:.2f}"


def cells(figures: Figures) -> Iterator[object]:
    yield figures.failed_before_gate
    yield seconds(figures.seconds_to_gate, "never")
    yield figures.failed_in_all
    yield figures.requests
    yield seconds(figures.seconds_to_recover, f"not in {RECOVERY_DEADLINE:g}")


@dataclass(frozen=True)
class Report:
    """What `--json` writes, as it stands. A contestant that was not well before a fault has null for it."""

    command: str
    cores: int
    envoy: str
    module_bytes: int
    seconds: float
    healthy_seconds: float
    healthy: Mapping[str, Healthy]
    faults: Mapping[str, Mapping[str, Figures | None]]

    def show(self) -> None:
        row(f"HEALTHY FOR {self.healthy_seconds:g} s", *HEALTHY_HEADER)
        for name, healthy in self.healthy.items():
            changes = "-" if healthy.changes is None else healthy.changes
            row(title(name), healthy.requests, healthy.answered_500, healthy.refused, changes)
        say("  changes: of state, which are graygate's transitions and Envoy's ejections")
        for fault, figures in self.faults.items():
            say("")
            row(fault.upper(), *HEADER)
            for name, found in figures.items():
                row(title(name), *(cells(found) if found else ["not well when it began"]))
        if "disappears" in self.faults:
            say("  whoever looks on: Envoy itself refuses at once what is for a cluster with no host")
        say(f"\n{self.cores} cores, Envoy {self.envoy}, {MODULE.name} {self.module_bytes} bytes")
        say(f"{self.command}: took {self.seconds:.0f} s")


def title(name: str) -> str:
    return f"  {CONTESTANTS[name].title}"


# -- the program ------------------------------------------------------------------


def fault_name(text: str) -> str:
    if text not in FAULTS:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {', '.join(FAULTS)}")
    return text


def duration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number of seconds above 0, up to 3600")
    return value


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="how graygate, Envoy's outlier detection and nothing fare with faults")
    only = f"this fault alone, or more if given again: {', '.join(FAULTS)}"
    parser.add_argument("--only", action="append", type=fault_name, metavar="FAULT", help=only)
    healthy = "how long all is well at first; 30 if not given"
    parser.add_argument("--healthy", type=duration, default=30.0, metavar="SECONDS", help=healthy)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the same figures there")
    return parser.parse_args()


def run(healthy_seconds: float, faults: Sequence[str]) -> Report:
    begun = time.monotonic()
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(name)) for name in CONTESTANTS}
        files = {endpoints_file(name): endpoints(name, upstream.port) for name, upstream in upstreams.items()}
        envoy = stack.enter_context(Envoy(bootstrap(), concurrency=2, files=files))
        sites = [Site(name, envoy, upstream) for name, upstream in upstreams.items()]
        healthy = stay_healthy(sites, healthy_seconds)
        with loads(sites, [Request()]) as started:
            wait_until_well(started, [time.monotonic()] * len(sites))
            figures = {fault: fail(fault, sites, started) for fault in faults}
        version = json.loads(envoy.admin("/server_info"))["version"].split("/")[1]
    return Report(
        command=shlex.join(sys.argv),
        cores=len(os.sched_getaffinity(0)),
        envoy=version,
        module_bytes=MODULE.stat().st_size,
        seconds=round(time.monotonic() - begun, 1),
        healthy_seconds=healthy_seconds,
        healthy=healthy,
        faults=figures,
    )


def main() -> int:
    given = options()
    if not MODULE.exists():
        print("dist/graygate.wasm: not there; build it with: make wasm", file=sys.stderr)
        return 1
    # As Ctrl-C, on which what was started is ended. A shell's background jobs ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        report = run(given.healthy, list(dict.fromkeys(given.only or FAULTS)))
    except KeyboardInterrupt:
        return 130
    say("")
    report.show()
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
