"""Envoy Gateway's own control plane, which reads resources from a file and runs a real Envoy on this machine.

It binds ports that are fixed, such as 18000. So it wants a network of its own, as `.ci/gateway` gives the tests.
"""

from __future__ import annotations

import base64
import copy
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import yaml

from . import client
from .config import Tree
from .envoy import binary
from .wait import until

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
SYSTEM = "envoy-gateway-system"
# The name under which the control plane looks for the proxy. The test puts its own there.
PROXY_VERSION = "1.40.0"
ROUTES = "gateway.networking.k8s.io/v1"
OWN = "gateway.envoyproxy.io/v1alpha1"


class EnvoyGateway:
    """A control plane with one Gateway, `eg`, in the namespace `shop`, and the proxy that it runs for it.

    `port` is the port of the Gateway. `apply` replaces the resources that the test gives.
    """

    def __init__(self, port: int, services: dict[str, int], *, concurrency: int = 2, drain_seconds: int = 5) -> None:
        self.port = port
        self._services = services
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="graygate-gateway-"))
        paths = {name: str(self.directory / name) for name in ("config", "data", "state", "run")}
        proxy = self.directory / "data" / "envoy-versions" / PROXY_VERSION / "bin" / "envoy"
        proxy.parent.mkdir(parents=True)
        shutil.copy(binary(), proxy)
        self.program = os.environ["ENVOY_GATEWAY"]
        self._run("certgen", "--local", "--config-home", paths["config"])
        self._resources = self.directory / "resources"
        self._resources.mkdir()
        host = {f"{name}Home": paths[name] for name in ("config", "data", "state")} | {"runtimeDir": paths["run"]}
        config = {
            "apiVersion": OWN,
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": CONTROLLER},
            "provider": {
                "type": "Custom",
                "custom": {
                    "resource": {"type": "File", "file": {"paths": [str(self._resources)]}},
                    "infrastructure": {"type": "Host", "host": host},
                },
            },
            "logging": {"level": {"default": "info"}},
            "extensionApis": {"enableEnvoyPatchPolicy": True, "enableBackend": True},
        }
        (self.directory / "envoy-gateway.yaml").write_text(yaml.safe_dump(config))
        return self

    def __exit__(self, _: object = None, failure: BaseException | None = None, *__: object) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if failure:
            failure.add_note(f"--- the end of the log ---\n{self.tail()}")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.directory), "ENVOY_GATEWAY_NAMESPACE": SYSTEM}

    def _run(self, *arguments: str) -> None:
        command = [self.program, *arguments]
        subprocess.run(command, check=True, capture_output=True, env=self._environment(), timeout=60)

    # -- resources --------------------------------------------------------------

    def apply(self, resources: Iterable[Tree]) -> None:
        """Puts these resources beside those of the Gateway. Starts the control plane the first time."""
        resources = list(resources)
        proxies = [resource for resource in resources if resource["kind"] == "EnvoyProxy"]
        others = [with_backends(resource) for resource in resources if resource["kind"] != "EnvoyProxy"]
        documents = [*self._own(proxies), *others]
        text = yaml.safe_dump_all(documents, sort_keys=False)
        fresh = self.directory / "resources.new"
        fresh.write_text(text)
        fresh.rename(self._resources / "resources.yaml")
        if not hasattr(self, "_process"):
            self._process = subprocess.Popen(
                [self.program, "server", "--config-path", str(self.directory / "envoy-gateway.yaml")],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=(self.directory / "stdout.log").open("wb"),
                stderr=(self.directory / "stderr.log").open("wb"),
                env=self._environment(),
            )

    def _own(self, proxies: list[Tree]) -> list[Tree]:
        """Returns the Gateway, its Services, and what a control plane outside of Kubernetes lacks."""
        given: Tree = proxies[0]["spec"] if proxies else {}
        spec = {
            **given,
            "provider": {"type": "Host", "host": {"envoyVersion": PROXY_VERSION}},
            "concurrency": self._concurrency,
            "shutdown": {"drainTimeout": f"{self._drain_seconds}s"},
        }
        proxy = {
            "apiVersion": OWN,
            "kind": "EnvoyProxy",
            "metadata": {"name": "graygate", "namespace": "shop"},
            "spec": spec,
        }
        certificates = self.directory / "config" / "certs"
        secret = {
            name: base64.b64encode((certificates / "envoy" / name).read_bytes()).decode()
            for name in ("tls.crt", "tls.key", "ca.crt")
        }
        parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "graygate"}
        listener = {"name": "http", "protocol": "HTTP", "port": self.port}
        # In a cluster, the module comes from the Service of the control plane, with its certificate in a fixed place.
        at = "/transport_socket/typed_config/common_tls_context/validation_context/trusted_ca/filename"
        address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/address"
        patches = [
            {"op": "replace", "path": at, "value": str(certificates / "envoy" / "ca.crt")},
            {"op": "replace", "path": address, "value": "127.0.0.1"},
        ]
        cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        patch = {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"},
            "type": "JSONPatch",
            "jsonPatches": [{"type": cluster, "name": "wasm_cluster", "operation": patch} for patch in patches],
        }
        in_shop = {"namespace": "shop"}
        documents: list[Tree] = [
            {
                "apiVersion": ROUTES,
                "kind": "GatewayClass",
                "metadata": {"name": "eg"},
                "spec": {"controllerName": CONTROLLER},
            },
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("shop", SYSTEM)),
            {
                "apiVersion": ROUTES,
                "kind": "Gateway",
                "metadata": {"name": "eg", **in_shop},
                "spec": {
                    "gatewayClassName": "eg",
                    "infrastructure": {"parametersRef": parameters},
                    "listeners": [listener],
                },
            },
            proxy,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "envoy", "namespace": SYSTEM},
                "type": "kubernetes.io/tls",
                "data": secret,
            },
            {"apiVersion": OWN, "kind": "EnvoyPatchPolicy", "metadata": {"name": "local", **in_shop}, "spec": patch},
        ]
        for name, port in self._services.items():
            documents += service(name, port)
        return documents

    # -- what it runs ------------------------------------------------------------

    def tail(self, lines: int = 60) -> str:
        files = [file for file in (self.directory / "stdout.log", self.directory / "stderr.log") if file.exists()]
        return "\n".join(line for file in files for line in file.read_text(errors="replace").splitlines()[-lines:])

    @property
    def admin_port(self) -> int:
        """Returns the port of the proxy's admin interface. Waits until it is bound."""

        def bound() -> int:
            if self._process.poll() is not None:
                raise RuntimeError(f"envoy-gateway ended with exit code {self._process.returncode}")
            for file in self.directory.glob("run/**/admin-address.txt"):
                text = file.read_text().strip()
                if text:
                    return int(text.rpartition(":")[2])
            return 0

        return until(bound, 60, "the proxy of Envoy Gateway")

    def admin(self, path: str) -> str:
        return client.get(self.admin_port, path).text

    def ready(self) -> None:
        """Waits until the Gateway's port answers."""
        until(lambda: client.get(self.port, "/"), 90, "a response at the Gateway's port")

    def clusters(self) -> set[str]:
        return {line.split("::", 1)[0] for line in self.admin("/clusters").splitlines()}


def with_backends(resource: Tree) -> Tree:
    """Returns a route with a Backend in place of each Service, which a control plane outside of Kubernetes lacks."""
    resource = copy.deepcopy(resource)
    for rule in resource["spec"].get("rules", []):
        for backend in rule.get("backendRefs", []):
            del backend["port"]
            backend.update(group="gateway.envoyproxy.io", kind="Backend")
    return resource


def service(name: str, port: int) -> list[Tree]:
    """Returns a Backend of the namespace `shop` with one address, on loopback."""
    spec = {"endpoints": [{"ip": {"address": "127.0.0.1", "port": port}}]}
    return [{"apiVersion": OWN, "kind": "Backend", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}]
