"""Whatever a client sends, Envoy answers the same with the filter as without it.

A filter that reads requests could widen or narrow what a proxy accepts. So each request here is also sent to a listener
that has no filter. No case of h2spec and no request that Envoy refuses may count against an upstream.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product

import pytest

from harness import h2spec, raw_echo
from harness.client import get
from harness.config import Tree, bootstrap, route
from harness.envoy import Envoy

PORT = re.compile(rb"127\.0\.0\.1:\d+")
# A connection ends by itself once nothing more comes, so that a request that is not whole has a result, too.
ENDS = {
    "request_headers_timeout": "2s",
    "stream_idle_timeout": "2s",
    "common_http_protocol_options": {"idle_timeout": "2s", "max_headers_count": 100},
    "http_protocol_options": {"enable_trailers": True},
}


@contextmanager
def run(hcm: Tree) -> Iterator[Envoy]:
    """Runs an Envoy whose filter judges responses, splits users, gates and answers probes. No response is bad."""
    policy = {
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "circuitBreaker": {"failurePercent": 50, "slowPercent": 90, "slowerThan": "20s"}}
        },
        "probes": {"liveness": {"path": "/livez"}},
        "releases": [
            {
                "name": "shop",
                "steer": {"header": "x-gray-version"},
                "hashOn": [{"httpHeaderName": "x-user-id"}, {"httpCookie": {"name": "user"}}],
                "versions": [{"name": "v1", "upstream": "app", "weight": 100, "default": True}],
            }
        ],
        "gates": [{"upstream": "app", "match": [{"uri": {"prefix": "/"}, "queryParams": {"q": {"regex": "[a-z]*"}}}]}],
    }
    probe = {"match": {"path": "/livez"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
    with raw_echo.server() as app:
        config = bootstrap(policy, {"app": app.port}, plain=True, routes=[probe, route("app", "30s")], hcm=hcm)
        with Envoy(config) as envoy:
            assert get(envoy.port(), "/livez").text != get(envoy.port("plain"), "/livez").text
            yield envoy
            assert envoy.transitions() == 0


@pytest.mark.parametrize("path", ["/", "/livez"], ids=["forwarded", "probe"])
def test_h2spec_has_the_same_results(path):
    """A case that depends on which of two packets comes first may have either result, with the filter and without."""
    own: dict[str, set[str]] = defaultdict(set)
    plain: dict[str, set[str]] = defaultdict(set)

    def differ() -> list[str]:
        return [case for case in own | plain if own[case].isdisjoint(plain[case])]

    with run(h2spec.OPTIONS) as envoy, ThreadPoolExecutor() as pool:
        for _ in range(5):
            runs = pool.map(lambda name: h2spec.run(envoy.port(name), path), ("graygate", "plain"))
            for results, latest in zip((own, plain), runs, strict=True):
                assert len(latest) == 146
                assert list(latest.values()).count("passed") > 120
                for case, result in latest.items():
                    results[case].add(result)
            if not differ():
                break
    assert not differ()


METHODS = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "PATCH", "TRACE", "BREW", "get", "G E T", "G@T", ""]
TARGETS = [
    *("/", "/a?", "/a?q=b", "/a?q=%ff&&&=", "/a#b", "//a", "/../a", "/a/./b", "/%2e%2e/a", "/a%2fb", "/a%00b", "/a\\b"),
    *("/a;b=c", "/a\x7fb", "/a\tb", "/a b", "/\xff", "/a|b", "/\"<>'", "*", "a", "", "http://reviews/a", "HTTP://x/a"),
    *("http://user@reviews/a", "https://reviews/a", "ftp://reviews/a", "reviews:80", "/" + "a" * 70_000),
]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", "HTTP/11", ""]
HEADERS = [
    *(
        "x: y",
        "x:y",
        "x:",
        ": y",
        "x : y",
        " x: y",
        "x",
        "x: y\r\n z",
        "x: a\x00b",
        "x: a\nb",
        "x: a\rb",
        "x: \xff\xfe",
    ),
    *(
        "x\x00: y",
        "x\x7f: y",
        "x y: z",
        "x(y): z",
        "x_y: z",
        "\xe9: y",
        "host: other",
        "host:",
        "host: a b",
        "host: a:b",
    ),
    *(
        "host: [::1]",
        "host: a,b",
        "x: " + "y" * 70_000,
        "x-user-id: \xff",
        "cookie: user=\xff;;=",
        "cookie: " + "a=b;" * 2_000,
    ),
    *("connection: close", "connection: keep-alive, x", "connection: upgrade\r\nupgrade: websocket", "upgrade: h2c"),
    *("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk", "te: trailers", "te: gzip"),
    *("expect: 100-continue", "expect: other", "proxy-connection: close", "keep-alive: 1", "x-forwarded-for: a, b"),
    *("x-envoy-upstream-rq-timeout-ms: 1x", "x-envoy-max-retries: 9", "grpc-timeout: 1H", "x-gray-version: v2"),
    *("content-type: application/grpc", ":method: GET", ":path: /livez", "content-length: 0", "\r\nx: y"),
    "\r\n".join(f"x-{number}: y" for number in range(120)),
]
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
FRAMINGS = [
    (["content-length: 3"], b"abc"),
    (["content-length: 3"], b"ab"),
    (["content-length: 3"], b"abcd"),
    (["content-length: 3", "content-length: 3"], b"abc"),
    (["content-length: 3", "content-length: 4"], b"abcd"),
    (["content-length: 3, 3"], b"abc"),
    *(
        ([f"content-length: {text}"], b"abc")
        for text in ("+3", "-3", "0x3", "3 ", "03", "3;", "", "9" * 30, "1e1", "\xb3")
    ),
    (["content-length : 3"], b"abc"),
    (["transfer-encoding: chunked"], CHUNKS),
    (["transfer-encoding: chunked"], b"3\r\nabc\r\n"),
    (["transfer-encoding: chunked"], b"3;a=b\r\nabc\r\n0;c\r\n\r\n"),
    (["transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\nx: y\r\n\r\n"),
    (["transfer-encoding: chunked"], b"3\nabc\n0\n\n"),
    (["transfer-encoding: chunked"], b"3\r\nabcd\r\n0\r\n\r\n"),
    *(
        (["transfer-encoding: chunked"], size + b"\r\nabc\r\n0\r\n\r\n")
        for size in (b"-3", b"0x3", b"03", b"x", b" 3", b"f" * 20)
    ),
    (["content-length: 3", "transfer-encoding: chunked"], CHUNKS),
    (["transfer-encoding: chunked", "content-length: 13"], CHUNKS),
    (["transfer-encoding: chunked", "transfer-encoding: chunked"], CHUNKS),
    *(
        ([f"transfer-encoding: {text}"], CHUNKS)
        for text in (
            "Chunked",
            "chunked, chunked",
            "gzip, chunked",
            "chunked, gzip",
            "identity",
            "xchunked",
            " chunked",
            "",
        )
    ),
    (["transfer-encoding : chunked"], CHUNKS),
    (["transfer_encoding: chunked"], CHUNKS),
]
BREAKS = ["\r\n", "\n", "\r", "\r\n\r\n"]
NEXT = b"GET /next HTTP/1.1\r\nhost: reviews\r\n\r\n"


def request(
    method: str = "POST",
    target: str = "/",
    version: str = "HTTP/1.1",
    headers: Sequence[str] = (),
    body: bytes = b"",
    line_break: str = "\r\n",
) -> bytes:
    given = [] if any(header.lower().startswith("host") for header in headers) else ["host: reviews"]
    lines = [f"{method} {target} {version}", *given, *headers, "", ""]
    return line_break.join(lines).encode("latin-1") + body


def shapes() -> Iterator[bytes]:
    for method, target in product(METHODS, TARGETS):
        yield request(method, target)
    for version, target in product(VERSIONS, TARGETS[:3]):
        yield request("GET", target, version)
    for header, method, target in product(HEADERS, ("GET", "HEAD", "POST"), ("/", "/livez")):
        yield request(method, target, headers=[header])
    for (headers, body), method, target in product(FRAMINGS, ("GET", "POST"), ("/", "/livez")):
        yield request(method, target, headers=headers, body=body)
    for line_break in BREAKS:
        yield request("GET", line_break=line_break)
    whole = request(headers=["content-length: 3"], body=b"abc")
    for end in range(1, len(whole), 3):
        yield whole[:end]
    yield from (b"", b"\x00" * 20, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
    yield from (
        b"\r\n" + whole,
        b"\n\n" + whole,
        b" " + whole,
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"PROXY TCP4 a b 1 2\r\n" + whole,
    )


def outcome(envoy: Envoy, listener: str, sent: bytes) -> bytes:
    """Returns what comes back. Of a probe only the status, as the filter words its own reply."""
    received = PORT.sub(b"PORT", raw_echo.exchange(envoy.port(listener), sent))
    return received[:12] if b"/livez" in sent.partition(b"\n")[0] else received


@pytest.mark.parametrize("follows", [b"", NEXT], ids=["alone", "pipelined"])
def test_hostile_requests_have_the_same_results(follows):
    sent = [shape + follows for shape in shapes()]
    assert len(sent) > 725
    with run(ENDS) as envoy, ThreadPoolExecutor(256) as pool:

        def outcomes(shape: bytes) -> tuple[bytes, bytes]:
            return outcome(envoy, "graygate", shape), outcome(envoy, "plain", shape)

        results = list(pool.map(outcomes, sent))
        # Two threads of a busy machine may take turns as no two connections of one client would. What differs stays.
        suspects = [shape for shape, (own, plain) in zip(sent, results, strict=True) if own != plain]
        assert len(suspects) < 20, suspects[:3]
        differ = {shape[:200]: pair for shape in suspects if (pair := outcomes(shape))[0] != pair[1]}
    statuses = {plain[9:12] for _, plain in results}
    assert {b"200", b"400"} <= statuses, statuses
    assert differ == {}
