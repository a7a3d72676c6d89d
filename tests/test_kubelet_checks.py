"""Checks as the kubelet would make them: their connections, their headers, and the redirects that they follow.

`tests/worlds/checks.rs` covers these rules. Here it is shown that they hold on a real Envoy, whose connections they are
about.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from harness.client import get
from harness.config import bootstrap, cluster, route
from harness.envoy import Envoy
from harness.http2 import CompressedHealth, Http2Upstream
from harness.keep_alive import OK, KeepAliveServer
from harness.upstream import Behaviour
from harness.wait import until


@pytest.fixture
def run():
    """`envoy = run(upstream, httpGet={...})`, with one checked upstream. All of it ends with the test."""
    with ExitStack() as stack:

        def run_envoy(upstream: Any, *, http2: bool = False, limits: Any = None, **fields: Any) -> Envoy:
            if not hasattr(upstream, "name"):
                stack.enter_context(upstream)
            check = {"periodSeconds": 0.1, "timeoutSeconds": 1, "failureThreshold": 1, **fields}
            if "grpc" not in check:
                check.setdefault("httpGet", {"path": "/healthz"})
            policy = {
                "name": "reviews",
                "upstreams": {"app_v1": {"cluster": "app", "readinessProbe": check}},
                "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "app_v1"}]}},
            }
            app = {**cluster("app", upstream.port, http2=http2), **(limits or {})}
            config = bootstrap(policy, {}, clusters=[app], routes=[route("app", "30s")])
            return stack.enter_context(Envoy(config, concurrency=1))

        yield run_envoy


def checked(envoy, result):
    return envoy.counter("graygate_checks_total", result=result)


def until_passed(envoy, times):
    passed = checked(envoy, "passed") + times
    until(lambda: checked(envoy, "passed") >= passed, 30, f"{times} checks passed")


def until_not_ready(envoy, reason):
    said = f"[-]app_v1 failed: check-failed: {reason}\n"
    until(lambda: said in get(envoy.port(), "/readyz").text, what=said)


def test_an_app_that_closes_idle_connections_fails_no_check(run):
    # It closes them about when the next check comes.
    upstream = KeepAliveServer(idle=0.105)
    envoy = run(upstream)
    until_passed(envoy, 60)
    assert checked(envoy, "failed") == checked(envoy, "error") == 0
    # One may be closed before it is used, so there may be more.
    assert upstream.accepted >= len(upstream.heads) - 1


def test_an_app_that_accepts_no_new_connection_is_not_ready(run):
    upstream = KeepAliveServer()
    envoy = run(upstream)
    until_passed(envoy, 3)
    port = envoy.port()
    assert get(port, "/").status == 200
    upstream.accept_no_more()
    until_not_ready(envoy, "could not be reached")
    # It goes on serving the connection that it has for users.
    assert get(port, "/").status == 200


def test_an_app_that_resets_each_check_is_not_ready(run, v1):
    envoy = run(v1)
    until_passed(envoy, 3)
    v1.reset(path="/healthz")
    until_not_ready(envoy, "could not be reached")


def test_an_app_that_speaks_http_2_fails_no_check(run):
    envoy = run(Http2Upstream(), http2=True)
    until_passed(envoy, 20)
    assert checked(envoy, "failed") == checked(envoy, "error") == 0


def test_checks_do_not_wait_for_the_connections_of_users(run, v1):
    thresholds = [{"max_connections": 4, "max_pending_requests": 100}]
    envoy = run(v1, limits={"circuit_breakers": {"thresholds": thresholds}})
    v1.hang(path="/hang")
    port = envoy.port()
    with ThreadPoolExecutor(5) as pool:
        held = [pool.submit(get, port, "/hang") for _ in range(5)]
        try:
            until(lambda: v1.seen("/hang") == 4, what="four connections held")
            until_passed(envoy, 10)
            assert envoy.stats("cluster.app.upstream_cx_overflow")["cluster.app.upstream_cx_overflow"] > 0
            assert checked(envoy, "failed") == 0
            assert get(port, "/readyz").status == 200
        finally:
            v1.answer()
            v1.release()
        assert [answer.result().status for answer in held] == [200] * 5


@pytest.mark.parametrize("given", [None, "", "text/html"])
def test_accept_is_sent_as_by_the_kubelet(run, given):
    upstream = KeepAliveServer()
    headers = [] if given is None else [{"name": "Accept", "value": given}]
    envoy = run(upstream, httpGet={"path": "healthz?x=1#part", "httpHeaders": headers})
    until_passed(envoy, 2)
    line, *fields = upstream.heads[-1].split(b"\r\n")
    assert line == b"GET /healthz?x=1 HTTP/1.1"
    names = dict(field.split(b": ", 1) for field in fields if field)
    expected = {None: b"*/*", "": None, "text/html": b"text/html"}[given]
    assert names.get(b"accept") == expected
    assert names[b"host"] == b"app-v1"
    # What tells the proxy to send a request again stays there.
    assert not {name for name in names if b"retr" in name}


def test_an_app_that_insists_on_accept_is_ready(run):
    def respond(head: bytes) -> bytes:
        accepts = b"\r\naccept: */*\r\n" in head
        return OK if accepts else b"HTTP/1.1 406 Not Acceptable\r\ncontent-length: 0\r\n"

    envoy = run(KeepAliveServer(respond=respond))
    until_passed(envoy, 3)
    assert checked(envoy, "failed") == 0


def test_a_compressed_grpc_response_passes(run):
    envoy = run(CompressedHealth(), http2=True, grpc={})
    until_passed(envoy, 3)
    assert checked(envoy, "failed") == 0


@pytest.mark.parametrize(
    ("locations", "passes"),
    [
        ([""], True),
        (["/up", "/down"], True),
        (["ftp://app-v1/"], False),
        (["127.0.0.1:8080/x"], False),
        (["http://app-v1/down"], False),
        (["http://u:p@app-v1/up"], True),
        (["http://other/"], True),
    ],
)
def test_redirects_are_judged_as_by_the_kubelet(run, v1, locations, passes):
    v1.answer(500, path="/down")
    v1.behave(Behaviour(302, [("location", location) for location in locations], b""), "/healthz")
    envoy = run(v1)
    until(lambda: checked(envoy, "passed" if passes else "failed") >= 3, what="3 checks")
    assert checked(envoy, "failed" if passes else "passed") == 0
