"""The fast path for successful responses: the filter still sees everything that counts.

`tests/worlds/fast_path.rs` covers the workers. These tests show what Envoy reports to them.
"""

from __future__ import annotations

import copy
import socket
from typing import Any

import pytest

from harness.breaker import in_turn, judged, until_gated
from harness.client import Stream, get, get2
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.upstream import Behaviour
from harness.wait import until

GRPC = {"content-type": "application/grpc", "te": "trailers"}
NO_CONTENT = Behaviour(whole=b"HTTP/1.1 204 No Content\r\n\r\n")
HALF = Behaviour(whole=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"


@pytest.mark.parametrize("fault", ["refuse", "reset", "hang"])
def test_a_grpc_request_without_a_response_is_a_failure(start, policy, v1, fault):
    """Envoy responds with status 200 and has the failure in grpc-status."""
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, timeout="0.2s")
    getattr(v1, fault)()
    for _ in range(4):
        assert get2(envoy.port(), "/shop.Reviews/Get", GRPC, method="POST", body=bytes(5)).status == 200
    assert envoy.transitions(to="not-ready") == 1


def test_a_missing_response_is_a_failure_whatever_status_the_proxy_gives_it(start, policy, v1):
    errors = {
        "status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "none"}}}
    }
    mapped = {"local_reply_config": {"mappers": [{"filter": errors, "status_code": 200}]}}
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, hcm=mapped)
    v1.refuse()
    in_turn(envoy, *["/"] * 4)
    assert envoy.transitions(to="not-ready") == 1


def test_a_client_that_leaves_a_successful_response_ends_a_row_of_failures(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, timeout="60s")
    v1.answer(500, path="/bad")
    v1.behave(HALF, path="/half")
    with Stream(envoy.port(), "/half", end=True) as stream:
        begun = "cluster.reviews-v1.upstream_rq_200"
        until(lambda: envoy.stats(begun).get(begun), what="the response has begun")
        assert in_turn(envoy, "/bad", "/bad") == [500, 500]
        stream.reset()
    until(lambda: any(line["path"] == "/half" for line in envoy.access_log()), what="the stream has ended")
    assert in_turn(envoy, "/bad", "/bad") == [500, 500]
    assert envoy.transitions() == 0


def test_websockets_that_the_upstream_ends_do_not_count_and_end_a_row_when_they_open(start, policy, v1):
    upgrades = {"upgrade_configs": [{"upgrade_type": "websocket"}]}
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, hcm=upgrades, timeout="0s")
    v1.answer(500, path="/bad")
    v1.behave(Behaviour(whole=SWITCH, close=True), path="/socket")
    key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13"
    upgrade = f"connection: upgrade\r\nupgrade: websocket\r\n{key}"
    for opened in range(1, 6):
        assert in_turn(envoy, "/bad", "/bad") == [500, 500]
        with socket.create_connection(("127.0.0.1", envoy.port()), timeout=5) as client:
            client.sendall(f"GET /socket HTTP/1.1\r\nhost: reviews\r\n{upgrade}\r\n\r\n".encode())
            assert b" 101 " in client.recv(4096)
            # The upstream closes the connection first.
            while client.recv(4096):
                pass
        ended = f"{opened} tunnels have ended"
        until(lambda: [line["path"] for line in envoy.access_log()].count("/socket") == opened, what=ended)
    assert envoy.transitions() == 0


def test_a_response_without_a_body_ends_a_row_of_failures(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1)
    v1.answer(500, path="/bad")
    v1.behave(NO_CONTENT, path="/none")
    for _ in range(4):
        assert in_turn(envoy, "/bad", "/bad") == [500, 500]
        assert get(envoy.port(), "/none").status == 204
    assert envoy.transitions() == 0


def test_responses_count_the_same_if_the_router_adds_no_headers(policy, v1):
    """Normally, one of these headers distinguishes responses of upstreams from Envoy's own."""
    document = bootstrap(judged(policy, consecutiveFailures=3), {"reviews-v1": v1.port}).document()
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][-1]["typed_config"]["suppress_envoy_headers"] = True
    with Envoy(document, concurrency=1) as envoy:
        v1.answer(500, path="/bad")
        assert "x-envoy-upstream-service-time" not in get(envoy.port()).headers
        paths = ["/", "/bad", "/bad", "/", "/bad", "/bad", "/bad"]
        assert in_turn(envoy, *paths) == [200, 500, 500, 200, 500, 500, 500]
        until(lambda: envoy.transitions(reason="consecutive-failures"), what="a trip")
        # If the main thread saw first that the row has lasted long enough, a worker learns of it on its next tick.
        until_gated(envoy, "consecutive-failures")


def two_policies(policy: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a policy whose breaker trips after two failures, and one that sends all users to v2."""
    one = judged({**copy.deepcopy(policy), "name": "one"}, consecutiveFailures=2)
    two = {**copy.deepcopy(policy), "name": "two", "gates": []}
    two["releases"][0]["versions"][1]["match"] = [{"uri": {"prefix": "/"}}]
    return one, two


def test_two_policies_in_one_vm_keep_their_requests_apart(policy, v1, v2):
    one, two = two_policies(policy)
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    document = bootstrap(one, ports).document()
    document["static_resources"]["listeners"].append({**bootstrap(two, ports).listener(), "name": "second"})
    with Envoy(document, concurrency=1) as envoy:
        first, second = envoy.port(), envoy.port("second")
        v1.answer(500)
        with Stream(first, "/open", end=False), Stream(second, "/open", end=False):
            assert get(second).version == "v2"
            assert [get(first).status for _ in range(4)] == [500, 500, 503, 503]
            assert get(second).version == "v2"
        for _ in range(10):
            assert (get(second).version, get(first).status) == ("v2", 503)
        assert "policy one: upstream reviews-v1: ready -> not-ready" in envoy.logs()
        assert "policy two: upstream reviews-v1: ready -> not-ready" not in envoy.logs()
