"""Startup: readiness waits until its checks have passed once, and then never again."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.load import Load, Request
from harness.probe import all_pass, all_say, document, status, text
from harness.wait import until, until_all

STARTED = "policy reviews: started"
HELD = "[-]startup failed: not started yet\n"


@pytest.fixture
def gated(policy):
    """Startup waits for v2, which readiness doesn't ask for."""
    policy["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v2"}]}
    return policy


def until_down(envoy, upstream="reviews-v2"):
    changed = {"upstream": upstream, "to": "not-ready"}
    until(lambda: envoy.counter("graygate_transitions_total", **changed), what=f"{upstream} down")


def never_starts(envoy, seconds=1.0):
    """Neither by /startupz nor by /readyz, for as long as some checks and ticks take."""
    with Load(envoy.port(), [Request("/startupz"), Request("/readyz")], rate=100) as load:
        until(lambda: len(load.answers) > 100 * seconds, what="load")
    assert {answer.status for answer in load.answers} == {503}
    assert STARTED not in envoy.logs()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_readiness_waits_for_it_in_all_workers_and_liveness_does_not(start, gated, v2, concurrency):
    v2.answer(500, path="/healthz")
    envoy = start(gated, concurrency=concurrency)
    until_all(lambda: "check-failed" in text(envoy, "/startupz"), what="v2 failed")
    assert text(envoy, "/startupz").startswith("[-]reviews-v2 failed: check-failed: status 500\n")
    assert HELD in text(envoy)
    assert "[+]reviews-v1 ok\n" in text(envoy)
    never_starts(envoy)
    assert (status(envoy, "/livez"), get(envoy.port(), "/").status) == (200, 200)
    v2.answer(200, path="/healthz")
    all_say(envoy, 200, "/startupz")
    all_say(envoy, 200)
    assert text(envoy) == "policy reviews: readiness passed\n"
    assert envoy.logs().count(STARTED) == 1


@pytest.mark.parametrize("assume", ["ready", "notReady"])
def test_an_assumption_is_no_start(start, gated, assume):
    upstream = gated["upstreams"]["reviews-v2"]
    upstream["assume"] = assume
    upstream["readinessProbe"]["initialDelaySeconds"] = 600
    envoy = start(gated)
    never_starts(envoy)
    assert "[-]reviews-v2 failed: not checked yet\n" in text(envoy, "/startupz")


def test_it_takes_success_threshold_checks_that_pass(start, gated):
    gated["upstreams"]["reviews-v2"]["readinessProbe"].update(periodSeconds=0.5, successThreshold=3)
    envoy = start(gated)
    assert status(envoy, "/startupz") == 503
    until(lambda: STARTED in envoy.logs(), what="started")
    assert envoy.counter("graygate_checks_total", upstream="reviews-v2", result="passed") == 3


def test_an_upstream_that_is_never_checked_counts_as_assumed(start, gated):
    del gated["upstreams"]["reviews-v2"]["readinessProbe"]
    envoy = start(gated)
    all_say(envoy, 200, "/startupz")
    all_say(envoy, 200)


def test_with_no_checks_it_has_passed(start, gated):
    gated["probes"]["startup"] = {"path": "/startupz", "statuses": {"passed": 201}}
    envoy = start(gated)
    all_say(envoy, 201, "/startupz")
    all_say(envoy, 200)


def test_weights_and_optional_checks_count_in_it(start, gated, v1):
    checks = [{"upstream": "reviews-v1", "weight": 1}, {"upstream": "reviews-v2", "weight": 2}]
    gated["probes"]["startup"].update(checks=checks, minimumScore=2)
    v1.answer(500, path="/healthz")
    envoy = start(gated)
    all_say(envoy, 200, "/startupz")
    until_all(lambda: HELD not in text(envoy), what="started")


def test_it_stays_passed_though_the_upstream_fails_later(start, gated, v2):
    envoy = start(gated)
    all_say(envoy, 200)
    v2.answer(500, path="/healthz")
    until_down(envoy)
    all_say(envoy, 200, "/startupz")
    all_pass(envoy)


def test_no_asker_can_make_it_pass(start, gated, v2):
    v2.answer(500, path="/healthz")
    envoy = start(gated)
    all_but_that = "/readyz?exclude=startup&exclude=reviews-v2&exclude=reviews-v1"
    assert status(envoy, "/startupz?exclude=reviews-v2") == status(envoy, all_but_that) == 503
    never_starts(envoy)
    assert HELD in text(envoy, "/readyz?exclude=startup")


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
@pytest.mark.parametrize("change", ["none", "checks"])
def test_no_policy_update_undoes_it(start, gated, v2, delivery, change):
    gated["upstreams"]["reviews-v3"] = {"cluster": "not-there", "readinessProbe": {"httpGet": {}}}
    envoy = start(gated, delivery=delivery)
    all_say(envoy, 200)
    v2.answer(500, path="/healthz")
    until_down(envoy)
    if change == "checks":
        gated["probes"]["startup"]["checks"].append({"upstream": "reviews-v3"})
    gated["probes"]["startup"]["statuses"] = {"passed": 202}
    with Load(envoy.port(), [Request("/readyz"), Request("/startupz")], rate=200) as load:
        assert envoy.publish(gated) == ""
        all_say(envoy, 202, "/startupz")
        all_say(envoy, 200)
    assert {answer.status for answer in load.answers} <= {200, 202}
    assert envoy.logs().count(STARTED) == 1


def test_a_startup_that_an_update_brings_fails_no_probe_of_a_proxy_that_has_proof(start, gated):
    startup = gated["probes"].pop("startup")
    gated["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2"})
    envoy = start(gated, delivery="ecds")
    all_pass(envoy)
    with Load(envoy.port(), [Request("/readyz")], rate=400) as load:
        assert envoy.publish({**gated, "probes": {**gated["probes"], "startup": startup}}) == ""
        all_say(envoy, 200, "/startupz")
        until_all(lambda: document(envoy)["status"] == "pass", what="readiness passed")
    assert load.failed == []


def test_a_startup_that_is_refused_starts_nothing(start, gated, v2):
    v2.answer(500, path="/healthz")
    envoy = start(gated, delivery="lds")
    easy = {**gated, "probes": {**gated["probes"], "startup": {"path": "/startupz"}}}
    assert envoy.put("./lds.json", envoy.config.refused(easy)) != ""
    never_starts(envoy)


def test_an_older_policy_that_is_on_its_way_out_has_no_say(v1, v2, gated):
    """Its listener goes on for its last connections, and asks for less than the new one."""
    v2.answer(500, path="/healthz")
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    easier = {**gated["probes"], "startup": {"path": "/startupz", "checks": [{"upstream": "reviews-v1"}]}}
    v1.answer(500, path="/healthz")
    config = bootstrap({**gated, "probes": easier}, ports, delivery="lds")
    with Envoy(config, drain_seconds=60) as envoy:
        all_say(envoy, 503, "/startupz")
        assert envoy.publish(gated) == ""
        seen = v2.seen("/healthz")
        until(lambda: v2.seen("/healthz") > seen + 2, what="the new policy at work")
        v1.answer(200, path="/healthz")
        until_all(lambda: "[+]reviews-v1 ok" in text(envoy), what="v1 up")
        never_starts(envoy)
        v2.answer(200, path="/healthz")
        all_say(envoy, 200, "/startupz")
