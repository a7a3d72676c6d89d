"""Probes are answered at the proxy, and the app never sees them."""

from __future__ import annotations

import re
import time
from datetime import datetime

import pytest

from harness.client import get, get2
from harness.load import Request, drive
from harness.probe import HEALTH_JSON, all_pass, all_say, document, status, text
from harness.wait import until, until_all

PASSED = "policy reviews: readiness passed\n"
AGE = r"; oldest answer \d\.\d s\n"
LISTED = r"\[\+\]reviews-v1 ok\npolicy reviews: readiness passed" + AGE
FAILED = r"\[-\]reviews-v1 failed: check-failed: status 500\npolicy reviews: readiness failed" + AGE
PLAIN = "text/plain; charset=utf-8"
both = pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])


@pytest.fixture
def run(start):
    """Like `start`, and waits until all is well and known to be."""

    def run_envoy(policy, **options):
        envoy = start(policy, **options)
        all_pass(envoy)
        return envoy

    return run_envoy


@pytest.fixture
def envoy(run, policy):
    return run(policy)


@pytest.fixture
def down(envoy, v1):
    v1.answer(500, path="/healthz")
    all_say(envoy, 503)
    return envoy


@both
def test_a_probe_is_answered_at_the_proxy(envoy, v1, v2, ask):
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?a=b&c", "/readyz/reviews-v1"]:
        answer = ask(envoy.port(), path)
        assert answer.status == 200, path
        assert "policy reviews: " in answer.text, path
    assert v1.requests == v2.requests == 0


@both
def test_head_gets_the_status_and_no_body(envoy, v1, ask):
    for path in ["/readyz", "/readyz?verbose", "/readyz/reviews-v1"]:
        answer = ask(envoy.port(), path, method="HEAD")
        assert (answer.status, answer.body) == (200, b""), path
    assert v1.requests == 0


def test_readiness_fails_with_its_upstream_and_says_why_while_liveness_passes(down, v1):
    assert re.fullmatch(FAILED, text(down))
    assert get(down.port(), "/readyz", method="HEAD").status == 503
    assert get(down.port(), "/livez").text == "policy reviews: liveness passed\n"
    v1.answer(200, path="/healthz")
    all_say(down, 200)


@pytest.mark.parametrize(
    ("details", "passing", "verbose", "failing"),
    [
        ("never", PASSED, PASSED, "policy reviews: readiness failed\n"),
        ("onFailure", PASSED, LISTED, FAILED),
        ("always", LISTED, LISTED, FAILED),
    ],
)
def test_details_are_told_as_the_policy_says(run, policy, v1, details, passing, verbose, failing):
    policy["probes"]["details"] = details
    envoy = run(policy)
    asked = {"": passing, "verbose": verbose, "a&verbose=false": verbose, "verbosely": passing}
    for query, body in asked.items():
        assert re.fullmatch(body, text(envoy, f"/readyz?{query}")), query
    assert ("checks" in document(envoy)) == (details != "never")
    v1.answer(500, path="/healthz")
    all_say(envoy, 503)
    assert re.fullmatch(failing, text(envoy))


def test_a_check_that_has_not_been_answered_passes_with_a_reserve(start, policy):
    policy["upstreams"]["reviews-v1"]["readinessProbe"]["initialDelaySeconds"] = 600
    envoy = start(policy)
    answer = get(envoy.port(), "/readyz")
    assert answer.status == 200
    assert answer.text == "[+]reviews-v1 ok: not checked yet\npolicy reviews: readiness passed, degraded\n"
    assert "age" not in answer.headers
    finding = {"status": "warn", "output": "not checked yet", "required": True}
    assert document(envoy)["checks"] == {"reviews-v1": [finding]}


# -- leaving checks out ------------------------------------------------------------


def test_what_is_excluded_counts_as_passed(run, policy, v1, v2):
    policy["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2"})
    envoy = run(policy)
    v1.answer(500, path="/healthz")
    v2.answer(500, path="/healthz")
    until_all(lambda: text(envoy).count("[-]") == 2, what="both failed")
    assert status(envoy, "/readyz?exclude=reviews-v1") == 503
    listed = text(envoy, "/readyz?exclude=reviews-v1")
    assert listed.startswith("[+]reviews-v1 excluded\n[-]reviews-v2 failed: ")
    both = "/readyz?exclude=reviews-v1&x=y&exclude=reviews-v2&exclude=reviews-v1"
    assert text(envoy, both) == PASSED
    assert text(envoy, f"{both}&verbose") == f"[+]reviews-v1 excluded\n[+]reviews-v2 excluded\n{PASSED}"
    assert document(envoy, both)["checks"]["reviews-v1"][0]["output"] == "excluded"


