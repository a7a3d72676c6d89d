"""Sends the same users through Envoy's weighted_clusters and through graygate, and compares the versions that they see.

One Envoy has a listener for each way, with the same two upstreams behind them. v2 starts at 10 %, and is raised to 30 %
without a restart. At each share, every user sends ten requests.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

from harness.arguments import positive
from harness.client import get
from harness.config import Tree, cluster, listener, plugin, route, socket_address
from harness.envoy import PROJECT, Envoy
from harness.load import Request, drive
from harness.local import free_port
from harness.service import Service
from harness.wait import until_all

LISTENERS = ("weighted_clusters", "graygate")
VERSIONS = ("v1", "v2")
ROUNDS = 10
DISCOVERY = "./lds.json"
# The response header that names the share of v2 that the request was routed by.
MARK = "x-weights"


def policy(percent: int) -> Tree:
    weights = {"v1": 100 - percent, "v2": percent}
    versions = [{"name": name, "upstream": name, "weight": weight} for name, weight in weights.items()]
    versions[0]["default"] = True
    hash_on = [{"httpHeaderName": "x-user-id"}]
    release = {"name": "reviews", "steer": {"header": "x-gray-version"}, "hashOn": hash_on, "versions": versions}
    return {"name": "reviews", "upstreams": {name: {"cluster": name} for name in VERSIONS}, "releases": [release]}


def weighted_route(percent: int) -> Tree:
    weights = [{"name": "v1", "weight": 100 - percent}, {"name": "v2", "weight": percent}]
    return {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": weights}}}


def discovery(percent: int) -> Tree:
    """Returns a discovery response with both listeners, and this share for v2."""
    mark = [{"header": {"key": MARK, "value": str(percent)}}]
    filters = {"weighted_clusters": [], "graygate": [{"name": "graygate", "typed_config": plugin(policy(percent))}]}
    steered = [route("v2", "5s", ("x-gray-version", "v2")), route("v1", "5s")]
    routes = {"weighted_clusters": [weighted_route(percent)], "graygate": steered}
    resources = []
    for name in LISTENERS:
        marked = [{**each, "response_headers_to_add": mark} for each in routes[name]]
        tree = listener(name, filters[name], marked, {"access_log": []})
        resources.append({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **tree})
    return {"version_info": str(percent), "resources": resources}


def bootstrap(ports: dict[str, int]) -> Tree:
    source = {"path_config_source": {"path": DISCOVERY}, "resource_api_version": "V3"}
    return {
        "node": {"id": "compare", "cluster": "compare"},
        "admin": {"address": socket_address()},
        "static_resources": {"clusters": [cluster(name, port) for name, port in ports.items()]},
        "dynamic_resources": {"lds_config": source},
    }


class Seen:
    """The versions that each user has seen through one listener, at each share of v2."""

    def __init__(self, users: int) -> None:
        self.users = users
        self.versions: dict[int, list[set[str]]] = {}
        self.on_v2: dict[int, int] = {}

    def ask(self, port: int, percent: int) -> None:
        requests = [Request("/reviews", {"x-user-id": f"user-{number}"}) for number in range(self.users)]
        versions = self.versions[percent] = [set() for _ in requests]
        self.on_v2[percent] = 0
        for _ in range(ROUNDS):
            for seen, answer in zip(versions, drive(port, requests, connections=32, timeout=120.0), strict=True):
                if answer.status != 200 or answer.version is None:
                    raise SystemExit(f"a request failed: status {answer.status}: {answer.body!r}")
                seen.add(answer.version)
                self.on_v2[percent] += answer.version == "v2"

    def share(self, percent: int) -> str:
        return f"{100 * self.on_v2[percent] / (self.users * ROUNDS):.2f} %"

    def users_on_both(self, percent: int) -> str:
        return f"{sum(len(seen) == 2 for seen in self.versions[percent])}"

    def users_moved_back(self) -> str:
        pairs = zip(self.versions[10], self.versions[30], strict=True)
        return f"{sum('v2' in before and 'v1' in after for before, after in pairs)}"

    def rows(self) -> Iterator[tuple[str, str]]:
        for percent in (10, 30):
            yield f"share of requests on v2 at {percent} %", self.share(percent)
            yield f"users who saw both versions at {percent} %", self.users_on_both(percent)
        yield "users who were on v2 at 10 % and back on v1 at any time at 30 %", self.users_moved_back()


def print_row(*cells: str) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, (63, 17, 0), strict=True)).rstrip(), flush=True)


def compare(envoy: Envoy, users: int) -> dict[str, Seen]:
    seen = {name: Seen(users) for name in LISTENERS}
    for percent in (10, 30):
        if percent != 10 and (refusal := envoy.put(DISCOVERY, discovery(percent))):
            raise SystemExit(f"{DISCOVERY}: refused by Envoy: {refusal}")
        for name in LISTENERS:
            port = envoy.port(name)
            # The main thread has accepted the update. Each worker follows within milliseconds.
            until_all(lambda: get(port).headers[MARK] == str(percent), what=f"{name} with v2 at {percent} %")
            print(f"v2 at {percent} %: {users} users, {ROUNDS} requests each, through {name}: ", end="", flush=True)
            started = time.monotonic()
            seen[name].ask(port, percent)
            print(f"{time.monotonic() - started:.1f} s", flush=True)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description="weighted_clusters and graygate, with the same users")
    parser.add_argument("--users", type=positive, default=10_000, metavar="N", help="10000 if not given")
    users = parser.parse_args().users
    if not (PROJECT / "dist/graygate.wasm").exists():
        print("dist/graygate.wasm: not there; build it with: make wasm", file=sys.stderr)
        return 1
    # Handles SIGTERM like Ctrl-C, so that asyncio stops cleanly and every process that was started is stopped. A shell
    # makes background jobs ignore SIGINT, so its handler is set again.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with ExitStack() as stack:
            ports = {name: stack.enter_context(Service(name, free_port())).port for name in VERSIONS}
            envoy = stack.enter_context(Envoy(bootstrap(ports), concurrency=2, files={DISCOVERY: discovery(10)}))
            seen = compare(envoy, users)
    except KeyboardInterrupt:
        return 130
    print()
    print_row(f"OF {users} USERS, {ROUNDS} REQUESTS EACH", *LISTENERS)
    for plain, gray in zip(*(seen[name].rows() for name in LISTENERS), strict=True):
        print_row(plain[0], plain[1], gray[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
