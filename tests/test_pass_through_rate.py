"""How often the app is asked for its own answer, and what others are told while it is."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import pairwise

import pytest

from harness.client import Stream, get, get2
from harness.load import Load, Request, drive
from harness.probe import ask, is_replay
from harness.wait import until

SILENT = "policy reviews: readiness failed: the app does not answer"


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_the_app_is_asked_once_in_cache_seconds_however_many_ask(start, policy, rule, v1, v2, concurrency):
    rule["cacheSeconds"] = 1
    envoy = start(policy, concurrency=concurrency)
    ask(envoy)
    with Load(envoy.port(), [Request("/readyz")], rate=300, connections=32) as load:
        until(lambda: v1.seen("/readyz") >= 5, timeout=30, what="the app asked five times")
    calls = v1.calls_of("/readyz")
    # A little less, as the two sides read different clocks.
    assert min(later.at - earlier.at for earlier, later in pairwise(calls)) > 0.95
    assert {answer.status for answer in load.answers} == {200}
    assert len(load.answers) > 100
    assert v1.requests == v1.seen("/readyz")
    assert v2.requests == 0


def test_workers_share_one_answer(start, policy, rule, v1):
    envoy = start(policy, concurrency=4)
    ask(envoy)
    answers = drive(envoy.port(), [Request("/readyz")] * 1000, connections=64)
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"v1 /readyz\n")}
    assert v1.seen("/readyz") == 1


def test_while_the_app_hangs_others_get_its_last_answer_for_as_long_again(start, policy, rule, v1):
    rule["cacheSeconds"] = 2
    envoy = start(policy, timeout="60s")
    begun = time.monotonic()
    ask(envoy)
    v1.hang(path="/readyz")
    until(lambda: time.monotonic() - begun > 2.2, what="an answer too old")
    with Stream(envoy.port(), "/readyz", method="GET", end=True):
        until(lambda: v1.seen("/readyz") == 2, what="one that waits for the app")
        answer = ask(envoy)
        assert (answer.status, answer.text) == (200, "v1 /readyz\n")
        until(lambda: ask(envoy).status == 503, what="503")
        assert time.monotonic() - begun >= 2 * 2
        silent = ask(envoy)
        assert (silent.status, silent.headers["cache-control"]) == (503, "no-store")
        assert silent.text.startswith(SILENT)
        assert v1.seen("/readyz") == 2


def test_before_the_first_answer_others_are_told_so(start, policy, rule, v1):
    v1.hang(path="/readyz")
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/readyz", method="GET", end=True):
        until(lambda: v1.seen("/readyz"), what="one that waits for the app")
        answers = drive(envoy.port(), [Request("/readyz")] * 100)
        assert {answer.status for answer in answers} == {503}
        assert answers[0].body == b"policy reviews: readiness failed: the app has not answered yet\n"
        assert v1.seen("/readyz") == 1


def test_before_the_first_answer_liveness_passes_as_with_the_kubelet(start, policy, v1):
    policy["probes"]["liveness"]["passThrough"] = {"cacheSeconds": 1}
    v1.hang(path="/livez")
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/livez", method="GET", end=True):
        until(lambda: v1.seen("/livez"), what="one that waits for the app")
        first = get(envoy.port(), "/livez")
        assert (first.status, first.text) == (200, "policy reviews: liveness passed: the app has not answered yet\n")
        until(lambda: get(envoy.port(), "/livez").status == 503, what="503 of an app that does not answer")


def test_when_the_one_that_waits_leaves_the_next_one_goes_on(start, policy, rule, v1):
    v1.hang(path="/readyz")
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/readyz", method="GET", end=True) as waiting:
        until(lambda: v1.seen("/readyz"), what="one that waits for the app")
        assert ask(envoy).status == 503
        v1.answer(path="/readyz")
        waiting.reset()
        # Sooner than another would be sent in any case.
        until(lambda: ask(envoy).status == 200, timeout=5, what="the next one went on")
    assert v1.seen("/readyz") == 2


@pytest.mark.parametrize("client", [get, get2], ids=["http1", "http2"])
def test_those_who_give_up_waiting_make_way_for_each_other(start, policy, rule, v1, client):
    v1.hang(path="/readyz")
    envoy = start(policy, timeout="60s")

    def the_fifth_waits():
        with suppress(TimeoutError):
            client(envoy.port(), "/readyz", timeout=0.3)
        return v1.seen("/readyz") >= 5

    # Another is sent after ten seconds in any case.
    until(the_fifth_waits, timeout=15, what="the fifth that waits for the app")


def test_an_app_that_is_down_is_asked_no_more_often(start, policy, rule, v1):
    rule["cacheSeconds"] = 2
    v1.refuse()
    envoy = start(policy)
    first, again = ask(envoy), ask(envoy)
    assert first.status == again.status == 503
    assert first.text == again.text
    assert "connect" in first.text
    assert not is_replay(first)
    assert is_replay(again)
    v1.accept()
    until(lambda: ask(envoy).status == 200, what="the app asked again")


def test_a_prober_of_little_patience_keeps_no_old_answer_alive(start, policy, rule, v1):
    """Each of its requests ends before the others would be told; together they are one wait."""
    rule["cacheSeconds"] = 1
    envoy = start(policy, timeout="60s")
    assert ask(envoy).status == 200
    v1.hang(path="/readyz")

    def told_while_another_waits():
        with Stream(envoy.port(), "/readyz", method="GET", end=True):
            time.sleep(0.3)
            return ask(envoy, timeout=0.5).status

    until(lambda: told_while_another_waits() == 503, what="503")
    v1.answer(200, path="/readyz")
    until(lambda: ask(envoy, timeout=0.5).status == 200, what="200")


def test_those_who_come_together_after_a_while_get_the_last_answer(start, policy, rule, v1):
    rule["cacheSeconds"] = 0.5
    envoy = start(policy)
    assert ask(envoy).status == 200
    v1.slow(0.2, path="/readyz")
    time.sleep(1.2)
    answers = drive(envoy.port(), [Request("/readyz")] * 8, connections=8)
    assert {answer.status for answer in answers} == {200}
    assert v1.seen("/readyz") == 2


@pytest.mark.parametrize("length", ["10", None], ids=["length", "chunked"])
def test_a_client_that_does_not_send_all_of_its_request_holds_up_nobody(start, policy, rule, v1, length):
    rule["cacheSeconds"] = 0.2
    envoy = start(policy, timeout="60s")
    framing = {"content-length": length} if length else {}
    with Stream(envoy.port(), "/readyz", framing, method="GET") as stalled:
        assert stalled.answer().status == 503
        assert ask(envoy).status == 200
    assert v1.seen("/readyz") == 1
