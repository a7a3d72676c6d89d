"""What happens while a Prometheus scrapes: weights rise, upstreams fail, a version is rolled back, a proxy drains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

from harness.load import Load, Request
from harness.prometheus import Prometheus
from harness.wait import until

from .rules import SOURCE
from .shop import Policy, Shop, policy, requests

# Seconds between two scrapes.
INTERVAL = 0.5


def judged(weight: int, requests: int) -> Policy:
    """Returns a policy with this weight of v2. A version is judged once it has had this many requests."""
    return policy(weight, minimumRequests=requests, window="10s", latency={"percentile": 90, "above": "100ms"})


NEVER = 1_000_000


@dataclass
class Story:
    """A story that has been told. `marks` are the times at which something happened, and what."""

    prometheus: Prometheus
    start: float = 0
    end: float = 0
    marks: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def told(scrapes: int) -> Iterator[Story]:
    """Tells the story. Each state of it lasts for this many scrapes. The Prometheus ends with the context."""
    with ExitStack() as stack:
        shop = stack.enter_context(Shop("proxy-a", "proxy-b", first=judged(10, NEVER)))
        prometheus = stack.enter_context(Prometheus(shop.targets, interval=f"{int(INTERVAL * 1000)}ms", rules=[SOURCE]))
        story = Story(prometheus)
        with ExitStack() as loads:
            for envoy in shop.proxies.values():
                loads.enter_context(Load(envoy.port(), mixed(), rate=60, connections=8))
            prometheus.has_scraped(6)
            story.start = time.time()
            tell(story, shop, scrapes)
            story.end = time.time()
        yield story


def mixed() -> list[Request]:
    """Returns the requests in an order in which no kind comes in a row, and always in the same one."""
    asked = requests()
    Random(1).shuffle(asked)
    return asked


def tell(story: Story, shop: Shop, scrapes: int) -> None:
    v2, search, b = shop.upstreams["v2"], shop.upstreams["search"], shop.proxies["proxy-b"]

    def hold(mark: str = "", times: int = scrapes) -> None:
        if mark:
            story.marks.append((time.time(), mark))
        story.prometheus.has_scraped(times)

    hold("v2 has 10 %")
    for weight in (30, 50):
        shop.publish(judged(weight, NEVER))
        hold(f"{weight} %")
    shop.sick(*shop.carts.values())
    hold("cart down")
    shop.sick(search)
    hold("search, too")
    shop.well()
    for upstream in ("cart", "search"):
        shop.until_ready(upstream, ready=True)
    hold("both back")
    shop.sick(v2)
    shop.until_ready("v2", ready=False)
    hold("v2 down")
    shop.well()
    shop.until_ready("v2", ready=True)
    v2.slow(0.2, path="/")
    hold("v2 slow")
    shop.well()
    shop.publish(judged(50, 20))
    v2.answer(500, path="/")
    for envoy in shop.proxies.values():
        until(lambda: envoy.counter("graygate_rollbacks_total", version="v2"), 30, "the rollback of v2")
    hold("v2 fails: rollback")
    shop.well()
    shop.publish(judged(40, NEVER))
    hold("mended")
    changed = judged(40, NEVER)
    changed["upstreams"]["v2"] = {"cluster": "v2-misspelt"}
    shop.publish(changed, "proxy-a")
    hold("wrong cluster")
    shop.publish(judged(40, NEVER), "proxy-a")
    for method, mark in (("POST", "b drains"), ("DELETE", "b serves again")):
        shop.order("proxy-b", method)
        until(lambda: b.counter("graygate_draining") == (method == "POST"), 30, "the gauge of the drain")
        hold(mark)
    # A proxy takes a document as in use after 5 seconds, and only then shows that a later one is wrong.
    story.prometheus.has_scraped(round(5 / INTERVAL) - 3 * scrapes + 4)
    b.publish({**judged(40, NEVER), "mode": "wrong"})
    until(lambda: b.counter("graygate_policy_refused"), 30, "the wrong policy")
    hold("b refuses")
    # Envoy does not hand over the document that is in use, so the way back is another one.
    shop.publish(judged(45, NEVER))
    until(lambda: b.counter("graygate_policy_refused") == 0, 30, "the good policy")
    shop.order("proxy-b", "POST")
    until(lambda: b.counter("graygate_draining"), 30, "the gauge of the drain")
    hold("b drains again")
