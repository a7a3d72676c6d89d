"""`graygate check --istio`: where proxies get the module, and what becomes of requests while it is not there."""

from __future__ import annotations

import json

import pytest

from harness.manifests import (
    DIGEST,
    OUTBOUND,
    PROBES,
    Checker,
    attached,
    envoy_filter,
    patch,
    resource,
    traffic_extension,
    wasm,
    wasm_plugin,
)
from harness.tool import run

CONFIG = "spec.configPatches[0].patch.value.typed_config.config"
CLOSED = "so each request is denied while the module is not there or its VM has failed"


@pytest.fixture
def check(tmp_path):
    return Checker(tmp_path)


# -- the strategy -------------------------------------------------------------------


def test_a_missing_fail_strategy_is_a_problem(check):
    plugin, item = wasm_plugin("a"), envoy_filter("b", namespace="other")
    extension = traffic_extension("c", namespace="more")
    del plugin["spec"]["failStrategy"]
    del extension["spec"]["wasm"]["failStrategy"]
    config = item["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]
    del config["failure_policy"]
    words = f"missing, {CLOSED}; allowed: FAIL_OPEN, FAIL_RELOAD"
    assert check(plugin, item, extension) == [
        f"0.yaml: WasmPlugin shop/a: spec.failStrategy: {words}",
        f"1.yaml: EnvoyFilter other/b: {CONFIG}.failure_policy: {words}; for Istio 1.24 fail_open",
        f"2.yaml: TrafficExtension more/c: spec.wasm.failStrategy: {words}",
    ]
    config["fail_open"] = True
    assert check(item) == []


@pytest.mark.parametrize(
    ("item", "where"),
    [
        (wasm_plugin("a", failStrategy="FAIL_CLOSE"), "WasmPlugin shop/a: spec.failStrategy: FAIL_CLOSE"),
        (
            envoy_filter("a", patch(wasm(failure_policy="FAIL_CLOSED"))),
            f"EnvoyFilter shop/a: {CONFIG}.failure_policy: FAIL_CLOSED",
        ),
        (
            envoy_filter("a", patch(wasm(failurePolicy=2, failure_policy=None))),
            f"EnvoyFilter shop/a: {CONFIG}.failurePolicy: FAIL_CLOSED",
        ),
    ],
)
def test_a_filter_that_fails_closed_is_a_problem_unless_it_is_allowed(check, item, where):
    for config in (each["patch"]["value"]["typed_config"]["config"] for each in item["spec"].get("configPatches", [])):
        if config["failure_policy"] is None:
            del config["failure_policy"]
    assert check(item) == [
        f"0.yaml: {where}, {CLOSED}; allowed: FAIL_OPEN, FAIL_RELOAD; --allow fail-close lets it pass"
    ]
    assert check(item, options=["--allow", "fail-close"]) == []


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension", "envoyfilter"])
def test_render_says_what_closed_means_and_check_takes_it_if_it_is_allowed(kind):
    options = ["--kind", kind, "--module", "file:///graygate.wasm", "--at", "inbound", "--fail", "closed"]
    printed = run("render", "-", *options, stdin=json.dumps(PROBES))
    assert "--fail closed: every request is denied while the module cannot be fetched" in printed.stderr
    assert run("check", "--istio", "-", stdin=printed.stdout).returncode == 1
    assert run("check", "--istio", "-", "--allow", "fail-close", stdin=printed.stdout).returncode == 0


def test_each_kind_has_its_own_value_for_fail_close(check):
    (problem,) = check(wasm_plugin("a", failStrategy="FAIL_CLOSED"))
    assert problem.endswith(
        "spec.failStrategy: FAIL_CLOSED is not allowed; allowed: FAIL_OPEN, FAIL_RELOAD, FAIL_CLOSE"
    )
    (problem,) = check(envoy_filter("c", patch(wasm(failure_policy="FAIL_CLOSE"))))
    assert problem.endswith(
        "failure_policy: FAIL_CLOSE is not allowed; allowed: FAIL_OPEN, FAIL_RELOAD, FAIL_CLOSED; "
        "for Istio 1.24 fail_open"
    )


def test_reload_does_not_cover_a_module_that_cannot_be_fetched(check):
    assert check(wasm_plugin("a", failStrategy="FAIL_RELOAD")) == []
    assert any("while the module can't be fetched, each request is denied all the same" in note for note in check.notes)
    assert check(wasm_plugin("a", failStrategy="FAIL_RELOAD", url="file:///graygate.wasm")) == []
    assert not any("can't be fetched" in note for note in check.notes)


# -- the module ---------------------------------------------------------------------


def remote(uri, **fields):
    return wasm(vm_config={"code": {"remote": {"http_uri": {"uri": uri}} | fields}})


@pytest.mark.parametrize(
    ("item", "path"),
    [
        (wasm_plugin("a", url="oci://registry.example.com/graygate:0.1.0"), "spec.url"),
        (wasm_plugin("a", url="oci://REGISTRY/graygate:0.1.0"), "spec.url"),
        (
            envoy_filter("a", patch(remote("oci://registry.example.com/graygate:1", sha256=DIGEST))),
            f"{CONFIG}.vm_config.code.remote.http_uri.uri",
        ),
        (wasm_plugin("a", sha256="0" * 64), "spec.sha256"),
        (wasm_plugin("a", url=f"oci://r.example/graygate@sha256:{'0' * 64}", sha256=""), "spec.sha256"),
        (
            envoy_filter("a", patch(remote("oci://r.example/graygate:1", sha256="0" * 64))),
            f"{CONFIG}.vm_config.code.remote.sha256",
        ),
    ],
)
def test_a_placeholder_is_a_problem_unless_it_is_allowed(check, item, path):
    (problem,) = check(item)
    assert f"/a: {path}: " in problem
    assert " is a placeholder, so proxies " in problem
    assert problem.endswith(" --allow placeholder lets it pass.")
    assert check(item, options=["--allow", "placeholder"]) == []


def test_a_module_without_a_digest_is_a_problem_unless_it_is_allowed_or_a_file(check):
    plugin = wasm_plugin("a", url="oci://r.example/x:1")
    del plugin["spec"]["sha256"]
    (problem,) = check(plugin)
    assert "spec.sha256: missing, so proxies take whatever oci://r.example/x:1 is at the time" in problem
    assert check(plugin, options=["--allow", "unpinned"]) == []
    for url in ("file:///graygate.wasm", f"oci://r.example/x@sha256:{DIGEST}"):
        plugin["spec"]["url"] = url
        assert check(plugin) == []


JUDGED = {
    "name": "shop",
    "upstreams": {"db": {"cluster": "outbound|80||db.shop.svc.cluster.local", "circuitBreaker": {}}},
    "gates": [{"match": [{"hosts": ["*"]}], "upstream": "db", "whenAllNotReady": "forward"}],
}
SMALL = "oci://r.example/graygate-requests:1"


@pytest.mark.parametrize(
    ("small", "full", "policy_path", "module_path"),
    [
        (
            wasm_plugin("a", OUTBOUND, JUDGED, url=SMALL),
            wasm_plugin("a", OUTBOUND, JUDGED, url="oci://r.example/graygate:1"),
            "spec.pluginConfig",
            "spec.url",
        ),
        (
            traffic_extension(
                "a",
                wasm={"url": f"{SMALL}@sha256:{DIGEST}", "failStrategy": "FAIL_OPEN", "pluginConfig": JUDGED},
                match=OUTBOUND,
            ),
            traffic_extension("a", OUTBOUND, JUDGED),
            "spec.wasm.pluginConfig",
            "spec.wasm.url",
        ),
        (
            envoy_filter(
                "a",
                patch(
                    wasm(JUDGED, vm_config={"code": {"local": {"filename": "/etc/graygate-requests.wasm"}}}),
                    "SIDECAR_OUTBOUND",
                ),
            ),
            envoy_filter(
                "a",
                patch(wasm(JUDGED, vm_config={"code": {"local": {"filename": "/etc/x.wasm"}}}), "SIDECAR_OUTBOUND"),
            ),
            f"{CONFIG}.configuration.value",
            f"{CONFIG}.vm_config.code.local.filename",
        ),
    ],
)
def test_each_key_that_the_named_module_lacks_is_a_problem(check, small, full, policy_path, module_path):
    words = (
        f"needs graygate.wasm, and {module_path} has graygate-requests.wasm, which acts on the headers of requests "
        "alone. Use graygate.wasm there, or remove the key."
    )
    assert [problem.split("/a: ")[1] for problem in check(small)] == [
        f"{policy_path}.upstreams.db.circuitBreaker: {words}",
        f"{policy_path}.gates[0].whenAllNotReady: {words}",
    ]
    assert check(full) == []


# -- probes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "note"),
    [
        (wasm_plugin("a"), "the kubelet's own go past the sidecar's listeners"),
        (wasm_plugin("a", OUTBOUND, **attached("public")), "the kubelet asks a gateway's own port 15021"),
        (wasm_plugin("a", **attached("waypoint")), "no probe of the kubelet passes a waypoint"),
        (envoy_filter("a", patch({"filters": [wasm()]}, apply_to="LISTENER")), None),
    ],
)
def test_probes_that_the_kubelet_does_not_send_there_are_named(check, item, note):
    assert check(item) == []
    assert [line for line in check.notes if ".probes: " in line and note and note in line] == check.notes
    assert (check.notes == []) == (note is None)


