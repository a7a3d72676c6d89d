"""gRPC's health protocol: the proxy answers it from its readiness, and checks upstreams by it.

Answers have to satisfy clients of two makes, grpcio and grpc-go, which the kubelet has.
"""

from __future__ import annotations

import gzip
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.client import Stream, get, get2
from harness.config import HEALTH_CHECK, HOP, cluster, hop_route, route
from harness.health import HealthServer, check, check_many, probe, watch
from harness.local import free_port
from harness.wait import until, until_all

GRPC = {"content-type": "application/grpc", "te": "trailers"}
SERVICE = "shop.Reviews"


def by_grpcio(port, service=""):
    return check(port, service).word


def by_grpc_go(port, service=""):
    """In the words of the other."""
    code, said = probe(port, service)
    if code == 0:
        return "SERVING"
    found = re.search(r'responded with "(\w+)"|code = (\w+)', said)
    assert found, (code, said)
    return found[1] or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[2]).upper()


both_clients = pytest.mark.parametrize("ask", [by_grpcio, by_grpc_go], ids=["grpcio", "grpc-go"])


@pytest.fixture
def asked(policy):
    """The policy, with two services whose health may be asked for."""
    policy["probes"]["grpc"] = {"services": ["", SERVICE]}
    return policy


@pytest.fixture
def envoy(start, asked):
    return start(asked, hop=True)


def answers(envoy, **tags):
    return envoy.counter("graygate_probe_answers_total", probe="grpc", **tags)


def message(service=SERVICE):
    """A request as it goes over the wire."""
    name = service if isinstance(service, bytes) else service.encode()
    return framed(b"\x0a" + bytes([len(name)]) + name if name else b"")


def framed(payload, flag=0):
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def call(port, body, path=HEALTH_CHECK, headers=GRPC):
    return get2(port, path, headers, method="POST", body=body)


def grpc_status(answer):
    """From the trailers; of an answer without a message they are the headers."""
    return answer.trailers["grpc-status"] or answer.headers["grpc-status"]


# -- the proxy is asked -----------------------------------------------------------


@both_clients
@pytest.mark.parametrize("service", ["", SERVICE], ids=["empty", "named"])
def test_a_proxy_that_is_ready_is_serving(envoy, ask, service):
    assert ask(envoy.port(), service) == "SERVING"


@both_clients
def test_a_service_that_is_not_listed_is_not_found(envoy, ask):
    for service in ["shop", "shop.Review", "shop.Reviews.", "Shop.Reviews", "ü", "x" * 300]:
        assert ask(envoy.port(), service) == "NOT_FOUND", service


@both_clients
def test_the_empty_name_is_found_only_if_listed(start, asked, ask):
    asked["probes"]["grpc"]["services"] = [SERVICE]
    envoy = start(asked, hop=True)
    assert ask(envoy.port(), SERVICE) == "SERVING"
    assert ask(envoy.port(), "") == "NOT_FOUND"


@both_clients
def test_it_follows_the_readiness_of_the_upstream(envoy, v1, ask):
    v1.answer(500, path="/healthz")
    until_all(lambda: check(envoy.port()).word == "NOT_SERVING", what="not serving")
    assert ask(envoy.port()) == ask(envoy.port(), SERVICE) == "NOT_SERVING"
    assert ask(envoy.port(), "shop") == "NOT_FOUND"
    v1.answer(200, path="/healthz")
    until_all(lambda: check(envoy.port()).word == "SERVING", what="serving")
    assert ask(envoy.port()) == ask(envoy.port(), SERVICE) == "SERVING"


@both_clients
def test_a_proxy_that_drains_is_not_serving(start, asked, ask):
    asked["probes"]["drain"] = {"path": "/drainz"}
    envoy = start(asked, hop=True)
    assert get(envoy.port(), "/drainz", method="POST").status == 200
    until_all(lambda: check(envoy.port()).word == "NOT_SERVING", what="not serving")
    assert ask(envoy.port(), SERVICE) == "NOT_SERVING"
    assert get(envoy.port(), "/drainz", method="DELETE").status == 200
    until_all(lambda: check(envoy.port()).word == "SERVING", what="serving")
    assert ask(envoy.port(), SERVICE) == "SERVING"


