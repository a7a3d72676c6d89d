"""The headers by which the health checks of another Envoy learn more than the status.

`tests/worlds/probes.rs` covers which response has which header.
"""

from __future__ import annotations

import json

import pytest

from harness.client import get
from harness.config import cluster, socket_address
from harness.envoy import Envoy
from harness.probe import all_pass, all_say
from harness.wait import until, until_all


@pytest.fixture
def marked(policy):
    """A policy in which v2 is optional, so that readiness is degraded without it."""
    policy["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2", "required": False})
    policy["probes"].update(markerHeaders=True, drain={"path": "/drainz"})
    return policy


def degrade(envoy, v2):
    v2.answer(500, path="/healthz")
    until_all(lambda: "[-]reviews-v2" in get(envoy.port(), "/readyz").text, what="v2 down")


def drain(envoy):
    get(envoy.port(), "/drainz", method="POST")
    all_say(envoy, 503)


class Peer(Envoy):
    """Another Envoy, which checks `/readyz` of the first one ten times a second."""

    def __init__(self, envoy: Envoy, **check: object) -> None:
        health = {"path": "/readyz", **check}
        limits = {"timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "healthy_threshold": 1}
        checked = {"health_checks": [{**limits, "unhealthy_threshold": 1000, "http_health_check": health}]}
        clusters = [{**cluster("front", envoy.port()), **checked}]
        super().__init__({"admin": {"address": socket_address()}, "static_resources": {"clusters": clusters}})

    def says(self) -> dict[str, object]:
        """Returns the health flags that the peer has for the first one."""
        [front] = json.loads(self.admin("/clusters?format=json"))["cluster_statuses"]
        [host] = front["host_statuses"]
        return {name: value for name, value in host["health_status"].items() if name != "eds_health_status"}


def test_a_peer_sees_that_a_proxy_is_degraded_or_drains(start, marked, v1, v2):
    """A draining proxy gets no traffic even if the peer sends requests to failing hosts for want of others."""
    envoy = start(marked)
    all_pass(envoy)
    with Peer(envoy, service_name_matcher={"exact": "test"}) as peer:

        def sees(what, **flags):
            until(lambda: peer.says() == flags, what=f"the peer sees that it {what}")

        sees("is well")
        degrade(envoy, v2)
        sees("is degraded", failed_active_degraded_check=True)
        v1.answer(500, path="/healthz")
        sees("failed", failed_active_health_check=True, failed_active_degraded_check=True)
        v1.answer(200, path="/healthz")
        v2.answer(200, path="/healthz")
        sees("is well again")
        drain(envoy)
        sees("drains", failed_active_health_check=True, excluded_via_immediate_hc_fail=True)
        get(envoy.port(), "/drainz", method="DELETE")
        sees("is well again")


def test_a_peer_that_expects_another_service_fails_the_health_check(start, marked):
    envoy = start(marked)
    all_pass(envoy)
    with Peer(envoy, service_name_matcher={"exact": "tes"}) as peer:
        until(lambda: peer.says().get("failed_active_health_check"), what="failed to the peer")
