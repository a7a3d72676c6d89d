"""A user who brings no key gets one: a cookie that keeps the version, for as long as there is something to keep."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.wait import until, until_all

ID = "([0-9a-f]{8})-[0-9a-f]{16}"
ATTRIBUTES = {
    "path": "/shop",
    "domain": "example.com",
    "secure": True,
    "httpOnly": True,
    "sameSite": "Lax",
    "partitioned": True,
}
AS_SENT = "Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=Lax; Partitioned"
NEVER = "2099-01-01T00:00:00Z"
OURS = "6745ab00-0123456789abcdef"
FOREIGN = [
    *("alice", "6745ab00", "6745ab00-", "6745ab00-0123456789abcde", "6745ab00-0123456789abcdef0"),
    *("6745ab0-0123456789abcdef", "6745ab00_0123456789abcdef", "6745ab0g-0123456789abcdef"),
    *("x6745ab00-0123456789abcdef", "6745ab00-0123456789abcdef-1", "550e8400-e29b-41d4-a716-446655440000"),
]


@pytest.fixture
def release(policy):
    """The release, whose users bring a header, or else get a cookie."""
    release = policy["releases"][0]
    release["hashOn"] = [{"httpHeaderName": "x-user-id"}, {"httpCookie": {"name": "gray-id", "ttl": "24h"}}]
    return release


@pytest.fixture
def cookie(release):
    return release["hashOn"][1]["httpCookie"]


def weigh(release, v1, v2):
    for version, weight in zip(release["versions"], (v1, v2), strict=True):
        version["weight"] = weight


def utc(seconds):
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def made(seconds, count):
    """Ids of graygate's form that were issued then."""
    return [f"{seconds:08x}-{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, count + 1)]


def set_cookies(answer):
    return answer.headers.get_all("set-cookie", [])


def issued(answer):
    """The id in the one cookie that the answer sets."""
    [line] = set_cookies(answer)
    found = re.fullmatch(rf"gray-id=({ID})(; .*)?", line)
    assert found, line
    return found[1]


def back(value):
    """The headers of one who sends this value back, among others."""
    return {"cookie": f"theme=dark; gray-id={value}; x=1"}


def newcomers(envoy, count):
    """So many users with no key ask once each: their ids, with the version of each."""
    port = envoy.port()
    answers = [get(port) for _ in range(count)]
    return {issued(answer): answer.version for answer in answers}


def returning(envoy, ids):
    """They ask again: their ids, with the version of each."""
    answers = drive(envoy.port(), [Request("/", back(value)) for value in ids])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(ids, (answer.version for answer in answers), strict=True))


def counted(envoy, reason, **tags):
    return envoy.counter("graygate_assignments_total", reason=reason, **tags)


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_a_cookie_has_its_attributes_in_order(start, policy, cookie, ask):
    cookie.update(ATTRIBUTES)
    envoy = start(policy)
    before = time.time()
    [line] = set_cookies(ask(envoy.port()))
    after = time.time()
    found = re.fullmatch(f"gray-id={ID}; Max-Age=86400; {re.escape(AS_SENT)}", line)
    assert found, line
    assert before - 2 <= int(found[1], 16) <= after + 2


@pytest.mark.parametrize(
    ("attributes", "sent"),
    [
        ({}, "; Max-Age=86400; Path=/"),
        ({"ttl": "0s"}, "; Path=/"),
        ({"ttl": "90s", "secure": True}, "; Max-Age=90; Path=/; Secure"),
        ({"ttl": "0s", "sameSite": "Strict", "httpOnly": True}, "; Path=/; HttpOnly; SameSite=Strict"),
        ({"sameSite": "None", "secure": True}, "; Max-Age=86400; Path=/; Secure; SameSite=None"),
        ({"secure": False, "httpOnly": False, "partitioned": False}, "; Max-Age=86400; Path=/"),
    ],
    ids=["none", "session", "secure", "session-strict", "none-secure", "off"],
)
def test_attributes_that_are_off_are_left_out(start, policy, cookie, attributes, sent):
    cookie.update(attributes)
    [line] = set_cookies(get(start(policy).port()))
    assert re.fullmatch(f"gray-id={ID}{sent}", line)


def test_a_cookie_without_a_ttl_is_only_read(start, policy, cookie):
    del cookie["ttl"]
    assert set_cookies(get(start(policy).port())) == []


def test_no_two_users_get_the_same_id(start, policy, release):
    weigh(release, 50, 50)
    assert len(newcomers(start(policy), 200)) == 200


