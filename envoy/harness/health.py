"""gRPC's health service: an upstream that implements it, and two clients.

One client is Python's grpcio. The other is grpc-health-probe, which calls it as the kubelet does, with grpc-go.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from .envoy import PROJECT

PROBE = PROJECT / ".tools" / "bin" / "grpc-health-probe"


class Health(HealthServicer):
    """grpcio's servicer, which also records the checks and can hang."""

    def __init__(self) -> None:
        super().__init__()
        self.checks: Counter[str] = Counter()
        self.authority = ""
        self.hanging = False

    def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802 (gRPC's name)
        self.checks[request.service] += 1
        # grpcio does not have it in its public API.
        self.authority = context._rpc_event.call_details.host.decode()  # noqa: SLF001
        if self.hanging:
            left = threading.Event()
            # Returns False if the client has already left.
            if context.add_callback(left.set):
                left.wait(60)
        return super().Check(request, context)


class HealthServer:
    """A test's gRPC upstream with only the health service. The service "" is SERVING, and all others are unknown."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._health = Health()
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- recorded requests ------------------------------------------------------

    @property
    def checks(self) -> int:
        """The number of calls of Check, for all services."""
        return self._health.checks.total()

    def checks_of(self, service: str) -> int:
        return self._health.checks[service]

    @property
    def authority(self) -> str:
        """The `:authority` of the latest check."""
        return self._health.authority

    # -- behaviour --------------------------------------------------------------

    def say(self, status: str, service: str = "") -> None:
        """Sets the `ServingStatus` of a service, such as NOT_SERVING."""
        self._health.set(service, HealthCheckResponse.ServingStatus.Value(status))

    def hang(self, *, hanging: bool = True) -> None:
        """Accepts checks but does not respond to them."""
        self._health.hanging = hanging

    def stop(self) -> None:
        """Closes the listening socket and all connections, so that connections are refused."""
        if self._server:
            self._server.stop(grace=None).wait(5)
            self._server = None

    def start(self) -> None:
        """Listens, on the same port as before if there was one."""
        # Without so_reuseport=0, a second server could share the port with the first one.
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        call = grpc.unary_unary_rpc_method_handler(
            self._health.Check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )
        # Not by the generated function, as the server does not keep the authority of methods registered that way.
        service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": call})
        self._server.add_generic_rpc_handlers([service])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()


def channel(port: int) -> grpc.Channel:
    """Returns a channel with a connection of its own. Channels to the same address would otherwise share one."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options)


class Answer(NamedTuple):
    """The status of the service, such as SERVING, or of a failed call, such as NOT_FOUND, with its details."""

    word: str
    details: str = ""


def answer_of(response: HealthCheckResponse) -> Answer:
    return Answer(HealthCheckResponse.ServingStatus.Name(response.status))


def refusal(error: grpc.RpcError) -> Answer:
    return Answer(error.code().name, error.details() or "")


def stub(link: grpc.Channel) -> Any:
    """Returns a client. Its type lacks its methods, as they are created at run time."""
    return HealthStub(link)


def check(port: int, service: str = "", timeout: float = 10.0, *, compress: bool = False) -> Answer:
    """Checks the health of a service with grpcio."""
    compression = grpc.Compression.Gzip if compress else None
    with channel(port) as link:
        try:
            request = HealthCheckRequest(service=service)
            return answer_of(stub(link).Check(request, timeout=timeout, compression=compression))
        except grpc.RpcError as error:
            return refusal(error)


def check_many(port: int, service: str, times: int, timeout: float = 20.0) -> list[Answer]:
    """Checks the health of a service several times at once on one connection, with grpcio."""
    with channel(port) as link:
        request = HealthCheckRequest(service=service)
        client = stub(link)
        calls = [client.Check.future(request, timeout=timeout) for _ in range(times)]
        return [refusal(error) if (error := call.exception()) else answer_of(call.result()) for call in calls]


def watch(port: int, service: str = "", timeout: float = 10.0) -> Answer:
    """Returns the first response of Watch."""
    with channel(port) as link:
        try:
            request = HealthCheckRequest(service=service)
            return answer_of(next(stub(link).Watch(request, timeout=timeout)))
        except grpc.RpcError as error:
            return refusal(error)


def probe(port: int, service: str = "", *options: str, timeout: float = 10.0) -> tuple[int, str]:
    """Checks the health of a service with grpc-health-probe. Returns its exit code and its output.

    The exit code is 0 for SERVING, 2 without a connection, 3 for a failed call and 4 for another status.
    """
    if not PROBE.exists():
        raise FileNotFoundError(f"{PROBE}: no such program; .ci/go-tools installs it")
    limits = ["-connect-timeout", f"{timeout:g}s", "-rpc-timeout", f"{timeout:g}s"]
    command = [str(PROBE), "-addr", f"127.0.0.1:{port}", "-service", service, *limits, *options]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * timeout + 10, check=False
    )
    return done.returncode, done.stdout + done.stderr