def test_a_proxy_that_has_not_started_is_not_serving(start, asked, v2):
    asked["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v2"}]}
    v2.answer(500, path="/healthz")
    envoy = start(asked, hop=True)
    assert {check(envoy.port()).word for _ in range(10)} == {"NOT_SERVING"}
    v2.answer(200, path="/healthz")
    until_all(lambda: check(envoy.port()).word == "SERVING", what="serving")


def test_a_proxy_that_is_degraded_is_serving(start, asked, v2):
    asked["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2", "required": False})
    envoy = start(asked, hop=True)
    v2.answer(500, path="/healthz")
    until_all(lambda: "[-]reviews-v2" in get(envoy.port(), "/readyz").text, what="degraded")
    assert check(envoy.port(), SERVICE).word == "SERVING"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
def test_the_answer_is_a_message_and_trailers(envoy, content_type):
    answer = call(envoy.port(), message(), headers={**GRPC, "content-type": content_type})
    assert (answer.status, answer.body) == (200, framed(b"\x08\x01"))
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.headers["content-length"] in (None, str(len(answer.body)))
    assert answer.trailers.items() == [("grpc-status", "0")]
    assert not [name for name in answer.headers if name.startswith("x-graygate")]


@pytest.mark.parametrize("service", ["", SERVICE, "shop"])
def test_a_request_that_comes_late_and_in_pieces_is_answered_when_it_is_whole(envoy, service):
    with Stream(envoy.port(), HEALTH_CHECK, GRPC) as stream:
        active = "http.graygate.downstream_rq_active"
        until(lambda: envoy.stats(active)[active], what="the headers with the proxy")
        for byte in message(service):
            stream.send(bytes([byte]))
        assert not stream.answered()
        stream.send(end=True)
        answer = stream.answer()
    if service == "shop":
        assert grpc_status(answer) == "5"
    else:
        assert (answer.body, grpc_status(answer)) == (framed(b"\x08\x01"), "0")


def test_checks_that_wait_for_their_request_hold_up_no_others(envoy):
    port = envoy.port()
    with Stream(port, HEALTH_CHECK, GRPC) as first, Stream(port, HEALTH_CHECK, GRPC) as second:
        first.send(message()[:3])
        assert {check(port, SERVICE).word for _ in range(20)} == {"SERVING"}
        second.send(message("shop"), end=True)
        assert grpc_status(second.answer()) == "5"
        first.send(message()[3:], end=True)
        assert grpc_status(first.answer()) == "0"


def test_many_checks_at_once_are_answered(envoy, v1, v2):
    with ThreadPoolExecutor(8) as pool:
        many = [pool.submit(check_many, envoy.port(), SERVICE, 100) for _ in range(8)]
        assert {answer.word for each in many for answer in each.result()} == {"SERVING"}
    until(lambda: answers(envoy, result="serving") == 800, what="all of them counted")
    assert v1.requests == v2.requests == 0


def test_checks_reach_no_app_and_count_as_no_requests_of_users(envoy, v1, v2):
    for service in ["", SERVICE, "shop"]:
        check(envoy.port(), service)
    watch(envoy.port())
    get(envoy.port(), HEALTH_CHECK, method="POST", body=b"x")
    v1.answer(500, path="/healthz")
    until_all(lambda: check(envoy.port()).word == "NOT_SERVING", what="not serving")
    assert v1.requests == v2.requests == 0
    assert envoy.counter("graygate_assignments_total") == 0
    assert envoy.counter("graygate_gated_requests_total") == 0


def test_each_result_is_counted(envoy, v1):
    check(envoy.port(), SERVICE)
    check(envoy.port(), "shop")
    watch(envoy.port())
    counted = {result: answers(envoy, result=result) for result in ("serving", "not-found", "unimplemented")}
    assert counted == {"serving": 1, "not-found": 1, "unimplemented": 1}
    v1.answer(500, path="/healthz")
    until(lambda: check(envoy.port()).word == "NOT_SERVING", what="not serving")
    until(lambda: answers(envoy, result="not-serving"), what="not-serving counted")


