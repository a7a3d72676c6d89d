"""One Envoy under steady load, what is right for its requests at each time, and what its clients have seen."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Self

from chaos import site
from chaos.count import GRACE, MOMENT, Outage, Tolerated, Trial, failed, gated
from chaos.pairs import Asked, Pairs
from chaos.scenarios import end_vm
from chaos.site import USERS
from harness.client import Response, get
from harness.config import Config, Tree, bootstrap
from harness.envoy import Envoy
from harness.wait import until, until_all

from .ledger import Ledger, Said
from .memory import ACTIVE, Sample, sample
from .service import Told

HALF = 50.0
VERSIONS = ("v1", "v2")
DRAIN = "/drainz"
PROBES = {"liveness": "/livez", "readiness": "/readyz"}
# In seconds.
PROBES_EVERY, SAMPLES_EVERY = 1.0, 5.0
# In seconds. Other programs on the machine may stop a service for this time, which is no failure.
STALL = 2.0


def policy(share: float, number: int = 0) -> Tree:
    """Returns a policy that gives v2 this share of the users. Each number gives another document."""
    document = site.policy(share, match=[{"uri": {"exact": "/"}}])
    for name in VERSIONS:
        upstream = document["upstreams"][name]
        upstream["readinessProbe"] |= {"periodSeconds": 0.5, "timeoutSeconds": STALL, "failureThreshold": 3}
        # Short, so that the gates of a breaker open soon after their upstream is well.
        again = {"notReadyFor": "0.5s", "maxNotReadyFor": "0.5s"}
        upstream["circuitBreaker"] |= {"unansweredAfter": "3s", **again}
    document["probes"]["drain"] = {"path": DRAIN, "from": ["127.0.0.0/8"]}
    document["gates"][0]["reply"] = {"retryAfterSeconds": 1 + number % 50}
    return document


@cache
def versions_of(share: float) -> Mapping[str, str]:
    return site.versions_of(policy(share))


def config(ports: Mapping[str, int]) -> Config:
    return bootstrap(policy(HALF), ports, plain=True, timeout="4s", hcm={"access_log": []}, delivery="ecds")


@dataclass
class Line:
    """What the clients of one listener have seen in a window.

    `times` are the seconds of the requests that a version has answered with 200 at both listeners.
    """

    sent: int = 0
    failed: int = 0
    gated: int = 0
    times: array[float] = field(default_factory=lambda: array("f"))


@dataclass
class Window:
    graygate: Line = field(default_factory=Line)
    plain: Line = field(default_factory=Line)


@dataclass(frozen=True)
class Happened:
    name: str
    round: int
    begin: float
    end: float


class Repeated:
    """Does something time and again while the context lasts, on a thread of its own. It begins with a pause."""

    def __init__(self, act: Callable[[], object], every: float) -> None:
        self._act, self._every = act, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="repeated", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _repeat(self) -> None:
        while not self._stop.wait(self._every):
            self._act()


def said(port: int, probe: str, path: str, method: str = "GET") -> Said:
    at = time.monotonic()
    try:
        answer = get(port, path, method=method, timeout=20)
    except OSError as error:
        return Said(probe, 0, str(error), at)
    return Said(probe, answer.status, answer.text, at)


class Run:
    def __init__(self, envoy: Envoy, services: Mapping[str, Told], seconds: float, pace: float) -> None:
        self.envoy = envoy
        self.services = services
        self.pace = pace
        self.outage_seconds = max(5.0, pace / 8)
        # The length of a window of the percentiles.
        self.window = max(seconds / 120, 1.0)
        self.start = 0.0
        self.ledger = Ledger()
        self.windows: defaultdict[int, Window] = defaultdict(Window)
        self.happened: list[Happened] = []
        self.samples: list[Sample] = []
        # How many requests were sent once more, as Envoy had closed a reused connection.
        self.again = 0
        self.problems: list[str] = []
        self.lost_alone = 0
        self.outages: Counter[str] = Counter()
        self.policies, self.wrong, self.deaths, self.drains = 1, 0, 0, 0
        self.vms = 0
        # Those of the policy that is in use, and of each that is about to be.
        self._versions = [versions_of(HALF)]
        self._outages: list[Outage] = []
        self._tolerated: list[Tolerated] = []
        self._tolerated_probes: list[Tolerated] = []

    @contextmanager
    def load(self, rate: float) -> Iterator[None]:
        until_all(lambda: self.probe("liveness").code == 200, 30, "all workers with the policy")
        until(lambda: self.probe("readiness").code == 200, 30, "readiness")
        self.vms = self.vms or self.envoy.stats(ACTIVE)[ACTIVE]
        ports = self.envoy.port(), self.envoy.port("plain")
        every = min(SAMPLES_EVERY, self.window)
        with Pairs(*ports, list(site.pairs(versions_of(HALF))), rate) as self.pairs:
            self.start = self.start or time.monotonic()
            # On connections of their own, as a kubelet does.
            probed: list[Said] = []
            probes = Repeated(lambda: probed.extend(said(ports[0], *each) for each in PROBES.items()), PROBES_EVERY)
            with probes, Repeated(self._sample, every):
                time.sleep(site.AROUND)
                yield
                self.cut()
        self._judge(self.pairs.graygate.asked, self.pairs.plain.asked)
        self.ledger.probe(probed)
        self.again += self.pairs.graygate.again + self.pairs.plain.again

    def _sample(self) -> None:
        # An Envoy that is gone fails the run elsewhere.
        with suppress(OSError):
            self.samples.append(sample(self.envoy, self.now))

    @property
    def now(self) -> float:
        return time.monotonic() - self.start

    # -- what events do -----------------------------------------------------------

    def probe(self, name: str) -> Said:
        found = said(self.envoy.port(), name, PROBES[name])
        self.ledger.probe([found])
        return found

    def order(self, method: str) -> None:
        found = said(self.envoy.port(), "drain", DRAIN, method)
        self.ledger.probe([found])
        self.drains += method == "POST"

    def ask(self, user: str) -> Response:
        answer = get(self.envoy.port(), "/", {"x-user-id": user})
        self.ledger.one(answer.version)
        return answer

    def publish(self, share: float, *, wait: bool = True) -> None:
        """Replaces the policy. Until all workers have it, users may get the versions of those before it.

        To wait for that, some user must have another version than in each of those.
        """
        self.cut()
        latest = versions_of(share)
        earlier = list(self._versions)
        self._versions.append(latest)
        self.policies += 1
        refusal = self.envoy.publish(policy(share, self.policies))
        if refusal:
            raise AssertionError(f"a policy was refused: {refusal}")
        if not wait:
            return
        moved = next((user for user in USERS if all(each[user] != latest[user] for each in earlier)), None)
        if moved:
            until_all(lambda: self.ask(moved).version == latest[moved], 60, "all workers with the policy")
        elif any(each != latest for each in earlier):
            raise AssertionError("no user shows whether the policy is in use")
        self.cut()
        self._versions = [latest]

    def refused(self) -> None:
        """Publishes a wrong policy that would take all users from v2 to v1. The one before it must stay."""
        assert isinstance(self.envoy.config, Config)
        right = self.envoy.config
        self.wrong += 1
        if not self.envoy.publish({**policy(0), "gatse": []}):
            raise AssertionError("a wrong policy was accepted")
        self.envoy.config = right

    def outage(self, version: str, fail: Callable[[Told], None], heal: Callable[[Told], None]) -> None:
        self.cut()
        service = self.services[version]
        begin = time.monotonic()
        fail(service)
        time.sleep(self.outage_seconds)
        heal(service)
        end = time.monotonic() + STALL
        self.outages[version] += 1
        self._outages.append(Outage(version, begin, end))
        if version != "v1":
            # v1 is the default version.
            why = f"{version} fails, so its users get v1"
            self._tolerated.append(Tolerated(("wrong version",), begin, end + GRACE, why))
        # Its gate may open late, which must show.
        time.sleep(STALL + GRACE + site.AROUND)
        self.cut()

    def end_vm(self) -> None:
        # A request that is under way when the VM ends may have been sent before that.
        begin = time.monotonic()
        self.cut()
        end_vm(self.envoy)
        self.deaths += 1
        # The request that ended it.
        self.ledger.graygate += 1
        until_all(lambda: self.probe("liveness").by_filter, 30, "all workers have a VM")
        span = Tolerated(("failed",), begin, time.monotonic() + MOMENT, "a VM is reloaded", wanted=False)
        self._tolerated.append(span)
        self._tolerated_probes.append(span)
        time.sleep(site.AROUND / 2)
        self.cut()

    # -- what is judged -----------------------------------------------------------

    def cut(self) -> None:
        """Judges what was asked since the last cut."""
        self._judge(*self.pairs.take())
        self._outages.clear()
        self._tolerated.clear()

    def _judge(self, graygate: list[Asked], plain: list[Asked]) -> None:
        if not graygate:
            return
        versions = {user: {each[user] for each in self._versions} for user in USERS}
        trial = Trial(graygate, plain, versions, tuple(self._outages), tuple(self._tolerated))
        at = min(asked.answer.asked for asked in graygate) - self.start
        self.problems += [f"at {at:.0f} s: {problem}" for problem in trial.problems()]
        self.lost_alone += len(trial.wrongs()["failed"])
        self.ledger.add(trial)
        beside_it = {asked.number: asked for asked in plain}
        for asked in graygate:
            beside = beside_it[asked.number]
            window = self.windows[int((asked.answer.asked - self.start) / self.window)]
            both_served = all(each.answer.status == 200 and each.answer.version for each in (asked, beside))
            for line, answer in ((window.graygate, asked.answer), (window.plain, beside.answer)):
                line.sent += 1
                line.failed += failed(answer)
                line.gated += gated(answer)
                if both_served:
                    line.times.append(answer.seconds)

    def lost_probes(self) -> list[Said]:
        """Returns the probes that the filter did not answer, and should have."""
        spans = self._tolerated_probes
        return [said for said in self.ledger.lost_probes if not any(s.begin <= said.at < s.end for s in spans)]
