"""A policy that comes to some proxies before others."""

from __future__ import annotations

from harness.client import get

NODES = [f"sidecar~10.0.0.{number}~shop-{number}.shop~shop.svc.cluster.local" for number in range(6)]


def enforces(start, policy, node, percent):
    policy["rollout"] = {"percent": percent}
    return get(start(policy, node_id=node).port(), "/livez").headers["x-version"] is None


def test_no_proxy_and_every_proxy(start, policy):
    assert not enforces(start, policy, NODES[0], 0)
    assert enforces(start, policy, NODES[0], 100)


def test_a_proxy_that_has_it_keeps_it_as_it_goes_on(start, policy):
    half = {node for node in NODES if enforces(start, policy, node, 50)}
    assert 0 < len(half) < len(NODES)
    assert all(enforces(start, policy, node, 75) for node in half)


def test_a_proxy_without_it_counts_as_in_shadow_and_says_so(start, policy):
    policy["rollout"] = {"percent": 0}
    envoy = start(policy)
    get(envoy.port(), "/livez")
    assert envoy.counter("graygate_probe_answers_total", probe="liveness", mode="shadow") == 1
    assert any("loaded: 2 upstreams" in line and "(mode: shadow)" in line for line in envoy.logs().splitlines())
