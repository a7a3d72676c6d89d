"""Weights that change by the clock, without a push. `tests/worlds` covers steps over a long time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from harness.config import bootstrap
from harness.envoy import Envoy
from harness.users import USERS, by_user, share
from harness.wait import until, until_all

DAY = 24 * 3_600


@pytest.fixture
def envoy(policy, v1, v2):
    """Four workers with their own wall clock, and a step tomorrow that gives v2 all users."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    step = {"at": tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ"), "weights": {"v1": 0, "v2": 100}}
    policy["releases"][0]["schedule"] = [step]
    config = bootstrap(policy, {"reviews-v1": v1.port, "reviews-v2": v2.port})
    with Envoy(config, concurrency=4, own_clock=True) as envoy:
        yield envoy


def shown(envoy):
    """Returns the shares that the gauges show, in hundredths of a percent."""
    return [
        envoy.counter("graygate_version_share_basis_points", release="reviews", version=version)
        for version in ("v1", "v2")
    ]


def test_all_workers_take_a_step_without_a_push_and_log_it_once(envoy):
    until(lambda: shown(envoy) == [9_000, 1_000], what="the shares before")
    assert 'graygate_schedule_steps_total{policy="reviews",release="reviews"} 0\n' in envoy.prometheus()
    assert 0 < share(by_user(envoy)) < 30
    envoy.set_clock(2 * DAY)
    until_all(lambda: share(by_user(envoy, USERS[:100])) == 100, 60, "all on v2")
    until(lambda: shown(envoy) == [0, 10_000], what="the shares after")
    assert envoy.counter("graygate_schedule_steps_total", policy="reviews", release="reviews") == 1
    assert re.findall(r"release reviews: (step \d) of its schedule", envoy.logs()) == ["step 1"]
