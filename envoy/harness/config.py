"""Envoy configurations as plain dicts: one listener with the filter, and upstreams behind it.

The filter reaches Envoy in one of three ways. In each of them, a policy that is refused or replaced under load takes
another path through Envoy.

- `static`: in the bootstrap.
- `ecds`: the filter alone, from a file. Accepts a new policy without a restart.
- `lds`: the whole listener, from a file. Accepts a new policy without a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Tree = dict[str, Any]
Policy = Mapping[str, Any] | str
Delivery = Literal["static", "ecds", "lds"]

# Relative to Envoy's working directory, which links to the project's `dist`.
MODULE = "dist/graygate.wasm"
# Without these, a worker whose VM failed responds 503 permanently. By default, reloads of a VM are a second apart.
RELOADS = {"failure_policy": "FAIL_RELOAD", "reload_config": {"backoff": {"base_interval": "0.2s"}}}
# In the order of the table of metrics, which `graygate render` keeps.
TAGS = (
    *("policy", "release", "version", "reason", "result", "upstream", "from", "to", "probe", "code"),
    *("plugin", "revision", "mode"),
)

# The name of the internal listener for gRPC health checks of the proxy, and of the cluster that leads to it.
HOP = "graygate-hop"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Returns each value that has this key, at any depth."""
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            if name == key:
                yield child
            yield from values_of(child, key)
    elif isinstance(tree, list):
        for child in tree:
            yield from values_of(child, key)


def stats_tags() -> list[Tree]:
    """Returns the rules that turn the labels in a counter's name into tags. Each label is `<tag>=.=<value>;.;`.

    Envoy removes the first group from the name. The second group is the value. The literal prefix lets Envoy skip every
    other statistic. The separator before the tag keeps `to` from matching at the end of a longer tag's name.
    """
    return [{"tag_name": tag, "regex": rf"^wasmcustom\.graygate_.*?[.;]({tag}=\.=(.*?);\.;)"} for tag in TAGS]


def socket_address(port: int = 0) -> Tree:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, *, http2: bool = False) -> Tree:
    """Returns a cluster with one local port. Envoy uses HTTP/2, which gRPC needs, only if told to."""
    tree = cluster_of(name, socket_address(port))
    return {**tree, **http_options(http2=True)} if http2 else tree


def http_options(*, http2: bool = False, **options: Any) -> Tree:
    """Returns the settings of a cluster for HTTP: its version, and fields of Envoy's HttpProtocolOptions."""
    extension = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    explicit: Tree = {"http2_protocol_options" if http2 else "http_protocol_options": {}}
    tree = {"@type": f"type.googleapis.com/{extension}", "explicit_http_config": explicit, **options}
    return {"typed_extension_protocol_options": {extension: tree}}


def cluster_of(name: str, *addresses: Tree) -> Tree:
    hosts = [{"endpoint": {"address": address}} for address in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
    }


def plugin(policy: Policy, vm_id: str = "graygate", module: str = MODULE, failure: Mapping[str, Any] = RELOADS) -> Tree:
    """Returns the filter's configuration. A string as policy reaches it byte for byte, even if it is not JSON."""
    text = policy if isinstance(policy, str) else json.dumps(policy)
    return {
        "@type": f"{HTTP_FILTERS}.wasm.v3.Wasm",
        "config": {
            "name": "graygate",
            "vm_config": {
                "vm_id": vm_id,
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module}},
            },
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text},
            **failure,
        },
    }


def extension(filter_config: Tree) -> Tree:
    """Returns the filter alone as a resource."""
    kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    return {"@type": kind, "name": "graygate", "typed_config": filter_config}


def route(cluster_name: str, timeout: str, header: tuple[str, str] | None = None) -> Tree:
    match: Tree = {"prefix": "/"}
    if header:
        match["headers"] = [{"name": header[0], "string_match": {"exact": header[1]}}]
    return {"match": match, "route": {"cluster": cluster_name, "timeout": timeout}}


def hop_route() -> Tree:
    """Returns the route of gRPC health checks, which the filter marks, to the hop."""
    match = {"path": HEALTH_CHECK, "headers": [{"name": "x-graygate-hop", "present_match": True}]}
    return {"match": match, "route": {"cluster": HOP}}


def hop_cluster() -> Tree:
    """Returns the cluster of the hop. Its limits leave room for clients that stall."""
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 65536)
    hop = cluster_of(HOP, {"envoy_internal_address": {"server_listener_name": HOP}})
    return {**hop, "circuit_breakers": {"thresholds": [limits]}}


def hop_listener() -> Tree:
    """Returns the listener of the hop. It responds 200 with a body to a whole request. The filter makes gRPC of it."""
    buffered = {
        "name": "buffer",
        "typed_config": {"@type": f"{HTTP_FILTERS}.buffer.v3.Buffer", "max_request_bytes": 8192},
    }
    answer = {"status": 200, "body": {"inline_string": "hop\n"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    tree = listener(HOP, [buffered], routes, {"request_timeout": "5s"})
    del tree["address"]
    return {**tree, "internal_listener": {}}


def internal_listeners() -> Tree:
    """Returns the bootstrap extension without which Envoy refuses internal listeners."""
    extension = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": extension}}


def access_log(path: str) -> list[Tree]:
    fields = {
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "version": "%REQ(X-GRAY-VERSION)%",
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "duration": "%DURATION%",
    }
    logger = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": fields},
    }
    return [{"name": "file", "typed_config": logger}]


def listener(name: str, filters: Sequence[Tree], routes: Sequence[Tree], hcm: Mapping[str, Any] = {}) -> Tree:
    """Returns a listener for HTTP/1.1 and HTTP/2 on a free port. Its limits let unusual requests reach the filter."""
    router = {"name": "router", "typed_config": {"@type": f"{HTTP_FILTERS}.router.v3.Router"}}
    manager = {
        "@type": f"{NETWORK_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "max_request_headers_kb": 96,
        "common_http_protocol_options": {"max_headers_count": 2000},
        "access_log": access_log(f"{name}.access.log"),
        "http_filters": [*filters, router],
        "route_config": {
            "name": name,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}],
        },
        **hcm,
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": socket_address(), "filter_chains": [chain]}


