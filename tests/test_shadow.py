"""Shadow mode: decisions of releases and gates appear in counters and the access log but are not applied.

`tests/worlds` covers further cases of probes and gates.
"""

from __future__ import annotations

import pytest

from harness.client import get
from harness.config import access_log
from harness.load import Request, drive
from harness.tool import explain
from harness.users import USERS
from harness.wait import until, until_all

LABEL = "%FILTER_STATE(wasm.graygate:PLAIN)%"
ALICE = {"x-user-id": "alice"}


@pytest.fixture
def shadow(policy):
    """A policy with everything that could change a request, its response, or who responds."""
    policy["mode"] = "shadow"
    release = policy["releases"][0]
    release["responseHeader"] = "x-served-version"
    release["hashOn"] = [
        {"httpHeaderName": "x-user-id"},
        {"httpCookie": {"name": "gray-id", "ttl": "24h"}},
    ]
    for version in release["versions"]:
        version["headers"] = {
            "request": {"set": {"x-set": "1"}, "add": {"x-add": "1"}, "remove": ["x-kept"]},
            "response": {"set": {"x-set": "1"}, "add": {"x-add": "1"}, "remove": ["content-type"]},
        }
    policy["probes"]["drain"] = {"path": "/drainz"}
    return policy


def labelled():
    """An access log with the filter's label."""
    log = access_log("graygate.access.log")
    log[0]["typed_config"]["log_format"]["json_format"]["label"] = LABEL
    return {"access_log": log}


def labels(envoy, number):
    """Returns the log lines by path, once a number of requests are logged."""
    entries = until(lambda: len(log := envoy.access_log()) >= number and log, what=f"{number} lines in the access log")
    return {entry["path"]: entry["label"] for entry in entries}


def counted(envoy, counter, **tags):
    return envoy.counter(counter, mode="shadow", **tags)


def fail(envoy, upstream):
    """Fails the checks of an upstream until the proxy knows."""
    upstream.answer(500, path="/healthz")
    until(lambda: envoy.transitions(to="not-ready"), what="not ready")


def test_shadow_mode_does_not_write_or_remove_request_headers(start, shadow, v1, v2):
    envoy = start(shadow)
    bare = start({**shadow, "mode": "off"})
    sent = {**ALICE, "x-kept": "yes"}
    for headers in (sent, {**sent, "x-tester": "true"}, {"x-kept": "yes"}, {"x-kept": "yes", "cookie": "gray-id=x"}):
        seen = []
        for each in (envoy, bare):
            assert get(each.port(), "/", headers).version == "v1"
            seen.append([pair for pair in v1.last_headers_of("/") if pair[0] != b"x-request-id"])
        assert seen[0] == seen[1]
        assert b"x-gray-version" not in dict(seen[0])
    assert v2.requests == 0


def test_the_access_log_has_the_decisions_of_shadow_mode(start, shadow, tmp_path):
    users = USERS[:100]
    said = explain(tmp_path, shadow, [{"headers": {"x-user-id": user}} for user in users])
    versions = [line["assignments"][0]["version"] for line in said]
    envoy = start(shadow, hcm=labelled())
    drive(envoy.port(), [Request(f"/{user}", {"x-user-id": user}) for user in users])
    get(envoy.port(), "/tester", {"x-tester": "true"})
    found = labels(envoy, len(users) + 1)
    assert [found[f"/{user}"] for user in users] == [f"reviews={version} sticky" for version in versions]
    assert found["/tester"] == "reviews=v2 match"


def test_in_shadow_mode_gates_forward_requests_and_label_their_reply(start, shadow, v1):
    envoy = start(shadow, hcm=labelled())
    fail(envoy, v1)
    gated = {"graygate_gate{reviews|reviews-v1|check-failed}"}

    def latest():
        get(envoy.port(), "/gated", ALICE)
        entries = [entry for entry in envoy.access_log() if entry["path"] == "/gated"]
        return {entry["label"] for entry in entries[-20:]} if len(entries) >= 20 else set()

    until(lambda: latest() == gated, what=f"20 times {gated}")
    assert {entry["status"] for entry in envoy.access_log()} == {200}
    assert counted(envoy, "graygate_gated_requests_total", upstream="reviews-v1", reason="check-failed")
    lines = [line for line in envoy.prometheus().splitlines() if line.startswith("graygate_gated_requests_total{")]
    assert lines
    assert all('mode="shadow"' in line for line in lines)


def test_in_shadow_mode_probes_and_orders_to_drain_are_answered(start, shadow, v1):
    envoy = start(shadow)
    bare = start({**shadow, "mode": "off"})
    assert get(bare.port(), "/livez").version == "v1"
    forwarded = v1.requests
    assert get(envoy.port(), "/livez").text == "policy reviews: liveness passed\n"
    assert get(envoy.port(), "/readyz").status == 200
    assert get(envoy.port(), "/drainz", method="POST").status == 200
    until_all(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness fails while the proxy drains")
    assert v1.requests == forwarded
    assert get(envoy.port(), "/", ALICE).version == "v1"
    assert envoy.counter("graygate_probe_answers_total", probe="liveness", code="200", result="passed") == 1
    assert counted(envoy, "graygate_probe_answers_total") == 0
    assert [line for line in envoy.logs().splitlines() if line.endswith("policy reviews: draining")]


def test_a_change_between_shadow_and_enforce_applies_at_once(start, shadow):
    envoy = start(shadow, delivery="ecds")
    tester = {"x-tester": "true"}
    assert get(envoy.port(), "/", tester).version == "v1"
    assert envoy.publish({**shadow, "mode": "enforce"}) == ""
    until_all(lambda: get(envoy.port(), "/", tester).version == "v2", what="enforced")
    assert envoy.publish(shadow) == ""
    until_all(lambda: get(envoy.port(), "/", tester).version == "v1", what="in the shadow again")
