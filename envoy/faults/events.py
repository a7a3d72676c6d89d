"""Healthy events: what others get while something happens to an upstream that is well, or while one client fails."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

from harness import upload, websocket
from harness.client import Headers, get, get2
from harness.config import Tree, cluster_of, http_options, listener, plugin, route, socket_address
from harness.envoy import Envoy
from harness.http2 import Burst, Http2Upstream
from harness.load import Answer, Load, Request
from harness.say import say
from harness.sockets import SocketServer, read_head
from harness.upstream import Behaviour, Upstream
from harness.wait import until

from .answers import gated

# The clients of an event, and one that is alone in what it does.
OTHERS = [f"127.0.1.{number}" for number in range(1, 9)]
ODD = "127.0.2.1"
# In seconds. Longer than a row of failures must last while others succeed.
PAUSE = 0.06


@dataclass(frozen=True)
class Contestant:
    title: str
    ejects: bool = False
    gates: bool = False


# The breaker has its defaults, and so has outlier detection but for this: by default it ejects at most a tenth of the
# hosts, which is none of five.
OUTLIER = {"max_ejection_percent": 50}
CONTESTANTS = {
    "nothing": Contestant("nothing"),
    "outlier": Contestant("outlier detection", ejects=True),
    "graygate": Contestant("graygate", gates=True),
    "both": Contestant("both", ejects=True, gates=True),
}

Host = Upstream | SocketServer


@dataclass(frozen=True)
class Site:
    """A contestant with the port of its listener and its upstream's hosts."""

    port: int
    hosts: Sequence[Host]

    def upstreams(self) -> list[Upstream]:
        return [host for host in self.hosts if isinstance(host, Upstream)]


@dataclass(frozen=True)
class Event:
    """`act` lets it happen and returns what the others got. `routes` come first, and lead to the same upstream."""

    act: Callable[[Site], list[Answer]]
    host: Callable[[], Host] = field(default=lambda: Upstream("app"))
    replicas: int = 1
    routes: Sequence[Tree] = ()
    http2: bool = False


# -- what clients send ------------------------------------------------------------


def ask(port: int, times: int, path: str = "/", headers: Headers = (), pause: float = PAUSE) -> list[Answer]:
    """Sends requests one after the other, from the addresses of the others in turn."""
    return [asked(port, path, headers, source, pause) for _, source in zip(range(times), cycle(OTHERS), strict=False)]


def asked(port: int, path: str, headers: Headers, source: str, pause: float) -> Answer:
    begun = time.monotonic()
    try:
        response = get(port, path, headers, source=source)
    except OSError as error:
        return Answer(0, None, str(error).encode(), begun, time.monotonic())
    time.sleep(pause)
    return Answer(response.status, None, response.body, begun, time.monotonic())


@contextmanager
def load(site: Site, rate: float, connections: int) -> Iterator[list[Answer]]:
    """A steady load of the others. Gives their answers, which are complete at the end of the context."""
    with Load(site.port, [Request()], rate, connections, OTHERS) as running:
        yield running.answers


def then_good_ones(site: Site) -> list[Answer]:
    return ask(site.port, 20, pause=0.02)


# -- one host of five -------------------------------------------------------------

HOSTS = 5
# Each response takes this long, so that twenty requests are under way at each host.
PACE = 1.0


def on_one_host(
    fail: Callable[[Upstream], None], heal: Callable[[Upstream], None], seconds: float = 7, around: float = 2.5
) -> Callable[[Site], list[Answer]]:
    """Returns an act that lets one host fail for this many seconds."""

    def act(site: Site) -> list[Answer]:
        for host in site.upstreams():
            host.slow(PACE)
        with load(site, 100, 240) as answers:
            time.sleep(around)
            fail(site.upstreams()[0])
            time.sleep(seconds)
            heal(site.upstreams()[0])
            time.sleep(around)
        return answers

    return act


def update(site: Site) -> list[Answer]:
    """Closes one host after the other for two seconds, as a rolling update that drains nothing."""
    for host in site.upstreams():
        host.slow(PACE)
    with load(site, 100, 240) as answers:
        time.sleep(2)
        for host in site.upstreams():
            host.refuse()
            time.sleep(2)
            host.accept()
            time.sleep(0.5)
        time.sleep(2)
    return answers


