"""A request whose upstream is not ready gets something else instead of an error: another upstream, or an answer."""

from __future__ import annotations

import http.client
import json
from contextlib import closing

import pytest

from harness.client import get, get2
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
    """Degraded content."""
    body = '{"items":[],"why":"{reason}","from":"{upstream}"}'
    policy["gates"][0]["fallback"] = {"answer": {"headers": {"x-degraded": "yes"}, "body": body}}
    return policy


def test_another_upstream_serves_and_the_response_says_so(start, diverting, v1, v2):
    envoy = start(diverting, routes=ROUTES)
    assert get(envoy.port(), "/", ALICE).version == "v1"
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).headers["x-graygate-gate"] == DIVERTED, what="diverted")
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


def test_whoever_is_diverted_counts_for_no_version(start, diverting, v1):
    envoy = start(diverting, routes=ROUTES)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).version == "v2", what="diverted")
    before = envoy.counter("graygate_assignments_total")
    drive(envoy.port(), [Request("/", ALICE)] * 20)
    assert envoy.counter("graygate_assignments_total") == before


def test_a_client_can_not_choose_the_cluster(start, diverting, v1, v2):
    envoy = start(diverting, routes=ROUTES)
    for cluster in ("reviews-v2", "nowhere"):
        answers = drive(envoy.port(), [Request("/", {**ALICE, "x-gray-cluster": cluster})] * 20)
        assert {(answer.status, answer.version) for answer in answers} == {(200, "v1")}
    v1.refuse()
    header = {**ALICE, "x-gray-cluster": "nowhere"}
    until_all(lambda: get(envoy.port(), "/", header).version == "v2", what="diverted")


def test_where_the_fallback_is_down_too_the_gate_replies(start, diverting, v1, v2):
    envoy = start(diverting, routes=ROUTES)
    v1.refuse()
    v2.refuse()
    until_all(lambda: "is not ready" in get(envoy.port(), "/", ALICE).text, what="told")
    v2.accept()
    until_all(lambda: get(envoy.port(), "/", ALICE).version == "v2", what="diverted")


def test_an_answer_that_is_good_enough(start, answering, v1):
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


def test_a_grpc_request_gets_the_gates_reply_and_its_own_status(start, answering, v1):
    answering["gates"][0]["reply"] = {"status": 429, "grpcStatus": 8, "body": "{upstream}: {reason}"}
    envoy = start(answering)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).headers["x-degraded"] == "yes", what="answered")
    call = {"content-type": "application/grpc", "te": "trailers", **ALICE}
    answer = get2(envoy.port(), "/shop.Reviews/List", call, method="POST", body=b"\0\0\0\0\0")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "8")
    assert answer.headers["grpc-message"] == "reviews-v1: check-failed"


@pytest.mark.parametrize("kind", ["diverting", "answering"])
def test_in_shadow_nothing_is_diverted_and_nothing_answered(start, request, kind, v1, v2):
    policy = {**request.getfixturevalue(kind), "mode": "shadow"}
    envoy = start(policy, routes=ROUTES)
    v1.answer(500, path="/healthz")
    to = {"diverting": "reviews-v2", "answering": "answer"}[kind]

    def counted():
        return envoy.counter("graygate_fallback_requests_total", to=to, mode="shadow")

    until(lambda: get(envoy.port(), "/", ALICE).status == 200 and counted(), what="counted")
    for answer in (get(envoy.port(), "/", ALICE) for _ in range(20)):
        assert (answer.version, answer.headers["x-graygate-gate"]) == ("v1", None)
    assert b"x-gray-cluster" not in dict(v1.last_headers_of("/"))
    assert v2.requests == 0


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_with_no_body_leaves_the_connection_in_order(start, policy, v1, status):
    policy["gates"][0]["fallback"] = {"answer": {"status": status}}
    envoy = start(policy)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == status, what="answered")
    with closing(http.client.HTTPConnection("127.0.0.1", envoy.port(), timeout=5)) as connection:
        for path, expected in [("/", status), ("/livez", 200), ("/", status)]:
            connection.request("GET", path, headers=ALICE)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (expected, expected == 200)


def test_the_status_of_an_http_request_is_not_grpcs(start, policy, v1):
    policy["gates"][0]["reply"] = {"status": 429, "grpcStatus": 8}
    envoy = start(policy)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 429, what="told")
