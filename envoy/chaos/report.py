"""The table of a run, and what `--json` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.say import say

from .count import Figures

HEADER = ("scenario", "listener", "sent", "failed", "lost alone", "gated", "wrong version", "wrong gate", "tolerated")
WIDTHS = (26, 10, 7, 8, 12, 7, 15, 12)


@dataclass(frozen=True)
class Result:
    """`lost_alone` are requests that failed at the filter's listener while the plain one lost none."""

    graygate: Figures
    plain: Figures
    lost_alone: int
    tolerates: str
    problems: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Report:
    command: str
    cores: int
    envoy: str
    seconds: float
    results: Mapping[str, Result]

    @property
    def problems(self) -> list[str]:
        return [f"{name}: {problem}" for name, result in self.results.items() for problem in result.problems]

    def show(self) -> None:
        row(*HEADER)
        for name, result in self.results.items():
            row(name, "graygate", *cells(result.graygate, result.lost_alone), result.tolerates)
            row("", "plain", *cells(result.plain, "-"), "")
        say(f"\n{self.cores} cores, Envoy {self.envoy}; {self.command}: took {self.seconds:.0f} s")


def cells(figures: Figures, lost_alone: object) -> tuple[object, ...]:
    return (figures.sent, figures.failed, lost_alone, figures.gated, figures.wrong_version, figures.wrong_gate)


def row(name: str, listener: str, *others: object) -> None:
    *numbers, last = others
    texts = name.ljust(WIDTHS[0]) + listener.ljust(WIDTHS[1])
    right = "".join(str(each).rjust(width) for each, width in zip(numbers, WIDTHS[2:], strict=True))
    say(f"{texts}{right}  {last}".rstrip())