def behave(behaviour: Behaviour) -> Callable[[Upstream], None]:
    return lambda host: host.behave(behaviour)


slow = behave(Behaviour(delay=PACE))

# -- connections ------------------------------------------------------------------


def drop(site: Site) -> list[Answer]:
    """Drops the upstream's connections with twenty calls on them."""
    (host,) = site.hosts
    assert isinstance(host, Http2Upstream)
    ask(site.port, 10, pause=0.02)
    calls = Burst(site.port, ["/hang"] * 20)
    until(lambda: host.hanging == 20, what="the calls at the upstream")
    host.drop()
    calls.statuses()
    return then_good_ones(site)


def come_and_go(site: Site, *, by_the_book: bool) -> list[Answer]:
    """Thirty users of websockets, one after the other."""
    users = []
    for _, source in zip(range(30), cycle(OTHERS), strict=False):
        begun = time.monotonic()
        status, body = websocket.use(site.port, "/", by_the_book=by_the_book, source=source)
        users.append(Answer(status, None, body, begun, time.monotonic()))
        time.sleep(PAUSE)
    return users


# The beginning of a response that goes on.
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


def streams(site: Site) -> list[Answer]:
    """A hundred event streams, of which every twentieth is answered 500. The rest stay open."""
    (host,) = site.upstreams()
    host.behave(Behaviour(whole=EVENTS), "/events")
    host.answer(500, path="/500")
    answers = []
    with ExitStack() as stack:
        for number, source in zip(range(100), cycle(OTHERS), strict=False):
            path = "/500" if number % 20 == 10 else "/events"
            begun = time.monotonic()
            sock = stack.enter_context(
                socket.create_connection(("127.0.0.1", site.port), 10, source_address=(source, 0))
            )
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n".encode())
            head = read_head(sock)
            answers.append(Answer(int(head[9:12]), None, head, begun, time.monotonic()))
            time.sleep(0.02)
    return [*answers, *then_good_ones(site)]


# -- one client -------------------------------------------------------------------


def bursts(site: Site) -> list[Answer]:
    """One client sends twelve failing requests at once, each two seconds, beside 150 good ones a second."""
    (host,) = site.upstreams()
    host.answer(500, path="/500")
    with load(site, 150, 24) as answers:
        time.sleep(1)
        for _ in range(10):
            Burst(site.port, ["/500"] * 12, source=ODD).statuses()
            time.sleep(2)
    return answers


GRPC = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": "1m"}


def grpc_deadlines(site: Site) -> list[Answer]:
    (host,) = site.upstreams()
    host.slow(0.05, path="/deadline")
    ask(site.port, 10)
    for _ in range(6):
        get2(site.port, "/deadline", GRPC, method="POST", body=b"\0\0\0\0\0")
        time.sleep(PAUSE)
    return then_good_ones(site)


def header_deadlines(site: Site) -> list[Answer]:
    (host,) = site.upstreams()
    host.slow(0.05, path="/deadline")
    ask(site.port, 10)
    ask(site.port, 6, "/deadline", {"x-envoy-upstream-rq-timeout-ms": "10"})
    return then_good_ones(site)


# More than the proxy's and the kernel's buffers hold. Of 3 MB, chance decides if the proxy sees the 413 or a reset.
MEGABYTES = 10_000_000


def uploads(site: Site, path: str, parts: Sequence[bytes], pause: float) -> list[Answer]:
    """Eight uploads that the app does not read to the end."""
    ask(site.port, 10)
    for source in OTHERS:
        upload.post(site.port, path, MEGABYTES, parts, pause, source)
        time.sleep(PAUSE)
    return then_good_ones(site)


# The longest time that a call may ask for by grpc-timeout is unlimited, as is the route's own.
DEADLINES: Tree = {"match": {"prefix": "/deadline"}, "route": {"timeout": "0s", "max_grpc_timeout": "0s"}}


def websockets() -> SocketServer:
    return SocketServer(websocket.serve)


def reader() -> SocketServer:
    return SocketServer(upload.serve)


