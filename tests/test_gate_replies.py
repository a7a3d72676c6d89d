"""What a gate's reply means to others: caches, Envoys in front, and browsers that run pages of other origins.

`tests/worlds/gate_replies.rs` covers the reply in each case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from harness.client import get, get2
from harness.config import HTTP_FILTERS, Tree, cluster_of, http_options, listener, socket_address
from harness.envoy import Envoy
from harness.wait import until_all

SHOP = "https://shop.example"
CALL = {"content-type": "application/grpc", "te": "trailers"}
PREFLIGHT = {"origin": SHOP, "access-control-request-method": "PUT"}


@pytest.fixture
def gated(policy):
    """A policy with a gate on an upstream that is never ready."""
    policy["upstreams"]["reviews-v1"] = {"cluster": "reviews-v1", "force": "notReady"}
    policy["releases"] = []
    policy["gates"] = [{"upstream": "reviews-v1"}]
    return policy


def test_a_stand_in_is_not_to_be_cached(start, gated):
    gated["gates"][0]["fallback"] = {"answer": {"status": 200, "body": "[]"}}
    envoy = start(gated)
    for ask in (get, get2):
        answer = ask(envoy.port(), "/")
        assert (answer.status, answer.text) == (200, "[]")
        assert answer.headers.get_all("cache-control") == ["no-store"]


# -- Envoys in front --------------------------------------------------------------


@contextmanager
def client_of(ports: Sequence[int], *, http2: bool = False, **retry: Any) -> Iterator[Envoy]:
    """Starts an Envoy without the filter that retries requests to these ports."""
    app = {**cluster_of("app", *map(socket_address, ports)), **http_options(http2=http2)}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "app", "retry_policy": {"num_retries": 2, **retry}}}
    resources = {"listeners": [listener("client", (), [route])], "clusters": [app]}
    with Envoy({"admin": {"address": socket_address()}, "static_resources": resources}, concurrency=1) as envoy:
        yield envoy


def tries(gate: Envoy, client: Envoy, ask: Any) -> tuple[Any, int]:
    """Returns the response to a request by the client, and how often the gate saw the request."""
    before = gate.counter("graygate_gated_requests_total")
    answer = ask(client.port("client"))
    return answer, gate.counter("graygate_gated_requests_total") - before


def http_request(port: int) -> Any:
    return get(port, "/")


def grpc_request(port: int) -> Any:
    return get2(port, "/shop.Reviews/List", CALL, method="POST", body=b"\0\0\0\0\0")


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_an_envoy_in_front_retries_a_reply_only_if_the_policy_allows_it(start, gated, grpc):
    ask, words = (grpc_request, "unavailable") if grpc else (http_request, "5xx,gateway-error,retriable-status-codes")
    closed = start(gated)
    gated["gates"][0]["reply"] = {"retriable": True}
    retriable = start(gated)
    for gate, expected in ((closed, 1), (retriable, 3)):
        with client_of([gate.port()], http2=grpc, retry_on=words, retriable_status_codes=[503]) as client:
            answer, count = tries(gate, client, ask)
        assert count == expected
        assert answer.headers["grpc-status"] == "14" if grpc else answer.status == 503
        # The header passes through the client's Envoy.
        assert answer.headers["x-envoy-ratelimited"] == ("true" if gate is closed else None)


def test_an_envoy_in_front_finds_another_replica_for_a_retriable_reply(start, gated, v1):
    gated["gates"][0]["reply"] = {"retriable": True}
    gate = start(gated)
    previous = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    other = [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}]
    retry: dict[str, Any] = {"retry_on": "5xx", "retry_host_predicate": other, "host_selection_retry_max_attempts": 5}
    with client_of([gate.port(), v1.port], **retry) as client:
        assert {get(client.port("client"), "/").version for _ in range(10)} == {"v1"}
    assert gate.counter("graygate_gated_requests_total")


# -- browsers ---------------------------------------------------------------------


CORS_FILTER: Tree = {"name": "cors", "typed_config": {"@type": f"{HTTP_FILTERS}.cors.v3.Cors"}}


def routes_with_cors() -> list[Tree]:
    """Returns a route table for the cors filter, which allows one origin."""
    allowed = {
        "@type": f"{HTTP_FILTERS}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": SHOP}],
        "allow_methods": "GET, PUT",
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "reviews-v1"}}
    return [{**route, "typed_per_filter_config": {"cors": allowed}}]


@pytest.fixture
def readable(gated):
    """The policy with a gate whose replies a page of one origin may read."""
    gated["gates"][0]["cors"] = {"allowOrigins": [{"exact": SHOP}], "exposeHeaders": ["retry-after"]}
    return gated


def test_a_preflight_is_answered_by_the_filter_behind_a_closed_gate(start, readable, v1):
    envoy = start(readable, filters_after=[CORS_FILTER], routes=routes_with_cors())
    for ask in (get, get2):
        assert ask(envoy.port(), "/", {"origin": SHOP}).status == 503
        answer = ask(envoy.port(), "/", PREFLIGHT, method="OPTIONS")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, SHOP)
        assert answer.headers["access-control-allow-methods"] == "GET, PUT"
    assert v1.requests == 0


def test_a_page_of_an_allowed_origin_can_read_the_reply(start, readable):
    envoy = start(readable, filters_after=[CORS_FILTER], routes=routes_with_cors())
    answer = get(envoy.port(), "/", {"origin": SHOP})
    assert answer.headers.get_all("access-control-allow-origin") == [SHOP]
    assert answer.headers["access-control-expose-headers"] == "retry-after"
    assert answer.headers["vary"] == "origin"
    for origin in ("https://other.example", b"https://\xff.example"):
        answer = get(envoy.port(), "/", {"origin": origin})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (503, None)


def test_a_cors_filter_before_the_gate_and_the_gate_add_each_header_once(start, readable):
    envoy = start(readable, filters_before=[CORS_FILTER], routes=routes_with_cors())
    answer = get(envoy.port(), "/", {"origin": SHOP})
    assert (answer.status, answer.headers.get_all("access-control-allow-origin")) == (503, [SHOP])


def test_a_preflight_that_no_filter_answers_reaches_the_app(start, gated, v1):
    envoy = start(gated)
    assert get(envoy.port(), "/", PREFLIGHT, method="OPTIONS").version == "v1"
    gated["gates"][0]["preflight"] = "reply"
    envoy = start(gated)
    until_all(lambda: get(envoy.port(), "/", PREFLIGHT, method="OPTIONS").status == 503, what="gated")
