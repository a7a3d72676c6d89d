"""The results of a probe's checks: required, weighted and optional ones, groups, and stale ones."""

from __future__ import annotations

import pytest

from harness.client import get, get2
from harness.config import cluster_of, socket_address
from harness.envoy import replace_file
from harness.probe import all_pass, document, text
from harness.wait import until_all

WEIGHTS = {"database": 40, "cache": 30, "external-api": 20, "queue": 10}


@pytest.fixture
def weighted(policy):
    """Four upstreams whose weights need a sum of 70 of 100. They differ in the path of their checks."""
    for name in WEIGHTS:
        check = {**policy["upstreams"]["reviews-v1"]["readinessProbe"], "httpGet": {"path": f"/{name}"}}
        policy["upstreams"][name] = {"cluster": "reviews-v1", "readinessProbe": check}
    checks = [{"upstream": name, "weight": weight} for name, weight in WEIGHTS.items()]
    policy["probes"]["readiness"].update(checks=checks, minimumScore=70)
    return policy


def take_down(envoy, upstream, *names, path="/readyz"):
    """Makes exactly these checks fail, of those with their own paths, and waits until all workers know."""
    for name in WEIGHTS:
        upstream.answer(500 if name in names else None, path=f"/{name}")

    def failing():
        checks = document(envoy, path)["checks"]
        return [name for name, [check] in checks.items() if check["status"] == "fail"]

    until_all(lambda: failing() == list(names), what=f"{names} down")


def test_json_has_weights_and_the_score(start, weighted, v1):
    envoy = start(weighted)
    all_pass(envoy)
    take_down(envoy, v1, "cache", "queue")
    answer = document(envoy)
    assert (answer["status"], answer["output"]) == ("fail", "score 60 of 100, at least 70")
    assert list(answer["checks"]) == list(WEIGHTS)
    [cache] = answer["checks"]["cache"]
    assert (cache["weight"], cache["required"], cache["status"]) == (30, False, "fail")


def test_a_status_without_a_body_gets_none(start, policy):
    """A client would read a body as the beginning of the next response on the connection."""
    probes = policy["probes"]
    probes["liveness"]["statuses"] = {"passed": 204}
    probes["groups"] = {str(code): {"path": f"/{code}", "statuses": {"passed": code}} for code in (205, 304)}
    probes["details"] = "always"
    envoy = start(policy)
    for path, code in [("/livez", 204), ("/205", 205), ("/304", 304)]:
        answer = get2(envoy.port(), path)
        assert (answer.status, answer.body, answer.headers["content-length"] or "0") == (code, b"", "0")


def test_an_upstream_that_checks_no_longer_reach_is_stale(start, policy, check, v1, tmp_path):
    """Its last known state stays. By default it is stale after three periods and a timeout."""
    policy["upstreams"]["reviews-v1"]["cluster"] = "leaving"
    check["timeoutSeconds"] = 1

    def have(port):
        load = cluster_of("leaving", socket_address(port))["load_assignment"]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        resource = {"@type": kind, **load, **({} if port else {"endpoints": []})}
        replace_file(tmp_path / "hosts.json", {"version_info": str(port), "resources": [resource]})

    have(v1.port)
    source = {"path_config_source": {"path": str(tmp_path / "hosts.json")}, "resource_api_version": "V3"}
    leaving = {"name": "leaving", "type": "EDS", "eds_cluster_config": {"eds_config": source}}
    envoy = start(policy, clusters=[leaving])
    all_pass(envoy)
    have(0)
    until_all(lambda: "[+]reviews-v1 ok: stale: last answer " in text(envoy), what="stale")
    answer = get(envoy.port(), "/readyz")
    assert answer.status == 200
    age = float(answer.text.partition("last answer ")[2].split()[0])
    assert age >= 1.6
    assert document(envoy)["checks"]["reviews-v1"][0]["status"] == "warn"
    have(v1.port)
    all_pass(envoy)