def test_names_that_are_no_checks_are_warned_of(down):
    names = ["foo", "reviews-v2", "Reviews-v1", "reviews-v1%20", "reviews%2Dv1"]
    answer = get(down.port(), "/readyz?" + "&".join(f"exclude={name}" for name in names))
    assert answer.status == 503
    warned = [f'warning: no check "{name}" to exclude' for name in names]
    assert answer.text.splitlines()[1:-1] == warned
    assert document(down, "/readyz?exclude=foo")["notes"] == ['no check "foo" to exclude']


@both
def test_hostile_names_to_exclude_are_warned_of_in_a_few_short_lines(down, ask):
    hostile = [
        "&".join(f"exclude=name-{number}" for number in range(4000)),
        "exclude=" + "x" * 60_000,
        "exclude=%ff%fe%80&exclude=%c3%28&exclude=%0a%0d%1b%5b31m%00",
        'exclude="&exclude=\\&exclude=<script>&exclude=../../etc/passwd&exclude=',
        "exclude&exclude=&exclude==&=exclude&&&exclude=exclude=reviews-v1",
    ]
    for query in hostile:
        answer = ask(down.port(), f"/readyz?{query}")
        assert answer.status == 503, query[:40]
        first, *warned, last = answer.text.splitlines()
        assert first.startswith("[-]reviews-v1 failed: ")
        assert last.startswith("policy reviews: readiness failed")
        assert 0 < len(warned) <= 5
        for line in warned:
            # A name may be longer than the 63 that are kept of it: what is odd is escaped.
            assert re.fullmatch(r'warning: no check "[ -~]{,126}" to exclude', line), line
        assert ask(down.port(), f"/readyz?{query}", {"accept": HEALTH_JSON}).status == 503
    assert {answer.status for answer in drive(down.port(), [Request("/livez")] * 20)} == {200}
    assert "panicked" not in down.logs()


def test_bytes_that_are_no_text_may_be_excluded_too(down):
    for raw in [b"\xff\xfe\x80", b"\xc3", "ü".encode() * 40]:
        answer = get2(down.port(), b"/readyz?exclude=" + raw)
        assert (answer.status, len(answer.text.splitlines())) == (503, 3), raw


# -- one check of several ------------------------------------------------------------


def test_each_check_can_be_asked_for_alone(run, policy, v2):
    policy["probes"]["readiness"]["checks"].append({"upstream": "reviews-v2"})
    policy["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v1"}]}
    policy["probes"]["drain"] = {"path": "/drainz"}
    envoy = run(policy)
    v2.answer(500, path="/healthz")
    all_say(envoy, 503)
    assert status(envoy, "/readyz/reviews-v1") == 200
    alone = get(envoy.port(), "/readyz/reviews-v2")
    assert alone.status == 503
    assert "[-]reviews-v2 failed: check-failed: status 500\n" in alone.text
    assert "reviews-v1" not in alone.text
    assert get(envoy.port(), "/drainz", method="POST").status == 200
    until_all(lambda: "[-]drain" in text(envoy), what="draining")
    assert status(envoy, "/readyz/reviews-v1") == 200


def test_only_the_exact_path_is_a_probe(envoy):
    near = ["/livez/", "/livezz", "/live", "/Livez", "/x?/livez", "/livez/reviews-v1", "/readyz/"]
    near += ["/readyz/startup", "/readyz/reviews-v2", "/readyz/reviews-v1/", "/readyz//reviews-v1"]
    for path in near:
        assert get(envoy.port(), path).version in ("v1", "v2"), path


def test_a_probe_whose_path_is_that_of_a_check_goes_before_it(run, policy):
    policy["probes"]["groups"] = {"other": {"path": "/readyz/reviews-v1"}}
    assert text(run(policy), "/readyz/reviews-v1") == "policy reviews: other passed\n"


def test_other_methods_reach_the_app(envoy):
    for method in ["POST", "PUT", "DELETE", "OPTIONS"]:
        assert get(envoy.port(), "/livez", method=method, body=b"x").version in ("v1", "v2"), method


