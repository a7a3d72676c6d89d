"""A gate without a match stops only what Envoy would send to its upstream, and a release only its own hosts.

`tests/worlds/routes.rs` has the variations. Here are two services behind one listener, and what Envoy tells of each
kind of route.
"""

from __future__ import annotations

from collections import Counter

import pytest

from harness.client import get
from harness.config import HTTP_FILTERS, bootstrap, route
from harness.envoy import Envoy
from harness.upstream import Upstream
from harness.wait import until_all

CHECK = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.2, "failureThreshold": 1}
# The names that Istio gives these clusters.
V1, V2, PAYMENTS = (
    f"outbound|{rest}.shop.svc.cluster.local" for rest in ("9080|v1|reviews", "9080|v2|reviews", "9080||payments")
)
# The node ID of a sidecar in another namespace.
SIDECAR = "sidecar~10.0.0.1~cart-7.cart~cart.svc.cluster.local"


def virtual_host(name, routes):
    domains = [f"{name}.shop", f"{name}.shop:*", f"{name}.shop.svc.cluster.local"]
    return {"name": name, "domains": domains, "routes": routes}


def mesh():
    """Returns the options of a listener with the routes of two services, by their hosts."""
    reviews = virtual_host("reviews", [route(V2, "5s", ("x-gray-version", "v2")), route(V1, "5s")])
    hosts = [reviews, virtual_host("payments", [route(PAYMENTS, "5s")])]
    return {"hcm": {"route_config": {"name": "mesh", "virtual_hosts": hosts}}, "node_id": SIDECAR}


def reviews_policy():
    """Returns a policy with a release and a gate that name neither hosts nor paths."""
    versions = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 50, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 50},
    ]
    steer = {"header": "x-gray-version"}
    clusters = {"reviews-v1": V1, "reviews-v2": V2}
    return {
        "name": "reviews",
        "upstreams": {name: {"cluster": cluster, "readinessProbe": CHECK} for name, cluster in clusters.items()},
        "releases": [
            {"name": "reviews", "steer": steer, "hashOn": [{"httpHeaderName": "x-user-id"}], "versions": versions}
        ],
        "gates": [{"upstream": "reviews-v1"}],
    }


def test_an_outage_of_one_service_stops_no_request_to_another(v1, v2):
    users = [{"x-user-id": f"user-{number}"} for number in range(50)]
    with Upstream("payments") as payments:
        ports = {V1: v1.port, V2: v2.port, PAYMENTS: payments.port}
        with Envoy(bootstrap(reviews_policy(), ports, **mesh())) as envoy:

            def ask(service):
                """Sends a request of each user, each with a path of its own."""
                host = {"host": f"{service}.shop"}
                answers = [get(envoy.port(), f"/{user['x-user-id']}", host | user) for user in users]
                return Counter((answer.status, answer.version) for answer in answers)

            served = ask("reviews")
            on_v1, on_v2 = served[200, "v1"], served[200, "v2"]
            assert on_v1 + on_v2 == len(users)
            v1.refuse()
            until_all(lambda: ask("reviews") == {(503, None): on_v1, (200, "v2"): on_v2}, what="v1 gated")
            assert ask("payments") == {(200, "payments"): len(users)}
            paths = [f"/{user['x-user-id']}" for user in users]
            assert all(b"x-gray-version" not in dict(payments.last_headers_of(path)) for path in paths)
            steered = [path for path in paths if v2.seen(path)]
            assert {dict(v2.last_headers_of(path))[b"x-gray-version"] for path in steered} == {b"v2"}


def app_is_down(**parts):
    """Returns a policy with a gate on an upstream that is kept not ready."""
    return {
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "gates": [{"upstream": "app"}],
    } | parts


def path(prefix, **action):
    return {"match": {"prefix": prefix}, **action}


def aggregate(name, *members):
    config = {"@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": members}
    kind = {"name": "envoy.clusters.aggregate", "typed_config": config}
    return {"name": name, "connect_timeout": "5s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": kind}


ROUTES = [
    path("/direct", direct_response={"status": 200, "body": {"inline_string": "direct"}}),
    path("/redirect", redirect={"path_redirect": "/app"}),
    path("/header", route={"cluster_header": "x-to"}),
    path("/weighted", route={"weighted_clusters": {"clusters": [{"name": n, "weight": 50} for n in ("app", "other")]}}),
    path("/aggregate", route={"cluster": "both"}),
    path("/missing", route={"cluster": "nowhere"}),
    path("/app", route={"cluster": "app"}),
    path("/other", route={"cluster": "other"}),
]


@pytest.fixture
def routed(v1, v2):
    """Starts an Envoy with a route of each kind. Its clusters are `app`, `other` and an aggregate of both."""

    def config(policy, **options):
        routing = {"name": "kinds", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": ROUTES}]}
        hcm = {"route_config": {**routing, "validate_clusters": False}}
        ports = {"app": v1.port, "other": v2.port}
        return bootstrap(policy, ports, hcm=hcm, clusters=[aggregate("both", "app", "other")], **options)

    return config


def outcome(envoy, target, headers=()):
    """Returns what responded: `gate`, the version of an upstream, or the status of Envoy's own response."""
    answer = get(envoy.port(), target, headers)
    gated = answer.text.startswith("policy shop: upstream ")
    return "gate" if gated else answer.version or answer.status


@pytest.mark.parametrize("kept", [["uri"], None], ids=["with a match", "without a match"])
def test_the_route_decides_only_for_a_gate_without_a_match(routed, kept):
    every = {"match": [{"uri": {"prefix": "/"}}]} if kept else {}
    with Envoy(routed(app_is_down(gates=[{"upstream": "app", **every}]))) as envoy:
        cases = [("/direct", 200), ("/redirect", 301), ("/missing", 503), ("/nothing", 404), ("/other", "v2")]
        for target, without in cases:
            assert outcome(envoy, target) == ("gate" if kept else without), target
        assert outcome(envoy, "/app") == "gate"


def test_the_cluster_that_a_header_or_weights_pick_is_the_route(routed, v1):
    with Envoy(routed(app_is_down())) as envoy:
        assert outcome(envoy, "/header", {"x-to": "app"}) == "gate"
        assert outcome(envoy, "/header", {"x-to": "other"}) == "v2"
        assert outcome(envoy, "/header") == 503
        outcomes = Counter(outcome(envoy, "/weighted") for _ in range(60))
        assert set(outcomes) == {"gate", "v2"}
        assert v1.requests == 0


def test_an_aggregate_cluster_is_a_cluster_of_its_own(routed):
    with Envoy(routed(app_is_down())) as envoy:
        assert outcome(envoy, "/aggregate") == "v1"
    both = {"app": {"cluster": "both", "force": "notReady"}}
    with Envoy(routed(app_is_down(upstreams=both))) as envoy:
        assert outcome(envoy, "/aggregate") == "gate"
        assert outcome(envoy, "/app") == "v1"


def test_the_route_is_that_of_the_request_as_it_came(routed):
    """Envoy picks the route again after a filter has changed headers, but tells later filters of the earlier one."""
    code = "function envoy_on_request(handle) handle:headers():replace('x-to', 'app') end"
    kind = f"{HTTP_FILTERS}.lua.v3.Lua"
    lua = {"name": "lua", "typed_config": {"@type": kind, "default_source_code": {"inline_string": code}}}
    with Envoy(routed(app_is_down(), filters_before=[lua])) as envoy:
        assert outcome(envoy, "/header", {"x-to": "other"}) == "v1"
        assert outcome(envoy, "/header", {"x-to": "app"}) == "gate"
