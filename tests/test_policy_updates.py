"""A policy is replaced while traffic flows: a bad one is refused and nothing lost, a good one taken at once."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from harness.breaker import in_turn, judged
from harness.client import Stream, get
from harness.config import listener, plugin
from harness.load import Load, Request, drive
from harness.wait import until, until_all

DRAINED = {"listener_manager.total_listeners_draining": 0}
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
        assert "releases[0].versions[1].wieght" in why
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
        for number in range(1, 6):
            policy["releases"][0]["versions"][1]["weight"] = number * 100
            policy["probes"]["readiness"]["path"] = f"/readyz-{number}"
            assert envoy.publish(policy) == ""
            until(lambda: "readiness passed" in get(envoy.port(), f"/readyz-{number}").text, what="the new policy")
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


def still_checked(v1, envoy):
    """Checks go on, and what they say counts."""
    seen = v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") > seen + 2, what="more checks")
    v1.answer(500, path="/healthz")
    until(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness 503")
    v1.answer(200, path="/healthz")
    until(lambda: get(envoy.port(), "/readyz").status == 200, what="readiness 200")


def test_a_policy_that_is_rolled_back_is_still_checked_when_the_one_between_is_gone(start, policy, v1):
    envoy = start(policy, delivery="lds")
    between = {**policy, "gates": []}
    assert envoy.publish(between) == ""
    assert envoy.publish(policy) == ""
    until(lambda: envoy.stats("listener_manager.total_listeners_draining") == DRAINED, what="old listeners gone")
    still_checked(v1, envoy)


def test_an_update_refused_for_another_filters_sake_leaves_the_old_policy_checked(start, policy, v1):
    envoy = start(policy, delivery="lds")
    until(lambda: v1.seen("/healthz"), what="a check")
    refused = envoy.config.refused({**policy, "gates": []})
    assert "Unable to create Wasm plugin" in envoy.put("./lds.json", refused)
    still_checked(v1, envoy)


def test_an_update_refused_for_another_filters_sake_changes_no_assumption(start, policy):
    """Nothing is known yet, and what the refused policy would assume is of no account."""
    upstream = policy["upstreams"]["reviews-v1"]
    upstream["readinessProbe"]["initialDelaySeconds"] = 600
    envoy = start(policy, delivery="lds")
    pessimist = {**policy, "upstreams": {**policy["upstreams"], "reviews-v1": {**upstream, "assume": "notReady"}}}
    assert envoy.put("./lds.json", envoy.config.refused(pessimist)) != ""
    assert {get(envoy.port(), "/readyz").status for _ in range(20)} == {200}
    assert envoy.publish(pessimist) == ""
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="the assumption of one that is taken")


def test_a_second_listener_of_the_same_names_may_come_and_go(start, policy, v1):
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


def test_a_change_of_thresholds_and_gates_keeps_what_is_known(start, policy, v1):
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


def judged_by_responses(policy, **settings):
    del policy["upstreams"]["reviews-v1"]["readinessProbe"]
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 5, **settings}
    return policy


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_longer_wait_counts_from_the_update_on(start, policy, v1, delivery):
    envoy = start(judged_by_responses(policy, notReadyFor="500ms"), delivery=delivery)
    policy["upstreams"]["reviews-v1"]["circuitBreaker"]["notReadyFor"] = "1h"
    assert envoy.publish(policy) == ""
    v1.answer(500)
    alice = [Request("/", {"x-user-id": "alice"})]
    with Load(envoy.port(), alice, rate=200) as load:
        until(lambda: envoy.counter("graygate_transitions_total", to="not-ready"), what="not ready")
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 300, what="load for more than the old wait")
    assert envoy.counter("graygate_transitions_total") == 1


def test_a_breaker_taken_away_takes_its_verdict_with_it(start, policy, v1):
    envoy = start(judged_by_responses(policy, notReadyFor="1h"), delivery="ecds")
    v1.answer(500)
    until_all(lambda: "consecutive-failures" in get(envoy.port(), "/", {"x-user-id": "alice"}).text, what="gated")
    v1.answer(200)
    del policy["upstreams"]["reviews-v1"]["circuitBreaker"]
    policy["upstreams"]["reviews-v2"]["circuitBreaker"] = {}
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/", {"x-user-id": "alice"}).status == 200, what="let through")


def test_a_breaker_added_while_checks_fail_keeps_the_gate_closed(start, policy, v1):
    envoy = start(policy, delivery="ecds")
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="v1 not ready")
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {}
    policy["probes"]["readiness"]["path"] = "/readyz2"
    assert envoy.publish(policy) == ""
    answer = until(lambda: (a := get(envoy.port(), "/readyz2")).text[:1] == "[" and a, what="the new policy")
    assert answer.status == 503
    assert envoy.counter("graygate_transitions_total", upstream="reviews-v1") == 1


def test_a_changed_assumption_holds_while_nothing_is_known(start, policy):
    for upstream in policy["upstreams"].values():
        upstream["assume"] = "notReady"
        upstream["readinessProbe"]["initialDelaySeconds"] = 600
    envoy = start(policy, delivery="ecds")
    assert get(envoy.port(), "/readyz").status == 503
    for upstream in policy["upstreams"].values():
        upstream["assume"] = "ready"
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready as assumed now")


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
    # One at each end of the time; a second checker would send as many again.
    assert 1 <= checks <= spent / 0.5 + 2


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


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_policy_that_has_been_replaced_judges_no_more(start, policy, v1, delivery):
    """Though it has connections to serve: what it sees is for the new one to judge, by its own threshold."""
    judged(policy, consecutiveFailures=3)
    envoy = start(policy, delivery=delivery, timeout="60s")
    v1.hang(path="/old")
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(Stream(envoy.port(), "/old", end=True))
        until(lambda: v1.seen("/old") == 6, what="streams of the old policy")
        policy["upstreams"]["reviews-v1"]["circuitBreaker"]["consecutiveFailures"] = 40
        policy["probes"]["readiness"]["path"] = "/readyz2"
        assert envoy.publish(policy) == ""
        until_all(lambda: "readiness passed" in get(envoy.port(), "/readyz2").text, what="the new policy")
        # Four ticks.
        time.sleep(1)
        v1.answer(500, path="/")
        assert in_turn(envoy, *["/"] * 20) == [500] * 20
        time.sleep(1)
        assert envoy.transitions() == 0
        drive(envoy.port(), [Request()] * 60, connections=1)
        assert envoy.transitions(reason="consecutive-failures") == 1
        assert "(consecutive-failures: 3)" not in envoy.logs()