def test_a_probe_must_meet_the_policys_match(start, policy):
    policy["probes"]["match"] = [{"headers": {"x-token": {"exact": value}}} for value in ("one", "two")]
    policy["probes"]["drain"] = {"path": "/drainz"}
    del policy["releases"]
    token = {"x-token": "two"}
    envoy = start(policy)
    asked = {"/livez": "GET", "/readyz": "HEAD", "/readyz/reviews-v1": "GET", "/drainz": "POST"}
    for path, method in asked.items():
        for other in [{}, {"x-token": "three"}]:
            assert get(envoy.port(), path, other, method).version == "v1", path
        assert get(envoy.port(), path, token, method).version is None, path


# -- what the answer says of itself ----------------------------------------------------


def test_an_answer_is_for_no_cache_and_says_how_old_it_is(run, policy):
    policy["upstreams"]["reviews-v1"]["readinessProbe"]["periodSeconds"] = 30
    envoy = run(policy)
    answer = until(lambda: (a := get(envoy.port(), "/readyz")).headers["age"] == "1" and a, what="age 1")
    expected = {
        "content-type": PLAIN,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "vary": "accept",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert "age" not in get(envoy.port(), "/livez").headers


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (HEALTH_JSON, HEALTH_JSON),
        ("application/json", "application/json"),
        ("application/json, application/health+json;q=0.1", HEALTH_JSON),
        ("text/html, Application/JSON ; q=0.5", "application/json"),
        ("application/json;q=0, text/plain", PLAIN),
        ("application/json; q=0.000, application/health+json;q=0", PLAIN),
        ("*/*", PLAIN),
        ("application/jsonp", PLAIN),
        ("text/plain", PLAIN),
        ("", PLAIN),
    ],
)
def test_json_is_for_those_who_ask_for_it(envoy, accept, form):
    assert get(envoy.port(), "/readyz", {"accept": accept}).headers["content-type"] == form


def test_the_json_form_has_each_check(run, policy, v1):
    check = policy["upstreams"]["reviews-v1"]["readinessProbe"]
    check.update(periodSeconds=2.9, failureThreshold=1, notReadyPeriodSeconds=0.2)
    envoy = run(policy)
    answer = get(envoy.port(), "/readyz", {"accept": HEALTH_JSON})
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("max-age=2", "accept")
    whole = document(envoy)
    finding = whole["checks"]["reviews-v1"][0]
    told = datetime.fromisoformat(finding.pop("time")).timestamp() + finding.pop("ageMilliseconds") / 1000
    assert 0 <= time.time() - told < 1
    assert finding == {"status": "pass", "required": True}
    described = {"serviceId": "reviews", "description": "readiness"}
    assert whole == {"status": "pass", **described, "checks": {"reviews-v1": [finding]}}
    v1.answer(500, path="/healthz")
    all_say(envoy, 503)
    answer = get(envoy.port(), "/readyz", {"accept": HEALTH_JSON})
    assert (answer.status, answer.headers["cache-control"]) == (503, "no-store")
    whole = document(envoy)
    assert whole["status"] == "fail"
    assert whole["checks"]["reviews-v1"][0]["output"] == "check-failed: status 500"


def test_the_access_log_tells_a_probe_by_its_details(start, policy):
    envoy = start(policy)
    get(envoy.port(), "/readyz")
    lines = until(envoy.access_log, what="an access log line")
    assert lines[0]["details"] == "graygate_probe{reviews|readiness}"


def test_answers_are_counted_by_probe_status_and_result(down):
    def counted(**tags):
        return down.counter("graygate_probe_answers_total", **tags)

    before = counted(probe="readiness", code="503", result="failed")
    for path in ["/readyz", "/livez", "/livez"]:
        get(down.port(), path)
    assert counted(probe="readiness", code="503", result="failed") == before + 1
    assert counted(probe="liveness", code="200", result="passed") == 2


def test_a_probe_of_no_upstream_passes(start):
    envoy = start({"name": "bare", "probes": {"readiness": {"path": "/readyz"}}})
    for path in ["/readyz", "/readyz?verbose"]:
        assert text(envoy, path) == "policy bare: readiness passed\n"
    assert get(envoy.port(), "/readyz", {"accept": HEALTH_JSON}).headers["cache-control"] == "max-age=0"
