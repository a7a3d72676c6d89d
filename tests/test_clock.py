"""A proxy whose clock is set: what a schedule has done stays done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.wait import until

HOUR = 3_600
DAY = 24 * HOUR


@pytest.fixture
def scheduled(policy):
    """All on v1; on v2 since a minute ago; back on v1 from tomorrow on."""

    def at(seconds):
        return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    release = policy["releases"][0]
    for version, weight in zip(release["versions"], (100, 0), strict=True):
        version["weight"] = weight
    release["schedule"] = [
        {"at": at(-60), "weights": {"v1": 0, "v2": 100}},
        {"at": at(DAY), "weights": {"v1": 100, "v2": 0}},
    ]
    return policy


@pytest.fixture
def envoy(scheduled, v1, v2):
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    with Envoy(bootstrap(scheduled, ports, delivery="ecds"), own_clock=True) as envoy:
        yield envoy


def version(envoy, user="alice"):
    return get(envoy.port(), headers={"x-user-id": user}).version


def set_clock(envoy, seconds):
    """Sets it, and waits until Envoy's own replies bear the time."""
    envoy.set_clock(seconds)

    def shown():
        date = get(envoy.port(), "/livez").headers["date"]
        return abs((parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() - seconds) < 60

    until(shown, what=f"Envoy's clock {seconds} s from ours")


def test_a_clock_that_is_set_back_undoes_no_step(envoy):
    assert version(envoy) == "v2"
    set_clock(envoy, -HOUR)
    # Each check's result is one more tick by the new clock.
    passed = envoy.counter("graygate_checks_total", result="passed")
    until(lambda: envoy.counter("graygate_checks_total", result="passed") > passed + 10, what="ten checks more")
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v2"}


def test_nor_does_it_for_a_policy_that_comes_then(envoy, scheduled):
    set_clock(envoy, -HOUR)
    scheduled["gates"][0]["reply"]["retryAfterSeconds"] = 9
    assert envoy.publish(scheduled) == ""
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v2"}


def test_a_clock_that_is_set_forward_takes_the_steps_until_then_for_good(envoy):
    set_clock(envoy, 2 * DAY)
    until(lambda: version(envoy) == "v1", what="the step of tomorrow")
    set_clock(envoy, 0)
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v1"}
