"""gRPC's health protocol: the proxy implements it from its readiness, and checks upstreams with it.

Responses must satisfy two client libraries: grpcio, and grpc-go, which the kubelet uses. `tests/worlds/grpc_health.rs`
and `tests/worlds/checks.rs` cover the response in each case.
"""

from __future__ import annotations

import gzip
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.client import Stream, get, get2
from harness.config import HEALTH_CHECK, HOP, cluster, hop_route
from harness.health import HealthServer, check, check_many, probe, watch
from harness.ports import free_port
from harness.wait import until, until_all

GRPC = {"content-type": "application/grpc", "te": "trailers"}
SERVICE = "shop.Reviews"


def by_grpcio(port, service=""):
    return check(port, service).word


def by_grpc_go(port, service=""):
    """The request's message in the words of the other protocol library."""
    code, said = probe(port, service)
    if code == 0:
        return "SERVING"
    found = re.search(r'responded with "(\w+)"|code = (\w+)', said)
    assert found, (code, said)
    return found[1] or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[2]).upper()


@pytest.fixture
def asked(policy):
    """The policy with two services whose health can be requested."""
    policy["probes"]["grpc"] = {"services": ["", SERVICE]}
    return policy


@pytest.fixture
def envoy(start, asked):
    return start(asked, hop=True)


def answers(envoy, **tags):
    return envoy.counter("graygate_probe_answers_total", probe="grpc", **tags)


def message(service=SERVICE):
    """Returns a request in its wire format."""
    name = service if isinstance(service, bytes) else service.encode()
    return framed(b"\x0a" + bytes([len(name)]) + name if name else b"")


def framed(payload, flag=0):
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def call(port, body, path=HEALTH_CHECK, headers=GRPC):
    return get2(port, path, headers, method="POST", body=body)


def grpc_status(answer):
    """Returns grpc-status and grpc-message from the trailers. Without a message, the headers are the trailers."""
    return answer.trailers["grpc-status"] or answer.headers["grpc-status"]


# -- the proxy is asked -----------------------------------------------------------


@pytest.mark.parametrize("ask", [by_grpcio, by_grpc_go], ids=["grpcio", "grpc-go"])
def test_a_listed_service_follows_readiness_and_any_other_is_not_found(envoy, v1, ask):
    for status, word in [(200, "SERVING"), (500, "NOT_SERVING"), (200, "SERVING")]:
        v1.answer(status, path="/healthz")
        until_all(lambda: check(envoy.port()).word == word, what=word)
        assert ask(envoy.port(), "") == ask(envoy.port(), SERVICE) == word
        for service in ["shop", "shop.Reviews.", "ü", "x" * 300]:
            assert ask(envoy.port(), service) == "NOT_FOUND", service


def test_a_health_response_has_a_message_and_trailers(envoy):
    answer = call(envoy.port(), message())
    assert (answer.status, answer.body) == (200, framed(b"\x08\x01"))
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.headers["content-length"] in (None, str(len(answer.body)))
    assert answer.trailers.items() == [("grpc-status", "0")]
    assert not [name for name in answer.headers if name.startswith("x-graygate")]


def test_a_request_in_pieces_gets_its_response_when_it_is_complete(envoy):
    with Stream(envoy.port(), HEALTH_CHECK, GRPC) as stream:
        active = "http.graygate.downstream_rq_active"
        until(lambda: envoy.stats(active)[active], what="the headers with the proxy")
        for byte in message():
            stream.send(bytes([byte]))
        assert {check(envoy.port(), SERVICE).word for _ in range(20)} == {"SERVING"}
        assert not stream.answered()
        stream.send(end=True)
        answer = stream.answer()
    assert (answer.body, grpc_status(answer)) == (framed(b"\x08\x01"), "0")


