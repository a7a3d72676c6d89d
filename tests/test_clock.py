"""A proxy whose wall clock is changed: schedule steps are not undone, and nothing else follows that clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from harness.breaker import judged
from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.wait import until

HOUR = 3_600
DAY = 24 * HOUR


def at(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def weigh(release, v1, v2):
    for version, weight in zip(release["versions"], (v1, v2), strict=True):
        version["weight"] = weight


@pytest.fixture
def scheduled(policy):
    """A policy with all users on v1, on v2 since a minute ago, and on v1 again from tomorrow on."""
    release = policy["releases"][0]
    weigh(release, 100, 0)
    release["schedule"] = [
        {"at": at(-60), "weights": {"v1": 0, "v2": 100}},
        {"at": at(DAY), "weights": {"v1": 100, "v2": 0}},
    ]
    return policy


@pytest.fixture
def start_with_a_clock(v1, v2):
    """`envoy = start_with_a_clock(policy)`, which has its own wall clock. Its monotonic clock is the machine's."""
    with ExitStack() as stack:

        def start(policy, concurrency=2):
            ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
            config = bootstrap(policy, ports, delivery="ecds")
            return stack.enter_context(Envoy(config, concurrency=concurrency, own_clock=True))

        yield start


@pytest.fixture
def envoy(start_with_a_clock, scheduled):
    return start_with_a_clock(scheduled)


def version(envoy, user="alice"):
    return get(envoy.port(), headers={"x-user-id": user}).version


def set_clock(envoy, seconds):
    """Sets the clock and waits until Envoy's own responses have the new time."""
    envoy.set_clock(seconds)

    def shown():
        date = get(envoy.port(), "/livez").headers["date"]
        return abs((parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() - seconds) < 5

    until(shown, what=f"Envoy's clock {seconds} s from ours")


def ten_checks(envoy):
    """Waits for ten more check results of any upstream. Each shows one more tick."""
    passed = envoy.counter("graygate_checks_total", result="passed")
    until(lambda: envoy.counter("graygate_checks_total", result="passed") > passed + 10, what="ten checks more")


def test_a_clock_that_is_set_back_undoes_no_step(envoy, scheduled):
    assert version(envoy) == "v2"
    set_clock(envoy, -HOUR)
    ten_checks(envoy)
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v2"}
    # A new policy does not undo the step either.
    scheduled["gates"][0]["reply"]["retryAfterSeconds"] = 9
    assert envoy.publish(scheduled) == ""
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v2"}


def test_a_clock_that_is_set_forward_takes_the_steps_until_then_permanently(envoy):
    set_clock(envoy, 2 * DAY)
    until(lambda: version(envoy) == "v1", what="the step of tomorrow")
    set_clock(envoy, 0)
    assert {version(envoy, f"user-{number}") for number in range(50)} == {"v1"}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
@pytest.mark.parametrize(
    "breaker",
    [
        {"unansweredAfter": "30s", "consecutiveFailures": 1},
        {"slowPercent": 1, "slowerThan": "30s", "minimumRequests": 1},
    ],
    ids=["unanswered", "slow"],
)
def test_requests_under_way_count_as_if_the_clock_had_not_been_set(start_with_a_clock, policy, v1, breaker, seconds):
    envoy = start_with_a_clock(judged(policy, **breaker))
    v1.hang()
    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(get, envoy.port(), timeout=30) for _ in range(8)]
        until(lambda: v1.requests == 8, what="eight requests under way")
        set_clock(envoy, seconds)
        ten_checks(envoy)
        v1.answer()
        v1.release()
        assert [answer.result().status for answer in answers] == [200] * 8
    ten_checks(envoy)
    assert envoy.transitions(upstream="reviews-v1") == 0
    assert get(envoy.port()).status == 200


def trip(envoy):
    """Sends requests, which fail, until the upstream is not ready."""
    until(lambda: get(envoy.port()) and envoy.transitions(upstream="reviews-v1"), what="a trip")


@pytest.mark.parametrize("seconds", [2 * HOUR, -2 * HOUR])
def test_a_wait_does_not_end_early_when_the_clock_is_set(start_with_a_clock, policy, v1, seconds):
    envoy = start_with_a_clock(judged(policy, consecutiveFailures=3, notReadyFor="1h"))
    v1.answer(500)
    trip(envoy)
    set_clock(envoy, seconds)
    ten_checks(envoy)
    assert envoy.transitions(upstream="reviews-v1") == 1


def test_a_wait_does_not_end_late_when_the_clock_is_set_back(start_with_a_clock, policy, v1):
    envoy = start_with_a_clock(judged(policy, consecutiveFailures=3, notReadyFor="2s", maxNotReadyFor="2s"))
    v1.answer(500)
    trip(envoy)
    envoy.set_clock(-HOUR)
    until(lambda: envoy.transitions(upstream="reviews-v1", to="trial"), what="the trial")


@pytest.mark.parametrize("seconds", [2 * HOUR, -2 * HOUR])
def test_no_check_comes_early_when_the_clock_is_set(start_with_a_clock, policy, check, v1, seconds):
    check["periodSeconds"] = 3_600
    envoy = start_with_a_clock(policy)
    until(lambda: v1.seen("/healthz") == 1, what="the first check")
    set_clock(envoy, seconds)
    ten_checks(envoy)
    assert v1.seen("/healthz") == 1
