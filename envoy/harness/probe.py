"""Asking a proxy for its health, as those who run it do."""

from __future__ import annotations

import json
from typing import Any

from .client import Response, get
from .envoy import Envoy
from .wait import until_all

HEALTH_JSON = "application/health+json"


def ask(envoy: Envoy, **options: Any) -> Response:
    """One question for readiness."""
    return get(envoy.port(), "/readyz", **options)


def is_replay(answer: Response) -> bool:
    """Whether it is a kept answer of the app's rather than a new one."""
    return answer.headers["age"] is not None


def text(envoy: Envoy, path: str = "/readyz") -> str:
    return get(envoy.port(), path).text


def status(envoy: Envoy, path: str = "/readyz") -> int:
    return get(envoy.port(), path).status


def document(envoy: Envoy, path: str = "/readyz") -> dict[str, Any]:
    """In the health+json form, which names each check unless the policy says never."""
    found: dict[str, Any] = json.loads(get(envoy.port(), path, {"accept": HEALTH_JSON}).body)
    return found


def all_say(envoy: Envoy, wanted: int, path: str = "/readyz") -> None:
    """Wait until all workers answer with this status."""
    until_all(lambda: status(envoy, path) == wanted, what=f"{path} {wanted}")


def all_pass(envoy: Envoy, path: str = "/readyz") -> None:
    """Wait until all workers say pass with no reserve: each check has been answered."""
    until_all(lambda: document(envoy, path)["status"] == "pass", what=f"{path} passed")
