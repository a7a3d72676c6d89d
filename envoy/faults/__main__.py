"""Runs the comparison and prints its tables. Exits with 0 after a measurement, whatever the figures are."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from harness.arguments import new_file, positive
from harness.built import are_built
from harness.envoy import version
from harness.say import say
from harness.signals import end_by_signals

from . import events, outages
from .report import MODULE, Report

NAMES = (*outages.FAULTS, *events.EVENTS_BY_NAME)


def name(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {', '.join(NAMES)}")
    return text


def duration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number of seconds above 0, up to 3600")
    return value


def options() -> argparse.Namespace:
    about = "how graygate, Envoy's outlier detection and nothing fare with faults and with healthy events"
    parser = argparse.ArgumentParser(prog="faults", description=about)
    only = f"this fault or event alone, or more if given again: {', '.join(NAMES)}"
    parser.add_argument("--only", action="append", type=name, metavar="NAME", help=only)
    healthy = "how long all is well before the faults; 15 if not given"
    parser.add_argument("--healthy", type=duration, default=15.0, metavar="SECONDS", help=healthy)
    replicas = "how many hosts fail in the faults, or also this many if given again; 1 and then 5 if not given"
    parser.add_argument("--replicas", action="append", type=positive, metavar="N", help=replicas)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the same figures there")
    return parser.parse_args()


def run(names: Sequence[str], healthy_seconds: float, replicas: Sequence[int]) -> Report:
    begun = time.monotonic()
    healthy: dict[str, outages.Healthy] = {}
    faults: dict[int, outages.FaultFigures] = {}
    chosen = [fault for fault in names if fault in outages.FAULTS]
    for count in replicas if chosen else ():
        # All is well in the same way for any number of hosts.
        found, faults[count] = outages.run(count, 0.0 if healthy else healthy_seconds, chosen)
        healthy = healthy or found
    figures = {event: events.run(event) for event in names if event in events.EVENTS_BY_NAME}
    return Report(
        command=shlex.join(["python", "-m", "faults", *sys.argv[1:]]),
        cores=len(os.sched_getaffinity(0)),
        envoy=version(),
        module_bytes=MODULE.stat().st_size,
        seconds=round(time.monotonic() - begun, 1),
        healthy_seconds=healthy_seconds,
        healthy=healthy,
        faults=faults,
        events=figures,
    )


def main() -> int:
    given = options()
    if not are_built({MODULE: "make wasm"}):
        return 1
    end_by_signals()
    names, replicas = (list(dict.fromkeys(each)) for each in (given.only or NAMES, given.replicas or (1, 5)))
    try:
        report = run(names, given.healthy, replicas)
    except KeyboardInterrupt:
        return 130
    say("")
    report.show()
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
