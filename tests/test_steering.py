"""Every way of telling the routes which version a request gets, and what else a version does to its messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from harness.client import get, get2
from harness.config import route
from harness.load import Request, drive
from harness.tool import explain
from harness.wait import until, until_all

USERS = [f"user-{number}" for number in range(2_000)]
ALICE = {"x-user-id": "alice"}
TESTER = {**ALICE, "x-tester": "true"}
# XXH64 of the key, seeded with XXH64 of "reviews", modulo 10,000: computed with PyPI's xxhash.
REMAINDERS = {"alice": 6405, "user-12345": 2823, "jane.doe@example.com": 1839, "1000000007": 4724}


def on(match: dict[str, Any], **action: Any) -> dict[str, Any]:
    return {"match": {"prefix": "/", **match}, "route": {"timeout": "5s", **action}}


def with_header(name: str, **matcher: Any) -> dict[str, Any]:
    return {"headers": [{"name": name, **matcher}]}


DEFAULT = route("reviews-v1", "5s")


def by_name() -> list[dict[str, Any]]:
    return [route(f"reviews-{version}", "5s", ("x-gray-version", version)) for version in ("v1", "v2")] + [DEFAULT]


def by_cluster_header() -> list[dict[str, Any]]:
    return [on(with_header("x-gray-cluster", present_match=True), cluster_header="x-gray-cluster"), DEFAULT]


def by_random_value(v1: int = 90, v2: int = 10) -> list[dict[str, Any]]:
    clusters = [{"name": "reviews-v1", "weight": v1}, {"name": "reviews-v2", "weight": v2}]
    weighted = {"clusters": clusters, "header_name": "x-gray-random"}
    return [on(with_header("x-gray-random", present_match=True), weighted_clusters=weighted), DEFAULT]


def by_filter_state(last: dict[str, Any] = DEFAULT) -> list[dict[str, Any]]:
    def state(version: str) -> dict[str, Any]:
        return {"filter_state": [{"key": "envoy.string", "string_match": {"exact": version}}]}

    return [*(on(state(version), cluster=f"reviews-{version}") for version in ("v1", "v2")), last]


@dataclass(frozen=True)
class Way:
    """`to_v2` is what a client would have to send to get v2, if it were believed."""

    steer: dict[str, str]
    routes: list[dict[str, Any]]
    to_v2: str = ""

    @property
    def header(self) -> str:
        return next(iter(self.steer.values()))


WAYS = {
    "header": Way({"header": "x-gray-version"}, by_name(), "v2"),
    "clusterHeader": Way({"clusterHeader": "x-gray-cluster"}, by_cluster_header(), "reviews-v2"),
    "randomValueHeader": Way({"randomValueHeader": "x-gray-random"}, by_random_value(), "99"),
    "filterState": Way({"filterState": "envoy.string"}, by_filter_state()),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
every_header = pytest.mark.parametrize("way", [way for way in WAYS.values() if way.to_v2], ids=list(WAYS)[:3])


@pytest.fixture
def steered(start, policy):
    """`envoy = steered(way)`: the release steers this way, and the routes follow it."""

    def start_steered(way, **options):
        policy["releases"][0]["steer"] = way.steer
        return start(policy, **{"routes": way.routes, **options})

    return start_steered


@pytest.fixture
def random(start, policy):
    """`envoy = random(70, 30, versions=False)`: the route's weights, and the release's if it has versions."""

    def start_random(v1, v2, *, versions=True, **options):
        release = policy["releases"][0]
        release["steer"] = WAYS["randomValueHeader"].steer
        if versions:
            weigh(release, v1, v2)
        else:
            release.pop("versions", None)
        return start(policy, routes=by_random_value(v1, v2), **options)

    return start_random


with_and_without_versions = pytest.mark.parametrize("versions", [True, False], ids=["versions", "no-versions"])


def weigh(release, v1, v2):
    for version, weight in zip(release["versions"], (v1, v2), strict=True):
        version["weight"] = weight


def by_user(envoy, users=USERS):
    """The version that each user got."""
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def share_of_v2(versions):
    return Counter(versions.values())["v2"] / len(versions)


def values(upstream, name, path="/"):
    """What the latest request on this path carried under this name."""
    return [value for key, value in upstream.last_headers_of(path) if key == name.encode()]


@every_way
def test_users_are_split_by_weight_and_stay_and_are_where_explain_says(steered, policy, tmp_path, way):
    envoy = steered(way)
    versions = by_user(envoy)
    assert abs(share_of_v2(versions) - 0.10) < 0.03
    assert by_user(envoy) == versions
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert versions == {user: line["assignments"][0]["version"] for user, line in zip(USERS, said, strict=True)}


@every_way
def test_a_match_and_an_allowed_key_override_the_weight(steered, policy, way):
    policy["releases"][0]["versions"][1]["allow"] = ["bob"]
    envoy = steered(way)
    assert get(envoy.port(), "/", ALICE).version == "v1"
    assert get(envoy.port(), "/", TESTER).version == "v2"
    assert get(envoy.port(), "/", {"x-user-id": "bob"}).version == "v2"
    for reason in ("match", "allowed"):
        assert envoy.counter("graygate_assignments_total", version="v2", reason=reason) == 1


@every_way
def test_a_denied_key_gets_the_default(steered, policy, way):
    envoy = steered(way)
    denied = [user for user, version in by_user(envoy, USERS[:200]).items() if version == "v2"]
    policy["releases"][0]["versions"][1]["deny"] = denied
    envoy = steered(way)
    assert set(by_user(envoy, USERS[:200]).values()) == {"v1"}
    assert envoy.counter("graygate_assignments_total", version="v1", reason="denied") == len(denied) > 0


@every_way
def test_a_version_that_is_not_ready_falls_back_to_the_default(steered, v2, way):
    envoy = steered(way)
    assert get(envoy.port(), "/", TESTER).version == "v2"
    v2.refuse()
    until_all(lambda: get(envoy.port(), "/", TESTER).version == "v1", what="the tester on v1")
    assert set(by_user(envoy, USERS[:200]).values()) == {"v1"}
    assert envoy.counter("graygate_assignments_total", version="v1", reason="fallback") > 0
    v2.accept()
    until_all(lambda: get(envoy.port(), "/", TESTER).version == "v2", what="the tester back on v2")


@every_header
@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_a_spoofed_header_is_overwritten(steered, v1, way, ask):
    envoy = steered(way)
    assert ask(envoy.port(), "/", ALICE).version == "v1"
    [honest] = values(v1, way.header)
    for spoofed in [way.to_v2, "", "nonsense", "-1", b"\xff\xfe"]:
        assert ask(envoy.port(), "/", {**ALICE, way.header: spoofed}).version == "v1", spoofed
        assert values(v1, way.header) == [honest], spoofed


@every_header
def test_repeated_spoofed_headers_are_overwritten_all(steered, v1, way):
    envoy = steered(way)
    twice = [(way.header, way.to_v2), (way.header.title(), way.to_v2)]
    assert get(envoy.port(), "/", [*ALICE.items(), *twice]).version == "v1"
    [honest] = values(v1, way.header)
    assert honest != way.to_v2.encode()


@every_header
@pytest.mark.parametrize("condition", ["match", "skip"])
def test_a_spoofed_header_is_removed_where_the_release_is_not_for_the_request(steered, policy, v1, way, condition):
    prefix = {"match": "/api", "skip": "/other"}[condition]
    policy["releases"][0][condition] = [{"uri": {"prefix": prefix}}]
    envoy = steered(way)
    assert get(envoy.port(), "/api/x", TESTER).version == "v2"
    assert get(envoy.port(), "/other", {**TESTER, way.header: way.to_v2}).version == "v1"
    assert values(v1, way.header, "/other") == []


@every_way
def test_a_request_that_is_skipped_has_no_part_in_the_release(steered, policy, v1, way):
    static = {"uri": {"prefix": "/static"}, "method": {"exact": "GET"}}
    release = policy["releases"][0]
    release.update(skip=[static, {"headers": {"x-bot": {}}}], responseHeader="x-served-version")
    release["versions"][1]["headers"] = {"request": {"set": {"x-edited": "yes"}}}
    envoy = steered(way)
    skipped = [get(envoy.port(), "/static/a", TESTER), get(envoy.port(), "/", {**TESTER, "x-bot": "1"})]
    assert [answer.version for answer in skipped] == ["v1", "v1"]
    assert [answer.headers["x-served-version"] for answer in skipped] == [None, None]
    assert values(v1, "x-edited") == values(v1, "x-edited", "/static/a") == []
    assert envoy.counter("graygate_assignments_total") == 0
    assert get(envoy.port(), "/static/a", TESTER, method="POST").version == "v2"
    assert envoy.counter("graygate_assignments_total") == 1


@every_way
def test_a_response_names_its_version_if_the_policy_wants_it(steered, policy, v1, v2, way):
    for upstream in (v1, v2):
        upstream.answer(headers=[("x-served-version", "the app's own word")])
    port = steered(way).port()
    assert get(port, "/", TESTER).headers.get_all("x-served-version") == ["the app's own word"]
    policy["releases"][0]["responseHeader"] = "x-served-version"
    port = steered(way).port()
    for headers, version in [(ALICE, "v1"), (TESTER, "v2")]:
        answer = get(port, "/", headers)
        assert (answer.version, answer.headers.get_all("x-served-version")) == (version, [version])
    v2.refuse()
    until_all(lambda: get(port, "/", TESTER).headers["x-served-version"] == "v1", what="the fallback named")


@every_way
def test_a_version_edits_the_headers_of_its_requests(steered, policy, v1, v2, way):
    edits = {"set": {"X-A": "b"}, "add": {"x-c": "d"}, "remove": ["X-E", "x-absent"]}
    policy["releases"][0]["versions"][1]["headers"] = {"request": edits}
    port = steered(way).port()
    sent = [("x-a", "1"), ("x-a", "2"), ("x-c", "own"), ("x-e", "1"), ("x-e", "2"), ("x-g", "kept")]
    get(port, "/all", [*TESTER.items(), *sent])
    got = [values(v2, name, "/all") for name in ("x-a", "x-c", "x-e", "x-g")]
    assert got == [[b"b"], [b"own", b"d"], [], [b"kept"]]
    get(port, "/none", TESTER)
    assert [values(v2, name, "/none") for name in ("x-a", "x-c", "x-e")] == [[b"b"], [b"d"], []]
    get(port, "/all", [*ALICE.items(), *sent])
    got = [values(v1, name, "/all") for name in ("x-a", "x-c", "x-e", "x-g")]
    assert got == [[b"1", b"2"], [b"own"], [b"1", b"2"], [b"kept"]]


@every_way
def test_a_version_edits_the_headers_of_its_responses(steered, policy, v1, v2, way):
    edits = {"set": {"x-f": "g"}, "add": {"x-h": "i"}, "remove": ["x-internal", "x-absent"]}
    policy["releases"][0]["versions"][1]["headers"] = {"response": edits}
    port = steered(way).port()

    def got(headers):
        answer = get(port, "/", headers)
        return [answer.headers.get_all(name) for name in ("x-f", "x-h", "x-internal")]

    assert got(TESTER) == [["g"], ["i"], None]
    for upstream in (v1, v2):
        upstream.answer(headers=[("x-f", "1"), ("x-f", "2"), ("x-h", "own"), ("x-internal", "1")])
    assert got(TESTER) == [["g"], ["own", "i"], None]
    assert got(ALICE) == [["1", "2"], ["own"], ["1"]]


def test_the_apps_name_is_removed_where_envoy_does_not_write_its_own(steered, policy, v2):
    policy["releases"][0]["versions"][1]["headers"] = {"response": {"remove": ["server"]}}
    v2.answer(headers=[("server", "secret/1.0")])
    envoy = steered(WAYS["header"], hcm={"server_header_transformation": "PASS_THROUGH"})
    assert get(envoy.port(), "/", TESTER).headers["server"] is None


def test_a_request_that_falls_back_gets_the_edits_of_the_version_it_gets(steered, policy, v1, v2):
    for version in policy["releases"][0]["versions"]:
        mark = {"set": {"x-edited-for": version["name"]}}
        version["headers"] = {"request": mark, "response": mark}
    port = steered(WAYS["header"]).port()
    assert get(port, "/", TESTER).headers["x-edited-for"] == "v2"
    v2.refuse()
    until_all(lambda: get(port, "/", TESTER).version == "v1", what="the tester on v1")
    assert get(port, "/", TESTER).headers.get_all("x-edited-for") == ["v1"]
    assert values(v1, "x-edited-for") == [b"v1"]


@pytest.fixture
def clusters(policy):
    """A policy that steers by the cluster, and whose upstreams have names unlike their clusters'."""
    release = policy["releases"][0]
    release["steer"] = WAYS["clusterHeader"].steer
    upstreams = {name: policy["upstreams"][f"reviews-{version}"] for name, version in [("old", "v1"), ("new", "v2")]}
    for version, upstream in zip(release["versions"], upstreams, strict=True):
        version["upstream"] = upstream
    policy.update(upstreams=upstreams, gates=[], probes={})
    return policy


