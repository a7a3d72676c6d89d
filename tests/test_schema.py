"""`graygate schema` accepts what the filter accepts, and refuses what a schema can."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from harness import tool
from harness.envoy import PROJECT
from harness.tool import schema, validator

FULL = json.loads((PROJECT / "tests/data/full-policy.json").read_text())
POLICIES = [*(PROJECT / "istio/policies").glob("*.yaml"), PROJECT / "tests/data/full-policy.json"]
WHOLE = re.compile(r"```yaml\n((?:# [^\n]*\n)*)((?:name|policies|onWrongPolicy|mode):.*?)```", re.DOTALL)
VALUES: list[Any] = [None, True, 0, -1, 0.05, 1.5, 10**7, "", "x", "5s", "a b", "/p", "503", [], {}, ["x"], {"x": 1}]
SCHEMA = PROJECT / "docs/reference/policy.schema.json"
KUBECONFORM = PROJECT / ".tools/bin/kubeconform"
# How many documents one call of the tool checks.
BATCH = 500
# What a schema cannot see: it depends on another part of the document, or only a parser can tell.
BEYOND = re.compile(
    r"is not an upstream|not a version of this release|a second (check|cookie|release|version|policy)|the same name"
    r"|sum of all weights|no check has a weight|minimumScore: missing|versions: missing"
    r"|has weight until then|0.01 % of all weights|the weights are all 0|(no|more than one) version is the default"
    r"|allow and deny list keys|has no checks; add|an address or a network|a host such as|a host alone"
    r"|browsers accept|is before the step above|does not treat a missing response|must be shorter than unansweredAfter"
    r"|is too short: between its checks|has no readinessProbe, so nothing tells|is not a group"
)


def policies() -> Iterator[tuple[str, Any]]:
    """Returns every whole policy in the tree, with the place where it stands."""
    for file in POLICIES:
        yield file.name, yaml.safe_load(file.read_text())
    for page in [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]:
        for number, (comments, block) in enumerate(WHOLE.findall(page.read_text())):
            if "…" not in block and "part of a policy" not in comments:
                document = yaml.safe_load(block)
                # A workflow has a name, too.
                if {"upstreams", "releases", "gates", "probes", "policies"} & document.keys():
                    yield f"{page.name}-{number}", document


def places(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Returns the way to each value below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*way, key)
        yield from places(value, (*way, key))


def mutants(document: Any, deepest: int = 20) -> Iterator[tuple[str, Any]]:
    """Returns documents in which one value is another one, is gone, is there twice, or has another key."""
    for *way, last in places(document):
        if len(way) >= deepest:
            continue
        path = ".".join(map(str, (*way, last)))

        def changed(change: Any, way: list[Any] = way) -> Any:
            mutant = copy.deepcopy(document)
            parent = mutant
            for step in way:
                parent = parent[step]
            change(parent)
            return mutant

        for value in VALUES:
            yield f"{path} = {value!r}", changed(lambda parent, v=value, k=last: parent.__setitem__(k, v))
        yield f"no {path}", changed(lambda parent, k=last: parent.__delitem__(k))
        if isinstance(last, str):
            yield f"{path}x", changed(lambda parent, k=last: parent.__setitem__(f"{k}x", parent.pop(k)))
        else:
            yield f"{path} twice", changed(lambda parent, k=last: parent.append(parent[k]))


def problems(directory: Path, documents: list[Any]) -> list[list[str]]:
    """Returns what the filter's own reader says of each document."""
    found: list[list[str]] = [[] for _ in documents]
    files = [directory / f"{number:05}.json" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_text(json.dumps(document))
    for start in range(0, len(files), BATCH):
        done = tool.run("check", "--format", "json", *files[start : start + BATCH])
        assert done.returncode in (0, 1), done.stderr
        for problem in json.loads(done.stdout)["problems"]:
            if problem["severity"] == "error":
                found[int(Path(problem["file"]).stem)].append(f"{problem['path']}: {problem['message']}")
    return found


@pytest.mark.parametrize("options", [(), ("--inline",)])
def test_every_policy_in_the_tree_is_valid(options):
    valid = validator(*options)
    seen = 0
    for name, policy in policies():
        seen += 1
        assert [error.message for error in valid.iter_errors(policy)] == [], name
    assert seen > 10, seen


def test_the_schema_accepts_what_the_filter_accepts_and_refuses_what_a_schema_can(tmp_path):
    # Some thousand documents are too many for a validator in Python.
    valid = jsonschema_rs.Draft202012Validator(schema())
    inline = jsonschema_rs.Draft202012Validator(schema("--inline"))
    several = {"policies": [FULL | {"name": "other", "hosts": ["other.example.com"]}], "mode": "shadow"}
    several["policies"][0].pop("onWrongPolicy")
    cases = [*mutants(FULL), *mutants(several, deepest=2)]
    found = problems(tmp_path, [document for _, document in cases])
    refused = accepted = 0
    for (name, document), said in zip(cases, found, strict=True):
        is_valid = valid.is_valid(document)
        if not said:
            accepted += 1
            assert is_valid, (name, [error.message for error in valid.iter_errors(document)])
            assert inline.is_valid(document), (name, [error.message for error in inline.iter_errors(document)])
        elif not is_valid:
            refused += 1
        else:
            assert any(BEYOND.search(line) for line in said), (name, said)
    assert accepted > 500, accepted
    assert refused > 2000, refused


def test_keys_for_anchors_are_ignored_at_the_top_alone(tmp_path):
    valid = validator()
    for document, is_allowed in [
        (FULL | {"x-probe": {"a": 1}}, True),
        ({"policies": [{"name": "a", "x-b": 1}], "x-c": []}, True),
        (FULL | {"xprobe": 1}, False),
        (FULL | {"rollout": {"percent": 1, "x-a": 1}}, False),
    ]:
        assert valid.is_valid(document) == is_allowed
        (tmp_path / "policy.json").write_text(json.dumps(document))
        assert (tool.run("check", tmp_path / "policy.json").returncode == 0) == is_allowed


def test_each_property_has_a_description():
    bare = []

    def walk(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        for key, value in node.get("properties", {}).items():
            # Within a condition, `properties` says only that a key is there.
            if "not" not in value and "description" not in value:
                bare.append(f"{path}.{key}")
        for key, value in node.items():
            walk(value, f"{path}.{key}")

    walk(schema(), "")
    assert bare == []


def test_the_file_in_the_tree_is_what_the_tool_prints():
    assert json.loads(SCHEMA.read_text()) == schema(), "`make reference` writes it again"


@pytest.mark.parametrize("kind", ["wasmplugin", "trafficextension"])
def test_a_manifest_is_valid_by_the_schema_of_its_kind(kind):
    valid = validator("--kind", kind)
    for place in ("inbound", "outbound"):
        manifest = yaml.safe_load((PROJECT / f"istio/base/{kind}/{place}/manifest.yaml").read_text())
        assert [error.message for error in valid.iter_errors(manifest)] == []
        plugin = manifest["spec"].get("wasm", manifest["spec"])
        plugin["pluginConfig"]["upstreams"]["app"] = {"clutser": "app"}
        assert not valid.is_valid(manifest)


@pytest.mark.skipif(not KUBECONFORM.exists(), reason="kubeconform needs Go; `make istio-test` installs it")
def test_kubeconform_checks_manifests_by_the_schemas(tmp_path):
    for kind in ("wasmplugin", "trafficextension"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(schema("--kind", kind)))
    command = [str(KUBECONFORM), "-schema-location", f"{tmp_path}/{{{{.ResourceKind}}}}.json"]
    manifests = sorted(PROJECT.glob("istio/base/*extension/*/manifest.yaml"))
    manifests += sorted(PROJECT.glob("istio/base/wasmplugin/*/manifest.yaml"))
    assert len(manifests) == 8
    done = subprocess.run([*command, *manifests], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(manifests[0].read_text().replace("upstreams:", "upstraems:"))
    done = subprocess.run([*command, wrong], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "upstraems" in done.stdout


def test_every_shipped_policy_names_the_schema_for_editors():
    for file in [*(PROJECT / "istio/policies").glob("*.yaml"), PROJECT / "docs/pictures/schedule.yaml"]:
        first = file.read_text().splitlines()[0]
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), file
        assert (file.parent / first.removeprefix(prefix)).resolve() == SCHEMA
