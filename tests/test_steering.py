"""Each mechanism that tells the routes a request's version, and the header edits of versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.tool import explain

USERS = [f"user-{number}" for number in range(300)]
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
class Mechanism:
    """The `steer` of a release and the routes that evaluate it."""

    steer: dict[str, str]
    routes: list[dict[str, Any]]


MECHANISMS = {
    "header": Mechanism({"header": "x-gray-version"}, by_name()),
    "clusterHeader": Mechanism({"clusterHeader": "x-gray-cluster"}, by_cluster_header()),
    "randomValueHeader": Mechanism({"randomValueHeader": "x-gray-random"}, by_random_value()),
    "filterState": Mechanism({"filterState": "envoy.string"}, by_filter_state()),
}
every_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)


@pytest.fixture
def steered(start, policy):
    """`envoy = steered(mechanism)`: an Envoy whose release and routes use this mechanism."""

    def start_steered(mechanism, **options):
        policy["releases"][0]["steer"] = mechanism.steer
        return start(policy, **{"routes": mechanism.routes, **options})

    return start_steered


@pytest.fixture
def random(start, policy):
    """`envoy = random(70, 30, versions=False)`: an Envoy with these weights in its route and in its versions."""

    def start_random(v1, v2, *, versions=True, **options):
        release = policy["releases"][0]
        release["steer"] = MECHANISMS["randomValueHeader"].steer
        if versions:
            weigh(release, v1, v2)
        else:
            release.pop("versions", None)
        return start(policy, routes=by_random_value(v1, v2), **options)

    return start_random


def weigh(release, v1, v2):
    for version, weight in zip(release["versions"], (v1, v2), strict=True):
        version["weight"] = weight


def by_user(envoy, users=USERS):
    """Returns the version that each user got."""
    answers = drive(envoy.port(), [Request("/", {"x-user-id": user}) for user in users])
    assert {answer.status for answer in answers} == {200}
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def values(upstream, name, path="/"):
    """Returns the values of this header in the latest request for this path."""
    return [value for key, value in upstream.last_headers_of(path) if key == name.encode()]


@every_mechanism
def test_users_are_split_by_weight_stay_on_their_version_and_match_explain(steered, policy, tmp_path, mechanism):
    envoy = steered(mechanism)
    versions = by_user(envoy)
    assert set(versions.values()) == {"v1", "v2"}
    assert by_user(envoy) == versions
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert versions == {user: line["assignments"][0]["version"] for user, line in zip(USERS, said, strict=True)}


def test_a_response_names_its_version_if_the_policy_sets_response_header(steered, policy, v1, v2):
    for upstream in (v1, v2):
        upstream.answer(headers=[("x-served-version", "the app's own word")])
    policy["releases"][0]["responseHeader"] = "x-served-version"
    port = steered(MECHANISMS["header"]).port()
    for headers, version in [(ALICE, "v1"), (TESTER, "v2")]:
        answer = get(port, "/", headers)
        assert (answer.version, answer.headers.get_all("x-served-version")) == (version, [version])


def test_a_version_edits_the_headers_of_its_requests(steered, policy, v1, v2):
    edits = {"set": {"X-A": "b"}, "add": {"x-c": "d"}, "remove": ["X-E", "x-absent"]}
    policy["releases"][0]["versions"][1]["headers"] = {"request": edits}
    port = steered(MECHANISMS["header"]).port()
    sent = [("x-a", "1"), ("x-a", "2"), ("x-c", "own"), ("x-e", "1"), ("x-e", "2"), ("x-g", "kept")]
    get(port, "/all", [*TESTER.items(), *sent])
    got = [values(v2, name, "/all") for name in ("x-a", "x-c", "x-e", "x-g")]
    assert got == [[b"b"], [b"own", b"d"], [], [b"kept"]]
    get(port, "/none", TESTER)
    assert [values(v2, name, "/none") for name in ("x-a", "x-c", "x-e")] == [[b"b"], [b"d"], []]
    get(port, "/all", [*ALICE.items(), *sent])
    got = [values(v1, name, "/all") for name in ("x-a", "x-c", "x-e", "x-g")]
    assert got == [[b"1", b"2"], [b"own"], [b"1", b"2"], [b"kept"]]


def test_a_version_edits_the_headers_of_its_responses(steered, policy, v1, v2):
    edits = {"set": {"x-f": "g"}, "add": {"x-h": "i"}, "remove": ["x-internal", "x-absent"]}
    policy["releases"][0]["versions"][1]["headers"] = {"response": edits}
    port = steered(MECHANISMS["header"]).port()

    def got(headers):
        answer = get(port, "/", headers)
        return [answer.headers.get_all(name) for name in ("x-f", "x-h", "x-internal")]

    assert got(TESTER) == [["g"], ["i"], None]
    for upstream in (v1, v2):
        upstream.answer(headers=[("x-f", "1"), ("x-f", "2"), ("x-h", "own"), ("x-internal", "1")])
    assert got(TESTER) == [["g"], ["own", "i"], None]
    assert got(ALICE) == [["1", "2"], ["own"], ["1"]]


def test_the_apps_server_header_is_removed_if_envoy_does_not_overwrite_it(steered, policy, v2):
    policy["releases"][0]["versions"][1]["headers"] = {"response": {"remove": ["server"]}}
    v2.answer(headers=[("server", "secret/1.0")])
    envoy = steered(MECHANISMS["header"], hcm={"server_header_transformation": "PASS_THROUGH"})
    assert get(envoy.port(), "/", TESTER).headers["server"] is None


def test_a_random_value_is_the_hash_of_the_key(random, v1, v2):
    envoy = random(90, 10, versions=False)
    for user, remainder in REMAINDERS.items():
        version = get(envoy.port(), "/", {"x-user-id": user}).version
        upstream = {"v1": v1, "v2": v2}[str(version)]
        [value] = values(upstream, "x-gray-random")
        assert value.isdigit()
        assert value == str(int(value)).encode()
        assert int(value) < 2**64
        assert int(value) % 10_000 == remainder, user


def test_random_values_without_a_key_split_each_round_exactly_by_weight(random):
    envoy = random(4, 3, versions=False, concurrency=1)
    answers = drive(envoy.port(), [Request("/")] * 21, connections=1)
    got = [answer.version for answer in answers]
    assert [got[start : start + 7].count("v2") for start in range(0, 21, 7)] == [3] * 3


def test_overrides_by_a_random_value_work_for_weights_of_any_total(random, policy, tmp_path):
    policy["releases"][0]["versions"][1]["allow"] = USERS[:20]
    envoy = random(4, 3)
    assert set(by_user(envoy, USERS[:20]).values()) == {"v2"}
    versions = by_user(envoy, USERS[:200])
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS[:200]])
    assert list(versions.values()) == [line["assignments"][0]["version"] for line in said]
    testers = drive(envoy.port(), [Request("/", {"x-user-id": user, "x-tester": "true"}) for user in USERS[:200]])
    assert {answer.version for answer in testers} == {"v2"}


def test_filter_state_names_the_version_only_if_the_release_matches_the_request(start, policy):
    policy["releases"][0].update(steer=MECHANISMS["filterState"].steer, match=[{"uri": {"prefix": "/api"}}])
    unsteered = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    port = start(policy, routes=by_filter_state(unsteered)).port()
    assert get(port, "/api", ALICE).version == "v1"
    assert get(port, "/api", TESTER).version == "v2"
    assert get(port, "/other", TESTER).status == 404


def test_filter_state_is_set_for_each_request_of_a_connection(steered):
    envoy = steered(MECHANISMS["filterState"])
    requests = [Request("/", TESTER), Request("/", ALICE)] * 20
    answers = drive(envoy.port(), requests, connections=1)
    assert [answer.version for answer in answers] == ["v2", "v1"] * 20