def test_a_cluster_header_carries_the_name_of_the_cluster(start, clusters, v1, v2):
    envoy = start(clusters, routes=by_cluster_header())
    assert [get(envoy.port(), "/", headers).version for headers in (ALICE, TESTER)] == ["v1", "v2"]
    assert values(v1, "x-gray-cluster") == [b"reviews-v1"]
    assert values(v2, "x-gray-cluster") == [b"reviews-v2"]


def test_a_trusted_cluster_header_names_a_version_by_its_cluster(start, clusters, v1, v2):
    """A cluster that is no version's is not passed on: another service's must not be reached."""
    clusters["releases"][0]["trustIncoming"] = True
    envoy = start(clusters, routes=by_cluster_header())

    def asked(cluster):
        return get(envoy.port(), "/", {**ALICE, "x-gray-cluster": cluster}).version

    def counted(version, reason):
        return envoy.counter("graygate_assignments_total", version=version, reason=reason)

    assert asked("reviews-v2") == "v2"
    assert values(v2, "x-gray-cluster") == [b"reviews-v2"]
    assert counted("v2", "incoming") == 1
    assert asked("ratings-v2") == "v1"
    assert values(v1, "x-gray-cluster") == [b"reviews-v1"]
    assert counted("v1", "no-such-version") == 1
    assert asked("") == "v1"
    assert values(v1, "x-gray-cluster") == [b"reviews-v1"]
    assert counted("v1", "sticky") == 1


