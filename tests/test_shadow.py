"""Mode shadow: what would be done shows in counters and access log, and nothing is done."""

from __future__ import annotations

import pytest

from harness.client import get, get2
from harness.config import HEALTH_CHECK, access_log
from harness.load import Request, drive
from harness.tool import explain
from harness.users import USERS
from harness.wait import until, until_all

LABEL = "%FILTER_STATE(wasm.graygate:PLAIN)%"
ALICE = {"x-user-id": "alice"}


@pytest.fixture
def shadow(policy):
    """All that would change a request, a response or who answers."""
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
    """An access log with the filter's label in it."""
    log = access_log("graygate.access.log")
    log[0]["typed_config"]["log_format"]["json_format"]["label"] = LABEL
    return {"access_log": log}


def labels(envoy, number):
    """By path, once so many requests are logged."""
    entries = until(lambda: len(log := envoy.access_log()) >= number and log, what=f"{number} lines in the access log")
    return {entry["path"]: entry["label"] for entry in entries}


def counted(envoy, counter, **tags):
    return envoy.counter(counter, mode="shadow", **tags)


def fail(envoy, upstream):
    """Let its checks fail, until the proxy knows."""
    upstream.answer(500, path="/healthz")
    until(lambda: counted(envoy, "graygate_transitions_total", to="not-ready"), what="not ready")


def test_no_header_of_a_request_is_written_or_removed(start, shadow, v1, v2):
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


def test_probes_go_on_to_the_app(start, shadow, v1):
    envoy = start(shadow)
    for path in ("/livez", "/readyz", "/readyz?verbose", "/readyz/reviews-v1"):
        answer = get(envoy.port(), path)
        assert (answer.version, answer.text) == ("v1", f"v1 {path}\n")
    assert counted(envoy, "graygate_probe_answers_total", probe="liveness", code="200", result="passed") == 1
    assert counted(envoy, "graygate_probe_answers_total", probe="readiness", code="200") >= 2


def test_an_order_to_drain_goes_on_to_the_app_and_is_none(start, shadow):
    envoy = start(shadow)
    assert get(envoy.port(), "/drainz", method="POST").text == "v1 /drainz\n"
    assert "draining" not in envoy.logs()


def test_a_grpc_health_check_goes_on_to_the_app(start, shadow, v1):
    shadow["probes"]["grpc"] = {"services": [""]}
    envoy = start(shadow, hop=True)
    message = b"\0\0\0\0\0"
    headers = {"content-type": "application/grpc", "te": "trailers"}
    assert get2(envoy.port(), HEALTH_CHECK, headers, method="POST", body=message).version == "v1"
    assert b"x-graygate-hop" not in dict(v1.last_headers_of(HEALTH_CHECK))


def test_a_gate_lets_requests_through_and_counts_them(start, shadow, v1):
    envoy = start(shadow)
    fail(envoy, v1)

    def gated():
        return counted(envoy, "graygate_gated_requests_total", upstream="reviews-v1", reason="check-failed")

    def passes_and_counts():
        before = gated()
        answer = get(envoy.port(), "/", ALICE)
        assert (answer.status, answer.version) == (200, "v1")
        return gated() == before + 1

    until_all(passes_and_counts, what="one more counted as gated")


def test_active_checks_are_sent(start, shadow, v1, v2):
    envoy = start(shadow)
    until(lambda: min(upstream.seen("/healthz") for upstream in (v1, v2)) > 2, what="checks")
    passed = {"upstream": "reviews-v2", "result": "passed"}
    until(lambda: counted(envoy, "graygate_checks_total", **passed), what="a check counted")


def asked(envoy):
    """The names of all that is counted of the policy, after a request and a probe."""
    for path in ("/", "/livez"):
        get(envoy.port(), path, ALICE)
    return [name for name in envoy.stats("wasmcustom.graygate_") if "policies_refused" not in name]


def metric(name):
    return name.removeprefix("wasmcustom.graygate_").partition(".policy=")[0]


def test_all_counters_of_a_policy_have_the_mode_and_in_enforce_none(start, shadow, v1):
    wanted = {"assignments_total", "probe_answers_total", "checks_total", "transitions_total", "gated_requests_total"}
    wanted |= {"version_share"}
    # Of which the first tells the mode itself.
    plain = {"policy_enforced", "policy_document"}
    envoys = {mode: start({**shadow, "mode": mode}) for mode in ("shadow", "enforce")}
    v1.answer(500, path="/healthz")
    for mode, envoy in envoys.items():
        until(lambda: {metric(name) for name in asked(envoy)} >= wanted | plain, what=f"all of {wanted | plain}")
        for name in asked(envoy):
            assert ("mode=.=shadow;.;" in name) == (mode == "shadow" and metric(name) not in plain), name
    text = envoys["shadow"].prometheus()
    lines = [line for line in text.splitlines() if line.startswith("graygate_assignments_total{")]
    assert lines
    assert all('mode="shadow"' in line for line in lines)


def test_the_access_log_has_what_would_have_been_decided(start, shadow, tmp_path):
    users = USERS[:100]
    said = explain(tmp_path, shadow, [{"headers": {"x-user-id": user}} for user in users])
    versions = [line["assignments"][0]["version"] for line in said]
    envoy = start(shadow, hcm=labelled())
    drive(envoy.port(), [Request(f"/{user}", {"x-user-id": user}) for user in users])
    get(envoy.port(), "/tester", {"x-tester": "true"})
    found = labels(envoy, len(users) + 1)
    assert [found[f"/{user}"] for user in users] == [f"reviews={version} sticky" for version in versions]
    assert found["/tester"] == "reviews=v2 match"


def test_the_access_log_has_the_reply_that_would_have_been_given(start, shadow, v1, v2):
    envoy = start(shadow, hcm=labelled())
    get(envoy.port(), "/livez")
    fail(envoy, v1)
    gated = {"graygate_gate{reviews|reviews-v1|check-failed}"}

    def latest():
        get(envoy.port(), "/gated", ALICE)
        entries = [entry for entry in envoy.access_log() if entry["path"] == "/gated"]
        return {entry["label"] for entry in entries[-20:]} if len(entries) >= 20 else set()

    until(lambda: latest() == gated, what=f"20 times {gated}")
    get(envoy.port(), "/readyz")
    found = until(lambda: "/readyz" in (found := labels(envoy, 3)) and found, what="readiness in the access log")
    assert found["/livez"] == "graygate_probe{reviews|liveness}"
    assert found["/readyz"] == "graygate_probe{reviews|readiness}"
    assert {entry["status"] for entry in envoy.access_log()} == {200}


def test_shadow_turned_to_enforce_and_back_takes_effect_at_once(start, shadow):
    envoy = start(shadow, delivery="ecds")
    tester = {"x-tester": "true"}
    assert get(envoy.port(), "/", tester).version == "v1"
    assert envoy.publish({**shadow, "mode": "enforce"}) == ""
    until_all(lambda: get(envoy.port(), "/", tester).version == "v2", what="enforced")
    assert envoy.publish(shadow) == ""
    until_all(lambda: get(envoy.port(), "/", tester).version == "v1", what="in the shadow again")
