"""How Envoy reports each row of "Whose fault it was" in docs/evaluate/evidence.md. The rest is in `tests/worlds`.

All rows share one Envoy. Each row has an upstream, whose cluster, gate and paths have its name. Two failures in a row
make it not ready. They are sent before and after whatever does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from socket import socket
from typing import Any

import pytest

from harness.breaker import in_turn
from harness.client import Stream, get
from harness.config import Tree, bootstrap, cluster
from harness.envoy import Envoy
from harness.sockets import SocketServer, fail_every_other, path_of, read_head
from harness.upstream import Behaviour, Upstream
from harness.wait import until

POLICY = "rows"
# The shortest time in the policy sets the tick, which is 50 ms here.
SHORT = {"notReadyFor": "200ms", "maxNotReadyFor": "200ms"}
ONE = {"requests": 1, "successes": 1}
# The time after which an unanswered request counts, in all rows that have one.
UNANSWERED = {"unansweredAfter": "100ms"}
ROWS: dict[str, dict[str, Any]] = {
    "refused": {"failOn": ["connect-failure"]},
    "reset": {"failOn": ["reset"]},
    "timeout": {"failOn": ["gateway-error"]},
    "waits": UNANSWERED,
    "breaks": {"failOn": ["reset"]},
    "cut": {"failOn": ["5xx", "reset"]},
    "left": {},
    "patient": {},
    "impatient": {"slowPercent": 1, "slowerThan": "100ms", "minimumRequests": 1},
    "trial": {**SHORT, "trial": {**ONE, "leaseFor": "1s"}},
    "moved": {**SHORT, "trial": {**ONE, "leaseFor": "30s"}},
    "replies": {},
    "overflow": {},
    "held": UNANSWERED,
    "held-witness": UNANSWERED,
    "elsewhere": UNANSWERED,
    "elsewhere-witness": UNANSWERED,
    "silent": {"ignore": [{"uri": {"prefix": "/silent/events"}}]},
    "interim": {},
    "asks": {"maxRetryAfter": "1h"},
    "retried": {"failOn": ["retried"]},
    "unheard": {},
    "marked": {"failOn": [{"header": "x-error", "prefix": "yes"}]},
}


def respond_early(sock: socket) -> None:
    """Responds when it has a request's headers: with 500, or with 200 and half of a body.

    The path can say that it closes the connection at the request's end.
    """
    head = read_head(sock)
    if not head:
        return
    path = path_of(head)
    if path.endswith("/500"):
        sock.sendall(b"HTTP/1.1 500 Error\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return
    if not path.endswith("/hangs"):
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    while sock.recv(65536):
        if path.endswith("/breaks"):
            return


def fault(header: str, **what: Any) -> Tree:
    """Returns a fault filter for requests with this header."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
    headers = [{"name": header, "present_match": True}]
    whole = {"percentage": {"numerator": 100}}
    settings = {name: {**value, **whole} for name, value in what.items()}
    return {"name": header, "typed_config": {"@type": kind, "headers": headers, **settings}}


def routes() -> list[Tree]:
    """Returns routes to all rows. Their timeout is a minute, except for some paths."""

    def to(prefix: str, name: str, **action: Any) -> Tree:
        return {"match": {"prefix": prefix}, "route": {"cluster": name, "timeout": "60s", **action}}

    retries = {"retry_on": "5xx", "num_retries": 1}
    redirects = {"max_internal_redirects": 1, "redirect_response_codes": [302]}
    return [
        to("/timeout/hangs", "timeout", timeout="0.2s"),
        to("/cut/early", "cut", timeout="0.1s"),
        to("/moved/", "moved", internal_redirect_policy=redirects),
        {"match": {"prefix": "/replies/direct"}, "direct_response": {"status": 503}},
        to("/elsewhere/other", "other"),
        to("/retried/", "retried", retry_policy=retries),
        to("/unheard/", "unheard", retry_policy=retries),
        *(to(f"/{name}/", name) for name in ROWS),
    ]


@pytest.fixture(scope="module")
def app() -> Iterator[Upstream]:
    with Upstream("app") as upstream:
        for name in ROWS:
            upstream.answer(500, path=f"/{name}/500")
        yield upstream


