"""Sends the same users through Envoy's weighted_clusters and through graygate, and compares what they see.

One Envoy has a listener for each way, with the same two upstreams behind them:

- `weighted_clusters`: each request is a new throw of the dice.
- `use_hash_policy`: the same, but the hash of the user picks the cluster.
- `graygate`: the filter picks the version, and the routes follow its header.

The weights change without a restart, and at the end v2 is killed. Every number of the table is measured in the run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http.cookies import SimpleCookie
from typing import NamedTuple

from harness.arguments import positive
from harness.built import are_built
from harness.client import get
from harness.config import Tree, cluster, listener, plugin, route, socket_address
from harness.envoy import PROJECT, Envoy
from harness.load import Answer, Load, Request, drive
from harness.ports import free_port
from harness.service import Service
from harness.signals import end_by_signals
from harness.wait import until, until_all

CONTESTANTS = ("weighted_clusters", "use_hash_policy", "graygate")
VERSIONS = ("v1", "v2")
# Two services with a canary each. Their weights are the same.
RELEASES = ("reviews", "checkout")
ROUNDS = 10
BROWSERS = 100
# The users of the last part, and how many of them ask in a second.
OUTAGE_USERS, OUTAGE_RATE = 1_000, 200.0
DISCOVERY = "./lds.json"
USER, COOKIE = "x-user-id", "gray-id"
# The response header that names the weights that the request was routed by.
MARK = "x-weights"


class Weights(NamedTuple):
    """The weights of v1 and v2. They need not add up to 100."""

    v1: int
    v2: int

    def __str__(self) -> str:
        return f"{self.v1}:{self.v2}"


START, RAISED, HEAVIER = Weights(90, 10), Weights(70, 30), Weights(90, 30)


def policy(weights: Weights) -> Tree:
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.5, "timeoutSeconds": 0.25, "failureThreshold": 2}
    upstreams = {name: {"cluster": name, "readinessProbe": check, "circuitBreaker": {}} for name in VERSIONS}
    versions: list[Tree] = [
        {"name": name, "upstream": name, "weight": weight} for name, weight in zip(VERSIONS, weights, strict=True)
    ]
    versions[0]["default"] = True
    keys: list[Tree] = [{"httpHeaderName": USER}]
    issued: list[Tree] = [{"httpCookie": {"name": COOKIE, "ttl": "24h"}}]
    releases = [
        {
            "name": name,
            "match": [{"uri": {"prefix": f"/{name}"}}],
            "steer": {"header": "x-gray-version"},
            "hashOn": keys + (issued if name == "reviews" else []),
            "versions": versions,
        }
        for name in RELEASES
    ]
    return {"name": "shop", "upstreams": upstreams, "releases": releases}


def weighted_route(weights: Weights, *, hashed: bool) -> Tree:
    clusters = [{"name": name, "weight": weight} for name, weight in zip(VERSIONS, weights, strict=True)]
    if not hashed:
        return {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}}}
    # The same two keys as in the policy: the header, or else a cookie that Envoy is to issue.
    keys = [
        {"header": {"header_name": USER}, "terminal": True},
        {"cookie": {"name": COOKIE, "ttl": "86400s"}},
    ]
    action = {"weighted_clusters": {"clusters": clusters, "use_hash_policy": True}, "hash_policy": keys}
    return {"match": {"prefix": "/"}, "route": action}


def discovery(weights: Weights) -> Tree:
    """Returns a discovery response with a listener for each contestant."""
    mark = [{"header": {"key": MARK, "value": str(weights)}}]
    filters = {"graygate": [{"name": "graygate", "typed_config": plugin(policy(weights))}]}
    routes = {
        "weighted_clusters": [weighted_route(weights, hashed=False)],
        "use_hash_policy": [weighted_route(weights, hashed=True)],
        "graygate": [route("v2", "5s", ("x-gray-version", "v2")), route("v1", "5s")],
    }
    resources = []
    for name in CONTESTANTS:
        marked = [{**each, "response_headers_to_add": mark} for each in routes[name]]
        tree = listener(name, filters.get(name, []), marked, {"access_log": []})
        resources.append({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **tree})
    return {"version_info": str(weights), "resources": resources}


def bootstrap(ports: dict[str, int]) -> Tree:
    source = {"path_config_source": {"path": DISCOVERY}, "resource_api_version": "V3"}
    # Envoy issues a cookie only for a load balancer that asks for the hash.
    clusters = [{**cluster(name, port), "lb_policy": "RING_HASH"} for name, port in ports.items()]
    return {
        "node": {"id": "compare", "cluster": "compare"},
        "admin": {"address": socket_address()},
        "static_resources": {"clusters": clusters},
        "dynamic_resources": {"lds_config": source},
    }


def requests(users: int, path: str = "/reviews") -> list[Request]:
    return [Request(path, {USER: f"user-{number}"}) for number in range(users)]


class Browser:
    """A client without a user header that keeps the cookies it gets."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}
        self.versions: set[str | None] = set()

    def ask(self, port: int) -> None:
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = get(port, "/reviews", {"cookie": sent} if sent else {})
        self.versions.add(answer.version)
        for line in answer.headers.get_all("set-cookie", []):
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}


