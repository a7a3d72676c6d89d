"""A user without a key gets a cookie that keeps the version for as long as the release needs it."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from harness.client import get, get2
from harness.config import route
from harness.load import Request, drive

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
OURS = "6745ab00-0123456789abcdef"


@pytest.fixture
def release(policy):
    """The release, whose users have a key in a header or else get a cookie."""
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
    """Returns ids in graygate's format that were issued at that time."""
    return [f"{seconds:08x}-{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, count + 1)]


def set_cookies(answer):
    return answer.headers.get_all("set-cookie", [])


def issued(answer):
    """Returns the id in the only cookie that the response sets."""
    [line] = set_cookies(answer)
    found = re.fullmatch(rf"gray-id=({ID})(; .*)?", line)
    assert found, line
    return found[1]


def back(value):
    """Returns the headers of a client that sends this cookie among others."""
    return {"cookie": f"theme=dark; gray-id={value}; x=1"}


def newcomers(envoy, count):
    """Sends one request for each of several new users. Returns their ids with the version of each."""
    port = envoy.port()
    answers = [get(port) for _ in range(count)]
    return {issued(answer): answer.version for answer in answers}


def returning(envoy, ids):
    """Sends one more request for each of these users. Returns their ids with the version of each."""
    answers = drive(envoy.port(), [Request("/", back(value)) for value in ids])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(ids, (answer.version for answer in answers), strict=True))


def counted(envoy, reason, **tags):
    return envoy.counter("graygate_assignments_total", reason=reason, **tags)


def test_a_cookie_has_its_attributes_in_order_and_the_time_in_it(start, policy, cookie):
    cookie.update(ATTRIBUTES)
    envoy = start(policy)
    for ask in (get, get2):
        before = time.time()
        [line] = set_cookies(ask(envoy.port()))
        after = time.time()
        found = re.fullmatch(f"gray-id={ID}; Max-Age=86400; {re.escape(AS_SENT)}", line)
        assert found, line
        assert before - 2 <= int(found[1], 16) <= after + 2


def test_one_worker_splits_new_users_exactly_and_each_id_keeps_its_version(start, policy, release):
    envoy = start(policy, concurrency=1)
    ids = newcomers(envoy, 100)
    assert Counter(ids.values()) == {"v1": 90, "v2": 10}
    assert counted(envoy, "rotation") == 100
    assert returning(envoy, ids) == ids
    assert counted(envoy, "sticky", version="v1") == 90
    assert counted(envoy, "sticky", version="v2") == 10


def test_a_new_user_keeps_the_version_when_envoy_follows_a_redirect(start, policy, release, v1, v2):
    weigh(release, 50, 50)
    for upstream in (v1, v2):
        upstream.answer(302, [("location", "http://reviews/there")], path="/moved")
    by_version = [route("reviews-v2", "5s", ("x-gray-version", "v2")), route("reviews-v1", "5s")]
    for each in by_version:
        each["route"]["internal_redirect_policy"] = {"redirect_response_codes": [302]}
    envoy = start(policy, routes=by_version, concurrency=1)
    for _ in range(20):
        answer = get(envoy.port(), "/moved")
        assert answer.status == 200
        assert returning(envoy, [issued(answer)]) == {issued(answer): answer.version}
    seen = {upstream.name: upstream.seen("/moved") for upstream in (v1, v2)}
    assert seen == {upstream.name: upstream.seen("/there") for upstream in (v1, v2)}
    assert counted(envoy, "rotation") == 20


def test_the_apps_cookies_are_kept_beside_the_filters(start, policy, release, v1, v2):
    own = ["session=abc; Path=/", "gray=1"]
    for upstream in (v1, v2):
        upstream.answer(headers=[("set-cookie", line) for line in own])
    port = start(policy).port()
    for ask in (get, get2):
        lines = set_cookies(ask(port))
        assert [line for line in lines if not line.startswith("gray-id=")] == own
        assert len(lines) == 3
        assert set_cookies(ask(port, "/", {"x-user-id": "alice"})) == own


def test_the_cookie_is_removed_when_the_release_has_ended(start, policy, release, cookie):
    cookie.update(ATTRIBUTES)
    weigh(release, 100, 0)
    port = start(policy).port()
    assert set_cookies(get(port)) == []
    gone = [f"gray-id=; Max-Age=0; {AS_SENT}"]
    for value in [OURS, *made(int(time.time()), 3)]:
        assert set_cookies(get(port, "/", back(value))) == gone
        assert set_cookies(get2(port, "/", back(value))) == gone
    assert set_cookies(get(port, "/", {**back(OURS), "x-user-id": "alice"})) == gone


def test_a_cookie_from_before_the_start_keeps_the_default_version(start, policy, release):
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
