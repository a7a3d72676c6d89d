"""The tables of a run, and what `--json` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.envoy import PROJECT
from harness.say import say

from . import events, outages
from .outages import RECOVERY_DEADLINE, Figures, Healthy

MODULE = PROJECT / "dist/graygate.wasm"

WIDTHS = (39, 23, 17, 15, 10, 20)
EVENT_WIDTHS = (39, 20, 20, 20, 20)
HEALTHY_HEADER = ("requests", "answered 500", "refused", "changes")
HEADER = ("failed before the gate", "time to gate, s", "failed in all", "requests", "time to recover, s")


def row(*cells: object, widths: Sequence[int] = WIDTHS) -> None:
    """Prints a row, with text on the left and numbers on the right."""
    first, *others = (str(cell) for cell in cells)
    numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False))
    say((first.ljust(widths[0]) + "".join(numbers)).rstrip())


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
    """What `--json` writes. `faults` has each number of replicas, each fault and each contestant.

    A contestant that had not recovered before a fault has null for that fault.
    """

    command: str
    cores: int
    envoy: str
    module_bytes: int
    seconds: float
    healthy_seconds: float
    healthy: Mapping[str, Healthy]
    faults: Mapping[int, outages.FaultFigures]
    events: Mapping[str, Mapping[str, events.Figures]]

    def show(self) -> None:
        if self.healthy:
            self.show_healthy()
        for replicas, faults in self.faults.items():
            for fault, figures in faults.items():
                row(f"{fault.upper()}, {replicas} REPLICA{'S' if replicas > 1 else ''}", *HEADER)
                for name, found in figures.items():
                    row(title(name), *(cells(found) if found else ["not well when it began"]))
                say("")
        if any("disappears" in faults for faults in self.faults.values()):
            say("  disappears: Envoy itself refuses at once what is for a cluster with no host\n")
        if self.events:
            self.show_events()
        say(f"{self.cores} cores, Envoy {self.envoy}, {MODULE.name} {self.module_bytes} bytes")
        say(f"{self.command}: took {self.seconds:.0f} s")

    def show_healthy(self) -> None:
        row(f"HEALTHY FOR {self.healthy_seconds:g} s", *HEALTHY_HEADER)
        for name, healthy in self.healthy.items():
            changes = "-" if healthy.changes is None else healthy.changes
            row(title(name), healthy.requests, healthy.answered_500, healthy.refused, changes)
        say("  changes: of state, which are graygate's transitions and Envoy's ejections\n")

    def show_events(self) -> None:
        titles = (each.title for each in events.CONTESTANTS.values())
        row("HEALTHY EVENTS", *titles, widths=EVENT_WIDTHS)
        for event, figures in self.events.items():
            row(f"  {event}", *map(event_cell, figures.values()), widths=EVENT_WIDTHS)
        say("  requests of other clients: refused by graygate + failed otherwise\n")


def event_cell(figures: events.Figures) -> str:
    return f"{figures.refused} + {figures.failed} of {figures.requests}"


def title(name: str) -> str:
    return f"  {outages.CONTESTANTS[name].title}"
