"""A request whose upstream is not Ready is answered at once, and told why."""

from __future__ import annotations

import json

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.wait import until, until_all

GRPC = {"content-type": "application/grpc", "te": "trailers"}


@pytest.fixture
def down(start, policy, v1):
    """An Envoy whose v1 is down, and a policy that gates it."""

    def with_policy(**reply):
        policy["gates"][0]["reply"].update(reply)
        envoy = start(policy)
        v1.refuse()
        gated = {"x-user-id": "alice"}
        until_all(lambda: get(envoy.port(), "/", gated).headers["retry-after"], what="gated")
        return envoy, gated

    return with_policy


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_the_reply_names_policy_upstream_and_reason(down, ask):
    envoy, gated = down()
    answer = ask(envoy.port(), "/x", gated)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert answer.text == "policy reviews: upstream reviews-v1 is not ready: check-failed: could not be reached\n"
    gate = "graygate_gate{reviews|reviews-v1|check-failed}"
    until(lambda: gate in [line["details"] for line in envoy.access_log()], what="the details in the access log")


def test_a_grpc_request_gets_a_grpc_status(down):
    envoy, gated = down()
    answer = get2(envoy.port(), "/shop.Reviews/List", {**GRPC, **gated}, method="POST", body=b"\0\0\0\0\0")
    assert answer.status == 200
    # Trailers only: the first header block is also the last.
    assert answer.headers["grpc-status"] == "14"
    assert answer.headers["grpc-message"].startswith("policy reviews: upstream reviews-v1 is not ready: check-failed")
    assert answer.headers["retry-after"] == "2"


def test_the_reply_is_the_policys_own(down):
    body = '{"error":"{upstream} is not ready","why":"{reason}","in":{retryAfter}}'
    envoy, gated = down(status=429, retryAfterSeconds=7, headers={"X-Reason": "warming-up"}, body=body)
    answer = get(envoy.port(), "/x", gated)
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-reason"]) == (429, "7", "warming-up")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {"error": "reviews-v1 is not ready", "why": "check-failed", "in": 7}


def test_a_gate_on_a_version_lets_requests_for_another_version_pass(down):
    envoy, _ = down()
    assert get(envoy.port(), "/x", {"x-tester": "true"}).version == "v2"


def test_a_gated_request_never_reaches_the_upstream(start, policy, v1):
    envoy = start(policy)
    v1.answer(500, path="/healthz")
    until_all(lambda: get(envoy.port(), "/", {"x-user-id": "alice"}).status == 503, what="gated")
    seen = v1.requests
    answers = drive(envoy.port(), [Request("/", {"x-user-id": "alice"})] * 200)
    assert {answer.status for answer in answers} == {503}
    assert v1.requests == seen


def test_a_gate_holds_for_the_requests_it_matches(start, policy, v2):
    policy["releases"] = []
    policy["gates"] = [{"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"}]
    envoy = start(policy)
    v2.refuse()
    until_all(lambda: get(envoy.port(), "/pay/1").headers["retry-after"], what="gated")
    assert get(envoy.port(), "/play").version == "v1"


def test_an_upstream_that_recovers_is_let_through(down, v1):
    envoy, gated = down()
    v1.accept()
    answer = until(lambda: (a := get(envoy.port(), "/x", gated)).status == 200 and a, what="v1 again")
    assert answer.version == "v1"
