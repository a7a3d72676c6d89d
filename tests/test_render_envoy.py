"""`graygate render --kind envoy`: what it prints runs in a real Envoy, and wrong options get plain errors."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from contextlib import ExitStack

import pytest
import yaml

from harness import sample_policies
from harness.client import get
from harness.config import stats_tags
from harness.envoy import PROJECT, Envoy, binary
from harness.health import check
from harness.load import Request, drive
from harness.ports import free_port
from harness.tool import explain, run
from harness.wait import until, until_all

MODULE = ["--module", "dist/graygate.wasm"]
USERS = [f"user-{number}" for number in range(300)]
ALICE = {"x-user-id": "alice"}
TESTER = {**ALICE, "x-tester": "true"}


def wasm_configs(node):
    """Yields the configuration of each Wasm filter in a tree."""
    if isinstance(node, dict):
        if node.get("@type", "").endswith(".wasm.v3.Wasm"):
            yield node["config"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from wasm_configs(item)


@pytest.fixture
def write(policy, tmp_path):
    """Writes the policy, and returns the file."""

    def write_policy(document=policy, name="policy.json"):
        file = tmp_path / name
        file.write_text(json.dumps(document))
        return file

    return write_policy


@pytest.fixture
def endpoints(v1, v2):
    return [f"--endpoint=reviews-v1=127.0.0.1:{v1.port}", f"--endpoint=reviews-v2=localhost:{v2.port}"]


@pytest.fixture
def render(write, endpoints):
    """Returns the printed document, and what standard error has."""

    def run_render(*arguments, documents=None):
        files = [write()] if documents is None else [write(one, f"{one['name']}.json") for one in documents]
        done = run("render", *files, "--kind", "envoy", *MODULE, *endpoints, *arguments)
        assert done.returncode == 0, done.stderr
        return yaml.safe_load(done.stdout), done.stderr

    return run_render


@pytest.fixture
def serve(render):
    """Runs a bootstrap as it is printed, but on ports that the system chooses."""
    with ExitStack() as stack:

        def start_envoy(*arguments, documents=None, concurrency=2):
            document, _ = render("--bootstrap", "--address", "127.0.0.1", *arguments, documents=documents)
            for address in [document["admin"], *document["static_resources"]["listeners"]]:
                if "address" in address:
                    assert address["address"]["socket_address"]["address"] == "127.0.0.1"
                    address["address"]["socket_address"]["port_value"] = 0
            return stack.enter_context(Envoy(document, concurrency=concurrency))

        yield start_envoy


def versions(port, headers=dict):
    answers = drive(port, [Request("/", {"x-user-id": user, **headers()}) for user in USERS])
    return [answer.version for answer in answers]


def test_the_bootstrap_of_the_shipped_policy_splits_gates_and_answers_probes(write, serve, policy, v1, v2, tmp_path):
    (extension,) = yaml.safe_load((PROJECT / "envoy" / "graygate.yaml").read_text())["resources"]
    policy.clear()
    policy.update(json.loads(extension["typed_config"]["config"]["configuration"]["value"]))
    envoy = serve("--probe-listener", "15099")
    port, probes = envoy.port(), envoy.port("graygate-probe")
    until_all(lambda: get(port, "/readyz").status == 200, what="ready")
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert versions(port) == [line["assignments"][0]["version"] for line in said]
    assert get(port, "/", TESTER).version == "v2"
    assert get(port, "/", {**ALICE, "x-gray-version": "v2"}).version == get(port, "/", ALICE).version
    sent = v1.requests + v2.requests
    assert [get(probes, path).status for path in ("/livez", "/startupz", "/readyz", "/readyz/TYPO", "/", "/api")] == [
        *[200] * 3,
        *[404] * 3,
    ]
    assert v1.requests + v2.requests == sent
    assert {check(one, "").word for one in (port, probes)} == {"SERVING"}
    v1.refuse()
    until_all(lambda: get(port, "/", ALICE).status == 503, what="gated")
    until(lambda: get(probes, "/readyz").status == 503, 10, "the listener for probes knows what the other knows")
    assert get(port, "/", TESTER).version == "v2"
    assert check(probes, "").word == "NOT_SERVING"
    labels = 'policy="reviews",release="reviews",version="v2",reason="match"'
    lines = [line for line in envoy.prometheus().splitlines() if "graygate_assignments_total{" in line]
    found = [line for line in lines if all(label in line for label in labels.split(","))]
    assert [int(line.split()[-1]) > 0 for line in found] == [True], lines


def test_a_bootstrap_runs_as_it_is_printed(write, endpoints, v1, tmp_path):
    ports = {name: free_port() for name in ("port", "admin-port", "probe-listener")}
    options = [f"--{name}={port}" for name, port in ports.items()]
    done = run("render", write(), "--kind", "envoy", "--bootstrap", *MODULE, *endpoints, *options)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "bootstrap.yaml"
    file.write_text(done.stdout)
    command = [binary(), "-c", file, "--disable-hot-restart", "--concurrency", "1"]
    with (tmp_path / "envoy.log").open("wb") as log:
        envoy = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
    try:

        def ready():
            try:
                return get(ports["probe-listener"], "/readyz").status == 200
            except OSError:
                return False

        until(ready, 20, "ready")
        assert get(ports["port"], "/", {**ALICE, "x-tester": "true"}).version == "v2"
        assert get(ports["admin-port"], "/ready").text.strip() == "LIVE"
    finally:
        envoy.terminate()
        envoy.wait(10)


STEERS = [{"header": "x-v"}, {"clusterHeader": "x-c"}, {"randomValueHeader": "x-r"}, {"filterState": "envoy.string"}]


@pytest.mark.parametrize("steer", STEERS, ids=lambda steer: next(iter(steer)))
def test_the_routes_follow_each_way_to_steer(serve, policy, steer, tmp_path):
    policy["releases"][0]["steer"] = steer
    envoy = serve()
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready")
    got = versions(envoy.port())
    said = explain(tmp_path, policy, [{"headers": {"x-user-id": user}} for user in USERS])
    assert got == [line["assignments"][0]["version"] for line in said]
    assert set(got) == {"v1", "v2"}
    assert get(envoy.port(), "/", TESTER).version == "v2"
    if header := next((value for key, value in steer.items() if key != "filterState"), None):
        for forged in ("v2", "reviews-v2", "0"):
            assert get(envoy.port(), "/", {**ALICE, header: forged}).version == get(envoy.port(), "/", ALICE).version


def test_a_fallback_has_its_route(serve, policy, v1):
    policy["gates"][0]["fallback"] = {"upstream": "reviews-v2", "clusterHeader": "x-fallback"}
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/released"}}]
    envoy = serve()
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready")
    assert get(envoy.port(), "/", {**ALICE, "x-fallback": "reviews-v2"}).version == "v1"
    v1.refuse()
    until_all(lambda: get(envoy.port(), "/", ALICE).version == "v2", what="diverted")


def test_no_client_reaches_another_cluster_by_the_header_of_a_fallback(serve, policy):
    policy["gates"][0]["fallback"] = {"upstream": "reviews-v2", "clusterHeader": "x-fallback"}
    del policy["releases"]
    # In shadow the filter changes no request, so a client's header reaches the routes.
    policy["mode"] = "shadow"
    envoy = serve()
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready")
    assert get(envoy.port(), "/", {"x-fallback": "elsewhere"}).version == "v1"


def test_each_policy_of_several_has_its_hosts(serve, policy):
    del policy["probes"]
    shop = {**policy, "hosts": ["shop.example.com", "*.shop.example.com:8443"]}
    version = {"name": "v1", "upstream": "v2", "weight": 1, "default": True}
    other = {
        "name": "other",
        "upstreams": {"v2": {"cluster": "reviews-v2"}},
        "releases": [{"name": "r", "steer": {"header": "x-other"}, "versions": [version]}],
    }
    envoy = serve(documents=[shop, other])
    hosts = {
        "shop.example.com": {"v1"},
        "shop.example.com:1234": {"v1"},
        "a.shop.example.com:8443": {"v1"},
        "elsewhere": {"v2"},
    }
    v1_users = [
        user
        for user in USERS
        if get(envoy.port(), "/", {"host": "shop.example.com", "x-user-id": user}).version == "v1"
    ]
    for host, expected in hosts.items():
        found = {get(envoy.port(), "/", {"host": host, "x-user-id": user}).version for user in v1_users[:5]}
        assert found == expected, host
    # The steer header of the one policy means nothing to the routes of the other.
    assert get(envoy.port(), "/", {"host": "elsewhere", "x-gray-version": "v1"}).version == "v2"


def test_the_parts_are_what_a_bootstrap_lacks(render, policy, v1, v2):
    policy["probes"]["grpc"] = {"services": [""]}
    parts, _ = render("--probe-listener", "15099")
    assert list(parts) == ["http_filters", "routes", "listeners", "clusters", "bootstrap_extensions", "stats_config"]
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    connections = {
        "@type": manager,
        "stat_prefix": "own",
        "http_filters": [*parts["http_filters"], {"name": "router", "typed_config": {"@type": router}}],
        "route_config": {"virtual_hosts": [{"name": "own", "domains": ["*"], "routes": parts["routes"]}]},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chains = [{"filters": [{"name": "http", "typed_config": connections}]}]
    for listener in parts["listeners"]:
        if "address" in listener:
            listener["address"] = address
    own = {"name": "own", "address": address, "filter_chains": chains}
    document = {
        "node": {"id": "own", "cluster": "own"},
        "admin": {"address": address},
        "bootstrap_extensions": parts["bootstrap_extensions"],
        "stats_config": parts["stats_config"],
        "static_resources": {"listeners": [own, *parts["listeners"]], "clusters": parts["clusters"]},
    }
    with Envoy(document) as envoy:
        until_all(lambda: get(envoy.port("own"), "/readyz").status == 200, what="ready")
        assert Counter(versions(envoy.port("own"))).keys() == {"v1", "v2"}
        assert check(envoy.port("own"), "").word == check(envoy.port("graygate-probe"), "").word == "SERVING"


def test_requests_that_nothing_leads_elsewhere_go_to_the_default_cluster(serve, render, policy, v1):
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/released"}}]
    envoy = serve("--default-cluster", "reviews-v2")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="ready")
    assert get(envoy.port(), "/", ALICE).version == "v2"
    assert get(envoy.port(), "/released", {"x-user-id": USERS[0]}).version == "v1"
    parts, _ = render()
    assert parts["routes"][-1]["route"] == {"cluster": "reviews-v1"}
    del policy["releases"]
    policy["gates"] = [{"upstream": "reviews-v2"}]
    parts, _ = render()
    assert parts["routes"][-1]["route"] == {"cluster": "reviews-v2"}


def test_envoy_accepts_what_is_made_of_any_policy(tmp_path):
    accepted = 0
    for seed in range(1000):
        policy = sample_policies.policy(random.Random(seed), "any")
        clusters = {upstream["cluster"] for upstream in policy["upstreams"].values()}
        endpoints = [f"--endpoint={cluster}=127.0.0.1:{9000 + index}" for index, cluster in enumerate(sorted(clusters))]
        done = run("render", "-", "--kind", "envoy", "--bootstrap", *MODULE, *endpoints, stdin=json.dumps(policy))
        if done.returncode == 1:
            continue
        assert done.returncode == 0, done.stderr
        file = tmp_path / "bootstrap.yaml"
        file.write_text(done.stdout)
        command = [binary(), "--mode", "validate", "-c", file]
        validated = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
        assert validated.returncode == 0, (seed, validated.stderr[-2000:])
        accepted += 1
        if accepted == 8:
            break
    assert accepted == 8


def test_parts_without_a_need_are_left_out(write):
    liveness = {"name": "a", "probes": {"liveness": {"path": "/livez"}}}
    done = run("render", write(liveness), "--kind", "envoy")
    assert (done.returncode, done.stderr) == (0, "")
    parts = yaml.safe_load(done.stdout)
    assert list(parts) == ["http_filters", "routes", "stats_config"]
    assert parts["routes"] == [{"match": {"prefix": "/"}, "direct_response": {"status": 404}}]
    (config,) = wasm_configs(parts)
    assert json.loads(config["configuration"]["value"]) == liveness
    assert config["failure_policy"] == "FAIL_RELOAD"
    assert config["vm_config"]["code"] == {"local": {"filename": "/etc/envoy/graygate-requests.wasm"}}


@pytest.mark.parametrize("options", [[], ["--bootstrap"]])
def test_the_module_is_the_one_that_the_policies_need_and_the_output_says_why(write, options):
    modest = {"name": "a", "upstreams": {"app": {"cluster": "app"}}, "gates": [{"upstream": "app"}]}
    judged = {
        **modest,
        "name": "b",
        "hosts": ["b.shop"],
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": {}}},
    }
    both = [judged, modest]
    for documents, name, why in [
        ([modest], "graygate-requests", "has all that is needed, at a lower cost per request than graygate.wasm."),
        ([judged], "graygate", "because upstreams.app.circuitBreaker needs it."),
        (both, "graygate", "because policies[0].upstreams.app.circuitBreaker needs it."),
    ]:
        files = [write(document, f"{document['name']}.json") for document in documents]
        endpoint = ["--endpoint", "app=127.0.0.1:1"]
        done = run("render", *files, "--kind", "envoy", "--module", "dist/{module}.wasm", *options, *endpoint)
        assert done.returncode == 0, done.stderr
        comments = " ".join(line.removeprefix("# ") for line in done.stdout.splitlines() if line.startswith("# "))
        assert f"The module is {name}.wasm" in comments
        assert why in comments
        (config,) = wasm_configs(yaml.safe_load(done.stdout))
        assert config["vm_config"]["code"] == {"local": {"filename": f"dist/{name}.wasm"}}


def test_the_plugins_of_two_policies_have_different_names(write):
    names = []
    for name in ("a", "b"):
        file = write({"name": name, "probes": {"liveness": {"path": "/livez"}}})
        done = run("render", file, "--kind", "envoy", "--probe-listener", "15099")
        # The listener for probes shares the state of the plugin, so it has the same name.
        (own,) = {config["name"] for config in wasm_configs(yaml.safe_load(done.stdout))}
        names.append(own)
    assert names == ["graygate-a", "graygate-b"]


def test_a_module_that_lacks_a_key_is_refused_with_the_key(write):
    policy = {
        "name": "a",
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": {}}},
        "gates": [{"upstream": "app"}],
    }
    file = write(policy)
    done = run("render", file, "--kind", "envoy", "--module", "dist/graygate-requests.wasm")
    assert (done.returncode, done.stdout) == (1, "")
    words = (
        "needs graygate.wasm, and --module has graygate-requests.wasm, which acts on the headers of requests alone. "
        "Use graygate.wasm there, or remove the key."
    )
    assert done.stderr == f"{file}: upstreams.app.circuitBreaker: {words}\n1 problem\n"


@pytest.mark.parametrize("arguments", [(), ("--bootstrap", "--fail", "open"), ("--bootstrap", "--fail", "closed")])
def test_envoy_accepts_each_failure_policy_and_every_filter_has_the_policy(render, policy, arguments, tmp_path):
    document, _ = render(*arguments, "--probe-listener", "15099")
    configs = list(wasm_configs(document))
    assert len(configs) == 2
    assert all(json.loads(config["configuration"]["value"]) == policy for config in configs)
    assert all(config["vm_config"]["vm_id"] == "graygate" for config in configs)
    if arguments:
        file = tmp_path / "bootstrap.yaml"
        file.write_text(yaml.safe_dump(document))
        command = [binary(), "--mode", "validate", "-c", file]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_the_harness_and_the_tool_have_the_same_labels(render):
    assert render()[0]["stats_config"] == {"stats_tags": stats_tags()}


@pytest.mark.parametrize("arguments", [(), ("--bootstrap",)])
def test_what_is_printed_passes_the_check(write, endpoints, arguments, tmp_path):
    done = run("render", write(), "--kind", "envoy", "--probe-listener", "15099", *endpoints, *arguments)
    file = tmp_path / "envoy.yaml"
    file.write_text(done.stdout)
    checked = run("check", file)
    assert (checked.returncode, checked.stdout.count("policy reviews: no problems")) == (0, 2), checked


def test_mode_percent_and_on_wrong_policy_are_in_the_document(render, policy):
    policy["onWrongPolicy"] = "lastGood"
    parts, _ = render("--mode", "shadow", "--percent", "5")
    (config,) = wasm_configs(parts)
    document = json.loads(config["configuration"]["value"])
    assert (document["mode"], document["rollout"], document["onWrongPolicy"]) == ("shadow", {"percent": 5}, "lastGood")


def test_an_upstream_that_is_checked_by_grpc_gets_http2(render, policy):
    policy["upstreams"]["reviews-v2"]["readinessProbe"] = {"grpc": {}}
    clusters = {cluster["name"]: cluster for cluster in render()[0]["clusters"]}
    assert "typed_extension_protocol_options" not in clusters["reviews-v1"]
    (options,) = clusters["reviews-v2"]["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}
    assert [clusters[name]["type"] for name in ("reviews-v1", "reviews-v2")] == ["STATIC", "STRICT_DNS"]


def test_releases_that_no_route_can_tell_apart_are_warned_of(render, policy):
    policy["upstreams"]["other"] = {"cluster": "reviews-v2"}
    second = {**policy["releases"][0], "name": "second", "match": [{"uri": {"prefix": "/x"}}]}
    second["versions"] = [{"name": "v1", "upstream": "other", "weight": 1, "default": True}]
    policy["releases"][0]["match"] = [{"uri": {"prefix": "/y"}}]
    policy["releases"].append(second)
    _, said = render()
    assert "warning: releases[1].steer: release second steers like release reviews" in said
    second["steer"] = {"header": "x-second"}
    parts, said = render()
    assert said == ""
    assert [route.get("name") for route in parts["routes"]] == [
        "graygate-reviews-v1",
        "graygate-reviews-v2",
        "graygate-second-v1",
        None,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bootstrap"], '--endpoint: missing for the cluster "reviews-v1"'),
        (
            ["--endpoint", "reviews=127.0.0.1:1"],
            '--endpoint: "reviews": the policy has no such cluster. It has: reviews-v1',
        ),
        (["--endpoint", "reviews-v1=127.0.0.1"], "write CLUSTER=HOST:PORT, such as app=127.0.0.1:8080"),
        (["--endpoint", "reviews-v1=a:1", "--endpoint", "reviews-v1=a:1"], "the same address twice"),
        (["--port", "80"], "--port: has no effect without --bootstrap"),
        (["--module", "oci://r.example/g:1"], "only Istio fetches modules"),
        (["--at", "inbound"], "--at: is only for Istio"),
        (["--scope", "mesh", "--routes"], "--scope: is only for Istio"),
        (["--bootstrap", "--port", "9901"], "--port: 9901 is also the port of the admin interface"),
        (["--bootstrap", "--admin-port", "10000"], "--port: 10000 is also the port of the admin interface"),
        (["--bootstrap", "--probe-listener", "9901"], "--probe-listener: 9901 is also the port of the admin"),
        (["--bootstrap", "--port", "1", "--probe-listener", "1"], "--probe-listener: the same port as --port"),
    ],
)
def test_a_wrong_option_gets_a_plain_error(write, arguments, message):
    done = run("render", write(), "--kind", "envoy", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_an_option_for_envoy_has_no_effect_for_istio(write):
    done = run("render", write(), "--bootstrap", "--endpoint", "a=b:1")
    assert done.returncode == 1
    assert "--bootstrap: has no effect without --kind envoy" in done.stderr
    assert "--endpoint: has no effect without --kind envoy" in done.stderr


def test_a_listener_for_probes_needs_probes(write, policy):
    del policy["probes"]
    done = run("render", write(), "--kind", "envoy", "--probe-listener", "15099")
    assert done.returncode == 2
    assert "--probe-listener: the policy has no probes" in done.stderr
