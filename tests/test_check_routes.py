"""`graygate check --istio`: whether the routes of a set lead each version of a release to its cluster."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.manifests import INBOUND, OUTBOUND, Checker, attached, labelled, resource, wasm_plugin

HOST = "reviews.shop.svc.cluster.local"
HEADER = "x-gray-version"
LABEL = "release reviews (WasmPlugin shop/graygate in 0.yaml)"


@pytest.fixture
def check(tmp_path):
    return Checker(tmp_path)


def policy(**release):
    versions = [
        {"name": "v1", "upstream": "one", "weight": 90, "default": True},
        {"name": "v2", "upstream": "two", "weight": 10},
    ]
    return {
        "name": "reviews",
        "upstreams": {
            "one": {"cluster": f"outbound|9080|v1|{HOST}"},
            "two": {"cluster": f"outbound|9080|v2|{HOST}"},
        },
        "releases": [{"name": "reviews", "steer": {"header": HEADER}, "versions": versions} | release],
    }


def plugin(policy: Any = None, match: Any = OUTBOUND, namespace: str = "shop", **spec: Any):
    return wasm_plugin("graygate", match, policy or globals()["policy"](), namespace, **spec)


def to(subset, host=HOST, port=9080, **fields):
    destination = {"host": host, "subset": subset}
    return {"destination": destination | ({"port": {"number": port}} if port else {})} | fields


def by_header(version, *route, header=HEADER, **conditions):
    return {"match": [{"headers": {header: {"exact": version}}} | conditions], "route": list(route or [to(version)])}


GOOD = [by_header("v2"), {"route": [to("v1")]}]


def virtual_service(http, hosts=(HOST,), namespace="shop", name="reviews", **spec):
    spec = {"hosts": list(hosts), "http": copy.deepcopy(http)} | spec
    return resource("networking.istio.io/v1", "VirtualService", name, namespace, None, spec)


def destination_rule(*subsets, host=HOST, namespace="shop", **spec):
    named = [{"name": name, "labels": {"version": name}} for name in subsets or ("v1", "v2")]
    spec = {"host": host, "subsets": named} | spec
    return resource("networking.istio.io/v1", "DestinationRule", "reviews", namespace, None, spec)


RULE = destination_rule()


def service(port: int = 9080, name="reviews"):
    return resource("v1", "Service", name, "shop", None, {"ports": [{"port": port}]})


# -- routes that are right ----------------------------------------------------------


@pytest.mark.parametrize(
    "http",
    [
        GOOD,
        [by_header("v1"), by_header("v2"), {"route": [to("v1")]}],
        [by_header("v2", to("v2", port=None)), {"route": [to("v1", port=None, host="reviews")]}],
        [by_header("v2", header="X-Gray-Version"), {"route": [to("v1")]}],
        [by_header("v2", uri={"prefix": "/"}), {"route": [to("v1")]}],
        [{"match": [{"headers": {HEADER: {"regex": "v[2-9]"}}}], "route": [to("v2")]}, {"route": [to("v1")]}],
        [{"match": [{"headers": {HEADER: {"prefix": "v2"}}}], "route": [to("v2")]}, {"route": [to("v1")]}],
        [{"match": [{"withoutHeaders": {HEADER: {"exact": "v2"}}}], "route": [to("v1")]}, {"route": [to("v2")]}],
        [{"match": [{"port": 80}], "route": [to("v1")]}, *GOOD],
        [{"match": [{"gateways": ["public"]}], "route": [to("v1")]}, *GOOD],
        [{"match": [{"sourceNamespace": "other"}], "route": [to("v1")]}, *GOOD],
        [{"match": [{"sourceLabels": {"app": "other"}}], "route": [to("v1")]}, *GOOD],
        [{"match": [{"uri": {"prefix": "/static"}}], "route": [to("", host="files")]}, *GOOD],
        [by_header("v2"), {"route": [to("v1", weight=100), to("v2", weight=0)]}],
    ],
)
def test_routes_that_lead_each_version_to_its_cluster_are_not_a_problem(check, http):
    assert check(plugin(**labelled(app="caller")), virtual_service(http), RULE, service()) == []
    assert check.notes == []


def by_baggage(condition):
    return [{"match": [{"headers": {"baggage": condition}}], "route": [to("v2")]}, {"route": [to("v1")]}]


LANE = r"(.*,)?[ \t]*lane[ \t]*=[ \t]*v2[ \t]*(;[^,]*)?(,.*)?"


def test_a_release_that_steers_by_baggage_needs_routes_that_find_its_member_beside_others(check):
    lanes = plugin(policy(steer={"baggage": "lane"}))
    assert check(lanes, virtual_service(by_baggage({"regex": LANE})), RULE) == []
    assert check.notes == []
    (found,) = check(lanes, virtual_service(by_baggage({"exact": "lane=v2"})), RULE)
    assert "spec.http[0]: only some requests with baggage: lane=v2 meet its conditions, and the others go by" in found
    assert f"Match baggage by regex: '{LANE}'" in found
    (found,) = check(lanes, virtual_service([{"route": [to("v1")]}]), RULE)
    assert f"no route for version v2 of {LABEL}: requests with baggage: lane=v2 go by" in found
    assert f"{{headers: {{baggage: {{regex: '{LANE}'}}}}}}" in found


@pytest.mark.parametrize("hosts", [["reviews"], ["other.example.com", HOST], ["*.shop.svc.cluster.local"], ["*"]])
def test_istio_completes_the_name_of_a_host(check, hosts):
    assert check(plugin(), virtual_service(GOOD, hosts), destination_rule(host="reviews")) == []
    assert check.notes == []


def test_a_wildcard_gives_way_to_the_host_itself(check):
    wide = virtual_service([{"route": [to("v1")]}], ["*.shop.svc.cluster.local"], name="wide")
    assert check(plugin(), wide, virtual_service(GOOD), RULE) == []
    assert check(plugin(), wide, RULE) != []


def test_a_manifest_without_a_namespace_is_for_any(check):
    routes, rule = virtual_service(GOOD, ["reviews"]), destination_rule(host="reviews")
    for item in (routes, rule):
        del item["metadata"]["namespace"]
    assert check(plugin(), routes, rule) == []
    assert check.notes == []


def test_at_a_waypoint_destinations_are_its_own_clusters(check):
    at_waypoint = policy()
    for upstream, version in (("one", "v1"), ("two", "v2")):
        at_waypoint["upstreams"][upstream]["cluster"] = f"inbound-vip|9080|http/{version}|{HOST}"
    item = plugin(at_waypoint, INBOUND, **attached("waypoint"))
    assert check(item, virtual_service(GOOD), RULE) == []
    assert check.notes == []
    assert len(check(item, virtual_service(GOOD[1:]), RULE)) == 1
    (problem,) = check(plugin(policy(), INBOUND, **attached("waypoint")), virtual_service(GOOD), RULE)[:1]
    assert "a waypoint's routes lead to inbound-vip|PORT|http/SUBSET|HOST" in problem


# -- routes that are wrong ----------------------------------------------------------

TO_2 = f"{{host: {HOST}, subset: v2, port: {{number: 9080}}}}"
ROUTE_2 = f"{{match: [{{headers: {{{HEADER}: {{exact: v2}}}}}}], route: [{{destination: {TO_2}}}]}}"
NOT_V2 = f"is not the cluster of version v2 of {LABEL}, which is outbound|9080|v2|{HOST}; allowed: {TO_2}"


@pytest.mark.parametrize(
    ("http", "problem"),
    [
        pytest.param(
            [{"route": [to("v1")]}],
            f"spec.http[0]: no route for version v2 of {LABEL}: requests with {HEADER}: v2 go by spec.http[0] "
            f"to subset v1 of {HOST} port 9080; allowed: before spec.http[0]: {ROUTE_2}",
            id="routes left out",
        ),
        pytest.param(
            [by_header("v2", header="x-gray-verison"), {"route": [to("v1")]}],
            f"spec.http[0].match[0].headers.x-gray-verison: {LABEL} writes {HEADER} and not x-gray-verison, "
            f'so version v2 gets no request; did you mean "{HEADER}"?',
            id="header misspelt",
        ),
        pytest.param(
            [by_header("v22", to("v2")), {"route": [to("v1")]}],
            f'spec.http[0].match[0].headers.{HEADER}: "v22" is not a version of {LABEL}, '
            'so version v2 gets no request; allowed: v1, v2; did you mean "v2"?',
            id="value misspelt",
        ),
        pytest.param(
            GOOD[::-1],
            f"spec.http[1]: never reached by requests with {HEADER}: v2, as spec.http[0] takes them before, "
            f"so version v2 of {LABEL} gets none. Move spec.http[1] before spec.http[0].",
            id="default route first",
        ),
        pytest.param(
            [{"match": [{"uri": {"prefix": "/"}}], "route": [to("v1")]}, by_header("v2")],
            f"spec.http[1]: never reached by requests with {HEADER}: v2, as spec.http[0] takes them before, "
            f"so version v2 of {LABEL} gets none. Move spec.http[1] before spec.http[0].",
            id="broader route first",
        ),
        pytest.param(
            [by_header("v2", to("v1")), {"route": [to("v1")]}],
            f"spec.http[0].route[0].destination: subset v1 of {HOST} port 9080 {NOT_V2}",
            id="other subset",
        ),
        pytest.param(
            [by_header("v2", to("v2", port=80)), {"route": [to("v1")]}],
            f"spec.http[0].route[0].destination: subset v2 of {HOST} port 80 {NOT_V2}",
            id="other port",
        ),
        pytest.param(
            [by_header("v2", to("v2", host="reviews.shop")), {"route": [to("v1")]}],
            "spec.http[0].route[0].destination: subset v2 of reviews.shop port 9080, whose name is taken as it stands, "
            f"as Istio completes only a name without a dot, {NOT_V2}",
            id="host cut",
        ),
        pytest.param(
            [by_header("v2", to("v2", weight=90), to("v1", weight=10)), {"route": [to("v1")]}],
            f"spec.http[0].route[1].destination: subset v1 of {HOST} port 9080 {NOT_V2}",
            id="weights",
        ),
        pytest.param(
            [by_header("v2", uri={"prefix": "/api"}), {"route": [to("v1")]}],
            f"spec.http[0]: only some requests with {HEADER}: v2 meet its other conditions, and the others "
            f"go by spec.http[1] to subset v1 of {HOST} port 9080, not to version v2 of {LABEL}. "
            f"Add a route by {HEADER} alone behind it",
            id="other conditions",
        ),
        pytest.param(
            [by_header("v2"), {"redirect": {"uri": "/"}}],
            f"spec.http[1]: no route for version v1 of {LABEL}: requests with {HEADER}: v1 are answered by redirect of "
            "spec.http[1]; allowed: before spec.http[1]: " + ROUTE_2.replace("v2", "v1"),
            id="redirect",
        ),
        pytest.param(
            [by_header("v2"), {"route": [to("v2")]}],
            f"spec.http[1].route[0].destination: subset v2 of {HOST} port 9080 " + NOT_V2.replace("v2", "v1"),
            id="default version",
        ),
        pytest.param(
            [by_header("v2")],
            f"spec.http: no route for version v1 of {LABEL}: requests with {HEADER}: v1 get 404; allowed: "
            + ROUTE_2.replace("v2", "v1"),
            id="no default route",
        ),
        pytest.param(
            [{"match": [{"headers": {"x-tester": {"exact": "yes"}}}], "route": [to("v2")]}, *GOOD],
            f"spec.http[0]: requests with {HEADER}: v1 that meet it go to subset v2 of {HOST} port 9080 and not to "
            f"version v1 of {LABEL}. Move it behind the routes by {HEADER}, or make it a match of the version in the "
            "policy.",
            id="a route for testers",
        ),
    ],
)
def test_a_route_that_leads_a_version_elsewhere_is_a_problem(check, http, problem):
    assert check(plugin(), virtual_service(http), RULE) == [f"1.yaml: VirtualService shop/reviews: {problem}"]


def test_the_match_of_a_release_decides_which_routes_its_requests_meet(check):
    narrow = [{"match": [{"uri": {"prefix": "/api/v1"}}], "route": [to("v1")]}, *GOOD]
    assert (
        check(
            plugin(policy(match=[{"hosts": ["reviews.shop"], "uri": {"prefix": "/web"}}])),
            virtual_service(narrow),
            RULE,
        )
        == []
    )
    (problem,) = check(
        plugin(policy(match=[{"hosts": ["reviews.shop"], "uri": {"prefix": "/api"}}])), virtual_service(narrow), RULE
    )
    assert "spec.http[0]: requests with x-gray-version: v2 that meet it go to subset v1" in problem


def test_a_subset_that_no_destination_rule_has_is_a_problem(check):
    (problem,) = check(plugin(), virtual_service(GOOD), destination_rule("v1", "v2-canary"))
    assert problem == (
        f'0.yaml: WasmPlugin shop/graygate: spec.pluginConfig.upstreams.two.cluster: "outbound|9080|v2|{HOST}": '
        f'DestinationRule shop/reviews in 2.yaml has no subset "v2" of {HOST}, so Istio makes no such cluster '
        "and requests for it get 503; allowed: v1, v2-canary, or add the subset there"
    )


def test_a_destination_rule_counts_where_istio_looks_for_it(check):
    everywhere = plugin(namespace="istio-system")
    client = plugin(namespace="client")
    rule = destination_rule("v1", namespace="client")
    assert len(check(client, virtual_service(GOOD), RULE, rule)) == 1
    assert check(everywhere, virtual_service(GOOD), RULE, rule) == []
    assert check(client, virtual_service(GOOD), destination_rule(namespace="other")) == []
    assert any(f"subsets v1, v2 of {HOST} were not checked" in note for note in check.notes)


@pytest.mark.parametrize(
    ("cluster", "hint"),
    [
        ("outbound|9080|v2|revews.shop.svc.cluster.local", 'did you mean "reviews.shop"?'),
        ("outbound|9080|v2|reviews.shop", f"allowed: outbound|9080|v2|{HOST}"),
        ("outbound|9080|v2|reviews", f"allowed: outbound|9080|v2|{HOST}"),
        (f"outbound|9081|v2|{HOST}", f"{HOST} has no port 9081; allowed: 9080"),
    ],
)
def test_a_misspelt_cluster_is_a_problem(check, cluster, hint):
    wrong = policy(match=[{"hosts": ["reviews.shop"]}])
    wrong["upstreams"]["two"]["cluster"] = cluster
    problems = check(plugin(wrong), virtual_service(GOOD), RULE, service())
    assert len(problems) == (2 if "9081" in cluster else 1)
    assert problems[0].startswith(
        f'0.yaml: WasmPlugin shop/graygate: spec.pluginConfig.upstreams.two.cluster: "{cluster}": '
    )
    assert problems[0].endswith(hint)


def test_each_policy_of_a_document_is_checked_by_itself(check):
    other = policy(steer={"header": "x-other"})
    other |= {"name": "other", "hosts": ["ratings.shop"]}
    for upstream in other["upstreams"].values():
        upstream["cluster"] = upstream["cluster"].replace("reviews", "ratings")
    document = {"policies": [policy() | {"hosts": ["reviews.shop"]}, other]}
    ratings = "ratings.shop.svc.cluster.local"
    routes = virtual_service([{"route": [to("v1", ratings)]}], [ratings], name="ratings")
    rule = destination_rule(host=ratings)
    rule["metadata"]["name"] = "ratings"
    (problem,) = check(plugin(document), virtual_service(GOOD), RULE, routes, rule)
    assert problem.startswith("3.yaml: VirtualService shop/ratings: spec.http[0]: no route for version v2 of release")
    assert check.notes == []
    assert check(plugin(document), virtual_service(GOOD), RULE, rule) == []
    (note,) = check.notes
    assert note.startswith(
        "0.yaml: WasmPlugin shop/graygate: spec.pluginConfig.policies[1].releases[0]: its routes were"
    )


def test_a_host_that_only_looks_like_another_is_named(check):
    cards = policy()
    for upstream in cards["upstreams"].values():
        upstream["cluster"] = "outbound|9080||cards.shop.svc.cluster.local"
    assert check(plugin(cards), service(name="carts")) == []
    assert any('names cards.shop.svc.cluster.local; did you mean "carts.shop"?' in note for note in check.notes)


def test_a_regular_expression_that_only_envoy_can_read_is_named(check):
    unread = [{"match": [{"headers": {HEADER: {"regex": r"v\p{Nd}"}}}], "route": [to("v2")]}, {"route": [to("v1")]}]
    assert check(plugin(), virtual_service(unread), RULE) == []
    (note,) = check.notes
    assert "spec.http[0]: whether version v2 of" in note


# -- which routes are meant ---------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"hosts": ["reviews.shop"]},
            (
                'spec.hosts: "reviews.shop" is taken as it stands, as Istio completes only a name without a dot, '
                f'so {LABEL} gets none of these routes. Write "{HOST}"'
            ),
        ),
        (
            {"hosts": ["revews"]},
            (
                f'spec.hosts: "revews" is no host of {LABEL}, whose requests are for reviews.shop; '
                'did you mean "reviews.shop"?'
            ),
        ),
        (
            {"gateways": ["public"]},
            (
                "spec.gateways: public, so sidecars and waypoints do not have these routes, "
                f"and {LABEL} has no effect there. Add mesh as well"
            ),
        ),
        (
            {"exportTo": ["other"]},
            (
                "spec.exportTo: other, so proxies in shop do not have these routes, "
                f"and {LABEL} has no effect there. Add shop as well"
            ),
        ),
    ],
)
def test_routes_that_the_proxies_do_not_have_are_a_problem(check, fields, problem):
    assert check(plugin(), virtual_service(GOOD, **fields), RULE) == [f"1.yaml: VirtualService shop/reviews: {problem}"]


def test_hosts_and_clusters_that_do_not_agree_are_a_problem(check):
    public = virtual_service(GOOD, ["reviews.example.com"])
    (problem,) = check(plugin(), public, RULE)
    assert problem == (
        "0.yaml: WasmPlugin shop/graygate: spec.pluginConfig.releases[0].match: the routes to its versions, "
        "of VirtualService shop/reviews in 1.yaml, are for reviews.example.com, and the release takes no request "
        "for them. Write hosts: [reviews.example.com]"
    )
    for match in ({"authority": {"regex": r"revews(\.shop)?"}}, {"authority": {"exact": "ratings.shop"}}):
        (problem,) = check(plugin(policy(match=[match])), virtual_service(GOOD), RULE)
        assert "releases[0].match: the routes to its versions, of VirtualService shop/reviews in 1.yaml, are" in problem
        assert problem.endswith("hosts: [reviews.shop]")
    for match in ({"authority": {"regex": r"reviews(\.shop)?"}}, {"authority": {"exact": "reviews:9080"}}):
        assert check(plugin(policy(match=[match])), virtual_service(GOOD), RULE) == []
    assert check(plugin(policy(match=[{"authority": {"exact": "reviews.example.com"}}])), public, RULE) == []


def test_two_virtual_services_for_a_host_are_a_problem(check):
    (problem,) = check(plugin(), virtual_service(GOOD), virtual_service(GOOD, ["reviews"], name="two"), RULE)
    assert problem == (
        "1.yaml: VirtualService shop/reviews: spec.hosts: VirtualService shop/two in 2.yaml is for "
        f"{HOST} as well, and Istio uses only the older one. Put the routes of both into one."
    )


def test_at_a_gateway_the_routes_are_those_of_its_hosts(check):
    at_gateway = plugin(policy(match=[{"authority": {"exact": "reviews.example.com"}}]), **attached("public"))
    fields = {"hosts": ["reviews.example.com"], "gateways": ["public"]}
    assert check(at_gateway, virtual_service(GOOD, **fields), RULE) == []
    assert check.notes == []
    assert len(check(at_gateway, virtual_service(GOOD[1:], **fields), RULE)) == 1
    assert check(at_gateway, virtual_service(GOOD), RULE) == []
    assert any(
        note.endswith("VirtualService or HTTPRoute for reviews.example.com at a gateway") for note in check.notes
    )
    admin = virtual_service(GOOD[1:], ["admin.example.com"], name="admin", gateways=["public"])
    assert check(at_gateway, virtual_service(GOOD, **fields), admin, RULE) == []
    unnamed = plugin(policy(), **attached("public"))
    without, order = check(unnamed, virtual_service(GOOD[::-1], **fields), admin, RULE)
    assert "VirtualService shop/reviews: spec.http[1]: never reached" in order
    assert without.endswith("Add match: [{hosts: [admin.example.com, reviews.example.com]}] with those.")


def test_a_release_for_public_hosts_in_a_plugin_for_all_clients_has_the_routes_of_gateways(check):
    public = plugin(policy(match=[{"hosts": ["reviews.example.com"]}]), namespace="istio-system")
    fields = {"hosts": ["reviews.example.com"], "gateways": ["public"]}
    assert check(public, virtual_service(GOOD, **fields), RULE) == []
    assert not any("reviews.example.com" in note for note in check.notes)
    (problem,) = check(public, virtual_service(GOOD[1:], **fields), RULE)
    assert "no route for version v2" in problem


# -- what can't be seen -------------------------------------------------------------


def test_what_is_not_in_the_set_is_named(check):
    assert check(plugin()) == []
    start = "0.yaml: WasmPlugin shop/graygate: spec.pluginConfig."
    assert check.notes == [
        (
            f"{start}upstreams: subsets v1, v2 of {HOST} were not checked: "
            "the set has no DestinationRule for it that these proxies use"
        ),
        f"{start}releases[0]: its routes were not checked: the set has no VirtualService or HTTPRoute for {HOST}",
    ]


@pytest.mark.parametrize(
    ("steer", "note"),
    [
        ({"filterState": "envoy.string"}, "no resource of Istio reads the filter state envoy.string"),
        (
            {"clusterHeader": "x-c"},
            "the set has no EnvoyFilter with cluster_header: x-c, without which it has no effect",
        ),
        (
            {"randomValueHeader": "x-r"},
            "the set has no EnvoyFilter with weighted_clusters.header_name: x-r, without which it has no effect",
        ),
    ],
)
def test_a_way_to_steer_that_no_resource_of_the_set_reads_is_named(check, steer, note):
    assert check(plugin(policy(steer=steer)), virtual_service(GOOD), RULE) == []
    assert check.notes == [
        f"0.yaml: WasmPlugin shop/graygate: spec.pluginConfig.releases[0].steer: its routes were not checked: {note}"
    ]


def test_clusters_that_are_not_istios_and_delegates_are_named(check):
    other = policy(match=[{"hosts": ["reviews.shop"]}])
    other["upstreams"]["two"]["cluster"] = "mine"
    assert check(plugin(other), virtual_service(GOOD), RULE) == []
    assert any('cluster "mine" of version v2 is none of Istio\'s for a service' in note for note in check.notes)
    delegate = [{"delegate": {"name": "routes", "namespace": "shop"}}]
    assert check(plugin(), virtual_service(delegate), RULE) == []
    assert any("spec.http[0] of VirtualService shop/reviews in 1.yaml leaves them to" in note for note in check.notes)


# -- routes of an EnvoyFilter -------------------------------------------------------


def route_patch(route, vhost=f"{HOST}:9080", name=None):
    vhost = {"name": vhost} | ({"route": {"name": name}} if name else {})
    match = {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"vhost": vhost}}
    patch = {"applyTo": "HTTP_ROUTE", "match": match, "patch": {"operation": "MERGE", "value": {"route": route}}}
    return resource("networking.istio.io/v1alpha3", "EnvoyFilter", "steer", "shop", None, {"configPatches": [patch]})


def test_the_route_of_an_envoy_filter_must_read_the_cluster_header_on_the_host(check):
    steered = plugin(policy(steer={"clusterHeader": "x-gray-cluster"}))
    for key in ("cluster_header", "clusterHeader"):
        assert check(steered, route_patch({key: "x-gray-cluster"}), RULE) == []
        assert check.notes == []
    start = "1.yaml: EnvoyFilter shop/steer: spec.configPatches[0]."
    assert check(steered, route_patch({"cluster_header": "x-gray-clutser"}), RULE) == [
        (
            f'{start}patch.value.route.cluster_header: "x-gray-clutser" is not the header of {LABEL}; '
            'did you mean "x-gray-cluster"?'
        )
    ]
    assert check(steered, route_patch({"cluster_header": "x-gray-cluster"}, "other:80"), RULE) == [
        (
            f'{start}match.routeConfiguration.vhost.name: "other:80" is not among the hosts of {LABEL}, '
            f"so no route reads x-gray-cluster; allowed: {HOST}:9080"
        )
    ]


def test_the_weights_of_a_route_must_be_those_of_the_policy_in_its_order(check):
    steered = plugin(policy(steer={"randomValueHeader": "x-gray-random"}))
    patch = route_patch({"weighted_clusters": {"header_name": "x-gray-random"}}, name="weighted")
    right = [to("v1", weight=90), to("v2", weight=10)]

    def weighted(route, name="weighted"):
        return virtual_service([{"name": name, "route": route}])

    assert check(steered, patch, weighted(right), RULE) == []
    assert check.notes == []
    for wrong in (right[::-1], [to("v1", weight=50), to("v2", weight=50)], [to("v1")]):
        (problem,) = check(steered, patch, weighted(wrong), RULE)
        assert problem.startswith(
            f"2.yaml: VirtualService shop/reviews: spec.http[0]: its destinations are not the versions of {LABEL}, "
        )
    (problem,) = check(steered, patch, weighted(right, "weigthed"), RULE)
    assert problem.endswith('allowed: weigthed; did you mean "weigthed"?')


def test_a_fallback_that_no_route_of_the_set_follows_is_named(check):
    gated = policy(steer={"clusterHeader": "x-c"})
    gated["gates"] = [{"upstream": "two", "fallback": {"upstream": "one", "clusterHeader": "x-spare"}}]
    assert check(plugin(gated), route_patch({"cluster_header": "x-c"}), RULE) == []
    (note,) = check.notes
    assert (
        "gates[0].fallback: its route was not checked: the set has no EnvoyFilter with cluster_header: x-spare" in note
    )
    gated["gates"][0]["fallback"]["clusterHeader"] = "x-c"
    assert check(plugin(gated), route_patch({"cluster_header": "x-c"}), RULE) == []
    assert check.notes == []


# -- HTTPRoutes of the Gateway API --------------------------------------------------


def http_route(rules, parent=None):
    parent = parent or {"group": "", "kind": "Service", "name": "reviews"}
    spec = {"parentRefs": [parent], "rules": rules}
    return resource("gateway.networking.k8s.io/v1", "HTTPRoute", "reviews", "shop", None, spec)


def test_an_http_route_is_followed_as_a_virtual_service_is(check):
    services = policy()
    for upstream, name in (("one", "reviews-v1"), ("two", "reviews-v2")):
        services["upstreams"][upstream]["cluster"] = f"outbound|9080||{name}.shop.svc.cluster.local"
    services["releases"][0]["match"] = [{"authority": {"regex": r"reviews(\.shop.*)?"}}]

    def rule(name, value=None):
        matches = [{"headers": [{"name": HEADER, "value": value}]}] if value else []
        return {"matches": matches, "backendRefs": [{"name": name, "port": 9080}]}

    # The order of rules has no effect.
    for rules in ([rule("reviews-v1"), rule("reviews-v2", "v2")], [rule("reviews-v2", "v2"), rule("reviews-v1")]):
        assert check(plugin(services), http_route(rules)) == []
        assert check.notes == []
    (problem,) = check(plugin(services), http_route([rule("reviews-v1"), rule("reviews-v2", "v3")]))
    assert problem.startswith(
        '1.yaml: HTTPRoute shop/reviews: spec.rules[1].matches[0].headers[0]: "v3" is not a version'
    )
