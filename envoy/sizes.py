"""Measures what large policies cost in a real Envoy, and prints a table.

Each case is one policy. An Envoy with two workers starts with a policy of one upstream, and gets the large one. Then
the large one is updated three times under light traffic. The upstreams are one cluster, which leads to a second Envoy.

Other programs on the machine delay requests. So the figures of an update are the least of three, and the CPU time of a
worker for an update stands beside the time of the slowest request.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import create_connection

from bench.measure import cpu_time
from harness.arguments import new_file, positive
from harness.built import are_built
from harness.config import HTTP_FILTERS, Tree, bootstrap, listener, socket_address
from harness.envoy import PROJECT, Envoy
from harness.load import Load, Request
from harness.wait import until

MODULE = PROJECT / "dist/graygate.wasm"
UPDATES = 3
PLAIN = Request("/", {"x-user-id": "alice"})


@dataclass(frozen=True)
class Case:
    """A policy with the request that is sent to it. `held` is the number of requests that wait for a response."""

    name: str
    policy: Callable[[], Tree]
    request: Request = PLAIN
    held: int = 0


@dataclass(frozen=True)
class Figures:
    """What a policy costs. Times are in milliseconds, CPU in percent of a core, and memory in MB over the small policy.

    `load`, `busy` and `slowest` are the least of all updates: the time until Envoy has taken it, the CPU time that the
    busiest worker needs for it, and the time of the slowest request. `series` is how many the filter has defined.
    `refused` is the policy's first problem.
    """

    name: str
    bytes: int
    refused: str = ""
    load: float = 0
    busy: float = 0
    slowest: float = 0
    p99: float = 0
    idle: float = 0
    memory: float = 0
    series: int = 0


# -- policies ---------------------------------------------------------------------


def upstream(**parts: object) -> Tree:
    return {"cluster": "app", **parts}


def check(period: float) -> Tree:
    return {"readinessProbe": {"httpGet": {"path": "/healthz"}, "periodSeconds": period, "timeoutSeconds": 1}}


def document(upstreams: dict[str, Tree], **parts: object) -> Tree:
    return {"name": "shop", "upstreams": upstreams, **parts}


def small() -> Tree:
    return document({"app": upstream()}, gates=[{"upstream": "app"}])


def upstreams(count: int, **parts: object) -> Tree:
    gates = [{"upstream": "u0"}]
    return document({f"u{number}": upstream(**parts) for number in range(count)}, gates=gates)


def release(name: str, versions: int, steps: int = 0, **parts: object) -> Tree:
    # Each version of a release of up to 50 has a whole number of buckets.
    of = [{"name": f"v{number}", "upstream": "app", "weight": 1} for number in range(versions)]
    of[0]["default"] = True
    tree: Tree = {"name": name, "steer": {"header": f"x-{name}"}, "hashOn": [{"httpHeaderName": "x-user-id"}]}
    if steps:
        weights = [{f"v{number}": 1 + (number + step) % 2 for number in range(versions)} for step in range(steps)]
        days = [f"2099-01-{1 + step:02}T00:00:00Z" for step in range(steps)]
        tree["schedule"] = [
            {"at": day, "over": "12h", "weights": each} for day, each in zip(days, weights, strict=True)
        ]
    return {**tree, "versions": of, **parts}


def releases(count: int, versions: int, steps: int = 0, **parts: object) -> Tree:
    match = [[{"authority": {"exact": f"r{number}.test"}}] for number in range(count)]
    of = [release(f"r{number}", versions, steps, match=match[number], **parts) for number in range(count)]
    return document({"app": upstream()}, releases=of)


def teams(count: int) -> Tree:
    """Returns the policies of this many teams in one. Each has a host, 25 upstreams with gates, and a release."""
    all_upstreams: dict[str, Tree] = {}
    all_releases: list[Tree] = []
    gates: list[Tree] = []
    for team in range(count):
        host = {"authority": {"exact": f"team{team}.test"}}
        names = [f"t{team}-u{number}" for number in range(25)]
        all_upstreams |= {name: upstream(**check(10), circuitBreaker={}) for name in names}
        gates += [
            {"upstream": name, "match": [{**host, "uri": {"prefix": f"/{number}"}}]}
            for number, name in enumerate(names)
        ]
        all_releases.append(release(f"t{team}", 3, match=[host], rollback={"failurePercent": 5}))
    return document({"app": upstream(), **all_upstreams}, gates=gates, releases=all_releases)


def policies(count: int, upstreams: int, **parts: object) -> Tree:
    """Returns a document of this many policies. Each has a host, upstreams with checks and gates, and a release."""

    def policy(number: int) -> Tree:
        names = [f"u{upstream}" for upstream in range(upstreams)]
        gates = [{"upstream": name, "match": [{"uri": {"prefix": f"/{name}"}}]} for name in names]
        of = {"app": upstream(), **{name: upstream(**check(10), circuitBreaker={}) for name in names}}
        released = {**release("r", 3), **parts}
        return {**document(of, gates=gates, releases=[released]), "name": f"p{number}", "hosts": [f"p{number}.test"]}

    return {"policies": [policy(number) for number in range(count)]}


def guarded(count: int) -> Tree:
    """Returns a policy whose upstreams are checked, judged and gated, with two releases of two versions."""
    names = [f"u{number}" for number in range(count)]
    gates = [{"upstream": name, "match": [{"uri": {"prefix": f"/{name}"}}]} for name in names]
    of = {name: upstream(**check(10), circuitBreaker={}) for name in names}
    match = [[{"authority": {"exact": f"r{number}.test"}}] for number in range(2)]
    both = [release(f"r{number}", 2, match=match[number], rollback={"failurePercent": 5}) for number in range(2)]
    return document({"app": upstream(), **of}, gates=gates, releases=both)


def keys(count: int) -> Tree:
    lists = {"allow": [f"in-{number}" for number in range(count)], "deny": [f"out-{number}" for number in range(count)]}
    tree = releases(1, 2)
    tree["releases"][0]["versions"][1] |= lists
    return tree


def regexes() -> Tree:
    """Returns the regular expression that costs the most on a long value."""
    gates = [{"upstream": "app", "match": [{"queryParams": {"q": {"regex": REGEX}}}]}]
    return document({"app": upstream()}, gates=gates)


# Every letter of the value keeps all of its alternatives alive, and the last one never matches.
REGEX = "(a?){120}b"
QUERY = "&".join(["q=" + "a" * 4096] * 15)


def waiting() -> Tree:
    """Returns a policy that counts requests without a response. A check sets its tick to 50 ms."""
    return document({"app": upstream(**check(0.2), circuitBreaker={"unansweredAfter": "5s"})})


CASES = [
    Case("1 upstream, 1 gate", small),
    Case("100 releases of 10 versions", lambda: releases(100, 10)),
    Case("100 releases of 10 versions, 10 steps each", lambda: releases(100, 10, 10)),
    Case("100 releases of 10 versions, with rollback", lambda: releases(100, 10, rollback={"failurePercent": 5})),
    Case("200 releases of 10 versions", lambda: releases(200, 10)),
    Case("100 releases of 50 versions", lambda: releases(100, 50)),
    Case("300 releases of 50 versions", lambda: releases(300, 50)),
    Case("1,000 upstreams", lambda: upstreams(1_000)),
    Case("1,000 upstreams with a breaker", lambda: upstreams(1_000, circuitBreaker={})),
    Case("1,000 upstreams, checked each 10 s", lambda: upstreams(1_000, **check(10))),
    Case("1,000 upstreams, checked each 5 s", lambda: upstreams(1_000, **check(5))),
    Case("2,000 upstreams, checked each 10 s", lambda: upstreams(2_000, **check(10))),
    Case("100 upstreams, checked each 0.2 s", lambda: upstreams(100, **check(0.2))),
    Case("1,000 upstreams, checked each 0.2 s", lambda: upstreams(1_000, **check(0.2))),
    Case("50 upstreams, checks, breakers, gates, 2 releases with rollback", lambda: guarded(50)),
    Case("1,999 upstreams, checks, breakers, gates, 2 releases with rollback", lambda: guarded(1_999)),
    Case("10,000 upstreams", lambda: upstreams(10_000)),
    Case("40 teams: 1,000 upstreams, checks, breakers, gates, releases", lambda: teams(40)),
    Case("40 policies of 3 upstreams, checks, breakers, gates, a release", lambda: policies(40, 3)),
    Case(
        "40 policies of 25 upstreams, checks, breakers, gates, a release with rollback",
        lambda: policies(40, 25, rollback={"failurePercent": 5}),
    ),
    Case("a release with 10,000 allowed and 10,000 denied keys", lambda: keys(10_000)),
    Case("a regex, a query of 60 KiB", regexes, Request("/?" + QUERY)),
    Case("3,000 requests that another filter holds", waiting, held=3_000),
]


# -- measurement ------------------------------------------------------------------


def app() -> Tree:
    """Returns the bootstrap of the upstream."""
    answer = {"status": 200, "body": {"inline_string": "ok\n"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    listeners = [listener("app", [], routes, {"access_log": []})]
    return {"admin": {"address": socket_address()}, "static_resources": {"listeners": listeners}}


def resident(process: int) -> int:
    """Returns the memory of a process, in bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def worker_times(process: int) -> list[int]:
    """Returns the CPU time of each worker thread so far, in nanoseconds."""
    tasks = sorted(Path(f"/proc/{process}/task").iterdir())
    workers = [task for task in tasks if (task / "comm").read_text().startswith("wrk:worker")]
    return [int((task / "schedstat").read_text().split()[0]) for task in workers]