def test_on_one_worker_newcomers_are_split_exactly_and_each_id_falls_where_its_user_was(start, policy, release):
    envoy = start(policy, concurrency=1)
    ids = newcomers(envoy, 100)
    assert Counter(ids.values()) == {"v1": 90, "v2": 10}
    assert counted(envoy, "rotation") == 100
    assert returning(envoy, ids) == ids
    assert counted(envoy, "sticky", version="v1") == 90
    assert counted(envoy, "sticky", version="v2") == 10


def test_a_version_with_a_small_share_gets_ids_of_its_own(start, policy, release):
    weigh(release, 999, 1)
    envoy = start(policy, concurrency=1)
    ids = newcomers(envoy, 1_000)
    assert Counter(ids.values()) == {"v1": 999, "v2": 1}
    assert returning(envoy, ids) == ids


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_one_who_sends_it_back_gets_no_other(start, policy, release, ask):
    weigh(release, 50, 50)
    envoy = start(policy)
    first = [ask(envoy.port()) for _ in range(10)]
    assert {answer.version for answer in first} == {"v1", "v2"}
    again = [ask(envoy.port(), "/", back(issued(answer))) for answer in first]
    assert [answer.version for answer in again] == [answer.version for answer in first]
    assert [set_cookies(answer) for answer in again] == [[]] * 10


def test_one_who_has_any_key_gets_none(start, policy, release):
    release["hashOn"].append({"httpQueryParameterName": "uid"})
    port = start(policy).port()
    assert set_cookies(get(port, "/", {"x-user-id": "alice"})) == []
    assert set_cookies(get(port, "/?uid=alice")) == []
    for value in [*FOREIGN, OURS]:
        assert set_cookies(get(port, "/", back(value))) == [], value


def test_an_empty_key_is_none(start, policy, release):
    port = start(policy).port()
    for headers in [{"x-user-id": ""}, back(""), {"cookie": "GRAY-ID=alice; xgray-id=alice"}]:
        assert issued(get(port, "/", headers))


def test_a_foreign_value_is_a_key_like_any_other(start, policy, release):
    weigh(release, 50, 50)
    envoy = start(policy)
    users = [*FOREIGN, *(f"user-{number}" for number in range(50))]
    by_header = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    by_cookie = returning(envoy, users)
    assert list(by_cookie.values()) == [answer.version for answer in by_header]
    assert set(by_cookie.values()) == {"v1", "v2"}
    assert counted(envoy, "sticky") == 2 * len(users)


def test_a_request_that_the_release_is_not_for_gets_none(start, policy, release):
    release.update(match=[{"uri": {"prefix": "/api"}}], skip=[{"uri": {"prefix": "/api/static"}}])
    port = start(policy).port()
    assert [len(set_cookies(get(port, path))) for path in ("/api", "/other", "/api/static")] == [1, 0, 0]


def test_a_reply_of_graygates_own_sets_none(start, policy, release, v1):
    """With v1 down a gate answers its newcomers, and v2's still reach it."""
    weigh(release, 50, 50)
    port = start(policy).port()
    until(lambda: get(port, "/readyz").status == 200, what="ready")
    assert set_cookies(get(port, "/livez")) == set_cookies(get(port, "/readyz")) == []
    v1.refuse()
    until(lambda: get(port, "/", {"x-user-id": "alice"}).headers["retry-after"], what="gated")
    answers = [get(port) for _ in range(40)]
    assert {answer.status for answer in answers} == {200, 503}
    assert {len(set_cookies(answer)) for answer in answers if answer.headers["retry-after"]} == {0}
    assert {len(set_cookies(answer)) for answer in answers if answer.status == 200} == {1}


def test_cookies_of_the_app_stay_beside_it(start, policy, release, v1, v2):
    own = ["session=abc; Path=/", "gray=1"]
    for upstream in (v1, v2):
        upstream.answer(headers=[("set-cookie", line) for line in own])
    port = start(policy).port()
    for ask in (get, get2):
        lines = set_cookies(ask(port))
        assert [line for line in lines if not line.startswith("gray-id=")] == own
        assert len(lines) == 3
        assert set_cookies(ask(port, "/", {"x-user-id": "alice"})) == own