@pytest.mark.parametrize("method", ["Watch", "List", "check", "Check/", ""])
def test_other_methods_of_the_service_are_unimplemented(envoy, v1, method):
    answer = call(envoy.port(), message(), f"/grpc.health.v1.Health/{method}")
    assert (answer.status, grpc_status(answer)) == (200, "12")
    assert v1.requests == 0


def test_watch_is_unimplemented_to_a_client(envoy):
    assert watch(envoy.port()).word == watch(envoy.port(), "shop").word == "UNIMPLEMENTED"


def test_a_request_that_is_compressed_is_unimplemented(envoy):
    zipped = framed(gzip.compress(message()[5:]), flag=1)
    answer = call(envoy.port(), zipped, headers={**GRPC, "grpc-encoding": "gzip"})
    assert (answer.status, grpc_status(answer)) == (200, "12")
    # grpcio compresses only what gets shorter by it, grpc-go all but the empty message.
    assert check(envoy.port(), "x" * 1000, compress=True).word == "UNIMPLEMENTED"
    code, said = probe(envoy.port(), SERVICE, "-gzip")
    assert (code, "does not implement" in said) == (3, True), said


def test_a_client_that_would_compress_but_did_not_is_answered(envoy):
    assert check(envoy.port(), "", compress=True).word == "SERVING"
    assert probe(envoy.port(), "", "-gzip")[0] == 0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="no-length"),
        pytest.param(message()[:-1], id="too-short"),
        pytest.param(message() + b"\0", id="too-long"),
        pytest.param(message() * 2, id="two-messages"),
        pytest.param(framed(b"\x0a\x7fx"), id="half-a-field"),
        pytest.param(framed(b"\xff" * 20), id="no-protobuf"),
        pytest.param(framed(b"", flag=2), id="odd-flag"),
        pytest.param(b"\0\xff\xff\xff\xff", id="huge-length"),
        pytest.param(framed(b"\x0a\xa0\x1f" + b"x" * 4000), id="4000-bytes"),
        pytest.param(framed(b"\x0a\x80\x40" + b"x" * 8192), id="8192-bytes"),
        pytest.param(message(b"\xff\xfe"), id="no-utf8"),
    ],
)
def test_what_is_no_request_gets_an_error(envoy, body):
    with Stream(envoy.port(), HEALTH_CHECK, GRPC, end=not body) as stream:
        if body:
            stream.send(body, end=True)
        answer = stream.answer()
    assert answer.status == 200
    assert grpc_status(answer) not in (None, "", "0")
    unharmed(envoy)


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_other_content_types_are_refused(envoy, v1, ask, method):
    path = f"/grpc.health.v1.Health/{method}"
    for content_type in ["json", "x-graygate", "grpc-web", "grpcx", "x-grpc"]:
        headers = {"content-type": f"application/{content_type}", "x-graygate-hop": "grpc-health"}
        assert ask(envoy.port(), path, headers, method="POST", body=message()).status == 415, content_type
    assert ask(envoy.port(), path).status == 415
    assert ask(envoy.port(), path, method="POST", body=message()).status == 415
    assert v1.requests == 0


def test_any_upstream_that_answers_will_do_for_a_hop(start, asked, v1):
    envoy = start(asked)
    assert check(envoy.port(), SERVICE).word == "SERVING"
    assert check(envoy.port(), "shop").word == "NOT_FOUND"
    asked = dict(v1.last_headers_of(HEALTH_CHECK))
    assert asked[b"x-graygate-hop"] == b"grpc-health"
    # As gRPC the app's answer would be none.
    assert asked[b"content-type"] == b"application/x-graygate"


