"""Startup: readiness waits until the checks of startup have passed once.

`tests/worlds/lifecycle.rs` covers what makes it pass.
"""

from __future__ import annotations

import pytest

from harness.client import get
from harness.load import Load, Request
from harness.probe import all_pass, all_say, document, status, text
from harness.wait import until, until_all

STARTED = "policy reviews: started"
HELD = "[-]startup failed: not started yet\n"


@pytest.fixture
def gated(policy):
    """A policy whose startup waits for v2, which readiness does not depend on."""
    policy["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v2"}]}
    return policy


def test_readiness_waits_for_startup_in_all_workers_and_liveness_does_not(start, gated, v2):
    v2.answer(500, path="/healthz")
    envoy = start(gated, concurrency=4)
    until_all(lambda: "check-failed" in text(envoy, "/startupz"), what="v2 failed")
    assert text(envoy, "/startupz").startswith("[-]reviews-v2 failed: check-failed: status 500\n")
    assert HELD in text(envoy)
    assert (status(envoy), status(envoy, "/livez"), get(envoy.port(), "/").status) == (503, 200, 200)
    assert STARTED not in envoy.logs()
    v2.answer(200, path="/healthz")
    all_say(envoy, 200, "/startupz")
    all_say(envoy, 200)
    assert envoy.logs().count(STARTED) == 1


def test_a_policy_update_does_not_undo_startup(start, gated, v2):
    gated["upstreams"]["reviews-v3"] = {"cluster": "not-there", "readinessProbe": {"httpGet": {}}}
    envoy = start(gated, delivery="lds")
    all_say(envoy, 200)
    v2.answer(500, path="/healthz")
    until(lambda: envoy.transitions(upstream="reviews-v2", to="not-ready"), what="v2 down")
    gated["probes"]["startup"]["checks"].append({"upstream": "reviews-v3"})
    gated["probes"]["startup"]["statuses"] = {"passed": 202}
    with Load(envoy.port(), [Request("/readyz"), Request("/startupz")], rate=200) as load:
        assert envoy.publish(gated) == ""
        all_say(envoy, 202, "/startupz")
        all_say(envoy, 200)
    assert {answer.status for answer in load.answers} <= {200, 202}
    assert envoy.logs().count(STARTED) == 1


def test_a_startup_probe_added_by_an_update_does_not_fail_a_proxy_with_proof(start, gated):
    startup = gated["probes"].pop("startup")
    gated["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2"})
    envoy = start(gated, delivery="ecds")
    all_pass(envoy)
    with Load(envoy.port(), [Request("/readyz")], rate=400) as load:
        assert envoy.publish({**gated, "probes": {**gated["probes"], "startup": startup}}) == ""
        all_say(envoy, 200, "/startupz")
        until_all(lambda: document(envoy)["status"] == "pass", what="readiness passed")
    assert load.failed == []
