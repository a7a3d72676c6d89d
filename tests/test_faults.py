"""The fault comparison, run as a user runs it with one fault and a short healthy time, and its statistics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from faults import events, outages
from faults.answers import failed, first_of_run, good, refused
from harness.load import Answer

SCRIPT = [sys.executable, "-m", "faults"]
GRAYGATE = ("breaker", "checks")


def run(*arguments):
    return subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, timeout=110, check=False)


def row(found):
    """The figures of one contestant, as the table should show them."""
    gate, recovery = found["seconds_to_gate"], found["seconds_to_recover"]
    deadline = outages.RECOVERY_DEADLINE
    return [
        str(found["failed_before_gate"]),
        "never" if gate is None else f"{gate:.2f}",
        str(found["failed_in_all"]),
        str(found["requests"]),
        *(f"not in {deadline:g}" if recovery is None else f"{recovery:.2f}").split(),
    ]


def test_graygate_gates_and_recovers_and_a_plain_envoy_does_not(tmp_path):
    file = tmp_path / "faults.json"
    done = run("--only", "answers 500", "--healthy", "1", "--replicas", "2", "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert list(report["healthy"]) == list(outages.CONTESTANTS)
    assert report["events"] == {}
    assert list(report["faults"]) == ["2"]
    assert list(report["faults"]["2"]) == ["answers 500"]
    figures = report["faults"]["2"]["answers 500"]
    nothing = figures["nothing"]
    assert nothing["seconds_to_gate"] is None
    assert nothing["failed_before_gate"] == nothing["failed_in_all"]
    # A request sent just as the fault begins or ends may still get a 200.
    assert nothing["requests"] / 2 < nothing["failed_in_all"] <= nothing["requests"]
    for name in GRAYGATE:
        # How many requests are refused while all is healthy depends on the machine. A response that takes half a second
        # is a failure.
        healthy, found = report["healthy"][name], figures[name]
        assert healthy["requests"] > 0
        assert found["seconds_to_gate"] is not None
        assert 0 < found["failed_before_gate"] <= found["failed_in_all"] < found["requests"]
    # The table has the same figures.
    _, table = done.stdout.split("ANSWERS 500, 2 REPLICAS ")
    printed = dict(re.findall(r"^  (\S.*?) {2,}(.+)$", table, re.MULTILINE))
    titled = {outages.CONTESTANTS[name].title: row(found) for name, found in figures.items()}
    assert {title: cells.split() for title, cells in printed.items()} == titled
    assert f"Envoy {report['envoy']}, graygate.wasm {report['module_bytes']} bytes" in table
    assert "faults --only 'answers 500' --healthy 1 --replicas 2" in table


def test_an_event_shows_what_others_get(tmp_path):
    file = tmp_path / "faults.json"
    name = "websockets end by FIN"
    done = run("--only", name, "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert (report["healthy"], report["faults"], list(report["events"])) == ({}, {}, [name])
    figures = report["events"][name]
    assert list(figures) == list(events.CONTESTANTS)
    assert figures["nothing"] == {"requests": 30, "refused": 0, "failed": 0}
    cells = [f"{each['refused']} + {each['failed']} of {each['requests']}" for each in figures.values()]
    assert re.search(rf"^  {name} +{' +'.join(map(re.escape, cells))}$", done.stdout, re.MULTILINE)


def test_ctrl_c_ends_all_processes():
    running = subprocess.Popen(
        SCRIPT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with running:
        assert running.stdout
        assert running.stdout.readline() == "1 replica of each upstream:\n"
        assert running.stdout.readline().startswith("healthy")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "")
    # No process of its group is left.
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


# -- how it counts ----------------------------------------------------------------


def answer(status, body=b"", seconds=0.0, asked=0.0):
    return Answer(status, None, body, asked, asked + seconds)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(200), good),
        (answer(200, seconds=0.6), failed),
        (answer(0, b"closed before the answer's end"), failed),
        (answer(500), failed),
        (answer(503, b"policy breaker: upstream app is not ready: trial-failed\n"), refused),
        (answer(503, b"no healthy upstream"), refused),
        (answer(503, b"no healthy upstream", seconds=0.6), failed),
        (answer(503, b"upstream connect error or disconnect/reset before headers"), failed),
        (answer(504, b"upstream request timeout"), failed),
    ],
)
def test_a_response_is_good_refused_at_once_or_failed(given, kind):
    assert [test for test in (good, refused, failed) if test(given)] == [kind]


@pytest.mark.parametrize(
    ("word", "begins"),
    [
        ("x" * 19, None),
        ("x" * 20, 0),
        ("." * 5 + "x" * 20, 5),
        ("x" * 10 + "." + "x" * 9, 0),
        ("x" * 10 + ".." + "x" * 19, None),
        ("x" * 10 + ".." + "x" * 20, 12),
        ("." + "x" * 3 + ".." + "x" * 18 + "." + "x", 6),
    ],
)
def test_a_gate_is_closed_from_the_first_of_twenty_refusals_with_one_exception(word, begins):
    answers = [answer(503, b"no healthy upstream" * (each == "x"), asked=at) for at, each in enumerate(word)]
    assert first_of_run(answers, refused, 18) == begins


# -- what it refuses --------------------------------------------------------------


@pytest.mark.parametrize("fault", ["explodes", "", "hangs, answers 500"])
def test_an_unknown_fault_is_refused(fault):
    done = run("--only", fault)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{fault!r}; allowed: refuses connections, hangs," in done.stderr


@pytest.mark.parametrize("replicas", ["0", "-1", "1.5", ""])
def test_an_invalid_number_of_replicas_is_refused(replicas):
    done = run(f"--replicas={replicas}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{replicas!r}; allowed: a whole number from 1" in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "long", ""])
def test_an_invalid_healthy_time_is_refused(seconds):
    done = run(f"--healthy={seconds}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{seconds!r}; allowed: a number of seconds above 0" in done.stderr


@pytest.mark.parametrize("file", ["/no/such/directory/faults.json", "/", ""])
def test_a_file_that_cannot_be_written_is_refused_at_once(file):
    done = run(f"--json={file}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file!r}; allowed: a file in a directory that can be written to" in done.stderr
