"""The comparison with weighted_clusters, run as a user runs it, with fewer users: each column measures what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack

import pytest

from compare import START, USER, VERSIONS, weighted_route
from harness.client import get
from harness.config import cluster, listener, socket_address
from harness.envoy import PROJECT, Envoy
from harness.ports import free_port
from harness.service import Service
from harness.wait import until

USERS = 400
OUTAGE_ROWS = ("users who failed in the first ", "users who failed in the next ")


def compare(*arguments):
    command = [sys.executable, str(PROJECT / "envoy/compare.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def rows():
    """Returns the numbers of each row, by what it says: one for each of the contestants, in their order."""
    done = compare("--users", str(USERS))
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.split("\n\n", 1)[1].splitlines()
    assert re.split(r" {2,}", header)[1:] == ["weighted_clusters", "use_hash_policy", "graygate"]
    cells = [re.split(r" {2,}", line) for line in lines]
    return {what: [cell_number(cell) for cell in measured] for what, *measured in cells}


def cell_number(cell):
    """Returns a cell's number. Of "3 of 50", that is the share."""
    number, *whole = re.findall(r"[\d.]+", cell)
    return float(number) / float(whole[0]) if whole else float(number)


@pytest.mark.parametrize(("weights", "percent"), [("90:10", 10), ("70:30", 30)])
def test_all_contestants_split_by_weight_and_only_two_are_sticky(rows, weights, percent):
    shares = rows[f"share of requests on v2 at {weights}"]
    # 4,000 requests by chance, and 400 users by their hash.
    assert all(abs(share - percent) < 7 for share in shares)
    random, hashed, gray = rows[f"users who saw both versions at {weights}"]
    assert USERS / 3 < random <= USERS
    assert (hashed, gray) == (0, 0)


def test_a_raise_moves_nobody_back_with_graygate_whatever_the_weights_add_up_to(rows):
    random, hashed, gray = rows["users of v2 at 90:10 who are back on v1 at 70:30"]
    assert USERS / 3 < random <= USERS
    assert (hashed, gray) == (0, 0)
    _, hashed, gray = rows["users of v2 at 90:10 who are back on v1 at 90:30"]
    # Envoy takes the hash modulo the sum of the weights, so another sum deals all users again.
    assert hashed > 0
    assert gray == 0


def test_the_hash_policy_puts_the_same_users_into_each_canary(rows):
    _, hashed, gray = rows["users of one canary who are in the other, too, at 90:10"]
    assert hashed == 1
    assert gray < 0.5


def test_a_browser_without_a_key_is_sticky_from_its_first_request_only_with_graygate(rows):
    assert rows["browsers without a key that got a cookie"] == [0, 1, 1]
    random, hashed, gray = rows["browsers without a key that saw both versions"]
    assert random > 0.3
    # The first request has no cookie yet, so Envoy throws dice for it.
    assert hashed > 0
    assert gray == 0


def test_a_dead_canary_fails_its_users_for_as_long_as_it_is_dead_except_with_graygate(rows):
    first, later = (next(row for what, row in rows.items() if what.startswith(words)) for words in OUTAGE_ROWS)
    for row in (first, later):
        assert 0.2 < row[0] < 0.45
        assert 0.2 < row[1] < 0.45
    # Some users of the canary fail before graygate can know.
    assert first[2] < first[1]
    assert later[2] == 0


@pytest.mark.parametrize("users", ["0", "-1", "many", ""])
def test_an_invalid_number_of_users_is_refused(users):
    done = compare(f"--users={users}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{users!r}; allowed: a whole number from 1" in done.stderr


@pytest.fixture(scope="module")
def mended():
    """Runs an Envoy without graygate that does what docs/evaluate/comparison.md says Envoy can do. Yields it and v2."""
    with ExitStack() as stack:
        services = [stack.enter_context(Service(name, free_port())) for name in VERSIONS]
        check = {
            "timeout": "0.25s",
            "interval": "0.2s",
            "no_traffic_interval": "0.2s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            "http_health_check": {"path": "/healthz"},
        }
        without_panic = {"healthy_panic_threshold": {"value": 0}}
        clusters = [
            {**cluster(each.name, each.port), "health_checks": [check], "common_lb_config": without_panic}
            for each in services
        ]
        kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
        aggregate = {
            "name": "v2-or-v1",
            "connect_timeout": "0.25s",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {
                "name": "envoy.clusters.aggregate",
                "typed_config": {"@type": kind, "clusters": ["v2", "v1"]},
            },
        }
        by_host = weighted_route(START, hashed=True)
        keys = [{"header": {"header_name": name}} for name in (USER, ":authority")]
        by_host["route"]["hash_policy"] = keys
        over = weighted_route(START, hashed=True)
        over["route"]["weighted_clusters"]["clusters"][1]["name"] = "v2-or-v1"
        routes = {"by-host": by_host, "aggregate": over, "checked": weighted_route(START, hashed=True)}
        listeners = [listener(name, [], [route], {"access_log": []}) for name, route in routes.items()]
        document = {
            "node": {"id": "mended", "cluster": "mended"},
            "admin": {"address": socket_address()},
            "static_resources": {"clusters": [*clusters, aggregate], "listeners": listeners},
        }
        yield stack.enter_context(Envoy(document, concurrency=1)), services[1]


def answers_of(envoy, name, host="reviews"):
    headers = [{"host": host, USER: f"user-{number}"} for number in range(USERS)]
    return [get(envoy.port(name), "/", each) for each in headers]


def test_envoy_alone_has_other_users_in_each_canary_by_a_second_hash_policy(mended):
    envoy, _ = mended
    canaries = [
        {number for number, answer in enumerate(answers_of(envoy, "by-host", host)) if answer.version == "v2"}
        for host in ("reviews", "checkout")
    ]
    assert all(10 < len(canary) < 90 for canary in canaries)
    assert len(canaries[0] & canaries[1]) < len(canaries[0]) / 2


def test_envoy_alone_survives_a_dead_canary_by_an_aggregate_cluster_and_not_by_health_checks_alone(mended):
    envoy, canary = mended
    canary.kill()
    until(lambda: "no healthy" in {answer.text[:10] for answer in answers_of(envoy, "checked")}, 20, "v2 unhealthy")
    assert any(answer.status == 503 for answer in answers_of(envoy, "checked"))
    assert all(answer.status == 200 for answer in answers_of(envoy, "aggregate"))
