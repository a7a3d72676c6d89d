"""From the field: how checks, breaker, trial, ramp and gates get on together when things go wrong."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection

import pytest

from harness.client import Stream, get
from harness.config import cluster, route
from harness.load import Load, Request, drive
from harness.upstream import NORMAL, Behaviour, Service, Upstream
from harness.wait import until, until_all

NEVER = 1000
CROWD = 64


class Flapping(Service):
    """Its health is bad and good in turn, check by check, for so many checks."""

    checks = NEVER

    def note(self, method, target, headers):
        behaviour = super().note(method, target, headers)
        bad = target == "/healthz" and self.paths[target] % 2 and self.paths[target] < self.checks
        return Behaviour(500) if bad else behaviour


class Cold(Service):
    """Takes two requests at once until it has answered ten; if there are more, it breaks for good."""

    under_way = most = answered = 0

    def note(self, method, target, headers):
        told = super().note(method, target, headers)
        if told is not NORMAL:
            return told
        self.under_way += 1
        if self.answered < 10:
            self.most = max(self.most, self.under_way)
        return Behaviour(500 if self.most > 2 else None, delay=0.1)

    def given(self, behaviour, method, target):
        if behaviour.delay:
            self.under_way -= 1
            self.answered += 1
        return super().given(behaviour, method, target)


class Staged(Upstream):
    """An upstream whose service is of this kind."""

    def __init__(self, kind):
        super().__init__("v1")
        self.service = self._service = kind("v1")


@pytest.fixture
def v1(request):
    """As in other tests, unless one asks for another kind of service."""
    with Staged(getattr(request, "param", Service)) as upstream:
        yield upstream


def of_kind(kind):
    return pytest.mark.parametrize("v1", [kind], indirect=True)


def judged(policy, check=None, **settings):
    """v1 has all requests, a gate on all of them, and a breaker; and this check, if given."""
    v1 = {"cluster": "reviews-v1", "circuitBreaker": {"consecutiveFailures": 5, "notReadyFor": "1h", **settings}}
    policy["releases"] = []
    policy["upstreams"] = {"reviews-v1": v1 | ({"readinessProbe": check} if check else {})}
    return policy


def said(envoy, reason):
    """Whether a request is told that v1 is not ready, and for this reason."""
    return f"upstream reviews-v1 is not ready: {reason}" in get(envoy.port()).text


def trip(envoy, v1):
    """Requests fail, so that v1 is not ready."""
    v1.answer(500, path="/")
    drive(envoy.port(), [Request()] * 10, connections=1)
    until(lambda: envoy.transitions(from_="ready", to="not-ready"), what="a trip")


# -- one replica ------------------------------------------------------------------


def test_the_only_replica_is_gated_where_outlier_detection_goes_on_asking_it(start, policy, v1):
    """The cluster has no other host, so Envoy's balancer panics, and picks the one that it has ejected."""
    eject = {"consecutive_5xx": 5, "max_ejection_percent": 100, "base_ejection_time": "300s"}
    app = {**cluster("app", v1.port), "outlier_detection": eject}
    judged(policy, notReadyFor="2s", trial={"requests": 1, "successes": 1})
    policy["upstreams"]["reviews-v1"]["cluster"] = "app"
    envoy = start(policy, plain=True, routes=[route("app", "5s")], clusters=[app])
    trip(envoy, v1)
    until(lambda: envoy.stats("cluster.app.outlier_detection.ejections_active").popitem()[1] == 1, what="ejected")
    until_all(lambda: said(envoy, "consecutive-failures"), what="gated")

    before = v1.requests
    gated = drive(envoy.port(), [Request()] * 50)
    assert {answer.status for answer in gated} == {503}
    assert v1.requests == before
    asked = drive(envoy.port("plain"), [Request()] * 50)
    assert {answer.status for answer in asked} == {500}
    assert v1.requests == before + 50

    v1.answer()
    until(lambda: get(envoy.port()).status == 200, what="a trial")
    until_all(lambda: get(envoy.port()).status == 200, what="let through")
    assert envoy.transitions(to="ready", reason="trial-passed") == 1


