"""What counts as evidence: which requests are recorded, responses that are ignored, no answer, clients that leave."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from harness.breaker import in_turn, judged, stays_ready, until_gated
from harness.client import Stream, get
from harness.config import route
from harness.load import Load, Request, drive
from harness.upstream import Behaviour
from harness.wait import until

EVENTS = [{"uri": {"prefix": "/events"}}]
API = [{"uri": {"prefix": "/api"}}]


def leave(envoy, path="/", *, times, after, streams=False):
    """So many clients at once that leave after so many seconds, with all of their request sent."""
    logged = len(envoy.access_log())
    with ExitStack() as stack:
        asked = [stack.enter_context(Stream(envoy.port(), path, end=True)) for _ in range(times)]
        time.sleep(after)
        for stream in asked if streams else []:
            stream.reset()
    until(lambda: len(envoy.access_log()) >= logged + times, what="all of them ended")


@contextmanager
def let_through(envoy):
    """A request whose body is still to come, and that the gate has let through to an upstream that hangs."""

    def ask():
        stream = Stream(envoy.port(), "/").__enter__()
        time.sleep(0.1)
        if not stream.answered():
            return stream
        stream.__exit__()
        return None

    stream = until(ask, what="let through")
    try:
        yield stream
    finally:
        stream.__exit__()


# -- requests ---------------------------------------------------------------------


def test_requests_that_are_ignored_are_no_evidence(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3, ignore=EVENTS), concurrency=1)
    v1.answer(500)
    assert in_turn(envoy, *["/events/1"] * 20) == [500] * 20
    # Neither against it nor in its favour: they end no row.
    v1.answer(200, path="/events/1")
    assert in_turn(envoy, "/", "/events/1", "/", "/events/1") == [500, 200, 500, 200]
    assert envoy.transitions() == 0
    assert in_turn(envoy, "/", "/") == [500, 503]
    assert envoy.transitions(reason="consecutive-failures") == 1


def test_requests_that_are_not_recorded_are_no_evidence(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3, record=API, ignore=[{"method": {"exact": "PUT"}}]))
    v1.answer(500)
    drive(envoy.port(), [Request("/"), Request("/api", method="PUT")] * 20)
    # More than the tick in which workers tell of what they saw.
    time.sleep(1)
    assert envoy.transitions() == 0
    drive(envoy.port(), [Request("/api")] * 10)
    until_gated(envoy, "consecutive-failures")


def test_a_response_that_breaks_off_to_a_request_that_is_ignored_says_nothing(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=2, ignore=EVENTS), concurrency=1)
    v1.reset_mid_body()
    assert in_turn(envoy, *["/events"] * 8) == [0] * 8
    assert envoy.transitions() == 0
    in_turn(envoy, *["/"] * 2)
    until_gated(envoy, "consecutive-failures")


def test_on_trial_a_request_that_is_ignored_may_pass_and_not_fail(start, policy, v1):
    waits = {"notReadyFor": "500ms", "trial": {"requests": 1, "successes": 2}}
    envoy = start(judged(policy, consecutiveFailures=2, ignore=EVENTS, **waits))
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 6, connections=1)
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    drive(envoy.port(), [Request("/events")] * 20, connections=1)
    assert envoy.transitions(from_="trial") == 0
    v1.answer(200)
    with Load(envoy.port(), [Request("/events")], rate=50):
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")


# -- responses --------------------------------------------------------------------


def test_a_status_that_is_ignored_is_neither_a_failure_nor_a_success(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=3, ignoreOn=["501"]), concurrency=1)
    v1.answer(501, path="/501")
    v1.answer(500, path="/500")
    assert in_turn(envoy, *["/501"] * 20, "/500", "/501", "/500", "/501") == [501] * 20 + [500, 501, 500, 501]
    assert envoy.transitions() == 0
    assert in_turn(envoy, "/500", "/500") == [500, 503]


def test_no_connection_may_be_ignored(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=2, ignoreOn=["connect-failure"]), concurrency=1)
    v1.refuse()
    assert in_turn(envoy, *["/"] * 10) == [503] * 10
    assert envoy.transitions() == 0
    v1.accept()
    v1.reset()
    in_turn(envoy, *["/"] * 2)
    until_gated(envoy, "consecutive-failures")


# -- no answer --------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "reset", "reset_mid_body", "hang"])
def test_no_answer_has_a_threshold_of_its_own(start, policy, v1, fault):
    apart = {"consecutiveFailures": 5, "consecutiveLocalOriginFailures": 2}
    envoy = start(judged(policy, **apart), concurrency=1, timeout="0.2s")
    v1.answer(500, path="/500")
    assert in_turn(envoy, *["/500"] * 4, "/") == [500] * 4 + [200]
    getattr(v1, fault)()
    in_turn(envoy, "/", "/")
    assert envoy.transitions(reason="local-origin-failures") == 1
    assert "reviews-v1: ready -> not-ready (local-origin-failures: 2)" in envoy.logs()
    until_gated(envoy, "local-origin-failures")


def test_answers_that_fail_end_a_row_of_no_answers(start, policy, v1):
    apart = {"consecutiveFailures": 5, "consecutiveLocalOriginFailures": 2}
    envoy = start(judged(policy, **apart), concurrency=1)
    v1.answer(500, path="/500")
    v1.reset(path="/reset")
    in_turn(envoy, *["/reset", "/500"] * 4)
    assert envoy.transitions() == 0
    in_turn(envoy, "/reset", "/500")
    assert envoy.transitions(reason="consecutive-failures") == 1


@contextmanager
def under_way(envoy, times, method="GET"):
    """So many requests at once whose clients wait."""
    with ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(envoy.port(), "/", method=method, end=method == "GET")) for _ in range(times)
        ]
        for stream in streams:
            if method == "POST":
                stream.send(b"all of it", end=True)
        yield streams


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_that_wait_for_too_long_count_before_they_end(start, policy, v1, method):
    envoy = start(judged(policy, consecutiveFailures=5, unansweredAfter="300ms"), timeout="60s")
    v1.hang()
    with under_way(envoy, 5, method) as streams:
        until(lambda: envoy.transitions(reason="consecutive-failures"), what="a trip")
        assert not any(stream.answered() for stream in streams)
        v1.answer()
        until_gated(envoy, "consecutive-failures")


def test_requests_that_wait_count_once_whatever_comes_of_them(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=6, unansweredAfter="200ms"), concurrency=1)
    for late in (Behaviour(500, delay=0.9), Behaviour(200, delay=0.9)):
        v1.behave(late)
        assert {answer.status for answer in drive(envoy.port(), [Request()] * 5, connections=5)} == {late.status}
        assert envoy.transitions() == 0, "no more than five"
        if late.status == 500:
            v1.answer()
            assert in_turn(envoy, "/") == [200]
    v1.answer(500)
    assert in_turn(envoy, "/", "/") == [500, 503], "a late answer is no success: this is the sixth"


def test_requests_that_wait_and_are_ignored_do_not_count(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=1, unansweredAfter="100ms", ignore=EVENTS), timeout="60s")
    v1.hang(path="/events")
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Stream(envoy.port(), "/events", end=True))
        time.sleep(0.5)
        stays_ready(envoy)


def test_requests_that_wait_for_another_cluster_do_not_count(start, policy, v1, v2):
    routes = [
        {"match": {"prefix": "/v2"}, "route": {"cluster": "reviews-v2", "timeout": "60s"}},
        route("reviews-v1", "60s"),
    ]
    envoy = start(judged(policy, consecutiveFailures=1, unansweredAfter="100ms"), routes=routes)
    v2.hang()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Stream(envoy.port(), "/v2", end=True))
        time.sleep(0.5)
        stays_ready(envoy)


@pytest.mark.parametrize("on_trial", [False, True], ids=["ready", "trial"])
def test_requests_that_another_filter_holds_up_do_not_count(start, policy, v1, on_trial):
    """Long enough for a lease, a breaker's patience, and a client's."""
    held = {
        "name": "fault",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": "1.5s", "percentage": {"numerator": 100}},
            "headers": [{"name": "x-hold", "present_match": True}],
        },
    }
    settings = {"consecutiveFailures": 2, "unansweredAfter": "300ms", "notReadyFor": "500ms"}
    trial = {"requests": 2, "successes": 2, "leaseFor": "1s"}
    envoy = start(judged(policy, **settings, trial=trial), filters_after=[held])
    if on_trial:
        v1.answer(500)
        drive(envoy.port(), [Request()] * 6, connections=1)
        v1.answer()
        until(lambda: envoy.transitions(to="trial"), what="a trial")
    before = envoy.transitions(to="not-ready")
    with ExitStack() as stack:
        for left in (True, False):
            streams = [stack.enter_context(Stream(envoy.port(), headers={"x-hold": "1"}, end=True)) for _ in range(4)]
            if left:
                time.sleep(1.2)
                for stream in streams:
                    stream.reset()
            else:
                assert {stream.answer().status for stream in streams} <= {200, 503}
    assert envoy.transitions(to="not-ready") == before


def test_a_permit_is_for_a_request_that_goes_to_its_upstream(start, policy, v1, v2):
    """The gate guards what its requests need, not where they go. Those that go elsewhere are slow there."""
    policy["releases"] = []
    policy["gates"] = [{"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"}]
    del policy["upstreams"]["reviews-v2"]["readinessProbe"]
    trial = {"requests": 1, "successes": 1, "leaseFor": "1s"}
    settings = {"consecutiveFailures": 3, "notReadyFor": "500ms", "unansweredAfter": "300ms", "trial": trial}
    policy["upstreams"]["reviews-v2"]["circuitBreaker"] = settings
    to_v2 = {"match": {"prefix": "/b"}, "route": {"cluster": "reviews-v2"}}
    envoy = start(policy, routes=[to_v2, route("reviews-v1", "60s")])
    v2.answer(500)
    drive(envoy.port(), [Request("/b")] * 6, connections=1)
    until(lambda: envoy.transitions(upstream="reviews-v2", to="trial"), what="a trial")
    v1.slow(2.0)
    drive(envoy.port(), [Request("/pay")] * 8, connections=4)
    assert envoy.transitions(from_="trial") == 0


def test_answers_within_the_time_are_none_of_it(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=1, unansweredAfter="5s"))
    v1.slow(0.05)
    assert {answer.status for answer in drive(envoy.port(), [Request()] * 200)} == {200}
    v1.answer()
    stays_ready(envoy)


def test_a_client_that_is_slow_to_read_is_no_failure(start, policy, v1):
    """The route's timeout cuts its response, as it would one that is slow to come."""
    envoy = start(judged(policy, consecutiveFailures=1), timeout="0.5s")
    v1.behave(Behaviour(body=b"x" * 40_000_000))
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Stream(envoy.port(), end=True))

        def cut():
            return [line["details"] for line in envoy.access_log()].count("response_timeout")

        until(lambda: cut() == 4, what="all of them cut")
    v1.answer()
    stays_ready(envoy)


