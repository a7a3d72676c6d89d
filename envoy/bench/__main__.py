"""Measures what graygate costs and prints tables. Exits with 0 after a measurement, even if a limit is exceeded."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from harness.arguments import new_file, positive
from harness.config import MODULE, socket_address
from harness.envoy import PROJECT, Envoy
from harness.signals import end_by_signals

from .contestants import APP, FLOORS, NOOP, REQUESTS, Contestant, direct
from .measure import measure
from .placement import pin, placement
from .report import Progress, Report, machine, show
from .tables import TABLES

# Many short bursts, so that each contestant has some without noise.
ROUNDS, SECONDS = 25, 0.12


def burst(text: str) -> float:
    """Parses the length of a burst. It is at least 0.1 s, as wrk checks ten times a second whether it has to stop."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number of seconds from 0.1 to 10")
    return value


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="what graygate costs in CPU time per request")
    rounds = f"{ROUNDS} if not given; no limit can be told with less than 6"
    parser.add_argument("--rounds", type=positive, default=ROUNDS, metavar="N", help=rounds)
    length = f"of load in each; {SECONDS} if not given; twice as long with cold caches and bodies"
    parser.add_argument("--seconds", type=burst, default=SECONDS, metavar="S", help=length)
    only = "this table alone, or more if given again"
    parser.add_argument("--table", action="append", choices=TABLES, help=only)
    other = "another build of graygate, measured in turn with this one; of graygate-requests.wasm if its name begins so"
    parser.add_argument("--beside", type=Path, metavar="MODULE", help=other)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there, each round's too")
    return parser.parse_args()


def upstream() -> Envoy:
    """Returns the Envoy that is the upstream of all policies. It gets the requests without a direct response."""
    listeners = [Contestant("upstream", routes=[direct(APP)]).listener("app")]
    document = {
        "node": {"id": "upstream", "cluster": "bench"},
        "admin": {"address": socket_address()},
        "static_resources": {"listeners": listeners},
    }
    return Envoy(document, concurrency=1, log_level="warning")


def run(names: Sequence[str], rounds: int, seconds: float, other: Path | None) -> Report:
    begun = time.monotonic()
    tables = {name: TABLES[name]() for name in names}
    if other:
        tables = {name: table.with_beside(other.resolve()) for name, table in tables.items()}
    cores = frozenset(os.sched_getaffinity(0))
    results = {}
    with ExitStack() as stack:
        app = stack.enter_context(upstream())
        tell = stack.enter_context(Progress())
        version = json.loads(app.admin("/server_info"))["version"].split("/")[1]
        for name, table in tables.items():
            where = placement(cores, pinned=table.pinned)
            # Later processes inherit the core of this program.
            for process in (0, app.pid):
                pin(process, where.load)
            results[name] = measure(name, table, app.port("app"), rounds, seconds, where, tell)
    for name, table in tables.items():
        show(table, results[name])
    return Report(
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        machine=machine(version),
        rounds=rounds,
        seconds=round(time.monotonic() - begun, 1),
        tables=results,
    )


def main() -> int:
    given = options()
    if given.beside and not given.beside.is_file():
        print(
            f"{given.beside}: no such file; --beside takes a module such as one kept from an earlier build",
            file=sys.stderr,
        )
        return 1
    built = [(MODULE, "make wasm"), (REQUESTS, "make wasm")]
    for module, maker in (*built, *((each, ".ci/bench") for each in (NOOP, *FLOORS.values()))):
        if not (PROJECT / module).exists():
            print(f"{module}: not there; build it with: {maker}", file=sys.stderr)
            return 1
    if not shutil.which("wrk"):
        print("wrk: no such program; install it with: .ci/bench", file=sys.stderr)
        return 1
    end_by_signals()
    try:
        report = run(list(dict.fromkeys(given.table or TABLES)), given.rounds, given.seconds, given.beside)
    except KeyboardInterrupt:
        return 130
    print("\n" + "\n".join(report.machine.lines()))
    print(f"{report.command}: {report.rounds} rounds, took {report.seconds:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
