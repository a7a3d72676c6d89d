"""A request whose upstream is not ready gets another upstream or a fixed response instead of an error.

`tests/worlds/fallback.rs` covers which of them, and when.
"""

from __future__ import annotations

import http.client
import json
from contextlib import closing

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}
BY_HEADER = {
    "match": {"prefix": "/", "headers": [{"name": "x-gray-cluster", "present_match": True}]},
    "route": {"cluster_header": "x-gray-cluster"},
}
ROUTES = [BY_HEADER, route("reviews-v2", "5s", ("x-gray-version", "v2")), route("reviews-v1", "5s")]
DIVERTED = "fallback; upstream=reviews-v1; reason=check-failed; to=reviews-v2"


@pytest.fixture
def diverting(policy):
    policy["gates"][0]["fallback"] = {"upstream": "reviews-v2", "clusterHeader": "x-gray-cluster"}
    return policy


@pytest.fixture
def answering(policy):
    """A policy whose fallback is a fixed response."""
    body = '{"items":[],"why":"{reason}","from":"{upstream}"}'
    policy["gates"][0]["fallback"] = {"answer": {"headers": {"x-degraded": "yes"}, "body": body}}
    return policy


def test_a_fallback_upstream_serves_and_the_response_reports_it(start, diverting, v1, v2):
    envoy = start(diverting, routes=ROUTES)
    # A client cannot choose the cluster.
    for chosen in ("reviews-v2", "nowhere"):
        assert get(envoy.port(), "/", {**ALICE, "x-gray-cluster": chosen}).version == "v1"
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).headers["x-graygate-gate"] == DIVERTED, what="diverted")
    assert get(envoy.port(), "/", {**ALICE, "x-gray-cluster": "nowhere"}).version == "v2"
    before = envoy.counter("graygate_fallback_requests_total", upstream="reviews-v1", to="reviews-v2")
    answers = drive(envoy.port(), [Request("/", ALICE)] * 50)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v2")}
    assert envoy.counter("graygate_fallback_requests_total", upstream="reviews-v1", to="reviews-v2") == before + 50
    assert envoy.counter("graygate_gated_requests_total", upstream="reviews-v1", reason="check-failed") >= 50
    sent = dict(v2.last_headers_of("/"))
    assert sent[b"x-gray-cluster"] == b"reviews-v2"
    assert b"x-gray-version" not in sent
    v1.accept()
    until_all(lambda: get(envoy.port(), "/", ALICE).version == "v1", what="v1 again")
    assert get(envoy.port(), "/", ALICE).headers["x-graygate-gate"] is None


def test_a_fixed_response_replaces_the_upstreams(start, answering, v1):
    envoy = start(answering)
    assert get(envoy.port(), "/", ALICE).version == "v1"
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).headers["x-degraded"] == "yes", what="answered")
    seen = v1.requests
    answer = get(envoy.port(), "/", ALICE)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == {"items": [], "why": "check-failed", "from": "reviews-v1"}
    assert answer.headers["x-graygate-gate"] == "fallback; upstream=reviews-v1; reason=check-failed; to=answer"
    assert answer.headers["retry-after"] is None
    assert envoy.counter("graygate_fallback_requests_total", upstream="reviews-v1", to="answer")
    gate = "graygate_gate{reviews|reviews-v1|check-failed}"
    until(lambda: gate in [line["details"] for line in envoy.access_log()], what="the details in the access log")
    assert v1.requests == seen


def test_a_fixed_response_without_a_body_keeps_the_connection_intact(start, policy, v1):
    policy["gates"][0]["fallback"] = {"answer": {"status": 204}}
    envoy = start(policy)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 204, what="answered")
    with closing(http.client.HTTPConnection("127.0.0.1", envoy.port(), timeout=5)) as connection:
        for path, expected in [("/", 204), ("/livez", 200), ("/", 204)]:
            connection.request("GET", path, headers=ALICE)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (expected, expected == 200)
