"""The measurement: bursts of load, their CPU time, and the figures of each contestant."""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.config import Tree, cluster, socket_address
from harness.envoy import Envoy
from harness.wait import until

from .contestants import Contestant, Limit, Question
from .tables import Table

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """The figures of one contestant, in microseconds of CPU time per request.

    `in_all` is the median of `rounds`. `over` is the median of the differences to the baseline within each round, and
    `quartiles` are theirs. A baseline has no `over`, and its quartiles are those of `rounds`.

    `its` is the cost of the contestant that it is compared to. `measure` is the ratio or the difference, or None if
    that cost is too small to measure. `ok` is None if there is no limit to compare with.
    """

    title: str
    requests: int
    in_all: float
    over: float | None
    quartiles: tuple[float, float]
    limit: Limit | None
    its: float | None
    measure: float | None
    ok: bool | None
    rounds: Sequence[float]


@dataclass(frozen=True)
class Result:
    """The figures of one table.

    `idle` is the CPU time of its Envoys without load, in milliseconds per second, which the ticks of all policies take.
    `others` is the number of cores that were busy with other things than the measurement. If it is high, the figures
    are unreliable.
    """

    idle: float
    others: float
    figures: Mapping[str, Figures]


# -- time -------------------------------------------------------------------------


def cpu_time(process: int) -> int:
    """Returns the CPU time of all threads of a process so far, in nanoseconds."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{process}/task").glob("*/schedstat"))


def own_time() -> float:
    """Returns the CPU time of the measurement so far, in seconds: running Envoys, finished loads and this program."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    envoys = sum(cpu_time(envoy.pid) for envoy in Envoy.running)
    return envoys / 1e9 + sum(each.ru_utime + each.ru_stime for each in usages)


