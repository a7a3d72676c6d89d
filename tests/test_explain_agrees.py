"""`graygate explain` says what the filter does: random policies and requests, in a real Envoy and in the tool."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from random import Random

import pytest

from harness import config, echo, explained, sample_policies, samples
from harness.config import Tree
from harness.envoy import Envoy
from harness.samples import Sample
from harness.tool import explain, run
from harness.wait import until

# Set SEED to try other policies and requests.
SEED = int(os.environ.get("SEED", "20260901"))
POLICIES, REQUESTS = 60, 15


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Valid policies by their names, each with requests and their explanations."""
    rng = Random(SEED)
    directory = tmp_path_factory.mktemp("policies")
    found: dict[str, tuple[Tree, list[Sample], list[Tree]]] = {}
    while len(found) < POLICIES:
        policy = sample_policies.policy(rng, f"p{len(found)}")
        if run("check", "-", stdin=json.dumps(policy)).returncode == 0:
            asked = sorted((samples.request(rng) for _ in range(REQUESTS)), key=Sample.is_order)
            found[policy["name"]] = (policy, asked, explain(directory, policy, [ask.question() for ask in asked]))
    return found


def test_explain_says_what_the_filter_does(policies):
    clusters = (samples.DEFAULT_CLUSTER, *samples.PLAIN_CLUSTERS, *samples.ISTIO_CLUSTERS)
    with echo.server() as upstream:
        listeners = [explained.listener(name, [filter_of(policy)]) for name, (policy, _, _) in policies.items()]
        bootstrap = {
            "admin": {"address": config.socket_address()},
            "stats_config": {"stats_tags": config.stats_tags()},
            "static_resources": {
                "listeners": [explained.listener("plain", []), *listeners],
                "clusters": [config.cluster(name, upstream.port) for name in clusters],
            },
        }
        with Envoy(bootstrap, concurrency=1, log_level="warning") as envoy:
            differences, compared = compare(envoy, policies)
            assert compared >= 0.9 * POLICIES * REQUESTS
            assert not differences, f"seed {SEED}, {len(differences)} differences\n" + "\n\n".join(differences[:5])


def filter_of(policy: Tree) -> Tree:
    return {"name": "graygate", "typed_config": config.plugin(policy)}


def compare(envoy: Envoy, policies: Tree) -> tuple[list[str], int]:
    """Returns the differences as texts to paste, and how many requests were compared."""
    ports = envoy.ports()
    differences, compared = [], 0
    counts = {}
    for name, (policy, asked, said) in policies.items():
        plain = [explained.send(ports["plain"], ask, number) for number, ask in enumerate(asked)]
        got = [explained.send(ports[name], ask, number) for number, ask in enumerate(asked)]
        log = until(lambda: explained.logged(envoy, name, len(asked)), 10, f"{len(asked)} entries in the log of {name}")
        passed = [number for number in range(len(asked)) if echo.HEADER in plain[number].headers]
        compared += len(passed)
        for number in passed:
            found = explained.difference(policy, asked[number], said[number], plain[number], got[number], log[number])
            if found:
                differences.append(f"{found}\n{json.dumps(policy)}\n{asked[number]}\n{json.dumps(said[number])}")
        counts[name] = expected_counts(policy, [said[number] for number in passed])
    differences += wrong_counts(envoy, counts, policies)
    return differences, compared


def expected_counts(policy: Tree, said: list[Tree]) -> Counter[tuple[str, ...]]:
    """Returns how often each release, version and reason is to be counted, save for what turns decide."""
    if policy["mode"] == "off" or any(map(explained.is_by_turn, said)):
        return Counter()
    assignments = [assignment for one in said if one["action"] == "forward" for assignment in one["assignments"]]
    return Counter((each["release"], each["version"], each["reason"]) for each in assignments)


def wrong_counts(envoy: Envoy, counts: dict[str, Counter[tuple[str, ...]]], policies: Tree) -> list[str]:
    found: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in counts}
    for name, value in envoy.stats("wasmcustom.graygate_assignments_total.").items():
        labels = dict(re.findall(r"(\w+)=\.=(.*?);\.;", name))
        found[labels["policy"]] += Counter({(labels["release"], labels["version"], labels["reason"]): value})
    return [
        f"counted {found[name] - wanted}, not {wanted - found[name]}\n{json.dumps(policies[name][0])}"
        for name, wanted in counts.items()
        if wanted and found[name] != wanted
    ]
