"""`graygate render`: its output for a policy, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from harness.tool import run

DIGEST = "0123456789abcdef" * 4
HOST = "reviews.shop.svc.cluster.local"
ENVOY_FILTER = ["--kind", "envoyfilter", "--module", "file:///etc/graygate.wasm"]


@pytest.fixture
def policy():
    """Checks and probes of the app, a release of another service, and a gate on each."""
    return {
        "name": "reviews",
        "upstreams": {
            "app": {"cluster": "app-8080", "readinessProbe": {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.5}},
            "v1": {"cluster": f"outbound|9080|v1|{HOST}", "readinessProbe": {"httpGet": {}}},
            "v2": {"cluster": f"outbound|9080|v2|{HOST}"},
        },
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}},
        "releases": [
            {
                "name": "Reviews_1",
                "match": [{"hosts": ["reviews.shop", "reviews.example.com"]}],
                "steer": {"header": "x-gray-version"},
                "hashOn": [{"httpCookie": {"name": "on", "ttl": "24h"}}],
                "versions": [
                    {"name": "v1", "upstream": "v1", "weight": 90, "default": True},
                    {"name": "v2", "upstream": "v2", "weight": 10, "allow": ["007", "yes"]},
                ],
            }
        ],
        "gates": [
            {"match": [{"hosts": ["*"]}], "upstream": "app"},
            {"upstream": "v1", "reply": {"body": "line 1\nline 2\n"}},
        ],
    }


@pytest.fixture
def render(policy, tmp_path):
    """Runs the command on the policy. Returns its standard output and standard error."""

    def run_render(*arguments):
        file = tmp_path / "policy.json"
        file.write_text(json.dumps(policy))
        done = run("render", file, *arguments)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout)), done.stderr

    return run_render


@pytest.fixture
def refused(policy, tmp_path):
    """Runs the command on the policy. Returns the problems without the file's name."""

    def run_render(*arguments):
        file = tmp_path / "policy.json"
        file.write_text(json.dumps(policy))
        done = run("render", file, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        *problems, count = re.sub(rf"{file}(:\d+:\d+)?: ", "", done.stderr).splitlines()
        assert count == f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        return problems

    return run_render


def only(policy, *parts):
    """Returns the policy with only these parts."""
    for part in {"probes", "releases", "gates"} - set(parts):
        del policy[part]


def at_outbound(policy):
    only(policy, "releases")
    return policy["releases"][0]


# -- what is printed --------------------------------------------------------------


def test_a_policy_alone_is_split_by_direction(policy, render):
    (inbound, outbound), said = render()
    assert [inbound["metadata"]["name"], outbound["metadata"]["name"]] == [
        "graygate-reviews-inbound",
        "graygate-reviews-outbound",
    ]
    for plugin, mode in [(inbound, "SERVER"), (outbound, "CLIENT")]:
        assert (plugin["kind"], plugin["metadata"]["namespace"]) == ("WasmPlugin", "default")
        assert plugin["spec"]["selector"] == {"matchLabels": {"app": "reviews"}}
        assert plugin["spec"]["match"] == [{"mode": mode}]
        assert (plugin["spec"]["pluginName"], plugin["spec"]["failStrategy"]) == ("graygate", "FAIL_OPEN")
    assert (inbound["spec"]["phase"], "phase" in outbound["spec"]) == ("AUTHN", False)
    upstreams, gates = policy["upstreams"], policy["gates"]
    assert inbound["spec"]["pluginConfig"] == {
        "name": "reviews-inbound",
        "onWrongPolicy": "lastGood",
        "upstreams": {"app": upstreams["app"]},
        "probes": policy["probes"],
        "gates": gates[:1],
    }
    assert outbound["spec"]["pluginConfig"] == {
        "name": "reviews-outbound",
        "onWrongPolicy": "lastGood",
        "upstreams": {name: upstreams[name] for name in ("v1", "v2")},
        "releases": policy["releases"],
        "gates": gates[1:],
    }
    assert "is a placeholder" in said


@pytest.mark.parametrize(("place", "mode"), [("gateway", "CLIENT"), ("waypoint", "SERVER")])
def test_a_gateway_and_a_waypoint_get_the_whole_policy_unchanged(policy, render, place, mode):
    (plugin,), _ = render("--at", place)
    assert plugin["spec"]["pluginConfig"] == policy | {"onWrongPolicy": "lastGood"}
    assert [key for key in plugin["spec"]["pluginConfig"] if key != "onWrongPolicy"] == list(policy)
    assert plugin["spec"]["match"] == [{"mode": mode}]


def test_the_place_decides_what_the_resource_is_attached_to(render):
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    for arguments, reach, namespace in [
        (["--at", "gateway"], {"selector": {"matchLabels": {"istio": "ingressgateway"}}}, "istio-system"),
        (["--at", "gateway", "--target", "Gateway/public"], {"targetRefs": [gateway | {"name": "public"}]}, "default"),
        (["--at", "waypoint"], {"targetRefs": [gateway | {"name": "waypoint"}]}, "default"),
        (
            ["--at", "waypoint", "--target", "Service/a", "--namespace", "shop"],
            {"targetRefs": [{"group": "", "kind": "Service", "name": "a"}]},
            "shop",
        ),
        (
            ["--at", "gateway", "--selector", "a/b=c", "--selector", "d="],
            {"selector": {"matchLabels": {"a/b": "c", "d": ""}}},
            "default",
        ),
    ]:
        (plugin,), _ = render(*arguments)
        spec = plugin["spec"]
        assert {key: spec[key] for key in ("selector", "targetRefs") if key in spec} == reach, arguments
        assert plugin["metadata"]["namespace"] == namespace, arguments


def test_the_scope_selects_the_proxies(render):
    for scope, selects, namespace in [
        ("workload", True, "default"),
        ("namespace", False, "default"),
        ("mesh", False, "istio-system"),
    ]:
        for plugin in render("--scope", scope)[0]:
            assert ("selector" in plugin["spec"], plugin["metadata"]["namespace"]) == (selects, namespace)


def test_a_traffic_extension_has_the_same_values_in_other_fields(render):
    options = ["--module", "oci://r.example/g:1", "--sha256", DIGEST, "--priority", "-5", "--fail", "reload"]
    (plugin, _), said = render(*options)
    (extension, _), _ = render(*options, "--kind", "trafficextension")
    spec, wasm = extension["spec"], extension["spec"].pop("wasm")
    assert (extension["kind"], spec | wasm) == ("TrafficExtension", plugin["spec"])
    assert set(spec) == {"selector", "phase", "priority", "match"}
    assert (spec["priority"], wasm["failStrategy"], wasm["sha256"]) == (-5, "FAIL_RELOAD", DIGEST)
    assert "placeholder" not in said


def test_revision_and_names_can_be_set(render):
    (inbound, outbound), _ = render("--name", "g", "--revision", "canary", "--namespace", "shop")
    assert [plugin["metadata"]["name"] for plugin in (inbound, outbound)] == ["g-inbound", "g-outbound"]
    assert inbound["metadata"]["labels"]["istio.io/rev"] == "canary"
    (gateway,), _ = render("--name", "g", "--at", "gateway")
    assert gateway["metadata"]["name"] == "g"


def test_the_only_part_of_a_policy_keeps_its_name(policy, render):
    only(policy, "releases")
    (plugin,), _ = render()
    assert plugin["metadata"]["name"] == "graygate-reviews-outbound"
    assert plugin["spec"]["pluginConfig"]["name"] == "reviews"


def test_a_revision_does_not_have_its_own_routes(policy, render):
    at_outbound(policy)["steer"] = {"clusterHeader": "x-gray-cluster"}
    labelled = {
        item["kind"]: "istio.io/rev" in item["metadata"]["labels"]
        for item in render("--routes", "--revision", "canary")[0]
    }
    assert labelled == {"WasmPlugin": True, "DestinationRule": False, "EnvoyFilter": True}


def test_mode_and_percent_are_put_into_the_policy(policy, render):
    policy["mode"] = "enforce"
    for plugin in render("--mode", "shadow", "--percent", "25")[0]:
        assert plugin["spec"]["pluginConfig"]["mode"] == "shadow"
        assert plugin["spec"]["pluginConfig"]["rollout"] == {"percent": 25}


def test_each_document_has_a_comment_on_its_purpose_and_fail_strategy(policy, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    for fail, strategy in [("open", "FAIL_OPEN"), ("reload", "FAIL_RELOAD"), ("closed", "FAIL_CLOSE")]:
        texts = run("render", file, "--fail", fail).stdout.split("---\n")[1:]
        assert len(texts) == 2
        for text in texts:
            head = [line for line in text.splitlines() if line.startswith("# ")]
            assert head[0].startswith("# graygate, ")
            assert any(line.startswith(f"# {strategy}: ") for line in head)


def test_the_output_means_the_same_in_yaml_1_1(policy, render):
    """kubectl and PyYAML read YAML 1.1."""
    policy["probes"]["readiness"]["checks"][0]["required"] = True
    gate = policy["gates"][0]
    gate["reply"] = {
        "headers": {"x-a": "on", "x-b": "1:30", "x-c": "0o7", "x-d": "2026-12-01", "x-e": "1_000", "x-f": ""}
    }
    (inbound, _), _ = render()
    assert inbound["spec"]["pluginConfig"]["gates"] == [gate]


# -- as an EnvoyFilter --------------------------------------------------------------


def wasm(patch):
    return patch["patch"]["value"]["typed_config"]["config"]


def test_a_module_in_a_file_is_in_the_filter_itself(policy, render):
    (inbound, outbound), _ = render(*ENVOY_FILTER)
    assert [item["spec"]["priority"] for item in (inbound, outbound)] == [10, 10]
    (patch,) = inbound["spec"]["configPatches"]
    assert (patch["applyTo"], patch["patch"]["operation"]) == ("HTTP_FILTER", "INSERT_FIRST")
    manager = {"name": "envoy.filters.network.http_connection_manager"}
    assert patch["match"] == {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": manager}}}
    config = wasm(patch)
    assert (config["root_id"], config["failure_policy"]) == ("graygate", "FAIL_OPEN")
    assert config["vm_config"] == {
        "vm_id": "graygate",
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"filename": "/etc/graygate.wasm"}},
    }
    assert json.loads(config["configuration"]["value"])["probes"] == policy["probes"]
    (patch,) = outbound["spec"]["configPatches"]
    assert patch["patch"]["operation"] == "INSERT_BEFORE"
    router = {"subFilter": {"name": "envoy.filters.http.router"}}
    assert patch["match"] == {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": manager | router}}}
    assert json.loads(wasm(patch)["configuration"]["value"])["releases"] == policy["releases"]


@pytest.mark.parametrize(
    ("istio", "fail", "fields"),
    [
        ("1.24", "open", {"fail_open": True}),
        ("1.24.6", "closed", {}),
        ("1.25", "open", {"failure_policy": "FAIL_OPEN"}),
        ("1.25", "reload", {"failure_policy": "FAIL_RELOAD"}),
        ("1.31", "closed", {"failure_policy": "FAIL_CLOSED"}),
    ],
)
def test_an_older_proxy_gets_the_older_field(render, istio, fail, fields):
    for item in render(*ENVOY_FILTER, "--istio", istio, "--fail", fail)[0]:
        config = wasm(item["spec"]["configPatches"][0])
        assert {key: config[key] for key in ("fail_open", "failure_policy") if key in config} == fields


def test_a_remote_module_is_fetched_by_the_agent(render):
    url = "oci://registry.example/graygate:1"
    (item,), _ = render("--kind", "envoyfilter", "--at", "gateway", "--module", url, "--sha256", DIGEST)
    extension, inserted = item["spec"]["configPatches"]
    assert extension["applyTo"] == "EXTENSION_CONFIG"
    assert extension["patch"]["operation"] == "ADD"
    remote = wasm(extension)["vm_config"]["code"]["remote"]
    assert (remote["http_uri"]["uri"], remote["sha256"]) == (url, DIGEST)
    assert {"cluster", "timeout"} < set(remote["http_uri"])
    value = inserted["patch"]["value"]
    assert value["name"] == extension["patch"]["value"]["name"]
    assert value["config_discovery"]["config_source"]["initial_fetch_timeout"] == "0s"
    assert [name.rsplit(".", 1)[1] for name in value["config_discovery"]["type_urls"]] == ["Wasm", "RBAC"]
    assert inserted["match"]["context"] == "GATEWAY"


def test_each_port_has_its_own_match(render):
    ports = ["--at", "gateway", "--port", "8080", "--port", "8443"]
    (plugin,), _ = render(*ports)
    assert plugin["spec"]["match"] == [{"mode": "CLIENT", "ports": [{"number": 8080}, {"number": 8443}]}]
    (item,), _ = render(*ports, *ENVOY_FILTER)
    listeners = [patch["match"]["listener"] for patch in item["spec"]["configPatches"]]
    assert [listener["portNumber"] for listener in listeners] == [8080, 8443]


def test_at_a_waypoint_the_listeners_of_tunnels_are_unchanged(render):
    (item,), _ = render("--at", "waypoint", *ENVOY_FILTER)
    (patch,) = item["spec"]["configPatches"]
    assert (patch["match"]["context"], patch["match"]["listener"]["name"]) == ("SIDECAR_INBOUND", "main_internal")
    assert patch["patch"]["operation"] == "INSERT_BEFORE"
    assert item["spec"]["targetRefs"][0]["name"] == "waypoint"


def test_a_callout_has_a_cluster_in_the_direction_of_its_check(policy, render):
    policy["upstreams"]["app"]["readinessProbe"] = {"grpc": {}}
    (_, added, _), said = render("--callout", "app-8080=[::1]:8080")
    assert (added["kind"], added["metadata"]["name"]) == ("EnvoyFilter", "graygate-reviews-inbound-callout")
    (patch,) = added["spec"]["configPatches"]
    assert (patch["applyTo"], patch["match"]) == ("CLUSTER", {"context": "SIDECAR_INBOUND"})
    cluster = patch["patch"]["value"]
    assert (cluster["name"], cluster["type"]) == ("app-8080", "STATIC")
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "::1", "port_value": 8080}
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}
    assert "is not a cluster of Istio" not in said
    policy["upstreams"]["app"]["readinessProbe"] = {"httpGet": {}}
    (_, added, _), _ = render("--callout", "app-8080=127.0.0.1:8080")
    assert "typed_extension_protocol_options" not in added["spec"]["configPatches"][0]["patch"]["value"]


