"""Active checks in Kubernetes terms: what they ask, and what the answer comes to."""

from __future__ import annotations

import itertools

import pytest

from harness.client import get
from harness.config import route
from harness.load import Request, drive
from harness.upstream import Behaviour
from harness.wait import until

ALICE = {"x-user-id": "alice"}
HOST = b"app.local:8080"


@pytest.fixture
def hasty(policy, check):
    """The policy, with one check that decides, and its host named."""
    check.update(periodSeconds=0.1, timeoutSeconds=1, failureThreshold=1)
    headers = [{"name": "X-Probe", "value": "graygate"}]
    check["httpGet"] = {"path": "/healthz", "host": "app.local", "port": 8080, "httpHeaders": headers}
    return policy


def checked(envoy, result):
    return envoy.counter("graygate_checks_total", upstream="reviews-v1", result=result)


def is_ready(envoy):
    """For the proxy as a whole: a worker may be a tick late to know."""
    v1 = {"upstream": "reviews-v1"}
    return envoy.transitions(to="ready", **v1) == envoy.transitions(from_="ready", **v1)


def until_passed(envoy):
    until(lambda: is_ready(envoy), what="the check passed")


def until_failed(envoy, reason):
    until(lambda: not is_ready(envoy), what="the check failed")
    said = f"[-]reviews-v1 failed: check-failed: {reason}\n"
    until(lambda: said in get(envoy.port(), "/readyz").text, what=said)


def redirect(upstream, to, path="/healthz", status=302, delay=0.0):
    # Not every status may have a body.
    upstream.behave(Behaviour(status, [("location", to)], b"", delay), path)


def test_checks_are_sent_as_the_probe_stanza_says(start, policy, check, v1):
    headers = [{"name": "X-Probe", "value": "graygate"}, {"name": "User-Agent", "value": "mine"}]
    check["httpGet"] = {"path": "/up?x=1", "host": "app.local", "port": 8443, "httpHeaders": headers}
    start(policy)
    until(lambda: v1.seen("/up"), what="a check")
    sent = dict(v1.last_headers_of("/up"))
    assert sent[b"host"] == b"app.local:8443"
    assert (sent[b"x-probe"], sent[b"user-agent"]) == (b"graygate", b"mine")


def test_checks_have_the_method_that_the_stanza_names(start, policy, check, v1, v2):
    check["httpGet"] = {"path": "/healthz", "method": "HEAD"}
    policy["upstreams"]["reviews-v2"]["readinessProbe"]["httpGet"]["method"] = "OPTIONS"
    envoy = start(policy)
    for name, upstream, method in [("reviews-v1", v1, "HEAD"), ("reviews-v2", v2, "OPTIONS")]:
        passed = {"upstream": name, "result": "passed"}
        until(lambda: envoy.counter("graygate_checks_total", **passed) >= 2, what=f"checks by {method}")
        assert {call.method for call in upstream.calls_of("/healthz")} == {method}
    assert envoy.counter("graygate_checks_total", result="failed") == 0


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_the_rate_of_checks_depends_on_neither_workers_nor_probes(start, policy, check, v1, v2, concurrency):
    check["periodSeconds"] = 0.25
    envoy = start(policy, concurrency=concurrency)
    until(lambda: v1.seen("/healthz"), what="the first check")
    answers = drive(envoy.port(), [Request("/readyz")] * 1000, connections=32)
    assert [answer.status for answer in answers] == [200] * 1000
    until(lambda: v1.seen("/healthz") >= 17, what="sixteen periods")
    calls = [call.at for call in v1.calls_of("/healthz")]
    periods = (calls[-1] - calls[0]) / 0.25
    # With a prober per VM, of which there is one more than workers, there would be twice as many at least.
    assert 0.5 * periods < len(calls) - 1 < 1.3 * periods
    assert envoy.counter("graygate_probe_answers_total", probe="readiness") == 1000
    assert envoy.counter("graygate_assignments_total") == 0
    assert v1.requests == v2.requests == 0


