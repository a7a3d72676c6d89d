"""A request whose upstream is not ready gets a reply at once, with the reason.

`tests/worlds/gates.rs` covers which requests, and the reply to each.
"""

from __future__ import annotations

import pytest

from harness.client import get, get2
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}
CALL = {"content-type": "application/grpc", "te": "trailers", **ALICE}


@pytest.fixture
def down(start, policy, v1):
    """An Envoy whose v1 is down, with a gate on v1."""
    envoy = start(policy)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).headers["retry-after"], what="gated")
    return envoy


def test_the_reply_names_policy_upstream_and_reason(down, v1):
    for ask in (get, get2):
        answer = ask(down.port(), "/x", ALICE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert answer.text == "policy reviews: upstream reviews-v1 is not ready: check-failed: could not be reached\n"
    assert get(down.port(), "/x", {"x-tester": "true"}).version == "v2"
    gate = "graygate_gate{reviews|reviews-v1|check-failed}"
    until(lambda: gate in [line["details"] for line in down.access_log()], what="the details in the access log")
    v1.accept()
    until_all(lambda: get(down.port(), "/x", ALICE).version == "v1", what="v1 again")


def test_a_gated_grpc_request_gets_a_grpc_status(down):
    answer = get2(down.port(), "/shop.Reviews/List", CALL, method="POST", body=b"\0\0\0\0\0")
    assert answer.status == 200
    # In a trailers-only response, the first header block is also the last.
    assert answer.headers["grpc-status"] == "14"
    assert answer.headers["grpc-message"].startswith("policy reviews: upstream reviews-v1 is not ready: check-failed")
    assert answer.headers["retry-after"] == "2"


def test_a_grpc_status_in_the_policy_applies_only_to_grpc_requests(start, policy, v1):
    policy["gates"][0]["reply"] = {"status": 429, "grpcStatus": 8, "body": "{upstream}: {reason}"}
    envoy = start(policy)
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 429, what="told")
    answer = get2(envoy.port(), "/shop.Reviews/List", CALL, method="POST", body=b"\0\0\0\0\0")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "8")
    assert answer.headers["grpc-message"] == "reviews-v1: check-failed"
