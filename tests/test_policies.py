"""Several policies in one document, in a real Envoy. `tests/worlds/policies.rs` covers the workers and the cases."""

from __future__ import annotations

from typing import Any

import pytest

from harness.client import get
from harness.wait import until, until_all


@pytest.fixture
def teams(policy) -> dict[str, Any]:
    """The policies of two teams for hosts of their own, one upstream each, and one for the kubelet's probes."""

    def team(name, upstream):
        return {
            "name": name,
            "hosts": [f"{name}.shop"],
            "upstreams": {upstream: policy["upstreams"][upstream]},
            "gates": [{"upstream": upstream}],
        }

    probes = {"readiness": {"path": "/readyz", "checks": [{"upstream": "reviews-v1"}]}}
    rest = {"name": "rest", "upstreams": policy["upstreams"], "probes": probes}
    return {"policies": [team("reviews", "reviews-v1"), team("ratings", "reviews-v2"), rest]}


def ask(envoy, host, path="/"):
    return get(envoy.port(), path, {"host": host})


def gate(envoy, host):
    """The policy whose gate answers, or None."""
    text = ask(envoy, host).text
    return text.removeprefix("policy ").split(":")[0] if "is not ready" in text else None


def test_each_policy_gates_the_requests_for_its_own_hosts(start, teams, v1):
    envoy = start(teams, concurrency=1)
    v1.answer(500, path="/healthz")
    until(lambda: gate(envoy, "reviews.shop") == "reviews", what="the gate of reviews")
    assert gate(envoy, "Reviews.shop.svc.cluster.local:9080") == "reviews"
    assert [ask(envoy, host).version for host in ("ratings.shop", "payments.shop", "10.0.0.1:8080")] == ["v1"] * 3
    until(lambda: ask(envoy, "10.0.0.1:8080", "/readyz").status == 503, what="the probe of the kubelet")
    assert ask(envoy, "reviews.shop", "/readyz").status == 503, "no probe of its own, so its gate answers"
    assert ask(envoy, "ratings.shop", "/readyz").version == "v1"
    assert envoy.counter("graygate_gated_requests_total", policy="reviews") >= 3
    assert envoy.counter("graygate_gated_requests_total", policy="ratings") == 0


def test_an_update_that_adds_removes_and_reorders_policies_keeps_the_states_of_the_others(start, teams, v1):
    envoy = start(teams, delivery="ecds")
    v1.answer(500, path="/healthz")
    until_all(lambda: gate(envoy, "reviews.shop") == "reviews", what="the gate of reviews")
    for upstream in teams["policies"][2]["upstreams"].values():
        upstream["readinessProbe"]["failureThreshold"] = 6
    reviews, ratings, rest = teams["policies"]
    added = {"name": "added", "hosts": ["added.shop"], "probes": {"liveness": {"path": "/livez"}}}
    for policies in ([ratings, added, reviews, rest], [reviews, added], [added, reviews, ratings, rest]):
        gated = envoy.counter("graygate_transitions_total", policy="reviews")
        assert envoy.publish({"policies": policies}) == ""
        until_all(lambda: ask(envoy, "added.shop", "/livez").status == 200, what="the new document")
        assert {gate(envoy, "reviews.shop") for _ in range(20)} == {"reviews"}
        assert envoy.counter("graygate_transitions_total", policy="reviews") == gated


def test_forty_policies_are_checked_each_at_its_own_period(start, teams, v1):
    def named(number):
        check = {"httpGet": {"path": f"/healthz-{number}"}, "periodSeconds": 0.2 if number == 0 else 1}
        upstreams = {"app": {"cluster": "reviews-v1", "readinessProbe": check}}
        return {
            "name": f"p{number}",
            "hosts": [f"p{number}.shop"],
            "upstreams": upstreams,
            "gates": [{"upstream": "app"}],
        }

    envoy = start({"policies": [named(number) for number in range(40)]}, concurrency=1)
    until(lambda: all(v1.seen(f"/healthz-{number}") >= 3 for number in range(40)), 30, "three checks of each")
    fast, slow = v1.seen("/healthz-0"), [v1.seen(f"/healthz-{number}") for number in range(1, 40)]
    assert fast > 2 * max(slow)
    assert ask(envoy, "p17.shop").version == "v1"
