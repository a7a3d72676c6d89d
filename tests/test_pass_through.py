"""Probes that the app answers itself: asked now and then by one, replayed to all others."""

from __future__ import annotations

import time
from contextlib import suppress
from http.client import HTTPException

import pytest

from harness.client import get, get2
from harness.config import HTTP_FILTERS, cluster, route
from harness.probe import ask, is_replay, until_asked_again
from harness.upstream import Behaviour
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}


# -- what is replayed ---------------------------------------------------------------


@pytest.mark.parametrize("client", [get, get2], ids=["http1", "http2"])
def test_the_apps_answer_is_passed_on_and_then_replayed(start, policy, rule, v1, client):
    rule["headers"] = ["content-type", "X-Reason", "x-absent"]
    v1.answer(429, [("x-reason", "warming up"), ("x-build", "7")], b"not yet", path="/readyz")
    envoy = start(policy)
    first = client(envoy.port(), "/readyz")
    assert (first.status, first.body, first.headers["x-build"]) == (429, b"not yet", "7")
    again = client(envoy.port(), "/readyz?verbose")
    assert (again.status, again.body) == (429, b"not yet")
    assert (again.headers["content-type"], again.headers["x-reason"]) == ("text/plain", "warming up")
    assert again.headers["x-build"] is again.headers["x-version"] is again.headers["x-absent"] is None
    assert 0 <= int(again.headers["age"]) < 10
    assert v1.seen("/readyz") == 1


def test_the_content_type_alone_is_kept_unless_the_policy_says_otherwise(start, policy, rule, v1):
    v1.answer(headers=[("x-reason", "fine"), ("set-cookie", "a=b")], path="/readyz")
    envoy = start(policy)
    ask(envoy)
    again = ask(envoy)
    assert again.headers["content-type"] == "text/plain"
    assert again.headers["x-reason"] is again.headers["set-cookie"] is None


def test_age_tells_how_old_the_answer_is(start, policy, rule):
    envoy = start(policy)
    begun = time.monotonic()
    ask(envoy)
    until(lambda: int(ask(envoy).headers["age"]) >= 2, what="an answer two seconds old")
    assert time.monotonic() - begun >= 2


@pytest.mark.parametrize("status", [200, 204, 302, 404, 500, 503])
def test_any_status_of_the_app_is_replayed(start, policy, rule, v1, status):
    v1.answer(status, body=b"", path="/readyz")
    envoy = start(policy)
    assert [ask(envoy).status for _ in range(3)] == [status] * 3
    assert v1.seen("/readyz") == 1


def test_the_app_does_not_see_the_query(start, policy, rule):
    envoy = start(policy)
    assert get(envoy.port(), "/readyz?verbose&exclude=a").text == "v1 /readyz\n"


def test_get_and_head_are_kept_apart(start, policy, rule, v1):
    envoy = start(policy)
    for _ in range(3):
        assert ask(envoy, method="HEAD").body == b""
        assert ask(envoy).text == "v1 /readyz\n"
    assert [call.method for call in v1.calls_of("/readyz")] == ["HEAD", "GET"]


def test_only_the_first_16_kib_of_a_body_are_kept(start, policy, rule, v1):
    body = b"0123456789abcdef" * 4096
    v1.answer(body=body, path="/readyz")
    envoy = start(policy)
    assert ask(envoy).body == body
    assert ask(envoy).body == body[: 16 * 1024]


@pytest.mark.parametrize("trailers", [b"", b"x-checksum: 1\r\n"], ids=["chunked", "trailers"])
def test_a_body_in_parts_is_kept_whole(start, policy, rule, v1, trailers):
    app = cluster("app", v1.port)
    app["http_protocol_options"] = {"enable_trailers": True}
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = b"3\r\nup \r\n4\r\nand \r\n7\r\nrunning\r\n0\r\n"
    v1.behave(Behaviour(whole=head + parts + trailers + b"\r\n"), "/readyz")
    envoy = start(policy, clusters=[app], routes=[route("app", "5s")])
    first, again = (get2(envoy.port(), "/readyz") for _ in range(2))
    assert first.text == again.text == "up and running"
    assert first.trailers["x-checksum"] == ("1" if trailers else None)
    assert is_replay(again)


def test_an_answer_that_breaks_off_is_not_kept(start, policy, rule, v1):
    v1.reset_mid_body(path="/readyz")
    envoy = start(policy)
    with suppress(OSError, HTTPException):
        ask(envoy)
    v1.answer(path="/readyz")
    until(lambda: ask(envoy).text == "v1 /readyz\n", what="the app asked again")


# -- whose answer is kept, and who is asked -----------------------------------------


def test_what_another_filter_answers_is_not_kept(start, policy, rule, v1):
    """It may have said it to this one asker: here it refuses the first request."""
    code = """refused = false
    function envoy_on_request(handle)
        if not refused then refused = true; handle:respond({[":status"] = "403"}, "refused") end
    end"""
    extension = f"{HTTP_FILTERS}.lua.v3.Lua"
    once = {"name": "lua", "typed_config": {"@type": extension, "default_source_code": {"inline_string": code}}}
    envoy = start(policy, concurrency=1, filters_after=[once])
    assert (ask(envoy).status, v1.seen("/readyz")) == (403, 0)
    assert [ask(envoy).status for _ in range(3)] == [200] * 3
    assert v1.seen("/readyz") == 1


