"""Runs the scenarios and prints their table. Exits with 1 if graygate did worse than the plain listener."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from harness.arguments import new_file
from harness.built import are_built
from harness.envoy import PROJECT, version
from harness.say import say
from harness.signals import end_by_signals
from harness.tool import BINARY

from .count import Trial
from .report import Report, Result
from .scenarios import FAULTS, SCENARIOS

NEEDED = {
    PROJECT / "dist/graygate.wasm": "make wasm",
    PROJECT / FAULTS: ".ci/wasm faults",
    PROJECT / "target/clock.so": ".ci/clock",
    BINARY: "make tool",
}

NOTHING = Trial((), (), {})


def name(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {', '.join(SCENARIOS)}")
    return text


def options() -> argparse.Namespace:
    about = "what users lose with graygate and without it, while things fail"
    parser = argparse.ArgumentParser(prog="chaos", description=about)
    only = f"this scenario alone, or more if given again: {', '.join(SCENARIOS)}"
    parser.add_argument("--only", action="append", type=name, metavar="NAME", help=only)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the same figures there")
    return parser.parse_args()


def result(name: str) -> Result:
    say(f"{name}: ", end="")
    begun = time.monotonic()
    scenario = SCENARIOS[name]
    try:
        trial = scenario.run()
        problems = trial.problems()
    # The harness raises these if a process does not start, or something does not happen in time.
    except (AssertionError, OSError, RuntimeError) as error:
        trial, problems = NOTHING, [f"did not run to its end: {error}"]
        for note in getattr(error, "__notes__", ()):
            # The end of Envoy's log.
            print(note, file=sys.stderr)
    seconds = round(time.monotonic() - begun, 1)
    say(f"{seconds:.0f} s, {'; '.join(problems) or 'as it should be'}")
    graygate, plain = trial.figures()
    return Result(graygate, plain, len(trial.wrongs()["failed"]), scenario.tolerates, problems, seconds)


def run(names: Sequence[str]) -> Report:
    begun = time.monotonic()
    results = {name: result(name) for name in names}
    return Report(
        command=shlex.join(["python", "-m", "chaos", *sys.argv[1:]]),
        cores=len(os.sched_getaffinity(0)),
        envoy=version(),
        seconds=round(time.monotonic() - begun, 1),
        results=results,
    )


def main() -> int:
    given = options()
    if not are_built(NEEDED):
        return 1
    end_by_signals()
    try:
        report = run(list(dict.fromkeys(given.only or SCENARIOS)))
    except KeyboardInterrupt:
        return 130
    say("")
    report.show()
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    for problem in report.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