def steered(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Yields (header, version, cluster) for each version of each release that steers by a header."""
    if isinstance(policy, str):
        return
    for release in policy.get("releases", []):
        header = release.get("steer", {}).get("header", "x-gray-version")
        for version in release.get("versions", []):
            upstream = policy.get("upstreams", {}).get(version.get("upstream"), {})
            if "cluster" in upstream:
                yield header, version["name"], upstream["cluster"]


@dataclass(frozen=True)
class Config:
    """The configuration that an Envoy starts with, and how it gets a later policy.

    `upstreams` maps cluster names to local ports. Unless `routes` are given, requests are routed by the policy's steer
    header, and by default to the first upstream.
    """

    policy: Policy
    upstreams: Mapping[str, int]
    delivery: Delivery = "static"
    routes: Sequence[Tree] | None = None
    timeout: str = "5s"
    plain: bool = False  # adds the listener `plain` with the same routes and no filter
    hop: bool = False  # adds the hop for gRPC health checks of the proxy, and its route before all others
    vm_id: str = "graygate"
    module: str = MODULE
    failure: Mapping[str, Any] = field(default_factory=lambda: RELOADS)
    node_id: str = "test-node"
    filters_before: Sequence[Tree] = ()
    filters_after: Sequence[Tree] = ()
    hcm: Mapping[str, Any] = field(default_factory=dict)
    clusters: Sequence[Tree] = ()

    @property
    def dynamic_file(self) -> str | None:
        """The path of the watched file. It has a directory, as Envoy watches that and refuses a path without one."""
        return {"static": None, "ecds": "./ecds.json", "lds": "./lds.json"}[self.delivery]

    def source(self) -> Tree:
        return {"path_config_source": {"path": self.dynamic_file}, "resource_api_version": "V3"}

    def with_policy(self, policy: Policy) -> Config:
        """Replaces the policy but keeps the routes, as a new policy does not change a real route table."""
        return replace(self, policy=policy, routes=self.all_routes())

    def all_routes(self) -> list[Tree]:
        if self.routes is not None:
            return list(self.routes)
        versions = [route(name, self.timeout, (header, version)) for header, version, name in steered(self.policy)]
        return [*versions, route(next(iter(self.upstreams)), self.timeout)]

    def route_table(self) -> list[Tree]:
        return [hop_route(), *self.all_routes()] if self.hop else self.all_routes()

    def listener(self) -> Tree:
        own: Tree = {"name": "graygate"}
        if self.delivery == "ecds":
            # The same types as in Istio, whose agent sends the second if it has no module.
            types = [f"{HTTP_FILTERS}.wasm.v3.Wasm", f"{HTTP_FILTERS}.rbac.v3.RBAC"]
            own["config_discovery"] = {"config_source": self.source(), "type_urls": types}
        else:
            own["typed_config"] = plugin(self.policy, self.vm_id, self.module, self.failure)
        filters = [*self.filters_before, own, *self.filters_after]
        return listener("graygate", filters, self.route_table(), self.hcm)

    def refused(self, policy: Policy) -> Tree:
        """Returns a listener that Envoy tries with this policy and then refuses because of another filter."""
        broken = {"name": "bad", "typed_config": plugin("{", vm_id="bad")}
        return replace(self.with_policy(policy), filters_after=[broken]).discovery("refused")

    def discovery(self, version: str) -> Tree:
        """Returns the content of the dynamic file, a discovery response with one resource."""
        if self.delivery == "lds":
            resource = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **self.listener()}
        else:
            resource = extension(plugin(self.policy, self.vm_id, self.module, self.failure))
        return {"version_info": version, "resources": [resource]}

    def document(self) -> Tree:
        """Returns the bootstrap."""
        clusters = [*(cluster(name, port) for name, port in self.upstreams.items()), *self.clusters]
        listeners = [] if self.delivery == "lds" else [self.listener()]
        if self.plain:
            listeners.append(listener("plain", (), self.route_table(), self.hcm))
        document: Tree = {
            "node": {"id": self.node_id, "cluster": "test"},
            "admin": {"address": socket_address()},
            "stats_config": {"stats_tags": stats_tags()},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }
        if self.hop:
            listeners.append(hop_listener())
            clusters.append(hop_cluster())
            document["bootstrap_extensions"] = [internal_listeners()]
        if self.delivery == "lds":
            document["dynamic_resources"] = {"lds_config": self.source()}
        return document


def bootstrap(policy: Policy, upstreams: Mapping[str, int], **options: Any) -> Config:
    """Returns a Config with these options, as in `bootstrap(policy, {"reviews-v1": v1.port}, delivery="ecds")`."""
    return Config(policy, upstreams, **options)
