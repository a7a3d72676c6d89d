"""The cost measurement, run as a user runs it with the shortest bursts, and its statistics. None depends on speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.contestants import Contestant, Limit, fnv1a
from bench.measure import Figures, figures
from bench.tables import TABLES
from harness.config import MODULE
from harness.envoy import PROJECT

QUICK = ("--rounds", "1", "--seconds", "0.1")
# These contestants together have all filters, several Envoys and a real upstream. The others differ only in their
# policies.
RUN = ("passed", "split", "gate", "workers")


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [number for each in tree for number in numbers(each)]
    return [tree] if isinstance(tree, int | float) and not isinstance(tree, bool) else []


def test_every_contestant_responds_correctly_and_is_measured(tmp_path):
    file = tmp_path / "bench.json"
    done = bench(*QUICK, *(part for name in RUN for part in ("--table", name)), "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert all(math.isfinite(number) for number in numbers(report))
    assert list(report["tables"]) == list(RUN)
    for name, result in report["tables"].items():
        contestants = TABLES[name]().contestants
        assert list(result["figures"]) == list(contestants)
        for each, found in result["figures"].items():
            assert len(found["rounds"]) == 1
            assert found["requests"] > 0
            assert found["in_all"] > 0
            assert (found["over"] is None) == (contestants[each].baseline is None)
            assert contestants[each].title in done.stdout
    machine = report["machine"]
    assert f"{machine['cores']} cores, {machine['cpu']}; Linux {machine['kernel']}" in done.stdout
    assert f"Envoy {machine['envoy']}; wrk " in done.stdout
    assert set(machine["module_bytes"]) == {"graygate-requests.wasm", "graygate.wasm", "noop.wasm"}
    for name, size in machine["module_bytes"].items():
        assert f"{name} {size} bytes" in done.stdout
    assert "bench --rounds 1 --seconds 0.1 --table passed" in done.stdout


def test_another_build_is_measured_beside_this_one(tmp_path):
    module = tmp_path / "before.wasm"
    module.write_bytes((PROJECT / MODULE).read_bytes())
    done = bench(*QUICK, "--table", "gate", "--beside", str(module))
    assert (done.returncode, done.stderr) == (0, "")
    assert "graygate.wasm, a gate without a match, before.wasm beside" in done.stdout
    assert "graygate-requests.wasm, a gate without a match, before.wasm beside" not in done.stdout


@pytest.mark.parametrize(
    ("build", "table", "beside"),
    [
        ("before.wasm", "split", ["whole"]),
        ("graygate-requests-before.wasm", "split", ["requests"]),
        # Only graygate-requests.wasm has this policy, and graygate.wasm can serve it, too.
        ("before.wasm", "workers", ["graygate-one", "graygate-two"]),
        ("graygate-requests-before.wasm", "breaker", []),
    ],
)
def test_a_build_is_put_beside_each_policy_once(build, table, beside):
    added = TABLES[table]().with_beside(Path(build)).contestants.keys() - TABLES[table]().contestants.keys()
    assert sorted(added) == [f"{name}-{Path(build).stem}" for name in beside]


def test_a_missing_build_is_named(tmp_path):
    done = bench(*QUICK, "--table", "gate", "--beside", str(tmp_path / "none.wasm"))
    assert done.returncode == 1
    assert f"{tmp_path / 'none.wasm'}: no such file" in done.stderr


# -- how it counts ----------------------------------------------------------------


def of(**costs) -> dict[str, Figures]:
    """Three contestants with the cost of each in each round."""
    contestants = {
        "none": Contestant("no filter", baseline=None),
        "other": Contestant("another"),
        "times": Contestant("ours", limit=Limit("other", 1.0)),
        "more": Contestant("ours", limit=Limit("other", 1.5, "more")),
        "all": Contestant("ours", limit=Limit("other", 1.05, "in all")),
    }
    rounds = {name: costs.get(name, costs["other"]) for name in contestants}
    return figures(contestants, rounds, dict.fromkeys(contestants, 1))


def test_the_cost_is_the_median_of_differences_within_each_round():
    # A slow round slows both. The medians of their total costs would differ by 5.
    found = of(none=[10, 30, 20], other=[14, 33, 25])
    assert (found["none"].over, found["none"].in_all) == (None, 20)
    assert (found["other"].over, found["other"].in_all, found["other"].quartiles) == (4, 25, (3.5, 4.5))


@pytest.mark.parametrize(
    ("name", "ours", "its", "measure", "ok"),
    [
        ("times", [12, 12, 12], 4, 0.5, True),
        ("times", [14, 14, 14], 4, 1.0, True),
        ("times", [16, 16, 16], 4, 1.5, False),
        ("more", [15, 15, 15], 4, 1.0, True),
        ("more", [16, 16, 16], 4, 2.0, False),
        ("all", [14, 14, 14], 14, 1.0, True),
        ("all", [21, 21, 21], 14, 1.5, False),
    ],
)
def test_a_limit_applies_to_the_ratio_the_difference_or_the_total_ratio(name, ours, its, measure, ok):
    found = of(none=[10, 10, 10], other=[14, 14, 14], **{name: ours})[name]
    assert (found.its, found.measure, found.ok) == (its, measure, ok)


def test_there_is_no_ratio_to_a_cost_of_zero():
    found = of(none=[10, 10, 10], other=[9, 10, 11], times=[12, 12, 12])["times"]
    assert (found.its, found.measure, found.ok) == (0, None, None)


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_the_hash_for_the_lua_contestant_is_fnv1a(text, value):
    assert fnv1a(text) == value


# -- what it refuses --------------------------------------------------------------


@pytest.mark.parametrize("seconds", ["0", "0.05", "-1", "nan", "inf", "11", "long", ""])
def test_a_burst_that_is_too_short_or_too_long_is_refused(seconds):
    done = bench(f"--seconds={seconds}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{seconds!r}; allowed: a number of seconds from 0.1 to 10" in done.stderr


def test_an_unknown_table_is_refused():
    done = bench("--table", "everything")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'everything' (choose from" in done.stderr