def test_a_cluster_of_both_directions_is_added_once(policy, render):
    policy["upstreams"]["v1"]["cluster"] = "v1"
    policy["probes"]["readiness"]["checks"].append({"upstream": "v1"})
    manifests, _ = render("--callout", "v1=127.0.0.1:1", "--callout", "app-8080=127.0.0.1:2")
    clusters = [
        patch["patch"]["value"]["name"] for item in manifests for patch in item["spec"].get("configPatches", [])
    ]
    assert sorted(clusters) == ["app-8080", "v1"]


# -- routes -------------------------------------------------------------------------


def routes(render, *arguments):
    (_, *printed), said = render("--routes", "--at", "outbound", *arguments)
    return {item["kind"]: item["spec"] for item in printed}, said


def destination(version):
    return {"destination": {"host": HOST, "subset": version}}


def test_routes_by_header_have_the_default_version_last(policy, render):
    at_outbound(policy)
    printed, _ = routes(render)
    assert printed == {
        "DestinationRule": {
            "host": HOST,
            "subsets": [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")],
        },
        "VirtualService": {
            "hosts": [HOST],
            "http": [
                {
                    "name": "graygate-Reviews_1-v2",
                    "match": [{"headers": {"x-gray-version": {"exact": "v2"}}}],
                    "route": [destination("v2")],
                },
                {"name": "graygate-Reviews_1-v1", "route": [destination("v1")]},
            ],
        },
    }


def test_routes_by_baggage_match_the_member_by_a_regular_expression(policy, render):
    at_outbound(policy)
    policy["releases"][0]["steer"] = {"baggage": "lane"}
    printed, _ = routes(render)
    first, last = printed["VirtualService"]["http"]
    regex = r"(.*,)?[ \t]*lane[ \t]*=[ \t]*v2[ \t]*(;[^,]*)?(,.*)?"
    assert first["match"] == [{"headers": {"baggage": {"regex": regex}}}]
    assert "match" not in last


def test_routes_by_cluster_header_are_first(policy, render):
    at_outbound(policy)["steer"] = {"clusterHeader": "x-gray-cluster"}
    printed, said = routes(render)
    assert set(printed) == {"DestinationRule", "EnvoyFilter"}
    (patch,) = printed["EnvoyFilter"]["configPatches"]
    assert (patch["applyTo"], patch["patch"]["operation"]) == ("HTTP_ROUTE", "INSERT_FIRST")
    assert patch["match"]["routeConfiguration"] == {"vhost": {"name": f"{HOST}:9080"}}
    assert patch["patch"]["value"]["route"]["cluster_header"] == "x-gray-cluster"
    assert "releases[0].steer" not in said


def test_routes_by_number_have_the_weights_in_the_policys_order(policy, render):
    release = at_outbound(policy)
    del release["versions"][1]["allow"]
    release["steer"] = {"randomValueHeader": "x-gray-random"}
    printed, _ = routes(render)
    assert printed["VirtualService"]["http"] == [
        {
            "name": "graygate-Reviews_1",
            "route": [destination("v1") | {"weight": 90}, destination("v2") | {"weight": 10}],
        }
    ]
    (patch,) = printed["EnvoyFilter"]["configPatches"]
    vhost = {"name": f"{HOST}:9080", "route": {"name": "graygate-Reviews_1"}}
    assert patch["match"]["routeConfiguration"] == {"vhost": vhost}
    assert patch["patch"] == {
        "operation": "MERGE",
        "value": {"route": {"weighted_clusters": {"header_name": "x-gray-random"}}},
    }


def test_there_are_no_routes_to_clusters_of_more_than_one_host(policy, render):
    at_outbound(policy)
    policy["upstreams"]["v2"]["cluster"] = "outbound|9080||other"
    printed, said = routes(render)
    assert printed == {}
    assert "--routes: none for release Reviews_1: the clusters of its versions are not all" in said


def test_at_a_waypoint_routes_have_its_own_names(policy, render):
    release = at_outbound(policy)
    policy["upstreams"]["v1"]["cluster"] = f"inbound-vip|9080|http|{HOST}"
    policy["upstreams"]["v2"]["cluster"] = f"inbound-vip|9080|http/v2|{HOST}"
    release["steer"] = {"clusterHeader": "x-gray-cluster"}
    (_, rule, item), _ = render("--routes", "--at", "waypoint")
    assert [subset["name"] for subset in rule["spec"]["subsets"]] == ["v2"]
    assert item["spec"]["configPatches"][0]["match"] == {
        "context": "SIDECAR_INBOUND",
        "routeConfiguration": {"name": f"inbound-vip|9080|http|{HOST}", "vhost": {"name": "inbound|http|9080"}},
    }
    release["steer"] = {"header": "x-gray-version"}
    (_, _, service), _ = render("--routes", "--at", "waypoint")
    routes = [http["route"] for http in service["spec"]["http"]]
    assert routes == [[destination("v2")], [{"destination": {"host": HOST}}]]
    del release["versions"][1]["allow"]
    release["steer"] = {"randomValueHeader": "x-gray-random"}
    printed, said = render("--routes", "--at", "waypoint")
    assert len(printed) == 1
    assert "an EnvoyFilter cannot change the routes that a VirtualService makes for a waypoint" in said


def test_the_first_of_two_releases_of_a_host_has_the_routes(policy, render):
    release = at_outbound(policy)
    policy["releases"].append(release | {"name": "two", "steer": {"header": "x-two"}})
    (_, *printed), said = render("--routes", "--at", "outbound")
    assert [item["kind"] for item in printed] == ["DestinationRule", "VirtualService"]
    assert "--routes: none for release two: a host has only one DestinationRule and one VirtualService" in said


# -- what is said -------------------------------------------------------------------


def test_render_warns_of_fields_without_effect(policy, render):
    policy["upstreams"]["spare"] = {"cluster": "spare"}
    policy["probes"]["grpc"] = {"services": [""]}
    policy["releases"][0]["steer"] = {"clusterHeader": "x-gray-cluster"}
    policy["gates"][1] = {"upstream": "v1", "fallback": {"upstream": "v2", "clusterHeader": "x-other"}}
    _, said = render("--istio", "1.32")
    assert [line.removeprefix("graygate: warning: ").split(": ")[0] for line in said.splitlines()] == [
        "--istio",
        "--module",
        "upstreams.spare",
        "probes.grpc",
        "upstreams.app.cluster",
        "releases[0].steer",
        "gate on v1",
    ]


def test_render_warns_of_a_changeable_module_and_of_a_mesh_that_may_be_a_namespace(policy, render):
    only(policy, "releases")
    del policy["upstreams"]["app"]
    module = ["--routes", "--module", "oci://registry.example.com/graygate:1"]
    pinned = [*module, "--sha256", DIGEST]
    assert "--sha256: not given" in render(*module)[1]
    assert "--namespace" not in render(*module)[1]
    assert "--namespace: shop: only if" in render(*pinned, "--scope", "mesh", "--namespace", "shop")[1]
    for quiet in [
        [*pinned, "--scope", "mesh"],
        [*pinned, "--scope", "mesh", "--namespace", "istio-system"],
        [*pinned, "--scope", "namespace", "--namespace", "shop"],
        ["--routes", "--module", "file:///etc/graygate.wasm"],
    ]:
        assert render(*quiet)[1] == ""


def test_render_warns_of_clusters_in_other_places(policy, render):
    only(policy, "releases")
    _, said = render("--at", "waypoint", "--routes")
    assert said.count("a waypoint's routes lead to inbound-vip|PORT|http/SUBSET|HOST") == 2
    assert "none for release Reviews_1: the clusters of its versions are not all inbound-vip|PORT|" in said
    for version in ("v1", "v2"):
        policy["upstreams"][version]["cluster"] = f"inbound-vip|9080|http/{version}|{HOST}"
    assert "inbound-vip" not in render("--at", "waypoint", "--routes")[1]
    for place in ("outbound", "gateway"):
        assert render("--at", place)[1].count("only a waypoint has such clusters") == 2


def test_render_prints_no_warning_for_a_complete_policy(render):
    _, said = render("--module", "oci://r.example/g:1", "--sha256", DIGEST, "--callout", "app-8080=127.0.0.1:8080")
    assert said == ""


# -- what is refused ----------------------------------------------------------------


def test_a_policy_with_problems_is_refused_as_check_does(policy, refused):
    policy["gates"][0]["upstream"] = "ap"
    problems = refused("--istio", "1.23")
    assert problems == [
        'gates[0].upstream: "ap" is not an upstream; did you mean "app"?',
        "--istio: 1.23 is not allowed there: it cannot read these manifests; allowed: 1.24 to 1.31",
    ]


def test_the_problems_of_each_file_have_their_places(tmp_path):
    for name, text in [("a", "name: a\ngatse: []\n"), ("b", "name: b\n\tmode: off\n")]:
        (tmp_path / f"{name}.yaml").write_text(text)
    done = run("render", tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f'{tmp_path}/a.yaml:2:1: gatse: unknown field; did you mean "gates"?',
        f"{tmp_path}/b.yaml:2:1: a tab in the indentation. Indent with spaces.",
        "2 problems",
    ]
    done = run("render", "-", stdin="name: a\ngatse: []\n")
    assert done.stderr.startswith("standard input:2:1: gatse: unknown field")


def test_a_policy_without_effect_is_refused(policy, refused):
    only(policy)
    (problem,) = refused()
    assert problem.startswith("no probes, releases or gates, so the filter would do nothing")


def test_releases_inbound_and_probes_outbound_are_refused(refused):
    assert refused("--at", "inbound") == [
        (
            "releases: a list of 1 is not allowed there: "
            "inbound, all requests go to the one app, whatever version they are given; "
            "allowed: outbound, gateway, waypoint"
        ),
        (
            f'gates[1]: has no match, and no inbound route leads to "outbound|9080|v1|{HOST}", so the gate would '
            "stop no request. Istio's routes to the app lead to inbound|PORT||. "
            'Add match: [{hosts: ["*"]}] for every request to the app.'
        ),
    ]
    assert refused("--at", "outbound") == [
        (
            "probes: an object of 1 field is not allowed there: "
            "outbound, what the app asks other services for by these paths would be answered in their stead; "
            "allowed: inbound, gateway, waypoint"
        )
    ]


@pytest.mark.parametrize(
    "cluster", ["inbound|8080||", "PassthroughCluster", "InboundPassthroughCluster", "BlackHoleCluster"]
)
def test_a_check_of_a_cluster_that_cannot_be_called_is_refused(policy, refused, cluster):
    policy["upstreams"]["app"]["cluster"] = cluster
    (problem,) = refused()
    assert problem.startswith(f'upstreams.app.cluster: "{cluster}" is not allowed there: it ')
    assert problem.endswith(
        "; allowed: outbound|PORT|SUBSET|HOST, agent, or a cluster with an address of its own, "
        "as --callout CLUSTER=IP:PORT adds it"
    )
    del policy["upstreams"]["app"]["readinessProbe"]
    policy["probes"]["readiness"]["checks"] = []
    assert run("render", "-", stdin=json.dumps(policy)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["--at", "waypoint", "--port", "80"], ["--port: 80 is not allowed there: a waypoint's listener has port 0"]),
        (
            ["--port", "80"],
            ["--port: 80 is not allowed there: inbound it is a port of the Pod, outbound a port of a service"],
        ),
        (
            ["--scope", "mesh", "--selector", "a=b", "--target", "Gateway/x"],
            [
                "--selector: a=b is not allowed there: scope mesh already selects all its proxies",
                "--selector: a=b is not allowed there: a resource has either labels or targets",
                "--target: Gateway/x is not allowed there: a sidecar is found by labels",
            ],
        ),
        (
            ["--at", "gateway", "--port", "80", "--port", "81", "--port", "80"],
            ["--port: 80 is not allowed there: it is given twice; allowed: each port once"],
        ),
        (
            ["--at", "gateway", "--target", "Service/x"],
            ["--target: Service/x is not allowed there: only a waypoint can be attached to a Service"],
        ),
        (
            ["--kind", "envoyfilter", "--module", "file:///m.wasm", "--pull-secret", "login"],
            ["--pull-secret: login is not allowed there: an EnvoyFilter cannot name a secret"],
        ),
        (
            ["--selector", "a=b", "--selector", "c=d", "--selector", "a=e"],
            ["--selector: a=e is not allowed there: a=b is given already, and a Pod has each label once"],
        ),
        (
            ["--at", "waypoint", "--selector", "a=b"],
            ["--selector: a=b is not allowed there: Istio ignores labels at a waypoint"],
        ),
        (
            ["--at", "waypoint", "--scope", "mesh"],
            ["--scope: mesh is not allowed there: Istio selects a waypoint only by targets"],
        ),
        (
            ["--at", "gateway", "--scope", "mesh"],
            ["--scope: mesh is not allowed there: a wasmplugin for all proxies in mode CLIENT"],
        ),
        (
            ["--at", "gateway", "--routes"],
            ["--routes: true is not allowed there: a gateway's routes depend on its own hosts"],
        ),
        (
            ["--kind", "trafficextension", "--istio", "1.29.6"],
            ["--kind: trafficextension is not allowed there: Istio 1.29 does not support TrafficExtension"],
        ),
        (
            ["--fail", "reload", "--istio", "1.26"],
            ["--fail: reload is not allowed there: Istio 1.26 does not support FAIL_RELOAD"],
        ),
        (
            [*ENVOY_FILTER, "--fail", "reload", "--istio", "1.24"],
            ["--fail: reload is not allowed there: Istio 1.24 does not support FAIL_RELOAD"],
        ),
        (["--kind", "envoyfilter"], ["--sha256: missing, and an EnvoyFilter needs it for a module that Istio fetches"]),
        (
            ["--callout", "agent=127.0.0.1:1", "--callout", "x=127.0.0.1:1", "--callout", "app-8080=127.0.0.1:1"],
            [
                '--callout: "agent" is not allowed there: Istio has a cluster of this name',
                '--callout: "x" is not allowed there: no readinessProbe is sent there; allowed: app-8080',
            ],
        ),
        (
            ["--callout", "app-8080=127.0.0.1:1", "--callout", "app-8080=127.0.0.1:2"],
            ['--callout: "app-8080" is not allowed there: it is given twice'],
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(refused, arguments, starts):
    problems = refused(*arguments)
    assert len(problems) == len(starts)
    for problem, start in zip(problems, starts, strict=True):
        assert problem.startswith(start)
        assert "; allowed: " in problem or ". Give " in problem


@pytest.mark.parametrize(
    "arguments",
    [
        ["--istio", "latest"],
        ["--module", "graygate:1"],
        ["--module", "http://a/b"],
        ["--module", "oci://r.example/{modul}:1"],
        ["--sha256", "sha256:ab"],
        ["--sha256", f"graygate-mine={DIGEST}"],
        ["--sha256", DIGEST.upper()],
        ["--target", "GatewayClass/x"],
        ["--selector", "app"],
        ["--callout", "a=b"],
        ["--name", "A"],
        ["--percent", "101"],
        ["--port", "0"],
        ["--at", "inside"],
    ],
)
def test_an_invalid_option_is_wrong_usage(policy, arguments):
    done = run("render", "-", *arguments, stdin=json.dumps(policy))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension"])
def test_an_image_can_need_a_login_and_digests_are_accepted_as_registries_print_them(render, kind):
    pinned = ["--module", "oci://r.example/g:1", "--sha256", f"sha256:{DIGEST}", "--pull-secret", "login"]
    (item,), _ = render("--kind", kind, "--at", "gateway", *pinned)
    module = item["spec"].get("wasm", item["spec"])
    assert (module["sha256"], module["imagePullSecret"]) == (DIGEST, "login")


@pytest.mark.parametrize("command", ["render", "explain", "simulate"])
def test_a_manifest_instead_of_a_policy_gets_a_hint(render, tmp_path, command):
    (inbound, *_), _ = render()
    file = tmp_path / "plugin.yaml"
    file.write_text(yaml.safe_dump(inbound))
    done = run(command, file)
    assert done.returncode == 2
    assert f"{file}: a manifest; allowed: a policy by itself, or graygate check --istio {file}" in done.stderr


def rules(*arguments):
    done = run("render", "--kind", "validatingadmissionpolicy", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    documents = list(yaml.safe_load_all(done.stdout))
    kinds = [document["kind"] for document in documents]
    assert kinds == ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] * 2
    return documents[::2], documents[1::2]


def test_rules_for_an_api_server_need_no_policy():
    policies, bindings = rules()
    for policy, binding in zip(policies, bindings, strict=True):
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
        assert policy["spec"]["failurePolicy"] == "Ignore"
        # A client-side `kubectl apply` keeps the object in an annotation, which may have 256 KiB.
        assert len(json.dumps(policy)) < 200_000


def test_rules_in_shadow_refuse_nothing():
    _, bindings = rules("--mode", "shadow")
    assert [binding["spec"]["validationActions"] for binding in bindings] == [["Warn", "Audit"]] * 2


def test_rules_take_no_policy_and_every_other_kind_wants_one():
    for arguments, message in [
        (["x.yaml", "--kind", "validatingadmissionpolicy"], "leave the policies out"),
        (["--kind", "wasmplugin"], "no policy is given"),
    ]:
        done = run("render", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


# -- a listener for probes -------------------------------------------------------------

MODULE_FILE = ["--module", "file:///etc/istio/extensions/graygate.wasm"]


def listener_of(item):
    (patch,) = [patch for patch in item["spec"]["configPatches"] if patch["applyTo"] == "LISTENER"]
    return patch["patch"]["value"]


def manager_of(listener):
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def test_a_listener_for_probes_shares_the_plugins_document(policy, render):
    (plugin, item, _), _ = render("--probe-listener", "15099", *MODULE_FILE)
    assert (plugin["kind"], item["kind"]) == ("WasmPlugin", "EnvoyFilter")
    assert item["metadata"]["name"] == "graygate-reviews-inbound-probes"
    listener = listener_of(item)
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 15099}
    manager = manager_of(listener)
    config = manager["http_filters"][0]["typed_config"]["config"]
    assert json.loads(config["configuration"]["value"]) == plugin["spec"]["pluginConfig"]
    assert (config["failure_policy"], "vm_id" in config["vm_config"]) == ("FAIL_RELOAD", False)
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["direct_response"] == {"status": 404}


def test_a_listener_for_probes_replaces_a_plugin_with_probes_alone(policy, render):
    only(policy, "probes")
    (item,), _ = render("--probe-listener", "15099", *MODULE_FILE)
    assert item["kind"] == "EnvoyFilter"
    assert manager_of(listener_of(item))["http_filters"][0]["typed_config"]


@pytest.mark.parametrize("key", ["drain", "status"])
def test_other_workloads_may_neither_order_a_drain_nor_read_the_status_at_the_listener(
    policy, render, refused, tmp_path, key
):
    only(policy, "probes")
    policy["probes"][key] = {"path": "/path"}
    printed, _ = render("--probe-listener", "15099", "--callout", "app-8080=127.0.0.1:8080", *MODULE_FILE)
    config = manager_of(listener_of(printed[0]))["http_filters"][0]["typed_config"]["config"]
    written = json.loads(config["configuration"]["value"])["probes"][key]
    assert written == {"path": "/path", "from": ["127.0.0.1/32", "::1/128"]}
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(printed))
    assert run("check", "--istio", file).returncode == 0
    policy["probes"][key]["from"] = ["127.0.0.0/8"]
    (problem,) = refused("--probe-listener", "15099", *MODULE_FILE)
    assert problem.startswith(f"probes.{key}.from: ")


def test_a_policy_with_a_status_page_alone_gets_a_listener_for_it(policy, render):
    only(policy, "probes")
    policy["probes"] = {"status": {"path": "/statusz"}}
    (item,), _ = render("--probe-listener", "15099", *MODULE_FILE)
    assert manager_of(listener_of(item))["http_filters"][0]["typed_config"]


def test_a_module_that_is_fetched_is_discovered_by_the_listener_too(policy, render, tmp_path):
    only(policy, "probes")
    module = ["--module", "oci://r.example/graygate:1", "--sha256", DIGEST]
    printed, _ = render("--probe-listener", "15099", "--callout", "app-8080=127.0.0.1:8080", *module)
    extension, added = printed[0]["spec"]["configPatches"]
    assert (extension["applyTo"], added["applyTo"]) == ("EXTENSION_CONFIG", "LISTENER")
    discovering = manager_of(added["patch"]["value"])["http_filters"][0]
    assert discovering["name"] == extension["patch"]["value"]["name"]
    assert "ads" in discovering["config_discovery"]["config_source"]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(printed))
    done = run("check", "--istio", file)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("direction", ["outbound", "gateway", "waypoint"])
