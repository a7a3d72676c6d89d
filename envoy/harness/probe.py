"""Helpers that send probes to a proxy."""

from __future__ import annotations

import json
from typing import Any

from .client import Response, get
from .envoy import Envoy
from .wait import until_all

HEALTH_JSON = "application/health+json"


def ask(envoy: Envoy, **options: Any) -> Response:
    """Sends one readiness probe."""
    return get(envoy.port(), "/readyz", **options)


def text(envoy: Envoy, path: str = "/readyz") -> str:
    return get(envoy.port(), path).text


def status(envoy: Envoy, path: str = "/readyz") -> int:
    return get(envoy.port(), path).status


def document(envoy: Envoy, path: str = "/readyz") -> dict[str, Any]:
    """Returns the response in the health+json format. It has each check, unless `details` is never."""
    found: dict[str, Any] = json.loads(get(envoy.port(), path, {"accept": HEALTH_JSON}).body)
    return found


def all_say(envoy: Envoy, wanted: int, path: str = "/readyz") -> None:
    """Waits until all workers respond with this status."""
    until_all(lambda: status(envoy, path) == wanted, what=f"{path} {wanted}")


def all_pass(envoy: Envoy, path: str = "/readyz") -> None:
    """Waits until all workers respond `pass`, which means that each check has a result."""
    until_all(lambda: document(envoy, path)["status"] == "pass", what=f"{path} passed")
