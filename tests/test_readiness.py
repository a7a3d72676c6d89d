"""Readiness is one state for all workers of a real Envoy, and a trial under load ends it."""

from __future__ import annotations

import re
from contextlib import ExitStack

from harness.breaker import judged, until_gated
from harness.client import Stream, get
from harness.load import Load, Request, drive
from harness.wait import until, until_all


def test_failures_of_several_workers_add_up(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=40), concurrency=2)
    v1.answer(500)
    answers = drive(envoy.port(), [Request()] * 39, connections=13)
    assert {answer.status for answer in answers} == {500}
    listeners = envoy.stats("listener.127.0.0.1_")
    per_worker = [value for name, value in listeners.items() if re.search(r"worker_\d.downstream_cx_total$", name)]
    assert [bool(connections) for connections in per_worker] == [True, True]
    assert get(envoy.port()).status == 500
    until_gated(envoy, "consecutive-failures")
    assert envoy.transitions(reason="consecutive-failures") == 1


def test_a_trial_makes_a_recovered_upstream_ready(start, policy, v1):
    settings = {"consecutiveFailures": 5, "notReadyFor": "100ms", "maxNotReadyFor": "200ms"}
    envoy = start(judged(policy, **settings, trial={"requests": 1, "successes": 3}))
    v1.answer(500)
    with Load(envoy.port(), [Request()], rate=200):
        until(lambda: envoy.transitions(to="trial") >= 2, what="two trials of an upstream that still fails")
        assert envoy.transitions(from_="trial", to="not-ready", reason="trial-failed") >= 1
        v1.answer(200)
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")
    assert get(envoy.port()).status == 200


def test_a_trial_forwards_at_most_its_number_of_requests_over_all_workers(start, policy, v1):
    trial = {"requests": 2, "successes": 2, "leaseFor": "1h"}
    settings = {"consecutiveFailures": 5, "notReadyFor": "100ms", "maxNotReadyFor": "100ms", "trial": trial}
    envoy = start(judged(policy, **settings), timeout="60s")
    v1.answer(500)
    drive(envoy.port(), [Request()] * 5, connections=1)
    v1.hang()
    until_all(lambda: "on trial" in get(envoy.port(), "/readyz").text, what="all workers know of the trial")
    before = v1.requests
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(envoy.port(), method="GET", end=True)) for _ in range(42)]
        until(lambda: [stream.answered() for stream in streams].count(True) == 40, what="forty told")
        assert {stream.answer().status for stream in streams if stream.answered()} == {503}
        until(lambda: v1.requests - before == 2, what="two let through")
    assert envoy.transitions(from_="trial") == 0
