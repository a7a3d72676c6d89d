"""`graygate render` and `check --istio`: releases and gates are for some hosts where requests for all hosts are."""

from __future__ import annotations

import json

import pytest

from harness.manifests import OUTBOUND, Checker, envoy_filter, patch, wasm, wasm_plugin
from harness.tool import run

HOST = "reviews.shop.svc.cluster.local"
EVERY_PATH = {"uri": {"prefix": "/"}}


def policy(release_match=None, gate_match=None, cluster=f"outbound|9080|v1|{HOST}"):
    def matched(match):
        return {"match": match} if match else {}

    version = {"name": "v1", "upstream": "v1", "weight": 1, "default": True}
    release = {"name": "reviews", "steer": {"header": "x-v"}, "versions": [version]} | matched(release_match)
    gate = {"upstream": "v1"} | matched(gate_match)
    return {"name": "reviews", "upstreams": {"v1": {"cluster": cluster}}, "releases": [release], "gates": [gate]}


def refused(document, place):
    """Returns the problems of rendering the policy."""
    done = run("render", "-", "--at", place, stdin=json.dumps(document))
    if done.returncode == 0:
        return []
    assert (done.returncode, done.stdout) == (1, "")
    return [line.removeprefix("standard input: ") for line in done.stderr.splitlines()[:-1]]


@pytest.fixture
def check(tmp_path):
    return Checker(tmp_path)


@pytest.mark.parametrize("place", ["outbound", "gateway", "waypoint"])
def test_a_match_that_names_no_host_is_refused_with_the_hosts_to_paste(place):
    hosts, instead = ("[HOST]", "") if place == "gateway" else ("[reviews.shop]", ", or remove match to act on")
    release, gate = refused(policy([{"hosts": ["reviews.shop"]}, EVERY_PATH], [EVERY_PATH]), place)
    assert release.startswith(
        "releases[0].match: names no host, so requests to every host get a version of reviews. "
        f"Add hosts: {hosts} to each entry{instead}"
    )
    assert gate == (
        "gates[0].match: names no host, so requests to every host are stopped while v1 is not ready. "
        f"Add hosts: {hosts} to each entry, or remove match to act on the requests whose route leads to v1."
    )
    named = [{"hosts": ["reviews.shop"], **EVERY_PATH}, {"authority": {"exact": "reviews.example.com"}}]
    assert refused(policy(named, named), place) == []


def test_inbound_a_match_need_not_name_a_host():
    document = policy(gate_match=[EVERY_PATH], cluster="app")
    del document["releases"]
    assert refused(document, "inbound") == []


def test_a_release_without_a_match_needs_clusters_that_name_their_hosts():
    for place in ("outbound", "waypoint"):
        assert refused(policy(), place) == []
        (problem,) = refused(policy(cluster="mine"), place)
        assert problem == (
            "releases[0]: has no match, so requests to every host get a version of reviews. "
            "Only clusters of Istio have a host in their names. Add match: [{hosts: [HOST]}], or use such clusters."
        )
        assert refused(policy([{"hosts": ["reviews.shop"]}], cluster="mine"), place) == []


def test_a_release_at_a_gateway_must_name_its_hosts():
    (problem,) = refused(policy(), "gateway")
    assert problem == (
        "releases[0]: has no match, so it would act on the hosts of its versions' clusters. A gateway's requests "
        "are for the hosts of its Gateway. Add match: [{hosts: [HOST]}] with those."
    )


def test_a_match_in_a_manifest_that_names_no_host_is_a_problem(check):
    wide = policy([EVERY_PATH], [EVERY_PATH])
    problems = check(wasm_plugin("a", OUTBOUND, wide))
    assert [problem.split(": ")[2] for problem in problems] == [
        "spec.pluginConfig.releases[0].match",
        "spec.pluginConfig.gates[0].match",
    ]
    assert len(check(envoy_filter("a", patch(wasm(wide), context="SIDECAR_OUTBOUND")))) == 2
    named = [{"hosts": ["reviews.shop"], **EVERY_PATH}]
    assert check(wasm_plugin("a", OUTBOUND, policy(named, named))) == []


def test_a_listener_of_the_filters_own_may_serve_every_host(check):
    only_gate = policy(gate_match=[EVERY_PATH])
    del only_gate["releases"]
    listener = patch({"filters": [wasm(only_gate)]}, "GATEWAY", apply_to="LISTENER")
    assert check(envoy_filter("a", listener)) == []
