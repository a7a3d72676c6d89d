"""`graygate policy-number` prints what the gauge of a real Envoy shows, in whatever form the policy reaches it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from harness.tool import run
from harness.wait import until


def number(*arguments: str, stdin: str = "") -> str:
    done = run("policy-number", *(arguments or ("-",)), stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(envoy, policy):
    return envoy.counter("graygate_policy_document", policy=policy)


def backwards(value: Any) -> Any:
    """Returns the value with the keys of each object in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


def as_floats(value: Any) -> Any:
    """Returns the value with each number as a `google.protobuf.Struct` has it."""
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_the_number_of_a_policy_does_not_depend_on_its_form(policy):
    expected = number(stdin=json.dumps(policy))
    assert re.fullmatch(r"\d{1,10}\n", expected)
    commented = "# By the team of reviews.\n" + yaml.safe_dump({**policy, "x-owner": "reviews"}, sort_keys=True)
    manifest = {
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": {"name": "graygate"},
        "spec": {"url": "oci://registry.example.com/graygate:1", "pluginConfig": as_floats(backwards(policy))},
    }
    for text in (
        json.dumps(backwards(policy), indent=3),
        json.dumps(as_floats(policy)),
        yaml.safe_dump(policy, sort_keys=False),
        commented,
        yaml.safe_dump(manifest),
    ):
        assert number(stdin=text) == expected, text
    policy["gates"][0]["reply"]["retryAfterSeconds"] += 1
    assert number(stdin=json.dumps(policy)) != expected


def test_a_real_envoy_shows_the_number_for_each_form(start, policy):
    expected = int(number(stdin=yaml.safe_dump(policy)))
    envoy = start(policy, delivery="ecds")
    until(lambda: shown(envoy, "reviews") == expected, what="the number of the policy")
    changed = {**policy, "x-note": "changed"}
    changed["upstreams"]["reviews-v1"]["readinessProbe"]["failureThreshold"] = 3
    after = int(number(stdin=yaml.safe_dump(changed)))
    assert after != expected
    assert envoy.publish(as_floats(backwards(changed))) == ""
    until(lambda: shown(envoy, "reviews") == after, what="the number of the new policy")


@pytest.mark.parametrize("mode", [{}, {"mode": "enforce"}, {"mode": "shadow"}, {"mode": "off"}])
def test_a_real_envoy_shows_the_number_of_each_of_several_policies(start, policy, mode):
    first = {**policy, "hosts": ["reviews.shop"]}
    second = {**policy, "name": "others"}
    document = {"policies": [first, second], **mode}
    lines = number(stdin=json.dumps(document)).splitlines()
    numbers = dict(line.split() for line in lines)
    assert list(numbers) == ["reviews", "others"]
    envoy = start(document, delivery="ecds")
    expected = {name: int(value) for name, value in numbers.items()}
    until(lambda: {name: shown(envoy, name) for name in expected} == expected, what="the numbers")
    is_limited = mode.get("mode", "enforce") != "enforce"
    assert (numbers["reviews"] != number(stdin=json.dumps(first)).strip()) == is_limited


def test_the_last_good_policy_keeps_its_number(start, policy):
    good = {**policy, "onWrongPolicy": "lastGood"}
    envoy = start(good, delivery="ecds")
    expected = int(number(stdin=json.dumps(good)))
    until(lambda: shown(envoy, "reviews") == expected, what="the number of the policy")
    until(lambda: envoy.counter("graygate_build_info") == 1, what="the document in use")
    assert envoy.publish({**good, "gatse": []}) == ""
    until(lambda: envoy.counter("graygate_policy_refused") == 1, what="the wrong document")
    until(lambda: shown(envoy, "reviews") == expected, what="the number of the last good one")


def test_check_prints_the_number(policy, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    expected = number(str(file)).strip()
    assert run("check", file).stdout.endswith(f", number {expected}, module graygate-requests.wasm\n")
    [checked] = json.loads(run("check", file, "--format", "json").stdout)["files"]
    assert [found["number"] for found in checked["policies"]] == [int(expected)]


def test_a_policy_with_problems_has_no_number(policy):
    done = run("policy-number", "-", stdin=json.dumps({**policy, "gatse": []}))
    assert (done.returncode, done.stdout) == (1, "")
    assert "gatse: unknown field" in done.stderr
