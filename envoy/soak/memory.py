"""The memory of a running Envoy, and of each VM in it, without a call on the way of a request.

Envoy has no statistic for the linear memory of a VM. But V8 reserves 8 GiB of addresses for each, and the module may
use the first part of them. The kernel lists that part as readable, and the rest as not accessible. So its size is known
to the page, at no cost to the VM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.envoy import Envoy

RESERVED = 8 << 30
# A page of a module's memory.
PAGE = 64 << 10
ACTIVE = "wasm.envoy.wasm.runtime.v8.active"
CREATED = "wasm.envoy.wasm.runtime.v8.created"


@dataclass(frozen=True)
class Sample:
    """Sizes in KiB, at a time in seconds since the start. `vms` has the linear memory of each VM by its address."""

    at: float
    resident: int
    allocated: int
    heap: int
    vms: dict[str, int]
    active: int
    counters: dict[str, int]


def mappings(text: str) -> Iterator[tuple[int, int, str]]:
    for line in text.splitlines():
        addresses, rights, *_ = line.split()
        start, _, end = addresses.partition("-")
        yield int(start, 16), int(end, 16), rights


def linear_memories(maps: str) -> dict[str, int]:
    """Returns the size in KiB of each VM's memory, by its address, from the text of /proc/PID/maps."""
    found = {}
    listed = list(mappings(maps))
    for (start, end, rights), (next_start, next_end, next_rights) in pairwise(listed):
        # The kernel shows neighbours with the same rights as one. So the memory may begin within the mapping.
        size = RESERVED - (next_end - next_start)
        is_memory = rights == "rw-p" and next_rights == "---p" and end == next_start
        if is_memory and 0 < size <= end - start and size % PAGE == 0:
            found[f"{end - size:x}"] = size >> 10
    return found


def resident(pid: int) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])


def counters(stats: dict[str, int]) -> dict[str, int]:
    """Returns the sum of each of the filter's counters."""
    sums: dict[str, int] = {}
    for name, value in stats.items():
        metric = name.split(".")[1]
        if metric.endswith("_total"):
            sums[metric] = sums.get(metric, 0) + value
    return sums


def sample(envoy: Envoy, at: float) -> Sample:
    heap = json.loads(envoy.admin("/memory"))
    return Sample(
        at=round(at, 1),
        resident=resident(envoy.pid),
        allocated=int(heap["allocated"]) >> 10,
        heap=int(heap["heap_size"]) >> 10,
        vms=linear_memories(Path(f"/proc/{envoy.pid}/maps").read_text()),
        active=int(envoy.stats(ACTIVE)[ACTIVE]),
        counters=counters(envoy.stats("wasmcustom.graygate_")),
    )
