"""A run of `make soak HOURS=…` of some seconds, and how it adds up, on requests and samples made up here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from chaos.count import CLOSED, Outage, Tolerated, Trial
from chaos.pairs import Asked, Pair, Pairs
from harness.load import Answer, Request
from harness.upstream import Upstream
from harness.wait import until
from soak import __main__ as program
from soak import ledger, memory, picture, report
from soak.ledger import Ledger, Said, Sum
from soak.report import Growth, Part, Report, Side
from soak.run import Happened

# Some seconds: the first event of the schedule, and the last one.
SHORT = "0.0005"


def soak(*arguments):
    command = [sys.executable, "-m", "soak", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


def test_a_run_of_some_seconds_adds_up_and_is_drawn(tmp_path):
    file, drawn = tmp_path / "soak.json", tmp_path / "soak.svg"
    done = soak("--hours", SHORT, "--json", file, "--svg", drawn)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = picture.read(json.loads(file.read_text()))
    assert [each.name for each in found.events] == ["rollout", "VMs die", "new module"]
    assert found.problems == []
    assert found.growth == {}
    assert "memory: not judged" in done.stdout
    sums = {each.what: each for each in found.sums}
    assert all(each.holds for each in sums.values())
    sent = sum(part.graygate.sent for part in found.parts)
    assert sent == sum(part.plain.sent for part in found.windows)
    # Those after the sums are for the VMs that die. Those besides the load ask whether a policy is in use, and probe.
    assert sent > sums["requests at plain"].proxy
    assert sums["requests at graygate"].proxy > sums["requests at plain"].proxy > 100
    assert sums["VMs reloaded at the end"].proxy == 3
    # All policies of a rollout were in use.
    assert sums["given v1"].proxy > 0
    assert sums["given v2"].proxy > 0
    assert sums["kept from closed by a gate"].proxy > 0
    assert len(found.samples[0].vms) == found.samples[0].active
    assert "\n| sum | proxy | clients and schedule |  |\n" in done.stdout
    assert ET.fromstring(drawn.read_text()).tag.endswith("svg")
    assert drawn.read_text() == picture.draw(found)


def processes(group):
    done = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.split().count(str(group))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_all_processes(number):
    command = [sys.executable, "-m", "soak", "--hours", "1"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with running:
        # Each of the two services and Envoy is a process of the group.
        until(lambda: processes(running.pid) >= 4, 60, "its processes")
        time.sleep(0.2)
        running.send_signal(number)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "")
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "long", ""])
def test_a_time_that_is_none_is_refused(monkeypatch, capsys, hours):
    monkeypatch.setattr(sys, "argv", ["soak", f"--hours={hours}"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert f"{hours!r}; allowed: a number of hours above 0, such as 1 or 0.05" in capsys.readouterr().err


# -- the load -----------------------------------------------------------------------


def test_each_request_is_in_one_part_of_the_load():
    pairs = [Pair("alice", "/", Request("/"), Request("/"))]
    parts = []
    with Upstream("one") as one, Upstream("other") as other:
        with Pairs(one.port, other.port, pairs, rate=400) as load:
            for _ in range(10):
                time.sleep(0.05)
                parts.append(load.take())
        parts.append((load.graygate.asked, load.plain.asked))
        assert one.requests == other.requests == load.sent
    for graygate, plain in parts:
        assert {asked.number for asked in graygate} == {asked.number for asked in plain}
    numbers = [asked.number for graygate, _ in parts for asked in graygate]
    assert sorted(numbers) == list(range(1, load.sent + 1))


# -- what is counted ----------------------------------------------------------------

VERSIONS = {"alice": {"v1"}, "bob": {"v2"}, "carol": {"v1", "v2"}}
KEPT = b"policy reviews: upstream %s is not ready: check-failed\n"


def asked(status, version=None, body=b"", user="alice", path="/", at=0.0):
    return Asked(user, path, Answer(status, version, body, at, at + 0.001))


def counted(*graygate, tolerated=()):
    found = Ledger()
    plain = [asked(200, "v1", user=each.user) for each in graygate]
    found.add(Trial(graygate, plain, VERSIONS, (Outage("v1", 0, 9),), tolerated))
    return found


def test_a_request_counts_for_the_version_that_answers_or_that_its_user_has():
    found = counted(asked(200, "v1"), asked(500, "v2"), asked(504, user="bob"), asked(503, user="alice"))
    assert (found.assigned, found.unsure) == ({"v1": 2, "v2": 2}, 0)


def test_a_request_that_a_gate_keeps_counts_for_its_upstream_and_for_no_version():
    found = counted(asked(503, body=KEPT % b"v1"), asked(503, body=KEPT % b"closed", path=CLOSED))
    assert (found.assigned, found.gated) == ({}, {"v1": 1, "closed": 1})


def test_a_request_may_count_if_its_version_is_unknown_or_its_vm_has_died():
    span = Tolerated(("failed",), 10, 12, "a VM is reloaded")
    found = counted(asked(503, user="carol"), asked(503, at=11), tolerated=[span])
    assert (found.assigned, found.unsure) == ({}, 2)


def test_a_request_without_an_answer_is_a_problem():
    found = counted(asked(0))
    assert found.unanswered == 1
    assert ledger.problems(found.sums(stats(graygate=1, plain=1, v1=1), 0)) == [
        "without an answer: the proxy counts 1 requests, and 0 is right"
    ]


def metric(name, value, **labels):
    return {f"wasmcustom.{name}." + "".join(f"{key}=.={text};.;" for key, text in labels.items()): value}


def stats(graygate=3, plain=2, v1=1, closed=0, live=0):
    return {
        "http.graygate.downstream_rq_total": graygate,
        "http.plain.downstream_rq_total": plain,
        **metric("graygate_assignments_total", v1, version="v1", reason="sticky"),
        **metric("graygate_assignments_total", 0, version="v1", reason="fallback"),
        **metric("graygate_gated_requests_total", closed, upstream="closed", reason="forced"),
        **metric("graygate_probe_answers_total", live, probe="liveness", code="200"),
        **metric("graygate_probe_answers_total", 0, probe="liveness", code="503"),
    }


def as_it_should_be():
    found = counted(asked(200, "v1"), asked(503, body=KEPT % b"closed", path=CLOSED))
    found.probe([Said("liveness", 200, "policy reviews: alive\n", 0.0)])
    return found


def test_sums_hold_if_the_proxy_has_counted_the_same():
    assert ledger.problems(as_it_should_be().sums(stats(closed=1, live=1), 0)) == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"graygate": 4}, "requests at graygate: the proxy counts 4 requests, and 3 is right"),
        ({"plain": 1}, "requests at plain: the proxy counts 1 requests, and 2 is right"),
        ({"v1": 2}, "given v1: the proxy counts 2 requests, and 1 is right"),
        ({"closed": 0}, "kept from closed by a gate: the proxy counts 0 requests, and 1 is right"),
        ({"live": 2}, "liveness answered 200: the proxy counts 2 probes, and 1 is right"),
    ],
)
def test_each_sum_that_does_not_hold_is_named(wrong, what):
    assert what in ledger.problems(as_it_should_be().sums(stats(**{"closed": 1, "live": 1, **wrong}), 0))


def test_a_request_that_was_sent_once_more_may_count_twice():
    assert ledger.problems(as_it_should_be().sums(stats(graygate=4, plain=3, v1=2, closed=1, live=1), 1)) == []


def test_a_probe_that_the_filter_did_not_answer_is_kept_apart():
    found = Ledger()
    found.probe([Said("liveness", 503, "", 1.0), Said("liveness", 0, "refused", 2.0)])
    assert (found.probes, found.graygate, len(found.lost_probes)) == ({}, 2, 2)


def moved(start, end, times, upstream="v1"):
    labels = {"upstream": upstream, "from": start, "to": end, "reason": "check-failed"}
    return metric("graygate_transitions_total", times, **labels)


def test_an_upstream_must_leave_each_phase_as_often_as_it_enters_it():
    whole = moved("ready", "not-ready", 3) | moved("not-ready", "trial", 3) | moved("trial", "ready", 3)
    assert ledger.problems(ledger.transitions(whole, {"v1": 3})) == []
    lost = whole | moved("trial", "ready", 2)
    assert ledger.problems(ledger.transitions(lost, {"v1": 3})) == [
        "v1 entered ready, and left it: the proxy counts 2 transitions, and 3 is right",
        "v1 entered trial, and left it: the proxy counts 3 transitions, and 2 is right",
    ]


def test_each_outage_must_show_in_transitions():
    seen = moved("ready", "not-ready", 2) | moved("not-ready", "ready", 2)
    assert ledger.problems(ledger.transitions(seen, {"v1": 3})) == [
        "v1 left ready: the proxy counts 2 transitions, and 3 to 30 is right"
    ]
    assert ledger.problems(ledger.transitions({}, {"v1": 1}))


def test_the_shares_must_be_those_of_the_last_policy():
    shown = metric("graygate_version_share_basis_points", 9_000, version="v1")
    shown |= metric("graygate_version_share_basis_points", 1_000, version="v2")
    assert ledger.problems(ledger.shares(shown, 10)) == []
    assert len(ledger.problems(ledger.shares(shown, 50))) == 2


# -- memory -------------------------------------------------------------------------

MAPS = """\
55b5e92a8000-55b5eb325000 r--p 00000000 08:01 1234 /usr/bin/envoy
7f6787630000-7f6787690000 rw-p 00000000 00:00 0
7f6787690000-7f6987630000 ---p 00000000 00:00 0
7f6be8e40000-7f6be96b0000 rw-p 00000000 00:00 0
7f6be96b0000-7f6de9640000 ---p 00000000 00:00 0
7f7049650000-7f7049660000 rw-p 00000000 00:00 0
7f7049660000-7f7049661000 ---p 00000000 00:00 0
"""


def test_the_memory_of_a_vm_is_read_from_its_mapping_also_if_a_neighbour_has_the_same_rights():
    assert memory.linear_memories(MAPS) == {"7f6787630000": 384, "7f6be9640000": 448}


def test_the_memory_of_each_vm_of_a_real_envoy_is_found(start, policy):
    envoy = start(policy)
    found = memory.sample(envoy, 0.0)
    assert len(found.vms) == found.active > 2
    assert all(64 <= size <= 4096 and size % 64 == 0 for size in found.vms.values())
    assert found.resident > found.allocated > 0


def samples(**last):
    """Returns samples of three rounds of ten seconds. `last` is for those of the third."""
    each = memory.Sample(0.0, 90_000, 16_000, 60_000, {"a": 320, "b": 384}, 2, {})
    rounds = [replace(each, at=at, **(last if at >= 20 else {})) for at in range(30)]
    # While it warms up, memory may grow.
    return [replace(each, resident=50_000) if each.at < 10 else each for each in rounds]


EVENTS = [Happened("rollout", 1 + at // 10, at, at + 3.0) for at in range(0, 30, 5)]


def test_memory_may_grow_in_the_first_round_and_by_the_slack():
    found = report.growth(samples(resident=90_000 + 4_096, vms={"a": 448}), EVENTS)
    assert found == {
        "resident": Growth(90_000, 94_096, 4_096),
        "allocated": Growth(16_000, 16_000, 1_024),
        "largest VM": Growth(384, 448, 64),
    }
    assert report.grown(found) == []


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ({"resident": 94_097}, "resident"),
        ({"allocated": 17_025}, "allocated"),
        ({"vms": {"a": 320, "b": 512}}, "largest VM"),
    ],
)
def test_memory_that_grows_by_more_is_a_problem(last, name):
    [problem] = report.grown(report.growth(samples(**last), EVENTS))
    assert problem.startswith(f"memory, {name}: ")


def test_memory_is_not_judged_before_the_end_of_a_third_round():
    assert report.growth(samples(resident=1_000_000), EVENTS[:5]) == {}
    assert report.growth(samples(resident=1_000_000), EVENTS[:3]) == {}


# -- the report ---------------------------------------------------------------------


def test_percentiles_are_of_all_times_in_milliseconds():
    ordered = [number / 1000 for number in range(1, 1001)]
    assert [report.percentile(ordered, share) for share in (0.5, 0.9, 0.99, 0.999)] == [501, 901, 991, 1000]
    assert report.percentile([0.002], 0.999) == 2
    assert report.percentile([], 0.5) is None


def made(problems=(), sums=()):
    side = Side(9, 0, 1, 1.0, 2.0, 3.0, 4.0)
    parts = [Part(0.0, 30.0, side, replace(side, p50=None))]
    events = [Happened("rollout", 1, 1.0, 4.0)]
    return Report(
        command="python -m soak",
        cores=2,
        envoy="1.40.0",
        hours=0.01,
        seconds=30.0,
        rate=150,
        rounds=1,
        again=0,
        lost_alone=0,
        parts=parts,
        windows=parts,
        samples=samples(),
        events=events,
        growth={"resident": Growth(2048, 9999, 4096)},
        sums=sums,
        problems=problems,
    )


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        (made(), 0, ""),
        (made(problems=["given v1: …"]), 1, "FAILED: given v1: …\n"),
    ],
)
def test_a_problem_fails_the_run_with_a_line_that_names_it(monkeypatch, capsys, tmp_path, found, code, says):
    monkeypatch.setattr(program, "measure", lambda _: found)
    monkeypatch.setattr(program, "end_by_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["soak", "--json", str(tmp_path / "a.json"), "--svg", str(tmp_path / "a.svg")])
    assert program.main() == code
    assert capsys.readouterr().err == says
    assert picture.read(json.loads((tmp_path / "a.json").read_text())).problems == list(found.problems)
    assert ET.fromstring((tmp_path / "a.svg").read_text()).tag.endswith("svg")


def test_the_tables_say_what_does_not_hold(capsys):
    made(sums=[Sum.exact("given v1", 3, 4), Sum("given v2", 5, 4, 6)]).show()
    printed = capsys.readouterr().out
    assert "| 0.0 | 9 | 1.0 · - ms | 2.0 · 2.0 ms | 3.0 · 3.0 ms | 4.0 · 4.0 ms | 0 · 0 | 1 | " in printed
    assert "| given v1 | 3 requests | 4 | WRONG |" in printed
    assert "| given v2 | 5 requests | 4 to 6 |  |" in printed
    assert "| resident | 2.0 MiB | 9.8 MiB | 4.0 MiB | GROWS |" in printed
