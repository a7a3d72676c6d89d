"""A policy that applies to some proxies before others."""

from __future__ import annotations

from harness.client import get
from harness.wait import until

# By their hashes, a rollout to 50 % selects the first of these nodes but not the second.
WITH, WITHOUT = (f"sidecar~10.0.0.{number}~shop-{number}.shop~shop.svc.cluster.local" for number in (2, 3))


def test_it_comes_to_a_proxy_by_its_node_and_one_without_it_is_in_shadow_and_says_so(start, policy):
    policy["rollout"] = {"percent": 50}
    assert get(start(policy, node_id=WITH).port(), "/livez").headers["x-version"] is None
    envoy = start(policy, node_id=WITHOUT)
    assert get(envoy.port(), "/livez").headers["x-version"] == "v1"
    assert envoy.counter("graygate_probe_answers_total", probe="liveness", mode="shadow") == 1
    assert any("loaded: 2 upstreams" in line and "(mode: shadow)" in line for line in envoy.logs().splitlines())


def gauge(envoy, name):
    return envoy.counter(f"graygate_policy_{name}")


def test_an_update_of_the_policy_shows(start, policy):
    envoy = start(policy, delivery="ecds")
    until(lambda: gauge(envoy, "enforced"), what="in use")
    before = gauge(envoy, "document")
    envoy.publish(policy | {"mode": "shadow"})
    until(lambda: gauge(envoy, "document") != before, what="the other document")
    assert gauge(envoy, "enforced") == 0
