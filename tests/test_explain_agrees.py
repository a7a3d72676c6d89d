"""`graygate explain` says what the filter does: random policies and requests, in a real Envoy and in the tool."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest

from harness import config, echo, sample_policies, samples
from harness.client import Response, get2, pairs
from harness.config import Tree
from harness.envoy import Envoy
from harness.samples import Sample
from harness.tool import explain, run
from harness.wait import until

# Set SEED to try other policies and requests.
SEED = int(os.environ.get("SEED", "20260901"))
POLICIES, REQUESTS = 60, 15
# Each request has a header of its own with this name, by which the access log tells it.
NUMBER = "x-number"
# The same request has other values for these the second time.
VARYING = {"x-request-id", "date", "x-envoy-upstream-service-time", echo.HEADER}


def send(port: int, sample: Sample, number: int) -> Response:
    """Sends a sample as it is, even if it is unusual."""
    headers = [*sample.all_headers(), (NUMBER, str(number))]
    if sample.http == 2:
        given = [("host", sample.authority), *headers]
        return get2(port, sample.target, given, sample.method, scheme=sample.scheme)
    target = f"https://{sample.authority}{sample.target}" if sample.scheme == "https" else sample.target
    lines = [f"{sample.method} {target} HTTP/1.1".encode(), f"host: {sample.authority}".encode()]
    lines += [name.encode() + b": " + value for name, value in pairs(headers)]
    with socket.create_connection(("127.0.0.1", port), 10, (sample.source, 0)) as sock:
        sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        answer = http.client.HTTPResponse(sock, method=sample.method)
        answer.begin()
        return Response(answer.status, answer.headers, answer.read())


def listener(name: str, filters: list[Tree]) -> Tree:
    """Returns a listener whose routes show the upstream the filter state by which a release may steer.

    A header names the cluster, as the gates without a match depend on it.
    """
    fields = {
        "number": f"%REQ({NUMBER})%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "label": "%FILTER_STATE(wasm.graygate:PLAIN)%",
    }
    log = config.access_log(f"{name}.access.log")
    log[0]["typed_config"]["log_format"] = {"json_format": fields}
    state = {"header": {"key": "x-state", "value": "%FILTER_STATE(envoy.string:PLAIN)%"}}
    default = {**config.route(samples.DEFAULT_CLUSTER, "5s"), "request_headers_to_add": [state]}
    match = {"prefix": "/", "headers": [{"name": samples.ROUTE_HEADER, "present_match": True}]}
    named = {**default, "match": match, "route": {"cluster_header": samples.ROUTE_HEADER, "timeout": "5s"}}
    return config.listener(name, filters, [named, default], {"access_log": log})


def edited(headers: Iterable[tuple[str, str]], edits: Tree) -> Counter[tuple[str, str]]:
    """Returns headers after the edits that an explanation lists."""
    gone = {*edits["set"], *edits["remove"]}
    kept = [pair for pair in headers if pair[0] not in gone]
    return Counter([*kept, *edits["set"].items(), *map(tuple, edits["add"])])


def stable(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in VARYING]


def masked(reply: Tree) -> Tree:
    """Returns a reply without the age of what the proxy knows, which the tool cannot tell."""
    return {name: re.sub(r"oldest answer [\d.]+ s", "", str(value)) for name, value in reply.items()}


def forwarded(said: Tree, plain: Response, got: Response) -> list[Any]:
    """Compares a forwarded request with what the explanation makes of the same request without the filter."""
    if echo.HEADER not in got.headers:
        return [f"answered {got.status}, though it is to be forwarded", got.text]
    states = [("x-state", value) for value in said["filterState"].values()]
    method, target, headers = echo.echoed(plain)
    wanted = (method, target, edited([*stable(headers), *states], said))
    method, target, headers = echo.echoed(got)
    found = (method, target, Counter(stable(headers)))
    differences: list[Any] = []
    if found[:2] != wanted[:2]:
        differences.append(("request line", found[:2], wanted[:2]))
    if found[2] != wanted[2]:
        differences.append(("request headers", found[2] - wanted[2], wanted[2] - found[2]))
    answer, wanted_answer = (
        Counter(stable(got.headers.items())),
        edited(stable(plain.headers.items()), said["response"]),
    )
    if (got.status, answer) != (plain.status, wanted_answer):
        differences.append(("response headers", got.status, answer - wanted_answer, wanted_answer - answer))
    return differences


def replied(said: Tree, sample: Sample, got: Response, details: str) -> list[Any]:
    """Compares a reply of the filter with the explanation of it."""
    if echo.HEADER in got.headers:
        return ["forwarded, though it is to be answered"]
    text = "" if sample.method == "HEAD" else said["body"]
    wanted: Tree = {"details": said["details"], "status": said["status"], "body": text, **said["headers"]}
    found: Tree = {name: got.headers[name] for name in said["headers"]}
    found |= {"details": details, "status": got.status, "body": got.text}
    if sample.is_grpc():
        # Envoy makes the reply a gRPC one, with the body as its message.
        wanted |= {"status": 200, "body": "", "content-type": "application/grpc", "message": text}
        found["message"] = unquote(got.headers["grpc-message"] or "")
        if said["grpcStatus"] is not None:
            wanted["grpc-status"], found["grpc-status"] = str(said["grpcStatus"]), got.headers["grpc-status"]
    wanted, found = masked(wanted), masked(found)
    return [(name, found.get(name), wanted[name]) for name in wanted if found.get(name) != wanted[name]]


def is_for_probe(said: Tree) -> bool:
    if said["action"] == "reply":
        return bool(said["details"].startswith("graygate_probe"))
    return bool(said["action"] != "forward")


def is_by_turn(said: Tree) -> bool:
    return any(assignment["wanted"]["reason"] == "rotation" for assignment in said["assignments"])


def turn_taken(policy: Tree, said: Tree, got: Response) -> list[Any]:
    """Compares a request without a key, whose version is a matter of chance. It gets any version that has a share."""
    if echo.HEADER not in got.headers:
        return []  # it may need an upstream that is not ready
    headers = dict(echo.echoed(got)[2])
    differences = []
    for assignment in said["assignments"]:
        release = next(release for release in policy["releases"] if release["name"] == assignment["release"])
        if assignment["wanted"]["reason"] == "rotation" and "header" in release["steer"]:
            names = [version["name"] for version in release["versions"]]
            if headers.get(release["steer"]["header"]) not in names:
                differences.append(("version by turn", headers, names))
    return differences


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Valid policies by their names, each with requests and their explanations."""
    rng = Random(SEED)
    directory = tmp_path_factory.mktemp("policies")
    found: dict[str, tuple[Tree, list[Sample], list[Tree]]] = {}
    while len(found) < POLICIES:
        policy = sample_policies.policy(rng, f"p{len(found)}")
        if run("check", "-", stdin=json.dumps(policy)).returncode == 0:
            asked = sorted((samples.request(rng) for _ in range(REQUESTS)), key=Sample.is_order)
            found[policy["name"]] = (policy, asked, explain(directory, policy, [ask.question() for ask in asked]))
    return found


