"""Ordinary events do not make an upstream not ready, and real outages do. `make faults` has the same events under load.

Each row is an upstream whose cluster, gate and paths have its name. An event must leave the other clients of its row
served and its state unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from typing import Any, NamedTuple

import pytest

from harness import upload, websocket
from harness.client import Stream, get, get2
from harness.config import (
    HTTP_FILTERS,
    Tree,
    bootstrap,
    cluster,
    cluster_of,
    http_options,
    internal_listeners,
    listener,
    plugin,
    route,
    socket_address,
    stats_tags,
)
from harness.envoy import Envoy, is_before
from harness.http2 import Burst, Http2Upstream
from harness.load import Answer, Load, Request
from harness.ports import free_port
from harness.sockets import SocketServer, fail_every_other
from harness.upstream import Behaviour, Upstream
from harness.wait import until

# Other clients, and one that is alone in what it does.
OTHERS = [f"127.0.1.{number}" for number in range(1, 9)]
ODD = "127.0.2.1"
# The default would keep the gate closed for longer than a test takes.
SHORT = {"notReadyFor": "200ms", "maxNotReadyFor": "200ms"}
UNANSWERED = {"unansweredAfter": "0.5s"}
ROWS: dict[str, Tree] = {
    "host-refuses": {},
    "host-resets": {},
    "host-answers-500": {},
    "host-hangs": {},
    "host-update": {},
    "connection": {},
    "sockets-by-the-book": {},
    "sockets-fin": {},
    "streams": {},
    "bursts": {},
    "grpc-timeout": {},
    "timeout-header": {},
    "try-timeout-header": {},
    "large": {},
    "slow": {},
    "redirect": {},
    "subset": {},
    "upgrade": UNANSWERED,
    "open": UNANSWERED,
    "route-duration": {},
    "cluster-duration": {},
    "route-idle": {},
    "trial-deadlines": SHORT,
    "trial-uploads": {**SHORT, "trial": {"requests": 3, "leaseFor": "30s"}},
    "trial-retries": {**SHORT, "trial": {"requests": 1, "successes": 1}},
    "trial-hedges": {**SHORT, "trial": {"requests": 1, "successes": 1}},
}
HOSTS = 5
# How long a response of a host takes. Ten of them are under way at each host.
PACE = 0.5
# Callers from these addresses may set their own timeouts.
INTERNAL = {
    "use_remote_address": True,
    "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
}
GRPC = {"content-type": "application/grpc", "te": "trailers"}


class World(NamedTuple):
    envoy: Envoy
    app: Upstream
    hosts: Sequence[Upstream]
    http2: Http2Upstream
    websockets: SocketServer
    uploads: SocketServer


def to(row: str, path: str = "/", **action: Any) -> Tree:
    return {"match": {"prefix": f"/{row}{path}"}, "route": {"cluster": row, "timeout": "5s", **action}}


def subset(key: str) -> Tree:
    return {"metadata_match": {"filter_metadata": {"envoy.lb": {"stage": key}}}}


def routes() -> list[Tree]:
    retries = {"retry_on": "5xx", "num_retries": 3}
    special = [
        to("host-hangs", timeout="1s"),
        *(to(row, timeout="0s", upgrade_configs=[{"upgrade_type": "websocket"}]) for row in SOCKETS),
        to("streams", "/events", timeout="0s"),
        to("grpc-timeout", "/deadline", timeout="0s", max_grpc_timeout="0s"),
        to("redirect", internal_redirect_policy={"redirect_response_codes": [302]}),
        to("subset", "/none", **subset("none")),
        to("subset", **subset("live")),
        to("open", timeout="0s"),
        to("route-duration", timeout="0s", max_stream_duration={"max_stream_duration": "0.3s"}),
        to("cluster-duration", timeout="0s"),
        to("route-idle", timeout="0s", idle_timeout="0.3s"),
        to("trial-retries", retry_policy=retries),
        to(
            "trial-hedges",
            timeout="1s",
            retry_policy={**retries, "per_try_timeout": "0.1s"},
            hedge_policy={"hedge_on_per_try_timeout": True},
        ),
    ]
    return [*special, *(to(row) for row in ROWS)]


SOCKETS = ("sockets-by-the-book", "sockets-fin", "upgrade")


def subsets(port: int) -> Tree:
    tree = cluster("subset", port)
    tree["load_assignment"]["endpoints"][0]["lb_endpoints"][0] |= {
        "metadata": {"filter_metadata": {"envoy.lb": {"stage": "live"}}}
    }
    chosen = {"fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["stage"]}]}
    return {**tree, "lb_subset_config": chosen}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    policy = {
        "name": "events",
        "upstreams": {row: {"cluster": row, "circuitBreaker": settings} for row, settings in ROWS.items()},
        "gates": [{"match": [{"uri": {"prefix": f"/{row}/"}}], "upstream": row} for row in ROWS],
    }
    with ExitStack() as stack:
        app = stack.enter_context(Upstream("app"))
        hosts = [stack.enter_context(Upstream(f"host-{number}")) for number in range(HOSTS)]
        http2 = stack.enter_context(Http2Upstream())
        websockets = stack.enter_context(SocketServer(websocket.serve))
        mute = stack.enter_context(SocketServer(websocket.never_answer))
        uploads = stack.enter_context(SocketServer(upload.serve))
        special = {
            **dict.fromkeys(("sockets-by-the-book", "sockets-fin"), websockets.port),
            "upgrade": mute.port,
            **dict.fromkeys(("large", "slow"), uploads.port),
        }
        at_hosts = [row for row in ROWS if row.startswith("host-")]
        clusters = [
            *(cluster_of(row, *(socket_address(host.port) for host in hosts)) for row in at_hosts),
            cluster("connection", http2.port, http2=True),
            subsets(app.port),
            {
                **cluster("cluster-duration", app.port),
                **http_options(common_http_protocol_options={"max_stream_duration": "0.3s"}),
            },
        ]
        own = {tree["name"] for tree in clusters}
        ports = {row: special.get(row, app.port) for row in ROWS if row not in own}
        hcm = {**INTERNAL, "upgrade_configs": [{"upgrade_type": "websocket"}]}
        config = bootstrap(policy, ports, routes=routes(), clusters=clusters, hcm=hcm)
        envoy = stack.enter_context(Envoy(config))
        yield World(envoy, app, hosts, http2, websockets, uploads)


# -- what others get --------------------------------------------------------------


@contextmanager
def others(world: World, row: str, rate: float = 50, path: str = "x", connections: int = 16) -> Iterator[Load]:
    """A load of good requests by the other clients of the row, which has begun."""
    with Load(world.envoy.port(), [Request(f"/{row}/{path}")], rate, connections, OTHERS) as load:
        until(lambda: len(load.answers) >= 10, what=f"the other clients of {row}")
        yield load


def ask(world: World, row: str, times: int, path: str = "x", pause: float = 0.02) -> list[int]:
    """Sends these requests one after the other, from the addresses of the others in turn. Returns their statuses."""
    statuses = []
    for _, source in zip(range(times), cycle(OTHERS), strict=False):
        statuses.append(get(world.envoy.port(), f"/{row}/{path}", source=source).status)
        time.sleep(pause)
    return statuses


def refused(load: Load) -> list[Answer]:
    return [answer for answer in load.answers if b"is not ready" in answer.body]


def assert_unmoved(world: World, row: str) -> None:
    """Checks that the event did not change the row's state, also after the workers' ticks."""
    time.sleep(0.3)
    assert world.envoy.transitions(upstream=row) == 0
    assert world.envoy.counter("graygate_gated_requests_total", upstream=row) == 0


def until_found(world: World, row: str, timeout: float = 8) -> None:
    until(lambda: world.envoy.transitions(upstream=row, to="not-ready"), timeout, f"{row} not ready")


def assert_outage_is_found(world: World, row: str, break_it: Callable[[], object], path: str = "x") -> None:
    """Breaks the upstream while the other clients ask, and waits until the row is not ready."""
    with others(world, row, path=path):
        break_it()
        until_found(world, row)


# -- hosts ------------------------------------------------------------------------

FAULTS: dict[str, tuple[Callable[[Upstream], None], Callable[[Upstream], None]]] = {
    "refuses": (Upstream.refuse, Upstream.accept),
    "resets": (lambda host: host.behave(Behaviour(reset="before", delay=PACE)), lambda host: host.slow(PACE)),
    "answers-500": (lambda host: host.behave(Behaviour(500, delay=PACE)), lambda host: host.slow(PACE)),
    "hangs": (Upstream.hang, lambda host: host.slow(PACE)),
}


@contextmanager
def load_on_hosts(world: World, row: str) -> Iterator[Load]:
    for host in world.hosts:
        host.slow(PACE)
    with others(world, row, rate=100, connections=80) as load:
        yield load


@pytest.mark.parametrize("fault", FAULTS)
def test_one_failing_host_of_five_is_not_an_outage_and_five_are(world, fault):
    row = f"host-{fault}"
    fail, heal = FAULTS[fault]
    with load_on_hosts(world, row) as load:
        fail(world.hosts[0])
        time.sleep(2)
        heal(world.hosts[0])
        time.sleep(0.3)
        assert refused(load) == []
        assert_unmoved(world, row)
        try:
            for host in world.hosts:
                fail(host)
            until_found(world, row)
        finally:
            for host in world.hosts:
                heal(host)


def test_a_rolling_update_is_not_an_outage(world):
    with load_on_hosts(world, "host-update") as load:
        for host in world.hosts:
            host.refuse()
            time.sleep(0.5)
            host.accept()
            time.sleep(0.2)
    assert refused(load) == []
    assert_unmoved(world, "host-update")


# -- connections ------------------------------------------------------------------


def test_calls_that_die_with_their_connection_are_one_event(world):
    paths = ["/connection/hang"] * 20
    assert ask(world, "connection", 10) == [200] * 10
    calls = Burst(world.envoy.port(), paths)
    until(lambda: world.http2.hanging == len(paths), what="the calls at the upstream")
    world.http2.drop()
    assert calls.statuses() == [503] * len(paths)
    assert ask(world, "connection", 20) == [200] * 20
    assert_unmoved(world, "connection")
    assert_outage_is_found(world, "connection", world.http2.refuse)


@pytest.mark.parametrize("row", ["sockets-by-the-book", "sockets-fin"])
def test_websockets_that_end_are_no_failures(world, row):
    by_the_book = row == "sockets-by-the-book"
    for number, source in zip(range(30), cycle(OTHERS), strict=False):
        status, _ = websocket.use(world.envoy.port(), f"/{row}/x", by_the_book=by_the_book, source=source)
        assert status == 101, number
        time.sleep(0.02)
    assert_unmoved(world, row)


def test_event_streams_that_stay_open_do_not_hide_their_successes(world):
    """Each begins with 200 and stays open. One in twenty is answered 500 instead."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    world.app.behave(Behaviour(whole=head), "/streams/events")
    world.app.answer(500, path="/streams/500")
    with ExitStack() as stack:
        for number in range(100):
            path = "/streams/500" if number % 20 == 10 else "/streams/events"
            stream = stack.enter_context(Stream(world.envoy.port(), path, method="GET", end=True))
            until(stream.answered, what=f"the beginning of stream {number}")
            time.sleep(0.01)
        assert_unmoved(world, "streams")
    assert_outage_is_found(world, "streams", lambda: world.app.answer(500, path="/streams/x"))


