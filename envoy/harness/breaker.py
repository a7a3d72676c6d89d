"""Helpers for tests of an upstream that is judged only by its responses, and of its gate."""

from __future__ import annotations

from typing import Any

from .client import get
from .envoy import Envoy
from .load import Request, drive
from .wait import until, until_all

NEVER = 100_000


def judged(policy: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Changes a policy so that v1 gets all requests, has a gate on them, and is judged only by its responses."""
    policy["releases"] = []
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"consecutiveFailures": NEVER, "notReadyFor": "1h", **settings}
    return policy


def in_turn(envoy: Envoy, *paths: str) -> list[int]:
    """Sends these requests one after the other, and returns their statuses."""
    return [answer.status for answer in drive(envoy.port(), [Request(path) for path in paths], connections=1)]


def until_gated(envoy: Envoy, reason: str) -> None:
    """Waits until all workers gate requests for this reason, and the access log has the reason, too."""
    said = f"upstream reviews-v1 is not ready: {reason}"
    until_all(lambda: said in get(envoy.port()).text, what=said)
    gate = f"graygate_gate{{reviews|reviews-v1|{reason}}}"
    until(lambda: gate in [line["details"] for line in envoy.access_log()], what=gate)
    assert envoy.counter("graygate_gated_requests_total", upstream="reviews-v1", reason=reason)
