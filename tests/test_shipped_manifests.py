"""`graygate check --istio` on the manifests in `istio/`, with the routes that belong to them."""

from __future__ import annotations

import pytest

from harness.envoy import PROJECT
from harness.tool import run

BASE = PROJECT / "istio" / "base"


def routes(steering):
    return [BASE / "steering" / "subsets", BASE / "steering" / steering]


@pytest.mark.parametrize(
    ("manifest", "steering"),
    [
        ("wasmplugin/outbound", "header"),
        ("trafficextension/outbound", "header"),
        ("envoyfilter/outbound", "header"),
        ("envoyfilter-ecds/outbound", "header"),
        ("wasmplugin/gateway", "gateway"),
        ("envoyfilter/gateway", "gateway"),
        ("wasmplugin/waypoint", "header"),
        ("trafficextension/waypoint", "header"),
    ],
)
def test_the_shipped_routes_lead_each_version_to_its_cluster(manifest, steering):
    files = [BASE / manifest, *routes(steering)]
    done = run("check", "--istio", *files, "--allow", "placeholder")
    assert done.returncode == 0, done.stderr
    assert "not checked" not in done.stderr
    without_routes = run("check", "--istio", BASE / manifest, "--allow", "placeholder")
    assert without_routes.returncode == 0, without_routes.stderr
    assert "its routes were not checked" in without_routes.stderr


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension", "envoyfilter-ecds"])
def test_a_shipped_manifest_fails_until_it_has_a_module_of_your_own(kind):
    done = run("check", "--istio", BASE / kind / "outbound")
    assert done.returncode == 1
    assert done.stderr.count(" is a placeholder, so proxies ") == 2
    assert run("check", "--istio", BASE / kind / "outbound", "--allow", "placeholder").returncode == 0


def test_a_shipped_policy_with_other_ways_to_steer_is_checked_against_their_routes(tmp_path):
    manifest = (BASE / "wasmplugin" / "outbound" / "manifest.yaml").read_text()
    for steer, directory in [
        ("clusterHeader: x-gray-cluster", "cluster-header"),
        ("randomValueHeader: x-gray-random", "random-value-header"),
    ]:
        file = tmp_path / "manifest.yaml"
        text = manifest.replace("header: x-gray-version", steer)
        if "random" in steer:
            text = text.replace("trustIncoming: true", "trustIncoming: false")
            text = text.replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10")
        file.write_text(text)
        done = run("check", "--istio", file, *routes(directory), "--allow", "placeholder")
        assert done.returncode == 0, done.stderr
        assert "not checked" not in done.stderr
        other = run("check", "--istio", file, *routes("header"), "--allow", "placeholder")
        assert "the set has no EnvoyFilter with" in other.stderr
