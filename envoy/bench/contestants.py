"""Who takes part: a listener each, what it is asked, and what it must answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.client import get
from harness.config import HTTP_FILTERS, Tree, listener, plugin
from harness.load import Request, drive
from harness.wait import until

# As it is linked, so as most filters are built.
NOOP = "target/noop.wasm"
FLOOR = "target/floor.wasm"
APP = "app\n"
# graygate's own words, so that others can answer the same. The name stands in its policies as well.
POLICY = "bench"
ALIVE = f"policy {POLICY}: liveness passed\n"
ALIVE_HEADERS = {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "vary": "accept",
    "x-content-type-options": "nosniff",
}
REFUSAL = "not now, please\n"
# A user's, as short as they come: Lua hashes byte by byte.
USER = "user-4711"

Version = Callable[[str], str]


@dataclass(frozen=True)
class Question:
    path: str = "/items/4711"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_headers(self) -> dict[str, str]:
        return {"host": "shop", **self.headers}


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: str = APP
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """What a contestant is compared to.

    `times`: the ratio of what both cost over no filter; `more`: the difference of these, in
    microseconds; `in all`: the ratio of all that a request costs. None: for orientation alone.
    """

    against: str
    at_most: float | None = None
    kind: Literal["times", "more", "in all"] = "times"


@dataclass(frozen=True)
class Contestant:
    """`baseline` names the one without a filter; None: it is that. `check` asks its port for more than the answer."""

    title: str
    filters: Sequence[Tree] = ()
    routes: Sequence[Tree] = ()
    question: Question = Question()
    answer: Answer = Answer()
    baseline: str | None = "none"
    limit: Limit | None = None
    workers: int = 1
    check: Callable[[int], None] | None = None

    def listener(self, name: str) -> Tree:
        """Its connections are shared out evenly among the workers."""
        tree = listener(name, self.filters, self.routes, {"access_log": []})
        return {**tree, "stat_prefix": name, "connection_balance_config": {"exact_balance": {}}}

    def verify(self, port: int) -> None:
        got = get(port, self.question.path, self.question.all_headers)
        seen = Answer(got.status, got.text, {name: got.headers[name] for name in self.answer.headers})
        if seen != self.answer:
            raise SystemExit(f"{self.title}: answers {seen}, and not {self.answer}")
        if self.check:
            self.check(port)


# -- filters ----------------------------------------------------------------------


def lua(name: str) -> Tree:
    source = Path(__file__).with_name(f"{name}.lua").read_text()
    config = {"@type": f"{HTTP_FILTERS}.lua.v3.Lua", "default_source_code": {"inline_string": source}}
    return {"name": "lua", "typed_config": config}


def health_check(path: str = "/livez") -> Tree:
    asked = {"name": ":path", "string_match": {"exact": path}}
    kind = f"{HTTP_FILTERS}.health_check.v3.HealthCheck"
    return {"name": "health", "typed_config": {"@type": kind, "pass_through_mode": False, "headers": [asked]}}


def noop() -> Tree:
    return {"name": "noop", "typed_config": plugin("", vm_id="noop", module=NOOP)}


def floor() -> Tree:
    return {"name": "floor", "typed_config": plugin("", vm_id="floor", module=FLOOR)}


def beside(contestant: Contestant, against: str, module: str) -> Contestant:
    """The same by another build of graygate, compared with the contestant of this name."""

    def other(tree: Tree) -> Tree:
        tree = deepcopy(tree)
        vm = tree["typed_config"]["config"]["vm_config"]
        vm["vm_id"] += "-beside"
        vm["code"]["local"]["filename"] = module
        return tree

    filters = [other(tree) if tree["name"] == "graygate" else tree for tree in contestant.filters]
    title = f"{contestant.title}, {Path(module).name} beside"
    return replace(contestant, title=title, filters=filters, limit=Limit(against))


def graygate(policy: Mapping[str, Any], vm: str) -> Tree:
    """In VMs of its own, so that none has another's requests in its tables."""
    return {"name": "graygate", "typed_config": plugin(policy, vm_id=vm)}


# -- routes -----------------------------------------------------------------------


def direct(body: str, status: int = 200, version: str | None = None) -> Tree:
    """Answered by Envoy itself, which leaves least around what is measured."""
    match: Tree = {"prefix": "/"}
    if version:
        match["headers"] = [{"name": "x-gray-version", "string_match": {"exact": version}}]
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": body}}}


# -- policies ---------------------------------------------------------------------

