"""Failure scenarios that combine breaker, trial and gates.

Most of them are in `tests/worlds/field.rs`.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

from harness.client import Stream, get
from harness.config import cluster, route
from harness.load import Request, drive
from harness.upstream import Behaviour
from harness.wait import until, until_all


def judged(policy, **settings):
    """A policy in which v1 gets all requests and has a gate and a breaker."""
    v1 = {"cluster": "reviews-v1", "circuitBreaker": {"consecutiveFailures": 5, "notReadyFor": "1h", **settings}}
    policy["releases"] = []
    policy["upstreams"] = {"reviews-v1": v1}
    return policy


def said(envoy, reason):
    """Returns whether a request gets the reply that v1 is not ready for this reason."""
    return f"upstream reviews-v1 is not ready: {reason}" in get(envoy.port()).text


def trip(envoy, v1):
    """Fails requests until v1 is not ready."""
    v1.answer(500, path="/")
    drive(envoy.port(), [Request()] * 10, connections=1)
    until(lambda: envoy.transitions(from_="ready", to="not-ready"), what="a trip")


# -- one replica ------------------------------------------------------------------


def test_the_only_replica_is_gated_but_outlier_detection_still_sends_to_it(start, policy, v1):
    """The cluster has no other host, so Envoy's load balancer panics and selects the host that it has ejected."""
    eject = {"consecutive_5xx": 5, "max_ejection_percent": 100, "base_ejection_time": "300s"}
    app = {**cluster("app", v1.port), "outlier_detection": eject}
    judged(policy)
    policy["upstreams"]["reviews-v1"]["cluster"] = "app"
    envoy = start(policy, plain=True, routes=[route("app", "5s")], clusters=[app])
    trip(envoy, v1)
    until(lambda: envoy.stats("cluster.app.outlier_detection.ejections_active").popitem()[1] == 1, what="ejected")
    until_all(lambda: said(envoy, "consecutive-failures"), what="gated")

    before = v1.requests
    gated = drive(envoy.port(), [Request()] * 50)
    assert {answer.status for answer in gated} == {503}
    assert v1.requests == before
    asked = drive(envoy.port("plain"), [Request()] * 50)
    assert {answer.status for answer in asked} == {500}
    assert v1.requests == before + 50


# -- an idle worker ---------------------------------------------------------------


def accepted(envoy):
    """Returns how many connections each worker has had."""
    stats = envoy.stats("listener.127.0.0.1_").items()
    return {name: value for name, value in stats if re.search(r"worker_\d.downstream_cx_total$", name)}


class Line:
    """Opens a connection that stays open, and so stays on its worker."""

    def __init__(self, envoy):
        before = accepted(envoy)
        self._connection = HTTPConnection("127.0.0.1", envoy.port(), timeout=10)
        self._connection.connect()
        after = until(lambda: (now := accepted(envoy)) != before and now, what="a connection accepted")
        [self.worker] = [name for name in after if after[name] != before[name]]

    def ask(self):
        self._connection.request("GET", "/")
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def close(self):
        self._connection.close()


@pytest.fixture
def lines():
    """`busy = lines(envoy)`, then `idle = lines(envoy, other_than=busy)`."""
    with ExitStack() as stack:

        def line(envoy, other_than=None):
            def right():
                found = stack.enter_context(closing(Line(envoy)))
                return (other_than is None or found.worker != other_than.worker) and found

            return until(right, what="a connection on the right worker")

        yield line


def test_an_idle_worker_learns_of_a_recovery_on_another_worker(start, policy, v1, lines):
    envoy = start(judged(policy, notReadyFor="500ms", maxNotReadyFor="1s", trial={"requests": 1, "successes": 1}))
    v1.answer(500)
    busy = lines(envoy)
    until(lambda: busy.ask()[0] == 503, what="gated on the busy worker")
    idle = lines(envoy, other_than=busy)
    until(lambda: idle.ask()[0] == 503, what="gated on the idle worker as well")
    v1.answer()
    until(lambda: busy.ask()[0] == 200 and envoy.transitions(to="ready"), what="recovery")
    until(lambda: idle.ask()[0] == 200, what="let through on the idle worker as well")


# -- a trial of a stream ----------------------------------------------------------


def test_a_stream_that_has_begun_passes_a_trial_when_its_lease_expires(start, policy, v1):
    trial = {"requests": 1, "successes": 1, "leaseFor": "1s"}
    envoy = start(judged(policy, notReadyFor="200ms", trial=trial), timeout="60s")
    trip(envoy, v1)
    v1.behave(Behaviour(whole=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"))
    with ExitStack() as stack:

        def passed():
            """A client that gets the beginning of a response that does not end."""
            stack.enter_context(Stream(envoy.port(), end=True))
            return envoy.transitions(from_="trial", to="ready", reason="trial-passed")

        until(passed, what="ready", every=0.2)
