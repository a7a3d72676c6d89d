"""The how-to pages that rest on other parts of Envoy. A real Envoy does what they say, with the policies they show."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
import yaml

from harness.client import get
from harness.config import Tree, bootstrap, cluster, route
from harness.docs import blocks
from harness.envoy import PROJECT, Envoy
from harness.load import Load, Request, drive
from harness.ports import free_port
from harness.probe import all_pass, all_say, text
from harness.wait import until, until_all

SECRET = b"a secret that only the test and its Envoy know"
ATTEMPTS = range(20)


def yaml_of(page: str) -> list[Any]:
    """Returns the YAML of a page's blocks, in their order."""
    found = blocks(PROJECT / "docs/how-to" / page)
    return [yaml.safe_load(block.text) for block in found if block.language == "yaml"]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(**claims: Any) -> dict[str, str]:
    """Returns the request header with a token of the page's issuer."""
    parts = ({"alg": "HS256", "kid": "key"}, {"iss": "https://id.example", "exp": 4_000_000_000, **claims})
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    signature = base64url(hmac.new(SECRET, signed.encode(), hashlib.sha256).digest())
    return {"authorization": f"Bearer {signed}.{signature}"}


def authentication(*, is_optional: bool) -> Tree:
    """Returns the page's filter with the test's key in place of one to fetch."""
    filters: list[Tree] = yaml_of("sticky-by-jwt-claim.md")[1]["http_filters"]
    config = filters[0]["typed_config"]
    del config["providers"]["id"]["remote_jwks"]
    keys = {"keys": [{"kty": "oct", "kid": "key", "alg": "HS256", "k": base64url(SECRET)}]}
    config["providers"]["id"]["local_jwks"] = {"inline_string": json.dumps(keys)}
    if is_optional:
        anyone = [{"provider_name": "id"}, {"allow_missing": {}}]
        config["rules"][0]["requires"] = {"requires_any": {"requirements": anyone}}
    return filters[0]


@pytest.mark.parametrize("is_optional", [False, True])
def test_the_key_is_the_claim_of_a_verified_token_and_never_the_clients_header(v1, v2, is_optional):
    policy = yaml_of("sticky-by-jwt-claim.md")[0]
    ports = {"shop-v1": v1.port, "shop-v2": v2.port}
    before = [authentication(is_optional=is_optional)]
    with Envoy(bootstrap(policy, ports, filters_before=before)) as envoy:

        def versions(headers: dict[str, str]) -> set[str | None]:
            return {get(envoy.port(), "/", headers).version for _ in ATTEMPTS}

        until(lambda: get(envoy.port(), "/", token(sub="zoe")).status == 200)
        # zoe is on the list of v2. The bucket of alice is v1's.
        assert versions(token(sub="zoe")) == versions(token(sub="zoe", nonce=1)) == {"v2"}
        assert versions({**token(sub="alice"), "x-jwt-sub": "zoe"}) == {"v1"}
        assert versions({**token(), "x-jwt-sub": "zoe"}) == {"v1", "v2"}
        assert get(envoy.port(), "/", {"authorization": "Bearer not.a.token"}).status == 401
        if is_optional:
            assert versions({"x-jwt-sub": "zoe"}) == {"v1", "v2"}
        else:
            assert get(envoy.port(), "/", {"x-jwt-sub": "zoe"}).status == 401


def test_the_same_users_requests_are_mirrored(v1, v2):
    policy, routes = yaml_of("mirroring.md")
    ports = {"checkout-v1": v1.port, "checkout-v2": v2.port}
    users = [{"x-user-id": f"user-{number}"} for number in range(300)]
    with Envoy(bootstrap(policy, ports, routes=routes["routes"])) as envoy:
        for user in users:
            assert get(envoy.port(), "/", user).version == "v1"
        assert v1.seen("/") == len(users)
        first = envoy.counter("graygate_assignments_total", version="mirrored")
        assert 0 < first < len(users) / 8
        until(lambda: v2.seen("/") == first)
        assert dict(v2.last_headers_of("/"))[b"host"].endswith(b"-shadow")
        for user in users:
            get(envoy.port(), "/", user)
        until(lambda: v2.seen("/") == 2 * first)


def test_weights_of_a_route_move_only_users_who_must_move(v1, v2):
    policy, routes = yaml_of("from-virtualservice-weights.md")[:2]
    # The load generator asks for another host.
    del policy["releases"][0]["match"]
    weights = routes[0]["route"]["weighted_clusters"]["clusters"]
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    users = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(300)]
    seen = []
    for share in (10, 30):
        for each, weight in zip(weights, (100 - share, share), strict=True):
            each["weight"] = weight
        with Envoy(bootstrap(policy, ports, routes=routes)) as envoy:
            first, second = ([answer.version for answer in drive(envoy.port(), users)] for _ in range(2))
            assert first == second
            seen.append(first)
    moves = set(zip(*seen, strict=True))
    assert moves == {("v1", "v1"), ("v1", "v2"), ("v2", "v2")}


def test_a_fallback_serves_while_its_upstream_fails(v1, v2):
    policy, [by_header] = yaml_of("fallback.md")[:2]
    ports = {"search": v1.port, "search-static": v2.port, "offers": v1.port}
    offers = {"match": {"prefix": "/offers"}, "route": {"cluster": "offers"}}
    v1.answer(500)
    with Envoy(bootstrap(policy, ports, routes=[by_header, offers, route("search", "5s")])) as envoy:
        until_all(lambda: get(envoy.port(), "/search").version == "v2", what="the other upstream")
        until_all(lambda: get(envoy.port(), "/offers").text == '{"offers":[]}', what="the answer")
        assert get(envoy.port(), "/search").headers["x-graygate-gate"].startswith("fallback; upstream=search;")
        assert get(envoy.port(), "/offers").headers["x-graygate-gate"] == "fallback"


def test_a_provider_that_answers_429_is_left_alone_for_as_long_as_it_says(v1, v2):
    policy, routes = yaml_of("llm-providers-429.md")
    v1.answer(429, [("retry-after", "3")])
    ports = {"provider": v1.port, "backup": v2.port}
    with (
        Envoy(bootstrap(policy, ports, routes=routes["routes"])) as envoy,
        Load(envoy.port(), [Request("/v1/chat/completions")], 50) as load,
    ):
        until(lambda: envoy.transitions(upstream="provider", to="not-ready"))
        # All workers know after two ticks.
        time.sleep(0.6)
        left_at, asked = time.monotonic(), v1.requests
        time.sleep(1.5)
        assert v1.requests == asked
        assert {(answer.status, answer.version) for answer in load.since(left_at)} == {(200, "v2")}
        v1.answer()
        until(lambda: {answer.version for answer in load.answers[-10:]} == {"v1"})


@pytest.mark.parametrize(
    ("order", "follows"), [("/healthcheck/fail", True), ("/drain_listeners?inboundonly&graceful", False)]
)
def test_readiness_can_follow_envoys_own_drain(v1, order, follows):
    policy = yaml_of("drain-in-prestop.md")[2]
    policy["upstreams"]["envoy"]["readinessProbe"]["periodSeconds"] = 0.2
    admin = free_port()
    config = bootstrap(policy, {"app": v1.port}, clusters=[cluster("admin", admin)]).document()
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    with Envoy(config) as envoy:
        all_pass(envoy)
        envoy.admin(order, "POST")
        if follows:
            all_say(envoy, 503)
            assert "[-]drain failed: draining (upstream envoy)" in text(envoy)
        else:
            assert envoy.admin("/ready").strip() == "LIVE"
