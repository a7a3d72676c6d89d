"""Compares graygate, Envoy's outlier detection and neither while an upstream fails in eight ways.

One Envoy has a listener for each contestant. Each contestant has an upstream of its own and the same steady load. All
upstreams are healthy at first. Then they fail at the same moment, one fault after the other. Between two faults, all
contestants recover.

- A response is *good* if it is a complete 200 in less than half a second.
- It is *refused at once* if the proxy itself responds, in as short a time, that it will not forward the request.
- It has *failed* otherwise.
- The gate *closes* with the first request that is refused at once, if at least 18 of the next 19 are, too. One of them
  may be a trial. A run of 20 reaches all workers.
- A contestant has *recovered* with the first request in a run of 20 that are all good.

Requests are in the order in which they were sent, so a slow response counts at the time of its request. The failures of
a fault are those of the requests that were sent while it lasted. If the gate never closed, all of them count as before
the gate. How soon a contestant recovers depends on how much of its wait is left when the upstream becomes healthy. That
is the same moment for all.
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

# With this many connections, the rate holds even while every request waits for the route's timeout.
RATE, CONNECTIONS, TIMEOUT = 50, 120, "2s"
FAULT_SECONDS = 6.0
RECOVERY_DEADLINE = 20.0
# In seconds. A slower response is neither good nor refused at once.
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


def endpoints(name: str, port: int | None) -> Tree:
    """Returns a discovery response with the hosts of one cluster: its upstream, or none."""
    assignment = cluster(name, port or 0)["load_assignment"]
    if port is None:
        assignment["endpoints"] = []
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"resources": [{"@type": kind, **assignment}]}


def discovered(name: str, settings: Tree) -> Tree:
    """Returns a cluster that discovers its hosts from its file."""
    tree = cluster(name, 0)
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
    """A contestant with its running Envoy and upstream."""

    name: str
    envoy: Envoy
    upstream: Upstream

    def put(self, port: int | None) -> None:
        """Makes the upstream the cluster's only host, or leaves the cluster without any."""
        replace_file(self.envoy.directory / endpoints_file(self.name), endpoints(self.name, port))
        gauge = f"cluster.{self.name}.membership_total"
        until(lambda: self.envoy.stats(gauge)[gauge] == (port is not None), 5, f"{gauge} as in its file")

    def changes(self) -> int | None:
        """Returns the number of graygate's transitions or of Envoy's ejections. None if the contestant has neither."""
        contestant = CONTESTANTS[self.name]
        if contestant.upstream:
            return self.envoy.transitions(policy=self.name)
        ejections = f"cluster.{self.name}.outlier_detection.ejections_enforced_total"
        return self.envoy.stats(ejections)[ejections] if contestant.settings else None


Act = Callable[[Site], None]


def behaving(behaviour: Behaviour) -> tuple[Act, Act]:
    """Returns how the fault begins and ends. It affects all paths alike, so that checks fail like requests."""
    return lambda site: site.upstream.behave(behaviour), lambda site: site.upstream.answer()


# Valid HTTP up to the end of the first chunk. All of it is sent at once.
GARBAGE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nno length\r\n"

# Maps each fault to the functions that begin and end it.
FAULTS: Mapping[str, tuple[Act, Act]] = {
    "refuses connections": (lambda site: site.upstream.refuse(), lambda site: site.upstream.accept()),
    "hangs": behaving(Behaviour(hang=True)),
    "resets before the response": behaving(Behaviour(reset="before")),
    "resets mid-response": behaving(Behaviour(reset="mid-body")),
    "answers slowly": behaving(Behaviour(delay=1.0)),
    "answers 500": behaving(Behaviour(500)),
    "broken body": behaving(Behaviour(whole=GARBAGE)),
    "disappears": (lambda site: site.put(None), lambda site: site.put(site.upstream.port)),
}


# -- the measurement --------------------------------------------------------------


def good(answer: Answer) -> bool:
    return answer.status == 200 and answer.seconds < SLOW


def refused(answer: Answer) -> bool:
    """Returns whether the proxy refused the request at once.

    The body is graygate's, or Envoy's for a cluster without a host. Envoy's body is another if a host did not respond.
    """
    is_refusal = b"is not ready" in answer.body or answer.body == b"no healthy upstream"
    return answer.status == 503 and is_refusal and answer.seconds < SLOW


def failed(answer: Answer) -> bool:
    return not good(answer) and not refused(answer)


def first_of_run(answers: Sequence[Answer], test: Callable[[Answer], bool], others: int) -> float | None:
    """Returns when the first request was sent that passes the test, with at least `others` more in its run that do."""
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
    """The figures of one fault and one contestant. None if the gate never closed, or if it did not recover in time."""

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


# -- the report -------------------------------------------------------------------

WIDTHS = (30, 23, 17, 15, 10, 20)
HEALTHY_HEADER = ("requests", "answered 500", "refused", "changes")
HEADER = ("failed before the gate", "time to gate, s", "failed in all", "requests", "time to recover, s")


def row(*cells: object) -> None:
    """Prints a row, with text on the left and numbers on the right."""
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
    """What `--json` writes. A contestant that had not recovered before a fault has null for that fault."""

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
            wait_until_recovered(started, [time.monotonic()] * len(sites))
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
    # Handles SIGTERM like Ctrl-C, so that every process that was started is stopped. A shell makes background jobs
    # ignore SIGINT, so its handler is set again.
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
