"""Probes to which the app itself responds: it gets one now and then, and the others get a stored response.

`tests/worlds/pass_through.rs` covers when the app gets one, and the responses to the others meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from http.client import HTTPException

import pytest

from harness.client import Stream, get, get2
from harness.config import HTTP_FILTERS, cluster, route
from harness.load import Request, drive
from harness.probe import ask, is_replay
from harness.upstream import Behaviour
from harness.wait import until

# -- what is replayed ---------------------------------------------------------------


@pytest.mark.parametrize("client", [get, get2], ids=["http1", "http2"])
def test_the_apps_response_is_passed_on_and_then_replayed(start, policy, rule, v1, client):
    rule["headers"] = ["content-type", "X-Reason", "x-absent"]
    v1.answer(429, [("x-reason", "warming up"), ("x-build", "7")], b"not yet", path="/readyz")
    envoy = start(policy)
    first = client(envoy.port(), "/readyz")
    assert (first.status, first.body, first.headers["x-build"]) == (429, b"not yet", "7")
    again = client(envoy.port(), "/readyz?verbose")
    assert (again.status, again.body) == (429, b"not yet")
    assert (again.headers["content-type"], again.headers["x-reason"]) == ("text/plain", "warming up")
    assert again.headers["x-build"] is again.headers["x-version"] is again.headers["x-absent"] is None
    assert int(again.headers["age"]) >= 0
    assert v1.seen("/readyz") == 1


def test_all_workers_share_one_response(start, policy, rule, v1):
    envoy = start(policy, concurrency=4)
    ask(envoy)
    answers = drive(envoy.port(), [Request("/readyz")] * 1000, connections=64)
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"v1 /readyz\n")}
    assert v1.seen("/readyz") == 1


def test_a_response_without_a_body_is_replayed(start, policy, rule, v1):
    v1.answer(204, body=b"", path="/readyz")
    envoy = start(policy)
    assert [ask(envoy).status for _ in range(3)] == [204] * 3
    assert v1.seen("/readyz") == 1


def test_only_the_first_16_kib_of_a_body_are_stored(start, policy, rule, v1):
    body = b"0123456789abcdef" * 4096
    v1.answer(body=body, path="/readyz")
    envoy = start(policy)
    assert ask(envoy).body == body
    assert ask(envoy).body == body[: 16 * 1024]


def test_a_body_in_parts_with_trailers_is_stored_completely(start, policy, rule, v1):
    app = cluster("app", v1.port)
    app["http_protocol_options"] = {"enable_trailers": True}
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = b"3\r\nup \r\n4\r\nand \r\n7\r\nrunning\r\n0\r\n"
    v1.behave(Behaviour(whole=head + parts + b"x-checksum: 1\r\n\r\n"), "/readyz")
    envoy = start(policy, clusters=[app], routes=[route("app", "5s")])
    first, again = (get2(envoy.port(), "/readyz") for _ in range(2))
    assert first.text == again.text == "up and running"
    assert first.trailers["x-checksum"] == "1"
    assert is_replay(again)


def test_a_response_that_breaks_off_is_not_stored(start, policy, rule, v1):
    v1.reset_mid_body(path="/readyz")
    envoy = start(policy)
    with suppress(OSError, HTTPException):
        ask(envoy)
    v1.answer(path="/readyz")
    until(lambda: ask(envoy).text == "v1 /readyz\n", what="the app asked again")


def test_a_response_of_another_filter_is_not_stored(start, policy, rule, v1):
    """The other filter may have refused only this client. Here it refuses the first request."""
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


def test_an_error_because_the_app_is_unreachable_is_replayed(start, policy, rule, v1):
    v1.refuse()
    envoy = start(policy)
    first, again = ask(envoy), ask(envoy)
    assert first.status == again.status == 503
    assert first.text == again.text
    assert "connect" in first.text
    assert not is_replay(first)
    assert is_replay(again)


# -- who is asked, and by whom ------------------------------------------------------


def test_nothing_from_a_probe_request_reaches_the_app_or_selects_it(start, policy, rule, v1, v2):
    envoy = start(policy)
    own = ["accept", "authorization", "cookie", "range", "x-forwarded-for", "x-http-method-override", "x-long"]
    sent = {**dict.fromkeys(own, "x"), "host": "evil", "user-agent": "evil", "x-long": "x" * 9_000}
    assert ask(envoy, headers={**sent, "x-gray-version": "v2"}).text == "v1 /readyz\n"
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"host"] == b"reviews"
    assert seen[b"user-agent"].startswith(b"graygate/")
    assert not {name.encode() for name in [*own, "x-gray-version"]} & seen.keys()
    assert v2.requests == 0


def test_headers_that_the_proxy_has_set_are_kept(start, policy, rule, v1):
    """These are the scheme of the request and the id for traces, but not a client's own values for them."""
    envoy = start(policy, hcm={"use_remote_address": True})
    assert ask(envoy, headers={"x-forwarded-proto": "https", "x-request-id": "x" * 5_000}).status == 200
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"x-forwarded-proto"] == b"http"
    assert len(seen[b"x-request-id"]) == 36


def test_while_one_request_waits_the_others_fail_and_when_it_leaves_the_next_is_forwarded(start, policy, rule, v1):
    v1.hang(path="/readyz")
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/readyz", method="GET", end=True) as waiting:
        until(lambda: v1.seen("/readyz"), what="one that waits for the app")
        answers = drive(envoy.port(), [Request("/readyz")] * 20)
        assert {answer.status for answer in answers} == {503}
        assert v1.seen("/readyz") == 1
        v1.answer(path="/readyz")
        waiting.reset()
        until(lambda: ask(envoy).status == 200, what="the next one went on")
    assert v1.seen("/readyz") == 2


def test_an_incomplete_request_does_not_delay_others(start, policy, rule, v1):
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/readyz", {"content-length": "10"}, method="GET") as stalled:
        assert stalled.answer().status == 503
        assert ask(envoy).status == 200
    assert v1.seen("/readyz") == 1
