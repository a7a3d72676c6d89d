"""Readiness: learnt by checks in Kubernetes terms and from responses, one state for all workers."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone

import pytest
from harness.client import get, get2
from harness.config import route
from harness.load import Load, Request, drive
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}


def check(policy, upstream="reviews-v1"):
    return policy["upstreams"][upstream]["readinessProbe"]


def transitions(envoy, **tags):
    return envoy.counter("graygate_transitions_total", **tags)


def test_checks_are_sent_as_the_probe_stanza_says(start, policy, v1):
    headers = [{"name": "X-Probe", "value": "graygate"}, {"name": "User-Agent", "value": "mine"}]
    check(policy)["httpGet"] = {"path": "/up?x=1", "host": "app.local", "port": 8443, "httpHeaders": headers}
    start(policy)
    until(lambda: v1.seen("/up"), what="a check")
    sent = dict(v1.last_headers_of("/up"))
    assert sent[b"host"] == b"app.local:8443"
    assert (sent[b"x-probe"], sent[b"user-agent"]) == (b"graygate", b"mine")


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_one_vm_checks_for_all_workers(start, policy, v1, concurrency):
    check(policy)["periodSeconds"] = 0.25
    envoy = start(policy, concurrency=concurrency)
    until(lambda: v1.seen("/healthz"), what="the first check")
    begun, seen = time.monotonic(), v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") >= seen + 5, what="five more checks")
    # With a prober per VM they would take a fraction of this.
    assert time.monotonic() - begun > 3 * 0.25
    assert envoy.counter("graygate_checks_total", upstream="reviews-v1", result="passed") >= 5


def test_a_check_that_takes_longer_than_its_period_is_not_overlapped(start, policy, v1):
    check(policy)["timeoutSeconds"] = 2.5
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    v1.hang(path="/healthz")
    seen = v1.seen("/healthz")
    failed = {"upstream": "reviews-v1", "result": "failed"}
    until(lambda: envoy.counter("graygate_checks_total", **failed), what="a check timed out")
    # One that hung, one that had just been answered, one after the time-out.
    assert v1.seen("/healthz") - seen <= 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse", "could not be reached"),
        ("hang", "no answer in time"),
        ("reset", "could not be reached"),
        ("status", "status 500"),
        ("mid-body", "the answer broke off"),
    ],
)
def test_each_way_to_fail_a_check_is_named(start, policy, v1, fault, reason):
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    {
        "refuse": v1.refuse,
        "hang": lambda: v1.hang(path="/healthz"),
        "reset": lambda: v1.reset(path="/healthz"),
        "status": lambda: v1.answer(500, path="/healthz"),
        "mid-body": lambda: v1.reset_mid_body(path="/healthz"),
    }[fault]()
    said = f"policy reviews: upstream reviews-v1 is not ready: check-failed: {reason}\n"
    until(lambda: get(envoy.port(), "/", ALICE).text == said, what=said)


def test_it_takes_failure_threshold_failures_in_a_row(start, policy, v1):
    check(policy).update(failureThreshold=3, periodSeconds=0.5)
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    v1.answer(500, path="/healthz")
    until(lambda: transitions(envoy, to="not-ready"), what="not ready")
    assert envoy.counter("graygate_checks_total", upstream="reviews-v1", result="failed") == 3


def test_it_takes_success_threshold_successes_in_a_row(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["assume"] = "notReady"
    check(policy).update(successThreshold=3, periodSeconds=0.5)
    envoy = start(policy)
    assert get(envoy.port(), "/", ALICE).status == 503
    until(lambda: transitions(envoy, upstream="reviews-v1", to="ready"), what="ready")
    assert envoy.counter("graygate_checks_total", upstream="reviews-v1", result="passed") == 3
    until(lambda: get(envoy.port(), "/", ALICE).status == 200, what="let through")


def test_a_check_that_can_not_be_sent_flips_nothing(start, policy):
    policy["upstreams"]["reviews-v1"]["cluster"] = "not-there"
    envoy = start(policy, routes=[route("reviews-v2", "5s")])
    until(lambda: envoy.counter("graygate_checks_total", upstream="reviews-v1", result="error") >= 4, what="4 errors")
    assert transitions(envoy, upstream="reviews-v1") == 0
    assert envoy.logs().count('upstream reviews-v1: check not sent: the proxy has no cluster "not-there"') == 1
    assert get(envoy.port(), "/readyz").status == 200


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
    assert transitions(envoy, from_="ready", to="not-ready", reason="consecutive-failures") == 1


def test_a_success_between_failures_starts_the_count_again(start, policy, v1):
    envoy = start(breaker(policy), concurrency=1)
    v1.answer(500, path="/bad")
    requests = [Request("/bad", ALICE)] * 4 + [Request("/", ALICE)]
    answers = drive(envoy.port(), requests * 5, connections=1)
    assert [answer.status for answer in answers] == [500, 500, 500, 500, 200] * 5
    assert transitions(envoy) == 0


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
    assert transitions(envoy) == 0
    assert get(envoy.port(), "/", ALICE).version == "v1"


def test_a_trial_lets_an_upstream_that_works_again_back_in(start, policy, v1):
    envoy = start(breaker(policy, trial={"requests": 1, "successes": 3}))
    v1.answer(500)
    with Load(envoy.port(), [Request("/", ALICE)], rate=200):
        until(lambda: transitions(envoy, to="trial") >= 2, what="two trials of an upstream that still fails")
        assert transitions(envoy, from_="trial", to="not-ready", reason="trial-failed") >= 1
        v1.answer(200)
        until(lambda: transitions(envoy, from_="trial", to="ready", reason="trial-passed"), what="ready")
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
        until(lambda: transitions(envoy, from_="trial", reason="trial-unanswered"), what="trial over")
        v1.refuse()  # so that those who hang are told, and the load ends


def test_clients_that_leave_do_not_keep_an_upstream_out(start, policy, v1):
    envoy = start(breaker(policy, trial={"requests": 1, "successes": 1}), timeout="10s")
    v1.answer(500)
    drive(envoy.port(), [Request("/", ALICE)] * 10, connections=1)
    v1.slow(0.3)
    until(lambda: transitions(envoy, to="trial"), what="a trial")
    for ask in [get, get2] * 5:
        with suppress(TimeoutError):
            ask(envoy.port(), "/", ALICE, timeout=0.1)
    assert transitions(envoy, from_="trial", to="not-ready") == 0
    until(lambda: get(envoy.port(), "/", ALICE).status == 200, what="served")
    until(lambda: transitions(envoy, from_="trial", to="ready", reason="trial-passed"), what="ready")


def test_a_client_that_is_slow_to_send_does_not_keep_an_upstream_out(start, policy, v1):
    policy["releases"] = []
    envoy = start(breaker(policy, trial={"requests": 2, "successes": 3, "leaseFor": "1s"}), timeout="30s")
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 10, connections=1)
    v1.answer(200)
    until(lambda: transitions(envoy, to="trial"), what="a trial")
    with socket.create_connection(("127.0.0.1", envoy.port())) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 10\r\n\r\n")
        with Load(envoy.port(), [Request("/")], rate=50):
            until(lambda: transitions(envoy, from_="trial", to="ready"), what="ready")
    assert transitions(envoy, reason="trial-unanswered") == 0


def test_responses_to_requests_sent_before_a_trip_are_about_the_past(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 3, "notReadyFor": "20s"}
    envoy = start(policy, timeout="1s", concurrency=1)
    v1.hang(path="/")
    with Load(envoy.port(), [Request("/", ALICE)], rate=40, connections=40) as load:
        until(lambda: transitions(envoy, reason="consecutive-failures"), what="a trip")
        v1.answer(200, path="/")
        until(lambda: transitions(envoy, to="ready", reason="check-passed"), what="ready by a check")
        # More than the time-out later, all that hung have come to their end.
        sent = len(load.answers)
        until(lambda: len(load.since(load.answers[sent - 1].answered + 1.5)) > 20, what="load after the hang")
    assert transitions(envoy, to="not-ready") == 1
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
        until(lambda: transitions(envoy, from_="trial", to="not-ready", reason="trial-failed"), what="a failed trial")
        v2.answer(200)
        until(lambda: transitions(envoy, from_="trial", to="ready", reason="trial-passed"), what="ready")
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
    until(lambda: get(envoy.port(), "/moved").status == 200 and transitions(envoy, to="ready"), what="ready")
    assert transitions(envoy, from_="trial", to="not-ready") == 0


def test_a_check_that_passes_does_not_cut_short_the_wait_of_an_upstream_that_fails_again(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 5, "notReadyFor": "30s"}
    envoy = start(policy)
    v1.answer(500, path="/")
    with Load(envoy.port(), [Request("/", ALICE)], rate=200) as load:
        until(lambda: transitions(envoy, to="not-ready", reason="consecutive-failures") == 2, what="a second trip")
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 400, what="two seconds of load")
    assert transitions(envoy, upstream="reviews-v1") == 3
    assert len(load.failed) - sum(b"not ready" in a.body for a in load.failed) < 40


def test_all_workers_act_on_a_change_within_two_ticks(start, policy, v1):
    """The tick is 50 ms here: a quarter of the shortest period. The rest is room for a busy machine."""
    envoy = start(policy, concurrency=2)
    with Load(envoy.port(), [Request("/", ALICE)], rate=800, connections=32) as load:
        until(lambda: len(load.answers) > 200, what="load on both workers")
        v1.answer(500, path="/healthz")
        until(lambda: transitions(envoy, to="not-ready"), what="not ready")
        until(lambda: [a.status for a in load.answers[-200:]] == [503] * 200, what="all requests gated")
    listeners = envoy.stats("listener.127.0.0.1_")
    per_worker = [value for name, value in listeners.items() if re.search(r"worker_\d.downstream_cx_total$", name)]
    assert len(per_worker) == 2 and all(per_worker), "both workers had requests"

    line = re.search(r"\[([\d-]+ [\d:.]+)\].*reviews-v1: ready -> not-ready", envoy.logs())
    changed = datetime.fromisoformat(line[1]).replace(tzinfo=timezone.utc).timestamp()
    last = max(a.asked for a in load.answers if a.status == 200) - time.monotonic() + time.time()
    assert last - changed < 2 * 0.05 + 0.9
