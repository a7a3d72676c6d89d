"""A policy that comes to some proxies before others."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.wait import until

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


def gauge(envoy, name):
    return envoy.counter(f"graygate_policy_{name}")


@pytest.mark.parametrize(("mode", "percent", "enforced"), [("enforce", 100, 1), ("enforce", 0, 0), ("off", 100, 0)])
def test_each_proxy_tells_whether_it_does_as_the_policy_says(start, policy, mode, percent, enforced):
    policy |= {"mode": mode, "rollout": {"percent": percent}}
    envoy = start(policy)
    until(lambda: gauge(envoy, "document"), what="in use")
    assert gauge(envoy, "enforced") == enforced


def test_proxies_with_the_same_document_can_be_told_from_the_others(start, policy):
    first, second = start(policy, node_id=NODES[0]), start(policy, node_id=NODES[1])
    policy["rollout"] = {"percent": 1}
    other = start(policy, node_id=NODES[0])
    until(lambda: all(gauge(envoy, "document") for envoy in (first, second, other)), what="in use")
    assert gauge(first, "document") == gauge(second, "document") != gauge(other, "document")


def test_an_update_of_the_policy_shows(start, policy):
    envoy = start(policy, delivery="ecds")
    until(lambda: gauge(envoy, "enforced"), what="in use")
    before = gauge(envoy, "document")
    envoy.publish(policy | {"mode": "shadow"})
    until(lambda: gauge(envoy, "document") != before, what="the other document")
    assert gauge(envoy, "enforced") == 0