def busy_time() -> float:
    """Returns the CPU time of the whole machine so far, in seconds, without idle time and I/O wait."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# -- a burst ----------------------------------------------------------------------


def catches(process: int, number: signal.Signals) -> bool:
    """Returns whether the process has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def load(port: int, question: Question, status: int, seconds: float, connections: int) -> int:
    """Sends as many requests as the connections carry in that time. Returns their number. All must get the status."""
    headers = [part for pair in question.all_headers.items() for part in ("--header", ": ".join(pair))]
    url = f"http://127.0.0.1:{port}{question.path}"
    # wrk accepts only whole seconds. When interrupted earlier, it stops as it does at the end of its time.
    most = f"{math.ceil(seconds) + 1}s"
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", most, *headers, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            # Until its threads run, the signal would end it without a report.
            until(lambda: wrk.poll() is not None or catches(wrk.pid, signal.SIGINT), what="wrk at work", every=0.001)
            time.sleep(seconds)
        finally:
            wrk.send_signal(signal.SIGINT)
            said, _ = wrk.communicate()
    counted = re.search(r"(\d+) requests in", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    requests, failures = (int(found[1]) if found else 0 for found in (counted, refused))
    if not requests or "Socket errors" in said or failures != (requests if status >= 400 else 0):
        raise SystemExit(f"{url}: not all were answered with {status}; wrk said:\n{said}")
    return requests


# -- a table ----------------------------------------------------------------------


def bootstrap(name: str, contestants: Mapping[str, Contestant], upstream: int) -> Tree:
    listeners = [contestant.listener(each) for each, contestant in contestants.items()]
    return {
        "node": {"id": name, "cluster": "bench"},
        "admin": {"address": socket_address()},
        "static_resources": {"listeners": listeners, "clusters": [cluster("app", upstream)]},
    }


@dataclass(frozen=True)
class Site:
    """A contestant with its running Envoy."""

    name: str
    contestant: Contestant
    envoy: Envoy
    port: int

    def burst(self, seconds: float, connections: int) -> tuple[float, int]:
        """Puts load on the contestant. Returns microseconds of CPU time per request, and the number of requests."""
        question, status = self.contestant.question, self.contestant.answer.status
        before = cpu_time(self.envoy.pid)
        requests = load(self.port, question, status, seconds, connections)
        return round((cpu_time(self.envoy.pid) - before) / requests / 1_000, 3), requests

    def verify_workers(self, connections: int) -> None:
        """Verifies that each worker has had its share of the connections."""
        stats = self.envoy.stats(f"listener.{self.name}.worker_")
        seen = [count for name, count in stats.items() if name.endswith(".downstream_cx_total")]
        workers = self.contestant.workers
        if len(seen) != workers or min(seen) < 0.8 * connections / workers:
            raise SystemExit(f"{self.contestant.title}: {connections} connections are not shared out evenly: {seen}")


@contextmanager
def sites(name: str, table: Table, upstream: int) -> Iterator[dict[str, Site]]:
    """Starts one Envoy for all contestants with the same number of workers."""
    with ExitStack() as stack:
        found = {}
        for workers in sorted({each.workers for each in table.contestants.values()}):
            those = {each: it for each, it in table.contestants.items() if it.workers == workers}
            envoy = Envoy(bootstrap(name, those, upstream), concurrency=workers, log_level="warning")
            stack.enter_context(envoy)
            found.update({each: Site(each, it, envoy, envoy.port(each)) for each, it in those.items()})
        yield found


def measure(name: str, table: Table, upstream: int, rounds: int, seconds: float, tell: Tell) -> Result:
    """Measures all contestants of a table in turn, in each of `rounds` rounds with a burst of `seconds`."""
    with sites(name, table, upstream) as found:
        for site in found.values():
            site.contestant.verify(site.port)
        costs: dict[str, list[float]] = {each: [] for each in found}
        requests = dict.fromkeys(found, 0)
        begun, busy, own = time.monotonic(), busy_time(), own_time()
        # The first round warms up and does not count. Every second round has the reverse order, so that a drift over
        # time affects all contestants alike.
        for number in range(rounds + 1):
            tell(f"{table.title}: " + (f"round {number} of {rounds}" if number else "warming up"))
            for each in found if number % 2 else reversed(found):
                cost, count = found[each].burst(seconds, table.connections)
                if number:
                    costs[each].append(cost)
                    requests[each] += count
        others = (busy_time() - busy - own_time() + own) / (time.monotonic() - begun)
        # Measured last, when the start of the policies is over, such as their first checks.
        idle = idle_time({site.envoy for site in found.values()}, seconds)
        for site in found.values():
            site.verify_workers((rounds + 1) * table.connections)
            if complaints := re.findall(r"(?m)^.*\]\[(?:error|critical)\]\[.*$", site.envoy.logs()):
                raise SystemExit(f"{table.title}: Envoy complains:\n" + "\n".join(complaints[:5]))
    return Result(idle, round(max(others, 0.0), 2), figures(table.contestants, costs, requests))


def idle_time(envoys: Collection[Envoy], seconds: float) -> float:
    before = sum(cpu_time(envoy.pid) for envoy in envoys)
    time.sleep(seconds)
    return round((sum(cpu_time(envoy.pid) for envoy in envoys) - before) / 1e6 / seconds, 2)


# -- the figures ------------------------------------------------------------------


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def figures(
    contestants: Mapping[str, Contestant], costs: Mapping[str, Sequence[float]], requests: Mapping[str, int]
) -> dict[str, Figures]:
    over = {
        name: [mine - its for mine, its in zip(costs[name], costs[each.baseline], strict=True)]
        for name, each in contestants.items()
        if each.baseline
    }
    found = {}
    for name, each in contestants.items():
        its, measured = compared(each.limit, name, costs, over) if each.limit else (None, None)
        found[name] = Figures(
            title=each.title,
            requests=requests[name],
            in_all=statistics.median(costs[name]),
            over=statistics.median(over[name]) if name in over else None,
            quartiles=quartiles(over.get(name, costs[name])),
            limit=each.limit,
            its=its,
            measure=measured,
            ok=within(each.limit, measured),
            rounds=costs[name],
        )
    return found


def compared(
    limit: Limit, name: str, costs: Mapping[str, Sequence[float]], over: Mapping[str, Sequence[float]]
) -> tuple[float, float | None]:
    """Returns the cost of the contestant to compare with, and the ratio or difference."""
    values = costs if limit.kind == "in all" else over
    mine, its = values[name], values[limit.against]
    pairs = list(zip(mine, its, strict=True))
    other = statistics.median(its)
    measured: float | None
    match limit.kind:
        case "more":
            measured = statistics.median(a - b for a, b in pairs)
        case "in all":
            measured = statistics.median(a / b for a, b in pairs)
        case "times":
            # Not a ratio within each round, as a small cost may be 0 in one of them.
            measured = statistics.median(mine) / other if other > 0 else None
    return other, measured


def within(limit: Limit | None, measured: float | None) -> bool | None:
    if limit is None or limit.at_most is None or measured is None:
        return None
    return measured <= limit.at_most