def test_a_newcomer_whose_version_is_not_ready_falls_back_and_is_where_he_belongs_later(start, policy, release, v2):
    weigh(release, 1, 99)
    envoy = start(policy, concurrency=1)
    v2.refuse()
    until(lambda: get(envoy.port(), "/", {"x-tester": "true", "x-user-id": "t"}).version == "v1", what="a fallback")
    ids = newcomers(envoy, 100)
    assert set(ids.values()) == {"v1"}
    v2.accept()
    until(lambda: get(envoy.port(), "/", {"x-tester": "true", "x-user-id": "t"}).version == "v2", what="v2 again")
    assert Counter(returning(envoy, ids).values()) == {"v1": 1, "v2": 99}


@pytest.mark.parametrize("weights", [(100, 0), (0, 100)], ids=str)
def test_it_is_taken_back_when_the_release_has_ended(start, policy, release, cookie, weights):
    cookie.update(ATTRIBUTES)
    weigh(release, *weights)
    port = start(policy).port()
    assert set_cookies(get(port)) == []
    gone = [f"gray-id=; Max-Age=0; {AS_SENT}"]
    for value in [OURS, *made(int(time.time()), 3)]:
        assert set_cookies(get(port, "/", back(value))) == gone
        assert set_cookies(get2(port, "/", back(value))) == gone
    assert set_cookies(get(port, "/", {**back(OURS), "x-user-id": "alice"})) == gone


def test_a_session_cookie_is_taken_back_too(start, policy, release, cookie):
    cookie["ttl"] = "0s"
    weigh(release, 100, 0)
    assert set_cookies(get(start(policy).port(), "/", back(OURS))) == ["gray-id=; Max-Age=0; Path=/"]


def test_a_cookie_without_a_ttl_is_never_taken_back(start, policy, release, cookie):
    del cookie["ttl"]
    weigh(release, 100, 0)
    assert set_cookies(get(start(policy).port(), "/", back(OURS))) == []


def test_a_foreign_value_is_never_taken_back(start, policy, release):
    weigh(release, 100, 0)
    port = start(policy).port()
    for value in [*FOREIGN, ""]:
        assert set_cookies(get(port, "/", back(value))) == [], value


def test_nothing_is_taken_back_by_a_reply_of_graygates_own(start, policy, release, v1):
    weigh(release, 100, 0)
    port = start(policy).port()
    assert set_cookies(get(port, "/livez", back(OURS))) == []
    v1.refuse()
    gated = until(lambda: (a := get(port, "/", back(OURS))).headers["retry-after"] and a, what="gated")
    assert set_cookies(gated) == []


def test_the_apps_cookies_stay_when_it_is_taken_back(start, policy, release, v1):
    weigh(release, 100, 0)
    v1.answer(headers=[("set-cookie", "session=abc"), ("set-cookie", "b=2")])
    lines = set_cookies(get(start(policy).port(), "/", back(OURS)))
    assert sorted(lines) == ["b=2", "gray-id=; Max-Age=0; Path=/", "session=abc"]


def test_it_is_issued_as_long_as_a_change_lies_ahead(start, policy, release):
    weigh(release, 100, 0)
    ahead = {"schedule": [{"at": NEVER, "weights": {"v1": 50, "v2": 50}}], "startsAt": NEVER}
    for key, value in ahead.items():
        policy["releases"] = [{**release, key: value}]
        port = start(policy).port()
        answer = get(port)
        assert answer.version == "v1", key
        assert issued(answer), key
        assert set_cookies(get(port, "/", back(issued(answer)))) == [], key


def test_it_is_taken_back_once_the_last_step_of_a_schedule_is_over(start, policy, release):
    weigh(release, 50, 50)
    release["schedule"] = [{"at": utc(time.time() - 3600), "weights": {"v1": 0, "v2": 100}}]
    port = start(policy).port()
    answer = get(port)
    assert (answer.version, set_cookies(answer)) == ("v2", [])
    assert set_cookies(get(port, "/", back(OURS))) == ["gray-id=; Max-Age=0; Path=/"]


@pytest.fixture
def two(policy, release):
    """Two releases that issue the same cookie, each with a path and a response header of its own."""
    weigh(release, 50, 50)
    release["responseHeader"] = "x-reviews"
    versions = [dict(version) for version in release["versions"]]
    steer = {"header": "x-ratings-version"}
    ratings = {**release, "name": "ratings", "steer": steer, "responseHeader": "x-ratings", "versions": versions}
    policy["releases"].append(ratings)
    return policy["releases"]


def test_two_releases_issue_one_cookie_between_them_and_both_stick(start, policy, two):
    port = start(policy).port()
    for _ in range(40):
        first = get(port)
        again = get(port, "/", back(issued(first)))
        for name in ("x-reviews", "x-ratings"):
            assert first.headers[name] == again.headers[name]
        assert set_cookies(again) == []


