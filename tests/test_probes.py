"""The proxy responds to probes, and the app does not get them.

`tests/worlds/probes.rs` covers the response in each case.
"""

from __future__ import annotations

import re

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.probe import HEALTH_JSON, all_pass, all_say, document, status, text
from harness.wait import until

AGE = r"; oldest answer \d+\.\d s\n"
FAILED = r"\[-\]reviews-v1 failed: check-failed: status 500\npolicy reviews: readiness failed" + AGE
both = pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])


@pytest.fixture
def envoy(start, policy):
    """An Envoy all of whose checks have passed."""
    envoy = start(policy)
    all_pass(envoy)
    return envoy


@pytest.fixture
def down(envoy, v1):
    v1.answer(500, path="/healthz")
    all_say(envoy, 503)
    return envoy


@both
def test_a_probe_is_answered_at_the_proxy(envoy, v1, v2, ask):
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "vary": "accept",
    }
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?a=b&c", "/readyz/reviews-v1"]:
        answer = ask(envoy.port(), path)
        assert answer.status == 200, path
        assert "policy reviews: " in answer.text, path
        assert {name: answer.headers[name] for name in headers} == headers, path
        head = ask(envoy.port(), path, method="HEAD")
        assert (head.status, head.body) == (200, b""), path
    assert v1.requests == v2.requests == 0


@both
def test_a_check_that_does_not_exist_is_not_found_at_the_proxy(envoy, v1, v2, ask):
    answer = ask(envoy.port(), "/readyz/TYPO")
    assert (answer.status, answer.text) == (
        404,
        "policy reviews: readiness has no check of this name. It has: reviews-v1\n",
    )
    assert v1.requests == v2.requests == 0
    assert ask(envoy.port(), "/readyz/a/page").status == 200
    assert v1.requests + v2.requests == 1


def test_readiness_fails_with_its_upstream_and_names_the_reason_while_liveness_passes(down, v1):
    assert re.fullmatch(FAILED, text(down))
    assert document(down)["checks"]["reviews-v1"][0]["output"] == "check-failed: status 500"
    assert get(down.port(), "/readyz", method="HEAD").status == 503
    assert get(down.port(), "/livez").text == "policy reviews: liveness passed\n"
    assert status(down, "/readyz?exclude=reviews-v1") == 200
    v1.answer(200, path="/healthz")
    all_say(down, 200)


def test_unusual_names_to_exclude_cause_a_few_short_warnings(down):
    hostile = [
        "&".join(f"exclude=name-{number}" for number in range(4000)),
        "exclude=" + "x" * 60_000,
        "exclude=%ff%fe%80&exclude=%c3%28&exclude=%0a%0d%1b%5b31m%00",
        'exclude="&exclude=\\&exclude=<script>&exclude=../../etc/passwd&exclude=',
        "exclude&exclude=&exclude==&=exclude&&&exclude=exclude=reviews-v1",
    ]
    for query in hostile:
        for ask in (get, get2):
            answer = ask(down.port(), f"/readyz?{query}")
            assert answer.status == 503, query[:40]
            first, *warned, last = answer.text.splitlines()
            assert first.startswith("[-]reviews-v1 failed: ")
            assert last.startswith("policy reviews: readiness failed")
            assert 0 < len(warned) <= 5
            for line in warned:
                # Names of up to 63 characters are kept. Unusual characters are escaped.
                assert re.fullmatch(r'warning: no check "[ -~]{,126}" to exclude', line), line
            assert ask(down.port(), f"/readyz?{query}", {"accept": HEALTH_JSON}).status == 503
    for raw in [b"\xff\xfe\x80", b"\xc3", "ü".encode() * 40]:
        answer = get2(down.port(), b"/readyz?exclude=" + raw)
        assert (answer.status, len(answer.text.splitlines())) == (503, 3), raw
    assert {answer.status for answer in drive(down.port(), [Request("/livez")] * 20)} == {200}
    assert "panicked" not in down.logs()


def test_counters_and_the_access_log_name_each_probe(start, policy):
    envoy = start(policy)
    for _ in range(2):
        get(envoy.port(), "/livez")
    assert envoy.counter("graygate_probe_answers_total", probe="liveness", code="200", result="passed") == 2
    lines = until(envoy.access_log, what="an access log line")
    assert lines[0]["details"] == "graygate_probe{reviews|liveness}"
