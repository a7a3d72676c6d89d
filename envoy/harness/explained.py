"""Compares what a real Envoy did with a request and what `graygate explain` says of it."""

from __future__ import annotations

import http.client
import re
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from . import config, echo, samples
from .client import Response, get2, pairs
from .config import Tree
from .envoy import Envoy
from .samples import Sample

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


def difference(policy: Tree, sample: Sample, said: Tree, plain: Response, got: Response, log: Tree) -> list[Any]:
    mode = policy.get("mode", "enforce")
    if mode == "off" or (mode == "shadow" and not is_for_probe(said)):
        nothing: Tree = {"set": {}, "add": [], "remove": []}
        return forwarded({**nothing, "response": nothing, "filterState": {}}, plain, got)
    if is_by_turn(said):
        return turn_taken(policy, said, got)
    if said["action"] == "forward":
        return forwarded(said, plain, got)
    return replied(said, sample, got, log["details"])


def logged(envoy: Envoy, name: str, wanted: int) -> dict[int, Tree] | None:
    lines = envoy.access_log(name)
    return {int(line["number"]): line for line in lines} if len(lines) >= wanted else None
