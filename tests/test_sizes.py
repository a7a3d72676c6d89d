"""A large policy is updated under load, and the program that measures large policies runs. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys

from harness.client import get
from harness.envoy import PROJECT
from harness.load import Load, Request
from harness.wait import until, until_all

MOST_BYTES = 1_048_576


def enlarge(policy, upstreams=500, releases=100):
    """Adds upstreams with checks and gates, and releases for other hosts."""
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 10}
    names = [f"u{number}" for number in range(upstreams)]
    policy["upstreams"] |= {name: {"cluster": "reviews-v1", "readinessProbe": check} for name in names}
    policy["gates"] += [{"upstream": name, "match": [{"uri": {"exact": f"/{name}"}}]} for name in names]
    template = policy["releases"][0]
    for number in range(releases):
        other = {"name": f"r{number}", "match": [{"authority": {"exact": f"r{number}.test"}}]}
        policy["releases"].append({**template, **other, "steer": {"header": f"x-r{number}"}})


def test_an_update_of_a_large_policy_loses_no_request_and_keeps_every_verdict(start, policy, v2):
    enlarge(policy)
    # The upstream of a version would not do, as requests get another version meanwhile.
    policy["upstreams"]["db"] = {**policy["upstreams"]["reviews-v2"], "cluster": "reviews-v2"}
    policy["gates"].append({"upstream": "db", "match": [{"uri": {"prefix": "/db"}}]})
    v2.refuse()
    envoy = start(policy, delivery="ecds")
    until_all(lambda: get(envoy.port(), "/db").status == 503, what="the gate of db closed")
    with Load(envoy.port(), [Request("/")], rate=200) as load:
        with Load(envoy.port(), [Request("/db")], rate=100) as gated:
            for number in range(3):
                policy["releases"][1]["versions"][1]["weight"] = 20 + number
                assert envoy.publish(policy) == ""
                answered = len(load.answers)
                until(lambda: len(load.answers) > answered + 100, what="load under the new policy")
        assert {answer.status for answer in gated.answers} == {503}
    assert load.failed == []
    # The last of the upstreams is checked like the first.
    until(lambda: envoy.counter("graygate_checks_total", upstream="u499", result="passed"), what="a check of u499")
    assert get(envoy.port(), "/u499").status == 200
    assert envoy.counter("graygate_assignments_total", release="reviews") > 0


def test_the_largest_document_is_served_and_ends_no_vm(start, policy):
    """`tests/host/limits.test.mjs` measures its stack and its memory."""
    enlarge(policy, upstreams=1_900, releases=400)
    # The others have the same versions.
    policy["releases"][0]["versions"] = [dict(version) for version in policy["releases"][0]["versions"]]
    policy["releases"][0]["versions"][1]["allow"] = [f"user-{number:05}" for number in range(10_000)]
    body = (MOST_BYTES - len(json.dumps(policy))) // 64
    for gate in policy["gates"][1:61]:
        gate["reply"] = {"body": "x" * (body - 32)}
    assert 0.9 * MOST_BYTES < len(json.dumps(policy)) < MOST_BYTES
    envoy = start(policy, delivery="ecds")
    policy["releases"][1]["versions"][1]["weight"] = 20
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/", {"x-user-id": "user-00007"}).status == 200, what="all workers serve")
    assert "panicked" not in envoy.logs()
    assert "proxy_on_" not in envoy.logs()


def test_a_policy_beyond_a_limit_is_refused_and_the_old_one_continues(start, policy):
    envoy = start(policy, delivery="ecds")
    enlarge(policy, upstreams=2_001, releases=0)
    assert "upstreams: 2003 upstreams; allowed: at most 2000." in envoy.publish(policy)
    assert get(envoy.port(), "/").status == 200


def test_the_measurement_prints_a_table_with_a_row_for_each_case():
    command = [sys.executable, str(PROJECT / "envoy/sizes.py"), "--seconds", "1"]
    only = ["--only", "1 upstream, 1 gate", "--only", "10,000 upstreams"]
    done = subprocess.run([*command, *only], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    head, _, small, refused = done.stdout.splitlines()
    assert small.startswith("| 1 upstream, 1 gate | ")
    assert small.count("|") == head.count("|")
    assert "refused: upstreams: 10000 upstreams; allowed: at most 2000." in refused
