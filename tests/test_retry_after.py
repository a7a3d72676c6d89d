"""An upstream that says how long it wants to be left alone is, up to a cap; and a gate says how long it will be."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from harness.breaker import in_turn, judged
from harness.client import get
from harness.load import Load, Request
from harness.wait import until, until_all

SHORT = {"consecutiveFailures": 2, "notReadyFor": "500ms", "maxNotReadyFor": "1s"}


def told(envoy):
    """What a gated request is told to wait, in seconds."""
    answer = until(lambda: (a := get(envoy.port())).version is None and a, what="gated")
    return int(answer.headers["retry-after"])


def fail(envoy, v1, value):
    v1.answer(503, [("retry-after", value)])
    assert in_turn(envoy, "/", "/") == [503, 503]
    v1.answer()


@pytest.fixture
def gated(start, policy, v1):
    """An Envoy whose v1 has failed with this `retry-after`, under a breaker with these settings."""

    def with_settings(value, **settings):
        policy["gates"][0]["reply"] = {}
        envoy = start(judged(policy, **{**SHORT, **settings}), concurrency=1)
        fail(envoy, v1, value)
        return envoy

    return with_settings


def test_the_wait_is_as_long_as_the_upstream_asks(gated):
    assert 25 < told(gated("30", maxRetryAfter="1m")) <= 33


def test_it_may_ask_by_a_date(gated):
    assert 20 < told(gated(formatdate(time.time() + 30, usegmt=True), maxRetryAfter="1m")) <= 33


def test_it_is_heard_up_to_the_cap(gated):
    assert 7 < told(gated("86400", maxRetryAfter="10s")) <= 11


def test_the_cap_is_the_longest_wait_unless_given(gated):
    assert 7 < told(gated("86400", maxNotReadyFor="10s")) <= 11


@pytest.mark.parametrize("value", ["soon", "-5", "", "1e9", "0"])
def test_what_asks_for_nothing_changes_nothing(gated, value):
    assert told(gated(value, maxRetryAfter="1h")) == 1


def test_it_need_not_be_heard(gated):
    assert told(gated("30", maxRetryAfter="0s")) == 1


def test_a_check_that_passes_does_not_cut_it_short(start, policy, v1):
    upstream = policy["upstreams"]["reviews-v1"]
    policy["releases"] = []
    upstream["circuitBreaker"] = {**SHORT, "maxRetryAfter": "1m"}
    envoy = start(policy)
    until(lambda: envoy.counter("graygate_checks_total", upstream="reviews-v1", result="passed"), what="a check")
    v1.answer(503, [("retry-after", "2")], path="/")
    with Load(envoy.port(), [Request("/")], rate=100) as load:
        until(lambda: envoy.transitions(to="not-ready", reason="consecutive-failures"), what="a trip")
        v1.answer()
        until(lambda: envoy.transitions(from_="not-ready"), what="the end of the wait")
        assert envoy.transitions(from_="not-ready", to="ready") == 0, "by a trial, and no check before it"
        gated = [answer for answer in load.answers if answer.version is None and b"not ready" in answer.body]
        assert gated[-1].answered - gated[0].asked > 1.5
    until_all(lambda: get(envoy.port()).status == 200, what="ready")


def test_a_failed_trial_may_ask_too(start, policy, v1):
    policy["gates"][0]["reply"] = {}
    envoy = start(judged(policy, **SHORT, maxRetryAfter="1m"), concurrency=1)
    v1.answer(500)
    assert in_turn(envoy, "/", "/") == [500, 500]
    assert told(envoy) == 1
    v1.answer(503, [("retry-after", "30")])

    def tried():
        get(envoy.port())
        return envoy.transitions(from_="trial", reason="trial-failed")

    until(tried, what="a trial that failed")
    assert 25 < told(envoy) <= 33


def test_a_time_that_the_policy_gives_is_what_is_told(start, policy, v1):
    envoy = start(judged(policy, **{**SHORT, "notReadyFor": "1h", "maxNotReadyFor": "1h"}), concurrency=1)
    v1.answer(500)
    in_turn(envoy, "/", "/")
    assert told(envoy) == 2
