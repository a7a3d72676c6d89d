"""`graygate status` reads many proxies, real ones among them, and says who differs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jsonschema
import pytest

from harness.client import get
from harness.tool import run, validator
from harness.wait import until, until_all


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return validator("--of", "status-report")


def report(*arguments: str, code: int) -> dict[str, Any]:
    done = run("status", "--json", *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def urls(envoy) -> list[str]:
    admin = f"http://127.0.0.1:{envoy.admin_port}/stats"
    return [f"http://127.0.0.1:{envoy.port()}/statusz", admin, f"{admin}?format=json", f"{admin}/prometheus"]


def shows(envoy, state: str) -> bool:
    upstreams = json.loads(get(envoy.port(), "/statusz").body)["upstreams"]
    return all("lastCheck" in upstream for upstream in upstreams) and upstreams[1]["state"] == state


def test_the_page_and_all_forms_of_statistics_agree(start, shown, schema, v2):
    envoy = start(shown)
    v2.answer(500, path="/healthz")
    until_all(lambda: shows(envoy, "not-ready"), what="the outage")
    until(lambda: envoy.counter("graygate_upstream_ready", upstream="reviews-v2") == 0, what="the gauge")
    found = report(*urls(envoy), code=0)
    schema.validate(found)
    assert found["agree"]
    assert found["differences"] == []
    for proxy in found["proxies"]:
        [policy] = proxy["policies"]
        assert (policy["policy"], policy["mode"]) == ("reviews", "enforce")
        assert policy["shares"] == {"reviews": {"v1": 90.0, "v2": 10.0}}
        assert [upstream["upstream"] for upstream in policy["notReady"]] == ["reviews-v2"]
    page = found["proxies"][0]["policies"][0]
    assert page["notReady"][0]["reason"] == "check-failed: status 500"
    lines = run("status", *urls(envoy)).stdout.splitlines()
    assert lines[0].split()[:4] == ["PROXY", "MODULE", "POLICY", "DOCUMENT"]
    assert "reviews-v2 (check-failed: status 500)" in lines[1]
    assert lines[-1] == "4 proxies agree"


def test_proxies_with_different_documents_and_shares_differ(start, shown, schema):
    one = start(shown)
    shown["releases"][0]["versions"][0]["weight"] = 50
    shown["releases"][0]["versions"][1]["weight"] = 50
    two = start(shown)
    until_all(lambda: shows(one, "ready") and shows(two, "ready"), what="all ready")
    found = report(urls(one)[0], urls(two)[0], code=1)
    schema.validate(found)
    assert [difference["what"] for difference in found["differences"]] == ["document", "shares"]
    assert found["differences"][1]["groups"][1]["value"] == "v1 50 %, v2 50 %"
    done = run("status", urls(one)[0], urls(two)[0])
    assert "differ: policy reviews: shares\n  v1 90 %, v2 10 % on " in done.stdout


def test_a_proxy_that_cannot_be_read_is_named_with_the_reason(start, shown, schema):
    shown["probes"]["status"]["from"] = ["127.0.0.2"]
    envoy = start(shown)
    page = urls(envoy)[0]
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        closed.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/statusz"
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}/statusz"
        found = report(page, refused, hanging, "--timeout", "300ms", code=1)
    schema.validate(found)
    errors = [proxy["error"] for proxy in found["proxies"]]
    assert errors == [
        "status 403: policy reviews: status refused: 127.0.0.1 is not in status.from",
        "Connection refused",
        "no answer within 300ms",
    ]


def test_an_answer_of_something_else_is_named(start, policy):
    envoy = start(policy)
    ready, listeners = (f"http://127.0.0.1:{envoy.admin_port}/{path}" for path in ("ready", "listeners?format=json"))
    found = report(ready, listeners, code=1)
    assert found["proxies"][0]["error"].startswith("no statistics of graygate. ")
    assert found["proxies"][1]["error"].startswith("the answer is neither a status page nor statistics: ")


def stats(path, text: str) -> str:
    path.write_text("".join(f"wasmcustom.graygate_{line}\n" for line in text.splitlines()))
    return str(path)


def test_statistics_differ_in_draining_and_in_the_policies_in_use(tmp_path, schema):
    shop = "policy_document.policy=.=shop;.;: 77\n"
    one = stats(tmp_path / "1.stats", f"{shop}draining.policy=.=shop;.;: 0")
    two = stats(tmp_path / "2.stats", f"{shop}draining.policy=.=shop;.;: 1\npolicy_document.policy=.=web;.;: 5")
    found = report(one, two, code=1)
    schema.validate(found)
    assert [(difference["policy"], difference["what"]) for difference in found["differences"]] == [
        ("shop", "draining"),
        ("web", "in use"),
    ]
    lines = run("status", one, two).stdout.splitlines()
    assert lines[0].split()[4:6] == ["MODE", "DRAINING"]
    assert "differ: policy web: in use" in lines


def test_a_refused_document_is_told_and_no_agreement(tmp_path, schema):
    refused = stats(tmp_path / "1.stats", "policy_refused.plugin=.=shop;.;: 1")
    found = report(refused, code=1)
    schema.validate(found)
    [proxy] = found["proxies"]
    assert (proxy["policyRefused"], proxy["policies"], "error" in proxy) == (["shop"], [], False)
    told = run("status", refused).stdout
    assert told == f"refused: {refused}: the newest document of plugin shop was refused, and no policy is in use\n"


def test_an_own_weight_of_0_after_a_rollback_is_no_difference(tmp_path, schema):
    shop = "policy_document.policy=.=shop;.;: 77\n"
    count = "rollbacks_total.policy=.=shop;.;release=.=web;.;version=.=v2;.;reason=.=failures;.;: 1\n"
    one, two = stats(tmp_path / "1.stats", shop + count), stats(tmp_path / "2.stats", shop)
    found = report(one, two, code=0)
    schema.validate(found)
    [policy] = found["proxies"][0]["policies"]
    assert (policy["rollbacks"], "rolledBack" in policy) == ({"web/v2": 1}, False)
    assert "web/v2 (1 so far)" in run("status", one, two).stdout


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/statusz"
        server.shutdown()


def test_text_of_strangers_is_printed_with_escapes():
    hostile = "\x1b[2Jall well\x9b\u202e"
    with answering(500, hostile.encode()) as url:
        told = run("status", url)
        found = run("status", "--json", url)
    assert told.stdout.splitlines()[0] == f"unreadable: {url}: status 500: \\u{{1b}}[2Jall well\\u{{9b}}\\u{{202e}}"
    assert found.stdout.isascii()
    assert json.loads(found.stdout)["proxies"][0]["error"] == f"status 500: {hostile}"


def test_neither_a_redirect_nor_a_proxy_of_the_environment_is_used(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with answering(302, b"", location="/elsewhere") as url:
        [proxy] = report(url, code=1)["proxies"]
    assert proxy["error"] == "status 302: a redirect to /elsewhere, which is not followed"


def test_lists_of_urls_come_from_a_file_or_standard_input_and_answers_from_files(start, shown, tmp_path):
    envoy = start(shown)
    until_all(lambda: shows(envoy, "ready"), what="both ready")
    page, raw, *_ = urls(envoy)
    listed = tmp_path / "urls.txt"
    listed.write_text(f"# ours\n\n{page}\n{raw}\n{page}\n")
    assert run("status", "--file", listed).stdout.endswith("2 proxies agree\n")
    assert run("status", "-", stdin=listed.read_text()).stdout.endswith("2 proxies agree\n")
    saved = tmp_path / "pod.stats"
    saved.write_text(envoy.admin("/stats"))
    assert run("status", page, saved).stdout.endswith("2 proxies agree\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "required"),
        (["https://proxy/statusz"], 2, "https is not supported"),
        (["127.0.0.1:20000"], 2, "127.0.0.1:20000: no such file. If it is a URL, begin it with http://."),
        (["--timeout", "0s", "http://127.0.0.1:1/"], 2, "write a time such as 2s or 500ms"),
        (["--file", "/nowhere/urls.txt"], 3, "No such file"),
        (["/nowhere/pod.stats"], 3, "No such file"),
    ],
)
def test_wrong_calls_and_files_have_exit_codes_of_their_own(arguments, code, words):
    done = run("status", *arguments)
    assert done.returncode == code
    assert words in done.stderr