# -- one client -------------------------------------------------------------------


def test_failures_of_one_client_do_not_stop_others(world):
    """Twelve requests at once on one connection, which all fail, again and again."""
    world.app.answer(500, path="/bursts/500")
    with others(world, "bursts", rate=150) as load:
        for _ in range(4):
            burst = Burst(world.envoy.port(), ["/bursts/500"] * 12, source=ODD)
            assert burst.statuses() == [500] * 12
            time.sleep(0.7)
        assert refused(load) == []
        assert_unmoved(world, "bursts")
        world.app.answer(500, path="/bursts/x")
        until_found(world, "bursts")


DEADLINES: dict[str, tuple[dict[str, str], Callable[[World, str, dict[str, str], str], int]]] = {
    "grpc-timeout": (
        {**GRPC, "grpc-timeout": "1m"},
        lambda world, path, headers, _: int(
            get2(world.envoy.port(), path, headers, method="POST", body=b"\0\0\0\0\0").headers["grpc-status"] or 0
        ),
    ),
    **{
        row: (
            {header: "10"},
            lambda world, path, headers, source: get(world.envoy.port(), path, headers, source=source).status,
        )
        for row, header in [
            ("timeout-header", "x-envoy-upstream-rq-timeout-ms"),
            ("try-timeout-header", "x-envoy-upstream-rq-per-try-timeout-ms"),
        ]
    },
}