def test_probes_that_fail_trip_no_breaker(start, policy, check, v2):
    del policy["upstreams"]["reviews-v1"]["readinessProbe"]
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 2}
    policy["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2"})
    envoy = start(policy)
    v2.answer(500, path="/healthz")
    until(lambda: envoy.transitions(upstream="reviews-v2", to="not-ready"), what="v2 not ready")
    until(lambda: get(envoy.port(), "/readyz").status == 503, what="readiness 503")
    drive(envoy.port(), [Request("/readyz"), Request("/livez")] * 50)
    assert envoy.transitions(upstream="reviews-v1") == 0
    assert get(envoy.port(), "/", ALICE).version == "v1"


def test_a_check_that_takes_longer_than_its_period_is_not_overlapped(start, policy, check, v1):
    check["timeoutSeconds"] = 2.5
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    v1.hang(path="/healthz")
    seen = v1.seen("/healthz")
    until(lambda: checked(envoy, "failed"), what="a check timed out")
    # One that hung, one that had just been answered, one after the time-out.
    assert v1.seen("/healthz") - seen <= 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse", "could not be reached"),
        ("hang", "no answer in time"),
        ("reset", "could not be reached"),
        ("status", "status 500"),
        ("mid-body", "the answer broke off, or was none"),
    ],
)
def test_each_way_to_fail_a_check_is_named(start, policy, v1, fault, reason):
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    {
        "refuse": v1.refuse,
        "hang": lambda: v1.hang(path="/healthz"),
        "reset": lambda: v1.reset(path="/healthz"),
        "status": lambda: v1.answer(500, path="/healthz"),
        "mid-body": lambda: v1.reset_mid_body(path="/healthz"),
    }[fault]()
    said = f"policy reviews: upstream reviews-v1 is not ready: check-failed: {reason}\n"
    until(lambda: get(envoy.port(), "/", ALICE).text == said, what=said)


def test_it_takes_failure_threshold_failures_in_a_row(start, policy, check, v1):
    check.update(failureThreshold=3, periodSeconds=0.5)
    envoy = start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    v1.answer(500, path="/healthz")
    until(lambda: envoy.transitions(to="not-ready"), what="not ready")
    assert checked(envoy, "failed") == 3


def test_it_takes_success_threshold_successes_in_a_row(start, policy, check):
    policy["upstreams"]["reviews-v1"]["assume"] = "notReady"
    check.update(successThreshold=3, periodSeconds=0.5)
    envoy = start(policy)
    assert get(envoy.port(), "/", ALICE).status == 503
    until(lambda: envoy.transitions(upstream="reviews-v1", to="ready"), what="ready")
    assert checked(envoy, "passed") == 3
    until(lambda: get(envoy.port(), "/", ALICE).status == 200, what="let through")


@pytest.mark.parametrize("assume", ["ready", "notReady"])
def test_a_check_that_can_not_be_sent_flips_nothing(start, policy, assume):
    policy["upstreams"]["reviews-v1"].update(cluster="not-there", assume=assume)
    envoy = start(policy, routes=[route("reviews-v2", "5s")])
    until(lambda: checked(envoy, "error") >= 4, what="4 errors")
    assert checked(envoy, "failed") == envoy.transitions(upstream="reviews-v1") == 0
    said = 'upstream reviews-v1: check not sent: the proxy has no cluster "not-there"'
    assert envoy.logs().count(said) == 1
    assert get(envoy.port(), "/readyz").status == (200 if assume == "ready" else 503)


def test_the_statuses_that_the_policy_expects_pass_and_no_others(start, hasty, check, v1):
    check["expectedStatuses"] = [204, {"start": 300, "end": 303}, 418, {"start": 500, "end": 502}]
    envoy = start(hasty)
    for passing, failing in [(204, 200), (300, 205), (302, 303), (418, 417), (500, 299), (501, 502)]:
        redirect(v1, "/moved", status=failing)
        until_failed(envoy, f"status {failing}")
        redirect(v1, "/moved", status=passing)
        until_passed(envoy)
    assert v1.seen("/moved") == 0


