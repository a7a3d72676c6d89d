"""Weights that change by the clock: on all workers and proxies alike, with no push, and no one sent back."""

from __future__ import annotations

import math
import re
import time
from copy import deepcopy
from datetime import UTC, datetime

import pytest

from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.upstream import Upstream
from harness.users import by_user, moves, share, watch, went_back
from harness.wait import until, until_all

# Workers, and by how many seconds one of them may be behind another: a tick, with room for a busy machine.
WORKERS = [(1, 0.0), (2, 1.0)]


def due(seconds):
    """A whole second at least so far ahead; negative: past."""
    return math.ceil(time.time() + seconds)


def step(when, over=None, **weights):
    ramp = {"over": over} if over else {}
    return {"at": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "weights": weights, **ramp}


def scheduled(policy, *steps):
    policy["releases"][0]["schedule"] = list(steps)
    return policy


def shown(envoy, version="v2"):
    """The share that the gauge shows, in hundredths of a percent."""
    return envoy.counter("graygate_version_share", release="reviews", version=version)


@pytest.mark.parametrize(("concurrency", "lag"), [(1, 0.0), (4, 1.0)])
def test_a_step_ahead_is_followed_on_all_workers_with_no_push(start, policy, concurrency, lag):
    envoy = start(policy, delivery="ecds", concurrency=concurrency)
    before = by_user(envoy)
    when = due(2)
    assert envoy.publish(scheduled(policy, step(when, v1=70, v2=30))) == ""
    rounds = watch(envoy, lambda versions: versions != before, what="the step")
    early = [each for each in rounds if each.ended < when]
    assert early
    assert all(each.versions == before for each in early)
    after = rounds[-1].versions
    assert moves(before, after) == {("v1", "v2")}
    assert abs(share(before) - 10) < 4
    assert abs(share(after) - 30) < 6
    assert went_back(rounds, "v2", lag) == set()
    there = [user for user, version in before.items() if version == "v2"]
    assert all(each.versions[user] == "v2" for each in rounds for user in there)


def test_a_step_may_be_in_a_policy_from_the_start(start, policy):
    when = due(4)
    envoy = start(scheduled(policy, step(when, v1=0, v2=100)))
    rounds = watch(envoy, lambda versions: set(versions.values()) == {"v2"}, what="the step")
    assert all("v1" in each.versions.values() for each in rounds if each.ended < when)


def test_proxies_with_the_same_policy_agree_on_every_user(start, policy):
    envoys = [start(policy, delivery="ecds", concurrency=concurrency) for concurrency in (1, 3)]
    scheduled(policy, step(due(3), v1=70, v2=30))
    assert [envoy.publish(policy) for envoy in envoys] == ["", ""]
    before = [by_user(envoy) for envoy in envoys]
    assert before[0] == before[1]
    after = [watch(envoy, lambda versions: versions != before[0])[-1].versions for envoy in envoys]
    assert after[0] == after[1]
    assert moves(before[0], after[0]) == {("v1", "v2")}


@pytest.mark.parametrize(("concurrency", "lag"), WORKERS)
def test_a_ramp_moves_a_few_users_at_a_time_and_none_of_them_back(start, policy, concurrency, lag):
    envoy = start(policy, delivery="ecds", concurrency=concurrency)
    before = by_user(envoy)
    when = due(1)
    assert envoy.publish(scheduled(policy, step(when, over="4s", v1=0, v2=100))) == ""
    rounds = watch(envoy, lambda versions: set(versions.values()) == {"v2"}, what="all on v2")
    assert went_back(rounds, "v2", lag) == set()
    shares = [share(each.versions) for each in rounds]
    assert len({between for between in shares if share(before) < between < 100}) > 3
    if concurrency == 1:
        assert shares == sorted(shares)
    assert not [each for each in rounds if each.ended < when + 3 and share(each.versions) == 100]


def test_steps_of_which_one_ramps_follow_each_other(start, policy):
    envoy = start(policy, delivery="ecds", concurrency=1)
    first = due(1)
    steps = [step(first, over="2s", v1=60, v2=40), step(first + 3, v1=50, v2=50), step(first + 5, v1=0, v2=100)]
    assert envoy.publish(scheduled(policy, *steps)) == ""
    rounds = watch(envoy, lambda versions: set(versions.values()) == {"v2"}, what="all on v2")
    assert went_back(rounds, "v2", 0.0) == set()
    held = [share(each.versions) for each in rounds if first + 3.5 < each.begun and each.ended < first + 5]
    assert held
    assert all(abs(between - 50) < 6 for between in held)


def test_steps_that_are_past_are_as_if_the_last_weights_were_set(start, policy):
    past = [step(due(-7200), v1=80, v2=20), step(due(-3600), over="30m", v1=65, v2=35)]
    by_schedule = by_user(start(scheduled(deepcopy(policy), *past)))
    for version, weight in zip(policy["releases"][0]["versions"], (65, 35), strict=True):
        version["weight"] = weight
    assert by_schedule == by_user(start(policy))


def test_a_proxy_that_starts_amid_a_ramp_is_where_the_others_are(start, policy):
    envoy = start(scheduled(policy, step(due(-1800), over="1h", v1=70, v2=30)))
    until(lambda: 2000 <= shown(envoy) <= 2010, what="half of the way from 10 % to 30 %")
    assert abs(share(by_user(envoy)) - 20) < 5


