"""Weights apply to users: exact, sticky and monotonic, and clients cannot spoof them."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.tool import explain
from harness.wait import until_all

USERS = [f"user-{number}" for number in range(1_000)]


def by_user(envoy, users=USERS):
    """Returns the version that each user got."""
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def weights(policy, **shares):
    for version in policy["releases"][0]["versions"]:
        version["weight"] = shares[version["name"]]
    return policy


def test_users_are_split_by_weight_and_match_explain(start, policy, tmp_path):
    versions = by_user(start(policy))
    assert set(versions.values()) == {"v1", "v2"}
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert versions == {user: line["assignments"][0]["version"] for user, line in zip(USERS, said, strict=True)}


def test_the_first_of_repeated_keys_counts(start, policy):
    envoy = start(policy)
    users = USERS[:100]
    twice = [("x-user-id", users[0]), ("X-User-Id", "other")]
    answers = drive(envoy.port(), [Request("/", [("x-user-id", user), *twice]) for user in users])
    by_first = by_user(envoy, users)
    assert [answer.version for answer in answers] == [by_first[user] for user in users]
    assert set(by_first.values()) == {"v1", "v2"}


def test_a_query_parameter_is_a_key_as_it_is_written(start, policy, tmp_path):
    policy["releases"][0]["hashOn"] = [{"httpQueryParameterName": "uid"}]
    paths = [f"/a?x=1&uid={user}&y" for user in USERS[:100]] + ["/?uid=%61&uid=b", "/?uid=\u00e9"]
    envoy = start(policy)
    got = [answer.version for answer in drive(envoy.port(), [Request(path) for path in paths])]
    said = explain(tmp_path, policy, [{"path": path} for path in paths[:-1]])
    assert got[:-1] == [line["assignments"][0]["version"] for line in said]
    assert {line["assignments"][0]["reason"] for line in said} == {"sticky"}
    assert Counter(got)["v2"] > 0


def test_several_sources_are_a_key_together(start, policy, tmp_path):
    parts = [{"httpHeaderName": "x-tenant"}, {"httpQueryParameterName": "uid"}]
    policy["releases"][0]["hashOn"] = [{"all": parts}, {"usePath": True}]
    envoy = start(weights(policy, v1=50, v2=50))
    asked = [(f"/{user}?uid={user}", {"x-tenant": tenant}) for tenant in ("acme", "other") for user in USERS[:40]]
    asked += [(f"/{user}?uid={user}", {}) for user in USERS[:40]]
    got = [answer.version for answer in drive(envoy.port(), [Request(path, headers) for path, headers in asked])]
    said = explain(tmp_path, policy, [{"path": path, "headers": headers} for path, headers in asked])
    assert got == [line["assignments"][0]["version"] for line in said]
    assert {line["assignments"][0]["reason"] for line in said} == {"sticky"}
    assert len({tuple(got[start : start + 40]) for start in (0, 40, 80)}) == 3


@pytest.mark.parametrize("forwarded", [False, True], ids=["connection", "x-forwarded-for"])
def test_the_source_address_is_a_key(start, policy, tmp_path, forwarded):
    """The address is that of the connection, or that of a header that the proxy trusts."""
    policy["releases"][0]["hashOn"] = [{"useSourceIp": True}]
    sources = [f"127.0.{number}.{number % 5 + 1}" for number in range(20)]
    envoy = start(weights(policy, v1=50, v2=50))

    def version(source):
        if forwarded:
            return get(envoy.port(), headers={"x-forwarded-for": source}).version
        return get(envoy.port(), source=source).version

    versions = [version(source) for source in sources]
    assert [version(source) for source in sources] == versions
    said = explain(tmp_path, policy, [{"source": f"{source}:{0 if forwarded else 50000}"} for source in sources])
    assert versions == [line["assignments"][0]["version"] for line in said]
    assert set(versions) == {"v1", "v2"}


def test_http2_cookies_in_several_headers_are_joined(start, policy):
    envoy = start(policy)
    for user in USERS[:20]:
        crumbs = [("cookie", "a=1"), ("cookie", f"user={user}"), ("cookie", "b=2")]
        assert get2(envoy.port(), "/", crumbs).version == get(envoy.port(), "/", {"x-user-id": user}).version


@pytest.mark.parametrize(
    ("parts", "lowest"), [((90, 10), (9, 1)), ((5, 2), (5, 2)), ((2, 1), (2, 1)), ((11, 3), (11, 3))]
)
def test_one_worker_splits_each_run_of_requests_without_a_key_exactly_by_weight(start, policy, parts, lowest):
    envoy = start(weights(policy, v1=parts[0], v2=parts[1]), concurrency=1)
    answers = drive(envoy.port(), [Request("/")] * 60, connections=1)
    versions = [answer.version for answer in answers]
    runs = [versions[start : start + sum(lowest)] for start in range(60 - sum(lowest))]
    assert {(run.count("v1"), run.count("v2")) for run in runs} == {lowest}


def test_a_spoofed_steer_header_is_overwritten_even_if_it_is_repeated(start, policy, v1):
    envoy = start(weights(policy, v1=1, v2=0))
    values: list[str | bytes] = ["v2", "v1", "", "nonsense", b"\xff\xfe"]
    once = [[("x-gray-version", value)] for value in values]
    twice: list[tuple[str, str | bytes]] = [("x-gray-version", "v2"), ("x-gray-version", "v2")]
    for ask in (get, get2):
        for headers in [*once, twice]:
            assert ask(envoy.port(), "/", headers).version == "v1", headers
            assert [value for name, value in v1.last_headers_of("/") if name == b"x-gray-version"] == [b"v1"]


def test_a_spoofed_steer_header_is_removed_if_the_release_does_not_match(start, policy, v1):
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/api"}}]
    envoy = start(weights(policy, v1=0, v2=1))
    assert get(envoy.port(), "/api/x").version == "v2"
    assert get(envoy.port(), "/other", {"x-gray-version": "v2"}).version == "v1"
    assert b"x-gray-version" not in dict(v1.last_headers_of("/other"))


def test_a_version_that_is_not_ready_falls_back_to_the_default(start, policy, v2):
    envoy = start(weights(policy, v1=1, v2=9))
    assert len(set(by_user(envoy, USERS[:200]).values())) == 2
    v2.refuse()
    until_all(lambda: get(envoy.port(), "/", {"x-tester": "true"}).version == "v1", what="the tester on v1")
    assert set(by_user(envoy, USERS[:200]).values()) == {"v1"}
    assert envoy.counter("graygate_assignments_total", version="v1", reason="fallback") > 0
    v2.accept()
    until_all(lambda: get(envoy.port(), "/", {"x-tester": "true"}).version == "v2", what="the tester back on v2")
