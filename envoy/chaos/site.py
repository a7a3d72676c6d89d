"""What each scenario runs on: a policy, two versions, an Envoy with two listeners, and the load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.client import get
from harness.config import Config, Tree, bootstrap
from harness.envoy import Envoy
from harness.load import Request
from harness.tool import explain
from harness.wait import until, until_all

from .count import CLOSED, GRACE, MOMENT, Outage, Tolerated, Trial, Versions
from .pairs import Pair, Pairs

# A prime, so that each user sends requests on both paths.
USERS = [f"user-{number}" for number in range(61)]
ROUTE_TIMEOUT = "2s"
# In seconds: how long all is well before a fault and after it.
AROUND = 1.0


def policy(share: float = 50, **changes: Any) -> Tree:
    """Returns a policy that gives v2 this share of the users. `changes` are for the release."""
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.2, "timeoutSeconds": 0.5, "failureThreshold": 2}
    breaker = {"consecutiveFailures": 5, "unansweredAfter": "1s", "notReadyFor": "1s", "maxNotReadyFor": "2s"}
    upstreams: Tree = {
        name: {"cluster": name, "readinessProbe": check, "circuitBreaker": breaker} for name in ("v1", "v2")
    }
    upstreams["closed"] = {"cluster": "v1", "force": "notReady"}
    versions = [
        {"name": "v1", "upstream": "v1", "weight": 1000 - round(10 * share), "default": True},
        {"name": "v2", "upstream": "v2", "weight": round(10 * share)},
    ]
    release = {
        "name": "reviews",
        "steer": {"header": "x-gray-version"},
        "hashOn": [{"httpHeaderName": "x-user-id"}],
        "versions": versions,
        **changes,
    }
    closed = {"upstream": "closed", "match": [{"uri": {"prefix": CLOSED}}]}
    return {
        "name": "reviews",
        "upstreams": upstreams,
        "probes": {"liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "v1"}]}},
        "releases": [release],
        "gates": [closed, {"upstream": "v1"}, {"upstream": "v2"}],
    }


def versions_of(policy: Tree) -> dict[str, str]:
    """Returns the version of each user, as the tool says."""
    questions = [{"path": "/", "headers": {"x-user-id": user}} for user in USERS]
    with tempfile.TemporaryDirectory() as directory:
        said = explain(Path(directory), policy, questions)
    return {user: each["assignments"][0]["version"] for user, each in zip(USERS, said, strict=True)}


def pairs(versions: Mapping[str, str]) -> Iterator[Pair]:
    """Yields each user with each path, a tenth of them with the one whose gate is closed."""
    for number in range(10 * len(USERS)):
        user, path = USERS[number % len(USERS)], CLOSED if number % 10 == 9 else "/"
        steered = {"x-user-id": user, "x-gray-version": versions[user]}
        yield Pair(user, path, Request(path, {"x-user-id": user}), Request(path, steered))


def config(policy: Tree, ports: Mapping[str, int], **options: Any) -> Config:
    return bootstrap(policy, ports, plain=True, timeout=ROUTE_TIMEOUT, hcm={"access_log": []}, **options)


def alive(envoy: Envoy) -> bool:
    return get(envoy.port(), "/livez").status == 200


class Run:
    """A scenario under way. It notes what is right for requests, and when."""

    def __init__(self, envoy: Envoy, begin: Tree) -> None:
        self.envoy = envoy
        self.first = versions_of(begin)
        self.outages: list[Outage] = []
        self.tolerated: list[Tolerated] = []
        self._latest = [self.first]
        self._load: Pairs

    def now_also(self, policy: Tree) -> None:
        """From now on, users may also get the versions of this policy."""
        self._latest.append(versions_of(policy))

    def until_in_use(self) -> None:
        """Waits until all workers have the latest of these policies, which gives some user another version."""
        latest = self._latest[-1]
        user = next(user for user in USERS if latest[user] != self.first[user])

        def moved() -> bool:
            return get(self.envoy.port(), "/", {"x-user-id": user}).version == latest[user]

        until_all(moved, 20, "all workers with the latest policy")

    @contextmanager
    def load(self) -> Iterator[None]:
        until_all(partial(alive, self.envoy), 30, "all workers with the policy")
        with Pairs(self.envoy.port(), self.envoy.port("plain"), list(pairs(self.first))) as self._load:
            time.sleep(AROUND)
            yield
            time.sleep(AROUND)

    def outage(self, version: str, seconds: float, fail: Callable[[], None], heal: Callable[[], None]) -> None:
        begin = time.monotonic()
        fail()
        time.sleep(seconds)
        heal()
        self.outages.append(Outage(version, begin, time.monotonic()))
        # Its gate may open late, which must show.
        time.sleep(GRACE)

    @contextmanager
    def tolerate(self, *kinds: str, why: str, after: float = 0.0, wanted: bool = True) -> Iterator[None]:
        """Lets requests go wrong in these ways while the body lasts and for `after` seconds more."""
        begin = time.monotonic()
        yield
        # A request that was under way when it began goes wrong with it.
        self.tolerated.append(Tolerated(kinds, begin - MOMENT, time.monotonic() + after, why, wanted))

    def served(self, requests: int, timeout: float = 20.0) -> None:
        """Waits for this many more responses of the filter's listener."""
        line = self._load.graygate
        wanted = len(line.asked) + requests
        until(lambda: len(line.asked) >= wanted, timeout, f"{requests} responses")

    def trial(self) -> Trial:
        versions: Versions = {user: {each[user] for each in self._latest} for user in USERS}
        return Trial(self._load.graygate.asked, self._load.plain.asked, versions, self.outages, self.tolerated)
