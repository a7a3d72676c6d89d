"""Documents of several policies, and `onWrongPolicy`, in the command line tool."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from harness.tool import run

CLUSTER = "outbound|9080||{}.shop.svc.cluster.local"


def team(name, hosts=None, **parts) -> dict[str, Any]:
    """A policy for a host of its own, with a gate on the Service of that name."""
    gated = {"upstreams": {name: {"cluster": CLUSTER.format(name)}}, "gates": [{"upstream": name}]}
    return {"name": name, "hosts": hosts or [f"{name}.shop"], **gated, **parts}


@pytest.fixture
def files(tmp_path):
    """Writes each document into a file, a.yaml and so on. Returns their paths."""

    def write(*documents):
        paths = [tmp_path / f"{letter}.yaml" for letter in "abcdef"[: len(documents)]]
        for path, document in zip(paths, documents, strict=True):
            path.write_text(yaml.safe_dump(document, sort_keys=False))
        return paths

    return write


@pytest.fixture
def render(files):
    def run_render(*documents, options=("--scope", "namespace")):
        done = run("render", *files(*documents), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run_render


@pytest.fixture
def problems(files, tmp_path):
    """Returns the problems without the directory."""

    def run_render(*documents, options=("--scope", "namespace")):
        done = run("render", *files(*documents), *options)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.replace(f"{tmp_path}/", "").splitlines()[:-1]

    return run_render


# -- render -----------------------------------------------------------------------


def test_several_files_make_one_plugin_in_their_order(render, tmp_path):
    out, _ = render(team("reviews"), team("ratings"), team("rest", ["*"]))
    [plugin] = yaml.safe_load_all(out)
    assert plugin["metadata"]["name"] == "graygate-outbound"
    assert plugin["spec"]["pluginConfig"] == {
        "policies": [team("reviews"), team("ratings"), team("rest", ["*"])],
        "onWrongPolicy": "lastGood",
    }
    owners = [line for line in out.splitlines() if line.startswith("# Policy ")]
    assert owners == [
        f"# Policy {name}: {tmp_path}/{file}.yaml."
        for name, file in (("reviews", "a"), ("ratings", "b"), ("rest", "c"))
    ]


def test_each_policy_is_split_by_direction(render):
    probes = {"liveness": {"path": "/livez"}}
    both = team("reviews", probes=probes)
    out, _ = render(both, team("ratings"), {"name": "rest", "probes": probes})
    inbound, outbound = yaml.safe_load_all(out)
    names = [
        [policy["name"] for policy in plugin["spec"]["pluginConfig"]["policies"]] for plugin in (inbound, outbound)
    ]
    assert names == [["reviews-inbound", "rest"], ["reviews-outbound", "ratings"]]
    assert inbound["spec"]["pluginConfig"]["policies"][0] == {
        "name": "reviews-inbound",
        "hosts": ["reviews.shop"],
        "probes": probes,
    }
    assert {plugin["spec"]["pluginConfig"]["onWrongPolicy"] for plugin in (inbound, outbound)} == {"lastGood"}


def test_an_envoy_filter_has_the_same_document(render):
    out, _ = render(
        team("reviews"),
        team("ratings"),
        options=("--scope", "namespace", "--kind", "envoyfilter", "--module", "file:///etc/graygate.wasm"),
    )
    [resource] = yaml.safe_load_all(out)
    config = resource["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]
    document = json.loads(config["configuration"]["value"])
    assert document == {"policies": [team("reviews"), team("ratings")], "onWrongPolicy": "lastGood"}


def test_mode_and_percent_are_those_of_each_policy(render):
    out, _ = render(
        team("reviews"),
        {"policies": [team("ratings")]},
        options=("--scope", "mesh", "--mode", "shadow", "--percent", "5"),
    )
    [plugin] = yaml.safe_load_all(out)
    policies = plugin["spec"]["pluginConfig"]["policies"]
    assert [(policy["mode"], policy["rollout"]) for policy in policies] == [("shadow", {"percent": 5})] * 2


@pytest.mark.parametrize("choice", ["refuse", "lastGood"])
def test_what_a_file_says_about_wrong_policies_stays(render, choice):
    for documents in ([team("a", onWrongPolicy=choice)], [team("a"), team("b", onWrongPolicy=choice)]):
        out, _ = render(*documents)
        [plugin] = yaml.safe_load_all(out)
        assert plugin["spec"]["pluginConfig"]["onWrongPolicy"] == choice
        assert all("onWrongPolicy" not in policy for policy in plugin["spec"]["pluginConfig"].get("policies", []))
        assert "new ones let requests pass" not in out


def test_a_comment_says_why_the_last_good_policy_goes_on(render):
    out, _ = render(team("a"))
    assert "With onWrongPolicy: lastGood, a wrong policy does not stop traffic" in " ".join(
        out.replace("# ", "").split()
    )


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (
            [team("a"), team("a", ["b.shop"])],
            (
                'b.yaml: name: "a" is also the name of the policy in a.yaml. '
                "Choose another name, because metrics and state are kept by name."
            ),
        ),
        (
            [team("a", ["*.example.com"]), team("b", ["x", "api.example.com"])],
            (
                'b.yaml: hosts: requests for api.example.com are for policy "a" of a.yaml, which comes first. '
                "Name each host in one file, and a host before a wildcard that includes it."
            ),
        ),
        (
            [team("a"), team("b", ["a.shop.svc.cluster.local", "b.shop"])],
            (
                'b.yaml: hosts: requests for a.shop are for policy "a" of a.yaml, which comes first. '
                "Name each host in one file, and a host before a wildcard that includes it."
            ),
        ),
        (
            [team("a", ["*"]), team("b")],
            (
                'a.yaml: policy "a" applies to every host, so no request reaches policy "b" of b.yaml. '
                "Add hosts, or name the file last."
            ),
        ),
        (
            [team("a", onWrongPolicy="refuse"), team("b", onWrongPolicy="lastGood")],
            (
                'b.yaml: onWrongPolicy: "lastGood", and "refuse" in a.yaml. '
                "Write the same value in all files, because they make one document."
            ),
        ),
        ([team("a"), team("b", gatse=[])], 'b.yaml:9:1: gatse: unknown field; did you mean "gates"?'),
    ],
)
def test_policies_that_take_each_others_requests_are_refused_with_both_files(problems, documents, expected):
    found = problems(*documents)
    assert expected in found
    assert len(found) == 1 or documents[0]["hosts"] == ["*"]


def test_a_host_may_come_before_a_wildcard_that_has_it(render):
    render(team("a", ["api.example.com"]), team("b", ["*.example.com"]))


def test_several_policies_have_no_common_label(problems, render):
    [problem] = problems(team("a"), team("b"), options=())
    assert problem.startswith("--scope: workload is not allowed there: the default label is app=POLICY")
    out, _ = render(team("a"), team("b"), options=("--selector", "app=shop"))
    [plugin] = yaml.safe_load_all(out)
    assert plugin["spec"]["selector"] == {"matchLabels": {"app": "shop"}}


def test_warnings_about_one_of_several_policies_name_its_file(render):
    upstreams = {"unused": {"cluster": CLUSTER.format("x")}, **team("b")["upstreams"]}
    _, said = render(team("a"), team("b", upstreams=upstreams))
    assert "b.yaml: upstreams.unused: nothing refers to this upstream" in said


# -- check, explain and simulate --------------------------------------------------


def test_check_names_each_policy_and_warns_of_probes_that_no_kubelet_reaches(files):
    probes = {"liveness": {"path": "/livez"}}
    [path] = files({"policies": [team("a", probes=probes), team("b"), {"name": "rest", "probes": probes}]})
    done = run("check", path)
    assert done.returncode == 0
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["policy a", "policy b", "policy rest"]
    [warning] = done.stderr.splitlines()
    assert warning.startswith(
        f"{path}:10:3: warning: policies[0].probes: only requests for the policy's hosts are its probes. "
    )


def test_check_finds_the_problems_of_all_policies(files):
    [path] = files({"policies": [team("a", gatse=[]), team("b", ["a.shop"]), team("c", mode="on")]})
    done = run("check", path)
    assert done.returncode == 1
    *lines, last = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["policies[0].gatse", "policies[2].mode"]
    assert last == f"{path}: 2 problems"


def test_check_of_manifests_reads_each_policy(files, tmp_path):
    releases = [
        {
            "name": "r",
            "steer": {"header": "x-v"},
            "versions": [{"name": "v1", "upstream": "b", "weight": 1, "default": True}],
        }
    ]
    out = run("render", *files(team("a"), team("b", releases=releases)), "--scope", "namespace").stdout
    plugin = yaml.safe_load(out)
    plugin["spec"]["match"] = [{"mode": "SERVER"}]
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(plugin))
    done = run("check", "--istio", manifest)
    assert "spec.pluginConfig.policies[1].releases: " in done.stderr
    plugin["spec"]["pluginConfig"]["policies"][0]["gatse"] = []
    manifest.write_text(yaml.safe_dump(plugin))
    assert "spec.pluginConfig.policies[0].gatse: unknown field" in run("check", "--istio", manifest).stderr


def explain(path, *arguments):
    done = run("explain", path, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_explain_picks_the_policy_by_the_requests_host(files):
    [path] = files({"policies": [team("a"), team("b", ["*.b.example"]), team("rest", ["*"])]})
    for authority, name in [("A.shop:80", "a"), ("x.b.example", "b"), ("other", "rest")]:
        arguments = ("--authority", authority, "--not-ready", name)
        assert f"\npolicy    {name}\n" in explain(path, *arguments)
        found = json.loads(explain(path, *arguments, "--json"))
        assert (found["policy"], found["action"]) == (name, "reply")
        assert f"|{name}|" in found["details"]


def test_explain_says_that_no_policy_has_the_host(files):
    for document in ({"policies": [team("a"), team("b")]}, team("a")):
        [path] = files(document)
        assert "policy    none has this host\ndecision  forward\n" in explain(path, "--authority", "payments.shop")
        found = json.loads(explain(path, "--authority", "payments.shop", "--json"))
        assert (found["policy"], found["action"], found["assignments"]) == (None, "forward", [])


def split(name, weight):
    upstreams = {version: {"cluster": version} for version in ("v1", "v2")}
    versions = [
        {"name": "v1", "upstream": "v1", "weight": 100 - weight, "default": True},
        {"name": "v2", "upstream": "v2", "weight": weight},
    ]
    release = {"name": "web", "steer": {"header": "x-v"}, "hashOn": [{"usePath": True}], "versions": versions}
    return {"name": name, "hosts": [f"{name}.shop"], "upstreams": upstreams, "releases": [release]}


def test_simulate_takes_the_policy_by_its_name_if_several_have_the_release(files):
    [path] = files({"policies": [split("a", 10), split("b", 50)]})
    for name, share in (("a", 10), ("b", 50)):
        done = run("simulate", path, "--policy-name", name, "--users", "20000", "--json")
        assert done.returncode == 0, done.stderr
        [step] = [json.loads(line) for line in done.stdout.splitlines()]
        assert abs(step["users"]["v2"] / 200 - share) < 2
    done = run("simulate", path, "--release", "web")
    assert done.returncode == 2
    assert "--release web: " in done.stderr
    assert "--policy-name: a, b" in done.stderr
    done = run("simulate", path, "--policy-name", "c")
    assert (done.returncode, '--policy-name: there is no policy "c"; allowed: a, b' in done.stderr) == (2, True)
