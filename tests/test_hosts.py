"""What a policy says about `host` and `scheme` is about Envoy's `:authority` and `:scheme`, also in `explain`."""

from __future__ import annotations

import pytest

from harness.client import get
from harness.tool import explain

# Up to 32 headers are read in one call, and more one by one. Envoy adds some of its own.
few_or_many = pytest.mark.parametrize("count", [1, 50], ids=["few", "many"])


Question = tuple[str, dict[str, str]]


def to(*hosts: str) -> list[Question]:
    """Returns requests to these hosts without further headers."""
    return [(host, {}) for host in hosts]


def padded(headers, count):
    return headers | {f"x-{number}": "1" for number in range(count)}


def versions(envoy, questions, count):
    """Returns the version of each of these requests with many headers."""
    return [get(envoy.port(), headers=padded({"host": host, **headers}, count)).version for host, headers in questions]


def said(directory, policy, questions):
    asked = [{"headers": {"host": host, **headers}} for host, headers in questions]
    return [line["assignments"][0]["version"] for line in explain(directory, policy, asked)]


def sent(upstream, path):
    """Returns the names of the headers of the last request for a path."""
    return {name.decode() for name, _ in upstream.last_headers_of(path)}


@few_or_many
def test_a_condition_on_the_host_header_is_one_on_the_authority(start, v1, policy, tmp_path, count):
    release = policy["releases"][0]
    release["versions"][1] |= {"weight": 0, "match": [{"headers": {"Host": {"exact": "beta.example.com"}}}]}
    release["skip"] = [{"withoutHeaders": {"host": {"regex": ".+[.]example[.]com"}}}]
    questions = to("www.example.com", "beta.example.com", "BETA.example.com", "beta.example.com:8443")
    envoy = start(policy)
    assert versions(envoy, questions, count) == ["v1", "v2", "v2", "v2"]
    assert said(tmp_path, policy, questions) == ["v1", "v2", "v2", "v2"]
    # A release that skips the request writes no header.
    for host, path in (("www.example.com", "/taken"), ("reviews", "/skipped")):
        get(envoy.port(), path, padded({"host": host}, count))
    assert "x-gray-version" in sent(v1, "/taken")
    assert "x-gray-version" not in sent(v1, "/skipped")


@few_or_many
def test_the_host_is_a_key(start, policy, tmp_path, count):
    policy["releases"][0]["hashOn"] = [{"httpHeaderName": "host"}]
    for version in policy["releases"][0]["versions"]:
        version["weight"] = 50
    questions = to(*(f"tenant-{tenant}.example.com" for tenant in range(20)))
    envoy = start(policy)
    held = versions(envoy, questions, count)
    assert set(held) == {"v1", "v2"}
    assert held == said(tmp_path, policy, questions)
    assert held == versions(envoy, to(*(f"{host.upper()}:8443" for host, _ in questions)), count)


def test_explain_has_the_scheme_that_envoy_has(start, policy, tmp_path):
    policy["releases"][0]["versions"][1] |= {"weight": 0, "match": [{"scheme": {"exact": "https"}}]}
    protocols = ["https", "http", "gopher", None]
    questions = [("reviews", {"x-forwarded-proto": protocol} if protocol else {}) for protocol in protocols]
    assert versions(start(policy), questions, 1) == ["v2", "v1", "v1", "v1"]
    assert said(tmp_path, policy, questions) == ["v2", "v1", "v1", "v1"]
