"""The tables: the contestants that are compared, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from harness.config import Tree, route

from .contestants import (
    ALIVE,
    ALIVE_HEADERS,
    APP,
    REFUSAL,
    USER,
    Answer,
    Contestant,
    Limit,
    Question,
    beside,
    by_fnv1a,
    direct,
    floor,
    full,
    gated,
    graygate,
    health_check,
    lua,
    many_gates,
    many_releases,
    noop,
    observed,
    probes,
    split,
    splits,
)


@dataclass(frozen=True)
class Table:
    title: str
    contestants: Mapping[str, Contestant]
    note: str = ""
    # Enough that the worker never waits for the load. Waiting would cost it a wake-up per request.
    connections: int = 8

    def with_beside(self, module: str) -> Table:
        """The same, with another build of graygate measured in turn with this one."""
        contestants: dict[str, Contestant] = {}
        for name, contestant in self.contestants.items():
            contestants[name] = contestant
            if any(tree["name"] == "graygate" for tree in contestant.filters):
                contestants[f"{name}-beside"] = beside(contestant, name, module)
        return replace(self, contestants=contestants)


def passed() -> Table:
    each = partial(Contestant, routes=[direct(APP)])
    return Table(
        "passed through",
        {
            "none": each("no filter", baseline=None),
            "noop": each("filter that does nothing, stock SDK", [noop()]),
            "graygate": each(
                "graygate, a full policy", [graygate(full(), "passed")], limit=Limit("noop", 1.0), check=probes
            ),
            "floor": each("by hand: the same callbacks, reads the headers", [floor()]),
            "lua-empty": each("Lua, empty", [lua("empty")]),
            "lua-path": each("Lua, reads :path", [lua("path")]),
            "health-check": each("health_check", [health_check()]),
        },
        "the policy: two probes, a check, a release for other requests, a gate for these whose upstream is ready",
    )


def sticky() -> Table:
    routes = [direct("v1\n", version="v1"), direct("v2\n", version="v2"), direct(APP)]
    each = partial(Contestant, routes=routes, question=Question(headers={"x-user": USER}))
    theirs, ours = Answer(body=f"{by_fnv1a(USER)}\n"), Answer(body="v1\n")
    return Table(
        "sticky split",
        {
            "none": each("no filter", baseline=None),
            "lua": each("Lua, the same by FNV-1a", [lua("split")], answer=theirs, check=splits(by_fnv1a)),
            "graygate": each(
                "graygate, one release",
                [graygate(split(), "split")],
                answer=ours,
                limit=Limit("lua", 1.0),
                check=splits(),
            ),
        },
        "by a user header, one in ten on v2, steered by a header, for the requests under one path",
    )


def probe() -> Table:
    question = Question("/livez", {"accept": "*/*"})
    each = partial(Contestant, routes=[direct(ALIVE)], question=question, answer=Answer(body=ALIVE))
    whole = Answer(body=ALIVE, headers=ALIVE_HEADERS)
    return Table(
        "probe answered",
        {
            "none": each("no filter, a direct response", baseline=None),
            "lua": each("Lua, respond()", [lua("probe")]),
            "graygate": each("graygate, /livez", [graygate(full(), "probe")], answer=whole, limit=Limit("lua", 1.3)),
            "lua-headers": each("Lua, with graygate's headers", [lua("probe_headers")], answer=whole),
            "health-check": each("health_check, no body", [health_check()], answer=Answer(body="")),
        },
    )


def gates() -> Table:
    retry = {"retry-after": "5"}
    each = partial(Contestant, routes=[direct(REFUSAL, 503)], answer=Answer(503, REFUSAL, retry))
    return Table(
        "request gated",
        {
            "none": each("no filter, a direct response", baseline=None, answer=Answer(503, REFUSAL)),
            "lua": each("Lua, respond() to all", [lua("gate")]),
            "graygate": each(
                "graygate, a gate without a match",
                [graygate(gated(), "gate")],
                limit=Limit("lua", 1.3),
                # It reads the route, which must lead to its upstream.
                routes=[route("app", "5s")],
            ),
            "lua-path": each("Lua, respond() by path", [lua("gate_path")]),
            "graygate-full": each(
                "graygate, a full policy, by path",
                [graygate(full(force="notReady"), "gate-full")],
                limit=Limit("lua-path", 1.3),
            ),
        },
    )


# For each breaker its title, its settings, and the most microseconds that it may add.
BREAKERS: Mapping[str, tuple[str, Tree, float | None]] = {
    "consecutive": ("consecutiveFailures", {"consecutiveFailures": 5}, 1.5),
    "share": ("and failurePercent", {"consecutiveFailures": 5, "failurePercent": 50, "window": "10s"}, None),
    "slow": (
        "and slowerThan",
        {"consecutiveFailures": 5, "slowPercent": 80, "slowerThan": "2s", "window": "10s"},
        None,
    ),
    "unanswered": ("and unansweredAfter", {"unansweredAfter": "5s"}, None),
}


def breaker() -> Table:
    each = partial(Contestant, routes=[route("app", "5s")])
    contestants = {
        "none": each("no filter", baseline=None),
        "gate": each("graygate, a gate alone", [graygate(observed(), "gate")]),
    }
    for name, (title, keys, at_most) in BREAKERS.items():
        limit = Limit("gate", at_most, "more")
        contestants[name] = each(f"breaker, {title}", [graygate(observed(keys), name)], limit=limit)
    return Table("response observed by the breaker", contestants, "a real upstream, whose CPU time is not in it")


def workers() -> Table:
    each = partial(Contestant, routes=[direct(APP)])
    contestants = {}
    for count, name in ((1, "one"), (2, "two")):
        against = count == 2
        contestants[f"none-{name}"] = each(
            f"no filter, {name}",
            baseline=None,
            workers=count,
            limit=Limit("none-one", None, "in all") if against else None,
        )
        contestants[f"graygate-{name}"] = each(
            f"graygate, a full policy, {name}",
            [graygate(full(), f"workers-{name}")],
            baseline=f"none-{name}",
            workers=count,
            check=probes,
            limit=Limit("graygate-one", 1.05, "in all") if against else None,
        )
    return Table(
        "two workers against one",
        contestants,
        "compared in all; one Envoy with one worker, one with two, and the load, which shares the cores with them",
        connections=16,
    )


COUNTS = (1, 10, 100, 500)
GROWING: Mapping[str, tuple[str, Callable[[int], Tree]]] = {
    "releases": ("releases by host and path", partial(many_releases, paths=True)),
    "hosts": ("releases by host", partial(many_releases, paths=False)),
    "gates": ("gates by host and path", many_gates),
}


def growth() -> Table:
    each = partial(Contestant, routes=[direct(APP)])
    contestants = {"none": each("no filter", baseline=None)}
    for kind, (title, policy) in GROWING.items():
        for count in COUNTS:
            name = f"{kind}-{count}"
            contestants[name] = each(f"{title}: {count}", [graygate(policy(count), name)])
    # Only the host rules this request out, and not the path.
    most = COUNTS[-1]
    contestants["near"] = each(
        f"releases by host and path: {most}, one's path",
        [graygate(many_releases(most, paths=True), "near")],
        question=Question(f"/app-{most - 1}/4711"),
        limit=Limit(f"releases-{most}"),
    )
    return Table("growth", contestants, "for a request that none of them is for; all steer by the same header")


TABLES: Mapping[str, Callable[[], Table]] = {
    "passed": passed,
    "split": sticky,
    "probe": probe,
    "gate": gates,
    "breaker": breaker,
    "workers": workers,
    "growth": growth,
}
