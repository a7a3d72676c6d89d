"""A gate that fails open forwards requests to an upstream that is not ready, and reports it.

`tests/worlds/fail_open.rs` covers when a gate does so and what it reports.
"""

from __future__ import annotations

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.wait import until, until_all

ALL = "failed-open; upstream={}; reason={}; because=all-not-ready"


@pytest.fixture
def two(policy):
    """A policy with a check on each upstream and a gate for its path."""
    policy["releases"] = []
    policy["gates"] = [
        {"upstream": f"reviews-{name}", "match": [{"uri": {"prefix": f"/{name}"}}], "whenAllNotReady": "forward"}
        for name in ("v1", "v2")
    ]
    return policy


ROUTES = [{"match": {"prefix": "/v2"}, "route": {"cluster": "reviews-v2"}}, route("reviews-v1", "5s")]


def said(envoy, path, words):
    """Checks that all workers forward the request and that the response reports it."""
    until_all(lambda: (a := get(envoy.port(), path)).headers["x-graygate-gate"] == words and a.version, what=words)


def sick(upstream):
    """Makes an upstream fail its checks and serve requests."""
    upstream.answer(500, path="/healthz")


def test_if_all_upstreams_are_down_requests_are_forwarded_and_reported(start, two, v1, v2):
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


def test_the_counter_of_gates_that_fail_open_exists_before_one_does(start, two):
    envoy = start(two, routes=ROUTES)
    labels = {'policy="reviews"', 'upstream="reviews-v2"', 'reason="all-not-ready"'}

    def exists():
        lines = envoy.prometheus().splitlines()
        found = [line for line in lines if line.startswith("graygate_failed_open_requests_total")]
        return labels in [set(line.partition("{")[2].partition("}")[0].split(",")) for line in found]

    until(exists, what="the counter")
