"""The cost measurement, run as a user runs it with the shortest bursts, and its statistics. None depends on speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.contestants import FLOORS, Contestant, Limit, fnv1a
from bench.figures import Figures, beyond_chance, figures, together
from bench.placement import core_list, placement
from bench.sweep import cache_bytes
from bench.tables import TABLES
from harness.config import MODULE
from harness.envoy import PROJECT

QUICK = ("--rounds", "1", "--seconds", "0.1")
# These contestants together have all filters, all loads, several Envoys and a real upstream. The others differ only in
# their policies.
RUN = ("passed", "split", "cold", "bodies", "workers")


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


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
    machine = report["machine"]
    for name, result in report["tables"].items():
        table = TABLES[name]()
        contestants = table.contestants
        assert ("not pinned" in result["placement"]) == (not table.pinned or machine["cores"] < 2)
        assert list(result["figures"]) == list(contestants)
        for each, found in result["figures"].items():
            assert len(found["rounds"]) == table.parts
            assert found["requests"] > 0
            assert found["in_all"] > 0
            assert (found["over"] is None) == (found["least"] is None) == (contestants[each].baseline is None)
            assert [its["limit"]["against"] for its in found["comparisons"]] == [
                limit.against for limit in contestants[each].limits
            ]
            assert contestants[each].title in done.stdout
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


def exports(module: str) -> set[str]:
    """Returns the names that a module exports."""
    data, at = (PROJECT / module).read_bytes(), 8

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        kind, at = data[at], at + 1
        size = number()
        if kind == 7:
            break
        at += size
    names = set()
    for _ in range(number()):
        length = number()
        names.add(data[at : at + length].decode())
        at += length + 1
        number()
    return names


def test_a_module_by_hand_has_no_callback_that_graygate_lacks():
    def callbacks(module):
        return {name for name in exports(module) if name.startswith("proxy_on_")}

    one = {"proxy_on_request_headers"}
    assert callbacks(FLOORS["headers"]) == callbacks(FLOORS["path"]) == one
    assert one < callbacks(FLOORS["responses"]) <= callbacks(MODULE)


# -- how it counts ----------------------------------------------------------------


def of(others=0.0, **costs) -> dict[str, Figures]:
    """Contestants with the cost of each in each round."""
    contestants = {
        "none": Contestant("no filter", baseline=None),
        "other": Contestant("another"),
        "times": Contestant("ours", limits=[Limit("other", 1.0)]),
        "more": Contestant("ours", limits=[Limit("other", 1.5, "more")]),
        "all": Contestant("ours", limits=[Limit("other", 1.05, "in all")]),
    }
    rounds = {name: costs.get(name, costs["other"]) for name in contestants}
    return figures(contestants, rounds, dict.fromkeys(contestants, 1), others)


def compared(found):
    return found.comparisons[0]


def test_the_cost_is_the_median_of_differences_within_each_round():
    # A slow round slows both. The medians of their total costs would differ by 5.
    found = of(none=[10, 30, 20], other=[14, 33, 25])
    assert (found["none"].over, found["none"].in_all) == (None, 20)
    assert (found["other"].over, found["other"].in_all, found["other"].quartiles) == (4, 25, (3.5, 4.5))


def test_the_least_cost_is_that_of_all_rounds_less_the_least_without_a_filter():
    # The quietest rounds of the two need not be the same.
    found = of(none=[10, 12, 20], other=[16, 13, 25])
    assert (found["none"].least, found["none"].least_in_all) == (None, 10)
    assert (found["other"].least, found["other"].least_in_all) == (3, 13)


@pytest.mark.parametrize(
    ("name", "ours", "its", "measure", "verdict"),
    [
        ("times", 12, 4, 0.5, "ok"),
        ("times", 14, 4, 1.0, "ok"),
        ("times", 16, 4, 1.5, "over"),
        ("more", 15, 4, 1.0, "ok"),
        ("more", 16, 4, 2.0, "over"),
        ("all", 14, 14, 1.0, "ok"),
        ("all", 21, 14, 1.5, "over"),
    ],
)
def test_a_limit_applies_to_the_ratio_the_difference_or_the_total_ratio(name, ours, its, measure, verdict):
    found = compared(of(none=[10] * 6, other=[14] * 6, **{name: [ours] * 6})[name])
    assert (found.its, found.measure, found.least, found.verdict) == (its, measure, measure, verdict)


def test_a_limit_by_the_least_costs_ignores_a_disturbed_round():
    found = compared(of(none=[10, 20, 30], other=[14, 24, 50], times=[50, 12, 50])["times"])
    assert (found.measure, found.least) == (5.0, 0.5)


def test_there_is_no_ratio_to_a_cost_of_zero():
    found = compared(of(none=[10] * 7, other=[9, 10, 11, 10, 10, 10, 10], times=[12] * 7)["times"])
    assert (found.its, found.measure, found.verdict) == (0, None, "too noisy to tell")


@pytest.mark.parametrize(
    ("within", "rounds", "verdict"),
    [
        (5, 5, "too noisy to tell"),
        (6, 6, "ok"),
        (7, 8, "too noisy to tell"),
        (8, 9, "ok"),
        (4, 9, "too noisy to tell"),
        (1, 9, "over"),
        (18, 25, "ok"),
        (17, 25, "too noisy to tell"),
    ],
)
def test_a_verdict_needs_more_agreement_of_the_rounds_than_chance_gives(within, rounds, verdict):
    ours = [12] * within + [16] * (rounds - within)
    found = of(none=[10] * rounds, other=[14] * rounds, times=ours)["times"]
    assert (compared(found).within, found.verdict) == (within, verdict)


def test_a_coin_seldom_falls_so_often_on_one_side():
    assert not beyond_chance(9, 12)
    assert beyond_chance(10, 12)


def test_no_verdict_is_told_while_other_programs_are_busy():
    costs = {"none": [10] * 9, "other": [14] * 9, "times": [12] * 9}
    assert [of(others, **costs)["times"].verdict for others in (0.1, 0.11)] == ["ok", "too noisy to tell"]


@pytest.mark.parametrize(
    ("verdicts", "one", "every"),
    [
        (["ok", "over"], "ok", "over"),
        (["ok", "too noisy to tell"], "ok", "too noisy to tell"),
        (["over", "too noisy to tell"], "too noisy to tell", "over"),
        (["ok", None], "ok", "ok"),
        ([None], None, None),
    ],
)
def test_one_limit_is_enough_or_all_must_be_kept(verdicts, one, every):
    assert together(verdicts, one_is_enough=True) == one
    assert together(verdicts, one_is_enough=False) == every


# -- where it runs ----------------------------------------------------------------


def test_envoy_gets_a_core_of_its_own_if_there_are_two(monkeypatch):
    monkeypatch.setattr("bench.placement.siblings", lambda core: frozenset({core}))
    found = placement(frozenset({0, 1, 2}))
    assert found.envoy == {2}
    assert found.load == {0, 1}
    assert found.said == "pinned: Envoy to core 2, the load and its upstream to 0, 1"


def test_the_load_stays_off_the_hyperthread_beside_envoy_if_it_can(monkeypatch):
    monkeypatch.setattr("bench.placement.siblings", lambda core: frozenset({core, core ^ 1}))
    assert placement(frozenset({0, 1, 2, 3})).load == {0, 1}
    found = placement(frozenset({0, 1}))
    assert found.envoy == {1}
    assert found.load == {0}
    assert found.said.endswith("to 0, a hyperthread of the same core")


@pytest.mark.parametrize(("cores", "pinned"), [({3}, True), ({0, 1}, False)])
def test_the_report_says_that_nothing_is_pinned(cores, pinned):
    found = placement(frozenset(cores), pinned=pinned)
    assert found.envoy == found.load == cores
    assert found.said.startswith("not pinned: ")


def test_lists_of_cores_are_read_as_the_kernel_writes_them():
    assert [core_list(text) for text in ("0\n", "0-2,5\n", "")] == [{0}, {0, 1, 2, 5}, set()]


def test_the_largest_cache_determines_how_much_memory_is_swept(tmp_path):
    for index, size in enumerate(("32K", "1M", "512K")):
        directory = tmp_path / f"index{index}"
        directory.mkdir()
        (directory / "size").write_text(f"{size}\n")
    assert cache_bytes(str(tmp_path)) == 1 << 20
    assert cache_bytes(str(tmp_path / "none")) == 0


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
