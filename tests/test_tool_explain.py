"""`graygate explain`: how a request is described, and what the explanation says besides the decision."""

from __future__ import annotations

import json

import pytest

from harness.tool import explain, run


@pytest.fixture
def file(policy, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    return path


def explained(file, *arguments):
    done = run("explain", file, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        (
            "https://reviews.shop/api?uid=7",
            ["--scheme", "https", "--authority", "reviews.shop", "--path", "/api?uid=7"],
        ),
        ("http://reviews.shop:9080", ["--scheme", "http", "--authority", "reviews.shop:9080"]),
        ("https://reviews.shop:443/", ["--scheme", "https", "--authority", "reviews.shop"]),
    ],
)
def test_a_url_stands_for_scheme_host_and_path(file, url, arguments):
    given = ["--at", "2026-12-01T10:00:00Z"]
    expected = run("explain", file, *arguments, *given).stdout
    assert expected.startswith("request   GET ")
    assert run("explain", file, url, *given).stdout == expected
    assert run("explain", file, url, "--path", "/").returncode == 2


def test_the_scheme_of_a_url_counts(file, policy):
    policy["releases"][0]["versions"][1] |= {"weight": 0, "match": [{"scheme": {"exact": "https"}}]}
    file.write_text(json.dumps(policy))
    assert explained(file, "https://a")["assignments"][0]["version"] == "v2"
    assert explained(file, "http://a")["assignments"][0]["version"] == "v1"


def test_headers_are_given_as_in_curl(file):
    for arguments in (
        ["-H", "x-user-id: alice"],
        ["-H", "X-User-Id:alice "],
        ["--header", "x-user-id=alice"],
        ["--header", "x-user-id: alice"],
        ["-H", "x-user-id: alice", "-H", "x-user-id: bob"],
    ):
        assert explained(file, *arguments)["assignments"][0]["bucket"] == 6405, arguments


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("x-user-id=alice", "the colon is missing; write NAME: VALUE, such as"),
        ("x-user-id;", "write 'x-user-id:' for a header without a value"),
        ("x user: alice", "is not the name of a header"),
    ],
)
def test_a_header_that_is_not_one_is_refused_with_a_way_to_mend_it(file, header, words):
    done = run("explain", file, "-H", header)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_the_method_has_a_short_option(file):
    assert run("explain", file, "-X", "POST").stdout.startswith("request   POST / for localhost\n")


def test_a_time_may_have_any_offset(file, policy):
    policy["releases"][0]["schedule"] = [{"at": "2026-12-01T10:00:00Z", "weights": {"v1": 70, "v2": 30}}]
    file.write_text(json.dumps(policy))
    for time in (
        "2026-12-01T10:00:00Z",
        "2026-12-01T11:00:00+01:00",
        "2026-12-01 04:30:00-05:30",
        "2026-12-01t10:00:00z",
    ):
        found = explained(file, "--at", time)
        assert (found["time"], found["assignments"][0]["sharesPercent"]) == (
            "2026-12-01T10:00:00Z",
            {"v1": 70, "v2": 30},
        )
        assert "time      2026-12-01T10:00:00Z\n" in run("explain", file, "--at", time).stdout
    done = run("explain", file, "--at", "2026-12-01T10:00:00")
    assert (done.returncode, "the offset from UTC is missing" in done.stderr) == (2, True)


def test_the_time_is_told_where_it_makes_a_difference(file, policy):
    assert "time " not in run("explain", file).stdout
    policy["releases"][0]["startsAt"] = "2026-12-01T10:00:00Z"
    file.write_text(json.dumps(policy))
    assert "Z (now)\n" in run("explain", file).stdout
    said = run("explain", file, "--at", "2026-12-01T09:00:00Z").stdout
    assert "time      2026-12-01T09:00:00Z\n" in said
    assert "shares            v1 holds 100 % of keys\n" in said


def test_the_cluster_and_the_shares_are_told(file):
    said = run("explain", file, "-H", "x-tester: true").stdout
    assert "release   reviews: v2 (match), cluster reviews-v2\n" in said
    assert "shares            v1 holds 90 % of keys, v2 10 %\n" in said
    found = explained(file, "-H", "x-tester: true")["assignments"][0]
    assert (found["cluster"], found["sharesPercent"], found["rolledBack"]) == ("reviews-v2", {"v1": 90, "v2": 10}, [])


def test_a_rollback_is_told_in_words(file):
    arguments = ["-H", "x-user-id: alice", "--rolled-back", "reviews/v2"]
    assert (
        "rollback          v2 is rolled back; v1 has taken over the keys\n" in run("explain", file, *arguments).stdout
    )
    found = explained(file, *arguments)["assignments"][0]
    assert (found["sharesPercent"], found["rolledBack"]) == ({"v1": 100, "v2": 0}, ["v2"])


@pytest.mark.parametrize(
    ("arguments", "change", "words", "names"),
    [
        ([], {}, "all assumed ready", []),
        (
            ["--not-ready", "reviews-v2"],
            {},
            "assumed: reviews-v2 not ready (--not-ready), the others ready",
            ["reviews-v2"],
        ),
        (
            [],
            {"assume": "notReady"},
            "assumed: reviews-v1 not ready (assume: notReady), the others ready",
            ["reviews-v1"],
        ),
        (
            [],
            {"force": "notReady"},
            "assumed: reviews-v1 not ready (force: notReady), the others ready",
            ["reviews-v1"],
        ),
        (
            ["--not-ready", "reviews-v1"],
            {"force": "ready"},
            "assumed: reviews-v1 ready (force: ready is stronger than --not-ready), the others ready",
            [],
        ),
    ],
)
def test_the_assumed_state_of_the_upstreams_is_told(file, policy, arguments, change, words, names):
    policy["upstreams"]["reviews-v1"] |= change
    file.write_text(json.dumps(policy))
    assert f"upstreams {words}\n" in run("explain", file, *arguments).stdout
    assert explained(file, *arguments)["notReadyUpstreams"] == names


def test_a_release_that_the_route_divides_has_no_shares(policy, tmp_path):
    policy["releases"][0] |= {"steer": {"randomValueHeader": "x-gray-random"}}
    [found] = explain(tmp_path, policy, [{"headers": {"x-user-id": "alice"}}])
    assert found["assignments"][0]["sharesPercent"] == {}