def test_a_listener_for_probes_is_for_sidecars(refused, direction):
    problems = refused("--probe-listener", "15099", "--at", direction, *MODULE_FILE)
    assert any(problem.startswith("--probe-listener: is for an app beside its sidecar") for problem in problems)


def test_a_listener_for_probes_needs_probes(policy, refused):
    del policy["probes"]
    (problem,) = refused("--probe-listener", "15099", *MODULE_FILE)
    assert problem.startswith("--probe-listener: the policy has no probes")


# -- the module ---------------------------------------------------------------------


CHOSEN = ["--module", "oci://r.example/{module}:1"]
BOTH = [f"--sha256=graygate={'a' * 64}", f"--sha256=graygate-requests={'b' * 64}"]


def module_of(item):
    """Returns the URL, the digest and the label of a rendered manifest."""
    spec = item["spec"].get("wasm", item["spec"])
    return spec["url"], spec["sha256"], item["metadata"]["labels"]["graygate/module"]


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension"])
def test_each_manifest_names_the_module_that_its_part_needs(render, kind):
    (inbound, outbound), said = render("--kind", kind, *CHOSEN, *BOTH)
    # The release gives a new user a cookie.
    assert module_of(inbound) == ("oci://r.example/graygate-requests:1", "b" * 64, "graygate-requests")
    assert module_of(outbound) == ("oci://r.example/graygate:1", "a" * 64, "graygate")
    assert "--sha256" not in said


