"""Fixtures that most tests use: two upstreams, a policy for them, and a function that starts Envoy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from harness.config import Policy, bootstrap
from harness.envoy import Envoy
from harness.upstream import Upstream


@pytest.fixture
def v1() -> Iterator[Upstream]:
    with Upstream("v1") as upstream:
        yield upstream


@pytest.fixture
def v2() -> Iterator[Upstream]:
    with Upstream("v2") as upstream:
        yield upstream


@pytest.fixture
def policy() -> dict[str, Any]:
    """Two versions with weights 90 and 10, which are checked five times a second. Each test may change its own copy."""
    check = {
        "httpGet": {"path": "/healthz"},
        "periodSeconds": 0.2,
        "timeoutSeconds": 10,
        "failureThreshold": 2,
    }
    versions = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 90, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 10, "match": [{"headers": {"x-tester": {"exact": "true"}}}]},
    ]
    release = {
        "name": "reviews",
        "steer": {"header": "x-gray-version"},
        "hashOn": [{"httpHeaderName": "x-user-id"}, {"httpCookie": {"name": "user"}}],
        "versions": versions,
    }
    return {
        "name": "reviews",
        "upstreams": {name: {"cluster": name, "readinessProbe": dict(check)} for name in ("reviews-v1", "reviews-v2")},
        "probes": {
            "liveness": {"path": "/livez"},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "reviews-v1"}]},
        },
        "releases": [release],
        "gates": [{"upstream": "reviews-v1", "reply": {"retryAfterSeconds": 2}}],
    }


@pytest.fixture
def shown(policy: dict[str, Any]) -> dict[str, Any]:
    """The policy with a status page."""
    policy["probes"]["status"] = {"path": "/statusz"}
    return policy


@pytest.fixture
def rule(policy: dict[str, Any]) -> dict[str, Any]:
    """The `passThrough` of readiness in `policy`. Responses are stored for an hour."""
    rule = {"cacheSeconds": 3600}
    policy["probes"]["readiness"] = {"path": "/readyz", "passThrough": rule}
    return rule


@pytest.fixture
def check(policy: dict[str, Any]) -> dict[str, Any]:
    """The active check of v1 in `policy`."""
    check: dict[str, Any] = policy["upstreams"]["reviews-v1"]["readinessProbe"]
    return check


@pytest.fixture
def start(v1: Upstream, v2: Upstream) -> Iterator[Callable[..., Envoy]]:
    """`envoy = start(policy, delivery="ecds", concurrency=1)`, with v1 and v2. It ends with the test."""
    with ExitStack() as stack:

        def start_envoy(policy: Policy, concurrency: int = 2, **options: Any) -> Envoy:
            ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
            return stack.enter_context(Envoy(bootstrap(policy, ports, **options), concurrency=concurrency))

        yield start_envoy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Adds the end of the log of each Envoy that a fixture still holds to the report of a failed test."""
    report = yield
    if report.failed:
        report.sections += [(f"Envoy log, process {envoy.pid}", envoy.tail()) for envoy in Envoy.running]
    return report
