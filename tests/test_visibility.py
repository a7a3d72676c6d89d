"""What the filter does shows in Envoy's statistics and log, and nothing is logged per request."""

from __future__ import annotations

import re

from harness.client import get
from harness.load import Request, drive
from harness.wait import until


def test_everything_counted_has_labels_in_prometheus(start, policy, v1):
    envoy = start(policy)
    get(envoy.port(), "/livez")
    get(envoy.port(), "/", {"x-user-id": "alice"})
    v1.refuse()
    until(lambda: get(envoy.port(), "/", {"x-user-id": "alice"}).status == 503 and gated(envoy), what="gated")
    text = envoy.prometheus()
    for line in [
        'graygate_probe_answers_total{policy="reviews",probe="liveness",code="200",result="passed"} 1',
        'graygate_assignments_total{policy="reviews",release="reviews",version="v1",reason="sticky"} ',
        'graygate_gated_requests_total{policy="reviews",upstream="reviews-v1",reason="check-failed"} ',
        (
            'graygate_transitions_total{policy="reviews",upstream="reviews-v1",'
            'reason="check-failed",from="ready",to="not-ready"} 1'
        ),
        'graygate_checks_total{policy="reviews",upstream="reviews-v1",result="failed"} ',
    ]:
        assert line in text


def gated(envoy):
    return envoy.counter("graygate_gated_requests_total", upstream="reviews-v1")


def test_whether_an_upstream_is_ready_is_a_gauge(start, policy, v1, v2):
    policy["upstreams"]["reviews-v2"]["force"] = "notReady"
    envoy = start(policy)

    def ready(name):
        return f'graygate_upstream_ready{{policy="reviews",upstream="reviews-{name}"}} '

    until(lambda: f"{ready('v1')}1" in envoy.prometheus() and f"{ready('v2')}0" in envoy.prometheus(), what="shown")
    v1.refuse()
    until(lambda: f"{ready('v1')}0" in envoy.prometheus(), what="not ready")
    v1.accept()
    until(lambda: f"{ready('v1')}1" in envoy.prometheus(), what="ready")


def test_counts_are_those_of_the_requests(start, policy):
    envoy = start(policy)
    requests = [Request("/", {"x-user-id": f"user-{n}"}) for n in range(300)]
    versions = [answer.version for answer in drive(envoy.port(), requests)]
    drive(envoy.port(), [Request("/livez")] * 50)
    for version in ("v1", "v2"):
        counted = envoy.counter("graygate_assignments_total", version=version, reason="sticky")
        assert counted == versions.count(version)
    assert envoy.counter("graygate_probe_answers_total", probe="liveness", code="200") == 50


def test_what_has_not_happened_yet_shows_as_zero(start, policy):
    envoy = start(policy)
    fallback = [name for name in envoy.stats("wasmcustom.graygate_assignments_total") if "=fallback;" in name]
    assert len(fallback) == 2


def test_one_log_line_per_transition_and_none_per_request(start, policy, v1):
    envoy = start(policy)
    requests = [Request("/", {"x-user-id": f"user-{n}"}) for n in range(300)] + [Request("/readyz")] * 100
    drive(envoy.port(), requests)
    v1.refuse()
    until(lambda: envoy.counter("graygate_transitions_total", to="not-ready"), what="not ready")
    drive(envoy.port(), requests)
    v1.accept()
    until(lambda: envoy.counter("graygate_transitions_total", to="ready"), what="ready")
    lines = re.findall(r"wasm log [^:]*: (.*)", envoy.logs())
    assert lines == [
        "policy reviews: loaded: 2 upstreams, 2 probes, 1 release, 1 gate, a tick each 50 ms",
        "policy reviews: upstream reviews-v1: ready -> not-ready (check-failed: could not be reached)",
        "policy reviews: upstream reviews-v1: not-ready -> ready (check-passed)",
    ]