@with_and_without_versions
def test_a_random_value_is_the_hash_of_the_key(random, v1, v2, versions):
    envoy = random(90, 10, versions=versions)
    for user, remainder in REMAINDERS.items():
        version = get(envoy.port(), "/", {"x-user-id": user}).version
        upstream = {"v1": v1, "v2": v2}[str(version)]
        [value] = values(upstream, "x-gray-random")
        assert value.isdigit()
        assert value == str(int(value)).encode()
        assert int(value) < 2**64
        assert int(value) % 10_000 == remainder, user


@with_and_without_versions
def test_raising_the_weight_of_the_route_moves_nobody_back(random, versions):
    before, after = (by_user(random(*weights, versions=versions)) for weights in [(90, 10), (70, 30)])
    assert abs(share_of_v2(before) - 0.10) < 0.03
    assert abs(share_of_v2(after) - 0.30) < 0.05
    assert not [user for user in USERS if before[user] == "v2" and after[user] == "v1"]


@with_and_without_versions
def test_users_stay_where_the_routes_weights_put_them(random, versions):
    envoy = random(90, 10, versions=versions)
    versions_before = by_user(envoy)
    assert abs(share_of_v2(versions_before) - 0.10) < 0.03
    assert by_user(envoy) == versions_before


@with_and_without_versions
@pytest.mark.parametrize("weights", [(90, 10), (9, 1), (4, 3)], ids=str)
def test_random_values_without_a_key_are_exact_over_each_total(random, versions, weights):
    envoy = random(*weights, versions=versions, concurrency=1)
    total = sum(weights)
    answers = drive(envoy.port(), [Request("/")] * (3 * total), connections=1)
    got = [answer.version for answer in answers]
    assert [got[start : start + total].count("v2") for start in range(0, 3 * total, total)] == [weights[1]] * 3


