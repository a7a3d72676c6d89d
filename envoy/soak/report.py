"""What a run has measured: the figures, what they must be, and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.say import say

from .ledger import Sum
from .memory import PAGE, Sample
from .run import Happened, Line, Run, Window

# The rows of the table of percentiles.
PARTS = 12
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# In KiB: what may be added from the second round to the last one.
SLACK = {"resident": 4 * 1024, "allocated": 1024, "largest VM": PAGE >> 10}


@dataclass(frozen=True)
class Side:
    """What the clients of one listener have seen. Percentiles are in milliseconds, and None without a request."""

    sent: int
    failed: int
    gated: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None


@dataclass(frozen=True)
class Part:
    """A part of the run. It begins `at` seconds after the start, and lasts `seconds`."""

    at: float
    seconds: float
    graygate: Side
    plain: Side


@dataclass(frozen=True)
class Growth:
    """In KiB: the median of the second round and of the last one, as in the first all is still warming up."""

    second: float
    last: float
    slack: float

    @property
    def holds(self) -> bool:
        return self.last <= self.second + self.slack


@dataclass(frozen=True)
class Report:
    command: str
    cores: int
    envoy: str
    hours: float
    seconds: float
    rate: float
    rounds: int
    again: int
    lost_alone: int
    parts: Sequence[Part]
    windows: Sequence[Part]
    samples: Sequence[Sample]
    events: Sequence[Happened]
    growth: Mapping[str, Growth]
    sums: Sequence[Sum]
    problems: Sequence[str]

    def show(self) -> None:
        row("minutes", "requests to each", *(f"{name}: graygate · plain" for name in ("p50", "p90", "p99", "p99.9")),
            "failed", "gated", "resident", "largest VM")  # fmt: skip
        row(*["---"] * 10)
        for part in self.parts:
            row(f"{part.at / 60:.1f}", f"{part.graygate.sent:,}", *times(part), *losses(part), *self.memory(part))
        say("")
        row("sum", "proxy", "clients and schedule", "")
        row(*["---"] * 4)
        for each in self.sums:
            row(each.what, f"{each.proxy:,} {each.unit}", each.wanted, "" if each.holds else "WRONG")
        say("")
        if self.growth:
            row("memory", "second round", "last round", "may grow by", "")
            row(*["---"] * 5)
            for name, growth in self.growth.items():
                verdict = "" if growth.holds else "GROWS"
                row(name, *(kib(size) for size in (growth.second, growth.last, growth.slack)), verdict)
        else:
            say("memory: not judged, as that takes three rounds of the schedule")
        say(
            f"\n{self.cores} cores, Envoy {self.envoy}, {self.rate:g} requests/s to each listener, "
            f"{len(self.events)} events in {self.rounds} rounds; {self.command}: took {self.seconds:.0f} s"
        )

    def memory(self, part: Part) -> Iterator[str]:
        samples = [each for each in self.samples if part.at <= each.at < part.at + part.seconds]
        yield kib(statistics.median(each.resident for each in samples)) if samples else "-"
        yield kib(max(largest(each) for each in samples)) if samples else "-"


def row(*cells: object) -> None:
    say(f"| {' | '.join(map(str, cells))} |")


def kib(size: float) -> str:
    return f"{size / 1024:,.1f} MiB" if size >= 1024 else f"{size:,.0f} KiB"


def times(part: Part) -> Iterator[str]:
    for name in PERCENTILES:
        both = (getattr(side, name) for side in (part.graygate, part.plain))
        yield " · ".join("-" if value is None else f"{value:.1f}" for value in both) + " ms"


def losses(part: Part) -> Iterator[str]:
    yield f"{part.graygate.failed:,} · {part.plain.failed:,}"
    yield f"{part.graygate.gated:,}"


def largest(sample: Sample) -> int:
    return max(sample.vms.values(), default=0)


# -- from a run ---------------------------------------------------------------------


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Returns the value in milliseconds that this share of the sorted times does not exceed."""
    if not ordered:
        return None
    place = min(int(share * len(ordered)), len(ordered) - 1)
    return round(1000 * ordered[place], 3)


def side(lines: Sequence[Line]) -> Side:
    ordered = sorted(time for line in lines for time in line.times)
    found = {name: percentile(ordered, share) for name, share in PERCENTILES.items()}
    sent, failed, gated = (sum(getattr(line, name) for line in lines) for name in ("sent", "failed", "gated"))
    return Side(sent, failed, gated, **found)


def together(run: Run, count: int) -> list[Part]:
    """Returns parts of this many windows each."""
    last = max(run.windows, default=-1)
    parts = []
    for first in range(0, last + 1, count):
        windows: list[Window] = [run.windows[number] for number in range(first, first + count) if number in run.windows]
        graygate, plain = (side([getattr(each, name) for each in windows]) for name in ("graygate", "plain"))
        parts.append(Part(round(first * run.window, 1), count * run.window, graygate, plain))
    return parts


def rounds_of(events: Sequence[Happened]) -> dict[int, list[Happened]]:
    found: dict[int, list[Happened]] = {}
    for event in events:
        found.setdefault(event.round, []).append(event)
    return found


def growth(samples: Sequence[Sample], events: Sequence[Happened]) -> dict[str, Growth]:
    """Compares the second round with as many events at the end. Returns {} if these are not all after it."""
    rounds = rounds_of(events)
    if 3 not in rounds:
        return {}
    begin, end = rounds[2][0].begin, rounds[3][0].begin
    last = events[-len(rounds[2])].begin
    if last < end:
        return {}
    spans = [
        [each for each in samples if begin <= each.at < end],
        [each for each in samples if last <= each.at < events[-1].end],
    ]
    if not all(spans):
        return {}
    medians = [
        {
            "resident": statistics.median(each.resident for each in span),
            "allocated": statistics.median(each.allocated for each in span),
            "largest VM": statistics.median(map(largest, span)),
        }
        for span in spans
    ]
    return {name: Growth(medians[0][name], medians[1][name], slack) for name, slack in SLACK.items()}


def grown(growths: Mapping[str, Growth]) -> list[str]:
    return [
        f"memory, {name}: {kib(growth.second)} in the second round, {kib(growth.last)} in the last one; "
        f"at most {kib(growth.slack)} more are allowed"
        for name, growth in growths.items()
        if not growth.holds
    ]


def windows_of(run: Run) -> tuple[list[Part], list[Part]]:
    """Returns the rows of the table, and the windows of the picture."""
    windows = together(run, 1)
    return together(run, max(round(len(windows) / PARTS), 1)), windows
