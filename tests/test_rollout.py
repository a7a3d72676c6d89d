"""A policy that applies to some proxies before others."""

from __future__ import annotations

from harness.client import get
from harness.wait import until

# By their hashes, a rollout to 50 % selects the first of these nodes but not the second.
WITH, WITHOUT = (f"sidecar~10.0.0.{number}~shop-{number}.shop~shop.svc.cluster.local" for number in (2, 3))


def test_a_rollout_selects_proxies_by_node_and_the_others_report_shadow_mode(start, policy):
    policy["rollout"] = {"percent": 50}
    tester = {"x-tester": "true"}
    assert get(start(policy, node_id=WITH).port(), "/", tester).version == "v2"
    envoy = start(policy, node_id=WITHOUT)
    assert get(envoy.port(), "/", tester).version == "v1"
    assert envoy.counter("graygate_assignments_total", reason="match", mode="shadow") == 1
    # Both answer probes.
    assert get(envoy.port(), "/livez").version is None
    assert envoy.counter("graygate_probe_answers_total", probe="liveness") == 1
    assert any("loaded: 2 upstreams" in line and "(mode: shadow)" in line for line in envoy.logs().splitlines())


def gauge(envoy, name):
    return envoy.counter(f"graygate_policy_{name}")


def test_a_metric_shows_each_policy_update(start, policy):
    envoy = start(policy, delivery="ecds")
    until(lambda: gauge(envoy, "enforced"), what="in use")
    before = gauge(envoy, "document")
    envoy.publish(policy | {"mode": "shadow"})
    until(lambda: gauge(envoy, "document") != before, what="the other document")
    assert gauge(envoy, "enforced") == 0
