"""A request keeps its version over three hops, each behind its own proxy: gateway, service a and service b.

Only the gateway decides. The proxies of a and b trust the header. The apps of a copy it to the request that they send.
`tests/worlds/lanes.rs` covers services without the version, and clients that send the header.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import Message
from typing import Any

import pytest

from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.load import Request, drive
from harness.relay import Relay
from harness.upstream import Upstream

HEADER = "x-gray-version"
USERS = [f"user-{number}" for number in range(100)]


def copying(name: str, next_port: int) -> Relay:
    """Returns an app that copies the header. Its response names itself and the next service."""

    def ask(path: str, headers: Message[str, str]) -> dict[str, Any]:
        lane = headers[HEADER]
        answer = get(next_port, path, {} if lane is None else {HEADER: lane})
        return {"a": name, "b": answer.version, "lane": lane, "status": answer.status}

    return Relay(name, ask)


def policy(service: str, clusters: dict[str, str], **release: Any) -> dict[str, Any]:
    """Returns a policy with one release, whose versions have these clusters. The first is the default."""
    weights = {"v1": 70, "v2": 30}
    versions = [
        {"name": name, "upstream": cluster, "weight": weights[name], "default": name == next(iter(clusters))}
        for name, cluster in clusters.items()
    ]
    return {
        "name": service,
        "upstreams": {cluster: {"cluster": cluster} for cluster in clusters.values()},
        "releases": [{"name": service, "steer": {"header": HEADER}, **release, "versions": versions}],
    }


@dataclass(frozen=True)
class Chain:
    gateway: Envoy
    a: Envoy
    b: Envoy

    def ask(self) -> list[dict[str, Any]]:
        """Sends each user's request to the gateway. Returns who served it."""
        requests = [Request("/", {"x-user-id": user}) for user in USERS]
        answers = drive(self.gateway.port(), requests, connections=8)
        assert {answer.status for answer in answers} == {200}
        return [json.loads(answer.body) for answer in answers]


@pytest.fixture
def chain() -> Iterator[Callable[..., Chain]]:
    """`chain(a=["v1"], b=["v1", "v2"])`: the versions of each service."""
    with ExitStack() as stack:

        def envoy(service: str, ports: dict[str, int], **release: Any) -> Envoy:
            clusters = {version: f"{service}-{version}" for version in ports}
            upstreams = {clusters[version]: port for version, port in ports.items()}
            return stack.enter_context(Envoy(bootstrap(policy(service, clusters, **release), upstreams)))

        def start(a: list[str], b: list[str]) -> Chain:
            apps = {version: stack.enter_context(Upstream(version)) for version in b}
            of_b = envoy("b", {version: app.port for version, app in apps.items()}, trustIncoming=True)
            relays = {version: stack.enter_context(copying(version, of_b.port())) for version in a}
            of_a = envoy("a", {version: relay.port for version, relay in relays.items()}, trustIncoming=True)
            port = of_a.port()
            gateway = envoy("gateway", {"v1": port, "v2": port}, hashOn=[{"httpHeaderName": "x-user-id"}])
            return Chain(gateway, of_a, of_b)

        yield start


def lanes(chains):
    return [(told["lane"], told["a"], told["b"]) for told in chains]


def counted(envoy, **tags):
    return envoy.counter("graygate_assignments_total", **tags)


def test_a_user_stays_in_one_lane_over_all_hops(chain):
    hops = chain(a=["v1", "v2"], b=["v1", "v2"])
    first = lanes(hops.ask())
    shares = Counter(first)
    assert set(shares) == {("v1", "v1", "v1"), ("v2", "v2", "v2")}
    assert abs(shares["v2", "v2", "v2"] / len(USERS) - 0.30) < 0.12
    assert lanes(hops.ask()) == first
    for version in ("v1", "v2"):
        passed = 2 * shares[version, version, version]
        assert counted(hops.gateway, version=version, reason="sticky") == passed
        assert counted(hops.a, version=version, reason="incoming") == passed
        assert counted(hops.b, version=version, reason="incoming") == passed
    assert counted(hops.a) == counted(hops.b) == counted(hops.gateway) == 2 * len(USERS)