@pytest.mark.parametrize("row", DEADLINES)
def test_callers_with_deadlines_of_their_own_are_no_evidence(world, row):
    """The upstream takes a second, and the callers wait for 10 ms at most. No other request succeeds meanwhile."""
    headers, call = DEADLINES[row]
    world.app.slow(1, path=f"/{row}/deadline")
    assert ask(world, row, 20) == [200] * 20
    for source in OTHERS:
        assert call(world, f"/{row}/deadline", headers, source) in (14, 504)
        time.sleep(0.06)
    assert ask(world, row, 20) == [200] * 20
    assert_unmoved(world, row)
    assert_outage_is_found(world, row, lambda: world.app.reset(path=f"/{row}/x"))


# More than the proxy's and the kernel's buffers hold.
MEGABYTES = 10_000_000


@pytest.mark.parametrize("row", ["large", "slow"])
def test_uploads_that_the_app_does_not_read_to_the_end_are_no_failures(world, row):
    """The app answers 413 and closes the connection, or gives up on slow clients. The proxy may see only a reset."""
    parts, pause = ([b"x" * MEGABYTES], 0.0) if row == "large" else ([b"x" * 1000] * 12, 0.05)
    assert ask(world, row, 20) == [200] * 20
    for source in OTHERS:
        assert upload.post(world.envoy.port(), f"/{row}/{row}", MEGABYTES, parts, pause, source) in (413, 503)
        time.sleep(0.06)
    assert ask(world, row, 20) == [200] * 20
    assert_unmoved(world, row)


