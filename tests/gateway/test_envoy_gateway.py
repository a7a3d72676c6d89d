"""The filter in Envoy Gateway: its own control plane pulls the image, makes the configuration and runs a real Envoy.

`make gateway-test` runs it, in a network of its own.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections import Counter
from contextlib import ExitStack

import pytest
import yaml

from harness.client import get
from harness.envoy import PROJECT
from harness.envoy_gateway import EnvoyGateway
from harness.ports import free_port
from harness.registry import Registry
from harness.tool import explain, run
from harness.upstream import Upstream
from harness.wait import until, until_all

USERS = [f"user-{number}" for number in range(200)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs the control plane with two versions, a database and the rendered resources, for all tests of this file."""
    with ExitStack() as stack:
        services = {name: stack.enter_context(Upstream(name)) for name in ("v1", "v2", "db")}
        subprocess.run([PROJECT / ".ci" / "image"], cwd=PROJECT, check=True, capture_output=True)
        dist = PROJECT / "dist"
        registry = stack.enter_context(
            Registry({"graygate": dist / "image", "graygate-requests": dist / "image-requests"})
        )
        ports = {name: upstream.port for name, upstream in services.items()}
        gateway = stack.enter_context(EnvoyGateway(free_port(), ports))
        world = World(tmp_path_factory.mktemp("gateway"), gateway, services, registry)
        world.apply(world.policy)
        gateway.ready()
        until(lambda: get(gateway.port, "/livez").text != "livez" and world.is_on(), 60, "the filter")
        yield world


class World:
    """The parts, and the policy that is in force."""

    def __init__(self, directory, gateway, services, registry):
        self.directory, self.gateway, self.services, self.registry = directory, gateway, services, registry
        check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.2, "failureThreshold": 2}
        self.policy = {
            "name": "reviews",
            "upstreams": {name: {"cluster": name, "readinessProbe": dict(check)} for name in ("v1", "v2", "db")},
            "probes": {
                "liveness": {"path": "/livez"},
                "readiness": {"path": "/readyz", "checks": [{"upstream": "v1"}, {"upstream": "db"}]},
            },
            "releases": [
                {
                    "name": "reviews",
                    "steer": {"header": "x-gray-version"},
                    "hashOn": [{"httpHeaderName": "x-user-id"}],
                    "versions": [
                        {"name": "v1", "upstream": "v1", "weight": 60, "default": True},
                        {"name": "v2", "upstream": "v2", "weight": 40},
                    ],
                }
            ],
            "gates": [{"upstream": "v1", "reply": {"status": 503, "retryAfterSeconds": 7}}],
        }

    def render(self, policy, *options):
        file = self.directory / "policy.json"
        file.write_text(json.dumps(policy))
        digests = [f"--sha256={image}={self.registry.digest(image)}" for image in ("graygate", "graygate-requests")]
        backends = [f"--backend={name}={name}:80" for name in self.services]
        module = f"oci://127.0.0.1:{self.registry.port}/{{module}}:1"
        kind = ("--kind", "envoyextensionpolicy", "--namespace", "shop", "--module", module)
        done = run("render", file, *kind, *digests, *backends, *options)
        assert done.returncode == 0, done.stderr
        checked = run("check", "-", stdin=done.stdout)
        assert checked.returncode == 0, checked.stderr
        return list(yaml.safe_load_all(done.stdout))

    def apply(self, policy, *options):
        self.gateway.apply(self.render(policy, *options))

    def is_on(self):
        return "graygate" in self.gateway.admin("/stats?filter=wasmcustom")

    def get(self, path="/", headers=()):
        return get(self.gateway.port, path, headers)


def test_the_control_plane_pulls_the_image_by_its_digest(world):
    assert world.registry.pulls > 0
    dump = world.gateway.admin("/config_dump?resource=dynamic_listeners")
    assert "wasm_cluster" in dump
    assert "shop/graygate-reviews/wasm/0" in dump


def test_clusters_have_the_names_that_the_policy_has(world):
    names = {f"httproute/shop/graygate-reviews/rule/{number}" for number in range(3)}
    assert names <= world.gateway.clusters()


def test_probes_are_answered_by_the_filter(world):
    until(lambda: world.get("/readyz").status == 200, what="all upstreams ready")
    assert world.get("/livez").status == 200
    assert world.services["v1"].seen("/livez") == world.services["v2"].seen("/livez") == 0
    with_failed(world, "db", lambda: until(lambda: world.get("/readyz").status == 503, what="readiness fails"))
    until(lambda: world.get("/readyz").status == 200, what="readiness passes again")


def with_failed(world, name, act):
    """Acts while the checks of an upstream fail."""
    upstream = world.services[name]
    upstream.answer(500, path="/healthz")
    try:
        act()
    finally:
        upstream.answer(200, path="/healthz")


def test_each_user_gets_the_version_that_the_tool_says(world):
    until(lambda: world.get("/readyz").status == 200, what="all upstreams ready")
    questions = [{"headers": {"x-user-id": user}} for user in USERS]
    expected = [answer["assignments"][0]["version"] for answer in explain(world.directory, world.policy, questions)]
    got = [world.get("/", {"x-user-id": user}).version for user in USERS]
    assert got == expected
    assert set(Counter(got)) == {"v1", "v2"}


def test_a_client_cannot_choose_its_version(world):
    expected = world.get("/", {"x-user-id": USERS[0]}).version
    other = "v1" if expected == "v2" else "v2"
    assert world.get("/", {"x-user-id": USERS[0], "x-gray-version": other}).version == expected


def test_no_request_reaches_the_rule_that_only_makes_a_cluster(world):
    for value in ("", "x", "[^\\s\\S]"):
        assert world.get("/", {"x-graygate-none": value}).version in {"v1", "v2"}


def test_a_gate_answers_while_its_upstream_is_not_ready(world):
    # Users of the other version do not need the gated upstream.
    of_v1 = next(user for user in USERS if world.get("/", {"x-user-id": user}).version == "v1")
    user = {"x-user-id": of_v1}

    def gated():
        until(lambda: world.get("/", user).status == 503, what="the gate answers")
        response = world.get("/", user)
        assert (response.status, response.headers["retry-after"]) == (503, "7")

    with_failed(world, "v1", gated)
    until_all(lambda: world.get("/", user).status == 200, what="requests pass again")


def test_metrics_have_labels(world):
    text = world.gateway.admin("/stats/prometheus")
    assert re.search(r'^graygate_\w+\{.*policy="reviews".*\} ', text, re.MULTILINE), text[:2000]
    # The rules of Envoy Gateway's own bootstrap stay.
    assert re.search(r'envoy_cluster_name="httproute/shop/graygate-reviews/rule/0"', text)


def test_a_path_without_a_route_is_not_found(world):
    """What `check` warns of: the filter is on by route."""
    narrow = copy.deepcopy(world.render(world.policy))
    rules = narrow[0]["spec"]["rules"]
    rules[0]["matches"] = [{"path": {"type": "PathPrefix", "value": "/api"}}]
    rules[1]["matches"][0]["path"] = {"type": "PathPrefix", "value": "/api"}
    assert rules[-1]["matches"][0]["path"]["value"] == "/livez"
    rules.pop()
    checked = run("check", "-", stdin=yaml.safe_dump_all(narrow))
    assert checked.returncode == 1
    assert "so Envoy responds 404" in checked.stderr
    world.gateway.apply(narrow)
    try:
        until(lambda: world.get("/livez").status == 404, 30, "the path is not found")
    finally:
        world.apply(world.policy)
    until(lambda: world.get("/livez").status == 200, 30, "the path is found again")
