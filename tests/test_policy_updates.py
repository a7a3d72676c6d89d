"""A policy is replaced under load. An invalid one is refused without any loss, and a valid one applies at once.

`tests/worlds/updates.rs` covers the workers. These tests show how Envoy handles an update.
"""

from __future__ import annotations

import pytest

from harness.client import get
from harness.config import listener, plugin
from harness.load import Load, Request
from harness.wait import until, until_all

DRAINED = {"listener_manager.total_listeners_draining": 0}
USERS = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(200)]


def misspelt(policy):
    versions = [{**version, "wieght": 1} for version in policy["releases"][0]["versions"]]
    return {**policy, "releases": [{**policy["releases"][0], "versions": versions}]}


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_an_invalid_policy_is_refused_and_the_old_one_continues(start, policy, delivery):
    envoy = start(policy, delivery=delivery)
    with Load(envoy.port(), USERS, rate=300) as load:
        until(lambda: len(load.answers) > 50, what="load")
        why = envoy.publish(misspelt(policy))
        assert 'policy refused: releases[0].versions[0].wieght: unknown field; did you mean "weight"?' in envoy.logs()
        assert "releases[0].versions[1].wieght" in why
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load after the refusal")
    assert load.failed == []
    assert get(envoy.port(), "/readyz").text.endswith("policy reviews: readiness passed\n")


def test_envoys_error_state_names_the_plugin(start, policy):
    """Envoy keeps the text of a refusal in its log. Its error state keeps the name of the plugin."""
    envoy = start(policy, delivery="lds")
    envoy.publish(misspelt(policy))
    assert "Unable to create Wasm plugin graygate" in envoy.error_state()
    assert envoy.counter("graygate_policies_refused_total") >= 1


@pytest.mark.parametrize("document", ["", "not json"])
def test_odd_documents_are_refused_with_a_reason(start, policy, document):
    envoy = start(policy, delivery="ecds")
    assert "policy refused: " in envoy.publish(document)
    assert get(envoy.port(), "/readyz").status == 200
    assert "panicked" not in envoy.logs()


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_valid_policy_replaces_the_old_one_without_a_failed_request(start, policy, delivery):
    envoy = start(policy, delivery=delivery)
    with Load(envoy.port(), USERS, rate=500) as load:
        for number in range(1, 6):
            policy["releases"][0]["versions"][1]["weight"] = number * 100
            policy["probes"]["readiness"]["path"] = f"/readyz-{number}"
            assert envoy.publish(policy) == ""
            until(lambda: "readiness passed" in get(envoy.port(), f"/readyz-{number}").text, what="the new policy")
            served = len(load.answers)
            until(lambda: len(load.answers) >= served + 100, what="load under the new policy")
    assert load.failed == []


def still_checked(v1, envoy):
    """Checks that checks continue and that their results count."""
    seen = v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") > seen + 2, what="more checks")
    v1.answer(500, path="/healthz")
    until(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness 503")
    v1.answer(200, path="/healthz")
    until(lambda: get(envoy.port(), "/readyz").status == 200, what="readiness 200")


def test_a_restored_policy_is_still_checked_when_the_one_in_between_has_ended(start, policy, v1):
    envoy = start(policy, delivery="lds")
    between = {**policy, "gates": []}
    assert envoy.publish(between) == ""
    assert envoy.publish(policy) == ""
    until(lambda: envoy.stats("listener_manager.total_listeners_draining") == DRAINED, what="old listeners gone")
    still_checked(v1, envoy)


def test_an_update_refused_because_of_another_filter_does_not_stop_checks(start, policy, v1):
    envoy = start(policy, delivery="lds")
    until(lambda: v1.seen("/healthz"), what="a check")
    refused = envoy.config.refused({**policy, "gates": []})
    assert "Unable to create Wasm plugin" in envoy.put("./lds.json", refused)
    still_checked(v1, envoy)


def test_an_update_refused_because_of_another_filter_changes_no_assumption(start, policy):
    """No check has finished, and the assumption of the refused policy is ignored."""
    upstream = policy["upstreams"]["reviews-v1"]
    upstream["readinessProbe"]["initialDelaySeconds"] = 600
    envoy = start(policy, delivery="lds")
    pessimist = {**policy, "upstreams": {**policy["upstreams"], "reviews-v1": {**upstream, "assume": "notReady"}}}
    assert envoy.put("./lds.json", envoy.config.refused(pessimist)) != ""
    answers = [get(envoy.port(), "/readyz") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}, answers[0].text
    assert envoy.publish(pessimist) == ""
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="the assumption of one that is taken")


def test_a_second_listener_with_the_same_names_can_be_added_and_removed(start, policy, v1):
    envoy = start(policy, delivery="lds")
    both = envoy.config.discovery("2")
    other = plugin({**policy, "gates": []})
    second = listener("second", [{"name": "graygate", "typed_config": other}], envoy.config.all_routes())
    both["resources"].append({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **second})
    assert envoy.put("./lds.json", both) == ""
    assert get(envoy.port("second"), "/readyz").status == 200
    still_checked(v1, envoy)
    assert envoy.put("./lds.json", envoy.config.discovery("3")) == ""
    until(lambda: envoy.stats("listener_manager.total_listeners_draining") == DRAINED, what="the second listener gone")
    still_checked(v1, envoy)


def test_a_change_of_thresholds_and_gates_keeps_the_state(start, policy, v1):
    for upstream in policy["upstreams"].values():
        upstream["readinessProbe"]["failureThreshold"] = 5
    envoy = start(policy, delivery="ecds")
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="v1 not ready")
    with Load(envoy.port(), [Request("/", {"x-user-id": "alice"})], rate=200) as load:
        policy["upstreams"]["reviews-v1"]["readinessProbe"]["failureThreshold"] = 6
        policy["gates"].append({"upstream": "reviews-v2"})
        assert envoy.publish(policy) == ""
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load under the new policy")
    assert {answer.body for answer in load.answers} == {
        b"policy reviews: upstream reviews-v1 is not ready: check-failed: could not be reached\n"
    }


def test_a_loaded_policy_is_logged_once(start, policy):
    envoy = start(policy, delivery="ecds", concurrency=4)
    said = "policy reviews: loaded: 2 upstreams, 2 probes, 1 release, 1 gate"
    until(lambda: said in envoy.logs(), what="the log line")
    policy["gates"] = []
    assert envoy.publish(policy) == ""
    until(lambda: "1 release, 0 gates" in envoy.logs(), what="the second log line")
    assert envoy.logs().count("loaded: ") == 2


def test_mode_off_has_no_effect(start, policy, v1):
    envoy = start({**policy, "mode": "off"})
    assert get(envoy.port(), "/livez").version == "v1"
    assert get(envoy.port(), "/", {"x-gray-version": "v2"}).version == "v2"
    assert v1.seen("/healthz") == 0