@pytest.mark.parametrize("instead", ["no-route", "dead-cluster", "too-early", "failing", "hanging"])
def test_without_a_hop_the_client_is_told(start, asked, v1, instead):
    if instead == "failing":
        v1.answer(500, path=HEALTH_CHECK)
    if instead == "hanging":
        v1.hang(path=HEALTH_CHECK)
    elsewhere = {"match": {"path": "/elsewhere"}, "route": {"cluster": "reviews-v1"}}
    too_early = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "x"}}}
    options: dict[str, dict[str, Any]] = {
        "no-route": {"routes": [elsewhere]},
        "dead-cluster": {"routes": [hop_route()], "clusters": [cluster(HOP, free_port())]},
        "too-early": {"routes": [too_early]},
        "failing": {},
        "hanging": {"timeout": "0.3s"},
    }
    envoy = start(asked, **options[instead])
    word, details = check(envoy.port(), SERVICE)
    assert (word, "hop" in details) == ("UNAVAILABLE", True), details
    code, said = probe(envoy.port(), SERVICE)
    assert (code, "code = Unavailable" in said) == (3, True), said
    until(lambda: answers(envoy, result="error") == 2, what="errors counted")
    assert watch(envoy.port()).word == "UNIMPLEMENTED"


def test_a_client_that_leaves_in_the_middle_does_no_harm(envoy):
    for sent in [b"", b"\0", message()[:8], message()]:
        for end in [False, True]:
            for _ in range(10):
                with Stream(envoy.port(), HEALTH_CHECK, GRPC) as stream:
                    stream.send(sent, end=end)
                    stream.reset()
                with Stream(envoy.port(), HEALTH_CHECK, GRPC) as stream:
                    stream.send(sent, end=end)
    unharmed(envoy)
    active = f"http.{HOP}.downstream_rq_active"
    until(lambda: envoy.stats(active)[active] == 0, what="nothing left of their requests")


def test_a_policy_that_does_not_ask_for_it_leaves_the_service_to_the_app(start, policy):
    with HealthServer() as app:
        app.say("NOT_SERVING", SERVICE)
        envoy = start(policy, routes=[route("app", "5s")], clusters=[cluster("app", app.port, http2=True)])
        assert check(envoy.port(), SERVICE).word == "NOT_SERVING"
        assert check(envoy.port(), "shop").word == "NOT_FOUND"
        assert app.checks == 2


def unharmed(envoy):
    """The VM is the one it was, and it still answers."""
    assert {check(envoy.port(), SERVICE).word for _ in range(10)} == {"SERVING"}
    reloads = {name: value for name, value in envoy.stats("wasm.graygate.").items() if "vm_reload" in name}
    assert reloads
    assert not any(reloads.values()), reloads
    assert "panicked" not in envoy.logs()
    assert envoy.alive


# -- upstreams are asked ----------------------------------------------------------


@pytest.fixture
def app():
    with HealthServer() as server:
        yield server


def checking(name, **grpc):
    """A policy that is ready while the upstream of this name says by gRPC that it serves."""
    probe_stanza = {"grpc": grpc, "periodSeconds": 0.2, "timeoutSeconds": 0.5, "failureThreshold": 2}
    return {
        "name": "shop",
        "upstreams": {name: {"cluster": name, "assume": "notReady", "readinessProbe": probe_stanza}},
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": name}]}},
    }


def ready(envoy):
    return get(envoy.port(), "/readyz").status == 200


# As bytes, the first three are protobuf messages; Envoy takes a cluster's name for one if it can.
@pytest.mark.parametrize("name", ["users", "adservice", "a-service", "reviews"])
def test_an_upstream_that_serves_is_ready(start, app, name):
    envoy = start(checking(name), clusters=[cluster(name, app.port, http2=True)])
    until_all(lambda: ready(envoy), what="ready")
    assert app.checks == app.checks_of("")
    assert app.authority == name
    assert envoy.counter("graygate_checks_total", upstream=name, result="passed")
    assert envoy.alive


def test_a_check_is_sent_as_the_probe_stanza_says(start, app):
    app.say("NOT_SERVING")
    app.say("SERVING", SERVICE)
    policy = checking("users", service=SERVICE, port=50051)
    envoy = start(policy, clusters=[cluster("users", app.port, http2=True)])
    until_all(lambda: ready(envoy), what="ready")
    assert app.checks == app.checks_of(SERVICE)
    assert app.authority == "users:50051"


