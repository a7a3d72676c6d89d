"""Clients cannot end a VM: every request gets a response, and the filter continues to work."""

from __future__ import annotations

from itertools import product

import pytest

from harness.client import get, get2
from harness.load import Request, drive


@pytest.fixture
def envoy(start, policy):
    # The policy has conditions on everything, so that the filter reads all parts of a request.
    condition = {"prefix": "x"}
    match = {"headers": {"x-a": condition}, "withoutHeaders": {"x-b": condition}, "queryParams": {"q": condition}}
    policy["releases"][0]["versions"][1]["match"] = [{**match, "uri": condition | {"prefix": "/x"}}]
    policy["gates"].append({"match": [{"headers": {"x-a": condition}}], "upstream": "reviews-v2"})
    return start(policy)


ODD = [
    b"\xff\xfe\x80",
    b"\xc3\x28",
    b"x" * 60 * 1024,
    b"",
    b" ",
    b"=;=;;",
    b"user",
    b"user=",
    b"user=;user=b",
    "ü".encode(),
]


@pytest.mark.parametrize("ask", [get, get2], ids=["http1", "http2"])
def test_odd_headers_are_served(envoy, ask):
    for name, value in product(["x-user-id", "cookie", "x-a", "x-b", "x-gray-version", "user-agent"], ODD):
        if ask is get2 and value == b" ":
            continue  # the protocol forbids it, and Envoy resets the stream before any filter
        assert ask(envoy.port(), "/x?q=x", {name: value}).version in ("v1", "v2"), (name, value[:10])
    many = [(f"x-{number}", "y") for number in range(450)] + [("cookie", f"c{n}=v") for n in range(450)]
    assert ask(envoy.port(), "/", many).version in ("v1", "v2")
    still_works(envoy)


def test_odd_paths_and_methods_are_served(envoy):
    for path in ["/?", "/%00%ff", "/x?q", "/x?q=%ff&&&=", "//", "/" + "a" * 60_000, "/x?" + "q=x&" * 10_000]:
        assert get(envoy.port(), path).version in ("v1", "v2"), path[:20]
    for method in ["HEAD", "OPTIONS", "PATCH", "TRACE"]:
        assert get(envoy.port(), "/", method=method).status == 200, method
    still_works(envoy)


def test_a_client_that_leaves_in_the_middle_does_no_harm(envoy, v1, v2):
    for upstream in (v1, v2):
        upstream.hang(path="/slow")
    for _ in range(20):
        with pytest.raises(TimeoutError):
            get(envoy.port(), "/slow", {"x-user-id": "alice"}, timeout=0.05)
    still_works(envoy)


def still_works(envoy):
    """Checks that the VM is still the same and that all workers still split and probe."""
    answers = drive(envoy.port(), [Request("/readyz")] * 20 + [Request("/", {"x-user-id": "alice"})] * 20)
    assert {answer.status for answer in answers} == {200}
    reloads = {name: value for name, value in envoy.stats("wasm.graygate.").items() if "vm_reload" in name}
    assert reloads
    assert not any(reloads.values()), reloads
    assert "panicked" not in envoy.logs()
    assert envoy.alive
