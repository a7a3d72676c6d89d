"""Active checks in Kubernetes terms: what they ask, and how the proxy reports their results.

`tests/worlds/checks.rs` covers when they are sent and how each response counts.
"""

from __future__ import annotations

import time

from harness.client import get
from harness.config import route
from harness.upstream import Behaviour
from harness.wait import until

HOST = b"app.local:8080"


def checked(envoy, result):
    return envoy.counter("graygate_checks_total", upstream="reviews-v1", result=result)


def until_told(envoy, reason):
    """Waits until readiness fails because a check failed for this reason."""
    said = f"[-]reviews-v1 failed: check-failed: {reason}\n"
    until(lambda: said in get(envoy.port(), "/readyz").text, what=said)


def test_checks_are_sent_as_the_probe_stanza_says(start, policy, check, v1):
    headers = [{"name": "X-Probe", "value": "graygate"}, {"name": "User-Agent", "value": "mine"}]
    asked = {"path": "/up?x=1", "host": "app.local", "port": 8443, "method": "OPTIONS"}
    check["httpGet"] = {**asked, "httpHeaders": headers}
    envoy = start(policy)
    until(lambda: checked(envoy, "passed"), what="a check")
    assert {call.method for call in v1.calls_of("/up")} == {"OPTIONS"}
    sent = dict(v1.last_headers_of("/up"))
    assert sent[b"host"] == b"app.local:8443"
    assert (sent[b"x-probe"], sent[b"user-agent"]) == (b"graygate", b"mine")


def test_one_worker_sends_the_checks_for_any_number_of_workers(start, policy, check, v1):
    check["periodSeconds"] = 0.25
    begun = time.monotonic()
    start(policy, concurrency=4)
    until(lambda: v1.seen("/healthz") >= 17, timeout=60, what="sixteen periods")
    calls = v1.calls_of("/healthz")
    # With one sender for each of five VMs, there would be five times as many. A slow machine only sends fewer.
    assert len(calls) - 1 <= 1.3 * (calls[-1].at - begun) / 0.25


def test_each_cause_of_a_failed_check_is_named(start, policy, check, v1):
    check.update(periodSeconds=0.1, timeoutSeconds=1, failureThreshold=1)
    envoy = start(policy)
    for fail, mend, reason in [
        (v1.refuse, v1.accept, "could not be reached"),
        (lambda: v1.hang(path="/healthz"), None, "no response in time"),
        (lambda: v1.reset(path="/healthz"), None, "could not be reached"),
        (lambda: v1.answer(500, path="/healthz"), None, "status 500"),
        (lambda: v1.reset_mid_body(path="/healthz"), None, "the response broke off or was invalid"),
    ]:
        recoveries = envoy.transitions(from_="not-ready", to="ready")
        fail()
        until_told(envoy, reason)
        if mend:
            mend()
        v1.answer(200, path="/healthz")
        # One response to a probe can come from a worker that has not yet seen the failure.
        until(lambda: envoy.transitions(from_="not-ready", to="ready") > recoveries, what="ready again")


def test_a_check_that_cannot_be_sent_does_not_count(start, policy):
    policy["upstreams"]["reviews-v1"]["cluster"] = "not-there"
    envoy = start(policy, routes=[route("reviews-v2", "5s")])
    until(lambda: checked(envoy, "error") >= 4, what="4 errors")
    assert checked(envoy, "failed") == envoy.transitions(upstream="reviews-v1") == 0
    said = 'upstream reviews-v1: check not sent: the proxy has no cluster "not-there"'
    assert envoy.logs().count(said) == 1
    assert get(envoy.port(), "/readyz").status == 200


def test_a_local_reply_is_not_an_expected_status(start, policy, check, v1):
    check.update(periodSeconds=0.1, failureThreshold=1, expectedStatuses=[200, 503, 504])
    envoy = start(policy)
    v1.answer(503, path="/healthz")
    before = checked(envoy, "passed")
    until(lambda: checked(envoy, "passed") > before + 2, what="503 passed")
    v1.refuse()
    until_told(envoy, "could not be reached")


def test_redirects_on_the_same_host_are_followed(start, policy, check, v1):
    headers = [{"name": "X-Probe", "value": "graygate"}]
    check.update(periodSeconds=0.1)
    check["httpGet"] = {"path": "/deep/healthz", "host": "app.local", "port": 8080, "httpHeaders": headers}
    envoy = start(policy)
    for location, path, host in [
        ("../up", "/up", HOST),
        ("http://app.local:9090/port", "/port", b"app.local:9090"),
        ("//app.local:8080/no-scheme#part", "/no-scheme", HOST),
    ]:
        v1.behave(Behaviour(302, [("location", location)], b""), "/deep/healthz")
        until(lambda: v1.seen(path), what=f"{location} followed")
        sent = dict(v1.last_headers_of(path))
        assert (sent[b"host"], sent[b"x-probe"]) == (host, b"graygate"), location
    assert checked(envoy, "failed") == 0
