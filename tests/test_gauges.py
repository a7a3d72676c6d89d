"""Gauges end with what they are about. Envoy keeps the last value of a gauge, and no filter can delete one.

`tests/worlds/gauges.rs` covers the workers. These tests show that Envoy ends roots as they expect.
"""

from __future__ import annotations

import copy

import pytest

from harness.wait import until

every_update = pytest.mark.parametrize("delivery", ["lds", "ecds"])


def ready(envoy, upstream, policy="reviews"):
    return envoy.counter("graygate_upstream_ready", policy=policy, upstream=upstream)


def share(envoy, version=None, policy="reviews"):
    labels = {"version": version} if version else {}
    return envoy.counter("graygate_version_share_basis_points", policy=policy, release="reviews", **labels)


def shown(envoy, policy="reviews"):
    """Returns whether the proxy says that the policy is enforced, and that it has its document."""
    names = ("graygate_policy_enforced", "graygate_policy_document")
    return [envoy.counter(name, policy=policy) > 0 for name in names]


@pytest.fixture
def broken(start, policy, v2):
    """Starts an Envoy with this delivery. Its second upstream is not ready."""

    def start_broken(delivery):
        envoy = start(policy, delivery=delivery)
        v2.answer(500, path="/healthz")
        until(lambda: ready(envoy, "reviews-v1") == 1 and shown(envoy) == [True, True], what="the policy in use")
        until(lambda: envoy.transitions(upstream="reviews-v2", to="not-ready"), what="v2 not ready")
        until(lambda: "reviews-v2" in str(envoy.stats("wasmcustom.graygate_upstream_ready")), what="its gauge")
        until(lambda: ready(envoy, "reviews-v2") == 0, what="its gauge at 0")
        return envoy

    return start_broken


def only_v1(policy):
    policy = copy.deepcopy(policy)
    del policy["upstreams"]["reviews-v2"]
    del policy["releases"][0]["versions"][1]
    return policy


@every_update
def test_an_upstream_and_a_version_that_leave_trip_no_alert_and_shares_always_add_up(broken, policy, delivery):
    envoy = broken(delivery)
    assert (share(envoy, "v1"), share(envoy, "v2")) == (9_000, 1_000)
    sums = set()

    def is_done():
        sums.add(share(envoy))
        return (share(envoy, "v1"), share(envoy, "v2"), ready(envoy, "reviews-v2")) == (10_000, 0, 1)

    assert envoy.publish(only_v1(policy)) == ""
    until(is_done, what="the gauges of what has left")
    until(lambda: envoy.stats("listener_manager.total_listeners_draining").popitem()[1] == 0, what="drained")
    assert is_done()
    assert sums == {10_000}
    assert shown(envoy) == [True, True]


@every_update
def test_a_policy_whose_name_changes_leaves_no_gauge_behind(broken, policy, delivery):
    envoy = broken(delivery)
    assert envoy.publish({**policy, "name": "ratings"}) == ""
    until(lambda: shown(envoy, "ratings") == [True, True], what="the new policy in use")
    until(lambda: shown(envoy) == [False, False], what="the old one gone")
    assert (share(envoy), ready(envoy, "reviews-v2")) == (0, 1)
    assert (share(envoy, policy="ratings"), ready(envoy, "reviews-v1", policy="ratings")) == (10_000, 1)


@every_update
def test_modes_leave_no_gauge_behind(broken, policy, delivery):
    envoy = broken(delivery)
    for mode, enforced, sum_of_shares, v2_ready in (
        ("shadow", False, 10_000, 0),
        ("off", False, 0, 1),
        ("enforce", True, 10_000, 0),
    ):
        assert envoy.publish({**policy, "mode": mode}) == ""

        # Named functions, as the loop's variables change.
        def is_in_use(wanted: tuple[bool, bool] = (enforced, True)) -> bool:
            return bool(tuple(shown(envoy)) == wanted)

        def has_gauges(wanted: tuple[int, int] = (sum_of_shares, v2_ready)) -> bool:
            return bool((share(envoy), ready(envoy, "reviews-v2")) == wanted)

        until(is_in_use, what=f"{mode} in use")
        until(has_gauges, what=f"the gauges of {mode}")
    gauges = [
        line for line in envoy.prometheus().splitlines() if line.startswith(("graygate_version", "graygate_upstream"))
    ]
    assert gauges
    assert not any("mode=" in line for line in gauges)


def test_a_filter_that_is_deleted_leaves_no_alert_behind(broken):
    envoy = broken("lds")
    assert envoy.put("./lds.json", {"version_info": "none", "resources": []}) == ""
    until(lambda: shown(envoy) == [False, False], what="no policy")
    until(lambda: share(envoy) == 0, what="no shares")
    left = envoy.stats("wasmcustom.graygate_upstream_ready")
    assert set(left.values()) <= {1}


def test_the_gauges_are_those_of_the_old_policy_again_after_envoy_has_tried_another(broken, policy):
    envoy = broken("lds")
    assert envoy.put("./lds.json", envoy.config.refused(only_v1(policy))) != ""
    # Another filter is at fault, so the roots of the tried policy may have ticked.
    expected = [9_000, 1_000, 0, True, True]
    until(
        lambda: [share(envoy, "v1"), share(envoy, "v2"), ready(envoy, "reviews-v2"), *shown(envoy)] == expected,
        what="the gauges of the old policy",
    )