def changed(policy: Tree, number: int) -> Tree:
    """Returns the policy with one more gate, for a path that no request has."""
    if "policies" in policy:
        return {"policies": [changed(each, number) for each in policy["policies"]]}
    extra = {"upstream": next(iter(policy["upstreams"])), "match": [{"uri": {"exact": f"/update-{number}"}}]}
    return {**policy, "gates": [*policy.get("gates", []), extra]}


def milliseconds(seconds: float) -> float:
    return round(seconds * 1_000, 1)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def settle(envoy: Envoy) -> int:
    """Waits until the filter defines no more statistics. Returns their number."""
    known = -1
    while (count := envoy.admin("/stats?filter=wasmcustom").count("\n")) != known:
        known = count
        time.sleep(1)
    return known


def update(envoy: Envoy, load: Load, policy: Tree) -> tuple[float, float, float]:
    """Updates the policy. Returns `load`, `busy` and `slowest` in seconds."""

    def spent(seconds: float) -> list[int]:
        before = worker_times(envoy.pid)
        time.sleep(seconds)
        return [after - earlier for earlier, after in zip(before, worker_times(envoy.pid), strict=True)]

    at_rest = spent(1)
    before, begun = worker_times(envoy.pid), time.monotonic()
    envoy.publish(policy, timeout=60)
    taken = time.monotonic()
    time.sleep(0.5)
    lasted = time.monotonic() - begun
    after = worker_times(envoy.pid)
    busy = [last - first - rest * lasted for first, last, rest in zip(before, after, at_rest, strict=True)]
    time.sleep(0.5)
    slowest = max((answer.seconds for answer in load.since(begun - 0.1)), default=0.0)
    return taken - begun, max(busy) / 1e9, slowest


