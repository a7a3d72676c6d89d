"""Which cores Envoy runs on, and which the load.

Envoy has a core of its own, with all its threads, where there are two cores or more. So neither the load nor its
upstream takes Envoy's caches or delays it. The load gets the other cores, without the ones that share Envoy's core as
hyperthreads if others remain.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CORES = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Placement:
    """`said` tells people where everything runs."""

    envoy: frozenset[int]
    load: frozenset[int]
    said: str


def core_list(text: str) -> frozenset[int]:
    """Parses a list of cores as the kernel writes it, such as 0-3,8."""
    parts = [part.split("-") for part in text.strip().split(",") if part]
    return frozenset(core for part in parts for core in range(int(part[0]), int(part[-1]) + 1))


def siblings(core: int) -> frozenset[int]:
    """Returns the cores that are hyperthreads of the same one, with itself."""
    file = Path(f"{CORES}/cpu{core}/topology/thread_siblings_list")
    return core_list(file.read_text()) if file.exists() else frozenset({core})


def placement(cores: frozenset[int], *, pinned: bool = True) -> Placement:
    """Returns where to run with these cores. The last one is Envoy's, as the first has most of the interrupts."""
    if not pinned:
        return Placement(cores, cores, "not pinned: an Envoy with two workers shares the cores with the load")
    if len(cores) < 2:
        return Placement(cores, cores, "not pinned: Envoy and the load share the only core")
    its = max(cores)
    rest = cores - {its}
    load = rest - siblings(its) or rest
    shared = "" if load.isdisjoint(siblings(its)) else ", a hyperthread of the same core"
    listed = ", ".join(str(core) for core in sorted(load))
    return Placement(
        frozenset({its}), load, f"pinned: Envoy to core {its}, the load and its upstream to {listed}{shared}"
    )


def pin(process: int, cores: Collection[int]) -> None:
    """Keeps all threads of a process on these cores, and those that it starts later. 0 is the calling thread."""
    threads = [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()] if process else [0]
    for thread in threads:
        # It may have ended.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)
