"""A version that is worse than the default one is taken out of use, once for all workers, and stays out."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import deepcopy

import pytest

from harness.client import Stream, get
from harness.config import bootstrap, route
from harness.envoy import Envoy
from harness.load import Load, Request, drive
from harness.upstream import Upstream
from harness.users import USERS, by_user, moves, requests_of, share, watch, went_back
from harness.wait import until, until_all

FAILURES = r"failures (\d+\.\d) % of (\d+) requests, above 5 %; v1 (\d+\.\d) % of (\d+)"


def guarded(policy, **rollback):
    """Half of the users on each version, and a rollback that nothing but the requests bear on."""
    for upstream in policy["upstreams"].values():
        del upstream["readinessProbe"]
    policy["gates"] = []
    release = policy["releases"][0]
    release["rollback"] = rollback or {"failurePercent": 5}
    for version in release["versions"]:
        version["weight"] = 50
    return policy


def rollbacks(envoy, **labels):
    return envoy.counter("graygate_rollbacks_total", policy="reviews", release="reviews", **labels)


def responses(envoy, version, result):
    return envoy.counter("graygate_responses_total", release="reviews", version=version, result=result)


def said(envoy):
    """What was logged of rollbacks."""
    return re.findall(r"policy reviews: release reviews: v2 rolled back: (.*)", envoy.logs())


def until_rolled_back(envoy, users=USERS, **options):
    """Under load, and known to all workers."""
    with Load(envoy.port(), requests_of(users), **options):
        until(lambda: rollbacks(envoy, version="v2"), 20, "v2 rolled back")
        until(lambda: set(by_user(envoy, users).values()) == {"v1"}, what="all on v1")
    until_all(lambda: set(by_user(envoy, users[:100]).values()) == {"v1"}, what="all on v1")


def never_rolled_back(envoy):
    """Not within a second, which is four ticks."""
    time.sleep(1)
    assert (rollbacks(envoy), said(envoy)) == (0, [])


def ask_until(envoy, version, times):
    """Users one after the other, until so many more of them were answered by this version."""
    for user in USERS:
        if not times:
            return
        times -= get(envoy.port(), "/", {"x-user-id": user}).version == version
    raise AssertionError(f"too few users: {times} more wanted on {version}")


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_a_version_that_fails_is_rolled_back_on_all_workers_and_said_so_once(start, policy, v2, concurrency):
    envoy = start(guarded(policy), concurrency=concurrency)
    v2.answer(500)
    until_rolled_back(envoy)
    reached = v2.requests
    answers = drive(envoy.port(), requests_of(USERS) + [Request("/")] * 200)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v1")}
    assert v2.requests == reached
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="failures")) == (1, 1)
    (line,) = said(envoy)
    found = re.fullmatch(FAILURES, line)
    assert found, line
    percent, requests, default_percent, default_requests = found.groups()
    assert (percent, default_percent) == ("100.0", "0.0")
    assert 50 <= int(requests) <= reached
    assert int(default_requests) > 0


def test_it_takes_the_minimum_of_requests_over_all_workers_and_no_more(start, policy, v2):
    envoy = start(guarded(policy, failurePercent=5, minimumRequests=60))
    v2.answer(500)
    ask_until(envoy, "v2", 59)
    never_rolled_back(envoy)
    ask_until(envoy, "v2", 1)
    until(lambda: rollbacks(envoy, version="v2"), what="v2 rolled back")
    assert said(envoy)[0].startswith("failures 100.0 % of 60 requests, above 5 %; v1 0.0 % of ")


def test_the_minimum_is_50_unless_given(start, policy, v2):
    envoy = start(guarded(policy))
    v2.answer(500)
    ask_until(envoy, "v2", 49)
    never_rolled_back(envoy)
    ask_until(envoy, "v2", 1)
    until(lambda: rollbacks(envoy, version="v2"), what="v2 rolled back")


def test_a_version_is_not_rolled_back_where_the_default_fails_as_well(start, policy, v1, v2):
    envoy = start(guarded(policy))
    for upstream in (v1, v2):
        upstream.answer(500)
    before = by_user(envoy, USERS[:400])
    never_rolled_back(envoy)
    assert by_user(envoy, USERS[:400]) == before
    assert set(before.values()) == {"v1", "v2"}


def test_a_default_version_of_few_requests_that_fails_alike_spares_the_other(start, policy, v1, v2):
    versions = guarded(policy)["releases"][0]["versions"]
    for version, weight in zip(versions, (5, 95), strict=True):
        version["weight"] = weight
    for upstream in (v1, v2):
        upstream.answer(500, path="/broken")
    envoy = start(policy)
    # For each version every fifth fails.
    requests = [Request(path, {"x-user-id": user}) for user in USERS[:120] for path in [*["/"] * 4, "/broken"]]
    with Load(envoy.port(), requests, rate=200, connections=1) as load:
        until(lambda: len(load.answers) >= len(requests), 20, f"{len(requests)} answers")
    assert responses(envoy, "v2", "failure") > 100
    assert 0 < responses(envoy, "v1", "failure") < 15
    never_rolled_back(envoy)


def test_a_few_failures_below_the_threshold_are_no_reason(start, policy, v2):
    envoy = start(guarded(policy, failurePercent=20))
    v2.answer(500, path="/broken")
    paths = ["/", "/", "/", "/", "/", "/", "/", "/", "/", "/broken"]
    on_v2 = [user for user, version in by_user(envoy).items() if version == "v2"]
    drive(envoy.port(), [Request(path, {"x-user-id": user}) for user in on_v2 for path in paths])
    never_rolled_back(envoy)


def test_overrides_still_reach_a_version_that_is_rolled_back(start, policy, v2):
    release = guarded(policy)["releases"][0]
    release["trustIncoming"] = True
    on_v1 = next(user for user, version in by_user(start(deepcopy(policy))).items() if version == "v1")
    release["versions"][1]["allow"] = [on_v1]
    envoy = start(policy)
    v2.answer(500)
    until_rolled_back(envoy, [user for user in USERS if user != on_v1])
    for headers in ({"x-tester": "true"}, {"x-user-id": on_v1}, {"x-gray-version": "v2"}):
        answer = get(envoy.port(), "/", headers)
        assert (answer.status, answer.version) == (500, "v2"), headers


def test_only_what_fail_on_says_is_a_failure(start, policy, v2):
    envoy = start(guarded(policy, failurePercent=5, failOn=["gateway-error"]))
    v2.answer(500)
    assert set(by_user(envoy).values()) == {"v1", "v2"}
    never_rolled_back(envoy)
    v2.answer(503)
    until_rolled_back(envoy)
    assert rollbacks(envoy, reason="failures") == 1


def test_a_version_that_cannot_be_reached_is_rolled_back(start, policy, v2):
    envoy = start(guarded(policy))
    v2.refuse()
    until_rolled_back(envoy)
    assert rollbacks(envoy, version="v2", reason="failures") == 1


def test_a_version_whose_cluster_is_not_there_is_rolled_back(start, policy):
    guarded(policy)["upstreams"]["reviews-v2"]["cluster"] = "nowhere"
    policy["releases"][0]["steer"] = {"clusterHeader": "x-gray-cluster"}
    steered = route("reviews-v1", "5s")
    steered["match"]["headers"] = [{"name": "x-gray-cluster", "present_match": True}]
    steered["route"] = {"cluster_header": "x-gray-cluster"}
    envoy = start(policy, routes=[steered, route("reviews-v1", "5s")])
    answers = drive(envoy.port(), requests_of(USERS[:50]))
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v1"), (503, None)}
    never_rolled_back(envoy)
    until_rolled_back(envoy)
    assert rollbacks(envoy, version="v2", reason="failures") == 1
    (line,) = said(envoy)
    assert line.startswith("failures 100.0 % of ")


def test_a_slow_version_is_rolled_back(start, policy, v2):
    envoy = start(guarded(policy, latency={"percentile": 90, "above": "50ms"}))
    v2.slow(0.2)
    until_rolled_back(envoy, connections=32)
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="latency")) == (1, 1)
    assert len(said(envoy)) == 1
    assert responses(envoy, "v2", "slow") >= 50
    v2.answer()
    assert get(envoy.port(), "/", {"x-tester": "true"}).version == "v2"
    assert share(by_user(envoy)) == 0


def test_a_version_that_never_answers_is_rolled_back_as_clients_leave(start, policy, v2):
    envoy = start(guarded(policy, latency={"percentile": 90, "above": "100ms"}))
    v2.hang()
    port = envoy.port()

    def leave(user):
        with suppress(TimeoutError):
            return get(port, "/", {"x-user-id": user}, timeout=0.5).version

    with ThreadPoolExecutor(32) as clients:
        assert set(clients.map(leave, USERS[:200])) == {"v1", None}
        until(lambda: rollbacks(envoy, version="v2"), what="v2 rolled back")
        until_all(lambda: set(clients.map(leave, USERS[:100])) == {"v1"}, what="all on v1", times=5)
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="latency")) == (1, 1)
    assert len(said(envoy)) == 1
    assert responses(envoy, "v2", "slow") >= 50
    assert responses(envoy, "v2", "success") == responses(envoy, "v2", "failure") == 0


def test_a_slow_upload_is_no_slow_response(start, policy):
    envoy = start(guarded(policy, latency={"percentile": 90, "above": "1s"}))
    on_v2 = [user for user, version in by_user(envoy, USERS[:200]).items() if version == "v2"][:60]
    asked = len(on_v2)
    before = responses(envoy, "v2", "success")
    port = envoy.port()
    with ExitStack() as stack:
        uploads = [stack.enter_context(Stream(port, "/", {"x-user-id": user})) for user in on_v2]
        for _part in range(3):
            for upload in uploads:
                upload.send(b"x" * 1000)
            time.sleep(0.5)
        for upload in uploads:
            upload.send(end=True)
        assert {upload.answer().version for upload in uploads} == {"v2"}
    until(lambda: responses(envoy, "v2", "success") == before + asked, what=f"{asked} responses more")
    assert asked == 60
    assert responses(envoy, "v2", "slow") == 0
    never_rolled_back(envoy)


def test_a_version_is_not_rolled_back_where_the_default_is_as_slow(start, policy, v1, v2):
    envoy = start(guarded(policy, latency={"percentile": 90, "above": "50ms"}))
    for upstream in (v1, v2):
        upstream.slow(0.1)
    drive(envoy.port(), requests_of(USERS), connections=64)
    never_rolled_back(envoy)


def test_a_version_whose_checks_fail_is_rolled_back_while_its_requests_succeed(start, policy, v1, v2):
    probes = {name: dict(upstream["readinessProbe"]) for name, upstream in policy["upstreams"].items()}
    guarded(policy, checks={"failurePercent": 50}, minimumRequests=10)
    for name, upstream in policy["upstreams"].items():
        # So high that it stays Ready, and no request falls back for that.
        upstream["readinessProbe"] = {**probes[name], "periodSeconds": 0.1, "failureThreshold": 1000}
    v2.answer(500, path="/healthz")
    envoy = start(policy)
    until_rolled_back(envoy)
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="checks")) == (1, 1)
    assert len(said(envoy)) == 1
    assert envoy.transitions() == 0
    assert get(envoy.port(), "/", {"x-tester": "true"}).status == 200


@pytest.mark.parametrize(("concurrency", "lag"), [(1, 0.0), (2, 1.0)])
def test_a_gradual_rollback_moves_a_few_users_at_a_time_and_none_of_them_back(start, policy, v2, concurrency, lag):
    envoy = start(guarded(policy, failurePercent=5, over="4s"), concurrency=concurrency)
    v2.answer(500)
    rounds = watch(envoy, lambda versions: set(versions.values()) == {"v1"}, what="all on v1")
    shares = [share(each.versions) for each in rounds]
    assert len({between for between in shares if 0 < between < shares[0]}) > 3
    assert went_back(rounds, "v1", lag) == set()
    if concurrency == 1:
        assert shares == sorted(shares, reverse=True)
    assert (rollbacks(envoy), len(said(envoy))) == (1, 1)


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_it_outlives_updates_of_other_parts_of_the_policy_and_ends_with_one_of_the_release(start, policy, v2, delivery):
    envoy = start(guarded(policy), delivery=delivery)
    v2.answer(500)
    until_rolled_back(envoy)
    v2.answer()
    policy["gates"] = [{"upstream": "reviews-v1"}]
    policy["probes"]["liveness"]["path"] = "/livez2"
    with Load(envoy.port(), requests_of(USERS)) as load:
        assert envoy.publish(policy) == ""
        until_all(lambda: get(envoy.port(), "/livez2").version is None, what="the new policy")
    assert {answer.version for answer in load.answers} == {"v1"}
    assert share(by_user(envoy)) == 0

    policy["releases"][0]["versions"][1]["weight"] = 100
    assert envoy.publish(policy) == ""
    after = watch(envoy, lambda versions: share(versions) > 60, what="v2 in use again")[-1].versions
    assert abs(share(after) - 100 * 100 / 150) < 6
    assert (rollbacks(envoy), len(said(envoy))) == (1, 1)


def test_a_version_that_still_fails_after_a_change_of_the_release_is_rolled_back_again(start, policy, v2):
    envoy = start(guarded(policy), delivery="ecds")
    v2.answer(500)
    until_rolled_back(envoy)
    policy["releases"][0]["versions"][1]["weight"] = 100
    assert envoy.publish(policy) == ""
    with Load(envoy.port(), requests_of(USERS)):
        until(lambda: rollbacks(envoy, version="v2") == 2, what="v2 rolled back again")
    assert len(said(envoy)) == 2


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_release_that_has_been_another_in_between_begins_anew(start, policy, v2, delivery):
    first = guarded(policy)
    other = deepcopy(first)
    other["probes"]["startup"] = {"path": "/startupz", "checks": []}
    del other["releases"][0]["rollback"]
    for version, weight in zip(other["releases"][0]["versions"], (100, 0), strict=True):
        version["weight"] = weight
    envoy = start(first, delivery=delivery)
    v2.answer(500)
    until_rolled_back(envoy)
    v2.answer()

    assert envoy.publish(other) == ""
    until(lambda: envoy.counter("graygate_lifecycle_changes_total", to="started"), what="the other in use")
    until_all(lambda: set(by_user(envoy, USERS[:100]).values()) == {"v1"}, what="all on v1", times=3)

    assert envoy.publish(first) == ""
    again = watch(envoy, lambda versions: share(versions) > 0, 5, "v2 in use again")[-1].versions
    assert abs(share(again) - 50) < 6
    assert rollbacks(envoy, version="v2") == 1
    v2.answer(500)
    with Load(envoy.port(), requests_of(USERS)):
        until(lambda: rollbacks(envoy, version="v2") == 2, what="v2 rolled back again")
    until_rolled_back(envoy)
    assert (rollbacks(envoy), len(said(envoy))) == (2, 2)


def test_what_shadow_rolled_back_is_not_when_it_is_enforced(start, policy, v2):
    split = by_user(start(deepcopy(guarded(policy))))
    policy["mode"] = "shadow"
    envoy = start(policy, delivery="ecds")
    v2.answer(500)
    routed = [Request("/", {"x-user-id": user, "x-gray-version": str(version)}) for user, version in split.items()]
    with Load(envoy.port(), routed):
        until(lambda: rollbacks(envoy, version="v2", mode="shadow"), what="v2 rolled back in shadow")
    (line,) = said(envoy)
    assert line.endswith(" (mode: shadow)")
    assert {answer.version for answer in drive(envoy.port(), routed)} == {"v1", "v2"}

    v2.answer()
    policy["mode"] = "enforce"
    assert envoy.publish(policy) == ""
    until_all(lambda: by_user(envoy) == split, what="v2 with its share", times=3)
    assert (rollbacks(envoy), rollbacks(envoy, mode="shadow")) == (1, 1)
    v2.answer(500)
    until_rolled_back(envoy)
    assert (rollbacks(envoy), rollbacks(envoy, mode="shadow")) == (2, 1)
    assert [line.endswith(" (mode: shadow)") for line in said(envoy)] == [True, False]


def test_it_stays_rolled_back_when_it_is_well_again(start, policy, v2):
    envoy = start(guarded(policy, failurePercent=5, window="1s"))
    v2.answer(500)
    until_rolled_back(envoy)
    v2.answer()
    with Load(envoy.port(), requests_of(USERS)) as load:
        # Three windows, in which testers find it well.
        for _ in range(150):
            assert get(envoy.port(), "/", {"x-tester": "true"}).status == 200
            time.sleep(0.02)
    assert {answer.version for answer in load.answers} == {"v1"}
    assert (rollbacks(envoy), len(said(envoy))) == (1, 1)


def test_every_response_is_counted_by_its_result(start, policy, v2):
    envoy = start(guarded(policy, failurePercent=5, latency={"percentile": 99, "above": "10s"}, minimumRequests=10_000))
    v2.answer(500, path="/broken")
    served = by_user(envoy)
    drive(envoy.port(), [Request("/broken", {"x-user-id": user}) for user in USERS])
    on_v2 = sum(version == "v2" for version in served.values())
    on_v1 = len(USERS) - on_v2
    wanted = {("v1", "success"): 2 * on_v1, ("v1", "failure"): 0, ("v2", "success"): on_v2, ("v2", "failure"): on_v2}
    wanted |= {("v1", "slow"): 0, ("v2", "slow"): 0}
    until(lambda: {key: responses(envoy, *key) for key in wanted} == wanted, what=f"counters {wanted}")


def test_what_may_be_counted_shows_as_0_before_it_happens(start, policy):
    latency = {"percentile": 99, "above": "300ms"}
    checked = {name: dict(upstream) for name, upstream in policy["upstreams"].items()}
    guarded(policy, failurePercent=5, latency=latency, checks={"failurePercent": 50})["upstreams"] = checked
    shown = start(policy).prometheus()
    results = ("success", "slow", "failure")
    reasons = ("incoming", "no-such-version", "match", "allowed", "existing-session", "sticky", "denied", "rotation")
    wanted = [("v2", "rollbacks", "reason", cause) for cause in ("failures", "latency", "checks")]
    wanted += [(version, "responses", "result", result) for version in ("v1", "v2") for result in results]
    wanted += [(version, "assignments", "reason", reason) for version in ("v1", "v2") for reason in reasons]
    for version, what, label, value in [*wanted, ("v1", "assignments", "reason", "fallback")]:
        labels = f'policy="reviews",release="reviews",version="{version}",{label}="{value}"'
        assert f"graygate_{what}_total{{{labels}}} 0\n" in shown


def test_a_rollback_shows_in_prometheus_and_in_the_share(start, policy, v2):
    envoy = start(guarded(policy))
    v2.answer(500)
    until_rolled_back(envoy)
    labels = 'policy="reviews",release="reviews",version="v2"'
    assert f'graygate_rollbacks_total{{{labels},reason="failures"}} 1' in envoy.prometheus()
    until(lambda: f"graygate_version_share{{{labels}}} 0" in envoy.prometheus(), what="the gauge at 0")


def test_a_rollback_leaves_other_versions_alone(policy, v1, v2):
    guarded(policy)["upstreams"]["reviews-v3"] = {"cluster": "reviews-v3"}
    versions = policy["releases"][0]["versions"]
    versions.append({"name": "v3", "upstream": "reviews-v3", "weight": 50})
    with Upstream("v3") as v3:
        ports = {"reviews-v1": v1.port, "reviews-v2": v2.port, "reviews-v3": v3.port}
        with Envoy(bootstrap(policy, ports)) as envoy:
            before = by_user(envoy)
            v2.answer(500)
            with Load(envoy.port(), requests_of(USERS)):
                until(lambda: rollbacks(envoy, version="v2"), what="v2 rolled back")
            after = watch(envoy, lambda versions: share(versions) == 0, what="no one on v2")[-1].versions
            assert moves(before, after) == {("v2", "v1")}
            assert set(after.values()) == {"v1", "v3"}
            assert (rollbacks(envoy), rollbacks(envoy, version="v3")) == (1, 0)