def test_the_gauge_shows_the_share_as_of_now(start, policy):
    envoy = start(policy, delivery="ecds")
    until(lambda: (shown(envoy, "v1"), shown(envoy, "v2")) == (9000, 1000), what="the shares before")
    first = due(1)
    assert envoy.publish(scheduled(policy, step(first, over="2s", v1=50, v2=50), step(first + 3, v1=0, v2=100))) == ""
    until(lambda: 1000 < shown(envoy) < 5000, what="a share amid the ramp", every=0.01)
    until(lambda: shown(envoy) == 5000, what="the share after the ramp", every=0.01)
    until(lambda: (shown(envoy, "v1"), shown(envoy, "v2")) == (0, 10000), what="the shares at the end")


def test_each_step_is_counted_once_over_all_workers(start, policy):
    def counted():
        return envoy.counter("graygate_schedule_steps_total", policy="reviews", release="reviews")

    envoy = start(policy, delivery="ecds", concurrency=2)
    before = by_user(envoy)
    first = due(2)
    past = step(due(-60), v1=90, v2=10)
    steps = [past, step(first, v1=70, v2=30), step(first + 3, over="1s", v1=0, v2=100)]
    assert envoy.publish(scheduled(policy, *steps)) == ""
    assert 'graygate_schedule_steps_total{policy="reviews",release="reviews"} 0\n' in envoy.prometheus()
    watch(envoy, lambda versions: versions != before, what="the step")
    assert counted() == 1
    watch(envoy, lambda versions: set(versions.values()) == {"v2"}, what="all on v2")
    assert counted() == 2
    assert re.findall(r"release reviews: (step \d) of its schedule", envoy.logs()) == ["step 2", "step 3"]


def test_a_new_policy_with_the_same_schedule_keeps_to_it(start, policy):
    envoy = start(policy, delivery="ecds")
    before = by_user(envoy)
    when = due(3)
    assert envoy.publish(scheduled(policy, step(when, v1=70, v2=30))) == ""
    policy["gates"] = []
    assert envoy.publish(policy) == ""
    rounds = watch(envoy, lambda versions: versions != before, what="the step")
    assert all(each.versions == before for each in rounds if each.ended < when)
    policy["probes"]["liveness"]["path"] = "/livez2"
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/livez2").version is None, what="the new policy")
    assert by_user(envoy) == rounds[-1].versions


def test_an_update_amid_a_ramp_sends_no_one_back(start, policy):
    envoy = start(policy, delivery="ecds", concurrency=1)
    assert envoy.publish(scheduled(policy, step(due(0), over="4s", v1=0, v2=100))) == ""
    first = watch(envoy, lambda versions: share(versions) > 30, what="30 % on v2", same=1)
    for path in ("/livez2", "/livez3"):
        policy["probes"]["liveness"]["path"] = path
        assert envoy.publish(policy) == ""
    rounds = watch(envoy, lambda versions: set(versions.values()) == {"v2"}, what="all on v2")
    assert went_back([*first, *rounds], "v2", 0.0) == set()


def test_with_three_versions_each_step_moves_only_those_who_must(policy, v1, v2):
    release = policy["releases"][0]
    policy["upstreams"]["reviews-v3"] = {"cluster": "reviews-v3"}
    release["versions"] = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 60, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 20},
        {"name": "v3", "upstream": "reviews-v3", "weight": 20},
    ]
    steps = [
        step(due(-30), v1=20, v2=60, v3=20),
        step(due(-20), v1=20, v2=20, v3=60),
        step(due(-10), v1=80, v2=10, v3=10),
    ]
    wanted = [{("v1", "v2")}, {("v2", "v3")}, {("v2", "v1"), ("v3", "v1")}]
    with Upstream("v3") as v3:
        ports = {"reviews-v1": v1.port, "reviews-v2": v2.port, "reviews-v3": v3.port}
        with Envoy(bootstrap(policy, ports, delivery="ecds")) as envoy:
            before = by_user(envoy)
            for past in (1, 2, 3):
                assert envoy.publish(scheduled(policy, *steps[:past])) == ""
                after = watch(envoy, lambda versions: versions != before)[-1].versions
                assert moves(before, after) == wanted[past - 1]
                for version, weight in steps[past - 1]["weights"].items():
                    assert abs(share(after, version) - weight) < 7
                before = after


def test_an_issued_cookie_is_taken_back_once_the_last_step_has_put_all_on_one_version(start, policy):
    policy["releases"][0]["hashOn"] = [{"httpCookie": {"name": "gray-id", "ttl": "24h"}}]
    envoy = start(policy, delivery="ecds")
    issued = get(envoy.port()).headers["set-cookie"]
    cookie, *attributes = issued.split("; ")
    assert attributes == ["Max-Age=86400", "Path=/"]
    assert envoy.publish(scheduled(policy, step(due(3), v1=0, v2=100))) == ""
    assert get(envoy.port(), headers={"cookie": cookie}).headers["set-cookie"] is None

    def taken_back():
        answer = get(envoy.port(), headers={"cookie": cookie})
        return (answer.version, answer.headers["set-cookie"]) == ("v2", "gray-id=; Max-Age=0; Path=/")

    until_all(taken_back, what="the cookie taken back")
    for other in ({}, {"cookie": "gray-id=alice"}, {"cookie": "theme=dark"}):
        answer = get(envoy.port(), headers=other)
        assert (answer.version, answer.headers["set-cookie"]) == ("v2", None), other
