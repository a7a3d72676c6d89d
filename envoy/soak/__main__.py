"""Runs the schedule for the given hours, and prints the tables. Exits with 1 if something does not hold."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict

from chaos.scenarios import FAULTS
from harness.arguments import new_file
from harness.built import are_built
from harness.envoy import PROJECT, Envoy, version
from harness.say import say
from harness.signals import end_by_signals
from harness.tool import BINARY
from harness.wait import until

from . import ledger, report
from .events import LAST, SCHEDULE, Event
from .ledger import Sum
from .memory import ACTIVE
from .picture import draw
from .report import Report
from .run import HALF, VERSIONS, Happened, Run, config
from .service import Told

NEEDED = {
    PROJECT / "dist/graygate.wasm": "make wasm",
    PROJECT / FAULTS: ".ci/wasm faults",
    BINARY: "make tool",
}
# Requests a second to each listener: a part of what two cores can do.
RATE = 150.0
RELOADED = "wasm.graygate.vm_reload_success"
# In seconds. An hour has five rounds and more, and each event at most this long.
MOST_PACE, ROUNDS = 60.0, 5


def hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number of hours above 0, such as 1 or 0.05")
    return value


def options() -> argparse.Namespace:
    about = "an Envoy under steady load, with policy changes, faults and rollouts"
    parser = argparse.ArgumentParser(prog="soak", description=about)
    parser.add_argument("--hours", type=hours, default=1.0, help="how long it runs; 1 unless given")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures there")
    parser.add_argument("--svg", type=new_file, metavar="FILE", help="draw them there")
    return parser.parse_args()


def happen(run: Run, event: Event, number: int) -> None:
    begin = run.now
    event.run(run)
    run.happened.append(Happened(event.name, number, round(begin, 1), round(run.now, 1)))
    say(f"{run.now / 60:.1f} min, round {number}: {event.name}")


def follow_schedule(run: Run, seconds: float) -> None:
    number = 1
    while True:
        for event in SCHEDULE:
            due = run.now + run.pace
            happen(run, event, number)
            time.sleep(max(due - run.now, 0))
            if run.now >= seconds:
                return
        number += 1


def settled(envoy: Envoy) -> bool:
    """Returns whether the last event is over. Gauges tell of a policy from its next tick on."""
    stats = envoy.stats("wasmcustom.graygate_")
    ready = [value for name, value in stats.items() if name.startswith("wasmcustom.graygate_upstream_ready.")]
    shown = ledger.shares(stats, HALF)
    return ready == [1] * len(VERSIONS) and all(each.holds for each in shown)


def sums(run: Run) -> list[Sum]:
    envoy = run.envoy
    stats = envoy.stats()
    return [
        *run.ledger.sums(stats, run.again),
        *ledger.transitions(stats, {name: run.outages[name] for name in VERSIONS}),
        *ledger.shares(stats, HALF),
        Sum.exact("wrong policies refused", envoy.refusals(), run.wrong, "policies"),
        Sum.exact("drains", envoy.counter("graygate_lifecycle_changes_total", to="draining"), run.drains, "orders"),
        Sum.exact("VMs reloaded", stats[RELOADED], 0, "VMs"),
        Sum.exact("VMs", stats[ACTIVE], run.vms, "VMs"),
    ]


def sums_of_vms(run: Run) -> list[Sum]:
    stats = run.envoy.stats()
    return [
        Sum.exact("VMs reloaded at the end", stats[RELOADED], run.deaths, "VMs"),
        Sum.exact("VMs after the last new module", stats[ACTIVE], run.vms, "VMs"),
        Sum.exact("probes that the filter did not answer", len(run.lost_probes()), 0, "probes"),
    ]


def measure(given: argparse.Namespace) -> Report:
    begun = time.monotonic()
    seconds = 3600 * given.hours
    pace = min(MOST_PACE, seconds / (ROUNDS * len(SCHEDULE)))
    with ExitStack() as stack:
        services = {name: stack.enter_context(Told(name)) for name in VERSIONS}
        envoy = stack.enter_context(Envoy(config({name: each.port for name, each in services.items()})))
        run = Run(envoy, services, seconds, pace)
        found: list[Sum] = []
        growth: dict[str, report.Growth] = {}
        try:
            with run.load(RATE):
                follow_schedule(run, seconds)
            until(lambda: settled(envoy), 60, "both upstreams ready, and the last policy's shares in use")
            found = sums(run)
            growth = report.growth(run.samples, run.happened)
            with run.load(RATE):
                for event in LAST:
                    happen(run, event, run.happened[-1].round)
            found += sums_of_vms(run)
        # The harness raises these if a process does not start, or something does not happen in time.
        except (AssertionError, OSError, RuntimeError) as error:
            run.problems.append(f"did not run to its end: {error}")
            print(envoy.tail(), file=sys.stderr)
        parts, windows = report.windows_of(run)
        return Report(
            command=shlex.join(["python", "-m", "soak", *sys.argv[1:]]),
            cores=len(os.sched_getaffinity(0)),
            envoy=version(),
            hours=given.hours,
            seconds=round(time.monotonic() - begun, 1),
            rate=RATE,
            rounds=max((each.round for each in run.happened), default=0),
            again=run.again,
            lost_alone=run.lost_alone,
            parts=parts,
            windows=windows,
            samples=run.samples,
            events=run.happened,
            growth=growth,
            sums=found,
            problems=[*run.problems, *ledger.problems(found), *report.grown(growth)],
        )


def main() -> int:
    given = options()
    if not are_built(NEEDED):
        return 1
    end_by_signals()
    try:
        found = measure(given)
    except KeyboardInterrupt:
        return 130
    say("")
    found.show()
    if given.json:
        given.json.write_text(json.dumps(asdict(found)) + "\n")
    if given.svg:
        given.svg.write_text(draw(found))
    for problem in found.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
