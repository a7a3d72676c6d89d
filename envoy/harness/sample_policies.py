"""Random policies for the requests of `samples`. Their conditions draw from the same pools of values."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from .config import Tree
from .samples import HEADERS, HOSTS, ISTIO_CLUSTERS, METHODS, PATHS, PLAIN_CLUSTERS, VALUES

MEMBERS = ("v1", "v2", "alice", "b", "%zz")
NETWORKS = ("127.0.0.0/24", "127.0.0.2", "10.0.0.0/8", "::1/128", "127.0.0.0/8")
LONG_AGO, FAR_AHEAD = "2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z"


def condition(rng: Random, pool: tuple[str, ...], *, present: bool = False) -> Tree:
    """Returns a condition on a value of the pool."""
    value = rng.choice([value for value in pool if value] or ["x"])
    kind = rng.choice(("exact", "exact", "prefix", "regex", "present") if present else ("exact", "prefix", "regex"))
    match kind:
        case "prefix":
            return {"prefix": value[: rng.randint(1, len(value))]}
        case "regex":
            text = value.replace(".", "[.]").replace("?", "[?]").replace("(", "[(]").replace("[::", "\\[::")
            return {"regex": rng.choice((text, f"{text[:1]}.*" if text[0].isalnum() or text[0] == "/" else ".*", ".+"))}
        case "present":
            return {}
    return {"exact": value}


def conditions(rng: Random) -> Tree:
    """Returns one alternative of a match."""
    found: Tree = {}
    cookie_values = ("always", "never", "alice", '"alice"')
    parts: dict[str, Callable[[], Any]] = {
        "uri": lambda: condition(rng, PATHS),
        "method": lambda: condition(rng, METHODS),
        "scheme": lambda: condition(rng, ("http", "https")),
        "authority": lambda: condition(rng, HOSTS),
        "headers": lambda: {
            name: condition(rng, HOSTS if name == "host" else VALUES, present=True)
            for name in rng.sample((*HEADERS, "host", "X-Tester"), rng.randint(1, 2))
        },
        "withoutHeaders": lambda: {
            name: condition(rng, HOSTS if name == "host" else VALUES, present=True)
            for name in rng.sample((*HEADERS, "host"), 1)
        },
        "queryParams": lambda: {"q": condition(rng, ("1", "2", "%31", "=1"), present=True)},
        "cookies": lambda: {rng.choice(("gray", "user", "GRAY")): condition(rng, cookie_values, present=True)},
        "baggage": lambda: {rng.choice(("lane", "user-id", "a")): condition(rng, MEMBERS, present=True)},
        "sourceIpBlocks": lambda: rng.sample(NETWORKS, rng.randint(1, 2)),
        "hosts": lambda: rng.sample((*HOSTS, "*.example.com", "*.shop", "*"), rng.randint(1, 3)),
    }
    weights = (6, 2, 2, 3, 4, 2, 3, 3, 3, 2, 4)
    for name in rng.choices(list(parts), weights, k=rng.randint(1, 2)):
        found[name] = parts[name]()
    if "uri" in found and rng.random() < 0.2:
        found["ignoreUriCase"] = True
    return found


def matches(rng: Random) -> list[Tree]:
    return [conditions(rng) for _ in range(rng.randint(1, 3))]


def versions(rng: Random, upstreams: list[str]) -> list[Tree]:
    names = [f"v{n + 1}" for n in range(rng.randint(1, 3))]
    found: list[Tree] = []
    for name in names:
        version: Tree = {"name": name, "upstream": rng.choice(upstreams), "weight": rng.choice((0, 1, 10, 90))}
        if rng.random() < 0.4:
            version["match"] = matches(rng)
        if rng.random() < 0.4:
            edits = {"set": {"x-canary": name}, "add": {"x-via": name}, "remove": ["x-b"]}
            version["headers"] = {side: dict([rng.choice(list(edits.items()))]) for side in ("request", "response")}
        found.append(version)
    default = rng.choice(found)
    default |= {"default": True, "weight": max(1, default["weight"])}
    return found


def keys(rng: Random) -> list[Tree]:
    source = {"useSourceIp": True}
    found: list[Tree] = [
        {"httpHeaderName": rng.choice(("x-user-id", "X-User-Id", "host"))},
        {"httpCookie": {"name": rng.choice(("user", "gray"))}},
        {"httpQueryParameterName": rng.choice(("uid", "q"))},
        {"baggage": "user-id"},
    ]
    # Most requests have a key, as the turns of those without one are a matter of chance.
    found = [*rng.sample(found, rng.randint(0, 4)), *([source] if rng.random() < 0.8 else [])]
    issued = {"httpCookie": {"name": "gray-id", "ttl": "1h"}}
    return [*found, *([issued] if rng.random() < 0.2 else [])]


def schedule(rng: Random, names: list[str]) -> list[Tree]:
    """Returns a step that is over, and maybe one that lies ahead."""
    steps = [("2026-01-02T00:00:00Z", "4h"), (FAR_AHEAD, "0s")][: rng.randint(1, 2)]
    return [
        {"at": at, "over": over, "weights": dict(zip(names, rng.sample((1, 5, 50), len(names)), strict=True))}
        for at, over in steps
    ]


def release(rng: Random, number: int, upstreams: list[str]) -> Tree:
    steers = (
        {"header": "x-gray-version"},
        {"clusterHeader": "x-gray-cluster"},
        {"filterState": "envoy.string"},
        {"randomValueHeader": "x-gray-random"},
        {"baggage": "lane"},
    )
    found: Tree = {"name": f"r{number}", "steer": rng.choices(steers, (8, 3, 2, 1, 5))[0]}
    found |= {"versions": versions(rng, upstreams), "hashOn": keys(rng)}
    if found["hashOn"] and rng.random() < 0.3:
        found["versions"][0]["allow"] = ["alice", "always", "1"]
        if not found["versions"][-1].get("default"):
            found["versions"][-1]["deny"] = ["bob", "carol", "never", "127.0.0.2"]
    names = [version["name"] for version in found["versions"]]
    optional: dict[str, tuple[float, Callable[[], Any]]] = {
        "match": (0.5, lambda: matches(rng)),
        "skip": (0.3, lambda: matches(rng)),
        "trustIncoming": (0.3, lambda: True),
        "responseHeader": (0.2, lambda: "x-served-version"),
        "startsAt": (0.3, lambda: rng.choice((LONG_AGO, "2026-01-01T00:00:00Z", FAR_AHEAD))),
        "schedule": (0.3, lambda: schedule(rng, names)),
    }
    return found | {name: make() for name, (share, make) in optional.items() if rng.random() < share}


def gate(rng: Random, upstreams: list[str]) -> Tree:
    upstream = rng.choice(upstreams)
    found: Tree = {"upstream": upstream}
    if rng.random() < 0.6:
        found["match"] = matches(rng)
    if rng.random() < 0.6:
        reply: Tree = {"status": rng.choice((429, 503, 599)), "body": rng.choice(("{upstream}: {reason}", '{"a":1}'))}
        reply["headers"] = {"x-reason": "warming-up"}
        reply |= {"retryAfterSeconds": rng.choice((0, 7)), "grpcStatus": rng.choice((8, 14))}
        found["reply"] = {key: reply[key] for key in rng.sample(list(reply), rng.randint(1, len(reply)))}
    if rng.random() < 0.4:
        others = [other for other in upstreams if other != upstream]
        answers = ({"status": 200, "body": "[]"}, {"status": 204}, {"headers": {"x-stale": "1"}})
        found["fallback"] = rng.choice(
            (
                {"upstream": rng.choice(others), "clusterHeader": "x-fallback-cluster"},
                {"answer": rng.choice(answers)},
            )
        )
    if rng.random() < 0.3:
        found["whenAllNotReady"] = rng.choice(("forward", "reply"))
    return found


def probes(rng: Random, upstreams: list[str]) -> Tree:
    def checks() -> Tree:
        chosen = rng.sample(upstreams, rng.randint(1, 3))
        listed = [{"upstream": name, **rng.choice(({}, {}, {"weight": 30}, {"required": False}))} for name in chosen]
        score = {"minimumScore": 30} if any("weight" in check for check in listed) else {}
        return {"checks": listed, **score}

    found: Tree = {"liveness": {"path": "/livez"}}
    if rng.random() < 0.7:
        found["readiness"] = {"path": "/readyz", **checks()}
    if rng.random() < 0.3:
        found["groups"] = {"deep": {"path": "/deepz", **checks(), "statuses": {"degraded": 207, "failed": 500}}}
    if rng.random() < 0.3:
        found["drain"] = {"path": "/drainz", "from": [rng.choice(NETWORKS)]}
    if rng.random() < 0.3:
        found["match"] = matches(rng)
    if rng.random() < 0.5:
        found["details"] = rng.choice(("never", "onFailure", "always"))
    if rng.random() < 0.2:
        found["markerHeaders"] = True
    return found


def policy(rng: Random, name: str) -> Tree:
    """Returns a policy, which may have problems. No upstream is checked or judged, so the state of each is known."""
    upstreams = [f"u{number}" for number in range(4)]
    found: Tree = {"name": name, "mode": rng.choices(("enforce", "shadow", "off"), (10, 2, 1))[0]}
    # A check that is an hour ahead leaves an upstream as it is assumed.
    assumed = {"assume": "notReady", "readinessProbe": {"httpGet": {}, "initialDelaySeconds": 3600}}
    states: list[Tree] = [{}, {"force": "ready"}, {"force": "notReady"}, assumed]
    clusters = zip(upstreams, rng.choices((PLAIN_CLUSTERS, ISTIO_CLUSTERS), (2, 1))[0], strict=True)
    found["upstreams"] = {
        name: {"cluster": cluster, **rng.choices(states, (4, 2, 3, 3))[0]} for name, cluster in clusters
    }
    if rng.random() < 0.6:
        found["probes"] = probes(rng, upstreams)
    if rng.random() < 0.85:
        found["releases"] = [release(rng, number, upstreams) for number in range(rng.randint(1, 3))]
    if rng.random() < 0.6:
        found["gates"] = [gate(rng, upstreams) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            found["maxGatedPercent"] = rng.choice((25, 50, 75))
    return found