def test_a_followed_redirect_ends_a_row_of_failures(world):
    world.app.answer(302, [("location", "http://reviews/redirect/there")], path="/redirect/302")
    world.app.answer(500, path="/redirect/500")
    failures = [500] * 4
    assert ask(world, "redirect", 4, "500", pause=0.06) == failures
    assert ask(world, "redirect", 3, "302", pause=0.06) == [200] * 3
    assert ask(world, "redirect", 4, "500", pause=0.06) == failures
    assert_unmoved(world, "redirect")
    until(lambda: 503 in ask(world, "redirect", 2, "500"), what="the gate")


def test_a_subset_without_hosts_is_not_an_outage_of_the_others(world):
    with others(world, "subset") as load:
        for _ in range(4):
            assert Burst(world.envoy.port(), ["/subset/none"] * 6).statuses() == [503] * 6
            time.sleep(0.3)
        assert load.failed == []
        assert_unmoved(world, "subset")


# -- hangs ------------------------------------------------------------------------


def test_upgrades_that_are_never_answered_are_found(world):
    with ExitStack() as stack:

        def found() -> bool:
            stack.enter_context(websocket.ask(world.envoy.port(), "/upgrade/x"))
            return bool(world.envoy.transitions(upstream="upgrade", to="not-ready"))

        until(found, what="upgrade not ready", every=0.1)


def test_requests_with_open_bodies_that_are_never_answered_are_found(world):
    with ExitStack() as stack:

        def found() -> bool:
            stream = stack.enter_context(Stream(world.envoy.port(), "/open/x"))
            with suppress(OSError):
                stream.send(b"and more later")
            return bool(world.envoy.transitions(upstream="open", to="not-ready"))

        until(found, what="open not ready", every=0.1)