@pytest.mark.parametrize(("fault", "reason"), [("refuse", "could not be reached"), ("hang", "no answer in time")])
def test_what_the_proxy_makes_up_is_no_expected_status(start, hasty, check, v1, fault, reason):
    check["expectedStatuses"] = [200, 503, 504]
    envoy = start(hasty)
    v1.answer(503, path="/healthz")
    until(lambda: checked(envoy, "passed") > 3, what="503 passed")
    getattr(v1, fault)()
    until_failed(envoy, reason)


def test_without_expected_statuses_the_kubelets_rule_holds(start, hasty, v1):
    envoy = start(hasty)
    for passing, failing in [(200, 400), (204, 404), (300, 429), (301, 500), (399, 503)]:
        v1.answer(failing, path="/healthz")
        until_failed(envoy, f"status {failing}")
        v1.answer(passing, body=b"", path="/healthz")
        until_passed(envoy)


# -- redirects, as the kubelet treats them ------------------------------------------


def test_redirects_on_the_same_host_are_followed(start, hasty, check, v1):
    check["httpGet"]["path"] = "/deep/healthz"
    envoy = start(hasty)
    places = [
        ("/absolute", "/absolute", HOST),
        ("relative?x=1", "/deep/relative", HOST),
        ("../up", "/up", HOST),
        ("http://app.local:8080/whole", "/whole", HOST),
        ("http://app.local:9090/port", "/port", b"app.local:9090"),
        ("http://app.local/no-port", "/no-port", b"app.local"),
        ("//app.local:8080/no-scheme#part", "/no-scheme", HOST),
    ]
    for location, path, host in places:
        redirect(v1, location, path="/deep/healthz")
        until(lambda: v1.seen(path), what=f"{location} followed")
        sent = dict(v1.last_headers_of(path))
        assert (sent[b"host"], sent[b"x-probe"]) == (host, b"graygate"), location
    assert checked(envoy, "failed") == 0


def test_each_status_of_a_redirect_is_followed(start, hasty, v1):
    envoy = start(hasty)
    for status in [301, 302, 303, 307, 308]:
        redirect(v1, f"/to-{status}", status=status)
        until(lambda: v1.seen(f"/to-{status}"), what=f"{status} followed")
    for status in [300, 304, 305, 306]:
        redirect(v1, "/not-followed", status=status)
        before = checked(envoy, "passed")
        until(lambda: checked(envoy, "passed") > before + 1, what=f"{status} passed")
    assert checked(envoy, "failed") == v1.seen("/not-followed") == 0


def test_where_a_redirect_leads_decides(start, hasty, v1):
    envoy = start(hasty)
    redirect(v1, "/next")
    v1.answer(500, path="/next")
    until_failed(envoy, "status 500")
    v1.answer(200, path="/next")
    until_passed(envoy)
    v1.reset(path="/next")
    until_failed(envoy, "could not be reached")


def test_a_redirect_to_another_host_passes_and_is_not_followed(start, hasty, v1):
    envoy = start(hasty)
    elsewhere = ["login.example.com", "app.local.example.com", "app:8080", "127.0.0.1"]
    for location in [*(f"http://{host}/login" for host in elsewhere), "http://", "mailto:app.local"]:
        v1.answer(500, path="/healthz")
        until_failed(envoy, "status 500")
        redirect(v1, location)
        until_passed(envoy)
    assert v1.seen("/login") == 0


def test_a_redirect_to_no_address_fails(start, hasty, v1):
    envoy = start(hasty)
    redirect(v1, "http://[::1/")
    until_failed(envoy, "redirected too often, or to no address")


def test_ten_requests_are_made_and_no_more(start, hasty, v1):
    envoy = start(hasty)
    paths = ["/healthz", *(f"/{number}" for number in range(1, 12))]
    for path, to in itertools.pairwise(paths):
        redirect(v1, to, path=path)
    until_failed(envoy, "redirected too often, or to no address")
    assert v1.seen("/9") >= 1
    assert v1.seen("/10") == 0
    v1.answer(200, path="/9")
    until_passed(envoy)


def test_the_timeout_covers_all_redirects(start, hasty, v1):
    envoy = start(hasty)
    until_passed(envoy)
    redirect(v1, "/next", delay=0.7)
    v1.slow(0.7, path="/next")
    until_failed(envoy, "no answer in time")
    assert v1.seen("/next") >= 1