def test_probes_of_pods_whose_probes_are_not_rewritten_come_to_the_filter(check):
    template = {
        "metadata": {"annotations": {"sidecar.istio.io/rewriteAppHTTPProbers": "false"}},
        "spec": {"containers": [{"name": "app"}]},
    }
    deployment = resource("apps/v1", "Deployment", "app", "shop", None, {"template": template})
    assert check(wasm_plugin("a"), deployment) == []
    assert check.notes == []


# -- patches of an EnvoyFilter ------------------------------------------------------


def test_fields_of_a_patch_may_be_in_lower_camel_case(check):
    code = {"remote": {"httpUri": {"uri": "oci://registry.example.com/graygate:1"}, "sha256": DIGEST}}
    config = {
        "rootId": "graygate",
        "failurePolicy": "FAIL_CLOSED",
        "vmConfig": {"vmId": "graygate", "code": code},
        "configuration": {"value": json.dumps({"name": "shop", "modes": 1})},
    }
    kind = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
    problems = check(envoy_filter("a", patch({"name": "f", "typedConfig": {"@type": kind, "config": config}})))
    path = "spec.configPatches[0].patch.value.typedConfig.config"
    assert [problem.split(": ")[2] for problem in problems] == [
        f"{path}.failurePolicy",
        f"{path}.vm_config.code.remote.http_uri.uri",
        f"{path}.configuration.value.modes",
    ]


def test_a_patch_that_replaces_graygates_own_filter_adds_none(check):
    def second(operation, name):
        other = patch()
        sub_filter = {"filterChain": {"filter": {"subFilter": {"name": name}}}}
        other["match"]["listener"] = sub_filter
        other["patch"]["operation"] = operation
        return other

    assert check(envoy_filter("a", patch(), second("REPLACE", "graygate"))) == []
    assert check(envoy_filter("a", patch(), second("REPLACE", "f"))) == []
    assert len(check(envoy_filter("a", patch(), second("REPLACE", "envoy.filters.http.fault")))) == 1


def test_a_patch_that_merges_need_not_have_all_fields(check):
    other = patch(wasm())
    other["patch"]["operation"] = "MERGE"
    config = other["patch"]["value"]["typed_config"]["config"]
    del config["failure_policy"], config["configuration"]
    assert check(envoy_filter("a", patch(), other)) == []