def test_many_concurrent_checks_get_responses(envoy, v1, v2):
    with ThreadPoolExecutor(8) as pool:
        many = [pool.submit(check_many, envoy.port(), SERVICE, 100) for _ in range(8)]
        assert {answer.word for each in many for answer in each.result()} == {"SERVING"}
    until(lambda: answers(envoy, result="serving") == 800, what="all of them counted")
    assert v1.requests == v2.requests == 0
    assert envoy.counter("graygate_assignments_total") == 0


def test_other_methods_of_the_service_are_unimplemented(envoy, v1):
    for method in ["Watch", "List", "check", "Check/", ""]:
        answer = call(envoy.port(), message(), f"/grpc.health.v1.Health/{method}")
        assert (answer.status, grpc_status(answer)) == (200, "12"), method
    assert watch(envoy.port()).word == watch(envoy.port(), "shop").word == "UNIMPLEMENTED"
    assert v1.requests == 0


def test_a_request_that_is_compressed_by_gzip_gets_a_response(envoy, v1):
    zipped = framed(gzip.compress(message()[5:]), flag=1)
    answer = call(envoy.port(), zipped, headers={**GRPC, "grpc-encoding": "gzip"})
    assert (grpc_status(answer), answer.body) == ("0", framed(b"\x08\x01"))
    # grpcio compresses only what becomes shorter. grpc-go compresses everything except the empty message.
    assert check(envoy.port(), "x" * 1000, compress=True).word == "NOT_FOUND"
    for word, code in [("SERVING", 0), ("NOT_SERVING", 4)]:
        v1.answer(200 if word == "SERVING" else 500, path="/healthz")
        until_all(lambda: check(envoy.port()).word == word, what=word)
        for service in ("", SERVICE):
            assert check(envoy.port(), service, compress=True).word == word
            assert probe(envoy.port(), service, "-gzip")[0] == code
    assert "NotFound" in probe(envoy.port(), "shop", "-gzip")[1]


def test_a_client_learns_which_encodings_it_may_use(envoy):
    for encoding in ("deflate", "snappy"):
        zipped = framed(zlib.compress(message()[5:]), flag=1)
        answer = call(envoy.port(), zipped, headers={**GRPC, "grpc-encoding": encoding})
        assert (answer.status, grpc_status(answer)) == (200, "12")
        assert answer.headers["grpc-accept-encoding"] == "identity,gzip"


def test_an_invalid_request_gets_an_error(envoy):
    bodies = [
        b"",
        b"\0",
        message()[:-1],
        message() + b"\0",
        message() * 2,
        framed(b"\x0a\x7fx"),
        framed(b"\xff" * 20),
        framed(b"", flag=2),
        b"\0\xff\xff\xff\xff",
        framed(b"\x0a\xa0\x1f" + b"x" * 4000),
        framed(b"\x0a\x80\x40" + b"x" * 8192),
        message(b"\xff\xfe"),
    ]
    for body in bodies:
        with Stream(envoy.port(), HEALTH_CHECK, GRPC, end=not body) as stream:
            if body:
                stream.send(body, end=True)
            answer = stream.answer()
        assert answer.status == 200, body[:20]
        assert grpc_status(answer) not in (None, "", "0"), body[:20]
    unharmed(envoy)


def test_other_content_types_are_refused(envoy, v1):
    for method in ["Check", "Watch"]:
        path = f"/grpc.health.v1.Health/{method}"
        for ask in (get, get2):
            for content_type in ["json", "x-graygate", "grpc-web", "grpcx", "x-grpc"]:
                headers = {"content-type": f"application/{content_type}", "x-graygate-hop": "grpc-health"}
                assert ask(envoy.port(), path, headers, method="POST", body=message()).status == 415, content_type
            assert ask(envoy.port(), path).status == 415
            assert ask(envoy.port(), path, method="POST", body=message()).status == 415
    assert v1.requests == 0


def test_any_upstream_that_responds_can_be_the_hop(start, asked, v1):
    envoy = start(asked)
    assert check(envoy.port(), SERVICE).word == "SERVING"
    assert check(envoy.port(), "shop").word == "NOT_FOUND"
    asked = dict(v1.last_headers_of(HEALTH_CHECK))
    assert asked[b"x-graygate-hop"] == b"grpc-health"
    # By gRPC, the app's response would be invalid.
    assert asked[b"content-type"] == b"application/x-graygate"


