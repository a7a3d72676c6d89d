"""A version that is worse than the default is rolled back once for all workers, and permanently."""

from __future__ import annotations

import re
import time

from harness.client import get
from harness.config import route
from harness.load import Load, Request, drive
from harness.users import USERS, by_user, requests_of, share, watch
from harness.wait import until, until_all

FAILURES = r"failures (\d+\.\d) % of (\d+) requests, above 5 %; v1 (\d+\.\d) % of (\d+)"


def guarded(policy, **rollback):
    """Returns a policy with half of the users on each version, and a rollback that only requests affect."""
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
    """Returns the log lines of rollbacks."""
    return re.findall(r"policy reviews: release reviews: v2 rolled back: (.*)", envoy.logs())


def until_rolled_back(envoy, users=USERS, **options):
    """Sends load until all workers know of the rollback."""
    with Load(envoy.port(), requests_of(users), **options):
        until(lambda: rollbacks(envoy, version="v2"), 60, "v2 rolled back")
    until_all(lambda: set(by_user(envoy, users[:100]).values()) == {"v1"}, 60, "all on v1")


def test_a_failing_version_is_rolled_back_on_all_workers_and_logged_once(start, policy, v2):
    envoy = start(guarded(policy), concurrency=4)
    v2.answer(500)
    until_rolled_back(envoy)
    reached = v2.requests
    answers = drive(envoy.port(), requests_of(USERS) + [Request("/")] * 200)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "v1")}
    assert v2.requests == reached
    labels = 'policy="reviews",release="reviews",version="v2"'
    assert f'graygate_rollbacks_total{{{labels},reason="failures"}} 1\n' in envoy.prometheus()
    until(lambda: f"graygate_version_share_basis_points{{{labels}}} 0\n" in envoy.prometheus(), what="the gauge at 0")
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="failures")) == (1, 1)
    (line,) = said(envoy)
    found = re.fullmatch(FAILURES, line)
    assert found, line
    percent, requests, default_percent, default_requests = found.groups()
    assert (percent, default_percent) == ("100.0", "0.0")
    assert 50 <= int(requests) <= reached
    assert int(default_requests) > 0


def test_a_version_whose_cluster_does_not_exist_is_rolled_back(start, policy):
    guarded(policy)["upstreams"]["reviews-v2"]["cluster"] = "nowhere"
    policy["releases"][0]["steer"] = {"clusterHeader": "x-gray-cluster"}
    steered = route("reviews-v1", "5s")
    steered["match"]["headers"] = [{"name": "x-gray-cluster", "present_match": True}]
    steered["route"] = {"cluster_header": "x-gray-cluster"}
    envoy = start(policy, routes=[steered, route("reviews-v1", "5s")])
    until_rolled_back(envoy)
    assert rollbacks(envoy, version="v2", reason="failures") == 1
    (line,) = said(envoy)
    assert line.startswith("failures 100.0 % of ")


def test_a_slow_version_is_rolled_back(start, policy, v2):
    envoy = start(guarded(policy, latency={"percentile": 90, "above": "1s"}))
    v2.slow(1.5)
    until_rolled_back(envoy, connections=64, rate=100)
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="latency")) == (1, 1)
    assert len(said(envoy)) == 1
    assert responses(envoy, "v2", "slow") >= 50


def reports(envoy, users, count=100):
    """Asks for a path that is slow by nature, so many times in all, each time by the next of these users."""
    requests = [Request("/report", {"x-user-id": users[number % len(users)]}) for number in range(count)]
    return drive(envoy.port(), requests, connections=20)


