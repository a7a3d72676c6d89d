"""Who gets a version whatever its weight, who doesn't, and which word counts where two disagree."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.load import Request, drive
from harness.tool import explain
from harness.wait import until_all

REASONS = (
    *("incoming", "no-such-version", "match", "allowed", "existing-session"),
    *("sticky", "denied", "rotation", "fallback"),
)
USERS = [f"user-{number}" for number in range(200)]


def header(user):
    return {"x-user-id": user}


def cookie(user):
    return {"cookie": f"theme=dark; user={user}"}


every_key = pytest.mark.parametrize("key", [header, cookie])


@pytest.fixture
def release(policy):
    return policy["releases"][0]


@pytest.fixture
def versions(release):
    """`versions(90, 10, allow=["alice"])`: the weights, and what v2 has besides its match."""

    def change(v1, v2, **rest):
        for version, weight in zip(release["versions"], (v1, v2), strict=True):
            version["weight"] = weight
        release["versions"][1].update(rest)

    return change


def assigned(envoy):
    """How many requests got which version, and why; without those that none did."""
    pairs = [(version, reason) for version in ("v1", "v2") for reason in REASONS]
    counted = {pair: envoy.counter("graygate_assignments_total", version=pair[0], reason=pair[1]) for pair in pairs}
    return {pair: count for pair, count in counted.items() if count}


def all_get(envoy, requests):
    """The versions that these requests get."""
    answers = drive(envoy.port(), [Request("/", headers) for headers in requests])
    assert {answer.status for answer in answers} == {200}
    return {answer.version for answer in answers}


@every_key
def test_an_allowed_key_gets_its_version_whatever_its_bucket(start, policy, versions, key):
    versions(1, 0, allow=USERS[:100])
    envoy = start(policy)
    assert all_get(envoy, map(key, USERS[:100])) == {"v2"}
    assert all_get(envoy, map(key, USERS[100:])) == {"v1"}
    assert assigned(envoy) == {("v2", "allowed"): 100, ("v1", "sticky"): 100}


@every_key
def test_a_denied_key_gets_the_default_where_its_bucket_is_the_versions(start, policy, versions, key):
    versions(0, 1, deny=USERS[:100])
    envoy = start(policy)
    assert all_get(envoy, map(key, USERS[:100])) == {"v1"}
    assert all_get(envoy, map(key, USERS[100:])) == {"v2"}
    assert assigned(envoy) == {("v1", "denied"): 100, ("v2", "sticky"): 100}


def test_a_denied_key_whose_bucket_is_another_versions_is_sticky_as_ever(start, policy, versions):
    versions(1, 0, deny=USERS)
    envoy = start(policy)
    assert all_get(envoy, map(header, USERS)) == {"v1"}
    assert assigned(envoy) == {("v1", "sticky"): 200}


def test_with_three_versions_a_denied_key_gets_the_default_rather_than_its_neighbour(start, policy, release):
    """v3 is served by v1's upstream, so it is told by its header alone."""
    release["responseHeader"] = "x-served-version"
    release["versions"] = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 0, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 1},
        {"name": "v3", "upstream": "reviews-v1", "weight": 1},
    ]
    port = start(policy).port()

    def served(users):
        return {user: get(port, "/", header(user)).headers["x-served-version"] for user in users}

    before = served(USERS)
    assert set(before.values()) == {"v2", "v3"}
    release["versions"][1]["deny"] = USERS[:150]
    port = start(policy).port()
    after = served(USERS)
    assert all(after[user] == "v1" for user in USERS[:150] if before[user] == "v2")
    assert all(after[user] == before[user] for user in USERS if before[user] == "v3" or user in USERS[150:])


def test_keys_of_a_list_are_whole_and_exact(start, policy, versions):
    versions(1, 0, allow=["alice", "Zoë", "a b"])
    envoy = start(policy)
    on_v2 = ["alice", "Zoë".encode(), "a b"]
    on_v1 = ["Alice", "alice2", "alic", "alice,bob", "Zoë".encode("latin-1"), b"\xff", "a  b"]
    assert {get(envoy.port(), "/", header(user)).version for user in on_v2} == {"v2"}
    assert {get(envoy.port(), "/", header(user)).version for user in on_v1} == {"v1"}


def test_a_list_is_about_the_key_that_counts(start, policy, versions):
    """The first key that is present, here the header, whatever else the request carries."""
    versions(1, 0, allow=["alice"])
    envoy = start(policy)
    both = [{**header("alice"), **cookie("bob")}, {**header("bob"), **cookie("alice")}]
    assert [get(envoy.port(), "/", headers).version for headers in both] == ["v2", "v1"]
    assert assigned(envoy) == {("v2", "allowed"): 1, ("v1", "sticky"): 1}