# Seldom enough to stay out of the bursts.
CHECK = {"httpGet": {"path": "/healthz"}, "periodSeconds": 3600}


def release(match: Sequence[Tree], name: str = "shop") -> Tree:
    versions = [
        {"name": "v1", "upstream": "v1", "weight": 90, "default": True},
        {"name": "v2", "upstream": "v2", "weight": 10},
    ]
    hash_on = [{"httpHeaderName": "x-user"}]
    steer = {"header": "x-gray-version"}
    return {"name": name, "match": list(match), "steer": steer, "hashOn": hash_on, "versions": versions}


def versions() -> Tree:
    return {name: {"cluster": "app"} for name in ("v1", "v2")}


def full(**app: Any) -> Tree:
    """Of each part something. The release is for other requests; the gate is for those that are asked here."""
    return {
        "name": POLICY,
        "upstreams": {"app": {"cluster": "app", "readinessProbe": CHECK, **app}, **versions()},
        "probes": {
            "liveness": {"path": "/livez"},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]},
        },
        "releases": [release([{"uri": {"prefix": "/reviews"}}])],
        "gates": [gate(match=[{"uri": {"prefix": "/items"}}])],
    }


def gate(upstream: str = "app", **more: Any) -> Tree:
    return {"upstream": upstream, "reply": {"status": 503, "retryAfterSeconds": 5, "body": REFUSAL}, **more}


def gated() -> Tree:
    return {"name": POLICY, "upstreams": {"app": {"cluster": "app", "force": "notReady"}}, "gates": [gate()]}


def split() -> Tree:
    return {"name": POLICY, "upstreams": versions(), "releases": [release([{"uri": {"prefix": "/items"}}])]}


def observed(breaker: Tree | None = None) -> Tree:
    """A gate on an upstream that is checked, and judged by its responses if there is a breaker."""
    app: Tree = {"cluster": "app", "readinessProbe": CHECK}
    if breaker is not None:
        app["circuitBreaker"] = breaker
    return {"name": POLICY, "upstreams": {"app": app}, "gates": [gate()]}


def many_releases(count: int, *, paths: bool) -> Tree:
    """Each for a host of its own, and with `paths` for a part of it."""

    def match(number: int) -> Tree:
        uri = {"uri": {"prefix": f"/app-{number}"}} if paths else {}
        return {"authority": {"exact": f"app-{number}.example"}, **uri}

    releases = [release([match(number)], f"app-{number}") for number in range(count)]
    return {"name": POLICY, "upstreams": versions(), "releases": releases}


def many_gates(count: int) -> Tree:
    """Each for a part of a host of its own, and on an upstream of its own."""
    names = [f"app-{number}" for number in range(count)]
    match = {name: {"authority": {"exact": f"{name}.example"}, "uri": {"prefix": f"/{name}"}} for name in names}
    upstreams = {name: {"cluster": "app", "readinessProbe": CHECK} for name in names}
    return {"name": POLICY, "upstreams": upstreams, "gates": [gate(name, match=[match[name]]) for name in names]}


# -- what more they must do -------------------------------------------------------


def says(path: str, name: str, port: int) -> None:
    text = f"policy {POLICY}: {name} passed\n"
    until(lambda: get(port, path).text == text, 5, f"{path}: {text!r}")


def probes(port: int) -> None:
    """All of the full policy is at work, though a request that passes does not show it."""
    says("/livez", "liveness", port)
    # Its check has been answered.
    says("/readyz", "readiness", port)


def fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % (1 << 32)
    return value


def by_fnv1a(user: str) -> str:
    return "v2" if fnv1a(user) % 10_000 < 1_000 else "v1"


def splits(expected: Version | None = None) -> Callable[[int], None]:
    """Users keep their version, a tenth have v2, and if it is known who has which, so it is."""
    users = [f"user-{number}" for number in range(2_000)]
    asked = [Request(Question().path, {"x-user": user}) for user in users]

    def check(port: int) -> None:
        first, again = ([answer.body.decode().strip() for answer in drive(port, asked)] for _ in range(2))
        share = first.count("v2") / len(users)
        if first != again or set(first) != {"v1", "v2"} or not 0.07 < share < 0.13:
            raise SystemExit(f"port {port}: no sticky split of 90 to 10: {share:.1%} on v2, {first == again=}")
        if expected and first != [expected(user) for user in users]:
            raise SystemExit(f"port {port}: a split by another hash than FNV-1a")

    return check
