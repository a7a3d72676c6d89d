"""The contestants. Each is a listener with a request to send and the response to expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.client import get
from harness.config import HTTP_FILTERS, MODULE, Tree, listener, plugin
from harness.load import Request, drive
from harness.wait import until

# Of a stream, the proxy calls only the first of its callbacks: for policies that look at requests alone.
REQUESTS = "dist/graygate-requests.wasm"
# Not processed after linking, like most filters.
NOOP = "target/noop.wasm"
# Modules written by hand, which show the least cost. Each asks the proxy for the same as graygate does for a kind of
# request, and decides nothing. `headers` takes all headers, `path` reads the path, `steer` also looks for a
# header, `split` sets one, `probe` replies, and `gate` also counts. `responses` and `evidence` have the callbacks of
# graygate.wasm. The latter asks what a response counts for.
FLOORS = {
    name: f"target/floor_{name}.wasm"
    for name in ("headers", "path", "steer", "split", "probe", "gate", "responses", "evidence")
}
APP = "app\n"
# The response of graygate, so that others can give the same. The name of the policy occurs in it.
POLICY = "bench"
ALIVE = f"policy {POLICY}: liveness passed\n"
ALIVE_HEADERS = {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "vary": "accept",
    "x-content-type-options": "nosniff",
}
REFUSAL = "not now, please\n"
REFUSAL_HEADERS = {"retry-after": "5"}
GATE_HEADERS = {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "x-envoy-ratelimited": "true",
    **REFUSAL_HEADERS,
}
# A short user key, as Lua hashes it byte by byte.
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
    """The contestant that another is compared to, and the limit.

    The kind `times` is the ratio of what both cost over no filter. `more` is the difference of these, in microseconds.
    `in all` is the ratio of the total costs of a request. Without `at_most`, the comparison is for information only.
    """

    against: str
    at_most: float | None = None
    kind: Literal["times", "more", "in all"] = "times"


@dataclass(frozen=True)
class Contestant:
    """`baseline` names the contestant without a filter, or is None if this is the one. `check` verifies more than the
    response, given the contestant's port. It must keep all `limits`, or one of them if `one_is_enough`.
    """

    title: str
    filters: Sequence[Tree] = ()
    routes: Sequence[Tree] = ()
    question: Question = Question()
    answer: Answer = Answer()
    baseline: str | None = "none"
    limits: Sequence[Limit] = ()
    one_is_enough: bool = False
    workers: int = 1
    check: Callable[[int], None] | None = None

    def listener(self, name: str) -> Tree:
        """Returns the listener. It distributes its connections evenly among the workers."""
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


def floor(name: str) -> Tree:
    return {"name": "floor", "typed_config": plugin("", vm_id=f"floor-{name}", module=FLOORS[name])}


def graygate(policy: Mapping[str, Any], vm: str, module: str = REQUESTS) -> Tree:
    """Returns graygate in VMs of its own, so that no policy's VM has requests of another in its tables."""
    return {"name": "graygate", "typed_config": plugin(policy, vm_id=vm, module=module)}


def build_and_policy(contestant: Contestant) -> tuple[str, str] | None:
    """Returns the path of the contestant's build of graygate and the text of its policy. None if it has no graygate."""
    for tree in contestant.filters:
        if tree["name"] == "graygate":
            config = tree["typed_config"]["config"]
            return config["vm_config"]["code"]["local"]["filename"], config["configuration"]["value"]
    return None


def beside(contestant: Contestant, against: str, module: Path) -> Contestant:
    """Returns the contestant with another build of graygate, compared with the contestant of the name `against`."""

    def other(tree: Tree) -> Tree:
        tree = deepcopy(tree)
        vm = tree["typed_config"]["config"]["vm_config"]
        vm["vm_id"] += f"-{module.stem}"
        vm["code"]["local"]["filename"] = str(module)
        return tree

    filters = [other(tree) if tree["name"] == "graygate" else tree for tree in contestant.filters]
    title = f"{contestant.title}, {module.name} beside"
    return replace(contestant, title=title, filters=filters, limits=[Limit(against)])


def put_beside(contestants: Mapping[str, Contestant], module: Path) -> dict[str, Contestant]:
    """Returns the contestants, and another build of graygate beside each policy.

    A build is put beside the module that it is a build of, by its name. graygate.wasm serves every policy, so it is
    also put beside a policy that only the other module has.
    """
    build = REQUESTS if module.name.startswith(Path(REQUESTS).stem) else MODULE
    known = {name: found for name, each in contestants.items() if (found := build_and_policy(each))}
    served = {policy for its, policy in known.values() if its == build}
    result: dict[str, Contestant] = {}
    for name, contestant in contestants.items():
        result[name] = contestant
        its, policy = known.get(name, (None, ""))
        if its == build or (its and build == MODULE and policy not in served):
            result[f"{name}-{module.stem}"] = beside(contestant, name, module)
    return result


# -- routes -----------------------------------------------------------------------


def direct(body: str, status: int = 200, version: str | None = None) -> Tree:
    """Returns a route with a direct response. Envoy itself responds, which adds the least to what is measured."""
    match: Tree = {"prefix": "/"}
    if version:
        match["headers"] = [{"name": "x-gray-version", "string_match": {"exact": version}}]
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": body}}}


# -- policies ---------------------------------------------------------------------

# Checks so seldom that none falls into a burst.
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
    """Returns a policy with something in each section. Measured requests match its gate, but not its release."""
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
    """Returns a policy with a gate on an upstream that has a check, and a breaker if given."""
    app: Tree = {"cluster": "app", "readinessProbe": CHECK}
    if breaker is not None:
        app["circuitBreaker"] = breaker
    return {"name": POLICY, "upstreams": {"app": app}, "gates": [gate()]}


def many_releases(count: int, *, paths: bool) -> Tree:
    """Returns a policy with releases for one host each, and with `paths` for one path of it."""

    def match(number: int) -> Tree:
        uri = {"uri": {"prefix": f"/app-{number}"}} if paths else {}
        return {"authority": {"exact": f"app-{number}.example"}, **uri}

    releases = [release([match(number)], f"app-{number}") for number in range(count)]
    return {"name": POLICY, "upstreams": versions(), "releases": releases}


def many_gates(count: int) -> Tree:
    """Returns a policy with gates for one host and path each, on an upstream of their own."""
    names = [f"app-{number}" for number in range(count)]
    match = {name: {"authority": {"exact": f"{name}.example"}, "uri": {"prefix": f"/{name}"}} for name in names}
    upstreams = {name: {"cluster": "app", "readinessProbe": CHECK} for name in names}
    return {"name": POLICY, "upstreams": upstreams, "gates": [gate(name, match=[match[name]]) for name in names]}


# -- further checks of contestants ------------------------------------------------


def says(path: str, name: str, port: int) -> None:
    text = f"policy {POLICY}: {name} passed\n"
    until(lambda: get(port, path).text == text, 30, f"{path}: {text!r}")


def probes(port: int) -> None:
    """Verifies that the full policy is in effect, which a request that passes through does not show."""
    says("/livez", "liveness", port)
    # Passes only after the first check.
    says("/readyz", "readiness", port)


def fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % (1 << 32)
    return value


def by_fnv1a(user: str) -> str:
    return "v2" if fnv1a(user) % 10_000 < 1_000 else "v1"


def splits(expected: Version | None = None) -> Callable[[int], None]:
    """Returns a check that users keep their version and a tenth have v2. Compares each with `expected` if given."""
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
