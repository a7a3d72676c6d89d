"""A VM that dies: another leads in its place, and one that is made anew knows what the others know. What they share.

The module is built for this: a request's header ends the VM of its worker, or the one that leads; and the log has each
key of what is shared.
"""

from __future__ import annotations

import itertools
import re
import time

import pytest

from harness.breaker import in_turn, judged, until_gated
from harness.client import get
from harness.load import Load, Request, drive
from harness.wait import until, until_all

MODULE = "target/graygate-faults.wasm"
HERE = {"x-graygate-fault": "here"}
LEADER = {"x-graygate-fault": "leader"}


def ended(envoy):
    """How many VMs have."""
    return envoy.logs().count("ended on request")


def end_leader(envoy):
    before = ended(envoy)
    get(envoy.port(), "/", LEADER)
    until(lambda: ended(envoy) > before, what="the end of the leader's VM")


@pytest.mark.parametrize("concurrency", [1, 2])
def test_another_vm_leads_the_checks_when_the_leader_has_died(start, policy, v1, concurrency):
    """As often as there are VMs: each worker's is made anew by its next request, the main thread's is not."""
    envoy = start(policy, concurrency=concurrency, module=MODULE)
    until(lambda: v1.seen("/healthz") > 2, what="checks")
    for _ in range(concurrency + 1):
        end_leader(envoy)
        seen = v1.seen("/healthz")
        until(lambda: v1.seen("/healthz") > seen + 3, what="checks by another")
        # A worker whose VM has died makes it anew, at the earliest after the time that the harness sets.
        until_all(lambda: get(envoy.port(), "/livez").status == 200, what="all workers answer")
    v1.answer(500, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="what the checks say is known to all")
    v1.answer(200, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="and what they say then")


def test_checks_go_on_at_their_period_and_are_not_sent_twice(start, policy, check, v1):
    check["periodSeconds"] = 0.5
    envoy = start(policy, module=MODULE)
    until(lambda: v1.seen("/healthz") > 2, what="checks")
    end_leader(envoy)
    seen = v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") > seen + 6, what="more checks")
    calls = [call.at for call in v1.calls_of("/healthz")][-7:]
    assert min(later - earlier for earlier, later in itertools.pairwise(calls)) > 0.25


def test_a_wait_is_ended_by_another_when_the_leader_has_died(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3, notReadyFor="3s"), module=MODULE)
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 6, connections=1)
    until_gated(envoy, "consecutive-failures")
    end_leader(envoy)
    v1.answer(200)
    with Load(envoy.port(), [Request("/")], rate=50):
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), timeout=20, what="ready")


def test_a_vm_that_is_made_anew_knows_what_the_others_know(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3), concurrency=1, module=MODULE)
    v1.answer(500)
    assert in_turn(envoy, "/", "/", "/", "/") == [500, 500, 500, 503]
    seen = v1.requests
    # Envoy waits before it makes a VM anew.
    time.sleep(0.5)
    assert get(envoy.port(), "/", HERE).status == 503
    until(lambda: "is not ready: consecutive-failures" in get(envoy.port()).text, what="gated by the new VM")
    assert v1.requests == seen, "no request has passed in between"
    assert ended(envoy) == 1


def test_permits_of_a_vm_that_has_died_expire(start, policy, v1):
    trial = {"requests": 1, "successes": 1, "leaseFor": "2s"}
    waits = {"notReadyFor": "500ms", "maxNotReadyFor": "1s"}
    envoy = start(
        judged(policy, consecutiveFailures=3, trial=trial, **waits), concurrency=1, module=MODULE, timeout="1s"
    )
    v1.answer(500)
    in_turn(envoy, "/", "/", "/")
    v1.hang()
    with Load(envoy.port(), [Request("/")], rate=20, connections=2):
        until(lambda: envoy.transitions(to="trial"), what="a trial")
        until(
            lambda: envoy.stats("cluster.reviews-v1.upstream_rq_active")["cluster.reviews-v1.upstream_rq_active"],
            what="under way",
        )
        get(envoy.port(), "/", HERE)
        v1.answer(200)
        until(lambda: envoy.transitions(from_="trial", to="ready"), timeout=20, what="ready")


def test_what_is_shared_is_bounded_by_the_policy(start, policy, rule, v1, v2):
    """Keys can't be deleted, so no request may make one: not by a trial, a rollback, a probe that passes through."""
    policy["probes"]["drain"] = {"path": "/drainz"}
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 3, "notReadyFor": "200ms"}
    policy["releases"][0]["rollback"] = {"failurePercent": 50, "minimumRequests": 10}
    policy["gates"][0]["whenAllNotReady"] = "forward"
    envoy = start(policy, delivery="ecds", module=MODULE)

    def keys():
        return set(re.findall(r"key in the store: (\S+)", envoy.logs()))

    def use(start):
        users = range(start, start + 300)
        paths = [Request(f"/{number}?q={number}", {"x-user-id": f"user-{number}"}) for number in users]
        v1.answer(500)
        drive(envoy.port(), [*paths, Request("/readyz"), Request("/livez")])
        until(lambda: envoy.transitions(upstream="reviews-v1", to="not-ready"), what="a trip")
        v1.answer(200)
        drive(envoy.port(), paths)
        get(envoy.port(), "/drainz", method="POST")
        get(envoy.port(), "/drainz", method="DELETE")

    use(0)
    until(lambda: envoy.transitions(upstream="reviews-v1", to="ready"), what="ready")
    known = keys()
    assert known
    assert not any("user-" in key for key in known)
    for number in range(1, 4):
        policy["releases"][0]["versions"][1]["weight"] = 10 + number
        assert envoy.publish(policy) == ""
        use(1000 * number)
    assert keys() == known