@with_and_without_versions
def test_random_values_without_a_key_are_numbers(random, v1, v2, versions):
    envoy = random(50, 50, versions=versions)
    seen = set()
    for _ in range(20):
        upstream = {"v1": v1, "v2": v2}[str(get(envoy.port()).version)]
        [value] = values(upstream, "x-gray-random")
        assert value.isdigit()
        assert int(value) < 2**64
        seen.add(value)
    assert len(seen) > 1


def test_overrides_by_a_random_value_work_for_weights_of_any_total(random, policy, tmp_path):
    policy["releases"][0]["versions"][1]["allow"] = USERS[:20]
    envoy = random(4, 3)
    assert set(by_user(envoy, USERS[:20]).values()) == {"v2"}
    versions = by_user(envoy, USERS[:200])
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS[:200]])
    assert list(versions.values()) == [line["assignments"][0]["version"] for line in said]
    testers = drive(envoy.port(), [Request("/", {"x-user-id": user, "x-tester": "true"}) for user in USERS[:200]])
    assert {answer.version for answer in testers} == {"v2"}


def test_filter_state_names_each_version_and_none_where_the_release_is_not_for_the_request(start, policy):
    policy["releases"][0].update(steer=WAYS["filterState"].steer, match=[{"uri": {"prefix": "/api"}}])
    unsteered = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    port = start(policy, routes=by_filter_state(unsteered)).port()
    assert get(port, "/api", ALICE).version == "v1"
    assert get(port, "/api", TESTER).version == "v2"
    assert get(port, "/other", TESTER).status == 404


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_filter_state_adds_no_header_to_the_request(steered, v1, v2, ask):
    envoy = steered(WAYS["filterState"], plain=True)
    assert ask(envoy.port("plain"), "/plain", TESTER).version == "v1"
    assert ask(envoy.port(), "/", TESTER).version == "v2"

    def names(upstream, path):
        return sorted(name for name, _ in upstream.last_headers_of(path))

    assert names(v2, "/") == names(v1, "/plain")


def test_filter_state_is_set_anew_for_each_request_of_a_connection(steered):
    envoy = steered(WAYS["filterState"])
    requests = [Request("/", TESTER), Request("/", ALICE)] * 20
    answers = drive(envoy.port(), requests, connections=1)
    assert [answer.version for answer in answers] == ["v2", "v1"] * 20


@pytest.mark.parametrize("name", ["clusterHeader", "filterState"])
def test_a_raised_weight_takes_effect_with_no_restart_and_moves_nobody_back(steered, policy, name):
    envoy = steered(WAYS[name], delivery="ecds")
    before = by_user(envoy)
    weigh(policy["releases"][0], 70, 30)
    assert envoy.publish(policy) == ""
    until(lambda: abs(share_of_v2(by_user(envoy)) - 0.30) < 0.04, what="30 % on v2")
    after = by_user(envoy)
    assert not [user for user in USERS if before[user] == "v2" and after[user] == "v1"]
