"""The tables: the contestants that are compared, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness.config import MODULE, Tree, route

from .contestants import (
    ALIVE,
    ALIVE_HEADERS,
    APP,
    GATE_HEADERS,
    REFUSAL,
    REFUSAL_HEADERS,
    REQUESTS,
    USER,
    Answer,
    Contestant,
    Limit,
    Question,
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
    put_beside,
    split,
    splits,
)


@dataclass(frozen=True)
class Table:
    title: str
    contestants: Mapping[str, Contestant]
    note: str = ""
    load: Literal["wrk", "cold", "bodies"] = "wrk"
    # Enough that the worker never waits for the load. Waiting would cost it a wake-up per request.
    connections: int = 8
    # Whether Envoy has a core of its own.
    pinned: bool = True
    # How much longer than that of other tables the load of a round is, and in how many bursts it comes. Each burst is a
    # round of its own. Loads other than wrk can have very short bursts, some of which nothing disturbs.
    longer: float = 1.0
    parts: int = 1
    # Of each connection. The proxy's own default if None.
    buffer_bytes: int | None = None

    def with_beside(self, module: Path) -> Table:
        """Returns the table with another build of graygate, measured in turn with this one."""
        return replace(self, contestants=put_beside(self.contestants, module))


def in_both(
    each: Callable[..., Contestant], text: str, policy: Tree, *limits: Limit, prefix: str = "", **more: Any
) -> dict[str, Contestant]:
    """Returns two contestants: one policy in each module. The limits are for the module that users get for it."""
    lean, whole = f"{prefix}requests", f"{prefix}whole"
    return {
        lean: each(f"graygate-requests.wasm, {text}", [graygate(policy, lean, REQUESTS)], limits=limits, **more),
        whole: each(f"graygate.wasm, {text}", [graygate(policy, whole, MODULE)], **more),
    }


BY_HAND_HEADERS = "by hand: on_request_headers, takes all headers"
BY_HAND_PATH = "by hand: on_request_headers, reads :path"
BY_HAND_STEER = "by hand: the same, looks for a header"
BY_HAND_SPLIT = "by hand: takes all headers, sets one"
BY_HAND_PROBE = "by hand: reads :path, replies"
BY_HAND_GATE = "by hand: reads the route's cluster, replies, counts"
BY_HAND_RESPONSES = "by hand: graygate.wasm's callbacks, reads :status"
BY_HAND_EVIDENCE = "by hand: the same callbacks, reads :status, cluster, details"


def passed() -> Table:
    each = partial(Contestant, routes=[direct(APP)])
    limits = Limit("noop", 0.8), Limit("floor-headers", 1.1), Limit("floor-steer")
    return Table(
        "let pass",
        {
            "none": each("no filter", baseline=None),
            "noop": each("SDK's filter that does nothing", [noop()]),
            "floor-headers": each(BY_HAND_HEADERS, [floor("headers")]),
            "floor-path": each(BY_HAND_PATH, [floor("path")]),
            "floor-steer": each(BY_HAND_STEER, [floor("steer")]),
            **in_both(each, "a full policy", full(), *limits, one_is_enough=True, check=probes),
            "lua-empty": each("Lua, empty", [lua("empty")]),
            "lua-path": each("Lua, reads :path", [lua("path")]),
            "health-check": each("health_check", [health_check()]),
        },
        "The policy has two probes, a check, a release for other requests, a gate for these whose upstream is ready.",
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
            "floor-split": each(BY_HAND_SPLIT, [floor("split")], answer=ours, limits=[Limit("lua")]),
            **in_both(
                each, "one release", split(), Limit("lua", 1.0), Limit("floor-split"), answer=ours, check=splits()
            ),
        },
        "By a user header, one in ten on v2, steered by a header, for the requests under one path.",
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
            "lua-headers": each("Lua, with graygate's headers", [lua("probe_headers")], answer=whole),
            "floor-probe": each(BY_HAND_PROBE, [floor("probe")], answer=whole, limits=[Limit("lua-headers")]),
            **in_both(each, "/livez", full(), Limit("lua-headers", 1.0), Limit("floor-probe"), answer=whole),
            "health-check": each("health_check, no body", [health_check()], answer=Answer(body="")),
        },
    )


def gates() -> Table:
    short, whole = (Answer(503, REFUSAL, headers) for headers in (REFUSAL_HEADERS, GATE_HEADERS))
    each = partial(Contestant, routes=[direct(REFUSAL, 503)], answer=whole)
    # graygate reads the route, which must lead to the upstream of its gate.
    to_app = [route("app", "5s")]
    return Table(
        "request gated",
        {
            "none": each("no filter, a direct response", baseline=None, answer=Answer(503, REFUSAL)),
            "lua": each("Lua, respond() to all", [lua("gate")], answer=short),
            "lua-headers": each("Lua, to all, graygate's headers", [lua("gate_headers")]),
            "floor-gate": each(BY_HAND_GATE, [floor("gate")], limits=[Limit("lua-headers")], routes=to_app),
            **in_both(
                each,
                "a gate without a match",
                gated(),
                Limit("lua-headers", 1.0),
                Limit("floor-gate"),
                routes=to_app,
            ),
            "lua-path": each("Lua, by path, graygate's headers", [lua("gate_path")]),
            **in_both(each, "a full policy, by path", full(force="notReady"), Limit("lua-path", 1.0), prefix="path-"),
        },
    )


# For each breaker its title and its settings.
BREAKERS: Mapping[str, tuple[str, Tree]] = {
    "consecutive": ("consecutiveFailures", {"consecutiveFailures": 5}),
    "share": ("and failurePercent", {"consecutiveFailures": 5, "failurePercent": 50, "window": "10s"}),
    "slow": ("and slowerThan", {"consecutiveFailures": 5, "slowPercent": 80, "slowerThan": "2s", "window": "10s"}),
    "unanswered": ("and unansweredAfter", {"unansweredAfter": "5s"}),
}


def judged(*limits: Limit) -> dict[str, Contestant]:
    """Returns the contestants whose responses come from a real upstream, and are judged by a breaker of each kind."""
    each = partial(Contestant, routes=[route("app", "5s")])
    contestants = {
        "none": each("no filter", baseline=None),
        "floor-responses": each(BY_HAND_RESPONSES, [floor("responses")]),
        "floor-evidence": each(BY_HAND_EVIDENCE, [floor("evidence")]),
        "gate": each("graygate.wasm, a gate alone", [graygate(observed(), "gate", MODULE)]),
    }
    for name, (title, keys) in BREAKERS.items():
        filters = [graygate(observed(keys), name, MODULE)]
        contestants[name] = each(f"graygate.wasm, breaker, {title}", filters, limits=limits)
    return contestants


def breaker() -> Table:
    limits = Limit("gate", 1.0, "more"), Limit("floor-responses", 1.1)
    return Table("response judged", judged(*limits), "The upstream is real. Its CPU time is not in the figures.")


def cold() -> Table:
    return Table(
        "response judged, with cold caches",
        judged(Limit("gate", 2.0, "more")),
        "The caches are swept before each eight requests.",
        load="cold",
        longer=2.0,
        parts=8,
    )


def bodies() -> Table:
    answer = Answer(body="", headers={"content-length": "0"})
    each = partial(Contestant, routes=[route("app", "30s")], answer=answer)
    return Table(
        "10 MiB up and 10 MiB down",
        {
            "none": each("no filter", baseline=None),
            **in_both(each, "a full policy", full(), Limit("none", 1.02, "in all"), check=probes),
            "noop": each("SDK's filter that does nothing", [noop()], limits=[Limit("none", None, "in all")]),
        },
        "In parts of at most 32 KiB, the size of buffers that Istio sets.",
        load="bodies",
        connections=2,
        longer=2.0,
        parts=8,
        buffer_bytes=32 << 10,
    )


def workers() -> Table:
    each = partial(Contestant, routes=[direct(APP)])
    contestants = {}
    for count, name in ((1, "one"), (2, "two")):
        against = count == 2
        contestants[f"none-{name}"] = each(
            f"no filter, {name}",
            baseline=None,
            workers=count,
            limits=[Limit("none-one", None, "in all")] if against else (),
        )
        contestants[f"graygate-{name}"] = each(
            f"graygate-requests.wasm, a full policy, {name}",
            [graygate(full(), f"workers-{name}")],
            baseline=f"none-{name}",
            workers=count,
            check=probes,
            limits=[Limit("graygate-one", 1.05, "in all")] if against else (),
        )
    return Table(
        "two workers against one",
        contestants,
        "Compared in all. One Envoy has one worker, the other has two. Both share the cores with the load.",
        connections=16,
        pinned=False,
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
        limits=[Limit(f"releases-{most}")],
    )
    return Table(
        "growth",
        contestants,
        "graygate-requests.wasm, for a request that none of them is for. All releases steer by the same header.",
    )


TABLES: Mapping[str, Callable[[], Table]] = {
    "passed": passed,
    "split": sticky,
    "probe": probe,
    "gate": gates,
    "breaker": breaker,
    "cold": cold,
    "bodies": bodies,
    "workers": workers,
    "growth": growth,
}