@pytest.mark.parametrize("over", ["reviews", "ratings"])
def test_it_is_not_taken_back_while_another_release_needs_it(start, policy, two, over):
    for release in two:
        release["match"] = [{"uri": {"prefix": f"/{release['name']}"}}]
        if release["name"] == over:
            weigh(release, 100, 0)
    port = start(policy).port()
    [under_way] = {"reviews", "ratings"} - {over}
    assert issued(get(port, f"/{under_way}"))
    assert set_cookies(get(port, f"/{over}")) == []
    assert set_cookies(get(port, f"/{over}", back(OURS))) == []


@pytest.fixture
def apart(two, cookie):
    """The same two, with a cookie for each."""
    two[1]["hashOn"] = [{"httpCookie": {**cookie, "name": "ratings-id"}}]
    return two


def test_two_releases_with_a_cookie_each_divide_newcomers_each_for_itself(start, policy, apart):
    port = start(policy, concurrency=1).port()
    answers = [get(port) for _ in range(200)]
    both = Counter((answer.headers["x-reviews"], answer.headers["x-ratings"]) for answer in answers)
    assert set(both) == {(reviews, ratings) for reviews in ("v1", "v2") for ratings in ("v1", "v2")}
    assert all(20 <= count <= 80 for count in both.values()), both
    for answer in answers[:40]:
        cookies = [line.partition(";")[0] for line in set_cookies(answer)]
        assert sorted(cookie.partition("=")[0] for cookie in cookies) == ["gray-id", "ratings-id"]
        again = get(port, "/", {"cookie": "; ".join(cookies)})
        for name in ("x-reviews", "x-ratings"):
            assert again.headers[name] == answer.headers[name]
        assert set_cookies(again) == []


def test_it_is_not_taken_back_while_another_release_reads_it(start, policy, two):
    weigh(two[0], 100, 0)
    two[1]["hashOn"] = [{"httpCookie": {"name": "gray-id"}}]
    port = start(policy).port()
    assert set_cookies(get(port)) == []
    ids = made(int(time.time()), 40)
    answers = [get(port, "/", back(value)) for value in ids]
    assert [set_cookies(answer) for answer in answers] == [[]] * 40
    assert {answer.headers["x-reviews"] for answer in answers} == {"v1"}
    assert {answer.headers["x-ratings"] for answer in answers} == {"v1", "v2"}


def test_when_both_have_ended_it_is_taken_back_once(start, policy, two):
    for release in two:
        weigh(release, 100, 0)
    port = start(policy).port()
    assert set_cookies(get(port)) == []
    assert set_cookies(get(port, "/", back(OURS))) == ["gray-id=; Max-Age=0; Path=/"]


def test_a_release_with_a_cookie_of_another_name_does_not_keep_it(start, policy, apart):
    weigh(apart[0], 100, 0)
    lines = set_cookies(get(start(policy).port(), "/", back(OURS)))
    assert "gray-id=; Max-Age=0; Path=/" in lines
    assert [line for line in lines if re.match(f"ratings-id={ID}; ", line)]
    assert len(lines) == 2


def test_before_the_start_all_have_the_default_and_get_cookies(start, policy, release):
    weigh(release, 1, 99)
    release["startsAt"] = NEVER
    release["versions"][1]["allow"] = ["bob"]
    envoy = start(policy)
    assert set(newcomers(envoy, 50).values()) == {"v1"}
    assert set(returning(envoy, [*made(int(time.time()), 50), *FOREIGN]).values()) == {"v1"}
    users = drive(envoy.port(), [Request("/", {"x-user-id": f"user-{number}"}) for number in range(50)])
    assert {answer.version for answer in users} == {"v1"}


def test_before_the_start_overrides_work(start, policy, release):
    release["startsAt"] = NEVER
    release["versions"][1]["allow"] = ["bob", OURS]
    envoy = start(policy)
    assert get(envoy.port(), "/", {"x-user-id": "alice", "x-tester": "true"}).version == "v2"
    assert get(envoy.port(), "/", {"x-user-id": "bob"}).version == "v2"
    assert get(envoy.port(), "/", back(OURS)).version == "v2"
    assert [counted(envoy, reason, version="v2") for reason in ("match", "allowed")] == [1, 2]


