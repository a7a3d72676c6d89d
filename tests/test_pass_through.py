"""Probes that the app itself answers: the filter calls it now and then, and all clients get the answer.

`tests/worlds/pass_through.rs` covers when the app is called, and what clients get meanwhile.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from harness.client import Stream, get, get2
from harness.config import HTTP_FILTERS, bootstrap, cluster, route
from harness.envoy import Envoy
from harness.load import Request, drive
from harness.probe import ask
from harness.upstream import Behaviour
from harness.wait import until

# -- what clients get ---------------------------------------------------------------


@pytest.mark.parametrize("client", [get, get2], ids=["http1", "http2"])
def test_all_clients_get_the_apps_response(start, policy, rule, v1, client):
    rule["headers"] = ["content-type", "X-Reason", "x-absent"]
    v1.answer(429, [("x-reason", "warming up"), ("x-build", "7")], b"not yet", path="/readyz")
    envoy = start(policy)
    for path in ("/readyz", "/readyz?verbose"):
        answer = client(envoy.port(), path)
        assert (answer.status, answer.body) == (429, b"not yet")
        assert (answer.headers["content-type"], answer.headers["x-reason"]) == ("text/plain", "warming up")
        assert answer.headers["x-build"] is answer.headers["x-version"] is answer.headers["x-absent"] is None
        assert int(answer.headers["age"]) >= 0
    assert v1.seen("/readyz") == 1


def test_all_workers_share_one_response(start, policy, rule, v1):
    rule["upstream"] = "reviews-v1"
    v1.slow(0.3, path="/readyz")
    envoy = start(policy, concurrency=4)
    answers = drive(envoy.port(), [Request("/readyz")] * 1000, connections=64)
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"v1 /readyz\n")}
    assert max(answer.seconds for answer in answers) < 2
    assert v1.seen("/readyz") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_without_a_body_is_replayed(start, policy, rule, v1, method):
    if method == "GET":
        v1.answer(204, body=b"", path="/readyz")
    envoy = start(policy)
    expected = 204 if method == "GET" else 200
    for _ in range(3):
        answer = ask(envoy, method=method)
        assert (answer.status, answer.body) == (expected, b"")
    assert [call.method for call in v1.calls_of("/readyz")] == [method]


def test_only_the_first_16_kib_of_a_body_are_stored(start, policy, rule, v1):
    body = b"0123456789abcdef" * 4096
    v1.answer(body=body, path="/readyz")
    envoy = start(policy)
    assert [ask(envoy).body for _ in range(2)] == [body[: 16 * 1024]] * 2


def test_a_body_in_parts_with_trailers_is_stored_completely(start, policy, rule, v1):
    app = cluster("app", v1.port)
    app["http_protocol_options"] = {"enable_trailers": True}
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = b"3\r\nup \r\n4\r\nand \r\n7\r\nrunning\r\n0\r\n"
    v1.behave(Behaviour(whole=head + parts + b"x-checksum: 1\r\n\r\n"), "/readyz")
    envoy = start(policy, clusters=[app], routes=[route("app", "5s")])
    assert [ask(envoy).text for _ in range(2)] == ["up and running"] * 2
    assert v1.seen("/readyz") == 1


def test_a_response_that_breaks_off_fails_the_probe_until_the_next_one(start, policy, rule, v1):
    rule["cacheSeconds"] = 0.2
    v1.reset_mid_body(path="/readyz")
    envoy = start(policy)
    answer = ask(envoy)
    assert (answer.status, answer.text) == (503, "policy reviews: readiness failed: the app's response broke off\n")
    v1.answer(path="/readyz")
    until(lambda: ask(envoy).text == "v1 /readyz\n", what="the app called again")


def test_an_app_that_is_unreachable_fails_the_probe_until_it_is_reachable(start, policy, rule, v1):
    rule["cacheSeconds"] = 0.2
    v1.refuse()
    envoy = start(policy)
    for _ in range(2):
        answer = ask(envoy)
        assert answer.status == 503
        assert "connect" in answer.text
    v1.accept()
    until(lambda: ask(envoy).status == 200, what="the app called again")


# -- clients that leave, and an app that is slow ------------------------------------


def test_clients_that_leave_early_keep_no_other_from_the_apps_answer(start, policy, v1):
    """Four clients leave before the app has answered, again and again. The kubelet asks twice a second."""
    policy["probes"]["liveness"] = {"path": "/alive", "passThrough": {"cacheSeconds": 2}}
    v1.slow(0.3, path="/alive")
    envoy = start(policy)
    end = time.monotonic() + 12

    def impatient() -> int:
        asked = 0
        while time.monotonic() < end:
            with Stream(envoy.port(), "/alive", method="GET", end=True):
                time.sleep(0.25)
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(impatient) for _ in range(4)]
        answers = []
        while time.monotonic() < end:
            begin = time.monotonic()
            answers.append(get(envoy.port(), "/alive", timeout=1))
            time.sleep(max(0, begin + 0.5 - time.monotonic()))
    assert all(client.result() > 20 for client in clients)
    assert {(answer.status, answer.text) for answer in answers} == {(200, "v1 /alive\n")}
    assert len(answers) > 15
    calls = v1.calls_of("/alive")
    assert 3 <= len(calls) <= 7
    assert all(later.at - earlier.at >= 2 for earlier, later in pairwise(calls))


def test_a_response_is_stored_after_its_client_has_left(start, policy, rule, v1):
    v1.hang(path="/readyz")
    envoy = start(policy, concurrency=1)
    with Stream(envoy.port(), "/readyz", method="GET", end=True):
        until(lambda: v1.seen("/readyz"), what="a call of the app")
    v1.answer(path="/readyz")
    v1.release()
    assert ask(envoy).text == "v1 /readyz\n"
    assert v1.seen("/readyz") == 1


def test_a_hung_app_fails_the_probe_of_all_who_wait_after_ten_seconds(start, policy, rule, v1):
    # Without the name, two workers that get the first request at the same moment may each call the app.
    rule["upstream"] = "reviews-v1"
    v1.hang(path="/readyz")
    envoy = start(policy)
    answers = drive(envoy.port(), [Request("/readyz")] * 20, connections=20)
    assert {(answer.status, answer.body) for answer in answers} == {
        (503, b"policy reviews: readiness failed: the app does not respond\n")
    }
    assert all(9 < answer.seconds < 11.5 for answer in answers)
    assert v1.seen("/readyz") == 1


def test_an_incomplete_request_gets_the_answer_and_delays_nobody(start, policy, rule, v1):
    envoy = start(policy, timeout="60s")
    with Stream(envoy.port(), "/readyz", {"content-length": "10"}, method="GET") as stalled:
        assert stalled.answer().status == 200
        assert ask(envoy).status == 200
    assert v1.seen("/readyz") == 1


def test_an_update_of_the_policy_ends_no_request_that_waits(start, policy, rule, v1):
    v1.hang(path="/readyz")
    envoy = start(policy, delivery="ecds")
    with Stream(envoy.port(), "/readyz", method="GET", end=True) as waiting:
        until(lambda: v1.seen("/readyz"), what="a call of the app")
        envoy.publish({**policy, "gates": []})
        with Stream(envoy.port(), "/readyz", method="GET", end=True) as later:
            v1.release()
            assert [waiting.answer().status, later.answer().status] == [200, 200]


# -- whom the filter calls ----------------------------------------------------------


def test_nothing_from_a_probe_request_reaches_the_app(start, policy, rule, v1):
    envoy = start(policy)
    own = ["authorization", "cookie", "range", "x-forwarded-for", "x-http-method-override", "x-long"]
    sent = {**dict.fromkeys([*own, "accept", "host", "user-agent"], "evil"), "x-long": "x" * 9_000}
    assert ask(envoy, headers=sent).text == "v1 /readyz\n"
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"host"] == b"reviews"
    assert seen[b"user-agent"].startswith(b"graygate/")
    assert seen[b"accept"] == b"*/*"
    assert not {name.encode() for name in own} & seen.keys()


def test_a_client_whose_own_route_leads_elsewhere_changes_nothing_for_others(start, policy, rule, v1, v2):
    envoy = start(policy)
    assert ask(envoy, headers={"x-gray-version": "v2"}).text == "v2 /readyz\n"
    assert ask(envoy).text == "v1 /readyz\n"
    assert (v1.seen("/readyz"), v2.seen("/readyz")) == (1, 1)


def test_the_upstream_that_the_policy_names_is_called_whatever_the_route(start, policy, rule, v1, v2):
    rule["upstream"] = "reviews-v1"
    nowhere = {"match": {"path": "/readyz"}, "direct_response": {"status": 404}}
    envoy = start(policy, routes=[nowhere, route("reviews-v2", "5s")])
    assert ask(envoy, headers={"x-gray-version": "v2"}).text == "v1 /readyz\n"
    assert ask(envoy).text == "v1 /readyz\n"
    assert (v1.seen("/readyz"), v2.seen("/readyz")) == (1, 0)


def test_headers_that_the_proxy_has_set_are_kept(start, policy, rule, v1):
    """These are the scheme of the request and the id for traces, but not a client's own values for them."""
    envoy = start(policy, hcm={"use_remote_address": True})
    assert ask(envoy, headers={"x-forwarded-proto": "https", "x-request-id": "x" * 5_000}).status == 200
    seen = dict(v1.last_headers_of("/readyz"))
    assert seen[b"x-forwarded-proto"] == b"http"
    assert len(seen[b"x-request-id"]) == 36


