"""Envoy's statistics show the filter's metrics."""

from __future__ import annotations

import re

from harness.client import get
from harness.wait import until


def test_every_metric_has_labels_in_prometheus(start, policy, v1):
    envoy = start(policy)
    get(envoy.port(), "/livez")
    get(envoy.port(), "/", {"x-user-id": "alice"})
    v1.refuse()
    until(lambda: get(envoy.port(), "/", {"x-user-id": "alice"}).status == 503 and gated(envoy), what="gated")
    found = series(envoy.prometheus())
    for name, labels in [
        ("graygate_probe_answers_total", {"probe": "liveness", "code": "200", "result": "passed"}),
        ("graygate_assignments_total", {"release": "reviews", "version": "v1", "reason": "sticky"}),
        ("graygate_gated_requests_total", {"upstream": "reviews-v1", "reason": "check-failed"}),
        (
            "graygate_transitions_total",
            {"upstream": "reviews-v1", "reason": "check-failed", "from": "ready", "to": "not-ready"},
        ),
        ("graygate_checks_total", {"upstream": "reviews-v1", "result": "failed"}),
    ]:
        assert float(found[name, frozenset({"policy": "reviews", **labels}.items())]) > 0, name
    ready = 'graygate_upstream_ready{policy="reviews",upstream="reviews-v1"} 0\n'
    until(lambda: ready in envoy.prometheus(), what="not ready by the gauge")


def series(text):
    """Returns the value of each series of graygate by its name and its labels, whose order means nothing."""
    lines = re.findall(r"^(graygate_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
    return {(name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): value for name, labels, value in lines}


def gated(envoy):
    return envoy.counter("graygate_gated_requests_total", upstream="reviews-v1")
