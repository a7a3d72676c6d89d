"""The headers by which another Envoy's health checks learn more of this one than a status."""

from __future__ import annotations

import json

import pytest

from harness.client import get
from harness.config import cluster, socket_address
from harness.envoy import Envoy
from harness.probe import HEALTH_JSON, all_pass, all_say
from harness.wait import until, until_all

DEGRADED = "x-envoy-degraded"
AT_ONCE = "x-envoy-immediate-health-check-fail"
SERVICE = "x-envoy-upstream-healthchecked-cluster"


@pytest.fixture
def marked(policy):
    """v2 is optional: without it, readiness is degraded."""
    policy["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2", "required": False})
    policy["probes"].update(markerHeaders=True, drain={"path": "/drainz"})
    return policy


def markers(envoy, path="/readyz", headers=()):
    answer = get(envoy.port(), path, headers)
    return {name: answer.headers[name] for name in (DEGRADED, AT_ONCE, SERVICE) if name in answer.headers}


def degrade(envoy, v2):
    v2.answer(500, path="/healthz")
    until_all(lambda: "[-]reviews-v2" in get(envoy.port(), "/readyz").text, what="v2 down")


def drain(envoy):
    get(envoy.port(), "/drainz", method="POST")
    all_say(envoy, 503)


def test_there_are_none_unless_the_policy_wants_them(start, marked, v2):
    del marked["probes"]["markerHeaders"]
    envoy = start(marked)
    all_pass(envoy)
    assert markers(envoy) == {}
    degrade(envoy, v2)
    assert markers(envoy) == {}
    drain(envoy)
    assert markers(envoy) == {}


def test_the_apps_own_answer_says_whose_it_is_when_it_is_new_and_when_it_is_replayed(start, policy, rule):
    policy["probes"]["markerHeaders"] = True
    envoy = start(policy)
    assert [markers(envoy), markers(envoy)] == [{SERVICE: "test"}] * 2


def test_they_say_degraded_draining_and_whose_answer_it_is(start, marked, v1, v2):
    """The service is what Envoy was started with as its own cluster."""
    envoy = start(marked)
    all_pass(envoy)
    always = {SERVICE: "test"}
    assert markers(envoy) == markers(envoy, "/livez") == always
    assert markers(envoy, headers={"accept": HEALTH_JSON}) == always
    degrade(envoy, v2)
    assert markers(envoy) == {**always, DEGRADED: "true"}
    v1.answer(500, path="/healthz")
    all_say(envoy, 503)
    assert markers(envoy) == always
    drain(envoy)
    until_all(lambda: AT_ONCE in markers(envoy), what="marked as draining")
    assert markers(envoy) == {**always, AT_ONCE: "true"}
    assert markers(envoy, "/livez") == always


def test_users_requests_get_none(start, marked):
    envoy = start(marked)
    drain(envoy)
    assert markers(envoy, "/") == {}


class Peer(Envoy):
    """Another Envoy, which checks `/readyz` of the first ten times a second."""

    def __init__(self, envoy: Envoy, **check: object) -> None:
        health = {"path": "/readyz", **check}
        limits = {"timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "healthy_threshold": 1}
        checked = {"health_checks": [{**limits, "unhealthy_threshold": 1000, "http_health_check": health}]}
        clusters = [{**cluster("front", envoy.port()), **checked}]
        super().__init__({"admin": {"address": socket_address()}, "static_resources": {"clusters": clusters}})

    def says(self) -> dict[str, object]:
        """Of the first one's health, what is not as usual."""
        [front] = json.loads(self.admin("/clusters?format=json"))["cluster_statuses"]
        [host] = front["host_statuses"]
        return {name: value for name, value in host["health_status"].items() if name != "eds_health_status"}


def test_a_peer_sees_what_is_degraded_and_what_drains(start, marked, v1, v2):
    """One that drains gets no traffic even where the peer, for want of others, asks those that fail."""
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


@pytest.mark.parametrize("name", ["tes", "other"])
def test_a_peer_that_looks_for_another_service_fails_it(start, marked, name):
    envoy = start(marked)
    all_pass(envoy)
    with Peer(envoy, service_name_matcher={"exact": name}) as peer:
        until(lambda: peer.says().get("failed_active_health_check"), what="failed to the peer")
