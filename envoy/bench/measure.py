"""The measurement: bursts of load, and their CPU time."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.config import Tree, cluster, socket_address
from harness.envoy import Envoy

from .contestants import Contestant
from .figures import Figures, figures
from .loads import LOADS, Load
from .placement import Placement, pin
from .tables import Table

Tell = Callable[[str], None]
# How many rounds' load each contestant gets before the first round, but not more than it gets in all.
WARM_UP = 5


@dataclass(frozen=True)
class Result:
    """The figures of one table.

    `idle` is the CPU time of its Envoys without load, in milliseconds per second, which the ticks of all policies take.
    `others` is the number of cores that were busy with other things than the measurement, or that the host had given to
    others. If it is high, the figures are unreliable.
    """

    idle: float
    others: float
    placement: str
    burst_seconds: float
    figures: Mapping[str, Figures]


# -- time -------------------------------------------------------------------------


def cpu_time(process: int) -> int:
    """Returns the CPU time of all threads of a process so far, in nanoseconds."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{process}/task").glob("*/schedstat"))


def own_time(helper: int | None) -> float:
    """Returns the CPU time of the measurement so far, in seconds: running Envoys, loads and this program."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running = [envoy.pid for envoy in Envoy.running] + ([helper] if helper else [])
    return sum(map(cpu_time, running)) / 1e9 + sum(each.ru_utime + each.ru_stime for each in usages)


def busy_time() -> float:
    """Returns the CPU time of the whole machine so far, in seconds, without idle time and I/O wait.

    It includes the time that the host gave to other machines while this one had work.
    """
    user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


# -- a table ----------------------------------------------------------------------


def bootstrap(name: str, table: Table, contestants: Mapping[str, Contestant], upstream: int) -> Tree:
    buffers: Tree = {"per_connection_buffer_limit_bytes": table.buffer_bytes} if table.buffer_bytes else {}
    listeners = [{**contestant.listener(each), **buffers} for each, contestant in contestants.items()]
    return {
        "node": {"id": name, "cluster": "bench"},
        "admin": {"address": socket_address()},
        "static_resources": {"listeners": listeners, "clusters": [{**cluster("app", upstream), **buffers}]},
    }


@dataclass(frozen=True)
class Site:
    """A contestant with its running Envoy."""

    name: str
    contestant: Contestant
    envoy: Envoy
    port: int

    def burst(self, load: Load, seconds: float) -> tuple[float, int]:
        """Puts load on the contestant. Returns microseconds of CPU time per request, and the number of requests."""
        before = cpu_time(self.envoy.pid)
        requests = load.burst(self.port, self.contestant, seconds)
        return round((cpu_time(self.envoy.pid) - before) / requests / 1_000, 3), requests

    def verify_workers(self, connections: int) -> None:
        """Verifies that each worker has had its share of the connections."""
        stats = self.envoy.stats(f"listener.{self.name}.worker_")
        seen = [count for name, count in stats.items() if name.endswith(".downstream_cx_total")]
        workers = self.contestant.workers
        if len(seen) != workers or min(seen) < 0.8 * connections / workers:
            raise SystemExit(f"{self.contestant.title}: {connections} connections are not shared out evenly: {seen}")

    def verify_log(self) -> None:
        if complaints := re.findall(r"(?m)^.*\]\[(?:error|critical)\]\[.*$", self.envoy.logs()):
            raise SystemExit(f"{self.contestant.title}: Envoy complains:\n" + "\n".join(complaints[:5]))


@contextmanager
def sites(name: str, table: Table, upstream: int, placement: Placement) -> Iterator[dict[str, Site]]:
    """Starts one Envoy for all contestants with the same number of workers."""
    with ExitStack() as stack:
        found = {}
        for workers in sorted({each.workers for each in table.contestants.values()}):
            those = {each: it for each, it in table.contestants.items() if it.workers == workers}
            envoy = Envoy(bootstrap(name, table, those, upstream), concurrency=workers, log_level="warning")
            stack.enter_context(envoy)
            pin(envoy.pid, placement.envoy)
            found.update({each: Site(each, it, envoy, envoy.port(each)) for each, it in those.items()})
        yield found


def measure(
    name: str, table: Table, upstream: int, rounds: int, seconds: float, placement: Placement, tell: Tell
) -> Result:
    """Measures all contestants of a table in turn, in each of `rounds` rounds with a burst of `seconds`.

    The table may have several shorter rounds for each of these.
    """
    warm_up = seconds * min(WARM_UP, rounds)
    seconds *= table.longer / table.parts
    with ExitStack() as stack:
        load = stack.enter_context(LOADS[table.load](table.connections, placement))
        found = stack.enter_context(sites(name, table, load.upstream or upstream, placement))
        for site in found.values():
            site.contestant.verify(site.port)
        costs: dict[str, list[float]] = {each: [] for each in found}
        requests = dict.fromkeys(found, 0)
        # The proxy compiles again what is called often, so all of that has to be over.
        tell(f"{table.title}: warming up")
        for site in found.values():
            site.burst(load, warm_up)
        begun, busy, own = time.monotonic(), busy_time(), own_time(load.helper)
        # Every second round has the reverse order, so that a drift over time affects all contestants alike.
        for number in range(rounds * table.parts):
            if number % table.parts == 0:
                tell(f"{table.title}: round {number // table.parts + 1} of {rounds}")
            for each in found if number % 2 else reversed(found):
                cost, count = found[each].burst(load, seconds)
                costs[each].append(cost)
                requests[each] += count
        others = busy_time() - busy - own_time(load.helper) + own
        others = round(max(others / (time.monotonic() - begun), 0.0), 2)
        # Measured last, when the start of the policies is over, such as their first checks.
        idle = idle_time({site.envoy for site in found.values()}, max(seconds, 0.5))
        for site in found.values():
            site.verify_workers(table.connections * (rounds + 1 if load.renews else 1))
            site.verify_log()
    return Result(idle, others, placement.said, seconds, figures(table.contestants, costs, requests, others))


def idle_time(envoys: Collection[Envoy], seconds: float) -> float:
    before = sum(cpu_time(envoy.pid) for envoy in envoys)
    time.sleep(seconds)
    return round((sum(cpu_time(envoy.pid) for envoy in envoys) - before) / 1e6 / seconds, 2)
