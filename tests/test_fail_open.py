"""A gate lets requests through though its upstream is not ready, where the policy says so; and never in silence."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.wait import until, until_all

ALL = "failed-open; upstream={}; reason={}; because=all-not-ready"
MOST = "failed-open; upstream={}; reason={}; because=max-gated"


@pytest.fixture
def two(policy):
    """A policy with a gate on each upstream, by path; checks know of them."""
    policy["releases"] = []
    policy["gates"] = [
        {"upstream": f"reviews-{name}", "match": [{"uri": {"prefix": f"/{name}"}}], "whenAllNotReady": "forward"}
        for name in ("v1", "v2")
    ]
    return policy


ROUTES = [{"match": {"prefix": "/v2"}, "route": {"cluster": "reviews-v2"}}, route("reviews-v1", "5s")]


def said(envoy, path, words):
    """By all workers: the response says so, and comes from the upstream."""
    until_all(lambda: (a := get(envoy.port(), path)).headers["x-graygate-gate"] == words and a.version, what=words)


def sick(upstream):
    """Fails its checks, and serves requests."""
    upstream.answer(500, path="/healthz")


def test_when_all_are_down_requests_go_and_the_response_says_so(start, two, v1, v2):
    envoy = start(two, routes=ROUTES)
    assert get(envoy.port(), "/v1").headers["x-graygate-gate"] is None
    sick(v1)
    until_all(lambda: get(envoy.port(), "/v1").status == 503, what="v1 gated")
    assert get(envoy.port(), "/v2").version == "v2"
    sick(v2)
    said(envoy, "/v1", ALL.format("reviews-v1", "check-failed"))
    said(envoy, "/v2", ALL.format("reviews-v2", "check-failed"))
    before = envoy.counter("graygate_failed_open_requests_total", upstream="reviews-v1", reason="all-not-ready")
    answers = drive(envoy.port(), [Request("/v1")] * 50)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v1")}
    counted = envoy.counter("graygate_failed_open_requests_total", upstream="reviews-v1", reason="all-not-ready")
    assert counted == before + 50
    v2.answer(200, path="/healthz")
    until_all(lambda: get(envoy.port(), "/v1").status == 503, what="v1 gated again")
    until_all(lambda: get(envoy.port(), "/v2").headers["x-graygate-gate"] is None, what="v2 ready")


def test_each_change_is_logged_once(start, two, v1, v2):
    envoy = start(two, routes=ROUTES)
    sick(v1)
    sick(v2)
    lines = [
        f"policy reviews: upstream reviews-{name}: not ready, and its gate fails open (all-not-ready)"
        for name in ("v1", "v2")
    ]
    until(lambda: all(line in envoy.logs() for line in lines), what="logged")
    v1.answer(200, path="/healthz")
    v2.answer(200, path="/healthz")
    ends = [f"policy reviews: upstream reviews-{name}: its gate no longer fails open" for name in ("v1", "v2")]
    until(lambda: all(line in envoy.logs() for line in ends), what="logged")
    until_all(lambda: get(envoy.port(), "/v1").headers["x-graygate-gate"] is None, what="ready")
    assert [envoy.logs().count(line) for line in lines + ends] == [1] * 4


def test_with_reply_they_are_gated_all_the_same(start, two, v1, v2):
    for gate in two["gates"]:
        gate["whenAllNotReady"] = "reply"
    envoy = start(two, routes=ROUTES)
    sick(v1)
    sick(v2)
    for path in ("/v1", "/v2"):
        until_all(lambda: get(envoy.port(), path).status == 503, what="gated")
    assert envoy.counter("graygate_failed_open_requests_total") == 0
    assert "fails open" not in envoy.logs()


def test_of_more_than_may_be_gated_the_first_that_failed_is(start, two, v1, v2):
    for gate in two["gates"]:
        del gate["whenAllNotReady"]
    two["maxGatedPercent"] = 50
    envoy = start(two, routes=ROUTES)
    sick(v2)
    until_all(lambda: get(envoy.port(), "/v2").status == 503, what="v2 gated")
    sick(v1)
    said(envoy, "/v1", MOST.format("reviews-v1", "check-failed"))
    assert {answer.status for answer in drive(envoy.port(), [Request("/v2")] * 40)} == {503}
    line = "upstream reviews-v1: not ready, and its gate fails open (max-gated)"
    until(lambda: line in envoy.logs(), what="logged")
    v2.answer(200, path="/healthz")
    until_all(lambda: get(envoy.port(), "/v1").status == 503, what="v1 gated, now that there is room")
    assert get(envoy.port(), "/v2").status == 200


def test_an_upstream_that_is_forced_is_gated_though_all_are_down(start, two, v1, v2):
    two["upstreams"]["reviews-v1"]["force"] = "notReady"
    envoy = start(two, routes=ROUTES)
    sick(v2)
    said(envoy, "/v2", ALL.format("reviews-v2", "check-failed"))
    answers = drive(envoy.port(), [Request("/v1")] * 40)
    assert {answer.status for answer in answers} == {503}
    assert v1.requests == 0


def test_a_breaker_recovers_while_its_gate_is_open(start, two, v1):
    """Requests go on all the time: some hold the permits of a trial, and the others are witnesses."""
    two["gates"] = two["gates"][:1]
    upstream = two["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": 3, "notReadyFor": "3s", "maxNotReadyFor": "3s"}
    envoy = start(two, routes=ROUTES)
    v1.answer(500)
    until(lambda: get(envoy.port(), "/v1") and envoy.transitions(from_="ready", to="not-ready"), what="a trip")
    said(envoy, "/v1", ALL.format("reviews-v1", "consecutive-failures"))
    v1.answer(200)
    recovered = {"from_": "trial", "to": "ready", "reason": "trial-passed"}
    until(lambda: get(envoy.port(), "/v1").status == 200 and envoy.transitions(**recovered), what="ready")
    until_all(lambda: get(envoy.port(), "/v1").headers["x-graygate-gate"] is None, what="no longer said")


def test_in_shadow_nothing_is_added_and_all_is_counted(start, two, v1, v2):
    two["mode"] = "shadow"
    envoy = start(two, routes=ROUTES)
    sick(v1)
    sick(v2)

    def counted():
        return envoy.counter("graygate_failed_open_requests_total", upstream="reviews-v1", mode="shadow")

    until(lambda: get(envoy.port(), "/v1").headers["x-graygate-gate"] is None and counted(), what="counted")
    assert {answer.status for answer in drive(envoy.port(), [Request("/v1")] * 20)} == {200}


def test_prometheus_shows_it_before_it_happens(start, two):
    envoy = start(two, routes=ROUTES)
    shown = 'graygate_failed_open_requests_total{policy="reviews",upstream="reviews-v2",reason="all-not-ready"}'
    found = [line for line in envoy.prometheus().splitlines() if line.startswith("graygate_failed_open_requests_total")]
    labels = [set(line.partition("{")[2].partition("}")[0].split(",")) for line in found]
    assert set(shown.partition("{")[2].rstrip("}").split(",")) in labels