def test_a_slow_path_of_one_user_rolls_nothing_back_but_one_of_ten_users_does(start, policy, v1, v2):
    guarded(policy, latency={"percentile": 99, "above": "300ms"}, window="1h")
    envoy = start(policy, concurrency=2)
    v1.slow(0.4, path="/report")
    v2.slow(0.4, path="/report")
    # All users have good responses, so the default version's share is known.
    versions = by_user(envoy)
    for _ in range(3):
        drive(envoy.port(), requests_of(USERS))
    on_v2 = [user for user in USERS if versions[user] == "v2"]
    assert {answer.version for answer in reports(envoy, on_v2[:1])} == {"v2"}
    # Others may be slow, too, on a busy machine.
    until(lambda: responses(envoy, "v2", "slow") >= 100, what="100 slow responses")
    # All workers share these responses and those before them.
    drive(envoy.port(), requests_of(USERS))
    time.sleep(1)
    assert (rollbacks(envoy), said(envoy)) == (0, [])
    reports(envoy, on_v2[1:11])
    until(lambda: rollbacks(envoy, version="v2", reason="latency") == 1, what="the rollback")


def test_a_version_whose_checks_fail_is_rolled_back_while_its_requests_succeed(start, policy, v1, v2):
    probes = {name: dict(upstream["readinessProbe"]) for name, upstream in policy["upstreams"].items()}
    guarded(policy, checks={"failurePercent": 50}, minimumRequests=10)
    for name, upstream in policy["upstreams"].items():
        # The threshold is so high that the upstream stays ready and no request falls back.
        upstream["readinessProbe"] = {**probes[name], "periodSeconds": 0.1, "failureThreshold": 1000}
    v2.answer(500, path="/healthz")
    envoy = start(policy)
    until_rolled_back(envoy)
    assert (rollbacks(envoy), rollbacks(envoy, version="v2", reason="checks")) == (1, 1)
    assert len(said(envoy)) == 1
    assert envoy.transitions() == 0
    assert get(envoy.port(), "/", {"x-tester": "true"}).status == 200


def test_a_rollback_survives_other_updates_and_ends_with_an_update_of_the_release(start, policy, v2):
    envoy = start(guarded(policy), delivery="ecds")
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
    after = watch(envoy, lambda versions: share(versions) > 60, what="v2 in use again")
    assert abs(share(after) - 100 * 100 / 150) < 6
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


def test_responses_are_counted_without_judging(start, policy, v2):
    envoy = start(guarded(policy, judge=False, latency={"above": "10s"}))
    served = by_user(envoy)
    v2.answer(500)
    for _ in range(3):
        drive(envoy.port(), requests_of(USERS))
    on_v2 = sum(version == "v2" for version in served.values())
    wanted = {("v1", "success"): 4 * (len(USERS) - on_v2), ("v2", "success"): on_v2, ("v2", "failure"): 3 * on_v2}
    until(lambda: {key: responses(envoy, *key) for key in wanted} == wanted, what=f"counters {wanted}")
    # All workers have shared by then what a judging rollback would have seen.
    time.sleep(1)
    v2.answer()
    assert by_user(envoy) == served
    assert said(envoy) == []
    assert "graygate_rollbacks_total" not in envoy.prometheus()


def test_rollback_counters_exist_with_the_value_0_before_any_request(start, policy):
    latency = {"percentile": 99, "above": "300ms"}
    checked = {name: dict(upstream) for name, upstream in policy["upstreams"].items()}
    guarded(policy, failurePercent=5, latency=latency, checks={"failurePercent": 50})["upstreams"] = checked
    envoy = start(policy)
    results = ("success", "slow", "failure", "broken-off")
    reasons = ("incoming", "no-such-version", "match", "allowed", "existing-session", "sticky", "denied", "rotation")
    wanted = [("v2", "rollbacks", "reason", cause) for cause in ("failures", "latency", "checks")]
    wanted += [(version, "responses", "result", result) for version in ("v1", "v2") for result in results]
    wanted += [(version, "assignments", "reason", reason) for version in ("v1", "v2") for reason in reasons]
    wanted += [("v1", "assignments", "reason", "fallback")]

    def missing():
        """A worker defines some of them on each tick."""
        shown = envoy.prometheus()
        lines = [
            f'graygate_{what}_total{{policy="reviews",release="reviews",version="{version}",{label}="{value}"}} 0\n'
            for version, what, label, value in wanted
        ]
        return [line for line in lines if line not in shown]

    until(lambda: not missing(), what="all counters")
