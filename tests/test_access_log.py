"""What access logs and traces say of a request: its release, version, reason and gate. A real Envoy writes both.

The formats are those of the how-to page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from harness.client import get
from harness.config import Tree, cluster
from harness.docs import blocks
from harness.envoy import PROJECT, is_before
from harness.probe import all_say
from harness.wait import until

PAGE = PROJECT / "docs/how-to/access-logs-and-traces.md"
ALICE = {"x-user-id": "alice"}
LABEL = "%FILTER_STATE(wasm.graygate:PLAIN)%"


def page(key: str) -> Any:
    """Returns the value of this key in the page's YAML."""
    trees = [yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml"]
    [found] = [tree[key] for tree in trees if key in tree]
    return found


def logged(form: Tree, file: str = "decisions.log", **more: Any) -> Tree:
    """Returns an access log with this `log_format`, into a file of the test's Envoy."""
    kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    return {"name": "file", "typed_config": {"@type": kind, "path": file, "log_format": form}, **more}


@pytest.fixture
def decided(policy, v1):
    """A policy that labels each request. Its gates are closed: one replies, one forwards, and one falls back."""
    policy["requestLabel"] = "always"
    v1.answer(500, path="/down")
    check = {"httpGet": {"path": "/down"}, "periodSeconds": 0.2, "failureThreshold": 1}
    policy["upstreams"]["down"] = {"cluster": "reviews-v1", "readinessProbe": check}
    policy["probes"]["groups"] = {"down": {"path": "/downz", "checks": [{"upstream": "down"}]}}
    policy["gates"] = [
        {"match": [{"uri": {"prefix": "/gated"}}], "upstream": "down"},
        {"match": [{"uri": {"prefix": "/open"}}], "upstream": "down", "whenAllNotReady": "forward"},
        {
            "match": [{"uri": {"prefix": "/spare"}}],
            "upstream": "down",
            "fallback": {"upstream": "reviews-v2", "clusterHeader": "x-gray-cluster"},
        },
    ]
    policy["releases"][0]["match"] = [{"uri": {"regex": "/(gray|open|spare|gated).*"}}]
    policy["releases"][0]["versions"][1]["allow"] = ["alice"]
    return policy


#: What the page says of each kind of request.
LABELS = {
    "/gray": "reviews=v2 allowed",
    "/gated": "graygate_gate{reviews|down|check-failed}",
    "/open": "reviews=v2 allowed, failed-open; upstream=down; reason=check-failed; because=all-not-ready",
    "/spare": "fallback; upstream=down; reason=check-failed; to=reviews-v2",
    "/readyz": None,
    "/other": None,
}
DETAILS = {
    "/gray": "via_upstream",
    "/gated": "graygate_gate{reviews|down|check-failed}",
    "/readyz": "graygate_probe{reviews|readiness}",
    "/other": "via_upstream",
}


def ask_all(envoy):
    """Sends a request of each kind, once all workers know that the gates' upstream is down."""
    all_say(envoy, 503, "/downz")
    for path in LABELS:
        get(envoy.port(), path, ALICE)


def lines(envoy, file="decisions.log", number=6):
    """Returns the lines of those requests, once there are as many."""

    def found():
        written = (envoy.directory / file).read_text().splitlines()
        return [line for line in written if "/downz" not in line]

    return until(lambda: len(found()) >= number and found(), what=f"{number} lines")


def test_json_has_release_version_reason_and_gate(start, decided):
    envoy = start(decided, hcm={"access_log": [logged(page("log_format"))]})
    ask_all(envoy)
    entries = [json.loads(line) for line in lines(envoy)]
    assert {entry["path"]: entry["graygate"] for entry in entries} == LABELS
    assert {entry["path"]: entry["details"] for entry in entries}.items() >= DETAILS.items()
    assert {entry["path"]: entry["version"] for entry in entries}["/gray"] == "v2"


def test_text_has_release_version_reason_and_gate(start, decided):
    [form] = [block.text.strip() for block in blocks(PAGE) if "[%START_TIME%]" in block.text]
    envoy = start(decided, hcm={"access_log": [logged({"text_format_source": {"inline_string": form + "\n"}})]})
    ask_all(envoy)
    for line in lines(envoy):
        [path] = [path for path in LABELS if f'"GET {path} HTTP/1.1"' in line]
        assert f'"{LABELS[path] or "-"}"' in line, line


@pytest.mark.parametrize(("mode", "has_labels"), [("enforce", False), ("shadow", True)])
def test_without_always_only_shadow_has_labels(start, decided, mode, has_labels):
    decided.update(mode=mode, requestLabel="shadow")
    envoy = start(decided, hcm={"access_log": [logged({"json_format": {"path": "%REQ(:PATH)%", "graygate": LABEL}})]})
    ask_all(envoy)
    labels = {entry["path"]: entry["graygate"] for entry in map(json.loads, lines(envoy))}
    assert labels == (LABELS if has_labels else dict.fromkeys(LABELS))


def test_a_filter_writes_only_the_lines_that_matter(start, decided):
    [gated, labelled] = page("access_log")
    logs = [
        logged(entry["typed_config"]["log_format"], f"{name}.log", filter=entry["filter"])
        for name, entry in (("gated", gated), ("labelled", labelled))
    ]
    envoy = start(decided, hcm={"access_log": [*logs, logged({"json_format": {"path": "%REQ(:PATH)%"}})]})
    ask_all(envoy)
    lines(envoy)
    paths = {
        file: {json.loads(line)["path"] for line in lines(envoy, f"{file}.log", number)}
        for file, number in (("gated", 1), ("labelled", 4))
    }
    assert paths == {"gated": {"/gated"}, "labelled": {"/gray", "/gated", "/open", "/spare"}}


# -- traces -------------------------------------------------------------------------


@contextmanager
def collector() -> Iterator[tuple[int, list[Tree]]]:
    """Yields the port of a server that takes spans in Zipkin's form, and the spans that it got."""
    spans: list[Tree] = []

    class Collect(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = b""
            if "content-length" in self.headers:
                body = self.rfile.read(int(self.headers["content-length"]))
            else:
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            spans.extend(json.loads(body))
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def spans():
    with ExitStack() as stack:
        yield stack.enter_context(collector())


@pytest.mark.skipif(is_before("1.37"), reason="Envoy before 1.37 has no `value` for tags of spans")
def test_spans_have_release_version_reason_and_gate(start, decided, spans):
    port, found = spans
    tracing = page("tracing")
    zipkin = "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig"
    provider = {"@type": zipkin, "collector_cluster": "spans", "collector_endpoint": "/api/v2/spans"}
    tracing["provider"] = {
        "name": "zipkin",
        "typed_config": {**provider, "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": True},
    }
    envoy = start(decided, hcm={"tracing": tracing}, clusters=[cluster("spans", port)])
    ask_all(envoy)
    until(lambda: LABELS.keys() <= {urlsplit(span["tags"]["http.url"]).path for span in found}, 20, "the spans")
    tags = {urlsplit(span["tags"]["http.url"]).path: span["tags"] for span in found}
    assert {path: tags[path].get("graygate") for path in LABELS} == LABELS
    assert tags["/gray"]["graygate.version"] == "v2"
    assert {path: tags[path]["graygate.details"] for path in DETAILS} == DETAILS