class Contestant:
    """What the users have seen through one listener."""

    def __init__(self, name: str, users: int) -> None:
        self.name, self.users = name, users
        self.versions: dict[Weights, list[set[str]]] = {}
        self.on_v2: dict[Weights, int] = {}
        self.canaries: dict[str, set[int]] = {}
        self.browsers: list[Browser] = []
        self.outage: list[Answer] = []

    def ask(self, port: int, weights: Weights, rounds: int) -> None:
        """Sends this many requests of each user."""
        seen: list[set[str]] = [set() for _ in range(self.users)]
        self.versions[weights] = seen
        self.on_v2[weights] = 0
        for _ in range(rounds):
            for versions, version in zip(seen, self.served(port, "/reviews"), strict=True):
                versions.add(version)
                self.on_v2[weights] += version == "v2"

    def served(self, port: int, path: str) -> Iterator[str]:
        """Sends one request of each user and yields their versions."""
        for answer in drive(port, requests(self.users, path), connections=32, timeout=120.0):
            if answer.status != 200 or answer.version is None:
                raise SystemExit(f"{self.name}: a request failed: status {answer.status}: {answer.body!r}")
            yield answer.version

    def find_canaries(self, port: int) -> None:
        """Finds the users of each service's canary."""
        for name in RELEASES:
            versions = enumerate(self.served(port, f"/{name}"))
            self.canaries[name] = {user for user, version in versions if version == "v2"}

    def browse(self, port: int) -> None:
        self.browsers = [Browser() for _ in range(BROWSERS)]
        for _ in range(ROUNDS):
            for browser in self.browsers:
                browser.ask(port)

    def failed_in_pass(self, number: int) -> str:
        """Counts failures in one pass over the users of the outage, in which each asks once."""
        count = len(self.outage) // 2
        failed = sum(answer.status != 200 for answer in self.outage[count * number : count * (number + 1)])
        return f"{failed} of {count}"

    def share(self, weights: Weights) -> str:
        return f"{100 * self.on_v2[weights] / (self.users * ROUNDS):.2f} %"

    def users_on_both(self, weights: Weights) -> str:
        return f"{sum(len(versions) > 1 for versions in self.versions[weights])}"

    def users_moved_back(self, weights: Weights) -> str:
        pairs = zip(self.versions[START], self.versions[weights], strict=True)
        return f"{sum('v2' in before and 'v1' in after for before, after in pairs)}"

    def rows(self) -> Iterator[tuple[str, str]]:
        for weights in (START, RAISED):
            yield f"share of requests on v2 at {weights}", self.share(weights)
            yield f"users who saw both versions at {weights}", self.users_on_both(weights)
        yield f"users of v2 at {START} who are back on v1 at {RAISED}", self.users_moved_back(RAISED)
        yield f"users of v2 at {START} who are back on v1 at {HEAVIER}", self.users_moved_back(HEAVIER)
        first, second = (self.canaries[name] for name in RELEASES)
        yield f"users of one canary who are in the other, too, at {START}", f"{len(first & second)} of {len(first)}"
        issued = sum(COOKIE in browser.cookies for browser in self.browsers)
        yield "browsers without a key that got a cookie", f"{issued} of {BROWSERS}"
        both = sum(len(browser.versions) > 1 for browser in self.browsers)
        yield "browsers without a key that saw both versions", f"{both} of {BROWSERS}"
        seconds = f"{self.outage_seconds:.0f} s"
        yield f"users who failed in the first {seconds} after v2 was killed", self.failed_in_pass(0)
        yield f"users who failed in the next {seconds}", self.failed_in_pass(1)

    @property
    def outage_seconds(self) -> float:
        return len(self.outage) / 2 / OUTAGE_RATE


