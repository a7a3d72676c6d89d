"""Probes are answered at the proxy, and the app never sees them."""

from __future__ import annotations

import pytest
from harness.client import get, get2
from harness.wait import until, until_all


@pytest.fixture
def envoy(start, policy):
    return start(policy)


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_a_probe_is_answered_at_the_proxy(envoy, v1, v2, ask):
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?a=b&c"]:
        answer = ask(envoy.port(), path)
        assert answer.status == 200, path
        assert "policy reviews: " in answer.text, path
    assert v1.requests == v2.requests == 0


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_head_gets_the_status_and_no_body(envoy, v1, ask):
    answer = ask(envoy.port(), "/readyz", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert v1.requests == 0


def test_the_body_names_the_checks(envoy):
    assert get(envoy.port(), "/readyz").text == "[+]reviews-v1 ok\npolicy reviews: readiness passed\n"


def test_readiness_fails_with_its_upstream_and_says_why_while_liveness_passes(envoy, v1):
    v1.answer(500, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness 503")
    assert get(envoy.port(), "/readyz").text.startswith("[-]reviews-v1 failed: check-failed: status 500\n")
    assert get(envoy.port(), "/readyz", method="HEAD").status == 503
    assert get(envoy.port(), "/livez").status == 200
    v1.answer(200, path="/healthz")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="readiness 200")


def test_only_the_exact_path_is_a_probe(envoy):
    for path in ["/livez/", "/livezz", "/live", "/Livez", "/x?/livez"]:
        assert get(envoy.port(), path).version in ("v1", "v2"), path


def test_other_methods_reach_the_app(envoy):
    for method in ["POST", "PUT", "DELETE", "OPTIONS"]:
        assert get(envoy.port(), "/livez", method=method, body=b"x").version in ("v1", "v2"), method


def test_the_access_log_tells_a_probe_by_its_details(envoy):
    get(envoy.port(), "/readyz")
    lines = until(envoy.access_log, what="an access log line")
    assert lines[0]["details"] == "graygate_probe{reviews|readiness}"


def test_a_probe_of_no_upstream_passes(start):
    envoy = start({"name": "bare", "probes": {"readiness": {"path": "/readyz"}}})
    assert get(envoy.port(), "/readyz").text == "policy bare: readiness passed\n"
