"""Reports the measurement, as tables for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.config import MODULE
from harness.envoy import PROJECT

from .contestants import NOOP, REQUESTS
from .measure import Figures, Result
from .tables import Table

HEADER = ("us over no filter", "quartiles", "us in all", "compared to", "its us", "ratio", "at most")
WIDTHS = (60, 17, 17, 11, 42, 8, 10, 10, 6)
# The columns with text on the left. The others have it on the right.
LEFT = (0, 4)


@dataclass(frozen=True)
class Machine:
    """The machine, and the versions of what was measured. None means unknown."""

    cores: int
    cpu: str
    kernel: str
    envoy: str
    wrk: str
    rustc: str | None
    commit: str | None
    module_bytes: Mapping[str, int]

    def lines(self) -> Sequence[str]:
        modules = ", ".join(f"{name} {size} bytes" for name, size in self.module_bytes.items())
        compiler = self.rustc or "a compiler that is not known"
        return (
            f"{self.cores} cores, {self.cpu}; Linux {self.kernel}; Envoy {self.envoy}; {self.wrk}",
            f"{modules}, built by {compiler}; graygate {self.commit or 'of no commit'}",
        )


def said(*command: str) -> str | None:
    """Returns what a program prints, or None if it is not installed or prints nothing."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    return done.stdout.strip() or None


def compiler() -> str | None:
    """Returns the version of the compiler. Reads it from Cargo's notes, as it need not be the rustc on PATH."""
    notes = PROJECT / "target/wasm/.rustc_info.json"
    found = re.search(r"rustc \d[^\\\"]*", notes.read_text()) if notes.exists() else None
    return found[0] if found else said("rustc", "--version")


def machine(envoy: str) -> Machine:
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    wrk = re.search(r"wrk \S+", said("wrk", "-v") or "")
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=models[0] if models else platform.machine(),
        kernel=platform.release(),
        envoy=envoy,
        wrk=wrk[0] if wrk else "wrk",
        rustc=compiler(),
        commit=said("git", "describe", "--always", "--dirty", "--exclude=*"),
        module_bytes={Path(module).name: (PROJECT / module).stat().st_size for module in (REQUESTS, MODULE, NOOP)},
    )


# -- for people -------------------------------------------------------------------


class Progress:
    """Prints progress: on a terminal in one line that is overwritten, otherwise in a new line each time."""

    def __enter__(self) -> Self:
        self._over = sys.stdout.isatty()
        return self

    def __call__(self, text: str) -> None:
        print(f"\r{text}\033[K" if self._over else text, end="" if self._over else "\n", flush=True)

    def __exit__(self, *_: object) -> None:
        if self._over:
            self("")


def row(*cells: str) -> None:
    columns = enumerate(zip(cells, WIDTHS, strict=False))
    aligned = (f"  {cell}".ljust(width) if at in LEFT else cell.rjust(width) for at, (cell, width) in columns)
    print("".join(aligned).rstrip())


def cells(found: Mapping[str, Figures], figures: Figures) -> Iterator[str]:
    low, high = figures.quartiles
    yield figures.title
    yield "-" if figures.over is None else f"{figures.over:.2f}"
    yield f"{low:.2f} to {high:.2f}"
    yield f"{figures.in_all:.2f}"
    if limit := figures.limit:
        form = "{:+.2f} us" if limit.kind == "more" else "{:.2f}"
        yield found[limit.against].title
        yield f"{figures.its:.2f}"
        yield "-" if figures.measure is None else form.format(figures.measure)
        yield "-" if limit.at_most is None else form.format(limit.at_most)
        yield {True: "ok", False: "over", None: ""}[figures.ok]


def show(table: Table, result: Result) -> None:
    print()
    row(table.title.upper(), *HEADER)
    for figures in result.figures.values():
        row(*cells(result.figures, figures))
    if table.note:
        print(f"  {table.note}")
    print(
        f"  besides: Envoy when idle, {result.idle:.1f} ms of CPU time a second; all else here, {result.others} cores"
    )


@dataclass(frozen=True)
class Report:
    """What `--json` writes."""

    command: str
    machine: Machine
    rounds: int
    burst_seconds: float
    seconds: float
    tables: Mapping[str, Result]