# -- clients that leave -----------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False], ids=["reset", "disconnect"])
def test_clients_that_leave_after_a_stated_time_have_had_no_answer(start, policy, v1, streams):
    envoy = start(judged(policy, consecutiveFailures=5, unansweredAfter="300ms"), timeout="60s")
    v1.hang()
    leave(envoy, times=5, after=0.6, streams=streams)
    until(lambda: envoy.transitions(reason="consecutive-failures"), what="a trip")
    v1.answer()
    until_gated(envoy, "consecutive-failures")


def test_clients_that_leave_sooner_say_nothing(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=1, unansweredAfter="30s"), timeout="60s")
    v1.hang()
    leave(envoy, times=8, after=0.3)
    v1.answer()
    stays_ready(envoy)


def test_clients_that_leave_say_nothing_unless_the_policy_says_after_when(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=1), timeout="60s")
    v1.hang()
    leave(envoy, times=8, after=1.5)
    v1.answer()
    stays_ready(envoy)


def test_clients_that_leave_what_is_slow_have_seen_a_slow_answer(start, policy, v1):
    slow = {"slowPercent": 50, "slowerThan": "300ms", "minimumRequests": 6, "window": "1h"}
    envoy = start(judged(policy, **slow), timeout="60s")
    v1.hang()
    leave(envoy, times=6, after=0.6)
    until(lambda: envoy.transitions(reason="slow-share"), what="a trip")
    v1.answer()
    until_gated(envoy, "slow-share")


