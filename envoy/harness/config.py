"""Envoy configurations as plain dicts: one listener with the filter, upstreams behind it.

The filter reaches Envoy in one of three ways, because a policy that is refused, or
replaced under load, takes another path through Envoy in each:
`static` in the bootstrap, `ecds` the filter alone from a file, `lds` the whole
listener from a file. The latter two take a new policy with no restart.
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
# Unset means that a worker whose VM failed answers 503 for ever. By default a VM is made anew a second after the last.
RELOADS = {"failure_policy": "FAIL_RELOAD", "reload_config": {"backoff": {"base_interval": "0.2s"}}}
TAGS = ("policy", "release", "version", "upstream", "probe", "reason", "from", "to", "code", "result", "mode", "plugin")

# The internal listener, and the cluster that leads to it, for gRPC health checks of the proxy.
HOP = "graygate-hop"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"


def stats_tags() -> list[Tree]:
    """A counter's labels travel in its name, each as `<tag>=.=<value>;.;`.

    The first group is what Envoy cuts out of the name, the second is the value. The
    literal prefix lets Envoy skip every other statistic, and the separator before the
    tag keeps `to` from matching at the end of a longer tag's name.
    """
    return [{"tag_name": tag, "regex": rf"^wasmcustom\.graygate_.*?[.;]({tag}=\.=(.*?);\.;)"} for tag in TAGS]


def socket_address(port: int = 0) -> Tree:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, *, http2: bool = False) -> Tree:
    """One local port. HTTP/2, which gRPC wants, is what Envoy speaks to it only where told to."""
    tree = cluster_of(name, socket_address(port))
    if http2:
        extension = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        explicit: Tree = {"http2_protocol_options": {}}
        options = {"@type": f"type.googleapis.com/{extension}", "explicit_http_config": explicit}
        tree["typed_extension_protocol_options"] = {extension: options}
    return tree


def cluster_of(name: str, address: Tree) -> Tree:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def plugin(policy: Policy, vm_id: str = "graygate", module: str = MODULE, failure: Mapping[str, Any] = RELOADS) -> Tree:
    """The filter. A policy given as text reaches it byte for byte, whether or not it is JSON."""
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
    """The filter by itself, as a resource."""
    kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    return {"@type": kind, "name": "graygate", "typed_config": filter_config}


def route(cluster_name: str, timeout: str, header: tuple[str, str] | None = None) -> Tree:
    match: Tree = {"prefix": "/"}
    if header:
        match["headers"] = [{"name": header[0], "string_match": {"exact": header[1]}}]
    return {"match": match, "route": {"cluster": cluster_name, "timeout": timeout}}


def hop_route() -> Tree:
    """The way of a gRPC health check, which the filter marks, to the hop."""
    match = {"path": HEALTH_CHECK, "headers": [{"name": "x-graygate-hop", "present_match": True}]}
    return {"match": match, "route": {"cluster": HOP}}


def hop_cluster() -> Tree:
    """With room for clients that stall."""
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 65536)
    hop = cluster_of(HOP, {"envoy_internal_address": {"server_listener_name": HOP}})
    return {**hop, "circuit_breakers": {"thresholds": [limits]}}


def hop_listener() -> Tree:
    """Answers 200 with a body once it has the whole request; the filter makes gRPC of that."""
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
    """Without this in the bootstrap, Envoy refuses internal listeners."""
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
    """An HTTP/1.1 and HTTP/2 listener on a free port, with limits that let odd requests reach the filter."""
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
    """(header, version, cluster) for each version of each release that steers by a header."""
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
    """What an Envoy is started with, and how a later policy is put to it.

    `upstreams` maps cluster names to local ports. Unless `routes` are given, requests
    are routed by the policy's steer header, and by default to the first upstream.
    """

    policy: Policy
    upstreams: Mapping[str, int]
    delivery: Delivery = "static"
    routes: Sequence[Tree] | None = None
    timeout: str = "5s"
    plain: bool = False  # a second listener, `plain`, with the same routes and no filter
    hop: bool = False  # what gRPC health checks of the proxy take, with its route before all others
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
        """With a directory: Envoy watches the directory, and refuses a path that names none."""
        return {"static": None, "ecds": "./ecds.json", "lds": "./lds.json"}[self.delivery]

    def source(self) -> Tree:
        return {"path_config_source": {"path": self.dynamic_file}, "resource_api_version": "V3"}

    def with_policy(self, policy: Policy) -> Config:
        """With the routes of the first policy: a real route table isn't replaced with a policy."""
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
            # As in Istio: the second is what its agent sends where it has no module.
            types = [f"{HTTP_FILTERS}.wasm.v3.Wasm", f"{HTTP_FILTERS}.rbac.v3.RBAC"]
            own["config_discovery"] = {"config_source": self.source(), "type_urls": types}
        else:
            own["typed_config"] = plugin(self.policy, self.vm_id, self.module, self.failure)
        filters = [*self.filters_before, own, *self.filters_after]
        return listener("graygate", filters, self.route_table(), self.hcm)

    def refused(self, policy: Policy) -> Tree:
        """A listener that Envoy refuses for another filter's sake, once it has tried out this policy."""
        broken = {"name": "bad", "typed_config": plugin("{", vm_id="bad")}
        return replace(self.with_policy(policy), filters_after=[broken]).discovery("refused")

    def discovery(self, version: str) -> Tree:
        """The content of the dynamic file: a discovery response with one resource."""
        if self.delivery == "lds":
            resource = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **self.listener()}
        else:
            resource = extension(plugin(self.policy, self.vm_id, self.module, self.failure))
        return {"version_info": version, "resources": [resource]}

    def document(self) -> Tree:
        """The bootstrap."""
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
    """`bootstrap(policy, {"reviews-v1": v1.port}, delivery="ecds")`: see Config for the options."""
    return Config(policy, upstreams, **options)