def test_a_steer_header_from_outside_does_not_say_who_is_asked(start, policy, rule, v1, v2):
    rule["cacheSeconds"] = 0.1
    envoy = start(policy)
    steered = {"x-gray-version": "v2"}
    until(lambda: ask(envoy, headers=steered) and v1.seen("/readyz") >= 3, what="the app asked three times")
    assert b"x-gray-version" not in dict(v1.last_headers_of("/readyz"))
    assert v2.requests == 0


def test_it_is_no_request_of_a_release(start, policy, rule):
    envoy = start(policy)
    for headers in [ALICE, {"x-tester": "true"}]:
        assert ask(envoy, headers=headers).version in ("v1", None)
    assert envoy.counter("graygate_assignments_total") == 0
    assert envoy.counter("graygate_probe_answers_total", probe="readiness", code="200") >= 1


def test_no_gate_stands_before_it(start, policy, rule, v1):
    rule["cacheSeconds"] = 0.1
    envoy = start(policy)
    v1.answer(500, path="/healthz")
    until_all(lambda: get(envoy.port(), "/", ALICE).status == 503, what="the gate closed")
    until_asked_again(envoy, v1)
    assert ask(envoy).text == "v1 /readyz\n"


def test_what_the_app_answers_feeds_no_breaker(start, policy, check, rule, v1):
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": 3}
    rule["cacheSeconds"] = 0.1
    v1.answer(500, path="/readyz")
    envoy = start(policy)
    until_asked_again(envoy, v1, times=10)
    assert envoy.transitions() == 0
    assert get(envoy.port(), "/", ALICE).version == "v1"


def test_liveness_may_pass_through_as_well(start, policy, v1):
    policy["probes"]["liveness"]["passThrough"] = {"cacheSeconds": 3600}
    policy["probes"]["drain"] = {"path": "/drainz"}
    envoy = start(policy)
    get(envoy.port(), "/drainz", method="POST")
    until_all(lambda: ask(envoy).status == 503, what="draining")
    assert [get(envoy.port(), "/livez").text for _ in range(10)] == ["v1 /livez\n"] * 10
    assert v1.seen("/livez") == 1


def test_a_proxy_that_drains_says_so_itself(start, policy, rule, v1):
    rule["cacheSeconds"] = 0.1
    policy["probes"]["drain"] = {"path": "/drainz"}
    envoy = start(policy)
    assert ask(envoy).status == 200
    get(envoy.port(), "/drainz", method="POST")
    until_all(lambda: "draining" in ask(envoy).text, what="draining")
    seen = v1.seen("/readyz")
    assert {ask(envoy).status for _ in range(50)} == {503}
    assert v1.seen("/readyz") == seen
    get(envoy.port(), "/drainz", method="DELETE")
    until_asked_again(envoy, v1)


def test_a_proxy_that_has_not_started_says_so_itself(start, policy, rule, v1, v2):
    policy["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v2"}]}
    v2.answer(500, path="/healthz")
    envoy = start(policy)
    answers = [ask(envoy) for _ in range(20)]
    assert all(answer.status == 503 and "not started yet" in answer.text for answer in answers)
    assert v1.seen("/readyz") == 0
    v2.answer(path="/healthz")
    until_all(lambda: ask(envoy).text == "v1 /readyz\n", what="started")


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_an_update_of_the_policy_keeps_it_working(start, policy, rule, v1, delivery):
    envoy = start(policy, delivery=delivery)
    ask(envoy)
    policy["releases"][0]["versions"][1]["weight"] = 50
    assert envoy.publish(policy) == ""
    assert {ask(envoy).text for _ in range(20)} == {"v1 /readyz\n"}
    assert v1.seen("/readyz") == 1
    rule["cacheSeconds"] = 0.1
    assert envoy.publish(policy) == ""
    until_asked_again(envoy, v1, times=5)


@pytest.mark.parametrize("host", [None, "app.local"])
def test_nothing_that_an_asker_sends_reaches_the_app(start, policy, rule, v1, host):
    if host:
        rule["host"] = host
    envoy = start(policy)
    own = ["accept", "authorization", "cookie", "range", "x-forwarded-for", "x-http-method-override", "x-long"]
    sent = {**dict.fromkeys(own, "x"), "host": "evil", "user-agent": "evil", "x-long": "x" * 9_000}
    assert ask(envoy, headers=sent).status == 200
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"host"].decode() == (host or "reviews")
    assert seen[b"user-agent"].startswith(b"graygate/")
    assert not {name.encode() for name in own} & seen.keys()


def test_each_answer_is_counted_once(start, policy, rule, v1):
    envoy = start(policy)
    for _ in range(10):
        ask(envoy)
    assert envoy.counter("graygate_probe_answers_total", probe="readiness", code="200", result="passed") == 10


def test_what_the_proxy_has_set_of_a_request_stays(start, policy, rule, v1):
    """The scheme that it was asked by, and the id that traces go by; not what a client says of them."""
    envoy = start(policy, hcm={"use_remote_address": True})
    assert ask(envoy, headers={"x-forwarded-proto": "https", "x-request-id": "x" * 5_000}).status == 200
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"x-forwarded-proto"] == b"http"
    assert len(seen[b"x-request-id"]) == 36