def test_an_envoy_filter_and_its_probe_listener_name_the_same_module(policy, render):
    only(policy, "probes", "gates")
    del policy["gates"][1]
    items, _ = render("--kind", "envoyfilter", *CHOSEN, *BOTH, "--probe-listener", "15099")
    labels = [item["metadata"]["labels"].get("graygate/module") for item in items]
    assert labels == ["graygate-requests"] * 2
    assert json.dumps(items).count('"uri": "oci://r.example/graygate-requests:1"') == 2
    _, *configs = json.dumps(items).split('"config": {"name": "')
    assert len({config.split('"')[0] for config in configs}) == 2


def test_the_placeholder_is_the_module_that_each_part_needs(render):
    (inbound, outbound), said = render()
    assert inbound["spec"]["url"].startswith("oci://registry.example.com/graygate-requests:")
    assert outbound["spec"]["url"].startswith("oci://registry.example.com/graygate:")
    assert said.count("is a placeholder. Set --module to the URL of your module, with {module} for its name") == 2


@pytest.mark.parametrize(
    ("module", "part", "line"),
    [
        ("{module}", 0, "# The module is graygate-requests.wasm. It has all that is needed, at a lower cost"),
        ("{module}", 1, "# The module is graygate.wasm, because releases[0].hashOn[0].httpCookie.ttl needs it."),
        ("graygate", 0, "# The module is graygate.wasm. graygate-requests.wasm would do, at a lower cost per request."),
        ("mine", 0, "# The module may be graygate-requests.wasm, which costs less per request than graygate.wasm."),
        ("mine", 1, "# The module must be graygate.wasm, because releases[0].hashOn[0].httpCookie.ttl needs it."),
    ],
)
def test_the_comment_says_which_module_it_is_and_why(policy, tmp_path, module, part, line):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    done = run("render", file, "--module", f"oci://r.example/{module}:1")
    assert line in done.stdout.split("---\n")[1 + part]