# -- an idle worker ---------------------------------------------------------------


def accepted(envoy):
    """How many connections each worker has had."""
    stats = envoy.stats("listener.127.0.0.1_").items()
    return {name: value for name, value in stats if re.search(r"worker_\d.downstream_cx_total$", name)}


class Line:
    """A connection that lasts, and so stays on its worker."""

    def __init__(self, envoy):
        before = accepted(envoy)
        self._connection = HTTPConnection("127.0.0.1", envoy.port(), timeout=10)
        self._connection.connect()
        after = until(lambda: (now := accepted(envoy)) != before and now, what="a connection accepted")
        [self.worker] = [name for name in after if after[name] != before[name]]

    def ask(self):
        self._connection.request("GET", "/")
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def close(self):
        self._connection.close()


@pytest.fixture
def lines():
    """`busy = lines(envoy)`, then `idle = lines(envoy, other_than=busy)`."""
    with ExitStack() as stack:

        def line(envoy, other_than=None):
            def right():
                found = stack.enter_context(closing(Line(envoy)))
                return (other_than is None or found.worker != other_than.worker) and found

            return until(right, what="a connection on the right worker")

        yield line


def test_a_worker_that_has_seen_nothing_gates_its_very_first_request(start, policy, v1, lines):
    envoy = start(judged(policy))
    v1.answer(500)
    busy = lines(envoy)
    assert [busy.ask()[0] for _ in range(6)] == [500] * 5 + [503]
    # Four ticks.
    time.sleep(1)
    assert sorted(accepted(envoy).values()) == [0, 1]
    status, text = lines(envoy, other_than=busy).ask()
    assert (status, "reviews-v1 is not ready: consecutive-failures: 5" in text) == (503, True)
    assert v1.requests == 5


def test_a_worker_that_has_only_gated_knows_of_a_recovery_that_it_has_not_seen(start, policy, v1, lines):
    envoy = start(judged(policy, notReadyFor="500ms", maxNotReadyFor="1s", trial={"requests": 1, "successes": 1}))
    v1.answer(500)
    busy = lines(envoy)
    assert 503 in [busy.ask()[0] for _ in range(6)]
    idle = lines(envoy, other_than=busy)
    until(lambda: idle.ask()[0] == 503, what="gated on the idle worker as well")
    v1.answer()
    until(lambda: busy.ask()[0] == 200 and envoy.transitions(to="ready"), what="recovery")
    # Eight ticks.
    time.sleep(1)
    assert idle.ask()[0] == 200


# -- thundering recovery ----------------------------------------------------------


def shares_served(answers, begun, ended):
    """Of what was asked in each third of this time."""
    thirds: list[list[bool]] = [[], [], []]
    for answer in answers:
        if begun <= answer.asked < ended:
            thirds[int(3 * (answer.asked - begun) / (ended - begun))].append(answer.status == 200)
    return [sum(served) / len(served) for served in thirds]


def all_served(load):
    return [answer.status for answer in load.answers[-200:]] == [200] * 200


@of_kind(Cold)
def test_a_crowd_that_waits_does_not_break_what_comes_back(start, policy, v1):
    trial = {"requests": 2, "successes": 10, "leaseFor": "10s", "rampOver": "2s"}
    envoy = start(judged(policy, notReadyFor="500ms", maxNotReadyFor="1s", trial=trial), plain=True)
    v1.answer(500)
    with Load(envoy.port(), [Request()], rate=200, connections=CROWD) as load:
        until(lambda: envoy.transitions(reason="trial-failed"), what="gated")
        v1.answer()
        until(lambda: envoy.transitions(from_="trial", to="ramp", reason="trial-passed"), what="a trial that passes")
        begun = time.monotonic()
        until(lambda: envoy.transitions(from_="ramp", to="ready", reason="ramp-over"), what="the end of the ramp")
        ended = time.monotonic()
        until(lambda: all_served(load), what="all go")
    assert v1.service.most == 2
    first, second, third = shares_served(load.answers, begun, ended)
    assert first < second < third
    assert envoy.transitions(from_="ramp") == 1

    # The same crowd with nothing that holds it back.
    v1.service.answered = 0
    assert 500 in {answer.status for answer in drive(envoy.port("plain"), [Request()] * CROWD, connections=CROWD)}


