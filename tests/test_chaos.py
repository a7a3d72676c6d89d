"""How `make chaos` counts what users lose, on requests made up here, and that a loss fails the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from chaos import __main__ as program
from chaos import count, servers
from chaos.count import CLOSED, GRACE, Figures, Outage, Tolerated, Trial
from chaos.pairs import Asked, Pair, Pairs
from chaos.scenarios import Scenario
from harness.load import Answer, Request
from harness.upstream import Upstream
from harness.wait import until

VERSIONS = {"alice": ["v1"], "bob": ["v2"], "mover": ["v1", "v2"]}
GATED = b"policy reviews: upstream v1 is not ready: check-failed\n"
DOWN = Outage("v1", 10, 13)


def asked(status=200, version=None, body=b"", at=0.0, user="alice", path="/"):
    return Asked(user, path, Answer(status, version, body, at, at + 0.01))


def served(version="v1", **options):
    return asked(200, version, **options)


def gated(**options):
    return asked(503, None, GATED, **options)


def lost(**options):
    return asked(503, None, b"upstream connect error", **options)


def trial(*graygate, plain=None, **options):
    """A trial in which the plain listener served each request, unless it is given."""
    well = [served(VERSIONS[each.user][0], at=each.answer.asked, user=each.user) for each in graygate]
    return Trial(graygate, well if plain is None else plain, VERSIONS, **options)


def figures(*graygate, **options):
    return trial(*graygate, **options).figures()[0]


# -- what each figure counts --------------------------------------------------------


def test_what_is_right_counts_as_nothing_but_sent():
    right = [served(), served("v2", user="bob"), served(user="mover"), served("v2", user="mover"), gated(path=CLOSED)]
    assert figures(*right) == Figures(sent=5, failed=0, gated=1, wrong_version=0, wrong_gate=0)
    assert trial(*right).problems() == []


@pytest.mark.parametrize(
    ("given", "is_lost"),
    [
        (asked(0, body=b"closed before the answer's end"), True),
        (lost(), True),
        (asked(504, body=b"upstream request timeout"), True),
        (asked(500), True),
        (asked(503, "v1", b"the app says no"), False),
        (asked(404), False),
        (gated(), False),
        (asked(500, body=b"is not ready"), True),
    ],
)
def test_no_response_and_a_5xx_that_no_upstream_sent_are_failures(given, is_lost):
    assert figures(given).failed == is_lost
    assert trial(given, plain=[given]).figures()[1].failed == is_lost
    assert any("lost that the plain listener did not lose" in line for line in trial(given).problems()) == is_lost


def test_a_failure_is_lost_alone_unless_the_plain_listener_lost_one_in_the_same_moment():
    failure = lost(at=20)
    for at, alone in ((19.89, 1), (19.91, 0), (20, 0), (20.09, 0), (20.11, 1)):
        here = trial(failure, plain=[lost(at=at)])
        assert len(here.wrongs()["failed"]) == alone
        assert len(here.problems()) == alone
    # The plain listener's failures do not make up for others at another time.
    assert len(trial(failure, plain=[lost(at=10), lost(at=30)]).wrongs()["failed"]) == 1


def test_another_version_than_the_users_is_wrong():
    here = trial(served("v2"), served("v1", user="bob"), served("v1"))
    assert here.figures()[0].wrong_version == 2
    assert here.problems() == ["2 requests with a wrong version; the first: alice /: 200"]


def test_a_closed_gate_is_wrong_while_the_upstream_is_well():
    right = [gated(at=10), gated(at=12), gated(at=12.99 + GRACE), gated(at=12, user="mover")]
    wrong = [gated(at=9.9), gated(at=13.01 + GRACE), gated(at=12, user="bob")]
    assert figures(*right, outages=[DOWN]) == Figures(4, 0, 4, 0, 0)
    assert figures(*right, *wrong, outages=[DOWN]) == Figures(7, 0, 7, 0, 3)
    assert len(trial(*wrong, outages=[DOWN]).wrongs()["wrong gate"]) == 3
    assert "3 requests with a wrong gate" in trial(*wrong, outages=[DOWN]).problems()[0]


def test_a_request_is_wrong_that_passes_a_gate_which_the_policy_forces_to_be_closed():
    assert figures(served(path=CLOSED), gated(path=CLOSED)).wrong_gate == 1
    assert len(trial(served(path=CLOSED)).problems()) == 1
    # The plain listener has no gate.
    assert trial(gated(path=CLOSED), plain=[served(path=CLOSED)]).figures()[1].wrong_gate == 0


def test_what_is_tolerated_is_so_in_its_time_and_kind_alone_and_must_be_seen():
    span = Tolerated(("failed",), 10, 12, "a VM is dead")
    assert trial(lost(at=10), lost(at=11.9), tolerated=[span]).problems() == []
    assert "1 requests lost" in trial(lost(at=11), lost(at=12.1), tolerated=[span]).problems()[0]
    assert "wrong version" in trial(lost(at=11), served("v2", at=11), tolerated=[span]).problems()[0]
    unseen = trial(served(at=11), tolerated=[span]).problems()
    assert unseen == [
        "no request lost that the plain listener did not lose while a VM is dead, so the fault was not there"
    ]
    optional = Tolerated(("failed",), 10, 12, "a VM is dead", wanted=False)
    assert trial(served(at=11), tolerated=[optional]).problems() == []


def test_listeners_with_different_numbers_of_requests_are_a_problem():
    assert trial(served(), plain=[]).problems() == ["1 and 0 responses: not as many for each listener"]
    assert len(trial().problems()) == 1


# -- the load -----------------------------------------------------------------------


def test_both_listeners_get_the_same_requests_at_the_same_time_whatever_one_of_them_does():
    pairs = [Pair("alice", "/a", Request("/a"), Request("/a")), Pair("bob", "/b", Request("/b"), Request("/b"))]
    with Upstream("one") as one, Upstream("other") as other:
        with Pairs(one.port, other.port, pairs, rate=200) as load:
            until(lambda: len(load.plain.asked) >= 40, what="responses")
            one.reset()
            until(lambda: len(load.plain.asked) >= 80, what="responses meanwhile")
            one.answer()
            until(lambda: len(load.plain.asked) >= 120, what="responses after that")
        here, there = load.graygate.asked, load.plain.asked
    assert len(here) == len(there)
    assert 20 < sum(count.failed(each.answer) for each in here) < 80
    assert [each for each in there if count.failed(each.answer)] == []
    assert {(each.user, each.path, each.answer.version) for each in there} == {
        ("alice", "/a", "other"),
        ("bob", "/b", "other"),
    }


def test_a_request_without_a_response_delays_no_other_and_counts_as_failed(monkeypatch):
    monkeypatch.setattr("chaos.pairs.DEADLINE", 1.0)
    pair = Pair("alice", "/", Request("/"), Request("/"))
    with Upstream("one") as one, Upstream("other") as other:
        one.hang()
        with Pairs(one.port, other.port, [pair], rate=200) as load:
            until(lambda: len(load.plain.asked) >= 60, what="responses")
        assert [each.answer.status for each in load.graygate.asked] == [0] * len(load.plain.asked)
        assert {each.answer.status for each in load.plain.asked} == {200}


# -- the program --------------------------------------------------------------------


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["chaos", *map(str, arguments)])
    # pytest must keep its own handlers.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return program.main()


def never():
    raise AssertionError("not within 20 s: Envoy LIVE")


@pytest.mark.parametrize(
    ("run", "code", "says"),
    [
        (lambda: trial(served(), gated(path=CLOSED)), 0, ""),
        (
            lambda: trial(lost()),
            1,
            "FAILED: made up: 1 requests lost that the plain listener did not lose; the first: ",
        ),
        (lambda: trial(served("v2")), 1, "FAILED: made up: 1 requests with a wrong version; the first: alice /: 200"),
        (lambda: trial(gated()), 1, "FAILED: made up: 1 requests with a wrong gate; the first: alice /: 503 policy"),
        (never, 1, "FAILED: made up: did not run to its end: not within 20 s: Envoy LIVE"),
    ],
)
def test_a_loss_fails_the_run_with_a_line_that_names_it(monkeypatch, capsys, tmp_path, run, code, says):
    monkeypatch.setattr(program, "SCENARIOS", {"made up": Scenario(run)})
    file = tmp_path / "chaos.json"
    assert main(monkeypatch, "--json", file) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(says)
    assert bool(printed.err) == bool(says)
    found = json.loads(file.read_text())["results"]["made up"]
    sent, failed = found["graygate"]["sent"], found["graygate"]["failed"]
    assert f"made up                   graygate{sent:>9}{failed:>8}{found['lost_alone']:>12}" in printed.out


def test_an_unknown_scenario_is_refused():
    command = [sys.executable, "-m", "chaos", "--only", "meteor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'meteor'; allowed: upstream killed, " in done.stderr


def test_ctrl_c_ends_all_processes():
    command = [sys.executable, "-m", "chaos", "--only", "upstream killed"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with running:
        assert running.stdout
        assert running.stdout.read(len("upstream killed: ")) == "upstream killed: "
        # Each of the two services and Envoy is a process of the group.
        until(lambda: processes(running.pid) >= 4, 30, "its processes")
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "")
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def processes(group):
    done = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.split().count(str(group))


def test_another_module_has_other_bytes_and_one_section_more():
    module = b"\0asm\1\0\0\0"
    made = [servers.another(module, number) for number in range(20)]
    assert len(set(made)) == 20
    for each in made:
        assert each.startswith(module)
        kind, size, length = each[8:11]
        assert (kind, size, each[11 : 11 + length], len(each)) == (0, 10, b"chaos", 8 + 2 + 10)
