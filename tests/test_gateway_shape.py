"""What `graygate render` prints for Envoy Gateway, in an Envoy with the configuration that Envoy Gateway makes of it.

`make gateway-test` lets Envoy Gateway's own control plane make it. This has its shape: a filter that is off on the
listener and on for each route, one cluster for each rule, and routes in the order of the Gateway API.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import yaml

from harness.client import get
from harness.config import cluster, stats_tags
from harness.envoy import Envoy
from harness.tool import explain, run
from harness.upstream import Upstream
from harness.wait import until

TYPES = "type.googleapis.com/envoy"
USERS = [f"user-{number}" for number in range(100)]


def conditions(match):
    """Returns the match of Envoy's route, and its rank among others. The highest comes first."""
    path = match.get("path", {"type": "PathPrefix", "value": "/"})
    key = "path" if path["type"] == "Exact" else "prefix"
    headers = [
        {
            "name": header["name"],
            "string_match": {"safe_regex": {"regex": header["value"]}}
            if "type" in header
            else {"exact": header["value"]},
        }
        for header in match.get("headers", [])
    ]
    return (key == "path", len(path["value"]), len(headers)), {key: path["value"], "headers": headers}


def routes_of(route):
    name = f"httproute/{route['metadata']['namespace']}/{route['metadata']['name']}/rule"
    ranked = [
        (*conditions(match), f"{name}/{number}")
        for number, rule in enumerate(route["spec"]["rules"])
        for match in rule["matches"]
    ]
    switched_on = {"graygate": {"@type": f"{TYPES}.config.route.v3.FilterConfig", "config": {}}}
    return [
        {"match": match, "route": {"cluster": cluster}, "typed_per_filter_config": switched_on}
        for _, match, cluster in sorted(ranked, key=lambda item: item[0], reverse=True)
    ]


def bootstrap(resources, ports):
    route, extension = resources["HTTPRoute"], resources["EnvoyExtensionPolicy"]
    wasm = extension["spec"]["wasm"][0]
    name = wasm["code"]["image"]["url"].rsplit("/")[-1].partition(":")[0]
    value = {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": json.dumps(wasm["config"])}
    vm = {
        "vm_id": "envoyextensionpolicy/shop/graygate-reviews/wasm/0",
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"filename": f"dist/{name}.wasm"}},
    }
    config = {
        "name": wasm["name"],
        "root_id": wasm["rootID"],
        "failure_policy": "FAIL_OPEN",
        "vm_config": vm,
        "configuration": value,
    }
    typed = {"@type": f"{TYPES}.extensions.filters.http.wasm.v3.Wasm", "config": config}
    router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes_of(route)}]},
        "http_filters": [
            {"name": "graygate", "disabled": True, "typed_config": typed},
            {"name": "router", "typed_config": router},
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    clusters = [
        cluster(f"httproute/shop/graygate-reviews/rule/{number}", ports[rule["backendRefs"][0]["name"]])
        for number, rule in enumerate(route["spec"]["rules"])
    ]
    return {
        "admin": {"address": address},
        "stats_config": {"stats_tags": stats_tags()},
        "static_resources": {
            "listeners": [{"name": "graygate", "address": address, "filter_chains": [chain]}],
            "clusters": clusters,
        },
    }


@pytest.fixture
def rendered(policy, tmp_path):
    """Returns the resources for the policy, which also has an upstream that only checks use."""
    check = dict(policy["upstreams"]["reviews-v1"]["readinessProbe"])
    policy["upstreams"]["db"] = {"cluster": "db", "readinessProbe": check}
    policy["probes"]["readiness"]["checks"].append({"upstream": "db"})
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    backends = [f"--backend={name}={name}:80" for name in policy["upstreams"]]
    module = ("--module", "oci://registry.test/{module}:1", "--sha256", "1" * 64)
    kind = ("--kind", "envoyextensionpolicy", "--namespace", "shop")
    done = run("render", tmp_path / "policy.json", *kind, *backends, *module)
    assert done.returncode == 0, done.stderr
    return {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}


def test_probes_versions_and_gates_work_on_the_routes(rendered, policy, v1, v2, tmp_path):
    with Upstream("db") as db:
        ports = {"reviews-v1": v1.port, "reviews-v2": v2.port, "db": db.port}
        with Envoy(bootstrap(rendered, ports)) as envoy:
            port = envoy.port()
            until(lambda: get(port, "/readyz").status == 200, what="all upstreams ready")
            assert (get(port, "/livez").status, v1.seen("/livez")) == (200, 0)
            questions = [{"headers": {"x-user-id": user}} for user in USERS]
            expected = [answer["assignments"][0]["version"] for answer in explain(tmp_path, policy, questions)]
            got = [get(port, "/", {"x-user-id": user}).version for user in USERS]
            assert got == expected
            assert set(Counter(got)) == {"v1", "v2"}
            # No client reaches the rule that only makes a cluster.
            for value in ("", "x", r"[^\s\S]"):
                assert get(port, "/", {"x-graygate-none": value, "x-user-id": USERS[0]}).version == expected[0]
            db.answer(500, path="/healthz")
            until(lambda: get(port, "/readyz").status == 503, what="readiness fails with the database")
            v1.answer(500, path="/healthz")
            until(lambda: get(port, "/").status == 503, what="the gate answers")


def test_a_path_without_a_route_is_not_found_although_it_is_a_probe(rendered, v1, v2):
    rules = rendered["HTTPRoute"]["spec"]["rules"]
    rules[0]["matches"] = [{"path": {"type": "PathPrefix", "value": "/api"}}]
    rules.pop()
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port, "db": v2.port}
    with Envoy(bootstrap(rendered, ports)) as envoy:
        assert get(envoy.port(), "/livez").status == 404
        assert get(envoy.port(), "/api").status == 200