@pytest.fixture(scope="module")
def envoy(app: Upstream) -> Iterator[Envoy]:
    """An Envoy with one worker, so that requests keep their order."""
    breaker = {"consecutiveFailures": 2, "notReadyFor": "1h"}
    upstreams = {name: {"cluster": name, "circuitBreaker": {**breaker, **settings}} for name, settings in ROWS.items()}
    gates = [{"match": [{"uri": {"prefix": f"/{name}/"}}], "upstream": name} for name in ROWS]
    policy = {"name": POLICY, "upstreams": upstreams, "gates": gates}
    limit = {"circuit_breakers": {"thresholds": [{"max_requests": 1}]}}
    with ExitStack() as stack:
        closed = stack.enter_context(Upstream("closed"))
        closed.refuse()
        ports = {name: app.port for name in (*ROWS, "other") if name != "overflow"}
        ports |= {"refused": closed.port}
        ports |= dict.fromkeys(
            ("breaks", "cut", "left", "trial"), stack.enter_context(SocketServer(respond_early)).port
        )
        ports |= dict.fromkeys(("retried", "unheard"), stack.enter_context(SocketServer(fail_every_other())).port)
        config = bootstrap(
            policy,
            ports,
            routes=routes(),
            clusters=[{**cluster("overflow", app.port), **limit}],
            filters_after=[
                fault("x-hold", delay={"fixed_delay": "60s"}),
                fault("x-abort", abort={"http_status": 503}),
            ],
            hcm={"proxy_100_continue": True},
        )
        yield stack.enter_context(Envoy(config, concurrency=1))


def ask(envoy: Envoy, row: str, *names: str) -> list[int]:
    """Sends requests for these paths of a row, one after the other. Returns their statuses."""
    return in_turn(envoy, *(f"/{row}/{name}" for name in names))


def details(envoy: Envoy, path: str, times: int = 1) -> list[str]:
    """Waits until this many requests for the path have ended. Returns their response code details."""

    def logged() -> list[str]:
        return [line["details"] for line in envoy.access_log() if line["path"] == path]

    until(lambda: len(logged()) >= times, what=f"{times} times {path} in the access log")
    return logged()


def has_tripped(envoy: Envoy, row: str) -> None:
    """Checks that two failures in a row have tripped the breaker, and that the next request is gated."""
    until(lambda: envoy.transitions(upstream=row, reason="consecutive-failures") == 1, what=f"{row} tripped")
    assert f"upstream {row}: ready -> not-ready (consecutive-failures: 2)" in envoy.logs()
    # Another VM may have seen first that the row has lasted long enough.
    gated = f"upstream {row} is not ready"
    until(lambda: gated in get(envoy.port(), f"/{row}/500").text, what=f"{row} gated")


def assert_does_not_count(envoy: Envoy, row: str, act: Callable[[], object]) -> None:
    """Acts between two failures and checks that they are in a row.

    A failure in between would trip before the second one, and a success would end the row.
    """
    assert ask(envoy, row, "500") == [500]
    act()
    assert ask(envoy, row, "500") == [500]
    has_tripped(envoy, row)


def under_way(envoy: Envoy, row: str) -> bool:
    """Returns whether a request of the row is at its cluster."""
    active = f"cluster.{row}.upstream_rq_active"
    return bool(envoy.stats(active)[active])


# -- the conditions of failOn -------------------------------------------------------


def test_a_good_response_that_took_a_retry_is_a_failure_by_retried_only(envoy):
    assert ask(envoy, "unheard", *["x"] * 4) == [200] * 4
    assert envoy.transitions(upstream="unheard") == 0
    assert ask(envoy, "retried", "x", "x") == [200, 200]
    has_tripped(envoy, "retried")


def test_a_response_header_that_is_not_utf_8_can_be_a_failure(envoy, app):
    app.answer(200, [("x-error", b"yes\xff")], path="/marked/x")
    assert ask(envoy, "marked", "x", "x") == [200, 200]
    has_tripped(envoy, "marked")


# -- no response --------------------------------------------------------------------


def test_a_failed_connection_counts_as_no_response(envoy):
    assert ask(envoy, "refused", "x", "x") == [503, 503]
    for said in details(envoy, "/refused/x", times=2):
        assert said.startswith("upstream_reset_before_response_started{remote_connection_failure")
    has_tripped(envoy, "refused")


def test_a_reset_counts_as_no_response(envoy, app):
    app.reset(path="/reset/x")
    assert ask(envoy, "reset", "x", "x") == [503, 503]
    for said in details(envoy, "/reset/x", times=2):
        assert said.startswith("upstream_reset_before_response_started{")
    has_tripped(envoy, "reset")


def test_the_routes_timeout_counts_as_no_response(envoy, app):
    app.hang(path="/timeout/hangs")
    assert ask(envoy, "timeout", "hangs", "hangs") == [504, 504]
    assert details(envoy, "/timeout/hangs", times=2) == ["response_timeout"] * 2
    has_tripped(envoy, "timeout")


