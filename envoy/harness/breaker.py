"""An upstream that is judged by its responses alone, and how its gate shows."""

from __future__ import annotations

from typing import Any

from .client import get
from .envoy import Envoy
from .load import Request, drive
from .wait import until, until_all

NEVER = 100_000


def judged(policy: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """v1 has all requests, a gate on all of them, and is judged by its responses alone."""
    policy["releases"] = []
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": NEVER, "notReadyFor": "1h", **settings}
    return policy


def in_turn(envoy: Envoy, *paths: str) -> list[int]:
    """The statuses of these requests, one after the other."""
    return [answer.status for answer in drive(envoy.port(), [Request(path) for path in paths], connections=1)]


def until_gated(envoy: Envoy, reason: str) -> None:
    """By all workers, for this reason, which the access log has as well."""
    said = f"upstream reviews-v1 is not ready: {reason}"
    until_all(lambda: said in get(envoy.port()).text, what=said)
    gate = f"graygate_gate{{reviews|reviews-v1|{reason}}}"
    until(lambda: gate in [line["details"] for line in envoy.access_log()], what=gate)
    assert envoy.counter("graygate_gated_requests_total", upstream="reviews-v1", reason=reason)
