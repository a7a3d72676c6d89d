"""`graygate check --istio`: manifests that are applied together, and problems of graygate's own among them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.manifests import (
    DIGEST,
    GATE,
    INBOUND,
    OUTBOUND,
    PROBES,
    RELEASE,
    Checker,
    attached,
    envoy_filter,
    labelled,
    patch,
    resource,
    traffic_extension,
    typed_struct,
    wasm,
    wasm_plugin,
)
from harness.tool import BINARY, run


@pytest.fixture
def check(tmp_path):
    return Checker(tmp_path)


# -- what is read -------------------------------------------------------------------


def test_a_valid_set_is_counted(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    others = [
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": []},
        {"name": "a-policy", "mode": "nonsense"},
        [{"op": "replace", "path": "/spec", "value": 1}],
        None,
        {
            "apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "WasmPlugin",
            "metadata": {"name": "another"},
            "spec": {"url": "oci://r/x:1"},
        },
    ]
    (tmp_path / "deep" / "a.yml").write_text(
        yaml.safe_dump_all([*others, wasm_plugin("a"), wasm_plugin("b", OUTBOUND, RELEASE)])
    )
    (tmp_path / "deep" / "deeper" / "b.json").write_text(json.dumps(envoy_filter("c", namespace="other")))
    (tmp_path / "deep" / "c.txt").write_text("a: b: c")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "d.yaml").write_text("a: b: c")
    done = run("check", "--istio", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}: 2 WasmPlugins, 1 EnvoyFilter: no problems\n"


def test_a_stream_on_standard_input_and_several_directories_are_one_set(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(yaml.safe_dump(wasm_plugin(name)))
    stream = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [wasm_plugin("a"), wasm_plugin("b")]})
    for done in [
        run("check", "--istio", "-", stdin=stream),
        run("check", "--istio", tmp_path / "a", "--istio", tmp_path / "b"),
        run("check", "--istio", tmp_path),
    ]:
        assert done.returncode == 1
        assert "WasmPlugin shop/a: WasmPlugin shop/b in " in done.stderr
    assert run("check", "--istio", tmp_path / "a").returncode == 0


def test_a_set_without_graygate_is_a_problem(tmp_path):
    done = run("check", "--istio", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path}: no resource of graygate; looked for ")


def test_a_file_with_invalid_yaml_is_a_problem(check, tmp_path):
    (tmp_path / "x.yml").write_text("a: b: c")
    done = run("check", "--istio", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path}/x.yml:1:5: ")


def test_a_template_is_not_checked_and_named(check, tmp_path):
    unquoted = "apiVersion: v1\nkind: WasmPlugin\nmetadata:\n  name: {{ .Release.Name }}\n"
    quoted = yaml.safe_dump(wasm_plugin("b", policy="{{ .Values.policy }}"))
    for template in (unquoted, quoted):
        assert check(wasm_plugin("a", policy=GATE, match=OUTBOUND), template) == []
        assert check.notes == [
            (
                "1.yaml: not checked, as it is a template, which is a manifest only when its values are filled in: "
                "helm template CHART | graygate check --istio -"
            )
        ]


def test_a_pipe_in_a_directory_is_not_read_and_one_by_name_is(check, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(wasm_plugin("a", OUTBOUND, GATE)))
    done = run("check", "--istio", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"note: {tmp_path}/pipe.yaml: not read, as it is a pipe, a socket or a device" in done.stderr
    command = f"'{BINARY}' check --istio <(cat '{tmp_path}/a.yaml')"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, "1 WasmPlugin: no problems" in done.stdout) == (0, True), done.stderr


def test_a_key_that_is_there_twice_is_a_problem(check):
    text = yaml.safe_dump(wasm_plugin("a", OUTBOUND, GATE))
    problems = check(text + "spec: {}\n" + "metadata:\n  name: a\n  name: b\n")
    assert [problem.split(": ")[2] for problem in problems] == ["spec", "metadata", "metadata.name"]
    assert all("the key is there twice" in problem for problem in problems)
    (problem,) = check(text.replace("    name: shop\n", "    name: shop\n    name: shop\n"))
    assert problem.startswith("0.yaml: WasmPlugin shop/a: spec.pluginConfig.name: ")
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 1, a: 2}\n"
    assert check(text, other) == []


def test_an_error_of_standard_output_is_reported(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(wasm_plugin("a")))
    (tmp_path / "policy.json").write_text(json.dumps(PROBES))
    for arguments in (["--istio", tmp_path], [tmp_path / "policy.json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [BINARY, "check", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 3
        assert done.stderr.endswith("graygate: standard output: No space left on device\n")


def test_wrong_usage_ends_with_2(tmp_path):
    for arguments in (
        ["--istio"],
        ["x", "--istio", tmp_path],
        ["x", "--root-namespace", "a"],
    ):
        assert run("check", *arguments).returncode == 2, arguments


def test_graygate_is_identified_by_plugin_name_root_id_or_module(check):
    bad = {"name": "shop", "modes": 1}
    remote = {"code": {"remote": {"http_uri": {"uri": "oci://r.example/graygate:1"}, "sha256": DIGEST}}}
    local = {"code": {"local": {"filename": "/etc/graygate.wasm"}}}
    for item in [
        wasm_plugin("a", policy=bad),
        wasm_plugin("a", policy=bad, pluginName="x", url="file:///etc/graygate.wasm"),
        wasm_plugin("a", policy=bad, pluginName="x", url="r.example/graygate@sha256:ab", sha256=""),
        traffic_extension("a", policy=bad),
        envoy_filter("a", patch(wasm(bad))),
        envoy_filter("a", patch(wasm(bad, root_id="x", name="graygate"))),
        envoy_filter("a", patch(wasm(bad, root_id="x", vm_config=remote))),
        envoy_filter("a", patch(wasm(bad, root_id="x", vm_config=local))),
        envoy_filter("a", patch({"name": "f", "typed_config": typed_struct(bad)})),
        envoy_filter("a", patch({"filter_chains": [{"filters": [wasm(bad)]}]}, apply_to="LISTENER")),
    ]:
        (problem,) = check(item)
        assert 'modes: unknown field; did you mean "mode"?' in problem
    for item in [
        wasm_plugin("a", policy=bad, pluginName="x"),
        envoy_filter("a", patch(wasm(bad, root_id="x"))),
    ]:
        (problem,) = check(item)
        assert "no resource of graygate" in problem


# -- one resource -------------------------------------------------------------------


def test_a_problem_of_a_policy_has_its_file_resource_and_path(check):
    bad = {"name": "shop", "gates": [{"upstream": "db"}], "upstreams": {}}
    where = 'gates[0].upstream: "db" is not an upstream; add it to upstreams, which is empty'
    assert check(wasm_plugin("a", policy=bad), envoy_filter("b", patch(wasm(bad)), namespace="other")) == [
        f"0.yaml: WasmPlugin shop/a: spec.pluginConfig.{where}",
        "1.yaml: EnvoyFilter other/b: spec.configPatches[0].patch.value.typed_config.config.configuration.value."
        + where,
    ]


def test_a_missing_or_invalid_policy_is_a_problem(check):
    plugin = wasm_plugin("a")
    del plugin["spec"]["pluginConfig"]
    item = envoy_filter("b", patch(wasm(configuration={"value": "{"})), namespace="other")
    struct = envoy_filter("c", patch(wasm(configuration={"value": {"name": "a"}})), namespace="more")
    first, second, third = check(plugin, item, struct)
    assert first == "0.yaml: WasmPlugin shop/a: spec.pluginConfig: missing; add a policy"
    assert "configuration.value: the text ends before " in second
    assert "configuration.value: not a string. Write the policy as JSON in a string" in third


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (wasm_plugin("a", OUTBOUND), "probes"),
        (wasm_plugin("a", None), "probes"),
        (wasm_plugin("a", INBOUND, RELEASE), "releases"),
        (wasm_plugin("a", None, RELEASE), "releases"),
        (envoy_filter("a", patch(context="SIDECAR_OUTBOUND")), "probes"),
        (envoy_filter("a", patch(context="ANY")), "probes"),
        (envoy_filter("a", patch(wasm(RELEASE))), "releases"),
    ],
)
def test_a_part_in_the_wrong_place_is_a_problem(check, item, field):
    (problem,) = check(item)
    assert f".{field}: " in problem
    assert " is not allowed there: " in problem


def test_at_a_gateway_and_a_waypoint_all_parts_have_a_place(check):
    assert check(wasm_plugin("a", OUTBOUND, PROBES | RELEASE, **labelled(istio="ingressgateway"))) == []
    assert check(wasm_plugin("a", OUTBOUND, PROBES | RELEASE, **attached("public"))) == []
    waypoint = json.loads(json.dumps(RELEASE).replace("outbound|80|v1|", "inbound-vip|80|http/v1|"))
    assert check(wasm_plugin("a", INBOUND, PROBES | waypoint, **attached("waypoint"))) == []
    assert check(envoy_filter("a", patch(wasm(PROBES | RELEASE), context="GATEWAY"))) == []


def test_a_check_of_a_cluster_that_cannot_be_called_is_a_problem(check):
    policy = PROBES | {"upstreams": {"app": {"cluster": "inbound|80||", "readinessProbe": {"httpGet": {}}}}}
    (problem,) = check(wasm_plugin("a", policy=policy))
    assert problem.startswith(
        '0.yaml: WasmPlugin shop/a: spec.pluginConfig.upstreams.app.cluster: "inbound|80||" is not allowed there: '
    )


def gateway(name, class_name):
    spec = {"gatewayClassName": class_name}
    return resource("gateway.networking.k8s.io/v1", "Gateway", name, "shop", None, spec)


def test_a_mode_that_never_applies_is_a_problem(check):
    server, client = wasm_plugin("a", INBOUND, **attached("public")), wasm_plugin("a", OUTBOUND, **attached("public"))
    (problem,) = check(server)
    assert problem.startswith(
        "0.yaml: WasmPlugin shop/a: spec.match[0].mode: SERVER is not allowed there: Gateway public is a gateway"
    )
    assert check(server, gateway("public", "istio")) == [problem]
    assert check(server, gateway("public", "istio-waypoint")) == []
    assert check(client) == check(client, gateway("public", "istio")) == []
    (problem,) = check(client, gateway("public", "istio-waypoint"))
    assert "spec.match[0].mode: CLIENT is not allowed there: Gateway public is a waypoint" in problem


def test_a_mode_that_never_applies_to_labels_of_a_gateway_is_a_problem(check):
    (problem,) = check(wasm_plugin("a", INBOUND, **labelled(istio="ingressgateway")))
    assert problem.startswith("0.yaml: WasmPlugin shop/a: spec.match: no mode of it ever applies")


def test_a_policy_that_the_whole_mesh_enforces_at_once_is_named(check):
    for policy, spec, named in [
        (GATE, {}, True),
        (GATE | {"mode": "shadow"}, {}, False),
        (GATE | {"rollout": {"percent": 100}}, {}, False),
        (GATE, labelled(app="a"), False),
    ]:
        assert check(wasm_plugin("a", OUTBOUND, policy, "istio-system", **spec)) == []
        assert any("in all proxies of the mesh at once" in note for note in check.notes) == named
    assert check(wasm_plugin("a", OUTBOUND, GATE)) == []
    assert check.notes == []


def test_a_port_at_a_waypoint_is_a_problem(check):
    match = [{"mode": "SERVER", "ports": [{"number": 80}]}]
    (problem,) = check(wasm_plugin("a", match, **attached("waypoint")))
    assert "spec.match[0].ports: 80 is not allowed there: a waypoint's listener has port 0" in problem
    (problem,) = check(envoy_filter("a", patch(port=80), **attached("waypoint")))
    assert "spec.configPatches[0].match.listener.portNumber: 80 is not allowed there" in problem


# -- two resources ------------------------------------------------------------------


def at_ports(mode, *ports):
    return [{"mode": mode, "ports": [{"number": port} for port in ports]}]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (wasm_plugin("a"), wasm_plugin("b")),
        (wasm_plugin("a"), traffic_extension("a")),
        (wasm_plugin("a"), envoy_filter("b")),
        (envoy_filter("a"), envoy_filter("b")),
        (wasm_plugin("a"), wasm_plugin("b", namespace="istio-system")),
        (wasm_plugin("a", **labelled(app="x")), wasm_plugin("b")),
        (wasm_plugin("a", **labelled(app="x")), wasm_plugin("b", **labelled(version="v1"))),
        (wasm_plugin("a", **labelled(app="x")), envoy_filter("b", workloadSelector={"labels": {"app": "x"}})),
        (wasm_plugin("a", at_ports("SERVER", 80, 81)), wasm_plugin("b", at_ports("SERVER", 81))),
        (wasm_plugin("a", at_ports("SERVER", 80)), envoy_filter("b", patch(port=80))),
        (wasm_plugin("a", at_ports("SERVER", 80)), wasm_plugin("b")),
        (wasm_plugin("a", None, GATE), wasm_plugin("b", OUTBOUND, GATE)),
        (wasm_plugin("a", OUTBOUND, GATE), envoy_filter("b", patch(context="GATEWAY"))),
        (wasm_plugin("a", OUTBOUND, GATE), envoy_filter("b", patch(wasm(GATE), context="ANY"))),
        (wasm_plugin("a", revision="x"), wasm_plugin("b")),
        (wasm_plugin("a", OUTBOUND, **attached("p", "q")), wasm_plugin("b", OUTBOUND, **attached("q"))),
        (wasm_plugin("a", OUTBOUND, GATE), wasm_plugin("b", OUTBOUND, **attached("q"))),
        (envoy_filter("a", patch(context="ANY"), **attached("waypoint")), wasm_plugin("b", **attached("waypoint"))),
        (
            wasm_plugin("a", OUTBOUND, **labelled(**{"gateway.networking.k8s.io/gateway-name": "q"})),
            wasm_plugin("b", OUTBOUND, **attached("q")),
        ),
    ],
)
def test_two_filters_in_one_listener_are_a_problem(check, one, two):
    (problem,) = check(one, two)
    kinds = [f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}" for item in (one, two)]
    assert problem.startswith(f"0.yaml: {kinds[0]}: {kinds[1]} in 1.yaml puts graygate into the same ")
    assert problem.endswith("or set labels, ports, a mode or a revision (istio.io/rev) by which no proxy has both.")
    (problem,) = check(two, one)
    assert problem.startswith(f"0.yaml: {kinds[1]}: {kinds[0]} in 1.yaml ")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (wasm_plugin("a"), wasm_plugin("b", OUTBOUND, GATE)),
        (wasm_plugin("a"), wasm_plugin("a", namespace="other")),
        (wasm_plugin("a", **labelled(app="x")), wasm_plugin("b", **labelled(app="y", version="v1"))),
        (wasm_plugin("a", at_ports("SERVER", 80)), wasm_plugin("b", at_ports("SERVER", 81))),
        (wasm_plugin("a", at_ports("SERVER", 80)), envoy_filter("b", patch(port=81))),
        (wasm_plugin("a"), envoy_filter("b", patch(wasm(GATE), context="SIDECAR_OUTBOUND"))),
        (wasm_plugin("a", revision="x"), wasm_plugin("b", revision="y")),
        (wasm_plugin("a", OUTBOUND, **attached("p")), wasm_plugin("b", OUTBOUND, **attached("q"))),
        (wasm_plugin("a", **labelled(app="x")), wasm_plugin("b", OUTBOUND, **attached("q"))),
        (wasm_plugin("a"), wasm_plugin("b", **attached("waypoint"))),
        (wasm_plugin("a"), envoy_filter("b", patch({"filters": [wasm()]}, apply_to="LISTENER"))),
        (
            envoy_filter("a", patch(proxy={"proxyVersion": "^1.29"})),
            envoy_filter("b", patch(proxy={"proxyVersion": "^1.30"})),
        ),
    ],
)
def test_two_filters_that_share_no_listener_are_not_a_problem(check, one, two):
    assert check(one, two) == []


def test_the_root_namespace_is_an_option(check):
    pair = wasm_plugin("a"), wasm_plugin("b", namespace="root")
    assert check(*pair) == []
    (problem,) = check(*pair, options=["--root-namespace", "root"])
    assert "WasmPlugin root/b" in problem


WAYPOINTS = {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}]}


def test_targets_apply_in_their_own_namespace_and_the_waypoint_class_to_all_waypoints(check):
    one = wasm_plugin("a", **attached("waypoint"))
    root = {"namespace": "istio-system"}
    assert check(one, wasm_plugin("b", **root, **attached("waypoint"))) == []
    (problem,) = check(one, wasm_plugin("b", **root, **WAYPOINTS))
    assert "into the same waypoint listeners" in problem
    assert check(one, wasm_plugin("b", **root, **WAYPOINTS), options=["--root-namespace", "other"]) == []


def served(name, waypoint, kind="Service"):
    """A Service or Namespace that chooses its waypoint."""
    item = resource("v1", kind, name, "shop", None, {})
    item["metadata"]["labels"] = {"istio.io/use-waypoint": waypoint}
    return item


def test_a_service_and_its_waypoint_have_the_filter_twice(check):
    of_service = {"targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}]}
    pair = wasm_plugin("a", **attached("waypoint")), wasm_plugin("b", **of_service)
    for order in (pair, pair[::-1]):
        (problem,) = check(*order)
        assert "into the same waypoint listeners, so each request meets it twice" in problem
    for other in (served("reviews", "waypoint"), served("shop", "waypoint", "Namespace"), served("ratings", "other")):
        assert len(check(*pair, other)) == 1
    for other in (served("reviews", "other"), served("reviews", "none"), served("shop", "other", "Namespace")):
        assert check(*pair, other) == []
    assert check(pair[0], wasm_plugin("b", namespace="other", **of_service)) == []
    assert check(pair[1], wasm_plugin("a", targetRefs=[of_service["targetRefs"][0] | {"name": "ratings"}])) == []


def test_an_envoy_filter_for_a_service_has_no_effect(check):
    service = {"targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}]}
    (problem,) = check(envoy_filter("a", **service))
    assert problem.startswith("0.yaml: EnvoyFilter shop/a: spec.targetRefs: Service reviews is not allowed there")
    options = ["--at", "waypoint", "--target", "Service/reviews", "--module", "file:///graygate.wasm"]
    done = run("render", "-", "--kind", "envoyfilter", *options, stdin=json.dumps(GATE))
    assert done.returncode == 1
    assert (
        "--target: Service/reviews is not allowed there: Istio does not attach an EnvoyFilter to a Service"
        in done.stderr
    )
    assert run("render", "-", *options, stdin=json.dumps(GATE)).returncode == 0


@pytest.mark.parametrize("proxy", [{}, {"proxyVersion": ""}, {"metadata": {}}])
def test_a_patch_without_a_proxy_condition_applies_to_all_proxies(check, proxy):
    (problem,) = check(envoy_filter("a", patch(proxy=proxy)), envoy_filter("b", patch(proxy={"proxyVersion": "^1.30"})))
    assert "puts graygate into the same inbound listeners" in problem


def test_a_patch_that_changes_or_removes_the_filter_does_not_add_one(check):
    def second(operation, **config):
        other = patch(wasm(**config))
        other["patch"]["operation"] = operation
        return other

    assert check(envoy_filter("a", patch(), second("MERGE"), second("REMOVE"))) == []
    assert len(check(envoy_filter("a", patch(), second("INSERT_BEFORE")))) == 1
    (problem,) = check(envoy_filter("a", patch(), second("MERGE", policy={})))
    assert "spec.configPatches[1].patch.value.typed_config.config.configuration.value.name: missing" in problem


def test_two_patches_of_one_resource_in_one_listener_are_a_problem(check):
    (problem,) = check(envoy_filter("a", patch(), patch()))
    assert problem.startswith(
        "0.yaml: EnvoyFilter shop/a: "
        "spec.configPatches[0].match.context and spec.configPatches[1].match.context put graygate "
    )
    assert check(envoy_filter("a", patch(port=80), patch(port=81))) == []
    assert check(wasm_plugin("a", INBOUND + at_ports("SERVER", 80))) == []


def test_a_filter_with_the_name_of_a_patch_is_where_that_name_is_used(check):
    extension = patch(wasm() | {"name": "n"}, apply_to="EXTENSION_CONFIG")
    taken = [patch({"name": "n", "config_discovery": {}}, port=port) for port in (80, 81)]
    item = envoy_filter("a", extension, *taken)
    assert check(item) == []
    assert len(check(item, wasm_plugin("b", at_ports("SERVER", 81)))) == 1
    assert check(item, wasm_plugin("b", at_ports("SERVER", 82))) == []
    (problem,) = check(envoy_filter("a", extension, taken[0], taken[0]))
    assert "spec.configPatches[1].match.context and spec.configPatches[2].match.context" in problem


DRAINED = {"name": "shop", "probes": {"drain": {"path": "/drainz", "from": ["127.0.0.1/32"]}}}
ROLLED_BACK = RELEASE | {"releases": [RELEASE["releases"][0] | {"rollback": {"failurePercent": 5}}]}
VM = {"vm_config": {"vm_id": "graygate"}}


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        (wasm_plugin("a", policy=DRAINED), wasm_plugin("b", OUTBOUND, GATE), "without drain ends the other's"),
        (wasm_plugin("a"), traffic_extension("b", OUTBOUND, ROLLED_BACK), "ends the other's rollback"),
        (
            envoy_filter("a", patch(wasm(DRAINED, **VM))),
            envoy_filter("b", patch(wasm(GATE, **VM), context="SIDECAR_OUTBOUND"), namespace="istio-system"),
            "without drain ends the other's",
        ),
    ],
)
def test_two_conflicting_filters_of_one_name_in_one_proxy_are_a_problem(check, one, two, reason):
    for pair in ((one, two), (two, one)):
        (problem,) = check(*pair)
        assert "may be in the same proxies, where policies of one name share what they know" in problem
        assert '"shop" is the name of that one\'s policy, too, and whichever comes without ' in problem
        assert problem.endswith(f"{reason}. Give each a name of its own.")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (wasm_plugin("a", policy=DRAINED), wasm_plugin("b", OUTBOUND, GATE | {"name": "other"})),
        (wasm_plugin("a"), wasm_plugin("b", OUTBOUND, GATE)),
        (wasm_plugin("a", policy=DRAINED), wasm_plugin("b", OUTBOUND, GATE, namespace="other")),
        (wasm_plugin("a", policy=DRAINED), wasm_plugin("b", OUTBOUND, GATE, **attached("public"))),
        (wasm_plugin("a", policy=DRAINED), envoy_filter("b", patch(wasm(GATE, **VM), context="SIDECAR_OUTBOUND"))),
        (
            envoy_filter("a", patch(wasm(DRAINED, **VM))),
            envoy_filter("b", patch({"filters": [wasm(DRAINED, **VM)]}, apply_to="LISTENER")),
        ),
    ],
)
def test_two_filters_of_one_name_that_agree_or_never_meet_are_not_a_problem(check, one, two):
    assert check(one, two) == []


def test_one_resource_in_two_files_is_a_problem(check):
    (problem,) = check(wasm_plugin("a"), wasm_plugin("a"))
    assert problem.startswith(
        "0.yaml: WasmPlugin shop/a: 1.yaml has the same resource, so only the one applied last counts"
    )


# -- what the tool itself prints ----------------------------------------------------


FILE = ["--module", "file:///etc/graygate.wasm"]
IMAGE = ["--module", "oci://r.example/graygate:1", "--sha256", DIGEST]


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension", "envoyfilter"])
@pytest.mark.parametrize("place", [None, "gateway", "waypoint"])
@pytest.mark.parametrize("module", [FILE, IMAGE], ids=["file", "image"])
def test_the_output_of_render_has_no_problems(kind, place, module):
    policy = json.dumps(PROBES | RELEASE)
    if place == "waypoint":
        policy = policy.replace("outbound|80|v1|", "inbound-vip|80|http/v1|")
    options = ["--kind", kind, *module] + (["--at", place] if place else ["--routes"])
    printed = run("render", "-", *options, stdin=policy)
    assert printed.returncode == 0, printed.stderr
    done = run("check", "--istio", "-", stdin=printed.stdout)
    assert done.returncode == 0, done.stderr
    assert ("was not checked" in done.stderr) == (place is not None)
    for other in {"wasmplugin", "trafficextension", "envoyfilter"} - {kind}:
        more = run("render", "-", "--kind", other, *options[2:], stdin=policy)
        done = run("check", "--istio", "-", stdin=printed.stdout + more.stdout)
        assert done.stderr.count("each request meets it twice") == (1 if place else 2), done.stderr


def test_a_kustomization_must_be_built_first(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nresources: [../base]\n")
    done = run("check", "--istio", str(tmp_path))
    assert done.returncode == 1
    assert "no resource of graygate" in done.stderr
    assert "kubectl kustomize DIR | graygate check --istio -" in done.stderr


@pytest.mark.parametrize("key", ["drain", "status"])
@pytest.mark.parametrize(
    ("allowed", "wide"), [(None, "127.0.0.0/8"), (["127.0.0.0/29"], "127.0.0.0/29"), (["127.0.0.1/32"], None)]
)
def test_a_drain_order_or_a_look_by_peers_is_a_problem_at_the_filters_own_listener(check, allowed, wide, key):
    page = {"path": "/path"} | ({"from": allowed} if allowed else {})
    policy = {"name": "shop", "probes": {"readiness": {"path": "/readyz"}, key: page}}
    listener = {"filter_chains": [{"filters": [{"typed_config": {"http_filters": [wasm(policy)]}}]}]}
    in_listener = check(envoy_filter("f", patch(listener, apply_to="LISTENER")))
    assert ("from 127.0.0.6" in str(in_listener)) == (wide is not None)
    assert wide is None or f'probes.{key}.from: "{wide}" is not allowed there' in str(in_listener)
    # Traffic that Istio's listener forwards has the address of its sender, also if a patch changes the filter there.
    assert f"probes.{key}" not in str(check(envoy_filter("f", patch(wasm(policy)))))
    merged = patch(wasm(policy))
    merged["patch"]["operation"] = "MERGE"
    assert f"probes.{key}" not in str(check(envoy_filter("f", merged)))


def test_probes_in_mode_off_are_warned_about_and_are_no_problem(tmp_path):
    off = {**PROBES, "mode": "off"}
    own_listener = patch({"filter_chains": [{"filters": [wasm(off)]}]}, apply_to="LISTENER")
    for item, effect in [
        (wasm_plugin("a", policy=off), "they go on to what is behind the filter"),
        (envoy_filter("a", own_listener), "nothing else on this listener answers them"),
    ]:
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(item))
        done = run("check", "--istio", tmp_path)
        assert done.returncode == 0
        warning = done.stderr.splitlines()[0]
        assert warning.startswith("note: ")
        assert "mode: off: the filter does not answer the policy's probes; " + effect in warning
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(wasm_plugin("a", policy={**PROBES, "mode": "shadow"})))
    assert "mode: " not in run("check", "--istio", tmp_path).stderr


def test_the_kubelet_is_not_mentioned_for_a_status_page_alone(check):
    pages = {"status": {"path": "/statusz", "from": ["127.0.0.1/32"]}}
    found = check(wasm_plugin("a", policy={"name": "shop", "probes": pages}))
    assert "kubelet" not in str(found)
