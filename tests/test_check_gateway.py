"""`graygate check` of resources for Envoy Gateway: files are checked together, and each finding has its line."""

from __future__ import annotations

import json

import pytest
import yaml

from harness.tool import run

OPTIONS = [
    *("--kind", "envoyextensionpolicy", "--namespace", "shop", "--sha256", "1" * 64),
    *("--module", "oci://registry.test/{module}:1"),
    *("--backend", "reviews-v1=reviews-v1:80", "--backend", "reviews-v2=reviews-v2:80"),
]


@pytest.fixture
def files(policy, tmp_path):
    """The three resources, each in a file of its own."""
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    done = run("render", tmp_path / "policy.json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    (tmp_path / "policy.json").unlink()
    named = {}
    for resource in yaml.safe_load_all(done.stdout):
        file = tmp_path / f"{resource['kind']}.yaml"
        file.write_text(yaml.safe_dump(resource, sort_keys=False))
        named[resource["kind"]] = file
    return named


def findings(*paths):
    done = run("check", "--format", "json", *paths)
    return done.returncode, [
        (problem["severity"], problem["file"].rsplit("/", 1)[-1], problem.get("line"), problem["message"])
        for problem in json.loads(done.stdout)["problems"]
        if problem["severity"] != "note"
    ]


def edit(file, change):
    resource = yaml.safe_load(file.read_text())
    change(resource)
    file.write_text(yaml.safe_dump(resource, sort_keys=False))


def line_of(file, text):
    (number,) = [number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


def test_files_are_checked_together(files, tmp_path):
    assert findings(*files.values()) == (0, [])
    assert findings(tmp_path) == (0, [])


def test_a_route_without_the_policy_is_no_policy(files):
    code, found = findings(files["HTTPRoute"])
    assert code == 1
    assert "no policy: the file has a Kubernetes HTTPRoute" in found[0][3]


def test_a_moved_rule_is_found_at_the_line_of_the_cluster(files):
    edit(files["HTTPRoute"], lambda route: route["spec"]["rules"].reverse())
    code, found = findings(*files.values())
    extension = files["EnvoyExtensionPolicy"]
    assert code == 1
    assert [(severity, name, line) for severity, name, line, _ in found] == [
        ("error", extension.name, line_of(extension, "cluster: httproute/shop/graygate-reviews/rule/0")),
    ]
    assert "meet rule 2 of HTTPRoute shop/graygate-reviews" in found[0][3]
    assert found[0][3].endswith("allowed: httproute/shop/graygate-reviews/rule/2")


def test_a_probe_without_a_route_is_found_at_the_line_of_its_path(files):
    def narrow(route):
        route["spec"]["rules"][0]["matches"] = [{"path": {"type": "PathPrefix", "value": "/api"}}]
        route["spec"]["rules"].pop()

    edit(files["HTTPRoute"], narrow)
    code, found = findings(*files.values())
    extension = files["EnvoyExtensionPolicy"]
    assert code == 1
    places = {line_of(extension, "path: /livez"), line_of(extension, "path: /readyz")}
    assert {line for _, _, line, _ in found} == places
    assert all("so Envoy responds 404. Add a rule with matches: [{path: {type: Exact" in words for *_, words in found)


def test_a_wrong_policy_is_found_as_in_a_plugin_of_istio(files):
    extension = files["EnvoyExtensionPolicy"]
    edit(
        extension, lambda resource: resource["spec"]["wasm"][0]["config"]["releases"][0]["versions"][0].update(wieght=1)
    )
    code, found = findings(*files.values())
    assert code == 1
    assert found == [
        ("error", extension.name, line_of(extension, "wieght: 1"), 'unknown field; did you mean "weight"?')
    ]


def test_a_key_that_the_module_cannot_serve_is_found(files):
    extension = files["EnvoyExtensionPolicy"]
    edit(
        extension,
        lambda resource: resource["spec"]["wasm"][0]["config"]["upstreams"]["reviews-v1"].update(
            circuitBreaker={"consecutiveFailures": 5}
        ),
    )
    code, found = findings(*files.values())
    assert code == 1
    assert "spec.wasm[0].code.image.url has graygate-requests.wasm" in found[0][3]


def test_fields_of_istio_are_not_those_of_envoy_gateway(files):
    extension = files["EnvoyExtensionPolicy"]

    def like_istio(resource):
        wasm = resource["spec"]["wasm"][0]
        del wasm["failOpen"]
        wasm["failStrategy"] = "FAIL_RELOAD"

    edit(extension, like_istio)
    code, found = findings(*files.values())
    assert code == 1
    assert [severity for severity, *_ in found] == ["warning", "error"]
    assert found[1][2] == line_of(extension, "failStrategy")
    assert found[1][3].endswith("Envoy Gateway has no FAIL_RELOAD. Write failOpen: true")


def test_a_policy_in_a_string_is_a_problem(files):
    extension = files["EnvoyExtensionPolicy"]
    edit(extension, lambda resource: resource["spec"]["wasm"][0].update(config="name: reviews"))
    code, found = findings(*files.values())
    assert code == 1
    assert (
        found[0][3] == "a string, which reaches the filter in quotes. Write the policy as an object: config: {name: …}"
    )


def test_notes_say_what_a_failure_and_a_change_do(files):
    done = run("check", *files.values())
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "note: " in line]
    assert any("failOpen: true: while the module cannot be fetched" in line for line in lines)
    assert any("a changed policy changes the listener, so Envoy drains its connections" in line for line in lines)


def test_other_commands_want_a_policy_by_itself(files):
    done = run("explain", files["EnvoyExtensionPolicy"])
    assert done.returncode == 2
    assert "a resource for Envoy Gateway; allowed: a policy by itself, or graygate check" in done.stderr
