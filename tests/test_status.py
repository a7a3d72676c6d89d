"""The status page in a real Envoy: what it tells, whom it tells, and that it agrees with the metrics.

`tests/worlds/status_page.rs` covers what it shows in each state.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import jsonschema
import pytest

from harness.client import get, get2
from harness.envoy import PROJECT, Envoy
from harness.tool import validator
from harness.wait import until, until_all


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return validator("--of", "status")


def status(envoy: Envoy) -> dict[str, Any]:
    answer = get(envoy.port(), "/statusz")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = json.loads(answer.body)
    return document


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in items if item["name"] == name)


def test_an_answer_is_as_its_schema_says_and_as_the_metrics_say(start, shown, schema, v2):
    shown["upstreams"]["reviews-v1"]["circuitBreaker"] = {"failurePercent": 50}
    shown["releases"][0]["rollback"] = {"failurePercent": 5}
    shown["releases"][0]["schedule"] = [{"at": "2099-01-01T00:00:00Z", "weights": {"v1": 0, "v2": 100}}]
    envoy = start(shown, concurrency=2)
    until_all(lambda: named(status(envoy)["upstreams"], "reviews-v2").get("lastCheck"), what="a check of v2")
    document = status(envoy)
    schema.validate(document)
    assert not schema.is_valid({**document, "other": 1})
    assert document["policy"]["document"] == envoy.counter("graygate_policy_document", policy="reviews")
    assert document["policy"]["mode"] == "enforce"
    [release] = document["releases"]
    for version in release["versions"]:
        metric = envoy.counter("graygate_version_share_basis_points", version=version["name"])
        assert round(version["sharePercent"] * 100) == metric
    assert release["schedule"]["next"]["weights"] == {"v1": 0, "v2": 100}
    assert [upstream["state"] for upstream in document["upstreams"]] == ["ready", "ready"]
    v2.answer(500, path="/healthz")
    until_all(lambda: named(status(envoy)["upstreams"], "reviews-v2")["state"] == "not-ready", what="the outage")
    document = status(envoy)
    schema.validate(document)
    down = named(document["upstreams"], "reviews-v2")
    assert (down["reason"], down["reasonDetail"], down["lastCheck"]["detail"]) == (
        "check-failed",
        "status 500",
        "status 500",
    )
    until(lambda: envoy.counter("graygate_upstream_ready", upstream="reviews-v2") == 0, what="the gauge")
    assert envoy.counter("graygate_upstream_ready", upstream="reviews-v1") == 1
    assert envoy.transitions(upstream="reviews-v2", to="not-ready") >= 1


def test_head_and_other_methods(start, shown):
    envoy = start(shown)
    head = get(envoy.port(), "/statusz", method="HEAD")
    assert (head.status, head.body, head.headers["cache-control"]) == (200, b"", "no-store")
    for method in ("POST", "PUT", "DELETE"):
        answer = get(envoy.port(), "/statusz", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert get2(envoy.port(), "/statusz?why=curious").status == 200
    assert envoy.counter("graygate_probe_answers_total", probe="status", result="refused") == 3


def test_a_source_that_is_not_allowed_is_refused_in_words(start, shown):
    shown["probes"]["status"]["from"] = ["127.0.0.2"]
    envoy = start(shown)
    answer = get(envoy.port(), "/statusz")
    assert (answer.status, answer.text) == (403, "policy reviews: status refused: 127.0.0.1 is not in status.from\n")
    assert get(envoy.port(), "/statusz", source="127.0.0.2").status == 200
    header = {"x-forwarded-for": "127.0.0.2"}
    assert get(envoy.port(), "/statusz", header).status == 403


def test_a_header_does_not_change_the_source(start, shown):
    shown["probes"]["status"]["from"] = ["10.0.0.0/8"]
    envoy = start(shown, hcm={"xff_num_trusted_hops": 1})
    answer = get(envoy.port(), "/statusz", {"x-forwarded-for": "10.0.0.1, 10.0.0.1"})
    assert answer.status == 403
    assert answer.text.startswith("policy reviews: status refused: ")


def test_there_is_no_page_unless_the_policy_names_it(start, policy):
    envoy = start(policy)
    answer = get(envoy.port(), "/statusz", {"x-user-id": "alice"})
    assert answer.version is not None
    assert envoy.counter("graygate_probe_answers_total", probe="status") == 0


def test_each_policy_of_a_document_has_a_page_of_its_own(start, shown):
    other = {**shown, "name": "other", "hosts": ["other"], "probes": {"status": {"path": "/other"}}}
    envoy = start({"policies": [{**shown, "hosts": ["reviews"]}, other]})
    assert status(envoy)["policy"]["name"] == "reviews"
    answer = get(envoy.port(), "/other", {"host": "other"})
    assert json.loads(answer.body)["policy"]["name"] == "other"


def test_the_page_for_people_may_run_its_own_script_and_nothing_else(start, shown):
    envoy = start(shown)
    answer = get(envoy.port(), "/statusz", {"accept": "text/html"})
    allowed, text = answer.headers["content-security-policy"], answer.body.decode()
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in allowed, f"write sha256-{digest} into src/decision/probe/status.rs"
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    page = (PROJECT / "src/decision/probe/status/page.html").read_text()
    assert answer.body == page.encode()
    assert not re.search(r"https?:|//[a-z]|\son[a-z]+=|style=|innerHTML|eval\(", page)
