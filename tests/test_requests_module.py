"""The module that acts on the headers of requests alone, in a real Envoy.

Nothing tells it which document a request belongs to, nor that a document has ended. `tests/worlds/requests_module.rs`
has the rules, and `tests/host/requests.test.mjs` the calls. These tests show that Envoy does what these assume.
"""

from __future__ import annotations

import time

import pytest

from harness.client import get
from harness.config import plugin
from harness.load import Load, Request
from harness.wait import until, until_all

MODULE = "dist/graygate-requests.wasm"
USERS = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(200)]
ALICE = {"x-user-id": "alice"}


def replying(policy, status):
    """The policy with a closed gate on /gated that replies with this status."""
    closed = {**policy["upstreams"], "closed": {"cluster": "closed", "force": "notReady"}}
    gate = {"upstream": "closed", "match": [{"uri": {"prefix": "/gated"}}], "reply": {"status": status}}
    return {**policy, "upstreams": closed, "gates": [*policy["gates"], gate]}


def until_status(envoy, path, status):
    until(lambda: get(envoy.port(), path).status == status, what=f"{path} with {status}")


def test_it_answers_probes_splits_and_gates_like_the_other_module(start, policy, v1):
    policy["probes"]["status"] = {"path": "/statusz"}
    policy["probes"]["drain"] = {"path": "/drainz"}
    envoy, full = (start(policy, module=module) for module in (MODULE, "dist/graygate.wasm"))
    for each in (envoy, full):
        until_status(each, "/readyz", 200)
    users = [{"x-user-id": f"user-{number}"} for number in range(300)]
    versions = [[get(each.port(), "/", user).version for user in users] for each in (envoy, full)]
    assert versions[0] == versions[1]
    assert set(versions[0]) == {"v1", "v2"}
    assert get(envoy.port(), "/livez").text == "policy reviews: liveness passed\n"
    assert envoy.counter("graygate_assignments_total") == 300
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 503, what="the gate closed")
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness failed")
    v1.accept()
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 200, what="the gate open")
    assert get(envoy.port(), "/statusz").status == 200
    assert get(envoy.port(), "/drainz", method="POST").status == 200
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="draining")


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_each_policy_replaces_the_one_before_without_a_failed_request(start, policy, delivery):
    envoy = start(policy, delivery=delivery, module=MODULE)
    with Load(envoy.port(), USERS, rate=300) as load:
        for status in (501, 502, 503, 504):
            assert envoy.publish(replying(policy, status)) == ""
            until_status(envoy, "/gated", status)
            served = len(load.answers)
            until(lambda: len(load.answers) >= served + 100, what="load under the new policy")
    assert load.failed == []


def test_a_policy_that_needs_more_is_refused_and_the_old_one_continues(start, policy):
    envoy = start(replying(policy, 501), delivery="lds", module=MODULE)
    needy = replying(policy, 502)
    needy["upstreams"] = {**needy["upstreams"], "other": {"cluster": "reviews-v1", "circuitBreaker": {}}}
    why = envoy.publish(needy)
    assert "graygate-requests.wasm acts on the headers of requests alone" in why
    assert "this policy has upstreams.other.circuitBreaker; use graygate.wasm, or remove the key" in why
    assert get(envoy.port(), "/gated").status == 501


def test_a_policy_that_envoy_refuses_for_another_filter_decides_nothing(start, policy):
    envoy = start(replying(policy, 501), delivery="lds", module=MODULE)
    until_status(envoy, "/gated", 501)
    envoy.put("./lds.json", envoy.config.refused(replying(policy, 502)))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert get(envoy.port(), "/gated").status == 501


def test_two_plugins_of_one_vm_keep_their_policies_apart(start, policy):
    other = plugin({"name": "other", "probes": {"liveness": {"path": "/other"}}}, module=MODULE)
    other["config"]["name"] = "other"
    envoy = start(policy, module=MODULE, filters_before=[{"name": "other", "typed_config": other}])
    until_status(envoy, "/readyz", 200)
    assert get(envoy.port(), "/other").text == "policy other: liveness passed\n"
    assert get(envoy.port(), "/livez").text == "policy reviews: liveness passed\n"
