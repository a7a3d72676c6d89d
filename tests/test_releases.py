"""Weights are enforced for people: exact, sticky, monotone, and safe against what clients send."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.tool import explain, run
from harness.wait import until

USERS = [f"user-{number}" for number in range(10_000)]


def by_user(envoy, users=USERS):
    """The version that each user got."""
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def weights(policy, **shares):
    for version in policy["releases"][0]["versions"]:
        version["weight"] = shares[version["name"]]
    return policy


def test_users_are_split_by_weight_and_each_as_explain_says(start, policy, tmp_path):
    versions = by_user(start(policy))
    share = Counter(versions.values())["v2"] / len(USERS)
    assert abs(share - 0.10) < 0.01

    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert versions == {user: line["assignments"][0]["version"] for user, line in zip(USERS, said, strict=True)}


def test_no_user_moves_on_repeat_nor_back_when_the_weight_is_raised(start, policy):
    envoy = start(policy, delivery="ecds")
    before = by_user(envoy)
    assert by_user(envoy) == before

    assert envoy.publish(weights(policy, v1=70, v2=30)) == ""
    # The main thread has it; each worker follows within milliseconds.
    until(lambda: abs(Counter(by_user(envoy, USERS[:1000]).values())["v2"] / 1000 - 0.3) < 0.05, what="30 % on v2")
    after = by_user(envoy)
    assert abs(Counter(after.values())["v2"] / len(USERS) - 0.30) < 0.01
    assert not [user for user in USERS if before[user] == "v2" and after[user] == "v1"]


def test_three_versions_share_by_weights_of_any_total(start, policy, v1, v2):
    policy["releases"][0]["versions"] = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 3, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 2},
        {"name": "v3", "upstream": "reviews-v2", "weight": 2},
    ]
    by_user(start(policy))
    counts = Counter(path for path in ("v1", "v2") for _ in range({"v1": v1, "v2": v2}[path].requests))
    assert abs(counts["v1"] / len(USERS) - 3 / 7) < 0.01


def test_a_cookie_is_a_key_where_there_is_no_header(start, policy):
    envoy = start(policy)
    users = USERS[:500]
    answers = drive(envoy.port(), [Request("/", {"cookie": f"theme=dark; user={user}; x=1"}) for user in users])
    by_header = by_user(envoy, users)
    assert [answer.version for answer in answers] == [by_header[user] for user in users]
    assert len(set(by_header.values())) == 2


def test_of_a_repeated_key_the_first_counts_as_explain_says(start, policy, tmp_path):
    envoy = start(policy)
    users = USERS[:200]
    twice = [("x-user-id", users[0]), ("X-User-Id", "other")]
    answers = drive(envoy.port(), [Request("/", [("x-user-id", user), *twice]) for user in users])
    by_first = by_user(envoy, users)
    assert [answer.version for answer in answers] == [by_first[user] for user in users]
    file = tmp_path / "twice.json"
    file.write_text(json.dumps(policy))
    for user in users[:20]:
        headers = ["--header", f"x-user-id={user}", "--header", "X-User-Id=other"]
        said = json.loads(run("explain", "--policy", file, "--json", *headers).stdout)
        assert said["assignments"][0]["version"] == by_first[user]


def test_a_query_parameter_is_a_key_as_it_is_written(start, policy, tmp_path):
    policy["releases"][0]["hashOn"] = [{"httpQueryParameterName": "uid"}]
    paths = [f"/a?x=1&uid={user}&y" for user in USERS[:500]] + ["/?uid=%61&uid=b", "/?uid=\u00e9"]
    envoy = start(policy)
    got = [answer.version for answer in drive(envoy.port(), [Request(path) for path in paths])]
    said = explain(tmp_path, policy, [{"path": path} for path in paths[:-1]])
    assert got[:-1] == [line["assignments"][0]["version"] for line in said]
    assert {line["assignments"][0]["reason"] for line in said} == {"sticky"}
    assert Counter(got)["v2"] > 0


@pytest.mark.parametrize("forwarded", [False, True], ids=["connection", "x-forwarded-for"])
def test_the_source_address_is_a_key(start, policy, tmp_path, forwarded):
    """As the proxy sees it: from the connection, or from a header that it is told to believe."""
    policy["releases"][0]["hashOn"] = [{"useSourceIp": True}]
    sources = [f"127.0.{number}.{number % 5 + 1}" for number in range(60)]
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


def test_http2_cookies_in_many_headers_are_one(start, policy):
    envoy = start(policy)
    for user in USERS[:20]:
        crumbs = [("cookie", "a=1"), ("cookie", f"user={user}"), ("cookie", "b=2")]
        assert get2(envoy.port(), "/", crumbs).version == get(envoy.port(), "/", {"x-user-id": user}).version


def test_requests_without_a_key_follow_the_weights_exactly(start, policy):
    concurrency = 2
    envoy = start(policy, concurrency=concurrency)
    answers = drive(envoy.port(), [Request("/")] * 2_000)
    # Each worker deals versions out in turn, and so is within one turn of its share.
    assert abs(Counter(answer.version for answer in answers)["v2"] - 200) <= concurrency


def test_on_one_worker_every_ten_requests_without_a_key_split_nine_to_one(start, policy):
    envoy = start(policy, concurrency=1)
    answers = drive(envoy.port(), [Request("/")] * 100, connections=1)
    versions = [answer.version for answer in answers]
    assert [versions[start : start + 10].count("v2") for start in range(0, 100, 10)] == [1] * 10


def test_a_match_overrides_the_weight(start, policy):
    envoy = start(weights(policy, v1=1, v2=0))
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user, "x-tester": "true"}) for user in USERS[:200]])
    assert {answer.version for answer in answers} == {"v2"}
    assert envoy.counter("graygate_assignments_total", version="v2", reason="match") == 200
    assert set(by_user(envoy, USERS[:200]).values()) == {"v1"}


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_a_spoofed_steer_header_is_overwritten(start, policy, v1, ask):
    envoy = start(weights(policy, v1=1, v2=0))
    for spoofed in ["v2", "v1", "", "nonsense", b"\xff\xfe"]:
        assert ask(envoy.port(), "/", {"x-gray-version": spoofed}).version == "v1", spoofed
        assert [value for name, value in v1.last_headers_of("/") if name == b"x-gray-version"] == [b"v1"]


def test_repeated_spoofed_headers_are_overwritten_all(start, policy, v1):
    envoy = start(weights(policy, v1=1, v2=0))
    assert get(envoy.port(), "/", [("x-gray-version", "v2"), ("X-Gray-Version", "v2")]).version == "v1"
    assert [value for name, value in v1.last_headers_of("/") if name == b"x-gray-version"] == [b"v1"]


def test_a_spoofed_steer_header_is_removed_where_the_release_does_not_apply(start, policy, v1):
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/api"}}]
    envoy = start(weights(policy, v1=0, v2=1))
    assert get(envoy.port(), "/api/x").version == "v2"
    assert get(envoy.port(), "/other", {"x-gray-version": "v2"}).version == "v1"
    assert b"x-gray-version" not in dict(v1.last_headers_of("/other"))


def test_a_trusted_incoming_version_wins_if_it_is_one(start, policy):
    policy["releases"][0]["trustIncoming"] = True
    envoy = start(weights(policy, v1=1, v2=0))
    assert get(envoy.port(), "/", {"x-gray-version": "v2"}).version == "v2"
    assert get(envoy.port(), "/", {"x-gray-version": "v9"}).version == "v1"


def test_a_version_that_is_not_ready_falls_back_to_the_default(start, policy, v2):
    envoy = start(weights(policy, v1=1, v2=9))
    assert len(set(by_user(envoy, USERS[:200]).values())) == 2
    v2.refuse()
    until(lambda: set(by_user_or_none(envoy, USERS[:50])) == {"v1"}, what="all users on v1")
    assert get(envoy.port(), "/", {"x-tester": "true"}).version == "v1"
    assert envoy.counter("graygate_assignments_total", version="v1", reason="fallback") > 0
    v2.accept()
    until(lambda: get(envoy.port(), "/", {"x-tester": "true"}).version == "v2", what="the tester back on v2")


def by_user_or_none(envoy, users):
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    return [answer.version for answer in answers]


def test_a_match_in_all_its_terms(start, policy):
    policy["releases"][0]["versions"][1]["match"] = [
        {
            "uri": {"prefix": "/API/"},
            "ignoreUriCase": True,
            "method": {"exact": "PUT"},
            "authority": {"prefix": "reviews"},
            "headers": {"x-a": {"prefix": "al"}, "x-b": {}},
            "withoutHeaders": {"x-c": {"exact": "no"}},
            "queryParams": {"q": {"exact": "1"}},
        }
    ]
    envoy = start(weights(policy, v1=1, v2=0))
    headers = {"x-a": "alice", "x-b": "", "x-c": "yes"}

    def version(path="/api/x?q=1", method="PUT", **changes):
        sent = {name.replace("_", "-"): value for name, value in {**headers, **changes}.items()}
        sent = {name: value for name, value in sent.items() if value is not None}
        return get(envoy.port(), path, sent, method=method).version

    assert version() == "v2"
    assert version(path="/apix?q=1") == "v1"
    assert version(path="/api/x?q=2") == "v1"
    assert version(path="/api/x?qq=1") == "v1"
    assert version(method="POST") == "v1"
    assert version(host="other") == "v1"
    assert version(**{"x-a": "bob"}) == "v1"
    assert version(**{"x-b": None}) == "v1"
    assert version(**{"x-c": "no"}) == "v1"


@pytest.mark.parametrize(
    ("condition", "matched", "passed_over"),
    [
        (
            {"headers": {"x-a": {"regex": "al.*|bob"}}},
            [{"x-a": "alice"}, {"x-a": "bob"}],
            [{"x-a": "xbob"}, {"x-a": b"al\xff"}],
        ),
        ({"withoutHeaders": {"x-a": {"regex": "b.*"}}}, [{}, {"x-a": "alice"}], [{"x-a": "bob"}]),
    ],
    ids=["headers", "withoutHeaders"],
)
def test_a_regex_matches_whole_values(start, policy, condition, matched, passed_over):
    policy["releases"][0]["versions"][1]["match"] = [condition]
    envoy = start(weights(policy, v1=1, v2=0))
    assert {get(envoy.port(), "/", headers).version for headers in matched} == {"v2"}
    assert {get(envoy.port(), "/", headers).version for headers in passed_over} == {"v1"}


def test_a_match_on_cookies_that_say_always_and_never(start, policy):
    v1, v2 = policy["releases"][0]["versions"]
    v1["match"] = [{"cookies": {"gray": {"exact": "never"}}}]
    v2["match"] = [{"cookies": {"gray": {"exact": "always"}}}]
    envoy = start(weights(policy, v1=50, v2=50))

    def version(cookie, user):
        return get(envoy.port(), headers={"x-user-id": user, "cookie": cookie}).version

    assert {version("a=b; gray=always", user) for user in USERS[:20]} == {"v2"}
    assert {version("gray=never; a=b", user) for user in USERS[:20]} == {"v1"}
    for other in ("gray=other", "xgray=always", "gray=other; gray=always", "gray"):
        assert {version(other, user) for user in USERS[:20]} == {"v1", "v2"}, other


def test_a_match_on_where_a_request_comes_from(start, policy):
    policy["releases"][0]["versions"][1]["match"] = [{"sourceIpBlocks": ["127.0.7.0/24", "::1"]}]
    envoy = start(weights(policy, v1=1, v2=0))
    assert get(envoy.port(), source="127.0.7.9").version == "v2"
    assert get(envoy.port(), source="127.0.8.9").version == "v1"