# -- flapping ---------------------------------------------------------------------


@of_kind(Flapping)
@pytest.mark.parametrize(("failures", "successes", "gated"), [(2, 2, False), (2, 1, False), (1, 2, True)])
def test_health_that_flaps_check_by_check_meets_no_threshold_of_two(
    start, policy, check, v1, failures, successes, gated
):
    hasty = {**check, "periodSeconds": 0.1, "failureThreshold": failures, "successThreshold": successes}
    envoy = start(judged(policy, hasty))
    status = 503 if gated else 200
    until(lambda: v1.seen("/healthz"), what="a check")
    until_all(lambda: get(envoy.port()).status == status, what=f"status {status}")
    with Load(envoy.port(), [Request()], rate=100) as load:
        until(lambda: v1.seen("/healthz") > 12, what="twelve checks")
    assert {answer.status for answer in load.answers} == {status}
    assert envoy.transitions() == envoy.transitions(to="not-ready", reason="check-failed") == gated


@of_kind(Flapping)
def test_flapping_changes_no_more_often_than_it_is_checked_and_each_error_is_explained(start, policy, check, v1):
    v1.service.checks = 10
    envoy = start(judged(policy, {**check, "failureThreshold": 1, "successThreshold": 1}))
    with Load(envoy.port(), [Request()], rate=200) as load:
        until(lambda: v1.seen("/healthz") > 12, what="some good checks after the last bad one")
    fallen = envoy.transitions(from_="ready", to="not-ready", reason="check-failed")
    risen = envoy.transitions(from_="not-ready", to="ready", reason="check-passed")
    assert 2 <= fallen == risen <= 5
    assert fallen + risen == envoy.transitions()
    assert envoy.logs().count("reviews-v1: ready -> not-ready (check-failed: status 500)") == fallen
    assert load.failed
    assert len(load.failed) < len(load.answers)
    told = b"policy reviews: upstream reviews-v1 is not ready: check-failed: status 500\n"
    assert {(answer.status, answer.body) for answer in load.failed} == {(503, told)}


# -- slow trials ------------------------------------------------------------------


def test_a_trial_request_that_is_slow_but_answered_is_a_success(start, policy, check, v1):
    """Slower than a tick, a check's period and the wait. So many checks do not pass that they would end the trial."""
    trial = {"requests": 1, "successes": 2, "leaseFor": "20s"}
    envoy = start(judged(policy, {**check, "successThreshold": NEVER}, notReadyFor="200ms", trial=trial), timeout="30s")
    trip(envoy, v1)
    v1.slow(0.7, path="/")
    with Load(envoy.port(), [Request()], rate=40, connections=4) as load:
        until(lambda: envoy.transitions(from_="trial"), what="the end of the trial")
    assert envoy.transitions(from_="trial") == envoy.transitions(from_="trial", to="ready", reason="trial-passed") == 1
    assert all(answer.seconds > 0.6 for answer in load.answers if answer.status == 200)


def test_a_trial_request_that_is_answered_after_its_lease_is_a_failure(start, policy, v1):
    waits = {"notReadyFor": "200ms", "maxNotReadyFor": "200ms"}
    trial = {"requests": 1, "successes": 1, "leaseFor": "1s"}
    envoy = start(judged(policy, **waits, trial=trial), timeout="30s")
    trip(envoy, v1)
    # Its answer is there while the next trial is on, and counts for none.
    v1.slow(1.5)
    with Load(envoy.port(), [Request()], rate=40, connections=4) as load:
        until(lambda: envoy.transitions(from_="trial", to="not-ready") >= 2, what="two trials")
    assert 200 in {answer.status for answer in load.answers}
    assert envoy.transitions(from_="trial") == envoy.transitions(from_="trial", reason="trial-unanswered")


