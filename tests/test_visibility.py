"""Envoy's statistics show the filter's metrics."""

from __future__ import annotations

from harness.client import get
from harness.wait import until


def test_every_metric_has_labels_in_prometheus(start, policy, v1):
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
    ready = 'graygate_upstream_ready{policy="reviews",upstream="reviews-v1"} 0\n'
    until(lambda: ready in envoy.prometheus(), what="not ready by the gauge")


def gated(envoy):
    return envoy.counter("graygate_gated_requests_total", upstream="reviews-v1")
