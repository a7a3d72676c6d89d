"""Random legal policies in a real Envoy: each is accepted and answers each request, and no VM ends.

What the policy and the request alone decide, is as `graygate explain` says. `tests/fuzz` gives the same core any bytes.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from random import Random

import pytest

from harness import config, echo, explained, generated_policies, samples
from harness.client import get
from harness.config import values_of
from harness.envoy import PROJECT, Envoy
from harness.samples import Sample
from harness.tool import explain
from harness.wait import until

# Set SEED and POLICIES to try others, and more.
SEED = int(os.environ.get("SEED", "20261128"))
POLICIES = int(os.environ.get("POLICIES", "24"))
REQUESTS = 6


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    directory = tmp_path_factory.mktemp("generated")
    return list(generated_policies.policies(Random(SEED), POLICIES, directory))


def settled(policy):
    """Returns the policy with each upstream forced, so that the state of none is a matter of time."""
    policy = {key: deepcopy(value) for key, value in policy.items() if key not in {"rollout", "hosts"}}
    for number, upstream in enumerate(policy.get("upstreams", {}).values()):
        upstream["force"] = ("ready", "notReady")[number % 2]
    return policy


def requests(rng):
    """Returns requests, with probes. An order to drain would change the answers to later ones."""
    asked = [samples.request(rng) for _ in range(REQUESTS)]
    return [*(ask for ask in asked if not ask.is_order()), Sample(target="/livez"), Sample(target="/readyz")]


def world(policies, port):
    """Returns a bootstrap with a listener for each policy. All clusters that they name lead to one server."""
    clusters = {samples.DEFAULT_CLUSTER, *samples.PLAIN_CLUSTERS, *samples.ISTIO_CLUSTERS}
    clusters |= {name for policy in policies for name in values_of(policy, "cluster")}
    plugins = [{"name": "graygate", "typed_config": config.plugin(policy)} for policy in policies]
    listeners = [explained.listener(policy["name"], [own]) for policy, own in zip(policies, plugins, strict=True)]
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": config.socket_address()},
        "stats_config": {"stats_tags": config.stats_tags()},
        "static_resources": {
            "listeners": [explained.listener("plain", []), *listeners],
            "clusters": [config.cluster(name, port) for name in sorted(clusters)],
        },
    }


def assert_no_vm_has_ended(envoy):
    assert envoy.alive
    logs = envoy.logs()
    for words in ("panicked", "Function: proxy_on_", "Plugin configured to fail", "Uncaught RuntimeError"):
        assert words not in logs, envoy.tail()
    assert envoy.counter("graygate_vm_deaths_total") == 0


def test_generated_policies_have_every_key_and_many_forms(policies):
    full = json.loads((PROJECT / "tests/data/full-policy.json").read_text())
    missing = generated_policies.keys(full) - set().union(*map(generated_policies.keys, policies))
    assert len(missing) <= 5, sorted(missing)
    assert len({json.dumps({**policy, "name": ""}, sort_keys=True) for policy in policies}) == len(policies)


def test_each_policy_is_accepted_and_answers_each_request_as_explained(policies, tmp_path):
    rng = Random(SEED)
    # Every other policy keeps its checks and breakers, and their answers are a matter of time.
    policies = [settled(policy) if number % 2 else policy for number, policy in enumerate(policies)]
    policies = [policy for policy in policies if not generated_policies.problems(policy, tmp_path / "settled.json")]
    assert len(policies) > POLICIES * 0.8
    differences, compared = [], 0
    with echo.server() as upstream, Envoy(world(policies, upstream.port), concurrency=1) as envoy:
        ports = envoy.ports()
        for number, policy in enumerate(policies):
            asked = requests(rng)
            said = explain(tmp_path, policy, [ask.question() for ask in asked])
            plain = [explained.send(ports["plain"], ask, place) for place, ask in enumerate(asked)]
            got = [explained.send(ports[policy["name"]], ask, place) for place, ask in enumerate(asked)]
            assert all(200 <= answer.status < 600 for answer in got)
            if not number % 2:
                continue
            for place, ask in enumerate(asked):
                # A probe may tell the age of what is known, and Envoy itself refuses some of the requests.
                if explained.is_for_probe(said[place]) or echo.HEADER not in plain[place].headers:
                    continue
                compared += 1
                log = until(lambda: explained.logged(envoy, policy["name"], len(asked)), 10, "the access log")
                found = explained.difference(policy, ask, said[place], plain[place], got[place], log[place])
                if found:
                    differences.append(f"{found}\n{json.dumps(policy)}\n{ask}\n{json.dumps(said[place])}")
        assert_no_vm_has_ended(envoy)
    assert compared > POLICIES
    assert not differences, f"seed {SEED}, {len(differences)} differences\n" + "\n\n".join(differences[:3])


def test_policies_that_replace_each_other_are_accepted_and_serve(policies, start, policy):
    envoy = start(policy, delivery="ecds")
    for other in policies[:8]:
        # A policy with the cluster of another host would be legal, but the test has none of it.
        assert envoy.publish({**other, "name": "reviews"}) == ""
        for path in ("/", "/livez", "/api?uid=7"):
            assert 200 <= get(envoy.port(), path, {"x-user-id": "alice"}).status < 600
    assert_no_vm_has_ended(envoy)