def test_a_trial_request_with_a_body_that_goes_unanswered_is_a_failure_too(start, policy, v1):
    trial = {"requests": 1, "leaseFor": "1s"}
    # Of two workers, the one that did not see the failures could still let the request go with no lease.
    envoy = start(judged(policy, notReadyFor="200ms", trial=trial), concurrency=1, timeout="30s")
    trip(envoy, v1)
    v1.hang()

    def posted():
        """Whether it got there, where it is kept waiting for longer than its lease."""
        with suppress(TimeoutError):
            get(envoy.port(), method="POST", body=b"all of it", timeout=2)
        return v1.seen("/") == 6

    until(posted, what="a request let through on trial")
    assert envoy.transitions(from_="trial", to="not-ready", reason="trial-unanswered") == 1


# -- trials of more than headers --------------------------------------------------


def test_an_upstream_that_breaks_off_every_response_passes_no_trial(start, policy, v1):
    waits = {"notReadyFor": "200ms", "maxNotReadyFor": "200ms"}
    trial = {"requests": 1, "successes": 1}
    envoy = start(judged(policy, failOn=["5xx", "reset"], **waits, trial=trial))
    v1.reset_mid_body()
    with Load(envoy.port(), [Request()], rate=100):
        until(lambda: envoy.transitions(from_="trial", to="not-ready", reason="trial-failed") >= 4, what="four trials")
        assert envoy.transitions(from_="trial", to="ready") == 0
        v1.answer()
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")


@contextmanager
def endless(envoy, clients):
    """So many clients, of which some get the beginning of a response that does not end."""
    with ExitStack() as stack:
        yield [stack.enter_context(Stream(envoy.port(), end=True)) for _ in range(clients)]