def test_a_request_that_waits_too_long_counts_as_unanswered_before_it_ends(envoy, app):
    """The requests have a body, and none."""
    app.hang(path="/waits/x")
    with Stream(envoy.port(), "/waits/x", method="GET", end=True) as get, Stream(envoy.port(), "/waits/x") as post:
        post.send(b"all of it", end=True)
        has_tripped(envoy, "waits")
        assert not get.answered()
        assert not post.answered()


def test_a_response_that_the_upstream_breaks_off_counts_as_no_response(envoy):
    for _ in range(2):
        with Stream(envoy.port(), "/breaks/breaks") as stream:
            until(stream.answered, what="the beginning of the response")
            stream.send(b"all of it", end=True)
            with pytest.raises(ConnectionResetError):
                stream.answer()
    for said in details(envoy, "/breaks/breaks", times=2):
        assert said.startswith("upstream_reset_after_response_started{")
    has_tripped(envoy, "breaks")


def test_an_interim_response_does_not_count(envoy, app):
    app.behave(
        Behaviour(whole=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Error\r\ncontent-length: 0\r\n\r\n"),
        "/interim/x",
    )
    assert [get(envoy.port(), "/interim/x").status for _ in range(2)] == [500, 500]
    has_tripped(envoy, "interim")


# -- a part of a response, or of a request -----------------------------------------


def test_a_response_that_the_routes_timeout_cuts_counts_by_its_beginning(envoy):
    """The timeout starts at the request's end, which comes here after the response has begun."""
    for times in range(1, 4):
        assert ask(envoy, "cut", "500") == [500]
        with Stream(envoy.port(), "/cut/early") as stream:
            until(stream.answered, what="the beginning of the response")
            stream.send(b"all of it", end=True)
            assert details(envoy, "/cut/early", times) == ["response_timeout"] * times
    assert envoy.transitions(upstream="cut") == 0
    assert ask(envoy, "cut", "500", "500") == [500, 500]
    has_tripped(envoy, "cut")


def test_a_client_that_leaves_during_a_response_counts_by_its_beginning(envoy):
    """Two resets and a closed connection each count as a success, and so end the row of a failure."""
    for times, leave in enumerate((Stream.reset, Stream.reset, lambda _: None), 1):
        assert ask(envoy, "left", "500") == [500]
        with Stream(envoy.port(), "/left/early", method="GET", end=True) as stream:
            until(stream.answered, what="the beginning of the response")
            leave(stream)
        said = details(envoy, "/left/early", times)
        assert said[-1] in ("downstream_remote_reset", "downstream_remote_disconnect", "http2.remote_reset"), said
    assert envoy.transitions(upstream="left") == 0
    assert ask(envoy, "left", "500", "500") == [500, 500]
    has_tripped(envoy, "left")


@contextmanager
def hanging(envoy: Envoy, app: Upstream, path: str) -> Iterator[Stream]:
    """A request for this path that has reached the upstream, which does not respond. The client leaves at the end."""
    app.hang(path=path)
    with Stream(envoy.port(), path, method="GET", end=True) as stream:
        until(lambda: app.seen(path), what="the request at the upstream")
        yield stream
    details(envoy, path)


def wait_longer_than_unanswered(envoy: Envoy, app: Upstream, witness: str) -> None:
    """Waits until two later requests of another row have counted as unanswered. All earlier ones would have, too."""
    with hanging(envoy, app, f"/{witness}/x"), hanging(envoy, app, f"/{witness}/y"):
        has_tripped(envoy, witness)


def test_a_client_that_leaves_before_a_response_does_not_count(envoy, app):
    def leave():
        with hanging(envoy, app, "/patient/x") as stream:
            stream.reset()

    assert_does_not_count(envoy, "patient", leave)


def test_a_client_that_leaves_after_slower_than_counts_as_slow(envoy, app):
    with hanging(envoy, app, "/impatient/x"):
        # Twice as long as slowerThan.
        time.sleep(0.2)
    until(lambda: envoy.transitions(upstream="impatient", reason="slow-share"), what="a trip")


# -- on trial ---------------------------------------------------------------------


@contextmanager
def let_through(envoy: Envoy, path: str) -> Iterator[Stream]:
    """A request whose body is still to come, which the gate has forwarded on trial."""

    def attempt() -> Stream | None:
        stream = Stream(envoy.port(), path).__enter__()
        until(lambda: stream.answered() or under_way(envoy, "trial"), what="gated, or on its way")
        if under_way(envoy, "trial"):
            return stream
        stream.__exit__()
        return None

    stream = until(attempt, what="a request let through")
    try:
        yield stream
    finally:
        stream.__exit__()
    until(lambda: not under_way(envoy, "trial"), what="the end of it")


def until_trial(envoy, row, times=1):
    until(lambda: envoy.transitions(upstream=row, to="trial") == times, what="a trial")


def test_on_trial_a_request_without_a_response_fails_after_the_lease_and_one_that_began_well_passes(envoy):
    assert ask(envoy, "trial", "500", "500") == [500, 500]
    until_trial(envoy, "trial")
    with let_through(envoy, "/trial/hangs") as stream:
        stream.send(b"all of it", end=True)
        unanswered = {"upstream": "trial", "from_": "trial", "reason": "trial-unanswered"}
        until(lambda: envoy.transitions(**unanswered), what="a trial that failed")
        assert not stream.answered()
    until_trial(envoy, "trial", 2)
    with let_through(envoy, "/trial/early"):
        until(lambda: envoy.transitions(upstream="trial", reason="trial-passed"), what="ready")


def test_on_trial_a_redirect_that_the_proxy_follows_passes(envoy, app):
    app.answer(302, [("location", "http://reviews/moved/there")], path="/moved/x")
    assert ask(envoy, "moved", "500", "500") == [500, 500]
    until_trial(envoy, "moved")
    until(lambda: ask(envoy, "moved", "x") == [200], what="the redirect followed")
    until(lambda: envoy.transitions(upstream="moved", from_="trial", reason="trial-passed"), what="ready")


# -- what does not come from the upstream -----------------------------------------


def test_a_direct_response_and_a_reply_of_another_filter_do_not_count(envoy):
    def replies():
        for path, headers, said in [
            ("/replies/direct", {}, "direct_response"),
            ("/replies/x", {"x-abort": "1"}, "fault_filter_abort"),
        ]:
            assert get(envoy.port(), path, headers).status >= 408, path
            assert details(envoy, path) == [said]

    assert_does_not_count(envoy, "replies", replies)


def test_envoys_circuit_breaker_limits_do_not_count(envoy, app):
    app.hang(path="/overflow/hangs")

    def overflow():
        with Stream(envoy.port(), "/overflow/hangs", method="GET", end=True):
            until(lambda: app.seen("/overflow/hangs"), what="as many requests as there may be")
            assert get(envoy.port(), "/overflow/x").status == 503
            assert details(envoy, "/overflow/x") == ["upstream_reset_before_response_started{overflow}"]
        until(lambda: not under_way(envoy, "overflow"), what="room for one more")

    assert_does_not_count(envoy, "overflow", overflow)


def test_a_request_that_another_filter_holds_up_does_not_count(envoy, app):
    def hold():
        with Stream(envoy.port(), "/held/x", {"x-hold": "1"}, method="GET", end=True):
            active = "http.graygate.fault.active_faults"
            until(lambda: envoy.stats(active)[active], what="the request in the other filter")
            wait_longer_than_unanswered(envoy, app, "held-witness")
        details(envoy, "/held/x")

    assert_does_not_count(envoy, "held", hold)


def test_a_request_that_goes_to_another_cluster_does_not_count(envoy, app):
    app.answer(500, path="/elsewhere/other/500")

    def ask_others():
        assert ask(envoy, "elsewhere", "other/500", "other/500", "other/x") == [500, 500, 200]
        with hanging(envoy, app, "/elsewhere/other/hangs"):
            wait_longer_than_unanswered(envoy, app, "elsewhere-witness")

    assert_does_not_count(envoy, "elsewhere", ask_others)


def test_a_request_that_is_not_recorded_does_not_count(envoy, app):
    app.answer(500, path="/silent/events/500")
    unrecorded = ("events/500", "events/500", "events/x")
    assert_does_not_count(envoy, "silent", lambda: ask(envoy, "silent", *unrecorded))


# -- Retry-After ------------------------------------------------------------------


def test_a_failed_response_can_ask_for_a_wait_and_a_gate_reports_it(envoy, app):
    app.answer(503, [("retry-after", "3600")], path="/asks/x")
    assert ask(envoy, "asks", "x", "x") == [503, 503]
    has_tripped(envoy, "asks")
    # Up to a tenth is added, and the time that has passed is subtracted.
    assert 3_000 < int(get(envoy.port(), "/asks/x").headers["retry-after"]) <= 3_960
