"""When a VM dies, another one leads. A restarted VM knows what the others know.

In this module, a request's header ends the VM of its worker, or the VM that leads. `sharing.rs`, `permits.rs` and
`updates.rs` of `tests/worlds` cover what else may be in progress when a VM dies.
"""

from __future__ import annotations

from functools import partial

from harness.breaker import in_turn, judged
from harness.client import get
from harness.wait import until, until_all

MODULE = "target/graygate-faults.wasm"
HERE = {"x-graygate-fault": "here"}
LEADER = {"x-graygate-fault": "leader"}


def ended(envoy):
    """Returns how many VMs have ended."""
    return envoy.logs().count("ended on request")


def end_leader(envoy):
    before = ended(envoy)
    get(envoy.port(), "/", LEADER)
    until(lambda: ended(envoy) > before, what="the end of the leader's VM")


def test_another_vm_leads_the_checks_when_the_leader_has_died(start, policy, v1):
    """There are two VMs. That of the main thread leads, and nothing restarts it. A request restarts the worker's."""
    envoy = start(policy, concurrency=1, module=MODULE)
    until(lambda: v1.seen("/healthz") > 2, what="checks")
    for _ in range(2):
        end_leader(envoy)
        # A worker whose VM has died restarts it, at the earliest after the time that the harness sets.
        until_all(lambda: get(envoy.port(), "/livez").status == 200, what="all workers answer")
        seen = v1.seen("/healthz")
        until(lambda: v1.seen("/healthz") > seen + 3, what="checks by another")
    v1.answer(500, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="what the checks say is known to all")
    v1.answer(200, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="and what they say then")


def test_a_restarted_vm_knows_what_the_others_know(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, module=MODULE)
    v1.answer(500)
    assert in_turn(envoy, "/", "/", "/", "/") == [500, 500, 500, 503]
    seen = v1.requests
    assert get(envoy.port(), "/", HERE).status == 503
    until(lambda: "is not ready: consecutive-failures" in get(envoy.port()).text, what="gated by the new VM")
    assert v1.requests == seen, "no request has passed in between"
    assert ended(envoy) == 1


def deaths(envoy):
    return envoy.counter("graygate_vm_deaths_total", plugin="graygate")


def passes(envoy, path):
    return "readiness passed" in get(envoy.port(), path).text


def test_a_vm_that_nothing_restarts_is_counted_and_one_that_an_update_ends_is_not(start, policy, v1):
    """A VM writes every 5 s that it lives, and counts as dead after 20 s without."""
    envoy = start(policy, delivery="ecds", concurrency=2, module=MODULE, failure={"failure_policy": "FAIL_OPEN"})
    until_all(lambda: get(envoy.port(), "/livez").status == 200, what="all workers answer")
    for path in ("/ready1", "/ready2", "/ready3"):
        # A VM says that it lives once the document is in use. An update ends its root in order.
        until(lambda: envoy.counter("graygate_build_info") == 1, what="the document in use")
        readiness = {**policy["probes"]["readiness"], "path": path}
        updated = {**policy, "probes": {**policy["probes"], "readiness": readiness}}
        assert envoy.publish(updated) == ""
        until_all(partial(passes, envoy, path), what="the update")
    assert deaths(envoy) == 0
    # A VM is watched from its next tick on. Many ticks lie between two checks.
    seen = v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") > seen + 10, timeout=30, what="checks")
    get(envoy.port(), "/", HERE)
    assert ended(envoy) == 1
    until(lambda: deaths(envoy) == 1, timeout=60, what="the death counted")
    assert envoy.logs().count("plugin graygate: a VM has died") == 1
