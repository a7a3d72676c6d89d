"""When checks are sent: the first one, and the time to the next by what is known and who needs it."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import quantiles

import pytest

from harness.load import Load, Request
from harness.wait import until

ALICE = Request("/", {"x-user-id": "alice"})
TESTER = Request("/", {"x-tester": "true"})


def times(upstream, path="/healthz"):
    return [call.at for call in upstream.calls_of(path)]


def gaps(upstream, path="/healthz"):
    return [later - earlier for earlier, later in pairwise(times(upstream, path))]


def many(policy, check, count=20, **settings):
    """So many upstreams with a check each, `/0` and on, that all go to v1."""
    paths = [f"/{number}" for number in range(count)]
    checks = [{**check, **settings, "httpGet": {"path": path}} for path in paths]
    upstreams = [{"cluster": "reviews-v1", "readinessProbe": each} for each in checks]
    policy["releases"], policy["gates"] = [], []
    policy["probes"] = {"readiness": {"path": "/readyz"}}
    policy["upstreams"] = {f"app-{number}": each for number, each in enumerate(upstreams)}
    return paths


def test_the_first_check_waits_for_the_initial_delay(start, policy, check, v1, v2):
    check["initialDelaySeconds"] = 2
    begun = time.monotonic()
    start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    # It may come half a tick early.
    assert times(v1)[0] - begun > 1.9
    assert v2.seen("/healthz") >= 3


def test_the_first_checks_are_spread_over_the_initial_jitter(start, policy, check, v1):
    paths = many(policy, check, initialDelaySeconds=1, initialJitterSeconds=4, periodSeconds=20)
    begun = time.monotonic()
    start(policy)
    until(lambda: all(v1.seen(path) for path in paths), what="all first checks")
    first = sorted(times(v1, path)[0] - begun for path in paths)
    assert first[0] > 0.9
    # That twenty lie closer together comes up once in 10,000 runs.
    assert 1.5 < first[-1] - first[0] < 4 + 1.5


def test_periods_are_longer_by_their_jitter_and_not_all_the_same(start, policy, check, v1):
    paths = many(policy, check, periodSeconds=1, jitterPercent=100)
    start(policy)
    until(lambda: all(v1.seen(path) > 5 for path in paths), timeout=30, what="five periods of each")
    spans = [span for path in paths for span in gaps(v1, path)]
    assert min(spans) > 0.6
    # Even over 1 to 2 seconds, these are 1.25, 1.5 and 1.75.
    low, middle, high = quantiles(spans, n=4)
    assert 1.0 < low < 1.5 < high < 2.3
    assert high - low > 0.2
    assert 1.2 < middle < 1.9


def test_periods_are_even_without_jitter(start, policy, check, v1):
    paths = many(policy, check, periodSeconds=1)
    start(policy)
    until(lambda: all(v1.seen(path) > 5 for path in paths), timeout=30, what="five periods of each")
    low, _, high = quantiles((span for path in paths for span in gaps(v1, path)), n=4)
    assert 0.8 < low <= high < 1.2


def test_an_upstream_that_is_not_ready_is_checked_at_a_period_of_its_own(start, policy, check, v1):
    check.update(periodSeconds=2, notReadyPeriodSeconds=0.1, failureThreshold=1)
    envoy = start(policy)
    v1.answer(500, path="/healthz")
    until(lambda: envoy.transitions(to="not-ready"), what="not ready")
    seen = v1.seen("/healthz")
    # At the normal period they would take 40 seconds.
    until(lambda: v1.seen("/healthz") >= seen + 20, timeout=20, what="twenty checks")
    v1.answer(200, path="/healthz")
    until(lambda: envoy.transitions(to="ready"), what="ready")
    seen = v1.seen("/healthz")
    until(lambda: v1.seen("/healthz") >= seen + 2, what="two checks more")
    assert min(gaps(v1)[-2:]) > 1.0


@pytest.mark.parametrize(
    ("assume", "status", "threshold", "phase"),
    [("ready", 500, "failureThreshold", "not-ready"), ("notReady", 200, "successThreshold", "ready")],
    ids=["down", "up"],
)
def test_the_edge_period_holds_till_a_change_is_settled(start, policy, check, v1, assume, status, threshold, phase):
    policy["upstreams"]["reviews-v1"]["assume"] = assume
    check.update(periodSeconds=1, edgePeriodSeconds=0.1)
    check[threshold] = 20
    v1.answer(status, path="/healthz")
    envoy = start(policy)
    # At the normal period it would take 19 seconds, and 9 with every second one.
    until(lambda: envoy.transitions(upstream="reviews-v1", to=phase), timeout=8, what=phase)
    settled = v1.seen("/healthz")
    assert settled >= 20
    until(lambda: v1.seen("/healthz") >= settled + 3, what="three checks more")
    assert min(gaps(v1)[-2:]) > 0.5


def test_checks_are_few_while_no_request_needs_the_upstream(start, policy, check, v1):
    check.update(periodSeconds=0.2, idlePeriodSeconds=1.5)
    envoy = start(policy)
    until(lambda: v1.seen("/healthz") >= 4, what="checks at the normal period")
    with Load(envoy.port(), [Request("/readyz"), Request("/livez"), TESTER], rate=100):
        until(lambda: min(gaps(v1)[-2:]) > 1.1, what="checks at the idle period, whatever else is asked")
    with Load(envoy.port(), [ALICE], rate=50) as load:
        until(lambda: max(gaps(v1)[-6:]) < 0.9, what="checks at the normal period")
        begun, seen = time.monotonic(), v1.seen("/healthz")
        until(lambda: time.monotonic() - begun > 3, what="twice the idle period")
        # Fifteen are due; at the idle period it would be two or three.
        assert v1.seen("/healthz") - seen > 6
    assert load.failed == []
    until(lambda: min(gaps(v1)[-2:]) > 1.1, what="checks at the idle period again")
