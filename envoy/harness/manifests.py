"""Istio manifests that add graygate, and the tool's check of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .tool import run

Manifest = dict[str, Any]

DIGEST = "0123456789abcdef" * 4
PROBES: Manifest = {"name": "shop", "probes": {"liveness": {"path": "/livez"}}}
GATE: Manifest = {
    "name": "shop",
    "upstreams": {"db": {"cluster": "outbound|80||db.shop.svc.cluster.local"}},
    "gates": [{"match": [{"hosts": ["*"]}], "upstream": "db"}],
}
RELEASE: Manifest = {
    "name": "shop",
    "upstreams": {"v1": {"cluster": "outbound|80|v1|db.shop.svc.cluster.local"}},
    "releases": [
        {
            "name": "db",
            "match": [{"hosts": ["db.shop"]}],
            "steer": {"header": "x-v"},
            "versions": [{"name": "v1", "upstream": "v1", "weight": 1, "default": True}],
        }
    ],
}
INBOUND, OUTBOUND = [{"mode": "SERVER"}], [{"mode": "CLIENT"}]


def labelled(**labels: str) -> Manifest:
    return {"selector": {"matchLabels": labels}}


def attached(*targets: str) -> Manifest:
    refs = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name} for name in targets]
    return {"targetRefs": refs}


def wasm_plugin(
    name: str,
    match: Any = INBOUND,
    policy: Any = PROBES,
    namespace: Any = "shop",
    revision: Any = None,
    **spec: Any,
) -> Manifest:
    spec = {
        "url": "oci://r.example/x:1",
        "sha256": DIGEST,
        "pluginName": "graygate",
        "failStrategy": "FAIL_OPEN",
        "pluginConfig": policy,
    } | spec
    if match is not None:
        spec["match"] = match
    return resource("extensions.istio.io/v1alpha1", "WasmPlugin", name, namespace, revision, spec)


def traffic_extension(
    name: str,
    match: Any = INBOUND,
    policy: Any = PROBES,
    namespace: Any = "shop",
    revision: Any = None,
    **spec: Any,
) -> Manifest:
    wasm = {"url": f"oci://r.example/graygate@sha256:{DIGEST}", "failStrategy": "FAIL_OPEN", "pluginConfig": policy}
    spec = {"match": match, "wasm": wasm} | spec
    return resource("extensions.istio.io/v1alpha1", "TrafficExtension", name, namespace, revision, spec)


def wasm(policy: Any = PROBES, **config: Any) -> Manifest:
    config = {
        "root_id": "graygate",
        "failure_policy": "FAIL_OPEN",
        "configuration": {"value": json.dumps(policy)},
    } | config
    kind = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
    return {"name": "f", "typed_config": {"@type": kind, "config": config}}


def typed_struct(policy: Manifest) -> Manifest:
    """The same resource in the format of older manifests."""
    config = wasm(policy)["typed_config"]
    kind = "type.googleapis.com/udpa.type.v1.TypedStruct"
    return {"@type": kind, "type_url": config.pop("@type"), "value": config}


def patch(
    value: Manifest | None = None,
    context: str = "SIDECAR_INBOUND",
    port: int | None = None,
    apply_to: str = "HTTP_FILTER",
    **match: Any,
) -> Manifest:
    listener = {"portNumber": port} if port else {}
    match = {"context": context, "listener": listener} | match
    return {"applyTo": apply_to, "match": match, "patch": {"operation": "INSERT_FIRST", "value": value or wasm()}}


def envoy_filter(name: str, *patches: Manifest, namespace: Any = "shop", revision: Any = None, **spec: Any) -> Manifest:
    spec = {"configPatches": list(patches or [patch()])} | spec
    return resource("networking.istio.io/v1alpha3", "EnvoyFilter", name, namespace, revision, spec)


def resource(api: str, kind: str, name: str, namespace: str, revision: str | None, spec: Manifest) -> Manifest:
    labels = {"istio.io/rev": revision} if revision else {}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return copy.deepcopy({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})


class Checker:
    """Checks objects, each in its own file. Lines have no directory. The last check's notes are in `notes`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []

    def __call__(self, *objects: Any, options: Sequence[str] = ()) -> list[str]:
        for old in self.directory.glob("*.yaml"):
            old.unlink()
        for number, item in enumerate(objects):
            text = item if isinstance(item, str) else yaml.safe_dump(item)
            (self.directory / f"{number}.yaml").write_text(text)
        done = run("check", "--istio", self.directory, *options)
        lines = done.stderr.replace(f"{self.directory}/", "").splitlines()
        self.notes = [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]
        problems = lines[len(self.notes) :]
        if done.returncode == 0:
            assert done.stdout.endswith(": no problems\n")
            assert problems == []
            return []
        assert (done.returncode, done.stdout) == (1, "")
        count = problems.pop()
        assert count == f"{self.directory}: {len(problems)} problem{'s' * (len(problems) != 1)}"
        return problems