def measure(case: Case, port: int, seconds: float) -> Figures:
    policy = case.policy()
    size = len(json.dumps(policy))
    buffer = {
        "name": "buffer",
        "typed_config": {"@type": f"{HTTP_FILTERS}.buffer.v3.Buffer", "max_request_bytes": 8192},
    }
    config = bootstrap(
        small(),
        {"app": port},
        delivery="ecds",
        hcm={"access_log": []},
        timeout="0s",
        # It holds requests until their bodies have come.
        filters_after=[buffer],
    )
    with Envoy(config) as envoy, ExitStack() as held:
        with Load(envoy.port(), [PLAIN], rate=200, connections=8) as load:
            until(lambda: len(load.answers) > 100, what="load")
        before = resident(envoy.pid)
        refused = envoy.publish(policy, timeout=60)
        if refused:
            return Figures(case.name, size, refused=refused.splitlines()[0].removeprefix("policy refused: "))
        settle(envoy)
        with Load(envoy.port(), [case.request], rate=200, connections=8) as load:
            time.sleep(0.5)
            updates = [update(envoy, load, changed(policy, number)) for number in range(UPDATES)]
            hold(envoy, case.held, held)
            begun = time.monotonic()
            time.sleep(seconds)
            p99 = quantile([answer.seconds for answer in load.since(begun)], 0.99)
            if load.failed:
                raise SystemExit(f"{case.name}: {len(load.failed)} requests failed, such as {load.failed[0]}")
        series = settle(envoy)
        cpu, begun = cpu_time(envoy.pid), time.monotonic()
        time.sleep(seconds)
        idle = (cpu_time(envoy.pid) - cpu) / 1e7 / (time.monotonic() - begun)
        memory = (resident(envoy.pid) - before) / 1e6
        loads, busy, slowest = (min(column) for column in zip(*updates, strict=True))
        return Figures(
            name=case.name,
            bytes=size,
            load=milliseconds(loads),
            busy=milliseconds(busy),
            slowest=milliseconds(slowest),
            p99=milliseconds(p99),
            idle=round(idle, 1),
            memory=round(memory, 1),
            series=series,
        )


def hold(envoy: Envoy, count: int, held: ExitStack) -> None:
    """Has this many requests wait for the end of their bodies, until `held` ends."""
    port = envoy.port()
    for _ in range(count):
        connection = held.enter_context(create_connection(("127.0.0.1", port)))
        connection.sendall(b"POST /held HTTP/1.1\r\nhost: app\r\ncontent-length: 1\r\n\r\n")


def table(figures: Sequence[Figures]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    yield "| policy | document | update taken in | CPU of a worker | slowest | p99 | idle CPU | memory | series |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in figures:
        kib = f"{each.bytes / 1024:,.0f} KiB"
        if each.refused:
            yield f"| {each.name} | {kib} | refused: {each.refused} | | | | | | |"
            continue
        times = " | ".join(f"{value:,.0f} ms" for value in (each.load, each.busy, each.slowest, each.p99))
        yield f"| {each.name} | {kib} | {times} | {each.idle:.1f} % | {each.memory:+,.0f} MB | {each.series:,} |"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sizes.py", description="what large policies cost in a real Envoy")
    parser.add_argument("--only", action="append", metavar="TEXT", help="the cases with this text in their names alone")
    parser.add_argument("--seconds", type=positive, default=5, metavar="N", help="how long CPU and p99 are measured; 5")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the same figures there")
    return parser.parse_args()


def main() -> int:
    given = options()
    if not are_built({MODULE: "make wasm"}):
        return 1
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    chosen = [case for case in CASES if not given.only or any(text in case.name for text in given.only)]
    figures = []
    with Envoy(app(), concurrency=1) as server:
        for case in chosen:
            print(f"{case.name} ...", file=sys.stderr)
            figures.append(measure(case, server.port("app"), given.seconds))
    print("\n".join(table(figures)))
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