def test_the_longest_names_are_possible(start, app):
    name, service = "c" * 125, "s" * 300
    app.say("SERVING", service)
    policy = checking("users", service=service)
    policy["upstreams"]["users"]["cluster"] = name
    envoy = start(policy, clusters=[cluster(name, app.port, http2=True)])
    until_all(lambda: ready(envoy), what="ready")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("not-serving", "NOT_SERVING"),
        ("unknown-status", "not serving"),
        ("unknown-service", "grpc-status 5"),
        ("stopped", "could not be reached"),
        ("hang", "no answer in time"),
    ],
)
def test_each_way_not_to_serve_is_named(start, app, fault, reason):
    app.say("SERVING", SERVICE)
    service = "shop" if fault == "unknown-service" else SERVICE
    policy = checking("users", service=service)
    policy["upstreams"]["users"]["assume"] = "ready"
    envoy = start(policy, clusters=[cluster("users", app.port, http2=True)])
    until(lambda: app.checks, what="the first check")
    {
        "not-serving": lambda: app.say("NOT_SERVING", SERVICE),
        "unknown-status": lambda: app.say("UNKNOWN", SERVICE),
        "unknown-service": lambda: None,
        "stopped": app.stop,
        "hang": app.hang,
    }[fault]()
    said = f"[-]users failed: check-failed: {reason}"
    until_all(lambda: said in get(envoy.port(), "/readyz").text, what=said)
    assert get(envoy.port(), "/readyz").status == 503
    assert envoy.alive

    {"stopped": app.start, "hang": lambda: app.hang(hanging=False)}.get(fault, lambda: app.say("SERVING", service))()
    until_all(lambda: ready(envoy), what="ready again")


@pytest.mark.parametrize("http2", [False, True], ids=["cluster-of-http1", "cluster-of-http2"])
def test_an_upstream_that_speaks_http1_is_not_ready(start, v1, http2):
    policy = checking("users")
    policy["upstreams"]["users"]["assume"] = "ready"
    envoy = start(policy, clusters=[cluster("users", v1.port, http2=http2)])
    until_all(lambda: "[-]users failed: check-failed: " in get(envoy.port(), "/readyz").text, what="a reason")
    until(lambda: envoy.counter("graygate_checks_total", result="failed") >= 5, what="5 failed checks")
    assert get(envoy.port(), "/readyz").status == 503
    assert envoy.alive


@pytest.mark.parametrize("name", ["users", "not-there"])
def test_a_check_that_can_not_be_sent_flips_nothing(start, name):
    policy = checking(name)
    policy["upstreams"][name]["assume"] = "ready"
    envoy = start(policy)
    until(lambda: envoy.counter("graygate_checks_total", result="error") >= 4, what="4 errors")
    assert envoy.counter("graygate_transitions_total", upstream=name) == 0
    assert ready(envoy)
    assert envoy.alive


def test_a_check_that_takes_longer_than_its_period_is_not_overlapped(start, app):
    policy = checking("users")
    policy["upstreams"]["users"]["readinessProbe"]["timeoutSeconds"] = 2.5
    envoy = start(policy, clusters=[cluster("users", app.port, http2=True)])
    until(lambda: app.checks, what="the first check")
    app.hang()
    seen = app.checks
    until(lambda: envoy.counter("graygate_checks_total", result="failed"), what="a check timed out")
    # One that hung, one that had just been answered, one after the time-out.
    assert app.checks - seen <= 3


def test_one_proxy_checks_another(start, asked, v1):
    other = start(asked, hop=True)
    envoy = start(checking("users", service=SERVICE), clusters=[cluster("users", other.port(), http2=True)])
    until_all(lambda: ready(envoy), what="ready")
    v1.answer(500, path="/healthz")
    said = "[-]users failed: check-failed: NOT_SERVING"
    until_all(lambda: said in get(envoy.port(), "/readyz").text, what=said)
