"""The filter steers, and Envoy's routes choose the cluster. A version whose requests go elsewhere is said once.

`tests/worlds/misrouted.rs` covers what counts. These tests show what Envoy tells the filter about a route.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.wait import until

REQUESTS = "dist/graygate-requests.wasm"
TESTER = {"x-tester": "true"}
V1 = route("reviews-v1", "5s", ("x-gray-version", "v1"))
V2 = route("reviews-v2", "5s", ("x-gray-version", "v2"))
DEFAULT = route("reviews-v1", "5s")


def misrouted(envoy, version="v2"):
    return envoy.counter("graygate_misrouted_requests_total", policy="reviews", release="reviews", version=version)


def warnings(envoy):
    return [line for line in envoy.logs().splitlines() if "requests of v" in line]


def ask_both(envoy, requests=100):
    """Sends as many requests of each version."""
    asked = [
        Request(f"/{number}", headers) for number in range(requests) for headers in (TESTER, {"x-user-id": "alice"})
    ]
    return drive(envoy.port(), asked)


def with_weight(policy, weight):
    """All users without a header get v1."""
    policy["releases"][0]["versions"][1]["weight"] = weight
    return policy


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param([DEFAULT], id="left out"),
        pytest.param([route("reviews-v2", "5s", ("x-grey-version", "v2")), DEFAULT], id="header misspelt"),
        pytest.param([route("reviews-v2", "5s", ("x-gray-version", "2")), DEFAULT], id="value misspelt"),
        pytest.param([DEFAULT, V2], id="default first"),
        pytest.param([V1, route("reviews-v1", "5s", ("x-gray-version", "v2"))], id="wrong cluster"),
    ],
)
@pytest.mark.parametrize("module", ["dist/graygate.wasm", REQUESTS])
def test_a_version_that_no_route_leads_to_is_counted_and_said_once(start, policy, v1, routes, module):
    envoy = start(with_weight(policy, 0), routes=routes, module=module)
    # The module that sees no responses looks while requests wait for them.
    v1.slow(0.01 if module == REQUESTS else 0)
    assert {answer.version for answer in ask_both(envoy)} == {"v1"}
    if module == REQUESTS:
        until(lambda: ask_both(envoy, 20) and misrouted(envoy) > 10, 30, "requests of v2 counted")
    else:
        until(lambda: misrouted(envoy) == 100, what="all requests of v2 counted")
    assert misrouted(envoy, "v1") == 0
    [line] = warnings(envoy)
    assert "[warning]" in line
    assert 'requests of v2 go to cluster "reviews-v1" instead of its cluster "reviews-v2"' in line
    assert "a route matches x-gray-version: v2 and leads to reviews-v2" in line


def test_a_version_without_a_route_at_all_goes_nowhere(start, policy):
    envoy = start(with_weight(policy, 0), routes=[V1])
    assert {answer.status for answer in ask_both(envoy)} == {200, 404}
    until(lambda: misrouted(envoy) > 50, what="requests of v2 counted")
    [line] = warnings(envoy)
    assert (
        "requests of v2 go to no cluster, because no route matches them or the route's cluster does not exist" in line
    )


def test_a_version_whose_route_leads_to_a_cluster_that_does_not_exist_goes_nowhere(start, policy):
    routes = [V1, route("reviews-v3", "5s", ("x-gray-version", "v2")), DEFAULT]
    # Envoy refuses a static route to a cluster that does not exist, unless it is told not to look.
    table = {
        "name": "routes",
        "validate_clusters": False,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }
    envoy = start(with_weight(policy, 0), hcm={"route_config": table})
    assert {answer.status for answer in ask_both(envoy)} == {200, 503}
    until(lambda: misrouted(envoy) > 50, what="requests of v2 counted")
    assert "requests of v2 go to no cluster" in warnings(envoy)[0]


def test_a_policy_that_misspells_the_cluster_of_a_version_is_found_by_its_requests(start, policy):
    policy["upstreams"]["reviews-v2"] = {"cluster": "reveiws-v2"}
    envoy = start(with_weight(policy, 0), routes=[V1, V2, DEFAULT])
    assert {answer.version for answer in ask_both(envoy)} == {"v1", "v2"}
    until(lambda: misrouted(envoy) > 50, what="requests of v2 counted")
    [line] = warnings(envoy)
    assert 'requests of v2 go to cluster "reviews-v2" instead of its cluster "reveiws-v2"' in line


@pytest.mark.parametrize("module", ["dist/graygate.wasm", REQUESTS])
def test_requests_that_reach_their_version_count_nothing_whatever_the_way(start, policy, v1, v2, module):
    """Retries, an aggregate cluster, redirects that Envoy follows, and replies of Envoy itself."""
    aggregate = {
        "name": "reviews-v2-all",
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": ["reviews-v2", "reviews-v1"],
            },
        },
    }
    policy["upstreams"]["reviews-v2"] = {"cluster": "reviews-v2-all"}
    to_v2 = copy.deepcopy(route("reviews-v2-all", "5s", ("x-gray-version", "v2")))
    redirects = {"max_internal_redirects": 2, "redirect_response_codes": [302]}
    for each in (to_v1 := copy.deepcopy(V1), to_v2):
        each["route"] |= {
            "retry_policy": {"retry_on": "5xx", "num_retries": 2},
            "internal_redirect_policy": redirects,
        }
    direct = {"match": {"prefix": "/direct"}, "direct_response": {"status": 418}}
    envoy = start(with_weight(policy, 0), routes=[direct, to_v1, to_v2, DEFAULT], clusters=[aggregate], module=module)
    for upstream in (v1, v2):
        upstream.slow(0.01 if module == REQUESTS else 0)
    ask_both(envoy)
    for upstream in (v1, v2):
        upstream.answer(503, path="/fails")
        upstream.answer(302, [("location", "/0")], path="/moved")
    for path in ("/fails", "/moved", "/direct"):
        for _ in range(40):
            for headers in (TESTER, {}):
                get(envoy.port(), path, headers)
    v2.refuse()
    for _ in range(40):
        get(envoy.port(), "/", TESTER)
    assert (misrouted(envoy), misrouted(envoy, "v1"), warnings(envoy)) == (0, 0, [])
    assert "graygate_misrouted_requests_total" in envoy.prometheus()


def test_in_shadow_mode_and_before_the_rollout_nothing_counts_as_misrouted(start, policy):
    for keys in ({"mode": "shadow"}, {"rollout": {"percent": 0}}):
        envoy = start({**with_weight(policy, 0), **keys}, routes=[DEFAULT])
        ask_both(envoy)
        assert (misrouted(envoy), warnings(envoy)) == (0, [])


def test_a_version_that_is_mended_counts_no_more(start, policy):
    envoy = start(with_weight(policy, 0), routes=[DEFAULT], delivery="lds")
    ask_both(envoy, 30)
    until(lambda: misrouted(envoy) == 30, what="requests of v2 counted")
    assert envoy.put(envoy.config.dynamic_file, mended(envoy)) == ""
    until(lambda: get(envoy.port(), "/", TESTER).version == "v2", what="the routes")
    counted = misrouted(envoy)
    ask_both(envoy, 30)
    assert (misrouted(envoy), len(warnings(envoy))) == (counted, 1)


def mended(envoy):
    return replace(envoy.config, routes=[V2, DEFAULT]).discovery("mended")
