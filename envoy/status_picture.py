"""Takes the picture of the status page for the documents, from a real Envoy in which one version has failed.

With `--look DIR` it also writes the page in dark colours and at the width of a phone there, to be looked at.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.chromium import Chromium
from harness.client import get
from harness.config import bootstrap
from harness.envoy import PROJECT, Envoy
from harness.upstream import Upstream
from harness.wait import until

PICTURE = PROJECT / "docs" / "pictures" / "status-page.png"
# The height is that of the page, so that the picture has no empty part.
LOOKS = {"light": (1000, False), "dark": (1000, True), "phone": (390, False)}


def policy() -> dict[str, Any]:
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 2}
    breaker = {"failurePercent": 50, "slowPercent": 80, "slowerThan": "1s"}
    upstreams = {
        name: {"cluster": f"shop-{name}", "readinessProbe": check, "circuitBreaker": breaker} for name in NAMES
    }
    versions = [
        {"name": "v1", "upstream": "v1", "weight": 90, "default": True},
        {"name": "v2", "upstream": "v2", "weight": 10},
    ]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    release = {
        "name": "web",
        "steer": {"header": "x-gray-version"},
        "hashOn": [{"httpHeaderName": "x-user-id"}],
        "versions": versions,
        "schedule": [{"at": tomorrow.strftime("%Y-%m-%dT10:00:00Z"), "weights": {"v1": 50, "v2": 50}}],
        "rollback": {"failurePercent": 5},
    }
    return {
        "name": "shop",
        "upstreams": upstreams,
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "v1"}]}, "status": {"path": "/statusz"}},
        "releases": [release],
        "gates": [{"upstream": "v1"}, {"match": [{"uri": {"prefix": "/search"}}], "upstream": "search"}],
    }


NAMES = ("v1", "v2", "search")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    with Upstream("v1") as v1, Upstream("v2") as v2, Upstream("search") as search:
        ports = {"shop-v1": v1.port, "shop-v2": v2.port, "shop-search": search.port}
        with Envoy(bootstrap(policy(), ports)) as envoy, Chromium() as browser:
            url = f"http://127.0.0.1:{envoy.port()}/statusz"

            def state() -> list[str]:
                upstreams = json.loads(get(envoy.port(), "/statusz").body)["upstreams"]
                return [upstream["state"] for upstream in upstreams if "lastCheck" in upstream]

            for user in range(300):
                get(envoy.port(), "/", {"x-user-id": f"user-{user}"})
            v2.answer(503, path="/healthz")
            until(lambda: state() == ["ready", "not-ready", "ready"], 30, "the outage")
            for name, (width, dark) in LOOKS.items():
                browser.look(width=width, height=100, dark=dark)
                browser.open(url)
                until(lambda: "1 of 3 upstreams not ready" in browser.text(), 20, "the page")
                if name == "light":
                    browser.picture(PICTURE)
                elif arguments.look:
                    browser.picture(arguments.look / f"{name}.png")
    print(f"{PICTURE.relative_to(PROJECT)}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
