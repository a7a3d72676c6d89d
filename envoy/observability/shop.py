"""A shop behind several Envoys. A release has two versions, two upstreams have gates, and each of them can fail."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

from harness.client import get
from harness.config import MODULE, Config, Tree, route
from harness.envoy import Envoy
from harness.load import Request
from harness.upstream import Upstream
from harness.wait import until, until_all

Policy = dict[str, Any]

# The shared upstreams. Each proxy has a cart of its own, which can fail on this proxy alone.
SHARED = ("v1", "v2", "search", "spare")
USERS = [f"user-{number}" for number in range(40)]

ROUTES: list[Tree] = [
    {
        "match": {
            "prefix": "/",
            "headers": [{"name": "x-gray-cluster", "string_match": {"exact": "spare"}}],
        },
        "route": {"cluster_header": "x-gray-cluster"},
    },
    {"match": {"prefix": "/cart"}, "route": {"cluster": "cart"}},
    {"match": {"prefix": "/search"}, "route": {"cluster": "search"}},
    route("v2", "5s", ("x-gray-version", "v2")),
    route("v1", "5s"),
]


def policy(weight: int = 50, **rollback: Any) -> Policy:
    """Returns the shop's policy with this weight of v2. `rollback` replaces keys of the release's `rollback`.

    By default, no version is ever rolled back, because the limit wants more requests than there are.
    """
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.1, "failureThreshold": 2}
    return {
        "name": "shop",
        "upstreams": {
            "v1": {"cluster": "v1", "readinessProbe": check},
            "v2": {"cluster": "v2", "readinessProbe": check},
            "cart": {"cluster": "cart", "readinessProbe": check},
            "search": {"cluster": "search", "readinessProbe": check},
            "spare": {"cluster": "spare"},
        },
        "probes": {
            "liveness": {"path": "/livez"},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "v1"}]},
            "drain": {"path": "/drainz"},
        },
        "releases": [
            {
                "name": "web",
                "match": [{"uri": {"exact": "/"}}],
                "steer": {"header": "x-gray-version"},
                "hashOn": [{"httpHeaderName": "x-user-id"}],
                "versions": [
                    {"name": "v1", "upstream": "v1", "weight": 100 - weight, "default": True},
                    {"name": "v2", "upstream": "v2", "weight": weight},
                ],
                "rollback": {
                    "failurePercent": 5,
                    "latency": {"percentile": 90, "above": "1s"},
                    "minimumRequests": 1_000_000,
                    **rollback,
                },
            }
        ],
        "gates": [
            {"upstream": "cart", "match": [{"uri": {"prefix": "/cart"}}], "whenAllNotReady": "forward"},
            {
                "upstream": "search",
                "match": [{"uri": {"prefix": "/search"}}],
                "fallback": {"upstream": "spare", "clusterHeader": "x-gray-cluster"},
            },
        ],
    }


class ShopConfig(Config):
    """A configuration whose histograms are as fresh as its counters. By default, Envoy merges them every 5 seconds."""

    def document(self) -> Tree:
        return {**super().document(), "stats_flush_interval": "0.1s"}


class Shop:
    """The upstreams, and one Envoy for each name. All of them begin with `first`. `module` is that of all of them."""

    def __init__(self, *names: str, first: Policy | None = None, module: str = MODULE) -> None:
        self.names = names
        self._policy = first or policy()
        self._module = module
        self.upstreams: dict[str, Upstream] = {}
        self.carts: dict[str, Upstream] = {}
        self.proxies: dict[str, Envoy] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.upstreams = {name: stack.enter_context(Upstream(name)) for name in SHARED}
            for name in self.names:
                self.carts[name] = stack.enter_context(Upstream("cart"))
                self.proxies[name] = stack.enter_context(Envoy(self.config(name), concurrency=1))
            for name, envoy in self.proxies.items():
                until(lambda: envoy.counter("graygate_policy_document"), 30, f"the policy of {name}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def config(self, name: str) -> ShopConfig:
        ports = {each: upstream.port for each, upstream in self.upstreams.items()}
        ports["cart"] = self.carts[name].port
        return ShopConfig(self._policy, ports, delivery="ecds", routes=ROUTES, module=self._module, node_id=name)

    @property
    def targets(self) -> dict[str, int]:
        """The admin port of each proxy, as Prometheus takes it."""
        return {name: envoy.admin_port for name, envoy in self.proxies.items()}

    def publish(self, changed: Policy, *names: str) -> None:
        """Gives the policy to these proxies, or to all, and waits until all workers use it."""
        for name in names or self.names:
            envoy = self.proxies[name]
            assert isinstance(envoy.config, Config)
            is_same = envoy.config.policy == changed
            document = envoy.counter("graygate_policy_document")
            refused = envoy.publish(changed)
            if refused:
                raise AssertionError(f"{name}: policy refused: {refused}")
            if not is_same:
                until(lambda: envoy.counter("graygate_policy_document") != document, 30, f"the new policy of {name}")

    def sick(self, *upstreams: Upstream) -> None:
        """Lets the checks of these upstreams fail, while they serve requests."""
        for upstream in upstreams:
            upstream.answer(500, path="/healthz")

    def well(self) -> None:
        """Mends all upstreams."""
        for upstream in (*self.upstreams.values(), *self.carts.values()):
            upstream.answer()

    def until_ready(self, upstream: str, *, ready: bool, names: tuple[str, ...] = ()) -> None:
        """Waits until these proxies, or all, show an upstream as ready or not."""
        for name in names or self.names:
            envoy = self.proxies[name]
            until(
                lambda: envoy.counter("graygate_upstream_ready", upstream=upstream) == ready,
                20,
                f"{upstream} {'ready' if ready else 'not ready'} on {name}",
            )

    def order(self, name: str, method: str) -> None:
        """Orders a proxy to drain by POST, or to end the drain by DELETE. Waits until all workers know."""
        port = self.proxies[name].port()
        get(port, "/drainz", method=method)
        until_all(lambda: get(port, "/readyz").status == (503 if method == "POST" else 200), 30, f"{method} of a drain")


def requests(users: int = len(USERS), cart: int = 10, search: int = 3, probes: int = 1) -> list[Request]:
    """Returns a round of requests: of these users for the release, and for the upstreams with gates."""
    return [
        *(Request("/", {"x-user-id": user}) for user in USERS[:users]),
        *[Request("/cart")] * cart,
        *[Request("/search")] * search,
        *[Request("/readyz")] * probes,
    ]


def metrics(text: str) -> Mapping[str, float]:
    """Returns the series of a scrape with their values, in the order of the text."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}