def test_a_cookie_from_before_the_start_stays_on_the_default(start, policy, release):
    weigh(release, 10, 90)
    began = int(time.time()) - 3600
    release["startsAt"] = utc(began)
    envoy = start(policy)
    old = [*made(began - 1, 50), *made(began - 86_400, 50), *made(0, 10)]
    assert set(returning(envoy, old).values()) == {"v1"}
    assert counted(envoy, "existing-session", version="v1") == len(old)
    new = [*made(began, 50), *made(began + 60, 50)]
    assert Counter(returning(envoy, new).values())["v2"] > 60
    assert counted(envoy, "sticky") == len(new)
    assert counted(envoy, "existing-session") == len(old)


def test_a_cookie_from_before_the_start_follows_the_schedule_to_its_end(start, policy, release):
    began = int(time.time()) - 3600
    release["startsAt"] = utc(began)
    envoy = start(policy, delivery="ecds")
    old = made(began - 60, 50)
    assert set(returning(envoy, old).values()) == {"v1"}
    release["schedule"] = [{"at": utc(int(time.time()) + 3), "weights": {"v1": 0, "v2": 100}}]
    assert envoy.publish(policy) == ""
    assert set(returning(envoy, old).values()) == {"v1"}
    until_all(lambda: set(returning(envoy, old).values()) == {"v2"}, what="all on v2", times=5)
    assert set_cookies(get(envoy.port(), "/", back(old[0]))) == ["gray-id=; Max-Age=0; Path=/"]


def test_a_foreign_value_or_another_key_is_no_session_from_before(start, policy, release):
    weigh(release, 1, 9_999)
    began = int(time.time()) - 3600
    release["startsAt"] = utc(began)
    [old] = made(began - 60, 1)
    envoy = start(policy)
    assert get(envoy.port(), "/", {"x-user-id": "alice", **back(old)}).version == "v2"
    assert set(returning(envoy, FOREIGN).values()) == {"v2"}
    assert counted(envoy, "existing-session") == 0


def test_overrides_count_more_than_a_session_from_before(start, policy, release):
    began = int(time.time()) - 3600
    release["startsAt"] = utc(began)
    old = made(began - 60, 2)
    release["versions"][1]["allow"] = old[:1]
    envoy = start(policy)
    assert get(envoy.port(), "/", back(old[0])).version == "v2"
    assert get(envoy.port(), "/", {**back(old[1]), "x-tester": "true"}).version == "v2"
    assert get(envoy.port(), "/", back(old[1])).version == "v1"
    assert [counted(envoy, reason) for reason in ("allowed", "match", "existing-session")] == [1, 1, 1]


def test_when_the_start_comes_those_who_were_there_stay_and_newcomers_are_split(start, policy, release):
    weigh(release, 1, 99)
    release["startsAt"] = NEVER
    envoy = start(policy, delivery="ecds", concurrency=1)
    before = newcomers(envoy, 50)
    release["startsAt"] = utc(int(time.time()) + 2)
    assert envoy.publish(policy) == ""
    until(lambda: get(envoy.port()).version == "v2", what="newcomers on v2")
    assert returning(envoy, before) == dict.fromkeys(before, "v1")
    after = newcomers(envoy, 100)
    assert Counter(after.values()) == {"v1": 1, "v2": 99}
    assert returning(envoy, after) == after


def test_raising_a_weight_keeps_every_cookie_and_moves_nobody_back(start, policy, release):
    envoy = start(policy, delivery="ecds", concurrency=1)
    ids = newcomers(envoy, 200)
    assert Counter(ids.values()) == {"v1": 180, "v2": 20}
    weigh(release, 70, 30)
    assert envoy.publish(policy) == ""
    until(lambda: returning(envoy, ids) != ids, what="some on v2")
    after = returning(envoy, ids)
    assert [after[value] for value, version in ids.items() if version == "v2"] == ["v2"] * 20
    assert 35 < Counter(after.values())["v2"] < 85
    port = envoy.port()
    assert [value for value in ids if set_cookies(get(port, "/", back(value)))] == []
    assert Counter(newcomers(envoy, 100).values()) == {"v1": 70, "v2": 30}


def test_the_end_of_a_release_takes_back_what_it_issued_and_then_there_is_peace(start, policy, release):
    envoy = start(policy, delivery="ecds", concurrency=1)
    [value] = newcomers(envoy, 1)
    weigh(release, 0, 100)
    assert envoy.publish(policy) == ""
    taken = until(lambda: set_cookies(get(envoy.port(), "/", back(value))), what="taken back")
    assert taken == ["gray-id=; Max-Age=0; Path=/"]
    assert set_cookies(get(envoy.port())) == []