def on_trial_of_beginnings(start, policy, v1, **trial):
    """An Envoy with v1 on trial, which begins each response and does not end it."""
    envoy = start(judged(policy, notReadyFor="200ms", trial=trial), timeout="60s")
    trip(envoy, v1)
    v1.behave(Behaviour(whole=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"))
    until(lambda: envoy.transitions(to="trial"), what="a trial")
    # Five ticks: both workers know of it.
    time.sleep(0.3)
    return envoy


def test_a_response_that_has_begun_is_still_under_way(start, policy, v1):
    envoy = on_trial_of_beginnings(start, policy, v1, requests=2, successes=3, leaseFor="1h")
    gauge = "cluster.reviews-v1.upstream_rq_active"

    def active():
        return envoy.stats(gauge)[gauge]

    with endless(envoy, 20) as first:
        until(
            lambda: active() == 2 and sum(stream.answered() for stream in first) == 20, what="all told or let through"
        )
        with endless(envoy, 20) as others:
            until(lambda: sum(stream.answered() for stream in others) == 20, what="all told")
            assert active() == 2
    # Whoever leaves in the middle has seen it begin well.
    until(lambda: active() == 0, what="all gone")
    v1.answer()
    until(lambda: get(envoy.port()).status == 200 and envoy.transitions(to="ready"), what="ready")
    assert envoy.transitions(from_="trial") == 1


def test_a_stream_that_has_begun_passes_a_trial_when_its_lease_expires(start, policy, v1):
    envoy = on_trial_of_beginnings(start, policy, v1, requests=1, successes=1, leaseFor="1s")
    with endless(envoy, 1):
        until(lambda: envoy.transitions(from_="trial", to="ready", reason="trial-passed"), what="ready")


# -- ten at once ------------------------------------------------------------------

TRIED = {"notReadyFor": "500ms", "maxNotReadyFor": "1s", "trial": {"requests": 1, "successes": 1}}
JUDGED_BY = {
    "check-failed": {},
    "consecutive-failures": {"consecutiveFailures": 5, **TRIED},
    "failure-share": {
        "consecutiveFailures": NEVER,
        "failurePercent": 50,
        "minimumRequests": 10,
        "window": "5s",
        **TRIED,
    },
}
TEN = range(10)


def reason_of(number):
    return list(JUDGED_BY)[number % 3]


@pytest.fixture
def ten(start, policy, check, v1):
    """An Envoy with upstreams app-0 to app-9, each with a gate on its own prefix, and a cluster that leads to v1."""
    policy["upstreams"], policy["gates"], policy["releases"], policy["probes"] = {}, [], [], {}
    for number in TEN:
        name, path = f"app-{number}", f"/{number}"
        breaker = JUDGED_BY[reason_of(number)]
        checked = {"readinessProbe": {**check, "httpGet": {"path": f"{path}/healthz"}}}
        judge = {"circuitBreaker": breaker} if breaker else checked
        policy["upstreams"][name] = {"cluster": name, **judge}
        policy["gates"].append({"match": [{"uri": {"prefix": path}}], "upstream": name})
    routes = [{"match": {"prefix": f"/{number}"}, "route": {"cluster": f"app-{number}"}} for number in TEN]
    return start(policy, routes=routes, clusters=[cluster(f"app-{number}", v1.port) for number in TEN])


def test_of_ten_that_fail_at_once_each_is_gated_and_let_through_for_itself(ten, v1):
    def names(**tags):
        """Of those with such a transition, as often as they had it."""
        return [name for name in map("app-{}".format, TEN) for _ in range(ten.transitions(upstream=name, **tags))]

    def gated(number):
        tags = {"upstream": f"app-{number}", "reason": reason_of(number)}
        return ten.counter("graygate_gated_requests_total", **tags)

    def recovers(number):
        v1.answer(path=f"/{number}")
        v1.answer(path=f"/{number}/healthz")
        until(lambda: ten.transitions(upstream=f"app-{number}", to="ready"), what=f"{number} ready")
        until_all(lambda: get(ten.port(), f"/{number}").status == 200, what=f"{number} let through")

    with Load(ten.port(), [Request(f"/{number}") for number in TEN], rate=300, connections=20) as load:
        until(lambda: len(load.answers) > 100, what="load")
        assert {answer.status for answer in load.answers} == {200}
        assert ten.transitions() == 0
        v1.answer(500)
        until(lambda: all(gated(number) for number in TEN), what="each gated for its own reason")
        assert len(names(from_="ready")) == 10
        for number in TEN:
            assert names(from_="ready", reason=reason_of(number)).count(f"app-{number}") == 1

        # More than a tick, in which all workers learn of it. From then on only trials reach those that fail.
        known = time.monotonic() + 1
        recovers(3)
        until(lambda: len(load.since(known)) > 200, what="load")
        assert names(to="ready") == ["app-3"]
        recovers(7)
        assert names(to="ready") == ["app-3", "app-7"]
        assert len(load.since(known, lambda a: a.status == 500)) <= ten.transitions(to="trial")

        v1.answer()
        until(lambda: ten.transitions(to="ready") == 10, what="all ready")
        until(lambda: all_served(load), what="all let through")
    assert names(from_="ready") == names(to="ready") == [f"app-{number}" for number in TEN]
    for phase in ("not-ready", "trial"):
        assert names(from_=phase) == names(to=phase)


# -- checks and requests together -------------------------------------------------


@pytest.mark.parametrize("first", ["check-failed", "consecutive-failures"])
def test_no_request_is_spent_on_what_checks_know_to_be_down(start, policy, check, v1, first):
    """Though it would be answered well: whichever was the first to say that it is down, checks say that it still is."""
    envoy = start(judged(policy, {**check, "periodSeconds": 0.1, "failureThreshold": 5}, notReadyFor="1500ms"))
    v1.answer(500, path="/healthz")
    if first == "consecutive-failures":
        trip(envoy, v1)
        v1.answer(path="/")
    until_all(lambda: said(envoy, first), what="gated")
    reached, checked = v1.seen("/"), v1.seen("/healthz")
    with Load(envoy.port(), [Request()], rate=100):
        until(lambda: v1.seen("/healthz") > checked + 20, what="more checks than fit into the wait")
    assert v1.seen("/") == reached
    assert envoy.transitions() == envoy.transitions(from_="ready", to="not-ready", reason=first) == 1
    v1.answer(path="/healthz")
    until_all(lambda: get(envoy.port()).status == 200, what="let through")
    assert envoy.transitions(from_="not-ready", to="ready", reason="check-passed") == 1


def on_trial(start, policy, check, v1, successes):
    """An Envoy with v1 on trial, with a check that passes, and no request to decide it."""
    envoy = start(judged(policy, {**check, "successThreshold": successes}, notReadyFor="200ms"))
    trip(envoy, v1)
    v1.answer()
    until(lambda: envoy.transitions(from_="not-ready", to="trial"), what="a trial")
    return envoy


def test_checks_that_fail_end_a_trial(start, policy, check, v1):
    envoy = on_trial(start, policy, check, v1, NEVER)
    v1.answer(500, path="/healthz")
    until(lambda: envoy.transitions(from_="trial", to="not-ready", reason="check-failed"), what="the end of the trial")
    until_all(lambda: said(envoy, "check-failed: status 500"), what="gated")
    assert v1.seen("/") == 5
    assert envoy.transitions() == 3


def test_checks_that_pass_end_a_trial(start, policy, check, v1):
    envoy = on_trial(start, policy, check, v1, 8)
    until(lambda: envoy.transitions(from_="trial", to="ready", reason="check-passed"), what="the end of the trial")
    until_all(lambda: get(envoy.port()).status == 200, what="let through")
    assert envoy.transitions() == 3


# -- cold start and idle times ----------------------------------------------------


def test_no_traffic_is_no_bad_share_of_it(start, policy, v1):
    least = {"failurePercent": 1, "slowPercent": 1, "slowerThan": "5s", "minimumRequests": 1, "window": "1s"}
    envoy = start(judged(policy, consecutiveFailures=NEVER, **least))
    # Longer than the window, and four ticks.
    time.sleep(1.3)
    assert {answer.status for answer in drive(envoy.port(), [Request()] * 20)} == {200}
    time.sleep(1.3)
    assert envoy.transitions() == 0
    v1.answer(500)
    get(envoy.port())
    until_all(lambda: said(envoy, "failure-share: 1 of 1"), what="gated by the first that fails")


def test_after_an_idle_time_the_share_is_of_new_responses_alone(start, policy, v1):
    shares = {"failurePercent": 50, "minimumRequests": 20, "window": "1s"}
    envoy = start(judged(policy, consecutiveFailures=NEVER, **shares))
    v1.answer(500, path="/bad")
    drive(envoy.port(), [Request("/bad")] * 15)
    # More than the window, and the tick in which a worker tells of what it saw.
    time.sleep(1.5)
    answers = drive(envoy.port(), [*[Request()] * 15, *[Request("/bad")] * 5])
    assert sorted(answer.status for answer in answers) == [200] * 15 + [500] * 5
    time.sleep(1)
    assert envoy.transitions() == 0


def test_a_trial_waits_for_the_first_request_after_an_idle_time(start, policy, v1):
    envoy = start(judged(policy, notReadyFor="200ms", trial={"requests": 1, "successes": 1, "leaseFor": "1s"}))
    trip(envoy, v1)
    v1.answer()
    # Longer than the wait and a lease.
    time.sleep(2)
    assert envoy.transitions(from_="trial") == 0
    assert get(envoy.port()).status == 200
    assert envoy.transitions(from_="trial", to="ready", reason="trial-passed") == 1