def test_a_request_without_a_key_is_on_no_list(start, policy, versions):
    versions(0, 1, allow=["alice"], deny=["bob"])
    envoy = start(policy)
    assert all_get(envoy, [{}, header(""), cookie("")]) == {"v2"}
    assert assigned(envoy) == {("v2", "rotation"): 3}


def test_a_version_of_weight_0_is_reached_by_match_and_by_allow(start, policy, versions):
    versions(1, 0, allow=["alice"])
    envoy = start(policy)
    assert all_get(envoy, map(header, USERS)) == {"v1"}
    assert get(envoy.port(), "/", {**header("bob"), "x-tester": "true"}).version == "v2"
    assert get(envoy.port(), "/", {"x-tester": "true"}).version == "v2"
    assert get(envoy.port(), "/", header("alice")).version == "v2"
    assert assigned(envoy) == {("v1", "sticky"): 200, ("v2", "match"): 2, ("v2", "allowed"): 1}


def test_a_match_counts_more_than_a_list_and_a_list_more_than_the_bucket(start, policy, versions, release):
    versions(0, 1)
    release["versions"][0]["allow"] = ["alice"]
    envoy = start(policy)
    assert get(envoy.port(), "/", header("bob")).version == "v2"
    assert get(envoy.port(), "/", header("alice")).version == "v1"
    assert get(envoy.port(), "/", {**header("alice"), "x-tester": "true"}).version == "v2"
    assert assigned(envoy) == {("v2", "sticky"): 1, ("v1", "allowed"): 1, ("v2", "match"): 1}


def test_the_same_where_the_match_is_the_defaults_and_the_list_the_other_versions(start, policy, versions, release):
    versions(1, 0, match=[], allow=["alice"])
    release["versions"][0]["match"] = [{"headers": {"x-plain": {}}}]
    envoy = start(policy)
    assert get(envoy.port(), "/", header("alice")).version == "v2"
    assert get(envoy.port(), "/", {**header("alice"), "x-plain": "1"}).version == "v1"
    assert assigned(envoy) == {("v2", "allowed"): 1, ("v1", "match"): 1}


def test_a_match_counts_more_than_a_denial(start, policy, versions):
    versions(0, 1, deny=["carol"])
    envoy = start(policy)
    assert get(envoy.port(), "/", header("carol")).version == "v1"
    assert get(envoy.port(), "/", {**header("carol"), "x-tester": "true"}).version == "v2"
    assert assigned(envoy) == {("v1", "denied"): 1, ("v2", "match"): 1}


def test_a_trusted_incoming_version_counts_more_than_all_of_them(start, policy, versions, release):
    release["trustIncoming"] = True
    versions(0, 1, allow=["alice"], deny=["carol"])
    envoy = start(policy)
    asked = [("v1", {**header("alice"), "x-tester": "true"}), ("v2", header("carol"))]
    assert [get(envoy.port(), "/", {**headers, "x-gray-version": name}).version for name, headers in asked] == [
        "v1",
        "v2",
    ]
    assert assigned(envoy) == {("v1", "incoming"): 1, ("v2", "incoming"): 1}


def test_a_trusted_incoming_version_that_is_none_of_them_gets_the_default_and_stays_as_it_came(
    start, policy, versions, release, v1
):
    release["trustIncoming"] = True
    versions(0, 1, allow=["alice"])
    envoy = start(policy)
    for name in ["v9", "V2", "v2,v2"]:
        assert get(envoy.port(), "/", {**header("alice"), "x-tester": "true", "x-gray-version": name}).version == "v1"
        assert [value for key, value in v1.last_headers_of("/") if key == b"x-gray-version"] == [name.encode()]
    assert assigned(envoy) == {("v1", "no-such-version"): 3}


def test_an_empty_incoming_version_is_as_none(start, policy, versions, release):
    release["trustIncoming"] = True
    versions(0, 1)
    envoy = start(policy)
    assert get(envoy.port(), "/", {**header("alice"), "x-gray-version": ""}).version == "v2"
    assert assigned(envoy) == {("v2", "sticky"): 1}


def test_those_who_are_allowed_fall_back_too(start, policy, versions, v2):
    versions(1, 0, allow=["alice"])
    envoy = start(policy)
    assert get(envoy.port(), "/", header("alice")).version == "v2"
    v2.refuse()
    until_all(lambda: get(envoy.port(), "/", header("alice")).version == "v1", what="alice on v1")
    assert envoy.counter("graygate_assignments_total", version="v1", reason="fallback") > 0
    v2.accept()
    until_all(lambda: get(envoy.port(), "/", header("alice")).version == "v2", what="alice back on v2")


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