@pytest.mark.parametrize("row", ["route-duration", "cluster-duration", "route-idle"])
def test_hangs_that_envoy_ends_by_another_limit_are_found(world, row):
    world.app.hang(path=f"/{row}/x")
    with Load(world.envoy.port(), [Request(f"/{row}/x")], 20, 20, OTHERS):
        until_found(world, row)


# -- on trial ---------------------------------------------------------------------


def trip(world: World, row: str) -> None:
    """Sends failing requests until the row is not ready. The upstream is well again then."""
    world.app.answer(500, path=f"/{row}/500")
    until(lambda: ask(world, row, 1, "500") and world.envoy.transitions(upstream=row, to="not-ready"), what="a trip")


def until_let_back_in(world: World, row: str, load: Load, timeout: float) -> None:
    until(lambda: world.envoy.transitions(upstream=row, to="ready"), timeout, f"{row} ready")
    until(lambda: served(load.answers[-10:]), 3, f"the others of {row} served")


def served(answers: Sequence[Answer]) -> bool:
    return {answer.status for answer in answers} == {200}


def test_a_client_with_short_deadlines_does_not_keep_others_out(world):
    row = "trial-deadlines"
    world.app.slow(0.05, path=f"/{row}/x")
    trip(world, row)
    short = Request(f"/{row}/x", {"x-envoy-upstream-rq-timeout-ms": "10"})
    # The client asks before the others do, and takes the first permits.
    with Load(world.envoy.port(), [short], 40, 8, [ODD]), others(world, row, rate=20) as load:
        until_let_back_in(world, row, load, 8)


def test_uploads_that_never_end_do_not_hold_the_permits(world):
    row = "trial-uploads"
    trip(world, row)
    until(lambda: world.envoy.transitions(upstream=row, to="trial"), what="a trial")
    active = f"cluster.{row}.upstream_rq_active"
    with ExitStack() as stack:

        def held() -> bool:
            stack.enter_context(Stream(world.envoy.port(), f"/{row}/x")).send(b"and never more")
            return int(world.envoy.stats(active)[active]) >= 3

        until(held, what="uploads that hold all permits")
        for _ in range(8):
            stack.enter_context(Stream(world.envoy.port(), f"/{row}/x")).send(b"and never more")
        with others(world, row, rate=20) as load:
            until_let_back_in(world, row, load, 8)


@pytest.mark.parametrize(
    ("row", "behaviour"), [("trial-retries", Behaviour(500)), ("trial-hedges", Behaviour(hang=True))]
)
def test_a_trial_is_one_request_to_the_upstream_however_often_envoy_would_try(world, row, behaviour):
    path = f"/{row}/tried"
    trip(world, row)
    # A worker that does not know of the trip yet would let requests through without a permit.
    until(lambda: world.envoy.transitions(upstream=row, to="trial"), what="a trial")
    world.app.behave(behaviour, path)
    tried = until(lambda: ask(world, row, 1, "tried") and world.app.seen(path), what="a request let through")
    assert tried == 1


# -- more than one filter ---------------------------------------------------------


def one_by_one(name: str, cluster_name: str = "app") -> tuple[Tree, Tree]:
    """Returns a policy whose trial is one request at a time, and its filter."""
    breaker = {**SHORT, "trial": {"requests": 1, "successes": 1}}
    policy: Tree = {"name": name, "upstreams": {"app": {"cluster": cluster_name, "circuitBreaker": breaker}}}
    policy["gates"] = [{"upstream": "app"}]
    return policy, {"name": "graygate", "typed_config": plugin(policy)}


def document(listeners: Sequence[Tree], clusters: Sequence[Tree], **more: Any) -> Tree:
    return {
        "node": {"id": "test-node", "cluster": "test"},
        "admin": {"address": socket_address()},
        "stats_config": {"stats_tags": stats_tags()},
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
        **more,
    }