def test_explain_says_what_the_filter_does(policies):
    clusters = (samples.DEFAULT_CLUSTER, *samples.PLAIN_CLUSTERS, *samples.ISTIO_CLUSTERS)
    with echo.server() as upstream:
        listeners = [listener(name, [filter_of(policy)]) for name, (policy, _, _) in policies.items()]
        bootstrap = {
            "admin": {"address": config.socket_address()},
            "stats_config": {"stats_tags": config.stats_tags()},
            "static_resources": {
                "listeners": [listener("plain", []), *listeners],
                "clusters": [config.cluster(name, upstream.port) for name in clusters],
            },
        }
        with Envoy(bootstrap, concurrency=1, log_level="warning") as envoy:
            differences, compared = compare(envoy, policies)
            assert compared >= 0.9 * POLICIES * REQUESTS
            assert not differences, f"seed {SEED}, {len(differences)} differences\n" + "\n\n".join(differences[:5])


def filter_of(policy: Tree) -> Tree:
    return {"name": "graygate", "typed_config": config.plugin(policy)}


def compare(envoy: Envoy, policies: Tree) -> tuple[list[str], int]:
    """Returns the differences as texts to paste, and how many requests were compared."""
    ports = envoy.ports()
    differences, compared = [], 0
    counts = {}
    for name, (policy, asked, said) in policies.items():
        plain = [send(ports["plain"], ask, number) for number, ask in enumerate(asked)]
        got = [send(ports[name], ask, number) for number, ask in enumerate(asked)]
        log = until(lambda: logged(envoy, name, len(asked)), 10, f"{len(asked)} entries in the log of {name}")
        passed = [number for number in range(len(asked)) if echo.HEADER in plain[number].headers]
        compared += len(passed)
        for number in passed:
            found = difference(policy, asked[number], said[number], plain[number], got[number], log[number])
            if found:
                differences.append(f"{found}\n{json.dumps(policy)}\n{asked[number]}\n{json.dumps(said[number])}")
        counts[name] = expected_counts(policy, [said[number] for number in passed])
    differences += wrong_counts(envoy, counts, policies)
    return differences, compared


def logged(envoy: Envoy, name: str, wanted: int) -> dict[int, Tree] | None:
    lines = envoy.access_log(name)
    return {int(line["number"]): line for line in lines} if len(lines) >= wanted else None


def difference(policy: Tree, sample: Sample, said: Tree, plain: Response, got: Response, log: Tree) -> list[Any]:
    if policy["mode"] == "off" or (policy["mode"] == "shadow" and not is_for_probe(said)):
        nothing: Tree = {"set": {}, "add": [], "remove": []}
        return forwarded({**nothing, "response": nothing, "filterState": {}}, plain, got)
    if is_by_turn(said):
        return turn_taken(policy, said, got)
    if said["action"] == "forward":
        return forwarded(said, plain, got)
    return replied(said, sample, got, log["details"])


def expected_counts(policy: Tree, said: list[Tree]) -> Counter[tuple[str, ...]]:
    """Returns how often each release, version and reason is to be counted, save for what turns decide."""
    if policy["mode"] == "off" or any(map(is_by_turn, said)):
        return Counter()
    assignments = [assignment for one in said if one["action"] == "forward" for assignment in one["assignments"]]
    return Counter((each["release"], each["version"], each["reason"]) for each in assignments)


def wrong_counts(envoy: Envoy, counts: dict[str, Counter[tuple[str, ...]]], policies: Tree) -> list[str]:
    found: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in counts}
    for name, value in envoy.stats("wasmcustom.graygate_assignments_total.").items():
        labels = dict(re.findall(r"(\w+)=\.=(.*?);\.;", name))
        found[labels["policy"]] += Counter({(labels["release"], labels["version"], labels["reason"]): value})
    return [
        f"counted {found[name] - wanted}, not {wanted - found[name]}\n{json.dumps(policies[name][0])}"
        for name, wanted in counts.items()
        if wanted and found[name] != wanted
    ]
