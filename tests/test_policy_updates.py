"""A policy is replaced while traffic flows: a bad one is refused and nothing lost, a good one taken at once."""

from __future__ import annotations

import pytest
from harness.client import get
from harness.load import Load, Request
from harness.wait import until

USERS = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(200)]


def misspelt(policy):
    versions = [{**version, "wieght": 1} for version in policy["releases"][0]["versions"]]
    return {**policy, "releases": [{**policy["releases"][0], "versions": versions}]}


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_bad_policy_is_refused_and_the_old_one_goes_on(start, policy, delivery):
    envoy = start(policy, delivery=delivery)
    with Load(envoy.port(), USERS, rate=300) as load:
        until(lambda: len(load.answers) > 50, what="load")
        why = envoy.publish(misspelt(policy))
        assert 'policy refused: releases[0].versions[0].wieght: unknown field; did you mean "weight"?' in envoy.logs()
        assert 'releases[0].versions[1].wieght' in why
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load after the refusal")
    assert load.failed == []
    assert get(envoy.port(), "/readyz").text.endswith("policy reviews: readiness passed\n")


def test_envoys_error_state_names_the_plugin(start, policy):
    """Envoy keeps a refusal's own words in its log; in the error state it keeps which plugin it was."""
    envoy = start(policy, delivery="lds")
    envoy.publish(misspelt(policy))
    assert "Unable to create Wasm plugin graygate" in envoy.error_state()
    assert envoy.counter("graygate_policies_refused_total") >= 1


@pytest.mark.parametrize("document", ["", "not json", "[]", "null", '{"name": 1}', "{" * 100, '{"name":"a\\u0000b"}'])
def test_odd_documents_are_refused_with_a_reason(start, policy, document):
    envoy = start(policy, delivery="ecds")
    assert "policy refused: " in envoy.publish(document)
    assert get(envoy.port(), "/readyz").status == 200
    assert "panicked" not in envoy.logs()


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_good_policy_replaces_the_old_one_with_no_failed_request(start, policy, delivery):
    envoy = start(policy, delivery=delivery)
    with Load(envoy.port(), USERS, rate=500) as load:
        for round in range(1, 6):
            policy["releases"][0]["versions"][1]["weight"] = round * 100
            policy["probes"]["readiness"]["path"] = f"/readyz-{round}"
            assert envoy.publish(policy) == ""
            until(lambda: get(envoy.port(), f"/readyz-{round}").text.startswith("[+]"), what="the new policy")
            served = len(load.answers)
            until(lambda: len(load.answers) >= served + 100, what="load under the new policy")
    assert load.failed == []


def test_a_change_of_weights_keeps_what_is_known_of_the_upstreams(start, policy, v1):
    for upstream in policy["upstreams"].values():
        upstream["readinessProbe"]["periodSeconds"] = 0.5
    envoy = start(policy, delivery="ecds")
    v1.refuse()
    until(lambda: get(envoy.port(), "/readyz").status == 503, what="v1 not ready")
    policy["releases"][0]["versions"][1]["weight"] = 50
    policy["probes"]["readiness"]["path"] = "/readyz2"
    assert envoy.publish(policy) == ""
    answers = until(lambda: (a := get(envoy.port(), "/readyz2")).text.startswith(("[+]", "[-]")) and [a], what="new")
    assert [answer.status for answer in answers] == [503]
    assert envoy.counter("graygate_transitions_total", upstream="reviews-v1") == 1


def test_after_an_update_there_is_still_one_checker(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["readinessProbe"]["periodSeconds"] = 0.5
    envoy = start(policy, delivery="lds")
    for weight in (20, 30, 40):
        policy["releases"][0]["versions"][1]["weight"] = weight
        assert envoy.publish(policy) == ""
    load = Load(envoy.port(), USERS, rate=100)
    with load:
        seen = v1.seen("/healthz")
        until(lambda: len(load.answers) >= 200, what="two seconds of load")
        spent = load.answers[-1].answered - load.answers[0].asked
        checks = v1.seen("/healthz") - seen
    assert 1 <= checks <= spent / 0.5 + 1


def test_a_loaded_policy_is_logged_once(start, policy):
    envoy = start(policy, delivery="ecds", concurrency=4)
    said = "policy reviews: loaded: 2 upstreams, 2 probes, 1 release, 1 gate"
    until(lambda: said in envoy.logs(), what="the log line")
    policy["gates"] = []
    assert envoy.publish(policy) == ""
    until(lambda: "1 release, 0 gates" in envoy.logs(), what="the second log line")
    assert envoy.logs().count("loaded: ") == 2


def test_mode_off_does_nothing(start, policy, v1):
    envoy = start({**policy, "mode": "off"})
    assert get(envoy.port(), "/livez").version == "v1"
    assert get(envoy.port(), "/", {"x-gray-version": "v2"}).version == "v2"
    assert v1.seen("/healthz") == 0