def assert_is_let_back_in(envoy: Envoy, app: Upstream, port: int) -> None:
    app.answer(500)

    def tripped() -> bool:
        get(port)
        return bool(envoy.transitions(upstream="app", to="not-ready"))

    until(tripped, what="a trip")
    app.answer()

    def is_back() -> bool:
        # A worker that does not know of the trip yet may serve the first of these.
        return get(port).status == 200 and bool(envoy.transitions(upstream="app", to="ready"))

    until(is_back, what="ready")


@pytest.mark.parametrize("judged", ["hop", "app"])
def test_one_policy_in_two_listeners_of_one_request_lets_it_back_in(judged):
    """As in a sidecar that calls itself. The route of either listener leads to the policy's cluster."""
    _, graygate = one_by_one("both", judged)
    with Upstream("app") as app:
        inner = listener("inner", [graygate], [route("app", "5s")])
        inner["address"] = socket_address(free_port())
        outer = listener("outer", [graygate], [route("hop", "5s")])
        hop = cluster_of("hop", inner["address"])
        with Envoy(document([outer, inner], [hop, cluster("app", app.port)])) as envoy:
            assert_is_let_back_in(envoy, app, envoy.port("outer"))


def test_one_policy_twice_in_one_chain_lets_requests_back_in():
    policy, graygate = one_by_one("twice")
    with Upstream("app") as app, Envoy(bootstrap(policy, {"app": app.port}, filters_before=[graygate])) as envoy:
        assert_is_let_back_in(envoy, app, envoy.port())


# -- what a failure is ------------------------------------------------------------


@contextmanager
def judged_by(fail_on: Sequence[Any], port: int) -> Iterator[Envoy]:
    """An Envoy that retries, with one upstream that is judged by these conditions."""
    policy = {
        "name": "words",
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": {"failOn": fail_on}}},
        "gates": [{"upstream": "app"}],
    }
    retrying = route("app", "5s")
    retrying["route"]["retry_policy"] = {"retry_on": "5xx", "num_retries": 3}
    with Envoy(bootstrap(policy, {"app": port}, routes=[retrying])) as envoy:
        yield envoy


def keep_asking(envoy: Envoy, times: int) -> set[int]:
    """Sends requests, spread over time, and returns their statuses."""
    statuses = set()
    for _, source in zip(range(times), cycle(OTHERS), strict=False):
        statuses.add(get(envoy.port(), source=source).status)
        time.sleep(0.03)
    return statuses


def test_requests_that_only_a_retry_answers_are_failures_where_the_policy_says_so():
    with SocketServer(fail_every_other()) as app, judged_by(["5xx", "retried"], app.port) as envoy:
        until(lambda: 503 in keep_asking(envoy, 5), what="the gate")


def test_requests_that_only_a_retry_answers_are_successes_otherwise():
    with SocketServer(fail_every_other()) as app, judged_by(["5xx"], app.port) as envoy:
        assert keep_asking(envoy, 20) == {200}
        assert envoy.transitions() == 0


def test_a_response_header_can_be_a_failure(v1):
    with judged_by([{"header": "x-error", "exact": "yes"}], v1.port) as envoy:
        v1.answer(200, [("x-error", "no")])
        assert keep_asking(envoy, 20) == {200}
        assert envoy.transitions() == 0
        v1.answer(200, [("x-error", "yes")])
        until(lambda: 503 in keep_asking(envoy, 5), what="the gate")


# -- each attempt -----------------------------------------------------------------

# Retries a request in the other cluster. A weight of 0 would never be picked.
FIRST, THEN = 1_000_000, 1
WAIT = 4.0
UPSTREAM_CODEC = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": f"{HTTP_FILTERS}.upstream_codec.v3.UpstreamCodec"},
}


def of_provider() -> Tree:
    trial = {"requests": 1, "successes": 1}
    breaker = {"failOn": ["429"], "notReadyFor": "1s", "maxNotReadyFor": "10s", "trial": trial}
    return {"cluster": "provider", "circuitBreaker": breaker}