def test_a_module_that_lacks_a_key_is_refused_with_the_key_of_the_file(policy, refused):
    policy["gates"].append({"upstream": "v1", "match": [{"hosts": ["reviews.shop"]}], "whenAllNotReady": "forward"})
    words = (
        "needs graygate.wasm, and --module has graygate-requests.wasm, which acts on the headers of requests alone. "
        "Use graygate.wasm there, or remove the key."
    )
    expected = ["releases[0].hashOn[0].httpCookie.ttl", "gates[2].whenAllNotReady"]
    assert refused("--module", "oci://r.example/graygate-requests:1") == [f"{key}: {words}" for key in expected]
    # A breaker of an upstream that no part has is in no manifest.
    policy["upstreams"]["unused"] = {"cluster": "unused", "circuitBreaker": {}}
    assert len(refused("--module", "oci://r.example/graygate-requests:1")) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([f"--sha256={DIGEST}"], "the manifests need two modules, and each has a SHA-256 of its own"),
        ([*BOTH, f"--sha256={DIGEST}"], "one names its module, and another does not"),
        ([*BOTH, BOTH[0]], "given twice for the same module"),
    ],
)
def test_digests_that_do_not_say_what_they_are_of_are_refused(refused, options, words):
    (problem,) = refused(*CHOSEN, *options)
    assert problem.startswith(f"--sha256: {words}")


def test_one_digest_will_do_where_all_manifests_need_the_same_module(policy, render, refused):
    (problem,) = refused("--kind", "envoyfilter", *CHOSEN, BOTH[0])
    assert problem.startswith("--sha256: missing for graygate-requests, and an EnvoyFilter needs it")
    only(policy, "releases")
    (plugin,), _ = render(*CHOSEN, "--sha256", DIGEST)
    assert module_of(plugin) == ("oci://r.example/graygate:1", DIGEST, "graygate")
