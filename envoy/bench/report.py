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
from typing import Self, get_args

from harness.config import MODULE
from harness.envoy import PROJECT

from .contestants import NOOP, REQUESTS
from .figures import OTHERS, Comparison, Figures, Verdict
from .measure import Result
from .tables import Table

HEADER = (
    *("us over no filter", "the least", "quartiles", "us in all"),
    *("compared to", "ratio", "of the least", "at most", "verdict"),
)
# The columns with text on the left. The others have it on the right.
LEFT = (0, 5, 9)


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


def markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Returns a table whose columns stand below each other, to be read here and pasted into a document."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        aligned = (
            cell.ljust(width) if at in LEFT else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join(aligned)} |"
        if not number:
            rules = ("-" * (width + 2) if at in LEFT else "-" * (width + 1) + ":" for at, width in enumerate(widths))
            yield f"|{'|'.join(rules)}|"


def rows(found: Mapping[str, Figures], figures: Figures) -> Iterator[Sequence[str]]:
    """Returns a row for the contestant, which has the first comparison, and one for each further comparison."""
    low, high = figures.quartiles
    costs = ["-" if cost is None else f"{cost:.2f}" for cost in (figures.over, figures.least)]
    first = [figures.title, *costs, f"{low:.2f} to {high:.2f}", f"{figures.in_all:.2f}"]
    compared = [list(comparison(found, each)) for each in figures.comparisons] or [[""] * 5]
    yield [*first, *compared[0]]
    yield from ([""] * len(first) + cells for cells in compared[1:])


def comparison(found: Mapping[str, Figures], it: Comparison) -> Iterator[str]:
    def told(value: float | None) -> str:
        form = "{:+.2f} us" if it.limit.kind == "more" else "{:.3f}" if it.limit.kind == "in all" else "{:.2f}"
        return "-" if value is None else form.format(value)

    yield found[it.limit.against].title
    yield told(it.measure)
    yield told(it.least)
    yield told(it.limit.at_most)
    yield it.verdict or ""


def verdict(table: Table, result: Result) -> str:
    """Returns one line: which limits are kept, and whether the machine was too noisy to tell."""
    told = {name: each.verdict for name, each in result.figures.items() if each.verdict}
    if not told:
        return "no limits"
    if result.others > OTHERS:
        return f"too noisy to tell: other things took {result.others} cores, and at most {OTHERS} is allowed"
    parts = []
    for word in get_args(Verdict):
        names = [result.figures[name].title for name, each in told.items() if each == word]
        if names:
            parts.append(f"{word}: {len(names)} of {len(told)}" + (f" ({'; '.join(names)})" if word != "ok" else ""))
    enough = any(table.contestants[name].one_is_enough and len(table.contestants[name].limits) > 1 for name in told)
    return ", ".join(parts) + ("; one of two limits is enough" if enough else "")


def show(table: Table, result: Result) -> None:
    print()
    found = result.figures
    lines = [row for figures in found.values() for row in rows(found, figures)]
    print("\n".join(markdown([(table.title, *HEADER), *lines])))
    if table.note:
        print(table.note)
    print(f"Limits: {verdict(table, result)}.")
    print(
        f"Besides: Envoy when idle, {result.idle:.1f} ms of CPU time a second; all else here, {result.others} cores;"
        f" {result.placement}."
    )


@dataclass(frozen=True)
class Report:
    """What `--json` writes."""

    command: str
    machine: Machine
    rounds: int
    seconds: float
    tables: Mapping[str, Result]
