"""Readiness: what responses and checks teach is one state for all workers, and trials end it."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from harness.client import get, get2
from harness.config import route
from harness.load import Load, Request, drive
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}


def breaker(policy, **settings):
    """v1 judged by its responses alone."""
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": 5, "notReadyFor": "500ms", **settings}
    return policy


@pytest.mark.parametrize("fault", ["status", "refuse", "reset", "hang"])
def test_consecutive_failures_close_the_gate(start, policy, v1, fault):
    envoy = start(breaker(policy, notReadyFor="1h"), concurrency=1, timeout="0.2s")
    assert get(envoy.port(), "/", ALICE).status == 200
    {"status": lambda: v1.answer(500), "refuse": v1.refuse, "reset": v1.reset, "hang": v1.hang}[fault]()
    answers = drive(envoy.port(), [Request("/", ALICE)] * 10, connections=1)
    gated = [b"consecutive-failures" in answer.body for answer in answers]
    assert gated == [False] * 5 + [True] * 5
    assert envoy.transitions(from_="ready", to="not-ready", reason="consecutive-failures") == 1


def test_a_success_between_failures_starts_the_count_again(start, policy, v1):
    envoy = start(breaker(policy), concurrency=1)
    v1.answer(500, path="/bad")
    requests = [Request("/bad", ALICE)] * 4 + [Request("/", ALICE)]
    answers = drive(envoy.port(), requests * 5, connections=1)
    assert [answer.status for answer in answers] == [500, 500, 500, 500, 200] * 5
    assert envoy.transitions() == 0


def test_failures_seen_by_different_workers_add_up(start, policy, v1):
    envoy = start(breaker(policy, notReadyFor="1h", consecutiveFailures=40), concurrency=2)
    v1.answer(500)
    answers = drive(envoy.port(), [Request("/", ALICE)] * 39, connections=13)
    assert {answer.status for answer in answers} == {500}
    until(lambda: get(envoy.port(), "/", ALICE).status == 503, what="gated by the fortieth")


def test_replies_of_the_proxy_itself_are_no_evidence(start, policy, v1):
    abort = {
        "name": "fault",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"http_status": 503, "percentage": {"numerator": 100}},
            "headers": [{"name": "x-abort", "present_match": True}],
        },
    }
    envoy = start(breaker(policy), concurrency=1, filters_after=[abort])
    answers = drive(envoy.port(), [Request("/", {**ALICE, "x-abort": "1"})] * 20, connections=1)
    assert {answer.status for answer in answers} == {503}
    assert envoy.transitions() == 0
    assert get(envoy.port(), "/", ALICE).version == "v1"


def test_a_trial_lets_an_upstream_that_works_again_back_in(start, policy, v1):
    envoy = start(breaker(policy, trial={"requests": 1, "successes": 3}))
    v1.answer(500)
    with Load(envoy.port(), [Request("/", ALICE)], rate=200):
        until(lambda: envoy.transitions(to="trial") >= 2, what="two trials of an upstream that still fails")
        assert envoy.transitions(from_="trial", to="not-ready", reason="trial-failed") >= 1
        v1.answer(200)
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")
    assert get(envoy.port(), "/", ALICE).status == 200


def test_a_trial_lets_only_so_many_requests_through_at_once(start, policy, v1):
    envoy = start(breaker(policy, trial={"requests": 2, "successes": 10}), timeout="10s")
    v1.answer(500)
    drive(envoy.port(), [Request("/", ALICE)] * 10, connections=1)
    v1.slow(1.0)
    until(lambda: get(envoy.port(), "/", ALICE).status == 200, what="a request let through on trial")
    before = v1.requests
    answers = drive(envoy.port(), [Request("/", ALICE)] * 40, connections=40)
    assert v1.requests - before == 2
    assert sorted(answer.status for answer in answers) == [200] * 2 + [503] * 38


def test_a_trial_request_that_goes_unanswered_counts_as_a_failure(start, policy, v1):
    envoy = start(breaker(policy, trial={"leaseFor": "1s"}), timeout="60s")
    v1.answer(500)
    drive(envoy.port(), [Request("/", ALICE)] * 10, connections=1)
    v1.hang()
    with Load(envoy.port(), [Request("/", ALICE)], rate=50):
        until(lambda: envoy.transitions(from_="trial", reason="trial-unanswered"), what="trial over")
        v1.refuse()  # so that those who hang are told, and the load ends


def test_clients_that_leave_do_not_keep_an_upstream_out(start, policy, v1):
    envoy = start(breaker(policy, trial={"requests": 1, "successes": 1}), timeout="10s")
    v1.answer(500)
    drive(envoy.port(), [Request("/", ALICE)] * 10, connections=1)
    v1.slow(0.3)
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    for _ in range(5):
        with suppress(TimeoutError):
            get(envoy.port(), "/", ALICE, timeout=0.1)
        with suppress(TimeoutError):
            get2(envoy.port(), "/", ALICE, timeout=0.1)
    assert envoy.transitions(from_="trial", to="not-ready") == 0
    until(lambda: get(envoy.port(), "/", ALICE).status == 200, what="served")
    until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")


def test_a_client_that_is_slow_to_send_does_not_keep_an_upstream_out(start, policy, v1):
    policy["releases"] = []
    envoy = start(breaker(policy, trial={"requests": 2, "successes": 3, "leaseFor": "1s"}), timeout="30s")
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 10, connections=1)
    v1.answer(200)
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    with socket.create_connection(("127.0.0.1", envoy.port())) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 10\r\n\r\n")
        with Load(envoy.port(), [Request("/")], rate=50):
            until(lambda: envoy.transitions(from_="trial", to="ready"), what="ready")
    assert envoy.transitions(reason="trial-unanswered") == 0


def test_responses_to_requests_sent_before_a_trip_are_about_the_past(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 3, "notReadyFor": "20s"}
    envoy = start(policy, timeout="1s", concurrency=1)
    v1.hang(path="/")
    with Load(envoy.port(), [Request("/", ALICE)], rate=40, connections=40) as load:
        until(lambda: envoy.transitions(reason="consecutive-failures"), what="a trip")
        v1.answer(200, path="/")
        until(lambda: envoy.transitions(to="ready", reason="check-passed"), what="ready by a check")
        # More than the time-out later, all that hung have come to their end.
        sent = len(load.answers)
        until(lambda: len(load.since(load.answers[sent - 1].answered + 1.5)) > 20, what="load after the hang")
    assert envoy.transitions(to="not-ready") == 1
    assert load.answers[-1].status == 200


def test_a_trial_ends_by_the_responses_of_requests_that_no_gate_holds_back(start, policy, v2):
    """The gate guards what its requests need, not where they go."""
    policy["releases"] = []
    policy["gates"] = [{"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"}]
    upstream = policy["upstreams"]["reviews-v2"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": 5, "notReadyFor": "500ms"}
    to_v2 = {"match": {"prefix": "/b"}, "route": {"cluster": "reviews-v2"}}
    envoy = start(policy, routes=[to_v2, route("reviews-v1", "5s")])
    v2.answer(500)
    with Load(envoy.port(), [Request("/b"), Request("/pay")], rate=100):
        until(lambda: envoy.transitions(from_="trial", to="not-ready", reason="trial-failed"), what="a failed trial")
        v2.answer(200)
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")
    until_all(lambda: get(envoy.port(), "/pay").status == 200, what="let through")


def test_a_redirect_that_the_proxy_follows_is_an_answer(start, policy, v1):
    to_ok = {"max_internal_redirects": 1, "redirect_response_codes": [302]}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "reviews-v1", "internal_redirect_policy": to_ok}}]
    policy["releases"] = []
    envoy = start(breaker(policy, trial={"requests": 1, "successes": 2}), routes=routes)
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 10, connections=1)
    v1.answer(200)
    v1.answer(302, [("location", "http://reviews/ok")], path="/moved")
    until(lambda: get(envoy.port(), "/moved").status == 200, what="the redirect followed on trial")
    until(lambda: get(envoy.port(), "/moved").status == 200 and envoy.transitions(to="ready"), what="ready")
    assert envoy.transitions(from_="trial", to="not-ready") == 0


def test_a_check_that_passes_does_not_cut_short_the_wait_of_an_upstream_that_fails_again(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 5, "notReadyFor": "30s"}
    envoy = start(policy)
    v1.answer(500, path="/")
    with Load(envoy.port(), [Request("/", ALICE)], rate=200) as load:
        until(lambda: envoy.transitions(to="not-ready", reason="consecutive-failures") == 2, what="a second trip")
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 400, what="two seconds of load")
    assert envoy.transitions(upstream="reviews-v1") == 3
    assert len(load.failed) - sum(b"not ready" in a.body for a in load.failed) < 40


def test_all_workers_act_on_a_change_within_two_ticks(start, policy, v1):
    """The tick is 50 ms here: a quarter of the shortest period. The rest is room for a busy machine."""
    envoy = start(policy, concurrency=2)
    with Load(envoy.port(), [Request("/", ALICE)], rate=800, connections=32) as load:
        until(lambda: len(load.answers) > 200, what="load on both workers")
        v1.answer(500, path="/healthz")
        until(lambda: envoy.transitions(to="not-ready"), what="not ready")
        until(lambda: [a.status for a in load.answers[-200:]] == [503] * 200, what="all requests gated")
    listeners = envoy.stats("listener.127.0.0.1_")
    per_worker = [value for name, value in listeners.items() if re.search(r"worker_\d.downstream_cx_total$", name)]
    assert [bool(requests) for requests in per_worker] == [True, True]

    line = re.search(r"\[([\d-]+ [\d:.]+)\].*reviews-v1: ready -> not-ready", envoy.logs())
    assert line
    changed = datetime.fromisoformat(line[1]).replace(tzinfo=UTC).timestamp()
    last = max(a.asked for a in load.answers if a.status == 200) - time.monotonic() + time.time()
    assert last - changed < 2 * 0.05 + 0.9