EVENTS_BY_NAME: Mapping[str, Event] = {
    "one of five refuses": Event(on_one_host(Upstream.refuse, Upstream.accept, 15, 4.5), replicas=HOSTS),
    "one of five resets": Event(on_one_host(behave(Behaviour(reset="before")), slow), replicas=HOSTS),
    "one of five answers 500": Event(on_one_host(behave(Behaviour(500)), slow), replicas=HOSTS),
    "one of five hangs": Event(on_one_host(Upstream.hang, slow), replicas=HOSTS),
    "rolling update of five": Event(update, replicas=HOSTS),
    "a connection drops with 20 calls": Event(drop, Http2Upstream, http2=True),
    "websockets end by the book": Event(partial(come_and_go, by_the_book=True), websockets),
    "websockets end by FIN": Event(partial(come_and_go, by_the_book=False), websockets),
    "event streams, 5 in 100 answer 500": Event(streams),
    "one client fails in bursts": Event(bursts),
    "grpc-timeout of callers": Event(grpc_deadlines, routes=[DEADLINES]),
    "timeout header of callers": Event(header_deadlines),
    "uploads too large": Event(partial(uploads, path="/large", parts=[b"x" * MEGABYTES], pause=0.0), reader),
    "uploads too slow": Event(partial(uploads, path="/slow", parts=[b"x" * 1000] * 12, pause=0.05), reader),
}

# -- the configuration ------------------------------------------------------------

# Callers may set their own timeouts only if they are internal.
INTERNAL = {
    "use_remote_address": True,
    "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
    "upgrade_configs": [{"upgrade_type": "websocket"}],
    "access_log": [],
}
# More than a fault makes wait, so that Envoy itself refuses nothing.
LIMITS = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 4096)


def contestant_cluster(name: str, event: Event, hosts: Sequence[Host]) -> Tree:
    tree = cluster_of(name, *(socket_address(host.port) for host in hosts))
    ejects: Tree = {"outlier_detection": OUTLIER} if CONTESTANTS[name].ejects else {}
    return {**tree, **http_options(http2=event.http2), **ejects, "circuit_breakers": {"thresholds": [LIMITS]}}


def contestant_listener(name: str, event: Event) -> Tree:
    policy = {
        "name": name,
        "upstreams": {"app": {"cluster": name, "circuitBreaker": {}}},
        "gates": [{"upstream": "app"}],
    }
    filters = [{"name": "graygate", "typed_config": plugin(policy, vm_id=name)}] if CONTESTANTS[name].gates else []
    special = [{**each, "route": {**each["route"], "cluster": name}} for each in event.routes]
    tree = listener(name, filters, [*special, route(name, "2s")], INTERNAL)
    return {**tree, "connection_balance_config": {"exact_balance": {}}}


def bootstrap(event: Event, hosts: Mapping[str, Sequence[Host]]) -> Tree:
    return {
        "node": {"id": "events", "cluster": "events"},
        "admin": {"address": socket_address()},
        "static_resources": {
            "listeners": [contestant_listener(name, event) for name in CONTESTANTS],
            "clusters": [contestant_cluster(name, event, each) for name, each in hosts.items()],
        },
    }


# -- the measurement --------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What the others got: how many requests graygate refused, and how many failed otherwise."""

    requests: int
    refused: int
    failed: int


def figures(answers: Sequence[Answer]) -> Figures:
    refusals = sum(map(gated, answers))
    bad = [answer for answer in answers if answer.status not in (101, 200)]
    return Figures(len(answers), refusals, len(bad) - refusals)


def run(name: str) -> dict[str, Figures]:
    """Lets the event happen to all contestants at the same time, behind an Envoy with two workers."""
    event = EVENTS_BY_NAME[name]
    say(f"{name}: ", end="")
    begun = time.monotonic()
    with ExitStack() as stack:
        hosts: dict[str, list[Host]] = {each: [event.host() for _ in range(event.replicas)] for each in CONTESTANTS}
        for host in (host for each in hosts.values() for host in each):
            stack.enter_context(host)
        envoy = stack.enter_context(Envoy(bootstrap(event, hosts), concurrency=2))
        sites = [Site(envoy.port(each), hosts[each]) for each in CONTESTANTS]
        with ThreadPoolExecutor(len(sites)) as pool:
            found = dict(zip(CONTESTANTS, map(figures, pool.map(event.act, sites)), strict=True))
    say(f"{time.monotonic() - begun:.0f} s")
    return found
