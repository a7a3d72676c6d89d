"""How Envoy reports failures of a gRPC service, and `graygate explain` for circuit breakers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import yaml

from harness.client import Stream, get2
from harness.config import bootstrap, cluster, route
from harness.envoy import Envoy
from harness.tool import run
from harness.wait import until

GRPC = {"content-type": "application/grpc", "te": "trailers"}
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
MESSAGE = b"\0\0\0\0\0"
METHODS = ("TrailersOnly", "AfterHeaders", "AfterAMessage", "Endless")


class App:
    """A gRPC service whose calls end with `RESOURCE_EXHAUSTED`, each method in its own way, or never."""

    metadata = (("grpc-retry-pushback-ms", "3600000"),)

    def __init__(self):
        handlers: dict[str, Any] = {
            "TrailersOnly": grpc.unary_unary_rpc_method_handler(self.trailers_only),
            "AfterHeaders": grpc.unary_unary_rpc_method_handler(self.after_headers),
            "AfterAMessage": grpc.unary_unary_rpc_method_handler(self.after_a_message),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
        }
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Reviews", handlers)])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def trailers_only(self, request, context):
        context.set_trailing_metadata(self.metadata)
        context.abort(EXHAUSTED, "as told")

    def after_headers(self, request, context):
        context.send_initial_metadata((("x-begun", "1"),))
        self.trailers_only(request, context)

    def after_a_message(self, request, context):
        context.set_trailing_metadata(self.metadata)
        context.set_code(EXHAUSTED)
        return b"message"

    def endless(self, request, context):
        left = threading.Event()
        yield b"message"
        if context.add_callback(left.set):
            left.wait(60)

    def stop(self):
        self._server.stop(grace=None).wait(5)


@pytest.fixture(scope="module")
def app():
    served = App()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def envoy(app):
    """An Envoy in front of the app. Each method of the app has its own upstream."""
    breaker = {"failOn": ["resource-exhausted", "unavailable", "cancelled"], "consecutiveFailures": 2}
    upstreams, gates, routes, clusters = {}, [], [], []
    for method in METHODS:
        name, path = method.lower(), f"/shop.Reviews/{method}"
        upstreams[name] = {"cluster": name, "circuitBreaker": {**breaker, "maxRetryAfter": "1h"}}
        gates.append({"match": [{"uri": {"prefix": path}}], "upstream": name})
        routes.append({**route(name, "60s"), "match": {"prefix": path}})
        clusters.append(cluster(name, app.port, http2=True))
    policy = {"name": "shop", "upstreams": upstreams, "gates": gates}
    with Envoy(bootstrap(policy, {}, routes=routes, clusters=clusters), concurrency=1) as envoy:
        yield envoy


def call(envoy, method):
    return get2(envoy.port(), f"/shop.Reviews/{method}", GRPC, method="POST", body=MESSAGE)


@pytest.mark.parametrize("method", ["TrailersOnly", "AfterHeaders", "AfterAMessage"])
def test_a_grpc_status_and_its_pushback_count_in_headers_and_trailers(envoy, method):
    for _ in range(2):
        answer = call(envoy, method)
        place = answer.headers if method == "TrailersOnly" else answer.trailers
        assert (answer.status, place["grpc-status"], bool(answer.body)) == (200, "8", method == "AfterAMessage")
    name = method.lower()
    assert envoy.transitions(upstream=name, from_="ready", to="not-ready", reason="consecutive-failures") == 1
    gated = call(envoy, method).headers
    assert f"upstream {name} is not ready" in gated["grpc-message"]
    # Up to a tenth is added, and the time that has passed is subtracted.
    assert 3_000 < int(gated["retry-after"]) <= 3_960


def test_streams_that_end_together_are_one_failure_and_a_server_that_is_gone_is_found(envoy, app):
    """Runs last, because it ends the server. A stream that its client leaves does not count at all."""
    path = "/shop.Reviews/Endless"

    def begun():
        stream = Stream(envoy.port(), path, GRPC).__enter__()
        stream.send(MESSAGE, end=True)
        until(stream.answered, what="a first message")
        return stream

    for leave in (Stream.reset, lambda _: None):
        stream = begun()
        leave(stream)
        stream.__exit__()
    until(lambda: [line["path"] for line in envoy.access_log()].count(path) == 2, what="both of them ended")
    streams = [begun(), begun()]
    assert envoy.transitions(upstream="endless") == 0
    app.stop()
    until(lambda: [line["path"] for line in envoy.access_log()].count(path) == 4, what="all of them ended")
    for stream in streams:
        stream.__exit__()
    # Longer than a tick, after which the worker would have told of a row.
    time.sleep(0.5)
    assert envoy.transitions(upstream="endless") == 0

    def found():
        with Stream(envoy.port(), path, GRPC) as refused:
            refused.send(MESSAGE, end=True)
            until(refused.answered, what="a response")
        return envoy.transitions(upstream="endless", reason="consecutive-failures")

    until(found, what="a trip")


# -- the tool ---------------------------------------------------------------------


def test_explain_uses_the_policys_force(policy, tmp_path):
    policy["upstreams"]["reviews-v1"] |= {"force": "ready", "assume": "notReady"}
    policy["upstreams"]["reviews-v2"]["force"] = "notReady"
    policy["gates"].append({"match": [{"uri": {"prefix": "/pay"}}], "upstream": "reviews-v2"})
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/api"}}]
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    assert run("check", file).returncode == 0
    released = run("explain", file, "--path", "/api", "--header", "x-tester=true")
    assert "release   reviews: v1 (fallback)" in released.stdout
    assert "decision  forward" in released.stdout
    told = run("explain", file, "--path", "/api", "--not-ready", "reviews-v1")
    assert "decision  forward" in told.stdout
    paid = run("explain", file, "--path", "/pay")
    assert "decision  reply 503: the gate on upstream reviews-v2, which is not ready: forced" in paid.stdout
    ready = run("explain", file, "--path", "/readyz")
    assert "decision  reply 200: the readiness probe" in ready.stdout
