"""Which users get a version regardless of its weight, and which override takes precedence."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.load import Request, drive
from harness.tool import explain

REASONS = (
    *("incoming", "no-such-version", "match", "allowed", "existing-session"),
    *("sticky", "denied", "rotation", "fallback"),
)
USERS = [f"user-{number}" for number in range(200)]


def header(user):
    return {"x-user-id": user}


@pytest.fixture
def release(policy):
    return policy["releases"][0]


@pytest.fixture
def versions(release):
    """`versions(90, 10, allow=["alice"])`: the weights, and further fields of v2."""

    def change(v1, v2, **rest):
        for version, weight in zip(release["versions"], (v1, v2), strict=True):
            version["weight"] = weight
        release["versions"][1].update(rest)

    return change


def assigned(envoy):
    """Returns how many requests got which version for which reason, without zeros."""
    pairs = [(version, reason) for version in ("v1", "v2") for reason in REASONS]
    counted = {pair: envoy.counter("graygate_assignments_total", version=pair[0], reason=pair[1]) for pair in pairs}
    return {pair: count for pair, count in counted.items() if count}


def test_a_trusted_incoming_version_takes_precedence_and_an_unknown_one_is_passed_on(
    start, policy, versions, release, v1
):
    release["trustIncoming"] = True
    versions(0, 1, allow=["alice"], deny=["carol"])
    envoy = start(policy)

    def asked(name, user):
        return get(envoy.port(), "/", {**header(user), "x-tester": "true", "x-gray-version": name}).version

    assert (asked("v1", "alice"), asked("v2", "carol")) == ("v1", "v2")
    for name in ["v9", "V2", "v2,v2"]:
        assert asked(name, "alice") == "v1"
        assert [value for key, value in v1.last_headers_of("/") if key == b"x-gray-version"] == [name.encode()]
    assert assigned(envoy) == {("v1", "incoming"): 1, ("v2", "incoming"): 1, ("v1", "no-such-version"): 3}


def test_explain_gives_the_version_and_the_reason_that_are_counted(start, policy, versions, tmp_path):
    versions(80, 20, allow=USERS[:50], deny=USERS[50:150])
    asked = [{"headers": header(user)} for user in USERS] + [{"headers": {"x-tester": "true"}}]
    said = [line["assignments"][0] for line in explain(tmp_path, policy, asked)]
    envoy = start(policy)
    answers = drive(envoy.port(), [Request("/", question["headers"]) for question in asked])
    assert [answer.version for answer in answers] == [line["version"] for line in said]
    reasons = [(line["version"], line["reason"]) for line in said]
    assert assigned(envoy) == {pair: reasons.count(pair) for pair in set(reasons)}
    assert {reason for _, reason in reasons} == {"match", "allowed", "sticky", "denied"}