@pytest.mark.parametrize("instead", ["no-route", "dead-cluster", "too-early"])
def test_without_a_working_hop_the_client_gets_an_error(start, asked, instead):
    elsewhere = {"match": {"path": "/elsewhere"}, "route": {"cluster": "reviews-v1"}}
    too_early = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "x"}}}
    options: dict[str, dict[str, Any]] = {
        "no-route": {"routes": [elsewhere]},
        "dead-cluster": {"routes": [hop_route()], "clusters": [cluster(HOP, free_port())]},
        "too-early": {"routes": [too_early]},
    }
    envoy = start(asked, **options[instead])
    word, details = check(envoy.port(), SERVICE)
    assert (word, "hop" in details) == ("UNAVAILABLE", True), details
    code, said = probe(envoy.port(), SERVICE)
    assert (code, "code = Unavailable" in said) == (3, True), said
    until(lambda: answers(envoy, result="error") == 2, what="errors counted")


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


def unharmed(envoy):
    """Checks that the VM is still the same and still responds."""
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
    """Returns a policy that is ready while the upstream of this name reports by gRPC that it serves."""
    probe_stanza = {"grpc": grpc, "periodSeconds": 0.2, "timeoutSeconds": 10, "failureThreshold": 2}
    return {
        "name": "shop",
        "upstreams": {name: {"cluster": name, "assume": "notReady", "readinessProbe": probe_stanza}},
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": name}]}},
    }


def ready(envoy):
    return get(envoy.port(), "/readyz").status == 200


# As bytes, the first is a protobuf message; Envoy takes a cluster's name for one if it can.
@pytest.mark.parametrize("name", ["users", "reviews"])
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


def test_each_cause_of_a_failed_grpc_check_is_named(start, app):
    app.say("SERVING", SERVICE)
    policy = checking("users", service=SERVICE)
    policy["upstreams"]["users"]["readinessProbe"]["timeoutSeconds"] = 1
    envoy = start(policy, clusters=[cluster("users", app.port, http2=True)])
    for fail, mend, reason in [
        (lambda: app.say("NOT_SERVING", SERVICE), lambda: app.say("SERVING", SERVICE), "NOT_SERVING"),
        (app.hang, lambda: app.hang(hanging=False), "no response in time"),
        (app.stop, app.start, "could not be reached"),
    ]:
        until_all(lambda: ready(envoy), what="ready")
        fail()
        said = f"[-]users failed: check-failed: {reason}"
        until_all(lambda: said in get(envoy.port(), "/readyz").text, what=said)
        mend()
    until_all(lambda: ready(envoy), what="ready again")
    assert envoy.alive


@pytest.mark.parametrize("http2", [False, True], ids=["cluster-of-http1", "cluster-of-http2"])
def test_an_upstream_that_speaks_http1_is_not_ready(start, v1, http2):
    policy = checking("users")
    policy["upstreams"]["users"]["assume"] = "ready"
    envoy = start(policy, clusters=[cluster("users", v1.port, http2=http2)])
    until_all(lambda: "[-]users failed: check-failed: " in get(envoy.port(), "/readyz").text, what="a reason")
    until(lambda: envoy.counter("graygate_checks_total", result="failed") >= 5, what="5 failed checks")
    assert get(envoy.port(), "/readyz").status == 503
    assert envoy.alive


def test_a_check_that_cannot_be_sent_does_not_count(start):
    name = "users"
    policy = checking(name)
    policy["upstreams"][name]["assume"] = "ready"
    envoy = start(policy)
    until(lambda: envoy.counter("graygate_checks_total", result="error") >= 4, what="4 errors")
    assert envoy.counter("graygate_transitions_total", upstream=name) == 0
    assert ready(envoy)
    assert envoy.alive
