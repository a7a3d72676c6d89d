"""The JSON that subcommands print is as their JSON Schemas say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.tool import run, validator


def broken(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the document without each of the keys at its top, and with one more."""
    for key in document:
        yield {name: value for name, value in document.items() if name != key}
    yield {**document, "other": 1}


@pytest.fixture
def file(policy, tmp_path):
    policy["probes"]["drain"] = {"path": "/drainz"}
    policy["probes"]["grpc"] = {"services": [""]}
    policy["releases"][0]["schedule"] = [
        {"at": "2026-12-01T10:00:00Z", "over": "1h", "weights": {"v1": 70, "v2": 30}},
    ]
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    return path


def test_explanations_are_as_their_schema_says(file):
    schema = validator("--of", "explain")
    grpc = {"method": "POST", "path": "/grpc.health.v1.Health/Check", "headers": {"content-type": "application/grpc"}}
    requests = [
        {"path": "/"},
        {"path": "/", "headers": {"x-user-id": "alice"}},
        {"path": "/readyz"},
        {"path": "/drainz", "method": "POST"},
        {"path": "/drainz", "method": "DELETE"},
        grpc,
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    found = []
    for state in ([], ["--not-ready", "reviews-v1"]):
        done = run("explain", file, "--json", "--requests", "-", *state, stdin=lines)
        assert done.returncode == 0, done.stderr
        found += [json.loads(line) for line in done.stdout.splitlines()]
    for each in found:
        schema.validate(each)
        assert not any(schema.is_valid(wrong) for wrong in broken(each))
    assert {"forward", "reply", "drain"} <= {each["action"] for each in found}


def test_an_explanation_without_a_policy_is_as_the_schema_says(policy, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({**policy, "hosts": ["reviews.shop"]}))
    found = json.loads(run("explain", path, "--json").stdout)
    assert found["policy"] is None
    validator("--of", "explain").validate(found)


def test_steps_of_a_simulation_are_as_their_schema_says(file):
    schema = validator("--of", "simulate")
    lines = run("simulate", file, "--users", "1000", "--json").stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        schema.validate(json.loads(line))
        assert not any(schema.is_valid(wrong) for wrong in broken(json.loads(line)))


def test_a_report_of_check_is_as_its_schema_says(file, tmp_path):
    schema = validator("--of", "check")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: A B\nmode: on\n")
    for path, code in ((file, 0), (wrong, 1)):
        done = run("check", "--format", "json", path)
        assert done.returncode == code
        schema.validate(json.loads(done.stdout))
        assert not any(schema.is_valid(other) for other in broken(json.loads(done.stdout)))


def test_a_difference_is_as_its_schema_says(file, policy, tmp_path):
    schema = validator("--of", "diff")
    new = tmp_path / "new.json"
    policy["releases"][0]["versions"][1]["weight"] = 50
    new.write_text(json.dumps(policy))
    other = tmp_path / "other.json"
    policy["releases"][0]["hashOn"] = []
    policy["upstreams"]["reviews-v1"]["cluster"] = "other"
    other.write_text(json.dumps({**policy, "name": "other"}))
    for pair in ((file, new), (new, other), (file, file)):
        found = json.loads(run("diff", *pair, "--format", "json", "--users", "100").stdout)
        schema.validate(found)
        assert not any(schema.is_valid(wrong) for wrong in broken(found))