class Comparison:
    def __init__(self, envoy: Envoy, canary: Service, users: int) -> None:
        self.envoy, self.canary = envoy, canary
        self.contestants = [Contestant(name, users) for name in CONTESTANTS]

    def run(self) -> None:
        for weights, rounds in ((START, ROUNDS), (HEAVIER, 1), (RAISED, ROUNDS)):
            if weights != START and (refusal := self.envoy.put(DISCOVERY, discovery(weights))):
                raise SystemExit(f"{DISCOVERY}: refused by Envoy: {refusal}")
            for each in self.contestants:
                port = self.envoy.port(each.name)
                # The main thread has accepted the update. Each worker follows within milliseconds.
                until_all(lambda: get(port).headers[MARK] == str(weights), what=f"{each.name} with {weights}")
                started = time.monotonic()
                each.ask(port, weights, rounds)
                if weights == START:
                    each.find_canaries(port)
                    each.browse(port)
                print(f"v1:v2 at {weights} through {each.name}: {time.monotonic() - started:.1f} s", flush=True)
        self.kill_canary()

    def kill_canary(self) -> None:
        """Kills v2 while the same users ask through each contestant at the same time."""
        print("v2 is killed", flush=True)
        users = min(OUTAGE_USERS, self.contestants[0].users)
        with ExitStack() as stack:
            # Answers are in the order of the users, as each load has one connection.
            loads = [
                stack.enter_context(Load(self.envoy.port(each.name), requests(users), rate=OUTAGE_RATE, connections=1))
                for each in self.contestants
            ]
            until(lambda: all(load.answers for load in loads), 30, "a first answer through each contestant")
            killed = time.monotonic()
            self.canary.kill()
            whole = 2 * users
            until(lambda: all(len(load.since(killed)) >= whole for load in loads), 120, "two requests of each user")
        for each, load in zip(self.contestants, loads, strict=True):
            each.outage = load.since(killed)[:whole]


def print_row(*cells: str) -> None:
    widths = (62, 17, 15, 0)
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


def print_table(contestants: Sequence[Contestant]) -> None:
    print_row(f"OF {contestants[0].users} USERS, {ROUNDS} REQUESTS EACH", *(each.name for each in contestants))
    for row in zip(*(each.rows() for each in contestants), strict=True):
        print_row(row[0][0], *(measured for _, measured in row))


def main() -> int:
    parser = argparse.ArgumentParser(description="weighted_clusters and graygate, with the same users")
    parser.add_argument("--users", type=positive, default=5_000, metavar="N", help="5000 if not given")
    users = parser.parse_args().users
    if not are_built({PROJECT / "dist/graygate.wasm": "make wasm"}):
        return 1
    end_by_signals()
    try:
        with ExitStack() as stack:
            services = [stack.enter_context(Service(name, free_port())) for name in VERSIONS]
            ports = {service.name: service.port for service in services}
            envoy = stack.enter_context(Envoy(bootstrap(ports), concurrency=2, files={DISCOVERY: discovery(START)}))
            comparison = Comparison(envoy, services[-1], users)
            comparison.run()
    except KeyboardInterrupt:
        return 130
    print()
    print_table(comparison.contestants)
    return 0


if __name__ == "__main__":
    sys.exit(main())