def test_clients_that_leave_before_they_have_sent_all_say_nothing(start, policy, v1):
    envoy = start(judged(policy, consecutiveFailures=1, unansweredAfter="200ms"), timeout="60s")
    v1.hang()
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(envoy.port(), "/")) for _ in range(4)]
        for stream in streams:
            stream.send(b"x" * 10)
        time.sleep(0.6)
    v1.answer()
    stays_ready(envoy)


@pytest.mark.parametrize("settings", [{}, {"unansweredAfter": "300ms"}], ids=["by-default", "after-a-time"])
def test_on_trial_clients_that_leave_say_nothing_unless_the_policy_says_after_when(start, policy, v1, settings):
    envoy = start(judged(policy, consecutiveFailures=2, notReadyFor="500ms", **settings), timeout="60s")
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 6, connections=1)
    v1.hang()
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    seen = v1.requests

    def leaves():
        with suppress(TimeoutError):
            get(envoy.port(), timeout=1)
        return v1.requests > seen + 2 or envoy.transitions(from_="trial")

    until(leaves, timeout=20, what="three that were let through, or the end of the trial")
    assert envoy.transitions(from_="trial") == envoy.transitions(from_="trial", to="not-ready") == bool(settings)


def test_on_trial_a_request_with_a_body_counts_once_all_of_it_is_there(start, policy, v1):
    trial = {"requests": 1, "successes": 1, "leaseFor": "1s"}
    envoy = start(judged(policy, consecutiveFailures=2, notReadyFor="500ms", trial=trial), timeout="60s")
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 6, connections=1)
    v1.hang()
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    with let_through(envoy) as stream:
        time.sleep(1.5)
        assert envoy.transitions(from_="trial") == 0
        stream.reset()
    with let_through(envoy) as stream:
        stream.send(b"all", end=True)
        until(lambda: envoy.transitions(from_="trial", reason="trial-unanswered"), what="a trial that failed")
