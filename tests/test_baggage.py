"""Releases that steer by a member of the W3C's `baggage`, in Envoy, with the routes that `graygate render` prints.

The apps of one test pass baggage on by OpenTelemetry's own propagator, as apps in the field do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from typing import Any

import pytest
import yaml
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator

from harness.client import get
from harness.config import Tree, bootstrap, route
from harness.envoy import Envoy
from harness.load import Request, drive
from harness.relay import Relay
from harness.tool import run
from harness.upstream import Upstream

USERS = [f"user-{number}" for number in range(60)]
# The longest header, and the most members, that every receiver passes on.
MAX_BYTES, MAX_MEMBERS = 8192, 64
# With so many headers, the filter asks for each by its name.
MANY = [(f"x-more-{number}", "y") for number in range(50)]


def passing_on(name: str, next_port: int) -> Relay:
    """Returns an app that passes its baggage on, with one more member. It names itself and the next service."""

    def ask(path: str, headers: Message[str, str]) -> dict[str, Any]:
        context = W3CBaggagePropagator().extract({"baggage": headers.get_all("baggage", [])})
        passed: dict[str, str] = {}
        W3CBaggagePropagator().inject(passed, baggage.set_baggage("app", name, context))
        answer = get(next_port, path, passed)
        return {"a": name, "b": answer.version, "seen": dict(baggage.get_all(context))}

    return Relay(name, ask)


def policy(service: str, **release: Any) -> Tree:
    """Returns a policy with the versions v1, which is the default, and v2."""
    versions = [
        {"name": "v1", "upstream": f"{service}-v1", "weight": 60, "default": True},
        {"name": "v2", "upstream": f"{service}-v2", "weight": 40},
    ]
    return {
        "name": service,
        "upstreams": {f"{service}-{version}": {"cluster": f"{service}-{version}"} for version in ("v1", "v2")},
        "releases": [{"name": service, "steer": {"baggage": "lane"}, "versions": versions, **release}],
    }


def rendered_routes(document: Tree) -> list[Tree]:
    """Returns the routes that the tool prints for an Envoy without Istio."""
    done = run("render", "--kind", "envoy", "-", stdin=json.dumps(document))
    assert done.returncode == 0, done.stderr

    def routes(node: Any) -> Iterator[list[Tree]]:
        if isinstance(node, dict):
            if "routes" in node:
                yield node["routes"]
            for value in node.values():
                yield from routes(value)
        elif isinstance(node, list):
            for item in node:
                yield from routes(item)

    (found,) = [found for part in yaml.safe_load_all(done.stdout) for found in routes(part)]
    return found


@pytest.fixture
def start() -> Iterator[Any]:
    """`start(policy, {"a-v1": port})`: an Envoy with the policy and its rendered routes."""
    with ExitStack() as stack:

        def start(document: Tree, ports: dict[str, int], **options: Any) -> Envoy:
            config = bootstrap(document, ports, routes=rendered_routes(document), **options)
            return stack.enter_context(Envoy(config))

        yield start


@pytest.fixture
def apps() -> Iterator[dict[str, Upstream]]:
    with Upstream("v1") as v1, Upstream("v2") as v2:
        yield {"app-v1": v1, "app-v2": v2}


def ports(apps: dict[str, Upstream]) -> dict[str, int]:
    return {name: app.port for name, app in apps.items()}


def sent(apps: dict[str, Upstream], version: str, path: str = "/") -> list[bytes]:
    """Returns the lines of baggage that the version got."""
    return [value for name, value in apps[f"app-{version}"].last_headers_of(path) if name == b"baggage"]


def assigned(envoy: Envoy, **tags: str) -> int:
    return envoy.counter("graygate_assignments_total", **tags)


def test_a_user_stays_in_one_lane_over_apps_that_pass_baggage_on(start, apps):
    with ExitStack() as stack:
        trusting = {"trustIncoming": True}
        of_b = start(policy("app", **trusting), ports(apps))
        relays = {f"a-{name}": stack.enter_context(passing_on(name, of_b.port())) for name in ("v1", "v2")}
        of_a_ports = {cluster: relay.port for cluster, relay in relays.items()}
        of_a = start(policy("a", **trusting), of_a_ports)
        gateway_ports = dict.fromkeys(("edge-v1", "edge-v2"), of_a.port())
        gateway = start(policy("edge", hashOn=[{"baggage": "user-id"}]), gateway_ports)
        lanes: dict[str, Counter[tuple[str, str]]] = {}
        for _ in range(2):
            requests = [Request("/", {"baggage": f"user-id={user}, lane=v9;spoofed"}) for user in USERS]
            for user, answer in zip(USERS, drive(gateway.port(), requests, connections=4), strict=True):
                told = json.loads(answer.body)
                assert told["seen"] == {"user-id": user, "lane": told["a"]}
                lanes.setdefault(user, Counter())[told["a"], told["b"]] += 1
        assert all(len(found) == 1 for found in lanes.values()), "each user has one lane"
        taken = {lane for found in lanes.values() for lane in found}
        assert taken == {("v1", "v1"), ("v2", "v2")}
        assert assigned(gateway, reason="sticky") == 2 * len(USERS)
        assert assigned(of_a, reason="incoming") == assigned(of_b, reason="incoming") == 2 * len(USERS)


def test_other_members_reach_the_app_as_they_came_and_a_clients_own_lane_does_not(start, apps):
    envoy = start(policy("app", hashOn=[{"httpHeaderName": "x-user-id"}]), ports(apps))
    others = b'user-id=al%69ce;p=1 , bad,=x,\tsession="q";a'
    for user in USERS[:10]:
        lines: list[tuple[str, str | bytes]] = [("baggage", b"lane=v9;p, " + others), ("baggage", "c=d, lane=v1")]
        lines.append(("x-user-id", user))
        for more in ([], MANY):
            version = str(get(envoy.port(), "/", [*lines, *more]).version)
            assert sent(apps, version) == [others + b",c=d,lane=" + version.encode()]
    # No client can choose the route of a request that gets no version.
    skipping = start(policy("app", skip=[{"uri": {"prefix": "/static"}}]), ports(apps))
    assert get(skipping.port(), "/static", [("baggage", "a=b,lane=v2")]).version == "v1"
    assert sent(apps, "v1", "/static") == [b"a=b"]
    assert get(skipping.port(), "/static", [("baggage", "lane=v2")]).version == "v1"
    assert sent(apps, "v1", "/static") == []
    assert get(skipping.port(), "/static", [("baggage", b"lane=v2,a=\xff")]).version == "v1"
    assert sent(apps, "v1", "/static") == [b"a=\xff"]


def test_the_rendered_routes_find_the_member_wherever_it_is(start, apps):
    envoy = start(policy("app", trustIncoming=True), ports(apps))
    for header in (
        *("lane=v2", "a=b,lane=v2", "lane=v2,a=b", "a=b , lane = v2 ;p=1;q, c=d", "\tlane=v2\t,x", "lane=%76%32"),
        *("xlane=v1,lane=v2", "a=lane=v1,lane=v2;lane=v1", "lane=v2,lane=v1"),
    ):
        answer = get(envoy.port(), "/", [("baggage", header)])
        assert answer.version == "v2", header
    total = assigned(envoy, version="v2", reason="incoming")
    assert total == 9
    for header in ("lane=v22", "lane=v1", "lanes=v2", "a;lane=v2", "LANE=v2,lane=v1", "lane=v9"):
        assert get(envoy.port(), "/", [("baggage", header), ("x", "y")]).version in {"v1", "v2"}
    assert assigned(envoy, version="v2", reason="incoming") == total
    assert envoy.counter("graygate_misrouted_requests_total") == 0


def test_a_version_is_not_written_beyond_the_limits_and_the_request_gets_the_default_one(start, apps):
    document = policy("app", hashOn=[{"httpHeaderName": "x-user-id"}])
    document["releases"][0]["versions"][0]["weight"] = 0
    envoy = start(document, ports(apps))
    room = MAX_BYTES - len(",lane=v2")
    fits = ["a=" + "x" * (room - 2), ",".join(["a=b"] * (MAX_MEMBERS - 1))]
    full = [*("a=" + "x" * (room - 1), ",".join(["a=b"] * MAX_MEMBERS)), "a=\xff"]
    for header in fits:
        assert get(envoy.port(), "/", [("baggage", header), ("x-user-id", "alice")]).version == "v2"
        assert sent(apps, "v2") == [f"{header},lane=v2".encode()]
    for header in full:
        plain = header.encode("latin-1")
        assert get(envoy.port(), "/", [("baggage", plain), ("x-user-id", "alice")]).version == "v1"
        assert sent(apps, "v1") == [plain]
    assert assigned(envoy, version="v1", reason="not-carried") == len(full)
    assert assigned(envoy, version="v2") == len(fits)


def test_in_shadow_nothing_of_baggage_changes(start, apps):
    document = policy("app", hashOn=[{"baggage": "user-id"}])
    envoy = start({**document, "mode": "shadow"}, ports(apps))
    lines = [("baggage", "user-id=alice, lane=v9"), ("baggage", "a=b")]
    assert get(envoy.port(), "/", lines).version == "v1"
    assert sent(apps, "v1") == [b"user-id=alice, lane=v9", b"a=b"]
    assert assigned(envoy, reason="sticky") == 1


def test_a_match_holds_for_a_member_of_any_line(start, apps):
    document = policy("app")
    document["releases"][0]["versions"][0]["weight"] = 100
    document["releases"][0]["versions"][1] |= {"weight": 0, "match": [{"baggage": {"tester": {"prefix": "a b"}}}]}
    envoy = start(document, ports(apps))
    for lines, version in [
        (["tester=a%20b;p"], "v2"),
        (["x=y", "z=1, tester=a%20bc"], "v2"),
        (["tester=a+b"], "v1"),
        (["TESTER=a%20b"], "v1"),
        (["tester;x=a%20b", "y=1"], "v1"),
    ]:
        for more in ([], MANY):
            answer = get(envoy.port(), "/", [*(("baggage", line) for line in lines), *more])
            assert answer.version == version, lines


def test_a_route_that_names_no_version_is_reported(apps):
    document = policy("app", hashOn=[{"httpHeaderName": "x-user-id"}])
    with Envoy(bootstrap(document, ports(apps), routes=[route("app-v1", "5s")])) as envoy:
        requests = [Request("/", {"x-user-id": user}) for user in USERS]
        drive(envoy.port(), requests, connections=4)
        assert envoy.counter("graygate_misrouted_requests_total", version="v2") > 0
        assert "lane=v2 in the header baggage" in envoy.logs()
