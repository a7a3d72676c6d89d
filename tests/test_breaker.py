"""What the responses that pass tell of an upstream: shares of bad ones, each word of failOn, gRPC; and `force`."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
import yaml

from harness.breaker import in_turn, judged, stays_ready, until_gated
from harness.client import Stream, get, get2
from harness.config import cluster, route
from harness.load import Load, Request, drive
from harness.tool import run
from harness.upstream import Behaviour
from harness.wait import until, until_all

GRPC = {"content-type": "application/grpc", "te": "trailers"}
HALF = Behaviour(whole=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")


# -- shares -----------------------------------------------------------------------


def test_the_share_of_failures_counts_from_the_minimum_of_requests_on(start, policy, v1):
    envoy = start(judged(policy, failurePercent=50, minimumRequests=40, window="1h"), concurrency=1)
    v1.answer(500)
    assert in_turn(envoy, *["/"] * 60) == [500] * 40 + [503] * 20
    assert envoy.transitions(from_="ready", to="not-ready", reason="failure-share") == 1
    assert "reviews-v1: ready -> not-ready (failure-share: 40 of 40)" in envoy.logs()


def test_the_minimum_is_20_unless_given(start, policy, v1):
    envoy = start(judged(policy, failurePercent=50, window="1h"), concurrency=1)
    v1.answer(500)
    assert in_turn(envoy, *["/"] * 30) == [500] * 20 + [503] * 10


def test_responses_seen_by_different_workers_add_up(start, policy, v1):
    envoy = start(judged(policy, failurePercent=50, minimumRequests=40, window="1h"), concurrency=2)
    v1.answer(500)
    answers = drive(envoy.port(), [Request("/")] * 39, connections=13)
    assert {answer.status for answer in answers} == {500}
    listeners = envoy.stats("listener.127.0.0.1_")
    per_worker = [value for name, value in listeners.items() if re.search(r"worker_\d.downstream_cx_total$", name)]
    assert [bool(requests) for requests in per_worker] == [True, True]
    time.sleep(1)
    assert envoy.transitions() == 0
    assert get(envoy.port()).status == 500
    until(lambda: envoy.transitions(reason="failure-share"), what="the fortieth")
    assert "reviews-v1: ready -> not-ready (failure-share: 40 of 40)" in envoy.logs()
    until_gated(envoy, "failure-share")


@pytest.mark.parametrize("last", ["/", "/bad"], ids=["success", "failure"])
def test_the_share_that_is_named_is_enough(start, policy, v1, last):
    envoy = start(judged(policy, failurePercent=50, minimumRequests=20, window="1h"), concurrency=1)
    v1.answer(500, path="/bad")
    first = "/bad" if last == "/" else "/"
    in_turn(envoy, *[first] * 10, *[last] * 10)
    until(lambda: envoy.transitions(reason="failure-share"), what="a trip")
    assert "(failure-share: 10 of 20)" in envoy.logs()


def test_below_the_share_nothing_trips(start, policy, v1):
    envoy = start(judged(policy, failurePercent=50, minimumRequests=40, window="1h"))
    v1.answer(500, path="/bad")
    answers = drive(envoy.port(), [Request("/bad"), *[Request("/")] * 3] * 75)
    assert sorted(answer.status for answer in answers) == [200] * 225 + [500] * 75
    stays_ready(envoy)
    with Load(envoy.port(), [Request("/bad")], rate=200):
        until(lambda: envoy.transitions(reason="failure-share"), what="a trip once more fail")
    until_gated(envoy, "failure-share")


def test_the_window_forgets(start, policy, v1):
    envoy = start(judged(policy, failurePercent=50, minimumRequests=40, window="1s"), concurrency=1)
    v1.answer(500)
    for _ in range(3):
        assert in_turn(envoy, *["/"] * 39) == [500] * 39
        # More than the window, and the tick in which a worker tells of what it saw.
        time.sleep(2)
    assert envoy.transitions() == 0
    until(lambda: in_turn(envoy, *["/"] * 60)[-1] == 503, what="a trip by as many at once")
    assert envoy.transitions(reason="failure-share") == 1


def test_slow_answers_trip(start, policy, v1):
    slow = {"slowPercent": 80, "slowerThan": "500ms", "minimumRequests": 10, "window": "1h"}
    envoy = start(judged(policy, **slow))
    drive(envoy.port(), [Request("/")] * 5, connections=1)
    v1.slow(0.8)
    drive(envoy.port(), [Request("/")] * 12, connections=12)
    stays_ready(envoy)
    drive(envoy.port(), [Request("/")] * 12, connections=12)
    until(lambda: envoy.transitions(from_="ready", to="not-ready", reason="slow-share"), what="a trip")
    until_gated(envoy, "slow-share")


def test_answers_that_are_not_slow_do_not_trip(start, policy, v1):
    slow = {"slowPercent": 1, "slowerThan": "5s", "minimumRequests": 1, "window": "1h"}
    envoy = start(judged(policy, **slow))
    v1.slow(0.1)
    drive(envoy.port(), [Request("/")] * 40, connections=8)
    v1.answer()
    stays_ready(envoy)


def test_a_client_that_is_slow_to_send_is_no_slow_answer(start, policy):
    slow = {"slowPercent": 1, "slowerThan": "700ms", "minimumRequests": 1, "window": "1h"}
    envoy = start(judged(policy, **slow))
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(envoy.port(), "/")) for _ in range(4)]
        for stream in streams:
            stream.send(b"x" * 10)
        time.sleep(1.5)
        for stream in streams:
            stream.send(b"x", end=True)
        assert [stream.answer().status for stream in streams] == [200] * 4
    stays_ready(envoy)


def fails_a_trial_and_passes_the_next(envoy, v1, connections, reason="trial-failed"):
    """Under load, with v1 well again in between."""
    with Load(envoy.port(), [Request("/")], rate=40, connections=connections):
        until(lambda: envoy.transitions(from_="trial", to="not-ready", reason=reason), what="a failed trial")
        assert envoy.transitions(to="ready") == 0
        v1.answer()
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")


def test_a_slow_answer_ends_a_trial(start, policy, v1):
    waits = {"notReadyFor": "500ms", "maxNotReadyFor": "1s"}
    slow = {"slowPercent": 100, "slowerThan": "500ms", "minimumRequests": 1000}
    envoy = start(judged(policy, **slow, **waits, consecutiveFailures=3))
    v1.answer(500)
    drive(envoy.port(), [Request("/")] * 10, connections=1)
    v1.slow(0.8)
    # Before it comes: that it would be slow is known then.
    fails_a_trial_and_passes_the_next(envoy, v1, connections=4, reason="trial-unanswered")


# -- what a failure is ------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "failures", "others"),
    [
        ("429", [429], [200, 404, 409, 428, 500, 503]),
        ("retriable-4xx", [409], [200, 400, 404, 429, 500, 503]),
        ("503", [503], [200, 429, 500, 502]),
        ("gateway-error", [502, 503, 504], [200, 404, 500, 501]),
        ("5xx", [500, 501, 503, 599], [200, 301, 404, 429]),
    ],
)
def test_a_status_is_a_failure_where_it_is_named(start, policy, v1, word, failures, others):
    envoy = start(judged(policy, failOn=[word], consecutiveFailures=6), concurrency=1)
    for status in failures + others:
        v1.answer(status, path=f"/{status}")
    assert in_turn(envoy, *[f"/{status}" for status in others * 6]) == others * 6
    # Another status is a success: it starts the count again.
    assert in_turn(envoy, *[f"/{failures[0]}"] * 5, f"/{others[-1]}") == [failures[0]] * 5 + [others[-1]]
    assert envoy.transitions() == 0
    six = (failures * 6)[:6]
    in_turn(envoy, *[f"/{status}" for status in six])
    assert envoy.transitions(reason="consecutive-failures") == 1
    until_gated(envoy, "consecutive-failures")


def test_several_words_add_up(start, policy, v1):
    envoy = start(judged(policy, failOn=["429", "retriable-4xx", "reset"], consecutiveFailures=3), concurrency=1)
    v1.answer(429, path="/429")
    v1.answer(409, path="/409")
    v1.reset(path="/reset")
    in_turn(envoy, "/429", "/409")
    assert envoy.transitions() == 0
    in_turn(envoy, "/reset")
    assert envoy.transitions(reason="consecutive-failures") == 1


@pytest.mark.parametrize("word", ["429", "retriable-4xx", "resource-exhausted"])
def test_no_answer_is_no_failure_where_only_answers_are_named(start, policy, v1, word):
    envoy = start(judged(policy, failOn=[word], consecutiveFailures=1), concurrency=1)
    v1.reset()
    assert in_turn(envoy, *["/"] * 10) == [503] * 10
    v1.refuse()
    assert in_turn(envoy, *["/"] * 10) == [503] * 10
    v1.answer()
    v1.accept()
    stays_ready(envoy)


def test_a_response_that_breaks_off_is_a_failure(start, policy, v1):
    envoy = start(judged(policy, failOn=["reset"], consecutiveFailures=3), concurrency=1)
    v1.reset_mid_body()
    assert in_turn(envoy, *["/"] * 5) == [0] * 3 + [503] * 2
    until_gated(envoy, "consecutive-failures")


def test_a_response_that_breaks_off_counts_in_the_share(start, policy, v1):
    settings = {"failOn": ["reset"], "failurePercent": 50, "minimumRequests": 10, "window": "1h"}
    envoy = start(judged(policy, **settings), concurrency=1)
    v1.reset_mid_body()
    in_turn(envoy, *["/"] * 12)
    until(lambda: envoy.transitions(reason="failure-share"), what="a trip")


def test_a_response_that_breaks_off_ends_a_trial(start, policy, v1):
    waits = {"notReadyFor": "500ms", "maxNotReadyFor": "1s"}
    settings = {"consecutiveFailures": 3, "trial": {"requests": 1, "successes": 2}}
    envoy = start(judged(policy, **settings, **waits), concurrency=1)
    v1.answer(500)
    in_turn(envoy, *["/"] * 3)
    v1.reset_mid_body()
    fails_a_trial_and_passes_the_next(envoy, v1, connections=1)


@pytest.mark.parametrize(
    "ending",
    [
        Behaviour(body=b"x" * 200_000),
        Behaviour(body=b""),
        Behaviour(whole=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        Behaviour(whole=b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
    ],
    ids=["large", "empty", "chunked", "close"],
)
def test_a_response_that_ends_well_is_none(start, policy, v1, ending):
    envoy = start(judged(policy, failOn=["reset"], consecutiveFailures=1), concurrency=1)
    v1.behave(ending)
    assert in_turn(envoy, *["/"] * 20) == [200] * 20
    v1.answer()
    stays_ready(envoy)


def test_a_client_that_leaves_in_the_middle_is_no_failure(start, policy, v1):
    envoy = start(judged(policy, failOn=["5xx", "reset"], consecutiveFailures=1), timeout="60s")
    v1.behave(HALF)
    for _ in range(3):
        with suppress(TimeoutError):
            get(envoy.port(), timeout=0.3)
        with Stream(envoy.port(), end=True) as stream:
            until(stream.answered, what="half of an answer")
            stream.reset()
        with Stream(envoy.port(), end=True) as stream:
            until(stream.answered, what="half of an answer")
    until(lambda: len(envoy.access_log()) == 9, what="all of them ended")
    v1.answer()
    stays_ready(envoy)


def test_replies_of_the_proxy_itself_count_neither_way(start, policy, v1):
    policy["upstreams"]["reviews-v2"]["force"] = "notReady"
    policy["gates"].insert(0, {"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"})
    settings = {"consecutiveFailures": 3, "failurePercent": 10, "minimumRequests": 20}
    direct = {"match": {"prefix": "/direct"}, "direct_response": {"status": 503}}
    routes = [direct, route("reviews-v1", "5s")]
    envoy = start(judged(policy, **settings, window="1h"), concurrency=1, routes=routes)
    v1.answer(500, path="/bad")
    assert in_turn(envoy, "/bad", "/bad", *["/direct", "/pay"] * 30) == [500, 500] + [503] * 60
    time.sleep(1)
    assert envoy.transitions() == 0
    assert in_turn(envoy, "/bad") == [500]
    assert envoy.transitions(reason="consecutive-failures") == 1


def test_replies_of_its_own_gate_do_not_count(start, policy, v1):
    upstream = judged(policy, consecutiveFailures=1)["upstreams"]["reviews-v1"]
    upstream["force"] = "notReady"
    envoy = start(policy, delivery="ecds")
    assert {answer.status for answer in drive(envoy.port(), [Request("/")] * 50)} == {503}
    del upstream["force"]
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port()).status == 200, what="let through")
    assert envoy.transitions() == 0
    assert v1.requests


# -- gRPC -------------------------------------------------------------------------


class App:
    """A gRPC service whose calls end with `code`, each method in a way of its own."""

    def __init__(self):
        self.code = grpc.StatusCode.OK
        self.metadata = ()
        self.port = 0
        self.start()

    def trailers_only(self, request, context):
        context.set_trailing_metadata(self.metadata)
        context.abort(self.code, "as told")

    def after_headers(self, request, context):
        context.send_initial_metadata((("x-begun", "1"),))
        context.abort(self.code, "as told")

    def after_a_message(self, request, context):
        context.set_trailing_metadata(self.metadata)
        context.set_code(self.code)
        return b"message"

    def late_message(self, request, context):
        context.send_initial_metadata(())
        time.sleep(1)
        return b"message"

    def endless(self, request, context):
        left = threading.Event()
        yield b"message"
        if context.add_callback(left.set):
            left.wait(60)

    def start(self):
        handlers: dict[str, Any] = {
            "TrailersOnly": grpc.unary_unary_rpc_method_handler(self.trailers_only),
            "AfterHeaders": grpc.unary_unary_rpc_method_handler(self.after_headers),
            "AfterAMessage": grpc.unary_unary_rpc_method_handler(self.after_a_message),
            "LateMessage": grpc.unary_unary_rpc_method_handler(self.late_message),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
        }
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Reviews", handlers)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self):
        self._server.stop(grace=None).wait(5)


@pytest.fixture
def app():
    served = App()
    yield served
    served.stop()


@pytest.fixture
def shop(start, policy, app):
    """An Envoy before the app, which is the upstream reviews-v1; with these settings of its breaker."""

    def with_breaker(**settings):
        policy["upstreams"]["reviews-v1"]["cluster"] = "app"
        behind = {"routes": [route("app", "30s")], "clusters": [cluster("app", app.port, http2=True)]}
        return start(judged(policy, **settings), concurrency=1, **behind)

    return with_breaker


def call(envoy, method):
    return get2(envoy.port(), f"/shop.Reviews/{method}", GRPC, method="POST", body=b"\0\0\0\0\0")


def ends(envoy, method, times):
    """How so many calls end: the gRPC status, or that the gate stopped it."""

    def ending(answer):
        if "is not ready" in (answer.headers["grpc-message"] or ""):
            return "gated"
        return answer.trailers["grpc-status"] or answer.headers["grpc-status"]

    return [ending(call(envoy, method)) for _ in range(times)]


@pytest.mark.parametrize("method", ["TrailersOnly", "AfterHeaders", "AfterAMessage"])
def test_a_grpc_status_is_found_wherever_it_stands(shop, app, method):
    envoy = shop(failOn=["resource-exhausted"], consecutiveFailures=3)
    app.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = call(envoy, method)
    place = answer.headers if method == "TrailersOnly" else answer.trailers
    assert (answer.status, place["grpc-status"]) == (200, "8")
    assert bool(answer.body) == (method == "AfterAMessage")
    assert ends(envoy, method, 5) == ["8", "8", "gated", "gated", "gated"]
    assert envoy.transitions(from_="ready", to="not-ready", reason="consecutive-failures") == 1


@pytest.mark.parametrize("word", ["cancelled", "deadline-exceeded", "resource-exhausted", "internal", "unavailable"])
def test_each_grpc_word_is_its_own_status(shop, app, word):
    envoy = shop(failOn=[word], consecutiveFailures=2)
    named = grpc.StatusCode[word.replace("-", "_").upper()]
    for code in grpc.StatusCode:
        if code is not named:
            app.code = code
            assert "gated" not in ends(envoy, "AfterAMessage", 2), code
    app.code = grpc.StatusCode.OK
    ends(envoy, "AfterAMessage", 1)
    assert envoy.transitions() == 0
    app.code = named
    assert ends(envoy, "AfterAMessage", 3) == [str(named.value[0])] * 2 + ["gated"]


def test_a_call_that_ends_with_ok_starts_the_count_again(shop, app):
    envoy = shop(failOn=["resource-exhausted"], consecutiveFailures=3)
    for _ in range(4):
        app.code = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ends(envoy, "TrailersOnly", 1) + ends(envoy, "AfterAMessage", 1) == ["8", "8"]
        app.code = grpc.StatusCode.OK
        assert ends(envoy, "AfterAMessage", 1) == ["0"]
    assert envoy.transitions() == 0


def test_grpc_statuses_count_in_the_share(shop, app):
    envoy = shop(failOn=["resource-exhausted"], failurePercent=50, minimumRequests=20, window="1h")
    assert ends(envoy, "AfterAMessage", 10) == ["0"] * 10
    app.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ends(envoy, "AfterAMessage", 12) == ["8"] * 10 + ["gated"] * 2
    assert "(failure-share: 10 of 20)" in envoy.logs()


@pytest.mark.parametrize("method", ["TrailersOnly", "AfterAMessage"])
def test_a_service_may_ask_to_be_left_alone(shop, app, policy, method):
    policy["gates"][0]["reply"] = {}
    envoy = shop(failOn=["resource-exhausted"], consecutiveFailures=2, notReadyFor="500ms", maxRetryAfter="1m")
    app.code, app.metadata = grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "30000"),)
    assert ends(envoy, method, 2) == ["8", "8"]
    assert 25 < int(call(envoy, method).headers["retry-after"]) <= 33


def test_a_server_that_is_down_is_unavailable(shop, app):
    envoy = shop(failOn=["unavailable"], consecutiveFailures=3)
    assert ends(envoy, "AfterAMessage", 5) == ["0"] * 5
    app.stop()
    assert ends(envoy, "AfterAMessage", 5) == ["14"] * 3 + ["gated"] * 2


def test_a_server_that_is_down_is_nothing_else(shop, app):
    words = ["cancelled", "deadline-exceeded", "resource-exhausted", "internal"]
    envoy = shop(failOn=words, consecutiveFailures=1)
    app.stop()
    assert ends(envoy, "AfterAMessage", 5) == ["14"] * 5
    assert envoy.transitions() == 0


def test_a_stream_whose_server_goes_away_is_unavailable(shop, app):
    envoy = shop(failOn=["unavailable"], consecutiveFailures=1)
    with Stream(envoy.port(), "/shop.Reviews/Endless", GRPC) as stream:
        stream.send(b"\0\0\0\0\0", end=True)
        until(stream.answered, what="a first message")
        assert envoy.transitions() == 0
        app.stop()
        until(lambda: envoy.transitions(reason="consecutive-failures"), what="a trip")


def test_a_client_that_leaves_a_stream_is_no_failure(shop, app):
    envoy = shop(failOn=["unavailable", "cancelled"], consecutiveFailures=1)
    for leave in [Stream.reset, lambda _: None] * 3:
        with Stream(envoy.port(), "/shop.Reviews/Endless", GRPC) as stream:
            stream.send(b"\0\0\0\0\0", end=True)
            until(stream.answered, what="a first message")
            leave(stream)
    until(lambda: len(envoy.access_log()) == 6, what="all of them ended")
    assert ends(envoy, "AfterAMessage", 1) == ["0"]
    assert envoy.transitions() == 0


def test_a_stream_is_slow_by_its_headers_and_not_by_its_status(shop):
    slow = {"slowPercent": 1, "slowerThan": "700ms", "minimumRequests": 1, "window": "1h"}
    envoy = shop(failOn=["unavailable"], **slow)
    assert ends(envoy, "LateMessage", 3) == ["0"] * 3
    time.sleep(1)
    assert envoy.transitions() == 0


# -- force ------------------------------------------------------------------------


@pytest.mark.parametrize("known_by", ["checks", "responses", "nothing"])
def test_forced_not_ready_is_gated_at_once_though_all_is_well(start, policy, v1, known_by):
    if known_by != "checks":
        judged(policy)
    if known_by == "nothing":
        del policy["upstreams"]["reviews-v1"]["circuitBreaker"]
    policy["releases"] = []
    policy["upstreams"]["reviews-v1"]["force"] = "notReady"
    envoy = start(policy)
    answer = get(envoy.port())
    assert (answer.status, answer.text) == (503, "policy reviews: upstream reviews-v1 is not ready: forced\n")
    probe = get(envoy.port(), "/readyz")
    assert (probe.status, "[-]reviews-v1 failed: forced\n" in probe.text) == (503, True), probe.text
    if known_by == "checks":
        until(lambda: envoy.counter("graygate_checks_total", upstream="reviews-v1", result="passed") > 3, what="checks")
    until_gated(envoy, "forced")
    assert get(envoy.port(), "/readyz").status == 503
    assert (v1.requests, envoy.transitions(upstream="reviews-v1")) == (0, 0)


def test_forced_ready_is_let_through_though_checks_fail(start, policy, v1):
    policy["releases"] = []
    policy["upstreams"]["reviews-v1"] |= {"force": "ready", "assume": "notReady"}
    v1.answer(500, path="/healthz")
    envoy = start(policy)
    assert (get(envoy.port()).version, get(envoy.port(), "/readyz").status) == ("v1", 200)
    failed = {"upstream": "reviews-v1", "result": "failed"}
    until(lambda: envoy.counter("graygate_checks_total", **failed) > 5, what="failed checks")
    answers = drive(envoy.port(), [Request("/"), Request("/readyz")] * 20)
    assert {answer.status for answer in answers} == {200}
    assert envoy.counter("graygate_gated_requests_total") == 0


def test_forced_ready_is_let_through_though_requests_fail(start, policy, v1):
    judged(policy, consecutiveFailures=3, notReadyFor="100ms")["upstreams"]["reviews-v1"]["force"] = "ready"
    envoy = start(policy)
    v1.answer(500)
    with Load(envoy.port(), [Request("/")], rate=100) as load:
        until(lambda: len(load.answers) > 200, what="load")
        assert get(envoy.port(), "/readyz").status == 200
    assert {answer.status for answer in load.answers} == {500}
    assert envoy.counter("graygate_gated_requests_total") == 0


def test_forced_ready_has_started(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["force"] = "ready"
    policy["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v1"}]}
    v1.answer(500, path="/healthz")
    envoy = start(policy)
    until_all(lambda: get(envoy.port(), "/startupz").status == 200, what="started")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready")


def test_a_version_that_is_forced_not_ready_falls_back(start, policy, v2):
    policy["upstreams"]["reviews-v2"]["force"] = "notReady"
    envoy = start(policy)
    answers = drive(envoy.port(), [Request("/", {"x-tester": "true"})] * 20)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v1")}
    assert envoy.counter("graygate_assignments_total", reason="fallback") == 20
    assert v2.requests == 0


@pytest.mark.parametrize("delivery", ["ecds", "lds"])
def test_an_update_gives_and_takes_back_the_word(start, policy, delivery):
    policy["releases"] = []
    upstream = policy["upstreams"]["reviews-v1"]
    envoy = start(policy, delivery=delivery)
    assert get(envoy.port()).status == 200
    for _ in range(2):
        upstream["force"] = "notReady"
        assert envoy.publish(policy) == ""
        until_gated(envoy, "forced")
        until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness says so")
        upstream["force"] = "none"
        assert envoy.publish(policy) == ""
        until_all(lambda: get(envoy.port()).status == 200, what="let through again")
        until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="readiness says so")
    assert envoy.transitions(upstream="reviews-v1") == 0


def test_what_is_known_counts_again_once_the_word_is_taken_back(start, policy, v1):
    policy["releases"] = []
    upstream = policy["upstreams"]["reviews-v1"]
    upstream["force"] = "ready"
    v1.answer(500, path="/healthz")
    envoy = start(policy, delivery="ecds")
    until(lambda: envoy.transitions(upstream="reviews-v1", to="not-ready"), what="known to be down")
    assert get(envoy.port()).status == 200
    del upstream["force"]
    assert envoy.publish(policy) == ""
    until_gated(envoy, "check-failed")


def test_explain_takes_the_policys_word(policy, tmp_path):
    policy["upstreams"]["reviews-v1"] |= {"force": "ready", "assume": "notReady"}
    policy["upstreams"]["reviews-v2"]["force"] = "notReady"
    policy["gates"].append({"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"})
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/api"}}]
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    assert run("check", file).returncode == 0
    released = run("explain", "--policy", file, "--path", "/api", "--header", "x-tester=true")
    assert "release   reviews: v1 (fallback)" in released.stdout
    assert "decision  forward" in released.stdout
    told = run("explain", "--policy", file, "--path", "/api", "--not-ready", "reviews-v1")
    assert "decision  forward" in told.stdout
    paid = run("explain", "--policy", file, "--path", "/pay")
    assert "decision  reply 503: the gate on upstream reviews-v2, which is not ready: forced" in paid.stdout
    ready = run("explain", "--policy", file, "--path", "/readyz")
    assert "decision  reply 200: the readiness probe" in ready.stdout