def retrying(first: str, then: str) -> Tree:
    """Returns a route to the first cluster. Its retries go to the second one."""
    weights = [{"name": first, "weight": FIRST}, {"name": then, "weight": THEN}]
    policy = {"retry_on": "5xx,retriable-status-codes", "retriable_status_codes": [429], "num_retries": 1}
    action = {"weighted_clusters": {"clusters": weights}, "retry_policy": {**policy, "refresh_cluster_on_retry": True}}
    return {"match": {"prefix": "/"}, "route": {"timeout": "5s", **action}}


def many_retries(tree: Tree) -> Tree:
    """Returns the cluster with no limit on retries. The default is three at a time."""
    return {**tree, "circuit_breakers": {"thresholds": [{"max_retries": 1000}]}}


def judged_in_the_cluster(provider: int, backup: int) -> Tree:
    """The provider's cluster has graygate as an upstream filter, which judges each attempt.

    The listener has the same policy with a gate, which sends requests to the backup. A gate in the cluster would not
    do, as the proxy does not retry what an upstream filter replies.
    """
    judge = {"name": "attempts", "upstreams": {"provider": of_provider()}}
    fallback = {"upstream": "backup", "clusterHeader": "x-gray-cluster"}
    gate = {
        "name": "attempts",
        "upstreams": {"provider": of_provider(), "backup": {"cluster": "backup"}},
        "gates": [{"upstream": "provider", "fallback": fallback}],
    }
    filters = [{"name": "graygate", "typed_config": plugin(judge)}, UPSTREAM_CODEC]
    chosen = {"name": "x-gray-cluster", "string_match": {"exact": "backup"}}
    by_header = {"match": {"prefix": "/", "headers": [chosen]}, "route": {"cluster_header": "x-gray-cluster"}}
    return document(
        [
            listener(
                "graygate",
                [{"name": "graygate", "typed_config": plugin(gate)}],
                [by_header, retrying("provider", "backup")],
            )
        ],
        [
            many_retries({**cluster("provider", provider), **http_options(http_filters=filters)}),
            many_retries(cluster("backup", backup)),
        ],
    )


def judged_in_a_listener_of_its_own(provider: int, backup: int) -> Tree:
    """The first cluster leads to an internal listener, where graygate judges and gates what goes to the provider.

    The gate's reply is a response to the outer route, which retries it, as the gate allows that.
    """
    gate = {"upstream": "provider", "reply": {"retriable": True}}
    policy = {"name": "attempts", "upstreams": {"provider": of_provider()}, "gates": [gate]}
    inner = listener("inner", [{"name": "graygate", "typed_config": plugin(policy)}], [route("provider", "5s")])
    del inner["address"]
    hop = cluster_of("hop", {"envoy_internal_address": {"server_listener_name": "inner"}})
    return document(
        [listener("graygate", [], [retrying("hop", "backup")]), {**inner, "internal_listener": {}}],
        [cluster("provider", provider), many_retries(hop), many_retries(cluster("backup", backup))],
        bootstrap_extensions=[internal_listeners()],
    )


@pytest.mark.skipif(is_before("1.38"), reason="Envoy before 1.38 has no `refresh_cluster_on_retry`")
@pytest.mark.parametrize("configured", [judged_in_the_cluster, judged_in_a_listener_of_its_own])
def test_a_provider_that_asks_for_a_wait_is_left_alone_while_another_serves(v1, v2, configured):
    v1.answer(429, [("retry-after", f"{WAIT:g}")])
    with Envoy(configured(v1.port, v2.port)) as envoy, Load(envoy.port(), [Request()], 50, 8, OTHERS) as load:
        until(lambda: envoy.transitions(upstream="provider", to="not-ready"), what="a trip")
        # All workers know after two ticks.
        time.sleep(0.6)
        left_at, asked = time.monotonic(), v1.seen("/")
        time.sleep(WAIT - 1)
        assert v1.seen("/") == asked
        assert {answer.version for answer in load.since(left_at)} == {"v2"}
        v1.answer()
        until(lambda: {answer.version for answer in load.answers[-10:]} == {"v1"}, what="the provider again")
        assert load.failed == []