def test_other_filters_do_not_see_the_call(start, policy, rule, v1):
    """Another filter may refuse some clients. That must not decide the answer to all."""
    code = """function envoy_on_request(handle)
        handle:respond({[":status"] = "403"}, "refused")
    end"""
    extension = f"{HTTP_FILTERS}.lua.v3.Lua"
    refusing = {"name": "lua", "typed_config": {"@type": extension, "default_source_code": {"inline_string": code}}}
    envoy = start(policy, filters_after=[refusing])
    assert [ask(envoy).status for _ in range(3)] == [200] * 3


def test_a_probe_is_forwarded_if_its_route_has_no_cluster(start, policy, rule, v1):
    answer = {"status": 418, "body": {"inline_string": "direct"}}
    envoy = start(policy, routes=[{"match": {"prefix": "/"}, "direct_response": answer}])
    assert [(ask(envoy).status, ask(envoy).text) for _ in range(2)] == [(418, "direct")] * 2


def test_a_probe_is_forwarded_if_its_cluster_goes_to_where_a_request_was_bound_for(policy, rule, v1):
    """Istio's inbound clusters are of this kind. A call was bound for nowhere."""
    app = {"name": "app", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s"}
    tree = bootstrap(policy, {}, clusters=[app], routes=[route("app", "5s")]).document()
    kind = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    [listener] = tree["static_resources"]["listeners"]
    listener["listener_filters"] = [{"name": "proxy", "typed_config": {"@type": kind}}]
    bound_for_app = f"PROXY TCP4 192.0.2.1 127.0.0.1 4711 {v1.port}\r\n".encode()
    with Envoy(tree) as envoy:
        for asked in range(1, 4):
            assert ask(envoy, preamble=bound_for_app, headers={"cookie": "x"}).text == "v1 /readyz\n"
            assert v1.seen("/readyz") == asked
        assert b"cookie" not in dict(v1.last_headers_of("/readyz"))
        [line] = [line for line in envoy.logs().splitlines() if "app could not be called" in line]
        assert "probe readiness" in line
